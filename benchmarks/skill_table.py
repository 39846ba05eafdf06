"""Tables of what methods scored: ratios of sums over issue times and events, for a page and a terminal."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nowcast.scores.skillfile import Scored, pooled
from nowcast.scores.table import EventScore, event_scores
from nowcast.scores.tally import Tally

#: Leads [min] of the tables, and of those that show several scores.
LEADS, FEW_LEADS = (5, 10, 15, 20, 30, 45, 60), (10, 30, 60)

#: Stands where there is no score: nothing to score, or a ratio of 0 to 0.
NOTHING = "–"  # noqa: RUF001

ByLead = dict[int, Tally]


@dataclass(frozen=True)
class Result:
    """What one method scored on all events, and what it took.

    Attributes:
        name: Of the method.
        version: Of the method, or hash of its weights.
        scored: Its tallies by event, issue time and lead [minutes].
        seconds: Time of each forecast.
        notes: Why forecasts fell short or could not be made, and how many.
        machines: Where they were timed.
    """

    name: str
    version: str
    scored: Scored
    seconds: tuple[float, ...] = ()
    notes: Counter[str] | None = None
    machines: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Section:
    """One table with what is to be said about it; in a cell, ``**`` about a text makes it stand out."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def on_common_ground(results: Sequence[Result]) -> list[Result]:
    """Return the results on the events and issue times that all methods have scores of."""
    scored = [result.scored for result in results]
    common = {
        event: set.intersection(*(set(one.get(event, ())) for one in scored))
        for event in (scored[0] if scored else ())
    }
    return [
        replace(
            result,
            scored={
                event: {time: leads for time, leads in result.scored[event].items() if time in times}
                for event, times in common.items()
                if times
            },
        )
        for result in results
    ]


def sections(results: Sequence[Result]) -> Iterator[Section]:
    """Yield the tables of all methods, pooled first."""
    by_lead = {result.name: pooled(result.scored) for result in results}
    first = next(iter(next(iter(by_lead.values())).values()))
    for threshold in first.thresholds_dbz:
        yield _csi(by_lead, threshold)
    for threshold in first.thresholds_dbz:
        yield _other_scores(by_lead, threshold, first.windows_km)
    yield _mean_absolute_error(by_lead)
    for event in results[0].scored:
        yield _event_csi(event, {result.name: pooled(result.scored, [event]) for result in results})
    yield _speed(results)


def _csi(by_lead: dict[str, ByLead], threshold: float) -> Section:
    rows = [
        [name, *(_score(tallies, lead, _csi_at(threshold)) for lead in LEADS)]
        for name, tallies in by_lead.items()
    ]
    return Section(
        f"CSI at {threshold:g} dBZ, all events",
        ("method", *(f"{lead} min" for lead in LEADS)),
        _with_best(rows, max),
    )


def _other_scores(by_lead: dict[str, ByLead], threshold: float, windows_km: Sequence[float]) -> Section:
    def fss(window: float) -> Callable[[Tally], float | None]:
        return lambda tally: tally.fss(threshold, window)

    scores = {
        score.label: _ratio(score, threshold)
        for score in event_scores()
        if score.page and score.name != "csi"  # which has a table of its own
    }
    scores |= {f"FSS {window:g} km": fss(window) for window in windows_km}
    rows = [
        (name, *(_several(tallies, score) for score in scores.values())) for name, tallies in by_lead.items()
    ]
    leads = ", ".join(str(lead) for lead in FEW_LEADS)
    note = (
        f"In each cell the leads {leads} min. Bias is that of frequency: 1 where as much is forecast as came."
    )
    return Section(f"Other scores at {threshold:g} dBZ, all events", ("method", *scores), tuple(rows), note)


def _mean_absolute_error(by_lead: dict[str, ByLead]) -> Section:
    rows = [
        [name, *(_score(tallies, lead, Tally.mae, digits=2) for lead in LEADS)]
        for name, tallies in by_lead.items()
    ]
    return Section(
        "Mean absolute error [dBZ], all events",
        ("method", *(f"{lead} min" for lead in LEADS)),
        _with_best(rows, min),
        "Over all observed cells, with rain or without; no echo counts as -10 dBZ. To S-PROG of pysteps what "
        "is below 0.1 mm/h is no echo, and it pays for that here.",
    )


