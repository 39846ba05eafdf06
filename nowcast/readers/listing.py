"""Radar files as one list of frames in order of time: for commands that are given files instead of a feed."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Protocol

import xarray as xr

from nowcast.errors import DuplicateFrame, InputError, NotEnoughFrames, WrongGrid, WrongInterval
from nowcast.frame.declared import declared_in
from nowcast.frame.domain import Domain
from nowcast.frame.frame import Quantity, RawFrame, check_is_frame, normalise
from nowcast.frame.grid import Grid
from nowcast.readers import Declared, Limits, read

#: Told what is done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

#: Memory [bytes] for frames that were read to learn their times and will be wanted again.
KEPT_BYTES = 512 * 2**20


class FrameFacts(Protocol):
    """What a raw frame says besides its values."""

    @property
    def time(self) -> datetime:
        """Nominal time, UTC."""
        ...

    @property
    def grid(self) -> Grid:
        """Where the cells lie."""
        ...

    @property
    def quantity(self) -> Quantity:
        """What the numbers are."""
        ...

    @property
    def interval_minutes(self) -> float | None:
        """Interval of a sum, or nominal step."""
        ...

    @property
    def source(self) -> str:
        """Agency and product."""
        ...


@dataclass(frozen=True)
class Skipped:
    """A file, or a time within one, that could not be used, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class _Entry:
    """Where one frame is, and what it says; the values too while there is room."""

    path: Path
    position: int
    time: datetime
    grid: Grid
    quantity: Quantity
    interval_minutes: float | None
    source: str
    raw: RawFrame | None


def domain_from_frames(frames: Iterable[FrameFacts], *, name: str = "files") -> Domain:
    """Return the domain that frames belong to, from what they say themselves.

    The grid is the one most of them lie on. The step is the median time between two, in whole minutes; sums
    tell it by their interval, which two of them must be apart. A single frame tells it only by its interval.

    Args:
        frames: Raw frames, or anything with their facts; gone through once, none is kept.
        name: Name of the domain.

    Raises:
        NotEnoughFrames: If there is no frame, or a single one that does not tell its step.
        WrongInterval: If no two sums are as far apart as their interval, or frames less than a minute.
    """
    times: set[datetime] = set()
    grids: list[Grid] = []
    intervals, sums = [], []
    credit = ""
    for frame in frames:
        times.add(frame.time)
        credit = credit or frame.source
        grids.append(frame.grid)
        if frame.interval_minutes:
            intervals.append(frame.interval_minutes)
            if frame.quantity is Quantity.ACRR:
                sums.append(frame.interval_minutes)
    if not times:
        raise NotEnoughFrames("not one frame could be read")
    step = _step_minutes(sorted(times), intervals, sums)
    return Domain(name, step, grid=_most_common(grids), credit=credit)


def _most_common(grids: Iterable[Grid]) -> Grid:
    """Return the grid most of the frames lie on; of several the first."""
    counts: dict[Grid, int] = {}
    for grid in grids:
        same = next((known for known in counts if known.matches(grid)), grid)
        counts[same] = counts.get(same, 0) + 1
    return max(counts, key=lambda grid: counts[grid])


def _step_minutes(times: Sequence[datetime], intervals: Sequence[float], sums: Sequence[float]) -> int:
    gaps = [(after - before).total_seconds() / 60 for before, after in pairwise(times)]
    if sums:
        step = statistics.median_low(sums)
        if gaps and not any(abs(gap - step) <= step / 4 for gap in gaps):
            raise WrongInterval(
                f"expected sums over {step:g} minutes to be as far apart, but the closest are {min(gaps):g}"
            )
    elif gaps:
        step = statistics.median_low(gaps)  # one that occurs: between 5 and 10 minutes lies no step
    elif intervals:
        step = intervals[0]
    else:
        raise NotEnoughFrames("one frame does not tell how far apart frames are; expected two or more")
    if round(step) < 1:
        raise WrongInterval(f"expected frames at least a minute apart, got {60 * step:g} seconds")
    return round(step)


def nearest(times: Sequence[datetime], time: datetime, tolerance: timedelta) -> int | None:
    """Return the index of the one of ascending times nearest to ``time``, ``None`` beyond the tolerance."""
    after = bisect_left(times, time)
    near = [i for i in (after - 1, after) if 0 <= i < len(times) and abs(times[i] - time) <= tolerance]
    return min(near, key=lambda i: abs(times[i] - time), default=None)


