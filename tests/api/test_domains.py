"""Domains over HTTP, and placing a click on their map."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from north import GRID, RAINY, serving, settings_for
from PIL import Image

from api.routers.domains import describe_grid
from nowcast.frame.grid import Grid

pytestmark = pytest.mark.anyio


async def test_all_domains_are_listed_with_what_is_newest(client: httpx.AsyncClient) -> None:
    north, bare = (await client.get("/v1/domains")).json()["domains"]
    assert (north["name"], north["title"], north["credit"]) == ("north", "The North", "Somebody's radars")
    assert north["newest_frame"] == north["newest_forecast"] == "2026-01-01T12:00:00Z"
    assert (bare["newest_frame"], bare["newest_forecast"], bare["title"]) == (None, None, "bare")
    assert (await client.get(north["href"])).json()["name"] == "north"


async def test_a_domain_describes_its_grid(client: httpx.AsyncClient) -> None:
    domain = (await client.get("/v1/domains/north")).json()
    assert domain["thresholds_dbz"] == [20.0, 30.0]
    grid = domain["grid"]
    assert (grid["rows"], grid["columns"], grid["cell_width_km"]) == (48, 60, 1.0)
    assert grid["bounds"]["south"] < 60 < grid["bounds"]["north"]


async def test_before_the_first_frame_a_domain_has_no_grid(bare_client: httpx.AsyncClient) -> None:
    domain = (await bare_client.get("/v1/domains/north")).json()
    assert (domain["grid"], domain["newest_frame"]) == (None, None)


async def test_an_unknown_domain_is_told_those_there_are(client: httpx.AsyncClient) -> None:
    for path in (
        "",
        "/forecasts",
        "/forecasts/latest",
        "/observations/latest",
        "/point?lat=1&lon=1",
        "/verification",
    ):
        answer = await client.get(f"/v1/domains/south{path}")
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:nowcast:problem:unknown-domain"
        assert "bare, north" in answer.json()["detail"]


async def test_a_domain_s_name_leads_nowhere_else(made_data: Path) -> None:
    async with serving(settings_for(made_data)) as client:
        for name in ("..", "%2e%2e", "..%2fnorth", "north%00", "NORTH"):
            assert (await client.get(f"/v1/domains/{name}/forecasts/latest")).status_code == 404


def test_between_the_lattice_s_points_a_place_is_found_to_a_fifth_of_a_cell() -> None:
    finland = Grid.from_crs(
        "+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +R=6371288",
        nx=760, ny=1226, x0=-380_000, y0=-2_000_000, dx=1000, dy=1000,
    )  # fmt: skip
    lattice = describe_grid(finland).lattice
    assert (lattice.rows, lattice.columns) == (17, 17)
    x_min, _, _, y_max = finland.outer_bounds
    for down, across in ((0.1, 0.33), (0.5, 0.5), (0.97, 0.61)):
        i, v = divmod(down * 16, 1)
        j, u = divmod(across * 16, 1)
        weights = np.outer([1 - v, v], [1 - u, u])
        lat, lon = (
            float((np.array(table)[int(i) : int(i) + 2, int(j) : int(j) + 2] * weights).sum())
            for table in (lattice.latitude, lattice.longitude)
        )
        x, y = finland.lonlat_to_xy(lon, lat)
        assert abs(x - (x_min + across * 760_000)) < 200
        assert abs(y - (y_max - down * 1_226_000)) < 200


async def test_the_map_box_says_where_a_cell_is_drawn(client: httpx.AsyncClient) -> None:
    box = (await client.get("/v1/domains/north")).json()["grid"]["map_box"]
    png = (await client.get("/v1/domains/north/forecasts/latest/map.png?lead=10")).content
    dry = (await client.get("/v1/domains/north/forecasts/latest/map.png?lead=5")).content
    rain, none = (np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), int) for picture in (png, dry))
    top, left = (box["top"] * rain.shape[0], box["left"] * rain.shape[1])
    rows, columns = np.nonzero(np.abs(rain - none).sum(axis=2)[int(top) :, :])
    inside = rows < box["height"] * rain.shape[0]
    centre_row = rows[inside].mean() / (box["height"] * rain.shape[0]) * GRID.ny
    centre_column = (columns[inside].mean() - left) / (box["width"] * rain.shape[1]) * GRID.nx
    assert (centre_row, centre_column) == pytest.approx((RAINY[0] + 0.5, RAINY[1] + 0.5), abs=0.2)
