"""Extrapolation beside pysteps on three real events: skill, time and memory in one run.

Run ``python -m benchmarks.extrapolation [--every K] [--json PATH]``. Both get the same frames; CSI is pooled
over issue times; a forecast pixel without value counts as no echo, and a pixel counts where the truth is
observed. pysteps forecasts twice, as its users do it: rain rate (motion from rain rate in dB), and dBZ
throughout. Skill is compared with the better of the two in each cell of the table, time with the faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from benchmarks.cost import measured
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.frame.units import NO_ECHO_DBZ, ZR
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.extrapolation import Extrapolation, Persistence
from nowcast.names import EXTRAPOLATION, PERSISTENCE
from nowcast.readers import read
from nowcast.scores.tally import Tally, score_fields

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
THRESHOLDS_DBZ = (20.0, 30.0, 35.0)
EMPTY = Tally(THRESHOLDS_DBZ)
HISTORY = 4
LEADS = 12

#: Targets: CSI may fall short of pysteps by so much; time may be this share; memory [MB] of one 1226 x 760
#: forecast.
CSI_SHORTFALL, TIME_SHARE, MEMORY_MB = 0.005, 1 / 8, 600.0

#: pysteps' own defaults for rain rate: threshold [mm/h] and value [dB] of no rain.
PYSTEPS_THRESHOLD_MM_H, PYSTEPS_ZERO_DB = 0.1, -15.0

Array = NDArray[np.float32]
Forecaster = Callable[[Cube], list[Array]]


@dataclass(frozen=True)
class Event:
    """One event: its files, the time between frames, and the lead times scored."""

    name: str
    folder: str
    step_minutes: int
    scored_minutes: tuple[int, ...]

    def frames(self, count: int | None = None) -> list[xr.DataArray]:
        """Return the frames, oldest first, on the grid of the first."""
        domain = Domain(self.name, self.step_minutes)
        paths = sorted(path for path in (DATA / self.folder).iterdir() if path.is_file())
        return [normalise(raw, domain) for path in paths[:count] for raw in read(path)]


EVENTS = (
    Event("Finland", "train/fmi_pgm/20170509", 5, (5, 30, 60)),
    Event("Switzerland", "val/mch_gif/20150515", 5, (5, 30, 60)),
    Event("Brisbane", "train/bom_rf3/66_brisbane_c10_20201031", 10, (10, 30, 60)),
)
CONTINENT = Event("Europe", "train/opera_cirrus_dbzh_20241126", 5, ())


def ours(cube: Cube) -> list[Array]:
    """Return the fields of our extrapolation."""
    return list(Extrapolation().predict(cube, LEADS).fields)


def persistence(cube: Cube) -> list[Array]:
    """Return the newest frame, over and over."""
    return list(Persistence().predict(cube, LEADS).fields)


def pysteps_rain_rate(cube: Cube) -> list[Array]:
    """Return pysteps' extrapolation of rain rate: Lucas-Kanade on rain rate in dB, then semi-Lagrangian."""
    from pysteps import motion, nowcasts
    from pysteps.utils.transformation import dB_transform

    rate = ZR().to_rain_rate(cube.values).astype(float)
    decibel, _ = dB_transform(rate, threshold=PYSTEPS_THRESHOLD_MM_H, zerovalue=PYSTEPS_ZERO_DB)
    decibel[~np.isfinite(decibel)] = PYSTEPS_ZERO_DB
    velocity = motion.get_method("LK")(decibel)
    fields = nowcasts.get_method("extrapolation")(np.nan_to_num(rate[-1]), velocity, LEADS)
    return [ZR().to_dbz(field) for field in fields]


def pysteps_dbz(cube: Cube) -> list[Array]:
    """Return pysteps' extrapolation of dBZ: Lucas-Kanade and semi-Lagrangian on the same numbers."""
    from pysteps import motion, nowcasts

    dbz = np.nan_to_num(cube.values, nan=NO_ECHO_DBZ).astype(float)
    velocity = motion.get_method("LK")(dbz)
    return list(nowcasts.get_method("extrapolation")(dbz[-1], velocity, LEADS))


METHODS: dict[str, Forecaster] = {
    EXTRAPOLATION: ours,
    "pysteps rain rate": pysteps_rain_rate,
    "pysteps dBZ": pysteps_dbz,
    PERSISTENCE: persistence,
}


