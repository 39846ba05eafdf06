"""Whether a question is asked in words the service knows: its query's names, and the answers it accepts."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from nowcast.errors import NotAcceptable


def only_known_parameters(request: Request) -> None:
    """Refuse a query with a parameter that the endpoint does not have: a misspelt one is not passed over.

    Raises:
        RequestValidationError: Naming the unknown parameter and the known ones.
    """
    route: Any = request.scope["route"]
    known = _known(route)
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        there_are = f"known are {', '.join(known)}" if known else "there is none here"
        raise RequestValidationError(
            [
                {
                    "type": "extra_forbidden",
                    "loc": ("query", name[:64]),
                    "msg": f"unknown parameter; {there_are}",
                    "input": request.query_params[name][:64],
                }
                for name in unknown[:16]
            ]
        )


def _known(route: APIRoute) -> tuple[str, ...]:
    """Return the names of an endpoint's query, those of its dependencies too."""
    names, waiting = [], [route.dependant]
    while waiting:
        dependant = waiting.pop()
        names += [field.alias for field in dependant.query_params]
        waiting += dependant.dependencies
    return tuple(sorted(set(names)))


def acceptable(request: Request) -> None:
    """Refuse a request that accepts nothing of what the endpoint answers with (RFC 9110, section 12.5.1).

    Raises:
        NotAcceptable: Naming what there is.
    """
    accepted = ",".join(request.headers.getlist("accept"))
    if not accepted.strip():
        return
    offered = _offered(request.scope["route"])
    if offered and not any(_weight(media_type, accepted) > 0 for media_type in offered):
        raise NotAcceptable(
            f"expected to accept {' or '.join(offered)}, which is what there is, got {accepted[:200]!r}"
        )


def _offered(route: APIRoute) -> tuple[str, ...]:
    """Return the media types of an endpoint's good answers, as its description has them."""
    described = route.responses.get(200, {}).get("content")
    return tuple(described) if described else ("application/json",)


def _weight(media_type: str, accepted: str) -> float:
    """Return the quality that an ``Accept`` gives a media type, by its most specific range; 0 = refused."""
    kind = media_type.split("/")[0]
    ranges = {media_type: 3, f"{kind}/*": 2, "*/*": 1}
    best, weight = 0, 0.0
    for part in accepted.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        if (rank := ranges.get(name, 0)) > best:
            best, weight = rank, _quality(parameters)
    return weight


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
