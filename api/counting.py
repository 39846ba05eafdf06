"""How requests end and how long they take, around everything else so that no answer escapes it."""

from __future__ import annotations

from time import perf_counter

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What below ``/v1/domains/{domain}`` a time is told of by its own name, and what of one of these.
_RESOURCES = ("observations", "forecasts", "point", "verification")
_PRODUCTS = ("data", "map.png")


class CountRequests:
    """Counts HTTP requests by the status they were answered with; one that broke off counts as a 500.

    How long each took, its body included, goes by resource and never by path, of which there is no end.
    """

    def __init__(self, app: ASGIApp, *, requests: Counter, seconds: Histogram) -> None:
        self.app = app
        self._requests, self._seconds = requests, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = "", perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                self._requests.labels(status).inc()
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            if not status:
                self._requests.labels("500").inc()
            self._seconds.labels(resource_of(scope["path"])).observe(perf_counter() - started)


def resource_of(path: str) -> str:
    """Return what a path asks for, of few words: ``"forecasts/data"``, ``"domains"``, or ``"other"``.

    Example:
        >>> resource_of("/v1/domains/fin/forecasts/latest/data"), resource_of("/favicon.ico")
        ('forecasts/data', 'other')
    """
    parts = path.strip("/").split("/")
    if parts[:2] != ["v1", "domains"]:
        return "other"
    if len(parts) < 4:
        return "domains"
    if parts[3] not in _RESOURCES:
        return "other"
    return f"{parts[3]}/{parts[5]}" if len(parts) == 6 and parts[5] in _PRODUCTS else parts[3]
