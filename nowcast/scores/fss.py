"""Fractions skill score: how well a forecast has rain in about the right place, by the size of "about"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

#: Cells handled at once; what they need stays in the cache of one core (measured best of 2**14 to 2**19).
BLOCK_CELLS = 2**17


def half_windows(windows_km: Sequence[float], cell_km: tuple[float, float]) -> tuple[tuple[int, int], ...]:
    """Return rows and columns each window reaches from its middle cell to either side.

    A window holds the cells whose centres lie within half its width of the middle one in either direction, so
    it always has an odd number of rows and of columns: 10 km on cells of 1 km are 11 x 11 cells, on cells of
    2 km 5 x 5. A window narrower than two cells is the single cell.

    Args:
        windows_km: Widths.
        cell_km: Height and width of a cell, as :attr:`nowcast.frame.grid.Grid.cell_km`.
    """
    tolerance = 1e-9  # 0.3 km are two cells of 0.15 km, whatever binary fractions make of it
    return tuple(
        (int(width / (2 * cell_km[0]) + tolerance), int(width / (2 * cell_km[1]) + tolerance))
        for width in windows_km
    )


def fss_sums(
    forecast: NDArray[np.float32],
    truth: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    halves: Sequence[tuple[int, int]],
) -> NDArray[np.float64]:
    r"""Return numerator and denominator of 1 - FSS ``(2, thresholds, windows)``.

    With :math:`P_f` and :math:`P_o` the fractions of a window's cells where forecast and truth reach the
    threshold,

    .. math:: \mathrm{FSS} = 1 - \frac{\sum (P_f - P_o)^2}{\sum P_f^2 + \sum P_o^2}

    and both sums of several forecasts may be added before dividing.

    Convention: a window is centred on every observed cell, and cells whose truth is NaN or that lie beyond
    the edge count in neither fraction: not as events, not as cells. Where everything is observed and no rain
    is within half a window of the edge, this is the score as published.

    Args:
        forecast: ``(y, x)``; NaN = no echo.
        truth: ``(y, x)``; NaN = not observed.
        thresholds: A cell at or above is an event; any order.
        halves: Of :func:`half_windows`.

    References:
        Roberts and Lean (2008), Scale-Selective Verification of Rainfall Accumulations from High-Resolution
        Forecasts of Convective Events, doi:10.1175/2007MWR2123.1, equations 5 to 7.
    """
    sums = np.zeros((2, len(thresholds), len(halves)))
    if not halves:
        return sums
    reach_y, reach_x = (max(half[axis] for half in halves) for axis in (0, 1))
    dtype, shift = _packing((2 * reach_y + 1) * (2 * reach_x + 1))
    low = dtype.type(2**shift - 1)
    for middle, rows, first in _blocks(truth.shape, reach_y):
        f, o = forecast[rows], truth[rows]
        observed = o == o
        if not observed[middle].any():
            continue
        windows = _Windows(o.shape, middle, first, reach_x, dtype)
        weights = None
        for k, threshold in enumerate(thresholds):
            forecast_event = (f >= threshold) & observed
            truth_event = o >= threshold
            if not forecast_event.any() and not truth_event.any():
                continue  # nothing to add, and for a high threshold the rule
            if weights is None:  # a cell's weight is one over the observed cells of its window
                windows.fill(observed.astype(dtype))
                weights = [_inverse(windows.box(half), observed[middle]) for half in halves]
            # One integral image serves both fields: truth's counts ride in the upper half of each integer.
            windows.fill(np.left_shift(truth_event, shift, dtype=dtype) | forecast_event)
            for w, half in enumerate(halves):
                packed = windows.box(half)
                p_f = (packed & low) * weights[w]
                p_o = (packed >> dtype.type(shift)) * weights[w]
                sums[1, k, w] += inner(p_f, p_f) + inner(p_o, p_o)
                p_f -= p_o
                sums[0, k, w] += inner(p_f, p_f)
    return sums


def inner(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the sum of the products of two fields ``(y, x)``.

    Row by row: on more than 10,000 elements BLAS starts threads, which on a machine with other work to do
    cost three times what they save.
    """
    return float(np.vecdot(a, b).sum())


class _Windows:
    """Sums over windows around the middle rows of a block, by an integral image with nothing around it.

    Integers wrap around in the integral image; the difference that is a window's sum is right nevertheless.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        middle: slice,
        first: int,
        reach_x: int,
        dtype: np.dtype[np.unsignedinteger],
    ) -> None:
        rows, self.nx = shape
        self.height = middle.stop - middle.start
        self.reach_y, self.reach_x = first + middle.start, reach_x
        self.inside = (slice(first + 1, first + 1 + rows), slice(reach_x + 1, reach_x + 1 + self.nx))
        self.integral = np.zeros((self.height + 2 * self.reach_y + 1, self.nx + 2 * reach_x + 1), dtype)

    def fill(self, values: NDArray[np.unsignedinteger]) -> None:
        """Take the integral image of ``values`` ``(rows, x)``."""
        rows, columns = self.inside
        image = self.integral[self.inside]
        np.cumsum(values, axis=1, out=image)
        np.cumsum(image, axis=0, out=image)
        self.integral[rows, columns.stop :] = image[:, -1:]
        self.integral[rows.stop :] = self.integral[rows.stop - 1]

    def box(self, half: tuple[int, int]) -> NDArray[np.unsignedinteger]:
        """Return the sum over the window around each cell of the middle rows ``(height, x)``."""
        top, left = self.reach_y - half[0], self.reach_x - half[1]
        height, width = 2 * half[0] + 1, 2 * half[1] + 1
        lower = self.integral[top + height : top + height + self.height]
        bands = lower - self.integral[top : top + self.height]
        sums: NDArray[np.unsignedinteger] = bands[:, left + width : left + width + self.nx].copy()
        sums -= bands[:, left : left + self.nx]
        return sums


def _packing(cells: int) -> tuple[np.dtype[np.unsignedinteger], int]:
    """Return an integer type whose halves each hold a count of ``cells``, and the bits of a half."""
    return (np.dtype(np.uint32), 16) if cells < 2**16 else (np.dtype(np.uint64), 32)


def _inverse(counts: NDArray[np.unsignedinteger], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 1 / counts, and 0 where no window is centred."""
    inverse = np.zeros(counts.shape)
    np.divide(1.0, counts, out=inverse, where=where)
    return inverse


def _blocks(shape: tuple[int, ...], reach: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield blocks of rows: the middle rows within the block, the block's rows, and the rows it lacks above.

    A block is its middle rows and ``reach`` rows to either side, as far as the field has them.
    """
    ny, nx = shape
    height = max(BLOCK_CELLS // nx, 4 * reach, 1)  # the reach is computed twice: keep it a small share
    for start in range(0, ny, height):
        stop = min(start + height, ny)
        above, below = max(start - reach, 0), min(stop + reach, ny)
        yield slice(start - above, stop - above), slice(above, below), reach - (start - above)
