"""The cube: the newest frame and the frames before it, as forecasting methods take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.archive.archive import Archive
from nowcast.errors import DuplicateFrame, NotEnoughFrames
from nowcast.frame.domain import Domain
from nowcast.frame.frame import on_one_grid
from nowcast.frame.grid import Grid
from nowcast.frame.units import NO_ECHO_DBZ
from nowcast.motion.lagrangian import bridge

Array = NDArray[np.float32]

#: A frame this far from its nominal time, as a fraction of a step, still stands for it.
TOLERANCE_STEPS = 0.25

#: Least cells of echo in a frame whose sudden absence in the next one is no weather.
SUDDEN_CELLS = 100

#: Share of the echo of the frames around it below which a frame has suddenly lost it. Real rain kept 0.28 of
#: its area or more from one composite to the next, ten minutes later at most, over seventeen events of seven
#: networks, dying showers of 100 cells among them.
SUDDEN_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class Cube:
    """What a forecast is made from.

    Attributes:
        values: float32 ``(time, y, x)`` [dBZ], oldest first; NaN = not observed, -10 dBZ = no echo.
        times: Time of each frame, UTC; the last is the issue time.
        bridged: Which frames were not observed but made from their neighbours.
        grid: Cells.
        step_minutes: Time between frames, and between leads.
        domain: Name of the domain, whose own scores say which method is best there; empty of loose files.
        shortfalls: What the frames lack that a forecast should be made from, a sentence each.
    """

    values: NDArray[np.float32]
    times: tuple[datetime, ...]
    bridged: tuple[bool, ...]
    grid: Grid
    step_minutes: int
    domain: str = ""
    shortfalls: tuple[str, ...] = ()

    @property
    def issue_time(self) -> datetime:
        """Time of the newest frame, UTC."""
        return self.times[-1]

    @property
    def newest(self) -> NDArray[np.float32]:
        """The newest frame ``(y, x)`` [dBZ]."""
        newest: NDArray[np.float32] = self.values[-1]
        return newest

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns."""
        frames, rows, columns = self.values.shape
        return frames, rows, columns

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.times)


def load_cube(archive: Archive, domain: Domain, issue_time: datetime) -> Cube:
    """Return the cube of a domain whose newest frame is that of ``issue_time``; see :func:`build_cube`.

    An older frame whose file is damaged counts as missing.

    Raises:
        NoFrame: If the archive has no frame of ``issue_time``.
        UnreadableFile: If the file of that frame is damaged.
    """
    newest = archive.load(domain.name, issue_time)
    span = timedelta(minutes=domain.step_minutes * (domain.history + TOLERANCE_STEPS))
    before = archive.load_span(domain.name, issue_time - span, issue_time - timedelta(seconds=1))
    return build_cube(
        [*before, newest], step_minutes=domain.step_minutes, history=domain.history, domain=domain.name
    )


def build_cube(frames: Sequence[xr.DataArray], *, step_minutes: int, history: int, domain: str = "") -> Cube:
    """Return the newest frame and those before it, ``history`` at most.

    Frames may be given in any order, and the same frame twice counts once. Frames that stand for no step back
    from the newest, or for more steps than needed, are left out. One missing frame with neighbours on both
    sides is bridged along their motion. What lies before a second gap, or a wider one, is cut off.

    A frame that has suddenly lost the echo that the frames before and after it have (:data:`SUDDEN_SHARE`)
    shows a failure of the composite and no weather: it counts as missing. The newest frame has none after it:
    if its echo is gone it stays what was observed. The cube's ``shortfalls`` tell of all this.

    Args:
        frames: ``reflectivity(y, x)`` [dBZ], each with its time.
        step_minutes: Time between two frames.
        history: Most frames of the cube.
        domain: Whose frames these are.

    Raises:
        NotEnoughFrames: If there is no frame at all.
        WrongGrid: If the frames lie on different grids.
        DuplicateFrame: If two different frames have the same time.
    """
    if not frames:
        raise NotEnoughFrames("a forecast needs at least one frame, got none")
    times_given, grid = on_one_grid(frames)
    by_time = _by_time(times_given, frames)
    newest, step = max(by_time), timedelta(minutes=step_minutes)
    lost = _without_echo_between(by_time, step)
    shortfalls = [
        f"the frame of {time:%Y-%m-%dT%H:%MZ} is left out, as it is dry between frames full of echo"
        for time in sorted(lost)
    ]
    observed = {time: dbz for time, dbz in by_time.items() if time not in lost}
    before = _near(observed, newest - step, step)
    if before is not None and _echo_is_gone(observed[newest], observed[before]):
        shortfalls.append("the newest frame is dry, though the one before it was full of echo")
    values, times, bridged = [observed[newest]], [newest], [False]
    while len(values) < history:
        nominal = newest - len(values) * step
        time, before = _near(observed, nominal, step), _near(observed, nominal - step, step)
        if time is not None:
            values.append(observed[time])
            times.append(time)
        elif before is not None and not any(bridged):
            values.append(bridge(observed[before], values[-1]))
            times.append(nominal)
        else:
            shortfalls.append(_too_few(len(values), history, nominal))
            break
        bridged.append(time is None)
    return Cube(
        values=np.stack(values[::-1]).astype(np.float32, copy=False),
        times=tuple(times[::-1]),
        bridged=tuple(bridged[::-1]),
        grid=grid,
        step_minutes=step_minutes,
        domain=domain,
        shortfalls=tuple(shortfalls),
    )


def _by_time(times: Sequence[datetime], frames: Sequence[xr.DataArray]) -> dict[datetime, Array]:
    by_time: dict[datetime, Array] = {}
    for time, frame in zip(times, frames, strict=True):
        known = by_time.setdefault(time, frame.values)
        if known is not frame.values and not np.array_equal(known, frame.values, equal_nan=True):
            raise DuplicateFrame(f"expected one frame of {time:%Y-%m-%dT%H:%M:%SZ}, got two that differ")
    return by_time


def _without_echo_between(by_time: Mapping[datetime, Array], step: timedelta) -> set[datetime]:
    """Return the times of frames without the echo that both their neighbours have."""
    lost = set()
    for time, frame in by_time.items():
        around = [_near(by_time, time + apart, step) for apart in (-step, step)]
        if all(near is not None and _echo_is_gone(frame, by_time[near]) for near in around):
            lost.add(time)
    return lost


def _echo_is_gone(frame: Array, neighbour: Array) -> bool:
    """Return whether a frame has next to none of the echo that a neighbour has where both are observed."""
    own = int(np.count_nonzero(frame > NO_ECHO_DBZ))
    echo = neighbour > NO_ECHO_DBZ
    if own >= SUDDEN_SHARE * np.count_nonzero(echo):  # which needs no look at what was observed
        return False
    return int(np.count_nonzero(echo & ~np.isnan(frame))) >= max(SUDDEN_CELLS, own / SUDDEN_SHARE)


def _near(by_time: Mapping[datetime, Array], nominal: datetime, step: timedelta) -> datetime | None:
    """Return the time that stands for a nominal one, ``None`` if there is none."""
    nearest = min(by_time, key=lambda time: abs(time - nominal))
    return nearest if abs(nearest - nominal) <= TOLERANCE_STEPS * step else None


def _too_few(length: int, history: int, missing: datetime) -> str:
    have = "the newest frame alone" if length == 1 else f"the newest {length} frames"
    return f"made from {have} instead of {history}, as that of {missing:%Y-%m-%dT%H:%MZ} is missing"
