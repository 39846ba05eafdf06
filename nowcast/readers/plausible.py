"""What can be no precipitation is not observed: the one place that every frame of every reader passes.

A mark such as -9999, 1e20 or 255 that a file does not declare as "no data" would else be read as dry, or as a
flood. Source of the bounds: what radars see and gauges have measured, as each constant says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nowcast.frame.frame import Quantity, RawFrame

#: Reflectivity [dBZ] below any that a weather radar sees: at 1 km from the antenna its noise is about -40.
#: Codes of no echo that are numbers (-32, -32.5, -31.5 dBZ) lie above.
LEAST_DBZ = -40.0

#: Reflectivity [dBZ] above anything: hail reaches about 75, clutter 95; those are bounded by the domain.
MOST_DBZ = 100.0

#: Rain rate [mm/h] above anything: four times the heaviest minute (38 mm, Guadeloupe 1970). Clutter that
#: OPERA's composites hold as rain, 8,647 mm/h, is below; such values are bounded by the domain.
MOST_RATE_MM_H = 9000.0

#: Most that a zero may lie below zero [mm/h or mm] by the rounding of packing and regridding.
ROUNDING = 1e-3

#: Cells looked at in one go: what is made on the way then fits into a processor's cache.
_BAND_CELLS = 2**18


def without_impossible(raw: RawFrame) -> RawFrame:
    """Return the frame with NaN where its number can be no precipitation, counted in ``impossible_pixels``.

    Outside are: reflectivity below :data:`LEAST_DBZ` (but for ``-inf``, no echo) or above :data:`MOST_DBZ`;
    rates and amounts below zero, or above :data:`MOST_RATE_MM_H` (amounts divided by their interval);
    infinity. A zero just below zero becomes 0. A frame without such numbers is returned as it is.
    """
    least, most = _bounds(raw)
    flat = raw.values.reshape(-1)
    count = 0
    changed: NDArray[np.float32] | None = None
    for start in range(0, flat.size, _BAND_CELLS):
        band = flat[start : start + _BAND_CELLS]
        is_out = ~((band >= least) & (band <= most)) & (band == band)
        if raw.quantity.is_reflectivity:
            is_out &= band != -np.inf
        if is_out.any():
            changed = flat.copy() if changed is None else changed
            is_zero = is_out & (band < 0) & (band >= -ROUNDING) & (not raw.quantity.is_reflectivity)
            changed[start : start + band.size][is_out] = np.nan
            changed[start : start + band.size][is_zero] = 0.0
            count += int(np.count_nonzero(is_out)) - int(np.count_nonzero(is_zero))
    if changed is None:
        return raw
    notes = {**raw.attributes, "impossible_pixels": count} if count else raw.attributes
    return replace(raw, values=changed.reshape(raw.values.shape), attributes=notes)


def _bounds(raw: RawFrame) -> tuple[float, float]:
    if raw.quantity.is_reflectivity:
        return LEAST_DBZ, MOST_DBZ
    if raw.quantity is Quantity.ACRR:
        return 0.0, MOST_RATE_MM_H * (raw.interval_minutes or 60.0) / 60.0
    return 0.0, MOST_RATE_MM_H
