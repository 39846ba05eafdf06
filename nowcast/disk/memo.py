"""What was worked out lately from files, kept for as long as they stay as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

from cachetools import LRUCache

from nowcast.disk.durable import storage_error

Value = TypeVar("Value")

#: What changes whenever one of some files appears, goes or is replaced.
Version = tuple[tuple[int, int, int], ...]


class Memo(Generic[Value]):
    """The values used last, each for as long as its version stays; any thread may ask."""

    def __init__(self, size: int) -> None:
        """Keep ``size`` values at most."""
        self._values: LRUCache[Hashable, tuple[Version, Value]] = LRUCache(size)
        self._lock = threading.Lock()

    def get(self, key: Hashable, version: Version, make: Callable[[], Value]) -> Value:
        """Return the value of a version, made now unless it is kept. Raises what ``make`` raises."""
        with self._lock:
            known = self._values.get(key)
        if known is not None and known[0] == version:
            return known[1]
        value = make()
        with self._lock:
            self._values[key] = version, value
        return value


def version_of(*paths: Path) -> Version:
    """Return what changes whenever one of the files appears, goes or is replaced.

    Raises:
        StorageError: If the disk refuses to say.
    """
    return tuple(_version_of(path) for path in paths)


def _version_of(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0, 0
    except OSError as error:
        raise storage_error("read", path, error) from error
    return status.st_ino, status.st_mtime_ns, status.st_size
