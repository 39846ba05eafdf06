"""KNMI HDF5: synthetic images, real ones against pysteps and their own metadata, damaged files."""

from __future__ import annotations

from datetime import UTC, datetime

import h5py
import numpy as np
import pytest
from hostile import damaged, outcomes

from nowcast.errors import RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import Limits, knmi, read

PROJ = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.14 +b=6356.75 +x_0=0 y_0=0"
CODES = np.array([[255, 0, 1], [64, 100, 254]], np.uint8)
GEOGRAPHIC = {
    "geo_column_offset": np.float32([0.0]),
    "geo_row_offset": np.float32([3650.0]),
    "geo_pixel_size_x": np.float32([1.0]),
    "geo_pixel_size_y": np.float32([-1.0]),
    "geo_dim_pixel": "KM,KM",
}
TIMES = {
    "product_datetime_start": "26-AUG-2010;00:25:00.000",
    "product_datetime_end": "26-AUG-2010;00:30:00.000",
}


def fill(group, attributes):
    for name, value in attributes.items():
        if value is not None:
            group.attrs[name] = np.bytes_(value) if isinstance(value, str) else value


@pytest.fixture
def image(tmp_path):
    """Return a function that writes an image file; attributes can be replaced, or left out as ``None``."""

    def write(
        data=CODES,
        *,
        parameter="REFLECTIVITY_[DBZ]",
        formula="GEO = 0.500000 * PV + -32.000000",
        missing=0,
        outside=255,
        geographic=None,
        overview=None,
        proj=PROJ,
        images=1,
    ):
        path = tmp_path / "image.h5"
        with h5py.File(path, "w") as file:
            about = {"product_group_name": "RAD_NL25_PCP_NA", **TIMES, **(overview or {})}
            fill(file.create_group("overview"), about)
            where = file.create_group("geographic")
            rows, columns = data.shape[:2]
            size = {"geo_number_rows": np.int32([rows]), "geo_number_columns": np.int32([columns])}
            fill(where, {**GEOGRAPHIC, **size, **(geographic or {})})
            fill(where.create_group("map_projection"), {"projection_proj4_params": proj})
            for number in range(1, images + 1):
                group = file.create_group(f"image{number}")
                fill(group, {"image_geo_parameter": parameter, "image_product_name": "RAD_NL25_PCP_H1.5_NA"})
                group.create_dataset("image_data", data=data, compression="gzip")
                fill(
                    group.create_group("calibration"),
                    {
                        "calibration_formulas": formula,
                        "calibration_missing_data": None if missing is None else np.int32([missing]),
                        "calibration_out_of_image": None if outside is None else np.int32([outside]),
                    },
                )
        return path

    return write


def frame(path):
    (found,) = read(path)
    return found


def test_pixel_value_zero_of_a_reflectivity_is_no_echo_and_out_of_image_is_not_observed(image):
    raw = frame(image())
    assert (raw.quantity, raw.interval_minutes) == (Quantity.DBZH, None)
    np.testing.assert_array_equal(raw.values, [[np.nan, -np.inf, -31.5], [0.0, 18.0, 95.0]])


def test_missing_data_beside_zero_is_not_observed(image):
    raw = frame(image(missing=254))
    np.testing.assert_array_equal(raw.values, [[np.nan, -32.0, -31.5], [0.0, 18.0, np.nan]])


def test_an_accumulation_is_scaled_and_dry_where_zero(image):
    data = np.array([[65535, 0, 1], [250, 6000, 65534]], np.uint16)
    raw = frame(
        image(data, parameter="ACCUMULATED_PRECIPITATION_[MM]", formula="GEO=0.01*PV+0.0",
              missing=65534, outside=65535)
    )  # fmt: skip
    assert (raw.quantity, raw.interval_minutes) == (Quantity.ACRR, 5)
    assert raw.time == datetime(2010, 8, 26, 0, 30, tzinfo=UTC)
    np.testing.assert_allclose(raw.values, [[np.nan, 0, 0.01], [2.5, 60, np.nan]], rtol=1e-6)


@pytest.mark.parametrize(
    ("formula", "line"),
    [
        ("GEO = 0.5 * PV + -31.5", (0.5, -31.5)),
        ("GEO=0.01*PV+0.0", (0.01, 0.0)),
        ("GEO = 2 * PV - 1e-1", (2.0, -0.1)),
        ("geo = .5 * pv + 3.", None),
        ("GEO = 0.5 * PV", None),
        ("GEO = 0.5 * PV + __import__('os').getpid()", None),
        ("GEO = 0.5 * PV ** 2 + 1", None),
        ("", None),
    ],
)
def test_the_calibration_is_a_straight_line_or_refused(formula, line):
    if line is None:
        with pytest.raises(UnreadableFile, match="expected a calibration 'GEO = a"):
            knmi._calibration(formula)
    else:
        assert knmi._calibration(formula) == line


