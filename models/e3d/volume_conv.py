"""3-D convolution and normalisation of states with a short time axis of their own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

#: What a normalisation takes its statistics over: all channels and positions of a sample, or the channels of
#: each position of a slice, so that it does not depend on what is far from it.
Over = Literal["volume", "position"]


class VolumeConv(nn.Module):
    r"""A 3-D convolution over volumes as short as its kernel, computed by 2-D ones.

    .. math:: Y_s = b + \sum_{j=0}^{T-1-s} W_j * X_{s+j}, \qquad s = 0, \dots, T-1

    Convention: along time the volume is padded behind only, with T - 1 slices of zeros, as TensorFlow pads an
    even kernel in the authors' code. 2-D convolutions leave out all products with them: a quarter for T = 2.

    Args:
        in_channels: Channels of X.
        out_channels: Channels of Y.
        kernel_size: Odd width of the kernel, in cells.
        depth: T.
        bias: Whether there is a bias.
        norm: Over what Y is normalised; not at all if ``None``.

    Raises:
        ValueError: If ``kernel_size`` is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        depth: int,
        *,
        bias: bool = False,
        norm: Over | None = None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel size, got {kernel_size}")
        weight = torch.empty(depth, out_channels, in_channels, kernel_size, kernel_size)
        nn.init.xavier_uniform_(weight.permute(1, 2, 0, 3, 4))
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.norm = nn.Identity() if norm is None else VolumeNorm(out_channels, over=norm)

    def forward(self, x: Tensor | None) -> Tensor:
        """Return Y ``(b, t, g, y, x)`` of X ``(b, t, c, y, x)``; of ``None``, zeros, one that broadcasts."""
        if x is None:
            y = self.weight.new_zeros(1, 1, self.weight.shape[1], 1, 1)
            return self._normalised(y if self.bias is None else y + self.bias[:, None, None])
        here, *later = self.weight.unbind(0)
        padding = self.weight.shape[-1] // 2
        slices = functional.conv2d(x.flatten(0, 1), here, self.bias, padding=padding)
        y = slices.view(*x.shape[:2], *slices.shape[1:])
        for ahead, weight in enumerate(later, start=1):
            added = functional.conv2d(x[:, ahead:].flatten(0, 1), weight, padding=padding)
            y[:, :-ahead].add_(added.view_as(y[:, :-ahead]))
        return self._normalised(y)

    def _normalised(self, y: Tensor) -> Tensor:
        normalised: Tensor = self.norm(y)
        return normalised


class VolumeNorm(nn.Module):
    """Normalisation of a volume, with a scale per channel.

    Args:
        channels: Channels of the volume.
        shift: Whether there is a shift per channel, too.
        over: What mean and variance are taken over; all positions include all times.
    """

    def __init__(self, channels: int, *, shift: bool = True, over: Over = "volume") -> None:
        super().__init__()
        self.over = over
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels)) if shift else None

    def forward(self, volume: Tensor) -> Tensor:
        """Return the volume ``(b, t, d, y, x)`` normalised."""
        if self.over == "position":
            rows = functional.layer_norm(volume.movedim(2, -1), self.scale.shape, self.scale, self.shift)
            return rows.movedim(-1, 2)
        depth = volume.shape[1]
        shift = None if self.shift is None else self.shift.repeat(depth)
        slices = functional.group_norm(volume.flatten(1, 2), 1, self.scale.repeat(depth), shift)
        return slices.view_as(volume)
