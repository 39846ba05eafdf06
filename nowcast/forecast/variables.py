"""What a forecast file says besides its fields: the method behind each, and the motion of the rain."""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from nowcast.disk import netcdf
from nowcast.frame.grid import METRES_PER_DEGREE, Grid

#: Cells between two motion vectors in a file; rain moves as one over some ten kilometres.
MOTION_SPACING = 16


def put_methods(file: h5py.File, methods: Sequence[str]) -> None:
    """Add ``method(lead_time)``: a CF flag, whose meanings are the names of methods."""
    names = list(dict.fromkeys(methods))
    netcdf.put_variable(
        file,
        "method",
        np.array([names.index(name) for name in methods], np.int8),
        ("lead_time",),
        {
            "long_name": "method that made the field",
            "flag_values": np.arange(len(names), dtype=np.int8),
            "flag_meanings": " ".join(names),
        },
    )


def methods_in(file: h5py.File) -> tuple[str, ...]:
    """Return the method of each lead, none of a file from before it told."""
    if "method" not in file:
        return ()
    names = netcdf.attributes_of(file["method"])["flag_meanings"].split()
    return tuple(names[flag] for flag in file["method"][()])


def put_motion(file: h5py.File, motion: NDArray[np.float32], grid: Grid, step_minutes: int) -> None:
    """Add ``motion_x`` and ``motion_y`` [m/s] at every :data:`MOTION_SPACING`-th cell."""
    rows = slice(min(MOTION_SPACING, grid.ny) // 2, None, MOTION_SPACING)
    columns = slice(min(MOTION_SPACING, grid.nx) // 2, None, MOTION_SPACING)
    for name, values in (("y", grid.y[rows]), ("x", grid.x[columns])):
        plain = netcdf.attributes_of(file[name])
        netcdf.put_variable(file, f"{name}_motion", values, (f"{name}_motion",), plain)
    height, width = _cell_metres(grid, grid.y[rows])
    seconds = 60.0 * step_minutes
    southward, eastward = motion[0, rows, columns], motion[1, rows, columns]
    for name, towards, velocity in (
        ("motion_x", "increasing x (eastward on the grid)", eastward * width / seconds),
        ("motion_y", "increasing y (northward on the grid)", -southward * height / seconds),
    ):
        netcdf.put_variable(
            file,
            name,
            velocity.astype(np.float32),
            ("y_motion", "x_motion"),
            {
                "long_name": f"velocity of precipitation, positive towards {towards}",
                "units": "m s-1",
                "grid_mapping": "crs",
            },
            compression="gzip",
            shuffle=True,
        )


def _cell_metres(grid: Grid, y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return a cell's height and, for each row ``(y, 1)``, its width in metres; on the ground for degrees."""
    if not grid.crs.is_geographic:
        factor = float(grid.crs.axis_info[0].unit_conversion_factor)
        return grid.dy * factor, np.full((len(y), 1), grid.dx * factor)
    return grid.dy * METRES_PER_DEGREE, grid.dx * METRES_PER_DEGREE * np.cos(np.radians(y))[:, None]
