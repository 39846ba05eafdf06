"""How far the campaign is, as its files and the kernel tell."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.campaign.folder import FAILED_FILE, FINISHED_FILE, PROGRESS_FILE, Campaign, frozen
from benchmarks.campaign.processes import noted, running

WAITING, PREPARING, TRAINING, SCORING = "waiting", "preparing", "training", "scoring"
STOPPED, FINISHED, FAILED = "stopped", "finished", "failed"


@dataclass(frozen=True)
class Row:
    """How far one network is.

    Attributes:
        model: Its name.
        round: Number of its round.
        state: ``waiting``, ``preparing``, ``training``, ``scoring``, ``stopped`` (it goes on with the
            campaign), ``finished`` or ``failed``.
        error: First line of why it failed.
        done: Steps that are done.
        steps: Steps of all; ``None`` while that is not known.
        steps_a_second: Over the last minutes.
        seconds_left: At that speed, scoring left out.
        noted: When this was noted [s since 1970].
        validation: Values of each validation so far, by score.
        run: Folder of the run.
    """

    model: str
    round: int = 1
    state: str = WAITING
    error: str = ""
    done: int = 0
    steps: int | None = None
    steps_a_second: float | None = None
    seconds_left: float | None = None
    noted: float | None = None
    validation: dict[str, list[float]] = field(default_factory=dict)
    run: str = ""


@dataclass(frozen=True)
class Status:
    """How far the campaign is.

    Attributes:
        folder: Where it lies.
        code: Tag and commit it runs; empty if it has never been started.
        workers: The kernel's letters for what its processes do, ``T`` if paused, by number.
        gathered: Domains that are archived so far while the archive is made; ``None`` once it is whole.
        rows: The networks in order.
        at: Now [s since 1970].
    """

    folder: str
    code: str
    workers: dict[int, str]
    gathered: int | None
    rows: list[Row]
    at: float


def status(campaign: Campaign) -> Status:
    """Return how far the campaign is."""
    gathered = None
    if not campaign.archive.exists():
        folder = campaign.gathering / campaign.archive.name
        gathered = len([path for path in folder.iterdir() if path.is_dir()]) if folder.exists() else 0
    turns = _read(campaign.turns)
    rows = [_row(campaign, model, runs) for model, runs in turns.items()]
    workers = {number: process.state for number, process in running(campaign).items()}
    return Status(str(campaign.root), frozen(campaign), workers, gathered, rows, time.time())


def _row(campaign: Campaign, model: str, runs: list[str]) -> Row:
    """Return how far a network is in the newest round that has begun."""
    begun = [number for number, run in enumerate(runs, 1) if (campaign.runs / run / PROGRESS_FILE).exists()]
    failed = [number for number, run in enumerate(runs, 1) if (campaign.runs / run / FAILED_FILE).exists()]
    number = max(begun + failed, default=1)
    run = campaign.runs / runs[number - 1]
    told, speed = _read(run / PROGRESS_FILE), None
    steps, done = _read(run / "plan.json").get("steps"), _done(told)
    state, error = _state(run, told), _read(run / FAILED_FILE).get("error", "")
    if state == TRAINING:
        speed = told.get("steps_a_second")
    left = (steps - done) / speed if steps and speed else None
    return Row(
        model,
        number,
        state,
        error,
        done,
        steps,
        speed,
        left,
        told.get("at"),
        dict(_validation(run)),
        str(run),
    )


def _state(run: Path, told: dict[str, Any]) -> str:
    if (run / FINISHED_FILE).exists():
        return FINISHED
    if (run / FAILED_FILE).exists():
        return FAILED
    if not told:
        return WAITING
    if noted(told.get("process")) is None:
        return STOPPED
    what = str(told["what"])
    return next((state for state in (PREPARING, TRAINING) if what.startswith(state)), SCORING)


def _done(told: dict[str, Any]) -> int:
    return sum(done for done, _ in told.get("steps", {}).values())


def _validation(run: Path) -> Iterator[tuple[str, list[float]]]:
    """Yield the scores of the validations, and the values of each."""
    values: dict[str, list[float]] = {}
    for path in sorted((run / "run").glob("*/curves.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if name and name.startswith("val/") and text:
                        values.setdefault(name.removeprefix("val/"), []).append(float(text))
    yield from values.items()


def _read(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        told = json.loads(path.read_bytes())
    return told
