"""UTC times as file names carry them, and as people and JSON read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

_STAMP = re.compile(r"\d{8}T\d{6}Z", re.ASCII)


def stamp(moment: datetime) -> str:
    """Return a UTC time as file names carry it, ``20261121T071000Z``.

    Raises:
        ValueError: If the time carries no zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"expected an aware time, got {moment} without a zone")
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def iso(moment: datetime) -> str:
    """Return a UTC time as people and JSON read it, ``2026-11-21T07:10:00Z``.

    Raises:
        ValueError: If the time carries no zone.
    """
    return stamp(moment) and moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=16_384)  # the same folders are listed again and again; about 4 MB
def parse_stamp(text: str) -> datetime | None:
    """Return the time of a :func:`stamp`, or ``None`` if the text is none."""
    if not _STAMP.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
