"""netCDF files after the CF conventions: rain rate, accumulation or reflectivity, one or many times.

A file is read only where it says what its numbers are. Where units, interval or place are left open it is
refused with the reason: a wrong guess would be a wrong forecast. Source: CF Conventions 1.11, sections 3.1
(units), 3.3 (standard names), 4.4 (time), 7.1 (bounds), 7.3 (cell methods).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.readers import hdf5, netcdf
from nowcast.readers.netcdf import NetCDF, Variable
from nowcast.readers.netcdf_times import decode_times, regular_step_minutes
from nowcast.readers.packing import unpack
from nowcast.readers.placement import RADOLAN_PLANE, Placement, place
from nowcast.readers.source import Limits, Source

#: Units of the three quantities in lower case without spaces, with the factor to dBZ, mm/h and mm.
UNITS: Mapping[str, tuple[Quantity, float]] = {
    "dbz": (Quantity.DBZH, 1.0),
    **dict.fromkeys(
        ("mm/h", "mmh-1", "mm/hr", "mmhr-1", "mmh^-1", "mm/hour", "kgm-2h-1", "kgm-2hr-1"),
        (Quantity.RATE, 1.0),
    ),
    **dict.fromkeys(("mms-1", "mm/s", "kgm-2s-1", "kg/m2/s", "kgm^-2s^-1"), (Quantity.RATE, 3600.0)),
    **dict.fromkeys(("ms-1", "m/s", "ms^-1"), (Quantity.RATE, 3.6e6)),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "kgm-2", "kg/m2", "kgm^-2"), (Quantity.ACRR, 1.0)),
    "cm": (Quantity.ACRR, 10.0),
    "m": (Quantity.ACRR, 1000.0),
}

#: Words one of which a variable's names must hold to be precipitation, and those that make it something else.
WANTED_WORDS = ("rain", "precip", "reflectivity", "dbz")
OTHER_WORDS = (
    "terrain",
    "quality",
    "error",
    "uncertain",
    "probab",
    "deviation",
    "height",
    "velocity",
    "mask",
    "flag",
    "count",
)

#: Which quantity is read where a file offers several: reflectivity needs no Z-R relation.
PREFERENCE = (Quantity.DBZH, Quantity.RATE, Quantity.ACRR)

#: RADOLAN products that are written to netCDF without their units: quantity and interval in minutes (DWD,
#: RADOLAN/RADVOR-OP Beschreibung des Kompositformats, version 2.5). Believed only on the RADOLAN grid.
RADOLAN_PRODUCTS = {"RY": (Quantity.ACRR, 5.0)}

#: Attributes in use that give the length of an accumulation, with the minutes of their unit.
INTERVAL_ATTRIBUTES = {"accum_time_h": 60.0}

#: Variables over time that say whether there was anything to grid: 0 = no radar file, nothing was observed.
PRESENCE_FLAGS = ("isfile",)

_SUM_INTERVAL = re.compile(
    r"time\s*:\s*sum\s*\(\s*interval\s*:\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*\)", re.IGNORECASE
)
_MINUTES = {"s": 1 / 60, "second": 1 / 60, "min": 1.0, "minute": 1.0, "h": 60.0, "hr": 60.0, "hour": 60.0}


@dataclass(frozen=True)
class _Field:
    """The precipitation variable of a file: what its numbers are and the factor to the quantity's unit."""

    variable: Variable
    quantity: Quantity
    factor: float
    placement: Placement


@dataclass(frozen=True)
class _Times:
    """Nominal times in the file's order, their dimension if they have one, and an accumulation's interval."""

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
        has_scales = any(any(variable.dimensions) for variable in file.variables.values())
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
        field = _field(file, limits)
        _refuse_forecasts(file, field.variable)
        times = _times(file, field)
        order = sorted(range(len(times.moments)), key=times.moments.__getitem__)
        for i in order:
            yield _frame(file, field, times, i)


def _field(file: NetCDF, limits: Limits) -> _Field:
    candidates: list[tuple[Variable, Quantity, float]] = []
    for variable in file.variables.values():
        known = UNITS.get(variable.text("units").replace(" ", "").lower())
        if known is not None and len(variable.shape) >= 2 and _sounds_like_precipitation(variable):
            candidates.append((variable, *known))
    for quantity in PREFERENCE:
        of_kind = [candidate for candidate in candidates if candidate[1] is quantity]
        if len(of_kind) > 1:
            raise RefusedProduct(
                f"several variables may be the precipitation: {[found[0].name for found in of_kind]}"
            )
        if of_kind:
            return _Field(*of_kind[0], place(file, of_kind[0][0], limits))

    for product, (quantity, _) in RADOLAN_PRODUCTS.items():
        unlabelled = file.variables.get(product)
        if unlabelled is not None and len(unlabelled.shape) >= 2 and not unlabelled.text("units"):
            placement = place(file, unlabelled, limits)
            if placement.note.startswith(RADOLAN_PLANE):
                return _Field(unlabelled, quantity, 1.0, placement)
    raise RefusedProduct(_why_nothing(file))


def _sounds_like_precipitation(variable: Variable) -> bool:
    names = " ".join((variable.name, variable.text("standard_name"), variable.text("long_name"))).lower()
    return any(word in names for word in WANTED_WORDS) and not any(word in names for word in OTHER_WORDS)


def _why_nothing(file: NetCDF) -> str:
    images = [variable for variable in file.variables.values() if len(variable.shape) >= 2]
    for variable in images:
        if _sounds_like_precipitation(variable):
            units, stated = variable.text("units"), "states no unit, so it may be any"
            if units:
                stated = f"states the unit {units!r}, which is no known"
            return f"variable {variable.name!r} {stated} rate, amount or reflectivity; nothing is guessed"
    fields = ", ".join(image.name for image in images)[:200]
    return f"holds no precipitation; its fields are {fields or 'none'}"


