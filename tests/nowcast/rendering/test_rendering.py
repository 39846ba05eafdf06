from __future__ import annotations

import io
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from nowcast.errors import BadRequest
from nowcast.frame.grid import Grid
from nowcast.frame.units import NO_ECHO_DBZ
from nowcast.rendering import Panel, render_field, render_map, render_panels
from nowcast.rendering.basemap import _round_below, basemap
from nowcast.rendering.coastline import outlines
from nowcast.rendering.layout import HEADER, Layout
from nowcast.rendering.maps import pooled_codes
from nowcast.rendering.palette import CLASSES, FIRST_CLASS, NO_ECHO, NOT_OBSERVED_CODE
from nowcast.rendering.themes import THEMES

STEREOGRAPHIC = "+proj=stere +lat_0=90 +lon_0=10 +lat_ts=60 +datum=WGS84"


def azimuthal(lat: float, lon: float, *, nx: int = 200, ny: int = 200, cell: float = 2000.0) -> Grid:
    """Return a grid about a place."""
    return Grid.from_crs(
        f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84",
        nx=nx, ny=ny, x0=-(nx - 1) / 2 * cell, y0=(ny - 1) / 2 * cell, dx=cell, dy=cell,
    )  # fmt: skip


def dry(grid: Grid) -> np.ndarray:
    return np.full(grid.shape, NO_ECHO_DBZ, dtype=np.float32)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def pixel_at(png: bytes, grid: Grid, row: float, column: float) -> tuple[int, ...]:
    """Return the colour of a map's pixel at fractional row and column of a grid."""
    image = pixels(png)
    layout = Layout.of(grid, 1, 1, image.shape[1], captions=False)
    left, top = layout.place(0)
    x = left + (column + 0.5) * layout.map_width / grid.nx
    y = top + (row + 0.5) * layout.map_height / grid.ny
    return tuple(int(value) for value in image[int(y), int(x)])


def test_value_no_echo_and_not_observed_look_different():
    grid = azimuthal(52.2, 5.6, nx=12, ny=10)  # all land
    dbz = dry(grid)
    dbz[3, 4], dbz[6:, 8:] = 37.0, np.nan
    for theme, colours in THEMES.items():
        png = render_map(dbz, grid, title="States", theme=theme)
        assert pixel_at(png, grid, 3, 4) == CLASSES[6].colour
        assert pixel_at(png, grid, 3.1, 1.3) == colours.land
        unseen = np.array([pixel_at(png, grid, 8, column) for column in np.linspace(9, 11, 40)])
        assert not np.any(np.all(unseen == colours.land, axis=1))
        assert not np.any(np.all(unseen == colours.water, axis=1))
        assert len(np.unique(unseen, axis=0)) > 1  # hatched


def test_echo_below_the_legend_is_drawn_as_no_echo():
    grid = azimuthal(52.2, 5.6, nx=12, ny=10)
    assert render_map(np.full(grid.shape, 4.9, np.float32), grid, title="") == render_map(
        dry(grid), grid, title=""
    )


def test_a_single_cell_of_a_continental_grid_is_still_seen():
    grid = azimuthal(50, 10, nx=1900, ny=2200, cell=2000.0)
    dbz = dry(grid)
    dbz[1003, 777] = 61.0
    image = pixels(render_map(dbz, grid, title="One cell", width_px=600))
    layout = Layout.of(grid, 1, 1, 600, captions=False)
    left, top = layout.place(0)
    on_map = image[top : top + layout.map_height, left : left + layout.map_width]
    hits = np.argwhere(np.all(on_map == CLASSES[-1].colour, axis=2))
    assert len(hits) == 1
    expected = np.array([1003.5 * layout.map_height / grid.ny, 777.5 * layout.map_width / grid.nx])
    assert np.all(np.abs(hits[0] + 0.5 - expected) <= 1.0)


def test_pooling_prefers_echo_to_gaps_and_gaps_to_no_echo():
    dbz = np.full((4, 6), NO_ECHO_DBZ, dtype=np.float32)
    dbz[0, 0], dbz[1, 1] = np.nan, 12.0  # left upper block: echo beside a gap
    dbz[3, 3] = np.nan  # middle lower block: a gap in dry cells
    dbz[0, 4], dbz[0, 5] = 22.0, 41.0  # right upper block: two values
    assert pooled_codes(dbz, 2, 3).tolist() == [
        [FIRST_CLASS + 1, NO_ECHO, FIRST_CLASS + 7],
        [NO_ECHO, NOT_OBSERVED_CODE, NO_ECHO],
    ]


