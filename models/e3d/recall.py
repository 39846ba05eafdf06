"""The attention of an eidetic memory: what a gate recalls of all the memories a layer has had."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

#: Scores that :func:`recall_shares` holds at a time: 16 MiB of float32.
SCORES_AT_A_TIME = 1 << 22


def to_rows(volume: Tensor) -> Tensor:
    """Return the positions of a volume ``(b, t, d, y, x)`` as adjacent rows ``(b, n, d)``, n = t y x.

    Rows that lie apart would make attention hold its whole matrix of scores.
    """
    return volume.movedim(2, -1).flatten(1, 3).contiguous()


def from_rows(rows: Tensor, depth: int, size: Sequence[int]) -> Tensor:
    """Return the volume ``(b, t, d, y, x)`` of rows ``(b, n, d)``, of ``depth`` t and ``size`` (y, x)."""
    return rows.view(rows.shape[0], depth, *size, rows.shape[2]).movedim(-1, 2)


def recall(gate: Tensor, memories: Tensor) -> Tensor:
    r"""Return what a gate recalls of memories, both given as rows.

    .. math::
        \mathrm{RECALL}(R_t, C_{t-\tau:t-1})
            = \mathrm{softmax}(R_t \cdot C_{t-\tau:t-1}^\top) \cdot C_{t-\tau:t-1}

    Every position of the gate attends to every position of every memory; those are keys and values at once.
    Scores are not divided by the root of d: the gate lies in [0, 1], and with that division the network
    would be another. The matrix of scores is never held whole.

    Args:
        gate: R_t ``(b, n, d)``.
        memories: ``(b, m, d)``, the rows of all memories, in any order.

    References:
        Wang et al. (2019), Eidetic 3D LSTM: A Model for Video Prediction and Beyond, ICLR 2019, eq. 1,
        https://openreview.net/forum?id=B1lKS2AqtX.
    """
    key = memories[:, None]
    return functional.scaled_dot_product_attention(gate[:, None], key, key, scale=1.0)[:, 0]


@torch.no_grad()
def recall_shares(gate: Tensor, memories: Sequence[Tensor]) -> Tensor:
    """Return how much of its attention a gate pays to each memory, on average over its positions.

    Args:
        gate: R_t ``(b, n, d)``.
        memories: Each ``(b, n, d)``.

    Returns:
        ``(b, m)``, in the order of ``memories``; each row adds up to 1, unless m is 0.
    """
    batch, positions, _ = gate.shape
    shares = gate.new_zeros(batch, len(memories))
    if not memories:
        return shares
    keys = torch.cat(list(memories), dim=1).transpose(1, 2)
    for some in torch.split(gate, max(1, SCORES_AT_A_TIME // (batch * keys.shape[2])), dim=1):
        weights = torch.softmax(some @ keys, dim=-1).view(batch, -1, len(memories), positions)
        shares += weights.sum(dim=(1, 3))
    return shares / positions


class MemoryWindow:
    """The latest memories of a layer, side by side in one allocation, oldest first.

    It is written in place, hence for a rollout that keeps no gradients and hands out no state on its way. The
    window slides along an allocation of twice its length and jumps back at the end: one copy of each memory.

    Args:
        length: How many memories it keeps.
        pushes: How many there will be; with no more than ``length`` of them nothing ever moves.
    """

    def __init__(self, length: int, pushes: int) -> None:
        self._length = min(length, pushes)
        self._slots = min(2 * length, pushes)
        self._rows: Tensor | None = None
        self._end = 0

    def push(self, memory: Tensor) -> None:
        """Take in the memory ``(b, n, d)``, dropping the oldest one if the window is full."""
        if self._length == 0:
            return
        if self._rows is None:
            batch, *rest = memory.shape
            self._rows = memory.new_empty(batch, self._slots, *rest)
        if self._end == self._slots:
            self._end = self._length - 1
            self._rows[:, : self._end] = self._rows[:, self._slots - self._end :]
        self._rows[:, self._end] = memory
        self._end += 1

    def rows(self) -> Tensor | None:
        """Return the rows ``(b, m, d)`` of all memories kept, as a view; ``None`` while there are none."""
        if self._rows is None:
            return None
        return self._rows[:, max(0, self._end - self._length) : self._end].flatten(1, 2)
