"""The model store: versions of the weights of each network, which one is current, and how that came about.

``STORE/<model>/<version>/`` is a checkpoint that is never changed. ``STORE/<model>/current`` is a small file
of JSON, replaced by a rename: a reader learns one version and takes every file from it, where a symbolic link
could change between two files; and it survives volumes and copies that know no links.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nowcast.disk import dates, durable
from nowcast.errors import NotFound, UnknownModel, WeightsError
from nowcast.names import CARD_FILE, CONFIG_FILE, NETWORKS, WEIGHTS_FILE

#: Folder of the checkpoints that come with the package, by short name of the method.
SHIPPED = Path(__file__).parents[2] / "weights"

#: What else of a training's folder goes into the store: its loss curves, in whatever form.
CURVES = "curves*"

#: File that names the current version, and all that were before it.
POINTER = "current"

#: Version of the pointer's format; a file of another one is refused rather than misread.
FORMAT = 1

#: Digits of the weights' hash in a version's name.
HASH_DIGITS = 8

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Change:
    """One change of the current version.

    Attributes:
        when: Time of the change, UTC.
        action: What was done.
        version: The version that is current since.
        verdict: What spoke for it, in one line.
        forced: Whether it was promoted although the comparison did not speak for it.
        score: Mean CSI on its own held-out events, 0 to 1; ``None`` if unknown, or not a promotion.
        extrapolation: Mean CSI of extrapolation on the same.
    """

    when: datetime
    action: Literal["promote", "rollback"]
    version: str
    verdict: str = ""
    forced: bool = False
    score: float | None = None
    extrapolation: float | None = None


@dataclass(frozen=True)
class Shelf:
    """The versions of one model in a store. Readers take no lock and need no right to write.

    Attributes:
        store: Folder of the store; made when the first version is promoted.
        model: Name of a network, as a domain's ``model`` has it.

    Raises:
        UnknownModel: If there is no network of that name.
    """

    store: Path
    model: str

    def __post_init__(self) -> None:
        """Refuse names that are no network's: they would become paths."""
        if self.model not in NETWORKS:
            raise UnknownModel(f"expected a network among {', '.join(sorted(NETWORKS))}, got {self.model!r}")

    @property
    def folder(self) -> Path:
        """Where the versions are."""
        return self.store / self.model

    def versions(self) -> list[str]:
        """Return the names of all versions, oldest first, those that never were current among them."""
        names = durable.listing(self.folder)
        return sorted(name for name in names if (self.folder / name / CONFIG_FILE).is_file())

    def history(self) -> tuple[Change, ...]:
        """Return every change of the current version, oldest first.

        Raises:
            WeightsError: If the pointer is damaged.
            StorageError: If the disk refuses.
        """
        path = self.folder / POINTER
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise durable.storage_error("read", path, error) from error
        return _changes(path, content)

    def current(self) -> Path | None:
        """Return the folder of the current version, ``None`` if none was ever promoted; raises as history."""
        history = self.history()
        return self.folder / history[-1].version if history else None

    def version(self, name: str | None = None) -> Path:
        """Return the folder of a version, of the current one if no name is given.

        Raises:
            NotFound: If there is none.
        """
        if name is None:
            current = self.current()
            if current is None:
                raise NotFound(f"no version of {self.model} was promoted in {self.store}")
            return current
        if name not in (versions := self.versions()):
            there = ", ".join(versions) or "none"
            raise NotFound(f"expected a version of {self.model} among {there}; got {name!r:.60}")
        return self.folder / name

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the shelf against all others that would change it, in this and other processes.

        Raises:
            StorageError: If the disk refuses.
        """
        with durable.locked(self.store / f".{self.model}.lock"):
            yield

    @contextmanager
    def adding(self, version: str, candidate: Path) -> Iterator[Path]:
        """Yield a copy of a checkpoint that becomes a version, whole and durable, when the body is done.

        What a killed process left under that name, and thus never was current, makes way.

        Raises:
            WeightsError: If there was a version of that name; if the pointer is damaged.
            StorageError: If the disk refuses; nothing is left then.
        """
        target = self.folder / version
        if version not in {change.version for change in self.history()}:
            shutil.rmtree(target, ignore_errors=True)
        try:
            with durable.publish_folder(target) as copy:
                for path in _worth_keeping(candidate):
                    shutil.copyfile(path, copy / path.name)
                yield copy
                for path in copy.iterdir():
                    path.chmod(0o444)
        except FileExistsError as error:
            raise WeightsError(f"{target} exists already; expected a new version") from error

    def switch(self, change: Change) -> None:
        """Make a version current in one step: whoever reads finds the old one or the new one, never none.

        Raises:
            StorageError: If the disk refuses; the old one is current still.
        """
        changes = [_plain(one) for one in (*self.history(), change)]
        durable.write_json(self.folder / POINTER, {"format": FORMAT, "history": changes})


def current_of(store: Path, model: str) -> Path | None:
    """Return the folder of a model's current version, ``None`` if the store has none.

    Raises:
        WeightsError: If the pointer is damaged.
        UnknownModel: If there is no network of that name.
        StorageError: If the disk refuses.
    """
    return Shelf(store, model).current()


def shelves(store: Path) -> list[Shelf]:
    """Return the shelves of all models that have a version, by name."""
    found = [Shelf(store, name) for name in sorted(durable.listing(store)) if name in NETWORKS]
    return [shelf for shelf in found if shelf.versions()]


def version_name(when: datetime, sha256: str) -> str:
    """Return what a version is called: its time, UTC, and the first digits of its weights' hash.

    Example:
        >>> version_name(datetime(2026, 11, 28, 12, tzinfo=UTC), "1a2b3c4d5e6f")
        '20261128T120000-1a2b3c4d'
    """
    return f"{dates.stamp(when).removesuffix('Z')}-{sha256[:HASH_DIGITS]}"


def trail(history: Sequence[Change]) -> list[str]:
    """Return the way back: versions as they were promoted, less those rolled back; the last is current."""
    way: list[str] = []
    for change in history:
        if change.action == "rollback":
            way.pop()
        else:
            way.append(change.version)
    return way


def hash_of(checkpoint: Path) -> str:
    """Return the sha256 of a checkpoint's weights, in hexadecimal digits.

    Raises:
        WeightsError: If there are none.
        StorageError: If the disk refuses.
    """
    path = checkpoint / WEIGHTS_FILE
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WeightsError(f"expected a checkpoint, but there is no {path}") from error
    except OSError as error:
        raise durable.storage_error("read", path, error) from error


def _worth_keeping(candidate: Path) -> list[Path]:
    """Return the files to copy: a training also leaves states to go on from, far larger than its weights."""
    named = [candidate / name for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)]
    return [path for path in (*named, *sorted(candidate.glob(CURVES))) if path.is_file()]


def _plain(change: Change) -> dict[str, Any]:
    return {**asdict(change), "when": dates.iso(change.when)}


def _changes(path: Path, content: bytes) -> tuple[Change, ...]:
    """Return the history that a pointer holds, once it is known to make sense."""
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {document['format']!r:.60}")
        changes = tuple(
            Change(**{**one, "when": datetime.fromisoformat(one["when"]).astimezone(UTC)})
            for one in document["history"]
        )
        for change in changes:
            if not _VERSION.fullmatch(change.version) or change.action not in ("promote", "rollback"):
                raise ValueError(
                    f"expected changes of version, got {change.action!r:.20} {change.version!r:.60}"
                )
        if trail(changes)[-1:] != [change.version for change in changes[-1:]] or not changes:
            raise ValueError("expected a history that leads to its last version, got another")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} names no version: {error or type(error).__name__}") from error
    return changes
