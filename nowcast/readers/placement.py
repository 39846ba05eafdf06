"""Where the cells of a netCDF variable lie: its two horizontal dimensions and their grid.

Source: CF Conventions 1.11, chapters 4 (coordinate types) and 5 (coordinate systems, grid mappings).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from nowcast.errors import UnreadableFile
from nowcast.frame.grid import FULL_TURN, Grid
from nowcast.readers.grid_mappings import Reading, named_mapping, readings
from nowcast.readers.netcdf import NetCDF, Variable
from nowcast.readers.projections import to_plane
from nowcast.readers.source import Limits

#: Metres per unit of a projected coordinate.
METRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1.0),
    **dict.fromkeys(("km", "kilometer", "kilometers", "kilometre", "kilometres"), 1000.0),
}

#: Units of longitude and of latitude (CF sections 4.1 and 4.2), of other angles, and of angles of view.
EAST = ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese")
NORTH = ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn")
DEGREES = ("deg", "\u00b0")
RADIANS = ("radians", "radian", "rad")

#: Standard names and other names of the two axes.
X_STANDARD_NAMES = (
    "projection_x_coordinate",
    "longitude",
    "grid_longitude",
    "projection_x_angular_coordinate",
)
Y_STANDARD_NAMES = ("projection_y_coordinate", "latitude", "grid_latitude", "projection_y_angular_coordinate")
X_NAMES, Y_NAMES = ("x", "lon", "longitude", "rlon", "xc"), ("y", "lat", "latitude", "rlat", "yc")
LATLON_NAMES = ("lon", "lat", "longitude", "latitude", "rlon", "rlat")

#: Cells [m] of weather radar composites; coordinates without a unit that make others are not metres.
USUAL_CELLS = (100.0, 50_000.0)

#: By how many cells a plane the field names and its latitudes and longitudes may lie apart; half of it, where
#: another variable describes the plane, or two descriptions of it are compared.
AGREEING = 1.0

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
    axes = _axes_of(file, variable)
    if not {"x", "y"} <= axes.keys():
        return _fitted(file, variable, limits, [axis.name for axis in axes.values()])
    x, y = axes["x"], axes["y"]
    limits.check_cells(y.shape[0], x.shape[0], f"variable {variable.name!r}")
    if _is_place(x) and _is_place(y):
        return _by_degrees(file, variable, x, y)
    named = named_mapping(variable, (x.name, y.name))
    planes = readings(file, variable, (x.name, y.name))
    places = _places(file, variable, (x, y))
    if named and not (planes and planes[0].is_named) and places is None:
        if named not in file.variables:
            raise UnreadableFile(
                f"variable {variable.name!r} names the grid mapping {named!r}, which is not there"
            )
        raise UnreadableFile(f"the grid mapping {named!r} describes no plane that is known")
    if planes:
        return _in_plane(file, x, y, planes, places)
    if places is None:
        raise UnreadableFile(
            f"coordinates {x.name!r} and {y.name!r} lie in a plane that no grid mapping names and no "
            "two-dimensional latitude and longitude confirm"
        )
    return _confirmed(file, x, y, places)


def _axes_of(file: NetCDF, variable: Variable) -> dict[str, Variable]:
    """Return the one-dimensional coordinates of a variable: ``x``, ``y``, and the others by their names.

    A dimension without a coordinate of its own name takes the only other one along it that says its axis.
    """
    axes: dict[str, Variable] = {}
    for name, length in zip(variable.dimensions, variable.shape, strict=True):
        coordinate = file.variables.get(name)
        if coordinate is not None and coordinate.shape == (length,) and coordinate.is_numeric:
            axes.setdefault(_axis(coordinate), coordinate)
    taken = {axis.dimensions for axis in axes.values()} | {(axis.name,) for axis in axes.values()}
    for name, length in zip(variable.dimensions, variable.shape, strict=True):
        along = [
            other
            for other in file.variables.values()
            if other.dimensions == (name,) and other.shape == (length,) and other.is_numeric
        ]
        for role in ("x", "y"):
            fitting = [other for other in along if _axis(other) == role]
            if name and (name,) not in taken and len(fitting) == 1:
                axes.setdefault(role, fitting[0])
    return axes


def _by_degrees(file: NetCDF, variable: Variable, x: Variable, y: Variable) -> Placement:
    """Return a placement by one-dimensional longitude and latitude, true or of a rotated pole."""
    try:
        planes = readings(file, variable, (x.name, y.name))
    except UnreadableFile:
        if _is_rotated(x) or _is_rotated(y):
            raise
        planes = []  # degrees north and east need no plane
    crs = CRS.from_epsg(4326)
    if _is_rotated(x) or _is_rotated(y):
        rotated = [plane.crs for plane in planes if plane.crs.is_geographic and plane.crs.is_derived]
        if not rotated:
            raise UnreadableFile(f"{x.name!r} and {y.name!r} turn about a pole that no grid mapping names")
        crs = rotated[0]
    elif planes and planes[0].is_named:
        stated = planes[0].crs
        is_true = stated.is_geographic and not stated.is_derived
        crs = stated if is_true else stated.geodetic_crs or crs
    lon, lat = (
        np.degrees(axis.coordinate()) if _unit(axis) in RADIANS else axis.coordinate() for axis in (x, y)
    )
    return _placed(x, y, crs, _unwrapped(lon), lat)


def _unwrapped(lon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return longitudes that go on where they jump by a turn, as from 359.5 to 0."""
    if lon.size < 2 or not np.all(np.abs(lon) < MAX_COORDINATE):
        return lon
    jumps = np.abs(np.diff(lon)) > FULL_TURN / 2
    return np.unwrap(lon, period=FULL_TURN) if jumps.any() and lon.size > 2 else lon


