"""The running service on a replay of real frames: file in the inbox to forecast over HTTP, and memory.

Run ``python -m benchmarks.service [--json PATH]``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from nowcast.readers import read
from worker.up import free_ports

EVENT = Path(__file__).resolve().parents[2] / "shared/data/train/fmi_pgm/20170509"

DOMAINS = """\
[domains.fmi]
title = "Finland"
step_minutes = 5
leads = 12
"""

#: Targets: 95th percentile of the latency [s]; resident memory of all processes together [MiB].
LATENCY_P95_SECONDS, RESIDENT_MB = 2.5, 1.3 * 1024


@contextmanager
def running_service(folder: Path, domains: str, **environment: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run ``nowcast up`` on a data folder of its own; yield the API's port and the supervisor's process."""
    toml = folder / "domains.toml"
    toml.write_text(domains)
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "worker.cli",
            "up",
            "--domains",
            toml,
            "--data",
            folder / "data",
            "--port",
            str(port),
        ],
        env={**os.environ, "NOWCAST_LOG_LEVEL": "warning", **environment},
    )
    try:
        deadline = time.monotonic() + 60
        while get(port, "/healthz") is None:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("the service did not start")
            time.sleep(0.05)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def get(port: int, path: str) -> Any:
    """Return a JSON answer of the API, ``None`` while there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return json.load(answer)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def deliver(source: Path, inbox: Path) -> None:
    """Put a copy of a file into the inbox in one step, as a transfer that renames does."""
    hidden = inbox / f".{source.name}"
    shutil.copyfile(source, hidden)
    hidden.rename(inbox / source.name)


def memory_mb(root: psutil.Process) -> dict[str, float]:
    """Return resident memory [MiB] of the service: plain sum, and with shared pages counted once."""
    total = {"rss": 0.0, "pss": 0.0}
    for process in [root, *root.children(recursive=True)]:
        try:
            info = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        total["rss"] += info.rss / 2**20
        total["pss"] += info.pss / 2**20
    return total


def replay(event: Path = EVENT) -> dict[str, Any]:
    """Deliver an event frame after frame and return latencies [s] and memory [MiB] after each."""
    latencies, memory = [], []
    with tempfile.TemporaryDirectory() as folder, running_service(Path(folder), DOMAINS) as (port, root):
        inbox = Path(folder) / "data/inbox/fmi"
        while not inbox.is_dir():
            time.sleep(0.05)
        time.sleep(2.0)  # every worker has imported what it needs
        for path in sorted(event.iterdir()):
            moment = next(iter(read(path))).time
            start = time.perf_counter()
            deliver(path, inbox)
            while True:
                latest = get(port, "/v1/domains/fmi/forecasts/latest")
                if latest and datetime.fromisoformat(latest["issue_time"]) >= moment:
                    break
                if time.perf_counter() - start > 60:
                    raise RuntimeError(f"no forecast from {path.name}")
                time.sleep(0.03)
            latencies.append(time.perf_counter() - start)
            memory.append(memory_mb(root))
            time.sleep(0.5)
        return {"latencies": latencies, "memory": memory}


def main() -> None:
    """Replay, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = replay()
    latencies = figures["latencies"]
    p95 = statistics.quantiles(latencies, n=20, method="inclusive")[18]
    rss = [memory["rss"] for memory in figures["memory"]]
    figures |= {"p50": statistics.median(latencies), "p95": p95, "max": max(latencies), "rss_max": max(rss)}
    print(
        f"inbox to HTTP over {len(latencies)} frames: median {figures['p50']:.2f} s, p95 {p95:.2f} s "
        f"(target {LATENCY_P95_SECONDS}), max {max(latencies):.2f} s"
    )
    print(
        f"resident: {rss[min(10, len(rss) - 1)]:.0f} MiB after 10 frames, {rss[-1]:.0f} at the end, "
        f"{max(rss):.0f} at most (target {RESIDENT_MB:.0f}); "
        f"shared pages once: {figures['memory'][-1]['pss']:.0f} MiB"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
