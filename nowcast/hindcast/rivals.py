"""Rivals: what the methods the gate chooses among would have forecast, scored beside what was served."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

from nowcast.archive.archive import Archive
from nowcast.frame.domain import Domain
from nowcast.methods.answer import looking_back
from nowcast.methods.auto import Auto, contenders
from nowcast.methods.cube import load_cube
from nowcast.methods.fallback import FAILURES, secured
from nowcast.methods.gate import may_serve
from nowcast.methods.registry import METHODS, made
from nowcast.methods.shipped_scores import shipped_prior
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.tally import WINDOWS_KM, Tally, score_fields
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry

log = logging.getLogger(__name__)

#: Rivals are hindcast from the first frame of every so many minutes by the clock. On a continent that costs
#: as much as serving each of them there and then, and rain half an hour on is still much the same rain.
EVERY_MINUTES = 30

#: Tries of one hindcast before it is left alone until the next start.
TRIES = 3


class Rivals:
    """Scores the contenders of domains that leave the choice to the gate.

    A contender sees the archived frames up to the issue time and no later one. It is scored once the truth of
    the last lead is there, or would be, and under its own name; all contenders at the same issue times, so
    that their scores are of the same pixels.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings, self._telemetry = settings, telemetry
        self._compute = settings.compute()
        self._archive = Archive(settings.folder.archive)
        self._book = ScoreBook(settings.folder.scores)
        self._failures: Counter[tuple[str, datetime, str]] = Counter()

    def catch_up(self) -> bool:
        """Score the newest hindcast that lacks a score, and return whether another may."""
        names = contenders(shipped_prior(), METHODS)
        for domain in self._settings.domains.values():
            if domain.model != Auto.name:
                continue
            for issue_time in self._due(domain):
                for name in names:
                    if self._failures[domain.name, issue_time, name] < TRIES and self.score(
                        domain, issue_time, name
                    ):
                        return True
        return False

    def score(self, domain: Domain, issue_time: datetime, name: str) -> bool:
        """Score one method at one issue time at all leads that lack a score; return whether there was any."""
        wanted = self._wanted(domain, issue_time, name)
        if not wanted:
            return False
        with self._telemetry.timed("rivals", domain.name):
            try:
                tallies = self._tallies(domain, issue_time, name, wanted)
            except FAILURES as error:
                self._failures[domain.name, issue_time, name] += 1
                if self._failures[domain.name, issue_time, name] == TRIES:
                    self._telemetry.given_up.labels("rivals", domain.name).inc()
                log.warning("%s %s: %s is not scored: %s", domain.name, issue_time.isoformat(), name, error)
                return True
            for lead, tally in tallies.items():
                self._book.save(domain.name, wanted[lead], {(name, lead * domain.step_minutes): tally})
        log.info("%s %s hindcast by %s scored: %d", domain.name, issue_time.isoformat(), name, len(tallies))
        return True

    def _due(self, domain: Domain) -> Iterator[datetime]:
        """Yield the issue times whose last truth is there or will not come, the newest first."""
        newest = self._archive.newest(domain.name)
        if newest is None:
            return
        reach = timedelta(minutes=domain.leads * domain.step_minutes)
        start = newest - reach - timedelta(minutes=domain.backfill_minutes)
        for moment in reversed(self._archive.times(domain.name, start=start, end=newest - reach)):
            if moment.timestamp() % (60 * EVERY_MINUTES) < 60 * domain.step_minutes:
                yield moment

    def _wanted(self, domain: Domain, issue_time: datetime, name: str) -> dict[int, datetime]:
        """Return the leads [steps] a method may serve and has no score of yet, with their valid times."""
        wanted = {}
        for lead in range(1, domain.leads + 1):
            minutes = lead * domain.step_minutes
            valid_time = issue_time + timedelta(minutes=minutes)
            if not may_serve(name, minutes) or not self._archive.has(domain.name, valid_time):
                continue
            if (name, minutes) not in self._book.scored(domain.name, valid_time):
                wanted[lead] = valid_time
        return wanted

    def _tallies(
        self, domain: Domain, issue_time: datetime, name: str, wanted: dict[int, datetime]
    ) -> dict[int, Tally]:
        """Return what a method scores at the wanted leads [steps]."""
        cube = load_cube(self._archive, looking_back(domain, self._compute), issue_time)
        forecast = secured(made(name, self._compute), cube, max(wanted))
        empty = Tally(domain.thresholds_dbz, windows_km=WINDOWS_KM, cell_km=cube.grid.cell_km)
        return score_fields(
            (
                (lead, field, self._archive.load(domain.name, wanted[lead]).values)
                for lead, field in enumerate(forecast.fields, start=1)
                if lead in wanted
            ),
            empty,
        )
