"""GeoTIFF as people write it: marks, bands, masks, layouts, wrapped metadata, times and forecasts."""

from __future__ import annotations

import html
import struct
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity

pytest.importorskip("rasterio", reason="the extra 'geo' is not installed")

from geotiffs import FMI, NORTH_UP, WHEN, frame, tiff
from rasterio.enums import ColorInterp

from nowcast.readers.geotiff_tags import Tags, quantity_of

FIELD = np.float32([[0.0, 5.0, 20.0], [35.0, 12.5, 7.0]])
ZEROS = np.zeros((2, 2), np.float32)

#: Numbers that stand for "no data" in rasters whose tag for it got lost.
MARKS = [-9999.0, -999.0, -32768.0, -1e30, float(np.finfo(np.float32).min), 9999.0, 32767.0, 65535.0, 1e20,
         float(np.finfo(np.float32).max), np.inf, np.nan]  # fmt: skip


@pytest.mark.parametrize("unit", ["dBZ", "mm/h"])
@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_outside_the_physical_range_is_not_observed_although_nobody_declared_it(tmp_path, unit, mark):
    values = FIELD.copy()
    values[0, 0] = mark
    read = frame(tmp_path, tiff(values, unit=unit)).values
    assert np.isnan(read[0, 0])
    np.testing.assert_array_equal(read.ravel()[1:], FIELD.ravel()[1:])


def test_a_mark_in_a_larger_type_is_not_observed_either(tmp_path):
    for kind in (np.float64, np.int16, np.int32):
        read = frame(tmp_path, tiff(np.array([[-9999, 35]], kind), unit="dBZ", nodata=-1.0)).values
        assert np.isnan(read[0, 0]) and read[0, 1] == 35, kind


@given(st.floats(-1e6, 1e6, width=32, allow_nan=False))
def test_what_is_outside_is_not_observed_and_what_is_inside_is_kept(tmp_path_factory, value):
    content = tiff(np.float32([[value, 5.0]]), unit="dBZ")
    read = frame(tmp_path_factory.mktemp("range"), content).values
    assert read[0, 0] == np.float32(value) if -100 <= value <= 100 else np.isnan(read[0, 0])


@pytest.mark.parametrize("stamp", ["0000", "0005", "0010"])
def test_the_undeclared_cells_of_the_real_file_are_not_observed(shared_data, tmp_path, stamp):
    path = shared_data / f"faults/geotiff_dbz_undeclared_-9999_20240501{stamp}.tif"
    read = frame(tmp_path, path.read_bytes(), path.name)
    values, counts = np.unique(read.values, return_counts=True)
    assert (np.isnan(read.values).sum(), read.values.size) == (1792, 4096)
    assert dict(zip(values[:2].tolist(), counts[:2].tolist(), strict=True)).keys() == {-32.0, 35.0}
    assert read.time == datetime(2024, 5, 1, 0, int(stamp), tzinfo=UTC)


# What metadata say, however often they were escaped


def wrapped(times, metadata):
    for _ in range(times):
        metadata = html.escape(metadata)
    return f'<GDALMetadata>\n  <Item name="GDAL_METADATA">{metadata}</Item>\n</GDALMetadata>\n'


@pytest.mark.parametrize("times", [1, 2, 3])
def test_metadata_escaped_into_an_item_are_read_by_what_they_say(tmp_path, times):
    metadata = FMI.format(
        unit="dBZ", quantity="Corrected reflectivity", gain="0.5", offset="-32", nodata=255, more=""
    )
    content = tiff(np.uint8([[0, 1, 64], [144, 254, 255]]), metadata=wrapped(times, metadata))
    read = frame(tmp_path, content, "radar.tif")
    np.testing.assert_array_equal(read.values, np.float32([[-np.inf, -31.5, 0], [40, 95, np.nan]]))
    assert (read.quantity, read.time) == (Quantity.DBZH, WHEN)


def test_the_real_file_with_escaped_metadata_is_read(shared_data, tmp_path):
    path = shared_data / "faults/201609281445_FINUTM.tif"
    read = frame(tmp_path, path.read_bytes(), "renamed.tif")
    assert (read.quantity, read.time) == (Quantity.DBZH, datetime(2016, 9, 28, 14, 45, tzinfo=UTC))
    assert read.values.shape == (7316, 4963)
    assert (np.isnan(read.values).sum(), np.isneginf(read.values).sum()) == (24_670_929, 6_805_360)
    echo = read.values[np.isfinite(read.values)]
    assert (echo.min(), echo.max()) == (-31.5, 53.0)  # 1 and 170 by gain 0.5 and offset -32
    assert read.grid.crs.to_epsg() == 3067
    np.testing.assert_allclose((read.grid.x0, read.grid.dx), (-196_468.002, 250.004), atol=1e-3)


