"""GeoTIFF: rasters written here by several conventions (FMI's among them), refusals, damaged bytes."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pytest
from hostile import damaged, outcomes

from nowcast.errors import MissingExtra, RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import geotiff

pytest.importorskip("rasterio", reason="the extra 'geo' is not installed")

from geotiffs import FMI, NAME, WHEN, frame, tiff


def test_fmi_reflectivity_is_read_by_what_its_metadata_tells(tmp_path):
    metadata = FMI.format(
        unit="dBZ",
        quantity="Corrected reflectivity",
        gain="0.500000",
        offset="-32.000000",
        nodata=255,
        more="",
    )
    content = tiff(np.uint8([[0, 1, 64], [144, 254, 255]]), metadata=metadata, compress="deflate")
    read = frame(tmp_path, content, "radar.tif")
    np.testing.assert_array_equal(read.values, np.float32([[-np.inf, -31.5, 0], [40, 95, np.nan]]))
    assert (read.quantity, read.time) == (Quantity.DBZH, WHEN)
    assert read.attributes["time_from"] == "tag"


def test_fmi_rain_and_sums_are_read_in_their_units(tmp_path):
    rain = FMI.format(unit="mm/h", quantity="Rain rate", gain="0.01", offset="0", nodata=65535, more="")
    read = frame(tmp_path, tiff(np.uint16([[0, 250], [10_000, 65535]]), metadata=rain))
    np.testing.assert_allclose(read.values, np.float32([[0, 2.5], [100, np.nan]]), rtol=1e-6)
    assert (read.quantity, read.interval_minutes) == (Quantity.RATE, None)
    more = '<Item name="Accumulation time" unit="h">1</Item>\n'
    hourly = FMI.format(unit="mm", quantity="Sum", gain="0.01", offset="0", nodata=65535, more=more)
    read = frame(tmp_path, tiff(np.uint16([[0, 250], [10_000, 65535]]), metadata=hourly))
    assert (read.quantity, read.interval_minutes) == (Quantity.ACRR, 60.0)


def test_the_unit_scale_and_no_data_of_the_band_serve_as_well(tmp_path):
    content = tiff(
        np.int16([[0, 100], [-32768, 450]]),
        unit="dBZ",
        scale=0.1,
        offset=-10.0,
        nodata=-32768,
        compress="lzw",
    )
    read = frame(tmp_path, content)
    np.testing.assert_allclose(read.values, np.float32([[-10, 0], [np.nan, 35]]), atol=1e-5)


def test_real_numbers_keep_not_a_number_as_not_observed(tmp_path):
    values = np.float32([[np.nan, 0.0, 1.5], [-5.0, np.inf, -999.0]])
    read = frame(tmp_path, tiff(values, unit="mm h-1", nodata=-999.0))
    np.testing.assert_array_equal(read.values, np.float32([[np.nan, 0, 1.5], [np.nan, np.nan, np.nan]]))
    dbz = frame(tmp_path, tiff(np.float32([[-np.inf, 20.0], [np.inf, np.nan]]), unit="DBZ"))
    np.testing.assert_array_equal(dbz.values, np.float32([[-np.inf, 20], [np.nan, np.nan]]))


def test_a_sum_takes_its_interval_from_a_tag(tmp_path):
    content = tiff(np.float32([[0.0, 1.0]]), unit="mm", tags={"interval_minutes": "5"})
    assert frame(tmp_path, content).interval_minutes == 5.0
    with pytest.raises(RefusedProduct, match="without its interval"):
        frame(tmp_path, tiff(np.float32([[0.0, 1.0]]), unit="mm"))


def test_the_grid_lies_on_cell_centres(tmp_path):
    grid = frame(tmp_path, tiff(np.zeros((2, 3), np.float32), unit="dBZ")).grid
    assert grid.crs.to_epsg() == 3067
    assert grid.outer_bounds == (50_000, 7_898_000, 53_000, 7_900_000)
    assert (grid.x0, grid.y0) == (50_500, 7_899_500)


@pytest.mark.parametrize(
    ("tags", "name", "told_by"),
    [
        ({"TIFFTAG_DATETIME": "2022:10:03 13:00:00"}, "radar.tif", "tag"),
        ({"TIFFTAG_DATETIME": "2022:10:03 13:00:20"}, NAME, "tag"),
        ({"observation_time": "2022-10-03T16:00:00+03:00"}, "radar.tif", "tag"),
        ({"time": "20221003130000", "TIFFTAG_DATETIME": "2022:10:03 13:07:00"}, NAME, "tag"),
        ({}, NAME, "file name"),
        ({}, "radar-20221003-130000.tif", "file name"),
        ({}, "radar_20221003T1300Z.tif", "file name"),
    ],
)
def test_the_time_comes_from_tags_and_else_from_the_file_name(tmp_path, tags, name, told_by):
    read = frame(tmp_path, tiff(np.zeros((2, 2), np.float32), unit="dBZ", tags=tags), name)
    assert abs((read.time - WHEN).total_seconds()) < 60
    assert read.attributes["time_from"] == told_by


ZEROS = np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    ("values", "options", "error", "words"),
    [
        (ZEROS, {}, RefusedProduct, "but tell none"),
        (ZEROS, {"unit": "K"}, RefusedProduct, "but tell K"),
        (ZEROS, {"unit": "dBZ", "tags": {"units": "mm/h"}}, RefusedProduct, "dBZ, mm/h"),
        (ZEROS, {"unit": "dBZ", "bands": 2}, RefusedProduct, "got 2 bands of float32, 2 of them in dBZ"),
        (ZEROS, {"unit": "dBZ", "compress": "lerc"}, RefusedProduct, "by lerc"),
        (ZEROS.astype(np.complex64), {"unit": "dBZ"}, RefusedProduct, "complex64"),
        (ZEROS.astype(np.uint8), {"unit": "dBZ"}, RefusedProduct, "without a no-data value"),
        (ZEROS, {"unit": "dBZ", "scale": 0.5, "tags": {"gain": "0.1"}}, RefusedProduct, "the tags say 0.1"),
        (ZEROS, {"unit": "dBZ", "tags": {"gain": "half"}}, UnreadableFile, "'half'"),
        (ZEROS, {"unit": "dBZ", "crs": None}, UnreadableFile, "coordinate reference system"),
        (
            ZEROS,
            {"unit": "dBZ", "transform": (1.0, 0.5, 0.0, 0.5, -1.0, 0.0)},
            UnreadableFile,
            "rows along its axes",
        ),
        (ZEROS, {"unit": "dBZ", "tags": {"time": "noon"}}, UnreadableFile, "'noon'"),
        (
            ZEROS,
            {"unit": "dBZ", "tags": {"TIFFTAG_DATETIME": "2022:10:03 13:07:00"}},
            UnreadableFile,
            "says 2022-10-03T13:00Z and the tag DateTime 2022-10-03T13:07Z",
        ),
    ],
)
def test_what_cannot_be_a_frame_is_refused_with_its_reason(tmp_path, values, options, error, words):
    with pytest.raises(error, match=words):
        frame(tmp_path, tiff(values, **options))


def test_without_any_time_the_raster_is_refused(tmp_path):
    with pytest.raises(UnreadableFile, match="neither a tag nor the file name"):
        frame(tmp_path, tiff(ZEROS, unit="dBZ"), "radar.tif")


def test_a_declared_size_is_refused_before_the_pixels_are_read(tmp_path):
    content = tiff(ZEROS, unit="dBZ", height=60_000, width=60_000, sparse_ok=True, compress="deflate")
    assert len(content) < 4_000_000
    with pytest.raises(TooLarge, match="60000 x 60000"):
        frame(tmp_path, content)
    tiled = tiff(
        ZEROS, unit="dBZ", tiled=True, blockxsize=16384, blockysize=16384, sparse_ok=True, compress="lzw"
    )
    with pytest.raises(TooLarge, match="block: declares 16384 x 16384"):
        frame(tmp_path, tiled)


def test_gzip_around_the_file_changes_nothing(tmp_path):
    content = tiff(np.float32([[1, 2], [3, 4]]), unit="dBZ")
    read = frame(tmp_path, gzip.compress(content), NAME + ".gz")
    np.testing.assert_array_equal(read.values, [[1, 2], [3, 4]])


def test_files_beside_the_image_are_not_opened(tmp_path):
    (tmp_path / f"{NAME}.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><UnitType>dBZ</UnitType></PAMRasterBand></PAMDataset>"
    )
    with pytest.raises(RefusedProduct, match="but tell none"):
        frame(tmp_path, tiff(ZEROS))


def test_without_rasterio_the_extra_is_named(tmp_path, monkeypatch):
    content = tiff(ZEROS, unit="dBZ")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nowcast-service\[geo\]'"):
        frame(tmp_path, content)


# GDAL's own messages may quote damaged bytes, which rasterio then cannot put into its log.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("compress", [None, "deflate", "lzw"])
def test_damaged_rasters_end_in_a_frame_or_a_refusal(tmp_path, compress):
    values = np.arange(600, dtype=np.uint16).reshape(20, 30)
    content = tiff(values, unit="dBZ", nodata=599, scale=0.5, compress=compress)
    ends = outcomes(geotiff, damaged(content, 150, seed=7), tmp_path / NAME)
    assert ends["UnreadableFile"] > 20 and ends["frame"] > 5