def _refuse_forecasts(file: NetCDF, field: Variable) -> None:
    attached = {*field.dimensions, *field.text("coordinates").split()}
    for variable in file.variables.values():
        is_lead = variable.text("standard_name") == "forecast_period"
        if is_lead and variable.name in attached and np.any(variable.coordinate() > 0):
            raise RefusedProduct(f"{field.name!r} holds forecasts, by its coordinate {variable.name!r}")


def _times(file: NetCDF, field: _Field) -> _Times:
    variable = _time_variable(file, field.variable)
    if variable is None:
        raise UnreadableFile(f"variable {field.variable.name!r} has no time")
    moments = decode_times(variable)
    if len(set(moments)) < len(moments):
        raise UnreadableFile("holds two fields of one time")
    dimension = variable.dimensions[0] if variable.dimensions else ""
    step = regular_step_minutes(moments)
    if field.quantity is not Quantity.ACRR:
        return _Times(moments, dimension, step, "")
    bounds = file.variables.get(variable.text("bounds"))
    if bounds is not None:
        edges = decode_times(bounds, like=variable)
        starts, ends = edges[::2], edges[1::2]
        lengths = {(end - start).total_seconds() / 60.0 for start, end in zip(starts, ends, strict=True)}
        if len(ends) != len(moments) or len(lengths) != 1:
            raise RefusedProduct(f"the bounds of its times span {sorted(lengths)[:5]} minutes")
        return _Times(ends, dimension, lengths.pop(), f"bounds of {variable.name!r}")
    return _Times(moments, dimension, *_stated_interval(field, step))


def _stated_interval(field: _Field, step: float | None) -> tuple[float, str]:
    """Return an accumulation's interval in minutes and how it was found; every statement must agree."""
    found: dict[str, float] = {}
    cell_methods = _SUM_INTERVAL.search(field.variable.text("cell_methods"))
    if cell_methods and (unit := _MINUTES.get(cell_methods[2].lower().removesuffix("s") or "s")):
        found["cell_methods"] = float(cell_methods[1]) * unit
    for attribute, unit in INTERVAL_ATTRIBUTES.items():
        if len(numbers := field.variable.numbers(attribute)) == 1:
            found[f"attribute {attribute}"] = numbers[0] * unit
    if field.variable.name in RADOLAN_PRODUCTS and field.placement.note.startswith(RADOLAN_PLANE):
        found[f"product RADOLAN {field.variable.name}"] = RADOLAN_PRODUCTS[field.variable.name][1]
    if step is not None:
        found["step between the times"] = step
    if not found or max(found.values()) - min(found.values()) > 0.01:
        said = ", ".join(f"{how}: {minutes:g} minutes" for how, minutes in found.items())
        raise RefusedProduct(f"the interval of {field.variable.name!r} stays open ({said or 'not stated'})")
    return next(iter(found.values())), ", ".join(found)


def _time_variable(file: NetCDF, field: Variable) -> Variable | None:
    """Return the time of a field: along one of its dimensions, else a single one for all of it."""

    def is_time(variable: Variable) -> bool:
        return " since " in variable.text("units") and variable.text("standard_name") in ("", "time")

    along = [
        variable
        for variable in file.variables.values()
        if len(variable.dimensions) == 1 and variable.dimensions[0] in field.dimensions and is_time(variable)
    ]
    attached = [file.variables[name] for name in field.text("coordinates").split() if name in file.variables]
    single = [
        variable
        for variable in [*attached, *file.variables.values()]
        if variable.shape == () and is_time(variable)
    ]
    named = [variable for variable in along + single if variable.text("standard_name") == "time"]
    return next(iter(named + along + single), None)


def _frame(file: NetCDF, field: _Field, times: _Times, i: int) -> RawFrame:
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
    values = _unpacked(stored, variable, field)
    for flag in PRESENCE_FLAGS:
        presence = file.variables.get(flag)
        if presence is not None and presence.dimensions == (times.dimension,) and presence.fetch((i,)) == 0:
            values[...] = np.nan
    notes: dict[str, str | float | int] = {"variable": variable.name}
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
        _title(file, field),
        notes,
    )


def _plane(placement: Placement) -> tuple[str, str]:
    return placement.rows, placement.columns


def _unpacked(stored: NDArray[np.generic], variable: Variable, field: _Field) -> NDArray[np.float32]:
    codes = variable.missing_codes
    if stored.dtype.kind == "i" and variable.text("_Unsigned").lower() == "true":
        stored = stored.view(stored.dtype.str.replace("i", "u"))
        codes = tuple(code % 2.0 ** (8 * stored.dtype.itemsize) for code in codes)
    scale, offset = variable.scaling
    valid = variable.numbers("valid_range")
    least = valid[:1] or variable.numbers("valid_min")
    most = valid[1:2] or variable.numbers("valid_max")
    values = unpack(
        np.array(stored, order="C"),
        field.quantity,
        gain=scale * field.factor,
        offset=offset * field.factor,
        missing=codes,
    )
    for bound, beyond in ((least, np.less), (most, np.greater)):
        if bound:
            values[beyond(stored, bound[0])] = np.nan
    return values


def _title(file: NetCDF, field: _Field) -> str:
    if field.placement.note.startswith(RADOLAN_PLANE) and field.variable.name in RADOLAN_PRODUCTS:
        return f"DWD RADOLAN {field.variable.name}"
    title = file.text("title")
    if title.lower() in ("", "unknown", "none", "untitled"):
        title = f"{file.text('institution') or 'netCDF'} {field.variable.name}"
    return title[:120]
