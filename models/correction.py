"""Corrections: a paper's encoder and decoder learn what a base forecast leaves to be known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.convlstm_hourglass import ConvLSTMHourglass, HourglassConfig
from models.crn import CRN, CRNConfig
from models.e3d.network import E3DLSTM, E3DLSTMConfig
from models.forecaster import FREE, Feedback, Forecast, Forecaster, masked_mean, pad_to_multiple
from models.mim import MIM, MIMConfig
from models.normalisation import HIGH_DBZ, LOW_DBZ
from models.phydnet import PhyDNet, PhyDNetConfig
from models.predrnnpp import PredRNNPP, PredRNNPPConfig
from models.scs.network import SCS, SCSConfig
from models.stmoe.network import STMoE, STMoEConfig

#: Configurations of the networks that can correct.
CoreConfig = (
    SCSConfig
    | STMoEConfig
    | E3DLSTMConfig
    | CRNConfig
    | ConvLSTMConfig
    | HourglassConfig
    | PredRNNPPConfig
    | MIMConfig
    | PhyDNetConfig
)

CORES: dict[type[Any], type[Forecaster]] = {
    SCSConfig: SCS,
    STMoEConfig: STMoE,
    E3DLSTMConfig: E3DLSTM,
    CRNConfig: CRN,
    ConvLSTMConfig: ConvLSTM,
    HourglassConfig: ConvLSTMHourglass,
    PredRNNPPConfig: PredRNNPP,
    MIMConfig: MIM,
    PhyDNetConfig: PhyDNet,
}

#: Power of Z whose mean stands for a square of cells.
EXPONENT = 0.3

#: That power of no echo.
LEAST_POWER = 10 ** (LOW_DBZ * EXPONENT / 10)

#: Width [dBZ] over which a field is seen to be above or below a threshold, and over which a base is.
SEEN_DBZ, SOFT_DBZ = 8.0, 3.0

#: How many :data:`SOFT_DBZ` above or below a threshold count in full.
SOFT_LIMIT = 5.0

#: Lead times [min] at which it is chosen how far what was learnt is trusted, linear in between.
KNOT_MINUTES = (0.0, 15.0, 30.0, 60.0)

#: How often reflectivity exceeded a threshold that a base is so many dB above: logits by lead time [min],
#: pooled over thresholds from 15 to 40 dBZ and the events that shipped weights learnt from.
ODDS_DB = (
    -45.0, -30.0, -20.0, -14.0, -10.0, -7.0, -4.5, -2.5, -1.0,
    0.0, 1.0, 2.5, 4.5, 7.0, 10.0, 14.0, 20.0, 30.0,
)  # fmt: skip
ODDS = {
    10.0: (-8.89, -6.58, -5.37, -5.04, -4.23, -3.4, -2.46, -1.67, -0.9,
           -0.31, 0.36, 1.13, 1.97, 2.87, 3.81, 4.77, 5.88, 7.56),
    20.0: (-6.92, -5.24, -4.4, -4.1, -3.34, -2.66, -1.87, -1.29, -0.76,
           -0.34, 0.08, 0.58, 1.2, 1.89, 2.58, 3.24, 4.17, 6.21),
    30.0: (-6.03, -4.5, -3.9, -3.6, -2.95, -2.36, -1.66, -1.17, -0.76,
           -0.41, -0.1, 0.31, 0.82, 1.42, 2.02, 2.54, 3.14, 4.16),
    40.0: (-5.47, -4.1, -3.6, -3.35, -2.75, -2.17, -1.56, -1.14, -0.75,
           -0.47, -0.23, 0.15, 0.59, 1.09, 1.62, 2.06, 2.43, 3.47),
    50.0: (-5.16, -3.8, -3.35, -3.1, -2.61, -2.1, -1.53, -1.12, -0.79,
           -0.56, -0.31, 0.03, 0.4, 0.85, 1.28, 1.69, 2.07, 2.94),
    60.0: (-5.13, -3.7, -3.2, -2.95, -2.48, -1.98, -1.47, -1.08, -0.82,
           -0.6, -0.36, -0.07, 0.25, 0.68, 1.07, 1.4, 1.68, 2.25),
}  # fmt: skip

#: Largest slope by which the odds of a base may be sharpened or blurred.
LARGEST_SHARPENING = 1.0

#: Step [min], cell [km], time [min] and speed [km/h] that networks are told in units of.
STEP_UNIT_MINUTES, TIME_UNIT_MINUTES, SPEED_UNIT_KMH = 5.0, 60.0, 50.0

#: Sides [squares] of the surroundings of a square whose mean is seen, too.
SURROUNDINGS = (3, 7, 15)

#: What the embedding sees of a time: mean and largest value of squares and of what stands there in place, and
#: means of surroundings, all relative to the threshold; share observed; motion (2); step, square and time.
SEEN_CHANNELS = 10 + len(SURROUNDINGS)

#: Thresholds [dBZ] drawn in training.
LOWEST_DRAWN_DBZ, HIGHEST_DRAWN_DBZ = 10.0, 45.0

#: Thresholds [dBZ] at least this strong are drawn, however weak the rain.
ALWAYS_DRAWN_DBZ = 25.0


@dataclass(frozen=True)
class CorrectionConfig:
    """What corrects, and how it sees.

    Attributes:
        core: The network whose encoder and decoder correct, of ``channels`` channels a frame.
        channels: Channels of what the core sees and says.
        frames: Frames it looks back on.
        square_km: Side of the squares it works on, as nearly as whole cells give it.
        most_cells: Most cells along the side of a square.
        stride: Side of the core's cells, in squares: growth and decay are of larger scale than what tells of
            them.
        slot_minutes: Time between the leads it is run for; a grid's own leads nearest to them are taken.
        slots: Number of those leads.
        nodes_dbz: Thresholds it is run for, ascending; in between it is interpolated.
        leads_a_step: Lead times that one step of the training looks at, drawn anew each time.

    Raises:
        ValueError: If sizes do not go together.
    """

    core: CoreConfig
    channels: int = 16
    frames: int = 4
    square_km: float = 4.0
    most_cells: int = 4
    stride: int = 2
    slot_minutes: float = 10.0
    slots: int = 6
    nodes_dbz: tuple[float, ...] = (20.0, 30.0, 40.0)
    leads_a_step: int = 3

    def __post_init__(self) -> None:
        """Refuse sizes that do not go together."""
        if self.core.frame_channels != self.channels:
            raise ValueError(
                f"expected a core of {self.channels} channels a frame, got {self.core.frame_channels}"
            )
        sizes = (self.channels, self.frames, self.most_cells, self.stride, self.slots, self.leads_a_step)
        if min(sizes) < 1 or min(self.square_km, self.slot_minutes) <= 0:
            raise ValueError(f"expected positive sizes, got {self}")
        if not self.nodes_dbz or list(self.nodes_dbz) != sorted(set(self.nodes_dbz)):
            raise ValueError(f"expected thresholds that ascend, got {self.nodes_dbz}")

    def square_cells(self, cell_km: float) -> int:
        """Return the side [cells] of the squares on a grid of cells of so many km."""
        return min(max(round(self.square_km / cell_km), 1), self.most_cells)


class Squares(NamedTuple):
    """What a network sees of squares of cells, whatever the threshold.

    Attributes:
        past: Frames ``(b, t, 3, y, x)``: mean and largest reflectivity [dBZ], share observed.
        base: The base at each lead ``(b, lead, 3, y, x)``, likewise.
        in_place: The newest frame in place, as the moving air meets it at each lead, likewise.
        motion: Southward and eastward ``(b, 2, y, x)`` [:data:`SPEED_UNIT_KMH`].
        told: Logarithms of step and square ``(b, 2)``, in units of the usual ones.
        minutes: The leads ``(b, lead)`` [min].
        step_minutes: Time between frames ``(b,)``.
    """

    past: Tensor
    base: Tensor
    in_place: Tensor
    motion: Tensor
    told: Tensor
    minutes: Tensor
    step_minutes: Tensor


class Choices(NamedTuple):
    """What one step of the training looks at; its random part, so that a device need not be waited for.

    Attributes:
        side: Side of the squares [cells].
        threshold_dbz: The threshold of each sequence ``(b,)``.
        slots: The leads looked at, ascending ``(lead,)``.
        rows: The rows looked at, evenly spaced; as many as there are for every first row.
        columns: The columns likewise.
    """

    side: int
    threshold_dbz: Tensor
    slots: Tensor
    rows: Tensor
    columns: Tensor


class Correction(Forecaster):
    r"""Corrects the odds, by a base forecast, that reflectivity exceeds a threshold.

    With :math:`B_l` the base at lead l, :math:`\theta` a threshold, :math:`T_l(u)` the logit of how often
    what the base has u above one exceeded it (:data:`ODDS`) and :math:`g(u) = u' / (1 + |u'| / 5)`,
    :math:`u' = u / 3\,\mathrm{dBZ}`,

    .. math::
        \mathrm{logit}\, P(Z_l \ge \theta) = T_l(B_l - \theta) + s_l + r_l\, g(B_l - \theta)

    where the shift s and the sharpening r are maps that the core makes: its encoder takes in the newest
    frames, its decoder is shown the base of each lead and says something of it, and a head reads s and r from
    both. All is seen from the moving air, in squares of about 4 km, finer scales being gone anyway within the
    time; and relative to the threshold, :math:`\tanh((Z - \theta) / 8\,\mathrm{dBZ})`: so what is learnt of
    one threshold, season or radar holds for others. The head starts at zero: an untrained network *is* the
    base.

    The field that follows, :meth:`field`, exceeds every threshold on as many cells as the base does; they are
    those whose odds have risen most.

    Convention: the cores of the papers continue frames of reflectivity; here a frame has the channels of an
    embedding, and the decoder is fed with the base of each lead in place of its own last forecast, so that it
    is never exposed to its own errors. Its first output, for which it has seen no base yet, is not used. T is
    counted, not learnt: else most of what a network learns is how sure the base is, which moves no rain.

    References:
        The cores' papers, see their modules. Probability matching: Ebert (2001),
        doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2.

    Attributes:
        trust: Factor of what was learnt, by knot of lead time and node of threshold ``(knot, node)``; set by
            what scored best on events that nothing was learnt from, 1 until then.
        odds: T at the lead times of :data:`ODDS` and :data:`ODDS_DB`.
    """

    context = (
        "guess",
        "known",
        "in_place",
        "in_place_known",
        "motion",
        "observed",
        "step_minutes",
        "cell_km",
        "minutes",
    )
    trust: Tensor
    odds: Tensor

    def __init__(self, config: CorrectionConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = config.frames
        channels = config.channels
        self.embed = nn.Sequential(
            nn.Conv2d(SEEN_CHANNELS, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 1)
        )
        self.shrink = nn.Conv2d(channels, channels, config.stride, config.stride)
        self.core = CORES[type(config.core)](config.core)
        last = nn.Conv2d(channels, 2, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.head = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            last,
        )
        self.register_buffer("odds", torch.tensor(list(ODDS.values())))
        self.register_buffer("trust", torch.ones(len(KNOT_MINUTES), len(config.nodes_dbz)))

    def crop_cells(self, usual: int, cell_km: float) -> int:
        """Return the side [cells] of a square with as many squares as one of ``usual`` cells of 1 km has."""
        return usual // self.config.square_cells(1.0) * self.config.square_cells(cell_km)

    def squares(
        self,
        x: Tensor,
        guess: Tensor,
        in_place: Tensor,
        *,
        observed: Tensor,
        known: Tensor,
        in_place_known: Tensor,
        motion: Tensor,
        step_minutes: Tensor,
        cell_km: Tensor,
        minutes: Tensor,
        side: int,
    ) -> Squares:
        """Return what is seen of frames and bases, all in the moving air, of grids of one side of squares.

        Args:
            x: Frames ``(b, t, 1, y, x)`` in [0, 1].
            guess: Base of each lead ``(b, lead, 1, y, x)``.
            in_place: Newest frame in place, as met by the air at each lead, likewise.
            observed: Where ``x`` was observed; boolean, of its shape.
            known: Where the base is known.
            in_place_known: Where the newest frame in place is known.
            motion: Southward and eastward ``(b, 2, 1, y, x)`` [km/h].
            step_minutes: Time between frames ``(b,)``.
            cell_km: Width of the cells ``(b,)``.
            minutes: The leads ``(b, lead)``.
            side: Side of the squares [cells].
        """
        newest = x[:, -self.config.frames :], observed[:, -self.config.frames :]
        sizes = side * cell_km / self.config.square_km
        logarithms = torch.stack([step_minutes / STEP_UNIT_MINUTES, sizes], dim=1).log2()
        return Squares(
            pooled(*newest, side),
            pooled(guess, known, side),
            pooled(in_place, in_place_known, side),
            self.moving(motion[:, :, 0], side),
            logarithms,
            minutes,
            step_minutes,
        )

    @staticmethod
    def moving(motion: Tensor, side: int) -> Tensor:
        """Return the motion ``(b, 2, y, x)`` [km/h] of squares, in the unit it is told in."""
        return functional.avg_pool2d(pad_to_multiple(motion, side), side) / SPEED_UNIT_KMH

    def maps(self, seen: Squares, threshold_dbz: Tensor) -> Tensor:
        """Return shift and sharpening ``(b, lead, 2, y, x)`` of squares, for a threshold ``(b,)`` [dBZ]."""
        times = seen.past.shape[1]
        back = torch.arange(1 - times, 1, device=seen.minutes.device) * seen.step_minutes[:, None]
        when = torch.cat([back, seen.minutes], dim=1) / TIME_UNIT_MINUTES
        fields = torch.cat([seen.past, seen.base], dim=1)
        stay = torch.cat([seen.past, seen.in_place], dim=1)[:, :, :2]
        values = torch.cat([fields[:, :, :2], stay, surroundings(fields)], dim=2)
        relative = values - threshold_dbz[:, None, None, None, None]
        planes = torch.cat([seen.told[:, None].expand(-1, when.shape[1], -1), when[..., None]], dim=2)
        shape = (*fields.shape[:2], -1, *fields.shape[-2:])
        channels = [
            torch.tanh(relative / SEEN_DBZ),
            fields[:, :, 2:],
            seen.motion[:, None].expand(shape),
            planes[..., None, None].expand(shape),
        ]
        embedded = self.embed(torch.cat(channels, dim=2).flatten(0, 1))
        shrunk = self.shrink(pad_to_multiple(embedded, self.config.stride))
        latents = pad_to_multiple(shrunk, self.core.stride)
        latents = latents.view(*fields.shape[:2], *latents.shape[1:])
        past, base = latents[:, :times], latents[:, times:]
        said = self.core.roll_out(past, base.shape[1] + 1, Feedback(base))["pred"][:, 1:]
        said = enlarged(said.flatten(0, 1), self.config.stride)[..., : shape[-2], : shape[-1]]
        shown = embedded.view(*fields.shape[:2], *embedded.shape[1:])[:, times:].flatten(0, 1)
        body, last = self.head[:-1], self.head[-1]
        features = body(torch.cat([said, shown], dim=1))
        halved = features.dtype != torch.float32  # but what is added to odds is exact
        with torch.autocast(features.device.type, enabled=False) if halved else nullcontext():
            maps: Tensor = last(features.float())
        return maps.view(*base.shape[:2], *maps.shape[1:])

    def odds_at(self, minutes: Tensor) -> Tensor:
        """Return T ``(..., k)`` at lead times ``(...)`` [min]; beyond the first and last as there."""
        first, *_, last = ODDS
        place = (minutes.clamp(first, last) - first) / (last - first) * (len(ODDS) - 1)
        before = place.floor().clamp(max=len(ODDS) - 2)
        share = (place - before)[..., None]
        return torch.lerp(self.odds[before.long()], self.odds[before.long() + 1], share)

    def trusted(self, minutes: Tensor, node: int) -> Tensor:
        """Return the factor of the maps of a node at lead times [min], of their shape."""
        return _between(self.trust[:, node], minutes)

    def forward(
        self,
        x: Tensor,
        horizon: int,
        teacher: Tensor | None = None,
        teacher_mask: Tensor | None = None,
        *,
        explain: bool = False,
        guess: Tensor | None = None,
        **told: Tensor,
    ) -> Forecast:
        """Return the corrected fields ``(b, horizon, 1, y, x)`` in the moving air.

        Args:
            x: Frames ``(b, t, 1, y, x)`` in [0, 1].
            horizon: Number of leads, the first of those that there are bases of.
            teacher: Has no effect, as the base is fed back.
            teacher_mask: Has no effect.
            explain: Has no effect.
            guess: Base of each lead ``(b, lead, 1, y, x)``; the newest frame if left out.
            **told: What else :meth:`squares` takes; what is left out is taken for granted.
        """
        self._check(x, horizon, teacher, teacher_mask)
        base, context = self._context_of(x, horizon, guess, told)
        side = self.config.square_cells(float(context["cell_km"][0]))
        seen = self.squares(x, base, **context, side=side)
        size = (side * seen.base.shape[-2], side * seen.base.shape[-1])
        levels = []
        for node, threshold in enumerate(self.config.nodes_dbz):
            maps = self.maps(seen, x.new_full((len(x),), threshold))
            maps = maps * self.trusted(seen.minutes, node)[..., None, None, None]
            fine = enlarged(maps.flatten(0, 1), side)
            levels.append(fine.view(*maps.shape[:2], 2, *size)[..., : x.shape[-2], : x.shape[-1]])
        dbz, said = to_dbz(base[:, :, 0]), torch.stack(levels, dim=2)  # (b, lead, node, 2, y, x)
        odds, nodes = self.odds_at(seen.minutes), self.config.nodes_dbz
        raised = torch.stack(
            [
                torch.stack([raised_field(*of_lead, nodes) for of_lead in zip(*of_sample, strict=True)])
                for of_sample in zip(dbz, said, odds, strict=True)
            ]
        )
        pred = _in_order_of(raised, base[:, :, 0], context["known"][:, :, 0])
        return {"pred": pred[:, :, None], "aux": {}}

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
        choices: Choices | None = None,
        **told: Tensor,
    ) -> dict[str, Tensor]:
        """Return the cross-entropy of exceeding a threshold, drawn for each sequence, at a few leads.

        What counts is observed at issue time and lead, and covered by the base. Sequences with little rain
        above their threshold weigh as the root of its share.

        Args:
            x: Frames ``(b, t, 1, y, x)`` in [0, 1].
            target: Frames that followed ``(b, lead, 1, y, x)``.
            valid: Boolean, of the target's shape: where it is observed. Everywhere if left out.
            progress: Has no effect.
            generator: Source of all random decisions.
            guess: Base of each lead ``(b, lead, 1, y, x)``; the newest frame if left out.
            choices: Those decisions, in place of a generator: then nothing waits for the device.
            **told: What else :meth:`squares` takes; what is left out is taken for granted.
        """
        base, context = self._context_of(x, target.shape[1], guess, told)
        counted = context["known"] & context["observed"][:, -1:]
        counted = counted if valid is None else counted & valid
        if choices is None:
            choices = self._drawn(x, counted, float(context["cell_km"][0]), generator)
        side, threshold, slots, rows, columns = choices
        seen = self.squares(x, base, **context, side=side)
        maps = self.maps(seen, threshold)
        base, target, counted = (
            each[:, :, 0].index_select(1, slots).index_select(2, rows).index_select(3, columns)
            for each in (base, target, counted)
        )
        fine = maps.index_select(1, slots).flatten(0, 1)
        fine = enlarged(fine, side // self.looked_at(side))
        fine = fine.view(*base.shape[:2], *fine.shape[1:])[..., : base.shape[2], : base.shape[3]]
        shift, sharpening = fine.unbind(2)
        level = threshold[:, None, None, None]
        above = to_dbz(base) - level
        odds = self.odds_at(seen.minutes.index_select(1, slots))
        logits = logits_above(above, odds) + said(above, shift, sharpening)
        reached = (to_dbz(target) >= level).to(logits)
        loss = functional.binary_cross_entropy_with_logits(logits, reached, reduction="none")
        share = ((to_dbz(base) >= level) & counted).float().mean((1, 2, 3), keepdim=True)
        weight = 0.1 / (share + 0.002).sqrt()
        return {
            "loss": masked_mean(loss * weight, counted),
            "cross_entropy": masked_mean(loss.detach(), counted),
        }

    def drawn_threshold(self, x: Tensor, share: Tensor) -> Tensor:
        """Return thresholds ``(b,)`` [dBZ], hardly above the strongest echo, from shares in [0, 1]."""
        strongest = to_dbz(x[:, -1]).flatten(1).amax(1)
        highest = strongest.clamp(ALWAYS_DRAWN_DBZ, HIGHEST_DRAWN_DBZ)
        return LOWEST_DRAWN_DBZ + share * (highest - LOWEST_DRAWN_DBZ)

    @staticmethod
    def looked_at(side: int) -> int:
        """Return the distance [cells] of the cells that the training looks at in squares of a side.

        It is one cell of each square of two: its neighbours tell little more, and take as long.
        """
        return 2 if side % 2 == 0 else side

    def _drawn(
        self, x: Tensor, counted: Tensor, cell_km: float, generator: torch.Generator | None
    ) -> Choices:
        """Return what a step looks at, among the leads at which anything counts."""
        threshold = self.drawn_threshold(x, torch.rand(len(x), generator=generator).to(x))
        slots = counted.transpose(0, 1).flatten(1).any(1).nonzero().flatten()
        slots = slots if len(slots) else slots.new_zeros(1)  # a loss of 0 is still a loss
        order = torch.randperm(len(slots), generator=generator)[: self.config.leads_a_step]
        slots = slots[order.to(slots.device)].sort().values
        side = self.config.square_cells(cell_km)
        every = self.looked_at(side)
        first = torch.randint(every, (2,), generator=generator).tolist()
        rows, columns = (
            torch.arange(start, cells, every, device=x.device)
            for start, cells in zip(first, x.shape[-2:], strict=True)
        )
        return Choices(side, threshold, slots, rows, columns)

    def _context_of(
        self, x: Tensor, horizon: int, guess: Tensor | None, told: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the base of each lead and what else there is to know, with defaults for what is not told."""
        batch, rows, columns = len(x), *x.shape[-2:]
        base = x[:, -1:].expand(-1, horizon, -1, -1, -1) if guess is None else guess[:, :horizon]
        everywhere = torch.ones_like(base, dtype=torch.bool)
        slots = self.config.slot_minutes * torch.arange(1, horizon + 1, device=x.device)
        taken = {
            "in_place": base,
            "known": everywhere,
            "in_place_known": everywhere,
            "observed": torch.ones_like(x, dtype=torch.bool),
            "motion": x.new_zeros(batch, 2, 1, rows, columns),
            "step_minutes": x.new_full((batch,), STEP_UNIT_MINUTES),
            "cell_km": x.new_ones(batch),
            "minutes": slots.to(x).expand(batch, -1),
        } | told
        for name in ("in_place", "known", "in_place_known", "minutes"):
            taken[name] = taken[name][:, :horizon]
        return base, taken


