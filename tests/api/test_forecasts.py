"""Forecasts over HTTP: the list, the record, the numbers and the pictures."""

from __future__ import annotations

import asyncio
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
import xarray as xr
from cf_checker import errors_in
from north import ISSUED, LEADS, RAINY, STEP, TEN_MM_H, save_forecast, serving, settings_for
from PIL import Image

from api import cache, middleware
from nowcast.disk.data_folder import DataFolder
from nowcast.forecast.store import ForecastStore

pytestmark = pytest.mark.anyio

FORECASTS = "/v1/domains/north/forecasts"


async def test_latest_carries_its_whole_record(client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{FORECASTS}/latest")).json()
    assert answer["issue_time"] == "2026-01-01T12:00:00Z"
    assert (answer["model"], answer["model_version"], answer["models"]) == (
        "extrapolation",
        "7",
        ["extrapolation"],
    )
    assert answer["degraded_reason"] is None
    assert answer["credit"] == "Somebody's radars"
    assert answer["zr"] == {"a": 200.0, "b": 1.6}
    assert answer["input_frames"][1:] == [
        {"time": "2026-01-01T11:55:00Z", "bridged": True},
        {"time": "2026-01-01T12:00:00Z", "bridged": False},
    ]
    assert [lead["lead_minutes"] for lead in answer["leads"]] == [5, 10, 15, 20]
    assert answer["leads"][-1]["valid_time"] == "2026-01-01T12:20:00Z"


async def test_age_is_counted_from_the_issue_time_to_the_answer(client: httpx.AsyncClient) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)  # it may be told in whole seconds
    answer = (await client.get(f"{FORECASTS}/latest")).json()
    answered_at = datetime.fromisoformat(answer["answered_at"])
    assert before <= answered_at <= datetime.now(UTC)
    assert answer["age_seconds"] == pytest.approx((answered_at - ISSUED).total_seconds(), abs=0.1)


async def test_recent_scores_are_pooled_over_the_day_before(client: httpx.AsyncClient) -> None:
    scores = (await client.get(f"{FORECASTS}/latest")).json()["recent_scores"]
    assert (scores["from"], scores["to"]) == ("2025-12-31T12:00:00Z", "2026-01-01T12:00:00Z")
    at_20, at_30 = scores["rows"]
    # 6 + 2 hits, 2 misses, 2 false alarms: pooled 8/12, where the mean of the ratios would be 0.8.
    expected = {
        "lead_minutes": 5,
        "threshold_dbz": 20.0,
        "csi": 0.6667,
        "far": 0.2,
        "pod": 0.8,
        "ets": 0.6522,  # chance hits 10 * 10 / 200 = 0.5 of 12: 7.5 / 11.5
        "sedi": 0.9269,
        "forecasts": 2,
    }
    assert at_20 == expected
    assert (at_30["csi"], at_30["far"], at_30["pod"]) == (None, None, None)


