"""Tiles: a grid too large for a network's memory, cut into overlapping parts whose forecasts are blended."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Least width [cells] of what a tile is kept for, were it not for its surroundings.
LEAST_CORE = 32


class Halo(NamedTuple):
    """What a tile has around its core.

    Attributes:
        reach: Cells from which the surroundings change a forecast, hence to be thrown away.
        blend: Half the width [cells] over which the forecasts of two tiles pass into each other.
    """

    reach: int
    blend: int

    @property
    def width(self) -> int:
        """Cells around a core, on either side."""
        return self.reach + self.blend


class Span(NamedTuple):
    """One axis of a tile.

    Attributes:
        start: First cell the network sees.
        stop: One past the last.
        first: First cell that is kept.
        weights: Weight of each cell that is kept; those of all spans add up to 1 in every cell.
    """

    start: int
    stop: int
    first: int
    weights: NDArray[np.float32]

    @property
    def seen(self) -> slice:
        """Cells of the grid the network sees."""
        return slice(self.start, self.stop)

    @property
    def kept(self) -> slice:
        """Cells of the grid the tile has a say in."""
        return slice(self.first, self.first + len(self.weights))

    @property
    def inside(self) -> slice:
        """Those cells, counted from the first the network sees."""
        return slice(self.first - self.start, self.first - self.start + len(self.weights))


class Tile(NamedTuple):
    """A rectangle of the grid."""

    rows: Span
    columns: Span

    @property
    def seen(self) -> tuple[int, int]:
        """Rows and columns the network sees."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def weights(self) -> NDArray[np.float32]:
        """Weights ``(y, x)`` of the cells that are kept."""
        return self.rows.weights[:, None] * self.columns.weights


def padded(side: int, multiple: int) -> int:
    """Return a number of cells, filled up to a multiple."""
    return -(-side // multiple) * multiple


def tiles(shape: tuple[int, int], counts: tuple[int, int], halo: Halo, multiple: int) -> list[Tile]:
    """Return ``counts`` tiles down and across that cover a grid, all of one size.

    Sizes that differ would leave an allocator with holes that fit none, and a compiled network with as many
    versions.

    Args:
        shape: Rows and columns of the grid.
        counts: Number of tiles along each; one sees the whole side.
        halo: Their surroundings.
        multiple: Tiles start at multiples of this, so that a network that sees squares of cells sees the same
            ones in every tile.
    """
    down, across = (_spans(side, count, halo, multiple) for side, count in zip(shape, counts, strict=True))
    return [Tile(rows, columns) for rows, columns in itertools.product(down, across)]


def _spans(length: int, count: int, halo: Halo, multiple: int) -> list[Span]:
    """Return the spans along a side; the network sees as much in each, as it pads them."""
    bounds = [round(k * length / count / multiple) * multiple for k in range(count)] + [length]
    cores = list(itertools.pairwise(bounds))
    starts = [max(first - halo.width, 0) // multiple * multiple for first, _ in cores]
    stops = [min(last + halo.width, length) for _, last in cores]
    width = max(padded(stop - start, multiple) for start, stop in zip(starts, stops, strict=True))
    spans = []
    for core, start in zip(cores, starts, strict=True):
        start = min(start, padded(length, multiple) - width)
        kept = max(core[0] - halo.blend, 0), min(core[1] + halo.blend, length)
        weights = np.ones(kept[1] - kept[0], np.float32)
        if core[0] > 0:
            weights[: 2 * halo.blend] = _rise(halo.blend)
        if core[1] < length:
            weights[-2 * halo.blend :] = 1 - _rise(halo.blend)
        spans.append(Span(start, min(start + width, length), kept[0], weights))
    return spans


def _rise(blend: int) -> NDArray[np.float32]:
    """Return the weights with which a tile's say begins: half a wave, from 0 to 1."""
    phase = (np.arange(2 * blend) + 0.5) / (2 * blend)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * phase), dtype=np.float32)


def cheapest(
    shape: tuple[int, int],
    halo: Halo,
    multiple: int,
    *,
    fits: Callable[[int], bool],
    cost: Callable[[int], float],
) -> tuple[int, int] | None:
    """Return how many tiles down and across cost least of all that fit, ``None`` if none does.

    Args:
        shape: Rows and columns of the grid.
        halo: Surroundings of a tile.
        multiple: As for :func:`tiles`.
        fits: Whether a tile of so many cells is small enough.
        cost: What a tile of so many cells costs, in any unit.
    """
    best: tuple[float, tuple[int, int]] | None = None
    options = [_options(side, halo, multiple) for side in shape]
    for (down, height), (across, width) in itertools.product(*options):
        if fits(height * width):
            total = down * across * cost(height * width)
            best = min(best or (math.inf, (1, 1)), (total, (down, across)))
    return None if best is None else best[1]


def _options(length: int, halo: Halo, multiple: int) -> list[tuple[int, int]]:
    """Return numbers of tiles along a side, and the cells one sees at most."""
    options = [(1, padded(length, multiple))]
    least = max(LEAST_CORE, 2 * halo.blend + multiple, 2 * multiple)
    for count in range(2, length // least + 1):
        first = _spans(length, count, halo, multiple)[0]
        options.append((count, padded(first.stop - first.start, multiple)))
    return options
