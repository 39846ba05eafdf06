"""The cube: the newest frame and the frames before it, as forecasting methods take them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import xarray as xr

from nowcast.archive.archive import Archive
from nowcast.errors import DuplicateFrame, NotEnoughFrames, UnreadableFile, WrongGrid
from nowcast.frame.domain import Domain
from nowcast.frame.frame import REFLECTIVITY_ATTRIBUTES, frame_array, grid_of, time_of
from nowcast.motion.flow import bridge

log = logging.getLogger(__name__)

#: A frame this far from its nominal time, as a fraction of a step, still stands for it.
TOLERANCE_STEPS = 0.25


def load_cube(archive: Archive, domain: Domain, issue_time: datetime) -> xr.DataArray:
    """Return the cube of a domain whose newest frame is that of ``issue_time``; see :func:`build_cube`.

    An older frame whose file is damaged counts as missing.

    Raises:
        NoFrame: If the archive has no frame of ``issue_time``.
        UnreadableFile: If the file of that frame is damaged.
    """
    frames = [archive.load(domain.name, issue_time)]
    span = timedelta(minutes=domain.step_minutes * (domain.history + TOLERANCE_STEPS))
    for time in archive.times(domain.name, issue_time - span, issue_time):
        if time == issue_time:
            continue
        try:
            frames.append(archive.load(domain.name, time))
        except UnreadableFile as error:
            log.warning("a frame of %s is left out of the history: %s", domain.name, error)
    cube = build_cube(frames, step_minutes=domain.step_minutes, history=domain.history)
    cube.attrs["domain"] = domain.name  # whose scores say which method is best
    return cube


def build_cube(frames: Sequence[xr.DataArray], *, step_minutes: int, history: int) -> xr.DataArray:
    """Return ``reflectivity(time, y, x)`` [dBZ]: the newest frame and those before it, ``history`` at most.

    Frames may be given in any order, and the same frame twice counts once. Frames that stand for no step back
    from the newest, or for more steps than needed, are left out. One missing frame with neighbours on both
    sides is bridged along their motion and marked in the coordinate ``bridged(time)``. What lies before a
    second gap, or a wider one, is cut off, and ``attrs["degraded_reason"]`` says so; else that is empty. The
    time between two frames stands in ``attrs["step_minutes"]``.

    Raises:
        NotEnoughFrames: If there is no frame at all.
        WrongGrid: If the frames lie on different grids.
        DuplicateFrame: If two different frames have the same time.
    """
    found = _by_time(frames)
    if not found:
        raise NotEnoughFrames("a forecast needs at least one frame, got none")
    newest = max(found)
    step = timedelta(minutes=step_minutes)
    chosen, bridged = [found[newest]], [False]
    degraded_reason = ""
    while len(chosen) < history:
        nominal = newest - len(chosen) * step
        frame, before = _near(found, nominal, step), _near(found, nominal - step, step)
        if frame is not None:
            chosen.append(frame)
        elif before is not None and not any(bridged):
            values = bridge(before.values, chosen[-1].values)
            chosen.append(frame_array(values, grid_of(before), nominal))
        else:
            degraded_reason = _shortfall(len(chosen), history, nominal)
            break
        bridged.append(frame is None)
    cube = _stacked(chosen[::-1], bridged[::-1])
    cube.attrs |= {"degraded_reason": degraded_reason, "step_minutes": step_minutes}
    return cube


def _by_time(frames: Sequence[xr.DataArray]) -> dict[datetime, xr.DataArray]:
    found: dict[datetime, xr.DataArray] = {}
    for frame in frames:
        time, first = time_of(frame), next(iter(found.values()), frame)
        if not grid_of(first).matches(grid_of(frame)):
            raise WrongGrid(
                f"all frames of a cube lie on one grid: expected {grid_of(first)} as at "
                f"{time_of(first):%Y-%m-%dT%H:%MZ}, got {grid_of(frame)} at {time:%Y-%m-%dT%H:%MZ}"
            )
        known = found.setdefault(time, frame)
        if known is not frame and not np.array_equal(known.values, frame.values, equal_nan=True):
            raise DuplicateFrame(f"expected one frame of {time:%Y-%m-%dT%H:%M:%SZ}, got two that differ")
    return found


def _near(found: dict[datetime, xr.DataArray], nominal: datetime, step: timedelta) -> xr.DataArray | None:
    nearest = min(found, key=lambda time: abs(time - nominal))
    return found[nearest] if abs(nearest - nominal) <= TOLERANCE_STEPS * step else None


def _shortfall(length: int, history: int, missing: datetime) -> str:
    have = "the newest frame alone" if length == 1 else f"the newest {length} frames"
    return f"made from {have} instead of {history}, as that of {missing:%Y-%m-%dT%H:%MZ} is missing"


def _stacked(frames: list[xr.DataArray], bridged: list[bool]) -> xr.DataArray:
    newest = frames[-1]
    kept = {key: newest.attrs[key] for key in ("source", "zr_a", "zr_b") if key in newest.attrs}
    return xr.DataArray(
        np.stack([frame.values for frame in frames]).astype(np.float32, copy=False),
        dims=("time", "y", "x"),
        coords={
            "time": [frame["time"].values for frame in frames],
            "bridged": ("time", bridged),
            **{name: newest[name].variable for name in ("y", "x", "crs")},
        },
        name="reflectivity",
        attrs={**REFLECTIVITY_ATTRIBUTES, **kept},
    )
