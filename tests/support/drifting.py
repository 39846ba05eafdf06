"""Radar files of rain that drifts by whole cells, so that the right forecast is known exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.simulation.odim_writer import write_odim

START = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
GRID = Grid.from_crs("EPSG:3067", nx=64, ny=48, x0=300_000, y0=6_900_000, dx=2_000, dy=2_000)
DRIFT = (1, 2)  # rows southward and columns eastward per step


def rain(index, grid=GRID):
    """Return dBZ of the frame with an index: whole numbers, -inf = no echo; nothing within 9 cells of an edge
    for 12 frames."""
    y, x = np.mgrid[: grid.ny, : grid.nx]
    row, column = 14 + DRIFT[0] * index, 14 + DRIFT[1] * index
    field = np.round(50 - 1.5 * np.hypot(y - row, x - column) ** 1.5)
    return np.where(field < 5, -np.inf, field).astype(np.float32)


def raw_frame(index, *, grid=GRID, values=None, minutes=5, quantity=Quantity.DBZH, interval=None):
    """Return the raw frame ``index`` steps after the start."""
    return RawFrame(
        rain(index, grid) if values is None else np.asarray(values, np.float32),
        quantity,
        START + timedelta(minutes=minutes * index),
        grid,
        interval,
        "test radar",
    )


def write_frames(folder: Path, indices, **facts):
    """Write an ODIM_H5 file for each index and return their paths."""
    paths = []
    for index in indices:
        paths.append(folder / f"frame_{index:03d}.h5")
        write_odim(paths[-1], raw_frame(index, **facts))
    return paths
