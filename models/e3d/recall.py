"""The attention of an eidetic memory: what a gate recalls of all the memories a layer has had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

#: Scores that :func:`recall_shares` holds at a time: 16 MiB of float32.
SCORES_AT_A_TIME = 1 << 22

#: Side [positions] of the squares of the gate that attend together where they reach only so far: the smaller,
#: the fewer scores are thrown away; the larger, the better matrix products run. Measured for a reach of 3.
SIDE = 4

#: Score of a position outside of the grid: beyond any real one, and still a number in half precision.
OUTSIDE = -3e4

#: Depth, rows and columns of a volume.
Size = tuple[int, int, int]


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


def recall_nearby(gate: Tensor, memories: Tensor, size: Size, reach: int) -> Tensor:
    r"""Return what a gate recalls of the surroundings of each position.

    As :func:`recall`, but a position attends to those positions alone that are at most ``reach`` rows and
    columns away, in all slices of all memories; those outside of the grid are none. So the work grows with
    the number of positions and not with its square, and far echo has no say.

    Convention: squares of positions attend together to all that any of them reaches, scores of what one of
    them does not reach being left out of its softmax. A constant channel tells what lies outside.

    Args:
        gate: R_t ``(b, n, d)``, the rows of a volume.
        memories: ``(b, m, d)``, the rows of all memories, one volume after the other.
        size: Depth, rows and columns (t, y, x) of a volume, n = t y x.
        reach: How many rows and columns away, in positions.
    """
    if reach >= max(size[1:]) - 1:
        return recall(gate, memories)
    (batch, _, channels), (depth, rows, columns) = gate.shape, size
    bias = _window(gate, memories, size, reach)
    bands = []
    for queries, keys in _squares(gate, memories, size, reach):
        key = keys[:, None]
        recalled = functional.scaled_dot_product_attention(
            queries[:, None], key, key, attn_mask=bias, scale=1.0
        )
        squares = recalled.view(batch, -1, depth, SIDE, SIDE, channels + 1)[..., :-1]
        bands.append(squares.permute(0, 2, 3, 1, 4, 5).flatten(3, 4))
    return torch.cat(bands, dim=2)[:, :, :rows, :columns].flatten(1, 3)


def _window(gate: Tensor, memories: Tensor, size: Size, reach: int) -> Tensor:
    """Return what is added to the scores ``(q, k)`` of a square: -inf for what a position does not reach."""
    depth, slices = size[0], memories.shape[1] // (size[1] * size[2])
    side, wide = (torch.arange(width, device=gate.device) for width in (SIDE, SIDE + 2 * reach))
    apart = wide - side[:, None]
    near = (apart >= 0) & (apart <= 2 * reach)
    both = near[:, None, None, :, None] & near[None, :, None, None, :]
    whole = both.expand(depth, SIDE, SIDE, slices, *both.shape[-2:]).flatten(3).flatten(0, 2)
    return gate.new_zeros(whole.shape).masked_fill_(~whole, float("-inf"))


def _squares(gate: Tensor, memories: Tensor, size: Size, reach: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the squares of one band of rows after the other, and what they reach.

    Yields:
        Queries ``(b s, q, d + 1)`` of the s squares of a band, q = t SIDE^2, the last channel 1 inside of the
        grid and 0 outside; and keys ``(b s, k, d + 1)``, k = slices (SIDE + 2 reach)^2, the last channel 0
        inside and :data:`OUTSIDE` outside. Products of both are scores.
    """
    (batch, _, channels), (depth, rows, columns) = gate.shape, size
    below, right = -rows % SIDE, -columns % SIDE
    around = (0, 0, reach, reach + right, reach, reach + below)
    query = functional.pad(gate.view(batch, depth, rows, columns, channels), (0, 1), value=1.0)
    query = functional.pad(query, (0, 0, 0, right, 0, below))
    key = functional.pad(memories.view(batch, -1, rows, columns, channels), around)
    outside = functional.pad(gate.new_zeros(rows, columns, 1), around, value=OUTSIDE)
    key = torch.cat([key, outside.expand(*key.shape[:2], -1, -1, -1)], dim=-1)
    wide = SIDE + 2 * reach
    for row in range(0, rows, SIDE):
        queries = query[:, :, row : row + SIDE].unfold(3, SIDE, SIDE).permute(0, 3, 1, 2, 5, 4)
        keys = key[:, :, row : row + wide].unfold(3, wide, SIDE).permute(0, 3, 1, 2, 5, 4)
        yield queries.flatten(2, 4).flatten(0, 1), keys.flatten(2, 4).flatten(0, 1)


@torch.no_grad()
def shares_nearby(gate: Tensor, memories: Sequence[Tensor], size: Size, reach: int) -> Tensor:
    """Return as :func:`recall_shares` what :func:`recall_nearby` pays attention to."""
    batch, count = gate.shape[0], len(memories)
    if not memories or reach >= max(size[1:]) - 1:
        return recall_shares(gate, memories)
    past = torch.cat(list(memories), dim=1)
    bias = _window(gate, past, size, reach)
    shares = gate.new_zeros(batch, count)
    for queries, keys in _squares(gate, past, size, reach):
        weights = torch.softmax(torch.baddbmm(bias, queries, keys.transpose(1, 2)), dim=-1)
        inside = (weights * queries[..., -1:]).view(batch, -1, count, weights.shape[2] // count)
        shares += inside.sum(dim=(1, 3))
    return shares / gate.shape[1]


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
