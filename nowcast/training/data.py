"""Draws of training sequences: more often of rain, turned and mirrored, the same for the same number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from models.normalisation import from_bytes
from nowcast.errors import NotEnoughFrames
from nowcast.training.sequences import Shape, Tiles

#: Added to a tile's share of rain before the root is taken: dry surroundings are drawn, too.
DRY_SHARE = 0.02


class Batch(TypedDict):
    """Sequences to learn from.

    Attributes:
        x: Frames up to the issue time ``(b, t, 1, y, x)`` in [0, 1], not observed as 0.
        observed: Boolean, of the shape of ``x``: where it was observed.
        target: Frames that followed ``(b, slot, 1, y, x)`` in [0, 1].
        guess: What S-PROG expects of each slot, of the shape of ``target``; without slots if there is none.
        valid: Boolean, of the shape of ``target``: where it was observed; nowhere in a slot without a frame.
        step_minutes: The events' own steps ``(b,)``.
        cell_km: Widths of their cells ``(b,)``.
        weight: Probability ``(b,)`` with which drawing without regard to rain takes a sequence, over that
            with which it was drawn. A mean with these weights is one over all tiles alike.
        number: Numbers of the draws ``(b,)``.
    """

    x: Tensor
    observed: Tensor
    target: Tensor
    valid: Tensor
    guess: Tensor
    step_minutes: Tensor
    cell_km: Tensor
    weight: Tensor
    number: Tensor


class Draws(Dataset[Batch]):
    """Draw ``n`` is a function of the seed and of ``n`` alone, whichever process asks and in whatever order.

    An event is drawn by the root of all its rain, so that one long wet day does not drown the others; in it a
    tile by the root of its share of rain; in that a square, turned by quarters and mirrored. Probabilities
    depend on the newest frame only: what a network learns to expect, given what it sees, stays unbiased.
    """

    def __init__(
        self,
        tiles: Sequence[Tiles],
        shape: Shape,
        *,
        crop: int,
        seed: int,
        turned: bool = True,
        slots: int | None = None,
    ) -> None:
        """Draw squares of ``crop`` cells, of the truth the first ``slots``; all of them if left out.

        Raises:
            NotEnoughFrames: If there is no tile.
            ValueError: If squares are larger than tiles.
        """
        if not any(len(one.rain) for one in tiles):
            raise NotEnoughFrames("expected training sequences, got none")
        if not 0 < crop <= shape.tile:
            raise ValueError(f"expected squares of at most {shape.tile} cells, got {crop}")
        self.tiles, self.shape, self.crop, self.seed, self.turned = list(tiles), shape, crop, seed, turned
        self.slots = shape.slots if slots is None else slots
        self._of_tiles = [_shares(np.sqrt(one.rain + DRY_SHARE)) for one in self.tiles]
        self._of_events = _shares(np.array([np.sqrt(one.rain.sum() + DRY_SHARE) for one in self.tiles]))
        self._count = sum(len(one.rain) for one in self.tiles)

    def __getitem__(self, number: int) -> Batch:
        """Return one draw, without the batch's axis."""
        random = np.random.default_rng((self.seed, number))
        event = int(random.choice(len(self.tiles), p=self._of_events))
        chosen = int(random.choice(len(self._of_tiles[event]), p=self._of_tiles[event]))
        probability = self._of_events[event] * self._of_tiles[event][chosen]
        row, column = random.integers(0, self.shape.tile - self.crop + 1, 2)
        square = self.tiles[event].bytes[chosen, :, row : row + self.crop, column : column + self.crop]
        if self.turned:
            square = np.rot90(square, int(random.integers(4)), (1, 2))
            square = square[:, :, ::-1] if random.integers(2) else square
        values, observed = from_bytes(torch.from_numpy(np.array(square))[:, None])
        past, end = self.shape.frames, self.shape.frames + self.slots
        guessed = self.shape.frames + self.shape.slots
        return {
            "x": values[:past],
            "observed": observed[:past],
            "target": values[past:end],
            "valid": observed[past:end],
            "guess": values[guessed : guessed + self.slots],
            "step_minutes": torch.tensor(float(self.tiles[event].step_minutes)),
            "cell_km": torch.tensor(self.tiles[event].cell_km, dtype=torch.float32),
            "weight": torch.tensor(1 / self._count / probability, dtype=torch.float32),
            "number": torch.tensor(number),
        }


class Numbers(Sampler[int]):
    """Numbers of draws without end: for process ``rank`` of ``world`` every ``world``-th, from ``start`` on.

    A training that goes on after a kill sets ``start`` to what was drawn before, and sees what it would have.
    """

    def __init__(self, *, rank: int = 0, world: int = 1, start: int = 0) -> None:
        self.rank, self.world, self.start = rank, world, start

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers."""
        number = self.start + self.rank
        while True:
            yield number
            number += self.world


def loader(draws: Dataset[Any], numbers: Iterable[int], batch: int, *, workers: int = 0) -> DataLoader[Any]:
    """Return batches of draws, in the order of ``numbers``; each worker opens the files it needs."""
    return DataLoader(
        draws,
        batch_size=batch,
        sampler=numbers,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
    )


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(weights / weights.sum(), dtype=np.float64)
