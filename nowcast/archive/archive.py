"""The radar archive: every frame ever taken in, one immutable file each, gathered into one cube a day."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import xarray as xr

from nowcast.archive import format as archive_format
from nowcast.disk import files, netcdf
from nowcast.errors import DuplicateFrame, NoFrame, StorageError, UnknownDomain, UnreadableFile, WrongGrid
from nowcast.frame.frame import grid_of, time_of
from nowcast.frame.grid import Grid

log = logging.getLogger(__name__)

#: A domain's name is a folder's name: nothing in it may lead elsewhere.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class _Day:
    """What a day's cube says about itself: times in order, and the content hash of each."""

    times: tuple[datetime, ...]
    digests: tuple[str, ...]


class Archive:
    """Frames on disk: ``root/<domain>/YYYY/MM/DD/`` has a file each, ``YYYY/MM/`` a cube of a past day.

    A frame is never changed: the same content again counts as known, other content of a known time is
    refused. All frames of a domain lie on the grid of its first. Processes may add, read and compact at once.
    """

    def __init__(self, root: Path) -> None:
        """Use the folder ``root``; it is made when the first frame is added."""
        self.root = root
        self._grids: dict[str, Grid] = {}
        self._days: dict[Path, tuple[tuple[int, int], _Day]] = {}

    def add(self, domain: str, frame: xr.DataArray) -> bool:
        """Keep a frame ``reflectivity(y, x)`` [dBZ]; return whether it is new.

        When this returns, the frame is on the disk: a crash or power cut does not lose it.

        Raises:
            DuplicateFrame: If another frame of its time is kept already.
            WrongGrid: If the domain's frames lie on another grid.
            StorageError: If the disk refuses; nothing is left behind.
        """
        time = time_of(frame)
        grid = self._pinned(domain, grid_of(frame))
        packed = netcdf.pack(frame.values)
        digest = archive_format.digest_of(packed, time)
        path = self._frame_path(domain, time)
        try:
            if self._is_known(domain, time, digest):
                return False
        except UnreadableFile as error:  # a damaged file must not keep a sound frame out
            log.warning("%s; it is set aside and replaced", error)
            files.set_aside(path)
        content = archive_format.frame_file(domain, time, grid, packed, digest, frame.attrs)
        try:
            files.write_bytes(path, content, exclusive=True)
        except FileExistsError:  # another process was faster
            return not self._is_known(domain, time, digest)
        if self._compacted(domain, time, digest):  # while this file was written, by another process
            files.remove(path)
            return False
        self._grids.setdefault(domain, grid)
        return True

    def times(
        self, domain: str, start: datetime | None = None, end: datetime | None = None
    ) -> list[datetime]:
        """Return the times of the frames kept from ``start`` to ``end``, both included, in order.

        A damaged day cube cannot tell its times: it is logged and left out, see :meth:`damaged`.
        """
        found: set[datetime] = set()
        for day in self._stored_days(domain, start, end):
            found.update(self._times_of_day(domain, day))
        return sorted(time for time in found if (not start or time >= start) and (not end or time <= end))

    def newest(self, domain: str) -> datetime | None:
        """Return the time of the newest frame, ``None`` if there is none."""
        for day in self._stored_days(domain, newest_first=True):
            if times := self._times_of_day(domain, day):
                return max(times)
        return None

    def has(self, domain: str, time: datetime) -> bool:
        """Return whether a frame of that time is kept."""
        return self._frame_path(domain, time).exists() or time in self._times_in_cube(domain, time)

    def path(self, domain: str, time: datetime) -> Path:
        """Return the file that holds a frame: its own, or its day's cube.

        Raises:
            NoFrame: If none of that time is kept.
        """
        own = self._frame_path(domain, time)
        if own.exists():
            return own
        cube = self._cube_path(domain, time)
        if time in self._day(cube).times:
            return cube
        raise _no_frame(domain, time)

    def load(self, domain: str, time: datetime) -> xr.DataArray:
        """Return a frame ``reflectivity(y, x)`` [dBZ] as it was added, to half a hundredth of a dBZ.

        Raises:
            NoFrame: If none of that time is kept.
            UnreadableFile: If its file is damaged.
            StorageError: If the disk refuses.
        """
        try:
            return archive_format.load_frame(self._frame_path(domain, time), time)
        except FileNotFoundError:
            frame = self._load_from_cube(domain, time)
            if frame is None:
                raise _no_frame(domain, time) from None
            return frame
        except UnreadableFile:
            # Its cube has it too if compaction was killed before it removed the file.
            frame = self._load_from_cube(domain, time)
            if frame is None:
                raise
            return frame

    def domains(self) -> list[str]:
        """Return the names of the domains that have a folder here."""
        names = files.listing(self.root)
        return sorted(name for name in names if _NAME.fullmatch(name) and (self.root / name).is_dir())

    def grid(self, domain: str) -> Grid | None:
        """Return the grid all frames of a domain lie on, ``None`` while there is none that can be read."""
        if domain not in self._grids:
            for day in self._stored_days(domain, newest_first=True):
                if grid := self._grid_of_day(domain, day):
                    self._grids[domain] = grid
                    break
        return self._grids.get(domain)

    def damaged(self, domain: str) -> Iterator[tuple[Path, str]]:
        """Read every file of a domain and yield those that are not what was written, with what is wrong."""
        for day in self._stored_days(domain):
            paths = [self._frame_path(domain, time) for time in self._frame_times(domain, day)]
            cube = self._cube_path(domain, day)
            for path in [*paths, *([cube] if cube.exists() else [])]:
                try:
                    archive_format.verify(path)
                except FileNotFoundError:  # compacted meanwhile, hence verified
                    continue
                except (UnreadableFile, StorageError) as error:
                    yield path, str(error)

    def compact(self, domain: str, day: date) -> Path | None:
        """Gather the frames of a UTC day into its cube and remove their files; return the cube, if any.

        Before the first file goes, the cube is complete, verified against the hash of each frame and on the
        disk. Killed at any point, every frame is still there, and compacting again finishes the work. Late
        frames of a day compacted before are merged.

        Raises:
            UnreadableFile: If a frame or the earlier cube is damaged; nothing is removed.
            DuplicateFrame: If a file and the cube hold different frames of one time; nothing is removed.
            StorageError: If the disk refuses; nothing is removed.
        """
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        cube = self._cube_path(domain, noon)
        if not self._folder(domain).is_dir():
            return None
        with files.locked(self._folder(domain) / ".compact.lock"):
            earlier = self._day(cube)
            digests = dict(zip(earlier.times, earlier.digests, strict=True))
            frames = {time: self._frame_path(domain, time) for time in self._frame_times(domain, noon)}
            late = {}
            for time, path in frames.items():
                with netcdf.reading(path) as file:
                    digest = str(netcdf.attributes_of(file)["content_sha256"])
                if digests.setdefault(time, digest) != digest:
                    raise DuplicateFrame(f"{path} and {cube} hold different frames of one time; remove one")
                if time not in earlier.times:
                    late[time] = path
            if late:
                archive_format.write_cube(cube, domain, late)
            elif frames:  # left by a compaction that was killed
                archive_format.verify(cube)
            for path in frames.values():
                files.remove(path)
        return cube if digests else None

    def export(
        self, domain: str, target: Path, start: datetime | None = None, end: datetime | None = None
    ) -> int:
        """Write the frames from ``start`` to ``end`` as a Zarr store for training; return how many.

        One chunk holds one time. The store appears when it is complete; one frame is in memory at a time.

        Raises:
            MissingExtra: If the package ``zarr`` is not installed.
            NoFrame: If there is no frame to write.
            StorageError: If ``target`` exists, or the disk refuses.
            UnreadableFile: If a frame is damaged.
        """
        times = self.times(domain, start, end)
        if not times:
            raise NoFrame(f"domain {domain!r} has no frame in that period to export")
        archive_format.write_zarr(target, domain, times, (self.load(domain, time) for time in times))
        return len(times)

    def _load_from_cube(self, domain: str, time: datetime) -> xr.DataArray | None:
        try:
            return archive_format.load_from_cube(self._cube_path(domain, time), time)
        except FileNotFoundError:
            return None

    def _pinned(self, domain: str, grid: Grid) -> Grid:
        pinned = self.grid(domain)
        if pinned is not None and not pinned.matches(grid):
            raise WrongGrid(f"the archive of domain {domain!r} has {pinned}; got {grid}")
        return pinned or grid

    def _is_known(self, domain: str, time: datetime, digest: str) -> bool:
        """Return whether this very frame is kept; raises DuplicateFrame if another of its time is."""
        try:
            with netcdf.reading(self._frame_path(domain, time)) as file:
                kept = netcdf.attributes_of(file)["content_sha256"]
        except FileNotFoundError:
            return self._compacted(domain, time, digest)
        if kept != digest:
            raise _duplicate(domain, time)
        return True

    def _compacted(self, domain: str, time: datetime, digest: str) -> bool:
        try:
            day = self._day(self._cube_path(domain, time))
        except UnreadableFile as error:  # what it held can be added again
            log.warning("%s", error)
            return False
        if time not in day.times:
            return False
        if day.digests[day.times.index(time)] != digest:
            raise _duplicate(domain, time)
        return True

    def _folder(self, domain: str) -> Path:
        if not _NAME.fullmatch(domain):
            raise UnknownDomain(f"a domain's name has letters, digits, '-' and '_' only, got {domain!r}")
        return self.root / domain

    def _frame_path(self, domain: str, time: datetime) -> Path:
        return files.day_folder(self._folder(domain), time) / f"{domain}_{files.stamp(time)}.nc"

    def _cube_path(self, domain: str, time: datetime) -> Path:
        return files.day_folder(self._folder(domain), time).parent / f"{domain}_{files.stamp(time)[:8]}.nc"

    def _stored_days(
        self,
        domain: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[datetime]:
        """Yield the midnight of each day that may hold frames; foreign names are passed over."""
        folder = self._folder(domain)
        for month, path in files.month_folders(folder, start, end, newest_first=newest_first):
            names = files.listing(path)
            days = {month + name for name in names if len(name) == 2}
            days |= {name[-11:-3] for name in names if name.startswith(f"{domain}_") and name.endswith(".nc")}
            yield from files.midnights(days, start, end, newest_first=newest_first)

    def _times_of_day(self, domain: str, day: datetime) -> set[datetime]:
        return {*self._frame_times(domain, day), *self._times_in_cube(domain, day)}

    def _frame_times(self, domain: str, day: datetime) -> list[datetime]:
        """Return the times that have a file of their own."""
        start = f"{domain}_{files.stamp(day)[:8]}T"
        names = files.listing(files.day_folder(self._folder(domain), day))
        ours = (name for name in names if name.startswith(start) and name.endswith(".nc"))
        return sorted(filter(None, (files.parse_stamp(name[len(domain) + 1 : -3]) for name in ours)))

    def _times_in_cube(self, domain: str, day: datetime) -> tuple[datetime, ...]:
        try:
            return self._day(self._cube_path(domain, day)).times
        except (UnreadableFile, StorageError) as error:
            log.warning("left out: %s", error)
            return ()

    def _grid_of_day(self, domain: str, day: datetime) -> Grid | None:
        frames = (self._frame_path(domain, time) for time in reversed(self._frame_times(domain, day)))
        for path in [*frames, self._cube_path(domain, day)]:
            try:
                with netcdf.reading(path) as file:
                    return netcdf.grid_in(file)
            except FileNotFoundError:
                continue
            except (UnreadableFile, StorageError) as error:
                log.warning("left out: %s", error)
        return None

    def _day(self, cube: Path) -> _Day:
        """Return the index of a day's cube, empty if there is none; kept until the file is replaced."""
        try:
            status = cube.stat()
        except FileNotFoundError:
            return _Day((), ())
        version = (status.st_ino, status.st_mtime_ns)
        known = self._days.get(cube)
        if known is None or known[0] != version:
            with netcdf.reading(cube) as file:
                times = tuple(netcdf.times_of(file["time"]))
                known = version, _Day(times, tuple(file["content_sha256"].asstr()[()]))
            self._days[cube] = known
        return known[1]


def _no_frame(domain: str, time: datetime) -> NoFrame:
    return NoFrame(f"domain {domain!r} has no frame of {files.iso(time)}")


def _duplicate(domain: str, time: datetime) -> DuplicateFrame:
    return DuplicateFrame(f"domain {domain!r} keeps another frame of {files.iso(time)} already")