async def test_a_degraded_forecast_says_why(client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{FORECASTS}/2026-01-01T11:55:00Z")).json()
    assert answer["model"] == "persistence"
    assert answer["degraded_reason"] == "no motion"


async def test_a_forecast_of_the_gate_tells_the_method_of_each_lead_and_why(data_dir: Path) -> None:
    save_forecast(
        data_dir,
        ISSUED + STEP,
        model="auto",
        methods=("sprog", "sprog", "extrapolation", "extrapolation"),
        choice_reason="sprog has won so far",
        base_weights={"in place": 0.12, "along older motion": -0.03},
    )
    async with serving(settings_for(data_dir)) as client:
        answer = (await client.get(f"{FORECASTS}/latest")).json()
        assert answer["model"] == "auto"
        assert answer["method_by_lead"] == ["sprog", "sprog", "extrapolation", "extrapolation"]
        assert answer["choice_reason"] == "sprog has won so far"
        before = (await client.get(f"{FORECASTS}/2026-01-01T12:00:00Z")).json()
        assert before["method_by_lead"] == ["extrapolation"] * 4
        assert before["choice_reason"] is None
        assert answer["base_weights"] == {"in place": 0.12, "along older motion": -0.03}
        assert before["base_weights"] is None, "nothing was mixed"
        one_lead = await client.get(f"{FORECASTS}/latest/data?lead=15")
    with xr.open_dataset(io.BytesIO(one_lead.content), engine="h5netcdf", decode_timedelta=False) as cut:
        names = cut["method"].attrs["flag_meanings"].split()
        assert [names[flag] for flag in cut["method"].values] == ["extrapolation"]
        assert cut.attrs["choice_reason"] == "sprog has won so far"
        assert cut.attrs["base_weights"] == "in place 0.12, along older motion -0.03"


async def test_one_lead_keeps_the_conventions_as_the_whole_file_does(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    pytest.importorskip("compliance_checker", reason="the public CF checker is an oracle, not a dependency")
    for what in ("data", "data?lead=10"):
        answer = await client.get(f"{FORECASTS}/latest/{what}")
        (tmp_path / "got.nc").write_bytes(answer.content)
        assert errors_in(tmp_path / "got.nc") == [], what


async def test_issue_times_are_understood_in_any_zone_and_form(client: httpx.AsyncClient) -> None:
    for spelling in (
        "2026-01-01T12:00:00Z",
        "20260101T120000Z",
        "2026-01-01T14:00:00+02:00",
        "2026-01-01t12:00z",
    ):
        answer = await client.get(f"{FORECASTS}/{spelling}")
        assert answer.json()["issue_time"] == "2026-01-01T12:00:00Z", spelling


@pytest.mark.parametrize(
    "wrong", ["yesterday", "2026-01-01", "2026-01-01T12:00:00", "1767268800", "0001-01-01T00:00Z"]
)
async def test_what_is_no_time_is_refused_with_an_example(client: httpx.AsyncClient, wrong: str) -> None:
    answer = await client.get(f"{FORECASTS}/{wrong}")
    assert answer.status_code == 422
    assert answer.json()["parameters"][0]["parameter"] == "issue_time"


async def test_before_the_first_frame_there_is_no_forecast_yet(bare_client: httpx.AsyncClient) -> None:
    answer = await bare_client.get(f"{FORECASTS}/latest")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:nowcast:problem:no-forecast"
    assert answer.json()["detail"] == "there is no forecast of domain 'north' yet"
    assert (await bare_client.get(FORECASTS)).json() == {"domain": "north", "forecasts": []}


async def test_a_model_can_be_named(data_dir: Path) -> None:
    save_forecast(data_dir, ISSUED, model="persistence")
    save_forecast(data_dir, ISSUED, model="convlstm")
    async with serving(settings_for(data_dir)) as client:
        served = (await client.get(f"{FORECASTS}/2026-01-01T12:00:00Z")).json()
        assert (served["model"], served["models"]) == (
            "extrapolation",
            ["extrapolation", "persistence", "convlstm"],
        )
        named = (await client.get(f"{FORECASTS}/2026-01-01T12:00:00Z?model=persistence")).json()
        assert named["model"] == "persistence"
        assert named["data"].endswith("/data?format=netcdf&model=persistence")
        missing = await client.get(f"{FORECASTS}/2026-01-01T12:00:00Z?model=oracle")
        assert missing.status_code == 404
        assert "extrapolation, persistence, convlstm" in missing.json()["detail"]


async def test_the_list_is_newest_first_and_bounded(client: httpx.AsyncClient) -> None:
    entries = (await client.get(FORECASTS)).json()["forecasts"]
    assert [(e["issue_time"], e["models"]) for e in entries] == [
        ("2026-01-01T12:00:00Z", ["extrapolation"]),
        ("2026-01-01T11:55:00Z", ["persistence"]),
    ]
    assert len((await client.get(f"{FORECASTS}?limit=1")).json()["forecasts"]) == 1
    earlier = (await client.get(f"{FORECASTS}?to=2026-01-01T11:59:00Z")).json()["forecasts"]
    assert [e["issue_time"] for e in earlier] == ["2026-01-01T11:55:00Z"]
    assert (await client.get(f"{FORECASTS}?limit=501")).status_code == 422
    too_long = await client.get(f"{FORECASTS}?from=2025-01-01T00:00:00Z&to=2026-01-01T00:00:00Z")
    assert too_long.status_code == 400
    assert "31 days" in too_long.json()["detail"]
    backwards = await client.get(f"{FORECASTS}?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z")
    assert backwards.status_code == 400


async def test_every_link_of_a_forecast_leads_somewhere(client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{FORECASTS}/latest")).json()
    for link in (answer["href"], answer["data"], *(lead["map"] for lead in answer["leads"])):
        assert (await client.get(link)).status_code == 200, link


async def test_the_netcdf_is_the_stored_file_itself(client: httpx.AsyncClient, made_data: Path) -> None:
    answer = await client.get(f"{FORECASTS}/latest/data?format=netcdf")
    path = ForecastStore(made_data / "forecasts").path("north", ISSUED, "extrapolation")
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == "application/netcdf"
    assert answer.headers["content-disposition"] == f'attachment; filename="{path.name}"'


async def test_a_part_of_the_netcdf_can_be_had(client: httpx.AsyncClient) -> None:
    whole = (await client.get(f"{FORECASTS}/latest/data")).content
    part = await client.get(f"{FORECASTS}/latest/data", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    beyond = await client.get(f"{FORECASTS}/latest/data", headers={"Range": "bytes=99999999-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-type"] == "application/problem+json"
    assert beyond.headers["content-range"] == f"bytes */{len(whole)}"


async def test_one_lead_is_a_file_like_the_whole(client: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await client.get(f"{FORECASTS}/latest/data?lead=10")
    assert answer.headers["content-disposition"].endswith('_extrapolation_010.nc"')
    (tmp_path / "one.nc").write_bytes(answer.content)
    (tmp_path / "all.nc").write_bytes((await client.get(f"{FORECASTS}/latest/data")).content)
    open_ = {"engine": "h5netcdf", "decode_timedelta": False}
    with (
        xr.open_dataset(tmp_path / "one.nc", **open_) as one,
        xr.open_dataset(tmp_path / "all.nc", **open_) as whole,
    ):
        assert one["reflectivity"].dims == ("lead_time", "y", "x")
        assert list(one["lead_time"].values) == [10]
        assert float(one["reflectivity"][0, *RAINY]) == pytest.approx(TEN_MM_H, abs=0.005)
        np.testing.assert_array_equal(one["reflectivity"][0], whole["reflectivity"][1])
        assert one.attrs == whole.attrs
        assert one["crs"].attrs == whole["crs"].attrs
        assert one["reflectivity"].encoding["dtype"] == np.int16


async def test_a_lead_that_is_not_there_is_named_with_those_that_are(client: httpx.AsyncClient) -> None:
    for what in ("data", "map.png"):
        answer = await client.get(f"{FORECASTS}/latest/{what}?lead=7")
        assert answer.status_code == 400
        assert (
            answer.json()["detail"] == "this forecast has no lead of 7 minutes; it has 5 to 20 in steps of 5"
        )


@pytest.mark.parametrize("format_", ["geotiff", "coveragejson", ""])
async def test_another_format_is_refused_plainly(client: httpx.AsyncClient, format_: str) -> None:
    answer = await client.get(f"{FORECASTS}/latest/data?format={format_}")
    assert answer.status_code == 400
    assert "expected netcdf" in answer.json()["detail"]


async def test_maps_are_pictures_of_their_lead_and_theme(client: httpx.AsyncClient) -> None:
    light = await client.get(f"{FORECASTS}/latest/map.png?lead=10")
    dark = await client.get(f"{FORECASTS}/latest/map.png?lead=10&theme=dark")
    assert light.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(light.content)).getpixel((2, 2)) == (255, 255, 255)
    assert Image.open(io.BytesIO(dark.content)).getpixel((2, 2)) < (40, 40, 40)
    first = (await client.get(f"{FORECASTS}/latest/map.png")).content
    assert first == (await client.get(f"{FORECASTS}/latest/map.png?lead=5")).content != light.content


async def test_what_is_named_by_its_issue_time_never_changes(client: httpx.AsyncClient) -> None:
    for what in ("", "/data", "/data?lead=5", "/map.png"):
        named = await client.get(f"{FORECASTS}/2026-01-01T12:00:00Z{what}")
        assert named.headers["cache-control"] == "public, max-age=31536000, immutable", what
        latest = await client.get(f"{FORECASTS}/latest{what}")
        assert latest.headers["cache-control"] == "public, max-age=1", what
        assert latest.headers["etag"] == named.headers["etag"] or what == ""


async def test_a_young_record_still_gathers_scores(data_dir: Path) -> None:
    issued = datetime.now(UTC).replace(microsecond=0)
    save_forecast(data_dir, issued)
    async with serving(settings_for(data_dir)) as client:
        answer = await client.get(f"{FORECASTS}/{issued:%Y-%m-%dT%H:%M:%SZ}")
        assert answer.headers["cache-control"] == "public, max-age=1"


async def test_an_unchanged_answer_costs_a_304(client: httpx.AsyncClient) -> None:
    for what in ("/latest", "/latest/data", "/latest/data?lead=5", "/latest/map.png", ""):
        first = await client.get(FORECASTS + what)
        again = await client.get(
            FORECASTS + what, headers={"If-None-Match": f'"other", {first.headers["etag"]}'}
        )
        assert (again.status_code, again.content) == (304, b""), what
        assert again.headers["etag"] == first.headers["etag"]
        changed = await client.get(FORECASTS + what, headers={"If-None-Match": '"other"'})
        assert changed.status_code == 200


async def test_the_tag_of_a_record_does_not_follow_the_clock(client: httpx.AsyncClient) -> None:
    first = await client.get(f"{FORECASTS}/latest")
    await asyncio.sleep(0.5)
    second = await client.get(f"{FORECASTS}/latest")
    assert first.json()["answered_at"] != second.json()["answered_at"]
    assert first.headers["etag"] == second.headers["etag"]
    assert first.headers["etag"].startswith("W/")


async def test_head_says_what_get_would(client: httpx.AsyncClient) -> None:
    for what in ("/latest", "/latest/data", "/latest/map.png"):
        head, get = await client.head(FORECASTS + what), await client.get(FORECASTS + what)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag"):
            assert head.headers[name] == get.headers[name]


async def test_a_new_forecast_shows_within_half_a_second(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    for module in (cache, middleware):
        monkeypatch.setattr(module, "monotonic", lambda: clock)
    async with serving(settings_for(data_dir)) as client:
        newer = ISSUED + STEP
        assert (await client.get(f"{FORECASTS}/latest")).json()["issue_time"] == "2026-01-01T12:00:00Z"
        save_forecast(data_dir, newer, fields=[np.full((48, 60), -10.0, np.float32)] * LEADS)
        assert (await client.get(f"{FORECASTS}/latest")).json()["issue_time"] == "2026-01-01T12:00:00Z"
        clock += 0.5
        assert (await client.get(f"{FORECASTS}/latest")).json()["issue_time"] == "2026-01-01T12:05:00Z"


async def test_a_damaged_file_is_the_service_s_fault_and_keeps_its_path_to_itself(data_dir: Path) -> None:
    path = ForecastStore(DataFolder(data_dir).forecasts).path("north", ISSUED, "extrapolation")
    path.write_bytes(path.read_bytes()[:500])
    async with serving(settings_for(data_dir)) as client:
        answer = await client.get(f"{FORECASTS}/latest")
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:nowcast:problem:storage-error"
        assert str(data_dir) not in answer.text
        assert int(answer.headers["retry-after"]) > 0