def test_pooling_keeps_every_cell_where_sizes_do_not_divide():
    codes = [pooled_codes(np.eye(1, 101, at, dtype=np.float32) * 70 - 10, 1, 37) for at in range(101)]
    assert all(np.count_nonzero(code) == 1 for code in codes)


def test_a_grid_smaller_than_the_map_keeps_its_cells():
    dbz = np.arange(12, dtype=np.float32).reshape(3, 4) * 5
    assert pooled_codes(dbz, 30, 40).shape == (3, 4)
    assert pooled_codes(dbz, 30, 2).shape == (3, 2)


@pytest.mark.parametrize("value", [np.nan, NO_ECHO_DBZ, 75.0])
def test_a_uniform_field_is_drawn_whatever_its_state(value):
    grid = azimuthal(60, 25, nx=60, ny=90)
    png = render_map(np.full(grid.shape, value, np.float32), grid, title="Uniform")
    assert pixels(png).shape[1] == 1000


def test_the_same_arguments_give_the_same_bytes():
    grid = azimuthal(47, 8)
    dbz = (np.add.outer(np.arange(200), np.arange(200)) % 90 - 20).astype(np.float32)
    first = render_map(dbz, grid, title="Again", subtitle="and again", theme="dark")
    basemap.cache_clear()
    assert render_map(dbz, grid, title="Again", subtitle="and again", theme="dark") == first


def test_the_legend_shows_every_class():
    grid = azimuthal(47, 8, nx=80, ny=40)
    image = pixels(render_map(dry(grid), grid, title="Legend", width_px=700))
    for echo in CLASSES:
        assert np.count_nonzero(np.all(image == echo.colour, axis=2)) > 300


def test_words_too_long_or_broken_stay_on_one_line():
    grid = azimuthal(47, 8, nx=80, ny=40)
    words = "Österreich: Niederschlag\n" * 40
    long = pixels(render_map(dry(grid), grid, title=words, subtitle=words, credit=words, width_px=500))
    short = pixels(render_map(dry(grid), grid, title="x", width_px=500))
    assert long.shape == short.shape
    np.testing.assert_array_equal(long[:, -15:], short[:, -15:])  # nothing runs into the margin


def test_panels_lie_side_by_side_with_one_legend():
    grid = azimuthal(47, 8, nx=80, ny=40)
    wet = np.full(grid.shape, 42.0, np.float32)
    png = render_panels(
        [Panel(dry(grid), "Observed"), Panel(wet, "+10 min"), Panel(wet, "+20 min")],
        grid,
        title="Row",
        width_px=900,
    )
    layout = Layout.of(grid, 3, 3, 900, captions=True)
    image = pixels(png)
    assert image.shape[0] == layout.height
    (x0, y0), (x1, y1), (x2, y2) = (layout.place(number) for number in range(3))
    assert y0 == y1 == y2 > HEADER
    assert x0 < x0 + layout.map_width < x1 < x1 + layout.map_width < x2 < 900 - layout.map_width
    share = [
        np.mean(
            np.all(image[y : y + layout.map_height, x : x + layout.map_width] == CLASSES[7].colour, axis=2)
        )
        for x, y in ((x0, y0), (x1, y1), (x2, y2))
    ]
    assert share[0] == 0.0
    assert min(share[1:]) > 0.8


def test_panels_wrap_into_rows():
    grid = azimuthal(47, 8, nx=80, ny=40)
    layout = Layout.of(grid, 5, 2, 900, captions=True)
    places = [layout.place(number) for number in range(5)]
    assert [x for x, _ in places] == [places[0][0], places[1][0]] * 2 + [places[0][0]]
    assert len({y for _, y in places}) == layout.rows == 3


