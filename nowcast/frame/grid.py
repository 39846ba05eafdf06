"""The regular grid a frame lies on: rows from north to south, columns from west to east."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from nowcast.errors import OutsideDomain, UnreadableFile

#: Metres per degree of latitude on a sphere of the WGS 84 mean radius, 6 371 008.8 m.
METRES_PER_DEGREE = 111_195.08

#: Projections, by the beginning of their EPSG names, whose plane goes on to the east as a cylinder does: one
#: turn around the globe further, every place comes again.
CYLINDRICAL = (
    "Mercator",
    "Popular Visualisation Pseudo Mercator",
    "Equidistant Cylindrical",
    "Pseudo Plate Carree",
    "Lambert Cylindrical Equal Area",
    "Miller Cylindrical",
    "Gall",
)

#: Directions of the two axes of a map; both the same where a pole is the origin.
_MAP_DIRECTIONS = ({"east", "north"}, {"north"}, {"south"})

#: Greatest axes [m] that PROJ takes for the Earth's; it refuses to go from one celestial body to another.
EARTH_AXES = (6_343_200.0, 6_406_800.0)

#: A full turn in degrees.
FULL_TURN = 360.0

#: Reference system of longitudes and latitudes that people and files without a word about it mean.
WGS84 = "EPSG:4326"


@lru_cache(maxsize=64)
def _crs(definition: str) -> CRS:
    return CRS.from_user_input(definition)


def _map_of(crs: CRS) -> CRS:
    """Return the horizontal part of a reference system.

    Raises:
        UnreadableFile: If it is no map of the Earth, or its axes run to the west or cross-wise.
    """
    if crs.is_compound:
        crs = crs.sub_crs_list[0]
    if len(crs.axis_info) > 2 and crs.is_geographic:
        crs = crs.to_2d()
    if not (crs.is_geographic or crs.is_projected):
        raise UnreadableFile(
            f"the coordinate reference system {crs.name!r} is no map of the Earth: {crs.type_name}"
        )
    axis_m = crs.ellipsoid.semi_major_metre if crs.ellipsoid is not None else 0.0
    if not EARTH_AXES[0] < axis_m < EARTH_AXES[1]:
        raise UnreadableFile(
            f"{crs.name!r} is no map of the Earth: an axis of its body is {axis_m:.0f} m long"
        )
    directions = [axis.direction for axis in crs.axis_info[:2]]
    if set(directions) not in _MAP_DIRECTIONS:
        raise UnreadableFile(
            f"the axes of the reference system {crs.name!r} count to the {' and '.join(directions)}; "
            "expected east and north"
        )
    return crs


def crs_from_cf(parameters: Mapping[str, Any]) -> CRS:
    """Return the reference system that attributes of a CF grid mapping describe.

    An earth given by its size stands on the meridian of Greenwich unless another one is named, as CF has it.
    That is said to PROJ, which looks half a second for it in its database otherwise.

    Raises:
        CRSError: If they describe none; KeyError, TypeError or ValueError, if not in the way CF does.

    References:
        CF Conventions 1.11, appendix F.
    """
    sized = any(name in parameters for name in ("earth_radius", "semi_major_axis", "semi_minor_axis"))
    named = any(
        name in parameters
        for name in ("prime_meridian_name", "longitude_of_prime_meridian", "horizontal_datum_name")
    )
    greenwich = {"prime_meridian_name": "Greenwich", "longitude_of_prime_meridian": 0.0}
    return CRS.from_cf({**(greenwich if sized and not named else {}), **parameters})


@lru_cache(maxsize=64)
def _between(source_wkt: str, target_wkt: str) -> Transformer:
    return Transformer.from_crs(_crs(source_wkt), _crs(target_wkt), always_xy=True)


def within_half_turn(lon: Any) -> Any:
    """Return longitudes [degrees] counted from -180 to 180, as they are where they already do.

    Example:
        >>> within_half_turn(np.array([260.0, 180.0, -180.0, -190.0]))
        array([-100.,  180., -180.,  170.])
    """
    with np.errstate(invalid="ignore"):
        turned = np.where(
            np.abs(lon) <= FULL_TURN / 2, lon, np.mod(np.asarray(lon) + 180.0, FULL_TURN) - 180.0
        )
    return turned if np.ndim(lon) else float(turned)


def _exact_step(centres: NDArray[np.float64], mean_step: float) -> float:
    """Return the step that gives ``centres`` back to the last bit, the mean if none does.

    A grid that is written as coordinates and read again is then the same grid and compares as such.
    """
    count = np.arange(len(centres))
    decimals = (float(f"{mean_step:.{digits}g}") for digits in range(3, 18))
    neighbours = (mean_step + ulps * float(np.spacing(mean_step)) for ulps in range(-8, 9))
    for step in (*decimals, *neighbours):
        if np.array_equal(centres[0] + step * count, centres):
            return step
    return mean_step


@dataclass(frozen=True)
class Grid:
    """A regular grid in the plane of a coordinate reference system.

    Attributes:
        crs_wkt: The reference system as WKT 2 (build with :meth:`from_crs` to give anything else).
        nx: Number of columns.
        ny: Number of rows.
        x0: Centre of the first (western) column, in the CRS's unit (metres or degrees).
        y0: Centre of the first (northern) row.
        dx: Column spacing, positive.
        dy: Row spacing, positive; row ``j`` has its centre at ``y0 - j * dy``.
    """

    crs_wkt: str
    nx: int
    ny: int
    x0: float
    y0: float
    dx: float
    dy: float

    def __post_init__(self) -> None:
        """Refuse a grid without cells, or with coordinates that are not finite."""
        sizes_are_sound = self.nx > 0 and self.ny > 0 and self.dx > 0 and self.dy > 0
        if not sizes_are_sound or not all(map(math.isfinite, (self.x0, self.y0, self.dx, self.dy))):
            raise UnreadableFile(
                "a grid needs at least one cell, positive finite spacing and a finite origin, but has "
                f"{self.ny} rows, {self.nx} columns, spacing ({self.dx}, {self.dy}) "
                f"and origin ({self.x0}, {self.y0})"
            )

    @classmethod
    def from_crs(
        cls, crs: str | dict[str, Any] | CRS, *, nx: int, ny: int, x0: float, y0: float, dx: float, dy: float
    ) -> Grid:
        """Return a grid from anything pyproj understands (PROJ string, EPSG code, CF attributes as a dict).

        Raises:
            UnreadableFile: If pyproj cannot make sense of the definition.
        """
        try:
            parsed = crs_from_cf(crs) if isinstance(crs, dict) else CRS.from_user_input(crs)
        except (CRSError, KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(f"the coordinate reference system {crs!r} cannot be understood") from error
        grid = cls(_map_of(parsed).to_wkt(), int(nx), int(ny), float(x0), float(y0), float(dx), float(dy))
        grid._check_on_globe()
        return grid

    def _check_on_globe(self) -> None:
        """Refuse degrees that go around the globe more than once or lie beyond a pole.

        A first column that comes again as the last one is accepted, and so are rows centred on the poles.
        """
        if not self.crs.is_geographic:
            return
        turn, quarter = self.turn or FULL_TURN, (self.turn or FULL_TURN) / 4
        south, slack = self.y0 - (self.ny - 1) * self.dy, 1e-3 * self.dy
        if self.nx * self.dx > turn + 1.5 * self.dx or max(self.y0, -south) > quarter + slack:
            raise UnreadableFile(
                f"{self.nx} columns of {self.dx:g} degrees and rows from {south:g} to {self.y0:g} degrees "
                "north do not fit on the globe"
            )

    @classmethod
    def from_coordinates(
        cls, crs: str | dict[str, Any] | CRS, x: NDArray[np.floating], y: NDArray[np.floating]
    ) -> Grid:
        """Return the grid of evenly spaced cell centres ``x`` (ascending) and ``y`` (descending).

        Raises:
            UnreadableFile: If a coordinate is unevenly spaced (by a hundredth of a cell) or runs backwards.
        """
        spacings = []
        for name, centres, direction in (("x", x, 1.0), ("y", y, -1.0)):
            steps = np.diff(np.asarray(centres, dtype=np.float64)) * direction
            if steps.size == 0 or not np.all(np.isfinite(steps)):
                raise UnreadableFile(
                    f"coordinate {name} needs at least two finite values, has {len(centres)}"
                )
            step = float(steps.mean())
            drift = np.abs(np.cumsum(steps - step)).max()
            if step <= 0 or drift > 0.01 * step + 1e-6 * float(np.abs(centres).max()):
                raise UnreadableFile(
                    f"coordinate {name} must be evenly spaced and run "
                    f"{'west to east' if direction > 0 else 'north to south'}; steps are "
                    f"{steps.min() * direction:g} to {steps.max() * direction:g}"
                )
            spacings.append(abs(_exact_step(np.asarray(centres, dtype=np.float64), step * direction)))
        return cls.from_crs(
            crs, nx=len(x), ny=len(y), x0=float(x[0]), y0=float(y[0]), dx=spacings[0], dy=spacings[1]
        )

    @property
    def crs(self) -> CRS:
        """The coordinate reference system."""
        return _crs(self.crs_wkt)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, ``(ny, nx)``."""
        return self.ny, self.nx

    @cached_property
    def x(self) -> NDArray[np.float64]:
        """Centres of the columns ``(nx,)``, west to east."""
        return self.x0 + self.dx * np.arange(self.nx, dtype=np.float64)

    @cached_property
    def y(self) -> NDArray[np.float64]:
        """Centres of the rows ``(ny,)``, north to south."""
        return self.y0 - self.dy * np.arange(self.ny, dtype=np.float64)

    @property
    def outer_bounds(self) -> tuple[float, float, float, float]:
        """Outer edges ``(x_min, y_min, x_max, y_max)`` of the corner cells, in the CRS's unit."""
        return (
            self.x0 - self.dx / 2,
            self.y0 - (self.ny - 0.5) * self.dy,
            self.x0 + (self.nx - 0.5) * self.dx,
            self.y0 + self.dy / 2,
        )

    @cached_property
    def turn(self) -> float | None:
        """How far to the east [CRS's unit] every place comes again; ``None`` in planes that do not repeat."""
        if self.crs.is_geographic:
            return 2 * math.pi / float(self.crs.axis_info[0].unit_conversion_factor)
        unbound = self.crs.source_crs if self.crs.is_bound else self.crs
        operation = unbound.coordinate_operation if unbound is not None else None
        if operation is None or not operation.method_name.startswith(CYLINDRICAL):
            return None
        x, _ = self._to_plane.transform(np.arange(0.0, 361.0, 60.0), np.zeros(7))
        return float(np.median(np.diff(x))) * 6.0  # the one step over the edge of the map is no median

    @cached_property
    def goes_around(self) -> bool:
        """Whether the eastern edge touches the western one."""
        return self.turn is not None and self.nx * self.dx >= self.turn * (1 - 1e-6)

    @cached_property
    def cell_km(self) -> tuple[float, float]:
        """Height and width of the middle cell in km, counted on the ground for a lat/lon grid."""
        if not self.crs.is_geographic:
            factor = float(self.crs.axis_info[0].unit_conversion_factor) / 1000.0
            return self.dy * factor, self.dx * factor
        radians = float(self.crs.axis_info[0].unit_conversion_factor)
        middle = radians * (self.y0 - self.dy * (self.ny - 1) / 2)
        unit_km = math.degrees(radians) * METRES_PER_DEGREE / 1000.0
        return self.dy * unit_km, self.dx * unit_km * math.cos(middle)

    @cached_property
    def _to_plane(self) -> Transformer:
        return _between(WGS84, self.crs_wkt)

    def lonlat_to_xy(self, lon: Any, lat: Any) -> tuple[Any, Any]:
        """Return plane coordinates of WGS 84 longitude and latitude [degrees]; not finite where undefined.

        Longitudes may count from -180 or from 0; the plane's count as the grid does (:meth:`unwound`).
        """
        x, y = self._to_plane.transform(lon, lat)
        return self.unwound(x), y

    def xy_to_lonlat(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return WGS 84 longitude, -180 to 180, and latitude [degrees] of plane coordinates."""
        if self.crs.is_geographic:  # the outer edge of a row on a pole lies beyond it
            quarter = (self.turn or FULL_TURN) / 4
            y = np.clip(y, -quarter, quarter)
        lon, lat = self._to_plane.transform(x, y, direction="INVERSE")
        return within_half_turn(lon), lat

    def position(self, lon: Any, lat: Any) -> tuple[Any, Any]:
        """Return fractional row and column of WGS 84 points [degrees], 0 at the centre of the first cell.

        Outside the grid they are negative or too large, and not finite where the plane has no such point.
        """
        return self.position_of(*self._to_plane.transform(lon, lat))

    def position_of(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return fractional row and column of plane coordinates, whichever turn they are counted in."""
        column = (self.unwound(x) - self.x0) / self.dx
        if self.goes_around:
            with np.errstate(invalid="ignore"):
                column = np.mod(column + 0.5, self.nx) - 0.5
        return (self.y0 - np.asarray(y)) / self.dy, column

    def cell_of(self, lat: float, lon: float) -> tuple[int, int]:
        """Return row and column of the cell holding a WGS 84 point [degrees].

        Raises:
            OutsideDomain: If no cell holds it.
        """
        row, column = (float(at) + 0.5 for at in self.position(lon, lat))
        if lat == -90.0 and 0 <= row - self.ny < 1e-6:  # the lower edge of cells, and nothing is below it
            row = self.ny - 0.5
        if not (0 <= column < self.nx and 0 <= row < self.ny):
            (west, south, east, north) = self.lonlat_bounds
            raise OutsideDomain(
                f"the point {lat:g} N {lon:g} E lies outside the grid, which spans about "
                f"{south:.2f} to {north:.2f} N and {west:.2f} to {east:.2f} E"
            )
        return int(row), int(column)

    def unwound(self, x: Any) -> Any:
        """Return plane ``x`` moved by whole turns to within half a turn of the grid's middle.

        Longitude 98 W is 262 on a grid that counts from 0 to 360; planes that do not repeat stay as they are.
        """
        if self.turn is None:
            return x
        west = self.x0 + self.dx * (self.nx - 1) / 2 - self.turn / 2
        with np.errstate(invalid="ignore"):  # a point PROJ cannot place is inf, and stays nowhere
            return west + np.mod(np.asarray(x) - west, self.turn)

    @cached_property
    def lonlat_bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north limits [degrees] of the grid's outer edge.

        West lies between -180 and 180 and east up to 360 further: beyond 180 where the grid crosses that
        meridian. Around a pole they are -180 and 180.
        """
        x_min, y_min, x_max, y_max = self.outer_bounds
        along = np.linspace(0.0, 1.0, 41)
        x, y = x_min + along * (x_max - x_min), y_min + along * (y_max - y_min)
        lon, lat = self.xy_to_lonlat(  # once around, so that longitudes can be followed over 180
            np.concatenate([x, np.full(41, x_max), x[::-1], np.full(41, x_min)]),
            np.concatenate([np.full(41, y_min), y, np.full(41, y_max), y[::-1]]),
        )
        seen = np.isfinite(lon) & np.isfinite(lat)
        lon, lat = np.unwrap(lon[seen], period=FULL_TURN), lat[seen]
        if lon.size == 0:
            return -180.0, -90.0, 180.0, 90.0
        south, north = float(lat.min()), float(lat.max())
        if not self.crs.is_geographic:
            poles = [pole for pole in (-90.0, 90.0) if self._holds_pole(pole)]
            if poles:
                return -180.0, min(south, *poles), 180.0, max(north, *poles)
        west = within_half_turn(float(lon.min()))
        return west, south, west + min(float(np.ptp(lon)), FULL_TURN), north

    def _holds_pole(self, latitude: float) -> bool:
        row, column = self.position(0.0, latitude)
        return bool(-0.5 <= row < self.ny - 0.5 and -0.5 <= column < self.nx - 0.5)

    def matches(self, other: Grid, *, tolerance_cells: float = 0.05) -> bool:
        """Return whether both grids have the same cells on the ground, to a fraction of a cell at corners.

        The same projection comes in many words (with or without its code, a name, a datum's ensemble), so
        places are compared, not definitions.
        """
        if self.shape != other.shape:
            return False
        rows, columns = [0, 0, -1, -1, self.ny // 2], [0, -1, 0, -1, self.nx // 2]
        x, y = other.x[columns], other.y[rows]
        if self.crs_wkt != other.crs_wkt:
            x, y = _between(other.crs_wkt, self.crs_wkt).transform(x, y)
        off_x, off_y = x - self.x[columns], np.abs(y - self.y[rows]).max()
        if self.turn is not None:  # 262 and -98 are one longitude
            off_x -= self.turn * np.round(off_x / self.turn)
        off_x = np.abs(off_x).max()
        return bool(off_x <= tolerance_cells * self.dx and off_y <= tolerance_cells * self.dy)

    def __str__(self) -> str:
        """Return size, spacing, projection and place in one line."""
        unit = "deg" if self.crs.is_geographic else "m"
        west, south, east, north = self.lonlat_bounds
        return (
            f"{self.ny} x {self.nx} cells of {self.dy:g} x {self.dx:g} {unit} ({self.crs.name}), "
            f"{south:.2f} to {north:.2f} N, {west:.2f} to {east:.2f} E"
        )
