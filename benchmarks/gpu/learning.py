"""A training step of a correction that waits for nothing, so that all of it can be one CUDA graph."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.gpu.pool import NUMBERS, Batch, Pool, whole_number
from benchmarks.gpu.timing import Replayed
from models.correction import Choices, Correction

#: Of AdamW: highest rate, less than that of small corrections; decay; longest gradient.
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 2e-3, 1e-3, 1.0

#: Share of the time over which the rate rises from 0; then it falls to a hundredth by a cosine.
WARM_UP, LAST_RATE = 0.05, 0.01

#: Weight of the mean of all weights so far, against those after a step.
EMA_DECAY = 0.995

#: Steps between two looks at the loss, for which the device is waited for.
LOOK_STEPS = 25


class Learnt(NamedTuple):
    """What came of a training.

    Attributes:
        network: The mean of the last weights.
        steps: Number of steps.
        seconds: Their time.
        captured: Whether a step was one CUDA graph.
        losses: Mean loss of every :data:`LOOK_STEPS` steps.
    """

    network: Correction
    steps: int
    seconds: float
    captured: bool
    losses: list[float]


class Step:
    """A step of AdamW on squares of a pool, in bfloat16 as far as autocast goes, with a mean of weights.

    Args:
        network: What learns, on the pool's device.
        pool: What from.
        batch: Squares a step.
        graph: Whether to capture it; without, it is made operation by operation.
    """

    def __init__(self, network: Correction, pool: Pool, batch: int, *, graph: bool = True) -> None:
        self.network, self._pool, self._device = network, pool, pool.planes.device
        self._side = network.config.square_cells(float(pool.cell_km[0]))
        self.numbers = torch.zeros(batch + 1, NUMBERS, device=self._device)
        self.total = torch.zeros((), device=self._device)
        self._rate = torch.zeros((), device=self._device)
        self._weights: list[Tensor] = list(network.parameters())
        self.mean = deepcopy(network).requires_grad_(False)
        self._means: list[Tensor] = list(self.mean.parameters())
        on_gpu = self._device.type == "cuda"
        self._optimiser = torch.optim.AdamW(
            self._weights, lr=self._rate, weight_decay=WEIGHT_DECAY, fused=on_gpu or None, capturable=on_gpu
        )
        self._optimiser.param_groups[0]["lr"] = self._rate
        self._call: Callable[[], Tensor] = self._step
        self.captured = False
        if graph:
            self._capture()

    def _capture(self) -> None:
        self.numbers.uniform_()
        try:
            self._call = Replayed(self._step, self._device)
            self.captured = self._device.type == "cuda"
        except RuntimeError as error:
            print(f"    a step is no CUDA graph: {str(error).splitlines()[0]}", flush=True)
        self.total.zero_()

    def take(self, rate: float) -> None:
        """Take a step at a rate, a share of the highest; the device may be behind."""
        self.numbers.uniform_()
        self._rate.fill_(rate * LEARNING_RATE)
        self._call()

    def _step(self) -> Tensor:
        self._optimiser.zero_grad()
        batch = self._pool.batch(self.numbers[:-1])
        choices = choices_of(self.network, batch, self.numbers, self._side)
        with torch.autocast(self._device.type, torch.bfloat16):
            parts = self.network.training_loss(
                batch["x"],
                batch["target"],
                valid=batch["valid"],
                choices=choices,
                **{name: batch[name] for name in self.network.context},
            )
        loss = parts["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(self._weights, CLIP_NORM)
        self._optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._means, self._weights, 1 - EMA_DECAY)
        self.total += parts["cross_entropy"]
        return loss.detach()


def choices_of(network: Correction, batch: Batch, numbers: Tensor, side: int) -> Choices:
    """Return what a step looks at, drawn by numbers ``(b + 1, n)`` in [0, 1), the last row for all alike.

    Leads at which nothing counts are taken last, and then count for nothing.
    """
    counted = batch["valid"] & batch["known"] & batch["observed"][:, -1:]
    slots, cells = counted.shape[1], batch["x"].shape[-2:]
    lots = numbers[-1, :slots] - counted.transpose(0, 1).flatten(1).any(1).float()
    taken = lots.argsort()[: min(network.config.leads_a_step, slots)].sort().values
    every = network.looked_at(side)
    first = whole_number(numbers[-1, slots : slots + 2], every)
    rows, columns = (
        torch.arange(0, size - every + 1, every, device=numbers.device) + first[axis]
        for axis, size in enumerate(cells)
    )
    threshold = network.drawn_threshold(batch["x"], numbers[:-1, 3])
    return Choices(side, threshold, taken, rows, columns)


def rate(done: float) -> float:
    """Return the learning rate as a share of the highest, as :func:`nowcast.training.module.rate` does."""
    if done < WARM_UP:
        return max(done / WARM_UP, LAST_RATE)
    falling = (min(done, 1.0) - WARM_UP) / (1 - WARM_UP)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * falling)) / 2


def learn(step: Step, seconds: float, *, most_steps: int | None = None) -> Learnt:
    """Return what steps for a time give, or so many; should the loss become infinite, what was before."""
    begun, count, losses = time.perf_counter(), 0, list[float]()
    last_good, done = deepcopy(step.mean), 0.0
    while done < 1:
        step.take(rate(done))
        count += 1
        done = (time.perf_counter() - begun) / seconds if most_steps is None else count / most_steps
        if count % LOOK_STEPS and done < 1:
            continue
        losses.append(float(step.total) / (count - LOOK_STEPS * len(losses)))
        step.total.zero_()
        if not math.isfinite(losses[-1]):
            print(f"    the loss is {losses[-1]} at step {count}: it ends there", flush=True)
            break
        last_good.load_state_dict(step.mean.state_dict())
    return Learnt(last_good.eval(), count, time.perf_counter() - begun, step.captured, losses)
