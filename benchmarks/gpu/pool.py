"""Tiles on a device: squares cut, turned and mirrored there, from numbers that were drawn beforehand.

A batch is a function of numbers in [0, 1) alone, and nothing in it waits for the device: so drawing it can be
a part of a CUDA graph. What is drawn is what :class:`nowcast.training.data.Draws` draws, except that tiles
are taken alike: those that were packed had been drawn as it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.packed import Layout, Sample
from models.normalisation import NOT_OBSERVED, from_bytes

#: Times that a square without rain is moved elsewhere in its tile, its first place counted.
MOST_MOVES = 8

#: Numbers a square is drawn from: tile, quarters, mirror, the share of its threshold, places.
NUMBERS = 4 + 2 * MOST_MOVES

Batch = dict[str, Tensor]


class Pool:
    """Tiles of one layout on a device.

    Args:
        samples: The tiles; those smaller than a square are left out.
        layout: What their planes hold.
        crop: Side of the squares [cells].
        device: Where they are.

    Raises:
        ValueError: If no tile is large enough.
    """

    def __init__(self, samples: Sequence[Sample], layout: Layout, crop: int, device: torch.device) -> None:
        samples = [sample for sample in samples if min(sample.planes.shape[1:]) >= crop]
        if not samples:
            raise ValueError(f"expected tiles of at least {crop} x {crop} cells, got none")
        self.layout, self.crop = layout, crop
        rows, columns = (max(sample.planes.shape[axis] for sample in samples) for axis in (1, 2))
        shape = (len(samples), samples[0].planes.shape[0], rows, columns)
        planes = np.full(shape, NOT_OBSERVED, np.uint8)
        for whole, sample in zip(planes, samples, strict=True):
            whole[:, : sample.planes.shape[1], : sample.planes.shape[2]] = sample.planes
        self.planes = torch.from_numpy(planes).to(device)
        self.sides = torch.tensor([sample.planes.shape[1:] for sample in samples], device=device)
        told = [sample.facts for sample in samples]
        self.step_minutes = torch.tensor([float(one.step_minutes) for one in told], device=device)
        self.cell_km = torch.tensor([one.cell_km for one in told], device=device)
        self.minutes = torch.tensor([one.minutes for one in told], device=device)
        self._rain = self._sums()
        self._turns = _turns().to(device)

    def _sums(self) -> Tensor:
        """Return how many cells rain north-west of each corner of cells ``(n, y + 1, x + 1)``."""
        newest = self.planes[:, self.layout.parts["past"][1] - 1]
        rains = (newest >= self.layout.rain_byte) & (newest != NOT_OBSERVED)
        sums = rains.int().cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
        return torch.nn.functional.pad(sums, (1, 0, 1, 0))

    def batch(self, numbers: Tensor) -> Batch:
        """Return squares drawn by numbers ``(b, NUMBERS)`` in [0, 1), as a correction learns from them."""
        tile = whole_number(numbers[:, 0], len(self.planes))
        quarters, mirrored = whole_number(numbers[:, 1], 4), numbers[:, 2] >= 0.5
        row, column = self._places(tile, numbers[:, 4:])
        square = self.squares(tile, row, column, quarters, mirrored)
        return {
            **decoded(square, self.layout),
            "step_minutes": self.step_minutes[tile],
            "cell_km": self.cell_km[tile],
            "minutes": self.minutes[tile],
        }

    def _places(self, tile: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return first row and column ``(b,)`` of squares: the first place of several where it rains."""
        room = (self.sides[tile] - self.crop + 1)[:, None]
        places = (numbers.unflatten(1, (MOST_MOVES, 2)) * room).long().minimum(room - 1)
        row, column = places.unbind(2)
        n, below, right = tile[:, None], row + self.crop, column + self.crop
        sums = self._rain
        rain = sums[n, below, right] - sums[n, row, right] - sums[n, below, column] + sums[n, row, column]
        enough = rain >= self.layout.least_rain * self.crop**2
        enough = torch.cat([enough[:, :-1], torch.ones_like(enough[:, :1])], dim=1)  # the last one is taken
        first = enough.int().argmax(1, keepdim=True)
        return row.gather(1, first)[:, 0], column.gather(1, first)[:, 0]

    def squares(
        self, tile: Tensor, row: Tensor, column: Tensor, quarters: Tensor, mirrored: Tensor
    ) -> Tensor:
        """Return bytes ``(b, plane, y, x)`` of squares, turned by quarters, then mirrored, motion likewise.

        Args:
            tile: Which tile each is of ``(b,)``.
            row: First row in it.
            column: First column.
            quarters: Quarter turns anticlockwise.
            mirrored: Whether east and west are swapped afterwards.
        """
        across = torch.arange(self.crop, device=tile.device)
        back = self.crop - 1 - across
        south = across[None, :, None].expand(len(tile), -1, self.crop)
        east = torch.where(mirrored[:, None], back, across)[:, None].expand_as(south)
        turn = quarters[:, None, None]
        last = self.crop - 1
        rows = torch.where(turn == 0, south, torch.where(turn == 1, east, last - south))
        rows = torch.where(turn == 3, last - east, rows)
        columns = torch.where(turn == 0, east, torch.where(turn == 1, last - south, last - east))
        columns = torch.where(turn == 3, south, columns)
        plane = torch.arange(self.planes.shape[1], device=tile.device)[None, :, None, None]
        at = (rows + row[:, None, None])[:, None], (columns + column[:, None, None])[:, None]
        square = self.planes[tile[:, None, None, None], plane, *at]
        part, still = self.layout.part("motion"), self.layout.still
        motion = square[:, part].float() - still
        turns = self._turns[2 * quarters + mirrored.long()]  # (b, 2, 2)
        south, east = (turns[..., k, None, None] * motion[:, k, None] for k in (0, 1))
        return torch.cat([square[:, : part.start], (south + east + still).to(torch.uint8)], dim=1)


def decoded(planes: Tensor, layout: Layout) -> Batch:
    """Return what bytes ``(b, plane, y, x)`` hold, as :class:`nowcast.training.data.Batch` names it."""
    values, observed = from_bytes(planes[:, :, None])
    past, truth, guess, stay = (layout.part(name) for name in ("past", "truth", "guess", "in_place"))
    motion = planes[:, layout.part("motion"), None].float() - layout.still
    return {
        "x": values[:, past],
        "observed": observed[:, past],
        "target": values[:, truth],
        "valid": observed[:, truth],
        "guess": values[:, guess],
        "known": observed[:, guess],
        "in_place": values[:, stay],
        "in_place_known": observed[:, stay],
        "motion": motion * layout.motion_step_kmh,
    }


def whole_number(numbers: Tensor, below: int) -> Tensor:
    """Return whole numbers in [0, ``below``) from numbers in [0, 1)."""
    return (numbers * below).long().clamp(max=below - 1)


def _turns() -> Tensor:
    """Return what becomes of motion (south, east) ``(8, 2, 2)``, by twice the quarters and the mirror."""
    turns, quarter = [], torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turn = torch.eye(2)
    for _ in range(4):
        turns += [turn, torch.tensor([[1.0], [-1.0]]) * turn]
        turn = quarter @ turn
    return torch.stack(turns)
