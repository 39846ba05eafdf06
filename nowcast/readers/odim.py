"""ODIM_H5 composites: OPERA's and the national ones written to its data model.

Source: Michelson et al., EUMETNET OPERA weather radar information model for implementation with the HDF5 file
format, version 2.4 (2021).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import h5py
import numpy as np
from numpy.typing import NDArray

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers import hdf5
from nowcast.readers.forecasts import WORDS
from nowcast.readers.packing import unpack
from nowcast.readers.projections import (
    EARTH_PARAMETERS,
    in_metres,
    proj_parameters,
    proj_string,
    to_plane,
    turn_of,
    without_files,
)
from nowcast.readers.source import Limits, Source, parse_time

#: Objects with cartesian horizontal fields; all others are polar, vertical or no images.
CARTESIAN_OBJECTS = ("COMP", "IMAGE")

#: Products of a cartesian object that are vertical sections or no maps.
VERTICAL_PRODUCTS = ("XSEC", "VSP", "HSP", "RHI", "VP", "SCAN", "AZIM")

#: Corners by their names in ``where``: lower or upper, left or right.
CORNERS = ("LL", "UL", "UR", "LR")

#: Spellings of ``how/simulated`` by which a file says that it was observed.
OBSERVED = ("", "0", "0.0", "f", "false", "n", "no", "none", "off")

#: How long after its nominal time [min] scanning for an observation may go on: ODYSSEY's window reaches from
#: 10 minutes before to 5 after. For a window that lies mostly behind its nominal time, and for any.
LONGEST_SCAN_MINUTES, LONGEST_WINDOW_MINUTES = 5.0, 15.0

#: A scan's start this much [s] after the nominal time is delay.
LONGEST_DELAY_SECONDS = 60.0

#: Which quantity is read where a file offers several: reflectivity needs no Z-R relation.
PREFERENCE = (Quantity.DBZH, Quantity.RATE, Quantity.ACRR, Quantity.TH)

#: By how many cells corners may lie too far apart: some are centres of cells, some a cell too far.
CORNER_TOLERANCE = 1.1

#: Earths maps are drawn on by software that writes another one.
OTHER_EARTHS = ("+R=6371000", "+R=6370997", "+R=6378137", "+ellps=WGS84")

#: Originating centres (WMO common code table C-11) by the ORG identifier of ``what/source``.
CENTRES = {
    "74": "Met Office",
    "78": "DWD",
    "80": "DPC",
    "82": "SMHI",
    "85": "Meteo-France",
    "86": "FMI",
    "88": "MET Norway",
    "94": "DMI",
    "99": "KNMI",
    "215": "MeteoSwiss",
    "224": "ZAMG",
    "227": "RMI",
    "247": "OPERA",
}


@dataclass(frozen=True)
class _Field:
    """One data group with the groups above it, innermost first: an attribute is looked up in that order."""

    levels: tuple[h5py.Group, ...]
    data: h5py.Dataset

    def text(self, group: str, name: str) -> str | None:
        for level in self.levels:
            holder = hdf5.child_group(level, group)
            if holder is not None and (value := hdf5.text(holder, name)) is not None:
                return value
        return None

    def number(self, group: str, name: str) -> float | None:
        for level in self.levels:
            holder = hdf5.child_group(level, group)
            if holder is not None and (value := hdf5.number(holder, name)) is not None:
                return value
        return None

    def required(self, group: str, name: str) -> float:
        value = self.number(group, name)
        if value is None:
            raise UnreadableFile(f"{self.data.name} has no attribute {group}/{name}")
        return value


def recognises(source: Source) -> bool:
    """Return whether an HDF5 file follows the ODIM_H5 model, polar data included."""
    if not source.head.startswith(hdf5.MAGIC):
        return False
    with hdf5.guarded(source, "an HDF5 file"), hdf5.opened(source) as file:
        what = hdf5.child_group(file, "what")
        if what is None or hdf5.text(what, "object") is None:
            return False
        declared = (hdf5.text(file, "Conventions"), hdf5.text(what, "version"))
        return any((name or "").upper().startswith(("ODIM_H5", "H5RAD")) for name in declared)


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the file's one precipitation field.

    The first dataset with reflectivity is taken, else the first with rain rate, then accumulation, then
    uncorrected reflectivity. ``undetect`` is no echo, ``nodata`` not observed. An accumulation's time is the
    end of its interval.

    Raises:
        RefusedProduct: If the file holds polar data, a forecast, or no precipitation.
        UnreadableFile: If it is damaged or contradicts itself.
        TooLarge: If it exceeds the limits.
    """
    with hdf5.guarded(source, "an ODIM_H5 composite"), hdf5.opened(source) as file:
        frame = _frame(file, limits)
    yield frame


