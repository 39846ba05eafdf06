"""How requests end and how long they take, around everything else so that no answer escapes it."""

from __future__ import annotations

from time import perf_counter

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Methods a time is told by; whatever else a client invents is ``other``.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


class CountRequests:
    """Counts and times HTTP requests by how they ended; one that broke off unanswered counts as a 500.

    How long each took, its body included, goes by the template of its route, ``none`` without one, and never
    by path, of which there is no end.
    """

    def __init__(self, app: ASGIApp, *, requests: Counter, seconds: Histogram) -> None:
        self.app = app
        self._requests, self._seconds = requests, seconds
        self._by_end: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = scope.get("route")
            end = scope["method"], "none" if route is None else route.path, status
            count, seconds = self._by_end.get(end) or self._labelled(*end)
            count.inc()
            seconds.observe(perf_counter() - started)

    def _labelled(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        """Return the counter and the histogram of an end; kept, as finding them costs more than counting."""
        method = method if method in _METHODS else "other"
        labels = method, route, str(status)
        metrics = self._requests.labels(labels[-1]), self._seconds.labels(*labels)
        if method != "other":
            self._by_end[method, route, status] = metrics
        return metrics
