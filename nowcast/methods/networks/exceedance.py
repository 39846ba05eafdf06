"""Exceedance as a forecasting method: probabilities of every lead, and the field that follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from models.exceedance import SHOWN_MINUTES, Exceedance, Probabilities
from nowcast.errors import NotEnoughFrames
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.methods.cube import Cube
from nowcast.methods.method import Method
from nowcast.methods.networks.engine import Engine
from nowcast.methods.networks.method import Loaded, encoded, shortfalls, step_minutes_of
from nowcast.methods.sprog import faded
from nowcast.motion.flow import FRAMES, motion_field
from nowcast.motion.lagrangian import carried_planes, carried_to_issue
from nowcast.motion.probability_matching import most_probable
from nowcast.motion.trajectory import Carrier, Trajectory, VectorField

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Probable:
    """What is probable at one lead.

    Attributes:
        minutes: The lead time.
        probability: Of reaching each threshold ``(k, y, x)``; 0 where nothing is known.
        extrapolated: The newest frame carried to the lead [dBZ] ``(y, x)``, NaN = not covered.
        guess: The first guess, carried there [dBZ] ``(y, x)``.
    """

    minutes: float
    probability: Array
    extrapolated: Array
    guess: Array


class ExceedanceNetwork(Method):
    """A network that tells how probably thresholds are exceeded, and the field that follows from it.

    The field exceeds each threshold on as many cells as the extrapolated frame does, times a factor learnt
    for the lead, and on the cells most likely to: what rain there is, is put where it is most probable. How
    much there is stays a matter of observation, as probabilities learnt in one climate do not hold in
    another, while their order does.
    """

    def __init__(self, name: str, loaded: Loaded, memory_mb: int) -> None:
        assert isinstance(loaded.engine.network, Exceedance)
        self.name = name
        self.version = loaded.version
        self._card, self._memory_bytes = loaded.card, memory_mb * 2**20
        self.exceedance, self._device = loaded.engine.network, loaded.engine.device
        needed = self.exceedance.config.frames
        self.frames = needed if self._card is None else max(self._card.task.frames, needed)
        # What an engine has measured is kept for as long as the network is.
        self._engine = lru_cache(maxsize=32)(self._new_engine)

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the forecast that follows a cube.

        Raises:
            NotEnoughFrames: If the cube has fewer frames than the network needs.
            NetworkError: If not even a small tile fits the memory, or a probability is not finite.
        """
        motion = motion_field(self._frames(cube)[-FRAMES:])
        config, reasons = self.exceedance.config, list(shortfalls(cube, self._card))
        if leads * step_minutes_of(cube) > (longest := config.slots * config.slot_minutes):
            reasons.append(f"weights trained on leads of up to {longest:g} minutes")
        fields = self._fields(self._probabilities(cube, leads, motion))
        return Prediction(map(Lead, fields), motion.dense(), tuple(reasons))

    def probabilities(self, cube: Cube, leads: int) -> Iterator[Probable]:
        """Yield what is probable at each lead, of as many leads at a time as fit the memory.

        Raises:
            NotEnoughFrames: If the cube has fewer frames than the network needs.
            NetworkError: If not even a small tile fits the memory, or a probability is not finite.
        """
        return self._probabilities(cube, leads, motion_field(self._frames(cube)[-FRAMES:]))

    def areas(self, minutes: float) -> Array:
        """Return by what factor the area above each threshold ``(k,)`` is wider than extrapolation's."""
        config = self.exceedance.config
        slot = int(np.clip(round(minutes / config.slot_minutes), 1, config.slots)) - 1
        factors: Array = self.exceedance.areas[slot].cpu().numpy()
        return factors

    @property
    def thresholds_dbz(self) -> Array:
        """The thresholds ``(k,)``."""
        return np.asarray(self.exceedance.config.thresholds_dbz, np.float32)

    def _frames(self, cube: Cube) -> Array:
        needed = self.exceedance.config.frames
        if len(cube) < needed:
            raise NotEnoughFrames(f"{self.name}: expected {needed} frames, got {len(cube)}")
        return cube.values

    def _fields(self, probabilities: Iterator[Probable]) -> Iterator[Array]:
        for lead in probabilities:
            areas = self.areas(lead.minutes)
            yield most_probable(lead.probability, lead.extrapolated, self.thresholds_dbz, areas)

    def _together(self, cells: int) -> int:
        """Return of how many leads the probabilities of so many cells fit the memory, 1 at least."""
        return max(int(self._memory_bytes // (4 * len(self.thresholds_dbz) * cells)), 1)

    def _probabilities(self, cube: Cube, leads: int, motion: VectorField) -> Iterator[Probable]:
        seen = carried_to_issue(self._frames(cube)[-self.exceedance.config.frames :], motion)
        step, cell_km = step_minutes_of(cube), float(np.mean(cube.grid.cell_km))
        shown_at = [max(round(minutes / step), 1) for minutes in SHOWN_MINUTES]
        guesses = dict(enumerate(islice(faded(seen), max(leads, *shown_at)), start=1))
        shown = np.stack([guesses[lead] for lead in shown_at])
        trajectory, carrier = Trajectory(motion), Carrier(seen[-1])
        thresholds = len(self.thresholds_dbz)
        together = self._together(seen[-1].size)
        for first in range(0, leads, together):
            some = range(first + 1, min(first + together, leads) + 1)
            minutes = [step * lead for lead in some]
            net, engine = self._engine(tuple(minutes), step, cell_km)
            planes = np.concatenate([seen, shown, np.stack([guesses[lead] for lead in some])])
            (flat,) = engine.forecast([planes], net.planes, self._memory_bytes, encode=encoded)
            by_lead = flat.reshape(len(minutes), thresholds, *motion.shape)
            for lead, probability in enumerate(by_lead, start=first + 1):
                displacement = trajectory.displacement(lead)
                carried = carried_planes(probability, displacement)
                guess = trajectory.carried(guesses[lead], lead)
                yield Probable(step * lead, carried, carrier.carry(displacement), guess)

    def _new_engine(
        self, minutes: tuple[float, ...], step: float, cell_km: float
    ) -> tuple[Probabilities, Engine]:
        """Return the network of some leads on some grids, and what runs it."""
        net = Probabilities(self.exceedance, minutes, step_minutes=step, cell_km=cell_km)
        return net, Engine(net, self._device)