def enlarged(maps: Tensor, times: int) -> Tensor:
    """Return maps ``(b, c, y, x)`` on a grid ``times`` as fine, bilinear."""
    if times == 1:
        return maps
    return functional.interpolate(maps, scale_factor=times, mode="bilinear", align_corners=False)


def to_dbz(unit: Tensor) -> Tensor:
    """Return reflectivity [dBZ] from the networks' scale [0, 1]."""
    return unit * (HIGH_DBZ - LOW_DBZ) + LOW_DBZ


def soft(above: Tensor) -> Tensor:
    """Return how far a value is above a threshold, of which ever less counts: u / (1 + abs(u) / 5)."""
    return above / (1 + above.abs() / SOFT_LIMIT)


def said(above: Tensor, shift: Tensor, sharpening: Tensor) -> Tensor:
    """Return what maps add to the logit of exceeding a threshold that the base is so much above [dB]."""
    bounded = sharpening.clamp(-LARGEST_SHARPENING, LARGEST_SHARPENING)
    return shift + bounded * soft(above / SOFT_DBZ)


def logits_above(above: Tensor, odds: Tensor) -> Tensor:
    """Return T ``(..., y, x)`` of how much a base is above a threshold [dB], given T at :data:`ODDS_DB`.

    Linear between those, and beyond them, too.

    Args:
        above: ``(..., y, x)``.
        odds: ``(..., k)``.
    """
    knots = above.new_tensor(ODDS_DB)
    place = torch.bucketize(above.contiguous(), knots[1:-1])
    tables = torch.arange(odds[..., 0].numel(), device=above.device).view(*odds.shape[:-1], 1, 1)
    index, flat = place + tables * len(ODDS_DB), odds.reshape(-1)
    low, high = flat[index], flat[index + 1]
    return low + (above - knots[place]) * (high - low) / (knots[place + 1] - knots[place])


