"""Kept answers of the API beside a bare FastAPI route that returns the same bytes, both under wrk in turns.

Run ``python -m benchmarks.api [--seconds S] [--rounds N] [--json PATH]``; needs ``wrk``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Response

from nowcast.archive.archive import Archive
from nowcast.disk.data_folder import DataFolder
from nowcast.disk.dates import iso
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.forecast.store import ForecastStore
from nowcast.frame.frame import frame_array
from nowcast.frame.grid import Grid
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.tally import WINDOWS_KM, Tally

#: Targets: least share of the bare route's requests per second, largest multiple of its 99th percentile.
LEAST_RATE, LARGEST_P99 = 0.6, 3.0

#: Connections wrk keeps busy.
CONNECTIONS = 16

LEADS, STEP_MINUTES = 12, 5

#: What is asked: name, path, whether the targets are for it.
ASKED = (
    ("forecast record", "/v1/domains/bench/forecasts/latest", True),
    ("point", "/v1/domains/bench/point?lat=52.3&lon=4.9", True),
    ("map", "/v1/domains/bench/forecasts/latest/map.png?lead=30", False),
)

#: Asks for one cell after another, so that no answer is ready.
SPREAD = """
local n = 0
request = function()
  n = n + 1
  local lat, lon = 51.0 + (n * 7 % 4001) / 2000, 4.0 + (n * 13 % 3989) / 2000
  return wrk.format("GET", string.format("/v1/domains/bench/point?lat=%.4f&lon=%.4f", lat, lon))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk measured: requests per second and 99th percentile of the latency [ms]."""

    rate: float
    p99_ms: float


def bare() -> FastAPI:
    """Return an application that answers each file of the folder ``BARE_FOLDER`` by its name alone."""
    app = FastAPI(openapi_url=None)

    def add(path: Path) -> None:
        content = path.read_bytes()
        media_type = "image/png" if content[:4] == b"\x89PNG" else "application/json"

        async def answer() -> Response:
            return Response(content, media_type=media_type)

        app.add_api_route(f"/{path.name}", answer)

    for path in Path(os.environ["BARE_FOLDER"]).iterdir():
        add(path)
    return app


def make_data(data_dir: Path) -> None:
    """Fill a data folder with an hour of moving rain on a national grid, a forecast and a day's scores."""
    grid = Grid.from_crs("EPSG:3035", nx=700, ny=765, x0=3_670_000, y0=3_600_000, dx=1000, dy=1000)
    rows, columns = np.mgrid[0 : grid.ny, 0 : grid.nx]
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    issued = now - timedelta(minutes=now.minute % STEP_MINUTES)

    def field(step: int) -> np.ndarray:
        wave = np.sin((columns - 4 * step) / 40) + np.cos((rows + 2 * step) / 30)
        return np.where(wave > 0.5, 10 + 15 * wave, -10).astype(np.float32)

    archive = Archive(DataFolder(data_dir).archive)
    for step in range(-12, 1):
        archive.add("bench", frame_array(field(step), grid, issued + step * timedelta(minutes=STEP_MINUTES)))
    record = ForecastRecord(
        domain="bench", issue_time=issued, step_minutes=STEP_MINUTES, leads=LEADS, model="extrapolation",
        model_version="1", input_frames=tuple(map(iso, archive.times("bench")[-4:])), degraded_reason="",
        grid=grid,
    )  # fmt: skip
    ForecastStore(DataFolder(data_dir).forecasts).save(
        record, Prediction(Lead(field(step)) for step in range(1, LEADS + 1))
    )
    tally = Tally((20.0, 30.0, 35.0, 40.0), windows_km=WINDOWS_KM, cell_km=grid.cell_km)
    tally.add(field(1), field(2))
    scores = {
        (m, STEP_MINUTES * n): tally for m in ("extrapolation", "persistence") for n in range(1, LEADS + 1)
    }
    book = ScoreBook(DataFolder(data_dir).scores)
    for step in range(288):
        book.save("bench", issued - step * timedelta(minutes=STEP_MINUTES), scores)
    (data_dir / "nowcast.toml").write_text('[domains.bench]\nstep_minutes = 5\ncredit = "Nobody"\n')


