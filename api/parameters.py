"""Parameters of paths and queries, with their limits."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from api.links import iso
from nowcast.errors import BadRequest

#: Most entries one list may have.
MOST_ENTRIES = 500

#: Longest period one question may cover: each day of it is a folder to look through.
LONGEST_PERIOD = timedelta(days=31)

#: Weather radar began in the 1950s; nothing is stored of any other year.
FIRST_YEAR, LAST_YEAR = 1950, 2200

#: ISO 8601 with its zone, extended or basic, as in ``2026-11-21T07:10:00Z`` and ``20261121T071000Z``.
_TIME = re.compile(
    r"\d{4}-?\d\d-?\d\d[Tt]\d\d:?\d\d(:?\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d(:?\d\d)?)", re.ASCII
)

_LONGEST_MODEL = 64
_MODEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{,{_LONGEST_MODEL - 1}}}", re.ASCII)

_EXAMPLE = "2026-11-21T07:10:00Z"


def parse_time(text: object) -> datetime:
    """Return a time as UTC.

    Raises:
        ValueError: If it is none, or has no zone.
    """
    if isinstance(text, str) and _TIME.fullmatch(text):
        try:
            time = datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        else:
            if FIRST_YEAR <= time.year <= LAST_YEAR:
                return time
            raise ValueError(f"expected a time between {FIRST_YEAR} and {LAST_YEAR}, got {text!r}")
    raise ValueError(f"expected an ISO 8601 time with its zone such as {_EXAMPLE}, got {str(text)[:40]!r}")


def _parse_named_time(text: object) -> datetime | None:
    """Return the time a resource is named by, which is a whole second; ``None`` for ``latest``."""
    return None if text == "latest" else parse_time(text).replace(microsecond=0)


def _parse_model(text: str) -> str:
    """Return what may be the name of a method: it becomes part of a file's name."""
    if not _MODEL.fullmatch(text):
        raise ValueError(
            f"expected a method's name of at most {_LONGEST_MODEL} letters, digits, '.', '_', '+' and '-', "
            f"got {text[:40]!r}"
        )
    return text


def period(
    start: datetime | None, end: datetime | None, newest: datetime, usual: timedelta
) -> tuple[datetime, datetime]:
    """Return the first and last time a question is about; without an end the newest there is.

    Raises:
        BadRequest: If the end lies before the start, or further than :data:`LONGEST_PERIOD` after it.
    """
    end = end or newest
    start = start or end - usual
    if not timedelta(0) <= end - start <= LONGEST_PERIOD:
        days = LONGEST_PERIOD.days
        raise BadRequest(
            f"expected `from` before `to`, by {days} days at most, got from {iso(start)} to {iso(end)}"
        )
    return start, end


_TIME_SCHEMA = {"type": "string", "format": "date-time", "examples": [_EXAMPLE]}

_NAMED_TIME_SCHEMA = {
    "anyOf": [{"const": "latest", "type": "string"}, _TIME_SCHEMA],
    "examples": ["latest", _EXAMPLE],
}

_MODEL_SCHEMA = {"type": "string", "maxLength": _LONGEST_MODEL, "pattern": f"^{_MODEL.pattern}$"}

UtcTime = Annotated[datetime, BeforeValidator(parse_time), WithJsonSchema(_TIME_SCHEMA)]

IssueTime = Annotated[
    datetime | None,
    BeforeValidator(_parse_named_time),
    WithJsonSchema(_NAMED_TIME_SCHEMA),
    Path(
        description="Time of the newest frame behind the forecast, or `latest`", examples=["latest", _EXAMPLE]
    ),
]

FrameTime = Annotated[
    datetime | None,
    BeforeValidator(_parse_named_time),
    WithJsonSchema(_NAMED_TIME_SCHEMA),
    Path(description="Time of the frame, or `latest`"),
]

Start = Annotated[UtcTime | None, Query(alias="from", description="First time")]
End = Annotated[UtcTime | None, Query(alias="to", description="Last time")]
Limit = Annotated[int, Query(ge=1, le=MOST_ENTRIES, description="Most entries to return")]
Model = Annotated[
    Annotated[str, AfterValidator(_parse_model), WithJsonSchema(_MODEL_SCHEMA)] | None,
    Query(description="Method; without it, the one served", examples=["extrapolation"]),
]
Lead = Annotated[
    int | None,
    Query(ge=1, le=10_000, description="Minutes after the issue time; one of the forecast's", examples=[30]),
]
Theme = Annotated[Literal["light", "dark"], Query(description="Colours of the picture around the echoes")]
