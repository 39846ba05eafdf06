"""Rain at a point: what is observed, what is expected, and what it comes to."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.event import first_event, outlook
from api.links import iso
from api.parameters import Model
from api.record import VOLATILE, record_of
from api.responses import document
from api.schemas import Cell, Expected, Observed, PointForecast
from api.service import Service, StoredForecast, TheDomain, TheService
from api.tiles import Tile
from nowcast.frame.domain import Domain
from nowcast.frame.grid import Grid, within_half_turn
from nowcast.frame.units import ZR

router = APIRouter(prefix="/v1/domains/{domain}/point", tags=["point"])

Latitude = Annotated[
    float, Query(ge=-90, le=90, allow_inf_nan=False, description="Degrees north, WGS 84", examples=[60.17])
]
Longitude = Annotated[
    float,
    Query(
        ge=-180,
        le=360,
        allow_inf_nan=False,
        description="Degrees east, WGS 84, counted from -180 or from 0",
        examples=[24.94],
    ),
]


@router.get("", summary="Rain at a point, now and next", response_model=PointForecast)
async def point(
    service: TheService, domain: TheDomain, lat: Latitude, lon: Longitude, model: Model = None
) -> Response:
    """The latest forecast in the grid cell that holds a point, as a series and as an event.

    Three states never mix: `value` (an echo), `no_echo` (looked at, dry) and `not_covered` (nobody looked).
    """
    stored = await service.forecast(domain, None, model)
    grid = stored.record.grid
    row, column = grid.cell_of(lat, lon)
    series = await _series(service, stored, row, column)
    observed = await _observed(service, domain, grid, row, column)
    answer = PointForecast(
        latitude=lat,
        longitude=within_half_turn(lon),
        cell=_cell(grid, row, column),
        outlook=outlook(series),
        event=first_event(series, observed, stored.record.step_minutes),
        observed=observed,
        series=series,
        forecast=await record_of(service, stored),
    )
    return document(answer, apart_from={"forecast": VOLATILE})


async def _series(service: Service, stored: StoredForecast, row: int, column: int) -> list[Expected]:
    tile = Tile.of(stored.record.grid, row, column)
    read = partial(service.read, tile.of_forecast, stored.path)
    content = await service.tiles.get(f"{stored.identity}:{tile.name}", read)
    steps = tile.at(content, row, column, ZR(*stored.record.zr))
    return [
        Expected(lead_minutes=lead, valid_time=stored.record.issue_time + timedelta(minutes=lead), **step)
        for lead, step in zip(stored.lead_minutes, steps, strict=True)
    ]


async def _observed(service: Service, domain: Domain, grid: Grid, row: int, column: int) -> Observed | None:
    newest = await service.newest_frame(domain.name)
    if newest is None:
        return None
    tile = Tile.of(grid, row, column)
    read = partial(service.read, tile.of_frame, service.archive, domain.name, newest)
    content = await service.tiles.get(f"{domain.name}:observed:{iso(newest)}:{tile.name}", read)
    (step,) = tile.at(content, row, column, domain.zr)
    return Observed(time=newest, **step)


def _cell(grid: Grid, row: int, column: int) -> Cell:
    longitude, latitude = grid.xy_to_lonlat(grid.x0 + column * grid.dx, grid.y0 - row * grid.dy)
    return Cell(row=row, column=column, latitude=round(latitude, 5), longitude=round(longitude, 5))
