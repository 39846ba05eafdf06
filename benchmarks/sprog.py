"""S-PROG beside that of pysteps on four real events: skill, frequency bias, time and memory in one run.

Run ``python -m benchmarks.sprog [--issues N] [--json PATH]``. All get the same frames in dBZ. pysteps is run
twice: as its users run it, along its own Lucas-Kanade motion, and along our motion, which leaves the cascade
alone to differ. CSI is pooled over issue times spread over the event; a forecast pixel without value counts
as no echo, and a pixel counts where the truth is observed. Cells of few hits are not judged. The base, which
mixes S-PROG with other rules, is timed beside them. Exit status is 1 where CSI falls short of pysteps as its
users run it, or time or memory exceeds its target; cells where it falls short of pysteps along our motion are
marked, no more. Without pysteps our figures alone are printed, and that is said.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.cost import measured
from benchmarks.extrapolation import (
    CONTINENT,
    CSI_SHORTFALL,
    DATA,
    HISTORY,
    THRESHOLDS_DBZ,
    TIME_SHARE,
    Event,
    pooled,
    table,
)
from benchmarks.machine import machine
from benchmarks.pysteps_methods import ORDER, RAIN_DBZ, ZERO_DBZ, PystepsSprog
from nowcast.methods.blend import Blend
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.method import Method
from nowcast.methods.sprog import SPROG
from nowcast.motion.flow import motion_field
from nowcast.names import EXTRAPOLATION
from nowcast.scores.tally import Tally

SCORED_MINUTES = (10, 30, 60)
EVENTS = (
    Event("Finland", "train/fmi_pgm/20170509", 5, SCORED_MINUTES),
    Event("Switzerland", "train/mch_gif/20170131", 5, SCORED_MINUTES),
    Event("Brisbane", "train/bom_rf3/66_brisbane_c10_20201031", 10, SCORED_MINUTES),
    Event("Netherlands", "train/knmi_rap_20100826", 5, SCORED_MINUTES),
)

#: What the base is timed on, and how often.
BASE_EVENT, BASE_RUNS = Event("Switzerland", "val/mch_gif/20150515", 5, ()), 3

#: Pixels some method must hit for a cell of the table to count: fewer are the luck of one core of rain.
LEAST_HITS = 100

#: Leads of the forecast that is measured for memory: an hour of five minutes each.
LEADS = 12

#: Target: memory [MB] beyond imports and frames of one forecast of 4400 x 3800 cells.
MEMORY_MB = 1500.0

Array = NDArray[np.float32]
Forecaster = Callable[[Cube, int], list[Array]]


def by(method: Method) -> Forecaster:
    """Return a method as a function of cube and leads."""
    return lambda cube, leads: list(method.predict(cube, leads).fields)


def pysteps_on_our_motion(cube: Cube, leads: int) -> list[Array]:
    """Return pysteps' S-PROG of the same rain, along the motion that ours takes."""
    from pysteps import nowcasts

    rain = np.where(cube.values >= RAIN_DBZ, cube.values, ZERO_DBZ).astype(float)
    southward, eastward = motion_field(cube.values).dense().astype(float)
    velocity = np.stack([eastward, southward])
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not ours to silence one by one
        fields = nowcasts.get_method("sprog")(rain[-ORDER - 1 :], velocity, leads, precip_thr=RAIN_DBZ)
    return list(fields)


OURS, USED, SAME_MOTION = SPROG.name, "pysteps", "pysteps, our motion"


def forecasters() -> dict[str, Forecaster]:
    """Return what is compared, pysteps only where it is installed."""
    known: dict[str, Forecaster] = {OURS: by(SPROG())}
    if find_spec("pysteps"):
        known |= {USED: by(PystepsSprog()), SAME_MOTION: pysteps_on_our_motion}
    return known | {EXTRAPOLATION: by(Extrapolation())}


