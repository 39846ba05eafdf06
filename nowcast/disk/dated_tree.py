"""Files of domains by their UTC time: where each lies, and which there are in a span of time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from nowcast.disk import durable
from nowcast.disk.dates import parse_stamp, stamp
from nowcast.errors import UnknownDomain

_DAY = timedelta(days=1)

#: A domain's name is a folder's name: nothing in it may lead elsewhere.
_DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

#: Characters of a time in a file's name.
_STAMP_LENGTH = 16


class DatedFile(NamedTuple):
    """A file of a time of its own.

    Attributes:
        time: The time, UTC.
        label: What tells the files of one time apart, ``""`` where there is but one.
        folder: Where it is.
        name: What it is called.
    """

    time: datetime
    label: str
    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """Folder and name; made when asked for, as it takes longer than all the rest of a listing."""
        return self.folder / self.name


@dataclass(frozen=True)
class DatedTree:
    """Files under ``root/<domain>``: in ``YYYY/MM/DD`` one per time, in ``YYYY/MM`` one that gathers a day.

    A time's file is called ``<domain>_<time>_<label><suffix>``, a day's ``<domain>_YYYYMMDD<day_suffix>``.
    Foreign names are passed over, so are partial files. Nothing is kept in memory: what is listed is there.

    Attributes:
        root: Folder of all domains.
        suffix: Ending of the file of a time.
        day_suffix: Ending of the file that gathers a day; ``""`` if days are not gathered.
        named_by_domain: Whether the name of a time's file begins with the domain's.
        labelled: Whether there may be several files of a time, told apart by a label.
    """

    root: Path
    suffix: str
    day_suffix: str = ""
    named_by_domain: bool = True
    labelled: bool = False

    def domains(self) -> list[str]:
        """Return the names of the domains that have a folder here."""
        names = durable.listing(self.root)
        return sorted(name for name in names if _DOMAIN_NAME.fullmatch(name) and (self.root / name).is_dir())

    def folder(self, domain: str) -> Path:
        """Return the folder of a domain.

        Raises:
            UnknownDomain: If the name is no folder's.
        """
        if not _DOMAIN_NAME.fullmatch(domain):
            raise UnknownDomain(f"a domain's name has letters, digits, '-' and '_' only, got {domain!r}")
        return self.root / domain

    def day_folder(self, domain: str, time: datetime) -> Path:
        """Return the folder that has the files of a time's day (UTC) one by one."""
        return self.folder(domain) / time.astimezone(UTC).strftime("%Y/%m/%d")

    def file(self, domain: str, time: datetime, label: str = "") -> Path:
        """Return where the file of a time is, or would be."""
        name = f"{self._head(domain)}{stamp(time)}{'_' if label else ''}{label}{self.suffix}"
        return self.day_folder(domain, time) / name

    def day_file(self, domain: str, time: datetime) -> Path:
        """Return where the file is that gathers a time's day (UTC), or would be."""
        return self.day_folder(domain, time).parent / f"{domain}_{stamp(time)[:8]}{self.day_suffix}"

    def days(
        self,
        domain: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[datetime]:
        """Yield in order the midnight of each day there is that has a moment from ``start`` to ``end``.

        A month is listed when its first day is asked for, and a day's folder not at all.

        Raises:
            StorageError: If the disk refuses.
        """
        for month, folder in self._months(domain, start, end, newest_first):
            names = durable.listing(folder)
            days = {month + name for name in names if len(name) == 2}
            if self.day_suffix:
                head, tail = len(domain) + 1, -len(self.day_suffix)
                gathered = (name for name in names if name.endswith(self.day_suffix))
                days.update(name[head:tail] for name in gathered if name.startswith(f"{domain}_{month}"))
            yield from _midnights(days, start, end, newest_first)

    def loose_days(self, domain: str, end: datetime | None = None) -> Iterator[datetime]:
        """Yield in order the midnight of each day up to ``end`` that has files not gathered yet.

        Raises:
            StorageError: If the disk refuses.
        """
        for day in self.days(domain, end=end):
            if self.files_of_day(domain, day):
                yield day

    def files_of_day(self, domain: str, day: datetime, *, newest_first: bool = False) -> list[DatedFile]:
        """Return the files of a day's (UTC) times, by time and label.

        Raises:
            StorageError: If the disk refuses.
        """
        folder, head = self.day_folder(domain, day), self._head(domain)
        start, begin, end = f"{head}{stamp(day)[:8]}T", len(head), len(head) + _STAMP_LENGTH
        suffix, tail, labelled = self.suffix, -len(self.suffix), self.labelled
        ours = []
        for name in sorted(durable.listing(folder), reverse=newest_first):
            label = name[end:tail]
            if (label[:1] == "_") is labelled and name.startswith(start) and name.endswith(suffix):
                time = parse_stamp(name[begin:end])
                if time is not None and (labelled or not label):
                    ours.append(DatedFile(time, label[1:], folder, name))
        return ours

    def _head(self, domain: str) -> str:
        return f"{domain}_" if self.named_by_domain else ""

    def _months(
        self, domain: str, start: datetime | None, end: datetime | None, newest_first: bool
    ) -> Iterator[tuple[str, Path]]:
        """Yield ``("YYYYMM", <domain>/YYYY/MM)`` of the months from ``start`` to ``end``, in order."""
        root = self.folder(domain)
        first = start.astimezone(UTC).strftime("%Y%m") if start else ""
        last = end.astimezone(UTC).strftime("%Y%m") if end else "~"
        for year in sorted(_numbers(root, 4), reverse=newest_first):
            if first[:4] <= year <= last[:4]:
                for month in sorted(_numbers(root / year, 2), reverse=newest_first):
                    if first <= year + month <= last:
                        yield year + month, root / year / month


def _numbers(folder: Path, length: int) -> list[str]:
    return [name for name in durable.listing(folder) if len(name) == length and name.isdecimal()]


def _midnights(
    days: set[str], start: datetime | None, end: datetime | None, newest_first: bool
) -> list[datetime]:
    """Return the midnight of each ``YYYYMMDD`` that has a moment from ``start`` to ``end``, in order."""
    midnights = filter(None, (parse_stamp(f"{day}T000000Z") for day in days))
    wanted = (
        midnight
        for midnight in midnights
        if (start is None or midnight + _DAY > start) and (end is None or midnight <= end)
    )
    return sorted(wanted, reverse=newest_first)
