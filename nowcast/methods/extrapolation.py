"""Forecasts without learning: the newest frame as it is, and the newest frame carried along its motion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.forecast.file import Prediction
from nowcast.motion.flow import FRAMES, Carrier, Trajectory, VectorField, motion_field
from nowcast.names import EXTRAPOLATION, PERSISTENCE


class Persistence:
    """The newest frame, unchanged at every lead: what every other method has to beat."""

    name = PERSISTENCE
    version = "1"

    def predict(self, cube: xr.DataArray, leads: int) -> Prediction:
        """Return the newest frame ``leads`` times (the same read-only array) and no motion."""
        newest = cube.values[-1].view()
        newest.flags.writeable = False
        return Prediction(repeat(newest, leads))


class Extrapolation:
    """The newest frame carried along the motion of the last frames, neither growing nor decaying.

    What comes from outside the grid or from where nothing was observed is not covered (NaN). A single frame
    shows no motion: then the forecast is persistence, and says so.
    """

    name = EXTRAPOLATION
    version = "1"

    def predict(self, cube: xr.DataArray, leads: int) -> Prediction:
        """Return the carried fields and their motion."""
        frames = cube.values
        if len(frames) < 2:
            still = Persistence().predict(cube, leads)
            return Prediction(still.fields, degraded_reason="persistence, as one frame alone shows no motion")
        motion = motion_field(frames[-FRAMES:])
        return Prediction(_carried(frames[-1], motion, leads), motion.dense())


def _carried(frame: NDArray[np.float32], motion: VectorField, leads: int) -> Iterator[NDArray[np.float32]]:
    carrier, trajectory = Carrier(frame), Trajectory(motion)
    for lead in range(1, leads + 1):
        yield carrier.carry(trajectory.displacement(lead))
