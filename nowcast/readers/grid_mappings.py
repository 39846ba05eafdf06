"""The planes that the attributes of a netCDF variable describe: by CF's parameters, as WKT, PROJ or a code.

Source: CF Conventions 1.11, section 5.6 and appendix F; the other attributes are those that GDAL
(``spatial_ref``), ADAGUC (``proj4_params``, ``EPSG_code``) and ArcGIS (``esri_pe_string``) write.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pyproj import CRS
from pyproj.exceptions import CRSError

from nowcast.errors import UnreadableFile
from nowcast.frame.grid import crs_from_cf
from nowcast.readers.hdf5 import Attribute
from nowcast.readers.netcdf import NetCDF, Variable
from nowcast.readers.projections import LEAST_EARTH, MAX_DEFINITION, without_files

#: Attributes that hold a whole definition, in lower case; the likeliest to be complete come first.
WKT_ATTRIBUTES = ("crs_wkt", "spatial_ref", "esri_pe_string", "wkt", "well_known_text")
PROJ_ATTRIBUTES = (
    "proj4",
    "proj4text",
    "proj4_params",
    "proj4_string",
    "proj4string",
    "proj_string",
    "proj_params",
    "projdef",
)
CODE_ATTRIBUTES = ("epsg_code", "epsg", "srid")

#: Attributes of CF that say what the Earth is.
_EARTH = (
    "earth_radius",
    "semi_major_axis",
    "semi_minor_axis",
    "inverse_flattening",
    "reference_ellipsoid_name",
    "horizontal_datum_name",
    "geographic_crs_name",
)

#: Values that stand for nothing.
_NOTHING = ("", "none", "unknown", "unnamed", "undefined", "tbd", "n/a")


@dataclass(frozen=True)
class Reading:
    """A plane and the words that describe it.

    Attributes:
        crs: The reference system.
        told_by: Names of the variable and the attribute.
        is_named: Whether the field itself names it.
    """

    crs: CRS
    told_by: str
    is_named: bool


def readings(file: NetCDF, variable: Variable, axes: tuple[str, ...]) -> list[Reading]:
    """Return the planes a variable's coordinates may lie in, those it names itself if there are any.

    Else they are those of the only variable that describes a plane, then of global attributes.

    Raises:
        UnreadableFile: If a description cannot be understood, or several variables describe a plane.
    """
    named = named_mapping(variable, axes)
    if named in file.variables:
        own = _readings_of(file.variables[named].attributes, f"{named!r}", is_named=True)
        if own:
            return own
    own = _readings_of(_definitions_only(variable.attributes), f"{variable.name!r}", is_named=True)
    if own:
        return own
    others = {
        other.name: found
        for other in file.variables.values()
        if other is not variable and len(other.shape) <= 1 and (found := _unnamed(other, variable))
    }
    if len(others) > 1:  # a datum beside a plane is no second plane
        others = {name: found for name, found in others.items() if found[0].crs.is_projected} or others
    if len({found[0].crs for found in others.values()}) > 1:
        raise UnreadableFile(
            f"variable {variable.name!r} names none of the grid mappings that are there: {list(others)}"
        )
    if others:
        return next(iter(others.values()))
    return _readings_of(_definitions_only(file.attributes), "a global attribute")


def named_mapping(variable: Variable, axes: tuple[str, ...]) -> str:
    """Return the grid mapping a variable names for its axes, empty if none.

    ``grid_mapping`` is a name, or names with the coordinates each is for: ``"crs: x y wgs84: lat lon"``.
    """
    written = variable.text("grid_mapping").strip()
    if ":" not in written:
        return (written.split() or [""])[0].rsplit("/", 1)[-1]
    groups = re.findall(r"(\S+)\s*:\s*((?:[^\s:]+(?!\S*\s*:)\s*)*)", written)
    for name, coordinates in groups:
        if set(axes) <= set(coordinates.split()):
            return str(name).rsplit("/", 1)[-1]
    return str(groups[0][0]).rsplit("/", 1)[-1] if groups else ""


def _unnamed(other: Variable, variable: Variable) -> list[Reading]:
    """Return the planes of a variable that the field does not name; what cannot be understood is none."""
    try:
        return _readings_of(other.attributes, f"{other.name!r}, which {variable.name!r} does not name")
    except UnreadableFile:
        return []


def _definitions_only(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Return the attributes that are definitions wherever they stand, not those that need a name beside."""
    return {
        name: value for name, value in attributes.items() if name.lower() in WKT_ATTRIBUTES + PROJ_ATTRIBUTES
    }


def _readings_of(
    attributes: Mapping[str, Attribute], holder: str, *, is_named: bool = False
) -> list[Reading]:
    """Return the planes of one set of attributes, the most complete description first."""
    lower = {name.lower(): value for name, value in attributes.items() if not _is_nothing(value)}
    for name, value in lower.items():
        if (
            isinstance(value, str)
            and len(value) > MAX_DEFINITION
            and name in WKT_ATTRIBUTES + PROJ_ATTRIBUTES
        ):
            raise UnreadableFile(f"{name} of {holder} takes more than {MAX_DEFINITION} characters")
    whole = [name for name in WKT_ATTRIBUTES if isinstance(lower.get(name), str)]
    short = [name for name in PROJ_ATTRIBUTES if isinstance(lower.get(name), str)]
    short += [name for name in CODE_ATTRIBUTES if _code(lower.get(name))]
    found = [(name, _defined(str(lower[name]))) for name in whole]
    in_words = [(name, _defined(_code(lower[name]) or str(lower[name]))) for name in short]
    if isinstance(lower.get("grid_mapping_name"), str):
        is_whole = any(name in lower for name in _EARTH)
        by_cf = ("grid_mapping_name", _by_parameters(_hashable(attributes)))
        found += [by_cf, *in_words] if is_whole or not in_words else [*in_words, by_cf]
    else:
        found += in_words
    return [Reading(crs, f"{name} of {holder}", is_named) for name, crs in found]


def _is_nothing(value: Attribute) -> bool:
    return isinstance(value, str) and value.strip().lower() in _NOTHING


def _code(value: Attribute | None) -> str:
    """Return ``EPSG:n`` of 28992, "28992" or "EPSG:28992", empty for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    match = re.fullmatch(r"(?:EPSG:{1,2})?(\d{4,6})", str(value).strip(), re.IGNORECASE)
    return f"EPSG:{match[1]}" if match else ""


def _hashable(attributes: Mapping[str, Attribute]) -> tuple[tuple[str, Attribute], ...]:
    definitions = WKT_ATTRIBUTES + PROJ_ATTRIBUTES + CODE_ATTRIBUTES
    kept = [(name, value) for name, value in attributes.items() if name.lower() not in definitions]
    return tuple(sorted(kept, key=lambda item: item[0]))


@lru_cache(maxsize=64)
def _by_parameters(attributes: tuple[tuple[str, Attribute], ...]) -> CRS:
    parameters = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in attributes
        if not _is_nothing(value)
    }
    for name in ("earth_radius", "semi_major_axis", "semi_minor_axis"):
        length = parameters.get(name)
        if isinstance(length, int | float) and 0 < length < LEAST_EARTH:
            parameters[name] = length * 1000.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return crs_from_cf(parameters)
    except (CRSError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFile(f"the grid mapping {parameters} cannot be understood"[:300]) from error


@lru_cache(maxsize=64)
def _defined(definition: str) -> CRS:
    try:
        return CRS.from_user_input(without_files(definition))
    except CRSError as error:
        raise UnreadableFile(f"the projection {definition[:80]!r} cannot be understood") from error
