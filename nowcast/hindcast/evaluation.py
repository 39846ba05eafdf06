"""Evaluation of a candidate: what it and its references score on the full frames of events it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import numpy as np
import xarray as xr

from nowcast.archive.archive import Archive
from nowcast.archive.events import Event
from nowcast.errors import NotEnoughFrames, UnreadableFile
from nowcast.frame.domain import Domain
from nowcast.hindcast.cases import Cases, judge
from nowcast.methods.method import Method
from nowcast.readers.listing import nearest
from nowcast.scores.skillfile import Scored, Skill
from nowcast.scores.tally import Tally

#: Most issue times that are scored of an event, and most cells of all of them: bounds on the time it takes.
MOST_ISSUES, MOST_CELLS = 24, 40_000_000

#: Issue times that are scored of an event of however large a grid.
LEAST_ISSUES = 2

#: Frames a forecast looks back on at least, as those of a domain do.
HISTORY = 4

#: Tallies by issue time and lead [minutes].
_Scored = dict[datetime, dict[int, Tally]]


class ArchivedFrames:
    """The frames of an event in an archive, as :class:`nowcast.hindcast.cases.Frames`."""

    def __init__(self, archive: Archive, event: Event) -> None:
        """Load nothing yet."""
        self._archive = archive
        self.times: Sequence[datetime] = event.times
        self.domain = Domain(event.domain, event.step_minutes, grid=archive.grid(event.domain))

    def load(self, index: int) -> xr.DataArray | None:
        """Return a frame, ``None`` if its file is damaged."""
        try:
            return self._archive.load(self.domain.name, self.times[index])
        except UnreadableFile:
            return None

    def index_at(self, time: datetime, *, tolerance: timedelta) -> int | None:
        """Return the index of the frame nearest to a time, ``None`` if none is within the tolerance."""
        return nearest(self.times, time, tolerance)


def score_events(
    archive: Archive,
    events: Sequence[Event],
    candidate: Method,
    references: Sequence[Method],
    *,
    minutes: int = 60,
    most: int = MOST_ISSUES,
    report: Callable[[str, int, int], None] | None = None,
) -> Skill:
    """Return what methods scored on events: all at the same issue times, on the same pixels.

    An issue time from which one of them cannot forecast is left out for all; an event of which nothing is
    left, too.

    Args:
        archive: Where the frames are.
        events: Events the candidate has not learnt from.
        candidate: The method to judge.
        references: Methods to judge it by.
        minutes: Longest lead time; each lead is a step of the event.
        most: Most issue times of an event, evenly spread; fewer of large grids.
        report: Called with ``"scoring"``, the number of issue times done and the number there is.

    Raises:
        NotEnoughFrames: If nothing can be scored.
    """
    methods = [candidate, *references]
    history = max(HISTORY, *(method.frames for method in methods))
    chosen = {event.name: issue_indices(archive, event, history, most) for event in events}
    total, done = sum(map(len, chosen.values())), 0
    scored: list[dict[str, _Scored]] = [{} for _ in methods]
    for event in events:
        steps = max(minutes // event.step_minutes, 1)
        cases = Cases(ArchivedFrames(archive, event), history=history, steps=steps)
        for index in chosen[event.name]:
            if report:
                report("scoring", done, total)
            done += 1
            try:
                tallies = _score_issue(methods, cases, index, steps)
            except NotEnoughFrames:
                continue
            for of_method, by_lead in zip(scored, tallies, strict=True):
                of_method.setdefault(event.name, {})[event.times[index]] = by_lead
    if report:
        report("scoring", total, total)
    if not scored[0]:
        raise NotEnoughFrames(f"expected frames to score forecasts on, but {len(events)} events have too few")
    others: dict[str, Scored] = {one.name: part for one, part in zip(references, scored[1:], strict=True)}
    return Skill(scored[0], others)


def issue_indices(archive: Archive, event: Event, history: int, most: int) -> list[int]:
    """Return the indices of frames to forecast from, evenly spread: with a history, and something after."""
    grid, possible = archive.grid(event.domain), np.arange(history - 1, len(event.times) - 1)
    if grid is None or not len(possible):
        return []
    affordable = max(MOST_CELLS // (grid.ny * grid.nx), LEAST_ISSUES)
    places = np.linspace(0, len(possible) - 1, min(most, affordable, len(possible)))
    return [int(possible[round(place)]) for place in places.tolist()]


def _score_issue(methods: Sequence[Method], cases: Cases, index: int, steps: int) -> list[dict[int, Tally]]:
    """Return what each method scored from one issue time, by lead [minutes]."""
    case, domain = cases.at(index), cases.frames.domain
    outcomes = [judge(method, case, steps, Tally(domain.thresholds_dbz)) for method in methods]
    return [
        {lead * domain.step_minutes: tally for lead, tally in outcome.tallies.items()} for outcome in outcomes
    ]
