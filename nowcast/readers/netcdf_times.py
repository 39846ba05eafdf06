"""Times of netCDF variables: ``units`` such as ``minutes since 2021-08-23 08:50`` made UTC datetimes.

Source: CF Conventions 1.11, section 4.4.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np

from nowcast.errors import TooLarge, UnreadableFile
from nowcast.readers.netcdf import Variable

#: Most times in one file: a day has 288 of 5 minutes.
MAX_TIMES = 20_000

_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 0.001),
}

_UNITS = re.compile(
    r"(\w+) since (\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:[T ](\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.0*)?)?)?(?: ?(?:Z|UTC|GMT|[+-]?0{1,2}:?0{2}))?"
)

#: Calendars in which a date is what it is everywhere else; they differ before 1582 only.
_CALENDARS = ("", "standard", "gregorian", "proleptic_gregorian")


def decode_times(variable: Variable, *, like: Variable | None = None) -> list[datetime]:
    """Return the times of a variable in its order, to the second.

    Args:
        variable: Numbers since an epoch.
        like: Variable whose unit and calendar stand in where this one (bounds) states none.

    Raises:
        UnreadableFile: If unit or calendar are not understood, or a time is missing.
        TooLarge: If there are more than :data:`MAX_TIMES`.
    """
    if np.prod(variable.shape, dtype=np.float64) > 2 * MAX_TIMES:
        raise TooLarge(f"{variable.name!r} has {variable.shape} times; at most {MAX_TIMES} are read")
    units, calendar = (
        variable.text(name) or (like.text(name) if like else "") for name in ("units", "calendar")
    )
    match = _UNITS.fullmatch(units.strip())
    if match is None or match[1].lower() not in _SECONDS or calendar.lower() not in _CALENDARS:
        raise UnreadableFile(
            f"expected {variable.name!r} in '<unit> since <date>', got {units!r} {calendar!r}"
        )
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[1:])
    epoch = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    seconds = variable.coordinate().ravel() * _SECONDS[match[1].lower()]
    if not np.all(np.isfinite(seconds)):
        raise UnreadableFile(f"some of the times in {variable.name!r} are missing")
    return [epoch + timedelta(seconds=round(float(after))) for after in seconds]


def regular_step_minutes(moments: list[datetime]) -> float | None:
    """Return the step between times in minutes, ``None`` for a single time or without a common step.

    Example:
        >>> regular_step_minutes([datetime(2026, 11, 21, 7, minute) for minute in (0, 5, 15)])
        5.0
    """
    steps = np.diff(np.sort(np.array([moment.timestamp() for moment in moments])))
    if steps.size == 0:
        return None
    step = float(steps.min())
    return step / 60.0 if step > 0 and np.all(np.abs(steps / step - np.round(steps / step)) < 1e-6) else None
