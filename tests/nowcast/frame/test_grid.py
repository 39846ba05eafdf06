"""Cells are where the projection says, a grid survives being written, and nonsense is refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod

from nowcast.errors import OutsideDomain, UnreadableFile
from nowcast.frame.grid import METRES_PER_DEGREE, Grid, crs_from_cf

#: Projections radar composites come in: OPERA, FMI, DWD, KNMI, MeteoSwiss, BoM, MRMS.
PROJECTIONS = {
    "laea": "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +units=m +ellps=WGS84",
    "polar": "+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +a=6371288 +units=m",
    "dwd": "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +a=6370040 +b=6370040 +units=m",
    "knmi": "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752 +x_0=0 +y_0=0",
    "swiss": "EPSG:21781",
    "albers": "+proj=aea +lat_1=-18 +lat_2=-36 +lat_0=-27 +lon_0=153 +ellps=GRS80",
    "degrees": "EPSG:4326",
}
#: Longitude and latitude of a place inside each.
PLACES = {
    "laea": (12.0, 56.0),
    "polar": (25.0, 62.0),
    "dwd": (9.0, 51.0),
    "knmi": (5.0, 52.0),
    "swiss": (8.0, 47.0),
    "albers": (153.0, -27.5),
    "degrees": (-97.0, 36.0),
}


def grid_around(name: str, nx: int = 60, ny: int = 50) -> Grid:
    """A grid of about 2 km cells with the place of its projection in the middle."""
    somewhere = Grid.from_crs(PROJECTIONS[name], nx=1, ny=1, x0=0, y0=0, dx=1, dy=1)
    x, y = somewhere.lonlat_to_xy(*PLACES[name])
    step = 0.02 if name == "degrees" else 2000.0
    return Grid.from_crs(
        PROJECTIONS[name], nx=nx, ny=ny, x0=x - step * nx / 2, y0=y + step * ny / 2, dx=step, dy=step
    )


@pytest.mark.parametrize("name", PROJECTIONS)
def test_centre_of_every_cell_lies_in_that_cell(name: str) -> None:
    grid = grid_around(name)
    lon, lat = grid.xy_to_lonlat(*np.meshgrid(grid.x, grid.y))
    for row, column in [(0, 0), (0, 59), (49, 0), (49, 59), (25, 30), (7, 41)]:
        assert grid.cell_of(float(lat[row, column]), float(lon[row, column])) == (row, column)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_north_is_up_and_east_is_right(name: str) -> None:
    grid = grid_around(name)
    lon, lat = grid.xy_to_lonlat(grid.x[[30, 30, 59]], grid.y[[25, 0, 25]])
    assert lat[1] > lat[0] and lon[2] > lon[0]


@pytest.mark.parametrize("name", PROJECTIONS)
def test_plane_and_sphere_agree_there_and_back(name: str) -> None:
    grid = grid_around(name)
    x, y = np.meshgrid(grid.x, grid.y)
    there = grid.xy_to_lonlat(x, y)
    back = grid.lonlat_to_xy(*there)
    np.testing.assert_allclose(back[0], x, atol=1e-6 * grid.dx)
    np.testing.assert_allclose(back[1], y, atol=1e-6 * grid.dy)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_cells_are_as_large_on_the_ground_as_they_say(name: str) -> None:
    grid = grid_around(name)
    lon, lat = grid.xy_to_lonlat(grid.x[[30, 31, 30]], grid.y[[25, 25, 26]])
    wgs84 = Geod(ellps="WGS84")
    _, _, width = wgs84.inv(lon[0], lat[0], lon[1], lat[1])
    _, _, height = wgs84.inv(lon[0], lat[0], lon[2], lat[2])
    # conformal and equal-area projections stretch by a few percent away from their centre
    assert grid.cell_km[0] == pytest.approx(height / 1000, rel=0.07)
    assert grid.cell_km[1] == pytest.approx(width / 1000, rel=0.07)


def test_cell_of_a_grid_in_degrees_shrinks_with_latitude() -> None:
    grid = Grid.from_crs("EPSG:4326", nx=3, ny=3, x0=10.0, y0=60.01, dx=0.01, dy=0.01)
    assert grid.cell_km[0] == pytest.approx(0.01 * METRES_PER_DEGREE / 1000)
    assert grid.cell_km[1] == pytest.approx(0.01 * METRES_PER_DEGREE / 2000, rel=1e-6)


def test_kilometres_of_a_plane_in_kilometres_are_not_metres() -> None:
    grid = Grid.from_crs("+proj=laea +lat_0=55 +lon_0=10 +units=km", nx=3, ny=3, x0=0, y0=0, dx=1.5, dy=2)
    assert grid.cell_km == (2.0, 1.5)


def test_coordinates_are_centres_from_the_north_west() -> None:
    grid = Grid.from_crs("EPSG:3035", nx=3, ny=2, x0=4_000_000, y0=3_000_000, dx=1000, dy=2000)
    assert grid.x.tolist() == [4_000_000, 4_001_000, 4_002_000]
    assert grid.y.tolist() == [3_000_000, 2_998_000]
    assert grid.outer_bounds == (3_999_500, 2_997_000, 4_002_500, 3_001_000)
    assert grid.shape == (2, 3)


def test_cell_borders_belong_to_one_cell_each() -> None:
    grid = Grid.from_crs("EPSG:4326", nx=4, ny=4, x0=0.5, y0=3.5, dx=1.0, dy=1.0)
    assert grid.cell_of(3.999, 0.001) == (0, 0)
    assert grid.cell_of(0.001, 3.999) == (3, 3)
    assert grid.cell_of(2.5, 1.5) == (1, 1)
    for lat, lon in ((4.01, 1.0), (-0.01, 1.0), (1.0, -0.01), (1.0, 4.01), (math.nan, 1.0), (1.0, math.inf)):
        with pytest.raises(OutsideDomain):
            grid.cell_of(lat, lon)


def test_point_outside_learns_where_the_grid_is() -> None:
    with pytest.raises(OutsideDomain, match=r"the point 10 N 20 E .* spans about .*6\d\.\d\d N"):
        grid_around("polar").cell_of(10.0, 20.0)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_bounds_hold_every_cell(name: str) -> None:
    grid = grid_around(name)
    west, south, east, north = grid.lonlat_bounds
    lon, lat = grid.xy_to_lonlat(*np.meshgrid(grid.x, grid.y))
    assert west <= lon.min() and lon.max() <= east and south <= lat.min() and lat.max() <= north


# Written and read again -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.floats(-6e6, 6e6),
    st.floats(-6e6, 6e6),
    st.floats(100, 10_000),
    st.floats(100, 10_000),
    st.integers(2, 3000),
    st.integers(2, 3000),
)
def test_grid_written_as_coordinates_is_the_same_grid(
    x0: float, y0: float, dx: float, dy: float, nx: int, ny: int
) -> None:
    grid = Grid(LAEA, nx, ny, x0, y0, dx, dy)
    again = Grid.from_coordinates(grid.crs_wkt, grid.x, grid.y)
    # the mean of the steps is the step but for the last bit
    np.testing.assert_allclose(again.x, grid.x, rtol=1e-14, atol=1e-9)
    np.testing.assert_allclose(again.y, grid.y, rtol=1e-14, atol=1e-9)
    assert again.crs_wkt == grid.crs_wkt and again.matches(grid)
    assert Grid.from_coordinates(again.crs_wkt, again.x, again.y) == again


LAEA = Grid.from_crs("EPSG:3035", nx=1, ny=1, x0=0, y0=0, dx=1, dy=1).crs_wkt


@pytest.mark.parametrize("step", [1000.0, 0.01, 999.674, 2000.0 / 3, 1069.123])
def test_spacing_of_usual_grids_is_found_to_the_last_bit(step: float) -> None:
    grid = Grid(LAEA, 760, 1226, -118_831.25, 2_345_678.9, step, step)
    assert Grid.from_coordinates(grid.crs_wkt, grid.x, grid.y) == grid


def test_coordinates_rounded_by_the_agency_still_make_a_grid() -> None:
    centres = np.round(np.arange(300) * 0.01 + 5.0, 3).astype(np.float32)
    grid = Grid.from_coordinates("EPSG:4326", centres, centres[::-1])
    assert grid.dx == pytest.approx(0.01, rel=1e-5) and grid.dy == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        ([0, 1, 2], [0, 1, 2], "y must be evenly spaced and run north to south"),
        ([2, 1, 0], [2, 1, 0], "x must be evenly spaced and run west to east"),
        ([0, 1, 3], [2, 1, 0], "x must be evenly spaced"),
        ([0, 1, 2], [2, 1, np.nan], "y needs at least two finite values"),
        ([0], [2, 1], "x needs at least two finite values, has 1"),
    ],
)
def test_coordinates_that_make_no_grid_are_refused(x: list[float], y: list[float], sentence: str) -> None:
    with pytest.raises(UnreadableFile, match=sentence):
        Grid.from_coordinates("EPSG:3035", np.array(x, dtype=float), np.array(y, dtype=float))


@pytest.mark.parametrize("changes", [{"nx": 0}, {"ny": -1}, {"dx": 0.0}, {"dy": -5.0}, {"x0": math.nan}])
def test_grid_without_cells_or_place_is_refused(changes: dict[str, float]) -> None:
    sizes = {"nx": 2, "ny": 2, "x0": 0.0, "y0": 0.0, "dx": 1.0, "dy": 1.0} | changes
    with pytest.raises(UnreadableFile, match="a grid needs"):
        Grid.from_crs("EPSG:3035", **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("crs", ["nonsense", "+proj=nonsense", "EPSG:999999", {}, {"grid_mapping_name": "x"}])
def test_reference_system_that_makes_no_sense_is_named(crs: str | dict[str, str]) -> None:
    with pytest.raises(UnreadableFile, match="cannot be understood"):
        Grid.from_crs(crs, nx=1, ny=1, x0=0, y0=0, dx=1, dy=1)


# Comparison -----------------------------------------------------------------------------------------------


def test_grids_match_to_a_fraction_of_a_cell_at_the_far_corner() -> None:
    base = Grid(LAEA, 1000, 800, 0.0, 0.0, 1000.0, 1000.0)
    assert base.matches(Grid(LAEA, 1000, 800, 40.0, -40.0, 1000.0, 1000.0))
    assert not base.matches(Grid(LAEA, 1000, 800, 60.0, 0.0, 1000.0, 1000.0))
    assert not base.matches(Grid(LAEA, 1000, 800, 0.0, 60.0, 1000.0, 1000.0))
    assert not base.matches(Grid(LAEA, 1000, 800, 0.0, 0.0, 1000.1, 1000.0))  # 100 m at the 1000th column
    assert not base.matches(Grid(LAEA, 1000, 800, 0.0, 0.0, 1000.0, 999.9))
    assert not base.matches(Grid(LAEA, 1000, 801, 0.0, 0.0, 1000.0, 1000.0))


def test_the_same_projection_in_other_words_matches() -> None:
    sizes = {"nx": 10, "ny": 10, "x0": 0.0, "y0": 0.0, "dx": 1000.0, "dy": 1000.0}
    code = Grid.from_crs("EPSG:3035", **sizes)  # type: ignore[arg-type]
    words = Grid.from_crs(code.crs.to_wkt("WKT1_GDAL"), **sizes)  # type: ignore[arg-type]
    other = Grid.from_crs("EPSG:3034", **sizes)  # type: ignore[arg-type]
    assert code.crs_wkt != words.crs_wkt and code.matches(words) and words.matches(code)
    assert not code.matches(other)


def test_grid_says_what_it_is() -> None:
    text = str(Grid.from_crs("EPSG:4326", nx=20, ny=10, x0=5.05, y0=56.95, dx=0.1, dy=0.1))
    assert text == "10 x 20 cells of 0.1 x 0.1 deg (WGS 84), 56.00 to 57.00 N, 5.00 to 7.00 E"


def test_longitudes_may_count_from_0_to_360_or_from_minus_180() -> None:
    mrms = Grid.from_crs("EPSG:4326", nx=7000, ny=3500, x0=230.005, y0=54.995, dx=0.01, dy=0.01)
    same = Grid.from_crs("EPSG:4326", nx=7000, ny=3500, x0=-129.995, y0=54.995, dx=0.01, dy=0.01)
    assert mrms.cell_of(38.503, -97.997) == same.cell_of(38.503, -97.997) == (1649, 3200)
    with pytest.raises(OutsideDomain):
        mrms.cell_of(38.5, 10.0)


# Around the globe -------------------------------------------------------------------------------------------

#: A grid in degrees, 0.5 or 1 wide, from any longitude in any turn, up to once around.
SPANS = st.tuples(
    st.floats(-540, 540), st.sampled_from([0.25, 0.5, 1.0]), st.integers(2, 1440), st.floats(-60, 60)
)


@given(
    SPANS, st.floats(-0.45, 0.45), st.floats(-0.45, 0.45), st.sampled_from([-360, 0, 360]), st.floats(0, 1)
)
def test_a_place_in_a_cell_of_degrees_finds_it_in_any_turn(
    span: tuple[float, float, int, float], down: float, across: float, turn: int, share: float
) -> None:
    x0, step, nx, y0 = span
    nx = min(nx, int(360 / step))
    grid = Grid.from_crs("EPSG:4326", nx=nx, ny=20, x0=x0, y0=y0, dx=step, dy=step)
    column = min(int(share * nx), nx - 1)
    lon, lat = grid.xy_to_lonlat(grid.x[column] + across * step, grid.y[7] - down * step)
    assert -180 <= lon <= 180
    assert grid.cell_of(lat, lon + turn) == (7, column)
    west, south, east, north = grid.lonlat_bounds
    assert -180 <= west <= 180 and west < east <= west + 360
    assert any(west <= lon + k <= east + 1e-9 for k in (0, 360)) and south <= lat <= north


#: Planes about the 180th meridian and the poles.
FAR_PLANES = [
    "EPSG:2193",  # New Zealand
    "EPSG:3832",  # Mercator about 150 E
    "EPSG:3857",  # Mercator whose edge is 180 E
    "+proj=eqc +R=6371000",
    "+proj=cea +lat_ts=30 +datum=WGS84",
    "+proj=laea +lat_0=-41 +lon_0=179 +datum=WGS84",
    "+proj=stere +lat_0=90 +lon_0=180 +lat_ts=60 +R=6371000",
    "+proj=stere +lat_0=-90 +lon_0=0 +lat_ts=-71 +datum=WGS84",
    "+proj=lcc +lat_1=60 +lat_2=70 +lat_0=65 +lon_0=-175 +datum=WGS84",
]


@pytest.mark.parametrize("plane", FAR_PLANES)
def test_planes_across_180_find_their_cells(plane: str) -> None:
    somewhere = Grid.from_crs(plane, nx=1, ny=1, x0=0, y0=0, dx=1, dy=1)
    x, y = somewhere._to_plane.transform(
        179.7, -75.0 if "lat_0=-90" in plane else 62.0 if "65" in plane else -40.0
    )
    grid = Grid.from_crs(plane, nx=60, ny=40, x0=x - 10_000, y0=y + 20_000, dx=2000, dy=2000)
    lon, lat = grid.xy_to_lonlat(*np.meshgrid(grid.x, grid.y))
    assert (np.abs(lon) <= 180).all()
    if "stere" not in plane:
        assert lon.min() < -179 and lon.max() > 179  # it does cross
    for row, column in [(0, 0), (0, 59), (39, 0), (39, 59), (20, 30)]:
        for turn in (-360, 0, 360):
            assert grid.cell_of(float(lat[row, column]), float(lon[row, column]) + turn) == (row, column)


def test_bounds_across_180_go_on_and_around_a_pole_are_the_whole_turn() -> None:
    fiji = Grid.from_crs("EPSG:4326", nx=20, ny=10, x0=175.5, y0=-14.5, dx=1, dy=1)
    assert fiji.lonlat_bounds == (175, -24, 195, -14)
    same = Grid.from_crs("EPSG:4326", nx=20, ny=10, x0=-184.5, y0=-14.5, dx=1, dy=1)
    assert same.lonlat_bounds == (175, -24, 195, -14) and same.matches(fiji) and fiji.matches(same)
    pole = Grid.from_crs(
        "+proj=stere +lat_0=90 +lon_0=0 +R=6371000", nx=9, ny=9, x0=-4e5, y0=4e5, dx=1e5, dy=1e5
    )
    west, south, east, north = pole.lonlat_bounds
    assert (west, east, north) == (-180, 180, 90) and 80 < south < 86
    globe = Grid.from_crs("EPSG:4326", nx=360, ny=180, x0=0.5, y0=89.5, dx=1, dy=1)
    assert globe.lonlat_bounds == (0, -90, 360, 90) and globe.goes_around
    assert globe.cell_of(90, 12.3) == (0, 12) and globe.cell_of(-90, 12.3) == (179, 12)


@pytest.mark.parametrize(
    ("crs", "because"),
    [
        ("EPSG:2053", "count to the west and south"),
        ("+proj=merc +axis=wsu", "count to the west and south"),
        ("EPSG:4978", "no map of the Earth: Geocentric CRS"),
        ("EPSG:5773", "no map of the Earth: Vertical CRS"),
        ('LOCAL_CS["x",UNIT["metre",1]]', "no map of the Earth: Engineering CRS"),
        ("+proj=laea +R=1737400", "no map of the Earth: an axis of its body is 1737400 m"),
    ],
)
def test_what_is_no_map_of_the_earth_is_refused(crs: str, because: str) -> None:
    with pytest.raises(UnreadableFile, match=because):
        Grid.from_crs(crs, nx=1, ny=1, x0=0, y0=0, dx=1, dy=1)


@pytest.mark.parametrize(("crs", "flat"), [("EPSG:7405", "EPSG:27700"), ("EPSG:4979", "EPSG:4326")])
def test_heights_are_left_out_of_a_reference_system(crs: str, flat: str) -> None:
    grid = Grid.from_crs(crs, nx=2, ny=2, x0=0, y0=0, dx=1, dy=1)
    assert grid.matches(Grid.from_crs(flat, nx=2, ny=2, x0=0, y0=0, dx=1, dy=1))


@pytest.mark.parametrize("meridian", [{}, {"longitude_of_prime_meridian": 2.33722917}])
def test_an_earth_of_its_own_stands_on_the_meridian_it_names_or_on_greenwich(meridian):
    mapping = {
        "grid_mapping_name": "polar_stereographic",
        "straight_vertical_longitude_from_pole": 0.0,
        "latitude_of_projection_origin": 90.0,
        "standard_parallel": 60.0,
        "earth_radius": 6_371_007.0,
        **meridian,
    }
    assert crs_from_cf(mapping).to_wkt() == CRS.from_cf(mapping).to_wkt()
