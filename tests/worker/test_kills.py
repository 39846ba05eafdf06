"""A replay during which every process is killed at random, and SIGTERM, which ends them all."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from command import nowcast
from patience import wait_until

from nowcast.archive.archive import Archive
from nowcast.errors import BusError
from nowcast.forecast.store import ForecastStore
from nowcast.scores.scorebook import ScoreBook
from nowcast.simulation import Storm
from nowcast.simulation.odim_writer import write_odim
from worker.broker import find_server
from worker.bus import FORECASTS, FRAMES, connect, dead
from worker.up import free_ports

STEP = timedelta(minutes=5)

#: What may be killed, by a word of its command line.
VICTIMS = (
    "worker ingest",
    "worker infer",
    "worker verify",
    "valkey-server",
    "nowcast.readers.sandbox",
    "api.app",
)

#: Those that always run; the reading process ends with its worker and rarely lives long enough.
LASTING = {*VICTIMS} - {"nowcast.readers.sandbox"}


class Replay:
    """The service under test, on a domain called ``event`` with five-minute steps."""

    def __init__(self, folder: Path, leads: int, model: str = "auto") -> None:
        try:
            find_server()
        except BusError as error:
            pytest.skip(str(error))
        self.data, self.leads = folder / "data", leads
        toml = folder / "domains.toml"
        lines = ("[domains.event]", "step_minutes = 5", f"leads = {leads}", "backfill_minutes = 1440")
        toml.write_text("\n".join((*lines, f'model = "{model}"\n')))
        (port,) = free_ports(1)
        self.words = ("up", "--domains", str(toml), "--data", str(self.data), "--port", str(port))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *self.words],
            env={**os.environ, "NOWCAST_LOG_LEVEL": "error"},
        )
        self.inbox = self.data / "inbox" / "event"
        self.kills: list[str] = []

    def deliver(self, path: Path) -> None:
        self.inbox.mkdir(parents=True, exist_ok=True)
        hidden = self.inbox / f".{path.name}"
        shutil.copyfile(path, hidden)
        hidden.rename(self.inbox / path.name)

    def victims(self) -> list[tuple[str, psutil.Process]]:
        """Return what runs now of :data:`VICTIMS`."""
        running = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                words = " ".join(process.cmdline())
                running += [(victim, process) for victim in VICTIMS if victim in words]
        return running

    def kill_one(self, chance: random.Random) -> None:
        """Kill one of the processes that run now, by chance of a kind that was killed least."""
        wait_until(self.victims)
        running = self.victims()
        kinds = sorted({victim for victim, _ in running})
        wanted = min(chance.sample(kinds, len(kinds)), key=self.kills.count)
        with suppress(psutil.NoSuchProcess):
            next(process for victim, process in running if victim == wanted).send_signal(signal.SIGKILL)
            self.kills.append(wanted)

    def missing(self, times: list[datetime]) -> list[str]:
        """Everything that should be there in the end and is not, as text."""
        archive = Archive(self.data / "archive")
        store, book = ForecastStore(self.data / "forecasts"), ScoreBook(self.data / "scores")
        problems = [f"{path.name} still in the inbox" for path in self.inbox.glob("*")]
        archived = archive.times("event")
        if archived != times:
            problems.append(f"{len(archived)} of {len(times)} frames archived")
        for moment in times:
            models = store.models("event", moment)
            if len(models) != 1:
                problems.append(f"{moment:%H:%M} has forecasts {models}")
            wanted = set()
            for lead in range(1, self.leads + 1):
                if (issued := moment - lead * STEP) in times:
                    minutes = lead * 5
                    wanted |= {("persistence", minutes)}
                    wanted |= {(model, minutes) for model in store.models("event", issued)}
            if wanted - set(book.scored("event", moment)):
                problems.append(f"{moment:%H:%M} is not fully scored")
        return problems

    def unfinished_messages(self) -> list[str]:
        (broker,) = [
            process
            for process in psutil.Process(self.process.pid).children()
            if "valkey-server" in process.name()
        ]
        (port,) = {c.laddr.port for c in broker.net_connections() if c.status == psutil.CONN_LISTEN}
        with connect(f"redis://127.0.0.1:{port}/0") as client:
            problems = []
            for stream in (FRAMES, FORECASTS):
                if client.xlen(dead(stream)):
                    problems.append(f"{client.xlen(dead(stream))} dead messages of {stream}")
                for group in client.xinfo_groups(stream):
                    if group["pending"] or group["lag"]:
                        problems.append(
                            f"{stream} {group['name']}: {group['pending']} pending, lag {group['lag']}"
                        )
        return problems

    def run(
        self,
        paths: list[Path],
        times: list[datetime],
        *,
        kills: int,
        seed: int,
        patience: float,
        pause: float = 0.6,
    ) -> None:
        chance = random.Random(seed)
        wait_until(lambda: {victim for victim, _ in self.victims()} >= LASTING)
        archive = Archive(self.data / "archive")
        self.deliver(paths[0])
        wait_until(lambda: archive.times("event"))  # so kills meet processes at work
        kill_at = sorted(chance.sample(range(4 * len(paths)), kills))
        for moment in range(4 * len(paths)):  # four moments a frame, a kill at some of them
            if moment % 4 == 0 and moment:
                self.deliver(paths[moment // 4])
            time.sleep(chance.uniform(0.05, pause))
            if moment in kill_at:
                self.kill_one(chance)
        deadline = time.monotonic() + patience
        problems = ["not looked at yet"]
        while problems and time.monotonic() < deadline:
            time.sleep(0.2)
            try:
                problems = self.missing(times) or self.unfinished_messages()
            except (ValueError, psutil.Error) as error:
                problems = [str(error)]
        partial = [str(path) for path in self.data.rglob(".*.tmp")]
        quarantined = [path.name for path in (self.data / "quarantine").rglob("*") if path.is_file()]
        assert problems + partial + quarantined == [], f"after killing {self.kills}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    """A running service, by a method without networks: each start of those takes seconds."""
    replay = Replay(tmp_path_factory.mktemp("service"), leads=3, model="extrapolation")
    yield replay
    replay.stop()


@pytest.mark.timeout(900)
def test_a_simulated_event_survives_kills_of_every_process(service: Replay, tmp_path: Path) -> None:
    storm, first, paths, times = Storm(seed=5), datetime(2026, 1, 1, tzinfo=UTC), [], []
    for number in range(6):
        times.append(first + number * STEP)
        paths.append(tmp_path / f"{times[-1]:%H%M}.h5")
        write_odim(paths[-1], storm.frame(number))
    service.run(paths, times, kills=6, seed=1, patience=600, pause=0.3)
    assert len(service.kills) >= 5
    assert set(service.kills) >= LASTING


def test_sigterm_ends_every_process_of_the_service(service: Replay) -> None:
    """It is the last test of the service that runs."""
    process = psutil.Process(service.process.pid)
    wait_until(lambda: len(process.children(recursive=True)) >= len(VICTIMS))
    family = process.children(recursive=True)
    again = nowcast(*service.words)
    assert again.code == 2
    assert f"is held by process {process.pid} on" in again.err
    service.process.terminate()
    assert service.process.wait(60) == 0
    _, left = psutil.wait_procs(family, timeout=60)
    assert left == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_event_survives_thirty_kills(tmp_path: Path, shared_data: Path) -> None:
    paths = sorted((shared_data / "val/mch_gif/20150515").glob("*.gif"))
    first = datetime(2015, 5, 15, 15, 45, tzinfo=UTC)
    times = [first + number * STEP for number in range(len(paths))]
    replay = Replay(tmp_path, leads=12)
    try:
        replay.run(paths, times, kills=30, seed=7, patience=600)
    finally:
        replay.stop()
    assert len(replay.kills) == 30
    assert set(replay.kills) >= LASTING