def test_kilometres_of_the_projection_become_metres_and_rows_run_south(image):
    grid = frame(image()).grid
    np.testing.assert_allclose(grid.outer_bounds, (0, -3_652_000, 3000, -3_650_000), atol=0.01)
    assert grid.crs.ellipsoid.semi_major_metre == pytest.approx(6_378_140)
    lon, lat = grid.xy_to_lonlat(0.0, -3_650_000.0)
    assert (lon, lat) == (pytest.approx(0), pytest.approx(55.9736, abs=1e-3))


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"formula": "GEO = 0 * PV + 1"}, "gain 0.0"),
        ({"outside": None}, "no attribute 'calibration_out_of_image'"),
        ({"geographic": {"geo_number_rows": 9}}, "geographic says 9 x 3 pixels"),
        ({"geographic": {"geo_dim_pixel": "DEG,DEG"}}, "must be measured in KM,KM or M,M"),
        ({"geographic": {"geo_pixel_size_y": np.float32([1.0])}}, "must run west to east"),
        ({"geographic": {"geo_row_offset": np.float32([np.nan])}}, "finite"),
        (
            {"geographic": {"geo_product_corners": np.float32([0, 49, 0, 55.97, 10.8, 55.4, 9, 48.9])}},
            "its corners disagree by",
        ),
        ({"proj": "+proj=stere +a=big"}, "has a length that is no number"),
        (
            {"overview": {"product_datetime_end": "2010-08-26"}},
            "expected product_datetime_end as DD-MON-YYYY",
        ),
        ({"overview": {"product_datetime_end": "31-FEB-2010;00:00:00.000"}}, "damaged: day is out of range"),
        ({"data": np.zeros((2, 3), np.int16)}, "8 or 16 bits without sign"),
        ({"data": np.zeros((2, 3), np.uint32)}, "8 or 16 bits without sign"),
        (
            {
                "parameter": "ACCUMULATED_PRECIPITATION_[MM]",
                "overview": {"product_datetime_start": "26-AUG-2010;01:00:00.000"},
            },
            "starts 30 minutes after its end",
        ),
    ],
    ids=str,
)
def test_contradictions_are_unreadable(image, change, because):
    with pytest.raises(UnreadableFile, match=because):
        frame(image(**change))


def test_an_echo_top_is_refused(image):
    with pytest.raises(RefusedProduct, match=r"holds HEIGHT_\[KM\]; expected REFLECTIVITY"):
        frame(image(parameter="HEIGHT_[KM]"))


def test_a_forecast_of_several_images_is_refused(image):
    with pytest.raises(RefusedProduct, match="holds 25 precipitation images; expected one"):
        frame(image(images=25))


def test_absurd_sizes_are_refused(image):
    with pytest.raises(TooLarge, match="declares 2 x 3 cells; at most 5"):
        next(read(image(), Limits(max_cells=5)))


def test_damaged_images_raise_nothing_but_input_errors(image, tmp_path):
    content = image(np.arange(600, dtype=np.uint8).reshape(20, 30)).read_bytes()
    ends = outcomes(knmi, damaged(content, 400, seed=1, head=6000), tmp_path / "damaged.h5")
    assert ends["UnreadableFile"] > 50
    assert ends["frame"] > 50


@pytest.mark.slow
def test_damaged_real_images_raise_nothing_but_input_errors(shared_data, tmp_path):
    content = (shared_data / "formats/knmi/RAD_NL25_PCP_CM_202106222000.h5").read_bytes()
    ends = outcomes(knmi, damaged(content, 5000, seed=2, head=12_000), tmp_path / "damaged.h5")
    assert ends["UnreadableFile"] > 500


# Real images ------------------------------------------------------------------------------------------------

RAP = "train/knmi_rap_20100826/RAD_NL25_RAP_5min_201008260230.h5"
PCP = "train/knmi_pcp_2021/2021-02-06-2005/202102062005.hf5"


