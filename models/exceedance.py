"""Exceedance: how probably reflectivity reaches several thresholds, at every lead, in the moving frame."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.forecaster import FREE, Feedback, Forecast, Forecaster, masked_mean, pad_to_multiple
from models.normalisation import HIGH_DBZ, LOW_DBZ

#: Share of cells that reach a threshold 10 dBZ higher: the loss is weighted by the root of its inverse.
RARITY_PER_10_DBZ = 0.25

#: Reflectivity [dBZ] by which a guess must be above a threshold to be well above it, and how many of those
#: count in full.
SOFTNESS_DBZ, SOFT_LIMIT = 3.0, 5.0

#: Logits of a cell whose guess is well above a threshold, before anything is learnt: at lead 0, the share of
#: it that stays at any lead, the minutes in which the rest fades, and the logit of one that is just there.
START_SLOPE, START_SHARE, START_MINUTES, START_MIDDLE = 1.5, 0.4, 25.0, -0.7

#: Factor of the parameters that logits are read with: they learn that much faster than the others.
READING_GAIN = 3.0

#: Factor that brings reflectivity in [0, 1] to about the size of one where it rains.
INPUT_SCALE = 4.0

#: Lead times [min] whose guess is shown to the network besides the frames.
SHOWN_MINUTES = (30.0, 60.0)

#: Step [min] and cell [km] that a network is told nothing special about.
USUAL_STEP_MINUTES, USUAL_CELL_KM = 5.0, 1.0


@dataclass(frozen=True)
class ExceedanceConfig:
    """Sizes of an :class:`Exceedance`.

    Attributes:
        frames: Frames it looks back on.
        coarseness: Side [cells] of the squares the network sees; guesses keep the full resolution.
        widths: Channels on each level, from those squares down.
        hidden: Channels the probabilities of all leads are read from.
        slots: Number of lead times it learns.
        slot_minutes: Time between them.
        thresholds_dbz: Ascending.
        leads_a_step: Lead times that one step of the training looks at, drawn anew each time.

    Raises:
        ValueError: If there are not at least two levels and two thresholds that ascend.
    """

    frames: int = 4
    coarseness: int = 4
    widths: tuple[int, ...] = (32, 48, 64)
    hidden: int = 64
    slots: int = 12
    slot_minutes: float = 5.0
    thresholds_dbz: tuple[float, ...] = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)
    leads_a_step: int = 3

    def __post_init__(self) -> None:
        """Check the sizes."""
        sizes = (self.frames, self.hidden, self.slots, self.leads_a_step, self.coarseness)
        least = min(*self.widths, *sizes, 1)
        if len(self.widths) < 2 or least < 1:
            raise ValueError(f"expected at least two levels and positive sizes, got {self}")
        steps = zip(self.thresholds_dbz, self.thresholds_dbz[1:], strict=False)
        if len(self.thresholds_dbz) < 2 or not all(low < high for low, high in steps):
            raise ValueError(f"expected thresholds that ascend, got {self.thresholds_dbz}")


class Exceedance(Forecaster):
    r"""Probabilities that reflectivity reaches thresholds, at several leads at once, from a first guess.

    A guess :math:`G_l` of each lead, such as S-PROG's, is near the best that is known without learning. What
    a U-Net sees in the last frames, and in two of the guesses, corrects it: for lead slot l and threshold k,

    .. math::
        P_{lk} = \sigma(s_{lk}\, g(G_l - Z_k) + b_{lk} + t_{lk}\, w_{lk} \cdot h), \quad
        g(u) = \frac{u'}{1 + |u'| / 5}, \; u' = u / 3\,\mathrm{dBZ},

    with h = SiLU(W F) of the features F of the decoder's upper levels, of the frames and guesses. It sees the
    mean and the largest value of squares, as what can be known of growth and decay is of that scale at best,
    and looks once for all leads. s, b and w are of each slot, for leads between two slots interpolated,
    beyond the last the last's. At the start w is next to nothing: the order of the cells is that of the
    guess. The step and the cell of the grid are told as two constant channels.

    The network is meant for frames and guesses seen from the moving air, where a cell's surroundings are what
    tells of its future.

    Convention: :meth:`forward` forecasts the slots. Its fields are those whose area above each threshold is
    that of the newest frame (:func:`matched`), so that they can be scored in training; a service may match
    other areas. Without a guess the newest frame is it.

    The loss is the cross-entropy at every threshold, rare ones raised by the root of their rarity.

    Explanations: ``probability`` ``(b, lead, threshold, y, x)``.

    Attributes:
        areas: What a service multiplies the area of the extrapolated frame with ``(slot, threshold)``.
        trust: Factor t ``(slot, threshold)`` of what was learnt. Both are set by what scored best on events
            the network had not seen, and are 1 until then.

    References:
        Ronneberger et al. (2015), U-Net, https://arxiv.org/abs/1505.04597. Agrawal et al. (2019), Machine
        Learning for Precipitation Nowcasting from Radar Images, https://arxiv.org/abs/1912.12132: nowcasting
        as classification by thresholds. Ebert (2001), doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2:
        probability matching.
    """

    context = ("guess", "step_minutes", "cell_km")
    areas: Tensor
    trust: Tensor

    def __init__(self, config: ExceedanceConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = config.frames
        self.stride = config.coarseness * 2 ** (len(config.widths) - 1)
        widths, seen = config.widths, 2 * (config.frames + len(SHOWN_MINUTES))
        entering = (seen + 2, *widths[:-1])
        self.down = nn.ModuleList(_Block(i, o) for i, o in zip(entering, widths, strict=True))
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList(_Block(below + beside, beside) for below, beside in pairs)
        self.mix = nn.Conv2d(sum(widths[:3][: len(widths) - 1]) + seen, config.hidden, 1)
        shape = (config.slots, len(config.thresholds_dbz))
        # Without arithmetic of tensors, for which torch loads its compiler on the meta device: a second.
        minutes = [config.slot_minutes * slot for slot in range(1, config.slots + 1)]
        kept = [START_SHARE + (1 - START_SHARE) * math.exp(-minute / START_MINUTES) for minute in minutes]
        slopes = [[START_SLOPE * share / READING_GAIN] * shape[1] for share in kept]
        self.slope = nn.Parameter(torch.tensor(slopes))
        self.bias = nn.Parameter(torch.full(shape, START_MIDDLE / READING_GAIN))
        self.weight = nn.Parameter(torch.randn(*shape, config.hidden).mul_(0.003))
        self.register_buffer("areas", torch.ones(shape))
        self.register_buffer("trust", torch.ones(shape))

    def logits(
        self,
        x: Tensor,
        shown: Tensor,
        guess: Tensor,
        minutes: Sequence[float],
        step_minutes: Tensor,
        cell_km: Tensor,
    ) -> Tensor:
        """Return the logits of the probabilities ``(b, lead, threshold, y, x)``.

        Args:
            x: Frames ``(b, t, y, x)`` in [0, 1], rows and columns multiples of :attr:`stride`.
            shown: Guesses at :data:`SHOWN_MINUTES`, likewise.
            guess: Guesses at the leads, likewise.
            minutes: Lead times.
            step_minutes: Time between the frames ``(b,)``.
            cell_km: Width of the cells ``(b,)``.
        """
        learnt = self._learnt_logits(x, shown, minutes, step_minutes, cell_km, self.config.coarseness)
        return self.guessed_logits(guess, minutes) + learnt

    def guessed_logits(self, guess: Tensor, minutes: Sequence[float]) -> Tensor:
        """Return the logits ``(b, lead, k, y, x)`` that follow from guesses ``(b, lead, y, x)`` alone."""
        slope, bias, _, _ = self._at(minutes)
        above = guess[:, :, None] - guess.new_tensor(self.units)[:, None, None]
        above = above * ((HIGH_DBZ - LOW_DBZ) / SOFTNESS_DBZ)
        above = above / (1 + above.abs() / SOFT_LIMIT)
        return above * slope[..., None, None] + bias[..., None, None]

    def forward(
        self,
        x: Tensor,
        horizon: int,
        teacher: Tensor | None = None,
        teacher_mask: Tensor | None = None,
        *,
        explain: bool = False,
        guess: Tensor | None = None,
        step_minutes: Tensor | None = None,
        cell_km: Tensor | None = None,
    ) -> Forecast:
        """Return the forecast of the first ``horizon`` slots; see :meth:`Forecaster.forward`.

        ``aux`` has the ``probability`` ``(b, lead, threshold, y, x)`` of reaching each threshold.

        Args:
            x: Frames ``(b, t, 1, y, x)``.
            horizon: Number of leads, a slot apart.
            teacher: Has no effect, as nothing is fed back.
            teacher_mask: Has no effect.
            explain: Has no effect: probabilities are always there.
            guess: Guess of each slot ``(b, slot, 1, y, x)``; the newest frame if left out.
            step_minutes: Time between the frames ``(b,)``; that of the slots if left out.
            cell_km: Width of the cells ``(b,)``; 1 km if left out.
        """
        self._check(x, horizon, teacher, teacher_mask)
        inputs = self._of_slots(x, range(horizon), guess, step_minutes, cell_km)
        probability = nested(self.logits(*inputs).sigmoid())[..., : x.shape[-2], : x.shape[-1]]
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
        guess: Tensor | None = None,
        step_minutes: Tensor | None = None,
        cell_km: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the cross-entropy at a few slots drawn from those that anything is known of."""
        valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
        known = valid.transpose(0, 1).flatten(1).any(1).nonzero().flatten()
        known = known if len(known) else known.new_zeros(1)  # a loss of 0 is still a loss
        order = torch.randperm(len(known), generator=generator)[: self.config.leads_a_step]
        slots = known[order.to(known.device)].sort().values
        inputs = self._of_slots(x, slots.tolist(), guess, step_minutes, cell_km)
        frames, shown, guess, minutes, step_minutes, cell_km = inputs
        target, counted = (pad_to_multiple(each[:, slots, 0], self.stride) for each in (target, valid))
        # One cell of each square is looked at: its neighbours tell little more, and take as long.
        every = 2 if self.config.coarseness % 2 == 0 else 1
        row, column = torch.randint(every, (2,), generator=generator).tolist()
        where = np.s_[..., row::every, column::every]
        fineness = self.config.coarseness // every
        learnt = self._learnt_logits(frames, shown, minutes, step_minutes, cell_km, fineness)
        logits = (self.guessed_logits(guess[where], minutes) + learnt).float()
        reached = target[where][:, :, None] >= target.new_tensor(self.units)[:, None, None]
        loss = functional.binary_cross_entropy_with_logits(logits, reached.to(logits), reduction="none")
        weighted, counted = (loss * self._loss_weights(loss)[:, None, None]).mean(2), counted[where]
        return {
            "loss": masked_mean(weighted, counted),
            "cross_entropy": masked_mean(loss.detach().mean(2), counted),
        }

    @property
    def units(self) -> tuple[float, ...]:
        """The thresholds on the networks' scale."""
        return tuple((dbz - LOW_DBZ) / (HIGH_DBZ - LOW_DBZ) for dbz in self.config.thresholds_dbz)

    def _of_slots(
        self,
        x: Tensor,
        slots: Sequence[int],
        guess: Tensor | None,
        step_minutes: Tensor | None,
        cell_km: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, list[float], Tensor, Tensor]:
        """Return what :meth:`logits` takes for slots, counted from 0, padded."""
        if guess is None or not guess.shape[1]:
            guess = x[:, -1:].expand(-1, self.config.slots, -1, -1, -1)
        step = x.new_full((len(x),), USUAL_STEP_MINUTES) if step_minutes is None else step_minutes
        cell = x.new_full((len(x),), USUAL_CELL_KM) if cell_km is None else cell_km
        frames, guesses = (pad_to_multiple(each[:, :, 0], self.stride) for each in (x, guess))
        last = guesses.shape[1] - 1
        shown = [min(round(minutes / self.config.slot_minutes) - 1, last) for minutes in SHOWN_MINUTES]
        asked = [min(slot, last) for slot in slots]
        minutes = [self.config.slot_minutes * (slot + 1) for slot in slots]
        return frames, guesses[:, shown], guesses[:, asked], minutes, step, cell

    def _learnt_logits(
        self,
        x: Tensor,
        shown: Tensor,
        minutes: Sequence[float],
        step_minutes: Tensor,
        cell_km: Tensor,
        times: int,
    ) -> Tensor:
        """Return what the network adds to logits, ``times`` as fine as what it sees; see :meth:`logits`."""
        side = self.config.coarseness
        seen = INPUT_SCALE * torch.cat([x[:, -self.config.frames :], shown], dim=1)
        seen = torch.cat([functional.avg_pool2d(seen, side), functional.max_pool2d(seen, side)], dim=1)
        hidden = functional.silu(self.mix(self._features(seen, step_minutes, cell_km)))
        _, _, weight, trust = self._at(minutes)
        weight = weight * trust[..., None]
        learnt = functional.conv2d(hidden, weight.flatten(0, 1)[..., None, None])
        learnt = _enlarged(learnt, times)
        return learnt.view(len(x), len(minutes), -1, *learnt.shape[-2:])

    def _at(self, minutes: Sequence[float]) -> tuple[Tensor, ...]:
        """Return slope, bias, weight and trust of lead times, each ``(lead, threshold, ...)``."""
        slots = [minute / self.config.slot_minutes - 1 for minute in minutes]
        slot = torch.tensor(slots, device=self.bias.device, dtype=self.bias.dtype)
        slot = slot.clamp(0, self.config.slots - 1)
        before, after = slot.floor().long(), slot.ceil().long()
        share = slot - before

        def between(table: Tensor, gain: float = READING_GAIN) -> Tensor:
            return gain * torch.lerp(table[before], table[after], share.view(-1, *[1] * (table.ndim - 1)))

        return between(self.slope), between(self.bias), between(self.weight), between(self.trust, 1.0)

    def _loss_weights(self, like: Tensor) -> Tensor:
        """Return the weights ``(threshold,)`` of the losses, 1 on average."""
        dbz = like.new_tensor(self.config.thresholds_dbz)
        weights = RARITY_PER_10_DBZ ** (-(dbz - 20).clamp(max=25) / 20)
        return weights / weights.mean()

    def _features(self, seen: Tensor, step_minutes: Tensor, cell_km: Tensor) -> Tensor:
        """Return what the network makes of the frames and guesses ``(b, c, y, x)``."""
        told = torch.stack(
            [(step_minutes / USUAL_STEP_MINUTES).log2(), (cell_km / USUAL_CELL_KM).log2()], dim=1
        )
        planes = told.to(seen)[..., None, None].expand(-1, -1, *seen.shape[-2:])
        levels, below = [], torch.cat([seen, planes], dim=1)
        for depth, block in enumerate(self.down):
            below = block(functional.avg_pool2d(below, 2) if depth else below)
            levels.append(below)
        decoded = []
        for depth, block in enumerate(self.up):
            below = block(torch.cat([_enlarged(below, 2), levels[-2 - depth]], dim=1))
            decoded.append(below)
        upper = [_enlarged(level, seen.shape[-2] // level.shape[-2]) for level in decoded[:-4:-1]]
        return torch.cat([*upper, seen], dim=1)


class Probabilities(nn.Module):
    """An :class:`Exceedance` at given leads on given grids, as one network of planes.

    It sees frames, then the guesses shown, then those of the leads, oldest first; its ``pred`` are the nested
    probabilities, threshold after threshold of lead after lead.
    """

    told: Tensor

    def __init__(
        self, network: Exceedance, minutes: Sequence[float], *, step_minutes: float, cell_km: float
    ) -> None:
        super().__init__()
        self.network, self.minutes = network, tuple(minutes)
        self.stride = network.stride
        self._parts = (network.config.frames, len(SHOWN_MINUTES), len(self.minutes))
        self.frames = sum(self._parts)
        self.register_buffer("told", torch.tensor([step_minutes, cell_km]), persistent=False)

    @property
    def planes(self) -> int:
        """Number of probabilities of a cell."""
        return len(self.minutes) * len(self.network.config.thresholds_dbz)

    def cells(self) -> Iterator[nn.Module]:
        """Yield nothing: the network is called once."""
        yield from ()

    def forward(self, x: Tensor, planes: int) -> Forecast:
        """Return ``{"pred": (b, planes, 1, y, x)}``, given ``(b, frames + shown + leads, 1, y, x)``.

        Raises:
            ValueError: If not all of :attr:`planes` are asked for.
        """
        if planes != self.planes:
            raise ValueError(f"expected all {self.planes} probabilities to be asked for, got {planes}")
        step, cell = self.told[:1].expand(len(x)), self.told[1:].expand(len(x))
        padded = pad_to_multiple(x[:, :, 0], self.stride)
        frames, shown, guess = torch.split(padded, list(self._parts), dim=1)
        logits = self.network.logits(frames, shown, guess, self.minutes, step, cell)
        logits = logits[..., : x.shape[-2], : x.shape[-1]]
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
    least = list(probability.unbind(-3))
    for k in range(1, len(least)):  # ten times as fast as cummin
        least[k] = torch.minimum(least[k], least[k - 1])
    return torch.stack(least, dim=-3)


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
    field = (ratio[..., :1, :, :] >= 0).to(ratio) * units[0]
    for k in range(1, len(units)):
        above, below = ratio[..., k : k + 1, :, :], ratio[..., k - 1 : k, :, :]
        share = (below / (below - above).clamp(min=1e-6)).clamp(0, 1 - 1e-4)
        between = units[k - 1] + share * (units[k] - units[k - 1])
        field = torch.where(above >= 0, units[k], torch.where(below >= 0, between, field))
    return field
