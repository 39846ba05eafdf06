"""The demonstration: the real service, fed with simulated radar as real files."""

from __future__ import annotations

import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nowcast.errors import NowcastError
from nowcast.settings import Settings, load_settings
from nowcast.simulation import Storm
from nowcast.simulation.odim_writer import write_odim
from worker.cli.terminal import score_table
from worker.loop import stop_on_signals
from worker.up import Service, free_ports

#: Name of the demonstration's domain.
DOMAIN = "demo"

STEP = timedelta(minutes=5)

#: Frames the live demonstration starts with, so that forecasts and scores are there within a minute.
HISTORY_FRAMES = 24

#: Frames of the short run, and lead times of its forecasts.
ONCE_FRAMES, ONCE_LEADS = 16, 6

#: Longest time [s] the short run waits for any one thing before it gives up.
PATIENCE_SECONDS = 120.0

DOMAINS_TOML = """\
[domains.{name}]
title = "Simulated radar"
credit = "simulated, not observed"
step_minutes = 5
leads = {leads}
"""


@dataclass
class Feed:
    """Drops simulated frames into the inbox, as an agency's transfer would.

    Attributes:
        settings: Of the running service.
        storm: The weather.
        sent: How many frames were delivered.
    """

    settings: Settings
    storm: Storm
    sent: int = 0

    def send(self) -> datetime:
        """Write the next frame as an ODIM_H5 file into the inbox and return its time."""
        raw = self.storm.frame(self.sent)
        write_odim(self.settings.inbox(DOMAIN) / f"simulated_{raw.time:%Y%m%dT%H%MZ}.h5", raw)
        self.sent += 1
        return raw.time


class Client:
    """Asks the running service over HTTP."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        """Return a JSON answer, ``None`` while there is none."""
        try:
            with urllib.request.urlopen(self.base + path, timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def wait(self, path: str, is_there: Any, what: str) -> Any:
        """Return the answer once ``is_there(answer)``.

        Raises:
            NowcastError: If it does not come in time.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = self.get(path)
            if answer is not None and is_there(answer):
                return answer
            time.sleep(0.1)
        raise NowcastError(f"waited {PATIENCE_SECONDS:g} s in vain for {what}")


def run_demo(*, once: bool, port: int) -> int:
    """Run the demonstration and return the exit code: 0, or 1 if the short run missed something."""
    console = Console()
    stop = threading.Event()
    stop_on_signals(stop)
    failures: list[NowcastError] = []
    with tempfile.TemporaryDirectory(prefix="nowcast-demo-") as folder:
        (free,) = free_ports(1)
        settings = _settings(Path(folder), port=free if once else port, leads=ONCE_LEADS if once else 12)
        service = Service(settings)
        act = _once if once else _live

        def background(stop: threading.Event) -> None:
            try:
                act(settings, console, stop)
            except NowcastError as error:
                failures.append(error)
            finally:
                if once or failures:
                    stop.set()

        service.run(stop, background=background)
    for failure in failures:
        console.print(f"[red]the demonstration failed:[/] {failure}")
    return 1 if failures else 0


def _settings(folder: Path, *, port: int, leads: int) -> Settings:
    domains = folder / "domains.toml"
    domains.write_text(DOMAINS_TOML.format(name=DOMAIN, leads=leads))
    return load_settings(data_dir=folder / "data", domains_file=domains, port=port, log_level="warning")


def _once(settings: Settings, console: Console, stop: threading.Event) -> None:
    client = Client(settings.port)
    feed = Feed(settings, Storm(seed=1))
    client.wait("/healthz", bool, "the API to start")
    with _progress(console) as progress:
        task = progress.add_task(f"{ONCE_FRAMES} simulated frames through the service", total=ONCE_FRAMES)
        for _ in range(ONCE_FRAMES):
            moment = feed.send()
            client.wait(
                f"/v1/domains/{DOMAIN}/forecasts/latest",
                lambda answer, at=moment: datetime.fromisoformat(answer["issue_time"]) == at,
                f"the forecast of {moment:%H:%M}",
            )
            progress.advance(task)
            if stop.is_set():
                return
    expected = ONCE_FRAMES - ONCE_LEADS

    def is_complete(answer: Any) -> bool:
        counts = {(row["model"], row["lead_minutes"]): row["forecasts"] for row in answer["rows"]}
        return bool(counts.get(("auto", ONCE_LEADS * 5), 0) >= expected)

    scores = client.wait(f"/v1/domains/{DOMAIN}/verification", is_complete, "the scores")
    console.print(score_table(scores["rows"], ("persistence", "auto")))


def _live(settings: Settings, console: Console, stop: threading.Event) -> None:
    client = Client(settings.port)
    now = datetime.now(UTC)
    newest = now - timedelta(minutes=now.minute % 5, seconds=now.second, microseconds=now.microsecond)
    storm = Storm(seed=int(newest.timestamp()) % 10_000, start=newest - (HISTORY_FRAMES - 1) * STEP)
    feed = Feed(settings, storm)
    client.wait("/healthz", bool, "the API to start")
    console.print(f"\n  The page is at [bold]http://127.0.0.1:{settings.port}/[/]  (Ctrl+C ends it)\n")
    with _progress(console) as progress:
        task = progress.add_task("two hours of simulated radar", total=HISTORY_FRAMES)
        for _ in range(HISTORY_FRAMES):
            feed.send()
            progress.advance(task)
            if stop.wait(0.5):
                return
    console.print("  A new frame every five minutes from here on.")
    while True:
        wait = (storm.start + feed.sent * STEP - datetime.now(UTC)).total_seconds()
        if stop.wait(max(wait, 0.0)):
            return
        feed.send()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
