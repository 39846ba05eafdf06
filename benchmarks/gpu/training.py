"""Trains wide corrections one after the other, in equal shares of the time left, and judges each."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.gpu.corrections import WIDE
from benchmarks.gpu.judging import FACTORS, gains
from benchmarks.gpu.learning import Learnt, Step, learn
from benchmarks.gpu.packed import Block, Facts, Layout, Packed, Sample, read, write
from benchmarks.gpu.pool import Pool
from benchmarks.gpu.timing import channels_last
from models.correction import Correction

#: Squares a step, and side of a square [cells]; those of a toy.
BATCH, CROP, TOY_BATCH, TOY_CROP = 128, 128, 1, 16

#: Time [s] kept for judging a network and writing it.
JUDGING_SECONDS = 15.0

#: Steps of a toy.
TOY_STEPS = 2


def train(
    data: Path | None,
    output: Path,
    device: torch.device,
    *,
    dry: bool,
    until: float,
    names: Sequence[str] = tuple(WIDE),
) -> dict[str, Any]:
    """Train, judge and keep networks, and print what each gains.

    Args:
        data: Packed tiles; a toy has its own.
        output: Folder that weights are left in.
        device: Where.
        dry: Whether to take a few steps on a toy.
        until: When to be done, by :func:`time.time`.
        names: The networks, of :data:`benchmarks.gpu.corrections.WIDE`.

    Raises:
        ValueError: If there is no data.
    """
    if data is None and not dry:
        raise ValueError("expected packed tiles to learn from (--data), got none")
    torch.backends.cudnn.allow_tf32 = False  # but for bfloat16, all is float32
    packed = read(data) if data and not dry else toy()
    pool = Pool(packed.learnt, packed.layout, TOY_CROP if dry else CROP, device)
    events = {sample.facts.event for sample in packed.learnt}
    print(
        f"{len(pool.planes)} tiles of {len(events)} events to learn from, "
        f"{len(packed.judged)} whole grids to judge by",
        flush=True,
    )
    results = {}
    for k, name in enumerate(names):
        seconds = (until - time.time()) / (len(names) - k) - JUDGING_SECONDS
        if seconds <= 0 and not dry:
            print(f"no time was left for {', '.join(names[k:])}", flush=True)
            break
        results[name] = _one(name, packed, pool, output, max(seconds, 1.0), dry=dry)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return results


def _one(name: str, packed: Packed, pool: Pool, output: Path, seconds: float, *, dry: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    device = pool.planes.device
    network = Correction(WIDE[name])
    channels_last(network.to(device))
    begun = time.perf_counter()
    step = Step(network, pool, TOY_BATCH if dry else BATCH)
    prepared = time.perf_counter() - begun
    learnt = learn(step, max(seconds - prepared, 1.0), most_steps=TOY_STEPS if dry else None)
    tables = gains(learnt.network, packed.judged, packed.layout, device)
    path = output / f"{name}.safetensors"
    save(path, name, learnt, tables)
    best = max(tables, key=lambda factor: tables[factor]["gain"])
    print(
        f"{name:>12}: {learnt.steps} steps in {learnt.seconds:.1f} s after {prepared:.1f} s"
        f"{' as a graph' if learnt.captured else ''}, cross-entropy {learnt.losses[0]:.4f} -> "
        f"{learnt.losses[-1]:.4f}; gain {tables[1.0]['gain']:+.2f}%, {tables[best]['gain']:+.2f}% at "
        f"{best:g} of it; {path.name}, {path.stat().st_size / 1e6:.1f} MB",
        flush=True,
    )
    return {
        "steps": learnt.steps,
        "seconds": learnt.seconds,
        "captured": learnt.captured,
        "losses": learnt.losses,
        "gains": {f"{factor:g}": tables[factor] for factor in FACTORS},
        "config": repr(WIDE[name]),
    }


def save(path: Path, name: str, learnt: Learnt, tables: dict[float, dict[str, float]]) -> None:
    """Write weights in 16 bits, with their configuration and gains beside them in the same file."""
    state = {key: value.half().cpu().contiguous() for key, value in learnt.network.state_dict().items()}
    told = {"name": name, "config": repr(WIDE[name]), "steps": str(learnt.steps), "gains": json.dumps(tables)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, told)


def load(path: Path) -> Correction:
    """Return the network that :func:`save` wrote.

    Raises:
        ValueError: If it was of another configuration than its name has now.
    """
    with safe_open(path, "pt") as file:
        told = file.metadata()
    config = WIDE[told["name"]]
    if repr(config) != told["config"]:
        raise ValueError(f"{path}: expected weights of {config!r}, got {told['config']}")
    network = Correction(config)
    network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return network.eval()


def toy(tiles: int = 3, side: int = 24) -> Packed:
    """Return a few tiles of noise, written to a file and read again."""
    random, facts = (
        np.random.default_rng(0),
        Facts("toy", "toy", 5, 1.0, tuple(10.0 * k for k in range(1, 7))),
    )
    parts = {"past": (0, 4), "truth": (4, 10), "guess": (10, 16), "in_place": (16, 22), "motion": (22, 24)}
    layout = Layout(parts, still=127, motion_step_kmh=1.0, rain_byte=108, least_rain=0.002)
    samples = [Sample(facts, random.integers(0, 256, (24, side, side), np.uint8)) for _ in range(tiles)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy"
        write(path, layout, [Block.of(one) for one in samples[1:]], [Block.of(samples[0])])
        return read(path)
