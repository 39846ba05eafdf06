"""PhyDNet: a physical branch, whose filters are pressed into partial derivatives, beside a residual one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.forecaster import Feedback, Forecast
from models.parts.blocks import ConvLSTMCell, LSTMState, xavier
from models.parts.sampling import draw_mask, forced_share
from models.parts.stepwise import StepState, StepwiseForecaster

#: Groups of the coders' normalisations. Authors' code, ``vincent-leguen/PhyDNet``, ``models/models.py``.
GROUPS = 16

#: Slope of the coders' leaky ReLUs below zero, dimensionless. Authors' code, ``models/models.py``.
SLOPE = 0.2


@dataclass(frozen=True)
class PhyDNetConfig:
    """Sizes and options of a PhyDNet.

    Attributes:
        width: Channels of the first encoder layer, a multiple of 16; both branches have twice as many.
        derivatives: Odd width k of the physical filters, in latent cells: one filter for each of the k^2
            derivatives of orders below k in y and x.
        residual: Channels of each ConvLSTM layer of the residual branch, from the bottom up.
        kernel_size: Odd width of the ConvLSTM's convolutions, in latent cells.
        moment_weight: Weight of the loss on the filters' moments.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one.
    """

    width: int = 16
    derivatives: int = 5
    residual: tuple[int, ...] = (48, 32)
    kernel_size: int = 3
    moment_weight: float = 1.0
    frame_channels: int = 1


class PhyDNetState(NamedTuple):
    """State of the network after a frame.

    Attributes:
        physical: h_t of the physical branch ``(b, d, y / 4, x / 4)``.
        residual: One state a layer of the residual branch, from the bottom up.
    """

    physical: Tensor
    residual: tuple[LSTMState, ...]


class Coder(nn.Sequential):
    """A 3x3 convolution, normalisation in groups, leaky ReLU: one layer of an encoder or a decoder.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of 16.
        stride: By how much it coarsens the grid, or refines it if ``up``.
        up: Whether the convolution is transposed.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, up: bool = False) -> None:
        conv = (
            nn.ConvTranspose2d(in_channels, out_channels, 3, stride, 1, output_padding=stride - 1)
            if up
            else nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        )
        super().__init__(conv, nn.GroupNorm(GROUPS, out_channels), nn.LeakyReLU(SLOPE))