def _frame(file: h5py.File, limits: Limits) -> RawFrame:
    what = hdf5.child_group(file, "what")
    kind = hdf5.text(what, "object")
    if kind not in CARTESIAN_OBJECTS:
        raise RefusedProduct(
            f"ODIM_H5 object {kind} is not a cartesian composite (COMP); polar volumes, scans and "
            "profiles need a product generator first"
        )
    quantity, field = _wanted(file)
    product = field.text("what", "product") or "unknown product"
    if product in VERTICAL_PRODUCTS:
        raise RefusedProduct(f"product {product} is no horizontal field")
    _refuse_forecast(quantity, field)
    grid, notes = _grid(field, limits)
    if quantity is Quantity.ACRR:
        time = _moment(field, "end")
        interval = (time - _moment(field, "start")).total_seconds() / 60.0
        if interval <= 0:
            raise UnreadableFile(f"the accumulation starts {-interval:g} minutes after its end")
    else:
        time, interval = _moment(field, ""), None

    stored = hdf5.read_image(field.data, limits)
    gain, offset = field.number("what", "gain"), field.number("what", "offset")
    nodata, undetect = field.number("what", "nodata"), field.number("what", "undetect")
    if stored.dtype.kind != "f" and None in (gain, offset, nodata, undetect):
        raise UnreadableFile(
            f"whole numbers need what/gain, offset, nodata and undetect; got {gain}, {offset}, "
            f"{nodata} and {undetect}"
        )
    values = unpack(
        stored,
        quantity,
        gain=1.0 if gain is None else gain,
        offset=0.0 if offset is None else offset,
        missing=() if nodata is None else (nodata,),
        no_echo=() if undetect is None else (undetect,),
    )
    origin = field.text("what", "source") or "unknown source"
    notes |= {"odim_source": origin[:200], "product": product, "odim_dataset": field.data.parent.name}
    for key in ("zr_a", "zr_b"):
        if (coefficient := field.number("how", key)) is not None:
            notes[f"product_{key}"] = coefficient
    title = field.text("what", "prodname") or f"{quantity} composite ({product})"
    return RawFrame(values, quantity, time, grid, interval, _title(origin, title), notes)


def _title(origin: str, product: str) -> str:
    identifiers = dict(part.strip().partition(":")[::2] for part in origin.split(","))
    agency = CENTRES.get(identifiers.get("ORG", "")) or origin.removeprefix("CMT:")
    return (product if product.startswith(agency) else f"{agency} {product}")[:120]


def _wanted(file: h5py.File) -> tuple[Quantity, _Field]:
    offered: dict[str, _Field] = {}
    for dataset_name in _numbered(file, "dataset"):
        dataset = hdf5.child_group(file, dataset_name)
        for data_name in _numbered(dataset, "data") if dataset is not None else ():
            group = hdf5.child_group(dataset, data_name)
            data = hdf5.member(group, "data") if group is not None else None
            if isinstance(data, h5py.Dataset):
                field = _Field((group, dataset, file), data)
                offered.setdefault(field.text("what", "quantity") or "nameless", field)
    for quantity in PREFERENCE:
        if quantity in offered:
            return quantity, offered[quantity]
    found = ", ".join(offered)[:200] or "no field"
    raise RefusedProduct(f"holds {found}; expected one of {', '.join(PREFERENCE)}")