def _in_plane(
    file: NetCDF, x: Variable, y: Variable, planes: list[Reading], places: _Places | None
) -> Placement:
    """Return a placement in a plane the file describes, in the unit it states or that its places confirm."""
    for plane in planes:
        if plane.crs.coordinate_operation is not None and "Geostationary" in (
            plane.crs.coordinate_operation.method_name
        ):
            raise UnreadableFile(
                f"coordinates {x.name!r} and {y.name!r} are angles of view from a satellite, no map"
                "; expected a plane of lengths or degrees"
            )
    flat = [plane for plane in planes if plane.crs.is_projected]
    units = _units(file, x, y, planes, has_places=places is not None)
    if not flat or not units:
        raise UnreadableFile(
            f"coordinates {x.name!r} in {x.text('units')!r} and {y.name!r} in {y.text('units')!r} do not fit "
            f"the plane {planes[0].crs.name!r}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        metres = [(unit, x.coordinate() * unit[0], y.coordinate() * unit[1]) for unit in units]
    _check_finite(x, metres[0][1])
    _check_finite(y, metres[0][2])
    if places is not None:
        off, plane, unit, easting, northing = min(
            (
                (_cells_off(plane.crs, east, north, x, places), plane, unit, east, north)
                for plane in flat
                for unit, east, north in metres
            ),
            key=lambda candidate: candidate[0],
        )
        if off > (AGREEING if plane.is_named else AGREEING / 2):
            raise UnreadableFile(
                f"{plane.told_by} and the latitudes and longitudes disagree by {off:.1f} cells"
            )
        is_first = plane is planes[0] and unit == units[0] and plane.is_named and len(units) == 1
        note = "" if is_first else f"{plane.told_by}, confirmed by latitude and longitude to {off:.2f} cells"
    else:
        plane, (_, easting, northing) = flat[0], metres[0]
        for other in flat[1:]:
            off = _cells_between(plane.crs, other.crs, easting, northing)
            if off > AGREEING / 2:
                raise UnreadableFile(f"{plane.told_by} and {other.told_by} disagree by {off:.1f} cells")
        note = "" if plane.is_named else plane.told_by
        if not (_unit(x) or _unit(y)):
            note = f"{plane.told_by}, in metres by the size of the cells"
    own = float(plane.crs.axis_info[0].unit_conversion_factor)
    return _placed(x, y, plane.crs, easting / own, northing / own, note)


def _units(
    file: NetCDF, x: Variable, y: Variable, planes: list[Reading], *, has_places: bool
) -> list[tuple[float, float]]:
    """Return what a unit of both coordinates may be in metres; several if places will tell."""
    written = [_unit(axis) for axis in (x, y)]
    stated = [_metres(unit) for unit in written]
    if all(stated):
        return [(float(stated[0] or 0), float(stated[1] or 0))]
    if any(unit and not length for unit, length in zip(written, stated, strict=True)):
        return []
    steps = [abs(float(axis.coordinate()[1] - axis.coordinate()[0])) for axis in (x, y) if axis.shape[0] > 1]
    if any(stated):  # the other one has it too, if the cells are then about square
        length = float(stated[0] or stated[1] or 0)
        return [(length, length)] if len(steps) == 2 and max(steps) < 3 * min(steps) else []
    if has_places:
        return [(1.0, 1.0), (1000.0, 1000.0)]
    is_metres = len(steps) == 2 and all(USUAL_CELLS[0] <= step <= USUAL_CELLS[1] for step in steps)
    return [(1.0, 1.0)] if is_metres else []


def _metres(unit: str) -> float | None:
    """Return the metres of a unit of length, which may have a number before it, as in ``1000 m``."""
    number = re.match(r"\d+(?:\.\d+)?(?=\s)", unit)
    length = METRES.get(unit[number.end() :].strip() if number else unit)
    return None if length is None else length * float(number[0] if number else 1)


def _cells_off(
    crs: CRS, easting: NDArray[np.float64], northing: NDArray[np.float64], x: Variable, places: _Places
) -> float:
    """Return the greatest distance [cells] between coordinates [m] and where latitude and longitude lie."""
    rows, columns = places.sampled
    lon, lat = places.lon[rows, columns], places.lat[rows, columns]
    grid = Grid.from_crs(crs, nx=2, ny=2, x0=0, y0=0, dx=1, dy=1)
    at_x, at_y = grid._to_plane.transform(lon, lat)
    own = float(crs.axis_info[0].unit_conversion_factor)
    is_down_y = x.name != places.rows and x.dimensions != (places.rows,)
    down, across = (northing, easting) if is_down_y else (easting, northing)
    at_down, at_across = (at_y, at_x) if is_down_y else (at_x, at_y)
    cell_down, cell_across = (abs(float(c[-1] - c[0])) / max(len(c) - 1, 1) for c in (down, across))
    off_down = np.abs(at_down * own - down[rows]) / cell_down
    off_across = np.abs(at_across * own - across[columns]) / cell_across
    seen = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90) & (np.abs(lon) <= 2 * FULL_TURN)
    if np.count_nonzero(seen) < 4:
        return np.inf
    worst = np.nan_to_num(np.maximum(off_down, off_across)[seen], nan=np.inf, posinf=np.inf)
    return float(worst.max())


