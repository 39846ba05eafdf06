"""Runs the experiments: ``python -m benchmarks.mechanisms [NAME...] --out FILE``.

Each training is written down when it is done, as a line of JSON; one that is there is not run again, so that
an interrupted run goes on where it was. The table is made of what is there.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.mechanisms.catalogue import EXPERIMENTS
from benchmarks.mechanisms.fitting import LARGE, SMALL, Size
from benchmarks.mechanisms.running import recorded, run
from benchmarks.mechanisms.table import table


def main() -> None:
    """Run what is asked for and write the table."""
    options = _parser().parse_args()
    size = LARGE if options.large else SMALL
    if options.iterations:
        size = replace(size, iterations=options.iterations)
    names = options.names or list(EXPERIMENTS)
    record = options.out.with_suffix(".jsonl")
    record.parent.mkdir(parents=True, exist_ok=True)
    done = recorded(record, size)
    wanted = [
        (name, variant, seed)
        for seed in range(options.seeds)
        for name in names
        for variant in EXPERIMENTS[name].variants
        if (name, variant, seed) not in done
    ]
    started = time.perf_counter()
    with record.open("a", encoding="utf-8") as lines:
        for count, result in enumerate(run(wanted, size, options.jobs), start=1):
            lines.write(json.dumps(result) + "\n")
            lines.flush()
            left = (time.perf_counter() - started) / count * (len(wanted) - count) / 60
            sys.stderr.write(
                f"{count} of {len(wanted)}, {left:.0f} min left: {result['experiment']}, "
                f"{result['variant']}, seed {result['seed']}: {result['measures']}\n"
            )
    text = table(list(recorded(record, size).values()), names, size, _machine(size))
    options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mechanisms", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments, of {', '.join(EXPERIMENTS)}")
    parser.add_argument(
        "--out", type=Path, default=Path("build/experiments.md"), help="the table, as Markdown"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--jobs", type=int, default=torch.get_num_threads(), help="trainings at a time")
    parser.add_argument("--large", action="store_true", help="sizes for a GPU")
    parser.add_argument("--iterations", type=int, help="steps of each training, for a quick look")
    return parser


def _machine(size: Size) -> str:
    if size.device == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} cores ({platform.machine()}), no GPU"


if __name__ == "__main__":
    main()
