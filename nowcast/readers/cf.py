"""netCDF files after the CF conventions: rain rate, accumulation or reflectivity, one or many times.

A file is read only where it says what its numbers are. Where units, interval or place are left open it is
refused with the reason: a wrong guess would be a wrong forecast. Source: CF Conventions 1.11, sections 3.1
(units), 3.3 (standard names), 4.4 (time), 7.1 (bounds), 7.3 (cell methods).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.readers import hdf5, netcdf
from nowcast.readers.cf_fields import RADOLAN_PRODUCTS, Field, find_field
from nowcast.readers.netcdf import Variable
from nowcast.readers.netcdf_forecasts import refuse_forecast
from nowcast.readers.netcdf_packing import unpacked
from nowcast.readers.netcdf_times import decode_times, is_time, regular_step_minutes
from nowcast.readers.placement import Placement
from nowcast.readers.source import Limits, Source

#: Attributes in use that give the length of an accumulation, with the minutes of their unit.
INTERVAL_ATTRIBUTES = {"accum_time_h": 60.0}

#: Variables over time that say whether there was anything to grid: 0 = no radar file, nothing was observed.
PRESENCE_FLAGS = ("isfile",)

_SUM_INTERVAL = re.compile(
    r"time\s*:\s*sum\s*\(\s*interval\s*:\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*\)", re.IGNORECASE
)
_MINUTES = {"s": 1 / 60, "second": 1 / 60, "min": 1.0, "minute": 1.0, "h": 60.0, "hr": 60.0, "hour": 60.0}


@dataclass(frozen=True)
class _Times:
    """Nominal times in the file's order, where they come from, and an accumulation's interval."""

    variable: Variable | None
    moments: list[datetime]
    dimension: str
    interval_minutes: float | None
    interval_source: str


def recognises(source: Source) -> bool:
    """Return whether the content is netCDF: classic, or HDF5 with dimension scales or a ``Conventions``."""
    if not netcdf.is_container(source):
        return False
    with hdf5.guarded(source, "a netCDF file"), netcdf.opened(source, Limits()) as file:
        is_hdf5 = source.head.startswith(hdf5.MAGIC)
        variables = [variable for view in (file, *file.groups) for variable in view.variables.values()]
        has_scales = any(any(variable.dimensions) for variable in variables)
        return not is_hdf5 or has_scales or "Conventions" in file.attributes


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the frames of a file in the order of their times, one array in memory at a time.

    ``attributes["interval_source"]`` says how an accumulation's interval was found.

    Raises:
        RefusedProduct: If no variable is precipitation, several are, the unit is missing, it is a forecast,
            or an accumulation's interval stays open.
        UnreadableFile: If the file is damaged, or does not say where its cells lie.
        TooLarge: If it exceeds the limits.
    """
    with hdf5.guarded(source, "a CF netCDF file"), netcdf.opened(source, limits) as file:
        field = find_field(file, limits, source.declared)
        times = _times(field, source)
        refuse_forecast(field.file, field.variable, times.moments, times.variable)
        order = sorted(range(len(times.moments)), key=times.moments.__getitem__)
        for i in order:
            yield _frame(field, times, i)


def _times(field: Field, source: Source) -> _Times:
    variable = _time_variable(field)
    if variable is None:
        moment = source.declared.time_in(source.name)
        if moment is None:
            raise UnreadableFile(f"variable {field.variable.name!r} has no time")
        moments, dimension = [moment], ""
    else:
        moments, dimension = decode_times(variable), variable.dimensions[0] if variable.dimensions else ""
        if dimension and len(moments) == 1 and dimension not in field.variable.dimensions:
            dimension = ""  # characters, or a time of its own for all of the field
    if len(set(moments)) < len(moments):
        raise UnreadableFile("holds two fields of one time")
    step = regular_step_minutes(moments)
    if field.quantity is not Quantity.ACRR:
        return _Times(variable, moments, dimension, step, "")
    bounds = field.file.variables.get(variable.text("bounds")) if variable else None
    if bounds is not None:
        edges = decode_times(bounds, like=variable)
        starts, ends = edges[::2], edges[1::2]
        lengths = {(end - start).total_seconds() / 60.0 for start, end in zip(starts, ends, strict=True)}
        if len(ends) != len(moments) or len(lengths) != 1:
            raise RefusedProduct(f"the bounds of its times span {sorted(lengths)[:5]} minutes")
        return _Times(
            variable, ends, dimension, lengths.pop(), f"bounds of {variable.name!r}" if variable else ""
        )
    return _Times(variable, moments, dimension, *_stated_interval(field, step, source.declared.step_minutes))


