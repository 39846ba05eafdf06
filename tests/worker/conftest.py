"""Fixtures of the workers' tests: a real broker, and settings over an empty data directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nowcast.errors import BusError
from worker.broker import EmbeddedBroker, find_server
from worker.bus import connect


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A Valkey of its own for a test module; skipped where neither wheel nor server is installed."""
    try:
        find_server()
    except BusError as error:
        pytest.skip(str(error))
    embedded = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    process = embedded.start()
    yield embedded
    process.kill()
    process.wait()


@pytest.fixture
def client(broker: EmbeddedBroker) -> Iterator[redis.Redis]:
    """A connection to an empty broker."""
    with connect(broker.url) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    return tmp_path / "data"
