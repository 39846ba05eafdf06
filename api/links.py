"""Where things are: the paths of resources, relative to the root the service is mounted at."""

from __future__ import annotations

from datetime import datetime


def iso(time: datetime) -> str:
    """Return a UTC time as it stands in paths and documents, such as ``2026-11-21T07:10:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def link(domain: str, *parts: str | datetime, **query: object) -> str:
    """Return the path of a resource of a domain.

    Example:
        >>> link("fmi", "forecasts", "latest", "map.png", lead=5)
        '/v1/domains/fmi/forecasts/latest/map.png?lead=5'
    """
    path = "/".join(["/v1/domains", domain, *(iso(p) if isinstance(p, datetime) else p for p in parts)])
    arguments = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
    return f"{path}?{arguments}" if arguments else path
