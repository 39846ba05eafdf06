"""SCS: a deep recurrent network whose layers keep space and time apart, one gating the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.forecaster import Feedback, Forecast, RecurrentForecaster, masked_mse, pad_to_multiple
from models.parts.blocks import PositionNorm, to_patches, xavier
from models.parts.sampling import draw_mask, forced_share
from models.scs.gradient_switch import Coupling, Edges, LossMonitor, Shares, draw_edges, falling_share
from models.scs.long_sequences import OVERLAP, Carry, run_clips
from models.scs.optical_flow import has_echo, optical_flow
from models.scs.semi_coupled import Coder, Gates, normalised_aside

#: Cells of a frame for each cell of the layers, in either direction, behind two convolutions of stride 2.
STRIDED = 4

#: Channels inside the head of the temporal sub-goal.
TEMPORAL_WIDTH = 16

#: Cells per step that the temporal head's unit of motion stands for.
FLOW_UNIT = 8.0


@dataclass(frozen=True)
class SCSConfig:
    """Sizes and training of an SCS.

    Attributes:
        layers: Layers of the encoder, and as many of the decoder.
        channels: Channels of every layer, a multiple of ``groups`` under group normalisation.
        kernel_size: Odd width of the layers' convolutions, in cells of the layers.
        stem: How frames come to fewer rows and columns and back: ``"patch"``, squares of cells as channels
            and one convolution; ``"strided"``, to a quarter by two convolutions of stride 2 and back by two
            interpolations.
        norm: ``"group"``, or ``"batch"`` as in the paper; ``"position"``, over the channels of each position,
            or ``"none"``: the latter two know nothing of what rains elsewhere.
        groups: Groups of the group normalisation.
        affine: Whether normalisations have a scale and a shift per channel.
        residual: Whether every second layer adds its output to that of the layer two below.
        initial_gate: Gates before the first frame: 0.5 follows from the paper's zero cell, the authors' code
            has 0.
        explained_frames: Frames the stream remembers for explanations, at least one: as many as in training.
        spatial_weight: Weight of the spatial sub-goal's loss, lambda_s; with 0 it is not computed.
        temporal_weight: Weight of the temporal sub-goal's losses, lambda_t; with 0 they are not computed.
        overlap_weight: Weight of the overlap loss, lambda_o, where clips are on.
        switch: Which gradient switch training uses.
        switch_start: STSGD's first probability of cutting an edge.
        switch_until: Fraction of the training from which on nothing is cut: STSGD falls to 0 there, ASTSGD
            ends there.
        switch_coupling: How the draws for a layer's two edges depend on one another.
        switch_rescale: Whether open edges make up for the gradients lost on cut ones.
        clip_length: Steps of a clip in which the encoder learns long sequences; ``None`` for no clips.
        clip_overlap: Share of a clip that the next one sees again.
        clip_carry: What a clip starts from.
        recompute: Whether training computes activations a second time instead of keeping them.
        patch: Width of the squares of the stem, in cells; 4 for a strided one.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one,
            which then has no sub-goals and no explanations.

    Raises:
        ValueError: If settings do not go together.
    """

    layers: int = 6
    channels: int = 24
    kernel_size: int = 3
    stem: Literal["patch", "strided"] = "patch"
    norm: Literal["group", "batch", "position", "none"] = "group"
    groups: int = 8
    affine: bool = False
    residual: bool = True
    initial_gate: float = 0.5
    explained_frames: int = 5
    spatial_weight: float = 1.0
    temporal_weight: float = 1.0
    overlap_weight: float = 1.0
    switch: Literal["stsgd", "astsgd", "none"] = "stsgd"
    switch_start: float = 0.5
    switch_until: float = 0.6
    switch_coupling: Coupling = "independent"
    switch_rescale: bool = False
    clip_length: int | None = None
    clip_overlap: float = OVERLAP
    clip_carry: Carry = "end_detached"
    recompute: bool = False
    patch: int = 4
    frame_channels: int = 1

    def __post_init__(self) -> None:
        if self.switch == "astsgd" and not self.spatial_weight:
            raise ValueError("expected a spatial sub-goal for the ASTSGD switch, which lives on its loss")
        if self.switch == "stsgd" and self.switch_coupling == "complementary":
            raise ValueError("expected another coupling for the STSGD switch, which ends with no edge cut")
        if self.recompute and self.norm == "batch":
            raise ValueError("expected group normalisation: recomputing would count every batch twice")
        if self.explained_frames < 1:
            raise ValueError(f"expected at least one frame to be remembered, got {self.explained_frames}")
        if self.stem == "strided" and self.patch != STRIDED:
            raise ValueError(f"expected a patch of {STRIDED} cells for the strided stem, got {self.patch}")
        if self.frame_channels > 1 and (self.spatial_weight or self.temporal_weight):
            raise ValueError(
                f"expected spatial_weight and temporal_weight of 0 for {self.frame_channels} channels, "
                f"of which none is echo that moves, got {self.spatial_weight:g} and {self.temporal_weight:g}"
            )


class SCSState(NamedTuple):
    """State of the encoder.

    Attributes:
        gates: g_t of every layer.
        frames: Last frames seen, oldest first, of which a forecast needs one, explanations all.
    """

    gates: Gates
    frames: tuple[Tensor, ...]


class SCS(RecurrentForecaster):
    r"""Encoder and decoder of semi-coupled layers: one takes in the frames, one continues them.

    The encoder's gates are copied layer by layer into the decoder, which is shown the last frame, then what
    was forecast; its top layer gives the next frame through a head.

    Training minimises

    .. math::
        L = \mathrm{MSE}(\hat y, y) + \lambda_s L_{rs} + \lambda_t (L_{flow} + L_\Delta)
            + \lambda_o L_{overlap}

    where the spatial sub-goal :math:`r_s` forecasts, at every step of encoder and decoder, the frame after
    the true one at hand, without any memory and through the same head; and the temporal sub-goal, through a
    head of its own, gives at every step of the encoder the motion and the change from the frame before to
    the one at hand, at every step of the decoder those to the one that follows. Gradient switches cut edges
    of the main stream only, so that each layer learns its part before all learn together.

    With ``explain=True``, ``aux`` holds, each ``(b, lead, 1, y, x)`` and unclamped,

    - ``"spatial"``: the forecast from the last frame by spatial paths alone, fed with itself: no earlier
      frame has a part in it;
    - ``"temporal"``: the last frame plus the changes that temporal paths alone see coming, fed with itself;
    - ``"importance_of_time"``: temporal minus spatial.

    Without it neither is computed; in evaluation the sub-goals cost nothing.

    Convention: the paper leaves open where the sub-goals attach. As the spatial one has no memory, the
    encoder could have no part in it if only the decoder's steps counted, hence every step; both sub-goals
    are shown true frames, so no gradient of theirs passes through a forecast of the main stream. Main
    forecasts are trained under scheduled sampling; group normalisation without scale and shift replaces the
    batch's, whose statistics depend on what rained elsewhere. The head is linear: a rectified one dies.
    The top layer of the encoder hands over its gate, so its spatial path learns from the sub-goal only.

    Convention: with the ASTSGD switch the module keeps running means of its losses as buffers, which
    :meth:`training_loss` updates in training; they decide which gradients are cut next and nothing else.
    Explanations by the temporal path look back ``explained_frames`` frames, however many were seen.

    References:
        Pang et al. (2020), Complex sequential understanding through the awareness of spatial and temporal
        concepts, https://arxiv.org/abs/2006.00212, sections 5.1, 5.2 and 5.8.
    """

    def __init__(self, config: SCSConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.patch
        self.frame_channels = config.frame_channels
        self.encoder = self._coder()
        self.decoder = self._coder()
        self.head = _head(config)
        self.temporal_head = _temporal_head(config) if config.frame_channels == 1 else None
        self.monitor = LossMonitor() if config.switch == "astsgd" else None
        xavier(self)

    def _coder(self) -> Coder:
        config = self.config
        return Coder(
            Stem(config),
            config.layers,
            config.channels,
            config.kernel_size,
            residual=config.residual,
            norm=_normalisation(config),
        )

    def cells(self) -> Iterator[nn.Module]:
        """Yield every layer of encoder and decoder."""
        yield from self.encoder.cells()
        yield from self.decoder.cells()

    def start(self, frame: Tensor) -> SCSState:
        """Return gates of which nothing is known."""
        batch, _, height, width = frame.shape
        size = (batch, self.config.channels, height // self.stride, width // self.stride)
        return SCSState((frame.new_full(size, self.config.initial_gate),) * self.config.layers, ())

    def encode(self, frame: Tensor, state: SCSState) -> SCSState:
        """Return the gates after one more frame."""
        _, gates = self.encoder(self.encoder.stem(frame), state.gates, top=False)
        return SCSState(gates, (*state.frames, frame)[-self.config.explained_frames :])

    def decode(self, state: SCSState, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Return the forecast."""
        pred = self._continue(state.gates, state.frames[-1], horizon, feedback)
        if not explain or self.temporal_head is None:
            return {"pred": pred, "aux": {}}
        return {"pred": pred, "aux": self._explained(state, horizon, feedback, self.temporal_head)}

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of the main goal and the sub-goals, under scheduled sampling and the switch.

        Frames observed in ``x`` count everywhere; ``valid`` masks those of the target, for the sub-goals too.
        """
        config = self.config
        batch, horizon = target.shape[:2]
        mask = draw_mask(
            forced_share(progress), batch, horizon - 1, generator=generator, device=target.device
        )
        edges = self._draw_edges(x.shape[1] + horizon, progress, generator)
        parts = self.objective(x, target, valid=valid, mask=mask, edges=edges)
        weights = {
            "mse": 1.0,
            "spatial": config.spatial_weight,
            "flow": config.temporal_weight,
            "change": config.temporal_weight,
            "overlap": config.overlap_weight,
        }
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        curves = {name: part.detach() for name, part in parts.items()}
        if self.monitor is not None and self.training:
            self.monitor.record(curves["spatial"], curves["mse"])
        return {"loss": loss, **curves}

    def objective(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        mask: Tensor | None = None,
        edges: Sequence[Sequence[Edges]] | None = None,
    ) -> dict[str, Tensor]:
        """Return the parts of the loss, unweighted, each with its gradient; parts that are off are absent.

        Args:
            x: Observed frames ``(b, t, 1, y, x)``.
            target: Frames that followed ``(b, lead, 1, y, x)``.
            valid: Boolean, of the target's shape: where it is observed.
            mask: Boolean ``(b, lead - 1)``: where the decoder is shown the true frame; all if left out.
            edges: Gates ``[t + lead][layer]`` of the main stream's edges; all open if ``None``.
        """
        steps, horizon = x.shape[1], target.shape[1]
        known = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
        target = torch.where(known, target, 0)
        switches = [None] * (steps + horizon) if edges is None else edges
        frames = torch.cat([x, target], dim=1)
        padded = pad_to_multiple(frames, self.stride)
        features = _over_time(self.encoder.stem, padded[:, :steps])
        gates, parts = self._take_in(features, switches[:steps], self.start(padded[:, 0]).gates)
        feedback = Feedback(padded[:, steps:], mask)
        forecast = self._continue(gates, padded[:, steps - 1], horizon, feedback, switches[steps:])
        parts["mse"] = masked_mse(_cropped(forecast, x), target, known)
        if self.config.spatial_weight or self.config.temporal_weight:
            aside = _over_time(partial(self.decoder.stem, aside=True), padded[:, steps - 1 : -1])
            observed = torch.cat([torch.ones_like(x, dtype=torch.bool), known], dim=1)
        if self.config.spatial_weight:
            parts["spatial"] = self._spatial_loss(frames, observed, features, aside)
        if self.config.temporal_weight and self.temporal_head is not None:
            parts["flow"], parts["change"] = self._temporal_losses(
                frames, observed, features, aside, self.temporal_head
            )
        return parts

    def _take_in(
        self, features: Tensor, edges: Sequence[Sequence[Edges] | None], gates: Gates
    ) -> tuple[Gates, dict[str, Tensor]]:
        """Return the gates after all frames' features ``(b, t, d, y, x)``, and the overlap loss of clips."""
        config = self.config
        inputs = list(zip(_each_time(features), edges, strict=True))
        if config.clip_length is None:
            for u, edge in inputs:
                _, gates = self._run(partial(self.encoder, top=False), u, gates, edge)
            return gates, {}
        overlaps = []
        for clip in run_clips(
            lambda each, before: self._run(self.encoder, each[0], before, each[1]),
            inputs,
            gates,
            length=config.clip_length,
            overlap=config.clip_overlap,
            carry=config.clip_carry,
        ):
            gates = clip.state
            overlaps.append(clip.overlap)
        return gates, {"overlap": torch.stack(overlaps).sum()}

    def _continue(
        self,
        gates: Gates,
        frame: Tensor,
        horizon: int,
        feedback: Feedback,
        edges: Sequence[Sequence[Edges] | None] | None = None,
    ) -> Tensor:
        """Return the forecast ``(b, lead, 1, y, x)`` from the encoder's gates and the last frame."""
        frames = []
        for lead in range(1, horizon + 1):
            u, gates = self._run(
                self.decoder, self.decoder.stem(frame), gates, None if edges is None else edges[lead - 1]
            )
            forecast = self.head(u)
            frames.append(forecast)
            frame = feedback.after(lead, forecast) if lead < horizon else forecast
        return torch.stack(frames, dim=1)

    def _explained(
        self, state: SCSState, horizon: int, feedback: Feedback, temporal_head: nn.Module
    ) -> dict[str, Tensor]:
        """Return what the sub-goals' networks forecast, each fed with its own frames."""
        gates = self.start(state.frames[0]).gates
        for frame in state.frames:
            _, gates = self.encoder.temporal_goal(self.encoder.stem(frame, aside=True), gates)
        by_space = by_time = state.frames[-1]
        spatial, temporal = [], []
        for lead in range(1, horizon + 1):
            by_space = self.head(self.decoder.spatial_goal(self.decoder.stem(by_space, aside=True)))
            u, gates = self.decoder.temporal_goal(self.decoder.stem(by_time, aside=True), gates)
            by_time = by_time + temporal_head(u)[:, 2:]
            spatial.append(by_space)
            temporal.append(by_time)
            if lead < horizon:
                by_space, by_time = feedback.after(lead, by_space), feedback.after(lead, by_time)
        from_space, from_time = torch.stack(spatial, dim=1), torch.stack(temporal, dim=1)
        return {"spatial": from_space, "temporal": from_time, "importance_of_time": from_time - from_space}

    def _spatial_loss(self, frames: Tensor, observed: Tensor, seen: Tensor, ahead: Tensor) -> Tensor:
        """Return the spatial sub-goal's loss.

        All times are one batch, as nothing goes from one to another.

        Args:
            frames: The whole sequence ``(b, t + lead, 1, y, x)``.
            observed: Where it is.
            seen: The encoder's features of the first ``t`` frames.
            ahead: The decoder's features of frame ``t`` and those that follow, but the last.
        """
        steps = seen.shape[1]
        u = torch.cat(
            [
                self._run(_over_time, self.encoder.spatial_goal, seen),
                self._run(_over_time, self.decoder.spatial_goal, ahead),
            ],
            dim=1,
        )
        following, known = (
            torch.cat([whole[:, 1 : steps + 1], whole[:, steps:]], dim=1) for whole in (frames, observed)
        )
        return masked_mse(_cropped(_over_time(self.head, u), frames), following, known)

    def _temporal_losses(
        self, frames: Tensor, observed: Tensor, seen: Tensor, ahead: Tensor, temporal_head: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return the temporal sub-goal's losses of motion, where there is an echo, and change.

        Arguments as for the spatial one, and the head.
        """
        gates: Gates = (torch.full_like(seen[:, 0], self.config.initial_gate),) * self.config.layers
        tops = []
        for coder, features in ((self.encoder, seen), (self.decoder, ahead)):
            for u in _each_time(features):
                top, gates = self._run(coder.temporal_goal, u, gates)
                tops.append(top)
        told = _cropped(_over_time(temporal_head, torch.stack(tops[1:], dim=1)), frames)
        before, after = frames[:, :-1], frames[:, 1:]
        known = observed[:, :-1] & observed[:, 1:]
        with torch.no_grad():
            motion = _over_time(optical_flow, before, after) / FLOW_UNIT
        flow = masked_mse(told[:, :, :2], motion, (known & has_echo(before, after)).expand_as(motion))
        return flow, masked_mse(told[:, :, 2:], after - before, known)

    def _draw_edges(
        self, steps: int, progress: float, generator: torch.Generator | None
    ) -> list[list[Edges]] | None:
        """Return the gates of all edges for one iteration; ``None`` if all are open."""
        config = self.config
        if config.switch == "none" or progress >= config.switch_until:
            return None
        if self.monitor is not None:
            shares = self.monitor.shares()
        else:
            share = falling_share(progress, start=config.switch_start, until=config.switch_until)
            shares = Shares(share, share)
        return draw_edges(
            shares,
            steps,
            config.layers,
            coupling=config.switch_coupling,
            rescale=config.switch_rescale,
            generator=generator,
        )

    def _run(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return what a function gives, kept in training or, if so configured, to be computed again."""
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return function(*inputs)


class Stem(nn.Module):
    """What brings a frame to the rows and columns of the layers: rectified convolutions.

    Convention: normalised under batch normalisation only. A sample's own statistics would take away how
    strong its echoes are, which nothing above could find again; this way shortcuts carry it to the head.
    """

    def __init__(self, config: SCSConfig) -> None:
        super().__init__()
        self.patch = config.patch if config.stem == "patch" else None
        channels, seen = config.channels, config.frame_channels
        widths = (seen, channels // 2, channels) if self.patch is None else (seen * self.patch**2, channels)
        stride = 2 if self.patch is None else 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(below, here, 3, stride, 1) for below, here in itertools.pairwise(widths)
        )
        norm = _normalisation(config) if config.norm == "batch" else nn.Identity
        self.norms = nn.ModuleList(norm(here) for here in widths[1:])

    def forward(self, frames: Tensor, *, aside: bool = False) -> Tensor:
        """Return the features ``(b, d, y / patch, x / patch)`` of frames ``(b, 1, y, x)``.

        Args:
            frames: Frames.
            aside: Whether they are no part of the main stream, and leave running statistics alone.
        """
        u = frames if self.patch is None else to_patches(frames, self.patch)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            u = convolution(u)
            u = functional.relu(normalised_aside(norm, u) if aside else norm(u))
        return u


def _head(config: SCSConfig) -> nn.Sequential:
    """Return what makes a frame of features ``(b, d, y / patch, x / patch)``, linear at its end."""
    channels, patch = config.channels, config.patch
    if config.stem == "patch":
        return nn.Sequential(
            nn.Conv2d(channels, config.frame_channels * patch**2, 3, padding=1), nn.PixelShuffle(patch)
        )
    half, quarter = channels // 2, channels // 4
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(channels, half, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(half, quarter, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(quarter, config.frame_channels, 3, padding=1),
    )


def _temporal_head(config: SCSConfig) -> nn.Sequential:
    """Return what makes motion (u, v) and change ``(b, 3, y, x)`` of features ``(b, d, y / patch, ...)``."""
    return nn.Sequential(
        nn.Conv2d(config.channels, TEMPORAL_WIDTH, 1),
        nn.ReLU(),
        nn.Conv2d(TEMPORAL_WIDTH, TEMPORAL_WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(TEMPORAL_WIDTH, 3, 1),
        nn.Upsample(scale_factor=config.patch, mode="bilinear"),
    )


def _normalisation(config: SCSConfig) -> Callable[[int], nn.Module]:
    """Return what gives the normalisation for a number of channels."""
    if config.norm == "none":
        return nn.Identity
    if config.norm == "position":
        return PositionNorm
    if config.norm == "batch":
        return lambda channels: nn.BatchNorm2d(channels, affine=config.affine)
    return lambda channels: nn.GroupNorm(config.groups, channels, affine=config.affine)


def _over_time(function: Callable[..., Tensor], *sequences: Tensor) -> Tensor:
    """Return a function's results for all times of sequences ``(b, t, ...)``, computed as one batch."""
    result = function(*(sequence.flatten(0, 1) for sequence in sequences))
    return result.reshape(*sequences[0].shape[:2], *result.shape[1:])


def _each_time(sequence: Tensor) -> tuple[Tensor, ...]:
    """Return the parts ``(b, ...)`` of a sequence ``(b, t, ...)``, each on its own stretch of memory.

    So a compiled layer is called with one layout only.
    """
    return sequence.transpose(0, 1).contiguous().unbind(0)


def _cropped(padded: Tensor, like: Tensor) -> Tensor:
    """Return ``padded`` with only the rows and columns of ``like``."""
    height, width = like.shape[-2:]
    return padded[..., :height, :width]
