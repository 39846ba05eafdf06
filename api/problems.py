"""Every error as RFC 9457 ``application/problem+json``: the table of statuses, and handlers."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.schemas import ParameterProblem, Problem
from nowcast import errors

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: What was expected where a parameter fails a check, by the check's name, with the check's own figures.
_EXPECTED = {
    "missing": "a value",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "{ge:g} or more",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
    "too_long": "{max_length} values at most",
}

#: Longest part [characters] of a value repeated in an answer.
_LONGEST = 40

#: What a client is told of each error raised on purpose: status and title. Every class of the tree is here.
#: The branch under ``InputError`` speaks of what a client handed in; a stored file that cannot be read is a
#: ``StorageError`` by the time it gets here (see :meth:`api.service.Service.read`).
STATUS: dict[type[errors.NowcastError], tuple[int, str]] = {
    errors.NowcastError: (500, "Internal error"),
    errors.InputError: (422, "Unusable input"),
    errors.UnknownFormat: (415, "Unknown format"),
    errors.UnreadableFile: (422, "Unreadable file"),
    errors.ReaderDied: (422, "Unreadable file"),
    errors.TooLarge: (413, "Too large"),
    errors.RefusedProduct: (422, "Not a precipitation frame"),
    errors.MissingExtra: (501, "Format not installed"),
    errors.FrameRejected: (422, "Frame rejected"),
    errors.WrongGrid: (422, "Wrong grid"),
    errors.WrongInterval: (422, "Wrong interval"),
    errors.DuplicateFrame: (409, "Duplicate frame"),
    errors.FutureFrame: (422, "Frame from the future"),
    errors.EmptyFrame: (422, "Empty frame"),
    errors.NotEnoughFrames: (503, "Not enough frames"),
    errors.NetworkError: (503, "Network unavailable"),
    errors.WeightsError: (503, "Weights unavailable"),
    errors.TrainingStopped: (500, "Training stopped"),
    errors.SettingsError: (500, "Internal error"),
    errors.NotFound: (404, "Not found"),
    errors.UnknownDomain: (404, "Unknown domain"),
    errors.UnknownModel: (404, "Unknown model"),
    errors.NoFrame: (404, "No frame"),
    errors.NoForecast: (404, "No forecast"),
    errors.OutsideDomain: (404, "Outside the domain"),
    errors.BadRequest: (400, "Bad request"),
    errors.NotAcceptable: (406, "Not acceptable"),
    errors.StorageError: (503, "Storage unavailable"),
    errors.BusError: (503, "Broker unavailable"),
    errors.ServiceFailed: (500, "Service failed"),
}


def problem_type(error: type[errors.NowcastError]) -> str:
    """Return the stable name of a kind of problem, such as ``urn:nowcast:problem:no-forecast``."""
    return "urn:nowcast:problem:" + re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def problem_response(
    request: Request,
    status: int,
    *,
    title: str = "",
    detail: str = "",
    kind: str = "about:blank",
    parameters: list[ParameterProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return a problem document; without a ``title`` it is the status's own phrase, as RFC 9457 asks."""
    problem = Problem(
        type=kind,
        title=title or HTTPStatus(status).phrase,
        status=status,
        detail=detail or None,
        instance=request.url.path,
        request_id=_request_id(request) or None,
        parameters=parameters,
    )
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _on_nowcast_error(request: Request, error: Exception) -> Response:
    kind = next(k for k in type(error).__mro__ if k in STATUS)
    status, title = STATUS[kind]
    if status >= 500:
        # The message may name paths and hosts: it is for the log, not for the client.
        what = (request.method, request.url.path, _request_id(request))
        logger.error("%s %s failed, request %s: %s", *what, error, exc_info=error)
        detail = "The service cannot answer this at the moment; the operator's log says why."
    else:
        detail = str(error)
    headers = {"Retry-After": "5"} if status == 503 else None
    return problem_response(
        request, status, title=title, detail=detail, kind=problem_type(kind), headers=headers
    )


def _on_http_error(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    headers = dict(error.headers or {})
    if "GET" in headers.get("allow", headers.get("Allow", "")):
        headers = {"Allow": "GET, HEAD"}
    detail = {
        404: f"There is nothing at {request.url.path}; see the documentation at /docs.",
        405: f"expected GET or HEAD, got {request.method[:_LONGEST]}",
    }.get(error.status_code, "")
    return problem_response(request, error.status_code, detail=detail, headers=headers)


def _on_invalid_parameters(request: Request, error: Exception) -> Response:
    parameters = [
        ParameterProblem(parameter=_parameter(found), detail=_sentence(found))
        for found in cast(RequestValidationError, error).errors()
    ]
    return problem_response(
        request,
        422,
        title="Invalid parameter",
        detail="; ".join(f"{problem.parameter}: {problem.detail}" for problem in parameters),
        kind="urn:nowcast:problem:invalid-parameter",
        parameters=parameters,
    )


def _parameter(found: dict[str, Any]) -> str:
    names = [str(part) for part in found["loc"] if part not in ("query", "path", "header")]
    return names[0] if names else "the request"


def _sentence(found: dict[str, Any]) -> str:
    """Return what was expected and what came; checks of our own say so themselves."""
    kind, figures = found["type"], found.get("ctx", {})
    if kind not in _EXPECTED:
        return str(found["msg"]).removeprefix("Value error, ")
    came = {"missing": "none", "too_long": str(figures.get("actual_length"))}
    got = came.get(kind, repr(str(found["input"])[:_LONGEST]))
    return f"expected {_EXPECTED[kind].format(**figures)}, got {got}"


def range_refusal(request: Request, size: str) -> str:
    """Return in words why a ``Range`` is refused; ``size`` [bytes] is empty unless that is the reason."""
    got = f"got {request.headers.get('range', '')[:_LONGEST]!r}"
    if size:
        return f"expected a Range within the {size} bytes there are, {got}"
    return f"expected a Range such as bytes=0-1023, {got}"


def _on_unexpected(request: Request, error: Exception) -> Response:
    # The server logs the exception itself after this; what it says stays out of the answer. This is answered
    # outside all middleware, so the id is added here.
    logger.error("%s %s failed, request %s", request.method, request.url.path, _request_id(request))
    return problem_response(
        request,
        500,
        detail="Something unexpected went wrong; the log has the details.",
        headers={"X-Request-ID": _request_id(request)},
    )


def _request_id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` as a problem document."""
    app.add_exception_handler(errors.NowcastError, _on_nowcast_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameters)
    app.add_exception_handler(Exception, _on_unexpected)