def _refuse_forecast(quantity: Quantity, field: _Field) -> None:
    """Refuse a field that is called simulated or a forecast, or is valid for a time after its nominal one.

    The window from start to end belongs around or before ``what/date`` and ``time``. A sum that lies mostly
    behind it is one of rain to come; for other fields it may be the time the antennas took.

    Raises:
        RefusedProduct: If it is one.
        UnreadableFile: If a time is none.
    """
    for level in field.levels:
        for holder in _hows(level):
            for name in hdf5.names_of_attributes(holder):
                if name.lower() != "simulated":
                    continue
                said = hdf5.attribute(holder, name)
                if said is not None and str(said).strip(" \0").lower() not in OBSERVED:
                    raise RefusedProduct(
                        f"{holder.name}/{name} is {said!r}: expected an observation, got a forecast or "
                        "simulation"
                    )
    for group, name in (("what", "product"), ("what", "prodname"), ("how", "task")):
        word = WORDS.search(field.text(group, name) or "")
        if word:
            raise RefusedProduct(f"{group}/{name} says {word[0]!r}: expected an observation, got a forecast")
    if not (field.text("what", "enddate") and field.text("what", "endtime")):
        return
    nominal, end = _moment(field, ""), _moment(field, "end")
    start = _moment(field, "start") if field.text("what", "startdate") else end
    after = (end - nominal) / timedelta(minutes=1)
    mostly_after = end - nominal > nominal - start
    if start > end:
        raise UnreadableFile(
            f"the time it is valid for starts {(start - end) / timedelta(minutes=1):g} minutes after its end"
        )
    if (
        (start - nominal).total_seconds() > LONGEST_DELAY_SECONDS
        or after > LONGEST_WINDOW_MINUTES
        or (mostly_after and after > 0 and (quantity is Quantity.ACRR or after >= LONGEST_SCAN_MINUTES))
    ):
        raise RefusedProduct(
            f"is valid from {start:%H:%M:%S} to {end:%H:%M:%S}, {after:g} minutes beyond its nominal time "
            f"{nominal:%H:%M:%S}: expected an observation, got a forecast"
        )


def _hows(level: h5py.Group) -> Iterator[h5py.Group]:
    """Yield what describes how a level was made: ``how`` and the groups agencies add in it, and ``what``."""
    for name in ("how", "what"):
        holder = hdf5.child_group(level, name)
        if holder is not None:
            yield holder
            for inner in hdf5.names(holder) if name == "how" else ():
                group = hdf5.child_group(holder, inner)
                if group is not None:
                    yield group


def _numbered(group: h5py.Group, prefix: str) -> list[str]:
    """Return the members ``prefix1``, ``prefix2`` ... in the order of their numbers."""
    found = [match for name in hdf5.names(group) if (match := re.fullmatch(prefix + r"(\d{1,4})", name))]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def _moment(field: _Field, which: str) -> datetime:
    date, time = field.text("what", f"{which}date") or "", field.text("what", f"{which}time") or ""
    if not (re.fullmatch(r"\d{8}", date) and re.fullmatch(r"\d{6}", time)):
        raise UnreadableFile(
            f"expected what/{which}date YYYYMMDD and {which}time HHmmss, got {date[:9]!r} {time[:9]!r}"
        )
    return parse_time(date + time, "%Y%m%d%H%M%S", str(field.data.name))


def _grid(field: _Field, limits: Limits) -> tuple[Grid, dict[str, str | float | int]]:
    """Return the grid: cells of the size the file gives, centred between its corners."""
    rows, columns = field.required("where", "ysize"), field.required("where", "xsize")
    if (rows, columns) != field.data.shape:
        raise UnreadableFile(f"where says {rows:g} x {columns:g} cells, the data have {field.data.shape}")
    limits.check_cells(int(rows), int(columns), str(field.data.name))
    dx, dy = field.required("where", "xscale"), field.required("where", "yscale")
    if not (1e-6 < dx < math.inf and 1e-6 < dy < math.inf):
        raise UnreadableFile(f"where says a cell of {dx} x {dy}")
    names = [name for name in CORNERS if field.number("where", f"{name}_lon") is not None]
    if not {"LL", "UR"} <= set(names):
        raise UnreadableFile(f"where must give the corners LL and UR, gives {names}")
    lon, lat = (
        np.array([field.required("where", f"{name}_{axis}") for name in names]) for axis in ("lon", "lat")
    )
    spans = []
    for plane in _planes(field.text("where", "projdef") or ""):
        for unit in plane.units:
            x, y = to_plane(plane.definition, lon, lat)
            corners = _Corners.between(names, x, y, turn_of(plane.definition), columns * dx * unit)
            spans.append(f"{corners.width / dx / unit:.2f} x {corners.height / dy / unit:.2f}")
            surplus = corners.surplus(columns * dx * unit, rows * dy * unit, dx * unit, dy * unit)
            if surplus is not None and abs(surplus) <= plane.tolerance:
                grid = Grid.from_crs(
                    plane.definition,
                    nx=int(columns),
                    ny=int(rows),
                    x0=corners.x - (columns - 1) / 2 * dx * unit,
                    y0=corners.y + (rows - 1) / 2 * dy * unit,
                    dx=dx * unit,
                    dy=dy * unit,
                )
                notes: dict[str, str | float | int] = {"corner_surplus_cells": round(surplus, 3)}
                return grid, notes | ({"plane": plane.note} if plane.note else {})
    raise UnreadableFile(
        f"where says {columns:g} x {rows:g} cells of {dx:g} x {dy:g}, but its corners lie {spans[0]} cells "
        "apart"
    )


