"""STMoE: experts on moving, turning and growing echo, and gates that say for every cell whom to believe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.addl import ADDL, ADDLConfig
from models.forecaster import FREE, Feedback, Forecast, Forecaster, masked_mean, masked_mse
from models.mim import MIM, MIMConfig, MIMState
from models.parts.blocks import from_patches, layer_norm, xavier
from models.parts.sampling import draw_mask, forced_share
from models.stmoe.physics import KINDS
from models.stmoe.robust_loss import robust_loss

#: Numbers that the gates' squeeze-and-excitation squeezes a frame to; the paper gives none.
SQUEEZED = 4


@dataclass(frozen=True)
class RobustTerm:
    """One term of the loss: a weight times the mean of a robust loss.

    Attributes:
        weight: Factor of the term.
        alpha: Shape of the robust loss.
        scale: Scale of the robust loss, in the unit of what it acts on.
    """

    weight: float
    alpha: float
    scale: float


@dataclass(frozen=True)
class STMoEConfig:
    """Sizes and options of an STMoE.

    Attributes:
        variant: ``"conv"``: a convolution decodes the mixture of the experts' features, all of them MIMs.
            ``"id"``: the mixture of the experts' forecasts is the forecast, and the translation expert is an
            ADDL.
        hidden: Channels of each layer of a MIM expert, from the bottom up.
        kernel_size: Odd width of its convolutions, in patches.
        patch: Width of its patches, in cells.
        channels: Channels of an expert's features; ``"id"`` has one, the forecast.
        translation: Sizes of the ADDL of ``"id"``.
        gate_channels: Channels of the gates' shared part.
        gate: How weights come from the gates' logits. ``"softmax"`` over the experts, ``"sigmoid"`` each for
            itself, ``"uniform"``: one weight an expert for all cells, softmax of the logits' mean over them,
            ``"none"``: no gates, the experts' mean.
        gate_norm: Whether gates take means over the sample, for normalisations and squeeze-and-excitation.
            Without, the weights of a cell depend on its surroundings alone, but for ``"uniform"``.
        expert_state: Whether experts start from zero with each lead's window (``"reset"``) or carry their
            state from lead to lead and take in only the newest frame (``"carry"``).
        scheduled_sampling: Whether training feeds back true frames, ever fewer; else it runs freely.
        forecast: Loss of the residual.
        entropy: Loss of the gates' -W log W.
        smoothness: Loss of the gates' change from lead to lead.
        magnitude: Loss of the gates' size.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one;
            ``"id"`` has one.

    Raises:
        ValueError: If ``"id"``, whose translation expert moves one field, is to have several channels.
    """

    variant: Literal["conv", "id"] = "conv"
    hidden: tuple[int, ...] = (16, 16)
    kernel_size: int = 3
    patch: int = 4
    channels: int = 8
    translation: ADDLConfig = field(default_factory=ADDLConfig)
    gate_channels: int = 16
    gate: Literal["softmax", "sigmoid", "uniform", "none"] = "softmax"
    gate_norm: bool = True
    expert_state: Literal["reset", "carry"] = "reset"
    scheduled_sampling: bool = False
    forecast: RobustTerm = RobustTerm(1.0, 1.0, 0.05)
    entropy: RobustTerm = RobustTerm(0.01, 1.0, 1.0)
    smoothness: RobustTerm = RobustTerm(0.1, 1.0, 0.1)
    magnitude: RobustTerm = RobustTerm(0.0, 1.0, 0.1)
    frame_channels: int = 1

    def __post_init__(self) -> None:
        if self.variant == "id" and self.frame_channels > 1:
            raise ValueError(f"expected frames of one channel for the id variant, got {self.frame_channels}")


class MIMExpert(nn.Module):
    """An expert whose features are read from the top hidden state of a MIM after the window's last frame.

    With one channel, reading is the MIM's own way of making a frame, and the feature is a forecast.

    Args:
        config: The MIM, without an output layer of its own.
        channels: ``c``, channels of the features.
    """

    def __init__(self, config: MIMConfig, channels: int) -> None:
        super().__init__()
        self.patch = config.patch
        self.mim = MIM(config)
        self.head = nn.Conv2d(config.hidden[-1], channels * config.patch**2, 1)
        xavier(self.head)

    def forward(self, window: Tensor, state: MIMState | None = None) -> tuple[Tensor, MIMState]:
        """Return features and state after the window.

        Args:
            window: Frames ``(b, t, 1, y, x)``, oldest first.
            state: The state after all but the last frame; ``None`` to take in all, from zero.

        Returns:
            Features ``(b, c, y, x)``, and the state.
        """
        *earlier, newest = window.unbind(1)
        if state is None:
            for frame in earlier:
                _, state = self.mim.climb(frame, state)
        hidden, state = self.mim.climb(newest, state)
        return from_patches(self.head(hidden), self.patch), state

    def cells(self) -> Iterator[nn.Module]:
        """Yield what is called at every step."""
        yield from self.mim.cells()


class ADDLExpert(nn.Module):
    """An expert whose one feature is the forecast of an advection-diffusion network."""

    def __init__(self, config: ADDLConfig) -> None:
        super().__init__()
        self.addl = ADDL(config)

    def forward(self, window: Tensor, state: tuple[()] | None = None) -> tuple[Tensor, tuple[()]]:
        """Return the forecast ``(b, 1, y, x)`` that follows a window; there is no state to keep."""
        # Not the network's call, which clamps outside of training: what experts say is never clamped.
        return self.addl.roll_out(window, 1, FREE)["pred"][:, 0], ()

    def cells(self) -> Iterator[nn.Module]:
        """Yield what is called at every step."""
        yield from self.addl.cells()


class GatingNetwork(nn.Module):
    r"""Spatio-temporal gates: the weight of every expert in every cell, from the frames of a window.

    .. math::
        U_t &= G'(X_t) \\
        W^k_t[i, j] &= G''^k(U_t[R(i, j)])

    G' is twice a 3x3 convolution, normalisation and ReLU, then squeeze-and-excitation: every channel is
    scaled by a number in (0, 1) that two linear layers make of all channels' means. G'' is one 5x5
    convolution for all experts at once, so R is 5x5 cells of U and 9x9 of the frames. Without ``norm``
    nothing is normalised, squeezed or excited, and weights depend on those 9x9 cells alone.

    Convention: the paper gives no sizes, and demands only that weights are in [0, 1]; here they sum to 1
    (softmax), so that the experts are mixed and not added. ``"sigmoid"`` is the paper to the letter.

    Shapes: ``b`` batch, ``t`` channels of all frames of a window, as many as frames where each has one, ``m``
    experts.

    Args:
        frames: ``t``.
        channels: Channels of U.
        experts: ``m``.
        mode: How weights come from logits, see :class:`STMoEConfig`; not ``"none"``.
        norm: Whether means are taken over the sample.

    References:
        Hu, Shen and Sun (2018), Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507.
    """

    def __init__(
        self,
        frames: int,
        channels: int,
        experts: int,
        mode: Literal["softmax", "sigmoid", "uniform"],
        *,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.trunk = nn.Sequential(
            nn.Conv2d(frames, channels, 3, padding=1),
            layer_norm(channels) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            layer_norm(channels) if norm else nn.Identity(),
            nn.ReLU(),
        )
        self.squeeze = nn.Linear(channels, SQUEEZED) if norm else None
        self.excite = nn.Linear(SQUEEZED, channels) if norm else None
        self.head = nn.Conv2d(channels, experts, 5, padding=2)
        xavier(self)

    def forward(self, window: Tensor) -> Tensor:
        """Return the weights ``(b, m, y, x)`` from frames ``(b, t, y, x)``."""
        u = self.trunk(window)
        if self.squeeze is not None and self.excite is not None:
            scale = torch.sigmoid(self.excite(functional.relu(self.squeeze(u.mean(dim=(2, 3))))))
            u = u * scale[:, :, None, None]
        logits: Tensor = self.head(u)
        if self.mode == "sigmoid":
            return torch.sigmoid(logits)
        if self.mode == "uniform":
            return torch.softmax(logits.mean(dim=(2, 3), keepdim=True), dim=1).expand_as(logits)
        return torch.softmax(logits, dim=1)


class ExpertMixture(Forecaster):
    r"""Experts, gates and decoder: forecasts the next frame from a window of four, which it joins.

    .. math::
        \hat y_t = H\left( \sum_{k=1}^{m} W^k_t \circ F^k(X_t) \right), \qquad
        X_t = (\hat y_{t-4}, \dots, \hat y_{t-1})

    Parts whose parameters are all frozen stay in evaluation mode: else their batch statistics would change.

    Args:
        experts: F^k, each a :class:`MIMExpert` or an :class:`ADDLExpert`.
        gating: The gates; the experts' mean if left out.
        decoder: H.
        stride: Rows and columns must be multiples of this.
        carry: Whether experts carry their state from lead to lead.
        frame_channels: Channels of a frame.
    """

    #: Frames of a window: the fewest that show velocity, acceleration and jerk.
    frames = 4

    def __init__(
        self,
        experts: Sequence[nn.Module],
        gating: GatingNetwork | None,
        decoder: nn.Module,
        *,
        stride: int,
        carry: bool = False,
        frame_channels: int = 1,
    ) -> None:
        super().__init__()
        self.frame_channels = frame_channels
        self.stride = stride
        self.carry = carry
        self.experts = nn.ModuleList(experts)
        self.gating = gating
        self.decoder = decoder

    def roll_out(self, x: Tensor, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Return the forecast from the last four frames."""
        window = x[:, -self.frames :]
        states: list[Any] = [None] * len(self.experts)
        frames, gates, alone = [], [], []
        for lead in range(1, horizon + 1):
            features, after = self.encode(window, states)
            weights = self.weigh(window)
            forecast = self.decoder(mix(features, weights))
            frames.append(forecast)
            if explain:
                gates.append(weights)
                alone.append(torch.cat([self.decoder(feature) for feature in features], dim=1))
            if lead < horizon:
                following = feedback.after(lead, forecast)
                window = torch.cat([window[:, 1:], following[:, None]], dim=1)
                states = after if self.carry else states
        aux = {"gates": torch.stack(gates, dim=1), "experts": torch.stack(alone, dim=1)} if explain else {}
        return {"pred": torch.stack(frames, dim=1), "aux": aux}

    def encode(self, window: Tensor, states: list[Any]) -> tuple[list[Tensor], list[Any]]:
        """Return every expert's features ``(b, c, y, x)`` and state after a window ``(b, t, 1, y, x)``."""
        encoded = [expert(window, state) for expert, state in zip(self.experts, states, strict=True)]
        return [features for features, _ in encoded], [state for _, state in encoded]

    def weigh(self, window: Tensor) -> Tensor:
        """Return the weights ``(b, m, y, x)`` of the experts for a window ``(b, t, 1, y, x)``."""
        if self.gating is None:
            count = len(self.experts)
            return window.new_full((), 1 / count).expand(window.shape[0], count, *window.shape[-2:])
        weights: Tensor = self.gating(window.flatten(1, 2))
        return weights

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts but the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        parts = (part for child in self.children() for part in child.modules())
        for part in parts:
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
        return self


