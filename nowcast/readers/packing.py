"""From the numbers a file stores to a frame's values: scaling, and the three states kept apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import UnreadableFile
from nowcast.frame.frame import Quantity

#: Cells scaled at once: what is made on the way then fits into a processor's cache.
BAND_CELLS = 2**18


def no_echo_value(quantity: Quantity) -> float:
    """Return what "no echo" is in a raw frame: -inf dBZ, or 0 mm/h or mm."""
    return -math.inf if quantity.is_reflectivity else 0.0


def unpack(
    stored: NDArray[Any],
    quantity: Quantity,
    *,
    gain: float = 1.0,
    offset: float = 0.0,
    missing: Iterable[float] = (),
    no_echo: Iterable[float] = (),
) -> NDArray[np.float32]:
    """Return ``gain * stored + offset`` as float32, NaN where missing, :func:`no_echo_value` where no echo.

    A number that is both missing and no echo is missing: a gap shown as dry would be a false all-clear. What
    can be no measurement is left to :mod:`nowcast.readers.plausible`, but for infinity, which is no number.

    Args:
        stored: The file's numbers, any integer or float type. A float32 array may be changed in place.
        quantity: What they are after scaling.
        gain: Factor.
        offset: Addend, in the quantity's unit.
        missing: Stored numbers that mean "not observed" (beside NaN).
        no_echo: Stored numbers that mean "observed, nothing there".

    Raises:
        UnreadableFile: If gain or offset is not finite, or gain is zero.
    """
    if not (math.isfinite(gain) and math.isfinite(offset)) or gain == 0.0:
        raise UnreadableFile(f"gain {gain} and offset {offset} must be finite, and the gain not zero")
    if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2:
        # 256 or 65 536 possible numbers: scale those once and look every pixel up.
        index = stored.view(np.dtype(f"u{stored.dtype.itemsize}"))
        codes = np.arange(2 ** (8 * stored.dtype.itemsize)).astype(index.dtype).view(stored.dtype)
        table = _scaled(codes, quantity, gain, offset, missing, no_echo)
        return table[index]  # type: ignore[no-any-return]
    values = stored if stored.dtype == np.float32 else np.empty(stored.shape, dtype=np.float32)
    band = max(1, BAND_CELLS // max(stored[:1].size, 1))
    for top in range(0, len(stored), band):
        rows = slice(top, top + band)
        values[rows] = _scaled(stored[rows], quantity, gain, offset, missing, no_echo)
    return values


def _scaled(
    stored: NDArray[Any],
    quantity: Quantity,
    gain: float,
    offset: float,
    missing: Iterable[float],
    no_echo: Iterable[float],
) -> NDArray[np.float32]:
    empty = [stored == _as_stored(code, stored.dtype) for code in no_echo if not math.isnan(code)]
    gaps = [stored == _as_stored(code, stored.dtype) for code in missing if not math.isnan(code)]
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float32, copy=False)
        if gain != 1.0 or offset != 0.0:
            # Integers beyond 2**24 do not fit into float32: scale them in double precision.
            exact = stored.astype(np.float64) if stored.dtype.kind in "iu" else values
            values = (exact * gain + offset).astype(np.float32, copy=False)
    nothing = np.float32(no_echo_value(quantity))
    values[values == np.inf] = np.nan
    for mask in empty:
        values[mask] = nothing
    for mask in gaps:
        values[mask] = np.nan
    return values


def _as_stored(code: float, kind: np.dtype[Any]) -> np.generic | float:
    # Attributes are mostly doubles; in a float32 array their neighbour in that precision is meant.
    if kind.kind != "f":
        return code
    with np.errstate(over="ignore"):
        return kind.type(code)  # type: ignore[no-any-return]
