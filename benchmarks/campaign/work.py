"""A worker: one process on one core that takes the next network, trains it, and takes the next."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.campaign.folder import FAILED_FILE, FINISHED_FILE, PROGRESS_FILE, Campaign
from benchmarks.campaign.plans import ENTRIES, Entry, run_name
from benchmarks.campaign.processes import note_worker, this_process
from models.registry import PRESETS
from nowcast.archive.archive import Archive
from nowcast.archive.events import find_events
from nowcast.disk import durable
from nowcast.errors import NotEnoughFrames
from nowcast.methods.networks.checkpoint import verify
from nowcast.methods.networks.versions import SHIPPED
from nowcast.names import CONFIG_FILE, NETWORKS
from nowcast.scores.skillfile import MEAN_CSI, mean_csi, pooled
from nowcast.training.candidate import write_candidate
from nowcast.training.plan import Plan
from nowcast.training.run import train
from nowcast.training.tune import tune_events
from worker.processes import die_with_parent

log = logging.getLogger(__name__)

#: Lowest priority: whatever else the machine does comes first.
NICE = 19

#: Time [s] between two notes of the progress, and over which the speed is measured.
NOTED_SECONDS, SPEED_SECONDS = 5.0, 300.0

#: Wait [s] before it looks again whether there is something to take.
IDLE_SECONDS = 60.0


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a lock file if nobody does, and tell whether; the kernel frees it when the holder is killed."""
    durable.make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def yield_to_others() -> None:
    """Take the lowest priority, in the process's own session too.

    Linux shares the processor among sessions first (``sched_autogroup_enabled``), and only within one by
    niceness: a worker in a session of its own would get as much as all that a terminal runs.
    """
    if niceness := NICE - os.nice(0):
        os.nice(niceness)
    if os.getsid(0) == os.getpid():
        with suppress(OSError):  # another system, or a kernel without such groups
            Path("/proc/self/autogroup").write_text(f"{NICE}", encoding="ascii")


def work(campaign: Campaign, worker: int, raw: Path, entries: Sequence[Entry] = ENTRIES) -> None:
    """Train one network after the other until the process is ended.

    Args:
        campaign: Where.
        worker: Number of this worker; a second of the same number ends at once.
        raw: Folder of folders of radar files, for the archive if there is none yet.
        entries: What to train, in order.
    """
    yield_to_others()
    torch.set_num_threads(1)
    with claimed(campaign.workers / f"{worker}.lock") as mine:
        if not mine:
            log.info("worker %d runs already", worker)
            return
        note_worker(campaign, worker)
        gather(campaign, raw)
        archive = Archive(campaign.archive)
        hold_out = tune_events(event.name for event in find_events(archive))
        if not hold_out:
            raise NotEnoughFrames(f"expected events to tune on in {archive.root}, found none")
        while True:
            if not take_next(campaign, archive, hold_out, entries):
                time.sleep(IDLE_SECONDS)


def gather(campaign: Campaign, raw: Path) -> None:
    """Make the archive unless there is one; of several workers one does, others wait.

    Raises:
        CalledProcessError: If the files cannot be archived.
    """
    with durable.locked(campaign.state / ".archive.lock"):
        if campaign.archive.exists():
            return
        log.info("gathering %s", raw)
        command = [sys.executable, "-m", "worker.cli", "archive", "gather", raw, "--data", campaign.gathering]
        subprocess.run(list(map(str, command)), check=True, preexec_fn=die_with_parent)
        durable.make_folder(campaign.archive.parent)
        (campaign.gathering / campaign.archive.name).rename(campaign.archive)
        shutil.rmtree(campaign.gathering)


