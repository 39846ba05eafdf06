"""Memory in memory: a spatiotemporal LSTM whose forget gate gives way to two memories of what changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.parts.blocks import LSTMState, from_patches, to_patches, xavier
from models.parts.spatiotemporal import BothWaysForecaster, GateConv, STLSTMCell, memory_adapters, remember


@dataclass(frozen=True)
class MIMConfig:
    """Sizes and options of a MIM.

    Attributes:
        hidden: Channels of each layer, from the bottom up.
        kernel_size: Odd width of the convolutions, in patches.
        patch: Width of a patch, in cells.
        difference_once: Whether only the first non-stationary module sees the change of the hidden state
            below it and each other one what the module below made of that, as in the authors' code; else all
            see the change of the hidden state below them, as in the paper.
        norm: Whether the convolutions of X, H and M are normalised over the sample.
        head: Whether there is an output layer; without it the network gives features only.
        both_ways: Whether training also shows each sequence backwards in time.
        reverse_sampling: Whether training samples true frames in reverse, those of the warm-up included.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one.
    """

    hidden: tuple[int, ...] = (24, 24, 24)
    kernel_size: int = 3
    patch: int = 4
    difference_once: bool = False
    norm: bool = False
    head: bool = True
    both_ways: bool = False
    reverse_sampling: bool = False
    frame_channels: int = 1


class MIMLayerState(NamedTuple):
    """State of a layer above the first.

    Attributes:
        hidden: H_t ``(b, d, y, x)``.
        cell: C_t ``(b, d, y, x)``.
        change: D_t and N_t of the non-stationary module, each ``(b, d, y, x)``.
        stationary: S_t of the stationary module ``(b, d, y, x)``.
    """

    hidden: Tensor
    cell: Tensor
    change: LSTMState
    stationary: Tensor


class MIMState(NamedTuple):
    """State of the network after a frame.

    Attributes:
        bottom: State of the first layer.
        upper: States of the layers above it.
        memory: M of the top layer ``(b, d, y, x)``.
    """

    bottom: LSTMState
    upper: tuple[MIMLayerState, ...]
    memory: Tensor


class MemoryCell(nn.Module):
    r"""One time step of a module of a MIM layer: an LSTM whose gates see its memory.

    .. math::
        (i, f, o, g) &= W * X_t + U * H_{t-1} + b \\
        S_t &= \sigma(f + w_f \circ S_{t-1} + 1) \circ S_{t-1}
               + \sigma(i + w_i \circ S_{t-1}) \circ \tanh(g) \\
        H_t &= \sigma(o + w_o \circ S_t) \circ \tanh(S_t)

    Convention: the peepholes w are one weight a channel instead of one a position, which would tie the
    network to one grid.

    Args:
        in_channels: Channels ``c`` of X.
        hidden_channels: Channels ``d`` of H and S.
        kernel_size: Odd width of the convolution, in cells.
    """

    def __init__(self, in_channels: int, hidden_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.gates = GateConv((in_channels, hidden_channels), 4 * hidden_channels, kernel_size)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden_channels, 1, 1))

    def forward(
        self, x: Tensor | None, hidden: Tensor | None, memory: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return H_t and S_t ``(b, d, y, x)`` from X_t, H_{t-1} and S_{t-1}; ``None`` stands for zeros."""
        w_i, w_f, w_o = self.peepholes.unbind(0)
        i, f, o, g = self.gates(x, hidden).chunk(4, dim=1)
        if memory is not None:
            i, f = torch.addcmul(i, w_i, memory), torch.addcmul(f, w_f, memory)
        memory = remember(memory, f, i, g)
        return torch.sigmoid(torch.addcmul(o, w_o, memory)) * torch.tanh(memory), memory