def test_an_item_told_twice_and_differently_is_refused(tmp_path):
    metadata = (
        '<GDALMetadata><Item name="Gain">0.5</Item><Item name="Gain">0.1</Item>'
        '<Item name="Quantity" unit="dBZ">Z</Item></GDALMetadata>'
    )
    with pytest.raises(UnreadableFile, match="'gain' twice"):
        frame(tmp_path, tiff(ZEROS, metadata=metadata))


@pytest.mark.parametrize("key", ["gain", "offset", "nodata", "undetect", "scale_factor"])
@pytest.mark.parametrize("text", ["half", "0,5", "255 counts"])
def test_text_where_a_number_belongs_is_refused(tmp_path, key, text):
    with pytest.raises(UnreadableFile, match="is no number"):
        frame(tmp_path, tiff(ZEROS, unit="dBZ", tags={key: text}))


@pytest.mark.parametrize(
    ("unit", "quantity"),
    [(unit, Quantity.DBZH) for unit in ("dBZ", "DBZ", " dbz ", "dBZH")]
    + [
        (unit, Quantity.RATE)
        for unit in ("mm/h", "mm h-1", "mm hr-1", "mm/hr", "mm h**-1", "mm.h-1", "mm h^-1", "kg m-2 h-1")
    ]
    + [(unit, Quantity.ACRR) for unit in ("mm", "kg m-2", "kg/m2")]
    + [(unit, None) for unit in ("m", "K", "mm/day", "dB", "%", "counts", "km", "inch")],
)  # fmt: skip
def test_a_unit_in_any_spelling_means_one_quantity(unit, quantity):
    assert quantity_of({unit}) is quantity
    assert quantity_of({unit, "K"}) is None


# No data, bands, masks


@pytest.mark.parametrize("nodata", [np.nan, -1.0, 255.0])
def test_no_data_of_the_band_is_not_observed_and_nan_always(tmp_path, nodata):
    values = np.float32([[nodata, 5.0], [np.nan, 20.0]])
    read = frame(tmp_path, tiff(values, unit="mm/h", nodata=nodata)).values
    np.testing.assert_array_equal(read, np.float32([[np.nan, 5.0], [np.nan, 20.0]]))


@pytest.mark.parametrize("text", ["nan", "NaN", "none", ""])
def test_no_data_as_text_that_is_no_code_leaves_the_numbers_alone(tmp_path, text):
    content = tiff(np.float32([[np.nan, 5.0]]), unit="dBZ", tags={"nodata": text})
    np.testing.assert_array_equal(frame(tmp_path, content).values, np.float32([[np.nan, 5.0]]))


@pytest.mark.parametrize("tags", [{}, {"nodata": "nan"}, {"nodata": "none"}])
def test_whole_numbers_need_a_code_for_no_data(tmp_path, tags):
    with pytest.raises(RefusedProduct, match="without a no-data value"):
        frame(tmp_path, tiff(np.uint8([[0, 35]]), unit="dBZ", tags=tags))


def test_two_codes_for_no_data_are_both_not_observed(tmp_path):
    content = tiff(np.uint8([[0, 1], [254, 255]]), unit="dBZ", nodata=254, tags={"nodata": "255"})
    np.testing.assert_array_equal(frame(tmp_path, content).values, np.float32([[0, 1], [np.nan, np.nan]]))


def test_a_code_that_is_both_no_data_and_no_echo_is_not_observed(tmp_path):
    content = tiff(np.uint8([[0, 10]]), unit="dBZ", nodata=0, tags={"undetect": "0"})
    np.testing.assert_array_equal(frame(tmp_path, content).values, np.float32([[np.nan, 10]]))


def quality_beside(dataset):
    dataset.write(np.full((2, 3), 0.7, np.float32), 1)
    dataset.write(FIELD, 2)
    dataset.units = ["%", "dBZ"]
    dataset.scales, dataset.offsets = [1.0, 0.5], [0.0, -10.0]


