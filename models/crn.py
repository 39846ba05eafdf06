"""CRN: two coupled recurrent branches, of reflectivity and of its change, each informing the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.forecaster import Feedback, Forecast, RecurrentForecaster, masked_mean, masked_mse
from models.parts.blocks import FORGET_BIAS, ConvLSTMCell, LSTMState, from_patches, to_patches, xavier
from models.parts.sampling import draw_mask, forced_share

#: Dilations of the three parallel convolutions of an interpretation block; together they see 9x9 patches.
DILATIONS = (1, 2, 4)

#: States of one branch, from the bottom layer up.
BranchState = tuple[LSTMState, ...]


@dataclass(frozen=True)
class CRNConfig:
    """Sizes and options of a CRN.

    Attributes:
        hidden: Channels of each layer of a branch, from the bottom up.
        kernel_size: Odd width of the gates' convolutions, in patches.
        patch: Width of a patch, in cells.
        rib: What interprets the other branch's state: three dilated convolutions (``"rib"``), a single
            convolution (``"srib"``) or nothing.
        coupling: Whether the other branch's top state enters the bottom layer, or each layer's state enters
            the layer at its height.
        cross: Whether a branch sees the other one's state (CRN) or only its own (N-CRN).
        bias: Whether gates have biases; the paper's have none.
        forget_bias: Added to the argument of the forget gates; the paper adds nothing.
        state_weight: Weight of the first branch in the forecast; the second has the rest.
        supervise: Leads the loss looks at: the last, all, or the last and one or two random earlier ones.
        reweight: Whether random leads count so often that on average all leads do.
        absolute: Weight of the mean absolute error beside the mean squared error.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one.
    """

    hidden: tuple[int, ...] = (24, 24)
    kernel_size: int = 3
    patch: int = 4
    rib: Literal["rib", "srib", "none"] = "rib"
    coupling: Literal["top", "per_layer"] = "top"
    cross: bool = True
    bias: bool = True
    forget_bias: float = FORGET_BIAS
    state_weight: float = 0.5
    supervise: Literal["last", "all", "last+1", "last+2"] = "last+1"
    reweight: bool = False
    absolute: float = 0.0
    frame_channels: int = 1


class RecurrentInterpretation(nn.Module):
    r"""Recurrent interpretation block (RIB): draws from a branch's state what is of use to the other.

    .. math:: \hat H_{t-1} = \text{ReLU}([W_1 *_1 H_{t-1},\; W_2 *_2 H_{t-1},\; W_4 *_4 H_{t-1}])

    with :math:`*_n` a 3x3 convolution of dilation n. The simplified block (sRIB) has one of dilation 1.

    Convention: the paper shows three parallel convolutions of different dilation, but says neither which nor
    how wide; here they are 1, 2 and 4, with a third of the channels each (the last has the remainder).

    Shapes: ``(b, d, y, x)`` to the same.

    Args:
        channels: ``d``.
        dilations: One convolution each.

    References:
        Sun et al. (2018), Coupled Recurrent Network (CRN), eq. 9 and figure 2,
        https://arxiv.org/abs/1812.10071.
    """

    def __init__(self, channels: int, dilations: tuple[int, ...] = DILATIONS) -> None:
        super().__init__()
        share = channels // len(dilations)
        widths = (share,) * (len(dilations) - 1) + (channels - share * (len(dilations) - 1),)
        self.paths = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
            for width, dilation in zip(widths, dilations, strict=True)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the interpreted state."""
        return functional.relu(torch.cat([path(hidden) for path in self.paths], dim=1))


