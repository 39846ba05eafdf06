"""Draws of training sequences: more often of rain, turned and mirrored, the same for the same number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from models.normalisation import from_bytes
from nowcast.errors import NotEnoughFrames
from nowcast.training.sequences import LEAST_RAIN, MOTION_STEP_KMH, STILL, Shape, Tiles, rain_share

#: Added to a tile's share of rain before the root is taken: dry surroundings are drawn, too.
DRY_SHARE = 0.02

#: Times that a square without rain is moved elsewhere in its tile.
MOST_MOVES = 8


class Batch(TypedDict):
    """Sequences to learn from.

    Attributes:
        x: Frames up to the issue time ``(b, t, 1, y, x)`` in [0, 1], not observed as 0.
        observed: Boolean, of the shape of ``x``: where it was observed.
        target: Frames that followed ``(b, slot, 1, y, x)`` in [0, 1].
        guess: What S-PROG or the base expects of each slot, of the shape of ``target``; without slots if
            there is none.
        valid: Boolean, of the shape of ``target``: where it was observed; nowhere in a slot without a frame.
        step_minutes: The events' own steps ``(b,)``.
        cell_km: Widths of their cells ``(b,)``.
        weight: Probability ``(b,)`` with which drawing without regard to rain takes a sequence, over that
            with which it was drawn. A mean with these weights is one over all tiles alike.
        number: Numbers of the draws ``(b,)``.
        minutes: Lead time of each slot ``(b, slot)``.
        known: Boolean: where the base is known; absent without a base, as all that follows.
        in_place: The newest frame in place, as the moving air meets it in each slot.
        in_place_known: Boolean: where it is known.
        motion: Southward and eastward ``(b, 2, 1, y, x)`` [km/h].
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
    minutes: Tensor
    known: NotRequired[Tensor]
    in_place: NotRequired[Tensor]
    in_place_known: NotRequired[Tensor]
    motion: NotRequired[Tensor]


class Draws(Dataset[Batch]):
    """Draw ``n`` is a function of the seed and of ``n`` alone, whichever process asks and in whatever order.

    An event is drawn by the root of all its rain, so that one long wet day does not drown the others; in it a
    tile by the root of its share of rain; in that a square, turned by quarters and mirrored. Probabilities
    depend on the newest frame only: what a network learns to expect, given what it sees, stays unbiased.

    With a base, all draws of a batch have squares of one side, as only those go together; radars are drawn
    before events, by the root of all their rain; and a square is moved, a few times at most, to where it
    rains.
    """

    def __init__(
        self,
        tiles: Sequence[Tiles],
        shape: Shape,
        *,
        crop: int | Callable[[float], int],
        seed: int,
        turned: bool = True,
        slots: int | None = None,
        together: int = 1,
        world: int = 1,
    ) -> None:
        """Draw squares of the truth.

        Args:
            tiles: What to draw from.
            shape: What sequences look like.
            crop: Side of the squares [cells], or that for a width of cells [km].
            seed: Another number, other draws.
            turned: Whether to turn and mirror.
            slots: How many slots of the truth, from the first; all of them if left out.
            together: Draws of a batch.
            world: Processes that take every so many-th number.

        Raises:
            NotEnoughFrames: If there is no tile.
            ValueError: If squares are larger than tiles.
        """
        if not any(len(one.rain) for one in tiles):
            raise NotEnoughFrames("expected training sequences, got none")
        if isinstance(crop, int) and not 0 < crop <= shape.tile:
            raise ValueError(f"expected squares of at most {shape.tile} cells, got {crop}")
        self.tiles, self.shape, self.seed, self.turned = list(tiles), shape, seed, turned
        self.slots = shape.slots if slots is None else slots
        self._crop, self._together, self._world = crop, together, world
        self._of_tiles = [_shares(np.sqrt(one.rain + DRY_SHARE)) for one in self.tiles]
        self._of_events = self._event_shares()
        kinds = [self._kind(one) for one in self.tiles]
        #: How probably each event is drawn, by what may be in one batch.
        self._of_kinds = [self._of_events * [kind == one for one in kinds] for kind in sorted(set(kinds))]
        self._shares_of_kinds = _shares(np.array([shares.sum() for shares in self._of_kinds]))
        self._count = sum(len(one.rain) for one in self.tiles)

    def _event_shares(self) -> NDArray[np.float64]:
        """Return how probably each event is drawn."""
        rain = np.array([one.rain.sum() + DRY_SHARE for one in self.tiles])
        if not self.shape.base:
            return _shares(np.sqrt(rain))
        radars = np.array([one.radar for one in self.tiles])
        shares = np.zeros(len(rain))
        for radar in set(radars.tolist()):
            of_radar = radars == radar
            shares[of_radar] = np.sqrt(rain[of_radar].sum()) * _shares(np.sqrt(rain[of_radar]))
        return _shares(shares)

    def probabilities(self) -> list[NDArray[np.float64]]:
        """Return how probably each tile of each event is drawn."""
        return [share * of_tiles for share, of_tiles in zip(self._of_events, self._of_tiles, strict=True)]

    def __getitem__(self, number: int) -> Batch:
        """Return one draw, without the batch's axis."""
        random = np.random.default_rng((self.seed, number))
        batch = number // (self._world * self._together), number % self._world
        of_batch = np.random.default_rng((self.seed, *batch, self._together))
        of_events = self._of_kinds[int(of_batch.choice(len(self._of_kinds), p=self._shares_of_kinds))]
        event = int(random.choice(len(self.tiles), p=_shares(of_events)))
        chosen = int(random.choice(len(self._of_tiles[event]), p=self._of_tiles[event]))
        probability = self._of_events[event] * self._of_tiles[event][chosen]
        square = self._square(self.tiles[event], chosen, random)
        weight = 1 / self._count / probability
        return as_batch(square, self.tiles[event], self.shape, self.slots, number=number, weight=weight)

    def _kind(self, tiles: Tiles) -> tuple[int, int]:
        """Return the side [cells] of squares on cells of a width, and that on an event's tiles."""
        if isinstance(self._crop, int):
            return self._crop, self._crop
        side = self._crop(tiles.cell_km)
        return side, min(side, *tiles.bytes.shape[2:])

    def _square(self, tiles: Tiles, chosen: int, random: np.random.Generator) -> NDArray[np.uint8]:
        """Return the planes ``(plane, y, x)`` of a square of a tile."""
        tile = tiles.bytes[chosen]
        side = self._kind(tiles)[1]
        for _ in range(MOST_MOVES):
            row, column = (int(random.integers(0, whole - side + 1)) for whole in tile.shape[1:])
            square = tile[:, row : row + side, column : column + side]
            if not self.shape.base or rain_share(square[self.shape.frames - 1]) >= LEAST_RAIN:
                break
        if not self.turned:
            return np.array(square)
        quarters, mirrored = int(random.integers(4)), bool(random.integers(2))
        return turned(np.array(square), self.shape, quarters, mirrored)


