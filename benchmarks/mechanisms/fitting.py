"""The small training and scoring that all experiments share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.stmoe.physics import Kind, PhysicsSequences

#: Frames seen and frames forecast, unless an experiment differs.
SEEN, AHEAD = 4, 4

#: Added to the numbers of test sequences, so that none is ever trained on.
TEST_OFFSET = 1_000_000


@dataclass(frozen=True)
class Size:
    """How large an experiment is.

    Attributes:
        iterations: Steps of the optimiser of each training.
        sequences: Sequences trained on.
        held_out: Sequences scored.
        grid: Rows and columns, in cells.
        batch: Sequences a step.
        width: Factor of the networks' channels.
        device: Where networks run.
    """

    iterations: int = 300
    sequences: int = 256
    held_out: int = 64
    grid: int = 32
    batch: int = 8
    width: int = 1
    device: str = "cpu"


#: For two CPU cores, and for a GPU.
SMALL = Size()
LARGE = Size(iterations=4000, sequences=4096, held_out=512, grid=64, batch=32, width=2, device="cuda")

#: Gives the loss of some training sequences, ``progress`` in [0, 1] into the training.
Loss = Callable[[Tensor, float, torch.Generator], Tensor]


def physics(
    kind: str, size: Size, seed: int, *, frames: int = SEEN + AHEAD, noise: float = 0.0
) -> PhysicsSequences:
    """Return the set of sequences of one seed."""
    return PhysicsSequences(kind=cast(Kind, kind), frames=frames, size=size.grid, noise=noise, seed=seed)


def training_frames(sequences: PhysicsSequences, size: Size, count: int | None = None) -> Tensor:
    """Return the frames ``(n, t, 1, y, x)`` to train on."""
    return sequences.batch(range(count or size.sequences)).frames.to(size.device)


def held_out_frames(sequences: PhysicsSequences, size: Size) -> Tensor:
    """Return the frames ``(n, t, 1, y, x)`` to score on."""
    return sequences.batch(range(TEST_OFFSET, TEST_OFFSET + size.held_out)).frames.to(size.device)


def fit(
    parameters: Iterable[nn.Parameter],
    loss: Loss,
    count: int,
    size: Size,
    seed: int,
    *,
    learning_rate: float = 2e-3,
    iterations: int | None = None,
) -> float:
    """Train with Adam and return the mean loss of the last tenth of the iterations.

    Args:
        parameters: What is trained.
        loss: Given the numbers of sequences, the progress and a generator, the loss of that batch.
        count: How many sequences there are to draw from.
        size: Batch and iterations.
        seed: Decides order of the data and every random decision.
        learning_rate: Of Adam; it falls to a tenth along half a cosine.
        iterations: Those of ``size`` if left out.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    steps = iterations or size.iterations
    optimiser = torch.optim.Adam(trained, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=learning_rate / 10)
    order, decisions = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    last: list[float] = []
    for step in range(steps):
        chosen = torch.randint(count, (size.batch,), generator=order)
        optimiser.zero_grad()
        value = loss(chosen, step / steps, decisions)
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss is {value.item()} at step {step}")
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        if step >= steps - max(steps // 10, 1):
            last.append(value.item())
    return sum(last) / len(last)


def scored(net: nn.Module, forecast: Callable[[Tensor], Tensor], frames: Tensor, seen: int = SEEN) -> float:
    """Return the mean squared error of a clamped forecast of the frames after the first ``seen``."""
    net.eval()
    with torch.inference_mode():
        parts = [forecast(part[:, :seen]).clamp(0, 1) - part[:, seen:] for part in torch.split(frames, 32)]
    net.train()
    return float(torch.cat(parts).square().mean())


def persistence(frames: Tensor, seen: int = SEEN) -> float:
    """Return the mean squared error of the last frame seen as the forecast of all that follow."""
    return float((frames[:, seen - 1 : seen] - frames[:, seen:]).square().mean())
