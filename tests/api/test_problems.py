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
    assert told["detail"] == "The request cannot be understood because of lat, lon."
    assert [p["parameter"] for p in told["parameters"]] == ["lat", "lon"]
    assert "less than or equal to 90" in told["parameters"][0]["detail"]
