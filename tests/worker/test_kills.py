"""A replay during which every process is killed at random: in the end everything is there, once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
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


class Replay:
    """The service under test, on a domain called ``event`` with five-minute steps."""

    def __init__(self, folder: Path, leads: int) -> None:
        try:
            find_server()
        except BusError as error:
            pytest.skip(str(error))
        self.data, self.leads = folder / "data", leads
        toml = folder / "domains.toml"
        toml.write_text(f"[domains.event]\nstep_minutes = 5\nleads = {leads}\nbackfill_minutes = 1440\n")
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "worker.cli", "up", "--domains", str(toml), "--data", str(self.data)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port)], env={**os.environ, "NOWCAST_LOG_LEVEL": "error"}
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
        """Kill one of the processes that run now, each kind with the same chance."""
        wait_until(self.victims)
        running = self.victims()
        wanted = chance.choice(sorted({victim for victim, _ in running}))
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
        self, paths: list[Path], times: list[datetime], *, kills: int, seed: int, patience: float
    ) -> None:
        chance = random.Random(seed)
        wait_until(
            lambda: set(VICTIMS) - {"nowcast.readers.sandbox"} <= {victim for victim, _ in self.victims()}
        )
        kill_at = sorted(chance.sample(range(4 * len(paths)), kills))
        for moment in range(4 * len(paths)):  # four moments a frame, a kill at some of them
            if moment % 4 == 0:
                self.deliver(paths[moment // 4])
            time.sleep(chance.uniform(0.05, 0.6))
            if moment in kill_at:
                self.kill_one(chance)
        deadline = time.monotonic() + patience
        problems = ["not looked at yet"]
        while problems and time.monotonic() < deadline:
            time.sleep(1.0)
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


@pytest.mark.timeout(900)
def test_a_simulated_event_survives_kills_of_every_process(tmp_path: Path) -> None:
    storm, first, paths, times = Storm(seed=5), datetime(2026, 1, 1, tzinfo=UTC), [], []
    for number in range(8):
        times.append(first + number * STEP)
        paths.append(tmp_path / f"{times[-1]:%H%M}.h5")
        write_odim(paths[-1], storm.frame(number))
    replay = Replay(tmp_path, leads=3)
    try:
        replay.run(paths, times, kills=6, seed=1, patience=600)
    finally:
        replay.stop()
    assert len(replay.kills) >= 5


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
    assert set(replay.kills) >= set(VICTIMS) - {"nowcast.readers.sandbox"}  # which rarely lives long enough
