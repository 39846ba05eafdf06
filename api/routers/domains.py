"""The domains: what there is, where it lies, how new it is."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from api.links import link
from api.products import MAP_WIDTH
from api.responses import document
from api.schemas import (
    BoundingBox,
    DomainDetail,
    Domains,
    DomainSummary,
    GridDescription,
    Lattice,
    MapBox,
    ZRelation,
)
from api.service import Service, TheDomain, TheService
from nowcast.frame.domain import Domain
from nowcast.frame.grid import FULL_TURN, Grid, within_half_turn
from nowcast.rendering.layout import Layout

router = APIRouter(prefix="/v1/domains", tags=["domains"])

#: Points along each side of the lattice: enough for a click to find its cell on a national composite.
LATTICE = 17


@router.get("", summary="All domains", response_model=Domains)
async def list_domains(service: TheService) -> Response:
    """Every configured domain with the times of its newest frame and forecast."""
    domains = [await _summary(service, domain) for domain in service.settings.domains.values()]
    return document(Domains(domains=domains))


@router.get("/{domain}", summary="One domain", response_model=DomainDetail)
async def show_domain(service: TheService, domain: TheDomain) -> Response:
    """A domain with its thresholds, its Z-R relation and its grid."""
    summary = await _summary(service, domain)
    grid = domain.grid or await service.read(service.archive.grid, domain.name)
    description = None if grid is None else await service.read(describe_grid, grid)
    return document(
        DomainDetail(
            **summary.model_dump(),
            thresholds_dbz=list(domain.thresholds_dbz),
            zr=ZRelation(a=domain.zr.a, b=domain.zr.b),
            grid=description,
        )
    )


async def _summary(service: Service, domain: Domain) -> DomainSummary:
    newest = await service.newest_frame(domain.name)
    latest = await service.read(service.store.latest, domain.name)
    return DomainSummary(
        name=domain.name,
        title=domain.title or domain.name,
        credit=domain.credit,
        step_minutes=domain.step_minutes,
        leads=domain.leads,
        model=domain.model,
        newest_frame=newest,
        newest_forecast=latest[0] if latest else None,
        href=link(domain.name),
    )


@lru_cache(maxsize=64)
def describe_grid(grid: Grid) -> GridDescription:
    """Return a grid in words and numbers."""
    height, width = grid.cell_km
    return GridDescription(
        rows=grid.ny,
        columns=grid.nx,
        cell_height_km=height,
        cell_width_km=width,
        crs_wkt=grid.crs_wkt,
        x0=grid.x0,
        y0=grid.y0,
        dx=grid.dx,
        dy=grid.dy,
        bounds=_bounding_box(grid),
        lattice=_lattice(grid),
        map_box=_map_box(grid),
    )


def _bounding_box(grid: Grid) -> BoundingBox:
    west, south, east, north = grid.lonlat_bounds
    if east - west >= FULL_TURN:
        west, east = -180.0, 180.0
    return BoundingBox(west=west, south=south, east=within_half_turn(east), north=north)


def _map_box(grid: Grid) -> MapBox:
    layout = Layout.of(grid, 1, 1, MAP_WIDTH, captions=False)
    left, top = layout.place(0)
    return MapBox(
        left=left / MAP_WIDTH,
        top=top / layout.height,
        width=layout.map_width / MAP_WIDTH,
        height=layout.map_height / layout.height,
    )


def _lattice(grid: Grid) -> Lattice:
    x_min, y_min, x_max, y_max = grid.outer_bounds
    x, y = np.meshgrid(np.linspace(x_min, x_max, LATTICE), np.linspace(y_max, y_min, LATTICE))
    longitude, latitude = grid.xy_to_lonlat(x, y)
    if np.isfinite(longitude).all():
        longitude = np.unwrap(longitude, period=FULL_TURN)
        middle = longitude[:, LATTICE // 2]  # rows side by side, the middle one in the usual turn
        near = within_half_turn(middle - middle[LATTICE // 2]) + within_half_turn(middle[LATTICE // 2])
        longitude = longitude + (near - middle)[:, np.newaxis]
    return Lattice(rows=LATTICE, columns=LATTICE, latitude=_rows(latitude), longitude=_rows(longitude))


def _rows(degrees: np.ndarray) -> list[list[float | None]]:
    return [[round(float(d), 5) if math.isfinite(d) else None for d in row] for row in degrees]
