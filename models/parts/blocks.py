"""Parts that several networks share: patches, the ConvLSTM cell, normalisation, initialisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Added to a forget gate's argument in the PredRNN family, so that a new network remembers. Dimensionless.
FORGET_BIAS = 1.0


def to_patches(frames: Tensor, patch: int) -> Tensor:
    """Return ``(..., c patch^2, y / patch, x / patch)``: each square of cells as channels, row by row.

    Args:
        frames: ``(..., c, y, x)``, rows and columns multiples of ``patch``; channel by channel if c is not 1.
        patch: Width of a square, in cells.
    """
    return functional.pixel_unshuffle(frames, patch)


def from_patches(patches: Tensor, patch: int) -> Tensor:
    """Return the frames ``(..., c, y, x)`` of patches ``(..., c patch^2, y / patch, x / patch)``."""
    return functional.pixel_shuffle(patches, patch)


def layer_norm(channels: int) -> nn.GroupNorm:
    """Return a normalisation over channels and all positions of a sample, with scale and shift per channel.

    The reference code of MIM, E3D-LSTM and PredRNN++ scales every position on its own, which ties a network
    to one grid.
    """
    return nn.GroupNorm(1, channels)


class PositionNorm(nn.Module):
    """A normalisation over the channels of each position ``(b, d, y, x)``, without scale and shift.

    Unlike one over all positions it does not depend on the grid, nor on what rains elsewhere.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised channels."""
        apart = x - x.mean(dim=1, keepdim=True)
        return apart * torch.rsqrt(apart.square().mean(dim=1, keepdim=True) + 1e-5)


def xavier(module: nn.Module) -> None:
    """Initialise every convolution and linear layer in ``module``: Xavier uniform, bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class LSTMState(NamedTuple):
    """State of a convolutional LSTM.

    Attributes:
        hidden: H_t ``(b, d, y, x)``.
        cell: C_t ``(b, d, y, x)``.
    """

    hidden: Tensor
    cell: Tensor

    @classmethod
    def zeros(cls, frame: Tensor, channels: int) -> LSTMState:
        """Return the state of ``channels`` channels before the first input ``(b, c, y, x)``."""
        zeros = frame.new_zeros(frame.shape[0], channels, *frame.shape[-2:])
        return cls(zeros, zeros)


class ConvLSTMCell(nn.Module):
    r"""One time step of a convolutional long short-term memory.

    With ``*`` a same-padded convolution and :math:`\circ` the pointwise product,

    .. math::
        (i, f, o, g) &= W_x * X_t + W_h * H_{t-1} + b \\
        C_t &= \sigma(f) \circ C_{t-1} + \sigma(i) \circ \tanh(g) \\
        H_t &= \sigma(o) \circ \tanh(C_t)

    Convention: no peepholes, as in most later code; ``peephole=True`` adds the paper's, one weight a channel
    instead of one a position. All four gates of both sources are one convolution of ``[X, H]``.

    Shapes: ``b`` batch, ``c`` input channels, ``d`` hidden channels.

    Args:
        in_channels: ``c``.
        hidden_channels: ``d``.
        kernel_size: Odd width of the convolution, in cells.
        peephole: Whether gates see the cell: i and f that of before, o that of now.
        forget_bias: Added to the argument of f.
        bias: Whether the convolution has a bias.

    Raises:
        ValueError: If ``kernel_size`` is even.

    References:
        Shi et al. (2015), Convolutional LSTM Network: A Machine Learning Approach for Precipitation
        Nowcasting, eq. 3, https://arxiv.org/abs/1506.04214.

    Example:
        >>> cell = ConvLSTMCell(1, 8)
        >>> frame = torch.rand(2, 1, 16, 16)
        >>> cell(frame, LSTMState.zeros(frame, 8)).hidden.shape
        torch.Size([2, 8, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        *,
        peephole: bool = False,
        forget_bias: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel size, got {kernel_size}")
        self.forget_bias = forget_bias
        self.gates = nn.Conv2d(
            in_channels + hidden_channels, 4 * hidden_channels, kernel_size, padding="same", bias=bias
        )
        self.peepholes = nn.Parameter(torch.zeros(3, hidden_channels, 1, 1)) if peephole else None

    def forward(self, frame: Tensor, state: LSTMState) -> LSTMState:
        """Return the state after the input ``(b, c, y, x)``."""
        i, f, o, g = self.gates(torch.cat([frame, state.hidden], dim=1)).chunk(4, dim=1)
        if self.peepholes is not None:
            i = i + self.peepholes[0] * state.cell
            f = f + self.peepholes[1] * state.cell
        cell = torch.sigmoid(f + self.forget_bias) * state.cell + torch.sigmoid(i) * torch.tanh(g)
        if self.peepholes is not None:
            o = o + self.peepholes[2] * cell
        return LSTMState(torch.sigmoid(o) * torch.tanh(cell), cell)