def test_accumulation_agrees_with_pysteps(shared_data):
    importers = pytest.importorskip("pysteps.io.importers", reason="pysteps is an optional oracle")
    theirs, _, metadata = importers.import_knmi_hdf5(str(shared_data / RAP), qty="ACRR", accutime=5.0)
    ours = frame(shared_data / RAP)
    np.testing.assert_allclose(ours.values, np.ma.filled(theirs, np.nan), rtol=1e-6, equal_nan=True)
    edges_km = [metadata[name] for name in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(ours.grid.outer_bounds, np.array(edges_km) * 1000, atol=1.0)


def test_reflectivity_agrees_with_pysteps(shared_data):
    importers = pytest.importorskip("pysteps.io.importers", reason="pysteps is an optional oracle")
    theirs, _, metadata = importers.import_knmi_hdf5(str(shared_data / PCP), qty="DBZH")
    theirs = np.ma.filled(theirs, np.nan)
    ours = frame(shared_data / PCP)
    np.testing.assert_array_equal(np.isnan(ours.values), np.isnan(theirs))
    measured = np.isfinite(ours.values)
    np.testing.assert_allclose(ours.values[measured], theirs[measured], atol=1e-6)
    np.testing.assert_array_equal(theirs[np.isneginf(ours.values)], -32.0)  # how pysteps writes no echo
    edges = [metadata[name] for name in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(ours.grid.outer_bounds, edges, atol=5.0)


@pytest.mark.parametrize("path", [RAP, PCP])
def test_corners_are_where_the_file_says(shared_data, path):
    grid = frame(shared_data / path).grid
    with h5py.File(shared_data / path) as file:
        lon, lat = file["geographic"].attrs["geo_product_corners"].astype(float).reshape(4, 2).T
    x, y = grid.lonlat_to_xy(lon, lat)
    west, south, east, north = grid.outer_bounds
    np.testing.assert_allclose(x, [west, west, east, east], atol=0.05 * grid.dx)
    np.testing.assert_allclose(y, [south, north, north, south], atol=0.05 * grid.dy)


def test_zero_is_dry_weather_because_only_its_area_follows_the_weather(shared_data):
    # The file calls pixel value 0 "missing data", yet the pixels out of image are the same all evening.
    states = [frame(path) for path in sorted((shared_data / PCP).parent.iterdir())]
    unobserved = {int(np.isnan(raw.values).sum()) for raw in states}
    silent = {int(np.isneginf(raw.values).sum()) for raw in states}
    assert unobserved == {104_443}
    assert len(silent) == 36


# Forecasts, and accumulations in real time ------------------------------------------------------------------

SUM = {"parameter": "PRECIP_[MM]", "formula": "GEO = 0.010000 * PV + 0.000000", "outside": 65535}
WORDS = np.array([[65535, 0, 1], [250, 6000, 20000]], np.uint16)


@pytest.mark.parametrize(
    ("start", "end", "interval", "time"),
    [("08:20", "08:24", 5, "08:25"), ("08:20", "08:25", 5, "08:25"), ("08:00", "08:59", 60, "09:00"),
     ("08:20", "08:29", 10, "08:30"), ("08:20", "08:23", 3, "08:23"), ("08:21", "08:25", 4, "08:25")],
)  # fmt: skip
def test_a_sum_that_names_its_last_minute_lasts_until_the_next(image, start, end, interval, time):
    overview = {
        "product_datetime_start": f"20-APR-2020;{start}:00.000",
        "product_datetime_end": f"20-APR-2020;{end}:00.000",
    }
    raw = frame(image(WORDS, overview=overview, **SUM))
    assert (raw.interval_minutes, f"{raw.time:%H:%M}") == (interval, time)
    np.testing.assert_allclose(raw.values, [[np.nan, 0, 0.01], [2.5, 60, 200]], rtol=1e-6)


@pytest.mark.parametrize("parameter", ["PRECIP_[MM]", "ACCUMULATED_PRECIPITATION_[MM]", "REFLECTIVITY_[DBZ]"])
def test_dry_and_out_of_image_that_cannot_be_told_apart_are_refused(image, parameter):
    with pytest.raises(RefusedProduct, match="pixel value 0 is missing data and out of image"):
        frame(image(parameter=parameter, outside=0))


def test_the_real_time_sum_is_dry_where_radars_look(shared_data):
    raw = frame(shared_data / "faults/RAD_NL25_RAC_RT_0825.h5")
    reach = frame(shared_data / "formats/knmi/RAD_NL25_PCP_CM_202106222000.h5")
    assert (int((raw.values == 0).sum()), int(np.isnan(raw.values).sum())) == (430_831, 104_669)
    assert raw.time == datetime(2020, 4, 20, 8, 25, tzinfo=UTC)
    assert (np.isnan(raw.values) == np.isnan(reach.values)).mean() > 0.999


@pytest.mark.parametrize("name", ["RAD_NL25_RAC_FM", "RAD_NL25_PCP_FM", "RAD_NL25_FORECAST", "nowcast_5min"])
def test_a_product_called_a_forecast_is_refused(image, name):
    with pytest.raises(RefusedProduct, match="is a forecast, not an observation"):
        frame(image(overview={"product_group_name": name}))


@pytest.mark.parametrize("ahead", [5, 10, 25])
def test_an_image_valid_after_its_product_is_a_forecast(image, ahead):
    path = image()
    with h5py.File(path, "a") as file:
        file["image1"].attrs["image_datetime_valid"] = np.bytes_(f"26-AUG-2010;00:{30 + ahead}:00.000")
    with pytest.raises(RefusedProduct, match=f"{ahead} minutes after its end: a forecast"):
        frame(path)


def test_an_image_valid_at_its_product_s_end_is_read(image):
    path = image()
    with h5py.File(path, "a") as file:
        file["image1"].attrs["image_datetime_valid"] = np.bytes_("26-AUG-2010;00:30:00.000")
    assert np.isneginf(frame(path).values[0, 1])
