"""Files that are whole and durable or not there at all: everything the service keeps goes through here."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nowcast.errors import StorageError

#: Ending of a file that is still being written; nothing reads such a file.
PARTIAL_SUFFIX = ".tmp"

#: Age [s] after which a partial file belongs to no living writer; the longest write takes minutes.
ABANDONED_SECONDS = 3600.0

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def publish(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there appears at ``path`` in one step.

    On success the content is on the disk (fsync), then visible, then the folder entry is on the disk. On any
    failure, in the body or here, the temporary file is removed and ``path`` is as it was. A killed writer
    leaves a hidden partial file that nothing reads; :func:`sweep_partials` removes it. Folders are made.

    Args:
        path: Where the file shall be. Replaced if it exists, unless ``exclusive``.
        exclusive: Never replace: for files that are immutable once published.

    Raises:
        FileExistsError: If ``exclusive`` and another writer was first; the content there is untouched.
        StorageError: If the disk refuses (any other ``OSError``, in the body too).
    """
    temporary = _partial(path)
    raced = False
    try:
        make_folder(path.parent)
        yield temporary
        _sync(temporary)
        try:
            _appear(temporary, path, exclusive)
        except FileExistsError:
            raced = True
            raise
        _sync(path.parent)
    except OSError as error:
        if raced:
            raise
        raise storage_error("write", path, error) from error
    finally:
        with suppress(OSError):  # gone already after a success
            temporary.unlink()


@contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` in one step, durably, and never replaces one.

    Raises:
        FileExistsError: If ``path`` exists, before the body runs or after it.
        StorageError: If the disk refuses.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "exists already", str(path))
    temporary = _partial(path)
    try:
        make_folder(path.parent)
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        temporary.rename(path)
        _sync(path.parent)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and path.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(path)) from error
        raise storage_error("write", path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes | bytearray | memoryview, *, exclusive: bool = False) -> None:
    """Publish ``content`` as a file; raises as :func:`publish`."""
    with publish(path, exclusive=exclusive) as temporary, temporary.open("wb", buffering=0) as file:
        left = memoryview(content)
        while left:  # one write takes at most 2 GiB
            left = left[file.write(left) :]


def write_json(path: Path, content: Any) -> None:
    """Publish ``content`` as UTF-8 JSON without NaN or infinity, which JSON does not have.

    Raises:
        ValueError: If a number is not finite.
        StorageError: If the disk refuses.
    """
    write_bytes(path, json.dumps(content, ensure_ascii=False, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileNotFoundError: If there is none.
        StorageError: If it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("read", path, error) from error
    except ValueError as error:
        raise StorageError(f"cannot read {path}: expected JSON, {error}") from error


def remove(path: Path) -> bool:
    """Remove a file durably; return whether it was there.

    Raises:
        StorageError: If the disk refuses.
    """
    try:
        path.unlink()
        _sync(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error("remove", path, error) from error
    return True


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that nothing reads it and a person can look at it; return its new path.

    Raises:
        StorageError: If the disk refuses.
    """
    aside = path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}")
    try:
        path.rename(aside)
        _sync(path.parent)
    except OSError as error:
        raise storage_error("rename", path, error) from error
    return aside


def make_folder(folder: Path) -> None:
    """Make a folder and its parents durably: a crash after a publish must not lose the way to the file.

    Raises:
        StorageError: If the disk refuses, or a file is in the way.
    """
    if folder.is_dir():
        return
    try:
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)
    except OSError as error:
        raise storage_error("make", folder, error) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` alone, across processes; the kernel frees it when a holder is killed.

    Raises:
        StorageError: If the disk refuses the lock file.
    """
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise storage_error("lock", path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, partial files left out; empty if there is no such folder.

    Raises:
        StorageError: If the disk refuses.
    """
    try:
        return [name for name in os.listdir(folder) if not is_partial(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error("list", folder, error) from error


def sweep_partials(root: Path, older_than_seconds: float = ABANDONED_SECONDS) -> list[Path]:
    """Remove what killed writers left under ``root``; return what was removed.

    Only hidden ``*.tmp`` names, as :func:`publish` and :func:`publish_folder` give them, are touched, and
    only when they have not changed for ``older_than_seconds``. What cannot be removed is left for next time.
    """
    removed = []
    newest_abandoned = time.time() - older_than_seconds
    for folder, folders, names in os.walk(root):
        partial_folders = [name for name in folders if is_partial(name)]
        folders[:] = [name for name in folders if name not in partial_folders]
        for name in [*partial_folders, *filter(is_partial, names)]:
            path = Path(folder) / name
            with suppress(OSError):
                if _last_change(path) > newest_abandoned:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed.append(path)
    return removed


def _last_change(path: Path) -> float:
    """Return the newest modification time of a file, or of a folder and everything in it."""
    return max(part.stat().st_mtime for part in (path, *path.rglob("*")))


def is_partial(name: str) -> bool:
    """Return whether a file name is one of a file still being written."""
    return name.startswith(".") and name.endswith(PARTIAL_SUFFIX)


def storage_error(doing: str, path: Path, error: OSError) -> StorageError:
    """Return the one-sentence error for an ``OSError`` while ``doing`` (a verb) something to ``path``."""
    if error.errno in _FULL:
        reason = "the disk is full"
    elif error.errno == errno.EROFS:
        reason = "the disk is read-only"
    elif error.errno in (errno.EACCES, errno.EPERM):
        reason = "permission denied"
    else:
        reason = error.strerror or str(error)
    return StorageError(f"cannot {doing} {path}: {reason}")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL_SUFFIX}")


def _appear(temporary: Path, path: Path, exclusive: bool) -> None:
    if not exclusive:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Without hard links the check and the rename are two steps; the window is a race of microseconds.
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(path)) from error
        os.replace(temporary, path)


def _sync(path: Path) -> None:
    """Bring a file or folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)