def above_of(logits: Tensor, odds: Tensor) -> Tensor:
    """Return how much a base has to be above a threshold [dB] to have logits ``(...)``, given T ``(k,)``."""
    knots = logits.new_tensor(ODDS_DB)
    place = torch.bucketize(logits.contiguous(), odds[1:-1].contiguous())
    low, high = odds[place], odds[place + 1]
    return knots[place] + (logits - low) * (knots[place + 1] - knots[place]) / (high - low)


def raised_field(dbz: Tensor, maps: Tensor, odds: Tensor, nodes_dbz: Sequence[float]) -> Tensor:
    r"""Return the field whose every value v is exceeded with the odds that a base of v has of exceeding v.

    With V(theta) the base value that has, uncorrected, the corrected odds of exceeding theta, it is the
    largest theta with V(theta) >= theta. Where nothing is corrected, V is the base, and so is the field.
    Cells without echo that are not raised by much stay as they are.

    Args:
        dbz: The base [dBZ] ``(y, x)``.
        maps: Shift and sharpening at each node ``(node, 2, y, x)``.
        odds: T at :data:`ODDS_DB` ``(k,)``.
        nodes_dbz: The nodes, ascending; between them maps are linear in the threshold, beyond them constant.
    """
    field, flat = dbz.reshape(-1).clone(), maps.flatten(2)
    cells = ((field > LOW_DBZ) | (flat[0, 0] > LEAST_RAISED)).nonzero()[:, 0]
    base, below, flat = field[cells], field[:0], flat.index_select(2, cells)
    for level in LEVELS_DBZ:
        shift, sharpening = _at_level(flat, nodes_dbz, level)
        apart = base - level
        logits = logits_above(apart[:, None], odds)[:, 0] + said(apart, shift, sharpening)
        above = above_of(logits, odds)  # V(level) - level
        value = level + above
        reached = above >= 0
        if level > LEVELS_DBZ[0]:
            above = torch.minimum(above, below)
            share = below / (below - above).clamp(min=1e-6)
            value = torch.where(reached, value, level - LEVEL_STEP_DBZ * (1 - share))
        field[cells] = value
        still = reached.nonzero()[:, 0]
        cells, below, base = cells[still], above[still], base[still]
        flat = flat.index_select(2, still)
    return field.view(dbz.shape)