def _event_csi(event: str, by_lead: dict[str, ByLead]) -> Section:
    thresholds = next(iter(next(iter(by_lead.values())).values())).thresholds_dbz
    columns = [(threshold, lead) for threshold in thresholds for lead in FEW_LEADS]
    rows = [
        [name, *(_score(tallies, lead, _csi_at(threshold)) for threshold, lead in columns)]
        for name, tallies in by_lead.items()
    ]
    return Section(
        f"CSI on {event}",
        ("method", *(f"{threshold:g} dBZ, {lead} min" for threshold, lead in columns)),
        _with_best(rows, max),
    )


def _speed(results: Sequence[Result]) -> Section:
    rows = []
    for result in results:
        notes = result.notes or Counter()
        said = "; ".join(f"{count} x {reason}" for reason, count in notes.most_common())
        times = [
            f"{which(result.seconds):.3f}" if result.seconds else NOTHING
            for which in (statistics.median, max)
        ]
        rows.append((result.name, *times, str(len(result.seconds)), _short(result.version), said))
    machines = sorted(set().union(*(result.machines for result in results)))
    note = f"All leads of a forecast, without reading and scoring; timed on {' and on '.join(machines)}."
    if len(machines) > 1:
        note += " These are different machines: times cannot be compared."
    headings = ("method", "median [s]", "longest [s]", "forecasts", "version", "fell short")
    return Section("Seconds per forecast", headings, tuple(rows), note)


def _short(version: str) -> str:
    """Return a version with as much of each hash as tells it from another."""
    return re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]+", r"\1", version)


def _ratio(score: EventScore, threshold: float) -> Callable[[Tally], float | None]:
    return lambda tally: score.of(tally.contingency(threshold))


def _csi_at(threshold: float) -> Callable[[Tally], float | None]:
    return lambda tally: tally.contingency(threshold).csi


def _score(tallies: ByLead, lead: int, score: Callable[[Tally], float | None], *, digits: int = 3) -> str:
    value = score(tallies[lead]) if lead in tallies else None
    return NOTHING if value is None else f"{value:.{digits}f}"


def _several(tallies: ByLead, score: Callable[[Tally], float | None]) -> str:
    return " / ".join(_score(tallies, lead, score, digits=2) for lead in FEW_LEADS)


def _with_best(rows: Sequence[list[str]], best: Callable[..., str]) -> tuple[tuple[str, ...], ...]:
    """Return rows in which the best of each column but the first stands out."""
    for column in range(1, len(rows[0])):
        values = [row[column] for row in rows if row[column] != NOTHING]
        if len(set(values)) < 2:
            continue  # where all are alike, none is best
        winner = best(values, key=float)
        for row in rows:
            if row[column] == winner:
                row[column] = f"**{winner}**"
    return tuple(map(tuple, rows))


def markdown(section: Section) -> str:
    """Return a table as Markdown, with its title as a heading."""
    lines = [f"### {section.title}", ""]
    if section.note:
        lines += [section.note, ""]
    lines.append("| " + " | ".join(section.headings) + " |")
    lines.append("|" + "".join(" ---: |" if right else " --- |" for right in _numeric(section)))
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in section.rows]
    return "\n".join(lines) + "\n"


def show(section: Section, console: Console) -> None:
    """Print a table."""
    table = Table(title=escape(section.title), caption=escape(section.note) or None, title_justify="left")
    for heading, right in zip(section.headings, _numeric(section), strict=True):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in section.rows:
        table.add_row(*(_for_terminal(cell) for cell in row))
    console.print(table)


def _numeric(section: Section) -> list[bool]:
    """Return of each column whether it holds numbers, which stand better at the right."""
    letters = [any(character.isalpha() for row in section.rows for character in row[column])
               for column in range(len(section.headings))]  # fmt: skip
    return [not found for found in letters]


def _for_terminal(cell: str) -> str:
    text = escape(cell.strip("*"))
    return f"[bold]{text}[/]" if cell.startswith("**") else text


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """Return every score at every lead, for programs."""
    document: dict[str, Any] = {}
    for result in results:
        document[result.name] = {
            "version": result.version,
            "seconds_per_forecast": statistics.median(result.seconds) if result.seconds else None,
            "fell_short": dict(result.notes or {}),
            "leads": {
                lead: {
                    "rows": tally.rows(), **tally.field_row(),
                    "fss": {
                        f"{threshold:g} dBZ": {f"{w:g} km": tally.fss(threshold, w) for w in tally.windows_km}
                        for threshold in tally.thresholds_dbz
                    },
                }
                for lead, tally in pooled(result.scored).items()
            },
        }  # fmt: skip
    return document
