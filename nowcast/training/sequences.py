"""Training sequences: what preceded and what followed each issue time in an archive, as tiles on disk.

Preparing takes the archive apart once, event by event: the frames around every issue time, in place or seen
from the moving air, cut into tiles of one byte a cell. Training then reads tiles through memory maps, which
takes no longer than copying them, and any number of processes may do so.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.normalisation import NOT_OBSERVED, to_bytes
from nowcast.archive.archive import Archive
from nowcast.archive.events import Event
from nowcast.disk import dates, durable
from nowcast.errors import NotEnoughFrames
from nowcast.methods.blend import Blend, blended
from nowcast.methods.sprog import faded
from nowcast.motion.flow import FRAMES, motion_field
from nowcast.motion.lagrangian import carried_back, carried_to_issue

log = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]

#: Version of prepared tiles: others are made anew.
FORMAT = 1

#: Reflectivity [dBZ] from which a cell counts as rain when tiles are chosen.
RAIN_DBZ = 20.0

#: A tile is kept if at least this share of it is observed, and this share of it rains.
LEAST_OBSERVED, LEAST_RAIN = 0.2, 0.002

#: Most cells of the issue times of one event; of longer or larger ones every second, third, ... is kept.
MOST_CELLS = 60_000_000

#: The same where each is to be guessed, which takes as long as all the rest; and where it gets its base,
#: which takes longer.
MOST_GUESSED_CELLS, MOST_BASED_CELLS = 30_000_000, 6_000_000

#: Most issue times of an event whose grids are left whole.
MOST_WHOLE_ISSUES = 12

#: Fields of a shape that came later: where they are not used, tiles are the same as before.
LATER = ("guess", "base", "most_cells")

#: Motion [km/h] of one step of a byte, and the byte of none.
MOTION_STEP_KMH, STILL = 1.0, 127


@dataclass(frozen=True)
class Shape:
    """What a sequence looks like.

    Attributes:
        frames: Frames up to the issue time.
        slot_minutes: Time between two slots of the truth. An event whose step is a multiple fills every
            second, third, ... slot; nothing is invented for those between.
        slots: Number of slots of the truth.
        moving: Whether all is seen from the moving air, see :mod:`nowcast.motion.lagrangian`.
        tile: Side of a tile [cells]; 0 leaves grids whole.
        guess: Whether what S-PROG forecasts for every slot of the truth follows it. Needs the moving air.
        base: Whether what a correction corrects follows the truth: for every slot the base
            (:func:`nowcast.methods.blend.blended`), then for every slot the newest frame as it stays in
            place, then the motion southward and eastward. Needs the moving air. A slot then is filled by the
            lead of the event that is nearest to it, whose minutes are told.
        most_cells: Most cells of the issue times of one event; those of the kind of sequences if 0.
    """

    frames: int = 4
    slot_minutes: int = 5
    slots: int = 12
    moving: bool = True
    tile: int = 256
    guess: bool = False
    base: bool = False
    most_cells: int = 0

    def __post_init__(self) -> None:
        """Refuse a guess of what stays in place."""
        if (self.guess or self.base) and not (self.moving and self.frames > 1):
            raise ValueError("expected sequences in the moving air, as they are to be guessed")

    @property
    def parts(self) -> dict[str, slice]:
        """Which planes of a tile hold what."""
        sizes = {"past": self.frames, "truth": self.slots}
        if self.guess or self.base:
            sizes["guess"] = self.slots
        if self.base:
            sizes |= {"in_place": self.slots, "motion": 2}
        ends = list(accumulate(sizes.values()))
        return {name: slice(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}

    @property
    def planes(self) -> int:
        """Number of planes of a tile."""
        planes: int = max(part.stop for part in self.parts.values())
        return planes


@dataclass(frozen=True)
class Tiles:
    """The tiles of one event.

    Attributes:
        event: Name of the event.
        step_minutes: The event's own step.
        cell_km: Width of a cell.
        path: NumPy file ``(n, planes, tile, tile)`` of bytes (:func:`models.normalisation.to_bytes`).
        rain: Share of each tile ``(n,)`` that rains at the issue time.
        minutes: Lead time of each slot.
        radar: Whose data it is.
    """

    event: str
    step_minutes: int
    cell_km: float
    path: Path
    rain: NDArray[np.float64]
    minutes: tuple[int, ...] = ()
    radar: str = ""

    @property
    def bytes(self) -> Bytes:
        """All tiles, mapped into memory once in each process, when first asked for."""
        return _mapped(self.path)


@lru_cache(maxsize=256)
def _mapped(path: Path) -> Bytes:
    tiles: Bytes = np.load(path, mmap_mode="r")
    return tiles


def prepare(
    archive: Archive,
    events: Sequence[Event],
    shape: Shape,
    folder: Path,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Tiles]:
    """Return the tiles of events, made unless a folder has them already.

    Args:
        archive: Where the frames are.
        events: Whose tiles are wanted; one that has none for this shape is left out.
        shape: What a sequence looks like.
        folder: Where tiles are kept, one pair of files for each event and shape.
        progress: Called with ``"preparing"``, the number of events done and the number there is.

    Raises:
        NotEnoughFrames: If no event has a tile.
        StorageError: If the disk refuses.
    """
    prepared = []
    for done, event in enumerate(events):
        if progress:
            progress("preparing", done, len(events))
        tiles = _prepared(archive, event, shape, folder)
        if len(tiles.rain):
            prepared.append(tiles)
    if progress:
        progress("preparing", len(events), len(events))
    if not prepared:
        raise NotEnoughFrames(f"expected rain in sequences of {shape}, found none in {len(events)} events")
    return prepared


def _prepared(archive: Archive, event: Event, shape: Shape, folder: Path) -> Tiles:
    told = {key: value for key, value in asdict(shape).items() if key not in LATER or value}
    facts = [FORMAT, told, event.name, event.step_minutes, [dates.iso(time) for time in event.times]]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    index, path = folder / f"{event.name}-{key}.json", folder / f"{event.name}-{key}.npy"
    with durable.locked(folder / f".{event.name}.lock"):  # one process prepares, others use what it made
        try:
            known = durable.read_json(index)
        except FileNotFoundError:
            known = _publish(index, path, shape, *_tiles_of(archive, event, shape))
            log.info("%s: %d tiles", event.name, len(known["rain"]))
    rain = np.asarray(known["rain"], np.float64)
    minutes = {slot: lead * event.step_minutes for lead, slot in _leads(event, shape)}
    of_slots = tuple(minutes.get(slot, (slot + 1) * shape.slot_minutes) for slot in range(shape.slots))
    radar = str(archive.load(event.domain, event.times[0]).attrs.get("source") or event.domain)
    return Tiles(event.name, event.step_minutes, known["cell_km"], path, rain, of_slots, radar)


def _publish(index: Path, path: Path, shape: Shape, cell_km: float, tiles: list[Bytes]) -> dict[str, Any]:
    """Write tiles, then what is known of them, which makes them valid."""
    with durable.publish(path) as partial, partial.open("wb") as file:
        np.save(file, np.stack(tiles) if tiles else np.empty((0, 0, 0, 0), np.uint8))
    known = {"cell_km": cell_km, "rain": [rain_share(tile[shape.frames - 1]) for tile in tiles]}
    durable.write_json(index, known)
    return known


def _tiles_of(archive: Archive, event: Event, shape: Shape) -> tuple[float, list[Bytes]]:
    """Return the width of a cell [km] and all tiles of an event that are worth learning from."""
    if event.step_minutes % shape.slot_minutes and not shape.base:
        log.warning("%s: left out, its step is no multiple of %d min", event.name, shape.slot_minutes)
        return 0.0, []
    grid = archive.grid(event.domain)
    issues = list(_issues(event, shape))
    if grid is None or not issues:
        return 0.0, []
    usual = MOST_BASED_CELLS if shape.base else MOST_GUESSED_CELLS if shape.guess else MOST_CELLS
    most = shape.most_cells or usual
    tiles: list[Bytes] = []
    frames = _Frames(archive, event.domain)
    cell_km = float(np.mean(grid.cell_km))
    if shape.base:  # of which there are few, so that they should be wet
        issues = [issue for issue in issues if any(_wet(frames.once(issue), shape))]
    every = max(round(len(issues) * grid.ny * grid.nx / most + 0.49), 1)
    if not shape.tile:
        every = max(every, -(-len(issues) // MOST_WHOLE_ISSUES))
    for issue in issues[::every]:
        frames.forget_before(issue - Blend.frames * timedelta(minutes=event.step_minutes))
        make = _with_base if shape.base else _sequence
        tiles += _cut(make(frames, event, issue, shape, cell_km), shape)
    return cell_km, tiles


class _Frames:
    """Frames around an issue time: all of a long event that is in memory."""

    def __init__(self, archive: Archive, domain: str) -> None:
        self._archive, self._domain = archive, domain
        self._loaded: dict[datetime, NDArray[np.float32]] = {}

    def at(self, time: datetime) -> NDArray[np.float32]:
        """Return a frame ``(y, x)`` [dBZ]."""
        if time not in self._loaded:
            self._loaded[time] = self._archive.load(self._domain, time).values
        return self._loaded[time]

    def once(self, time: datetime) -> NDArray[np.float32]:
        """Return a frame ``(y, x)`` [dBZ] that is not kept."""
        return self._archive.load(self._domain, time).values

    def forget_before(self, time: datetime) -> None:
        """Give back the memory of frames before a time."""
        self._loaded = {known: frame for known, frame in self._loaded.items() if known >= time}


def _issues(event: Event, shape: Shape) -> Iterator[datetime]:
    """Yield the issue times with all frames before them, and at least one after."""
    times, step = set(event.times), timedelta(minutes=event.step_minutes)
    for issue in event.times:
        past = all(issue - k * step in times for k in range(1, shape.frames))
        if past and any(issue + lead * step in times for lead, _ in _leads(event, shape)):
            yield issue


def _leads(event: Event, shape: Shape) -> Iterator[tuple[int, int]]:
    """Yield each lead in steps of the event, with its slot; where there is a base, a lead for each slot."""
    if shape.base:
        for slot in range(shape.slots):
            yield max(round((slot + 1) * shape.slot_minutes / event.step_minutes), 1), slot
        return
    slots_a_step = event.step_minutes // shape.slot_minutes
    for lead in range(1, shape.slots // slots_a_step + 1):
        yield lead, lead * slots_a_step - 1


def _sequence(frames: _Frames, event: Event, issue: datetime, shape: Shape, cell_km: float) -> Bytes:
    """Return past and truth of an issue time ``(planes, y, x)`` as bytes."""
    step = timedelta(minutes=event.step_minutes)
    past = np.stack([frames.at(issue - k * step) for k in reversed(range(shape.frames))])
    times = set(event.times)
    known = [pair for pair in _leads(event, shape) if issue + pair[0] * step in times]
    truth = np.stack([frames.at(issue + lead * step) for lead, _ in known])
    if shape.moving and shape.frames > 1:
        motion = motion_field(past[-FRAMES:])
        past = carried_to_issue(past, motion)
        truth = carried_back(truth, motion, [lead for lead, _ in known])
    whole = np.full((shape.planes, *past.shape[1:]), NOT_OBSERVED, np.uint8)
    whole[: shape.frames] = to_bytes(torch.from_numpy(past)).numpy()
    whole[[shape.frames + slot for _, slot in known]] = to_bytes(torch.from_numpy(truth)).numpy()
    if shape.guess:
        for (_, slot), guess in zip(_leads(event, shape), faded(past), strict=False):
            whole[shape.frames + shape.slots + slot] = to_bytes(torch.from_numpy(guess)).numpy()
    return whole


def _with_base(frames: _Frames, event: Event, issue: datetime, shape: Shape, cell_km: float) -> Bytes:
    """Return past, truth, base, frame in place and motion of an issue time ``(planes, y, x)`` as bytes."""
    step, times = timedelta(minutes=event.step_minutes), set(event.times)
    backs = takewhile(lambda k: issue - k * step in times, range(Blend.frames))
    history = np.stack([frames.at(issue - k * step) for k in backs][::-1])
    slots = list(_leads(event, shape))
    leads = sorted({lead for lead, _ in slots})
    motion, _, fields = blended(history, event.step_minutes, leads)
    known = [lead for lead in leads if issue + lead * step in times]
    truth = carried_back([frames.at(issue + lead * step) for lead in known], motion, known)
    newest = history[-1]
    of_lead = {
        "truth": dict(zip(known, truth, strict=True)),
        "guess": dict(zip(leads, carried_back(list(fields), motion, leads), strict=True)),
        "in_place": dict(zip(leads, carried_back([newest] * len(leads), motion, leads), strict=True)),
    }
    whole = np.full((shape.planes, *newest.shape), NOT_OBSERVED, np.uint8)
    past = carried_to_issue(history[-shape.frames :], motion)
    whole[shape.parts["past"]] = to_bytes(torch.from_numpy(past)).numpy()
    for name, planes in of_lead.items():
        for lead, slot in slots:
            if lead in planes:
                plane = to_bytes(torch.from_numpy(planes[lead])).numpy()
                whole[shape.parts[name].start + slot] = plane
    kmh = motion.dense() * (cell_km * 60 / event.step_minutes)
    whole[shape.parts["motion"]] = np.clip(np.rint(kmh / MOTION_STEP_KMH) + STILL, 0, 2 * STILL)
    return whole


def _cut(sequence: Bytes, shape: Shape) -> Iterator[Bytes]:
    """Yield the tiles of a sequence that are observed and rain.

    Small grids are padded, not observed; not so with a base, as then no batch has tiles of two grids.
    """
    for rows, columns in _windows(sequence.shape[1:], shape):
        tile = sequence[:, rows, columns]
        if not _is_wet(tile[shape.frames - 1]):
            continue
        if shape.base:
            yield tile.copy()
            continue
        below, right = shape.tile - tile.shape[1], shape.tile - tile.shape[2]
        yield np.pad(tile, ((0, 0), (0, below), (0, right)), constant_values=NOT_OBSERVED)


def _windows(sides: Sequence[int], shape: Shape) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the tiles that cover a grid."""
    tile = shape.tile or max(sides)
    for row in _starts(sides[0], tile):
        for column in _starts(sides[1], tile):
            yield slice(row, row + tile), slice(column, column + tile)


