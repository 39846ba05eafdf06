"""Observed frames: the truth as it came in."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

import numpy as np
import xarray as xr
from fastapi import APIRouter
from starlette.responses import Response

from api.links import iso, link
from api.parameters import LONGEST_PERIOD, End, FrameTime, Limit, Start, Theme, period
from api.products import PNG_RESPONSE, as_map
from api.responses import IMMUTABLE, LIVE, document, image
from api.schemas import FrameEntry, Frames, Observation, ZRelation
from api.service import Service, TheDomain, TheService
from nowcast.errors import NoFrame
from nowcast.frame.domain import Domain
from nowcast.frame.frame import grid_of
from nowcast.frame.units import NO_ECHO_DBZ

router = APIRouter(prefix="/v1/domains/{domain}/observations", tags=["observations"])


@router.get("", summary="Archived frames, newest first", response_model=Frames)
async def list_frames(
    service: TheService, domain: TheDomain, start: Start = None, end: End = None, limit: Limit = 24
) -> Response:
    """Times of archived frames from `from` to `to`, both included; without them, the last 31 days."""
    newest = await service.newest_frame(domain.name)
    start, end = period(start, end, newest or service.now(), LONGEST_PERIOD)
    times = await service.read(service.archive.times, domain.name, start, end)
    frames = [
        FrameEntry(
            time=time,
            href=link(domain.name, "observations", time),
            map=link(domain.name, "observations", time, "map.png"),
        )
        for time in reversed(times[-limit:])
    ]
    return document(Frames(domain=domain.name, frames=frames))


@router.get("/{time}", summary="One observed frame in short", response_model=Observation)
async def show_frame(service: TheService, domain: TheDomain, time: FrameTime) -> Response:
    """What the frame of a time, or the newest one, says: coverage, share of echoes, strongest rain."""
    found = await _frame_time(service, domain, time)
    name = f"{domain.name}:observed:{iso(found)}:summary"
    summary = await service.products.get(name, partial(_summarised, service, domain, found))
    now = service.now()
    described = Observation.model_validate_json(summary).model_copy(
        update={"answered_at": now, "age_seconds": round((now - found).total_seconds(), 1)}
    )
    return document(described, _lifetime(time), apart_from={"answered_at", "age_seconds"})


@router.get(
    "/{time}/map.png", summary="Map of an observed frame", response_class=Response, responses=PNG_RESPONSE
)
async def frame_map(
    service: TheService, domain: TheDomain, time: FrameTime, theme: Theme = "light"
) -> Response:
    """Reflectivity of the frame as a map with its legend. Hatched: not observed, which is not dry."""
    found = await _frame_time(service, domain, time)
    name = f"{domain.name}:observed:{iso(found)}:map:{theme}"
    png = await service.products.get(name, partial(_drawn, service, domain, found, theme))
    return image(png, _lifetime(time))


def _lifetime(asked: datetime | None) -> str:
    """Return for how long an answer holds: a frame never changes, which one is the newest does."""
    return LIVE if asked is None else IMMUTABLE


async def _frame_time(service: Service, domain: Domain, time: datetime | None) -> datetime:
    if time is None:
        newest = await service.newest_frame(domain.name)
        if newest is None:
            raise NoFrame(f"no frame of domain {domain.name!r} has come yet")
        return newest
    if not await service.read(service.archive.has, domain.name, time):
        listed = link(domain.name, "observations")
        raise NoFrame(f"domain {domain.name!r} has no frame of {iso(time)}; {listed} lists those there are")
    return time


async def _summarised(service: Service, domain: Domain, time: datetime) -> bytes:
    frame = await service.read(service.archive.load, domain.name, time)
    described = await service.read(describe_frame, frame, domain, time)
    return described.model_dump_json().encode()


async def _drawn(service: Service, domain: Domain, time: datetime, theme: str) -> bytes:
    frame = await service.read(service.archive.load, domain.name, time)
    return await service.read(
        as_map,
        frame.values,
        grid_of(frame),
        domain,
        subtitle=f"Observed {time:%Y-%m-%d %H:%M} UTC",
        credit=domain.credit,
        zr=(domain.zr.a, domain.zr.b),
        theme=theme,
    )


def describe_frame(frame: xr.DataArray, domain: Domain, time: datetime) -> Observation:
    """Return a frame in numbers; ``answered_at`` and ``age_seconds`` are for the caller to set."""
    dbz = frame.values
    observed = int(np.count_nonzero(dbz == dbz))
    echoes = int(np.count_nonzero(dbz > NO_ECHO_DBZ))
    strongest = float(np.nanmax(dbz)) if echoes else None
    rate = 0.0 if strongest is None else float(domain.zr.to_rain_rate(np.array(strongest, np.float32)))
    return Observation(
        domain=domain.name,
        time=time,
        answered_at=time,
        age_seconds=timedelta(0).total_seconds(),
        source=str(frame.attrs.get("source", "")),
        credit=domain.credit,
        observed_fraction=observed / dbz.size,
        echo_fraction=echoes / observed if observed else 0.0,
        max_dbz=None if strongest is None else round(strongest, 2),
        max_rain_rate_mm_h=round(rate, 3),
        zr=ZRelation(a=domain.zr.a, b=domain.zr.b),
        href=link(domain.name, "observations", time),
        map=link(domain.name, "observations", time, "map.png"),
    )