def _stated_interval(field: Field, step: float | None, declared: float | None) -> tuple[float, str]:
    """Return an accumulation's interval in minutes and how it was found; every statement must agree."""
    found: dict[str, float] = {}
    cell_methods = _SUM_INTERVAL.search(field.variable.text("cell_methods"))
    if cell_methods and (unit := _MINUTES.get(cell_methods[2].lower().removesuffix("s") or "s")):
        found["cell_methods"] = float(cell_methods[1]) * unit
    for attribute, unit in INTERVAL_ATTRIBUTES.items():
        if len(numbers := field.variable.numbers(attribute)) == 1:
            found[f"attribute {attribute}"] = numbers[0] * unit
    if field.is_radolan:
        found[f"product RADOLAN {field.variable.name}"] = RADOLAN_PRODUCTS[field.variable.name][1]
    if declared is not None:
        found["declared"] = declared
    if step is not None:
        found["step between the times"] = step
    if not found or max(found.values()) - min(found.values()) > 0.01:
        said = ", ".join(f"{how}: {minutes:g} minutes" for how, minutes in found.items())
        raise RefusedProduct(f"the interval of {field.variable.name!r} stays open ({said or 'not stated'})")
    return next(iter(found.values())), ", ".join(found)


def _time_variable(field: Field) -> Variable | None:
    """Return the time of a field: along one of its dimensions, else a single one for all of it."""
    variables, dimensions = field.file.variables, field.variable.dimensions
    times = [variable for variable in variables.values() if is_time(variable)]
    along, single = [], []
    for variable in times:
        axes = variable.dimensions if variable.is_numeric else _without_letters(variable)
        if len(axes) == 1 and axes[0] in dimensions:
            along.append(variable)
        elif axes == () or variable.shape == (1,):
            single.append(variable)
    attached = field.variable.text("coordinates").split()
    single.sort(key=lambda variable: variable.name not in attached)
    named = [variable for variable in along + single if variable.text("standard_name") == "time"]
    return next(iter(named + along + single), None)


def _without_letters(variable: Variable) -> tuple[str, ...]:
    """Return the dimensions of a variable of text without the one its characters lie along."""
    is_letters = variable.dtype.kind == "S" and variable.dtype.itemsize == 1
    return variable.dimensions[:-1] if is_letters else variable.dimensions


def _frame(field: Field, times: _Times, i: int) -> RawFrame:
    variable, placement = field.variable, field.placement
    index: list[int | slice] = []
    for name, length in zip(variable.dimensions, variable.shape, strict=True):
        if name in (placement.rows, placement.columns):
            index.append(slice(None))
        elif name == times.dimension:
            index.append(i)
        elif length == 1:
            index.append(0)
        else:
            raise RefusedProduct(f"{variable.name!r} has {length} levels along {name!r}; expected one")
    stored = placement.orient(
        variable.fetch(tuple(index)), tuple(name for name in variable.dimensions if name in _plane(placement))
    )
    values = unpacked(stored, variable, field.quantity, factor=field.factor)
    for flag in PRESENCE_FLAGS:
        presence = field.file.variables.get(flag)
        if presence is not None and presence.dimensions == (times.dimension,) and presence.fetch((i,)) == 0:
            values[...] = np.nan
    name = f"{field.file.path}/{variable.name}".removeprefix("/")
    notes: dict[str, str | float | int] = {"variable": name}
    if times.interval_source:
        notes["interval_source"] = times.interval_source
    if placement.note:
        notes["plane"] = placement.note
    return RawFrame(
        values,
        field.quantity,
        times.moments[i],
        placement.grid,
        times.interval_minutes,
        _title(field),
        notes,
    )


def _plane(placement: Placement) -> tuple[str, str]:
    return placement.rows, placement.columns


def _title(field: Field) -> str:
    if field.is_radolan:
        return f"DWD RADOLAN {field.variable.name}"
    title = field.file.text("title")
    if title.lower() in ("", "unknown", "none", "untitled"):
        title = f"{field.file.text('institution') or 'netCDF'} {field.variable.name}"
    return title[:120]
