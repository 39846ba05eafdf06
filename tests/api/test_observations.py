"""Observed frames over HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from north import GRID, ISSUED, STEP, empty_field, serving, settings_for

from api import cache, middleware
from nowcast.archive.archive import Archive
from nowcast.disk.data_folder import DataFolder
from nowcast.frame.frame import frame_array

pytestmark = pytest.mark.anyio

OBSERVATIONS = "/v1/domains/north/observations"


async def test_the_newest_frame_in_numbers(client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{OBSERVATIONS}/latest")).json()
    assert (answer["time"], answer["source"]) == ("2026-01-01T12:00:00Z", "Test radar")
    assert answer["observed_fraction"] == pytest.approx(55 / 60)
    assert answer["echo_fraction"] == pytest.approx(1 / (55 * 48))
    assert (answer["max_dbz"], answer["max_rain_rate_mm_h"]) == (23.01, pytest.approx(1, abs=0.01))
    assert answer["credit"] == "Somebody's radars"


async def test_a_dry_frame_has_no_strongest_echo(client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{OBSERVATIONS}/2026-01-01T11:55:00Z")).json()
    assert (answer["max_dbz"], answer["max_rain_rate_mm_h"], answer["echo_fraction"]) == (None, 0.0, 0.0)


async def test_frames_are_listed_newest_first(client: httpx.AsyncClient) -> None:
    frames = (await client.get(f"{OBSERVATIONS}?limit=2")).json()["frames"]
    assert [frame["time"] for frame in frames] == ["2026-01-01T12:00:00Z", "2026-01-01T11:55:00Z"]
    for frame in frames:
        for link in (frame["href"], frame["map"]):
            answer = await client.get(link)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
    span = (await client.get(f"{OBSERVATIONS}?from=2026-01-01T11:45:00Z&to=2026-01-01T11:50:00Z")).json()[
        "frames"
    ]
    assert len(span) == 2


async def test_a_frame_that_is_not_there_is_no_frame(client: httpx.AsyncClient) -> None:
    for path in ("/2026-01-01T12:03:00Z", "/2026-01-01T12:03:00Z/map.png"):
        answer = await client.get(OBSERVATIONS + path)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:nowcast:problem:no-frame")


async def test_before_the_first_frame_nothing_has_come_yet(bare_client: httpx.AsyncClient) -> None:
    answer = await bare_client.get(f"{OBSERVATIONS}/latest")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "no frame of domain 'north' has come yet"
    assert (await bare_client.get(OBSERVATIONS)).json()["frames"] == []


async def test_a_new_frame_shows_within_half_a_second(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    for module in (cache, middleware):
        monkeypatch.setattr(module, "monotonic", lambda: clock)
    async with serving(settings_for(data_dir)) as client:
        await client.get(f"{OBSERVATIONS}/latest")
        Archive(DataFolder(data_dir).archive).add("north", frame_array(empty_field(), GRID, ISSUED + STEP))
        clock += 0.5
        assert (await client.get(f"{OBSERVATIONS}/latest")).json()["time"] == "2026-01-01T12:05:00Z"
