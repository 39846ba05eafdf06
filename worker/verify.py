"""Verify: every forecast is scored when its truth comes, beside persistence, and old days are tidied up."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from nowcast.archive.archive import Archive
from nowcast.disk import dates
from nowcast.errors import NowcastError
from nowcast.forecast.store import ForecastStore, read_lead
from nowcast.frame.domain import Domain
from nowcast.frame.frame import grid_of
from nowcast.hindcast.rivals import Rivals
from nowcast.names import PERSISTENCE
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.scorefile import ModelLead
from nowcast.scores.table import recorded_scores
from nowcast.scores.tally import WINDOWS_KM, Tally, score_fields
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry
from worker.bus import FRAMES, Consumer, Message

log = logging.getLogger(__name__)

#: How often [s] the scores are compared with what could be scored, in case a message was lost.
CATCH_UP_SECONDS = 10.0

#: Tries of one valid time by catching up before it is left alone until the next start.
CATCH_UP_TRIES = 3

#: How often [s] the skill metrics are worked out anew.
SKILL_SECONDS = 30.0

#: Period the skill metrics cover.
SKILL_PERIOD = timedelta(hours=24)

#: Age of a day before its frames and scores are compacted: nothing late is expected any more.
COMPACT_AFTER = timedelta(days=2)

#: How often [s] old days are tidied up.
TIDY_SECONDS = 3600.0

#: How often [s] hindcasts of the gate's candidates are looked for, when there is nothing else to do.
RIVALS_SECONDS = 60.0


class Verify:
    """Scores what can be scored; what it writes is a function of the archive and can always be made again."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings, self._telemetry = settings, telemetry
        self._archive = Archive(settings.folder.archive)
        self._store = ForecastStore(settings.folder.forecasts)
        self._book = ScoreBook(settings.folder.scores)
        self._rivals, self._next_rivals = Rivals(settings, telemetry), 0.0
        self._next_skill: dict[str, float] = {}
        self._failures: Counter[tuple[str, datetime]] = Counter()
        self._next_tidy = time.monotonic() + TIDY_SECONDS / 10

    def prepare(self) -> None:
        """Remove what a killed predecessor left unfinished."""
        self._settings.sweep(self._settings.folder.scores)

    def score(self, domain: Domain, valid_time: datetime) -> bool:
        """Score every forecast for ``valid_time``, unless all are scored, and return whether any was new."""
        if not self._archive.has(domain.name, valid_time):
            return False
        wanted = dict(self._scorable(domain, valid_time))
        if not wanted.keys() - self._book.scored(domain.name, valid_time):
            return False
        with self._telemetry.timed("verify", domain.name):
            truth = self._archive.load(domain.name, valid_time)
            empty = Tally(domain.thresholds_dbz, windows_km=WINDOWS_KM, cell_km=grid_of(truth).cell_km)
            fields = (
                ((model, lead_minutes), self._field(domain, issue_time, model, lead_minutes), truth.values)
                for (model, lead_minutes), issue_time in wanted.items()
            )
            tallies = score_fields(fields, empty)
            self._book.save(domain.name, valid_time, tallies)
        ids = {"domain": domain.name, "time": dates.iso(valid_time)}
        log.info("%s %s scored: %d", domain.name, dates.iso(valid_time), len(tallies), extra=ids)
        return True

    def _field(
        self, domain: Domain, issue_time: datetime, model: str, lead_minutes: int
    ) -> NDArray[np.float32]:
        """Return a forecast field ``(y, x)`` [dBZ]; that of persistence is the frame of its issue time."""
        if model == PERSISTENCE:
            frame: NDArray[np.float32] = self._archive.load(domain.name, issue_time).values
            return frame
        path = self._store.path(domain.name, issue_time, model)
        return read_lead(path, lead_minutes // domain.step_minutes - 1)

    def score_issue(self, domain: Domain, issue_time: datetime) -> None:
        """Score a forecast whose truth was there before it."""
        for lead in range(1, domain.leads + 1):
            self.score(domain, issue_time + timedelta(minutes=lead * domain.step_minutes))

    def catch_up(self) -> bool:
        """Score the newest valid time that lacks a score, else a rival, and return whether another may."""
        for domain in self._settings.domains.values():
            newest = self._archive.newest(domain.name)
            if newest is None:
                continue
            span = timedelta(minutes=domain.backfill_minutes + domain.leads * domain.step_minutes)
            for moment in reversed(self._archive.times(domain.name, start=newest - span)):
                if self._failures[domain.name, moment] >= CATCH_UP_TRIES:
                    continue
                try:
                    if self.score(domain, moment):
                        return True
                except NowcastError as error:
                    self._note_failure(domain, moment, error)
        if time.monotonic() < self._next_rivals:
            return False
        if self._rivals.catch_up():
            return True
        self._next_rivals = time.monotonic() + RIVALS_SECONDS
        return False

    def _note_failure(self, domain: Domain, moment: datetime, error: NowcastError) -> None:
        """Log why a valid time cannot be scored, and count it as given up after its last try."""
        self._failures[domain.name, moment] += 1
        given_up = self._failures[domain.name, moment] == CATCH_UP_TRIES
        then = "; it is left alone until the next start" if given_up else ""
        log.error("%s %s cannot be scored: %s%s", domain.name, dates.iso(moment), error, then)
        if given_up:
            self._telemetry.given_up.labels("verify", domain.name).inc()

    def publish_skill(self, domain: Domain) -> None:
        """Set the skill metrics from the scores of the last day, at most every :data:`SKILL_SECONDS`."""
        newest = self._archive.newest(domain.name)
        if newest is None or time.monotonic() < self._next_skill.get(domain.name, 0.0):
            return
        self._next_skill[domain.name] = time.monotonic() + SKILL_SECONDS
        pooled = self._book.pooled(domain.name, start=newest - SKILL_PERIOD, end=newest)
        for (model, lead_minutes), tally in pooled.items():
            for threshold in tally.thresholds_dbz:
                counts = tally.contingency(threshold)
                for score in recorded_scores():
                    value = score.of(counts)
                    labels = (domain.name, model, score.name, f"{threshold:g}", f"{lead_minutes:g}")
                    self._telemetry.skill.labels(*labels).set(float("nan") if value is None else value)

    def tidy(self) -> None:
        """Compact days that are complete, and drop forecasts and scores beyond ``keep_days``; hourly."""
        if time.monotonic() < self._next_tidy:
            return
        self._next_tidy = time.monotonic() + TIDY_SECONDS
        now = datetime.now(UTC)
        last = datetime.combine((now - COMPACT_AFTER).date(), datetime.max.time(), tzinfo=UTC)
        for name in self._settings.domains:
            for kept in (self._archive, self._book):
                for day in kept.loose_days(name, last):
                    try:
                        kept.compact(name, day)
                    except NowcastError as error:
                        log.error("%s %s is not compacted: %s", name, day, error)
            if self._settings.keep_days:
                self._store.prune(name, older_than=now - timedelta(days=self._settings.keep_days))

    def _scorable(self, domain: Domain, valid_time: datetime) -> Iterator[tuple[ModelLead, datetime]]:
        """Yield method, lead [minutes] and issue time of each forecast of a valid time."""
        leads = [lead * domain.step_minutes for lead in range(1, domain.leads + 1)]
        issue_times = {minutes: valid_time - timedelta(minutes=minutes) for minutes in leads}
        stored = self._store.models_of(domain.name, issue_times.values())
        for lead_minutes, issue_time in issue_times.items():
            if self._archive.has(domain.name, issue_time):
                yield (PERSISTENCE, lead_minutes), issue_time
            for model in stored[issue_time]:
                if model != PERSISTENCE:
                    yield (model, lead_minutes), issue_time


class VerifyLoop:
    """Joins :class:`Verify` to the bus: new truth first, then forecasts that came after their truth."""

    def __init__(
        self, verify: Verify, settings: Settings, frames: Consumer, forecasts: Consumer, telemetry: Telemetry
    ) -> None:
        self._verify, self._settings, self._telemetry = verify, settings, telemetry
        self._frames, self._forecasts = frames, forecasts
        self._next_catch_up = 0.0

    def __call__(self, stop: threading.Event) -> None:
        """Take one batch of each stream, or catch up by one valid time."""
        idle = True
        for consumer in (self._frames, self._forecasts):
            messages = consumer.receive(block_seconds=0.25)
            with consumer.holding(messages):
                consumer.acknowledge(
                    [message for message in messages if self._work(consumer.stream, message)]
                )
            consumer.report(self._telemetry)
            idle = idle and not messages
        if idle and time.monotonic() >= self._next_catch_up and not self._verify.catch_up():
            self._next_catch_up = time.monotonic() + CATCH_UP_SECONDS
        for domain in self._settings.domains.values():
            self._verify.publish_skill(domain)
        self._verify.tidy()

    def without_broker(self, stop: threading.Event) -> None:
        """Go on from the archive alone."""
        while not stop.is_set() and self._verify.catch_up():
            pass

    def _work(self, stream: str, message: Message) -> bool:
        try:
            domain = self._settings.domains[message.fields["domain"]]
            moment = datetime.fromisoformat(message.fields["time" if stream == FRAMES else "issue_time"])
        except (KeyError, ValueError) as error:
            log.error("a message without sense is dropped: %s (%s)", dict(message.fields), error)
            return True
        try:
            if stream == FRAMES:
                self._verify.score(domain, moment)
            else:
                self._verify.score_issue(domain, moment)
        except NowcastError as error:
            log.error("%s %s cannot be scored: %s", domain.name, dates.iso(moment), error)
            return False
        return True
