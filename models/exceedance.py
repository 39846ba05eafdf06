"""Exceedance: how probably reflectivity reaches several thresholds, at every lead, in the moving frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.forecaster import FREE, Feedback, Forecast, Forecaster, masked_mean, pad_to_multiple
from models.normalisation import HIGH_DBZ, LOW_DBZ

#: Thresholds whose loss is raised most are exceeded by this share of what 20 dBZ is; see ``_loss_weights``.
RARITY_PER_10_DBZ = 0.25

#: Width [cells] of the squares that the newest frame is averaged over, to show what surrounds a cell.
CONTEXTS = (1, 4, 16)

#: Reflectivity [dBZ] above a threshold that is well above it: the softness of the indicators.
SOFTNESS_DBZ = 3.0

#: What the logits are of a cell that is well above a threshold now, before anything is learnt, and their
#: middle: the network starts as extrapolation.
START_SLOPE, START_MIDDLE = 2.5, -1.0

#: Factor that brings reflectivity in [0, 1] to about the size of one where it rains.
INPUT_SCALE = 4.0

#: Step [min] and cell [km] that a network is told nothing special about.
USUAL_STEP_MINUTES, USUAL_CELL_KM = 5.0, 1.0


@dataclass(frozen=True)
class ExceedanceConfig:
    """Sizes of an :class:`Exceedance`.

    Attributes:
        frames: Frames it looks back on.
        widths: Channels on each level, from full resolution down.
        hidden: Channels the probabilities of all leads are read from.
        slots: Number of lead times it learns.
        slot_minutes: Time between them.
        thresholds_dbz: Ascending.
        leads_a_step: Lead times that one step of the training looks at, drawn anew each time.

    Raises:
        ValueError: If there are not at least two levels and two thresholds that ascend.
    """

    frames: int = 4
    widths: tuple[int, ...] = (12, 24, 40, 56, 56)
    hidden: int = 48
    slots: int = 12
    slot_minutes: float = 5.0
    thresholds_dbz: tuple[float, ...] = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)
    leads_a_step: int = 3

    def __post_init__(self) -> None:
        """Check the sizes."""
        if (
            len(self.widths) < 2
            or min(*self.widths, self.frames, self.hidden, self.slots, self.leads_a_step) < 1
        ):
            raise ValueError(f"expected at least two levels and positive sizes, got {self}")
        steps = zip(self.thresholds_dbz, self.thresholds_dbz[1:], strict=False)
        if len(self.thresholds_dbz) < 2 or not all(low < high for low, high in steps):
            raise ValueError(f"expected thresholds that ascend, got {self.thresholds_dbz}")


class Exceedance(Forecaster):
    r"""Probabilities that reflectivity exceeds thresholds, at several leads at once.

    A U-Net looks at the last frames once; one linear layer reads from its features, for every lead slot l and
    threshold k,

    .. math::
        P_{lk} = \sigma(w_{lk} \cdot [\mathrm{SiLU}(W F), S] + b_{lk}), \quad
        S = \tanh((\bar{Z} - Z_k) / 3\,\mathrm{dBZ}),

    with F the features of the decoder's upper levels and the frames, and S for every threshold how far the
    newest frame is above it, in full and averaged over squares. At the start w picks that of the same
    threshold: the network starts as extrapolation and learns what to change. The step and the cell of the
    grid are told to it as two constant channels. For leads between slots w and b are interpolated, beyond the
    last slot they are the last's.

    The network is meant for frames seen from the moving air, where a cell's surroundings are what tells of
    its future and one look is enough for all leads.

    Convention: :meth:`forward` forecasts the slots. Its fields are those whose area above each threshold is
    that of the newest frame (:func:`matched`), so that they can be scored in training; a service may match
    other areas.

    The loss is the cross-entropy at every threshold, rare ones raised by the root of their rarity.

    Attributes:
        areas: What a service multiplies the area of the extrapolated frame with ``(slot, threshold)``; set by
            what scored best on events the network had not seen, 1 until then.

    References:
        Ronneberger et al. (2015), U-Net, https://arxiv.org/abs/1505.04597. Agrawal et al. (2019), Machine
        Learning for Precipitation Nowcasting from Radar Images, https://arxiv.org/abs/1912.12132: nowcasting
        as classification by thresholds. Ebert (2001), doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2:
        probability matching.
    """

    context = ("step_minutes", "cell_km")
    areas: Tensor

    def __init__(self, config: ExceedanceConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = config.frames
        self.stride = max(2 ** (len(config.widths) - 1), CONTEXTS[-1])
        widths = config.widths
        entering = (config.frames + 2, *widths[:-1])
        self.down = nn.ModuleList(_Block(i, o) for i, o in zip(entering, widths, strict=True))
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList(_Block(below + beside, beside) for below, beside in pairs)
        thresholds = len(config.thresholds_dbz)
        self.mix = nn.Conv2d(sum(widths[:3][: len(widths) - 1]) + config.frames, config.hidden, 1)
        seen = config.hidden + thresholds * len(CONTEXTS)
        self.weight = nn.Parameter(torch.zeros(config.slots, thresholds, seen))
        self.bias = nn.Parameter(torch.full((config.slots, thresholds), START_MIDDLE))
        nn.init.normal_(self.weight, std=0.01)
        with torch.no_grad():
            same = self.weight[:, :, config.hidden : config.hidden + thresholds]
            same += START_SLOPE * torch.eye(thresholds)
        self.register_buffer("areas", torch.ones(config.slots, thresholds))

    def logits(self, x: Tensor, minutes: Sequence[float], step_minutes: Tensor, cell_km: Tensor) -> Tensor:
        """Return the logits of the probabilities ``(b, lead, threshold, y, x)``.

        Args:
            x: Frames ``(b, t, 1, y, x)`` in [0, 1], rows and columns multiples of :attr:`stride`.
            minutes: Lead times.
            step_minutes: Time between the frames ``(b,)``.
            cell_km: Width of the cells ``(b,)``.
        """
        frames = x[:, -self.config.frames :, 0]
        learnt = functional.silu(self.mix(self._features(frames, step_minutes, cell_km)))
        features = torch.cat([learnt, self._indicators(frames[:, -1:]).to(learnt)], dim=1)
        slot = torch.tensor([minute / self.config.slot_minutes - 1 for minute in minutes], device=x.device)
        slot = slot.clamp(0, self.config.slots - 1)
        before = slot.floor().long()
        after, share = slot.ceil().long(), slot - before
        weight = torch.lerp(self.weight[before], self.weight[after], share[:, None, None])
        bias = torch.lerp(self.bias[before], self.bias[after], share[:, None])
        flat = functional.conv2d(features, weight.flatten(0, 1)[..., None, None], bias.flatten())
        return flat.view(len(x), len(minutes), -1, *x.shape[-2:])

    def forward(
        self,
        x: Tensor,
        horizon: int,
        teacher: Tensor | None = None,
        teacher_mask: Tensor | None = None,
        *,
        explain: bool = False,
        step_minutes: Tensor | None = None,
        cell_km: Tensor | None = None,
    ) -> Forecast:
        """Return the forecast of the first ``horizon`` slots; see :meth:`Forecaster.forward`.

        ``aux`` has the ``probability`` ``(b, lead, threshold, y, x)`` of exceeding each threshold.

        Args:
            x: Frames ``(b, t, 1, y, x)``.
            horizon: Number of leads, a slot apart.
            teacher: Has no effect, as nothing is fed back.
            teacher_mask: Has no effect.
            explain: Has no effect: probabilities are always there.
            step_minutes: Time between the frames ``(b,)``; that of the slots if left out.
            cell_km: Width of the cells ``(b,)``; 1 km if left out.
        """
        self._check(x, horizon, teacher, teacher_mask)
        height, width = x.shape[-2:]
        step = x.new_full((len(x),), USUAL_STEP_MINUTES) if step_minutes is None else step_minutes
        cell = x.new_full((len(x),), USUAL_CELL_KM) if cell_km is None else cell_km
        minutes = [self.config.slot_minutes * (k + 1) for k in range(horizon)]
        logits = self.logits(pad_to_multiple(x, self.stride), minutes, step, cell)[..., :height, :width]
        probability = nested(logits.sigmoid())
        pred = matched(probability, x[:, -1], self.units)
        return {"pred": pred, "aux": {"probability": probability}}

    def roll_out(
        self, x: Tensor, horizon: int, feedback: Feedback = FREE, *, explain: bool = False
    ) -> Forecast:
        """Return what :meth:`forward` does."""
        forecast: Forecast = self(x, horizon)
        return forecast

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
        step_minutes: Tensor | None = None,
        cell_km: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the cross-entropy at a few slots drawn from those that anything is known of."""
        valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
        known = valid.transpose(0, 1).flatten(1).any(1).nonzero().flatten()
        order = torch.randperm(len(known), generator=generator)[: self.config.leads_a_step]
        slots = known[order.to(known.device)].sort().values
        step = x.new_full((len(x),), USUAL_STEP_MINUTES) if step_minutes is None else step_minutes
        cell = x.new_full((len(x),), USUAL_CELL_KM) if cell_km is None else cell_km
        minutes = [self.config.slot_minutes * (k + 1) for k in slots.tolist()]
        height, width = x.shape[-2:]
        logits = self.logits(pad_to_multiple(x, self.stride), minutes, step, cell)[
            ..., :height, :width
        ].float()
        exceeded = target[:, slots] >= target.new_tensor(self.units)[:, None, None]
        loss = functional.binary_cross_entropy_with_logits(logits, exceeded.to(logits), reduction="none")
        weighted = loss.mul(self._loss_weights(loss)[:, None, None]).mean(2, keepdim=True)
        mean = masked_mean(weighted, valid[:, slots])
        return {
            "loss": mean,
            "cross_entropy": masked_mean(loss.detach().mean(2, keepdim=True), valid[:, slots]),
        }

    @property
    def units(self) -> tuple[float, ...]:
        """The thresholds on the networks' scale."""
        return tuple((dbz - LOW_DBZ) / (HIGH_DBZ - LOW_DBZ) for dbz in self.config.thresholds_dbz)

    def _loss_weights(self, like: Tensor) -> Tensor:
        """Return the weights ``(threshold,)`` of the losses, 1 on average."""
        dbz = like.new_tensor(self.config.thresholds_dbz)
        weights = RARITY_PER_10_DBZ ** (-(dbz - 20).clamp(max=25) / 20)
        return weights / weights.mean()

    def _features(self, x: Tensor, step_minutes: Tensor, cell_km: Tensor) -> Tensor:
        """Return what the probabilities are read from ``(b, c, y, x)``, given frames ``(b, t, y, x)``."""
        told = torch.stack(
            [(step_minutes / USUAL_STEP_MINUTES).log2(), (cell_km / USUAL_CELL_KM).log2()], dim=1
        )
        planes = told.to(x)[..., None, None].expand(-1, -1, *x.shape[-2:])
        levels, below = [], torch.cat([INPUT_SCALE * x, planes], dim=1)
        for depth, block in enumerate(self.down):
            below = block(functional.avg_pool2d(below, 2) if depth else below)
            levels.append(below)
        decoded = []
        for depth, block in enumerate(self.up):
            below = block(torch.cat([_enlarged(below, 2), levels[-2 - depth]], dim=1))
            decoded.append(below)
        size = (x.shape[-2], x.shape[-1])
        shown = [_enlarged(level, size[0] // level.shape[-2]) for level in decoded[:-4:-1]]
        return torch.cat([*shown, INPUT_SCALE * x], dim=1)

    def _indicators(self, newest: Tensor) -> Tensor:
        """Return how far a frame ``(b, 1, y, x)`` is above each threshold ``(b, contexts x k, y, x)``."""
        units = newest.new_tensor(self.units)[:, None, None]
        softness = SOFTNESS_DBZ / (HIGH_DBZ - LOW_DBZ)
        around = [_enlarged(functional.avg_pool2d(newest, side), side) for side in CONTEXTS]
        return torch.cat([((field - units) / softness).tanh() for field in around], dim=1)


class Probabilities(nn.Module):
    """An :class:`Exceedance` at given leads on given grids, as one network of frames.

    Its ``pred`` are the nested probabilities, threshold after threshold of lead after lead.
    """

    def __init__(
        self, network: Exceedance, minutes: Sequence[float], *, step_minutes: float, cell_km: float
    ) -> None:
        super().__init__()
        self.network, self.minutes = network, tuple(minutes)
        self.stride, self.frames = network.stride, network.frames
        self.register_buffer("told", torch.tensor([step_minutes, cell_km]), persistent=False)

    told: Tensor

    @property
    def planes(self) -> int:
        """Number of probabilities of a cell."""
        return len(self.minutes) * len(self.network.config.thresholds_dbz)

    def cells(self) -> Iterator[nn.Module]:
        """Yield nothing: the network is called once."""
        yield from ()

    def forward(self, x: Tensor, planes: int) -> Forecast:
        """Return ``{"pred": (b, planes, 1, y, x)}``, given frames ``(b, t, 1, y, x)``.

        Raises:
            ValueError: If not all of :attr:`planes` are asked for.
        """
        if planes != self.planes:
            raise ValueError(f"expected all {self.planes} probabilities to be asked for, got {planes}")
        step, cell = self.told[:1].expand(len(x)), self.told[1:].expand(len(x))
        padded = pad_to_multiple(x, self.stride)
        logits = self.network.logits(padded, self.minutes, step, cell)[..., : x.shape[-2], : x.shape[-1]]
        return {"pred": nested(logits.sigmoid()).flatten(1, 2)[:, :, None], "aux": {}}


class _Block(nn.Module):
    """Two convolutions of width 3, each followed by SiLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.second(functional.silu(self.first(x))))


def _enlarged(x: Tensor, times: int) -> Tensor:
    if times == 1:
        return x
    return functional.interpolate(x, scale_factor=times, mode="bilinear", align_corners=False)


def nested(probability: Tensor) -> Tensor:
    """Return probabilities ``(..., threshold, y, x)`` none of which exceeds that of a lower threshold."""
    return probability.cummin(dim=-3).values


def matched(probability: Tensor, newest: Tensor, units: Sequence[float]) -> Tensor:
    """Return fields ``(b, lead, 1, y, x)`` that exceed a threshold on as many cells as the newest frame does.

    Those cells are the ones most likely to.

    Args:
        probability: Nested probabilities ``(b, lead, threshold, y, x)``.
        newest: Newest frame ``(b, 1, y, x)``.
        units: The thresholds, on the scale of the frame.
    """
    flat = probability.flatten(-2).sort(dim=-1, descending=True).values
    counts = torch.stack([(newest >= unit).flatten(1).sum(1) for unit in units], dim=1)  # (b, threshold)
    index = (counts - 1).clamp(min=0)[:, None, :, None].expand(*flat.shape[:3], 1)
    levels = flat.gather(-1, index)[..., None]
    levels = torch.where(counts[:, None, :, None, None] > 0, levels, torch.full_like(levels, 2.0))
    return field_of(probability, levels, units)


def field_of(probability: Tensor, levels: Tensor, units: Sequence[float]) -> Tensor:
    r"""Return fields ``(..., 1, y, x)`` that exceed a threshold where its probability reaches its level.

    With :math:`s_k = P_k / q_k`, made not to increase with k, a cell with :math:`s_k \ge 1 > s_{k+1}` has the
    value between the two thresholds at which the logarithm of s, linear in between, is 0. Below the first
    threshold there is no echo, 0; above the last the value is the last.

    Args:
        probability: ``(..., threshold, y, x)``.
        levels: Least probability at which a threshold counts as exceeded ``(..., threshold, 1, 1)``.
        units: The thresholds.
    """
    ratio = (probability.clamp(min=1e-6) / levels.clamp(min=1e-6)).log().cummin(dim=-3).values
    field = torch.where(ratio[..., :1, :, :] >= 0, units[0], 0.0)
    for k in range(1, len(units)):
        above, below = ratio[..., k : k + 1, :, :], ratio[..., k - 1 : k, :, :]
        share = (below / (below - above).clamp(min=1e-6)).clamp(0, 1 - 1e-4)
        between = units[k - 1] + share * (units[k] - units[k - 1])
        field = torch.where(above >= 0, units[k], torch.where(below >= 0, between, field))
    return field
