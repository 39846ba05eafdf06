"""Cases for judging a method by past frames: what it may see at an issue time, and what then came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.errors import NotEnoughFrames
from nowcast.frame.domain import Domain
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.method import Method
from nowcast.scores.tally import Tally, score_fields


class Frames(Protocol):
    """Frames of one domain in order of time, of files or of an archive."""

    @property
    def domain(self) -> Domain:
        """The domain."""
        ...

    @property
    def times(self) -> Sequence[datetime]:
        """Times of the frames, strictly ascending, UTC."""
        ...

    def load(self, index: int) -> xr.DataArray | None:
        """Return a frame ``reflectivity(y, x)`` [dBZ], ``None`` if it cannot be used."""
        ...

    def index_at(self, time: datetime, *, tolerance: timedelta) -> int | None:
        """Return the index of the frame nearest to a time, ``None`` if none is within the tolerance."""
        ...


@dataclass(frozen=True)
class Case:
    """One issue time as a method meets it, and what came after.

    Attributes:
        issue_time: Time of the newest frame, UTC.
        cube: What was observed up to the issue time.
        truths: What was observed ``(y, x)`` [dBZ], by lead in steps from 1; leads nothing is known of are
            absent.
    """

    issue_time: datetime
    cube: Cube
    truths: Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True)
class Outcome:
    """What one forecast scored at each lead that has a truth, and what it took.

    Attributes:
        tallies: By lead in steps.
        seconds: Time [s] of the forecast, all its leads, without the scoring.
        degraded_reason: Why the cube or the method fell short, empty if neither did.
    """

    tallies: dict[int, Tally]
    seconds: float
    degraded_reason: str


class Cases:
    """The cases in a list of frames, made one at a time: all of a long list that is in memory.

    Lead times go by the clock: lead k is scored against the frame within a quarter of a step of k steps after
    the issue time, whatever its index, so a gap shifts nothing.
    """

    def __init__(self, frames: Frames, *, history: int, steps: int) -> None:
        """Look back on ``history`` frames at most, and forward as far as ``steps`` leads."""
        self.frames, self.history, self.steps = frames, history, steps
        self._loaded: dict[int, xr.DataArray | None] = {}

    def at(self, index: int) -> Case:
        """Return the case issued from the frame with an index; asked for in order, each frame is read once.

        Raises:
            NotEnoughFrames: If that frame cannot be used, or nothing observed follows.
        """
        oldest = max(index - self.history + 1, 0)
        self._loaded = {known: frame for known, frame in self._loaded.items() if known >= oldest}
        if self._load(index) is None:
            raise NotEnoughFrames("its own frame cannot be used")
        truths = {
            lead: truth.values
            for lead in range(1, self.steps + 1)
            if (truth := self._load_ahead(index, lead)) is not None
        }
        if not truths:
            raise NotEnoughFrames("no frame that could be scored against follows")
        past = [frame for before in range(oldest, index + 1) if (frame := self._load(before)) is not None]
        domain = self.frames.domain
        cube = build_cube(past, step_minutes=domain.step_minutes, history=self.history, domain=domain.name)
        return Case(self.frames.times[index], cube, truths)

    def _load(self, index: int) -> xr.DataArray | None:
        """Return a frame, ``None`` if it cannot be used."""
        if index not in self._loaded:
            self._loaded[index] = self.frames.load(index)
        return self._loaded[index]

    def _load_ahead(self, index: int, lead: int) -> xr.DataArray | None:
        """Return the frame ``lead`` steps after another by the clock, ``None`` if there is none."""
        step = timedelta(minutes=self.frames.domain.step_minutes)
        found = self.frames.index_at(self.frames.times[index] + lead * step, tolerance=step / 4)
        return None if found is None else self._load(found)


def judge(method: Method, case: Case, leads: int, empty: Tally) -> Outcome:
    """Return what one forecast of ``leads`` steps scores; one field is in memory at a time.

    Args:
        method: Makes the forecast.
        case: What it sees, and the truth.
        leads: Number of lead times.
        empty: A tally with the thresholds and windows to score by; stays as it is.

    Raises:
        NotEnoughFrames: If the method cannot forecast from so few frames.
        WrongGrid: If the method forecasts another grid than the truth's.
    """
    started = perf_counter()
    prediction = method.predict(case.cube, leads)
    seconds = perf_counter() - started

    def fields() -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        nonlocal seconds
        for lead in range(1, leads + 1):
            started = perf_counter()
            forecast = next(prediction.leads).field
            seconds += perf_counter() - started
            if lead in case.truths:
                yield lead, forecast, case.truths[lead]

    tallies = score_fields(fields(), empty)
    return Outcome(tallies, seconds, "; ".join((*case.cube.shortfalls, *prediction.shortfalls)))
