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
from worker.lock import sole_service
from worker.preflight import check_data_dir, check_port, check_weights
from worker.processes import Child, die_with_parent, stop_together

log = logging.getLogger(__name__)

WORKERS = ("ingest", "infer", "verify")

BROKER = "broker"

#: Longest wait [s] for requests in flight when the API is stopped.
GRACEFUL_SECONDS = 2


class Service:
    """Starts the parts, keeps them running, and stops them in reverse order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.children: list[Child] = []
        url = settings.redis_url
        if not url:
            broker = EmbeddedBroker(settings.folder.broker)
            self.children.append(Child(BROKER, broker.start))
            url = broker.url
        ports = dict(zip(WORKERS, free_ports(len(WORKERS)), strict=True))
        common = {
            **os.environ,
            "NOWCAST_DATA_DIR": str(settings.data_dir.absolute()),
            "NOWCAST_DOMAINS_FILE": str(settings.domains_file.absolute()),
            "NOWCAST_REDIS_URL": url,
            "NOWCAST_LOG_LEVEL": settings.log_level,
            "NOWCAST_LOG_FORMAT": settings.log_format,
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
        """Keep everything running until ``stop``; ``background`` runs beside it in a thread.

        Raises:
            SettingsError: If it cannot work with these settings, or another service has the data directory.
            ServiceFailed: If a part cannot be kept running; the others are stopped.
        """
        check_data_dir(self.settings, writes=True)
        check_weights(self.settings)
        with sole_service(self.settings.data_dir):
            check_port(self.settings.host, self.settings.port)
            self._run(stop, background)

    def _run(self, stop: threading.Event, background: Callable[[threading.Event], None] | None) -> None:
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
        """Stop every part, the broker last, for the others still tell it what they finished."""
        brokers = [child for child in self.children if child.name == BROKER]
        stop_together([child for child in self.children if child not in brokers])
        stop_together(brokers, grace_seconds=1.0)

    def kill(self) -> None:
        """Kill every part at once."""
        for child in self.children:
            if child.process is not None:
                child.process.kill()


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
