"""FMI PGM: synthetic images, real composites against pysteps, damaged bytes."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime

import numpy as np
import pytest
from hostile import damaged, outcomes
from pyproj import Proj

from nowcast.errors import RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import fmi_pgm
from nowcast.readers.source import Limits, Source

ARCHIVED = "train/fmi_pgm/20170509/201705091200_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"
RAVAKE = "formats/fmi_ravake/202002141130_fmi.radar.composite.lowest_FIN_RAVAKE.pgm"


def pgm(pixels, *, size=None, largest=255, **changes):
    """Return an image as FMI writes it, from a corner 100 km east and 3000 km south of the pole."""
    pixels = np.asarray(pixels, np.uint8)
    rows, columns = pixels.shape
    earth = Proj("+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +R=6371288")
    (west, east), (south, north) = earth(
        [100_000, 100_000 + 1000 * columns], [-3_000_000, -3_000_000 + 500 * rows], inverse=True
    )
    fields = {
        "composite_area": "FIN",
        "projection_name": "TEST",
        "radar": "KOR 1 21.6460 60.1280",
        "obstime": "201705091200",
        "productname": "LOWEST",
        "param": "CorrectedReflectivity",
        "metersperpixel_x": "1000.0",
        "metersperpixel_y": "500.0",
        "projection": "radar {",
        "type": "stereographic",
        "centrallongitude": "25",
        "centrallatitude": "90",
        "truelatitude": "60",
        "bottomleft": f"{west:.6f} {south:.6f}",
        "topright": f"{east:.6f} {north:.6f}",
        **changes,
    }
    comments = "".join(f"# {key} {value}\n" for key, value in fields.items() if value is not None)
    height, width = size or (rows, columns)
    return f"P5\n{comments}# }}\n{width} {height}\n{largest}\n".encode() + pixels.tobytes()


def frame(tmp_path, content, limits=None):
    path = tmp_path / "201705091200_fmi.pgm"
    path.write_bytes(content)
    limits = limits or Limits()
    source = Source(path, limits)
    assert fmi_pgm.recognises(source)
    (only,) = fmi_pgm.read(source, limits)
    return only


def test_pixels_become_dbz_with_no_echo_and_no_data_kept_apart(tmp_path):
    read = frame(tmp_path, pgm([[0, 1, 64], [65, 144, 255]]))
    np.testing.assert_array_equal(read.values, np.float32([[-np.inf, -31.5, 0.0], [0.5, 40.0, np.nan]]))
    assert read.quantity is Quantity.DBZH
    assert read.time == datetime(2017, 5, 9, 12, 0, tzinfo=UTC)
    assert read.source == "FMI TEST LOWEST"


def test_the_corners_in_the_header_are_the_outer_corners_of_the_grid(tmp_path):
    grid = frame(tmp_path, pgm(np.zeros((4, 6)))).grid
    np.testing.assert_allclose(grid.outer_bounds, (100_000, -3_000_000, 106_000, -2_998_000), atol=0.5)
    assert (grid.ny, grid.nx, grid.dy, grid.dx) == (4, 6, 500.0, 1000.0)


def test_compression_changes_nothing_and_the_grid_is_built_once(tmp_path):
    content = pgm([[0, 100], [200, 255]])
    plain, packed = frame(tmp_path, content), frame(tmp_path, gzip.compress(content))
    np.testing.assert_array_equal(plain.values, packed.values)
    assert plain.grid is packed.grid


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"param": "RadialVelocity"}, RefusedProduct, "RadialVelocity"),
        ({"param": None}, RefusedProduct, "None"),
        ({"largest": 4095}, RefusedProduct, "up to 4095"),
        ({"obstime": "yesterday"}, UnreadableFile, "yesterday"),
        ({"obstime": None}, UnreadableFile, "expected a time"),
        ({"type": "mercator"}, UnreadableFile, "mercator"),
        ({"topright": "1e400 70"}, UnreadableFile, "corners lie|georeferencing"),
        ({"bottomleft": "18.6"}, UnreadableFile, "georeferencing"),
        ({"metersperpixel_x": "2000.0"}, UnreadableFile, "corners lie"),
        ({"centrallatitude": "nan"}, UnreadableFile, "corners lie|georeferencing"),
        ({"size": (2, 3)}, UnreadableFile, "2 x 3 pixels of one byte, holds 4 bytes"),
        ({"size": (0, 2)}, UnreadableFile, "expected positive"),
        ({"size": (90_000, 90_000)}, TooLarge, "90000 x 90000"),
    ],
)
def test_what_cannot_be_a_frame_is_refused_with_its_reason(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        frame(tmp_path, pgm([[0, 100], [200, 255]], **changes))


HEADER_FIELDS = ("type", "centrallongitude", "centrallatitude", "truelatitude", "bottomleft", "topright",
                 "metersperpixel_x", "metersperpixel_y")  # fmt: skip


@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_a_field_the_grid_needs_may_not_be_missing(tmp_path, field):
    with pytest.raises(UnreadableFile, match=r"georeferencing|expected a stereographic"):
        frame(tmp_path, pgm([[0, 100], [200, 255]], **{field: None}))


@pytest.mark.parametrize("field", HEADER_FIELDS[1:])
@pytest.mark.parametrize("text", ["north", "1,5", "10E", "1000 m east", "inf", "nan", "0x10"])
def test_text_where_a_number_belongs_is_refused(tmp_path, field, text):
    with pytest.raises(UnreadableFile, match=r"georeferencing|corners lie"):
        frame(tmp_path, pgm([[0, 100], [200, 255]], **{field: text}))


@pytest.mark.parametrize("field", ["composite_area", "radar", "productname", "projection_name"])
def test_a_field_that_only_describes_may_be_missing(tmp_path, field):
    read = frame(tmp_path, pgm([[0, 100], [200, 255]], **{field: None}))
    np.testing.assert_array_equal(read.values, np.float32([[-np.inf, 18.0], [68.0, np.nan]]))


@pytest.mark.parametrize(
    "projection", ["mercator", "azimuthal", "lambert", "latlon", "utm", "Stereographic north", ""]
)
def test_other_projections_are_refused_by_name(tmp_path, projection):  # fmt: skip
    with pytest.raises(UnreadableFile, match="expected a stereographic projection, got"):
        frame(tmp_path, pgm([[0, 100], [200, 255]], type=projection))


def relaid(content, layout):
    """Return the image with its header written in another way that pgm(5) allows."""
    lines = content[: content.index(b"\n255\n")].split(b"\n")
    pixels = content[content.index(b"\n255\n") + 5 :]
    comments, size = lines[1:-1], lines[-1]
    match layout:
        case "backwards":
            header = [b"P5", *comments[::-1], size, b"255"]
        case "comments before the largest value":
            header = [b"P5", comments[0], size, *comments[1:], b"255"]
        case "comments between columns and rows":
            columns, rows = size.split()
            header = [b"P5", *comments[:9], columns, *comments[9:], rows, b"255"]
        case "size on two lines":
            header = [b"P5", *comments, *size.split(), b"255"]
        case "all on one line":
            header = [b"P5", *comments, size + b" 255"]
        case "tabs":
            header = [
                b"P5",
                *(line.replace(b" ", b"\t", 2) for line in comments),
                size.replace(b" ", b"\t"),
                b"255",
            ]
        case "spaces":
            header = [
                b"P5 ",
                *(line.replace(b"# ", b"#   ") + b"  " for line in comments),
                b"  " + size,
                b"255",
            ]
        case "no space after the hash":
            header = [b"P5", *(line.replace(b"# ", b"#") for line in comments), size, b"255"]
        case "carriage returns":
            header = [b"P5\r", *(line + b"\r" for line in comments), size + b"\r", b"255"]
        case "empty lines":
            header = [b"P5", *comments, b"", b"#", b"# ", size, b"", b"255"]
        case "many radars":
            header = [b"P5", *comments, *(b"# radar R%d 1 2 3" % i for i in range(60)), size, b"255"]
    return b"\n".join(header) + b"\n" + pixels


@pytest.mark.parametrize(
    "layout",
    ["backwards", "comments before the largest value", "comments between columns and rows",
     "size on two lines", "all on one line", "tabs", "spaces", "no space after the hash", "carriage returns",
     "empty lines", "many radars"],
)  # fmt: skip
@pytest.mark.parametrize("first_pixel", [0, 10, 35, 48])
def test_the_layout_of_the_header_changes_nothing(tmp_path, layout, first_pixel):
    content = pgm([[first_pixel, 100, 64], [200, 255, 0]])
    read = frame(tmp_path, relaid(content, layout))
    plain = frame(tmp_path, content)
    np.testing.assert_array_equal(read.values, plain.values)
    assert (read.time, read.grid) == (plain.time, plain.grid)


@pytest.mark.parametrize("largest", [1, 100, 254, 256, 1023, 4095, 65535])
def test_an_image_of_another_depth_is_refused_for_its_scale_is_not_told(tmp_path, largest):
    with pytest.raises(RefusedProduct, match=f"in one byte, got 'CorrectedReflectivity' up to {largest}"):
        frame(tmp_path, pgm([[0, 100], [200, 255]], largest=largest))


@pytest.mark.parametrize(
    "param", ["RainRate", "CorrectedReflectivity2", "Height", "EchoTop", "correctedreflectivity"]
)
def test_another_parameter_is_refused_by_name(tmp_path, param):  # fmt: skip
    with pytest.raises(RefusedProduct, match=f"got '{param}'"):
        frame(tmp_path, pgm([[0, 100], [200, 255]], param=param))


def test_a_field_told_twice_and_differently_is_refused(tmp_path):
    content = pgm([[0, 100], [200, 255]])
    for line in (b"# obstime 201705091205\n", b"# param RainRate\n", b"# metersperpixel_x 999\n"):
        with pytest.raises(UnreadableFile, match="twice"):
            frame(tmp_path, content.replace(b"# }\n", line + b"# }\n"))
    assert frame(tmp_path, content.replace(b"# }\n", b"# obstime 201705091200\n# }\n"))


@pytest.mark.parametrize(
    "changes",
    [
        {"producttype": "FORECAST"},
        {"producttype": "Nowcast"},
        {"productname": "LOWEST_FORECAST"},
        {"productname": "extrapolated"},
        {"projection_name": "SUOMI1-nowcast"},
        {"forecast": "5"},
        {"forecast": "yes"},
        {"forecasttime": "201705091230"},
        {"fctime": "201705091215"},
        {"validtime": "201705091205"},
        {"leadtime": "300"},
        {"lead_time": "5"},
        {"analysistime": "201705091130"},
        {"origintime": "201705091155"},
        {"nowcast_member": "2"},
    ],
    ids=str,
)
def test_a_forecast_is_refused_as_one(tmp_path, changes):
    with pytest.raises(RefusedProduct, match="forecast"):
        frame(tmp_path, pgm([[0, 100], [200, 255]], **changes))


@pytest.mark.parametrize(
    "changes",
    [{"forecast": "0"}, {"leadtime": "0"}, {"forecast": "no"}, {"validtime": "201705091200"}],
    ids=str,
)  # fmt: skip
def test_an_observation_that_says_it_is_none_is_read(tmp_path, changes):
    assert frame(tmp_path, pgm([[0, 100], [200, 255]], **changes)).values[0, 1] == 18.0


def test_a_name_that_says_forecast_is_believed(tmp_path):
    path = tmp_path / "201705091200_nowcast_FIN.pgm"
    path.write_bytes(pgm([[0, 100], [200, 255]]))
    with pytest.raises(RefusedProduct, match="says 'nowcast'"):
        next(fmi_pgm.read(Source(path, Limits()), Limits()))


def test_a_picture_of_somebody_else_is_not_taken(tmp_path):
    path = tmp_path / "cat.pgm"
    path.write_bytes(b"P5\n# made with a camera\n2 2\n255\n1234")
    assert not fmi_pgm.recognises(Source(path, Limits()))


def test_damaged_images_end_in_a_frame_or_a_refusal(tmp_path):
    content = pgm(np.arange(48).reshape(6, 8) * 5)
    ends = outcomes(fmi_pgm, damaged(content, 600, seed=2), tmp_path / "damaged.pgm")
    assert ends["UnreadableFile"] > 100 and ends["frame"] > 50


@pytest.mark.parametrize("name", [ARCHIVED, RAVAKE])
def test_real_composites_agree_with_pysteps(shared_data, name):
    importers = pytest.importorskip("pysteps.io.importers", reason="pysteps is an oracle, not a dependency")
    source = Source(shared_data / name, Limits())
    (read,) = fmi_pgm.read(source, Limits())
    values, _, metadata = importers.import_fmi_pgm(str(source.path), gzipped=source.is_compressed)
    np.testing.assert_array_equal(np.isnan(read.values), np.isnan(values))
    echo = np.isfinite(read.values)
    assert np.abs(read.values[echo] - values[echo]).max() < 1e-5
    assert set(np.unique(values[np.isneginf(read.values)])) == {-32.0}  # pixel value 0
    # pysteps adds a false origin of its own, so the corners are compared on the ground.
    oracle = Proj(metadata["projection"])
    x_min, y_min, x_max, y_max = read.grid.outer_bounds
    for (x, y), corner in (((x_min, y_min), ("x1", "y1")), ((x_max, y_max), ("x2", "y2"))):
        lon, lat = oracle(*(metadata[key] for key in corner), inverse=True)
        np.testing.assert_allclose(read.grid.lonlat_to_xy(lon, lat), (x, y), atol=5.0)


def test_the_whole_archive_lies_on_one_grid_and_in_order(shared_data):
    frames = []
    for path in sorted((shared_data / "train/fmi_pgm/20170509").iterdir()):
        frames += fmi_pgm.read(Source(path, Limits()), Limits())
    assert len({read.grid for read in frames}) == 1
    minutes = np.diff([read.time.timestamp() for read in frames]) / 60
    np.testing.assert_array_equal(minutes, np.full(39, 5.0))
