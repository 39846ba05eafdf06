"""PredRNN++: causal LSTMs with a spatiotemporal memory, and a gradient highway past them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.forecaster import masked_mean, masked_mse
from models.parts.blocks import LSTMState, from_patches, to_patches, xavier
from models.parts.spatiotemporal import BothWaysForecaster, GateConv, memory_adapters, remember


@dataclass(frozen=True)
class PredRNNPPConfig:
    """Sizes and options of a PredRNN++.

    Attributes:
        hidden: Channels of each layer, from the bottom up; at least two layers.
        kernel_size: Odd width of the convolutions, in patches.
        patch: Width of a patch, in cells.
        norm: Whether the convolutions of gates are normalised over the sample.
        absolute_loss: Whether the mean absolute error is added to the mean squared one.
        both_ways: Whether training also shows each sequence backwards in time.
        reverse_sampling: Whether training samples true frames in reverse, those of the warm-up included.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one.
    """

    hidden: tuple[int, ...] = (24, 24, 24)
    kernel_size: int = 3
    patch: int = 4
    norm: bool = False
    absolute_loss: bool = False
    both_ways: bool = False
    reverse_sampling: bool = False
    frame_channels: int = 1


class PredRNNPPState(NamedTuple):
    """State of the network after a frame.

    Attributes:
        layers: One state a layer, from the bottom up.
        memory: M of the top layer ``(b, d, y, x)``.
        highway: Z_t ``(b, d, y, x)``, ``d`` the bottom layer's channels.
    """

    layers: tuple[LSTMState, ...]
    memory: Tensor
    highway: Tensor


class CausalLSTMCell(nn.Module):
    r"""One time step of a causal LSTM: the spatiotemporal memory M is updated after the cell C, and from it.

    With ``*`` a same-padded convolution, each with its own W, and :math:`\circ` the pointwise product,

    .. math::
        (i, f, g) &= W * [X_t, H_{t-1}, C_{t-1}] \\
        C_t       &= \sigma(f + 1) \circ C_{t-1} + \sigma(i) \circ \tanh(g) \\
        (i', f')  &= W * [X_t, C_t, M^{l-1}_t], \qquad g' = W * [X_t, C_t] \\
        M^l_t     &= \sigma(f' + 1) \circ \tanh(W * M^{l-1}_t) + \sigma(i') \circ \tanh(g') \\
        o         &= \tanh(W * [X_t, C_t, H_{t-1}, M^l_t]) \\
        H_t       &= o \circ \tanh(W_{1 \times 1} * [C_t, M^l_t])

    Convention: as in the authors' code, g' does not see M and o sees H; convolutions have no bias. The output
    gate is a tanh, as in the paper, so it may turn the sign. Four convolutions do it: of [X, H, C] for the
    cell's gates, of [X, C_t] for M's and the output gate, of M, and of [H, M_t] for the output gate.

    Shapes: ``b`` batch, ``c`` input channels, ``d`` channels of the states and of M.

    Args:
        in_channels: ``c``.
        hidden_channels: ``d``.
        kernel_size: Odd width of the convolutions, in cells.
        norm: Whether each convolution's result is normalised over the sample.

    References:
        Wang et al. (2018), PredRNN++: Towards A Resolution of the Deep-in-Time Dilemma in Spatiotemporal
        Predictive Learning, eq. 1, https://arxiv.org/abs/1804.06300.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: int, *, norm: bool = False
    ) -> None:
        super().__init__()
        c, d = in_channels, hidden_channels
        self.to_cell = GateConv((c, d, d), 3 * d, kernel_size, bias=False, norm=norm)
        self.to_memory = GateConv((c, d), 4 * d, kernel_size, bias=False, norm=norm)
        self.of_memory = GateConv((d,), 3 * d, kernel_size, bias=False, norm=norm)
        self.to_output = GateConv((d, d), d, kernel_size, bias=False, norm=norm)
        self.merge = nn.Conv2d(2 * d, d, 1, bias=False)

    def forward(self, x: Tensor, state: LSTMState | None, memory: Tensor | None) -> tuple[LSTMState, Tensor]:
        """Return state and memory after the input ``(b, c, y, x)``; before it, ``None`` stands for zeros."""
        hidden, cell = state or (None, None)
        i, f, g = self.to_cell(x, hidden, cell).chunk(3, dim=1)
        cell = remember(cell, f, i, g)
        i, f, g, o = self.to_memory(x, cell).chunk(4, dim=1)
        m_i, m_f, m_m = self.of_memory(memory).chunk(3, dim=1)
        memory = remember(torch.tanh(m_m), f + m_f, i + m_i, g)
        output = torch.tanh(o + self.to_output(hidden, memory))
        merged = self.merge(torch.cat([cell, memory], dim=1))
        return LSTMState(output * torch.tanh(merged), cell), memory