#: Shift of the logit from which on a cell without echo is looked at: less hardly raises it to the lowest of
#: :data:`LEVELS_DBZ`.
LEAST_RAISED = 1.5

#: Thresholds [dBZ] at which corrected odds are compared, evenly spaced.
LEVELS_DBZ = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0)
LEVEL_STEP_DBZ = 5.0


def _at_level(maps: Tensor, nodes_dbz: Sequence[float], level: float) -> Tensor:
    """Return maps ``(..., 2, y, x)`` at a threshold, from those of the nodes ``(node, ..., 2, y, x)``."""
    if level <= nodes_dbz[0]:
        return maps[0]
    for node, (low, high) in enumerate(pairwise(nodes_dbz)):
        if level <= high:
            return torch.lerp(maps[node], maps[node + 1], (level - low) / (high - low))
    return maps[-1]


def _between(knots: Tensor, minutes: Tensor) -> Tensor:
    """Return what is given at :data:`KNOT_MINUTES` ``(knot,)``, at other times, linear in between."""
    value = knots[0].expand_as(minutes)
    for k, (early, late) in enumerate(pairwise(KNOT_MINUTES)):
        share = ((minutes - early) / (late - early)).clamp(0, 1)
        value = value + share * (knots[k + 1] - knots[k])
    return value


