"""The ``/metrics`` page: this process, the age of the archive, and what the workers on this machine say."""

from __future__ import annotations

import asyncio
import math
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from http.client import HTTPException

import anyio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.service import Service
from nowcast.errors import StorageError

#: Longest wait [s] for a worker, in all; they answer on this machine in milliseconds.
WORKER_TIMEOUT = 0.5

#: Longest page [bytes] a worker may have.
LARGEST_PAGE = 8 * 2**20

#: Families that every process has of its own, or that only this process knows.
_OWN = (
    "process_",
    "python_",
    "nowcast_frame_age_seconds",
    "nowcast_forecast_age_seconds",
    "nowcast_step_seconds",
)

#: Plain HTTP, neither proxies nor redirects: workers are on this machine.
_opener = urllib.request.OpenerDirector()
_opener.add_handler(urllib.request.HTTPHandler())
_opener.add_handler(urllib.request.UnknownHandler())


async def exposition(service: Service) -> bytes:
    """Return all metrics in Prometheus's text format."""
    urls = [url.strip() for url in service.settings.worker_metrics.split(",") if url.strip()]
    pages = await asyncio.gather(*map(_page, urls))
    for domain in service.settings.domains.values():
        frame_age, forecast_age = await _ages(service, domain.name)
        service.telemetry.frame_age.labels(domain.name).set(frame_age)
        service.telemetry.forecast_age.labels(domain.name).set(forecast_age)
        service.telemetry.step.labels(domain.name).set(60 * domain.step_minutes)
    return await anyio.to_thread.run_sync(_merged, service.telemetry.registry, pages)


def _merged(registry: CollectorRegistry, pages: list[str]) -> bytes:
    merged = CollectorRegistry()
    merged.register(_Families(merge([registry.collect(), *(_foreign(page) for page in pages)])))
    return generate_latest(merged)


async def _ages(service: Service, domain: str) -> tuple[float, float]:
    """Return the age [s] of the newest frame and forecast; infinite before the first, so that alerts fire."""
    try:
        frame = await service.newest_frame(domain)
        latest = await service.read(service.store.latest, domain)
    except StorageError:
        return math.inf, math.inf
    now = service.now()
    return _age(now, frame), _age(now, latest[0] if latest else None)


def _age(now: datetime, moment: datetime | None) -> float:
    return math.inf if moment is None else (now - moment).total_seconds()


async def _page(url: str) -> str:
    """Return a worker's page, empty if it does not answer: then its metrics are absent, as it is."""
    with anyio.move_on_after(WORKER_TIMEOUT):
        return await anyio.to_thread.run_sync(_fetch, url, abandon_on_cancel=True)
    return ""


def _fetch(url: str) -> str:
    try:
        with _opener.open(url, timeout=WORKER_TIMEOUT) as answer:
            page: bytes = answer.read(LARGEST_PAGE)
            return page.decode() if answer.status == 200 else ""
    except (OSError, HTTPException, ValueError):
        return ""


def _foreign(page: str) -> Iterator[Metric]:
    try:
        families = list(text_string_to_metric_families(page))
    except ValueError:  # not a metrics page
        return
    yield from (family for family in families if not family.name.startswith(_OWN))


def merge(pages: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Return one family for each name, counters and histograms of several processes added up.

    Two processes that report the same gauge look at the same thing, such as the lag of a queue: the largest
    counts. Times of creation are left out; they would be of one process only.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = defaultdict(dict)
    for page in pages:
        for family in page:
            if family.name.endswith("_created"):
                continue
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            if merged.type != family.type:
                continue
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                key = (sample.name, tuple(sorted(sample.labels.items())))
                known = values[family.name].get(key)
                values[family.name][key] = _together(merged.type, known, sample.value)
    for name, family in families.items():
        for (sample_name, labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    return list(families.values())


def _together(kind: str, known: float | None, value: float) -> float:
    if known is None or math.isnan(known):
        return value
    if kind in ("counter", "histogram", "summary"):
        return known + value
    return known if math.isnan(value) else max(known, value)


class _Families:
    """Families as a collector."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """Return them."""
        return self._families