class STMoE(ExpertMixture):
    r"""Spatio-temporal mixture of experts: who knows motion, who knows rotation, who knows growth and decay.

    Three experts see the last four frames, gates weigh what they say in every cell, a decoder makes the next
    frame, and that frame joins the window. Experts learn first, each from synthetic sequences of its own kind
    (:mod:`models.stmoe.physics`); only then the whole learns from rain (:mod:`models.stmoe.training`). The
    loss of the whole is

    .. math::
        L = \rho(\hat y - y) + \lambda_e\, \rho(-W \log W) + \lambda_s\, \rho(\partial_t W)
        + \lambda_m\, \rho(|W|)

    averaged over cells, leads and experts, with Barron's robust loss :math:`\rho`, each term of its own shape
    and scale.

    With ``explain=True``, ``aux["gates"]`` are the weights ``(b, lead, m, y, x)`` of translation, rotation
    and intensity expert, and ``aux["experts"]`` what each of them alone would forecast for that lead from the
    same frames ``(b, lead, m, y, x)``, not clamped; of frames of c channels ``(b, lead, m c, y, x)``.

    Convention: the paper's equation 7 has the smoothness of W, its equation 8 an undefined magnitude instead.
    All terms are here; that of magnitude has weight 0, since it is constant where weights sum to 1. The
    robust loss acts on every cell, not on the norm of all, which outliers in single cells would still
    dominate. Its shapes, scales and weights are not reported; these are starting points.

    References:
        Aoyagi, Murata and Sakaino (2021), Spatio-temporal Predictive Network For Videos With Physical
        Properties, CVPR Workshops, equations 5 to 8.
    """

    def __init__(self, config: STMoEConfig) -> None:
        convolved = config.variant == "conv"
        experts: list[nn.Module] = [new_expert(config) for _ in KINDS]
        if not convolved:
            experts[KINDS.index("translation")] = ADDLExpert(config.translation)
        gating = None
        if config.gate != "none":
            gating = GatingNetwork(
                self.frames * config.frame_channels,
                config.gate_channels,
                len(KINDS),
                config.gate,
                norm=config.gate_norm,
            )
        decoder = (
            nn.Conv2d(config.channels, config.frame_channels, 3, padding=1) if convolved else nn.Identity()
        )
        halvings = 0 if convolved else len(config.translation.widths)
        super().__init__(
            experts,
            gating,
            decoder,
            stride=math.lcm(config.patch, 2**halvings),
            carry=config.expert_state == "carry",
            frame_channels=config.frame_channels,
        )
        self.config = config
        xavier(decoder)

    def alone(self, expert: nn.Module) -> ExpertMixture:
        """Return the network H(F(X)) that one expert makes with this network's decoder, sharing weights."""
        return ExpertMixture(
            [expert],
            None,
            self.decoder,
            stride=self.stride,
            carry=self.carry,
            frame_channels=self.frame_channels,
        )

    def cells(self) -> Iterator[nn.Module]:
        """Yield the experts' cells and the gates."""
        for expert in self.experts:
            if isinstance(expert, MIMExpert | ADDLExpert):
                yield from expert.cells()
        if self.gating is not None:
            yield self.gating

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of the whole, running freely or under scheduled sampling."""
        horizon, teacher, mask = target.shape[1], None, None
        if self.config.scheduled_sampling:
            share = forced_share(progress)
            mask = draw_mask(share, target.shape[0], horizon - 1, generator=generator, device=target.device)
            teacher = target
        forecast = self(x, horizon, teacher, mask, explain=True)
        return self.loss_of(forecast["pred"], forecast["aux"]["gates"], target, valid)

    def loss_of(
        self, forecast: Tensor, gates: Tensor, target: Tensor, valid: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of a forecast ``(b, lead, 1, y, x)`` made with gates ``(b, lead, m, y, x)``."""
        config = self.config
        values = {
            "forecast": (config.forecast, forecast - target),
            "entropy": (config.entropy, entropy(gates)),
            "smoothness": (config.smoothness, gates.diff(dim=1)),
            "magnitude": (config.magnitude, gates),
        }
        parts = {
            name: masked_mean(
                robust_loss(value, term.alpha, term.scale), valid if name == "forecast" else None
            )
            for name, (term, value) in values.items()
        }
        loss = torch.stack([term.weight * parts[name] for name, (term, _) in values.items()]).sum()
        mse = masked_mse(forecast.detach(), target, valid)
        return {"loss": loss, "mse": mse, **{name: part.detach() for name, part in parts.items()}}


def new_expert(config: STMoEConfig) -> MIMExpert:
    """Return an expert with new weights, or the encoder that only serves to train the decoder."""
    mim = MIMConfig(
        hidden=config.hidden,
        kernel_size=config.kernel_size,
        patch=config.patch,
        head=False,
        frame_channels=config.frame_channels,
    )
    return MIMExpert(mim, config.channels if config.variant == "conv" else 1)


def mix(features: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the sum of features ``(b, c, y, x)``, each times its weight in ``(b, m, y, x)``."""
    first, *others = weights.chunk(len(features), dim=1)
    mixture = first * features[0]
    for weight, feature in zip(others, features[1:], strict=True):
        mixture = torch.addcmul(mixture, weight, feature)
    return mixture


def entropy(gates: Tensor) -> Tensor:
    """Return -W log W of every element; 0 for weights of 0 and 1."""
    # Exactly 0 where W is 0, and with a finite slope there, unlike that of W log W.
    return -torch.xlogy(gates, gates.clamp(min=torch.finfo(gates.dtype).tiny))