def take_next(
    campaign: Campaign, archive: Archive, hold_out: Sequence[str], entries: Sequence[Entry]
) -> bool:
    """Train the first network whose turn has come, and return whether there was one.

    One begins with the weights of the package, if they fit. One that is finished is trained again, from
    its best weights and with another seed, once no other waits.
    """
    turns = {entry.model: rounds(campaign, entry, hold_out) for entry in entries}
    told = {name: [run.name for run, _ in of_network] for name, of_network in turns.items()}
    durable.write_json(campaign.turns, told)
    for *before, (run, plan) in sorted(turns.values(), key=len):  # networks in order, by round
        if (run / FAILED_FILE).exists():
            continue
        with claimed(run / ".lock") as mine:
            if mine and not (run / FINISHED_FILE).exists():
                scores = {folder: durable.read_json(folder / FINISHED_FILE)["score"] for folder, _ in before}
                begin = max(scores, key=scores.__getitem__, default=shipped(plan.model))
                attempt(campaign, archive, run, plan, begin)
                return True
    return False


def shipped(model: str) -> Path | None:
    """Return the package's weights of a network, with which its first round begins; ``None`` if none fit."""
    folder = SHIPPED / model
    if not (folder / CONFIG_FILE).exists() or verify(folder).config != PRESETS[NETWORKS[model]]:
        return None
    return folder


def rounds(campaign: Campaign, entry: Entry, hold_out: Sequence[str]) -> list[tuple[Path, Plan]]:
    """Return folder and plan of a network's rounds up to the first that is not finished."""
    until_now: list[tuple[Path, Plan]] = []
    while not until_now or (until_now[-1][0] / FINISHED_FILE).exists():
        number = len(until_now) + 1
        plan = entry.plan(number, hold_out)
        until_now.append((campaign.runs / run_name(plan, number), plan))
    return until_now


def attempt(campaign: Campaign, archive: Archive, run: Path, plan: Plan, begin: Path | None) -> None:
    """Train a network and leave its candidate, or why that failed."""
    log.info("%s: begins or goes on", run.name)
    progress = Progress(run)
    try:
        trained = train(archive, run, plan, cache=campaign.sequences, start=begin, report=progress.report)
        skill = write_candidate(archive, run, trained, report=progress.report)
    except Exception as error:
        log.exception("%s: failed", run.name)
        first = (str(error).splitlines() or [""])[0]
        durable.write_json(run / FAILED_FILE, {"error": f"{type(error).__name__}: {first}"})
        return
    score = mean_csi(pooled(skill.events)) if skill else None
    durable.write_json(run / FINISHED_FILE, {"score": score or 0.0, "what": MEAN_CSI, "at": time.time()})
    log.info("%s: finished", run.name)


class Progress:
    """How far a run is, noted in its folder for whoever asks."""

    def __init__(self, run: Path) -> None:
        """Go on from what an earlier process noted."""
        self._path = run / PROGRESS_FILE
        self._steps: dict[str, list[int]] = {}
        with suppress(FileNotFoundError):
            self._steps = dict(durable.read_json(self._path)["steps"])
        self._began: int | None = None
        self._noted = 0.0
        self._pace: deque[tuple[float, int]] = deque()

    def report(self, what: str, done: int, total: int) -> None:
        """Note what is being done."""
        now = time.monotonic()
        if what.startswith("training"):
            self._steps[what] = [done, total]
            self._pace.append((now, sum(done for done, _ in self._steps.values())))
            while self._pace[-1][0] - self._pace[0][0] > SPEED_SECONDS:
                self._pace.popleft()
        first = bool(self._pace) and self._began is None
        if first:
            self._began = done
        if now - self._noted < NOTED_SECONDS and done != total and not first:
            return
        self._noted = now
        durable.write_json(self._path, self._now(what, done, total))

    def _now(self, what: str, done: int, total: int) -> dict[str, Any]:
        speed = None
        if len(self._pace) > 1:
            (began, first), (ended, last) = self._pace[0], self._pace[-1]
            speed = (last - first) / max(ended - began, 1e-9)
        return {
            "what": what,
            "done": done,
            "total": total,
            "steps": self._steps,
            "began": self._began,
            "steps_a_second": speed,
            "at": time.time(),
            "process": asdict(this_process()),
        }