class MIMCell(nn.Module):
    r"""One time step of a layer above the first.

    The change of the layer below passes the non-stationary module N. From what comes out and from the cell
    the stationary module S makes what an LSTM's forget gate would have kept of the cell.

    .. math::
        D_t, N_t &= \text{N}(H^{l-1}_t - H^{l-1}_{t-1},\ D_{t-1},\ N_{t-1}) \\
        T_t, S_t &= \text{S}(D_t,\ C_{t-1},\ S_{t-1}) \\
        (i, g, o)    &= W_x * H^{l-1}_t + W_h * H_{t-1} + b \\
        (i', f', g') &= W_x * H^{l-1}_t + W_m * M^{l-1}_t + b' \\
        C_t   &= T_t + \sigma(i) \circ \tanh(g) \\
        M^l_t &= \sigma(f' + 1) \circ M^{l-1}_t + \sigma(i') \circ \tanh(g') \\
        H_t   &= \sigma(o + W_{mo} * M^{l-1}_t) \circ \tanh(W_{1 \times 1} * [C_t, M^l_t])

    Convention: at the first step, when nothing has changed yet, N does not run and D = N = 0. S convolves
    C_{t-1}, its gates see S_{t-1}, as in the authors' code. Convolutions are shared and the output gate sees
    M as in :class:`~models.parts.spatiotemporal.STLSTMCell`.

    Shapes: ``b`` batch, ``c`` channels of the layer below, ``d`` channels of this one and of M.

    Args:
        in_channels: ``c``.
        hidden_channels: ``d``.
        kernel_size: Odd width of the convolutions, in cells.
        norm: Whether the convolutions of X, H and M are normalised over the sample.

    References:
        Wang et al. (2019), Memory in Memory: A Predictive Neural Network for Learning Higher-Order
        Non-Stationarity from Spatiotemporal Dynamics, section 3, https://arxiv.org/abs/1811.07490.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: int, *, norm: bool = False
    ) -> None:
        super().__init__()
        d = hidden_channels
        self.nonstationary = MemoryCell(in_channels, d, kernel_size)
        self.stationary = MemoryCell(d, d, kernel_size)
        self.of_input = GateConv((in_channels,), 4 * d, kernel_size, norm=norm)
        self.of_hidden = GateConv((d,), 3 * d, kernel_size, norm=norm)
        self.of_memory = GateConv((d,), 4 * d, kernel_size, norm=norm)
        self.merge = nn.Conv2d(2 * d, d, 1)

    def forward(
        self, x: Tensor, difference: Tensor | None, state: MIMLayerState | None, memory: Tensor
    ) -> tuple[MIMLayerState, Tensor]:
        """Return state and memory after the layer below gave ``x``, changed by ``difference``.

        Args:
            x: ``(b, c, y, x)``.
            difference: ``(b, c, y, x)``; not looked at in the first step.
            state: State before; ``None``, all zeros, at the first step.
            memory: M of the layer below ``(b, d, y, x)``.
        """
        hidden, cell, change, stationary = state or (None, None, None, None)
        if change is not None:
            change = LSTMState(*self.nonstationary(difference, *change))
        kept, stationary = self.stationary(change.hidden if change else None, cell, stationary)
        x_i, x_f, x_g, x_o = self.of_input(x).chunk(4, dim=1)
        h_i, h_g, h_o = self.of_hidden(hidden).chunk(3, dim=1)
        m_i, m_f, m_g, m_o = self.of_memory(memory).chunk(4, dim=1)
        cell = torch.addcmul(kept, torch.sigmoid(x_i + h_i), torch.tanh(x_g + h_g))
        memory = remember(memory, x_f + m_f, x_i + m_i, x_g + m_g)
        merged = self.merge(torch.cat([cell, memory], dim=1))
        hidden = torch.sigmoid(x_o + h_o + m_o) * torch.tanh(merged)
        change = change or LSTMState.zeros(hidden, hidden.shape[1])
        return MIMLayerState(hidden, cell, change, stationary.expand_as(cell)), memory


class MIM(BothWaysForecaster):
    r"""A spatiotemporal LSTM layer, and above it layers that follow what changes in the layer below them.

    A frame is cut into patches, every patch's cells becoming channels. The memory M climbs through the layers
    and starts again at the bottom with the next frame; a 1x1 convolution of the top layer's hidden state
    gives the next frame.

    Convention: layers of unequal width pass M through a 1x1 convolution. States are arguments and results: a
    public port that keeps S in the module leaks it from one batch into the next.

    References:
        Wang et al. (2019), Memory in Memory: A Predictive Neural Network for Learning Higher-Order
        Non-Stationarity from Spatiotemporal Dynamics, https://arxiv.org/abs/1811.07490. Authors' code:
        ``Yunbo426/MIM``.
    """

    def __init__(self, config: MIMConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.patch
        self.frame_channels = config.frame_channels
        self.both_ways = config.both_ways
        self.reverse_sampling = config.reverse_sampling
        hidden, size, norm = config.hidden, config.kernel_size, config.norm
        channels = config.frame_channels * config.patch**2
        self.adapters = memory_adapters(hidden)
        self.bottom = STLSTMCell(channels, hidden[0], size, norm=norm)
        self.upper = nn.ModuleList(MIMCell(below, here, size, norm=norm) for below, here in pairwise(hidden))
        self.head = nn.Conv2d(hidden[-1], channels, 1) if config.head else None
        xavier(self)

    def cells(self) -> Iterator[nn.Module]:
        """Yield every layer."""
        yield self.bottom
        yield from self.upper

    def begin(self, frame: Tensor) -> None:
        """Return ``None``: before the first frame all states are zero."""

    def step(self, frame: Tensor, inner: MIMState | None) -> tuple[Tensor, MIMState]:
        """Return the next frame and the state after ``frame``.

        Raises:
            TypeError: If the network was built without an output layer.
        """
        if self.head is None:
            raise TypeError("expected a MIM with an output layer, got one for features only")
        hidden, inner = self.climb(frame, inner)
        return from_patches(self.head(hidden), self.config.patch), inner

    def features(self, x: Tensor) -> Tensor:
        """Return the top layer's hidden state after all frames, from states of zero.

        Args:
            x: Frames ``(b, t, 1, y, x)``, rows and columns multiples of a patch's width.

        Returns:
            ``(b, d, y / patch, x / patch)``, ``d`` the top layer's channels.
        """
        first, *others = x.unbind(1)
        hidden, inner = self.climb(first, None)
        for frame in others:
            hidden, inner = self.climb(frame, inner)
        return hidden

    def climb(self, frame: Tensor, inner: MIMState | None) -> tuple[Tensor, MIMState]:
        """Return the top layer's hidden state and the state after ``frame``."""
        to_bottom, *to_upper = self.adapters
        patches = to_patches(frame, self.config.patch)
        if inner is None:
            bottom, memory = self.bottom(patches, None, None)
        else:
            bottom, memory = self.bottom(patches, inner.bottom, to_bottom(inner.memory))
        below = bottom.hidden
        difference = None if inner is None else below - inner.bottom.hidden
        upper = []
        for index, (layer, adapter) in enumerate(zip(self.upper, to_upper, strict=True)):
            before = None if inner is None else inner.upper[index]
            after, memory = layer(below, difference, before, adapter(memory))
            if before is not None:
                once = self.config.difference_once
                difference = after.change.hidden if once else after.hidden - before.hidden
            below = after.hidden
            upper.append(after)
        return below, MIMState(bottom, tuple(upper), memory)