def test_of_several_bands_the_one_in_a_unit_of_precipitation_is_read_by_its_own_scale(tmp_path):
    read = frame(tmp_path, tiff(FIELD, bands=2, finish=quality_beside))
    np.testing.assert_array_equal(read.values, FIELD * 0.5 - 10.0)


@pytest.mark.parametrize("units", [("dBZ", "dBZ"), ("dBZ", "mm/h"), ("%", "K")])
def test_of_several_bands_none_or_two_of_precipitation_are_refused(tmp_path, units):
    def finish(dataset):
        dataset.units = units

    with pytest.raises(RefusedProduct, match="expected one band of precipitation, got 2 bands"):
        frame(tmp_path, tiff(FIELD, bands=2, finish=finish))


def test_a_picture_in_colours_is_refused(tmp_path):
    with pytest.raises(RefusedProduct, match="got 3 bands of uint8, 0 of them"):
        frame(tmp_path, tiff(np.uint8([[1, 2]]), bands=3, photometric="RGB"))


def palette(dataset):
    dataset.write_colormap(1, {0: (255, 255, 255, 255), 1: (0, 0, 255, 255)})


def test_indices_of_a_palette_are_refused_unless_a_scale_says_what_they_mean(tmp_path):
    with pytest.raises(RefusedProduct, match="indices of a palette"):
        frame(tmp_path, tiff(np.uint8([[0, 1]]), unit="dBZ", nodata=255, finish=palette))
    tags = {"gain": "0.5", "offset": "-32", "undetect": "0"}
    read = frame(tmp_path, tiff(np.uint8([[0, 100]]), unit="dBZ", nodata=255, tags=tags, finish=palette))
    np.testing.assert_array_equal(read.values, np.float32([[-np.inf, 18.0]]))


def test_a_mask_inside_the_file_is_not_observed(tmp_path):
    def finish(dataset):
        dataset.write_mask(np.array([[True, True, False], [True, False, True]]))

    import rasterio

    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        content = tiff(FIELD, unit="dBZ", finish=finish)
        whole = tiff(FIELD.astype(np.uint8), unit="dBZ", finish=finish)
    expected = np.float32([[0, 5, np.nan], [35, np.nan, 7]])
    np.testing.assert_array_equal(frame(tmp_path, content).values, expected)
    np.testing.assert_array_equal(frame(tmp_path, whole).values, expected)


def test_transparent_cells_are_not_observed(tmp_path):
    def finish(dataset):
        dataset.write(np.uint8([[255, 0, 128]]), 2)
        dataset.colorinterp = [ColorInterp.gray, ColorInterp.alpha]

    content = tiff(np.uint8([[10, 20, 30]]), unit="dBZ", bands=2, finish=finish)
    np.testing.assert_array_equal(frame(tmp_path, content).values, np.float32([[10, np.nan, 30]]))


# How the cells are stored