class GradientHighway(nn.Module):
    r"""One time step of a gradient highway unit, past which gradients reach early frames undamped.

    .. math::
        P_t &= \tanh(W_{px} * X_t + W_{pz} * Z_{t-1}) \\
        S_t &= \sigma(W_{sx} * X_t + W_{sz} * Z_{t-1}) \\
        Z_t &= S_t \circ P_t + (1 - S_t) \circ Z_{t-1}

    Convention: no bias. A public port's normalisation is made for half the channels it is given.

    Args:
        channels: Channels ``d`` of X and Z.
        kernel_size: Odd width of the convolution, in cells.
        norm: Whether the convolution's result is normalised over the sample.

    References:
        Wang et al. (2018), eq. 2, https://arxiv.org/abs/1804.06300.
    """

    def __init__(self, channels: int, kernel_size: int, *, norm: bool = False) -> None:
        super().__init__()
        self.gates = GateConv((channels, channels), 2 * channels, kernel_size, bias=False, norm=norm)

    def forward(self, x: Tensor, highway: Tensor | None) -> Tensor:
        """Return Z_t from X_t and Z_{t-1}, all ``(b, d, y, x)``; ``None`` stands for zeros."""
        p, s = self.gates(x, highway).chunk(2, dim=1)
        new, switch = torch.tanh(p), torch.sigmoid(s)
        return switch * new if highway is None else torch.lerp(highway, new, switch)


class PredRNNPP(BothWaysForecaster):
    r"""A stack of causal LSTM layers with a gradient highway between the first and the second.

    A frame is cut into patches, every patch's cells becoming channels. The memory M climbs through the layers
    and starts again at the bottom with the next frame; the second layer's input is the highway's Z. A 1x1
    convolution of the top layer's hidden state gives the next frame.

    Convention: layers of unequal width pass M through a 1x1 convolution; the highway has the bottom layer's
    width. The head has no bias.

    Raises:
        ValueError: If there are fewer than two layers.

    References:
        Wang et al. (2018), PredRNN++: Towards A Resolution of the Deep-in-Time Dilemma in Spatiotemporal
        Predictive Learning, section 4, https://arxiv.org/abs/1804.06300. Authors' code:
        ``Yunbo426/predrnn-pp``.
    """

    def __init__(self, config: PredRNNPPConfig) -> None:
        super().__init__()
        if len(config.hidden) < 2:
            raise ValueError(f"expected at least two layers, got widths {config.hidden}")
        self.config = config
        self.stride = config.patch
        self.frame_channels = config.frame_channels
        self.both_ways = config.both_ways
        self.reverse_sampling = config.reverse_sampling
        hidden, size, norm = config.hidden, config.kernel_size, config.norm
        channels = config.frame_channels * config.patch**2
        inputs = (channels, *hidden[:-1])
        self.adapters = memory_adapters(hidden)
        self.layers = nn.ModuleList(
            CausalLSTMCell(below, here, size, norm=norm) for below, here in zip(inputs, hidden, strict=True)
        )
        self.highway = GradientHighway(hidden[0], size, norm=norm)
        self.head = nn.Conv2d(hidden[-1], channels, 1, bias=False)
        xavier(self)

    def cells(self) -> Iterator[nn.Module]:
        """Yield every layer and the highway."""
        yield from self.layers
        yield self.highway

    def begin(self, frame: Tensor) -> None:
        """Return ``None``: before the first frame all states are zero."""

    def step(self, frame: Tensor, inner: PredRNNPPState | None) -> tuple[Tensor, PredRNNPPState]:
        """Return the next frame and the state after ``frame``."""
        bottom, *upper = self.layers
        to_bottom, *to_upper = self.adapters
        patches = to_patches(frame, self.config.patch)
        if inner is None:
            state, memory = bottom(patches, None, None)
            highway = self.highway(state.hidden, None)
        else:
            state, memory = bottom(patches, inner.layers[0], to_bottom(inner.memory))
            highway = self.highway(state.hidden, inner.highway)
        before = (None,) * len(upper) if inner is None else inner.layers[1:]
        x, after = highway, [state]
        for layer, adapter, state in zip(upper, to_upper, before, strict=True):
            now, memory = layer(x, state, adapter(memory))
            x = now.hidden
            after.append(now)
        forecast = from_patches(self.head(x), self.config.patch)
        return forecast, PredRNNPPState(tuple(after), memory, highway)

    def frame_loss(self, forecast: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
        """Return the mean squared error, plus the mean absolute one if so configured."""
        loss = masked_mse(forecast, truth, valid)
        if not self.config.absolute_loss:
            return loss
        return loss + masked_mean((forecast - truth).abs(), valid)