def test_unreasonable_wishes_are_refused():
    grid = azimuthal(47, 8, nx=8, ny=8)
    with pytest.raises(BadRequest, match="theme must be one of light, dark"):
        render_map(dry(grid), grid, title="", theme="pink")
    with pytest.raises(BadRequest, match="400 to 2000 pixels"):
        render_map(dry(grid), grid, title="", width_px=100_000)
    with pytest.raises(BadRequest, match="at least one field"):
        render_panels([], grid, title="")
    for render in (lambda dbz: render_map(dbz, grid, title=""), lambda dbz: render_field(dbz, grid)):
        with pytest.raises(BadRequest, match=r"\(3, 3\) cells, its grid \(8, 8\)"):
            render(np.zeros((3, 3), np.float32))


def test_an_overlay_has_one_pixel_per_cell_and_keeps_the_states_apart():
    grid = azimuthal(47, 8, nx=3, ny=2)
    dbz = np.array([[np.nan, -10.0, 5.0], [30.0, 4.0, 75.0]], dtype=np.float32)
    image = Image.open(io.BytesIO(render_field(dbz, grid)))
    assert (image.mode, image.size) == ("RGBA", (3, 2))
    rgba = np.asarray(image)
    assert rgba[0, 1].tolist() == rgba[1, 1].tolist() == [0, 0, 0, 0]
    assert 0 < rgba[0, 0, 3] < 255
    assert rgba[0, 2].tolist() == [*CLASSES[0].colour, 255]
    assert rgba[1, 0].tolist() == [*CLASSES[5].colour, 255]
    assert rgba[1, 2].tolist() == [*CLASSES[-1].colour, 255]


@pytest.mark.parametrize(
    ("centre", "cell", "land", "water"),
    [
        ((52.0, 5.0), 3000.0, (52.1, 5.6), (52.6, 3.5)),  # the Netherlands and the North Sea
        ((-41.0, 178.0), 6000.0, (-39.0, 176.0), (-41.0, -179.0)),  # New Zealand, across the date line
        ((90.0, 0.0), 60000.0, (73.0, -40.0), (86.0, 130.0)),  # Greenland and the North Pole
        ((-85.0, 60.0), 60000.0, (-88.0, 100.0), (-60.0, 60.0)),  # Antarctica
        ((66.0, -178.0), 6000.0, (66.5, 179.5), (64.2, -178.0)),  # Chukotka, cut by the date line
        ((30.0, 102.0), 1000.0, (30.2, 102.3), None),  # inland: no coast within the view
        ((0.0, -140.0), 2000.0, None, (0.5, -140.5)),  # mid-ocean; its antipode is Africa
        ((43.0, 48.0), 6000.0, (44.0, 44.0), (42.0, 51.0)),  # the Caspian Sea, a hole in the land
    ],
)
def test_land_and_water_are_where_they_are(centre, cell, land, water):
    grid = azimuthal(*centre, cell=cell, nx=100, ny=100)
    ground = basemap(grid, 400, 400, "light").ground
    for place, colour in ((land, THEMES["light"].land), (water, THEMES["light"].water)):
        if place is not None:
            x, y = grid.lonlat_to_xy(place[1], place[0])
            at = ((x - grid.x0) / grid.dx + 0.5) * 4, ((grid.y0 - y) / grid.dy + 0.5) * 4
            around = range(-3, 4)
            nearby = [ground.getpixel((int(at[0]) + i, int(at[1]) + j)) for i in around for j in around]
            assert max(set(nearby), key=nearby.count) == colour  # a line of the graticule may pass


@pytest.mark.parametrize("first_longitude", [-100.0, 260.0])
def test_a_latitude_longitude_grid_may_count_either_way(first_longitude):
    grid = Grid.from_crs("EPSG:4326", nx=300, ny=200, x0=first_longitude, y0=45.0, dx=0.1, dy=0.1)
    ground = basemap(grid, 600, 400, "light").ground
    assert ground.getpixel((21, 103)) == THEMES["light"].land  # Kansas
    assert ground.getpixel((210, 375)) == THEMES["light"].water  # the Gulf of Mexico


#: Degrees around the globe and most of it, and cylinders across their own edge: first centre, step and size.
AROUND = {
    "from 0": ("EPSG:4326", 0.25, 89.75, 0.5, 720, 360),
    "from -180": ("EPSG:4326", -179.75, 89.75, 0.5, 720, 360),
    "from 100": ("EPSG:4326", 100.25, 89.75, 0.5, 720, 360),
    "three hundred degrees": ("EPSG:4326", 20.25, 79.75, 0.5, 600, 320),
    "a column twice": ("EPSG:4326", 0.0, 90.0, 0.5, 721, 361),
    "Mercator over its edge": ("EPSG:3857", 1.0e6, 12e6, 5e4, 800, 480),
    "Pacific cylinder": ("+proj=eqc +lon_0=180 +R=6371000", -19.9e6, 9.9e6, 5e4, 797, 397),
}


