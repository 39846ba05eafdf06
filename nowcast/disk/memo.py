"""What was worked out lately from files, kept for as long as they stay as they were."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values used last, each for as long as its version stays."""

    def __init__(self, size: int) -> None:
        """Keep ``size`` values at most."""
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[object, Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, version: object, make: Callable[[], Value]) -> Value:
        """Return the value of a version, made now unless it is kept."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == version:
                self._kept.move_to_end(key)
                return kept[1]
        value = make()
        with self._lock:
            self._kept[key] = version, value
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value


def version_of(*paths: Path) -> tuple[tuple[int, int, int], ...]:
    """Return what changes whenever one of the files appears, goes or is replaced."""
    statuses = []
    for path in paths:
        try:
            status = path.stat()
            statuses.append((status.st_ino, status.st_mtime_ns, status.st_size))
        except FileNotFoundError:
            statuses.append((0, 0, 0))
    return tuple(statuses)
