"""Cubes of made-up frames."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from nowcast.frame.frame import frame_array
from nowcast.frame.grid import Grid
from nowcast.methods.cube import Cube, build_cube

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def cube_of(frames: list[NDArray[np.float32]]) -> Cube:
    """A cube of frames five minutes apart, the last at noon."""
    ny, nx = frames[0].shape
    grid = Grid.from_crs("EPSG:3035", nx=nx, ny=ny, x0=4e6, y0=3e6, dx=1000, dy=1000)
    dated = [
        frame_array(values.astype(np.float32), grid, NOON - timedelta(minutes=5 * back))
        for back, values in zip(range(len(frames) - 1, -1, -1), frames, strict=True)
    ]
    return build_cube(dated, step_minutes=5, history=len(frames))