@contextmanager
def serving(factory: str, ready: str, **environment: str) -> Iterator[str]:
    """Run an application factory under uvicorn, one process, and yield its address once ``ready`` answers."""
    from worker.up import free_ports

    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "--factory", factory, "--port", str(port)),
            *("--no-access-log", "--log-level", "warning"),
        ],
        env={**os.environ, **environment},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                fetch(address + ready)
                break
            except OSError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{factory} did not start") from error
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def fetch(url: str) -> bytes:
    """Return the body of an answer."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def load(url: str, seconds: int, script: Path | None = None) -> Load:
    """Put a server under load and return what wrk saw.

    Raises:
        RuntimeError: If an answer was an error.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(script)] if script else []
    told = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(told)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])  # type: ignore[index]
    p99, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", told).groups()  # type: ignore[union-attr]
    return Load(rate, float(p99) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit])


def measure(seconds: int, rounds: int) -> dict[str, Any]:
    """Return medians over rounds in which both take turns, for each question."""
    with tempfile.TemporaryDirectory() as name:
        folder, bodies = Path(name), Path(name) / "bodies"
        make_data(folder)
        bodies.mkdir()
        settings = {
            "NOWCAST_DATA_DIR": str(folder),
            "NOWCAST_DOMAINS_FILE": str(folder / "nowcast.toml"),
            "NOWCAST_REDIS_URL": "",
        }
        with serving("api.app:create_app", "/healthz", **settings) as api:
            for number, (_, path, _) in enumerate(ASKED):
                (bodies / str(number)).write_bytes(fetch(api + path))
            with serving("benchmarks.api:bare", "/0", BARE_FOLDER=str(bodies)) as plain:
                rows = [
                    _compared(api + path, f"{plain}/{n}", seconds, rounds)
                    for n, (_, path, _) in enumerate(ASKED)
                ]
            (folder / "spread.lua").write_text(SPREAD)
            spread = load(api, seconds, folder / "spread.lua")
        sizes = [(bodies / str(n)).stat().st_size for n in range(len(ASKED))]
    for row, size, (what, _, bound) in zip(rows, sizes, ASKED, strict=True):
        row |= {"question": what, "bytes": size, "bound": bound}
    return {"rows": rows, "points all different": vars(spread) | {}}


def _compared(ours: str, theirs: str, seconds: int, rounds: int) -> dict[str, Any]:
    loads: dict[str, list[Load]] = {"api": [], "bare": []}
    for _ in range(rounds):
        loads["bare"].append(load(theirs, seconds))
        loads["api"].append(load(ours, seconds))
    row: dict[str, Any] = {}
    for name, seen in loads.items():
        row[f"{name}_rate"] = statistics.median(one.rate for one in seen)
        row[f"{name}_p99_ms"] = statistics.median(one.p99_ms for one in seen)
    row["rate_ratio"] = row["api_rate"] / row["bare_rate"]
    row["p99_ratio"] = row["api_p99_ms"] / row["bare_p99_ms"]
    return row


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="length of one load")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian: apt-get install wrk")
    figures = measure(arguments.seconds, arguments.rounds)
    print(
        f"{'question':<16} {'bytes':>7} {'api/s':>8} {'bare/s':>8} {'ratio':>6} "
        f"{'p99 ms':>7} {'bare':>7} {'ratio':>6}"
    )
    met = True
    for row in figures["rows"]:
        print(
            f"{row['question']:<16} {row['bytes']:>7} {row['api_rate']:>8.0f} {row['bare_rate']:>8.0f} "
            f"{row['rate_ratio']:>6.2f} {row['api_p99_ms']:>7.2f} {row['bare_p99_ms']:>7.2f} "
            f"{row['p99_ratio']:>6.2f}"
        )
        if row["bound"]:
            met &= row["rate_ratio"] >= LEAST_RATE and row["p99_ratio"] <= LARGEST_P99
    spread = figures["points all different"]
    print(f"points all different: {spread['rate']:.0f}/s, p99 {spread['p99_ms']:.1f} ms")
    print(f"targets (rate >= {LEAST_RATE}, p99 <= {LARGEST_P99}): {'met' if met else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures | {"met": met}, indent=1))


if __name__ == "__main__":
    main()
