"""What the numbers of a netCDF file mean: forecasts, units, ranges, undeclared marks, declarations."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from nowcast.errors import InputError, RefusedProduct, SettingsError
from nowcast.frame.declared import Declared
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.readers import read

FIELD = np.float32([[0, 5, 20, 0], [5, 5, 0, 20], [0, 0, 5, 20]])


def written(
    path: Path,
    *,
    values: np.ndarray = FIELD,
    dtype: Any = None,
    name: str = "rain_rate",
    attributes: dict[str, Any] | None = None,
    globals_: dict[str, Any] | None = None,
    times: dict[str, Any] | None = None,
    more: Any = None,
    group: str = "",
) -> Path:
    """Write a small rain field of one time in Finland as the netCDF C library does."""
    attributes = {"units": "mm h-1", "long_name": "rain rate"} | (attributes or {})
    fill = attributes.pop("_FillValue", None)
    with netCDF4.Dataset(path, "w") as root:
        file = root.createGroup(group) if group else root
        root.setncatts({"Conventions": "CF-1.8"} | (globals_ or {}))
        for dim, size, centres, unit in (
            ("lat", 3, [62.0, 61.0, 60.0], "degrees_north"),
            ("lon", 4, [20.0, 21.0, 22.0, 23.0], "degrees_east"),
        ):
            file.createDimension(dim, size)
            axis = file.createVariable(dim, "f8", (dim,))
            axis.setncatts({"units": unit, "standard_name": {"lat": "latitude", "lon": "longitude"}[dim]})
            axis[:] = centres
        file.createDimension("time", 1)
        time = file.createVariable("time", (times or {}).pop("dtype", "f8"), ("time",))
        clock = {"units": "minutes since 2026-01-01 12:00:00", "standard_name": "time"}
        value = (times or {}).pop("value", 5)
        time.setncatts(clock | (times or {}))
        time[:] = value
        rain = file.createVariable(name, dtype or values.dtype, ("time", "lat", "lon"), fill_value=fill)
        rain.set_auto_maskandscale(False)
        rain.setncatts(attributes)
        rain[0] = values
        if more:
            more(file)
    return path


def only(path: Path, declared: Declared | None = None) -> RawFrame:
    (raw,) = read(path, None, declared)
    return raw


# Forecasts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "globals_",
    [
        {"title": "pysteps-generated nowcast"},
        {"title": "Precipitation nowcast of domain fin"},
        {"title": "Rain_forecast_5min"},
        {"product": "FORECAST"},
        {"comment": "This is a forecast made at 12:00."},
        {"source": "nowcast by optical flow"},
        {"history": "2026-01-01: created by forecast of rain"},
        {"summary": "Vorhersage des Niederschlags"},
    ],
    ids=lambda attributes: next(iter(attributes.values()))[:24],
)
def test_a_file_whose_words_call_it_a_forecast_is_refused(tmp_path: Path, globals_: dict[str, str]) -> None:
    with pytest.raises(RefusedProduct, match="forecast"):
        only(written(tmp_path / "a.nc", globals_=globals_))


@pytest.mark.parametrize(
    "attributes",
    [
        {"long_name": "predicted rain rate"},
        {"long_name": "rain rate forecast"},
        {"standard_name": "rainfall_rate", "long_name": "simulated rain rate"},
        {"comment": "nowcast of the rain rate"},
        {"lead_time": 15},
        {"forecast_period": "30 min"},
    ],
    ids=lambda attributes: str(next(iter(attributes.items()))),
)
def test_a_field_whose_attributes_call_it_a_forecast_is_refused(
    tmp_path: Path, attributes: dict[str, Any]
) -> None:
    with pytest.raises(RefusedProduct, match="forecast"):
        only(written(tmp_path / "a.nc", attributes=attributes))


@pytest.mark.parametrize(
    "globals_",
    [
        {"title": "Radar composite for nowcasting"},
        {"institution": "World Weather Forecast Centre"},
        {"title": "Quantitative precipitation estimate", "references": "A nowcast method, 2019"},
        {"comment": "not a forecast"},
        {"summary": "Input for nowcasting and forecast verification"},
        {"history": "nowcast archive export"},
        {"keywords": "forecast, rain"},
    ],
    ids=lambda attributes: " ".join(attributes.values())[:24],
)
def test_words_about_forecasts_do_not_make_an_observation_one(
    tmp_path: Path, globals_: dict[str, str]
) -> None:
    raw = only(written(tmp_path / "a.nc", globals_=globals_))
    np.testing.assert_array_equal(raw.values, FIELD)


def coordinate(name: str, value: float, **attributes: Any) -> Any:
    def add(file: Any) -> None:
        variable = file.createVariable(name, "f8", ("time",))
        variable.setncatts(attributes)
        variable[:] = value

    return add


@pytest.mark.parametrize(
    "name", ["lead_time", "leadtime", "forecast_period", "forecast_hour", "fcst_time", "LeadTime"]
)
def test_a_lead_under_any_name_makes_a_forecast(tmp_path: Path, name: str) -> None:
    more = coordinate(name, 10.0, units="minutes")
    with pytest.raises(RefusedProduct, match=f"holds forecasts, by its coordinate '{name}'"):
        only(written(tmp_path / "a.nc", more=more))
    zero = only(written(tmp_path / "b.nc", more=coordinate(name, 0.0, units="minutes")))
    np.testing.assert_array_equal(zero.values, FIELD)


@pytest.mark.parametrize("name", ["forecast_reference_time", "analysis_time", "run_time", "init_time"])
def test_a_reference_time_before_the_valid_time_makes_a_forecast(tmp_path: Path, name: str) -> None:
    unit = "minutes since 2026-01-01 12:00:00"
    with pytest.raises(RefusedProduct, match="is a forecast, by its coordinate"):
        only(written(tmp_path / "a.nc", more=coordinate(name, 0.0, units=unit)))
    same = only(written(tmp_path / "b.nc", more=coordinate(name, 5.0, units=unit)))
    np.testing.assert_array_equal(same.values, FIELD)


def test_a_forecast_of_pysteps_is_refused_as_one(shared_data: Path) -> None:
    with pytest.raises(RefusedProduct, match="forecast"):
        list(read(shared_data / "faults/pysteps_forecast_read_as_observation.nc"))


# Units ------------------------------------------------------------------------------------------------------

RATE, AMOUNT, DBZ = Quantity.RATE, Quantity.ACRR, Quantity.DBZH


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("mm/h", 1), ("mm h-1", 1), ("mm h**-1", 1), ("mm/hr", 1), ("mm/hour", 1), ("mm hr^-1", 1),
        ("MM/H", 1), ("kg m-2 h-1", 1), ("kg/m2/h", 1), ("kg m**-2 h**-1", 1), ("mm.h-1", 1),
        ("kg m-2 s-1", 3600), ("mm s-1", 3600), ("mm/min", 60), ("mm/5min", 12), ("mm (5 min)-1", 12),
        ("m s-1", 3.6e6), ("cm/h", 10), ("0.1 mm/h", 0.1), ("mm/day", 1 / 24), ("inch/h", 25.4),
    ],
)  # fmt: skip
def test_a_rate_is_read_in_any_spelling(tmp_path: Path, unit: str, factor: float) -> None:
    raw = only(written(tmp_path / "a.nc", values=FIELD / np.float32(factor), attributes={"units": unit}))
    assert raw.quantity is RATE
    np.testing.assert_allclose(raw.values, FIELD, rtol=2e-6)


@pytest.mark.parametrize("unit", ["dBZ", "dbz", "DBZ", "dBZe", "dBz"])
def test_reflectivity_is_read_in_any_spelling(tmp_path: Path, unit: str) -> None:
    attributes = {"units": unit, "long_name": "reflectivity"}
    raw = only(written(tmp_path / "a.nc", name="dbzh", attributes=attributes))
    assert raw.quantity is DBZ
    np.testing.assert_array_equal(raw.values, FIELD)


@pytest.mark.parametrize("unit", ["K", "m2", "hPa", "%", "kg", "counts", "mm/furlong"])
def test_a_unit_of_something_else_is_refused(tmp_path: Path, unit: str) -> None:
    with pytest.raises(RefusedProduct, match=r"unit|no precipitation"):
        only(written(tmp_path / "a.nc", attributes={"units": unit}))


def test_words_in_a_name_never_beat_unit_and_standard_name(tmp_path: Path) -> None:
    for k, name in enumerate(("quality_controlled_rain", "rain_height_corrected", "accounting_rain")):
        attributes = {"standard_name": "rainfall_rate", "long_name": "rain rate"}
        raw = only(written(tmp_path / f"{k}.nc", name=name, attributes=attributes))
        np.testing.assert_array_equal(raw.values, FIELD)


# Ranges and marks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [-9999.0, -999.0, -99.0, -1.0, 1e20, 9.9e36, 65535.0, -32768.0])
def test_a_mark_that_nobody_declared_is_not_observed(tmp_path: Path, mark: float) -> None:
    values = FIELD.copy()
    values[1] = mark
    raw = only(written(tmp_path / "a.nc", values=values))
    assert np.isnan(raw.values[1]).all()
    np.testing.assert_array_equal(raw.values[[0, 2]], FIELD[[0, 2]])
    assert raw.attributes.get("impossible_pixels") == 4 or mark == 9.9e36


@pytest.mark.parametrize("mark", [-9999.0, -999.0, -99.9, 250.0, 9999.0, 1e20])
def test_a_mark_beside_reflectivity_is_not_observed(tmp_path: Path, mark: float) -> None:
    values = np.where(FIELD == 0, np.float32(-32), FIELD)
    values[1] = mark
    attributes = {"units": "dBZ", "long_name": "reflectivity"}
    raw = only(written(tmp_path / "a.nc", name="dbzh", values=values, attributes=attributes))
    assert np.isnan(raw.values[1]).all()
    np.testing.assert_array_equal(raw.values[[0, 2]], values[[0, 2]])


@pytest.mark.parametrize(
    ("stored", "attributes", "expected"),
    [
        ([[0, 5, 20, 21]] * 3, {"valid_max": np.int16(20)}, [0, 5, 20, np.nan]),
        ([[0, 5, 20, -1]] * 3, {"valid_min": np.int16(0)}, [0, 5, 20, np.nan]),
        ([[0, 5, 20, 99]] * 3, {"valid_range": np.int16([0, 50])}, [0, 5, 20, np.nan]),
        ([[0, 50, 200, 201]] * 3, {"valid_max": np.int16(200), "scale_factor": 0.1}, [0, 5, 20, np.nan]),
        ([[0, 50, 200, 201]] * 3, {"valid_max": 20.0, "scale_factor": 0.1}, [0, 5, 20, np.nan]),
        (
            [[0, 5, -6, -5]] * 3,
            {"_Unsigned": "true", "valid_range": np.int16([0, -6]), "_FillValue": np.int16(-1)},
            [0, 5, 65530, np.nan],
        ),
    ],
)
def test_a_valid_range_is_that_of_what_is_stored(
    tmp_path: Path, stored: list[list[int]], attributes: dict[str, Any], expected: list[float]
) -> None:
    values = np.array(stored, np.int16)
    scale = attributes.get("scale_factor", 1e-3 if "_Unsigned" in attributes else None)
    more = {} if scale is None else {"scale_factor": scale}
    raw = only(written(tmp_path / "a.nc", values=values, attributes=attributes | more))
    factor = 1e-3 if "_Unsigned" in attributes else 1
    np.testing.assert_allclose(raw.values[0], np.float32(expected) * np.float32(factor), rtol=1e-6)


@pytest.mark.parametrize("most", [np.int16(200), 20.0])
def test_bytes_whose_range_goes_beyond_127_have_no_sign(tmp_path: Path, most: Any) -> None:
    """The same bytes as 0, 50, 200 and 201 (NetCDF User's Guide, appendix A, on ``valid_range``)."""
    stored = np.array([[0, 50, 200, 201]] * 3, np.uint8).view(np.int8)
    attributes = {"valid_max": most, "scale_factor": 0.1}
    if isinstance(most, float):  # in the unit of what is scaled, which says nothing of the sign
        attributes |= {"_Unsigned": "true"}
    raw = only(written(tmp_path / "a.nc", values=stored, attributes=attributes))
    np.testing.assert_allclose(raw.values[0], np.float32([0, 5, 20, np.nan]), rtol=1e-6)


def test_text_where_a_number_belongs_is_refused(tmp_path: Path) -> None:
    for k, attributes in enumerate(({"scale_factor": "0.1"}, {"missing_value": "-9999"})):
        with pytest.raises(InputError, match="number"):
            only(written(tmp_path / f"{k}.nc", attributes=attributes))


# Times and groups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        {"units": "minutes since 2026-01-01 14:00:00 +2:00"},
        {"units": "seconds since 1970-01-01", "value": 1767269100},
        {"units": "milliseconds since 1970-01-01T00:00:00Z", "value": 1767269100000},
        {"units": "nanoseconds since 1970-01-01", "value": 1767269100 * 10**9, "dtype": "i8"},
        {"units": "ns since 1970-01-01", "value": 1767269100 * 10**9, "dtype": "i8"},
        {"units": "days since 2026-01-01", "value": 0.5 + 5 / 1440},
        {"units": "hours since 2026-01-01 12:00 UTC", "value": 1 / 12},
        {"units": "minutes since 2026-01-01 12:00:00", "calendar": "proleptic_gregorian"},
        {"units": "minutes since 2026-1-1 12:0:0", "calendar": "standard"},
    ],
    ids=lambda times: f"{times['units']} {times.get('calendar', '')}",
)
def test_a_time_is_read_however_it_is_counted(tmp_path: Path, times: dict[str, Any]) -> None:
    assert only(written(tmp_path / "a.nc", times=times)).time == datetime(2026, 1, 1, 12, 5, tzinfo=UTC)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "all_leap"])
