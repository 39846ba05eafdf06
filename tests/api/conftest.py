"""Fixtures of the API's tests."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from north import Broker, Client, fill, serving, settings_for, wait_for

from nowcast.errors import BusError
from worker.broker import EmbeddedBroker, find_server


@pytest.fixture(scope="session")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames, two forecasts and scores of domain ``north``; made once, never changed."""
    data_dir = tmp_path_factory.mktemp("made")
    fill(data_dir)
    return data_dir


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory of the test's own, as :func:`fill` makes it."""
    fill(tmp_path)
    return tmp_path


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as uvicorn does."""
    return "asyncio"


@pytest.fixture
async def client(made_data: Path) -> AsyncIterator[Client]:
    """A client of the API over the data directory nobody changes."""
    async with serving(settings_for(made_data)) as connected:
        yield connected


@pytest.fixture
async def bare_client(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of the API before the first frame."""
    async with serving(settings_for(tmp_path / "nothing")) as connected:
        yield connected


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A real Valkey; the test is skipped where there is none."""
    try:
        find_server()
    except BusError as error:
        pytest.skip(str(error))
    embedded = EmbeddedBroker(tmp_path / "broker")
    process = embedded.start()
    yield Broker(embedded.url, process)
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def server(made_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real uvicorn over the data directory nobody changes."""
    folder = tmp_path_factory.mktemp("server")
    domains = folder / "nowcast.toml"
    domains.write_text(
        '[domains.north]\ntitle = "The North"\ncredit = "Somebody\'s radars"\nstep_minutes = 5\nleads = 4\n'
        "thresholds_dbz = [20, 30]\n[domains.bare]\nstep_minutes = 10\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "api.app:create_app", "--factory", "--port", str(port)]
    environment = {"NOWCAST_DATA_DIR": str(made_data), "NOWCAST_DOMAINS_FILE": str(domains), "PATH": ""}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--no-access-log"], env=environment, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(address + "/healthz", process)
            yield address
        finally:
            process.terminate()
            process.wait()
