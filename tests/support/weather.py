"""Small simulated radar for the workers' tests: frames as files, as an agency would send them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.frame.domain import Domain
from nowcast.frame.frame import RawFrame
from nowcast.frame.grid import Grid
from nowcast.methods.cube import Cube
from nowcast.settings import Settings
from nowcast.simulation import Storm
from nowcast.simulation.odim_writer import write_odim

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
STEP = timedelta(minutes=5)
GRID = Grid.from_crs(
    "+proj=laea +lat_0=52 +lon_0=5 +ellps=WGS84", nx=96, ny=80, x0=-95e3, y0=79e3, dx=2000, dy=2000
)
DOMAIN = Domain(name="sim", step_minutes=5, leads=3, backfill_minutes=60, model="extrapolation")


def settings(data_dir: Path, **changes: Any) -> Settings:
    """Settings of a service with the one domain ``sim``."""
    return Settings(data_dir=data_dir, domains={"sim": replace(DOMAIN, **changes)})


@lru_cache(maxsize=8)
def raw_frames(count: int, *, seed: int = 1, start: datetime = START) -> tuple[RawFrame, ...]:
    """The first frames of a storm on a small grid."""
    return tuple(Storm(seed=seed, grid=GRID, start=start).frames(count))


def drop(raw: RawFrame, inbox: Path, name: str = "", **changes: Any) -> Path:
    """Write a frame into an inbox as an ODIM_H5 file and return its path."""
    path = inbox / (name or f"{raw.time:%Y%m%dT%H%M}.h5")
    write_odim(path, replace(raw, **changes))
    return path


def filled(raw: RawFrame, value: float) -> RawFrame:
    """The same frame with one value everywhere."""
    return replace(raw, values=np.full(raw.grid.shape, value, np.float32))


def newest(cube: Cube, frames: int) -> Cube:
    """The newest frames of a cube alone."""
    return replace(
        cube, values=cube.values[-frames:], times=cube.times[-frames:], bridged=cube.bridged[-frames:]
    )
