"""Rainfields 3 accumulations of the Bureau of Meteorology (Australia): netCDF with a start and an end time.

Source: the files' own metadata (CF-1.7, ``source = "rainfields 3..."``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.readers import hdf5, netcdf
from nowcast.readers.netcdf import NetCDF
from nowcast.readers.netcdf_times import decode_times
from nowcast.readers.packing import unpack
from nowcast.readers.placement import place
from nowcast.readers.source import Limits, Source


def recognises(source: Source) -> bool:
    """Return whether a netCDF file was written by Rainfields and holds an accumulation."""
    if not netcdf.is_container(source):
        return False
    with hdf5.guarded(source, "a netCDF file"), netcdf.opened(source, Limits()) as file:
        is_rainfields = file.text("source").lower().startswith("rainfields")
        return is_rainfields and {"precipitation", "start_time", "valid_time"} <= file.variables.keys()


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the file's accumulation [mm]; its time is the end of its interval.

    Raises:
        RefusedProduct: If the unit is not that of an amount, or the field is no single frame.
        UnreadableFile: If the file is damaged.
        TooLarge: If it exceeds the limits.
    """
    with hdf5.guarded(source, "a Rainfields accumulation"), netcdf.opened(source, limits) as file:
        frame = _frame(file, limits)
    yield frame


def _frame(file: NetCDF, limits: Limits) -> RawFrame:
    variable = file.variables["precipitation"]
    if variable.text("units") not in ("kg m-2", "mm"):
        raise RefusedProduct(f"expected precipitation in kg m-2 or mm, got {variable.text('units')!r}")
    if len(variable.shape) != 2:
        raise RefusedProduct(f"expected one field of precipitation, got shape {variable.shape}")
    starts, ends = (decode_times(file.variables[key]) for key in ("start_time", "valid_time"))
    if len(starts) != 1 or len(ends) != 1:
        raise RefusedProduct(f"expected one interval, got {len(starts)} starts and {len(ends)} ends")
    interval = (ends[0] - starts[0]).total_seconds() / 60.0
    if interval <= 0:
        raise UnreadableFile(f"the accumulation starts {-interval:g} minutes after its end")
    placement = place(file, variable, limits)
    scale, offset = variable.scaling
    values = unpack(
        np.array(
            placement.orient(variable.fetch((slice(None), slice(None))), variable.dimensions), order="C"
        ),
        Quantity.ACRR,
        gain=scale,
        offset=offset,
        missing=variable.missing_codes,
    )
    notes: dict[str, str | float | int] = {"product": file.text("title")[:200]}
    station = file.text("station_name") or "unnamed station"
    return RawFrame(
        values, Quantity.ACRR, ends[0], placement.grid, interval, f"BoM Rainfields {station}"[:120], notes
    )
