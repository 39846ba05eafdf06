"""Worker processes of the campaign: started apart from the terminal, found again, paused, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.folder import Campaign
from nowcast.disk import durable

#: Longest wait [s] for workers to write a checkpoint and end; then they are killed and lose what came after
#: the last one.
GRACE_SECONDS = 300.0

#: Variables that keep numerical libraries to one thread.
SINGLE_THREADED = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OPENCV_FOR_THREADS_NUM",
    )
}


@dataclass(frozen=True)
class Process:
    """One process of this boot; a number alone may be another's by now.

    Attributes:
        pid: Its number.
        started: When it started [clock ticks since the boot].
        boot: Which boot that was.
    """

    pid: int
    started: int
    boot: str

    @property
    def state(self) -> str:
        """Return the kernel's letter for what it does, ``T`` while it is paused; empty if it is gone."""
        stat = _stat(self.pid)
        if not stat or int(stat[19]) != self.started or _boot() != self.boot or stat[0] in "ZX":
            return ""
        return stat[0]


def this_process() -> Process:
    """Return the process that asks."""
    return Process(os.getpid(), int(_stat(os.getpid())[19]), _boot())


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the name: the state first, the start time as 20th."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def note_worker(campaign: Campaign, worker: int) -> None:
    """Write down that this process is a worker."""
    durable.write_json(campaign.workers / f"{worker}.json", asdict(this_process()))


def noted(told: Any) -> Process | None:
    """Return the process a file tells of, if it still runs."""
    with suppress(KeyError, TypeError, ValueError):
        process = Process(int(told["pid"]), int(told["started"]), str(told["boot"]))
        return process if process.state else None
    return None


def running(campaign: Campaign) -> dict[int, Process]:
    """Return the workers that run, by their numbers."""
    workers = {}
    for path in sorted(campaign.workers.glob("*.json")):
        with suppress(FileNotFoundError):
            if process := noted(durable.read_json(path)):
                workers[int(path.stem)] = process
    return workers


def start(
    campaign: Campaign, command: Sequence[str], *, workers: int, environment: Mapping[str, str]
) -> dict[int, subprocess.Popen[bytes]]:
    """Start the workers that do not run, each in a session of its own; return them by their numbers.

    Args:
        campaign: Where.
        command: What a worker runs; its number follows.
        workers: How many there shall be.
        environment: Variables besides those of this process.
    """
    known = running(campaign)
    begun: dict[int, subprocess.Popen[bytes]] = {}
    for worker in range(workers):
        if worker in known:
            continue
        log = campaign.log(worker)
        durable.make_folder(log.parent)
        with log.open("ab") as output:
            begun[worker] = subprocess.Popen(
                [*command, str(worker)],
                cwd=campaign.root,
                env={**os.environ, **SINGLE_THREADED, "PYTHONSAFEPATH": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    return begun


def send(campaign: Campaign, number: signal.Signals) -> list[Process]:
    """Send a signal to all workers and what they started; return the workers."""
    workers = list(running(campaign).values())
    for worker in workers:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, number)
    return workers


def pause(campaign: Campaign) -> int:
    """Let the workers rest, and return how many once they do."""
    workers = send(campaign, signal.SIGSTOP)
    while any(worker.state not in ("T", "") for worker in workers):
        time.sleep(0.01)
    return len(workers)


def go_on(campaign: Campaign) -> int:
    """Let paused workers go on, and return how many run."""
    return len(send(campaign, signal.SIGCONT))


def stop(campaign: Campaign, *, grace_seconds: float = GRACE_SECONDS) -> int:
    """End the workers, and return how many there were once they are gone."""
    workers = send(campaign, signal.SIGTERM)
    send(campaign, signal.SIGCONT)  # one that is paused would not hear of it
    deadline = time.monotonic() + grace_seconds
    while any(worker.state for worker in workers):
        if time.monotonic() > deadline:
            send(campaign, signal.SIGKILL)
        time.sleep(0.05)
    return len(workers)