class FrameList:
    """The frames of radar files in order of time, each made ready when it is asked for.

    All files are read once to learn the times within. What was read is kept up to a bound and the rest is
    read again when wanted, so a list may exceed memory by far.

    Attributes:
        domain: The domain, given or found by :func:`domain_from_frames`; its grid is known.
        grid: That grid.
        times: Times of the frames, strictly ascending, UTC; a frame may still turn out not to be usable.
        skipped: What could not be used, and why; grows while frames are loaded.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        domain: Domain | None = None,
        limits: Limits | None = None,
        declared: Declared | None = None,
        kept_bytes: int = KEPT_BYTES,
        progress: Progress | None = None,
    ) -> None:
        """Read all files once, with what is ``declared`` of them, else what the domain declares.

        Raises:
            NotEnoughFrames: If there is no frame, or a single one that does not tell its step.
            WrongInterval: If times and intervals contradict each other.
        """
        self.skipped: list[Skipped] = []
        self._limits = limits
        self._declared = declared or declared_in(domain)
        self._reading: tuple[Path, int, Iterator[RawFrame]] | None = None
        entries = list(self._index(list(paths), kept_bytes, progress))
        if not entries and self.skipped:
            raise NotEnoughFrames(
                f"not one frame could be read; the first reason is: {self.skipped[0].reason}"
            )
        self.domain = domain or domain_from_frames(entries)
        self.grid = self.domain.grid or _most_common([entry.grid for entry in entries])
        self.domain = replace(self.domain, grid=self.grid)
        self._entries: list[_Entry] = []
        self.times: list[datetime] = []
        for entry in sorted(entries, key=lambda entry: entry.time):
            time = self.domain.nominal_time(entry.time)
            if not self.domain.reproject and not self.grid.matches(entry.grid):
                self._skip(entry, WrongGrid(f"expected {self.grid}; got {entry.grid}"))
            elif self.times and time <= self.times[-1]:
                self._skip(entry, DuplicateFrame(f"another frame of {time:%Y-%m-%dT%H:%MZ} was read before"))
            else:
                self.times.append(time)
                self._entries.append(entry)

    def __len__(self) -> int:
        """Return the number of times."""
        return len(self.times)

    def load(self, index: int) -> xr.DataArray | None:
        """Return a frame ``reflectivity(y, x)`` [dBZ], or ``None`` if it cannot be used, which is noted."""
        entry = self._entries[index]
        try:
            return normalise(entry.raw or self._read_again(entry), self.domain)
        except InputError as error:
            self._skip(entry, error)
            return None

    def index_at(self, time: datetime, *, tolerance: timedelta) -> int | None:
        """Return the index of the frame nearest to a time, ``None`` if none is within the tolerance."""
        return nearest(self.times, time, tolerance)

    def _index(self, paths: Sequence[Path], room: int, progress: Progress | None) -> Iterator[_Entry]:
        grids: list[Grid] = []  # a grid takes kilobytes, and thousands of frames share one
        for done, path in enumerate(paths):
            if progress:
                progress("reading", done, len(paths))
            try:
                for position, raw in enumerate(read(path, self._limits, self._declared)):
                    check_is_frame(raw)
                    room -= raw.values.nbytes
                    grid = next((known for known in grids if known == raw.grid), raw.grid)
                    if grid is raw.grid:
                        grids.append(grid)
                    yield _Entry(
                        path,
                        position,
                        raw.time,
                        grid,
                        raw.quantity,
                        raw.interval_minutes,
                        raw.source,
                        raw if room >= 0 else None,
                    )
            except InputError as error:
                self.skipped.append(Skipped(path.name, str(error)))
        if progress:
            progress("reading", len(paths), len(paths))

    def _read_again(self, entry: _Entry) -> RawFrame:
        """Return a frame's raw values; the times of one file, asked for in order, are read in one pass."""
        if self._reading is None or self._reading[0] != entry.path or self._reading[1] > entry.position:
            self._reading = entry.path, 0, read(entry.path, self._limits, self._declared)
        path, position, frames = self._reading
        self._reading = None  # whatever happens below, this pass is over or renewed
        raw = next(islice(frames, entry.position - position, None), None)
        if raw is None or raw.time != entry.time:
            raise InputError(f"{path.name}: changed while it was read")
        self._reading = path, entry.position + 1, frames
        return raw

    def _skip(self, entry: _Entry, error: InputError) -> None:
        skipped = Skipped(entry.path.name, str(error))
        if skipped not in self.skipped:
            self.skipped.append(skipped)
