"""Where the cells of a netCDF variable lie: its two horizontal dimensions and their grid.

Source: CF Conventions 1.11, chapters 4 (coordinate types) and 5 (coordinate systems, grid mappings).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from nowcast.errors import UnreadableFile
from nowcast.frame.grid import Grid
from nowcast.readers.hdf5 import Attribute
from nowcast.readers.netcdf import NetCDF, Variable
from nowcast.readers.projections import MAX_DEFINITION, to_plane
from nowcast.readers.source import Limits

#: Metres per unit of a projected coordinate.
METRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1.0),
    **dict.fromkeys(("km", "kilometer", "kilometers", "kilometre", "kilometres"), 1000.0),
}

#: Plane of the DWD's composites (DWD, RADOLAN/RADVOR-OP Beschreibung des Kompositformats, version 2.5).
RADOLAN_PLANE = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040 +units=m +no_defs"

#: Longitude and latitude of the reference point of the RADOLAN grids, a corner of four cells (same source).
RADOLAN_REFERENCE = (9.0, 51.0)

#: Radii of the Earth [m] that radar software measures distances from an antenna with; 0 stands for WGS 84.
RADAR_SPHERES = (6_371_000.0, 6_370_997.0, 0.0)

#: No place on Earth is further [m] from the origin of a plane.
MAX_COORDINATE = 1e9

#: Greatest distance [cells] between a plane the file does not name and its own latitudes and longitudes.
CONFIRMED = 0.1


@dataclass(frozen=True)
class Placement:
    """Two dimensions of a variable and the grid their cells form.

    Attributes:
        rows: Name of the dimension that runs north or south.
        columns: Name of the dimension that runs east or west.
        flip_rows: Whether the first row is the southern one.
        flip_columns: Whether the first column is the eastern one.
        grid: The cells, north and west first.
        note: How the plane was found, empty if the file says it.
    """

    rows: str
    columns: str
    flip_rows: bool
    flip_columns: bool
    grid: Grid
    note: str = ""

    def orient(self, field: NDArray[Any], dimensions: tuple[str, ...]) -> NDArray[Any]:
        """Return a field over both dimensions, in any order, rows from the north, columns from the west."""
        if dimensions.index(self.rows) > dimensions.index(self.columns):
            field = field.T
        return field[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def place(file: NetCDF, variable: Variable, limits: Limits) -> Placement:
    """Return where a variable's cells lie.

    Raises:
        UnreadableFile: If its horizontal coordinates are missing, uneven, or in a plane that neither a grid
            mapping names nor latitudes and longitudes confirm.
        TooLarge: If it has more cells than the limits allow.
    """
    axes: dict[str, Variable] = {}
    for name in variable.dimensions:
        coordinate = file.variables.get(name)
        if coordinate is not None and coordinate.shape == (variable.shape[variable.dimensions.index(name)],):
            axes.setdefault(_axis(coordinate), coordinate)
    if not {"x", "y"} <= axes.keys():
        raise UnreadableFile(
            f"variable {variable.name!r} over {variable.dimensions} needs one-dimensional coordinates x and "
            f"y or longitude and latitude; has {[axis.name for axis in axes.values()]}"
        )
    x, y = axes["x"], axes["y"]
    limits.check_cells(y.shape[0], x.shape[0], f"variable {variable.name!r}")
    crs = _grid_mapping(file, variable)
    if _is_angle(x) and _is_angle(y):
        return _placed(x.name, y.name, crs or CRS.from_epsg(4326), x.coordinate(), y.coordinate())
    if crs is None:
        return _confirmed(file, x, y)
    unit = float(crs.axis_info[0].unit_conversion_factor) if crs.axis_info else 1.0
    factors = [METRES.get(axis.text("units").lower()) for axis in (x, y)]
    if None in factors or crs.is_geographic:
        raise UnreadableFile(
            f"coordinates {x.name!r} in {x.text('units')!r} and {y.name!r} in {y.text('units')!r} do not fit "
            f"the plane {crs.name!r}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        east, north = (
            axis.coordinate() * (factor or 1.0) / unit for axis, factor in zip((x, y), factors, strict=True)
        )
    return _placed(x.name, y.name, crs, east, north)


def _placed(
    columns: str,
    rows: str,
    crs: CRS,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    note: str = "",
) -> Placement:
    for name, centres in ((columns, x), (rows, y)):
        if not np.all(np.abs(centres) < MAX_COORDINATE):
            raise UnreadableFile(f"coordinate {name!r} has missing or absurd values")
    flip_rows, flip_columns = bool(y[0] < y[-1]), bool(x[0] > x[-1])
    grid = Grid.from_coordinates(crs, x[::-1] if flip_columns else x, y[::-1] if flip_rows else y)
    return Placement(rows, columns, flip_rows, flip_columns, grid, note)


def _axis(coordinate: Variable) -> str:
    """Return ``x``, ``y`` or the coordinate's own name if it is neither."""
    standard_name, name = coordinate.text("standard_name"), coordinate.name.lower()
    if coordinate.text("axis").lower() in ("x", "y"):
        return coordinate.text("axis").lower()
    if standard_name in ("projection_x_coordinate", "longitude") or name in ("x", "lon", "longitude"):
        return "x"
    if standard_name in ("projection_y_coordinate", "latitude") or name in ("y", "lat", "latitude"):
        return "y"
    units = coordinate.text("units").lower()
    return {"degrees_east": "x", "degrees_north": "y"}.get(units, f"other {name}")


def _is_angle(coordinate: Variable) -> bool:
    return coordinate.text("units").lower().startswith("degree")