class PhyCell(nn.Module):
    r"""One time step of a partial differential equation with learned terms, corrected by what is observed.

    .. math::
        \tilde h_t &= h_{t-1} + \Phi(h_{t-1}) &\text{(prediction)} \\
        K_t &= \sigma(W * [E_t, h_{t-1}] + b) &\text{(gain)} \\
        h_t &= \tilde h_t + K_t \circ (E_t - \tilde h_t) &\text{(correction)}

    with E the encoded frame. :math:`\Phi` is a k x k convolution to k^2 channels, one for each derivative
    :math:`\partial^{i+j} / \partial y^i \partial x^j` with i, j < k, a normalisation in groups, and a 1x1
    convolution that combines them.

    A filter w is a derivative if its moments say so. They are :math:`M = A w A^T` with
    :math:`A_{iu} = (u - (k - 1) / 2)^i / i!`; those of filter number f = k i + j are to be 1 at (i, j) and 0
    elsewhere, for every input channel c:

    .. math:: L = \sum_c \operatorname{mean}_{f, i, j} (M_{f c} - \Delta_f)_{i j}^2

    Convention: a frame that is missing has the gain 0. Moments are computed in double precision: A has a
    condition number of 294 at k = 7.

    Shapes: ``b`` batch, ``d`` channels.

    Args:
        channels: ``d``.
        derivatives: ``k``, odd.

    Raises:
        ValueError: If ``derivatives`` is even.

    References:
        Le Guen and Thome (2020), Disentangling Physical Dynamics from Unknown Factors for Unsupervised Video
        Prediction, section 3, https://arxiv.org/abs/2003.01460. Moments: Long et al. (2018), PDE-Net,
        https://arxiv.org/abs/1710.09668.
    """

    moments: Tensor

    def __init__(self, channels: int, derivatives: int) -> None:
        super().__init__()
        k = derivatives
        if k % 2 == 0:
            raise ValueError(f"expected an odd width of filters, got {k}")
        self.derive = nn.Conv2d(channels, k**2, k, padding=k // 2)
        self.normalise = nn.GroupNorm(k, k**2)
        self.combine = nn.Conv2d(k**2, channels, 1)
        self.gain = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.register_buffer("moments", moment_matrix(k), persistent=False)

    def forward(self, encoded: Tensor | None, state: Tensor) -> Tensor:
        """Return h_t from E_t, ``None`` if the frame is missing, and h_{t-1}, all ``(b, d, y, x)``."""
        predicted: Tensor = state + self.combine(self.normalise(self.derive(state)))
        if encoded is None:
            return predicted
        gain = torch.sigmoid(self.gain(torch.cat([encoded, state], dim=1)))
        return predicted + gain * (encoded - predicted)

    def moment_loss(self) -> Tensor:
        """Return how far the filters are from derivatives, in the weights' precision."""
        weight = self.derive.weight
        # Autocast leaves double precision as it is.
        a, w = self.moments.double(), weight.double()
        moments = torch.einsum("iu,fcuv,jv->cfij", a, w, a)
        wanted = torch.eye(len(a) ** 2, dtype=a.dtype, device=a.device).view(moments.shape[1:])
        return ((moments - wanted) ** 2).mean(dim=(1, 2, 3)).sum().to(weight.dtype)


class PhyDNet(StepwiseForecaster):
    r"""Two recurrent branches on one encoding of the frame, whose decoded sum is the next frame.

    .. math::
        e_t &= E(x_t) \\
        h^p_t &= \text{PhyCell}(E_p(e_t), h^p_{t-1}), \qquad h^r_t = \text{ConvLSTM}(E_r(e_t), h^r_{t-1}) \\
        \hat x_{t+1} &= \sigma(D(D_p(h^p_t) + D_r(h^r_t)))

    The encoder E coarsens the grid by 4. Frames of several channels have no range, so for them the last
    :math:`\sigma` is left out.

    Convention: the share of batches trained with true frames falls with the progress of the training as
    elsewhere; the authors' falls by 0.003 an epoch. One draw decides for the whole batch and all its leads.
    The authors' code can leave out the correction of the leads, but never does; here ``missing`` does.

    References:
        Le Guen and Thome (2020), Disentangling Physical Dynamics from Unknown Factors for Unsupervised Video
        Prediction, https://arxiv.org/abs/2003.01460. Authors' code: ``vincent-leguen/PhyDNet``.
    """

    stride = 4

    def __init__(self, config: PhyDNetConfig) -> None:
        super().__init__()
        self.config = config
        self.frame_channels = config.frame_channels
        width, channels = config.width, 2 * config.width
        self.encoder = nn.Sequential(
            Coder(config.frame_channels, width, stride=2),
            Coder(width, width),
            Coder(width, channels, stride=2),
        )
        self.to_physical = nn.Sequential(Coder(channels, channels), Coder(channels, channels))
        self.to_residual = nn.Sequential(Coder(channels, channels), Coder(channels, channels))
        self.physical = PhyCell(channels, config.derivatives)
        inputs = (channels, *config.residual[:-1])
        self.residual = nn.ModuleList(
            ConvLSTMCell(below, here, config.kernel_size)
            for below, here in zip(inputs, config.residual, strict=True)
        )
        self.from_physical = nn.Sequential(
            Coder(channels, channels, up=True), Coder(channels, channels, up=True)
        )
        self.from_residual = nn.Sequential(
            Coder(config.residual[-1], channels, up=True), Coder(channels, channels, up=True)
        )
        self.decoder = nn.Sequential(
            Coder(channels, width, stride=2, up=True),
            Coder(width, width, up=True),
            nn.ConvTranspose2d(width, config.frame_channels, 3, 2, 1, output_padding=1),
        )
        xavier(self)

    def cells(self) -> Iterator[nn.Module]:
        """Yield the coders and both branches' cells."""
        yield from (self.encoder, self.to_physical, self.to_residual, self.physical, *self.residual)
        yield from (self.from_physical, self.from_residual, self.decoder)

    def begin(self, frame: Tensor) -> PhyDNetState:
        """Return states of zeros."""
        coarse = frame[..., :: self.stride, :: self.stride]
        physical = LSTMState.zeros(coarse, 2 * self.config.width).hidden
        return PhyDNetState(physical, tuple(LSTMState.zeros(coarse, d) for d in self.config.residual))

    def step(
        self, frame: Tensor, inner: PhyDNetState, *, missing: bool = False
    ) -> tuple[Tensor, PhyDNetState]:
        """Return the next frame and the state after ``frame``, which corrects nothing if ``missing``."""
        inner = self.advance(frame, inner, missing=missing)
        return self.render(inner), inner

    def advance(self, frame: Tensor, inner: PhyDNetState, *, missing: bool = False) -> PhyDNetState:
        """Return the state after ``frame``; the physical branch does not see it if ``missing``."""
        encoded = self.encoder(frame)
        physical = self.physical(None if missing else self.to_physical(encoded), inner.physical)
        x = self.to_residual(encoded)
        residual = []
        for layer, state in zip(self.residual, inner.residual, strict=True):
            residual.append(layer(x, state))
            x = residual[-1].hidden
        return PhyDNetState(physical, tuple(residual))

    def render(self, inner: PhyDNetState) -> Tensor:
        """Return the frame that a state expects next."""
        decoded = self.from_physical(inner.physical) + self.from_residual(inner.residual[-1].hidden)
        frame: Tensor = self.decoder(decoded)
        return torch.sigmoid(frame) if self.frame_channels == 1 else frame

    def encode(self, frame: Tensor, state: StepState) -> StepState:
        """Return the state after one more observed frame; what it expects next is left to ``decode``."""
        return StepState(self.advance(frame, state.inner), state.following)

    def decode(
        self, state: StepState, horizon: int, feedback: Feedback, *, explain: bool = False
    ) -> Forecast:
        """Return the forecast."""
        state = StepState(state.inner, self.render(state.inner))
        return super().decode(state, horizon, feedback, explain=explain)

    def frame_loss(self, forecast: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
        """Return the sum over the steps of the mean squared error."""
        squared = (forecast - truth) ** 2
        if valid is None:
            return squared.mean(dim=(0, 2, 3, 4)).sum()
        seen = valid.sum(dim=(0, 2, 3, 4)).clamp(min=1)
        return ((squared * valid).sum(dim=(0, 2, 3, 4)) / seen).sum()

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of all steps, those of the warm-up included, plus that of the filters' moments.

        Convention: samples without echo in ``x`` are left out. Their derivatives are the same everywhere, and
        normalising what does not vary multiplies gradients by some hundred at every step: after sixteen they
        are not finite.
        """
        moments = self.physical.moment_loss()
        wet = x.flatten(1).abs().amax(1) > 0
        if not wet.any():
            still = torch.zeros_like(moments)
            return {"loss": self.config.moment_weight * moments, "mse": still, "moments": moments.detach()}
        x, target = x[wet], target[wet]
        valid = None if valid is None else valid[wet]
        losses = super().training_loss(x, target, valid=valid, progress=progress, generator=generator)
        return {
            "loss": losses["loss"] + self.config.moment_weight * moments,
            "mse": losses["mse"],
            "moments": moments.detach(),
        }

    def draw_forced(
        self, x: Tensor, target: Tensor, progress: float, generator: torch.Generator | None
    ) -> Tensor:
        """Return which inputs after the first are true: all of the warm-up, and all or none of the leads."""
        batch, warm_up, ahead = x.shape[0], x.shape[1] - 1, target.shape[1] - 1
        forced = draw_mask(forced_share(progress), 1, 1, generator=generator, device=x.device)
        observed = torch.ones(batch, warm_up, dtype=torch.bool, device=x.device)
        return torch.cat([observed, forced.expand(batch, ahead)], dim=1)


def moment_matrix(k: int) -> Tensor:
    """Return A ``(k, k)`` in double precision, whose row i gives the centred i-th moment over i!."""
    offset = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
    return torch.stack([offset**i / math.factorial(i) for i in range(k)])
