"""The semi-coupled layer of SCS and its stack, each as main stream, spatial and temporal sub-goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.scs.gradient_switch import OPEN, Edges, switched

#: The gates g_t ``(b, d, y, x)`` of all layers.
Gates = tuple[Tensor, ...]


class SCSCell(nn.Module):
    r"""One time step of a semi-coupled layer.

    With ``*`` a convolution, :math:`N` a normalisation and the gate :math:`g_0 = \sigma(0) = 1/2`,

    .. math::
        s_t &= N_s(\psi_s * u_t^{l-1})                    &\text{(space, no memory)} \\
        c_t &= N_t(\psi_t * [u_t^{l-1}, g_{t-1}])         &\text{(time)} \\
        g_t &= \sigma(c_t) \\
        u_t &= \mathrm{ReLU}(s_t) \circ g_t               &\text{(synthesis)}

    The sub-goals run the same weights as networks of their own: the spatial one on
    :math:`\hat u_t = \mathrm{ReLU}(s_t)`, the temporal one on :math:`\hat u_t = \mathrm{ReLU}(c_t)` with
    gates of its own, so that neither sees the other's weights.

    Convention: with a stride the spatial convolution takes it, while the temporal path stays on the grid of
    the input, its result max-pooled (3 x 3) on the way up, as in the authors' code. Under batch
    normalisation a sub-goal is normalised with the statistics of the data at hand, in evaluation too: the
    running ones are those of the main stream, whose activations are smaller with every layer.

    Shapes: ``b`` batch, ``c`` input channels, ``d`` channels.

    Args:
        in_channels: ``c``.
        channels: ``d``.
        kernel_size: Odd width of the convolutions, in cells.
        stride: Of the layer's output.
        norm: Gives the normalisation for a number of channels.

    Raises:
        ValueError: If ``kernel_size`` is even.

    References:
        The paper's eq. 4 to 6, 9 and 11. Authors' predecessor of the layer: Pang et al. (2018), Deep RNN
        Framework for Visual Sequential Applications, https://arxiv.org/abs/1811.09961.

    Example:
        >>> cell = SCSCell(1, 8)
        >>> u, gate = cell(torch.rand(2, 1, 16, 16), torch.full((2, 8, 16, 16), 0.5))
        >>> u.shape, gate.shape
        (torch.Size([2, 8, 16, 16]), torch.Size([2, 8, 16, 16]))
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        norm: Callable[[int], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel size, got {kernel_size}")
        half = kernel_size // 2
        self.stride = stride
        self.spatial = nn.Conv2d(in_channels, channels, kernel_size, stride, half)
        self.temporal = nn.Conv2d(in_channels + channels, channels, kernel_size, 1, half)
        self.spatial_norm = norm(channels)
        self.temporal_norm = norm(channels)

    def forward(self, u: Tensor, gate: Tensor, edges: Edges = OPEN) -> tuple[Tensor, Tensor]:
        """Return u_t ``(b, d, y, x)`` and g_t from the layer below's u_t ``(b, c, y, x)`` and g_{t-1}.

        ``edges`` changes no value, only which gradients reach the layer below.
        """
        gate = self.next_gate(u, gate, edges)
        space = self.spatial_norm(self.spatial(switched(u, edges.spatial)))
        return functional.relu(space, inplace=True) * self._pooled(gate), gate

    def next_gate(self, u: Tensor, gate: Tensor, edges: Edges = OPEN) -> Tensor:
        """Return g_t alone, which is all that is needed of an encoder's top layer."""
        joined = torch.cat([switched(u, edges.temporal), gate], dim=1)
        return torch.sigmoid(self.temporal_norm(self.temporal(joined)))

    def spatial_goal(self, u: Tensor) -> Tensor:
        """Return the spatial sub-goal's u_t ``(b, d, y, x)`` from that of the layer below."""
        return functional.relu(normalised_aside(self.spatial_norm, self.spatial(u)))

    def temporal_goal(self, u: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Return the temporal sub-goal's u_t and g_t from the layer below's u_t and its own g_{t-1}."""
        time = normalised_aside(self.temporal_norm, self.temporal(torch.cat([u, gate], dim=1)))
        return self._pooled(functional.relu(time)), torch.sigmoid(time)

    def _pooled(self, time: Tensor) -> Tensor:
        return time if self.stride == 1 else functional.max_pool2d(time, 3, self.stride, 1)


class Coder(nn.Module):
    r"""A stem and a stack of semi-coupled layers: the encoder or the decoder of a network.

    With ``residual`` every second layer gives

    .. math:: u_t^l + u_t^{l-2}

    on shortcuts which no gradient switch cuts, and where :math:`u^0` are the stem's features.

    Args:
        stem: Gives the features ``(b, d, y, x)`` of a frame.
        layers: Number of layers.
        channels: ``d``, the stem's and every layer's.
        kernel_size: Odd width of the convolutions, in cells.
        residual: Whether there are shortcuts.
        norm: Gives the normalisation for a number of channels.
    """

    def __init__(
        self,
        stem: nn.Module,
        layers: int,
        channels: int,
        kernel_size: int = 3,
        *,
        residual: bool = True,
        norm: Callable[[int], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.stem = stem
        self.layers = nn.ModuleList(
            SCSCell(channels, channels, kernel_size, norm=norm) for _ in range(layers)
        )

    def cells(self) -> list[SCSCell]:
        """Return the layers, lowest first."""
        return cast("list[SCSCell]", list(self.layers))

    def forward(
        self, features: Tensor, gates: Gates, edges: Sequence[Edges] | None = None, *, top: bool = True
    ) -> tuple[Tensor, Gates]:
        """Return the top layer's u_t and all layers' g_t, from the stem's features and all g_{t-1}.

        Without ``top`` the top layer's u_t is not computed; what lies below it is returned.
        """
        u = shortcut = features
        after = []
        for number, (layer, gate) in enumerate(zip(self.cells(), gates, strict=True), 1):
            edge = OPEN if edges is None else edges[number - 1]
            if number == len(self.layers) and not top:
                after.append(layer.next_gate(u, gate, edge))
                break
            u, gate = layer(u, gate, edge)
            after.append(gate)
            u, shortcut = self._joined(number, u, shortcut)
        return u, tuple(after)

    def spatial_goal(self, features: Tensor) -> Tensor:
        """Return the spatial sub-goal's u_t of the top layer from the stem's features."""
        u = shortcut = features
        for number, layer in enumerate(self.cells(), 1):
            u, shortcut = self._joined(number, layer.spatial_goal(u), shortcut)
        return u

    def temporal_goal(self, features: Tensor, gates: Gates) -> tuple[Tensor, Gates]:
        """Return the temporal sub-goal's u_t of the top layer and its own g_t of all layers."""
        u = shortcut = features
        after = []
        for number, (layer, gate) in enumerate(zip(self.cells(), gates, strict=True), 1):
            u, gate = layer.temporal_goal(u, gate)
            after.append(gate)
            u, shortcut = self._joined(number, u, shortcut)
        return u, tuple(after)

    def _joined(self, number: int, u: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of layer ``number``, counted from 1, and where the next shortcut begins."""
        if not self.residual or number % 2:
            return u, shortcut
        u = u + shortcut
        return u, u


def normalised_aside(norm: nn.Module, x: Tensor) -> Tensor:
    """Return ``x`` normalised with its own statistics, leaving those of the main stream alone."""
    if isinstance(norm, nn.BatchNorm2d):
        return functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    normalised: Tensor = norm(x)
    return normalised
