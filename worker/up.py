"""The whole service on one machine: the broker, the workers and the API as supervised child processes."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from nowcast.settings import Settings
from worker.broker import EmbeddedBroker
from worker.processes import Child, die_with_parent

log = logging.getLogger(__name__)

WORKERS = ("ingest", "infer", "verify")

#: Longest wait [s] for requests in flight when the API is stopped.
GRACEFUL_SECONDS = 5


class Service:
    """Starts the parts, keeps them running, and stops them in reverse order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.children: list[Child] = []
        url = settings.redis_url
        if not url:
            broker = EmbeddedBroker(settings.folder.broker)
            self.children.append(Child("broker", broker.start))
            url = broker.url
        ports = dict(zip(WORKERS, free_ports(len(WORKERS)), strict=True))
        common = {
            **os.environ,
            "NOWCAST_DATA_DIR": str(settings.data_dir.absolute()),
            "NOWCAST_DOMAINS_FILE": str(settings.domains_file.absolute()),
            "NOWCAST_REDIS_URL": url,
            "NOWCAST_LOG_LEVEL": settings.log_level,
            "NOWCAST_SOLE_WRITER": "true",
        }
        for name in WORKERS:
            command = [sys.executable, "-m", "worker.cli", "worker", name]
            self.children.append(
                Child(name, _starter(command, common | {"NOWCAST_METRICS_PORT": str(ports[name])}))
            )
        urls = ",".join(f"http://127.0.0.1:{port}/metrics" for port in ports.values())
        self.children.append(
            Child("api", _starter(api_command(settings), common | {"NOWCAST_WORKER_METRICS": urls}))
        )

    def run(
        self, stop: threading.Event, *, background: Callable[[threading.Event], None] | None = None
    ) -> None:
        """Keep everything running until ``stop``; ``background`` runs beside it in a thread."""
        thread = threading.Thread(target=background, args=(stop,), daemon=True) if background else None
        try:
            for child in self.children:
                child.ensure()
            if thread:
                thread.start()
            while not stop.wait(0.1):
                for child in self.children:
                    child.ensure()
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop every part, the broker last."""
        for child in reversed(self.children):
            child.stop()


def api_command(settings: Settings) -> list[str]:
    """Return the command line that serves the API."""
    return [
        *(sys.executable, "-m", "uvicorn", "api.app:create_app", "--factory", "--no-access-log"),
        *("--host", settings.host, "--port", str(settings.port), "--log-level", "warning"),
        *("--timeout-graceful-shutdown", str(GRACEFUL_SECONDS)),
    ]


def free_ports(count: int) -> list[int]:
    """Return local ports nothing listens on right now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _starter(command: list[str], environment: dict[str, str]) -> Callable[[], subprocess.Popen[bytes]]:
    def start() -> subprocess.Popen[bytes]:
        # A group of its own: Ctrl+C at the terminal reaches us alone, and we stop the parts in order.
        return subprocess.Popen(command, env=environment, preexec_fn=die_with_parent, process_group=0)

    return start
