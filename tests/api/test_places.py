"""Places on the globe over HTTP: longitudes counted from -180 or from 0, grids across 180 degrees."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from north import ISSUED, LEADS, serving
from PIL import Image

from nowcast.archive.archive import Archive
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.forecast.store import ForecastStore
from nowcast.frame.domain import Domain
from nowcast.frame.frame import frame_array, normalise
from nowcast.frame.grid import Grid
from nowcast.readers import read
from nowcast.settings import Settings

pytestmark = pytest.mark.anyio

#: Grids and a place in each: latitude, longitude, row, column.
GRIDS = {
    "America counted to 360": ("EPSG:4326", 260.01, 35.79, 0.02, 50, 40, (35.5, -99.6, 14, 19)),
    "Fiji in degrees": ("EPSG:4326", 175.05, -14.05, 0.1, 100, 60, (-17.02, -178.98, 30, 60)),
    "Fiji counted from -180": ("EPSG:4326", -184.95, -14.05, 0.1, 100, 60, (-17.02, -178.98, 30, 60)),
    "New Zealand in a plane": ("EPSG:2193", 1_000_500.0, 6_299_500.0, 10_000.0, 170, 160, None),
    "Mercator over its edge": ("EPSG:3857", 19_600_000.0, -1_500_000.0, 10_000.0, 100, 80, None),
    "the globe from 0": ("EPSG:4326", 0.5, 89.5, 1.0, 360, 180, (64.15, -21.9, 25, 338)),
    "the globe from -180": ("EPSG:4326", -179.5, 89.5, 1.0, 360, 180, (64.15, -21.9, 25, 158)),
    "the pole": ("+proj=stere +lat_0=90 +lat_ts=60", -9.8e5, 9.8e5, 2e4, 99, 99, (90.0, 0.0, 49, 49)),
}  # fmt: skip


@asynccontextmanager
async def over(folder: Path, grid: Grid, field: np.ndarray) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over a data directory with one frame, and a forecast that it stays so."""
    domain = Domain("far", 5, leads=LEADS, thresholds_dbz=(20.0,), title="Far away")
    Archive(folder / "archive").add("far", frame_array(field, grid, ISSUED, {"source": "Test radar"}))
    record = ForecastRecord(
        domain="far", issue_time=ISSUED, step_minutes=5, leads=LEADS, model="persistence", model_version="1",
        input_frames=("2026-01-01T12:00:00Z",), degraded_reason="", grid=grid, credit="", zr=(200.0, 1.6),
        methods=(), choice_reason="",
    )  # fmt: skip
    ForecastStore(folder / "forecasts").save(record, Prediction(map(Lead, [field] * LEADS)))
    async with serving(Settings(data_dir=folder, domains={"far": domain})) as client:
        yield client


@pytest.mark.parametrize("name", GRIDS)
async def test_a_point_answers_for_its_cell_in_either_count_and_the_map_is_drawn(tmp_path, name):
    crs, x0, y0, step, nx, ny, place = GRIDS[name]
    grid = Grid.from_crs(crs, nx=nx, ny=ny, x0=x0, y0=y0, dx=step, dy=step)
    if place is None:
        lon, lat = grid.xy_to_lonlat(grid.x[nx - 8], grid.y[30])
        place = (lat, lon, 30, nx - 8)
    lat, lon, row, column = place
    field = np.full(grid.shape, -10.0, np.float32)
    field[row, column] = 39.01
    async with over(tmp_path, grid, field) as client:
        for given in {lon % 360, (lon + 180) % 360 - 180}:
            answer = await client.get("/v1/domains/far/point", params={"lat": lat, "lon": given})
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert (told["cell"]["row"], told["cell"]["column"]) == (row, column)
            assert -180 <= told["longitude"] <= 180 and -180 <= told["cell"]["longitude"] <= 180
            assert told["series"][0]["rain_rate_mm_h"] == pytest.approx(10, abs=0.01)
            assert told["observed"]["state"] == "value"
        detail = (await client.get("/v1/domains/far")).json()["grid"]
        bounds = detail["bounds"]
        assert -180 <= bounds["west"] <= 180 and -180 <= bounds["east"] <= 180
        longitude = np.array(detail["lattice"]["longitude"], float)
        if name != "the pole":
            assert np.abs(np.diff(longitude, axis=1)).max() < 180  # one can interpolate along each row
            assert np.abs(np.diff(longitude, axis=0)).max() < 180
        picture = await client.get("/v1/domains/far/observations/latest/map.png")
        assert Image.open(io.BytesIO(picture.content)).width > 400


async def test_bounds_across_180_are_as_geojson_has_them(tmp_path):
    grid = Grid.from_crs("EPSG:4326", nx=100, ny=60, x0=175.05, y0=-14.05, dx=0.1, dy=0.1)
    async with over(tmp_path, grid, np.full(grid.shape, -10.0, np.float32)) as client:
        bounds = (await client.get("/v1/domains/far")).json()["grid"]["bounds"]
        assert bounds == pytest.approx({"west": 175, "south": -20, "east": -175, "north": -14})
        outside = await client.get("/v1/domains/far/point", params={"lat": -17, "lon": 190})
        assert outside.status_code == 404 and "175.00 to 185.00 E" in outside.json()["detail"]


async def test_a_file_counted_from_0_answers_for_a_point_in_it(tmp_path, shared_data):
    (raw,) = read(shared_data / "faults/us_lon_0_360_point_500.nc")
    frame = normalise(raw, Domain("far", 5))
    async with over(tmp_path, raw.grid, frame.values) as client:
        for row, column in ((0, 0), (20, 25), (39, 49)):
            lat, lon = raw.grid.y[row], raw.grid.x[column]
            for given in (lon, lon - 360):
                answer = await client.get("/v1/domains/far/point", params={"lat": lat, "lon": given})
                assert answer.status_code == 200, answer.text
                told = answer.json()
                assert (told["cell"]["row"], told["cell"]["column"]) == (row, column)
                assert told["longitude"] == pytest.approx(lon - 360)
                expected = raw.values[row, column]
                assert told["observed"]["rain_rate_mm_h"] == pytest.approx(expected, rel=0.01, abs=0.01)
