"""The web pages: static files of this package, without a build step or anything from elsewhere."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from api.responses import content_tag

router = APIRouter(include_in_schema=False)

#: Files by path, with their media types.
PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/static/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "/static/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/static/style.css": ("style.css", "text/css; charset=utf-8"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
}

#: Pages load from here alone, and nobody may frame them.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


@lru_cache
def _content(name: str) -> bytes:
    return (files("api") / "static" / name).read_bytes()


def _serve(name: str, media_type: str) -> Response:
    content = _content(name)
    headers = {
        "ETag": content_tag(content),
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
    return Response(content, media_type=media_type, headers=headers)


def _add(path: str, name: str, media_type: str) -> None:
    async def page() -> Response:
        return _serve(name, media_type)

    content: dict[str, dict[str, str]] = {media_type.split(";")[0]: {}}
    router.add_api_route(path, page, methods=["GET"], name=name, responses={200: {"content": content}})


for _path, (_name, _media_type) in PAGES.items():
    _add(_path, _name, _media_type)
