"""Reprojection finds the cell PROJ finds, for every cell, between the projections composites come in."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pyproj import Transformer

from nowcast.frame.grid import Grid
from nowcast.frame.regrid import nearest_cells, take_cells

LAEA = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +units=m +ellps=WGS84"
#: Composites as they are: OPERA (1 km), FMI, DWD, KNMI, MeteoSwiss, MRMS over the southern plains.
OPERA = Grid.from_crs(LAEA, nx=1900, ny=2200, x0=1000, y0=-1000, dx=2000, dy=2000)
FMI = Grid.from_crs(
    "+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +a=6371288", nx=760, ny=1226, x0=-118e3, y0=-2176e3, dx=999.7,
    dy=999.6,
)  # fmt: skip
DWD = Grid.from_crs(
    "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +a=6370040 +b=6370040", nx=900, ny=1100, x0=-443e3,
    y0=-3559e3, dx=1000, dy=1000,
)  # fmt: skip
SWISS = Grid.from_crs("EPSG:21781", nx=710, ny=640, x0=255_500, y0=479_500, dx=1000, dy=1000)
DEGREES = Grid.from_crs("EPSG:4326", nx=900, ny=700, x0=0.005, y0=58.995, dx=0.02, dy=0.02)

PAIRS = {
    "DWD to OPERA": (DWD, OPERA),
    "FMI to OPERA": (FMI, OPERA),
    "Swiss to degrees": (SWISS, DEGREES),
    "degrees to DWD": (DEGREES, DWD),
    "OPERA to degrees": (OPERA, DEGREES),
    "DWD to Swiss": (DWD, SWISS),
}


def exact_position(source: Grid, target: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column in the source, with fractions, of each target cell; every cell through PROJ."""
    transformer = Transformer.from_crs(target.crs, source.crs, always_xy=True)
    x, y = transformer.transform(*np.meshgrid(target.x, target.y))
    return (source.y0 - y) / source.dy, (x - source.x0) / source.dx


@pytest.mark.parametrize("pair", PAIRS)
def test_every_cell_is_the_one_proj_finds_but_for_ties(pair: str) -> None:
    source, target = PAIRS[pair]
    row, column = exact_position(source, target)
    inside = (row >= -0.5) & (row < source.ny - 0.5) & (column >= -0.5) & (column < source.nx - 0.5)
    nearest = np.floor(row + 0.5) * source.nx + np.floor(column + 0.5)
    expected = np.where(inside, nearest, -1).astype(np.int64)
    found = nearest_cells(source, target)
    assert found.shape == target.shape and found.dtype == np.int32
    differs = found != expected
    # Where it differs, PROJ's position must lie within a few hundredths of a cell of a border.
    to_border = np.minimum(abs(row - np.floor(row) - 0.5), abs(column - np.floor(column) - 0.5))
    assert to_border[differs].max(initial=0.0) < 0.03
    assert differs.mean() < 0.01
    assert inside.mean() > 0.02


def test_same_grid_keeps_every_cell() -> None:
    np.testing.assert_array_equal(
        nearest_cells(SWISS, SWISS), np.arange(640 * 710, dtype=np.int32).reshape(640, 710)
    )


def test_grid_moved_by_whole_cells_takes_the_neighbours() -> None:
    moved = Grid(SWISS.crs_wkt, 710, 640, SWISS.x0 + 3000, SWISS.y0 - 2000, 1000.0, 1000.0)
    index = nearest_cells(SWISS, moved)
    assert index[0, 0] == 2 * 710 + 3
    assert (index[-2:] == -1).all() and (index[:, -3:] == -1).all()
    assert (index[:-2, :-3] >= 0).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 40), (33, 1), (16, 17), (17, 16), (15, 48)])
def test_any_size_of_target_is_right_to_its_last_cell(rows: int, columns: int) -> None:
    target = Grid(OPERA.crs_wkt, columns, rows, OPERA.x[900] + 1, OPERA.y[1000] + 1, 2000.0, 2000.0)
    index = nearest_cells(OPERA, target)
    row, column = np.divmod(index, OPERA.nx)
    np.testing.assert_array_equal(row, np.broadcast_to(1000 + np.arange(rows)[:, None], (rows, columns)))
    np.testing.assert_array_equal(column, np.broadcast_to(900 + np.arange(columns), (rows, columns)))


def test_target_far_away_finds_nothing() -> None:
    brisbane = Grid.from_crs("EPSG:4326", nx=20, ny=20, x0=152.0, y0=-27.0, dx=0.01, dy=0.01)
    assert (nearest_cells(SWISS, brisbane) == -1).all()