def pooled(fields: Tensor, known: Tensor, side: int) -> Tensor:
    """Return mean and largest value [dBZ] and share known ``(b, n, 3, y, x)`` of squares of fields."""
    dbz = torch.where(known, to_dbz(fields), LOW_DBZ)[:, :, 0]
    weight = pad_to_multiple(known[:, :, 0].to(dbz), side)
    power = torch.where(dbz > LOW_DBZ, torch.pow(10.0, dbz * (EXPONENT / 10)), 0.0)
    share = functional.avg_pool2d(weight, side)
    mean = functional.avg_pool2d(pad_to_multiple(power, side), side) / share.clamp(min=0.5 / side**2)
    largest = functional.max_pool2d(pad_to_multiple(dbz - LOW_DBZ, side), side) + LOW_DBZ
    mean_dbz = mean.clamp(min=LEAST_POWER).log10() * (10 / EXPONENT)
    return torch.stack([mean_dbz, largest, share], dim=2)


def surroundings(fields: Tensor) -> Tensor:
    """Return means [dBZ] of wider squares around each ``(b, n, k, y, x)``, as far as they are known.

    Args:
        fields: What :func:`pooled` returns ``(b, n, 3, y, x)``.
    """
    mean, _, share = fields.flatten(0, 1).unbind(1)
    weighted = torch.stack([torch.pow(10.0, mean * (EXPONENT / 10)) * share, share], dim=1)
    means = []
    for side in SURROUNDINGS:
        power, weight = functional.avg_pool2d(weighted, side, 1, side // 2).unbind(1)
        means.append((power / weight.clamp(min=1e-3)).clamp(min=LEAST_POWER).log10() * (10 / EXPONENT))
    return torch.stack(means, dim=1).view(*fields.shape[:2], -1, *fields.shape[-2:])


def _in_order_of(order: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """Return values ``(b, lead, y, x)`` where they are known, the largest where ``order`` is largest."""
    arranged = values.clone()
    for given, ranked, where in zip(
        arranged.flatten(0, 1), order.flatten(0, 1), known.flatten(0, 1), strict=True
    ):
        cells = given[where]
        cells[ranked[where].argsort()] = cells.sort().values
        given[where] = cells
    return arranged


class Maps(nn.Module):
    """A :class:`Correction` at given leads on given grids, as one network of planes of squares.

    It sees three planes of each frame, of the base at each lead and of the newest frame in place at each lead
    (mean and largest value on the scale [0, 1], share known), then motion; its ``pred`` are shift and
    sharpening of lead after lead of node after node, what is not trusted taken off.
    """

    minutes: Tensor
    told: Tensor

    def __init__(
        self, network: Correction, minutes: Sequence[float], *, step_minutes: float, square_km: float
    ) -> None:
        super().__init__()
        self.network = network
        self.stride = network.config.stride * network.core.stride
        self.frames = 3 * (network.config.frames + 2 * len(minutes)) + 2
        told = [step_minutes, step_minutes / STEP_UNIT_MINUTES, square_km / network.config.square_km]
        self.register_buffer("minutes", torch.tensor(minutes, dtype=torch.float32), persistent=False)
        self.register_buffer("told", torch.tensor(told), persistent=False)

    @property
    def planes(self) -> int:
        """Number of maps."""
        return 2 * len(self.minutes) * len(self.network.config.nodes_dbz)

    def cells(self) -> Iterator[nn.Module]:
        """Yield the core's cells."""
        yield from self.network.core.cells()

    def forward(self, x: Tensor, planes: int) -> Forecast:
        """Return ``{"pred": (b, planes, 1, y, x)}``, given ``(b, frames, 1, y, x)``.

        Raises:
            ValueError: If not all of :attr:`planes` are asked for.
        """
        if planes != self.planes:
            raise ValueError(f"expected all {self.planes} maps to be asked for, got {planes}")
        config, leads, batch = self.network.config, len(self.minutes), len(x)
        fields = x[:, :-2, 0].view(batch, -1, 3, *x.shape[-2:])
        fields = torch.cat([to_dbz(fields[:, :, :2]), fields[:, :, 2:]], dim=2)
        minutes = self.minutes.expand(batch, -1)
        past, base, in_place = torch.split(fields, [config.frames, leads, leads], dim=1)
        seen = Squares(
            past,
            base,
            in_place,
            x[:, -2:, 0],
            self.told[1:].log2().expand(batch, -1),
            minutes,
            self.told[:1].expand(batch),
        )
        maps = []
        for node, threshold in enumerate(config.nodes_dbz):
            trusted = self.network.trusted(minutes, node)[..., None, None, None]
            maps.append(trusted * self.network.maps(seen, x.new_full((batch,), threshold)))
        return {"pred": torch.stack(maps, dim=1).flatten(1, 3)[:, :, None], "aux": {}}
