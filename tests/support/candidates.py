"""Candidates for promotion: tiny networks with made-up scores, as a training would leave them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.convlstm import ConvLSTM, ConvLSTMConfig
from nowcast.methods.networks.checkpoint import Card, Source, Task, save
from nowcast.scores.judged import JUDGED_DBZ
from nowcast.scores.skillfile import SKILL_FILE, Scored, Skill, write_skill
from nowcast.scores.tally import Tally
from nowcast.training import promotion

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def tally(hits: int, misses: int, false_alarms: int) -> Tally:
    """Return a tally with the same counts at every threshold, of 1000 pixels."""
    empty = Tally(JUDGED_DBZ)
    counts = np.repeat([[hits], [misses], [false_alarms]], len(JUDGED_DBZ), axis=1)
    return empty.with_sums([np.array([1, 1000]), counts, empty.fractions, empty.moments])


def scores(hit_rate: float, *, events: int = 8, times: int = 3, leads: tuple[int, ...] = (5, 10)) -> Scored:
    """Return what a method of about that hit rate scored; the truth is the same for every rate."""
    truth = np.random.default_rng(7).integers(100, 400, (events, times))
    luck = np.random.default_rng(int(hit_rate * 1000)).normal(0, 0.01, (events, times))
    hits = np.rint(truth * (hit_rate + luck)).astype(int)
    return {
        f"storm {event}": {
            NOON + timedelta(days=event, minutes=5 * time): {
                lead: tally(hits[event, time], truth[event, time] - hits[event, time], 20) for lead in leads
            }
            for time in range(times)
        }
        for event in range(events)
    }


def skill(hit_rate: float, extrapolation: float = 0.6) -> Skill:
    """Return a candidate's skill beside that of its references."""
    return Skill(scores(hit_rate), {"persistence": scores(0.4), "extrapolation": scores(extrapolation)})


def candidate(folder: Path, hit_rate: float | None, *, seed: int = 0) -> Path:
    """Write a checkpoint of a ConvLSTM with its skill, without if no hit rate is given; return its folder."""
    config = ConvLSTMConfig(hidden=(2,))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = ConvLSTM(config)
    data = (Source("KNMI", "composite", "CC BY 4.0", "2021"),)
    save(folder, network, Card(config, Task(5, 12, 5.0, 1.0), data, "abc1234"))
    (folder / "card.md").write_text("# A tiny ConvLSTM\n")
    (folder / "curves.csv").write_text("step,loss\n1,0.5\n")
    (folder / "run").mkdir()
    (folder / "run" / "state.ckpt").write_bytes(b"to go on from")
    if hit_rate is not None:
        write_skill(folder / SKILL_FILE, skill(hit_rate))
    return folder


def promote_slowly(store: Path, folder: Path, result: Path) -> None:
    """Promote in a process of its own, long in two minds after judging; leave there what became of it."""
    judge = promotion._judge

    def slowly(*arguments: Any) -> Any:
        verdict = judge(*arguments)
        time.sleep(0.5)
        return verdict

    promotion._judge = slowly
    result.write_text(str(promotion.promote(store, "convlstm", folder).version))


def promote_and_die(store: Path, folder: Path, when: str, nth: int) -> None:
    """Promote in a process that kills itself before or after its n-th rename.

    There are three: of the version's ``skill.json``, of the version's folder, of the pointer.
    """
    count = 0

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def rename(*paths: Path) -> None:
            nonlocal count
            count += 1
            if (when, nth) == ("before", count):
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)
            if (when, nth) == ("after", count):
                os.kill(os.getpid(), signal.SIGKILL)

        return rename

    os.replace, os.rename = dying(os.replace), dying(os.rename)  # type: ignore[assignment]
    promotion.promote(store, "convlstm", folder)
