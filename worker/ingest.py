"""Ingest: files dropped into the inboxes become archived frames, or land in quarantine with the reason."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nowcast import errors
from nowcast.archive.archive import Archive
from nowcast.disk import dates, durable
from nowcast.frame.declared import declared_in
from nowcast.frame.domain import Domain
from nowcast.frame.frame import RawFrame, normalise, time_of
from nowcast.readers.sandbox import SandboxedReader
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry
from worker.bus import FRAMES, Bus
from worker.processes import die_with_parent
from worker.space import has_room

log = logging.getLogger(__name__)

#: How often [s] it is looked whether there is room on the disk, and what in the inbox is no file of a domain.
LOOK_SECONDS = 5.0

#: Endings of files somebody is still writing.
UNFINISHED = (".tmp", ".part", ".partial", ".filepart", ".crdownload")

#: A file whose last change is older than this [s] is taken as complete.
SETTLED_SECONDS = 0.3

#: A file that cannot be read is tried again until its last change is this old [s]: its writer may be slow.
PATIENCE_SECONDS = 5.0

#: Wait [s] before a file is tried again, after the disk refused or while its writer may still be at work.
RETRY_SECONDS = 1.0

#: What became of a frame, by the error that refused it; the labels of ``nowcast_frames_total``.
OUTCOMES: dict[type[errors.InputError], str] = {
    errors.UnknownFormat: "unknown_format",
    errors.UnreadableFile: "unreadable",
    errors.ReaderDied: "unreadable",
    errors.TooLarge: "too_large",
    errors.RefusedProduct: "refused_product",
    errors.MissingExtra: "missing_extra",
    errors.WrongGrid: "wrong_grid",
    errors.WrongInterval: "wrong_interval",
    errors.DuplicateFrame: "conflict",
    errors.FutureFrame: "future",
    errors.EmptyFrame: "empty",
}


#: What lies in the inbox and is never taken, by kind: the labels of ``nowcast_inbox_ignored``.
IGNORED = {
    "symlink": "a link, which would lead out of the inbox; move or copy the file itself",
    "folder": "a folder; files are expected right in the domain's folder",
    "special": "neither a file nor a folder",
    "no_domain": "not the folder of a configured domain",
}


@dataclass(frozen=True)
class Refusal:
    """Why a file, or one frame of it, was not taken.

    Attributes:
        outcome: A label of :data:`OUTCOMES`.
        reason: One sentence.
    """

    outcome: str
    reason: str


def now_utc() -> datetime:
    """Return the time of the clock."""
    return datetime.now(UTC)


class Ingest:
    """Watches the inboxes and archives what comes, one file after the other.

    Nothing is lost at any point: a file leaves the inbox only after each of its frames is durable in the
    archive, or the file itself lies in quarantine beside the reason. Killed in between, it is taken again.
    """

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry,
        bus: Bus | None = None,
        *,
        reader: SandboxedReader | None = None,
        clock: Callable[[], datetime] = now_utc,
    ) -> None:
        self._settings, self._telemetry, self._bus, self._clock = settings, telemetry, bus, clock
        self._archive = Archive(settings.folder.archive)
        self._reader = reader or SandboxedReader(
            seconds=settings.read_seconds, memory_mb=settings.read_memory_mb, preexec=die_with_parent
        )
        self._domains = dict(settings.domains)
        self._not_before: dict[Path, float] = {}
        self._outlived: set[Path] = set()  # files whose reader has died once
        self._ignored: dict[Path, str] = {}
        self._next_look, self._paused = 0.0, False

    def prepare(self) -> None:
        """Create the inboxes, remove what a killed predecessor left unfinished, start the reading process."""
        for name in self._domains:
            durable.make_folder(self._settings.folder.inbox(name))
        self._settings.sweep(self._settings.folder.archive)
        self._reader.warm_up()

    def close(self) -> None:
        """Stop the reading process."""
        self._reader.close()

    def poll(self, stop: threading.Event | None = None) -> int:
        """Take every complete file that waits in an inbox, until ``stop``, and return how many were.

        Nothing is taken while the disk has less than its reserve: the files wait.
        """
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._tell_ignored()
            self._pause_without_room()
        taken = 0
        for name in self._domains if not self._paused else ():
            for path in self._waiting(name):
                if stop is not None and stop.is_set():
                    return taken
                try:
                    self.take(name, path)
                    taken += 1
                except errors.StorageError as error:
                    log.error("%s stays in the inbox: %s", path.name, error)
                    self._not_before[path] = time.monotonic() + RETRY_SECONDS
        return taken

    def take(self, domain_name: str, path: Path) -> Counter[str]:
        """Archive the frames of one file and return how many had which outcome.

        The file is gone from the inbox afterwards, unless it may still be growing.

        Raises:
            StorageError: If the disk refuses; the file stays where it is.
        """
        arrived = _arrival(path)
        outcomes: Counter[str] = Counter()
        refusals: list[Refusal] = []
        try:
            with closing(self._frames(domain_name, path)) as frames:
                for raw in frames:
                    try:
                        outcomes[self._take_frame(domain_name, raw, arrived)] += 1
                    except errors.FrameRejected as error:
                        refusals.append(Refusal(OUTCOMES[type(error)], str(error)))
            if not outcomes and not refusals:
                refusals.append(Refusal("empty", f"{path.name}: holds no frame"))
        except errors.InputError as error:
            if self._is_worth_another_try(path, error):
                self._not_before[path] = time.monotonic() + RETRY_SECONDS
                return self._counted(domain_name, outcomes)
            refusals.append(Refusal(OUTCOMES[type(error)], str(error)))
        self._leave_inbox(domain_name, path, refusals)
        self._outlived.discard(path)
        outcomes.update(refusal.outcome for refusal in refusals)
        return self._counted(domain_name, outcomes)

    def _is_worth_another_try(self, path: Path, error: errors.InputError) -> bool:
        """Return whether a file may be read the next time: it may still grow, or its reader was killed once.

        A reader that dies twice over a file dies of it.
        """
        if isinstance(error, errors.ReaderDied) and path not in self._outlived:
            self._outlived.add(path)
            return True
        return isinstance(error, errors.UnreadableFile | errors.UnknownFormat) and self._may_still_grow(path)

    def _pause_without_room(self) -> None:
        paused = not has_room(self._settings)
        if paused != self._paused:
            reserve = f"{self._settings.reserve_mb} MiB"
            if paused:
                log.error("less than %s are free on the disk: new files wait in the inbox", reserve)
            else:
                log.warning("the disk has its %s again: files are taken from the inbox", reserve)
        self._paused = paused
        self._telemetry.ingest_paused.set(paused)

    def _tell_ignored(self) -> None:
        """Say once of each entry of the inbox that it is no file of a domain, and count them."""
        ignored = ignored_entries(self._settings.folder.inbox(""), self._domains)
        for path, kind in ignored.items():
            if path not in self._ignored:
                log.warning("%s is left alone: %s", path.relative_to(self._settings.data_dir), IGNORED[kind])
        self._ignored = ignored
        counts = Counter(ignored.values())
        for kind in IGNORED:
            self._telemetry.inbox_ignored.labels(kind).set(counts[kind])

    def _counted(self, domain_name: str, outcomes: Counter[str]) -> Counter[str]:
        for outcome, count in outcomes.items():
            self._telemetry.frames.labels(domain_name, outcome).inc(count)
        return outcomes

    def _frames(self, name: str, path: Path) -> Generator[RawFrame]:
        declared = declared_in(self._domains[name])
        with closing(self._reader.read(path, declared)) as frames:
            while True:
                with self._telemetry.timed("read", name):
                    raw = next(frames, None)
                if raw is None:
                    return
                yield raw

    def _take_frame(self, name: str, raw: RawFrame, arrived: float) -> str:
        domain = self._domain(name)
        ahead = raw.time - self._clock()
        if ahead > timedelta(minutes=domain.future_minutes):
            raise errors.FutureFrame(
                f"{raw.source}: claims {raw.time:%Y-%m-%dT%H:%M:%SZ}, {ahead / timedelta(minutes=1):.0f} "
                f"minutes ahead of the clock; at most {domain.future_minutes} are allowed"
            )
        with self._telemetry.timed("normalise", name):
            frame = normalise(raw, domain)
        newest = self._archive.newest(name)
        with self._telemetry.timed("archive", name):
            is_new = self._archive.add(name, frame)
        moment = time_of(frame)
        self._announce(name, moment, arrived)
        if not is_new:
            return "duplicate"
        if newest is None or moment > newest:
            log.info(
                "%s %s archived", name, dates.iso(moment), extra={"domain": name, "time": dates.iso(moment)}
            )
            return "archived"
        late = newest - moment > timedelta(minutes=domain.backfill_minutes)
        how = "late" if late else "out of order"
        fields = {"domain": name, "time": dates.iso(moment)}
        log.info("%s %s archived, %s", name, dates.iso(moment), how, extra=fields)
        return "late" if late else "out_of_order"

    def _domain(self, name: str) -> Domain:
        domain = self._domains[name]
        if domain.grid is None and (grid := self._archive.grid(name)) is not None:
            domain = self._domains[name] = replace(domain, grid=grid)
        return domain

    def _announce(self, name: str, moment: datetime, arrived: float) -> None:
        if self._bus is None:
            return
        try:
            self._bus.publish(FRAMES, domain=name, time=moment.isoformat(), arrived=f"{arrived:.3f}")
        except errors.BusError as error:
            log.warning("%s %s is archived but not announced: %s", name, dates.iso(moment), error)

    def _waiting(self, name: str) -> list[Path]:
        now, tick = time.time(), time.monotonic()
        waiting: list[Path] = []
        if self._settings.folder.inbox(name).is_symlink():
            return waiting
        try:
            with os.scandir(self._settings.folder.inbox(name)) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.lower().endswith(UNFINISHED):
                        continue
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    path = Path(entry.path)
                    settled = now - entry.stat().st_mtime >= SETTLED_SECONDS
                    if settled and self._not_before.get(path, 0.0) <= tick:
                        waiting.append(path)
        except FileNotFoundError:
            durable.make_folder(self._settings.folder.inbox(name))
        return sorted(waiting)

    @staticmethod
    def _may_still_grow(path: Path) -> bool:
        try:
            return time.time() - path.stat().st_mtime < PATIENCE_SECONDS
        except FileNotFoundError:
            return False

    def _leave_inbox(self, name: str, path: Path, refusals: list[Refusal]) -> None:
        self._not_before.pop(path, None)
        if not refusals:
            durable.remove(path)
            return
        target = quarantine_place(self._settings.folder.quarantine(name), path)
        fields = {"domain": name, "file": path.name}
        log.warning("%s goes to quarantine: %s", path.name, refusals[0].reason, extra=fields)
        note = {
            "file": path.name,
            "time": dates.iso(self._clock()),
            "refusals": [
                {"outcome": refusal.outcome, "reason": refusal.reason} for refusal in refusals[:1000]
            ],
        }
        durable.make_folder(target.parent)
        durable.write_json(target.with_name(target.name + ".json"), note)
        try:
            path.replace(target)
        except FileNotFoundError:
            log.warning("%s vanished from the inbox", path.name)
        except OSError as error:
            raise durable.storage_error("move into quarantine", path, error) from error


def ignored_entries(inbox: Path, domains: Collection[str]) -> dict[Path, str]:
    """Return what lies in the inbox and is never taken, by its kind in :data:`IGNORED`; follows no link."""
    ignored: dict[Path, str] = {}
    for entry in _entries(inbox):
        if entry.is_symlink():
            ignored[Path(entry.path)] = "symlink"
        elif not entry.is_dir() or entry.name not in domains:
            ignored[Path(entry.path)] = "no_domain"
        else:
            for inner in _entries(Path(entry.path)):
                if inner.is_symlink():
                    ignored[Path(inner.path)] = "symlink"
                elif not inner.is_file(follow_symlinks=False):
                    ignored[Path(inner.path)] = "folder" if inner.is_dir() else "special"
    return ignored


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []


def quarantine_place(folder: Path, path: Path) -> Path:
    """Return where in quarantine a file goes: its name, numbered if an earlier file has taken it."""
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    return target


def _arrival(path: Path) -> float:
    try:
        return (
            path.stat().st_ctime
        )  # when it got its name here, which a copied or moved file's mtime does not tell
    except FileNotFoundError:
        return time.time()
