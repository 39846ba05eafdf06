"""What alerts watch on the API's own page: how requests end, and how old each domain's data are."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from north import ISSUED, STEP, Client, save_forecast, serving, settings_for
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from api.counting import CountRequests, resource_of

pytestmark = pytest.mark.anyio


async def samples(client: Client) -> dict[str, float]:
    page = (await client.get("/metrics")).text
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_every_answer_is_counted_by_its_status_kept_ones_too(data_dir: Path) -> None:
    async with serving(settings_for(data_dir)) as client:
        for path in ("/v1/domains", "/v1/domains", "/v1/domains/nowhere", "/no/such/page"):
            await client.get(path)
        counted = await samples(client)
    assert counted["nowcast_http_requests_total['200']"] == 2
    assert counted["nowcast_http_requests_total['404']"] == 2


async def test_a_request_that_breaks_off_counts_as_a_server_error_once() -> None:
    requests = Counter("requests", "Requests", ["status"], registry=CollectorRegistry())
    seconds = Histogram("seconds", "Seconds", ["resource"], registry=CollectorRegistry())

    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("broken")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        pass

    for path in ("/early", "/late"):
        with pytest.raises(RuntimeError, match="broken"):
            watched = CountRequests(crash, requests=requests, seconds=seconds)
            await watched({"type": "http", "path": path}, receive, send)
    counted = {sample.labels["status"]: sample.value for sample in requests.collect()[0].samples[::2]}
    assert counted == {"500": 1, "200": 1}
    timed = {sample.name: sample.value for sample in seconds.collect()[0].samples}
    assert timed["seconds_count"] == 2


async def test_every_answer_is_timed_by_what_was_asked_for(data_dir: Path) -> None:
    save_forecast(data_dir, ISSUED)
    forecast = "/v1/domains/north/forecasts"
    paths = ["/v1/domains", forecast, f"{forecast}/latest", f"{forecast}/latest/data?lead=5", "/docs", "/no"]
    async with serving(settings_for(data_dir)) as client:
        for path in (*paths, *paths):  # the second time from what is kept
            await client.get(path)
        counted = await samples(client)
    names = ("domains", "forecasts", "forecasts/data", "other")
    found = {name: counted[f"nowcast_http_request_seconds_count['{name}']"] for name in names}
    assert found == {"domains": 2, "forecasts": 4, "forecasts/data": 2, "other": 4}


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/v1/domains/fin/forecasts/2026-01-01T00:00:00Z/map.png", "forecasts/map.png"),
        ("/v1/domains/fin/observations/latest", "observations"),
        ("/v1/domains/fin/point", "point"),
        ("/v1/domains/fin", "domains"),
        ("/v1/domains/fin/anything/else/data", "other"),
        ("/v1/domains/fin/forecasts/x/" + "y" * 50, "forecasts"),
        ("/metrics", "other"),
        ("/", "other"),
    ],
)
def test_resources_are_few_whatever_the_path(path: str, resource: str) -> None:
    assert resource_of(path) == resource


async def test_ages_and_steps_of_every_domain_are_told_and_infinite_without_data(data_dir: Path) -> None:
    save_forecast(data_dir, ISSUED + STEP)
    before = datetime.now(UTC)
    async with serving(settings_for(data_dir)) as client:
        told = await samples(client)
    after = datetime.now(UTC)
    frame_age = told["nowcast_frame_age_seconds['north']"]
    assert (before - ISSUED).total_seconds() <= frame_age <= (after - ISSUED).total_seconds()
    behind = told["nowcast_forecast_age_seconds['north']"] - frame_age
    assert timedelta(seconds=behind) == -STEP
    assert told["nowcast_step_seconds['north']"] == 300
    assert told["nowcast_step_seconds['bare']"] == 600
    assert told["nowcast_frame_age_seconds['bare']"] == math.inf
    assert told["nowcast_forecast_age_seconds['bare']"] == math.inf
