"""ADDL: a network estimates the motion of the echo, and advection (with diffusion) does the forecast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.forecaster import Feedback, Forecast, Forecaster, masked_mean, masked_mse
from models.parts.advection import (
    BilinearWarp,
    GaussianWarp,
    compose,
    divergence_penalty,
    gradient_penalty,
    magnitude_penalty,
)

#: Where the Charbonnier loss turns from a parabola into a straight line. Normalised reflectivity (0.07 dB).
CHARBONNIER_EPSILON = 1e-3


@dataclass(frozen=True)
class ADDLConfig:
    """Sizes and options of an ADDL.

    Attributes:
        widths: Channels of the estimator's levels downwards, each at half the resolution of the one before.
        up: Channels of its levels upwards, as many.
        refined: How many of the deepest levels have a second convolution.
        scheme: Warp: ``"bilinear"`` (advection) or ``"gaussian"`` (advection and diffusion).
        std: Standard deviation a step adds, in cells; Gaussian scheme only.
        window: Half width of its window, in cells.
        compose: Whether each lead warps the last observed frame along the composed motion, instead of the
            forecast before. Bilinear scheme only: the Gaussian one wants to blur at every step.
        loss: Data term.
        divergence: Weight of the divergence penalty.
        gradient: Weight of the gradient penalty.
        magnitude: Weight of the magnitude penalty; negative pushes away from standing still.
        small: Which weights of the estimator start small: the last convolution's or, as in the authors' code,
            all of them.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    up: tuple[int, ...] = (64, 32, 16, 8)
    refined: int = 2
    scheme: Literal["bilinear", "gaussian"] = "bilinear"
    std: float = 1.0
    window: int = 4
    compose: bool = True
    loss: Literal["mse", "charbonnier"] = "mse"
    divergence: float = 1e-3
    gradient: float = 1e-3
    magnitude: float = 0.0
    small: Literal["last", "all"] = "last"