@pytest.mark.parametrize("name", AROUND)
def test_around_the_globe_land_is_land_and_no_line_runs_across(name):
    crs, x0, y0, step, nx, ny = AROUND[name]
    grid = Grid.from_crs(crs, nx=nx, ny=ny, x0=x0, y0=y0, dx=step, dy=step)
    shapes = outlines(grid)
    longest = max(
        np.abs(np.diff(line[:, 0])).max() for line in shapes.coasts + shapes.borders if len(line) > 1
    )
    assert longest < 0.1 * nx  # streaks over the seam would be as long as the map is wide
    ground = basemap(grid, nx, ny, "light").ground
    places = {
        "land": [(60, 90), (20, 20), (-25, 135), (45, -100), (-10, -55), (67, 179), (67, -179),
                 (-80, 60), (-86.5, 60), (-86.5, -100)],
        "water": [(-30, 80), (0, -140), (-40, 178.0), (0, -25), (40, 170), (42, 51), (-60, 10), (0, 0.0)],
    }  # fmt: skip
    for kind, colour in (("land", THEMES["light"].land), ("water", THEMES["light"].water)):
        for lat, lon in places[kind]:
            row, column = grid.position(lon, lat)
            if not (5 < row < ny - 5 and 5 < column < nx - 5):
                continue
            around = range(-3, 4)
            nearby = [
                ground.getpixel((int(column + 0.5) + i, int(row + 0.5) + j)) for i in around for j in around
            ]
            assert max(set(nearby), key=nearby.count) == colour, (kind, lat, lon)


def test_borders_are_lines_between_countries_and_coasts_are_not():
    assert len(outlines(azimuthal(47, 8)).borders) > 5  # Switzerland and its neighbours
    assert outlines(azimuthal(-42, 172)).borders == ()  # New Zealand has none
    assert outlines(azimuthal(30, 102)).coasts == ()  # far inland


def test_the_date_line_is_no_coast():
    grid = azimuthal(67.5, 180, nx=50, ny=50)  # inland Chukotka, where the atlas cuts Russia in two
    assert all(np.abs(line - 24.5).min() > 15 for line in outlines(grid).coasts)


def test_the_scale_bar_is_a_round_length():
    assert [_round_below(value) for value in (0.7, 1, 4.99, 5, 63, 250)] == [0.5, 1, 2, 5, 50, 200]
    ground = basemap(azimuthal(60, 20, cell=1000.0, nx=300), 600, 400, "light")
    assert (ground.bar_km, ground.bar_px) == (50.0, 100)


def test_a_continental_map_needs_no_second_copy_of_the_frame():
    grid = Grid.from_crs(STEREOGRAPHIC, nx=3800, ny=4400, x0=-1.9e6, y0=-1.5e6, dx=1000, dy=1000)
    dbz = dry(grid)
    dbz[100:900, 200:3000] = 33.0
    render_map(dbz, grid, title="warm")
    tracemalloc.start()
    render_map(dbz, grid, title="cold")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < dbz.nbytes * 0.6


def test_rendering_loads_nothing_heavy():
    heavy = {"cv2", "torch", "xarray", "matplotlib", "scipy", "h5py"}
    code = f"import sys, nowcast.rendering; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("theme", THEMES)
def test_a_real_composite_becomes_a_map(shared_data, theme):
    from nowcast.readers import read

    path = sorted((shared_data / "train" / "fmi_pgm" / "20170509").iterdir())[20]
    raw = next(read(path))
    dbz = np.maximum(raw.values, np.float32(NO_ECHO_DBZ))
    image = pixels(render_map(dbz, raw.grid, title="Finland", theme=theme))
    drawn = [np.count_nonzero(np.all(image[72:-104] == echo.colour, axis=2)) for echo in CLASSES]
    assert all(count > 0 for count in drawn[:7])  # this hour reaches 41.5 dBZ
    assert drawn[8:] == [0, 0, 0, 0]
    assert drawn[0] > drawn[4] > drawn[6]
