"""Skill of every method that has weights, beside extrapolation, S-PROG and pysteps, in one table.

Run ``python -m benchmarks skill [--data DIR] [--models A,B] [--every K] [-o FILE.md]``. All methods get the
same frames and are scored on the same issue times and pixels, with sums pooled over issue times and events.
What was measured once is kept (:mod:`benchmarks.skill_pieces`): a run that was killed goes on where it was.
Exit status is 1 if the method that chooses among others falls short of them, or a method failed.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from benchmarks.pysteps_methods import PYSTEPS
from benchmarks.skill_gate import Verdict, check, gate_sections
from benchmarks.skill_pieces import CACHE, WEIGHTS, Event, Piece, Progress, Terms, events_in, made, version_of
from benchmarks.skill_table import Result, Section, figures, markdown, on_common_ground, sections, show
from nowcast.compute import Compute
from nowcast.disk import durable
from nowcast.errors import NotEnoughFrames, NowcastError, WrongInterval
from nowcast.methods.networks.versions import CONFIG_FILE, SHIPPED, current_of
from nowcast.methods.registry import METHODS
from nowcast.names import AUTO, BLEND, EXTRAPOLATION, NETWORKS, PERSISTENCE, SPROG
from nowcast.scores.skillfile import pooled

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "val"

#: The method that chooses, and those it has to be better than: what it chooses among, as far as that has no
#: weights, and the independent implementation of the same.
GATE = AUTO
REFERENCES = ((EXTRAPOLATION, BLEND), (EXTRAPOLATION, "pysteps_extrapolation", "pysteps_sprog"))

#: Columns the tables need: a narrower terminal breaks lines, which is better than numbers cut off.
WIDTH = 150

#: Methods without weights of their own, quick ones first; what is not there is passed over.
PLAIN = (PERSISTENCE, EXTRAPOLATION, SPROG, BLEND, *PYSTEPS)


@dataclass(frozen=True)
class Run:
    """One run of the benchmark: what is measured, on what, and where it is kept."""

    events: Sequence[Event]
    compute: Compute
    terms: Terms
    every: int
    cache: Path


def names_in_order(weights: Path) -> list[str]:
    """Return the methods there are to measure: those without weights, the networks with, and the gate.

    Raises:
        NowcastError: If what says which weights are current is damaged.
    """
    networks = [
        name
        for name in NETWORKS
        if current_of(weights, name) or any((one / name / CONFIG_FILE).exists() for one in (weights, SHIPPED))
    ]
    theirs = PYSTEPS if find_spec("pysteps") else {}
    return [name for name in (*PLAIN, *networks, GATE) if name in METHODS or name in theirs]


def measure(run: Run, names: Sequence[str], console: Console) -> tuple[list[Result], dict[str, str]]:
    """Return what each method scored, and why methods failed that did."""
    results, failed = [], {}
    for number, name in enumerate(names, start=1):
        try:
            results.append(_measured(run, name, f"{number}/{len(names)} {name}", console))
        except (NowcastError, RuntimeError) as error:
            failed[name] = f"{error}".splitlines()[0]
            console.print(f"[red]{name} failed[/]: {failed[name]}", highlight=False)
    return results, failed


def _measured(run: Run, name: str, title: str, console: Console) -> Result:
    method = made(name, run.compute)
    version = version_of(method, run.compute)
    pieces = [Piece(run.cache, event, name, version, run.terms) for event in run.events]
    notes: Counter[str] = Counter()
    for piece in pieces:
        try:
            piece.measure(method, run.every, _progress(f"{title}, {piece.event.name}", console))
        except (NotEnoughFrames, WrongInterval) as error:  # not the method's failure: the event is none
            notes[f"{piece.event.name}: {error}"] += 1
    return Result(
        name,
        version,
        {piece.event.name: piece.scored(run.every) for piece in pieces},
        tuple(seconds for piece in pieces for seconds in piece.seconds(run.every)),
        notes + Counter(note for piece in pieces for note in piece.notes(run.every)),
        frozenset().union(*(piece.machines(run.every) for piece in pieces)),
    )


def _progress(title: str, console: Console) -> Progress:
    """Return what tells rate and time left: on a terminal in place, else line by line now and then."""

    def tell(done: int, total: int, seconds: float) -> None:
        rate = f", {seconds / done:.1f} s each, {(total - done) * seconds / done:.0f} s left" if done else ""
        if done == total or console.is_terminal or done % max(total // 4, 1) == 0:
            end = "\r" if console.is_terminal and done < total else "\n"
            console.print(f"{title}: {done} of {total}{rate}    ", end=end, highlight=False)

    return tell


def judged(results: Sequence[Result], gate: str) -> list[Verdict]:
    """Return how the gate does beside each set of :data:`REFERENCES` of which something was measured."""
    by_lead = {result.name: pooled(result.scored) for result in results}
    verdicts = []
    for names in REFERENCES:
        references = {name: by_lead[name] for name in names if name in by_lead and name != gate}
        if gate in by_lead and references:
            with suppress(ValueError):  # it never rained
                verdicts.append(check(gate, by_lead[gate], references))
    return verdicts


def about(results: Sequence[Result], run: Run) -> Section:
    """Return the events: days, agencies, and how many issue times all methods were scored from."""
    sources = {
        event.name: Piece(run.cache, event, results[0].name, results[0].version, run.terms).credit
        for event in run.events
    }
    rows = []
    for event, times in results[0].scored.items():
        span = f"{min(times):%Y-%m-%d %H:%M} to {max(times):%H:%M}"
        rows.append((event, span, str(len(times)), sources[event]))
    note = (
        f"Forecasts of {run.terms.leads} leads from {run.terms.history} frames, or as many as a method asks "
        "for where there are, every method from the same issue times, scored on the same pixels: those "
        "observed. A forecast pixel without a value counts as no echo."
    )
    return Section("Events", ("event", "issue times (UTC)", "number", "source"), tuple(rows), note)


def report(tables: Sequence[Section], command: str, failed: dict[str, str]) -> str:
    """Return the whole report as Markdown."""
    lines = ["# Skill", "", f"Made by `{command}`. The best of each column stands out.", ""]
    lines += [f"Failed: {name}: {reason}\n" for name, reason in failed.items()]
    return "\n".join(lines) + "\n" + "\n".join(markdown(table) for table in tables)


def options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks skill", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder of events, each a folder of radar files"
    )
    parser.add_argument("--models", help="methods, with commas between; by default all that can be measured")
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="folder of checkpoints by name of network"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of what was measured before")
    parser.add_argument("--every", type=int, default=1, help="distance of issue times, in frames (default 1)")
    parser.add_argument(
        "--history", type=int, default=Terms().history, help="frames a forecast sees (default 4)"
    )
    parser.add_argument("--gate", default=GATE, help="method to check beside the others")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file for the tables")
    parser.add_argument("--json", type=Path, help="file for every figure")
    chosen = parser.parse_args()
    if min(chosen.every, chosen.history) < 1:
        parser.error("expected at least 1 for --every and for --history")
    return chosen


def main() -> None:
    """Measure, print the tables, write them; exit 1 if the gate falls short or a method failed."""
    chosen = options()
    console = Console()
    events = events_in(chosen.data) if chosen.data.is_dir() else []
    if not events:
        raise SystemExit(f"expected a folder of events, each a folder of radar files, got {chosen.data}")
    terms = replace(Terms(), history=chosen.history)
    run = Run(events, Compute(weights=chosen.weights), terms, chosen.every, chosen.cache)
    names = chosen.models.split(",") if chosen.models else names_in_order(chosen.weights)
    if unknown := [name for name in names if name not in METHODS and name not in PYSTEPS]:
        raise SystemExit(f"there is no method {unknown[0]!r}; known are {', '.join([*METHODS, *PYSTEPS])}")
    results, failed = measure(run, names, console)
    results = on_common_ground(results)
    if not results or not results[0].scored:
        raise SystemExit("nothing was scored by every method")
    verdicts = judged(results, chosen.gate)
    told = [section for verdict in verdicts for section in gate_sections(verdict)]
    tables = [about(results, run), *sections(results), *told]
    wide = Console(width=max(console.width, WIDTH))
    for table in tables:
        show(table, wide)
    if not verdicts:
        console.print(
            f"{chosen.gate} was not checked: it or its references were not measured, or it never rained"
        )
    if chosen.output:
        durable.write_bytes(chosen.output, report(tables, _command(chosen), failed).encode())
    if chosen.json:
        passed = [verdict.passed for verdict in verdicts]
        document = {"passed": passed, "failed": failed, "methods": figures(results)}
        durable.write_json(chosen.json, document)
    raise SystemExit(1 if failed or not all(verdict.passed for verdict in verdicts) else 0)


def _command(chosen: argparse.Namespace) -> str:
    """Return the command that makes the same tables."""
    words = ["python -m benchmarks skill"]
    if chosen.data != DATA:
        words.append(f"--data {os.path.relpath(chosen.data)}")
    words += [f"--models {chosen.models}"] if chosen.models else []
    words += [f"--every {chosen.every}"] if chosen.every != 1 else []
    words += [f"--history {chosen.history}"] if chosen.history != Terms().history else []
    words += [f"--gate {chosen.gate}"] if chosen.gate != GATE else []
    return " ".join(words)


if __name__ == "__main__":
    main()