LAYOUTS = [
    {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"blockysize": 1},
    {"blockysize": 7},
    {"BIGTIFF": "YES"},
    {"BIGTIFF": "YES", "ENDIANNESS": "BIG"},
    {"ENDIANNESS": "BIG"},
    {"ENDIANNESS": "LITTLE"},
    {"compress": "deflate", "predictor": 2},
    {"compress": "deflate", "predictor": 3},
    {"compress": "lzw", "predictor": 2, "tiled": True, "blockxsize": 32, "blockysize": 32},
    {"compress": "lzw", "predictor": 3},
    {"compress": "zstd"},
    {"compress": "lzma"},
    {"compress": "packbits"},
    {"interleave": "pixel"},
    {"PROFILE": "GeoTIFF"},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_layout_changes_nothing(tmp_path, layout):
    values = np.float32(np.arange(40 * 50).reshape(40, 50) % 71 - 10)
    values[3, 4], values[20, 20] = np.nan, -9999.0
    expected = np.where(values == -9999.0, np.nan, values)
    tags = {"unit": "dBZ"}
    if "PROFILE" in layout:  # this one stores no tags of GDAL
        with pytest.raises(RefusedProduct, match="but tell none"):
            frame(tmp_path, tiff(values, unit="dBZ", **layout))
        return
    read = frame(tmp_path, tiff(values, tags=tags, **layout))
    np.testing.assert_array_equal(read.values, expected)
    assert read.grid.outer_bounds == (50_000, 7_860_000, 100_000, 7_900_000)


@pytest.mark.parametrize("compress", ["jpeg", "webp", "lerc", "lerc_deflate"])
def test_compressions_that_may_change_a_value_are_refused(tmp_path, compress):
    values = np.zeros((16, 16), np.float32 if "lerc" in compress else np.uint8)
    bands = 3 if compress == "webp" else 1
    with pytest.raises(RefusedProduct, match=r"loses nothing|expected one band"):
        frame(tmp_path, tiff(values, unit="dBZ", nodata=255, compress=compress, bands=bands))


@pytest.mark.parametrize(
    ("transform", "flip"),
    [
        (NORTH_UP, np.s_[:, :]),
        ((1000.0, 0.0, 50_000.0, 0.0, 1000.0, 7_898_000.0), np.s_[::-1, :]),
        ((-1000.0, 0.0, 53_000.0, 0.0, -1000.0, 7_900_000.0), np.s_[:, ::-1]),
        ((-1000.0, 0.0, 53_000.0, 0.0, 1000.0, 7_898_000.0), np.s_[::-1, ::-1]),
    ],
    ids=["north up", "south up", "mirrored", "both"],
)
@pytest.mark.parametrize("point", ["Area", "Point"])
def test_rows_from_the_south_and_columns_from_the_east_are_turned_over(tmp_path, transform, flip, point):
    content = tiff(FIELD[flip], unit="dBZ", transform=transform, tags={"AREA_OR_POINT": point})
    read = frame(tmp_path, content)
    np.testing.assert_array_equal(read.values, FIELD)
    assert read.grid.outer_bounds == (50_000, 7_898_000, 53_000, 7_900_000)


def test_a_raster_of_points_names_cell_centres(tmp_path):
    content = tiff(FIELD, unit="dBZ", tags={"AREA_OR_POINT": "Point"})
    # GeoTIFF 1.1, 7.1.2: RasterPixelIsPoint = 2; its tie point is a centre, so GDAL wrote it half a cell in.
    assert struct.pack("<4H", 1025, 0, 1, 2) in content
    assert struct.pack("<6d", 0, 0, 0, 50_500, 7_899_500, 0) in content
    grid = frame(tmp_path, content).grid
    assert (grid.x0, grid.y0) == (50_500, 7_899_500)
    area = content.replace(struct.pack("<4H", 1025, 0, 1, 2), struct.pack("<4H", 1025, 0, 1, 1))
    grid = frame(tmp_path, area).grid
    assert (grid.x0, grid.y0) == (51_000, 7_899_000)


@pytest.mark.parametrize(
    "crs", ["EPSG:3067", "EPSG:4326", "EPSG:3857", "+proj=stere +lat_0=90 +lon_0=25 +R=6371288"]
)
def test_any_reference_system_is_kept(tmp_path, crs):  # fmt: skip
    transform = (0.01, 0.0, 20.0, 0.0, -0.01, 60.0) if crs == "EPSG:4326" else NORTH_UP
    grid = frame(tmp_path, tiff(FIELD, unit="dBZ", crs=crs, transform=transform)).grid
    assert grid.crs.is_geographic == (crs == "EPSG:4326")
    assert (
        grid.crs.equals(CRS.from_user_input(crs), ignore_axis_order=True) or "Stereographic" in grid.crs_wkt
    )


def test_several_pages_are_refused(tmp_path):
    content = tiff(FIELD, unit="dBZ", APPEND_SUBDATASET="YES")
    path = tmp_path / "pages.tif"
    path.write_bytes(content)
    import rasterio

    with rasterio.open(
        path, "w", driver="GTiff", APPEND_SUBDATASET="YES", height=2, width=2, count=1, dtype="float32",
        crs="EPSG:3067", transform=rasterio.Affine(*NORTH_UP),
    ) as dataset:  # fmt: skip
        dataset.write(ZEROS, 1)
    with pytest.raises(RefusedProduct, match="expected one image, got 2 pages"):
        frame(tmp_path, path.read_bytes())


# Times and forecasts


@pytest.mark.parametrize(
    "name",
    [
        "202210031300.tif", "20221003130000.tif", "20221003_1300.tif", "20221003-130000.tif",
        "radar_20221003T1300Z.tif", "FIN_202210031300_dbz.tif", "a.20221003_1300.tif",
        "x20221003T130000Z.tiff", "202210031300_202210031300.tif",
    ],
)  # fmt: skip
def test_a_time_in_the_file_name_serves_where_no_tag_tells_it(tmp_path, name):
    assert frame(tmp_path, tiff(ZEROS, unit="dBZ"), name).time == WHEN


@pytest.mark.parametrize(
    "name", ["radar.tif", "12345678.tif", "2022-10-03.tif", "1300.tif", "tile_3067_250.tif"]
)
def test_a_name_without_a_time_tells_none(tmp_path, name):
    with pytest.raises(UnreadableFile, match="neither a tag nor the file name"):
        frame(tmp_path, tiff(ZEROS, unit="dBZ"), name)


def test_two_times_are_refused_wherever_they_are_told(tmp_path):
    with pytest.raises(UnreadableFile, match="the file name holds 2 times"):
        frame(tmp_path, tiff(ZEROS, unit="dBZ"), "202210031300_202210031400.tif")
    tags = {"Observation time": "202210031300", "valid_time": "202210031400"}
    with pytest.raises(
        UnreadableFile, match=r"more than one time: observation_time .*13:00Z, valid_time .*14:00Z"
    ):
        frame(tmp_path, tiff(ZEROS, unit="dBZ", tags=tags))
    tags = {"Observation time": "202210031300", "valid_time": "2022-10-03T13:00:00Z"}
    assert frame(tmp_path, tiff(ZEROS, unit="dBZ", tags=tags)).time == WHEN


FORECASTS = [
    {"title": "Radar nowcast"},
    {"description": "Precipitation forecast for the next hour"},
    {"long_name": "predicted rainfall rate"},
    {"product": "extrapolation"},
    {"Quantity": "Forecasted reflectivity"},
    {"TITLE": "PROGNOSIS"},
    {"lead_time": "600"},
    {"lead time": "10 min"},
    {"lead_time_minutes": "5"},
    {"forecast_period": "15"},
    {"Forecast time": "202210031345"},
    {"forecast": "yes"},
    {"NETCDF_DIM_lead_time": "30"},
    {"GRIB_FORECAST_SECONDS": "3600 sec"},
    {"GRIB_REF_TIME": "1664802000", "GRIB_VALID_TIME": "1664805600"},
    {"forecast_reference_time": "2022-10-03T12:00:00Z"},
    {"reference_time": "202210031230"},
    {"issue_time": "2022-10-03 12:55:00"},
    {"analysis_time": "20221003120000"},
    {"model_run": "2022-10-03T12:00Z"},
    {"nowcast_member": "3"},
]


@pytest.mark.parametrize("tags", FORECASTS, ids=str)
def test_what_its_tags_call_a_forecast_is_refused_as_one(tmp_path, tags):
    with pytest.raises(RefusedProduct, match="forecast"):
        frame(tmp_path, tiff(ZEROS, unit="dBZ", tags=tags))


@pytest.mark.parametrize(
    "name",
    ["nowcast_202210031300.tif", "202210031300_forecast.tif", "FCST-202210031300.tif",
     "radar_predicted_202210031300.tif", "202210031300-extrapolation.tif", "202210031300_lead_time_10.tif"],
)  # fmt: skip
def test_what_its_name_calls_a_forecast_is_refused_as_one(tmp_path, name):
    with pytest.raises(RefusedProduct, match="expected an observation"):
        frame(tmp_path, tiff(ZEROS, unit="dBZ"), name)


@pytest.mark.parametrize(
    "tags",
    [
        {"lead_time": "0"},
        {"lead_time": "0 min"},
        {"forecast_period": "0.0"},
        {"forecast": "no"},
        {"forecast": "false"},
        {"GRIB_FORECAST_SECONDS": "0 sec"},
        {"GRIB_REF_TIME": "1664802000", "GRIB_VALID_TIME": "1664802000"},
        {"forecast_reference_time": "2022-10-03T13:00:00Z"},
        {"reference_time": "202210031300"},
        {"title": "composite for nowcasting"},
        {"comment": "used by the forecast office"},
    ],
    ids=str,
)
def test_an_observation_that_mentions_forecasts_is_read(tmp_path, tags):
    assert frame(tmp_path, tiff(ZEROS, unit="dBZ", tags=tags)).time == WHEN


def test_tags_know_no_unit_of_their_own():
    tags = Tags(name="x", texts={}, units={}, band_unit="")
    with pytest.raises(RefusedProduct, match="but tell none"):
        tags.quantity()
