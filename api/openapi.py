"""The OpenAPI description, with every error in the one form it really has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.params import Depends
from starlette.routing import Route

from api.problems import MEDIA_TYPE
from api.schemas import Problem

DESCRIPTION = """\
Times are UTC. Reflectivity is in dBZ, rain rate in mm/h by the domain's Z-R relation.

Not covered, no echo and a value are three different things everywhere: the state `not_covered` is never dry.

Everything has an `ETag`: send it back as `If-None-Match` and nothing new costs a 304. What is named by a time
does not change and says so (`immutable`; a forecast's record, with its scores, half an hour later). `latest`
holds for a second.

Errors are RFC 9457 problem documents with a stable `type` and the request's id, which is also in the header
`X-Request-ID`.
"""

#: Errors any endpoint under /v1 may answer with, and those that every other may.
_ERRORS = {
    "400": "The question makes no sense",
    "404": "What was asked for is not there",
    "406": "`Accept` allows no form that there is",
    "422": "A parameter is not what it should be, or there is none of that name",
    "500": "Something unexpected went wrong",
    "503": "The data cannot be read at the moment",
}
_EVERYWHERE = ("406", "422", "500", "503")


def install(app: FastAPI, *, dependencies: Sequence[Depends]) -> None:
    """Make ``app.openapi()`` answer with the description, made when it is first asked for.

    Args:
        app: The application.
        dependencies: What the path of the description depends on, like every other.
    """

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # the way FastAPI documents
    (plain,) = (route for route in app.routes if isinstance(route, Route) and route.path == app.openapi_url)
    app.router.routes.remove(plain)  # FastAPI adds it without dependencies
    app.add_api_route(plain.path, plain.endpoint, dependencies=dependencies, include_in_schema=False)


def _described(app: FastAPI) -> dict[str, Any]:
    description = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
    )
    schemas = description["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, operations in description["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            if path.startswith("/v1/"):
                responses["304"] = {"description": "What `If-None-Match` names is still current"}
            for status, meaning in _ERRORS.items():
                if path.startswith("/v1/") or status in _EVERYWHERE:
                    responses[status] = {
                        "description": meaning,
                        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                    }
    return description
