"""Forecasts without learning: the newest frame as it is, and the newest frame carried along its motion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from nowcast.forecast.prediction import Lead, Prediction
from nowcast.methods.cube import Cube
from nowcast.methods.method import Method
from nowcast.motion.flow import FRAMES, motion_field
from nowcast.motion.trajectory import Carrier, Trajectory, VectorField
from nowcast.names import EXTRAPOLATION, PERSISTENCE


class Persistence(Method):
    """The newest frame, unchanged at every lead: what every other method has to beat."""

    name = PERSISTENCE
    proven_by_first = True

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the newest frame ``leads`` times (the same read-only array) and no motion."""
        newest = cube.newest.view()
        newest.flags.writeable = False
        return Prediction(repeat(Lead(newest), leads))


class Extrapolation(Method):
    """The newest frame carried along the motion of the last frames, neither growing nor decaying.

    What comes from outside the grid or from where nothing was observed is not covered (NaN). A single frame
    shows no motion: then the forecast is persistence, and says so.
    """

    name = EXTRAPOLATION
    proven_by_first = True

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the carried fields and their motion."""
        frames = cube.values
        if len(frames) < 2:
            return without_motion(cube, leads)
        motion = motion_field(frames[-FRAMES:])
        return Prediction(map(Lead, _carried(cube.newest, motion, leads)), motion.dense())


def without_motion(cube: Cube, leads: int) -> Prediction:
    """Return persistence, for a method that needs motion and has one frame only."""
    still = Persistence().predict(cube, leads)
    return Prediction(still.leads, shortfalls=("persistence, as one frame alone shows no motion",))


def _carried(frame: NDArray[np.float32], motion: VectorField, leads: int) -> Iterator[NDArray[np.float32]]:
    carrier, trajectory = Carrier(frame), Trajectory(motion)
    for lead in range(1, leads + 1):
        yield carrier.carry(trajectory.displacement(lead))