def _grid_mapping(file: NetCDF, variable: Variable) -> CRS | None:
    """Return the reference system of a variable's grid mapping, ``None`` if it names none."""
    named = variable.text("grid_mapping").split(":")[0].strip()
    if not named:
        return None
    mapping = file.variables.get(named)
    if mapping is None:
        raise UnreadableFile(
            f"variable {variable.name!r} names the grid mapping {named!r}, which is not there"
        )
    if any(isinstance(value, str) and len(value) > MAX_DEFINITION for value in mapping.attributes.values()):
        raise UnreadableFile(f"grid mapping {named!r} is described in more than {MAX_DEFINITION} characters")
    return _crs_of_mapping(tuple(sorted(mapping.attributes.items(), key=lambda item: item[0])))


@lru_cache(maxsize=64)
def _crs_of_mapping(attributes: tuple[tuple[str, Attribute], ...]) -> CRS:
    # Kept, because PROJ searches its whole database for a datum that has no name: half a second.
    parameters = {name: list(value) if isinstance(value, tuple) else value for name, value in attributes}
    try:
        return CRS.from_cf(parameters)
    except (CRSError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFile(f"the grid mapping {parameters} cannot be understood"[:300]) from error


def _confirmed(file: NetCDF, x: Variable, y: Variable) -> Placement:
    """Return a placement in a plane the file does not name, if its two-dimensional latitudes confirm one.

    Which of the two dimensions runs north is taken from the latitudes, not from their names: the archive of
    CPOL, for one, calls its northward dimension ``x``.
    """
    latitude, longitude = (_two_dimensional(file, name, (x, y)) for name in ("latitude", "longitude"))
    if latitude is None or longitude is None:
        raise UnreadableFile(
            f"coordinates {x.name!r} and {y.name!r} lie in a plane that no grid mapping names and no "
            "two-dimensional latitude and longitude confirm"
        )
    lat, lon = latitude.coordinate(), longitude.coordinate()
    down, across = (file.variables[name] for name in latitude.dimensions)
    middle = lat.shape[0] // 2, lat.shape[1] // 2
    if abs(lat[-1, middle[1]] - lat[0, middle[1]]) < abs(lat[middle[0], -1] - lat[middle[0], 0]):
        down, across, lat, lon = across, down, lat.T, lon.T
    northing, easting = down.coordinate(), across.coordinate()
    if not all(np.all(np.abs(numbers) < MAX_COORDINATE) for numbers in (northing, easting, lat, lon)):
        raise UnreadableFile(f"coordinates {x.name!r}, {y.name!r}, latitude or longitude have absurd values")

    best: tuple[float, str, float] | None = None
    every = max(1, lat.shape[0] // 40), max(1, lat.shape[1] // 40)
    for definition in _candidates(easting, northing, lon, lat):
        at_x, at_y = to_plane(definition, lon[:: every[0], :: every[1]], lat[:: every[0], :: every[1]])
        for unit in _possible_units(across):
            cell = abs(easting[1] - easting[0]) * unit
            away = max(
                np.abs(at_x - easting[:: every[1]] * unit).max(),
                np.abs(at_y - northing[:: every[0], np.newaxis] * unit).max(),
            )
            if away <= CONFIRMED * cell and (best is None or away < best[0]):
                best = float(away), definition, unit
    if best is None:
        raise UnreadableFile(
            f"coordinates {x.name!r} and {y.name!r} lie in a plane that no grid mapping names, and the "
            "latitudes and longitudes fit none that is known"
        )
    away, definition, unit = best
    easting, northing = easting * unit, northing * unit
    if definition == RADOLAN_PLANE:
        easting, northing = _radolan_centres(easting, northing)
    note = f"{definition}, confirmed by latitude and longitude to {away:.1f} m"
    return _placed(across.name, down.name, CRS.from_user_input(definition), easting, northing, note)


def _two_dimensional(file: NetCDF, kind: str, over: tuple[Variable, Variable]) -> Variable | None:
    wanted = {axis.name for axis in over}
    for variable in file.variables.values():
        is_named = (
            variable.name.lower() in (kind, kind + "s", kind[:3]) or variable.text("standard_name") == kind
        )
        if is_named and len(variable.dimensions) == 2 and set(variable.dimensions) == wanted:
            return variable
    return None


def _possible_units(coordinate: Variable) -> tuple[float, ...]:
    written = coordinate.text("units").lower()
    if written in METRES:
        return (METRES[written],)
    return (1.0, 1000.0) if not written else ()


def _candidates(
    easting: NDArray[np.float64],
    northing: NDArray[np.float64],
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
) -> list[str]:
    """Return the planes a radar file without a grid mapping may be drawn in."""
    candidates = [RADOLAN_PLANE]
    column, row = np.flatnonzero(easting == 0), np.flatnonzero(northing == 0)
    if column.size == 1 and row.size == 1:  # distances from an antenna
        at = f"+proj=aeqd +lat_0={lat[row[0], column[0]]:.8f} +lon_0={lon[row[0], column[0]]:.8f}"
        candidates += [
            f"{at} +R={radius:.0f}" if radius else f"{at} +ellps=WGS84" for radius in RADAR_SPHERES
        ]
    return candidates


def _radolan_centres(
    easting: NDArray[np.float64], northing: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centres of RADOLAN cells whose coordinates may be their lower left corners.

    The reference point is a corner of cells: coordinates whole numbers of cells away from it are corners too.
    """
    reference = to_plane(RADOLAN_PLANE, *(np.array([angle]) for angle in RADOLAN_REFERENCE))
    centres = []
    for coordinate, origin in zip((easting, northing), reference, strict=True):
        cell = abs(coordinate[1] - coordinate[0])
        offset = (coordinate[0] - origin[0]) / cell % 1.0
        is_corner = min(offset, 1.0 - offset) < CONFIRMED
        centres.append(coordinate + cell / 2 if is_corner else coordinate)
    return centres[0], centres[1]
