"""What happens to every request around the routes: its id, and whole answers kept ready in memory.

Pure ASGI: a kept answer costs a dictionary look-up and two messages, less than routing the request would.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from prometheus_client import Counter
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.asked import accepts
from api.cache import Lru
from api.problems import MEDIA_TYPE, problem_response, range_refusal

Headers = list[tuple[bytes, bytes]]

#: Longest time [s] an answer about the present is repeated, and how much longer while a newer one is made.
#: Together with a glance at the files (``api.service.GLANCE``) they stay below half a second.
LIVE_SECONDS, GRACE_SECONDS = 0.3, 0.1

#: Larger answers [bytes] are not kept whole; they come from files, which the system caches.
LARGEST_KEPT = 2 * 2**20

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_MAX_AGE = re.compile(rb"max-age=(\d+)")


class RequestId:
    """Gives each request an id, the client's ``X-Request-ID`` if it is sound, and echoes it in the answer.

    Also the last line of defence for the promise that every error is a problem document: an error answered in
    another form, by a library, is told again as one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                request_id = value
        request_id = request_id or secrets.token_hex(8).encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        header = (b"x-request-id", request_id)
        replaced = False

        async def send_with_id(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                if message["status"] >= 400 and not _is_problem(message["headers"]):
                    replaced = True
                    request, size = Request(scope), dict(message["headers"]).get(b"content-range", b"")
                    refused = "range" in request.headers and message["status"] in (400, 416)
                    detail = range_refusal(request, size.decode().partition("*/")[2]) if refused else ""
                    response = problem_response(request, message["status"], detail=detail)
                    kept = [h for h in message["headers"] if h[0] in (b"content-range", b"allow")]
                    response.raw_headers += [*kept, header]
                    await response(scope, receive, send)
                    return
                message["headers"] = [*message["headers"], header]
            if not replaced:
                await send(message)

        await self.app(scope, receive, send_with_id)


def _is_problem(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(n.lower() == b"content-type" and v.startswith(MEDIA_TYPE.encode()) for n, v in headers)


@dataclass(slots=True)
class _Kept:
    """An answer ready to be sent again, and the route that made it."""

    headers: Headers
    body: bytes
    etag: bytes
    media_type: str
    route: Any
    expires: float

    async def send(self, send: Send, *, head: bool, if_none_match: bytes) -> None:
        if if_none_match and _matches(self.etag, if_none_match):
            await _send_not_modified(send, self.headers)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"" if head else self.body})


class AnswerCache:
    """Keeps whole answers and repeats them as long as their own ``Cache-Control`` allows.

    An answer is kept if it is a 200 with an ``ETag`` and a ``Cache-Control: public``: until memory runs out
    if it is ``immutable``, else for its ``max-age`` and at most :data:`LIVE_SECONDS`, so that nothing here
    ever has to be invalidated. It is found again by path and query, by those who accept its media type;
    requests that ask at once for an answer that is not there wait for the first of them, or get one that has
    only just expired. Here too, for every answer, ``If-None-Match`` becomes a 304 and ``HEAD`` a ``GET``
    without a body. ``scope["route"]`` is the route of the answer afterwards, kept or made.
    """

    def __init__(self, app: ASGIApp, *, capacity_bytes: int, requests: Counter) -> None:
        self.app = app
        self._kept: Lru[_Kept] = Lru(capacity_bytes)
        self._making: dict[tuple[str, bytes], asyncio.Event] = {}
        self._repeated = requests.labels("answer")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        if_none_match, accept, special = b"", b"", False
        for name, value in scope["headers"]:
            if name == b"if-none-match":
                if_none_match += b"," + value
            elif name == b"range":
                special = True
            elif name == b"accept":
                accept += b"," + value
        key, kept = (scope["path"], scope["query_string"]), None
        keepable = not special and scope["path"].startswith(scope.get("root_path", "") + "/v1/")
        if keepable:
            making = self._making.get(key)
            kept = self._find(key, GRACE_SECONDS if making else 0.0)
            if kept is None and making is not None:
                await making.wait()
                kept = self._find(key)
        if kept is not None and (not accept or accepts(accept, kept.media_type)):
            self._repeated.inc()
            scope["route"] = kept.route
            await kept.send(send, head=head, if_none_match=if_none_match)
            return
        answer = _Answer(scope, send, head=head, if_none_match=if_none_match)
        try:
            if keepable and kept is None:
                await self._make(key, receive, answer)
            else:
                await self.app(answer.scope, receive, answer.send)
        finally:
            scope["route"] = answer.scope.get("route")

    def _find(self, key: tuple[str, bytes], grace: float = 0.0) -> _Kept | None:
        kept = self._kept.get(key)
        return kept if kept is not None and monotonic() < kept.expires + grace else None

    async def _make(self, key: tuple[str, bytes], receive: Receive, answer: _Answer) -> None:
        done = asyncio.Event()
        self._making.setdefault(key, done)

        def keep(kept: _Kept | None) -> None:
            """Hand the answer, or word that there will be none, to those who wait."""
            if kept is not None:
                self._kept.put(key, kept, len(kept.body) + len(key[0]) + len(key[1]))
            if self._making.get(key) is done:
                del self._making[key]
            done.set()

        answer.keep = keep
        try:
            await self.app(answer.scope, receive, answer.send)
        finally:
            keep(None)


