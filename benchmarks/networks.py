"""Speed and memory of every network, and of the three hardest beside naive implementations of the same.

Run ``python -m benchmarks.networks [--rounds N] [--json PATH]``. A network and its naive implementation must
agree before they are timed; then they take turns, each time in a fresh process, whose highest memory beyond
imports, weights and frames is what one forecast takes. Rates are compared with that of one large convolution
in the same run, so that they say how well a network uses the machine, not how fast that is. Where there is a
GPU, the ``_paper`` presets are timed on it too: in float32 as they are, and in bfloat16 with compiled cells.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks import network_runs
from benchmarks.network_runs import CORES, LATENT, PAIRS, TAUS, Setting
from models.registry import PRESETS

#: Targets of a forecast beside the naive one: times as fast at least, and share of its memory at most.
TARGETS: dict[str, tuple[float | None, float | None]] = {"E3D-LSTM": (2.5, 1 / 3), "STMoE": (1.5, None)}
#: Target: rate of E3D-LSTM's convolutions by that of one large convolution, at least.
CONVOLUTION_SHARE = 0.8
#: Target: time of taking in a new frame by that of a window of five, at most.
STREAMING_SHARE = 1 / 4
#: Target: how far RECALL's memory may be from a straight line in tau, by its largest value.
STRAIGHTNESS = 0.1

#: Largest difference of a network and its naive implementation, by the largest value of the latter's.
AGREEMENT = 1e-4

Document = dict[str, Any]


class Runner:
    """Runs each measurement in a process of its own, forked from one that has only imported what it needs."""

    def __init__(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else the profiler reports each start
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.network_runs"])

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the function returns."""
        with ProcessPoolExecutor(1, self._context) as pool:
            return pool.submit(function, *arguments).result()


def side_by_side(run: Runner, function: Callable[..., Document], pair: str, rounds: int) -> Document:
    """Return the medians of a network and its naive implementation, which take turns, and their ratios."""
    results: dict[bool, list[Document]] = {False: [], True: []}
    for _ in range(rounds):
        for naive in (False, True):
            results[naive].append(run(function, pair, naive))
    ours, theirs = (
        {key: statistics.median(result[key] for result in results[naive]) for key in results[naive][0]}
        for naive in (False, True)
    )
    ratios = {
        "speed": theirs["seconds"] / ours["seconds"],
        "memory": ours["memory_mb"] / theirs["memory_mb"],
    }
    return {"ours": ours, "naive": theirs, **ratios}


def compare(run: Runner, rounds: int) -> tuple[Document, bool]:
    """Measure and print the pairs; return the results and whether every target is met."""
    print(
        "\nbeside naive implementations of the same weights; memory is that of one forecast or training step"
    )
    print(f"{'':19}{'ours':>10}{'naive':>10}{'speed':>8}{'':5}{'ours':>11}{'naive':>11}{'share':>7}")
    results, met = {}, True
    for name, pair in PAIRS.items():
        difference = run(network_runs.disagreement, name)
        results[name] = {"difference": difference}
        if not difference <= AGREEMENT:
            print(f"{name:>9} differs from its naive implementation by {difference:.1e} FAIL", flush=True)
            met = False
            continue
        forecast = side_by_side(run, network_runs.one_forecast, name, rounds)
        met &= show_pair(name, "forecast", forecast, *TARGETS.get(name, (None, None)))
        results[name]["forecast"] = forecast
        if pair.training:
            training = side_by_side(run, network_runs.one_training_step, name, 1)
            show_pair(name, "training", training)
            results[name]["training"] = training
    return results, met


def show_pair(
    name: str, what: str, result: Document, speed: float | None = None, memory: float | None = None
) -> bool:
    """Print one comparison and return whether its targets, if any, are met."""
    fast = None if speed is None else result["speed"] >= speed
    small = None if memory is None else result["memory"] <= memory
    ours, naive = result["ours"], result["naive"]
    print(
        f"{name:>9} {what:<9}{ours['seconds']:>8.2f} s{naive['seconds']:>8.2f} s{result['speed']:>7.2f}x"
        f"{verdict(fast)}{ours['memory_mb']:>8.0f} MB{naive['memory_mb']:>8.0f} MB{result['memory']:>7.2f}"
        f"{verdict(small)}",
        flush=True,
    )
    return fast is not False and small is not False


def verdict(met: bool | None) -> str:
    """Return the word for a target met, missed or not set."""
    return {True: " pass", False: " FAIL", None: "     "}[met]


def convolutions(run: Runner) -> tuple[Document, bool]:
    """Measure and print how fast E3D-LSTM's convolutions are."""
    result = run(network_runs.convolutions, "E3D-LSTM")
    met = result["share"] >= CONVOLUTION_SHARE
    print(
        f"\nE3D-LSTM's convolutions run at {result['gflop_s']:.0f} GFLOP/s, {result['share']:.2f} of what a "
        f"large one does{verdict(met)}; its time goes to"
    )
    print("  " + ", ".join(f"{name} {share:.1%}" for name, share in result["operators"].items()), flush=True)
    return result, met


