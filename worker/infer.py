"""Infer: every archived frame becomes a forecast, by the domain's method or the best one that still works."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from nowcast.archive.archive import Archive
from nowcast.compute import Compute
from nowcast.errors import BusError, NotEnoughFrames, NowcastError, SettingsError, UnknownModel
from nowcast.forecast.prediction import Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.forecast.store import ForecastStore, read_record
from nowcast.frame.domain import Domain
from nowcast.methods.answer import issue_batch, looking_back, ready
from nowcast.methods.cube import Cube, load_cube
from nowcast.methods.registry import METHODS
from nowcast.settings import Settings, load_domains
from nowcast.telemetry import Telemetry
from worker.bus import FORECASTS, Bus, Consumer, Message

log = logging.getLogger(__name__)

#: How often [s] the archive is compared with the forecasts, in case a message was lost.
CATCH_UP_SECONDS = 10.0

#: Tries of one issue time by catching up before it is left alone until the next start.
CATCH_UP_TRIES = 3


@dataclass(frozen=True)
class Job:
    """A forecast to make.

    Attributes:
        domain: Its domain.
        issue_time: Time of the frame it starts from.
        arrived: When that frame's file arrived [s since 1970], if known.
    """

    domain: str
    issue_time: datetime
    arrived: float | None = None


class Infer:
    """Makes forecasts, newest first, and never one twice."""

    def __init__(self, settings: Settings, telemetry: Telemetry, bus: Bus | None = None) -> None:
        self._settings, self._telemetry, self._bus = settings, telemetry, bus
        self._compute = settings.compute()
        self._archive = Archive(settings.folder.archive)
        self._store = ForecastStore(settings.folder.forecasts)
        self._domains = dict(settings.domains)
        self._domains_changed = _changed(settings)
        self._failures: dict[tuple[str, datetime], int] = {}

    def prepare(self) -> None:
        """Remove what a killed predecessor left unfinished, and make the methods ready."""
        self._settings.sweep(self._settings.folder.forecasts)
        _make_ready(self._domains, self._compute)

    def handle(self, jobs: Iterable[Job]) -> list[Job]:
        """Make the forecasts of ``jobs`` that are still wanted and return the jobs that are done with.

        One that failed is missing from the answer, to be tried again.
        """
        self._follow_domains_file()
        newest_first = sorted(jobs, key=lambda job: job.issue_time, reverse=True)
        done = [job for job in newest_first if not self._is_wanted(job)]
        for batch in self._batches([job for job in newest_first if job not in done]):
            done += self._make(batch)
        return done

    def catch_up(self) -> bool:
        """Make the newest forecast that is missing, and return whether another may be."""
        for name, domain in self._domains.items():
            newest = self._archive.newest(name)
            if newest is None:
                continue
            since = newest - timedelta(minutes=domain.backfill_minutes)
            issued = set(self._store.issue_times(name, start=since))
            for moment in reversed(self._archive.times(name, start=since)):
                if moment in issued or self._failures.get((name, moment), 0) >= CATCH_UP_TRIES:
                    continue
                self._failures[name, moment] = self._failures.get((name, moment), 0) + 1
                if not self.handle([Job(name, moment)]) and self._failures[name, moment] == CATCH_UP_TRIES:
                    self._telemetry.given_up.labels("infer", name).inc()
                return True
        self._failures = {key: count for key, count in self._failures.items() if count >= CATCH_UP_TRIES}
        return False

    def _is_wanted(self, job: Job) -> bool:
        """Return whether a forecast is still to be made; finish what a predecessor left half done."""
        if job.domain not in self._domains:
            log.warning("no domain %r is configured; its frame is left alone", job.domain)
            return False
        domain = self._domains[job.domain]
        newest = self._archive.newest(job.domain)
        if newest is not None and newest - job.issue_time > timedelta(minutes=domain.backfill_minutes):
            self._count(job.domain, domain.model, "superseded")
            return False
        if models := self._store.models(job.domain, job.issue_time):
            self._finish(job, models[0])
            return False
        return True

    def _batches(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Return jobs that one method makes together; each alone where the method takes no batches."""
        batches: dict[object, list[Job]] = {}
        for job in jobs:
            domain = self._domains[job.domain]
            method = ready(domain.model, self._compute)
            key = (domain.model, domain.leads) if method and method.takes_batches else job
            batches.setdefault(key, []).append(job)
        return list(batches.values())

    def _make(self, jobs: Sequence[Job]) -> list[Job]:
        """Make the forecasts of a batch and return the jobs that are done with, failed ones excepted."""
        cubes: dict[Job, Cube] = {}
        done: list[Job] = []
        issued: list[tuple[ForecastRecord, Prediction]] = []
        for job in jobs:
            with self._surviving(job, done), self._telemetry.timed("cube", job.domain):
                domain = looking_back(self._domains[job.domain], self._compute)
                cubes[job] = load_cube(self._archive, domain, job.issue_time)
        if not cubes:
            return done
        domains = [self._domains[job.domain] for job in cubes]
        first = next(iter(cubes))
        with self._surviving(first, done), self._telemetry.timed("infer", first.domain):
            issued = issue_batch(list(cubes.values()), domains, self._compute, model=domains[0].model)
        for (job, cube), (record, prediction) in zip(cubes.items(), issued, strict=False):
            with self._surviving(job, done):
                self._publish(job, cube, record, prediction)
                done.append(job)
        return done

    @contextmanager
    def _surviving(self, job: Job, done: list[Job]) -> Iterator[None]:
        """Log and count what goes wrong; a job without enough frames is done with, another is tried again."""
        try:
            yield
        except NotEnoughFrames as error:
            log.info("%s %s: no forecast: %s", job.domain, _clock(job), error)
            self._count(job.domain, "none", "not_enough_frames")
            done.append(job)
        except NowcastError as error:
            fields = {"domain": job.domain, "issue_time": _clock(job)}
            log.error("%s %s: %s", job.domain, _clock(job), error, extra=fields)
            self._count(job.domain, self._model(job.domain), "failed")

    def _publish(self, job: Job, cube: Cube, record: ForecastRecord, prediction: Prediction) -> None:
        with self._telemetry.timed("publish", job.domain):  # lazy fields are made here, one by one
            self._store.save(record, prediction)
        self._announce(job, record.model)
        reason = record.degraded_reason
        self._count(job.domain, record.model, "degraded" if reason else "made")
        if reason:
            cause = "frames" if cube.shortfalls else "method"
            self._telemetry.degraded.labels(job.domain, cause).inc()
        if job.arrived is not None:
            took = max(time.time() - job.arrived, 0.0)
            self._telemetry.arrival_to_publish.labels(job.domain).observe(took)
        suffix = f" ({reason})" if reason else ""
        fields = {"domain": job.domain, "issue_time": _clock(job), "model": record.model}
        log.info("%s %s forecast by %s%s", job.domain, _clock(job), record.model, suffix, extra=fields)

    def _finish(self, job: Job, model: str) -> None:
        """Serve and announce a forecast that is there: its maker may have died before it could."""
        record = read_record(self._store.path(job.domain, job.issue_time, model))
        self._store.save(record, Prediction(iter(())))  # is kept already, so only the pointer moves
        self._announce(job, model)

    def _announce(self, job: Job, model: str) -> None:
        path = self._store.path(job.domain, job.issue_time, model)
        if self._bus is None:
            return
        try:
            latest = self._store.latest(job.domain)
            if latest is not None:
                self._bus.set_latest(
                    job.domain, json.dumps({"issue_time": latest[0].isoformat(), "model": latest[1]})
                )
            self._bus.publish(
                FORECASTS,
                domain=job.domain,
                issue_time=job.issue_time.isoformat(),
                model=model,
                path=str(path.relative_to(self._settings.data_dir)),
            )
        except BusError as error:
            log.warning("%s %s is stored but not announced: %s", job.domain, _clock(job), error)

    def _follow_domains_file(self) -> None:
        """Take over a changed domains file: a new model is made ready before the old one lets go."""
        changed = _changed(self._settings)
        if changed == self._domains_changed:
            return
        self._domains_changed = changed
        try:
            domains = load_domains(self._settings.domains_file)
            _make_ready(domains, self._compute)
        except (SettingsError, UnknownModel) as error:
            log.error("the changed domains file is not taken over: %s", error)
            return
        log.info("the domains file has changed; now serving %s", ", ".join(sorted(domains)))
        self._domains = domains

    def _model(self, domain: str) -> str:
        return self._domains[domain].model if domain in self._domains else "none"

    def _count(self, domain: str, model: str, outcome: str) -> None:
        self._telemetry.forecasts.labels(domain, model, outcome).inc()


