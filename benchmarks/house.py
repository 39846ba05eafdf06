"""How easily the code is seen as a whole: its rooms, its floors, and the way of a forecast through them.

Run ``python -m benchmarks.house [--json PATH]``. Nothing is timed, so a busy machine changes nothing.

**Rooms.** A room is a sub-package of ``nowcast``; modules directly in ``nowcast/`` share the room ``.``. An
arrow is one module importing another, once however often it does so, also inside a function or for types
alone.

**Depth.** Modules on the longest chain of imports inside ``nowcast``, each importing the next; modules that
import each other in a circle count as one. For rooms likewise.

**Control.** Two jobs of the workers are followed, each made a second time in a new folder as in a process
that has been at work for a while: nothing is imported any more. The *module at work* is that of the
innermost frame on the stack whose code stands in a file of ours; other libraries, and code generated in
memory (a dataclass's ``__init__``), are transparent. *Control passes* when a call, a return, or a
generator's resumption or yield changes the module at work. Hence a function, a property or a comprehension
within its own module passes nothing, while a generator asked for ten fields by another module passes control
twenty times. Counted are

- ``passes``: all of them; ``calls``: those by a call or a resumption;
- ``modules``: distinct modules that were at work;
- ``arrows``: distinct pairs of who called whom, whatever how often;
- ``returns``: arrows, in the order of their first use, that lead to a module that was at work before;
- ``between rooms``: passes that cross from one room to another, where ``models``, ``worker`` and ``api`` are
  a room each.

Followed is the thread that does the job; helpers that compress chunks beside it are not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import grimp
import networkx

# All of ours that this file uses, to be kept in step when modules move.
from nowcast.archive.archive import Archive
from nowcast.forecast.store import ForecastStore
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.frame.grid import Grid
from nowcast.settings import Settings
from nowcast.simulation import Storm
from nowcast.telemetry import Telemetry
from worker.infer import Infer, Job
from worker.verify import Verify

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("nowcast", "models", "worker", "api")

Result = TypeVar("Result")

#: Frames in the archive when the forecast is made, and the time between them.
FRAMES, STEP = 6, timedelta(minutes=5)
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
GRID = Grid.from_crs(
    "+proj=laea +lat_0=52 +lon_0=5 +ellps=WGS84", nx=96, ny=80, x0=-95e3, y0=79e3, dx=2000, dy=2000
)
DOMAIN = Domain("sim", 5, leads=12, history=FRAMES, model="sprog")


def room_of(module: str) -> str:
    """Return the room a module lies in: see above."""
    package, *inner = module.split(".")
    if package != "nowcast":
        return package
    is_package = (PROJECT / package / "/".join(inner[:1])).is_dir()
    return inner[0] if inner and is_package else "."


def rooms(arrows: Iterable[tuple[str, str]], modules: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return, for each room: its modules, and arrows within it, to other rooms, and from other rooms."""
    table = {
        room: {"modules": count, "within": 0, "to others": 0, "from others": 0}
        for room, count in sorted(Counter(map(room_of, modules)).items())
    }
    for importer, imported in arrows:
        here, there = room_of(importer), room_of(imported)
        if here == there:
            table[here]["within"] += 1
        else:
            table[here]["to others"] += 1
            table[there]["from others"] += 1
    return table


def depth(nodes: Iterable[str], arrows: Iterable[tuple[str, str]]) -> tuple[int, list[list[str]]]:
    """Return how many nodes the longest chain of arrows has, and the circles, each counted as one node."""
    graph = networkx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from((importer, imported) for importer, imported in arrows if importer != imported)
    circles = [sorted(group) for group in networkx.strongly_connected_components(graph) if len(group) > 1]
    condensed = networkx.condensation(graph)
    return networkx.dag_longest_path_length(condensed, default_weight=1) + 1, sorted(circles)


def imports() -> dict[str, Any]:
    """Return the figures of the import graph inside ``nowcast``."""
    graph = grimp.build_graph("nowcast", exclude_type_checking_imports=True, cache_dir=None)
    modules = sorted(graph.modules)
    arrows = [
        (importer, imported)
        for importer in modules
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
    ]
    between = {(room_of(importer), room_of(imported)) for importer, imported in arrows}
    module_depth, module_circles = depth(modules, arrows)
    room_depth, room_circles = depth(map(room_of, modules), between)
    table = rooms(arrows, modules)
    within = sum(row["within"] for row in table.values())
    return {
        "rooms": table,
        "modules": len(modules),
        "arrows": {"all": len(arrows), "within rooms": within, "between rooms": len(arrows) - within},
        "depth": {"modules": module_depth, "rooms": room_depth},
        "circles": {"modules": module_circles, "rooms": room_circles},
    }


def layer_lines(pyproject: Path = PROJECT / "pyproject.toml") -> int:
    """Return how many layers the import contract inside ``nowcast`` lists."""
    contracts = tomllib.loads(pyproject.read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if "nowcast" in each.get("containers", ()))
    return len(layers)


