"""Events: an archive's frames, parted so that what is learnt from and what is scored on share no rain."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise

from nowcast.archive.archive import Archive

#: A domain's frames over longer than this are not one event, but one a day (UTC).
LONGEST_EVENT = timedelta(days=2)

#: What is left out at the start of such a day, lest the rain of one event go on in the next.
APART = timedelta(hours=1)

#: Share of the rain in events that are held out unless someone says which.
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Event:
    """Frames of one domain on a common step, whose rain is one event.

    Attributes:
        name: Name of the event: that of the domain, with a date if it has several events.
        times: Times of the frames, ascending, UTC.
        step_minutes: The domain's own step.
        domain: Name of the domain.
    """

    name: str
    times: tuple[datetime, ...]
    step_minutes: int
    domain: str


def find_events(archive: Archive) -> list[Event]:
    """Return the events of an archive, of at least two frames each: a domain, or a day of a long one.

    The step is the commonest distance of two frames; frames off it are used where they fit, never moved.
    """
    found = []
    for domain in archive.domains():
        times = archive.times(domain)
        gaps = Counter(later - earlier for earlier, later in pairwise(times))
        if not gaps:
            continue
        step = max(gaps, key=lambda gap: (gaps[gap], -gap.total_seconds()))
        step_minutes = max(round(step.total_seconds() / 60), 1)
        for name, part in _parted(domain, times):
            if len(part) > 1:
                found.append(Event(name, part, step_minutes, domain))
    return found


def _parted(domain: str, times: Sequence[datetime]) -> Iterator[tuple[str, tuple[datetime, ...]]]:
    """Yield name and times of the events of a domain."""
    if times[-1] - times[0] <= LONGEST_EVENT:
        yield domain, tuple(times)
        return
    for day, of_day in groupby(times, key=lambda time: time.date()):
        begins = datetime(day.year, day.month, day.day, tzinfo=UTC) + APART
        yield f"{domain}@{day}", tuple(time for time in of_day if time >= begins)


def events_to_hold_out(rain: Mapping[str, float]) -> tuple[str, ...]:
    """Return the names of whole events with about :data:`HELD_OUT_SHARE` of the rain; none of a single one.

    The same events give the same answer, and a new one hardly changes it: they are gone through by a hash of
    their names, and each that brings the share nearer is taken.

    Args:
        rain: How much rain each event has, in any unit.
    """
    if len(rain) < 2:
        return ()
    wanted, taken, chosen = HELD_OUT_SHARE * sum(rain.values()), 0.0, []
    for name in sorted(rain, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if abs(taken + rain[name] - wanted) < abs(taken - wanted):
            chosen.append(name)
            taken += rain[name]
    return tuple(sorted(chosen)) or (min(rain, key=lambda name: (rain[name], name)),)
