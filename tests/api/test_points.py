"""Rain at a point: three states that never mix, the series, and the event made of it."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from north import (
    DRY,
    GRID,
    ISSUED,
    LEADS,
    RAINY,
    STEP,
    UNCOVERED,
    empty_field,
    point_of,
    save_forecast,
    serving,
    settings_for,
)

from nowcast.archive.archive import Archive
from nowcast.disk.data_folder import DataFolder
from nowcast.frame.frame import frame_array

pytestmark = pytest.mark.anyio

POINT = "/v1/domains/north/point"


async def ask(client: httpx.AsyncClient, cell: tuple[int, int]) -> dict:
    answer = await client.get(POINT, params=point_of(cell))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_series_says_when_it_rains_how_much_and_when_it_stops(client: httpx.AsyncClient) -> None:
    answer = await ask(client, RAINY)
    assert (answer["cell"]["row"], answer["cell"]["column"]) == RAINY
    assert [step["state"] for step in answer["series"]] == ["no_echo", "value", "value", "no_echo"]
    assert [step["rain_rate_mm_h"] for step in answer["series"]] == pytest.approx([0, 10, 1, 0], abs=0.01)
    assert [step["reflectivity_dbz"] for step in answer["series"]] == [None, 39.01, 23.01, None]
    assert answer["outlook"] == "rain"
    event = answer["event"]
    assert event["start"] == event["peak"]["time"] == "2026-01-01T12:10:00Z"
    assert event["end"] == "2026-01-01T12:20:00Z"
    assert event["peak"]["rain_rate_mm_h"] == pytest.approx(10, abs=0.01)
    assert event["total_mm"] == pytest.approx((10 + 1) * 5 / 60, abs=0.002)
    assert (event["already_raining"], event["open_end"]) == (False, None)


async def test_the_newest_observation_stands_beside_the_forecast(client: httpx.AsyncClient) -> None:
    observed = (await ask(client, RAINY))["observed"]
    assert observed["time"] == "2026-01-01T12:00:00Z"
    assert (observed["state"], observed["rain_rate_mm_h"]) == ("value", pytest.approx(1, abs=0.01))


async def test_a_dry_cell_is_looked_at_and_dry(client: httpx.AsyncClient) -> None:
    answer = await ask(client, DRY)
    assert {step["state"] for step in answer["series"]} == {"no_echo"}
    assert {step["rain_rate_mm_h"] for step in answer["series"]} == {0.0}
    assert (answer["outlook"], answer["event"]) == ("dry", None)
    assert answer["observed"]["state"] == "no_echo"


async def test_a_cell_nobody_looks_at_is_never_dry(client: httpx.AsyncClient) -> None:
    answer = await ask(client, UNCOVERED)
    assert {step["state"] for step in answer["series"]} == {"not_covered"}
    assert {step["rain_rate_mm_h"] for step in answer["series"]} == {None}
    assert (answer["outlook"], answer["event"]) == ("unknown", None)
    assert answer["observed"]["state"] == "not_covered"


async def test_a_point_answer_carries_the_forecast_s_record(client: httpx.AsyncClient) -> None:
    record = (await ask(client, DRY))["forecast"]
    assert (record["model"], record["issue_time"]) == ("extrapolation", "2026-01-01T12:00:00Z")
    assert record["recent_scores"]["rows"][0]["csi"] == 0.6667
    assert record["credit"] == "Somebody's radars"


async def test_a_point_outside_the_grid_is_told_where_the_grid_is(client: httpx.AsyncClient) -> None:
    answer = await client.get(POINT, params={"lat": -33, "lon": 18})
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:nowcast:problem:outside-domain"
    assert "59." in answer.json()["detail"]


@pytest.mark.parametrize(
    "wrong", ["lat=91&lon=25", "lat=60&lon=361", "lat=nan&lon=25", "lat=60", "lat=north&lon=25"]
)
async def test_impossible_coordinates_are_refused(client: httpx.AsyncClient, wrong: str) -> None:
    answer = await client.get(f"{POINT}?{wrong}")
    assert answer.status_code == 422
    assert answer.json()["parameters"][0]["parameter"] in ("lat", "lon")


async def test_before_the_first_forecast_a_point_is_no_forecast_yet(bare_client: httpx.AsyncClient) -> None:
    answer = await bare_client.get(POINT, params=point_of(DRY))
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:nowcast:problem:no-forecast")


async def test_no_echo_and_a_drizzle_below_minus_ten_stay_apart_through_the_files(data_dir: Path) -> None:
    field = empty_field()
    field[RAINY], field[DRY] = -9.5, -10.0
    save_forecast(data_dir, ISSUED + STEP, fields=[field] * LEADS)
    async with serving(settings_for(data_dir)) as client:
        assert (await ask(client, RAINY))["series"][0]["state"] == "value"
        assert (await ask(client, DRY))["series"][0]["state"] == "no_echo"


async def test_the_observation_is_found_in_a_compacted_day_too(data_dir: Path) -> None:
    archive = Archive(DataFolder(data_dir).archive)
    archive.compact("north", ISSUED.date())
    assert archive.path("north", ISSUED).name == "north_20260101.nc"
    async with serving(settings_for(data_dir)) as client:
        assert (await ask(client, RAINY))["observed"]["rain_rate_mm_h"] == pytest.approx(1, abs=0.01)
        assert (await ask(client, UNCOVERED))["observed"]["state"] == "not_covered"


async def test_a_newer_frame_is_observed_while_its_forecast_is_being_made(data_dir: Path) -> None:
    async with serving(settings_for(data_dir)) as client:
        Archive(DataFolder(data_dir).archive).add("north", frame_array(empty_field(), GRID, ISSUED + STEP))
        answer = await ask(client, RAINY)
        assert (answer["observed"]["time"], answer["observed"]["state"]) == (
            "2026-01-01T12:05:00Z",
            "no_echo",
        )
        assert answer["forecast"]["issue_time"] == "2026-01-01T12:00:00Z"


async def test_a_point_series_agrees_with_the_netcdf(client: httpx.AsyncClient, made_data: Path) -> None:
    from nowcast.forecast.store import ForecastStore, open_forecast

    path = ForecastStore(made_data / "forecasts").path("north", ISSUED, "extrapolation")
    with open_forecast(path) as forecast:
        column = forecast["reflectivity"].values[:, *RAINY]
    series = (await ask(client, RAINY))["series"]
    told = [-10.0 if step["state"] == "no_echo" else step["reflectivity_dbz"] for step in series]
    np.testing.assert_allclose(told, column, atol=0.005)