def measure(event: Event, every: int) -> dict[str, Any]:
    """Return CSI ``{method: (lead, threshold)}`` and the median seconds of each method on one event."""
    frames = event.frames()
    scored = [minutes // event.step_minutes for minutes in event.scored_minutes]
    sums: dict[str, dict[int, Tally]] = {name: {} for name in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    issues = range(HISTORY - 1, len(frames) - LEADS, every)
    for number, newest in enumerate(issues, start=1):
        print(f"\r{event.name}: issue time {number} of {len(issues)}", end="", file=sys.stderr, flush=True)
        cube = build_cube(
            frames[newest - HISTORY + 1 : newest + 1], step_minutes=event.step_minutes, history=HISTORY
        )
        truths = {lead: frames[newest + lead].values for lead in scored}
        for name, forecaster in METHODS.items():
            begun = time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # not ours to silence one by one
                fields = forecaster(cube)
            seconds[name].append(time.perf_counter() - begun)
            sums[name] = pooled(sums[name], fields, truths)
    print(file=sys.stderr)
    return {
        "event": event.name,
        "grid": list(frames[0].shape),
        "issue_times": len(issues),
        "minutes": event.scored_minutes,
        "csi": {name: table(by_lead, "csi", 4) for name, by_lead in sums.items()},
        "seconds": {name: float(np.median(taken)) for name, taken in seconds.items()},
    }


def pooled(sums: dict[int, Tally], fields: Sequence[Array], truths: Mapping[int, Array]) -> dict[int, Tally]:
    """Return sums by lead with those of one forecast added, which has all leads from 1."""
    scored = score_fields(((lead, fields[lead - 1], truth) for lead, truth in truths.items()), EMPTY)
    return {lead: sums[lead] + tally if lead in sums else tally for lead, tally in scored.items()}


def table(sums: Mapping[int, Tally], name: str, digits: int) -> list[list[float | None]]:
    """Return a score of events ``(lead, threshold)``, ``None`` where it is undefined."""
    return [
        [None if row[name] is None else round(row[name], digits) for row in tally.rows()]
        for tally in sums.values()
    ]


def one_forecast(event: Event) -> dict[str, float]:
    """Return seconds, and memory [MB] beyond the imports, of one forecast in a process of its own."""
    cube = build_cube(event.frames(HISTORY), step_minutes=event.step_minutes, history=HISTORY)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cube").write_bytes(pickle.dumps(cube))
        command = [sys.executable, "-m", "benchmarks.extrapolation", "--one", str(Path(folder) / "cube")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def report_one(path: Path) -> None:
    """Forecast once from a saved cube, letting each field go, and print time and memory as JSON."""
    seconds = []

    def forecast() -> None:
        cube: Cube = pickle.loads(path.read_bytes())
        begun = time.perf_counter()
        for _ in Extrapolation().predict(cube, LEADS).fields:
            pass
        seconds.append(time.perf_counter() - begun)

    cost = measured(forecast)
    print(json.dumps({"seconds": round(seconds[0], 3), "memory_mb": round(cost["memory_mb"], 1)}))


def show_event(result: dict[str, Any]) -> bool:
    """Print one event's table and return whether every target is met."""
    skill, seconds, met = result["csi"], result["seconds"], True
    peers = [name for name in METHODS if name.startswith("pysteps")]
    rows, columns = result["grid"]
    print(f"\n{result['event']}, {rows} x {columns} cells, {result['issue_times']} issue times")
    print(f"{'lead':>7}{'dBZ':>5}" + "".join(f"{name:>19}" for name in METHODS) + f"{'ours/peer':>11}")
    for k, minutes in enumerate(result["minutes"]):
        for t, threshold in enumerate(THRESHOLDS_DBZ):
            values = [skill[name][k][t] for name in METHODS]
            peer = max(
                (skill[name][k][t] for name in peers), key=lambda value: -1 if value is None else value
            )
            passed = peer is None or values[0] >= peer - CSI_SHORTFALL
            met &= passed
            cells = "".join(
                f"{'undefined' if value is None else format(value, '.4f'):>19}" for value in values
            )
            ratio = f"{values[0] / peer:.3f}" if peer else "-"
            print(f"{minutes:>4}min{threshold:>5g}{cells}{ratio:>11} {'pass' if passed else 'FAIL'}")
    share = seconds[EXTRAPOLATION] / min(seconds[name] for name in peers)
    passed = share <= TIME_SHARE
    cells = "".join(f"{seconds[name]:>17.3f} s" for name in METHODS)
    print(f"{'median':>12}{cells}{f'1/{1 / share:.0f}':>11} {'pass' if passed else 'FAIL'}", flush=True)
    return met and passed


def main() -> None:
    """Measure, print tables, write JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--every", type=int, default=8, help="frames between issue times (default 8)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        report_one(options.one)
        return
    if not DATA.is_dir():
        raise SystemExit(f"the real radar files are not here: {DATA}")
    with contextlib.redirect_stdout(sys.stderr):
        import pysteps  # noqa: F401  # prints where its configuration is

    results = [measure(event, options.every) for event in EVENTS]
    met = [show_event(result) for result in results]
    single = {event.name: one_forecast(event) for event in (EVENTS[0], CONTINENT)}
    fits = single[EVENTS[0].name]["memory_mb"] <= MEMORY_MB
    print(f"\none forecast of {LEADS} leads in a process of its own, memory beyond imports:")
    for name, one in single.items():
        verdict = ("pass" if fits else "FAIL") if name == EVENTS[0].name else ""
        print(f"{name:>12}{one['seconds']:>8.2f} s{one['memory_mb']:>8.0f} MB {verdict}")
    passed = all(met) and fits
    if options.json:
        document = {"events": results, "one_forecast": single, "passed": passed}
        options.json.write_text(json.dumps(document, indent=1))
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
