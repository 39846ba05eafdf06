"""Four mechanisms against the same network without, on real radar: what the papers claim, at equal CPU time.

Run ``python -m benchmarks duels --train DIR --val DIR [--seconds S] [--seeds N] [-o FILE.md]``, with data
folders that have an archive. Each variant of a pair learns from the same draws for the same time on one
thread, and is scored on the same squares of other days. Each training is kept: a run that was killed goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.duel_pieces import (
    SHAPE,
    STEP_MINUTES,
    VARIANTS,
    Piece,
    Squares,
    Terms,
    piece_path,
    read_piece,
    scored,
    squares_of,
)
from benchmarks.duel_table import About, figures, report
from benchmarks.duel_training import trained
from benchmarks.machine import machine
from nowcast.archive.archive import Archive
from nowcast.archive.events import Event, find_events
from nowcast.disk import durable
from nowcast.training.sequences import Tiles, prepare

#: Where tiles and trainings are kept.
CACHE = Path("build/duels")

#: Folder of a data folder that frames are archived in.
ARCHIVE = "archive"


def tiles_in(data: Path, cache: Path) -> tuple[list[Event], list[Tiles]]:
    """Return the events of a data folder that have the step of the duels, and their tiles.

    Raises:
        NotEnoughFrames: If no event has a tile.
    """
    archive = Archive(data / ARCHIVE)
    events = [event for event in find_events(archive) if event.step_minutes == STEP_MINUTES]
    return events, prepare(archive, events, SHAPE, cache)


def credits_of(data: Path, events: Sequence[Event]) -> set[str]:
    """Return whose data events are, as their frames say."""
    archive = Archive(data / ARCHIVE)
    told = {str(archive.load(one.domain, one.times[0]).attrs.get("source", one.domain)) for one in events}
    return {source.replace("OPERA", "EUMETNET OPERA") for source in told}  # files name the programme alone


def measure(
    learnt: Sequence[Tiles],
    val: Sequence[Tiles],
    squares: Squares,
    terms: Terms,
    *,
    seeds: int,
    cache: Path,
) -> list[Piece]:
    """Return what extrapolation and every variant with every seed came to, seed by seed.

    Args:
        learnt: Tiles to learn from.
        val: Tiles the squares were cut from.
        squares: What all are scored on.
        terms: How all are trained and scored.
        seeds: Number of seeds: 0, 1, ...
        cache: Where pieces are kept.

    Raises:
        TrainingStopped: If a loss is not finite any more.
    """
    pieces = [scored(None, squares)]
    for seed in range(seeds):
        for variant in VARIANTS:
            path = piece_path(cache, variant, seed, terms, learnt, val)
            piece = read_piece(path)
            if piece is None:
                piece = trained(variant, seed, terms, learnt, squares)
                durable.write_json(path, piece.to_dict())
            print(f"{variant}, seed {seed}: {sum(piece.steps)} steps, {piece.mse:.1f} dBZ^2", flush=True)
            pieces.append(piece)
    return pieces


def options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks duels", description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="data folder to learn from")
    parser.add_argument("--val", type=Path, required=True, help="data folder to score on: other days")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of tiles and finished trainings")
    parser.add_argument("--seconds", type=float, default=Terms().seconds, help="CPU time of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant (default 3)")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file for the tables")
    parser.add_argument("--json", type=Path, help="file for every figure")
    chosen = parser.parse_args()
    if chosen.seeds < 2 or not chosen.seconds > 0:
        parser.error("expected at least two seeds, and some time")
    return chosen


def main() -> None:
    """Train and score what is missing, print the report, write it."""
    chosen = options()
    torch.set_num_threads(1)  # CPU time is then the time a training has
    terms = replace(Terms(), seconds=chosen.seconds)
    trained_on, learnt = tiles_in(chosen.train, chosen.cache)
    events, val = tiles_in(chosen.val, chosen.cache)
    squares = squares_of(val, events, terms)
    pieces = measure(learnt, val, squares, terms, seeds=chosen.seeds, cache=chosen.cache)
    credit = credits_of(chosen.train, trained_on) | credits_of(chosen.val, events)
    about = About(terms, machine(), len(learnt), len(val), ", ".join(sorted(credit)))
    text = report(pieces, about)
    print(text)
    if chosen.output:
        durable.write_bytes(chosen.output, text.encode())
    if chosen.json:
        durable.write_json(chosen.json, figures(pieces))


if __name__ == "__main__":
    main()
