"""What the trainings of the duels come to: the variants, the squares all are scored on, and the pieces kept.

A piece is what one training came to: a JSON file that goes by all that decides it. A run that was killed goes
on with the next training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.convlstm import ConvLSTMConfig
from models.crn import CRNConfig
from models.e3d.network import E3DLSTMConfig
from models.normalisation import HIGH_DBZ, LOW_DBZ, from_bytes
from models.scs.network import SCSConfig
from models.stmoe.network import STMoEConfig
from nowcast.archive.events import Event
from nowcast.disk import durable
from nowcast.names import EXTRAPOLATION
from nowcast.scores.bootstrap import BLOCK
from nowcast.scores.judged import JUDGED_DBZ
from nowcast.training.data import DRY_SHARE
from nowcast.training.module import Recipe
from nowcast.training.plan import RECIPES
from nowcast.training.sequences import Shape, Tiles

#: Version of the file; a piece of another is trained again.
FORMAT = 1

#: What tiles look like: those of a training with the default shape, so that they need not be made twice.
SHAPE = Shape()

#: Time between frames [min]: an event's own step, no other is used.
STEP_MINUTES = 5

#: The variants that are trained, by name; :data:`EXTRAPOLATION` is not, it is the newest frame where the
#: motion carries it.
VARIANTS: dict[str, Any] = {
    "SCS": SCSConfig(layers=6, channels=24),
    "ConvLSTM": ConvLSTMConfig(hidden=(24,) * 6),
    "STMoE, staged": STMoEConfig(hidden=(16, 16)),
    "STMoE, end to end": STMoEConfig(hidden=(16, 16)),
    "E3D-LSTM with recall": E3DLSTMConfig(channels=16, tau=None),
    "E3D-LSTM without": E3DLSTMConfig(channels=16, tau=0),
    "CRN": CRNConfig(hidden=(24, 24), cross=True),
    "N-CRN": CRNConfig(hidden=(24, 24), cross=False),
}

#: The variants that learn from synthetic sequences first.
STAGED = frozenset({"STMoE, staged"})


@dataclass(frozen=True)
class Terms:
    """What all variants are trained and scored by alike.

    Attributes:
        seconds: CPU time of a training, without that for fetching data.
        leads: Leads trained and scored, in steps.
        batch: Sequences a step.
        crop: Side of the squares trained on [cells].
        squares: Squares scored, of each event.
        scored_crop: Their side [cells].
    """

    seconds: float = 25.0
    leads: int = 6
    batch: int = 8
    crop: int = 32
    squares: int = 40
    scored_crop: int = 64


class Squares(NamedTuple):
    """What every variant is scored on.

    Attributes:
        x: Frames up to the issue time ``(n, t, 1, y, x)`` in [0, 1].
        target: Frames that followed ``(n, lead, 1, y, x)``.
        valid: Boolean, of the shape of ``target``: where it was observed.
        block: Number of the block ``(n,)`` each belongs to: about an hour of an event.
    """

    x: Tensor
    target: Tensor
    valid: Tensor
    block: NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """What one training came to.

    Attributes:
        variant: Name of the variant.
        seed: Of its weights and its draws.
        steps: Steps it took on rain, and before on synthetic sequences.
        seconds: CPU time it took.
        parameters: Number of weights.
        counts: Hits, misses and false alarms ``(block, lead, 3, threshold)``.
        squared: Sum of squared errors of each lead [dBZ²].
        cells: Cells these were summed over.
    """

    variant: str
    seed: int
    steps: tuple[int, int]
    seconds: float
    parameters: int
    counts: NDArray[np.int64]
    squared: tuple[float, ...]
    cells: tuple[int, ...]

    @property
    def mse(self) -> float:
        """Mean squared error of all leads [dBZ²]."""
        return sum(self.squared) / max(sum(self.cells), 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the piece as plain data."""
        return {**asdict(self), "counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Piece:
        """Return the piece that :meth:`to_dict` made plain."""
        facts: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        facts["counts"] = np.asarray(content["counts"], np.int64)
        return cls(**facts)


def recipe_of(config: Any) -> Recipe:
    """Return how a network is optimised: as in the service's own training."""
    return RECIPES.get(type(config), Recipe())


def piece_path(
    folder: Path, variant: str, seed: int, terms: Terms, learnt: Sequence[Tiles], scored: Sequence[Tiles]
) -> Path:
    """Return where a piece is kept: another network, recipe or budget, or other tiles, is another file."""
    tiles = [[one.path.name for one in part] for part in (learnt, scored)]
    config = VARIANTS[variant]
    facts = [FORMAT, asdict(config), asdict(recipe_of(config)), variant in STAGED, seed, asdict(terms), tiles]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return folder / f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}-{key}.json"


