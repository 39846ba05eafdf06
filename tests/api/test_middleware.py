"""Whole answers kept ready: which, and for how long; what HEAD and If-None-Match make of any answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from patience import PATIENCE_SECONDS, settled
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from api import middleware
from api.middleware import AnswerCache, RequestId

pytestmark = pytest.mark.anyio

LIVE = {"ETag": '"a"', "Cache-Control": "public, max-age=60"}
IMMUTABLE = {"ETag": '"a"', "Cache-Control": "public, max-age=60, immutable"}


class App:
    """An application that counts how often it is asked."""

    def __init__(self, respond: Callable[[Request], Awaitable[Response] | Response]) -> None:
        self.respond, self.asked = respond, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        response = self.respond(Request(scope))
        if isinstance(response, Awaitable):
            response = await response
        await response(scope, receive, send)


def client_of(app: ASGIApp, capacity_bytes: int = 1_000_000) -> httpx.AsyncClient:
    registry = CollectorRegistry()
    counter = Counter("nowcast_cache_requests", "-", ["outcome"], registry=registry)
    around = AnswerCache(app, capacity_bytes=capacity_bytes, requests=counter)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(RequestId(around)), base_url="http://test")
    client.repeated = lambda: registry.get_sample_value(  # type: ignore[attr-defined]
        "nowcast_cache_requests_total", {"outcome": "answer"}
    )
    return client


async def test_an_immutable_answer_is_made_once() -> None:
    app = App(lambda request: Response(b"body", headers=IMMUTABLE))
    async with client_of(app) as client:
        answers = [await client.get("/v1/x?a=1") for _ in range(3)]
        assert {answer.content for answer in answers} == {b"body"}
        assert len({answer.headers["x-request-id"] for answer in answers}) == 3
        assert (app.asked, client.repeated()) == (1, 2)


async def test_a_live_answer_is_made_again_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(lambda request: Response(str(app.asked), headers=LIVE))
    clock = 1000.0
    monkeypatch.setattr(middleware, "monotonic", lambda: clock)
    async with client_of(app) as client:
        for elapsed, expected in ((0, "1"), (0.29, "1"), (0.31, "2")):
            clock = 1000.0 + elapsed
            assert (await client.get("/v1/x")).text == expected


async def test_while_an_answer_is_made_again_the_others_get_the_one_just_expired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = asyncio.Event()

    async def slowly(request: Request) -> Response:
        made = app.asked
        if made > 1:
            await release.wait()
        return Response(str(made), headers=LIVE)

    app = App(slowly)
    clock = 1000.0
    monkeypatch.setattr(middleware, "monotonic", lambda: clock)
    async with client_of(app) as client:
        await client.get("/v1/x")
        clock = 1000.35
        first = asyncio.create_task(client.get("/v1/x"))
        await settled()
        assert (await client.get("/v1/x")).text == "1"
        clock = 1000.41
        late = asyncio.create_task(client.get("/v1/x"))
        await settled()
        assert not late.done()
        release.set()
        assert ((await first).text, (await late).text, app.asked) == ("2", "2", 2)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"ETag": '"a"'}, 200),
        ({"Cache-Control": "public, max-age=60"}, 200),
        ({"ETag": '"a"', "Cache-Control": "no-store"}, 200),
        ({"ETag": '"a"', "Cache-Control": "private, max-age=60"}, 200),
        ({"ETag": '"a"', "Cache-Control": "public, max-age=0"}, 200),
        (IMMUTABLE, 203),
    ],
)
async def test_an_answer_that_does_not_ask_for_it_is_not_kept(headers: dict[str, str], status: int) -> None:
    app = App(lambda request: Response(b"body", status, headers=headers))
    async with client_of(app) as client:
        await client.get("/v1/x")
        await client.get("/v1/x")
        assert app.asked == 2


async def test_answers_are_kept_by_path_and_query() -> None:
    app = App(lambda request: Response(str(request.url), headers=IMMUTABLE))
    async with client_of(app) as client:
        for where in ("/v1/x", "/v1/x?a=1", "/v1/x?a=2", "/v1/y"):
            for _ in range(2):
                assert (await client.get(where)).text == "http://test" + where
        assert app.asked == 4


async def test_outside_the_api_nothing_is_kept() -> None:
    app = App(lambda request: Response(b"page", headers=IMMUTABLE))
    async with client_of(app) as client:
        await client.get("/metrics")
        await client.get("/metrics")
        assert app.asked == 2


async def test_only_get_and_head_are_kept() -> None:
    app = App(lambda request: Response(request.method, headers=IMMUTABLE))
    async with client_of(app) as client:
        assert (await client.get("/v1/x")).text == "GET"
        assert (await client.post("/v1/x")).text == "POST"
        assert (await client.post("/v1/x")).text == "POST"
        assert app.asked == 3


async def test_head_is_a_get_without_its_body_kept_or_not() -> None:
    for headers in (IMMUTABLE, {}):
        app = App(lambda request, headers=headers: Response(request.method + "!", headers=headers))
        async with client_of(app) as client:
            for _ in range(2):
                head = await client.head("/v1/x")
                assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "4")
            assert (await client.get("/v1/x")).text == "GET!"


@pytest.mark.parametrize("path", ["/v1/x", "/page"])
@pytest.mark.parametrize(
    ("tag", "asked", "status"),
    [
        ('"a"', '"a"', 304),
        ('W/"a"', '"a"', 304),
        ('"a"', 'W/"a"', 304),
        ('"a"', '"b", "a"', 304),
        ('"a"', "*", 304),
        ('"a"', '"b"', 200),
        ('"a"', '"ab"', 200),
        ('"a"', "a", 200),
    ],
)
async def test_if_none_match_is_compared_weakly(path: str, tag: str, asked: str, status: int) -> None:
    app = App(lambda request: Response(b"body", headers={**IMMUTABLE, "ETag": tag}))
    async with client_of(app) as client:
        for _ in range(2):  # made, then kept
            answer = await client.get(path, headers={"If-None-Match": asked})
            assert answer.status_code == status
            assert answer.content == (b"" if status == 304 else b"body")
            assert answer.headers["etag"] == tag
        assert (await client.get(path)).content == b"body"


async def test_a_304_is_for_success_only() -> None:
    app = App(lambda request: Response(b"no", 404, headers={"ETag": '"a"'}))
    async with client_of(app) as client:
        assert (await client.get("/v1/x", headers={"If-None-Match": '"a"'})).status_code == 404


async def test_those_who_ask_at_once_wait_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "monotonic", lambda: 1000.0)

    async def slowly(request: Request) -> Response:
        await settled()
        return Response(b"body", headers=LIVE)

    app = App(slowly)
    async with client_of(app) as client:
        answers = await asyncio.gather(*(client.get("/v1/x") for _ in range(20)))
        assert {answer.content for answer in answers} == {b"body"}
        assert (app.asked, client.repeated()) == (1, 19)


async def test_those_who_wait_in_vain_ask_for_themselves() -> None:
    async def fail(request: Request) -> Response:
        await settled()
        return Response(b"no", 404)

    app = App(fail)
    async with client_of(app) as client:
        answers = await asyncio.gather(*(client.get("/v1/x") for _ in range(5)))
        assert {answer.status_code for answer in answers} == {404}
        assert app.asked == 5


async def test_nobody_waits_for_the_end_of_a_long_download() -> None:
    release = asyncio.Event()

    async def body():
        yield b"begin"
        if app.asked == 1:
            await release.wait()
        yield b"end"

    app = App(lambda request: StreamingResponse(body(), headers=IMMUTABLE))
    async with client_of(app) as client:
        first = asyncio.create_task(client.get("/v1/x"))
        await settled()
        second = await asyncio.wait_for(client.get("/v1/x"), PATIENCE_SECONDS)
        assert second.content == b"beginend"
        release.set()
        assert (await first).content == b"beginend"


async def test_a_crash_leaves_nobody_waiting() -> None:
    async def crash(request: Request) -> Response:
        await settled()
        raise ZeroDivisionError

    app = App(crash)
    async with client_of(app) as client:
        results = await asyncio.gather(*(client.get("/v1/x") for _ in range(3)), return_exceptions=True)
        assert {type(result) for result in results} == {ZeroDivisionError}
        app.respond = lambda request: Response(b"well", headers=IMMUTABLE)
        assert (await client.get("/v1/x")).content == b"well"


async def test_memory_is_bounded_whatever_is_asked() -> None:
    app = App(lambda request: Response(b"x" * 5_000, headers=IMMUTABLE))
    async with client_of(app, capacity_bytes=100_000) as client:
        for n in range(100):
            await client.get(f"/v1/x?{n}")
        assert client._transport.app.app._kept.bytes <= 100_000  # type: ignore[attr-defined]
        asked = app.asked
        await client.get("/v1/x?99")
        assert app.asked == asked
        await client.get("/v1/x?0")
        assert app.asked == asked + 1


async def test_a_range_goes_to_the_file() -> None:
    app = App(lambda request: Response(request.headers.get("range", "all"), headers=IMMUTABLE))
    async with client_of(app) as client:
        assert (await client.get("/v1/x")).text == "all"
        assert (await client.get("/v1/x", headers={"Range": "bytes=0-1"})).text == "bytes=0-1"


async def test_what_is_kept_goes_to_those_who_accept_it() -> None:
    app = App(lambda request: Response(b"{}", headers=IMMUTABLE, media_type="application/json"))
    async with client_of(app) as client:
        for accept in ("application/json", "application/*", "text/html, */*;q=0.1", "*/*"):
            await client.get("/v1/x", headers={"Accept": accept})
        assert (app.asked, client.repeated()) == (1, 3)
        for accept in ("text/html", "application/json;q=0, */*"):
            await client.get("/v1/x", headers={"Accept": accept})
        assert (app.asked, client.repeated()) == (3, 3)
        await client.get("/v1/x")
        assert (app.asked, client.repeated()) == (3, 4)


async def test_an_error_in_another_form_is_told_again_as_a_problem() -> None:
    app = App(lambda request: Response("plain words", 418, headers={"Allow": "GET"}))
    async with client_of(app) as client:
        answer = await client.get("/v1/x")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.json()["status"], answer.headers["allow"]) == (418, "GET")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
