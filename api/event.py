"""A point's series as an event: when does it start, peak and stop, and how much falls."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from api.schemas import Event, Expected, Observed, Peak

#: Rain [mm/h] from which it rains: the least that a gauge of the usual 0.1 mm resolution sees in an hour.
RAIN_MM_H = 0.1


def outlook(series: list[Expected]) -> Literal["rain", "dry", "unknown"]:
    """Return ``rain``, ``dry`` or ``unknown``: dry only where every lead is covered."""
    if any(_rains(step) for step in series):
        return "rain"
    covered = all(step.state != "not_covered" for step in series)
    return "dry" if covered else "unknown"


def first_event(series: list[Expected], observed: Observed | None, step_minutes: int) -> Event | None:
    """Return the first spell of rain in a series, ``None`` if there is none.

    A spell is an unbroken run of times with at least :data:`RAIN_MM_H`. Each rate stands for one step.
    """
    first = next((n for n, step in enumerate(series) if _rains(step)), None)
    if first is None:
        return None
    after = next((n for n in range(first, len(series)) if not _rains(series[n])), len(series))
    spell = series[first:after]
    strongest = max(spell, key=lambda step: step.rain_rate_mm_h or 0.0)
    end: datetime | None = None
    open_end: Literal["horizon", "not_covered"] | None = None
    if after == len(series):
        open_end = "horizon"
    elif series[after].state == "not_covered":
        open_end = "not_covered"
    else:
        end = series[after].valid_time
    return Event(
        start=spell[0].valid_time,
        already_raining=first == 0 and observed is not None and _rains(observed),
        peak=Peak(time=strongest.valid_time, rain_rate_mm_h=strongest.rain_rate_mm_h or 0.0),
        end=end,
        open_end=open_end,
        total_mm=round(sum(step.rain_rate_mm_h or 0.0 for step in spell) * step_minutes / 60, 3),
    )


def _rains(step: Expected | Observed) -> bool:
    return step.rain_rate_mm_h is not None and step.rain_rate_mm_h >= RAIN_MM_H
