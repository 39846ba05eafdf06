"""From what the agency wrote to dBZ on the domain's grid: every unit, every state, every reason to refuse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nowcast.errors import EmptyFrame, RefusedProduct, UnreadableFile, WrongGrid, WrongInterval
from nowcast.frame.domain import Domain
from nowcast.frame.frame import (
    Quantity,
    RawFrame,
    check_is_frame,
    frame_array,
    grid_of,
    normalise,
    time_of,
    to_datetime,
)
from nowcast.frame.grid import Grid
from nowcast.frame.units import ZR

GRID = Grid.from_crs("EPSG:3035", nx=4, ny=3, x0=4.3e6, y0=3.6e6, dx=1000, dy=1000)
TIME = datetime(2026, 11, 21, 7, 10, tzinfo=UTC)
NAN, DRY = np.nan, -np.inf


def raw(values: Any, quantity: Quantity = Quantity.DBZH, **changes: Any) -> RawFrame:
    array = np.full((3, 4), NAN, dtype=np.float32)
    array.flat[: len(values)] = values
    facts: dict[str, Any] = {"time": TIME, "grid": GRID, "interval_minutes": 5.0, "source": "made up"}
    return RawFrame(array, quantity, **(facts | changes))


def dbz(frame: xr.DataArray, count: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = frame.values.ravel()[:count]
    return values


# Values ---------------------------------------------------------------------------------------------------


def test_reflectivity_keeps_its_values_and_no_echo_becomes_minus_ten() -> None:
    frame = normalise(raw([20.5, DRY, -32.0, -10.0, -9.5, NAN]), Domain("dk", 5))
    np.testing.assert_array_equal(dbz(frame, 6), np.array([20.5, -10, -10, -10, -9.5, NAN], np.float32))
    assert frame.dtype == np.float32 and frame.dims == ("y", "x")
    assert frame.attrs["units"] == "dBZ"


def test_uncorrected_reflectivity_counts_as_reflectivity() -> None:
    assert dbz(normalise(raw([30.0], Quantity.TH), Domain("dk", 5)), 1)[0] == 30.0


def test_rain_rate_becomes_reflectivity_by_the_domains_relation() -> None:
    frame = normalise(raw([1.0, 10.0, 0.0, NAN], Quantity.RATE), Domain("dk", 5, zr=ZR(300.0, 1.4)))
    a = 10 * np.log10(300.0)
    np.testing.assert_allclose(dbz(frame, 4), [a, a + 14.0, -10.0, NAN], rtol=1e-6)
    assert frame.attrs["zr_a"] == 300.0 and frame.attrs["zr_b"] == 1.4


@pytest.mark.parametrize("minutes", [5, 10, 15])
def test_sum_is_divided_by_its_interval(minutes: int) -> None:
    # 1 mm in m minutes is 60 / m mm/h: 10 log10(200 (60 / m)^1.6)
    frame = normalise(raw([1.0, 0.0], Quantity.ACRR, interval_minutes=minutes), Domain("dk", minutes))
    expected = 10 * np.log10(200 * (60 / minutes) ** 1.6)
    np.testing.assert_allclose(dbz(frame, 2), [expected, -10.0], rtol=1e-6)
    assert frame.attrs["interval_minutes"] == minutes


def test_the_same_rain_in_three_units_is_the_same_frame() -> None:
    rate = np.float32(12.0)
    frames = [
        normalise(raw([rate], Quantity.RATE), Domain("dk", 5)),
        normalise(raw([rate / 12], Quantity.ACRR), Domain("dk", 5)),
        normalise(raw([ZR().to_dbz(np.array(rate))], Quantity.DBZH), Domain("dk", 5)),
    ]
    for frame in frames:
        np.testing.assert_allclose(dbz(frame, 1), 10 * np.log10(200 * 12**1.6), rtol=1e-6)


def test_artefacts_are_bounded_and_counted() -> None:
    frame = normalise(raw([95.0, np.inf, 75.0, 20.0]), Domain("dk", 5))
    assert dbz(frame, 4).tolist() == [75.0, 75.0, 75.0, 20.0]
    assert frame.attrs["bounded_pixels"] == 2
    assert normalise(raw([61.0]), Domain("dk", 5, max_dbz=60.0)).values[0, 0] == 60.0


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        (3, 4),
        elements=st.one_of(st.floats(0, 8700, width=32), st.just(0.0), st.just(float("nan"))),
    ),
    st.sampled_from([Quantity.RATE, Quantity.ACRR, Quantity.DBZH]),
)
def test_states_never_mix(values: NDArray[np.float32], quantity: Quantity) -> None:
    if quantity.is_reflectivity:
        values = np.where(values == 0, np.float32(-np.inf), values)
    given_frame = RawFrame(values.copy(), quantity, TIME, GRID, 5.0, "made up")
    if np.isnan(values).all():
        with pytest.raises(EmptyFrame):
            normalise(given_frame, Domain("dk", 5))
        return
    frame = normalise(given_frame, Domain("dk", 5))
    np.testing.assert_array_equal(np.isnan(frame.values), np.isnan(values))
    dry = values == (-np.inf if quantity.is_reflectivity else 0.0)
    assert np.all(frame.values[dry] == -10.0)
    observed = frame.values[~np.isnan(values)]
    assert np.all((observed >= -10.0) & (observed <= 75.0))
    np.testing.assert_array_equal(given_frame.values, values)  # what was handed in is left alone


def test_share_of_observed_pixels_is_recorded() -> None:
    frame = normalise(raw([20.0, DRY, DRY]), Domain("dk", 5))
    assert frame.attrs["observed_fraction"] == 0.25


# Grid and time --------------------------------------------------------------------------------------------


def test_frame_on_the_domains_grid_is_taken_as_it_is() -> None:
    nearly = replace(GRID, x0=GRID.x0 + 1)
    frame = normalise(raw([20.0], grid=nearly), Domain("dk", 5, grid=GRID))
    assert grid_of(frame) == GRID and frame.values[0, 0] == 20.0


def test_frame_on_another_grid_is_refused_or_brought_over() -> None:
    wider = Grid(GRID.crs_wkt, 6, 3, GRID.x0 - 2000, GRID.y0, 1000.0, 1000.0)
    values = [20.0, DRY, NAN, 31.0]
    with pytest.raises(WrongGrid, match=r"'dk' has 3 x 6 cells .*got 3 x 4 cells"):
        normalise(raw(values), Domain("dk", 5, grid=wider))
    frame = normalise(raw(values), Domain("dk", 5, grid=wider, reproject=True))
    np.testing.assert_array_equal(frame.values[0], np.array([NAN, NAN, 20, -10, NAN, 31], np.float32))
    assert grid_of(frame) == wider


def test_frame_that_misses_the_domain_is_empty() -> None:
    elsewhere = Grid(GRID.crs_wkt, 4, 3, GRID.x0 + 1e6, GRID.y0, 1000.0, 1000.0)
    with pytest.raises(EmptyFrame):
        normalise(raw([20.0]), Domain("dk", 5, grid=elsewhere, reproject=True))


def test_time_beside_the_step_is_moved_and_kept_on_record() -> None:
    frame = normalise(raw([20.0], time=TIME + timedelta(seconds=14)), Domain("dk", 5))
    assert time_of(frame) == TIME and frame.attrs["time_in_file"] == "2026-11-21T07:10:14+00:00"
    assert "time_in_file" not in normalise(raw([20.0]), Domain("dk", 5)).attrs


def test_grid_and_time_come_back_from_a_frame() -> None:
    frame = frame_array(np.zeros(GRID.shape, np.float32), GRID, TIME, {"source": "x"})
    assert grid_of(frame) == GRID and time_of(frame) == TIME and frame.attrs["source"] == "x"
    assert frame.name == "reflectivity" and frame["time"].dtype == "datetime64[ns]"
    assert to_datetime(np.datetime64("2026-11-21T07:10:59.9")) == TIME + timedelta(seconds=59)


@pytest.mark.parametrize(
    ("crs", "names", "units"),
    [
        ("EPSG:3035", ["projection_x_coordinate", "projection_y_coordinate"], ["m", "m"]),
        (
            "+proj=stere +lat_0=90 +lat_ts=60 +units=km",
            ["projection_x_coordinate", "projection_y_coordinate"],
            ["km", "km"],
        ),
        ("EPSG:4326", ["longitude", "latitude"], ["degrees_east", "degrees_north"]),
    ],
)
def test_coordinates_are_named_by_cf(crs: str, names: list[str], units: list[str]) -> None:
    grid = Grid.from_crs(crs, nx=4, ny=3, x0=5, y0=50, dx=1, dy=1)
    frame = frame_array(np.zeros(grid.shape, np.float32), grid, TIME)
    assert [frame[axis].attrs["standard_name"] for axis in "xy"] == names
    assert [frame[axis].attrs["units"] for axis in "xy"] == units
    assert frame.attrs["grid_mapping"] == "crs" and frame["crs"].attrs["crs_wkt"] == grid.crs_wkt
    assert frame["crs"].attrs["grid_mapping_name"] not in ("", "unknown")


@pytest.mark.parametrize(
    ("north", "pole"), [("+lat_0=90 +lat_ts=60", 90.0), ("+lat_0=-90 +lat_ts=-71", -90.0)]
)
def test_polar_stereographic_names_its_pole_as_cf_asks(north: str, pole: float) -> None:
    grid = Grid.from_crs(f"+proj=stere {north} +lon_0=25", nx=4, ny=3, x0=0, y0=0, dx=1, dy=1)
    attributes = frame_array(np.zeros(grid.shape, np.float32), grid, TIME)["crs"].attrs
    assert attributes["grid_mapping_name"] == "polar_stereographic"
    assert attributes["latitude_of_projection_origin"] == pole
    assert Grid.from_crs(
        {k: v for k, v in attributes.items() if k != "crs_wkt"}, nx=4, ny=3, x0=0, y0=0, dx=1, dy=1
    ).matches(grid)


# Refusals -------------------------------------------------------------------------------------------------


def test_sum_over_another_interval_is_refused() -> None:
    with pytest.raises(WrongInterval, match="step of 5 minutes, got a sum over 10 minutes"):
        normalise(raw([1.0], Quantity.ACRR, interval_minutes=10), Domain("dk", 5))


def test_hourly_sum_is_no_frame() -> None:
    hourly = raw([1.0], Quantity.ACRR, interval_minutes=60.0)
    for refuse in (check_is_frame, lambda frame: normalise(frame, Domain("dk", 60))):
        with pytest.raises(RefusedProduct, match="60 minutes is not a frame"):
            refuse(hourly)
    check_is_frame(raw([1.0], Quantity.ACRR, interval_minutes=30.0))


def test_sum_without_its_interval_is_refused() -> None:
    for interval in (None, 0.0, -5.0):
        with pytest.raises(RefusedProduct, match="without its interval"):
            raw([1.0], Quantity.ACRR, interval_minutes=interval)


def test_frame_without_one_observed_pixel_is_empty() -> None:
    with pytest.raises(EmptyFrame, match="not one of 12 pixels"):
        normalise(raw([]), Domain("dk", 5))


def test_dry_frame_is_not_empty() -> None:
    assert (normalise(raw([DRY] * 12), Domain("dk", 5)).values == -10.0).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"grid": replace(GRID, nx=5)}, r"expected float32 values on \(3, 5\) cells"),
        ({"time": datetime(2026, 11, 21, 7, 10)}, "must be UTC"),
        ({"time": TIME.astimezone(timezone(timedelta(hours=1)))}, "must be UTC"),
        ({"time": TIME.replace(year=1900)}, "no radar's"),
    ],
)
def test_reader_that_breaks_its_promises_is_caught(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnreadableFile, match=sentence):
        raw([20.0], **changes)


def test_values_of_another_type_are_caught() -> None:
    with pytest.raises(UnreadableFile, match="got float64"):
        RawFrame(np.zeros((3, 4)), Quantity.DBZH, TIME, GRID, 5.0, "made up")  # type: ignore[arg-type]


# Real frames ----------------------------------------------------------------------------------------------

#: Folder, and the least and largest share of its pixels the composite observes.
REAL = {
    "train/fmi_pgm/20170509": (0.70, 0.80),
    "train/knmi_pcp_2021/2021-02-06-2005": (0.75, 0.85),
    "train/opera_odyssey_rate_20180824": (0.45, 0.55),
    "train/dwd_radolan_yw_20170816": (0.5, 0.8),
    "train/bom_rf3/66_brisbane_c10_20201031": (0.7, 1.0),
}


@pytest.mark.parametrize("folder", REAL)
def test_real_frame_keeps_its_states(shared_data: Path, folder: str) -> None:
    from nowcast.readers import read

    raw_frame = next(read(min(path for path in (shared_data / folder).iterdir() if path.is_file())))
    frame = normalise(raw_frame, Domain("real", int(raw_frame.interval_minutes or 5)))
    low, high = REAL[folder]
    assert low <= frame.attrs["observed_fraction"] <= high
    np.testing.assert_array_equal(np.isnan(frame.values), np.isnan(raw_frame.values))
    nothing = -np.inf if raw_frame.quantity.is_reflectivity else 0.0
    assert (frame.values[raw_frame.values == nothing] == -10.0).all()
    assert -10.0 == np.nanmin(frame.values) < 20.0 < np.nanmax(frame.values) <= 75.0


def test_european_composite_comes_to_a_national_grid(shared_data: Path) -> None:
    from nowcast.readers import read

    folder = shared_data / "train" / "opera_odyssey_rate_20180824"
    raw_frame = next(read(min(folder.iterdir())))
    germany = Grid.from_crs("EPSG:25832", nx=350, ny=440, x0=280e3, y0=6.1e6, dx=2000, dy=2000)
    frame = normalise(raw_frame, Domain("de", 15, grid=germany, reproject=True))
    assert grid_of(frame) == germany
    row, column = germany.cell_of(50.0, 8.6)
    there = raw_frame.grid.cell_of(*germany.xy_to_lonlat(germany.x[column], germany.y[row])[::-1])
    rate = raw_frame.values[there]
    kept = frame.values[row, column]
    assert np.isnan(rate) == np.isnan(kept) or kept == pytest.approx(float(ZR().to_dbz(rate)), abs=1e-3)
    assert frame.attrs["observed_fraction"] > 0.9
