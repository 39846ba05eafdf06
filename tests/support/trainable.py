"""Archives of simulated rain that are quick to train on."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from models.convlstm import ConvLSTMConfig
from models.exceedance import ExceedanceConfig
from models.registry import PRESETS
from nowcast.archive.archive import Archive
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.frame.grid import Grid
from nowcast.simulation import Storm
from nowcast.training.plan import Plan
from nowcast.training.run import train
from nowcast.training.sequences import Shape

GRID = Grid.from_crs("+proj=laea +lat_0=52 +lon_0=5", nx=72, ny=64, x0=-36e3, y0=32e3, dx=1000, dy=1000)

#: Four frames, four slots of five minutes, seen from the moving air.
SHAPE = Shape(frames=4, slots=4, tile=48)

START = datetime(2026, 5, 1, tzinfo=UTC)


def add_event(
    root: Path, name: str, *, seed: int, frames: int = 10, step_minutes: int = 5, day: int = 0
) -> None:
    """Archive a storm as a domain."""
    storm = Storm(seed=seed, grid=GRID, step_minutes=step_minutes, start=START + timedelta(days=day))
    for raw in storm.frames(frames):
        Archive(root).add(name, normalise(raw, Domain(name, step_minutes)))


def rainy_archive(root: Path, events: int = 3) -> Archive:
    """Return an archive of storms ``storm-3``, ``storm-4``, ... named by their seeds."""
    for seed in range(3, 3 + events):
        add_event(root, f"storm-{seed}", seed=seed, day=seed)
    return Archive(root)


def train_and_die(root: Path, output: Path, plan: Plan, after: int) -> None:
    """Train in a process of its own that kills itself once that many steps are done."""
    use_tiny_networks()

    def report(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == after:
            os.kill(os.getpid(), signal.SIGKILL)

    train(Archive(root), output, plan, report=report)


def use_tiny_networks() -> None:
    """Make the networks of CPU size that are trained here so small that a step takes milliseconds."""
    torch.set_num_threads(1)
    PRESETS["convlstm_cpu"] = ConvLSTMConfig(hidden=(4,))
    PRESETS["exceedance_cpu"] = ExceedanceConfig(
        widths=(4, 8), hidden=8, slots=SHAPE.slots, leads_a_step=SHAPE.slots
    )


def main() -> None:
    """Train as ``ARCHIVE OUTPUT DEVICES BATCH STEPS`` say: Lightning starts this once a process."""
    use_tiny_networks()
    root, output = map(Path, sys.argv[1:3])
    devices, batch, steps = map(int, sys.argv[3:])
    plan = Plan("exceedance", steps=steps, shape=SHAPE, hold_out=(), devices=devices, batch=batch, crop=32)
    train(Archive(root), output, plan)


if __name__ == "__main__":
    main()
