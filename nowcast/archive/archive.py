"""The radar archive: every frame ever taken in, one immutable file each, gathered into one cube a day."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import xarray as xr

from nowcast.archive import format as archive_format
from nowcast.disk import durable, netcdf
from nowcast.disk.dated_tree import DatedTree
from nowcast.disk.dates import iso
from nowcast.disk.memo import Memo, version_of
from nowcast.errors import DuplicateFrame, NoFrame, StorageError, UnreadableFile, WrongGrid
from nowcast.frame.frame import grid_of, time_of
from nowcast.frame.grid import Grid

log = logging.getLogger(__name__)

#: Day cubes whose times are kept in memory: those of eleven years, at most about 16 kB each.
MOST_CUBES = 4000


class Archive:
    """Frames on disk: ``root/<domain>/YYYY/MM/DD/`` has a file each, ``YYYY/MM/`` a cube of a past day.

    A frame is never changed: the same content again counts as known, other content of a known time is
    refused. All frames of a domain lie on the grid of its first. Processes may add, read and compact at once.
    """

    def __init__(self, root: Path) -> None:
        """Use the folder ``root``; it is made when the first frame is added."""
        self.root = root
        self._tree = DatedTree(root, suffix=".nc", day_suffix=".nc")
        self._grids: dict[str, Grid] = {}
        self._times: Memo[tuple[datetime, ...]] = Memo(MOST_CUBES)

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
        path = self._tree.file(domain, time)
        try:
            if self._is_known(domain, time, digest):
                return False
        except UnreadableFile as error:  # a damaged file must not keep a sound frame out
            log.warning("%s; it is set aside and replaced", error)
            durable.set_aside(path)
        content = archive_format.frame_file(domain, time, grid, packed, digest, frame.attrs)
        try:
            durable.write_bytes(path, content, exclusive=True)
        except FileExistsError:  # another process was faster
            return not self._is_known(domain, time, digest)
        if self._compacted(domain, time, digest):  # while this file was written, by another process
            durable.remove(path)
            return False
        self._grids.setdefault(domain, grid)
        return True

    def times(
        self, domain: str, start: datetime | None = None, end: datetime | None = None
    ) -> list[datetime]:
        """Return the times of the frames kept from ``start`` to ``end``, both included, in order.

        A damaged day cube cannot tell its times: it is logged and left out, see :meth:`damaged`.
        """
        times: list[datetime] = []
        for day in self._tree.days(domain, start, end):
            times += self._times_of_day(domain, day)
        return [time for time in times if (not start or time >= start) and (not end or time <= end)]

    def newest(self, domain: str) -> datetime | None:
        """Return the time of the newest frame, ``None`` if there is none."""
        for day in self._tree.days(domain, newest_first=True):
            if times := self._times_of_day(domain, day):
                return times[-1]
        return None

    def has(self, domain: str, time: datetime) -> bool:
        """Return whether a frame of that time is kept."""
        return self._tree.file(domain, time).exists() or time in self._times_in_cube(domain, time)

    def path(self, domain: str, time: datetime) -> Path:
        """Return the file that holds a frame: its own, or its day's cube.

        Raises:
            NoFrame: If none of that time is kept.
        """
        own = self._tree.file(domain, time)
        if own.exists():
            return own
        cube = self._tree.day_file(domain, time)
        if time in self._cube_times(cube):
            return cube
        raise _no_frame(domain, time)

    def load(self, domain: str, time: datetime) -> xr.DataArray:
        """Return a frame ``reflectivity(y, x)`` [dBZ] as it was added, to half a hundredth of a dBZ.

        Raises:
            NoFrame: If none of that time is kept.
            UnreadableFile: If its file is damaged.
            StorageError: If the disk refuses.
        """
        return self._load(self._tree.file(domain, time), domain, time)

    def _load(self, own: Path, domain: str, time: datetime) -> xr.DataArray:
        """Return the frame of a time that has the file ``own``, or had it before its day was gathered."""
        try:
            return archive_format.load_frame(own, time)
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

    def load_span(self, domain: str, start: datetime, end: datetime) -> list[xr.DataArray]:
        """Return the frames of a span, ends included, oldest first; one whose file is damaged is left out.

        What is left out is logged.

        Raises:
            StorageError: If the disk refuses.
        """
        frames = []
        for day in self._tree.days(domain, start, end):
            own = {frame.time: frame.folder / frame.name for frame in self._tree.files_of_day(domain, day)}
            for time in sorted({*own, *self._times_in_cube(domain, day)}):
                if start <= time <= end:
                    try:
                        path = own.get(time)
                        frames.append(self._load(path, domain, time) if path else self.load(domain, time))
                    except UnreadableFile as error:
                        log.warning("a frame of %s is left out of the history: %s", domain, error)
        return frames

    def domains(self) -> list[str]:
        """Return the names of the domains that have a folder here."""
        return self._tree.domains()

    def grid(self, domain: str) -> Grid | None:
        """Return the grid all frames of a domain lie on, ``None`` while there is none that can be read."""
        if domain not in self._grids:
            for day in self._tree.days(domain, newest_first=True):
                if grid := self._grid_of_day(domain, day):
                    self._grids[domain] = grid
                    break
        return self._grids.get(domain)

    def damaged(self, domain: str) -> Iterator[tuple[Path, str]]:
        """Read every file of a domain and yield those that are not what was written, with what is wrong."""
        for day in self._tree.days(domain):
            paths = [frame.path for frame in self._tree.files_of_day(domain, day)]
            cube = self._tree.day_file(domain, day)
            for path in [*paths, *([cube] if cube.exists() else [])]:
                try:
                    archive_format.verify(path)
                except FileNotFoundError:  # compacted meanwhile, hence verified
                    continue
                except (UnreadableFile, StorageError) as error:
                    yield path, str(error)

    def loose_days(self, domain: str, end: datetime) -> list[date]:
        """Return the UTC days up to ``end`` that have frames outside their cube, in order."""
        return [midnight.date() for midnight in self._tree.loose_days(domain, end)]

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
        cube = self._tree.day_file(domain, noon)
        folder = self._tree.folder(domain)
        if not folder.is_dir():
            return None
        with durable.locked(folder / ".compact.lock"):
            earlier = archive_format.cube_digests(cube)
            digests = dict(earlier)
            frames = {frame.time: frame.path for frame in self._tree.files_of_day(domain, noon)}
            late = {}
            for time, path in frames.items():
                with netcdf.reading(path) as file:
                    digest = str(netcdf.attributes_of(file)["content_sha256"])
                if digests.setdefault(time, digest) != digest:
                    raise DuplicateFrame(f"{path} and {cube} hold different frames of one time; remove one")
                if time not in earlier:
                    late[time] = path
            if late:
                archive_format.write_cube(cube, domain, late)
            elif frames:  # left by a compaction that was killed
                archive_format.verify(cube)
            for path in frames.values():
                durable.remove(path)
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
            return archive_format.load_from_cube(self._tree.day_file(domain, time), time)
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
            with netcdf.reading(self._tree.file(domain, time)) as file:
                kept = netcdf.attributes_of(file)["content_sha256"]
        except FileNotFoundError:
            return self._compacted(domain, time, digest)
        if kept != digest:
            raise _duplicate(domain, time)
        return True

    def _compacted(self, domain: str, time: datetime, digest: str) -> bool:
        try:
            cube = self._tree.day_file(domain, time)
            if time not in self._cube_times(cube):
                return False
            kept = archive_format.cube_digests(cube).get(time)
        except UnreadableFile as error:  # what it held can be added again
            log.warning("%s", error)
            return False
        if kept is None:
            return False
        if kept != digest:
            raise _duplicate(domain, time)
        return True

    def _times_of_day(self, domain: str, day: datetime) -> Sequence[datetime]:
        """Return the times of a day, in order."""
        # Single files first: one that goes meanwhile is in the cube by then.
        own = [frame.time for frame in self._tree.files_of_day(domain, day)]
        gathered = self._times_in_cube(domain, day)
        return sorted({*own, *gathered}) if own and gathered else own or gathered

    def _times_in_cube(self, domain: str, day: datetime) -> tuple[datetime, ...]:
        try:
            return self._cube_times(self._tree.day_file(domain, day))
        except (UnreadableFile, StorageError) as error:
            log.warning("left out: %s", error)
            return ()

    def _grid_of_day(self, domain: str, day: datetime) -> Grid | None:
        frames = self._tree.files_of_day(domain, day, newest_first=True)
        for path in [*(frame.path for frame in frames), self._tree.day_file(domain, day)]:
            try:
                with netcdf.reading(path) as file:
                    return netcdf.grid_in(file)
            except FileNotFoundError:
                continue
            except (UnreadableFile, StorageError) as error:
                log.warning("left out: %s", error)
        return None

    def _cube_times(self, cube: Path) -> tuple[datetime, ...]:
        """Return the times in a day's cube, none if there is no cube; kept until the file is replaced."""
        return self._times.get(cube, version_of(cube), lambda: archive_format.cube_times(cube))


def _no_frame(domain: str, time: datetime) -> NoFrame:
    return NoFrame(f"domain {domain!r} has no frame of {iso(time)}")


def _duplicate(domain: str, time: datetime) -> DuplicateFrame:
    return DuplicateFrame(f"domain {domain!r} keeps another frame of {iso(time)} already")