class FlowEstimator(nn.Module):
    """Estimates the motion from a few frames: convolutions down, bilinear steps up, maps handed across.

    Each level down is a convolution of stride 2, batch normalisation and ReLU, the deepest with a second one
    of stride 1. Each level up doubles the resolution bilinearly, convolves, applies ReLU and concatenates the
    map of that resolution, at the end the frames themselves. A last convolution without bias gives u and v.

    The last weights start so small that the flow is almost 0, which forecasts persistence.

    Convention: the authors' code starts all weights as small as that (``small="all"``). The deepest level's
    gradients then start at 1e-15 or below, where Adam no longer sees them; here all but the last convolution
    start as is usual before a ReLU. Bilinear steps up have ``align_corners=False``, so that the map stays
    where the frames are.

    Shapes: frames ``(b, t, y, x)``, rows and columns multiples of ``2 ** len(widths)``, to ``(b, 2, y, x)``.

    Args:
        frames: ``t``.
        config: Sizes.

    Raises:
        ValueError: If there are not as many levels up as down.

    References:
        de Bézenac, Pajot and Gallinari (2018), https://arxiv.org/abs/1711.07970. Authors' code:
        ``emited/flow``.
    """

    def __init__(self, frames: int, config: ADDLConfig) -> None:
        super().__init__()
        levels = len(config.widths)
        if len(config.up) != levels:
            raise ValueError(f"expected as many levels up as down, got {len(config.up)} and {levels}")
        maps = (frames, *config.widths)
        self.down = nn.ModuleList(
            _down(above, here, refined=level >= levels - config.refined)
            for level, (above, here) in enumerate(zip(maps, config.widths, strict=False))
        )
        self.up = nn.ModuleList()
        channels = config.widths[-1]
        for here, across in zip(config.up, reversed(maps[:-1]), strict=True):
            self.up.append(nn.Conv2d(channels, here, 3, padding=1))
            channels = here + across
        self.flow = nn.Conv2d(channels, 2, 3, padding=1, bias=False)
        _initialise(self, config.small)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the flow ``(b, 2, y, x)``, in cells per step, from frames ``(b, t, y, x)``."""
        maps = [frames]
        for level in self.down:
            maps.append(level(maps[-1]))
        x = maps.pop()
        for level in self.up:
            wide = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = torch.cat([functional.relu(level(wide)), maps.pop()], dim=1)
        flow: Tensor = self.flow(x)
        return flow


class ADDL(Forecaster):
    r"""Advection-diffusion network: estimates the motion from four frames and moves the last one along it.

    .. math::
        w_k &= f(x_{k-4}, \dots, x_{k-1}) &\text{(motion, cells per step)} \\
        \hat y_k(r) &= x_{k-1}(r - w_k(r)) &\text{(advection)}

    or, in the Gaussian scheme, the average of :math:`x_{k-1}` around :math:`r - w_k(r)`, which is advection
    and diffusion. A forecast becomes the last of the four frames of the next lead. The loss is

    .. math::
        \frac{1}{K} \sum_{k=1}^{K} \rho(\hat y_k - y_k) + \lambda_\text{div} (\nabla \cdot w_k)^2
        + \lambda_\text{grad} |\nabla w_k|^2 + \lambda_\text{magn} |w_k|^2

    averaged over the grid, with :math:`\rho` the square or :math:`\sqrt{d^2 + \epsilon^2}`.

    What it cannot do is create or dissolve echo: it is the translation expert among others.

    Convention: motion is in cells per step, not in grid units of [-1, 1], so that weights suit any grid; the
    weights of the penalties are scaled for that. The divergence is
    :math:`\partial u/\partial x + \partial v/\partial y`; the authors' code takes both along one axis. Leads
    beyond the first move the last *observed* frame along the composed motion (``compose=True``), so that it
    is interpolated once and not once a lead; where a true frame is fed back, that one is the last observed.
    The authors move the last forecast (``compose=False``).

    With ``explain=True``, ``aux["flow"]`` is the motion of each lead ``(b, lead, 2, y, x)``, in cells per
    step: channel 0 is u, positive eastwards (to higher columns), channel 1 is v, positive southwards (to
    higher rows). Echo moves by ``+w``.

    Raises:
        ValueError: If the Gaussian scheme is asked to compose.

    References:
        de Bézenac, Pajot and Gallinari (2018), Deep Learning for Physical Processes: Incorporating Prior
        Scientific Knowledge, https://arxiv.org/abs/1711.07970.
    """

    frames = 4

    def __init__(self, config: ADDLConfig) -> None:
        super().__init__()
        if config.compose and config.scheme == "gaussian":
            raise ValueError("expected compose=False with the Gaussian scheme, which blurs at every step")
        self.config = config
        self.stride = 2 ** len(config.widths)
        self.estimator = FlowEstimator(self.frames, config)
        gaussian = config.scheme == "gaussian"
        self.warp = GaussianWarp(config.std, config.window) if gaussian else BilinearWarp()
        # What is composed is motion, and where no motion is known the nearest is the best guess.
        self.carry = BilinearWarp(beyond="border")

    def cells(self) -> Iterator[nn.Module]:
        """Yield the estimator."""
        yield self.estimator

    def roll_out(self, x: Tensor, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Return the forecast from the last four frames."""
        window = x[:, -self.frames :, 0]
        source, motion = window[:, -1:], None
        still = _still(feedback)
        frames, flows = [], []
        for lead in range(1, horizon + 1):
            flow = self.estimator(window)
            # Displacements add up over the leads: in half precision they would lose the fractions of cells.
            flow = flow.to(torch.promote_types(flow.dtype, torch.float32))
            motion = flow if motion is None else compose(flow, motion, self.carry)
            forecast = self.warp(source, motion)
            frames.append(forecast)
            flows.append(flow)
            if lead < horizon:
                following = feedback.after(lead, forecast)
                window = torch.cat([window[:, 1:], following], dim=1)
                if self.config.compose:
                    source, motion = feedback.after(lead, source), still.after(lead, motion)
                else:
                    source, motion = following, None
        aux = {"flow": torch.stack(flows, dim=1)} if explain else {}
        return {"pred": torch.stack(frames, dim=1), "aux": aux}

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the data term and the penalties, averaged over the leads, running freely."""
        config = self.config
        forecast = self(x, target.shape[1], explain=True)
        flow = forecast["aux"]["flow"]
        mse = masked_mse(forecast["pred"], target, valid)
        data = mse if config.loss == "mse" else _charbonnier(forecast["pred"], target, valid)
        penalties = {
            "divergence": divergence_penalty(flow),
            "gradient": gradient_penalty(flow),
            "magnitude": magnitude_penalty(flow),
        }
        loss = (
            data
            + config.divergence * penalties["divergence"]
            + config.gradient * penalties["gradient"]
            + config.magnitude * penalties["magnitude"]
        )
        parts = {name: value.detach() for name, value in penalties.items()}
        return {"loss": loss, "mse": mse.detach(), **parts}


def _down(above: int, here: int, *, refined: bool) -> nn.Sequential:
    """Return one level down, from ``above`` to ``here`` channels."""
    halving = [nn.Conv2d(above, here, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(here), nn.ReLU()]
    refining = [nn.Conv2d(here, here, 3, padding=1, bias=False), nn.BatchNorm2d(here), nn.ReLU()]
    return nn.Sequential(*halving, *(refining if refined else ()))


def _initialise(estimator: FlowEstimator, small: str) -> None:
    """Draw the weights; those that start small with a standard deviation of 0.02 / (k^2 out_channels)."""
    for layer in estimator.modules():
        if isinstance(layer, nn.Conv2d):
            if small == "all" or layer is estimator.flow:
                nn.init.normal_(layer.weight, std=0.02 / layer.weight[:, 0].numel())
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _still(feedback: Feedback) -> Feedback:
    """Return a feedback that sets displacements ``(b, 2, y, x)`` to 0 where it feeds back a true frame."""
    if feedback.teacher is None:
        return feedback
    batch, leads, _, height, width = feedback.teacher.shape
    return Feedback(feedback.teacher.new_zeros(()).expand(batch, leads, 2, height, width), feedback.mask)


def _charbonnier(forecast: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean Charbonnier loss over the elements that are ``valid``; 0 if none is."""
    return masked_mean(torch.sqrt((forecast - truth) ** 2 + CHARBONNIER_EPSILON**2), valid)