class Issues(Dataset[Batch]):
    """Every tile of some events, one after the other, as it is: whole grids, where tiles are those."""

    def __init__(self, tiles: Sequence[Tiles], shape: Shape) -> None:
        self._of, self._shape = [(one, k) for one in tiles for k in range(len(one.rain))], shape

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._of)

    def __getitem__(self, number: int) -> Batch:
        """Return one, without the batch's axis."""
        tiles, chosen = self._of[number]
        whole = np.array(tiles.bytes[chosen])
        return as_batch(whole, tiles, self._shape, self._shape.slots, number=number, weight=1.0)

    def event(self, number: int) -> Tiles:
        """Return the tiles one is of."""
        return self._of[number][0]


def turned(square: NDArray[np.uint8], shape: Shape, quarters: int, mirrored: bool) -> NDArray[np.uint8]:
    """Return planes ``(plane, y, x)`` turned anticlockwise by quarters, then mirrored, motion likewise."""
    square = np.rot90(square, quarters, (1, 2)).copy()
    if "motion" in shape.parts:
        part = shape.parts["motion"]
        south, east = square[part].astype(np.int16) - STILL
        for _ in range(quarters):
            south, east = -east, south
        square[part] = np.stack([south, -east if mirrored else east]) + STILL
    return square[:, :, ::-1].copy() if mirrored else square


def as_batch(
    square: NDArray[np.uint8], tiles: Tiles, shape: Shape, slots: int, *, number: int, weight: float
) -> Batch:
    """Return planes ``(plane, y, x)`` of bytes as a :class:`Batch` without its axis."""
    values, observed = from_bytes(torch.from_numpy(square)[:, None])
    parts = shape.parts
    past, truth = parts["past"], slice(parts["truth"].start, parts["truth"].start + slots)
    guess = parts.get("guess", slice(0, 0))
    guess = slice(guess.start, min(guess.start + slots, guess.stop))
    batch: Batch = {
        "x": values[past],
        "observed": observed[past],
        "target": values[truth],
        "valid": observed[truth],
        "guess": values[guess],
        "step_minutes": torch.tensor(float(tiles.step_minutes)),
        "cell_km": torch.tensor(tiles.cell_km, dtype=torch.float32),
        "weight": torch.tensor(weight, dtype=torch.float32),
        "number": torch.tensor(number),
        "minutes": torch.tensor(tiles.minutes[:slots], dtype=torch.float32),
    }
    if shape.base:
        stay = slice(parts["in_place"].start, parts["in_place"].start + slots)
        motion = torch.from_numpy(square[parts["motion"]][:, None]).float()
        batch["known"], batch["in_place"], batch["in_place_known"] = (
            observed[guess],
            values[stay],
            observed[stay],
        )
        batch["motion"] = (motion - STILL) * MOTION_STEP_KMH
    return batch


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
