"""Nearest-neighbour reprojection between grids, with the index computed once and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from nowcast.frame.grid import Grid

#: Cells between two exactly transformed points; between them the index is interpolated linearly.
ANCHOR_SPACING = 16

#: Row and column of a point that the source's plane does not have.
NOWHERE = -1e9

#: A block whose middle is interpolated this far [cells] off, is transformed cell by cell.
TRUSTED = 0.02


@lru_cache(maxsize=8)
def nearest_cells(source: Grid, target: Grid) -> NDArray[np.int32]:
    """Return for each target cell the flat index ``(y, x)`` of the source cell under its centre, -1 outside.

    Every sixteenth row and column is transformed by PROJ and the rest interpolated, which for the projections
    of radar composites stays within a few hundredths of a cell (the test measures it) at 1/100 of the time.
    The middle of each block is transformed too: where it disagrees, as across the seam of longitudes, around
    a pole and at the edge of a projection, the block is not interpolated.
    """
    rows, columns = _anchors(target.ny), _anchors(target.nx)
    transformer = Transformer.from_crs(target.crs, source.crs, always_xy=True)

    def position(row: NDArray[Any], column: NDArray[Any]) -> NDArray[np.float64]:
        """Return row and column in the source ``(2, ...)`` of target cells."""
        at = transformer.transform(target.x0 + target.dx * column, target.y0 - target.dy * row)
        found: NDArray[np.float64] = np.stack(source.position_of(*at))
        return np.where(np.isfinite(found), found, NOWHERE)

    anchors = position(*np.meshgrid(rows, columns, indexing="ij"))
    index = np.full(target.shape, -1, dtype=np.int32)
    everywhere = np.arange(target.nx)
    starts = list(pairwise(rows)) or [(0, 0)]
    for number, (upper, lower) in enumerate(starts):  # one block of rows at a time: no larger temporary
        edges = anchors[:, number], anchors[:, min(number + 1, len(rows) - 1)]
        exact = everywhere[_distrusted(edges, position, (upper, lower), columns)]
        for j in range(upper, lower + (number == len(starts) - 1)):
            weight = (j - upper) / max(lower - upper, 1)
            across = edges[0] * (1 - weight) + edges[1] * weight
            at = np.stack([np.interp(everywhere, columns, one) for one in across])
            if exact.size:
                at[:, exact] = position(np.full(exact.shape, j), exact)
            inside = (at[0] >= -0.5) & (at[0] < source.ny - 0.5) & (at[1] >= -0.5) & (at[1] < source.nx - 0.5)
            row, column = np.floor(at[:, inside] + 0.5).astype(np.int64)
            index[j, inside] = (row * source.nx + column).astype(np.int32)
    return index


def _distrusted(
    edges: tuple[NDArray[np.float64], NDArray[np.float64]],
    position: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]],
    rows: tuple[int, int],
    columns: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Return which columns ``(nx,)`` lie in blocks whose middle is not where interpolation puts it."""
    corners = (edges[0] + edges[1]) / 2
    middles, interpolated = (columns[:-1] + columns[1:]) / 2, (corners[:, :-1] + corners[:, 1:]) / 2
    if len(columns) == 1:
        middles, interpolated = columns.astype(np.float64), corners
    exact = position(np.full(middles.shape, sum(rows) / 2), middles)
    wrong: NDArray[np.bool_] = np.abs(exact - interpolated).max(axis=0) > TRUSTED
    blocks = np.minimum(np.arange(columns[-1] + 1) // ANCHOR_SPACING, len(wrong) - 1)
    of_columns: NDArray[np.bool_] = wrong[blocks]
    return of_columns


def _anchors(cells: int) -> NDArray[np.int64]:
    return np.unique(np.append(np.arange(0, cells, ANCHOR_SPACING), cells - 1))


def take_cells(values: NDArray[np.float32], index: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the values under ``index`` of :func:`nearest_cells`; NaN where there is none."""
    taken = values.ravel()[np.maximum(index, 0)]
    taken[index < 0] = np.nan
    return taken