def job_of(message: Message) -> Job | None:
    """Return the job a message asks for, ``None`` if it makes no sense."""
    try:
        issue_time = datetime.fromisoformat(message.fields["time"])
        arrived = message.fields.get("arrived")
        return Job(message.fields["domain"], issue_time, float(arrived) if arrived else None)
    except (KeyError, ValueError) as error:
        log.error("a message without sense is dropped: %s (%s)", dict(message.fields), error)
        return None


class InferLoop:
    """Joins :class:`Infer` to the bus: live frames first, catching up while there are none."""

    def __init__(self, infer: Infer, consumer: Consumer, telemetry: Telemetry) -> None:
        self._infer, self._consumer, self._telemetry = infer, consumer, telemetry
        self._next_catch_up = 0.0

    def __call__(self, stop: threading.Event) -> None:
        """Take one batch, or catch up by one forecast."""
        behind = time.monotonic() >= self._next_catch_up
        messages = self._consumer.receive(block_seconds=0.01 if behind else 1.0)
        if messages:
            self._work(messages)
        elif behind and not self._infer.catch_up():
            self._next_catch_up = time.monotonic() + CATCH_UP_SECONDS
            self._consumer.trim()
        self._consumer.report(self._telemetry)

    def without_broker(self, stop: threading.Event) -> None:
        """Go on from the archive alone."""
        while not stop.is_set() and self._infer.catch_up():
            pass

    def _work(self, messages: list[Message]) -> None:
        jobs = {message.id: job_of(message) for message in messages}
        with self._consumer.holding(messages):
            done = self._infer.handle(job for job in jobs.values() if job is not None)
        self._consumer.acknowledge(
            [message for message in messages if jobs[message.id] is None or jobs[message.id] in done]
        )


def _make_ready(domains: Mapping[str, Domain], compute: Compute) -> None:
    """Load what the domains' methods need, so that no forecast waits for it.

    Raises:
        UnknownModel: If there is no such method.
    """
    for name, domain in domains.items():
        if domain.model not in METHODS:
            raise UnknownModel(
                f"domains.{name}.model: expected one of {', '.join(METHODS)}, got {domain.model!r}"
            )
        if ready(domain.model, compute) is None:
            log.warning(
                "%s: %s cannot answer yet; the reason will stand in the forecasts", name, domain.model
            )
        looking_back(domain, compute)  # makes the methods that the gate may choose, too


def _changed(settings: Settings) -> float:
    try:
        return settings.domains_file.stat().st_mtime
    except OSError:
        return 0.0


def _clock(job: Job) -> str:
    return f"{job.issue_time:%Y-%m-%dT%H:%M:%SZ}"