class Branch(nn.Module):
    r"""One time step of one branch: a stack of ConvLSTM layers that listens to the other branch.

    For branch a, with :math:`\hat H^b` the other branch's interpreted state and ``[,]`` concatenation,

    .. math::
        \hat H_{t-1}^b &= \text{RIB}^a(H_{t-1}^b) \\
        \hat X_t^a &= \text{RAB}^a([X_t^a, \hat H_{t-1}^b]) \\
        (i, f, o) &= \sigma(W_x * \hat X_t^a + W_h * H_{t-1}^a) \\
        \tilde C &= \tanh(W_{xc} * \hat X_t^a + W_{hc} * H_{t-1}^a) \\
        C_t^a &= f \circ C_{t-1}^a + i \circ \tilde C \\
        H_t^a &= o \circ \tanh(C_t^a)

    The adaptation block (RAB) is a 1x1 convolution with bias and without activation.

    Convention: the paper does not say how layers above the first are coupled; here the other branch's *top*
    state enters the bottom layer only, or (``coupling="per_layer"``) each layer has blocks of its own.

    Shapes: input ``(b, c, y, x)``, states ``(b, d, y, x)`` a layer.

    Args:
        channels: ``c``.
        config: Sizes.
    """

    def __init__(self, channels: int, config: CRNConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.per_layer = config.coupling == "per_layer"
        below = (channels, *hidden[:-1])
        heard = hidden if self.per_layer else hidden[-1:]
        self.interpret = nn.ModuleList(_interpretation(config.rib, width) for width in heard)
        self.adapt = nn.ModuleList(
            nn.Conv2d(inner + other, here, 1)
            for inner, other, here in zip(below, heard, hidden, strict=False)
        )
        inputs = hidden if self.per_layer else (hidden[0], *hidden[:-1])
        self.layers = nn.ModuleList(
            ConvLSTMCell(inner, here, config.kernel_size, forget_bias=config.forget_bias, bias=config.bias)
            for inner, here in zip(inputs, hidden, strict=True)
        )

    def forward(self, x: Tensor, states: BranchState, other: BranchState) -> BranchState:
        """Return the states after the input ``(b, c, y, x)``; ``other`` are the states it listens to."""
        heard = other if self.per_layer else other[-1:]
        after = []
        for level, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            if level < len(heard):
                x = self.adapt[level](torch.cat([x, self.interpret[level](heard[level].hidden)], dim=1))
            after.append(layer(x, state))
            x = after[-1].hidden
        return tuple(after)


class Coupled(NamedTuple):
    """States of both branches.

    Attributes:
        a: That of reflectivity.
        b: That of its change.
    """

    a: BranchState
    b: BranchState


class CoupledCell(nn.Module):
    """One time step of both branches, each with its own weights.

    Both read the other's state of the step *before*, so neither comes first. Without ``cross`` each reads its
    own, which makes them two networks side by side (N-CRN).

    Convention: two convolutions, not one of two groups: on a CPU the gates, nearly all of the work, take no
    longer so, and the branches stay apart.
    """

    def __init__(self, channels: int, config: CRNConfig) -> None:
        super().__init__()
        self.cross = config.cross
        self.a = Branch(channels, config)
        self.b = Branch(channels, config)

    def forward(self, x_a: Tensor, x_b: Tensor, state: Coupled) -> Coupled:
        """Return the states after the inputs ``(b, c, y, x)``."""
        a, b = state
        heard_a, heard_b = (b, a) if self.cross else (a, b)
        return Coupled(self.a(x_a, a, heard_a), self.b(x_b, b, heard_b))


class CRNState(NamedTuple):
    """State of the encoder.

    Attributes:
        coupled: States of both branches.
        frame: Last frame seen ``(b, 1, y, x)``.
        change: What was added to the one before ``(b, 1, y, x)``.
    """

    coupled: Coupled
    frame: Tensor
    change: Tensor


class CRN(RecurrentForecaster):
    r"""Coupled recurrent network: one branch continues reflectivity, the other its change between frames.

    An encoder of two coupled branches takes in, patch by patch, the frames (a) and their differences (b); a
    decoder of the same structure goes on from its states. With :math:`G` a 1x1 convolution of the top state,

    .. math::
        \hat y_k^a &= G^a(H_k^a), \qquad \hat\Delta_k = G^b(H_k^b) \\
        \hat y_k &= w\, \hat y_k^a + (1 - w)\, (\hat y_{k-1} + \hat\Delta_k)

    The next inputs are :math:`\hat y_k` and :math:`\hat y_k - \hat y_{k-1}`, or the true ones where forced.
    The loss looks at the last lead and one random earlier one,

    .. math:: L = \sum_{k \in \mathcal{T}} L(\hat y_k^a, y_k) + L(\hat\Delta_k, y_k - y_{k-1})

    Convention: the paper classifies videos and estimates poses; the decoder is this project's, with the mean
    of the branches (w = 0.5) where the paper averages their probabilities. Change is the difference of
    frames, free and at hand while streaming, the paper's real-time variant; the first frame's is 0. Gates
    have biases and their forget gate 1 more (``bias``, ``forget_bias``), the paper's have neither. RAB is not
    hoisted out of the time loop nor folded into the gates: it is a hundredth of the work, and folded, the
    gates would see more channels (c + d) than it leaves them (d).

    With ``explain=True``, ``aux`` has of each lead, ``(b, lead, 1, y, x)`` and not clamped:
    ``"state"`` :math:`\hat y_k^a` and ``"tendency"`` :math:`\hat y_{k-1} + \hat\Delta_k`, the branches' own
    forecasts; ``"disagreement"``, their absolute difference, a cheap sign of how uncertain the forecast is;
    and ``"change"`` :math:`\hat\Delta_k`.

    References:
        Sun et al. (2018), Coupled Recurrent Network (CRN), section 3, https://arxiv.org/abs/1812.10071.
    """

    def __init__(self, config: CRNConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.patch
        self.frame_channels = config.frame_channels
        channels = config.frame_channels * config.patch**2
        self.encoder = CoupledCell(channels, config)
        self.decoder = CoupledCell(channels, config)
        self.head_a = nn.Conv2d(config.hidden[-1], channels, 1)
        self.head_b = nn.Conv2d(config.hidden[-1], channels, 1)
        xavier(self)

    def cells(self) -> Iterator[nn.Module]:
        """Yield the coupled cells of encoder and decoder."""
        yield self.encoder
        yield self.decoder

    def start(self, frame: Tensor) -> CRNState:
        """Return states of zeros; ``frame`` itself is the first, so that its change is 0."""
        patches = to_patches(frame, self.config.patch)
        zeros = tuple(LSTMState.zeros(patches, d) for d in self.config.hidden)
        return CRNState(Coupled(zeros, zeros), frame, torch.zeros_like(frame))

    def encode(self, frame: Tensor, state: CRNState) -> CRNState:
        """Return the states after one more frame."""
        change = frame - state.frame
        return CRNState(self._step(self.encoder, frame, change, state.coupled), frame, change)

    def decode(self, state: CRNState, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Return the forecast."""
        coupled, frame, change = state
        weight, patch = self.config.state_weight, self.config.patch
        true_changes = _changes(frame, feedback)
        frames, states, changes, tendencies = [], [], [], []
        for lead in range(1, horizon + 1):
            coupled = self._step(self.decoder, frame, change, coupled)
            states.append(from_patches(self.head_a(coupled.a[-1].hidden), patch))
            changes.append(from_patches(self.head_b(coupled.b[-1].hidden), patch))
            tendencies.append(frame + changes[-1])
            forecast = weight * states[-1] + (1 - weight) * tendencies[-1]
            frames.append(forecast)
            if lead < horizon:
                change = true_changes.after(lead, forecast - frame)
                frame = feedback.after(lead, forecast)
        if not explain:
            return {"pred": torch.stack(frames, dim=1), "aux": {}}
        aux = {
            "state": torch.stack(states, dim=1),
            "tendency": torch.stack(tendencies, dim=1),
            "change": torch.stack(changes, dim=1),
        }
        aux["disagreement"] = (aux["state"] - aux["tendency"]).abs()
        return {"pred": torch.stack(frames, dim=1), "aux": aux}

    def _step(self, cell: nn.Module, frame: Tensor, change: Tensor, coupled: Coupled) -> Coupled:
        patch = self.config.patch
        after: Coupled = cell(to_patches(frame, patch), to_patches(change, patch), coupled)
        return after

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return both branches' errors, summed over the supervised leads, under scheduled sampling."""
        config, horizon = self.config, target.shape[1]
        mask = draw_mask(
            forced_share(progress), target.shape[0], horizon - 1, generator=generator, device=target.device
        )
        leads = supervised_leads(config.supervise, horizon, reweight=config.reweight, generator=generator)
        forecast = self(x, horizon, target, mask, explain=True)
        change = torch.cat([x[:, -1:], target], dim=1).diff(dim=1)
        observed = None if valid is None else _both_observed(valid)
        state_loss = self._loss(forecast["aux"]["state"], target, valid, leads)
        change_loss = self._loss(forecast["aux"]["change"], change, observed, leads)
        return {
            "loss": state_loss + change_loss,
            "mse": masked_mse(forecast["pred"].detach(), target, valid),
            "state": state_loss.detach(),
            "change": change_loss.detach(),
        }

    def _loss(self, own: Tensor, truth: Tensor, valid: Tensor | None, leads: dict[int, float]) -> Tensor:
        """Return one branch's error, summed over the leads with their weights."""
        total = own.new_zeros(())
        for lead, weight in leads.items():
            here = slice(lead - 1, lead)
            mask = None if valid is None else valid[:, here]
            error = masked_mse(own[:, here], truth[:, here], mask)
            if self.config.absolute:
                error = error + self.config.absolute * masked_mean(
                    (own[:, here] - truth[:, here]).abs(), mask
                )
            total = total + weight * error
        return total


def supervised_leads(
    supervise: str, horizon: int, *, reweight: bool = False, generator: torch.Generator | None = None
) -> dict[int, float]:
    """Return the leads the loss looks at, counted from 1, with their weights.

    The last lead always is one. Random earlier leads are drawn without replacement, all alike; reweighted,
    they stand for all earlier leads, so that the expected loss is that of all leads. Of fewer earlier leads
    than are to be drawn, all are taken.

    Args:
        supervise: ``"last"``, ``"all"``, ``"last+1"`` or ``"last+2"``.
        horizon: Number of leads.
        reweight: Whether random leads weigh more than 1.
        generator: Source of the draw, on the CPU.
    """
    earlier = horizon - 1
    wanted = {"last": 0, "all": earlier, "last+1": 1, "last+2": 2}[supervise]
    count = min(wanted, earlier)
    drawn = torch.randperm(earlier, generator=generator)[:count].tolist()
    weight = earlier / count if reweight and count else 1.0
    return {horizon: 1.0} | {k + 1: weight for k in drawn}


def _interpretation(rib: str, channels: int) -> nn.Module:
    if rib == "none":
        return nn.Identity()
    return RecurrentInterpretation(channels, DILATIONS if rib == "rib" else (1,))


def _changes(frame: Tensor, feedback: Feedback) -> Feedback:
    """Return the feedback of true changes that belongs to one of true frames, which follow ``frame``."""
    if feedback.teacher is None:
        return feedback
    return Feedback(torch.cat([frame[:, None], feedback.teacher], dim=1).diff(dim=1), feedback.mask)


def _both_observed(valid: Tensor) -> Tensor:
    """Return where a frame and the one before are observed; of the last input frame nothing is known."""
    return torch.cat([valid[:, :1], valid[:, 1:] & valid[:, :-1]], dim=1)
