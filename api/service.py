"""What every endpoint works with: settings, the stores on disk, the caches, a bounded number of readers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import anyio
from fastapi import Depends, Request
from fastapi import Path as PathParameter

from api.cache import Products, RedisTier, Refreshed
from api.links import link
from api.schemas import RecentScores
from nowcast.archive.archive import Archive
from nowcast.errors import InputError, NoForecast, StorageError
from nowcast.forecast.record import ForecastRecord
from nowcast.forecast.store import ForecastStore, read_record
from nowcast.frame.domain import Domain
from nowcast.names import FALLBACK
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.tally import Tally
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry

P = ParamSpec("P")
T = TypeVar("T")

#: Files read at a time: HDF5 has one lock for all threads, so more would only wait inside it.
READERS = 4

#: Scores are worked out again after the first time [s], and never shown after the second.
SCORES_FRESH, SCORES_STALE = 5.0, 60.0

#: Time [s] for which everybody who asks shares one look at what is newest.
GLANCE = 0.05

#: Pooled sums by method and lead time in minutes.
Pooled = dict[tuple[str, int], Tally]


@dataclass(frozen=True)
class StoredForecast:
    """A forecast file.

    Attributes:
        record: What it says about itself.
        path: Where it is.
        models: Methods with a forecast of this issue time, the served one first.
        identity: Name that no other content ever has: where it is, how long it is, when it was written.
    """

    record: ForecastRecord
    path: Path
    models: tuple[str, ...]
    identity: str

    @property
    def lead_minutes(self) -> list[int]:
        """Its lead times [minutes]."""
        return [n * self.record.step_minutes for n in range(1, self.record.leads + 1)]


class Service:
    """Everything behind the endpoints; one per application."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.archive = Archive(settings.folder.archive)
        self.store = ForecastStore(settings.folder.forecasts)
        self.scores = ScoreBook(settings.folder.scores)
        self.redis = RedisTier(settings.redis_url, settings.cache_seconds)
        # A quarter of the memory is left to whole answers. Tiles are cheaper to read again than to fetch.
        requests = telemetry.cache_requests
        self.products = Products(settings.cache_bytes // 4, self.redis, requests)
        self.tiles = Products(settings.cache_bytes // 2, RedisTier("", 0), requests)
        self.recent_scores: Refreshed[RecentScores] = Refreshed(SCORES_FRESH, SCORES_STALE)
        self._pooled: Refreshed[Pooled] = Refreshed(SCORES_FRESH, SCORES_STALE)
        self._newest: Refreshed[datetime | None] = Refreshed(GLANCE, GLANCE)
        self._latest: Refreshed[StoredForecast] = Refreshed(GLANCE, GLANCE)
        self._readers = anyio.CapacityLimiter(READERS)

    def now(self) -> datetime:
        """Return the time, UTC."""
        return datetime.now(UTC)

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that reads files, in one of few threads.

        Raises:
            StorageError: Also where our own file turns out unreadable: that is no fault of the client's.
        """
        try:
            return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._readers)
        except (InputError, OSError) as error:
            raise StorageError(f"a stored file cannot be read: {error}") from error

    async def newest_frame(self, domain: str) -> datetime | None:
        """Return the time of a domain's newest archived frame."""
        return await self._newest.get(domain, partial(self.read, self.archive.newest, domain))

    async def forecast(
        self, domain: Domain, issue_time: datetime | None, model: str | None
    ) -> StoredForecast:
        """Return the forecast of an issue time, ``None`` the latest, by ``model`` or by the method served.

        Raises:
            NoForecast: If there is none.
        """
        if issue_time is not None:
            return await self.read(self._forecast, domain, issue_time, model)
        find = partial(self.read, self._forecast, domain, None, model)
        return await self._latest.get((domain.name, model), find)

    def _forecast(self, domain: Domain, issue_time: datetime | None, model: str | None) -> StoredForecast:
        served = domain.model
        if issue_time is None:
            latest = self.store.latest(domain.name)
            if latest is None:
                raise NoForecast(f"there is no forecast of domain {domain.name!r} yet")
            issue_time, served, _ = latest
        order = (served, *FALLBACK)
        models = self.store.models(domain.name, issue_time)
        models.sort(key=lambda name: order.index(name) if name in order else len(order))
        if not models:
            raise NoForecast(
                f"domain {domain.name!r} has no forecast of {issue_time:%Y-%m-%dT%H:%M:%SZ}; "
                f"{link(domain.name, 'forecasts')} lists those there are"
            )
        if model is not None and model not in models:
            raise NoForecast(
                f"domain {domain.name!r} has no forecast of {issue_time:%Y-%m-%dT%H:%M:%SZ} by {model!r}; "
                f"there are {', '.join(models)}"
            )
        path = self.store.path(domain.name, issue_time, model or models[0])
        try:
            status = path.stat()
        except FileNotFoundError as error:  # retention was faster
            raise NoForecast(f"the forecast of {issue_time:%Y-%m-%dT%H:%M:%SZ} is gone") from error
        identity = f"{domain.name}:{path.stem}:{status.st_size:x}-{status.st_mtime_ns:x}"
        return StoredForecast(_record(path, identity), path, tuple(models), identity)

    async def pooled(self, domain: str, start: datetime, end: datetime) -> Pooled:
        """Return the sums over all valid times of a period, as they were at most :data:`SCORES_STALE` ago."""
        pool = partial(self.read, self.scores.pooled, domain, start, end)
        return await self._pooled.get((domain, start, end), pool)

    async def product(
        self, forecast: StoredForecast, what: str, make: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """Return a product of a forecast; ``what`` names it and its parameters."""
        return await self.products.get(f"{forecast.identity}:{what}", make)

    async def close(self) -> None:
        """Let go of Redis."""
        await self.redis.close()


@lru_cache(maxsize=64)
def _record(path: Path, identity: str) -> ForecastRecord:
    """Return what a file says about itself; opening it takes longer than all the rest of an answer."""
    return read_record(path)


async def service_of(request: Request) -> Service:
    """Return the application's service."""
    service: Service = request.app.state.service
    return service


async def domain_of(
    domain: Annotated[str, PathParameter(description="Name of the domain", examples=["demo"])],
    request: Request,
) -> Domain:
    """Return the domain named in the path."""
    service: Service = request.app.state.service
    return service.settings.domain(domain)


TheService = Annotated[Service, Depends(service_of)]
TheDomain = Annotated[Domain, Depends(domain_of)]