def test_states_are_taken_as_they_are_and_never_mixed() -> None:
    source = Grid.from_crs("EPSG:3035", nx=3, ny=2, x0=0, y0=0, dx=1000, dy=1000)
    target = Grid(source.crs_wkt, 4, 3, -1000.0, 1000.0, 1000.0, 1000.0)
    values = np.array([[20.0, -np.inf, np.nan], [0.0, 30.0, -10.0]], dtype=np.float32)
    expected = np.full((3, 4), np.nan, dtype=np.float32)
    expected[1:, 1:] = values
    np.testing.assert_array_equal(take_cells(values, nearest_cells(source, target)), expected)
    finer = Grid(source.crs_wkt, 6, 4, -250.0, 250.0, 500.0, 500.0)
    np.testing.assert_array_equal(
        take_cells(values, nearest_cells(source, finer)), values.repeat(2, axis=0).repeat(2, axis=1)
    )


def test_rain_keeps_its_place_on_the_earth() -> None:
    row, column = DWD.cell_of(50.0, 8.6)
    values = np.full(DWD.shape, -10.0, dtype=np.float32)
    values[row - 1 : row + 2, column - 1 : column + 2] = 40.0
    moved = take_cells(values, nearest_cells(DWD, OPERA))
    assert moved[OPERA.cell_of(50.0, 8.6)] == 40.0
    assert 1 <= np.count_nonzero(moved == 40.0) <= 4  # 9 km2 in cells of 4 km2


#: Grids around the globe and across its seams, and what is cut out of them: every cell as PROJ finds it.
GLOBE = Grid.from_crs("EPSG:4326", nx=720, ny=360, x0=0.25, y0=89.75, dx=0.5, dy=0.5)
GLOBE_180 = Grid.from_crs("EPSG:4326", nx=720, ny=360, x0=-179.75, y0=89.75, dx=0.5, dy=0.5)
MRMS_360 = Grid.from_crs("EPSG:4326", nx=700, ny=350, x0=230.05, y0=54.95, dx=0.1, dy=0.1)
ARCTIC = Grid.from_crs(
    "+proj=stere +lat_0=90 +lat_ts=60 +R=6371229", nx=150, ny=140, x0=-3e6, y0=2.8e6, dx=4e4, dy=4e4
)
FIJI = Grid.from_crs("EPSG:3832", nx=90, ny=80, x0=2.8e6, y0=-1.4e6, dx=1e4, dy=1e4)
WEB = Grid.from_crs("EPSG:3857", nx=200, ny=150, x0=19e6, y0=2e6, dx=2e4, dy=2e4)  # beyond its own edge
SEAMS = {
    "globe to globe": (GLOBE, GLOBE_180),
    "globe to Arctic": (GLOBE, ARCTIC),
    "globe from -180 to Arctic": (GLOBE_180, ARCTIC),
    "Arctic to globe": (ARCTIC, GLOBE),
    "America to globe": (MRMS_360, GLOBE_180),
    "America to Arctic": (MRMS_360, ARCTIC),
    "globe to America": (GLOBE_180, MRMS_360),
    "globe to Fiji": (GLOBE_180, FIJI),
    "Fiji to globe": (FIJI, GLOBE),
    "globe to Mercator over its edge": (GLOBE, WEB),
    "Mercator over its edge to globe": (WEB, GLOBE_180),
}


@pytest.mark.parametrize("pair", SEAMS)
def test_no_cell_is_taken_from_elsewhere_across_a_seam_or_a_pole(pair: str) -> None:
    source, target = SEAMS[pair]
    lon, lat = target.xy_to_lonlat(*np.meshgrid(target.x, target.y))
    index = nearest_cells(source, target)
    found = index >= 0
    assert found.mean() > 0.0005
    # Every cell found lies around the point, within its own size; every point of the source is found.
    row, column = np.divmod(index[found], source.nx)
    at_row, at_column = source.position(lon[found], lat[found])
    off = np.abs(at_column - column)
    off = np.minimum(off, source.nx - off) if source.goes_around else off
    assert max(np.abs(at_row - row).max(), off.max()) < 0.55
    row, column = source.position(lon, lat)
    with np.errstate(invalid="ignore"):
        well_inside = (
            (row > -0.45) & (row < source.ny - 0.55) & (column > -0.45) & (column < source.nx - 0.55)
        )
    assert found[well_inside].all()
