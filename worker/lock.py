"""One service for a data directory: a lock the kernel frees when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from nowcast.disk import dates, durable
from nowcast.errors import SettingsError

#: The lock's name in the data directory. The file stays; that somebody holds it is known to the kernel alone.
LOCK_FILE = ".service.lock"


@contextmanager
def sole_service(data_dir: Path) -> Iterator[None]:
    """Hold a data directory for one service while the block runs.

    Raises:
        SettingsError: If another service has it: which process, where, and since when.
        StorageError: If the disk refuses the lock file.
    """
    path = data_dir / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise durable.storage_error("lock", path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"NOWCAST_DATA_DIR: expected a folder no other service uses, {data_dir} {_holder(descriptor)}"
            ) from None
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": dates.iso(datetime.now(UTC))}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Return who says to hold the lock, as the end of a sentence."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"is held by process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "is held by another process"