def recall_memory(run: Runner) -> tuple[Document, bool]:
    """Measure and print the memory of E3D-LSTM's attention, which should grow linearly with tau."""
    _, depth, channels, rows, columns = LATENT
    print(
        f"\nRECALL alone over tau memories of {depth} x {rows} x {columns} positions, {channels} channels: "
        "memory in MB"
    )
    print(f"{'tau':>9}" + "".join(f"{tau:>8}" for tau in TAUS))
    memory = {}
    for name, naive in (("ours", False), ("naive", True)):
        memory[name] = [run(network_runs.recall_memory, tau, naive)["memory_mb"] for tau in TAUS]
        print(f"{name:>9}" + "".join(f"{value:>8.1f}" for value in memory[name]), flush=True)
    fit = statistics.linear_regression(TAUS, memory["ours"])
    off = max(
        abs(fit.intercept + fit.slope * tau - value) for tau, value in zip(TAUS, memory["ours"], strict=True)
    )
    met = off <= STRAIGHTNESS * memory["ours"][-1]
    print(f"{'':9}ours is {fit.intercept:.1f} + {fit.slope:.2f} tau, off by {off:.1f} at most{verdict(met)}")
    return {"taus": TAUS, "memory_mb": memory, "intercept": fit.intercept, "slope": fit.slope}, met


def streaming(run: Runner) -> tuple[Document, bool]:
    """Measure and print how SCS takes in a new frame."""
    seconds = run(network_runs.streaming)
    share = seconds["frame"] / seconds["window"]
    met = share <= STREAMING_SHARE
    print(
        f"\nSCS takes in a new frame in {seconds['frame']:.2f} s, a window of five in "
        f"{seconds['window']:.2f} s (naive {seconds['naive_window']:.2f} s): {share:.2f}{verdict(met)}",
        flush=True,
    )
    return {**seconds, "share": share}, met


def survey(run: Runner) -> Document:
    """Measure and print every preset, those for two cores first."""
    rate = run(network_runs.large_rate)
    print(f"\na forecast of every preset on {CORES} cores; a large convolution does {rate / 1e9:.0f} GFLOP/s")
    columns = ("setting", "parameters", "GFLOP", "seconds", "GFLOP/s", "of large", "MB")
    widths = (15, 12, 9, 9, 9, 9, 7)
    print(f"{'':>24}" + "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True)))
    results = {}
    for preset in sorted(PRESETS, key=lambda name: (not name.endswith("_cpu"), name)):
        result = run(network_runs.one_preset, preset, rate)
        setting, gflop = Setting(*result["setting"]), result["flop"] / 1e9
        shown = f"{setting.frames}->{setting.leads} {setting.rows}x{setting.columns}"
        print(f"{preset:>24}{shown:>15}{result['parameters']:>12,}{gflop:>9.1f}", end="")
        if "seconds" in result:
            result["gflop_s"] = gflop / result["seconds"]
            result["of_large"] = 1e9 * result["gflop_s"] / rate
            print(
                f"{result['seconds']:>9.3f}{result['gflop_s']:>9.1f}{result['of_large']:>9.2f}"
                f"{result['memory_mb']:>7.0f}",
                flush=True,
            )
        else:
            print("   takes too long", flush=True)
        results[preset] = result
    return {"large_gflop_s": rate / 1e9, "presets": results}


def survey_gpu(run: Runner) -> Document:
    """Measure and print the presets of the papers' sizes on the GPU."""
    peak = run(network_runs.matrix_rate)
    print(f"\non the GPU, which multiplies large bfloat16 matrices at {peak / 1e12:.0f} TFLOP/s")
    columns = ("float32 ms", "compiled ms", "speed", "of peak", "MB", "differ")
    print(f"{'':>24}" + "".join(f"{name:>12}" for name in columns))
    results = {}
    for preset in (name for name in PRESETS if "_paper" in name):
        result = run(network_runs.accelerated, preset)
        eager, compiled = result["seconds"], result["seconds_compiled"]
        result |= {"speed": eager / compiled, "of_peak": result["flop"] / compiled / peak}
        print(
            f"{preset:>24}{1e3 * eager:>12.1f}{1e3 * compiled:>12.1f}{result['speed']:>12.2f}"
            f"{result['of_peak']:>12.1%}{result['memory_mb']:>12.0f}{result['difference']:>12.4f}",
            flush=True,
        )
        results[preset] = result
    return {"peak_tflop_s": peak / 1e12, "presets": results}


def main() -> None:
    """Measure, print tables, write JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each forecast (default 2)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    run = Runner()
    pairs, passed = compare(run, options.rounds)
    document: Document = {"pairs": pairs}
    for measure in (convolutions, recall_memory, streaming):
        document[measure.__name__], met = measure(run)
        passed &= met
    document |= survey(run)
    if torch.cuda.is_available():
        document["gpu"] = survey_gpu(run)
    if options.json:
        options.json.write_text(json.dumps({**document, "passed": passed}, indent=1))
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
