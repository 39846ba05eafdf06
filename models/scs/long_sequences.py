"""Long-range temporal semi-coupling: a long sequence is learnt in short clips that overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from models.forecaster import masked_mse

#: What a clip starts from: the last state of the one before, without its gradient, though time has stepped
#: back by the overlap (the authors' code); nothing; or the state before its first step, with no jump in time.
Carry = Literal["end_detached", "none", "exact"]

#: Share of a clip that the next one sees again (the paper's eta, section 5.3).
OVERLAP = 0.25

Input = TypeVar("Input")
State = TypeVar("State")


class Clip(NamedTuple):
    """One clip that was run.

    Attributes:
        start: Number of its first step, from 0.
        outputs: What every step gave ``(b, steps, ...)``.
        state: State after its last step.
        overlap: Mean squared difference to the outputs of the clip before, which get no gradient, over the
            steps both saw; 0 for the first clip.
    """

    start: int
    outputs: Tensor
    state: Any
    overlap: Tensor


def clip_starts(steps: int, length: int, overlap: float = OVERLAP) -> list[int]:
    r"""Return the first steps of clips that cover a sequence, each overlapping with the next.

    Starts are :math:`\lfloor (1 - \eta) L \rfloor` apart as long as a clip fits; a last clip ends with the
    sequence if need be. A sequence no longer than a clip is one clip.

    Raises:
        ValueError: If there is no step, or clips would not move on or not overlap.

    References:
        The paper's eq. 21 and 22.

    Example:
        >>> clip_starts(60, 10)
        [0, 7, 14, 21, 28, 35, 42, 49, 50]
    """
    again = math.ceil(round(overlap * length, 9))
    if steps < 1 or not 1 <= again < length:
        raise ValueError(
            f"expected steps, and 1 to {length - 1} of {length} seen again; got {steps}, {again}"
        )
    if steps <= length:
        return [0]
    starts = list(range(0, steps - length + 1, length - again))
    return starts if starts[-1] + length == steps else [*starts, steps - length]


def run_clips(
    step: Callable[[Input, State], tuple[Tensor, State]],
    inputs: Sequence[Input],
    start: State,
    *,
    length: int,
    overlap: float = OVERLAP,
    carry: Carry = "end_detached",
) -> Iterator[Clip]:
    r"""Yield one clip of a long sequence after the other.

    .. math:: L_{overlap} = \sum_i \mathrm{MSE}(h(d_{i-1}), h(d_i)) \text{ over the steps both clips hold}

    is the sum of the clips' ``overlap``. No gradient goes from a clip to the one before, so a caller who goes
    backward after each clip holds the graph of one only.

    Args:
        step: Gives the output ``(b, ...)`` and the next state for an input and a state.
        inputs: One for each step.
        start: State before the first step: a tensor or nested tuples of them.
        length: Steps of a clip.
        overlap: Share of a clip that the next one sees again, at least one step.
        carry: What a clip starts from. With ``"exact"`` the result is that of one long run, and every
            overlap is 0.

    Raises:
        ValueError: As :func:`clip_starts`.

    References:
        The paper's section 5.3, eq. 21 to 23.
    """
    clip: Clip | None = None
    states = [start]
    for first in clip_starts(len(inputs), length, overlap):
        if clip is not None:
            states = [_carried(states, first - clip.start, start, carry)]
        outputs = []
        for each in inputs[first : first + length]:
            output, state = step(each, states[-1])
            outputs.append(output)
            states.append(state)
        clip = _joined(clip, first, torch.stack(outputs, dim=1), states[-1])
        yield clip


def detached(state: Any) -> Any:
    """Return a state, a tensor or nested tuples of them, that takes no gradient back."""
    if isinstance(state, Tensor):
        return state.detach()
    if not isinstance(state, tuple):
        return state
    parts = [detached(part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def _carried(states: list[Any], steps: int, start: Any, carry: Carry) -> Any:
    """Return the first state of a clip that begins ``steps`` after that whose states are given."""
    if carry == "none":
        return start
    return detached(states[steps] if carry == "exact" else states[-1])


def _joined(before: Clip | None, first: int, outputs: Tensor, state: Any) -> Clip:
    """Return a clip with its overlap with the one before."""
    if before is None:
        return Clip(first, outputs, state, outputs.new_zeros(()))
    seen = before.outputs[:, first - before.start :].detach()
    return Clip(first, outputs, state, masked_mse(outputs[:, : seen.shape[1]], seen))