class _Answer:
    """One answer on its way out: made conditional, stripped for ``HEAD``, gathered if it may be kept.

    Attributes:
        scope: The request as the application sees it, always a ``GET``; it notes the route there.
    """

    def __init__(self, scope: Scope, send: Send, *, head: bool, if_none_match: bytes) -> None:
        self.scope = {**scope, "method": "GET"}
        self._send = send
        self._head = head
        self._if_none_match = if_none_match
        self.keep: Callable[[_Kept | None], None] = _keep_nothing
        self._kept: _Kept | None = None
        self._parts: list[bytes] = []
        self._silent = False

    async def send(self, message: Message) -> None:
        """Pass a message on, or what becomes of it."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        headers: Headers = list(message["headers"])
        found = {name.lower(): value for name, value in headers}
        etag = found.get(b"etag", b"")
        seconds = _seconds_to_keep(found.get(b"cache-control", b""))
        small = int(found.get(b"content-length", LARGEST_KEPT + 1)) <= LARGEST_KEPT
        if message["status"] == 200 and etag and seconds > 0 and small:
            media_type = found.get(b"content-type", b"").split(b";")[0].decode("latin-1")
            route = self.scope.get("route")
            self._kept = _Kept(headers, b"", etag, media_type, route, monotonic() + seconds)
        else:
            self.keep(None)
        if self._if_none_match and etag and message["status"] in (200, 206):
            self._silent = _matches(etag, self._if_none_match)
        if self._silent:
            await _send_not_modified(self._send, headers)
        else:
            await self._send(message)

    async def _body(self, message: Message) -> None:
        more = message.get("more_body", False)
        if self._kept is not None:
            self._parts.append(message.get("body", b""))
            if not more:
                self._kept.body = b"".join(self._parts)
                self.keep(self._kept)
        if self._silent:
            return
        if self._head:
            message = {"type": "http.response.body", "body": b"", "more_body": more}
        await self._send(message)


def _keep_nothing(kept: _Kept | None) -> None:
    """Outside the kept part of the service nobody waits for the answer."""


async def _send_not_modified(send: Send, headers: Headers) -> None:
    # RFC 9110, 15.4.5: the headers a 200 would have had that tell a cache how to go on, and no body.
    told = [h for h in headers if h[0] in (b"etag", b"cache-control", b"last-modified", b"vary")]
    await send({"type": "http.response.start", "status": 304, "headers": told})
    await send({"type": "http.response.body", "body": b""})


def _seconds_to_keep(cache_control: bytes) -> float:
    if b"public" not in cache_control:
        return 0.0
    if b"immutable" in cache_control:
        return float("inf")
    max_age = _MAX_AGE.search(cache_control)
    return min(float(max_age[1]), LIVE_SECONDS) if max_age else 0.0


def _matches(etag: bytes, if_none_match: bytes) -> bool:
    """Return whether ``If-None-Match`` names the tag: the weak comparison of RFC 9110, 8.8.3.2."""
    wanted = etag.removeprefix(b"W/")
    named = {tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")}
    return wanted in named or b"*" in named
