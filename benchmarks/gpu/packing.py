"""Packing: of prepared tiles, those that a training would draw first, as many as fit a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.packed import Block, Facts, Layout, Sample, coarse, write
from models.correction import CorrectionConfig
from models.normalisation import to_bytes
from models.registry import PRESETS
from nowcast.archive.archive import Archive
from nowcast.archive.events import find_events
from nowcast.training.data import Draws
from nowcast.training.run import MOST_JUDGED_CELLS
from nowcast.training.sequences import LEAST_RAIN, MOTION_STEP_KMH, RAIN_DBZ, STILL, Shape, Tiles, prepare
from nowcast.training.tune import tune_events

#: Largest file [MB], and the share of it that whole grids may take.
MOST_MB, JUDGED_SHARE = 38.0, 0.3

#: Tiles are of events whose squares have so many cells along a side: all steps of a training are then alike.
SIDE = 4

#: Number of a draw of tiles.
SEED = 0


def pack(archive: Archive, folder: Path, path: Path, *, most_mb: float = MOST_MB) -> None:
    """Write tiles of the events to learn from, and a whole grid of each event to tune on, into one file.

    Args:
        archive: Where the events are.
        folder: Prepared tiles; what is not there yet is prepared.
        path: The file.
        most_mb: Its largest size.

    Raises:
        NotEnoughFrames: If there is nothing to pack.
    """
    shape = Shape(slot_minutes=10, slots=6, base=True)
    events = find_events(archive)
    chosen = set(tune_events(event.name for event in events))
    learnt = prepare(archive, [event for event in events if event.name not in chosen], shape, folder)
    whole = replace(shape, tile=0, most_cells=MOST_JUDGED_CELLS)
    judged = [event for event in events if event.name in chosen]
    grids = prepare(archive, judged, whole, folder) if judged else []
    pack_tiles(learnt, grids, shape, path, most_mb=most_mb)


def pack_tiles(
    learnt: Sequence[Tiles], grids: Sequence[Tiles], shape: Shape, path: Path, *, most_mb: float = MOST_MB
) -> None:
    """Write as many of the tiles, and of the grids one an event, as fit, and print how many those are."""
    layout = layout_of(shape)
    config = PRESETS["scs_cpu"]
    assert isinstance(config, CorrectionConfig)
    fitting = [tiles for tiles in learnt if config.square_cells(tiles.cell_km) == SIDE]
    judged = _within(wettest(grids), 1e6 * most_mb * JUDGED_SHARE)
    room = 1e6 * most_mb - sum(len(block.data) for block in judged)
    packed = _within(drawn(fitting, shape, layout), room)
    write(path, layout, packed, judged)
    counted = [
        f"{len(blocks)} {what} of {len({block.facts.event for block in blocks})} events and "
        f"{len({block.facts.radar for block in blocks})} radars"
        for blocks, what in ((packed, "tiles"), (judged, "whole grids"))
    ]
    available = sum(len(tiles.rain) for tiles in fitting)
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, {counted[0]}, out of {available} of {len(fitting)}; "
        f"{counted[1]}; {len(learnt) - len(fitting)} events left out, whose squares are not of {SIDE} cells"
    )


def layout_of(shape: Shape) -> Layout:
    """Return what planes of a shape hold, once they are coarse."""
    parts = {name: (part.start, part.stop) for name, part in shape.parts.items()}
    rain = int(to_bytes(torch.tensor([RAIN_DBZ]))[0]) & 254
    return Layout(parts, STILL, MOTION_STEP_KMH, rain, LEAST_RAIN)


def drawn(tiles: Sequence[Tiles], shape: Shape, layout: Layout) -> Iterator[Sample]:
    """Yield tiles in coarse steps, each once, in an order drawn as a training would draw them."""
    if not tiles:
        return
    shares = Draws(tiles, shape, crop=1, seed=0).probabilities()
    places = [(event, k) for event, share in enumerate(shares) for k in range(len(share))]
    order = np.random.default_rng(SEED).choice(
        len(places), len(places), replace=False, p=np.concatenate(shares)
    )
    for number in order:
        event, k = places[number]
        yield Sample(_facts(tiles[event]), coarse(np.array(tiles[event].bytes[k]), layout))


def wettest(grids: Sequence[Tiles]) -> Iterator[Sample]:
    """Yield of each event the grid on which it rains most, as it is."""
    for tiles in grids:
        yield Sample(_facts(tiles), np.array(tiles.bytes[int(tiles.rain.argmax())]))


def _facts(tiles: Tiles) -> Facts:
    minutes = tuple(float(minute) for minute in tiles.minutes)
    return Facts(tiles.event, tiles.radar, tiles.step_minutes, tiles.cell_km, minutes)


def _within(samples: Iterator[Sample], most_bytes: float) -> list[Block]:
    """Return the first samples, compressed, that together are no larger."""
    blocks, size = [], 0
    for sample in samples:
        block = Block.of(sample)
        size += len(block.data)
        if size > most_bytes:
            break
        blocks.append(block)
    return blocks
