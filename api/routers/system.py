"""The process itself: alive, ready, measured."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from api.metrics import exposition
from api.responses import NEVER
from api.schemas import DomainFreshness, Health, Readiness
from api.service import Service, TheService
from nowcast.errors import StorageError
from nowcast.frame.domain import Domain

router = APIRouter(tags=["service"])

#: A domain is fresh while its newest frame and forecast are at most this many steps old.
FRESH_STEPS = 3


@router.get("/healthz", summary="Is the process alive?", response_model=Health)
async def healthz() -> Response:
    """Answers as long as the process does, whatever state the data are in: for liveness probes."""
    return Response(
        Health().model_dump_json(), media_type="application/json", headers={"Cache-Control": NEVER}
    )


@router.get("/readyz", summary="Can it answer, and how well?", response_model=Readiness)
async def readyz(service: TheService) -> Response:
    """For readiness probes: 503 only if the data cannot be read at all.

    A domain without fresh data, or Redis being away, makes the service `degraded`: it answers, and says so.
    """
    redis = await service.redis.ping()
    domains = []
    for domain in service.settings.domains.values():
        domains.append(await _freshness(service, domain))
    if domains and all(domain.status == "unreadable" for domain in domains):
        raise StorageError("no domain's archive and forecasts can be read")
    ready = redis != "away" and all(domain.status == "fresh" for domain in domains)
    answer = Readiness(status="ready" if ready else "degraded", redis=redis, domains=domains)
    return Response(answer.model_dump_json(), media_type="application/json", headers={"Cache-Control": NEVER})


async def _freshness(service: Service, domain: Domain) -> DomainFreshness:
    try:
        frame = await service.newest_frame(domain.name)
        latest = await service.read(service.store.latest, domain.name)
    except StorageError:
        return DomainFreshness(domain=domain.name, status="unreadable")
    now = service.now()
    issue_time = latest[0] if latest else None
    frame_age = (now - frame).total_seconds() if frame else None
    forecast_age = (now - issue_time).total_seconds() if issue_time else None
    bound = FRESH_STEPS * 60 * domain.step_minutes
    if frame_age is None:
        status = "empty"
    elif frame_age <= bound and forecast_age is not None and forecast_age <= bound:
        status = "fresh"
    else:
        status = "stale"
    return DomainFreshness(
        domain=domain.name,
        status=status,
        newest_frame=frame,
        frame_age_seconds=frame_age,
        newest_forecast=issue_time,
        forecast_age_seconds=forecast_age,
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Text exposition"}
    },
)
async def metrics(service: TheService) -> Response:
    """Metrics of this process, of the archive, and of the workers on this machine."""
    return Response(
        await exposition(service), media_type=CONTENT_TYPE_PLAIN_0_0_4, headers={"Cache-Control": NEVER}
    )