def measure(event: Event, issues: int) -> dict[str, Any]:
    """Return CSI, frequency bias ``{method: (lead, threshold)}`` and seconds of each method on one event."""
    frames, methods = event.frames(), forecasters()
    scored = [minutes // event.step_minutes for minutes in event.scored_minutes]
    sums: dict[str, dict[int, Tally]] = {name: {} for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    spread = np.linspace(HISTORY - 1, len(frames) - 1 - scored[-1], issues).astype(int)
    for number, newest in enumerate(spread, start=1):
        print(f"\r{event.name}: issue time {number} of {issues}", end="", file=sys.stderr, flush=True)
        history = frames[newest - HISTORY + 1 : newest + 1]
        cube = build_cube(history, step_minutes=event.step_minutes, history=HISTORY)
        truths = {lead: frames[newest + lead].values for lead in scored}
        for name, forecaster in methods.items():
            begun = time.perf_counter()
            fields = forecaster(cube, scored[-1])
            seconds[name].append(time.perf_counter() - begun)
            sums[name] = pooled(sums[name], fields, truths)
    print(file=sys.stderr)
    return {
        "event": event.name,
        "grid": list(frames[0].shape),
        "leads": scored[-1],
        "issue_times": issues,
        "minutes": event.scored_minutes,
        "csi": {name: table(by_lead, "csi", 4) for name, by_lead in sums.items()},
        "hits": {name: table(by_lead, "hits", 0) for name, by_lead in sums.items()},
        "bias": {name: table(by_lead, "bias", 3) for name, by_lead in sums.items()},
        "seconds": {name: float(np.median(taken)) for name, taken in seconds.items()},
    }


def show_event(result: dict[str, Any]) -> bool:
    """Print one event's table, and return whether every target is met."""
    names, skill, met = list(result["csi"]), result["csi"], True
    rows, columns = result["grid"]
    print(f"\n{result['event']}, {rows} x {columns} cells, {result['issue_times']} issue times, CSI (bias)")
    print(f"{'lead':>7}{'dBZ':>5}" + "".join(f"{name:>22}" for name in names))
    for k, minutes in enumerate(result["minutes"]):
        for t, threshold in enumerate(THRESHOLDS_DBZ):
            cells = "".join(f"{_cell(result, name, k, t):>22}" for name in names)
            short = [name for name in (USED, SAME_MOTION) if _is_short(skill, name, k, t)]
            verdict = "  short of " + " and ".join(short) if short else "  pass"
            if max(hits[k][t] for hits in result["hits"].values()) < LEAST_HITS:
                verdict = "  too few hits"
            elif USED in short:
                met = False
            print(f"{minutes:>4}min{threshold:>5g}{cells}{verdict if USED in names else ''}")
    print(f"{'median':>12}" + "".join(f"{result['seconds'][name]:>20.3f} s" for name in names), end="")
    if USED in names:
        share = result["seconds"][OURS] / result["seconds"][USED]
        met &= share <= TIME_SHARE
        print(f"  1/{1 / share:.0f} of pysteps {'pass' if share <= TIME_SHARE else 'FAIL'}", end="")
    print(flush=True)
    return met


def _cell(result: dict[str, Any], name: str, k: int, t: int) -> str:
    value, ratio = result["csi"][name][k][t], result["bias"][name][k][t]
    shown = "undefined" if value is None else f"{value:.4f}"
    return f"{shown} ({'-' if ratio is None else format(ratio, '.2f')})"


def _is_short(skill: dict[str, Any], peer: str, k: int, t: int) -> bool:
    if peer not in skill or skill[peer][k][t] is None:
        return False
    return bool(skill[OURS][k][t] < skill[peer][k][t] - CSI_SHORTFALL)


def base_seconds() -> dict[str, float]:
    """Return seconds of one forecast of the base, which examines an hour, beside S-PROG's; best of some."""
    frames = BASE_EVENT.frames(Blend.frames + 8)
    hour, few = (
        build_cube(frames[-count:], step_minutes=BASE_EVENT.step_minutes, history=count)
        for count in (Blend.frames, HISTORY)
    )
    timed: dict[str, tuple[Forecaster, Cube]] = {Blend.name: (by(Blend()), hour), OURS: (by(SPROG()), few)}
    if find_spec("pysteps"):
        timed[USED] = by(PystepsSprog()), few
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(BASE_RUNS):
        for name, (forecaster, cube) in timed.items():
            begun = time.perf_counter()
            forecaster(cube, LEADS)
            seconds[name].append(time.perf_counter() - begun)
    return {name: min(taken) for name, taken in seconds.items()}


def one_forecast(event: Event) -> dict[str, float]:
    """Return seconds, and memory [MB] beyond imports and frames, of a forecast in a process of its own."""
    cube = build_cube(event.frames(HISTORY), step_minutes=event.step_minutes, history=HISTORY)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cube").write_bytes(pickle.dumps(cube))
        command = [sys.executable, "-m", "benchmarks.sprog", "--one", str(Path(folder) / "cube")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def report_one(path: Path) -> None:
    """Forecast once from a saved cube, letting each field go, and print time and memory as JSON."""
    cube: Cube = pickle.loads(path.read_bytes())

    def forecast() -> None:
        for _ in SPROG().predict(cube, LEADS).fields:
            pass

    print(json.dumps({what: round(cost, 3) for what, cost in measured(forecast).items()}))


def main() -> None:
    """Measure, print tables, write JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--issues", type=int, default=8, help="issue times of each event (default 8)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(1)  # one thread for all
    if options.one:
        report_one(options.one)
        return
    if not DATA.is_dir():
        raise SystemExit(f"the real radar files are not here: {DATA}")
    if not find_spec("pysteps"):
        print("pysteps is not installed: nothing to compare with, ours alone is measured")
    results = [measure(event, options.issues) for event in EVENTS]
    print(machine())
    met = [show_event(result) for result in results]
    base = base_seconds()
    print(
        f"\n{LEADS} leads of the base: " + ", ".join(f"{name} {taken:.2f} s" for name, taken in base.items())
    )
    if USED in base:
        share = base[Blend.name] / base[USED]
        met.append(share <= TIME_SHARE)
        print(f"1/{1 / share:.1f} of pysteps {'pass' if share <= TIME_SHARE else 'FAIL'}", flush=True)
    continent = one_forecast(CONTINENT)
    fits = continent["memory_mb"] <= MEMORY_MB
    print(f"\none forecast of {LEADS} leads of 4400 x 3800 cells in a process of its own: ", end="")
    print(f"{continent['seconds']:.1f} s, {continent['memory_mb']:.0f} MB beyond the frames", end=" ")
    print("pass" if fits else "FAIL")
    passed = all(met) and fits
    if options.json:
        document = {
            "machine": machine(), "events": results, "base": base, "continent": continent, "passed": passed,
        }  # fmt: skip
        options.json.write_text(json.dumps(document, indent=1))
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
