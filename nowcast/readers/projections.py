"""Projection strings from files, taken apart before PROJ sees them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from nowcast.errors import UnreadableFile

#: Longest definition [characters] that is parsed.
MAX_DEFINITION = 20_000

#: One parameter of a PROJ string; a plus sign lost on the way (KNMI writes ``y_0=0``) is forgiven.
_PARAMETER = re.compile(r"\+?([A-Za-z_][A-Za-z0-9_]*)(?:=([-+.,^@\w]*))?")

#: Parameters that make PROJ open other files or run steps of their own.
_FORBIDDEN = frozenset({"init", "geoidgrids", "grids", "file", "step", "pipeline", "inv", "xyzgridshift"})


def proj_parameters(definition: str) -> dict[str, str]:
    """Return the parameters of a PROJ string in their order, an empty value for a flag.

    Raises:
        UnreadableFile: If it is no PROJ string, or names another file.
    """
    if len(definition) > MAX_DEFINITION:
        raise UnreadableFile(
            f"a projection of {len(definition)} characters; at most {MAX_DEFINITION} are read"
        )
    parameters: dict[str, str] = {}
    for token in definition.split():
        match = _PARAMETER.fullmatch(token)
        if match is None:
            raise UnreadableFile(f"{token[:40]!r} is no parameter of a PROJ string")
        parameters.setdefault(match[1], match[2] or "")
    leads_away = _FORBIDDEN & parameters.keys()
    if leads_away or "proj" not in parameters or parameters.get("nadgrids", "@null") != "@null":
        raise UnreadableFile(f"expected a PROJ string without references to files, got {definition[:80]!r}")
    return parameters


def proj_string(parameters: dict[str, str]) -> str:
    """Return the PROJ string of its parameters."""
    return " ".join(f"+{name}={value}" if value else f"+{name}" for name, value in parameters.items())


def to_plane(definition: str, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[Any, Any]:
    """Return plane coordinates of WGS 84 longitudes and latitudes [degrees] under a PROJ string or WKT.

    Raises:
        UnreadableFile: If PROJ does not understand the definition, or a point has no place in its plane.
    """
    x, y = _transformer(definition).transform(lon, lat)
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise UnreadableFile(f"some of the file's points have no place in its projection {definition[:80]!r}")
    return x, y


@lru_cache(maxsize=64)
def _transformer(definition: str) -> Transformer:
    try:
        return Transformer.from_crs("EPSG:4326", CRS.from_user_input(definition), always_xy=True)
    except CRSError as error:
        raise UnreadableFile(f"the projection {definition[:80]!r} cannot be understood") from error
