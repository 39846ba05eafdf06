"""A forecast: what a method predicts, its record, and the CF netCDF file both become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.grid import Grid


@dataclass(frozen=True)
class Prediction:
    """What a method returns: one field per lead time, made when asked for.

    Attributes:
        fields: Yields float32 dBZ ``(y, x)``, lead after lead; NaN = not covered, -10 dBZ = no echo. Lazy, so a
            continental grid never holds all leads in memory.
        motion: Displacement ``(2, y, x)`` [cells per step; rows southward, columns eastward] behind the forecast,
            or ``None`` where the method has none.
        degraded_reason: Why the method fell short of its usual self, empty if it did not.
    """

    fields: Iterator[NDArray[np.float32]]
    motion: NDArray[np.float32] | None = None
    degraded_reason: str = ""


class Method(Protocol):
    """A way to forecast: persistence, extrapolation, a network."""

    name: str
    version: str

    def predict(self, cube: xr.DataArray, leads: int) -> Prediction:
        """Return ``leads`` fields following the newest frame of ``cube`` ``reflectivity(time, y, x)``."""
        ...


@dataclass(frozen=True)
class ForecastRecord:
    """All a forecast file says about itself besides its numbers.

    Attributes:
        domain: Name of the domain.
        issue_time: Time of the newest frame behind it, UTC.
        step_minutes: Time between leads.
        leads: Number of leads.
        model: Name of the method.
        model_version: Version, or hash of the weights.
        input_frames: ISO times of the frames it was made from, oldest first; a bridged one is marked ``*``.
        degraded_reason: Why a better method did not answer, empty if it did.
        grid: Cells.
        credit: Agency behind the data.
        zr: Coefficients (a, b) of the Z-R relation behind dBZ and mm/h.
    """

    domain: str
    issue_time: datetime
    step_minutes: int
    leads: int
    model: str
    model_version: str
    input_frames: tuple[str, ...]
    degraded_reason: str
    grid: Grid
    credit: str = ""
    zr: tuple[float, float] = (200.0, 1.6)
