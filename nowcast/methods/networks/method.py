"""Networks as forecasting methods: what they see of a cube, and the fields their answer becomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.normalisation import to_dbz, to_unit
from nowcast.errors import NotEnoughFrames
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.methods.cube import Cube
from nowcast.methods.method import Method
from nowcast.methods.networks.checkpoint import Card
from nowcast.methods.networks.engine import Engine
from nowcast.motion.flow import FRAMES, motion_field
from nowcast.motion.lagrangian import carried_to_issue
from nowcast.motion.probability_matching import rank_matched
from nowcast.motion.trajectory import Carrier, Trajectory, VectorField, carried_forward

Array = NDArray[np.float32]

#: Grids whose cells are wider or narrower than those of the training by more than this factor are others.
CELL_FACTOR = 1.15


@dataclass(frozen=True)
class Loaded:
    """A network that is ready.

    Attributes:
        engine: Runs it.
        card: What its checkpoint says, ``None`` if it is untrained.
        version: Hash of its weights.
    """

    engine: Engine
    card: Card | None
    version: str


class Network(Method):
    """A network that continues the frames of a cube.

    If it was trained so, it sees them from the moving air (:mod:`nowcast.motion.lagrangian`), and its
    forecast is carried onward along the same motion.

    Cells are not covered (NaN) where the air comes from outside the grid or from where nothing was observed,
    by the motion of the echo, as for extrapolation: a network fills such cells too, with what it cannot know.
    Nor are they, for a network that sees fields in place, where the newest frame was not observed.

    Attributes:
        name: Name of the method.
        version: Hash of the weights, or ``"untrained"``.
        frames: How many frames it wants to look back on, 0 if any number will do.
    """

    takes_batches = True

    def __init__(self, name: str, loaded: Loaded, memory_mb: int) -> None:
        self.name = name
        self.version = loaded.version
        self.engine, self._card, self._memory_bytes = loaded.engine, loaded.card, memory_mb * 2**20
        self._least = int(loaded.engine.network.frames or 0)  # type: ignore[arg-type]
        self.frames = self._least if self._card is None else max(self._card.task.frames, self._least)
        self._moving = self._card is not None and self._card.task.moving

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the forecast that follows a cube.

        Raises:
            NotEnoughFrames: If the cube has fewer frames than the network needs.
            NetworkError: If the network cannot forecast, or what it forecasts is not finite.
        """
        (prediction,) = self.predict_batch([cube], leads)
        return prediction

    def predict_batch(self, cubes: Sequence[Cube], leads: int) -> list[Prediction]:
        """Return the forecasts that follow cubes of one shape, as many made together as memory allows."""
        have = len(cubes[0])
        if have < self._least:
            raise NotEnoughFrames(f"{self.name}: expected {self._least} frames, got {have}")
        newest = [cube.values[-min(self.frames or have, have) :] for cube in cubes]
        motions = [motion_field(cube.values[-FRAMES:]) if have > 1 else None for cube in cubes]
        seen = [self._seen(*each) for each in zip(newest, motions, strict=True)]
        forecasts = self.engine.forecast(seen, leads, self._memory_bytes, encode=encoded)
        return [self._prediction(*each) for each in zip(cubes, forecasts, motions, strict=True)]

    def _seen(self, frames: Array, motion: VectorField | None) -> Array:
        """Return frames ``(t, y, x)`` [dBZ] as the network shall see them."""
        return carried_to_issue(frames, motion) if self._moving and motion is not None else frames

    def _prediction(self, cube: Cube, forecast: Array, motion: VectorField | None) -> Prediction:
        """Return a forecast ``(lead, y, x)`` in [0, 1] as fields in dBZ of what is covered."""
        reasons = tuple(shortfalls(cube, self._card))
        if motion is None:
            then = "the echo stays in place" if self._moving else "what comes in from outside is not left out"
            alone = f"one frame alone shows no motion, so {then}"
            return Prediction(map(Lead, _in_dbz(forecast, cube.newest)), shortfalls=(*reasons, alone))
        fields = (_onward if self._moving else _covered)(forecast, cube.newest, motion)
        return Prediction(map(Lead, fields), motion.dense(), reasons)


def shortfalls(cube: Cube, card: Card | None) -> Iterator[str]:
    """Yield why a forecast from a cube is not what a network's weights are made for."""
    if card is None:
        yield "untrained weights"
        return
    task = card.task
    if len(cube) < task.frames:
        yield f"made from {len(cube)} frames with weights trained on {task.frames}"
    if len(cube) > 1:
        step = step_minutes_of(cube)
        if abs(step - task.step_minutes) > task.step_minutes / 4:
            yield f"weights trained on steps of {task.step_minutes:g} minutes, not {step:.3g}"
    cells = cube.grid.cell_km
    if not all(1 / CELL_FACTOR < cell / task.cell_km < CELL_FACTOR for cell in cells):
        yield f"weights trained on cells of {task.cell_km:g} km, not {cells[0]:.3g} x {cells[1]:.3g}"


def step_minutes_of(cube: Cube) -> float:
    """Return the mean time between the frames of a cube of two or more."""
    return (cube.times[-1] - cube.times[0]).total_seconds() / 60 / (len(cube) - 1)


def encoded(frames: Array) -> Tensor:
    """Return frames [dBZ] on the networks' scale, not observed as 0."""
    return to_unit(torch.from_numpy(frames))[0]


# A continent's leads are not to be in memory twice: what follows writes fields where the forecast stood.


def _in_dbz(forecast: Array, newest: Array) -> Iterator[Array]:
    """Yield a forecast ``(lead, y, x)`` in [0, 1] as fields in dBZ, NaN where ``newest`` was not observed."""
    unobserved = np.isnan(newest)
    for field in forecast:
        field[...] = to_dbz(torch.from_numpy(field)).numpy()
        field[unobserved] = np.nan
        yield field


def _covered(forecast: Array, newest: Array, motion: VectorField) -> Iterator[Array]:
    """Yield fields as :func:`_in_dbz` does, NaN also where air comes from outside or was not observed."""
    carrier, trajectory = Carrier(newest), Trajectory(motion)
    for lead, field in enumerate(_in_dbz(forecast, newest), start=1):
        field[np.isnan(carrier.carry(trajectory.displacement(lead)))] = np.nan
        yield field


def _onward(forecast: Array, newest: Array, motion: VectorField) -> Iterator[Array]:
    """Yield fields as :func:`_in_dbz` does, but where their air is at their lead; NaN where none is known.

    Their values are those of the extrapolated frame, given out by rank (:func:`rank_matched`).
    """
    carrier, trajectory = Carrier(newest), Trajectory(motion)
    onward = carried_forward(_in_dbz(forecast, newest), motion)
    for lead, (place, field) in enumerate(zip(forecast, onward, strict=True), start=1):
        place[...] = rank_matched(field, carrier.carry(trajectory.displacement(lead)))
        yield place
