"""Times of netCDF variables made UTC datetimes: numbers ``minutes since 2021-08-23 08:50``, or text.

Source: CF Conventions 1.11, section 4.4.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import cftime
import numpy as np

from nowcast.errors import TooLarge, UnreadableFile
from nowcast.readers.netcdf import Variable

#: Most times in one file: a day has 288 of 5 minutes.
MAX_TIMES = 20_000

#: Largest distance [s] between the numbers a time can be stored as; frames are further apart.
COARSEST_SECONDS = 30.0

_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("ms", "msec", "msecs", "millisec", "millisecs", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "usec", "usecs", "microsec", "microsecs", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nsec", "nsecs", "nanosec", "nanosecs", "nanosecond", "nanoseconds"), 1e-9),
}

_UNITS = re.compile(
    r"(\w+) since (\d{1,4})-(\d{1,2})-(\d{1,2})"
    r"(?:[T ] ?(\d{1,2}):(\d{1,2})(?::(\d{1,2})(\.\d*)?)?)?"
    r"(?: ?(?:(Z|UTC|GMT)|([+-]\d{1,2})(?::?(\d{2}))?))?",
    re.IGNORECASE,
)

#: Calendars whose days are real ones; the others count the days of a climate model.
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "julian")

#: Spellings of a time as text that :meth:`datetime.fromisoformat` does not know.
_TEXT_FORMS = {12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def decode_times(variable: Variable, *, like: Variable | None = None) -> list[datetime]:
    """Return the times of a variable in its order, to the second.

    Args:
        variable: Numbers since an epoch, or text after ISO 8601, which is UTC unless it says otherwise.
        like: Variable whose unit and calendar stand in where this one (bounds) states none.

    Raises:
        UnreadableFile: If unit or calendar are not understood, a time is missing, or the numbers
            are too coarse to tell frames apart.
        TooLarge: If there are more than :data:`MAX_TIMES`.
    """
    if not variable.is_numeric:
        return [_time_from_text(text, variable.name) for text in variable.words()]
    if np.prod(variable.shape, dtype=np.float64) > 2 * MAX_TIMES:
        raise TooLarge(f"{variable.name!r} has {variable.shape} times; at most {MAX_TIMES} are read")
    units, calendar = (
        variable.text(name) or (like.text(name) if like else "") for name in ("units", "calendar")
    )
    calendar = calendar.lower() or "standard"
    match = _UNITS.fullmatch(" ".join(units.split()))
    if match is None or match[1].lower() not in _SECONDS:
        raise UnreadableFile(f"expected {variable.name!r} in '<unit> since <date>', got {units!r}")
    if calendar not in _CALENDARS:
        raise UnreadableFile(
            f"expected {variable.name!r} in a calendar of real days ({', '.join(_CALENDARS)}), "
            f"got {calendar!r}"
        )
    unit = _SECONDS[match[1].lower()]
    numbers = variable.coordinate().ravel()
    if not np.all(np.isfinite(numbers)):
        raise UnreadableFile(f"some of the times in {variable.name!r} are missing")
    if variable.dtype.kind == "f" and numbers.size:
        coarse = float(np.spacing(np.abs(numbers).max().astype(variable.dtype))) * unit
        if coarse > COARSEST_SECONDS:
            raise UnreadableFile(
                f"the times in {variable.name!r} are stored as {variable.dtype.name} {units!r}, which "
                f"tells them to {coarse:.0f} s only; expected {COARSEST_SECONDS:g} s or better"
            )
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[1:7])
    epoch = cftime.datetime(year, month, day, hour, minute, second, calendar=calendar)
    epoch = epoch.change_calendar("proleptic_gregorian", has_year_zero=True)  # once: it takes milliseconds
    begun = float(match[8] or 0) - _offset_seconds(match)
    return [_utc(epoch + timedelta(seconds=round(begun + float(number) * unit))) for number in numbers]


def _offset_seconds(match: re.Match[str]) -> float:
    """Return how far the clock of an epoch runs ahead of UTC."""
    hours, minutes = match[10] or "+0", int(match[11] or 0)
    return (abs(int(hours)) * 3600.0 + minutes * 60.0) * (-1.0 if hours.startswith("-") else 1.0)


def _utc(real: cftime.datetime) -> datetime:
    return datetime(real.year, real.month, real.day, real.hour, real.minute, real.second, tzinfo=UTC)


def _time_from_text(text: str, name: str) -> datetime:
    plain = text.strip().replace("_", "T").removesuffix("UTC").removesuffix("GMT").strip()
    try:
        if plain.isdigit() and len(plain) in _TEXT_FORMS:
            return datetime.strptime(plain, _TEXT_FORMS[len(plain)]).replace(tzinfo=UTC)
        moment = datetime.fromisoformat(plain)
        if plain.isdigit() or (":" not in plain and "T" not in plain and " " not in plain):
            raise ValueError("a day is no time")
    except ValueError as error:
        raise UnreadableFile(
            f"expected {name!r} to be a time as 2026-11-21T07:05:00, got {text[:40]!r}"
        ) from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(microsecond=0)


def is_time(variable: Variable) -> bool:
    """Return whether a variable holds times: numbers since an epoch, or text in a variable called a time."""
    if variable.text("standard_name") not in ("", "time"):
        return False
    if variable.is_numeric:
        return " since " in variable.text("units")
    return variable.text("standard_name") == "time" or variable.name.lower() in (
        "time",
        "times",
        "datetime",
        "date",
    )


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