def _wet(frame: NDArray[np.float32], shape: Shape) -> Iterator[bool]:
    """Yield of each tile of a frame [dBZ] whether it is observed and rains."""
    now = to_bytes(torch.from_numpy(frame)).numpy()
    for rows, columns in _windows(now.shape, shape):
        yield _is_wet(now[rows, columns])


def _is_wet(now: Bytes) -> bool:
    return bool((now != NOT_OBSERVED).mean() >= LEAST_OBSERVED and rain_share(now) >= LEAST_RAIN)


def _starts(side: int, tile: int) -> list[int]:
    """Return where tiles begin that cover a side, evenly overlapping."""
    count = max(-(-side // tile), 1)
    return [round(k * max(side - tile, 0) / max(count - 1, 1)) for k in range(count)]


def rain_share(tile: Bytes) -> float:
    """Return the share of a tile's cells that rain."""
    threshold = int(to_bytes(torch.tensor([RAIN_DBZ]))[0])
    return float(((tile >= threshold) & (tile != NOT_OBSERVED)).mean())


def describe(tiles: Sequence[Tiles]) -> list[dict[str, Any]]:
    """Return what each event contributes, for a model card."""
    return [
        {
            "event": one.event,
            "step_minutes": one.step_minutes,
            "cell_km": round(one.cell_km, 3),
            "tiles": len(one.rain),
            "rain_share": round(float(one.rain.mean()), 4),
        }
        for one in tiles
    ]
