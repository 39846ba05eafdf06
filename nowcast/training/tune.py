"""Which training events choose: the fixed split into events to learn from and events to tune on."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

#: The split of the events the shipped weights come from.
TUNE_FILE = Path(__file__).parents[1] / "data" / "tune.txt"


def tune_events(names: Iterable[str], path: Path = TUNE_FILE) -> tuple[str, ...]:
    """Return those of some events' names that a file of patterns says to tune on, in order.

    Args:
        names: Names of events, see :func:`nowcast.archive.events.find_events`.
        path: One shell pattern a line; what follows ``#`` is for people.
    """
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    patterns = [line for line in lines if line]
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
