"""Measurements, one after the other: ``python -m benchmarks [NAME...] [OPTION...]``; JSON in build/bench.

Without a name all are taken that end within minutes on a CPU. Options are handed on; ``NAME --help`` tells
them. By name alone: ``skill``, ``duels`` and ``cross_validation``, which take up to hours, and ``gpu``, which
runs tests, times networks and trains corrections on a GPU in less than ten minutes (``gpu --dry-run``: the
same on the CPU, at toy size).
"""

from __future__ import annotations

import subprocess
import sys
from itertools import takewhile
from pathlib import Path

#: What is measured, in the order of the data's way, and at last the code itself.
NAMES = (
    "ingest",
    "extrapolation",
    "sprog",
    "networks",
    "training",
    "verification",
    "service",
    "api",
    "house",
)


def main() -> None:
    """Run the named measurements, or all, each in a process of its own."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__ + "\nNames taken without one: " + ", ".join(NAMES))
        return
    folder = Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    names = list(takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    handed_on = sys.argv[1 + len(names) :]
    for name in names or NAMES:
        print(f"\n=== {name} ===", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(folder / f"{name}.json")]
        command += handed_on
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
