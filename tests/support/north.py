"""A small service whose answers one can see: domain ``north`` in the real stores, and the API over it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from patience import PATIENCE_SECONDS

from api.app import create_app
from api.service import Service
from nowcast.archive.archive import Archive
from nowcast.disk.data_folder import DataFolder
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.forecast.store import ForecastStore
from nowcast.frame.domain import Domain
from nowcast.frame.frame import frame_array
from nowcast.frame.grid import Grid
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.tally import Tally
from nowcast.settings import Settings

#: Issue time of the newest forecast in the data directory, and time of its newest frame.
ISSUED = datetime(2026, 1, 1, 12, tzinfo=UTC)
STEP = timedelta(minutes=5)
LEADS = 4

GRID = Grid.from_crs(
    "+proj=laea +lat_0=60 +lon_0=25 +datum=WGS84", nx=60, ny=48, x0=-29_500, y0=23_500, dx=1000, dy=1000
)

NORTH = Domain(
    "north",
    5,
    leads=LEADS,
    history=3,
    thresholds_dbz=(20.0, 30.0),
    title="The North",
    credit="Somebody's radars",
)

#: Cells (row, column) whose weather is known: see :func:`lead_field`.
RAINY, DRY, UNCOVERED = (10, 20), (30, 30), (5, 2)

#: Reflectivity [dBZ] of 10 and of 1 mm/h by Z = 200 R^1.6.
TEN_MM_H, ONE_MM_H = 39.01, 23.01


def empty_field() -> NDArray[np.float32]:
    """No echo, and five western columns nobody looks at."""
    field = np.full(GRID.shape, -10.0, np.float32)
    field[:, :5] = np.nan
    return field


def lead_field(lead: int) -> NDArray[np.float32]:
    """Lead 1 is dry, lead 2 brings 10 mm/h to one cell, lead 3 brings 1 mm/h, lead 4 is dry again."""
    field = empty_field()
    field[RAINY] = {2: TEN_MM_H, 3: ONE_MM_H}.get(lead, -10.0)
    return field


def save_forecast(
    data_dir: Path,
    issued: datetime,
    *,
    domain: Domain = NORTH,
    model: str = "extrapolation",
    degraded_reason: str = "",
    methods: tuple[str, ...] = (),
    choice_reason: str = "",
    base_weights: Mapping[str, float] | None = None,
    fields: list[NDArray[np.float32]] | None = None,
) -> Path:
    """Put a forecast where the service keeps them, and make it the latest."""
    fields = fields or [lead_field(lead) for lead in range(1, LEADS + 1)]
    record = ForecastRecord(
        domain=domain.name,
        issue_time=issued,
        step_minutes=domain.step_minutes,
        leads=len(fields),
        model=model,
        model_version="7",
        input_frames=("2026-01-01T11:50:00Z", "2026-01-01T11:55:00Z*", "2026-01-01T12:00:00Z"),
        degraded_reason=degraded_reason,
        grid=GRID,
        credit=domain.credit,
        zr=(domain.zr.a, domain.zr.b),
        methods=methods,
        choice_reason=choice_reason,
        base_weights=base_weights or {},
    )
    return ForecastStore(DataFolder(data_dir).forecasts).save(record, Prediction(map(Lead, fields)))


def point_of(cell: tuple[int, int]) -> dict[str, float]:
    """Return query parameters of a point in a cell."""
    lon, lat = GRID.xy_to_lonlat(GRID.x0 + cell[1] * GRID.dx + 200, GRID.y0 - cell[0] * GRID.dy - 200)
    return {"lat": round(lat, 5), "lon": round(lon, 5)}


def tally(hits: int, misses: int, false_alarms: int) -> Tally:
    """Return the sums of 100 pixels with these counts at 20 dBZ, and no event at 30 dBZ."""
    forecast, truth = np.full((2, 100), -10.0, np.float32)
    forecast[: hits + false_alarms] = 25.0
    truth[:hits] = truth[hits + false_alarms :][:misses] = 25.0
    found = Tally((20.0, 30.0), windows_km=(5.0,), cell_km=(1.0, 1.0))
    found.add(forecast.reshape(10, 10), truth.reshape(10, 10))
    return found


def fill(data_dir: Path) -> None:
    """Make the data directory the tests ask about."""
    archive = Archive(DataFolder(data_dir).archive)
    for number in range(4):
        field = empty_field()
        if number == 3:
            field[RAINY] = ONE_MM_H
        frame = frame_array(field, GRID, ISSUED - (3 - number) * STEP, {"source": "Test radar"})
        archive.add("north", frame)
    save_forecast(data_dir, ISSUED - STEP, model="persistence", degraded_reason="no motion")
    save_forecast(data_dir, ISSUED)
    book = ScoreBook(DataFolder(data_dir).scores)
    book.save(
        "north", ISSUED - STEP, {("extrapolation", 5): tally(6, 2, 2), ("persistence", 5): tally(4, 4, 4)}
    )
    book.save("north", ISSUED, {("extrapolation", 5): tally(2, 0, 0), ("persistence", 5): tally(1, 1, 1)})


def settings_for(data_dir: Path, **others: object) -> Settings:
    """Return settings over a data directory, with the domains ``north`` and ``bare``, which has no data."""
    return Settings(data_dir=data_dir, domains={"north": NORTH, "bare": Domain("bare", 10)}, **others)


@dataclass
class Broker:
    """A real Valkey: where it is, and its process."""

    url: str
    process: subprocess.Popen[bytes]


class Client(httpx.AsyncClient):
    """A client of the API in this process, and what is behind it."""

    service: Service


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Client]:
    """Run the API in this process and give a client of it."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        Client(transport=transport, base_url="http://test") as client,
    ):
        client.service = app.state.service
        yield client


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = PATIENCE_SECONDS) -> None:
    """Return once a server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"no answer from {url}")
