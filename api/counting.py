"""How requests end: a count by status, around everything else so that no answer escapes it."""

from __future__ import annotations

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CountRequests:
    """Counts HTTP requests by the status they were answered with; one that broke off counts as a 500."""

    def __init__(self, app: ASGIApp, *, requests: Counter) -> None:
        self.app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = ""

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
