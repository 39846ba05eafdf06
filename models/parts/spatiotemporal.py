"""Parts of the PredRNN family: gates, the spatiotemporal LSTM, the climbing memory, training both ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.parts.blocks import FORGET_BIAS, LSTMState, layer_norm
from models.parts.stepwise import StepwiseForecaster


class GateConv(nn.Conv2d):
    """One same-padded convolution of several sources laid side by side: the arguments of gates.

    A source that is ``None`` stands for zeros, as all states are before the first frame, and costs nothing.

    Convention: each source has a bias of its own, of which only the sum acts, as in :class:`torch.nn.LSTM`:
    the reference code has one convolution a source.

    Args:
        sources: Channels of each source.
        out_channels: Channels of all gates together.
        kernel_size: Odd width, in cells.
        bias: Whether there are biases.
        norm: Whether the sum is normalised over the sample.

    Raises:
        ValueError: If ``kernel_size`` is even.
    """

    def __init__(
        self,
        sources: tuple[int, ...],
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        norm: bool = False,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel size, got {kernel_size}")
        super().__init__(sum(sources), out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.sources = sources
        self.biases = nn.Parameter(torch.zeros(len(sources), out_channels)) if bias else None
        self.norm = layer_norm(out_channels) if norm else nn.Identity()

    def forward(self, *sources: Tensor | None) -> Tensor:
        """Return the sum ``(b, out, y, x)`` of sources ``(b, c, y, x)``, or ``(1, out, 1, 1)`` of none."""
        bias = None if self.biases is None else self.biases.sum(0)
        seen = [source for source in sources if source is not None]
        if not seen:
            constant = self.weight.new_zeros(self.out_channels) if bias is None else bias
            arguments: Tensor = self.norm(constant[None, :, None, None])
            return arguments
        weight = self.weight
        if len(seen) < len(sources):
            parts = zip(torch.split(weight, list(self.sources), dim=1), sources, strict=True)
            weight = torch.cat([part for part, source in parts if source is not None], dim=1)
        x = torch.cat(seen, dim=1) if len(seen) > 1 else seen[0]
        # Autocast is for the convolution alone: gates, and so the memories, keep the weights' precision.
        convolved = functional.conv2d(x, weight, bias, padding=self.padding).to(weight.dtype)
        arguments = self.norm(convolved)
        return arguments


def remember(before: Tensor | None, forget: Tensor, admit: Tensor, new: Tensor) -> Tensor:
    """Return a memory after a step, from that before, if any, and the arguments of its gates."""
    added = torch.sigmoid(admit) * torch.tanh(new)
    return added if before is None else torch.addcmul(added, torch.sigmoid(forget + FORGET_BIAS), before)


def memory_adapters(hidden: tuple[int, ...]) -> nn.ModuleList:
    """Return what brings the climbing memory to the width of each layer: a 1x1 convolution where it differs.

    The bottom layer gets the memory that the top layer had one step before.
    """
    below = (hidden[-1], *hidden[:-1])
    return nn.ModuleList(
        nn.Identity() if came == here else nn.Conv2d(came, here, 1, bias=False)
        for came, here in zip(below, hidden, strict=True)
    )


class STLSTMCell(nn.Module):
    r"""One time step of a layer of a spatiotemporal LSTM, which has a second memory M from the layer below.

    With ``*`` a same-padded convolution and :math:`\circ` the pointwise product,

    .. math::
        (i, f, g, o)   &= W_x * X_t + W_h * H_{t-1} + b \\
        (i', f', g')   &= W_x * X_t + W_m * M^{l-1}_t + b' \\
        C_t   &= \sigma(f + 1) \circ C_{t-1} + \sigma(i) \circ \tanh(g) \\
        M^l_t &= \sigma(f' + 1) \circ M^{l-1}_t + \sigma(i') \circ \tanh(g') \\
        H_t   &= \sigma(o + W_{mo} * M^{l-1}_t) \circ \tanh(W_{1 \times 1} * [C_t, M^l_t])

    Convention: both memories share the convolution of X, and the output gate sees M of the layer below
    instead of C and M of this one, as in the authors' code of MIM.

    Shapes: ``b`` batch, ``c`` input channels, ``d`` channels of the states and of M.

    Args:
        in_channels: ``c``.
        hidden_channels: ``d``.
        kernel_size: Odd width of the convolutions, in cells.
        norm: Whether each convolution's result is normalised over the sample.

    References:
        Wang et al. (2017), PredRNN: Recurrent Neural Networks for Predictive Learning using Spatiotemporal
        LSTMs, section 3.1, NeurIPS 2017; extended in https://arxiv.org/abs/2103.09504.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: int, *, norm: bool = False
    ) -> None:
        super().__init__()
        d = hidden_channels
        self.of_input = GateConv((in_channels,), 4 * d, kernel_size, norm=norm)
        self.of_hidden = GateConv((d,), 4 * d, kernel_size, norm=norm)
        self.of_memory = GateConv((d,), 4 * d, kernel_size, norm=norm)
        self.merge = nn.Conv2d(2 * d, d, 1)

    def forward(self, x: Tensor, state: LSTMState | None, memory: Tensor | None) -> tuple[LSTMState, Tensor]:
        """Return state and memory after the input ``(b, c, y, x)``; before it, ``None`` stands for zeros."""
        hidden, cell = state or (None, None)
        x_i, x_f, x_g, x_o = self.of_input(x).chunk(4, dim=1)
        h_i, h_f, h_g, h_o = self.of_hidden(hidden).chunk(4, dim=1)
        m_i, m_f, m_g, m_o = self.of_memory(memory).chunk(4, dim=1)
        cell = remember(cell, x_f + h_f, x_i + h_i, x_g + h_g)
        memory = remember(memory, x_f + m_f, x_i + m_i, x_g + m_g)
        merged = self.merge(torch.cat([cell, memory], dim=1))
        return LSTMState(torch.sigmoid(x_o + h_o + m_o) * torch.tanh(merged), cell), memory


class BothWaysForecaster(StepwiseForecaster):
    """A network of this family, whose training may show each sequence backwards in time too.

    Attributes:
        both_ways: Whether it does. Losses of the two directions are averaged.
    """

    both_ways: bool = False

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean loss over all steps, and over both directions if ``both_ways``."""
        losses = super().training_loss(x, target, valid=valid, progress=progress, generator=generator)
        if not self.both_ways:
            return losses
        backwards = torch.cat([x, target], dim=1).flip(1)
        seen = None
        if valid is not None:
            seen = torch.cat([torch.ones_like(x, dtype=torch.bool), valid], dim=1).flip(1)[:, 1:]
        forced = self.draw_forced(x, target, progress, generator)
        loss = self.frame_loss(self.every_step(backwards, forced), backwards[:, 1:], seen)
        return {**losses, "loss": (losses["loss"] + loss) / 2}