def test_a_calendar_that_no_radar_has_is_refused(tmp_path: Path, calendar: str) -> None:
    with pytest.raises(InputError, match=f"in a calendar of real days .*, got '{calendar}'"):
        only(written(tmp_path / "a.nc", times={"calendar": calendar}))


def test_a_field_in_a_group_is_found(tmp_path: Path) -> None:
    np.testing.assert_array_equal(only(written(tmp_path / "a.nc", group="data")).values, FIELD)


# What a person declares -------------------------------------------------------------------------------------


def silent(path: Path) -> Path:
    def unnamed(file: Any) -> None:
        file["rain"].delncattr("units")

    return written(path, name="rain", attributes={"long_name": "rain"}, more=unnamed)


def test_what_a_file_does_not_say_a_person_can(tmp_path: Path) -> None:
    path = silent(tmp_path / "a.nc")
    with pytest.raises(RefusedProduct, match="unit"):
        only(path)
    raw = only(path, Declared(quantity="RATE", unit="mm/h"))
    assert raw.quantity is RATE
    np.testing.assert_array_equal(raw.values, FIELD)
    assert "quantity=RATE" in str(raw.attributes["declared"])
    amount = only(path, Declared(quantity="ACRR", unit="0.1 mm", step_minutes=5))
    assert (amount.quantity, amount.interval_minutes) == (AMOUNT, 5.0)
    np.testing.assert_allclose(amount.values, FIELD / 10, rtol=1e-6)


def test_a_declaration_never_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nc")
    with pytest.raises(RefusedProduct, match="declared"):
        only(path, Declared(quantity="DBZH"))
    np.testing.assert_array_equal(only(path, Declared(quantity="RATE", unit="mm/h")).values, FIELD)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"quantity": "RAIN"}, "expected a quantity of"),
        ({"unit": "furlong"}, "expected a unit of"),
        ({"quantity": "DBZH", "unit": "mm/h"}, "is not counted in"),
        ({"step_minutes": 0}, "step|minutes"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Declared(**declared)


def test_the_radar_of_openmrg_is_read_as_declared(shared_data: Path) -> None:
    path = shared_data / "formats/openmrg_smhi_2015/openMRG_Radar_180minutes.nc"
    with pytest.raises(RefusedProduct, match="'rainfall_amount' states no unit"):
        next(read(path))
    frames = list(read(path, None, Declared(unit="mm/h")))
    assert len(frames) > 1 and {raw.quantity for raw in frames} == {RATE}
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        stored = file["rainfall_amount"][0]
    np.testing.assert_allclose(np.sort(frames[0].values.ravel()), np.sort(np.float32(stored).ravel()))