@dataclass(frozen=True)
class _Corners:
    """The rectangle between the corners a file gives: its middle, its sides, and how crooked it is."""

    x: float
    y: float
    width: float
    height: float
    crooked_x: float
    crooked_y: float

    @classmethod
    def between(
        cls,
        names: list[str],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        turn: float | None,
        width: float,
    ) -> _Corners:
        """Return the rectangle; planes that repeat have corners about ``width`` apart."""
        is_left = np.array([name[1] == "L" for name in names])
        is_lower = np.array([name[0] == "L" for name in names])
        if turn is not None:
            expected = x[is_left][0] + np.where(is_left, 0.0, width)
            x = x - turn * np.round((x - expected) / turn)
        (west, east), (south, north) = (x[is_left], x[~is_left]), (y[is_lower], y[~is_lower])
        return cls(
            x=float(west.mean() + east.mean()) / 2,
            y=float(south.mean() + north.mean()) / 2,
            width=float(east.mean() - west.mean()),
            height=float(north.mean() - south.mean()),
            crooked_x=float(max(np.ptp(west), np.ptp(east))),
            crooked_y=float(max(np.ptp(south), np.ptp(north))),
        )

    def surplus(self, width: float, height: float, dx: float, dy: float) -> float | None:
        """Return by how many cells the corners lie too far apart, ``None`` if they belong to no such grid.

        The corners should be the outer edges of the corner cells. Some files give their
        centres (surplus -1), some lie a cell too far apart (1); the middle is right in each case.
        """
        surplus = max((self.width - width) / dx, (self.height - height) / dy, key=abs)
        is_straight = self.crooked_x <= 0.6 * dx and self.crooked_y <= 0.6 * dy
        return surplus if is_straight and abs(surplus) <= CORNER_TOLERANCE else None


@dataclass(frozen=True)
class _Plane:
    """One reading of a projection definition.

    Attributes:
        definition: The plane, as PROJ is given it.
        units: Metres that a unit of ``xscale`` may be, the likeliest first; 1 for degrees.
        tolerance: By how many cells its corners may lie too far apart.
        note: What was changed of the definition, empty if nothing.
    """

    definition: str
    units: tuple[float, ...]
    tolerance: float = CORNER_TOLERANCE
    note: str = ""


def _planes(projdef: str) -> list[_Plane]:
    """Return the readings of a projection definition, the one PROJ gives it first.

    A definition with both axes and a datum contradicts itself: PROJ 4 took the flattening of the datum, later
    versions take the axes. And some software draws its maps on a sphere while it writes an ellipsoid, or the
    other way around (KNMI's composites of Curacao are on 6371 km). The corners tell which was meant: another
    Earth than the one stated is believed only if it puts all of them within half a cell.
    """
    without_files(projdef)  # refuses what is no definition
    if "proj=" not in projdef.replace(" ", ""):
        definition = without_files(projdef)
        return [_Plane(definition, (1.0, 1000.0))]
    parameters, own_unit = in_metres(proj_parameters(projdef))
    units = tuple(dict.fromkeys((1.0, 1000.0, own_unit)))  # MeteoSwiss: kilometres in a plane of metres
    planes = [_Plane(proj_string(parameters), units)]
    earthless = {name: value for name, value in parameters.items() if name not in EARTH_PARAMETERS}
    if "datum" in parameters and {"a", "b", "R"} & parameters.keys():
        axes = ("a", "b", "R")
        kept = {name: value for name, value in parameters.items() if name not in axes}
        planes.append(_Plane(proj_string(kept), units))
    for earth in OTHER_EARTHS:
        note = f"drawn on {earth}, by its corners, not as defined"
        planes.append(_Plane(f"{proj_string(earthless)} {earth}", units, 0.5, note))
    return planes
