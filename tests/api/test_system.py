"""Alive and ready: degraded is still ready, and says so."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from north import GRID, Client, empty_field, save_forecast, serving, settings_for

from nowcast.archive.archive import Archive
from nowcast.frame.frame import frame_array
from nowcast.settings import Settings

pytestmark = pytest.mark.anyio


async def test_the_process_is_alive_whatever_the_data(bare_client: Client) -> None:
    answer = await bare_client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["cache-control"] == "no-store"


async def test_before_the_first_frame_it_is_ready_but_degraded(bare_client: Client) -> None:
    answer = await bare_client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert [(d["domain"], d["status"]) for d in answer.json()["domains"]] == [
        ("north", "empty"),
        ("bare", "empty"),
    ]


async def test_old_data_are_stale(client: Client) -> None:
    north = (await client.get("/readyz")).json()["domains"][0]
    assert (north["status"], north["newest_frame"]) == ("stale", "2026-01-01T12:00:00Z")
    assert north["frame_age_seconds"] > 1000


async def test_with_fresh_data_it_is_ready(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    Archive(tmp_path / "archive").add("north", frame_array(empty_field(), GRID, now))
    settings = settings_for(tmp_path)
    settings = settings.model_copy(update={"domains": {"north": settings.domains["north"]}})

    async def ready(**changes: str) -> tuple[str, str, str]:
        async with serving(settings.model_copy(update=changes)) as client:
            answer = (await client.get("/readyz")).json()
            return answer["status"], answer["redis"], answer["domains"][0]["status"]

    assert await ready() == ("degraded", "none", "stale")  # no forecast of the frame yet
    save_forecast(tmp_path, now)
    assert await ready() == ("ready", "none", "fresh")
    assert await ready(redis_url="redis://127.0.0.1:1/0") == ("degraded", "away", "fresh")


async def test_data_that_cannot_be_read_at_all_are_not_ready(tmp_path: Path) -> None:
    (tmp_path / "archive").symlink_to("archive")  # a loop, as good as a disk that is gone
    async with serving(settings_for(tmp_path)) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"


async def test_without_domains_everything_still_answers(tmp_path: Path) -> None:
    async with serving(Settings(data_dir=tmp_path)) as client:
        assert (await client.get("/readyz")).json()["domains"] == []
        assert (await client.get("/v1/domains")).json() == {"domains": []}
        assert (await client.get("/metrics")).status_code == 200


def test_the_api_loads_neither_networks_nor_opencv_nor_netcdf4(made_data: Path) -> None:
    everything = (
        "import sys, asyncio\n"
        "sys.path.insert(0, 'tests/support')\n"
        "from pathlib import Path\n"
        "from north import serving, settings_for\n"
        "async def ask():\n"
        f"    async with serving(settings_for(Path({str(made_data)!r}))) as client:\n"
        "        for path in ('latest', 'latest/data', 'latest/data?lead=5', 'latest/map.png'):\n"
        "            answer = await client.get('/v1/domains/north/forecasts/' + path)\n"
        "            assert answer.status_code == 200\n"
        "        for path in ('verification', 'point?lat=60&lon=25', 'observations/latest/map.png'):\n"
        "            assert (await client.get('/v1/domains/north/' + path)).status_code == 200\n"
        "asyncio.run(ask())\n"
        "loaded = {'torch', 'cv2', 'netCDF4', 'worker'} & set(sys.modules)\n"
        # models.presets are the names of networks, as plain data.
        "loaded |= {name for name in sys.modules if name.startswith('models.')} - {'models.presets'}\n"
        "assert not loaded, loaded\n"
    )
    project = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", everything], check=True, cwd=project)


def test_a_real_server_answers_as_the_application_does(server: str) -> None:
    with httpx.Client(base_url=server) as client:
        get = client.get("/v1/domains/north/forecasts/latest")
        assert (get.status_code, get.json()["model"]) == (200, "extrapolation")
        head = client.head("/v1/domains/north/forecasts/latest/data")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 1000
        again = client.get(
            "/v1/domains/north/forecasts/latest", headers={"If-None-Match": get.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
        assert (
            client.get("/v1/domains/north/forecasts/latest").status_code == 200
        )  # the connection is in order
