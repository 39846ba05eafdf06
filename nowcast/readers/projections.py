"""Projections as files write them - PROJ strings, EPSG codes, WKT - taken apart before PROJ sees them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from nowcast.errors import UnreadableFile
from nowcast.frame.grid import Grid

#: Longest definition [characters] that is parsed.
MAX_DEFINITION = 20_000

#: Axes of the Earth below this [m] are kilometres, which makes PROJ take kilometres for metres.
LEAST_EARTH = 10_000.0

#: Lengths of a PROJ string that are in kilometres with the axes of its Earth.
_LENGTHS = ("a", "b", "R", "x_0", "y_0")

#: Parameters of a PROJ string that say what the Earth is.
EARTH_PARAMETERS = frozenset({"a", "b", "R", "ellps", "datum", "rf", "f", "es", "e", "towgs84", "nadgrids"})

#: Metres per unit of PROJ's ``+units``.
PROJ_UNITS = {"m": 1.0, "km": 1000.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "ft": 0.3048, "us-ft": 1200 / 3937}

#: One parameter of a PROJ string; a plus sign lost on the way (KNMI writes ``y_0=0``) is forgiven.
_PARAMETER = re.compile(r"\+?([A-Za-z_][A-Za-z0-9_]*)(?:=([-+.,^@\w]*))?")

#: Parameters that make PROJ open other files or run steps of their own.
_FORBIDDEN = frozenset({"init", "geoidgrids", "grids", "file", "step", "pipeline", "inv", "xyzgridshift"})

#: A code of an authority: ``EPSG:3035``, ``+init=epsg:3035 +no_defs``, as URN or as address of the OGC.
_CODE = re.compile(
    r"(?:\+?init=|urn:(?:x-)?ogc:def:crs:|https?://www\.opengis\.net/def/crs/)?"
    r"(EPSG|ESRI|IGNF|OGC)[:/](?:[\d.]*[:/])?([A-Za-z0-9]{1,20})"
    r"(?:\s+\+?(?:no_defs|wktext|type=crs))*",
    re.IGNORECASE,
)

#: How WKT of either version begins.
_WKT = re.compile(r"\s*(?:PROJ|GEO|GEOD|COMPD_|COMPOUND|BOUND|DERIVED)[A-Z_]*\s*[\[(]", re.IGNORECASE)

#: What makes WKT lead to other files; a null grid does not.
_WKT_FILES = re.compile(r"PROJ4_GRIDS|PARAMETERFILE|nadgrids=(?!@null\b)|geoidgrids", re.IGNORECASE)


def proj_parameters(definition: str) -> dict[str, str]:
    """Return the parameters of a PROJ string in their order, an empty value for a flag.

    Raises:
        UnreadableFile: If it is no PROJ string, or names another file.
    """
    _check_length(definition)
    parameters: dict[str, str] = {}
    for token in re.sub(r"\s*=\s*", "=", definition).split():
        match = _PARAMETER.fullmatch(token)
        if match is None:
            raise UnreadableFile(f"{token[:40]!r} is no parameter of a PROJ string")
        parameters.setdefault(match[1], match[2] or "")
    leads_away = _FORBIDDEN & parameters.keys()
    if leads_away or "proj" not in parameters or parameters.get("nadgrids", "@null") != "@null":
        raise UnreadableFile(f"expected a PROJ string without references to files, got {definition[:80]!r}")
    return parameters


def in_metres(parameters: dict[str, str]) -> tuple[dict[str, str], float]:
    """Return the parameters of the same plane measured in metres, and the metres of the unit it had.

    Kilometres hide in two places: in ``+units``, and in axes of the Earth given as 6378.137.

    Raises:
        UnreadableFile: If a length is no number, or the unit is unknown.
    """
    if not EARTH_PARAMETERS & parameters.keys():  # then PROJ's own Earth is meant, which no_defs takes away
        parameters = {name: value for name, value in parameters.items() if name != "no_defs"}
    changed = {name: value for name, value in parameters.items() if name not in ("units", "to_meter")}
    if parameters["proj"] in ("longlat", "latlong", "lonlat", "latlon", "ob_tran", "geos"):
        return parameters, 1.0
    unit = PROJ_UNITS.get(parameters.get("units", "m"))
    try:
        if "to_meter" in parameters:
            unit = float(parameters["to_meter"])
        axes = [float(parameters[name]) for name in ("a", "b", "R") if name in parameters]
        if axes and max(axes) < LEAST_EARTH:
            unit = 1000.0
            changed |= {name: repr(float(changed[name]) * 1000.0) for name in _LENGTHS if name in changed}
    except ValueError as error:
        raise UnreadableFile(f"{proj_string(parameters)[:80]!r} has a length that is no number") from error
    if unit is None or not unit > 0:
        raise UnreadableFile(f"{parameters.get('units', '')[:20]!r} is no known unit of a projection")
    return changed, unit


def proj_string(parameters: dict[str, str]) -> str:
    """Return the PROJ string of its parameters."""
    return " ".join(f"+{name}={value}" if value else f"+{name}" for name, value in parameters.items())


def without_files(definition: str) -> str:
    """Return any definition of a projection as PROJ may see it: an authority's code, WKT, or a PROJ string.

    A PROJ string comes back in metres (:func:`in_metres`), a code without the deprecated ``+init``.

    Raises:
        UnreadableFile: If it is none of the three, or leads to another file.

    Example:
        >>> without_files("+init=epsg:28992"), without_files("+proj=stere +lat_0=90 +R=6371 +units=m")
        ('EPSG:28992', '+proj=stere +lat_0=90 +R=6371000.0')
    """
    _check_length(definition)
    code = _CODE.fullmatch(definition.strip())
    if code is not None:
        return f"{code[1].upper()}:{code[2]}"
    if _WKT.match(definition):
        if _WKT_FILES.search(definition):
            raise UnreadableFile(f"expected WKT without references to files, got {definition[:80]!r}")
        return definition.strip()
    return proj_string(in_metres(proj_parameters(definition))[0])


def _check_length(definition: str) -> None:
    if len(definition) > MAX_DEFINITION:
        raise UnreadableFile(
            f"a projection of {len(definition)} characters; at most {MAX_DEFINITION} are read"
        )


def to_plane(definition: str, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[Any, Any]:
    """Return plane coordinates of WGS 84 longitudes and latitudes [degrees] under any definition.

    Raises:
        UnreadableFile: If PROJ does not understand the definition, or a point has no place in its plane.
    """
    x, y = _transformer(definition).transform(lon, lat)
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise UnreadableFile(f"some of the file's points have no place in its projection {definition[:80]!r}")
    return x, y


@lru_cache(maxsize=64)
def turn_of(definition: str) -> float | None:
    """Return how far to the east [plane's unit] every place comes again, ``None`` in most planes."""
    return Grid.from_crs(definition, nx=1, ny=1, x0=0, y0=0, dx=1, dy=1).turn


@lru_cache(maxsize=64)
def _transformer(definition: str) -> Transformer:
    try:
        return Transformer.from_crs("EPSG:4326", CRS.from_user_input(definition), always_xy=True)
    except (CRSError, ProjError) as error:
        raise UnreadableFile(f"the projection {definition[:80]!r} cannot be understood") from error
