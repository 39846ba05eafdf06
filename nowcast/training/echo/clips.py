"""Clips of archived radar, and what becomes of the echo of every cell, as the echo classifier learns from.

The class of a cell is the one its echo has some minutes later, looked up where it has moved by then. Were the
place the same and not the echo, motion would blur what can be known: no shower would surely be where it is
asked for, and the likeliest class of a shower's core would be that of its surroundings.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.fanet.echo_classes import EchoClass, echo_classes, inject_clutter
from models.fanet.segmentation import IGNORED, Clip, class_counts, draw_clips
from models.normalisation import from_bytes, to_bytes, to_dbz, to_unit
from nowcast.archive.archive import Archive
from nowcast.errors import NotEnoughFrames
from nowcast.frame.frame import grid_of
from nowcast.methods.networks.method import CELL_FACTOR
from nowcast.motion.flow import motion_field
from nowcast.motion.trajectory import Trajectory

log = logging.getLogger(__name__)

#: Width [km] of the cells a classifier sees. Finer frames are coarsened to it; others are left out, as the
#: texture that tells convective from stratiform echo is one of kilometres.
CELL_KM = 1.0

#: Share of the cells that are centres of a patch of injected clutter, and a patch's radius [cells]: about
#: one cell in 120 is clutter, as rare as convective rain.
CLUTTER_PER_CELL, CLUTTER_RADIUS = 3e-4, 3.0


@dataclass(frozen=True)
class Video:
    """Frames of one domain without a gap, and what becomes of the echo of each cell in each.

    Attributes:
        domain: Its name.
        step_minutes: Time between two frames.
        frames: ``(t, y, x)``, bytes of :func:`models.normalisation.to_bytes`.
        classes: ``(t, y, x)``, int8, what becomes of the echo; ``IGNORED`` where that was not observed.
    """

    domain: str
    step_minutes: float
    frames: Tensor
    classes: Tensor

    def part(self, frames: slice, rows: slice = slice(None), columns: slice = slice(None)) -> Video:
        """Return a part of it, sharing its memory."""
        where = (frames, rows, columns)
        return replace(self, frames=self.frames[where], classes=self.classes[where])


@dataclass(frozen=True)
class Shape:
    """What a batch is made of.

    Attributes:
        clips: Number of clips, of different events as long as there are enough.
        frames: Frames of each.
        side: Rows and columns of each, in cells.
    """

    clips: int = 4
    frames: int = 8
    side: int = 96


def read_videos(archive: Archive, domains: Sequence[str], *, minutes: int, frames: int) -> list[Video]:
    """Return the videos of domains that are long enough, classified by :func:`models.fanet.echo_classes`.

    A domain with cells of another width than ``CELL_KM`` (finer by a whole number is coarsened to it), or
    whose step does not divide ``minutes``, is left out, and the log says so.

    Args:
        archive: Where the frames are.
        domains: Names.
        minutes: From a frame to the class its echo has then; 0 asks for that in the frame itself.
        frames: Frames a video has at least.

    Raises:
        NotEnoughFrames: If nothing is left.
    """
    videos = [video for name in domains for video in _videos(archive, name, minutes, frames)]
    if not videos:
        raise NotEnoughFrames(
            f"expected a domain of {frames} frames in a row on cells of {CELL_KM:g} km and another "
            f"{minutes} minutes on, found none in {', '.join(domains) or 'no domain'}"
        )
    return videos


def _videos(archive: Archive, domain: str, minutes: int, frames: int) -> Iterator[Video]:
    times = archive.times(domain)
    if len(times) < 2:
        log.warning("%s is left out: expected frames in a row, found %d", domain, len(times))
        return
    steps = Counter(later - earlier for earlier, later in pairwise(times))
    step = steps.most_common(1)[0][0]
    ahead, rest = divmod(timedelta(minutes=minutes), step)
    height, width = grid_of(archive.load(domain, times[0])).cell_km
    factor = max(1, round(CELL_KM / width))
    if rest or not all(1 / CELL_FACTOR < factor * side / CELL_KM < CELL_FACTOR for side in (height, width)):
        log.warning(
            "%s is left out: steps of %s do not make %d minutes, or its cells of %.3g x %.3g km no %g km",
            *(domain, step, minutes, height, width, CELL_KM),
        )
        return
    for run in _runs(times, step):
        if len(run) < frames + ahead:
            continue
        dbz = torch.stack(
            [coarsened(torch.from_numpy(np.array(archive.load(domain, t).values)), factor) for t in run]
        )
        classes = followed(dbz, (factor * height, factor * width), ahead)
        yield Video(domain, step / timedelta(minutes=1), to_bytes(dbz[: len(classes)]), classes)


def _runs(times: Sequence[datetime], step: timedelta) -> Iterator[Sequence[datetime]]:
    """Yield stretches of times one step apart."""
    first = 0
    for end in range(1, len(times) + 1):
        if end == len(times) or times[end] - times[end - 1] != step:
            yield times[first:end]
            first = end


def coarsened(dbz: Tensor, factor: int) -> Tensor:
    """Return reflectivity ``(y, x)`` [dBZ] on cells ``factor`` times as wide: that of their mean Z.

    A coarse cell is observed if all its cells are. Rows and columns that do not fill one are left out.
    """
    if factor == 1:
        return dbz
    z = 10 ** (dbz.double() / 10)
    return (10 * functional.avg_pool2d(z[None], factor)[0].log10()).to(dbz.dtype)


def followed(dbz: Tensor, cell_km: tuple[float, float], ahead: int) -> Tensor:
    """Return the class the echo of each cell has ``ahead`` frames later ``(t - ahead, y, x)``, int8.

    The echo is followed along the motion between the frames. A cell is ``IGNORED`` where it is not observed,
    or its echo goes where nothing is.

    Args:
        dbz: Reflectivity ``(t, y, x)``; NaN = not observed.
        cell_km: Height and width of a cell.
        ahead: Number of frames, 0 or more.
    """
    told = [echo_classes(frame, cell_km).to(torch.int8) for frame in dbz]
    if ahead == 0:
        return torch.stack(told)
    answers = []
    for now in range(len(dbz) - ahead):
        # Backwards in time, so that what moved "from" a cell is where the echo of this frame goes.
        motion = motion_field(dbz[now : now + ahead + 1].flip(0).numpy())
        rows, columns = Trajectory(motion).displacement(ahead).dense().round().astype(np.int64)
        rows, columns = rows + np.arange(len(rows))[:, None], columns + np.arange(columns.shape[1])
        # A margin of a cell stands for all that is outside.
        margin = functional.pad(told[now + ahead], (1, 1, 1, 1), value=IGNORED)
        rows, columns = (np.clip(x + 1, 0, n - 1) for x, n in zip((rows, columns), margin.shape, strict=True))
        answers.append(margin[torch.from_numpy(rows), torch.from_numpy(columns)])
    return torch.stack(answers).masked_fill(dbz[: len(answers)].isnan(), IGNORED)


def clip_of(video: Video, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return what a classifier sees of a video with clutter injected, and what it shall answer.

    The classes of the weather are those without the clutter; clutter, which does not move, is a class of its
    own.

    Returns:
        Frames ``(t, 1, y, x)`` in [0, 1] and classes ``(t, y, x)``, int64.
    """
    unit, observed = from_bytes(video.frames)
    dbz = to_dbz(unit).masked_fill(~observed, torch.nan)
    seen, clutter = inject_clutter(
        dbz[None], CLUTTER_PER_CELL, radius_cells=CLUTTER_RADIUS, generator=generator
    )
    classes = video.classes.long().masked_fill(clutter[0], int(EchoClass.NON_METEOROLOGICAL))
    return to_unit(seen[0])[0][:, None], classes


