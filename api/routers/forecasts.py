"""Forecasts: what is stored, what each says of itself, its numbers and its pictures."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from api.links import link
from api.parameters import LONGEST_PERIOD, End, IssueTime, Lead, Limit, Model, Start, Theme, period
from api.products import NETCDF, NETCDF_RESPONSE, PNG_RESPONSE, check_lead, cut_lead, draw_lead
from api.record import VOLATILE, record_of
from api.responses import IMMUTABLE, LIVE, binary, document, image, lifetime
from api.schemas import Forecast, ForecastEntry, ForecastLead, Forecasts
from api.service import Service, TheDomain, TheService
from nowcast.errors import BadRequest
from nowcast.frame.domain import Domain

router = APIRouter(prefix="/v1/domains/{domain}/forecasts", tags=["forecasts"])

#: Formats of forecast data, those that are written today.
FORMATS = ("netcdf",)

Format = Annotated[
    str, Query(description="File format", examples=list(FORMATS), json_schema_extra={"enum": list(FORMATS)})
]


@router.get("", summary="Stored forecasts, newest first", response_model=Forecasts)
async def list_forecasts(
    service: TheService, domain: TheDomain, start: Start = None, end: End = None, limit: Limit = 24
) -> Response:
    """Issue times from `from` to `to`, both included, and who answered; without them, the last 31 days."""
    latest = await service.read(service.store.latest, domain.name)
    start, end = period(start, end, latest[0] if latest else service.now(), LONGEST_PERIOD)
    forecasts = await service.read(_entries, service, domain, start, end, limit)
    return document(Forecasts(domain=domain.name, forecasts=forecasts))


def _entries(
    service: Service, domain: Domain, start: datetime, end: datetime, limit: int
) -> list[ForecastEntry]:
    times = service.store.issue_times(domain.name, start, end)
    return [
        ForecastEntry(
            issue_time=time,
            models=service.store.models(domain.name, time),
            href=link(domain.name, "forecasts", time),
        )
        for time in reversed(times[-limit:])
    ]


@router.get("/{issue_time}", summary="One forecast and its record", response_model=Forecast)
async def show_forecast(
    service: TheService, domain: TheDomain, issue_time: IssueTime, model: Model = None
) -> Response:
    """A forecast's record: method, inputs, why it is degraded if so, age and recent scores at its leads."""
    stored = await service.forecast(domain, issue_time, model)
    record = await record_of(service, stored)
    time, asked = stored.record.issue_time, {"model": model}
    answer = Forecast(
        **dict(record),
        models=list(stored.models),
        leads=[
            ForecastLead(
                lead_minutes=lead,
                valid_time=time + timedelta(minutes=lead),
                map=link(domain.name, "forecasts", time, "map.png", lead=lead, **asked),
            )
            for lead in stored.lead_minutes
        ],
        href=link(domain.name, "forecasts", time, **asked),
        data=link(domain.name, "forecasts", time, "data", format="netcdf", **asked),
    )
    cache_control = LIVE if issue_time is None else lifetime(time, service.now())
    return document(answer, cache_control, apart_from=VOLATILE)


@router.get(
    "/{issue_time}/data",
    summary="A forecast's numbers",
    response_class=Response,
    responses=NETCDF_RESPONSE,
)
async def forecast_data(
    request: Request,
    service: TheService,
    domain: TheDomain,
    issue_time: IssueTime,
    format: Format = "netcdf",
    lead: Lead = None,
    model: Model = None,
) -> Response:
    """Reflectivity [dBZ] on the domain's grid as CF netCDF: the stored file, or one lead of it."""
    if format not in FORMATS:
        raise BadRequest(f"the format {format[:40]!r} is not offered; expected {' or '.join(FORMATS)}")
    stored = await service.forecast(domain, issue_time, model)
    cache_control = _lifetime(issue_time)
    if lead is None:
        return FileResponse(
            stored.path,
            media_type=NETCDF,
            filename=stored.path.name,
            headers={"ETag": f'"{stored.identity}"', "Cache-Control": cache_control},
        )
    check_lead(stored, lead)
    content = await service.product(
        stored, f"netcdf:{lead}", partial(service.read, cut_lead, stored.path, lead)
    )
    return binary(content, cache_control, media_type=NETCDF, filename=f"{stored.path.stem}_{lead:03d}.nc")


@router.get(
    "/{issue_time}/map.png", summary="Map of one lead time", response_class=Response, responses=PNG_RESPONSE
)
async def forecast_map(
    service: TheService,
    domain: TheDomain,
    issue_time: IssueTime,
    lead: Lead = None,
    theme: Theme = "light",
    model: Model = None,
) -> Response:
    """Reflectivity as a map with its legend; without `lead`, the first. Hatched is not covered, not dry."""
    stored = await service.forecast(domain, issue_time, model)
    lead = stored.lead_minutes[0] if lead is None else lead
    check_lead(stored, lead)
    png = await service.product(
        stored, f"map:{lead}:{theme}", partial(service.read, draw_lead, stored, domain, lead, theme)
    )
    return image(png, _lifetime(issue_time))


def _lifetime(asked: datetime | None) -> str:
    """Return for how long data hold: a file never changes, which one is the latest does."""
    return LIVE if asked is None else IMMUTABLE
