"""Answers with the validators and lifetimes that let everybody between us and the reader keep them."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from starlette.responses import Response

from api.schemas import Document

#: What never changes: data of a named issue time, a frame of a named time.
IMMUTABLE = "public, max-age=31536000, immutable"

#: The present: keep it for a moment, then ask again (which costs a 304 while nothing is new).
LIVE = "public, max-age=1"

#: Answers about this process at this instant.
NEVER = "no-store"

#: After this long no score of the time up to a forecast is still on its way.
SETTLED = timedelta(minutes=30)


def lifetime(time: datetime, now: datetime) -> str:
    """Return the ``Cache-Control`` of what is known at a time, which is final once that is well past."""
    return IMMUTABLE if now - time > SETTLED else LIVE


def content_tag(content: bytes) -> str:
    """Return a strong ``ETag``: equal bytes, equal tag."""
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def document(
    answer: Document, cache_control: str = LIVE, *, apart_from: set[str] | dict[str, set[str]] | None = None
) -> Response:
    """Return a document as JSON.

    Args:
        answer: What to say.
        cache_control: For how long it holds.
        apart_from: Fields that change with the clock alone. Two answers that differ only there are the same
            to a reader, so the tag leaves them out and says so by being weak (RFC 9110, 8.8.1).
    """
    body = answer.model_dump_json(by_alias=True).encode()
    if apart_from is None:
        tag = content_tag(body)
    else:
        tag = "W/" + content_tag(answer.model_dump_json(by_alias=True, exclude=apart_from).encode())
    return Response(
        body, media_type="application/json", headers={"ETag": tag, "Cache-Control": cache_control}
    )


def image(png: bytes, cache_control: str) -> Response:
    """Return a picture."""
    headers = {"ETag": content_tag(png), "Cache-Control": cache_control}
    return Response(png, media_type="image/png", headers=headers)


def binary(content: bytes, cache_control: str, *, media_type: str, filename: str) -> Response:
    """Return a file to save."""
    headers = {
        "ETag": content_tag(content),
        "Cache-Control": cache_control,
        "Content-Disposition": f'attachment; filename="{filename}"',
    }
    return Response(content, media_type=media_type, headers=headers)