class Batches:
    """Batches without end: clips of several events, cut where there is echo, turned and mirrored at random.

    A batch is frames ``(b, t, 1, y, x)`` and classes ``(b, t, y, x)``; the same seed gives the same ones.

    Args:
        videos: Where they are cut from.
        shape: What they are made of.
        seed: Of the draw.

    Raises:
        NotEnoughFrames: If a video is smaller than a clip.
    """

    def __init__(self, videos: Sequence[Video], shape: Shape, seed: int) -> None:
        for video in videos:
            if min(video.frames.shape[1:]) < shape.side or len(video.frames) < shape.frames:
                raise NotEnoughFrames(
                    f"{video.domain}: expected {shape.frames} frames of at least "
                    f"{shape.side} x {shape.side} cells, got {tuple(video.frames.shape)}"
                )
        self._videos, self._shape, self._seed = videos, shape, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches, from the first on."""
        generator = torch.Generator().manual_seed(self._seed)
        lengths = [len(video.frames) for video in self._videos]
        while True:
            drawn = draw_clips(lengths, self._shape.clips, self._shape.frames, generator=generator)
            frames, classes = zip(*(self._clip(clip, generator) for clip in drawn), strict=True)
            yield torch.stack(frames), torch.stack(classes)

    def _clip(self, clip: Clip, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        video = self._videos[clip.video]
        video = video.part(slice(clip.start, clip.start + clip.frames))
        frames, classes = clip_of(
            video.part(slice(None), *self._window(video.classes[-1], generator)), generator
        )
        turns, mirrored = (_below(sides, generator) for sides in (4, 2))
        turned = (torch.rot90(x, turns, (-2, -1)) for x in (frames, classes))
        frames, classes = (x.flip(-1) if mirrored else x for x in turned)
        return frames, classes

    def _window(self, classes: Tensor, generator: torch.Generator) -> tuple[slice, slice]:
        """Return rows and columns around a random cell of a random class ``(y, x)`` that is some echo.

        So a rare class is drawn as often as a common one; anywhere, if there is no echo.
        """
        counts = class_counts(classes.long(), len(EchoClass))
        present = [kind for kind in EchoClass if kind is not EchoClass.NO_ECHO and counts[kind]]
        if present:
            cells = (classes == present[_below(len(present), generator)]).nonzero()
            centre = cells[_below(len(cells), generator)].tolist()
        else:
            centre = [_below(length, generator) for length in classes.shape]
        side = self._shape.side
        firsts = (
            min(max(0, middle - _below(side, generator)), length - side)
            for middle, length in zip(centre, classes.shape, strict=True)
        )
        rows, columns = (slice(first, first + side) for first in firsts)
        return rows, columns


def _below(end: int, generator: torch.Generator) -> int:
    """Return a random whole number from 0 to below ``end``."""
    return int(torch.randint(end, (), generator=generator))
