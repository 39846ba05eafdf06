"""A question in words the service does not know is not answered as if it had been another."""

from __future__ import annotations

import pytest
from north import Client

pytestmark = pytest.mark.anyio

PROBLEM = "application/problem+json"
ENDPOINTS = [
    "/v1/domains",
    "/v1/domains/north",
    "/v1/domains/north/observations",
    "/v1/domains/north/observations/latest",
    "/v1/domains/north/observations/latest/map.png",
    "/v1/domains/north/forecasts",
    "/v1/domains/north/forecasts/latest",
    "/v1/domains/north/forecasts/latest/data",
    "/v1/domains/north/forecasts/latest/map.png",
    "/v1/domains/north/point?lat=60&lon=25",
    "/v1/domains/north/verification",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
]


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_an_unknown_parameter_is_named_beside_the_known_ones(client: Client, path: str) -> None:
    good = await client.get(path)
    assert good.status_code == 200, good.text
    for _ in range(2):  # and never kept as if it were good
        bad = await client.get(f"{path}{'&' if '?' in path else '?'}thresold=20")
        assert (bad.status_code, bad.headers["content-type"]) == (422, PROBLEM)
        (parameter,) = bad.json()["parameters"]
        assert parameter["parameter"] == "thresold"
        assert parameter["detail"].startswith("unknown parameter; ")
    if "verification" in path:
        assert "threshold" in parameter["detail"]


async def test_pages_take_any_parameter(client: Client) -> None:
    for path in ("/?utm_source=mail", "/docs?q=rain"):
        assert (await client.get(path)).status_code == 200


async def test_of_two_values_none_is_dropped(client: Client) -> None:
    for path, name in (
        ("/point?lat=60&lon=25&lat=61", "lat"),
        ("/forecasts/latest/data?lead=5&lead=10", "lead"),
    ):
        answer = await client.get("/v1/domains/north" + path)
        assert answer.status_code == 422, path
        assert answer.json()["parameters"] == [{"parameter": name, "detail": "expected once, got 2 times"}]
    several = "/v1/domains/north/verification?lead=5&lead=10&threshold=20&threshold=30&model=auto&model=sprog"
    assert (await client.get(several)).status_code == 200


async def test_a_misspelt_model_or_threshold_is_refused_with_the_known_ones(client: Client) -> None:
    path = "/v1/domains/north/verification"
    model = await client.get(f"{path}?model=extrapolaton")
    assert model.status_code == 400
    assert "expected a model among auto, persistence, extrapolation, sprog" in model.json()["detail"]
    assert "got 'extrapolaton'" in model.json()["detail"]
    threshold = await client.get(f"{path}?threshold=21")
    assert threshold.status_code == 400
    assert threshold.json()["detail"].startswith("expected a threshold among 20, ")
    assert (await client.get(f"{path}?model=scs&threshold=20")).status_code == 200


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/v1/domains", "application/json", 200),
        ("/v1/domains", "*/*", 200),
        ("/v1/domains", "application/*;q=0.2", 200),
        ("/v1/domains", "text/html, application/xhtml+xml, */*;q=0.8", 200),
        ("/v1/domains", "text/html", 406),
        ("/v1/domains", "application/json;q=0", 406),
        ("/v1/domains", "application/json;q=0, */*", 406),
        ("/v1/domains/north/forecasts/latest/map.png", "image/png", 200),
        ("/v1/domains/north/forecasts/latest/map.png", "image/*", 200),
        ("/v1/domains/north/forecasts/latest/map.png", "image/webp", 406),
        ("/v1/domains/north/forecasts/latest/data", "application/netcdf", 200),
        ("/v1/domains/north/forecasts/latest/data", "application/json", 406),
        ("/v1/domains/north/forecasts/latest/data?lead=5", "application/json, */*;q=0", 406),
        ("/v1/domains/north/point?lat=60&lon=25", "application/problem+json", 406),
        ("/v1/domains", "application/problem+json, application/json", 200),
        ("/v1/domains", "APPLICATION/JSON; charset=utf-8; Q=0.5", 200),
        ("/v1/domains", "application/json ; q = 0", 406),
        ("/v1/domains", "", 200),
        ("/healthz", "application/json", 200),
        ("/healthz", "image/png", 406),
        ("/openapi.json", "application/json", 200),
        ("/openapi.json", "text/html", 406),
        ("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", 200),
        ("/metrics", "application/openmetrics-text", 406),
        ("/", "text/html,application/xhtml+xml", 200),
        ("/", "application/json", 406),
        ("/static/style.css", "text/css,*/*;q=0.1", 200),
    ],
)
async def test_accept_is_honoured_also_by_kept_answers(
    client: Client, path: str, accept: str, status: int
) -> None:
    assert (await client.get(path)).status_code == 200  # kept from now on
    answer = await client.get(path, headers={"Accept": accept})
    assert answer.status_code == status
    if status == 406:
        assert answer.headers["content-type"] == PROBLEM
        offered = (await client.get(path)).headers["content-type"].split(";")[0]
        assert f"expected an Accept that allows {offered}," in answer.json()["detail"]


async def test_several_lines_of_accept_are_one(client: Client) -> None:
    lines = [("Accept", "application/json;q=0"), ("Accept", "*/*")]
    for _ in range(2):  # asked first, and of what is kept
        assert (await client.get("/v1/domains", headers=lines)).status_code == 406
        assert (await client.get("/v1/domains")).status_code == 200


async def test_an_error_is_a_problem_whatever_is_accepted(client: Client) -> None:
    answer = await client.get("/v1/domains/nowhere", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
