"""Whether a question is asked in words the service knows: its query's names, and the answers it accepts.

These dependencies are coroutines, though they wait for nothing: a plain function would be sent to a thread,
the way to which takes longer than they do.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any, get_args, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from nowcast.errors import NotAcceptable

#: Longest name or value [characters] repeated in an answer, and most of them told at once.
_LONGEST, _MOST = 64, 16


async def only_known_parameters(request: Request) -> None:
    """Refuse a query whose parameters the endpoint does not have, or has once only and got again.

    A misspelt parameter is not passed over, and of two values none is dropped.

    Raises:
        RequestValidationError: Naming each such parameter, and the known ones.
    """
    lists = _known(request.scope["route"])
    wrong = {
        name: "unknown parameter; " + (f"known are {', '.join(lists)}" if lists else "there is none here")
        for name in request.query_params
        if name not in lists
    }
    times = Counter(name for name, _ in request.query_params.multi_items())
    wrong |= {
        name: f"expected once, got {count} times"
        for name, count in times.items()
        if count > 1 and not lists.get(name, True)
    }
    if wrong:
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name[:_LONGEST]), "msg": why}
                for name, why in list(wrong.items())[:_MOST]
            ]
        )


def _known(route: APIRoute) -> dict[str, bool]:
    """Return the names of an endpoint's query, its dependencies' too, and whether each may be repeated."""
    known: dict[str, bool] = {}
    waiting = [route.dependant]
    while waiting:
        dependant = waiting.pop()
        known |= {field.alias: _is_list(field.field_info.annotation) for field in dependant.query_params}
        waiting += dependant.dependencies
    return dict(sorted(known.items()))


def _is_list(annotation: Any) -> bool:
    return any(get_origin(kind) is list for kind in (annotation, *get_args(annotation)))


async def acceptable(request: Request) -> None:
    """Refuse a request that accepts nothing of what the endpoint answers with (RFC 9110, section 12.5.1).

    Raises:
        NotAcceptable: Naming what there is.
    """
    accept = b",".join(value for name, value in request.scope["headers"] if name == b"accept")
    offered = _offered(request.scope["route"])
    if not any(accepts(accept, media_type) for media_type in offered):
        raise NotAcceptable(
            f"expected an Accept that allows {' or '.join(offered)}, which is what there is, "
            f"got {accept.decode('latin-1')[:200]!r}"
        )


def _offered(route: APIRoute) -> tuple[str, ...]:
    """Return the media types of an endpoint's good answers, as its description has them."""
    described = route.responses.get(200, {}).get("content")
    return tuple(described) if described else ("application/json",)


@lru_cache(maxsize=256)
def accepts(accept: bytes, media_type: str) -> bool:
    """Return whether an ``Accept`` allows a media type: by its most specific range, ``q=0`` means no.

    Example:
        >>> accepts(b"text/html, */*;q=0.1", "image/png"), accepts(b"image/*, image/png;q=0", "image/png")
        (True, False)
    """
    if not accept.strip(b" ,"):
        return True
    kind = media_type.split("/")[0]
    ranges = {media_type: 3, f"{kind}/*": 2, "*/*": 1}
    best, allowed = 0, False
    for part in accept.decode("latin-1").lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        if (rank := ranges.get(name, 0)) > best:
            best, allowed = rank, _quality(parameters) > 0
    return allowed


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
