"""Runs trainings side by side, and finds those that were run before."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.mechanisms.catalogue import EXPERIMENTS
from benchmarks.mechanisms.fitting import Size


def run(wanted: list[tuple[str, str, int]], size: Size, jobs: int) -> Iterator[dict[str, Any]]:
    """Yield the result of each training when it is done, ``jobs`` at a time on one thread each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(jobs, 1), context, torch.set_num_threads, (1,)) as pool:
        for future in as_completed(pool.submit(_one, *which, size) for which in wanted):
            yield future.result()


def _one(name: str, variant: str, seed: int, size: Size) -> dict[str, Any]:
    started = time.process_time()
    measures = EXPERIMENTS[name].run(variant, seed, size)
    return {
        "experiment": name,
        "variant": variant,
        "seed": seed,
        "measures": measures,
        "cpu_seconds": round(time.process_time() - started, 1),
        "size": asdict(size),
    }


def recorded(record: Path, size: Size) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the results of one size that are written down.

    A line that was cut off, and a variant that is no longer in the catalogue, are left out.
    """
    results = {}
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    for line in lines:
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue
        experiment = EXPERIMENTS.get(result["experiment"])
        if experiment and result["variant"] in experiment.variants and result["size"] == asdict(size):
            results[result["experiment"], result["variant"], result["seed"]] = result
    return results