def read_piece(path: Path) -> Piece | None:
    """Return a piece, ``None`` if there is none yet."""
    try:
        return Piece.from_dict(durable.read_json(path))
    except FileNotFoundError:
        return None


def squares_of(tiles: Sequence[Tiles], events: Sequence[Event], terms: Terms) -> Squares:
    """Return the squares every variant is scored on, as many of each event; they depend on nothing else.

    Tiles are drawn as for training: by the root of their share of rain at the issue time. Blocks are runs of
    an event's tiles, which are in the order of their issue times.
    """
    hours = {event.name: (event.times[-1] - event.times[0]) / BLOCK for event in events}
    cut, blocks, first = [], [], 0
    for number, one in enumerate(tiles):
        random = np.random.default_rng(number)
        shares = np.sqrt(one.rain + DRY_SHARE)
        count, runs = len(shares), max(round(hours[one.event]), 1)
        for chosen in random.choice(count, size=terms.squares, p=shares / shares.sum()):
            row, column = random.integers(0, SHAPE.tile - terms.scored_crop + 1, 2)
            square = one.bytes[chosen, :, row : row + terms.scored_crop, column : column + terms.scored_crop]
            cut.append(np.ascontiguousarray(square))
            blocks.append(first + int(chosen) * runs // count)
        first += runs
    values, observed = from_bytes(torch.from_numpy(np.stack(cut))[:, :, None])
    past, end = SHAPE.frames, SHAPE.frames + terms.leads
    return Squares(values[:, :past], values[:, past:end], observed[:, past:end], np.asarray(blocks))


def scored(network: nn.Module | None, squares: Squares) -> Piece:
    """Return what a network, or extrapolation without one, scores; nothing is said of the training."""
    leads = squares.target.shape[1]
    counts = np.zeros((1 + int(squares.block.max()), leads, 3, len(JUDGED_DBZ)), np.int64)
    squared, cells = torch.zeros(leads, dtype=torch.float64), torch.zeros(leads, dtype=torch.int64)
    if network is not None:
        network.eval()
    with torch.inference_mode():
        for part in torch.split(torch.arange(len(squares.x)), 16):
            x, target, valid = squares.x[part], squares.target[part], squares.valid[part]
            pred = x[:, -1:].expand_as(target) if network is None else network(x, leads)["pred"]
            np.add.at(counts, squares.block[part.numpy()], _counts(pred, target, valid).numpy())
            error = torch.where(valid, (pred - target) * (HIGH_DBZ - LOW_DBZ), 0.0)
            squared += error.double().square().sum(dim=(0, 2, 3, 4))
            cells += valid.sum(dim=(0, 2, 3, 4))
    sums = tuple(squared.tolist()), tuple(cells.tolist())
    return Piece(EXTRAPOLATION, 0, (0, 0), 0.0, 0, counts, *sums)


def _counts(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return hits, misses and false alarms ``(b, lead, 3, threshold)`` where the truth is observed."""
    rows = []
    for threshold in JUDGED_DBZ:
        unit = (threshold - LOW_DBZ) / (HIGH_DBZ - LOW_DBZ)
        said, was = (pred >= unit) & valid, (target >= unit) & valid
        rows.append(torch.stack([said & was, was & ~said, said & ~was], dim=2).sum(dim=(3, 4, 5)))
    return torch.stack(rows, dim=-1)
