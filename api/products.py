"""Products made from forecast files and frames: maps and single leads. Runs in reader threads."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.service import StoredForecast
from nowcast.errors import BadRequest
from nowcast.forecast.store import open_forecast, read_lead
from nowcast.frame.domain import Domain
from nowcast.frame.grid import Grid
from nowcast.frame.units import ZR
from nowcast.rendering import render_map

#: Width [pixels] of maps: readable on a desk and, scaled down, on a phone.
MAP_WIDTH = 1000

#: How OpenAPI describes a picture.
PNG_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "description": "A picture",
    }
}

#: Media type of netCDF, as the IANA registers it.
NETCDF = "application/netcdf"

#: How OpenAPI describes a netCDF file.
NETCDF_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {NETCDF: {"schema": {"type": "string", "format": "binary"}}},
        "description": "A netCDF-4 file",
    },
    206: {"description": "The part of the file that `Range` asked for"},
}


def check_lead(forecast: StoredForecast, lead: int) -> None:
    """Refuse a lead time that a forecast does not have.

    Raises:
        BadRequest: Naming those it has.
    """
    leads = forecast.lead_minutes
    if lead not in leads:
        raise BadRequest(
            f"this forecast has no lead of {lead} minutes; it has {leads[0]} to {leads[-1]} "
            f"in steps of {forecast.record.step_minutes}"
        )


def draw_lead(forecast: StoredForecast, domain: Domain, lead: int, theme: str) -> bytes:
    """Return a lead of a forecast as a PNG map."""
    record = forecast.record
    valid = record.issue_time + timedelta(minutes=lead)
    index = forecast.lead_minutes.index(lead)
    return as_map(
        read_lead(forecast.path, index),
        record.grid,
        domain,
        subtitle=(
            f"Forecast for {valid:%Y-%m-%d %H:%M} UTC (+{lead} min from {record.issue_time:%H:%M}), "
            f"{record.method_by_lead[index]}{', degraded' if record.degraded_reason else ''}"
        ),
        credit=record.credit,
        zr=record.zr,
        theme=theme,
    )


def cut_lead(path: Path, lead: int) -> bytes:
    """Return one lead [minutes] of a forecast file as a netCDF file like the whole, packed as it is."""
    with open_forecast(path) as forecast:
        part = forecast.sel(lead_time=[lead])
        for variable in part.variables.values():
            variable.encoding.pop("chunksizes", None)  # of the whole file
            variable.encoding.setdefault("_FillValue", None)  # else xarray gives one to coordinates as well
        return bytes(part.to_netcdf(engine="h5netcdf"))


def as_map(
    dbz: NDArray[np.float32],
    grid: Grid,
    domain: Domain,
    *,
    subtitle: str,
    credit: str,
    zr: tuple[float, float],
    theme: str,
) -> bytes:
    """Return a field of a domain as a PNG map."""
    return render_map(
        dbz,
        grid,
        title=f"{domain.title or domain.name}: reflectivity",
        subtitle=subtitle,
        credit=credit,
        theme=theme,
        width_px=MAP_WIDTH,
        zr=ZR(*zr),
    )
