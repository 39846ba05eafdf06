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
