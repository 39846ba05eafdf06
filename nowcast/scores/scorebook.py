"""The score book: what every forecast scored, one small file per valid time, gathered into one file a day."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from nowcast.disk import durable
from nowcast.disk.dated_tree import DatedTree
from nowcast.disk.memo import Memo, version_of
from nowcast.errors import UnreadableFile
from nowcast.scores.scorefile import (
    DayTable,
    ModelLead,
    Pair,
    Scores,
    read_day,
    read_day_sums,
    read_time,
    write_day,
    write_time,
)
from nowcast.scores.tally import Tally

__all__ = ["ModelLead", "Pair", "ScoreBook", "Scores"]

log = logging.getLogger(__name__)

_DAY = timedelta(days=1)


class ScoreBook:
    """Scores on disk under ``root/<domain>/YYYY/MM``: ``DD/<valid time>.json``, compacted one file a day.

    Scores of a valid time are replaced as a whole when further forecasts of it are scored. Any number of
    processes may save, read and compact; readers take no lock and need no right to write. A file of its own
    says more than, and stands before, what a day's file says of the same valid time.
    """

    def __init__(self, root: Path, *, cached_days: int = 400) -> None:
        """Use the folder ``root``; it is made when the first scores are saved.

        Args:
            root: Folder of the score book.
            cached_days: Days whose sums are kept in memory (about 30 kB each).
        """
        self.root = root
        self._tree = DatedTree(root, suffix=".json", day_suffix=".jsonl.gz", named_by_domain=False)
        self._summaries: Memo[list[tuple[ModelLead, Tally]]] = Memo(cached_days)
        self._pairs: Memo[list[Pair]] = Memo(cached_days)
        self._tables: Memo[DayTable] = Memo(4)  # about 3 MB each

    def save(self, domain: str, valid_time: datetime, scores: Mapping[ModelLead, Tally]) -> None:
        """Keep what forecasts of ``valid_time`` scored, beside what others of it scored before.

        Saving the same scores again changes nothing; of one model and lead time the later scores stand.

        Raises:
            StorageError: If the disk refuses; what was kept before is as it was.
        """
        with self._locked(domain):
            merged = {**self._at(domain, valid_time), **scores}
            write_time(self._tree.file(domain, valid_time), valid_time, merged)

    def scored(self, domain: str, valid_time: datetime) -> set[ModelLead]:
        """Return models and lead times [minutes] whose forecasts of ``valid_time`` are scored.

        Scores whose file is damaged do not count, so that they are made again.
        """
        return set(self._at(domain, valid_time))

    def pooled(
        self,
        domain: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        model: str | None = None,
        lead_minutes: int | None = None,
    ) -> Scores:
        """Return the sums over all valid times from ``start`` to ``end``, both included.

        Scores made with other thresholds or windows than the newest of their model and lead time cannot be
        added to those, and are left out. Damaged files are logged and left out, see :meth:`damaged`.

        Raises:
            StorageError: If the disk refuses.
        """
        pooled: Scores = {}
        left_out = 0
        for day in self._tree.days(domain, start, end, newest_first=True):
            is_whole = (start is None or start <= day) and (
                end is None or day + _DAY <= end + timedelta(seconds=1)
            )
            of_day = self._summary(domain, day) if is_whole else self._table(domain, day).pooled(start, end)
            for key, tally in of_day:
                if model not in (None, key[0]) or lead_minutes not in (None, key[1]):
                    continue
                newer = pooled.get(key)
                if newer is None or newer.is_like(tally):
                    pooled[key] = tally if newer is None else newer + tally
                else:
                    left_out += tally.forecasts
        if left_out:
            log.info("%s: %d forecasts scored at other thresholds or windows are left out", domain, left_out)
        return pooled

    def paired(self, domain: str, reference: str, start: datetime, end: datetime) -> Iterator[list[Pair]]:
        """Yield the sums of every method beside those of a reference, day by day, the oldest first.

        Both are over the valid times from ``start`` to ``end``, both included, that both have scores of, at
        the same lead time and thresholds.

        Raises:
            StorageError: If the disk refuses.
        """
        for day in self._tree.days(domain, start, end):
            if start <= day and day + _DAY <= end:
                yield self._whole_day(domain, reference, day)
            else:
                yield self._table(domain, day).paired(reference, start, end)

    def loose_days(self, domain: str, end: datetime) -> list[date]:
        """Return the UTC days up to ``end`` that have scores outside their day's file, in order."""
        return [midnight.date() for midnight in self._tree.loose_days(domain, end)]

    def compact(self, domain: str, day: date) -> Path | None:
        """Gather the scores of a UTC day into one file; return it, ``None`` if there are none.

        The file is complete and on the disk before the first of those it replaces goes; killed at any point,
        compacting again finishes the work. Later scores of the day are merged when it is compacted again.
        Damaged files of single valid times are logged and left where they are.

        Raises:
            UnreadableFile: If the day's earlier file is damaged; nothing is changed.
            StorageError: If the disk refuses.
        """
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        target = self._tree.day_file(domain, midnight)
        with self._locked(domain):
            paths = self._own_files(domain, midnight)
            own = {time: scores for time, path in paths.items() if (scores := _read_or_log(path)) is not None}
            if own:
                earlier = read_day(target).scores() if target.exists() else {}
                write_day(target, DayTable.of({**earlier, **own}))
            for time in own:
                _unlink(paths[time])
            with suppress(OSError):  # a damaged file, or a stranger's, is still in it
                self._tree.day_folder(domain, midnight).rmdir()
        return target if target.exists() else None

    def damaged(self, domain: str) -> Iterator[tuple[Path, str]]:
        """Yield each file of a domain that cannot be read, with what is wrong; reads everything."""
        for day in self._tree.days(domain):
            readers: dict[Path, Callable[[Path], object]]
            readers = dict.fromkeys(self._own_files(domain, day).values(), read_time)
            readers[self._tree.day_file(domain, day)] = lambda path: (read_day_sums(path), read_day(path))
            for path, read in readers.items():
                try:
                    read(path)
                except FileNotFoundError:
                    continue
                except UnreadableFile as error:
                    yield path, str(error)

    def _locked(self, domain: str) -> AbstractContextManager[None]:
        return durable.locked(self._tree.folder(domain) / ".scores.lock")

    def _at(self, domain: str, valid_time: datetime) -> Scores:
        """Return the scores of one valid time."""
        own = _read_or_log(self._tree.file(domain, valid_time))
        if own is not None:
            return own
        return dict(self._compacted(domain, valid_time).pooled(valid_time, valid_time))

    def _summary(self, domain: str, day: datetime) -> list[tuple[ModelLead, Tally]]:
        """Return the sums over a whole day."""
        path = self._tree.day_file(domain, day)
        own = self._own_files(domain, day)

        def make() -> list[tuple[ModelLead, Tally]]:
            if not own:
                try:
                    return read_day_sums(path)
                except (FileNotFoundError, UnreadableFile) as error:
                    log.warning("left out: %s", error)
            return self._table(domain, day).pooled()

        return self._summaries.get(path, version_of(path, *own.values()), make)

    def _whole_day(self, domain: str, reference: str, day: datetime) -> list[Pair]:
        """Return the sums of :meth:`paired` over a whole day."""
        path = self._tree.day_file(domain, day)
        version = version_of(path, *self._own_files(domain, day).values())
        return self._pairs.get((path, reference), version, lambda: self._table(domain, day).paired(reference))

    def _table(self, domain: str, day: datetime) -> DayTable:
        """Return all scores of a day."""
        own = self._own_files(domain, day)
        if not own:
            return self._compacted(domain, day)
        version = version_of(self._tree.day_file(domain, day), *own.values())
        folder = self._tree.day_folder(domain, day)
        return self._tables.get(folder, version, lambda: self._gathered(domain, day, own))

    def _compacted(self, domain: str, day: datetime) -> DayTable:
        """Return the scores in a day's file, empty if there is none; damage is logged."""
        path = self._tree.day_file(domain, day)
        return self._tables.get(path, version_of(path), lambda: _read_day_or_log(path))

    def _gathered(self, domain: str, day: datetime, own: Mapping[datetime, Path]) -> DayTable:
        """Return the scores in single files and in the day's file; what is damaged is logged and left out."""
        scores = {time: kept for time, path in own.items() if (kept := _read_or_log(path)) is not None}
        # Only now: a file that went just now is in the day's file, which was there before the file went.
        return DayTable.of({**_read_day_or_log(self._tree.day_file(domain, day)).scores(), **scores})

    def _own_files(self, domain: str, day: datetime) -> dict[datetime, Path]:
        """Return the valid times that have a file of their own, in order."""
        return {scores.time: scores.path for scores in self._tree.files_of_day(domain, day)}


def _read_or_log(path: Path) -> Scores | None:
    """Return the scores of one valid time; ``None`` if there are none, or damaged ones, which is logged."""
    try:
        return read_time(path)
    except FileNotFoundError:
        return None
    except UnreadableFile as error:
        log.warning("left out: %s", error)
        return None


def _read_day_or_log(path: Path) -> DayTable:
    """Return the scores of a day's file, empty if there is none or it is damaged, which is logged."""
    try:
        return read_day(path)
    except FileNotFoundError:
        return DayTable()
    except UnreadableFile as error:
        log.warning("left out: %s", error)
        return DayTable()


def _unlink(path: Path) -> None:
    """Remove a file whose scores are in the day's file; should a power cut bring it back, no harm is done."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise durable.storage_error("remove", path, error) from error
