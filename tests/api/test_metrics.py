"""The metrics page: our own, the archive's age, and the workers' repeated."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from north import Client, serving, settings_for
from patience import PATIENCE_SECONDS
from prometheus_client import CollectorRegistry, Gauge, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from api import metrics
from api.metrics import merge
from nowcast.telemetry import Telemetry

pytestmark = pytest.mark.anyio

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(page: str) -> Samples:
    """Return every sample of a page; fails if it is not in Prometheus's format or says a thing twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


async def scrape(client: Client) -> Samples:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.text)


@contextmanager
def worker() -> Iterator[tuple[Telemetry, str]]:
    """A worker with metrics of its own on a port of its own, as real ones serve them."""
    telemetry = Telemetry()
    server, thread = start_http_server(0, addr="127.0.0.1", registry=telemetry.registry)
    yield telemetry, f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_the_age_of_the_newest_frame_is_taken_when_asked(client: Client) -> None:
    newest = 1767268800  # 2026-01-01 12:00 UTC
    before = time.time() - newest
    page = await scrape(client)
    assert before - 1 <= page["nowcast_frame_age_seconds", (("domain", "north"),)] <= time.time() - newest + 1
    assert page["nowcast_frame_age_seconds", (("domain", "bare"),)] == math.inf


async def test_requests_are_counted_by_where_the_answer_came_from(client: Client) -> None:
    for _ in range(3):
        await client.get("/v1/domains/north/forecasts/2026-01-01T12:00:00Z/map.png")
    await client.get("/v1/domains/north/forecasts/latest/map.png")
    page = await scrape(client)
    counts = {
        labels[0][1]: value
        for (name, labels), value in page.items()
        if name == "nowcast_cache_requests_total"
    }
    assert counts == {"made": 1, "answer": 2, "memory": 1, "redis": 0}


async def test_workers_metrics_are_repeated_and_added_up(
    made_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "WORKER_TIMEOUT", PATIENCE_SECONDS)
    with worker() as (first, first_url), worker() as (second, second_url):
        first.frames.labels("north", "archived").inc(3)
        second.frames.labels("north", "archived").inc(4)
        second.frames.labels("north", "quarantined").inc()
        first.stage.labels("read", "north").observe(0.02)
        second.stage.labels("read", "north").observe(0.3)
        first.queue_lag.labels("frames", "infer").set(7)
        second.queue_lag.labels("frames", "infer").set(2)
        second.skill.labels("north", "extrapolation", "csi", "20", "5").set(0.5)
        first.frame_age.labels("north").set(1e12)
        Gauge("process_of_the_worker", "-", registry=first.registry).set(1)
        async with serving(settings_for(made_data, worker_metrics=f"{first_url}, {second_url}")) as client:
            page = await scrape(client)
    frames, stage = "nowcast_frames_total", "nowcast_stage_seconds"
    assert page[frames, (("domain", "north"), ("outcome", "archived"))] == 7
    assert page[frames, (("domain", "north"), ("outcome", "quarantined"))] == 1
    read = (("domain", "north"), ("stage", "read"))
    assert page[stage + "_count", read] == 2
    assert page[stage + "_sum", read] == pytest.approx(0.32)
    assert page[stage + "_bucket", (("domain", "north"), ("le", "0.025"), ("stage", "read"))] == 1
    assert page[stage + "_bucket", (("domain", "north"), ("le", "+Inf"), ("stage", "read"))] == 2
    assert page["nowcast_queue_lag", (("group", "infer"), ("stream", "frames"))] == 7
    assert 0.5 in (value for (name, _), value in page.items() if name == "nowcast_skill")
    assert 1000 < page["nowcast_frame_age_seconds", (("domain", "north"),)] < 1e12
    names = {name for name, _ in page}
    assert "process_resident_memory_bytes" in names
    assert "process_of_the_worker" not in names


async def test_a_dead_a_silent_and_a_babbling_worker_cost_nothing(
    made_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "WORKER_TIMEOUT", 5.0)  # for the sound one, on a busy machine

    class Babble(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>} not { metrics \xff")

        def log_message(self, *_: object) -> None: ...

    babbling = ThreadingHTTPServer(("127.0.0.1", 0), Babble)
    thread = threading.Thread(target=babbling.serve_forever)
    thread.start()
    try:
        with worker() as (telemetry, url), socket.create_server(("127.0.0.1", 0)) as silent:
            telemetry.queue_dead.labels("frames").inc()
            dead = "http://127.0.0.1:1/metrics"
            mute = f"http://127.0.0.1:{silent.getsockname()[1]}/metrics"
            urls = [
                dead,
                mute,
                "file:///etc/passwd",
                "nonsense",
                f"http://127.0.0.1:{babbling.server_port}/",
                url,
            ]
            async with serving(settings_for(made_data, worker_metrics=",".join(urls))) as client:
                page = await scrape(client)  # though one never answers
                assert page["nowcast_queue_dead_total", (("stream", "frames"),)] == 1
                assert (await client.get("/healthz")).status_code == 200
    finally:
        babbling.shutdown()
        babbling.server_close()
        thread.join()


def test_merging_what_one_process_says_changes_nothing() -> None:
    telemetry = Telemetry()
    telemetry.frames.labels("north", "archived").inc(2)
    telemetry.stage.labels("read", "north").observe(0.02)
    telemetry.skill.labels("north", "x", "csi", "20", "5").set(math.nan)
    page = generate_latest(telemetry.registry).decode()

    class Again:
        def collect(self):
            return merge([text_string_to_metric_families(page)])

    registry = CollectorRegistry()
    registry.register(Again())
    before = {key: value for key, value in samples(page).items() if not key[0].endswith("_created")}
    after = samples(generate_latest(registry).decode())
    assert {k: v for k, v in after.items() if v == v} == {k: v for k, v in before.items() if v == v}
    assert after.keys() == before.keys()