def _cells_between(
    one: CRS, other: CRS, easting: NDArray[np.float64], northing: NDArray[np.float64]
) -> float:
    """Return how many cells two planes lie apart at the corners and the middle of coordinates [m]."""
    at = [0, 0, -1, -1, len(easting) // 2], [0, -1, 0, -1, len(northing) // 2]
    x, y = easting[at[0]], northing[at[1]]
    first, second = (Grid.from_crs(crs, nx=2, ny=2, x0=0, y0=0, dx=1, dy=1) for crs in (one, other))
    units = [float(crs.axis_info[0].unit_conversion_factor) for crs in (one, other)]
    lon, lat = first.xy_to_lonlat(x / units[0], y / units[0])
    again_x, again_y = (at * units[1] for at in second._to_plane.transform(lon, lat))
    cell = abs(easting[1] - easting[0]), abs(northing[1] - northing[0])
    off = np.maximum(np.abs(again_x - x) / cell[0], np.abs(again_y - y) / cell[1])
    return float(np.nan_to_num(off, nan=np.inf, posinf=np.inf).max())


def _check_finite(axis: Variable, centres: NDArray[np.float64]) -> None:
    if not np.all(np.abs(centres) < MAX_COORDINATE):
        raise UnreadableFile(f"coordinate {axis.name!r} has missing or absurd values")


def _placed(
    columns: Variable,
    rows: Variable,
    crs: CRS,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    note: str = "",
) -> Placement:
    _check_finite(columns, x)
    _check_finite(rows, y)
    flip_rows, flip_columns = bool(y[0] < y[-1]), bool(x[0] > x[-1])
    grid = Grid.from_coordinates(crs, x[::-1] if flip_columns else x, y[::-1] if flip_rows else y)
    down, across = (axis.dimensions[0] or axis.name for axis in (rows, columns))
    return Placement(down, across, flip_rows, flip_columns, grid, note)


def _axis(coordinate: Variable) -> str:
    """Return ``x``, ``y`` or the coordinate's own name if it is neither."""
    standard_name, name = coordinate.text("standard_name"), coordinate.name.lower()
    for role, standard_names, units, names in (
        ("x", X_STANDARD_NAMES, EAST, X_NAMES),
        ("y", Y_STANDARD_NAMES, NORTH, Y_NAMES),
    ):
        if standard_name in standard_names or (not standard_name and _unit(coordinate) in units):
            return role
        if not standard_name and coordinate.text("axis").lower() in ("", role) and name in names:
            return role
    if coordinate.text("axis").lower() in ("x", "y"):
        return coordinate.text("axis").lower()
    if name in X_NAMES + Y_NAMES:
        return "x" if name in X_NAMES else "y"
    return f"other {name}"


def _unit(coordinate: Variable) -> str:
    return " ".join(coordinate.text("units").lower().split())


def _is_place(coordinate: Variable) -> bool:
    """Whether a coordinate is a longitude or latitude, of the Earth or of a rotated pole."""
    unit = _unit(coordinate)
    if unit in EAST + NORTH:
        return True
    is_angle = unit.startswith(DEGREES) or unit in RADIANS
    names_it = coordinate.text("standard_name") in (
        "longitude",
        "latitude",
        "grid_longitude",
        "grid_latitude",
    )
    return is_angle and (names_it or coordinate.name.lower() in LATLON_NAMES)


def _is_rotated(coordinate: Variable) -> bool:
    if coordinate.text("standard_name") in ("longitude", "latitude"):
        return False
    return coordinate.text("standard_name").startswith("grid_") or coordinate.name.lower() in ("rlon", "rlat")


@dataclass(frozen=True)
class _Places:
    """Two-dimensional latitude and longitude [degrees] and the names of their two dimensions."""

    rows: str
    columns: str
    lat: NDArray[np.float64]
    lon: NDArray[np.float64]

    @property
    def sampled(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of some forty by forty of the points, corners included."""
        along = (np.unique(np.linspace(0, n - 1, 41).astype(np.int64)) for n in self.lat.shape)
        rows, columns = np.meshgrid(*along, indexing="ij")
        return rows.ravel(), columns.ravel()


def _places(
    file: NetCDF, variable: Variable, over: tuple[Variable, Variable] | None = None
) -> _Places | None:
    """Return the two-dimensional latitude and longitude over two axes or two dimensions."""
    wanted = {axis.dimensions[0] or axis.name for axis in over} if over else set(variable.dimensions) - {""}
    found = []
    for kind, units in (("latitude", NORTH), ("longitude", EAST)):
        fitting = [
            other
            for other in file.variables.values()
            if len(other.dimensions) == 2
            and other.is_numeric
            and len(set(other.dimensions)) == 2
            and set(other.dimensions) <= wanted
            and (
                other.text("standard_name") == kind
                or other.name.lower()
                in (kind, kind + "s", kind[:3], "nav_" + kind[:3], "x" + kind[:4], kind[:3] + "s")
                or (not other.text("standard_name") and _unit(other) in units)
            )
        ]
        attached = [other for other in fitting if other.name in variable.text("coordinates").split()]
        found.append((attached + fitting)[0] if fitting else None)
    latitude, longitude = found
    if latitude is None or longitude is None or latitude.dimensions != longitude.dimensions:
        return None
    rows, columns = latitude.dimensions
    return _Places(rows, columns, latitude.coordinate(), longitude.coordinate())


def _fitted(file: NetCDF, variable: Variable, limits: Limits, has: list[str]) -> Placement:
    """Return a placement by two-dimensional latitude and longitude alone, if they fit a plane evenly."""
    places = _places(file, variable)
    if places is None:
        raise UnreadableFile(
            f"variable {variable.name!r} over {variable.dimensions} needs one-dimensional coordinates x and "
            f"y or longitude and latitude; has {has}"
        )
    limits.check_cells(places.lat.shape[0], places.lat.shape[1], f"variable {variable.name!r}")
    named = readings(file, variable, (places.columns, places.rows))
    planes = [(plane.crs, plane.told_by) for plane in named]
    planes += [(CRS.from_epsg(4326), "degrees"), (CRS.from_user_input(RADOLAN_PLANE), RADOLAN_PLANE)]
    for crs, told_by in planes:
        placement = _evenly(places, crs, told_by)
        if placement is not None:
            return placement
    raise UnreadableFile(
        f"variable {variable.name!r} has only two-dimensional latitudes and longitudes, and they are evenly "
        f"spaced in none of the planes {[told_by for _, told_by in planes]}"
    )


def _evenly(places: _Places, crs: CRS, told_by: str) -> Placement | None:
    """Return a placement in a plane in which latitude and longitude are rows and columns, else ``None``."""
    grid = Grid.from_crs(crs, nx=2, ny=2, x0=0, y0=0, dx=1, dy=1)
    if min(places.lat.shape) < 2 or not np.all(np.isfinite(places.lat) & (np.abs(places.lat) <= 90)):
        return None
    x, y = grid._to_plane.transform(places.lon, places.lat)
    if grid.turn is not None:
        x = np.unwrap(np.unwrap(x, axis=0, period=grid.turn), axis=1, period=grid.turn)
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        return None
    rows, columns = places.rows, places.columns
    if abs(y[-1, 0] - y[0, 0]) < abs(y[0, -1] - y[0, 0]):
        rows, columns, x, y = columns, rows, x.T, y.T
    lines = []
    for values, axis in ((x, 0), (y, 1)):
        centres = values.mean(axis=axis)
        index = np.arange(len(centres))
        step, first = np.polyfit(index, centres, 1)
        line = first + step * index
        off = np.abs(values - (line[np.newaxis, :] if axis == 0 else line[:, np.newaxis])).max()
        if step == 0 or off > CONFIRMED * abs(step):
            return None
        lines.append(line)
    (east, north) = lines
    flip_rows, flip_columns = bool(north[0] < north[-1]), bool(east[0] > east[-1])
    fitted = Grid.from_coordinates(
        crs, east[::-1] if flip_columns else east, north[::-1] if flip_rows else north
    )
    return Placement(
        rows, columns, flip_rows, flip_columns, fitted, f"{told_by}, fitted to latitude and longitude"
    )


def _confirmed(file: NetCDF, x: Variable, y: Variable, places: _Places) -> Placement:
    """Return a placement in a plane the file does not name, if its two-dimensional latitudes confirm one.

    Which of the two dimensions runs north is taken from the latitudes, not from their names: the archive of
    CPOL, for one, calls its northward dimension ``x``.
    """
    lat, lon = places.lat, places.lon
    by_dimension = {axis.dimensions[0] or axis.name: axis for axis in (x, y)}
    down, across = by_dimension[places.rows], by_dimension[places.columns]
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
    return _placed(across, down, CRS.from_user_input(definition), easting, northing, note)


def _possible_units(coordinate: Variable) -> tuple[float, ...]:
    written = _unit(coordinate)
    if (length := _metres(written)) is not None:
        return (length,)
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
