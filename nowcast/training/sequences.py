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

#: The same where each is to be guessed, which takes as long as all the rest.
MOST_GUESSED_CELLS = 30_000_000


@dataclass(frozen=True)
class Shape:
    """What a sequence looks like.

    Attributes:
        frames: Frames up to the issue time.
        slot_minutes: Time between two slots of the truth. An event whose step is a multiple fills every
            second, third, ... slot; nothing is invented for those between.
        slots: Number of slots of the truth.
        moving: Whether all is seen from the moving air, see :mod:`nowcast.motion.lagrangian`.
        tile: Side of a tile [cells].
        guess: Whether what S-PROG forecasts for every slot of the truth follows it. Needs the moving air.
    """

    frames: int = 4
    slot_minutes: int = 5
    slots: int = 12
    moving: bool = True
    tile: int = 256
    guess: bool = False

    def __post_init__(self) -> None:
        """Refuse a guess of what stays in place."""
        if self.guess and not (self.moving and self.frames > 1):
            raise ValueError("expected sequences in the moving air, as S-PROG is to guess them")


@dataclass(frozen=True)
class Tiles:
    """The tiles of one event.

    Attributes:
        event: Name of the event.
        step_minutes: The event's own step.
        cell_km: Width of a cell.
        path: NumPy file ``(n, frames + slots, tile, tile)`` of bytes (:func:`models.normalisation.to_bytes`).
        rain: Share of each tile ``(n,)`` that rains at the issue time.
    """

    event: str
    step_minutes: int
    cell_km: float
    path: Path
    rain: NDArray[np.float64]

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
    told = {key: value for key, value in asdict(shape).items() if key != "guess" or value}
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
    return Tiles(event.name, event.step_minutes, known["cell_km"], path, rain)


def _publish(index: Path, path: Path, shape: Shape, cell_km: float, tiles: list[Bytes]) -> dict[str, Any]:
    """Write tiles, then what is known of them, which makes them valid."""
    with durable.publish(path) as partial, partial.open("wb") as file:
        np.save(file, np.stack(tiles) if tiles else np.empty((0, 0, 0, 0), np.uint8))
    known = {"cell_km": cell_km, "rain": [_rain_share(tile[shape.frames - 1]) for tile in tiles]}
    durable.write_json(index, known)
    return known


def _tiles_of(archive: Archive, event: Event, shape: Shape) -> tuple[float, list[Bytes]]:
    """Return the width of a cell [km] and all tiles of an event that are worth learning from."""
    if event.step_minutes % shape.slot_minutes:
        log.warning("%s: left out, its step is no multiple of %d min", event.name, shape.slot_minutes)
        return 0.0, []
    grid = archive.grid(event.domain)
    issues = list(_issues(event, shape))
    if grid is None or not issues:
        return 0.0, []
    most = MOST_GUESSED_CELLS if shape.guess else MOST_CELLS
    every = max(round(len(issues) * grid.ny * grid.nx / most + 0.49), 1)
    tiles: list[Bytes] = []
    frames = _Frames(archive, event.domain)
    for issue in issues[::every]:
        frames.forget_before(issue - (shape.frames - 1) * timedelta(minutes=event.step_minutes))
        tiles += _cut(_sequence(frames, event, issue, shape), shape)
    return float(np.mean(grid.cell_km)), tiles


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
    """Yield each lead in steps of the event, with its slot."""
    slots_a_step = event.step_minutes // shape.slot_minutes
    for lead in range(1, shape.slots // slots_a_step + 1):
        yield lead, lead * slots_a_step - 1


def _sequence(frames: _Frames, event: Event, issue: datetime, shape: Shape) -> Bytes:
    """Return past and truth of an issue time ``(frames + slots, y, x)`` as bytes."""
    step = timedelta(minutes=event.step_minutes)
    past = np.stack([frames.at(issue - k * step) for k in reversed(range(shape.frames))])
    times = set(event.times)
    known = [pair for pair in _leads(event, shape) if issue + pair[0] * step in times]
    truth = np.stack([frames.at(issue + lead * step) for lead, _ in known])
    if shape.moving and shape.frames > 1:
        motion = motion_field(past[-FRAMES:])
        past = carried_to_issue(past, motion)
        truth = carried_back(truth, motion, [lead for lead, _ in known])
    planes = shape.frames + shape.slots * (2 if shape.guess else 1)
    whole = np.full((planes, *past.shape[1:]), NOT_OBSERVED, np.uint8)
    whole[: shape.frames] = to_bytes(torch.from_numpy(past)).numpy()
    whole[[shape.frames + slot for _, slot in known]] = to_bytes(torch.from_numpy(truth)).numpy()
    if shape.guess:
        for (_, slot), guess in zip(_leads(event, shape), faded(past), strict=False):
            whole[shape.frames + shape.slots + slot] = to_bytes(torch.from_numpy(guess)).numpy()
    return whole


def _cut(sequence: Bytes, shape: Shape) -> Iterator[Bytes]:
    """Yield the tiles of a sequence that are observed and rain; small grids are padded, not observed."""
    rows, columns = (_starts(side, shape.tile) for side in sequence.shape[1:])
    for row in rows:
        for column in columns:
            tile = sequence[:, row : row + shape.tile, column : column + shape.tile]
            now = tile[shape.frames - 1]
            if (now != NOT_OBSERVED).mean() < LEAST_OBSERVED or _rain_share(now) < LEAST_RAIN:
                continue
            below, right = shape.tile - tile.shape[1], shape.tile - tile.shape[2]
            yield np.pad(tile, ((0, 0), (0, below), (0, right)), constant_values=NOT_OBSERVED)


def _starts(side: int, tile: int) -> list[int]:
    """Return where tiles begin that cover a side, evenly overlapping."""
    count = max(-(-side // tile), 1)
    return [round(k * max(side - tile, 0) / max(count - 1, 1)) for k in range(count)]


def _rain_share(tile: Bytes) -> float:
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
