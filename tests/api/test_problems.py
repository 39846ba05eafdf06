"""Every error is a problem document, and none says more than it should."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
from north import serving, settings_for

from api.problems import STATUS, problem_type
from nowcast import errors
from nowcast.errors import NowcastError

pytestmark = pytest.mark.anyio


def tree(root: type[NowcastError]) -> list[type[NowcastError]]:
    return [root, *(below for child in root.__subclasses__() for below in tree(child))]


def test_every_error_of_the_tree_has_a_status_of_its_own() -> None:
    ours = {error for error in tree(NowcastError) if error.__module__ == errors.__name__}
    assert ours == set(STATUS)
    assert len({problem_type(error) for error in STATUS}) == len(STATUS)


def test_statuses_are_those_of_errors() -> None:
    assert all(400 <= status < 600 and title for status, title in STATUS.values())


@pytest.mark.parametrize("error", sorted(STATUS, key=lambda error: error.__name__))
async def test_each_error_is_answered_by_the_table(
    error: type[NowcastError],
    made_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(settings_for(made_data)) as client:

        def fail(domain: str) -> None:
            raise error("the secret of /srv/data")

        monkeypatch.setattr(client.service.store, "latest", fail)
        answer = await client.get("/v1/domains/north/forecasts/latest")
    told = answer.json()
    if issubclass(error, errors.InputError):  # a stored file, hence no fault of the client's
        error = errors.StorageError
    assert (answer.status_code, told["title"]) == STATUS[error]
    assert (told["type"], told["status"]) == (problem_type(error), answer.status_code)
    assert ("secret" in answer.text) == (answer.status_code < 500)
    assert ("secret" in caplog.text) == (answer.status_code >= 500)


async def test_an_unexpected_error_says_nothing_of_itself(
    made_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings_for(made_data)) as client:
        monkeypatch.setattr(client.service.store, "latest", lambda domain: 1 / 0)
        answer = await client.get("/v1/domains/north/forecasts/latest", headers={"X-Request-ID": "mine-1"})
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert answer.json()["type"] == "about:blank"
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-1"


async def test_an_unknown_path_is_a_problem(client: httpx.AsyncClient) -> None:
    for path in (
        "/nothing",
        "/v1",
        "/v1/domains/",
        "/static/../app.py",
        "/v1/domains/north/forecasts/latest/",
    ):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert answer.json()["title"] == "Not Found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_another_method_is_a_problem_that_names_the_right_ones(
    client: httpx.AsyncClient, method: str
) -> None:
    for path in ("/v1/domains", "/v1/domains/north/forecasts/latest", "/healthz", "/"):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")
        assert answer.headers["allow"] == "GET, HEAD"


async def test_a_problem_is_never_cached(client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/v1/domains/south", "/v1/domains/north/point"):
        assert (await client.get(path)).headers["cache-control"] == "no-store"


async def test_the_request_s_id_is_echoed_if_it_is_sound(client: httpx.AsyncClient) -> None:
    sound = await client.get("/healthz", headers={"X-Request-ID": "abc-123.x_Y"})
    assert sound.headers["x-request-id"] == "abc-123.x_Y"
    for unsound in ("a b", "x" * 65, "<script>", ""):
        made = (await client.get("/healthz", headers={"X-Request-ID": unsound})).headers["x-request-id"]
        assert made != unsound
        assert len(made) == 16
    ids = {(await client.get("/v1/domains")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    problem = await client.get("/v1/domains/south", headers={"X-Request-ID": "abc"})
    assert problem.json()["request_id"] == problem.headers["x-request-id"] == "abc"


async def test_every_wrong_parameter_is_named_with_what_was_expected(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = await client.get("/v1/domains/north/point?lat=100&lon=east")
    assert answer.status_code == 422
    told = answer.json()
    assert told["type"] == "urn:nowcast:problem:invalid-parameter"
    assert told["detail"] == "lat: expected 90 or less, got '100'; lon: expected a number, got 'east'"
    assert [p["parameter"] for p in told["parameters"]] == ["lat", "lon"]
    assert told["parameters"][0]["detail"] == "expected 90 or less, got '100'"


NORTH = "/v1/domains/north"


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/point?lat=60", "lon: expected a value, got none"),
        ("/point?lat=60&lon=-181", "lon: expected -180 or more, got '-181'"),
        ("/point?lat=nan&lon=25", "lat: expected a finite number, got 'nan'"),
        ("/forecasts?limit=501", "limit: expected 500 or less, got '501'"),
        ("/forecasts?limit=many", "limit: expected a whole number, got 'many'"),
        ("/forecasts/latest/map.png?theme=drak", "theme: expected 'light' or 'dark', got 'drak'"),
        (
            "/forecasts/latest?model=a/b",
            "model: expected a method's name of at most 64 letters, digits, '.', '_', '+' and '-', got 'a/b'",
        ),
        (
            "/forecasts?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
            "expected `from` before `to`, by 31 days at most, "
            "got from 2026-01-02T00:00:00Z to 2026-01-01T00:00:00Z",
        ),
        (
            "/forecasts/latest?model=b",
            "domain 'north' has no forecast of 2026-01-01T12:00:00Z by 'b'; there are extrapolation",
        ),
        (
            "/forecasts/2026-01-01T09:00:00Z",
            "domain 'north' has no forecast of 2026-01-01T09:00:00Z; "
            "/v1/domains/north/forecasts lists those there are",
        ),
        (
            "/observations/2026-01-01T09:00:00Z",
            "domain 'north' has no frame of 2026-01-01T09:00:00Z; "
            "/v1/domains/north/observations lists those there are",
        ),
        ("/verification?" + "lead=5&" * 73, "lead: expected 72 values at most, got 73"),
        ("/verification?lead=7", "expected a lead among 5, 10, 15, 20 min, got 7"),
        ("/verification?threshold=high", "threshold: expected a number, got 'high'"),
    ],
)
async def test_a_refusal_says_what_was_expected_and_what_came(
    client: httpx.AsyncClient, path: str, detail: str
) -> None:
    answer = await client.get(NORTH + path)
    assert (400 <= answer.status_code < 500, answer.json()["detail"]) == (True, detail)


async def test_a_refused_range_or_method_is_told_what_there_is(client: httpx.AsyncClient) -> None:
    data = f"{NORTH}/forecasts/latest/data"
    size = len((await client.get(data)).content)
    for asked, status, expected in (
        ("bytes=99999999-", 416, f"expected a Range within the {size} bytes there are"),
        ("lines=1", 400, "expected a Range such as bytes=0-1023"),
    ):
        answer = await client.get(data, headers={"Range": asked})
        assert (answer.status_code, answer.json()["detail"]) == (status, f"{expected}, got {asked!r}")
    assert (await client.post(data)).json()["detail"] == "expected GET or HEAD, got POST"


async def test_long_values_are_cut_in_what_is_told(client: httpx.AsyncClient) -> None:
    for name in ("lat", "lon", "model", "x" * 5000):
        answer = await client.get(f"{NORTH}/point?lat=60&lon=25&{name}={'9' * 5000}")
        assert answer.status_code == 422
        assert len(answer.json()["detail"]) < 300