@dataclass
class Control:
    """Where control went while it was followed, by :func:`sys.setprofile`: see the module's text."""

    packages: tuple[Path, ...] = tuple(PROJECT / name for name in PACKAGES)
    modules: Counter[str] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    returns: Counter[tuple[str, str]] = field(default_factory=Counter)

    def follow(self, job: Callable[[], Result]) -> Result:
        """Return what a job returns, and count where control passes meanwhile."""
        known: dict[CodeType, bool] = {}

        def at_work(frame: FrameType | None) -> str | None:
            while frame is not None:
                code = frame.f_code
                if code not in known:
                    known[code] = any(map(Path(code.co_filename).is_relative_to, self.packages))
                if known[code]:
                    return str(frame.f_globals["__name__"])
                frame = frame.f_back
            return None

        def event(frame: FrameType, what: str, _: object) -> None:
            if what not in ("call", "return") or at_work(frame) is None:
                return
            inner, outer = at_work(frame), at_work(frame.f_back)
            if inner is None or inner == outer:
                return
            if what == "call":
                self.modules[inner] += 1
            if outer is not None:  # else it came from, or goes back to, whoever follows
                passed = (outer, inner) if what == "call" else (inner, outer)
                (self.calls if what == "call" else self.returns)[passed] += 1

        sys.setprofile(event)
        try:
            return job()
        finally:
            sys.setprofile(None)

    def figures(self) -> dict[str, int]:
        """Return the counts."""
        passes = self.calls + self.returns
        crossing = sum(count for (one, other), count in passes.items() if room_of(one) != room_of(other))
        return {
            "passes": passes.total(),
            "calls": self.calls.total(),
            "modules": len(self.modules),
            "arrows": len(self.calls),
            "returns": len(self.calls) - (len(self.modules) - 1),
            "between rooms": crossing,
        }


def control() -> dict[str, Any]:
    """Return the counts of a forecast by S-PROG made and written, and of its truth scored."""
    for _ in range(2):  # the first time, modules and tables are loaded
        with tempfile.TemporaryDirectory() as folder:
            followed = dict(zip(JOBS, follow_jobs(Path(folder)), strict=True))
    return {
        "control": {job: control.figures() for job, control in followed.items()},
        "busiest": {
            job: [(*arrow, count) for arrow, count in control.calls.most_common()]
            for job, control in followed.items()
        },
    }


def follow_jobs(folder: Path) -> tuple[Control, Control]:
    """Return where control goes in Infer's job, from six archived frames, and in Verify's, of the seventh."""
    settings = Settings(data_dir=folder, domains={DOMAIN.name: DOMAIN})
    archive = Archive(folder / "archive")
    *frames, truth = (normalise(raw, DOMAIN) for raw in Storm(grid=GRID, start=START).frames(FRAMES + 1))
    for frame in frames:
        archive.add(DOMAIN.name, frame)
    issue_time = START + (FRAMES - 1) * STEP
    infer, verify = Infer(settings, Telemetry()), Verify(settings, Telemetry())
    infer.prepare()
    verify.prepare()
    making, scoring = Control(), Control()
    making.follow(lambda: infer.handle([Job(DOMAIN.name, issue_time)]))
    models = ForecastStore(folder / "forecasts").models(DOMAIN.name, issue_time)
    if models != [DOMAIN.model]:
        raise RuntimeError(f"expected a forecast by {DOMAIN.model}, got {models}")
    archive.add(DOMAIN.name, truth)
    if not scoring.follow(lambda: verify.score(DOMAIN, issue_time + STEP)):
        raise RuntimeError("expected the truth to be scored, nothing was")
    return making, scoring


#: The jobs followed, by the key of their figures.
JOBS = {"forecast": "S-PROG forecast", "score": "truth scored"}

#: Pairs of modules shown for each job: those control passes between most often.
SHOWN = 5


def report(figures: dict[str, Any]) -> str:
    """Return the figures as tables of at most 80 columns."""
    arrows, deep, circles = figures["arrows"], figures["depth"], figures["circles"]
    return "\n".join(
        [
            *table("room of nowcast/", figures["rooms"]),
            "",
            f"modules: {figures['modules']}; import arrows: {arrows['all']}, "
            f"{arrows['within rooms']} within rooms, {arrows['between rooms']} between rooms",
            f"depth: {deep['modules']} modules ({len(circles['modules'])} circles), "
            f"{deep['rooms']} rooms ({len(circles['rooms'])} circles)",
            f"layers in the import contract: {figures['layers']}",
            "",
            *table("control", {JOBS[job]: row for job, row in figures["control"].items()}),
            *busiest(figures["busiest"]),
        ]
    )


def table(title: str, rows: dict[str, dict[str, int]]) -> list[str]:
    """Return the lines of a table with a row for each name."""
    headings = list(next(iter(rows.values())))
    widths = [max(8, len(heading) + 2) for heading in headings]
    lines = [(title, headings), *((name, list(map(str, row.values()))) for name, row in rows.items())]
    return [
        f"{name:<20}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in lines
    ]


def busiest(calls: dict[str, list[tuple[str, str, int]]]) -> Iterator[str]:
    """Yield lines on the pairs of modules that most calls go between."""
    for job, pairs in calls.items():
        yield f"\nmost calls, {JOBS[job]}:"
        for caller, called, count in pairs[:SHOWN]:
            yield f"{count:>6}  {caller} -> {called}"


def main() -> None:
    """Measure, print, and keep the figures as JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = {**imports(), "layers": layer_lines(), **control()}
    print(report(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
