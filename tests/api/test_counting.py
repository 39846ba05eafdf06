"""What alerts watch on the API's own page: how requests end, and how old each domain's data are."""

from __future__ import annotations

import math
from collections import Counter as Counts
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from north import ISSUED, STEP, Client, save_forecast, serving, settings_for
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from api.counting import CountRequests

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
    seconds = Histogram("seconds", "Seconds", ["method", "route", "status"], registry=CollectorRegistry())

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
            await watched({"type": "http", "method": "GET", "path": path}, receive, send)
    counted = {sample.labels["status"]: sample.value for sample in requests.collect()[0].samples[::2]}
    assert counted == {"500": 1, "200": 1}
    timed = {s.labels["status"]: s.value for s in seconds.collect()[0].samples if s.name == "seconds_count"}
    assert timed == {"500": 1, "200": 1}


async def test_every_answer_is_timed_by_method_route_and_status(data_dir: Path) -> None:
    save_forecast(data_dir, ISSUED)
    asked = [
        ("GET", "/v1/domains", {}, "200"),
        ("HEAD", "/v1/domains", {}, "200"),
        ("POST", "/v1/domains", {}, "405"),
        ("GET", "/v1/domains", {"If-None-Match": "*"}, "304"),
        ("GET", "/v1/domains/{domain}", {}, "200"),
        ("GET", "/v1/domains/{domain}/forecasts/{issue_time}/data", {}, "200"),
        ("GET", "/v1/domains/{domain}/forecasts/{issue_time}/map.png", {}, "200"),
        ("GET", "/v1/domains/{domain}/forecasts/{issue_time}/map.png", {"Accept": "text/html"}, "406"),
        ("GET", "/v1/domains/{domain}/point", {}, "422"),
        ("GET", "/openapi.json", {}, "200"),
        ("GET", "/docs", {}, "200"),
    ]
    expected = Counts()
    async with serving(settings_for(data_dir)) as client:
        for method, route, headers, status in (*asked, *asked):  # the second time from what is kept
            path = route.format(domain="north", issue_time="latest")
            answer = await client.request(method, path, headers=headers)
            assert answer.status_code == int(status), (method, path)
            expected[method, route, status] += 1
        for path in ("/no", "/v1/domains/north/" + "y" * 50):
            await client.get(path)
        await client.request("BREW", "/v1/domains")
        page = (await client.get("/metrics")).text
    expected |= {("GET", "none", "404"): 2, ("other", "/v1/domains", "405"): 1}
    counts = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "nowcast_http_request_seconds_count"
    }
    assert counts == expected


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
