"""What reading sequences takes beside learning from them: the loader's batches a second, and each network's.

Run ``python -m benchmarks training [--steps N] [--models A,B] [--json PATH]``. The archive is simulated, and
sequences are prepared from it as for any training. A loader should give at least three times what a network
takes: then reading in between costs a fourth of the time at most, and a worker beside it next to nothing.
Times are those of one thread of the processor, so that other work on the machine does not blur ratios; only
the rate of a worker process is by the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from benchmarks.machine import machine
from models.forecaster import Forecaster
from models.registry import PRESETS, build, forecasters
from nowcast.archive.archive import Archive
from nowcast.archive.events import find_events
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.simulation import Storm
from nowcast.training.data import Batch, Draws, Numbers, loader
from nowcast.training.module import Learning, Recipe
from nowcast.training.sequences import Shape, prepare

#: Batches a second of the loader by those of a network, at least.
TARGET = 3.0

#: Sequences in a batch and side of its squares, as a training has them unless told otherwise.
BATCH, CROP = 8, 128

#: Batches that the loader is timed on, after a few that start its processes.
LOADED, BEFORE = 100, 5

#: Frames of the simulated event: an hour and a half.
FRAMES = 18


def draws_of(folder: Path) -> Draws:
    """Return draws from a simulated event."""
    archive = Archive(folder / "archive")
    for raw in Storm().frames(FRAMES):
        archive.add("simulated", normalise(raw, Domain("simulated", 5)))
    tiles = prepare(archive, find_events(archive), Shape(), folder)
    return Draws(tiles, Shape(), crop=CROP, seed=0)


def loader_rate(draws: Draws, workers: int) -> float:
    """Return the batches a second that a loader gives to who does nothing with them."""
    clock = perf_counter if workers else process_time
    batches = iter(loader(draws, Numbers(), BATCH, workers=workers))
    for _ in islice(batches, BEFORE):
        pass
    started = clock()
    for _ in islice(batches, LOADED):
        pass
    return LOADED / (clock() - started)


def step_rate(name: str, batches: Iterator[Batch], steps: int, folder: Path) -> float:
    """Return the steps a second of a training that waits for nothing, after one that is not timed."""
    network = build(PRESETS[name])
    assert isinstance(network, Forecaster)
    learning = Learning(network, Recipe(), steps=1000, seed=0, folder=folder, monitored=False)
    optimiser = torch.optim.AdamW(network.parameters())
    started = 0.0
    for number, batch in enumerate(list(islice(batches, steps + 1))):
        if number == 1:
            started = process_time()
        optimiser.zero_grad()
        learning.loss_of(batch, number)["loss"].backward()  # type: ignore[arg-type, no-untyped-call]
        optimiser.step()
    return steps / (process_time() - started)


def main() -> None:
    """Measure, print, write JSON; exit status 1 if the loader is too slow for a network."""
    small = [name for name in forecasters() if name.endswith("_cpu")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="steps each network is timed on")
    parser.add_argument("--models", default=",".join(small), help="presets, separated by commas")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}, one thread; batches of {BATCH} squares of {CROP} x {CROP} cells")
    results: dict[str, Any] = {"machine": machine(), "loader": {}, "networks": {}}
    with tempfile.TemporaryDirectory() as name:
        draws = draws_of(Path(name))
        for workers in (0, 1):
            rate = results["loader"][workers] = loader_rate(draws, workers)
            print(f"loader, {workers} worker{'s' * (workers != 1)}: {rate:.1f} batches/s", flush=True)
        met, batches = True, iter(loader(draws, Numbers(), BATCH))
        for preset in asked.models.split(","):
            rate = step_rate(preset, batches, asked.steps, Path(name))
            ratio = results["loader"][0] / rate
            met &= ratio >= TARGET
            results["networks"][preset] = {"steps_per_second": rate, "loader_by_step": ratio}
            verdict = "pass" if ratio >= TARGET else "FAIL"
            print(
                f"{preset:>24}: {rate:7.3f} steps/s, the loader gives {ratio:6.1f} times that {verdict}",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2))
    raise SystemExit(not met)


if __name__ == "__main__":
    main()
