"""Eidetic 3-D LSTM: states with a short time axis of their own, and a memory that recalls its whole past."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.e3d.encoders import ConvEncoder, Decoder, PatchEncoder
from models.e3d.recall import (
    MemoryWindow,
    Size,
    from_rows,
    recall,
    recall_nearby,
    recall_shares,
    shares_nearby,
    to_rows,
)
from models.e3d.volume_conv import Over, VolumeConv, VolumeNorm
from models.forecaster import Feedback, Forecast, masked_mean, masked_mse
from models.parts.blocks import FORGET_BIAS, xavier
from models.parts.spatiotemporal import BothWaysForecaster
from models.parts.stepwise import StepState


@dataclass(frozen=True)
class E3DLSTMConfig:
    """Sizes and options of an E3D-LSTM.

    Attributes:
        layers: Number of layers.
        channels: Channels of every state.
        kernel_size: Odd width of the convolutions, in patches.
        depth: Length of the states' own time axis, and of the convolutions along it; 1 is the paper's network
            without 3-D convolutions.
        patch: Width of a patch, in cells.
        encoder: Filters of the convolutional encoder and decoder for large frames, which take the place of
            patches; none if left out.
        tau: How many past memories RECALL attends to; all if ``None``. With 0 there is no RECALL.
        reach: How many patches away, in rows and in columns, RECALL attends at most; any number if ``None``.
        norm: What the normalisations of the memory and of the gates take their statistics over: the whole
            sample, or the channels of each position.
        gate_norm: Whether the convolutions of X, H and M are normalised, as in the published training. The
            paper's equations, and their 12 068 880 parameters, are without; this adds 28 for each channel of
            each layer, 26 without RECALL.
        reverse_sampling: Whether training samples the true frames in reverse.
        both_ways: Whether training also shows each sequence backwards in time.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one.
    """

    layers: int = 2
    channels: int = 24
    kernel_size: int = 3
    depth: int = 2
    patch: int = 4
    encoder: int | None = None
    tau: int | None = 4
    reach: int | None = None
    norm: Over = "volume"
    gate_norm: bool = True
    reverse_sampling: bool = False
    both_ways: bool = False
    frame_channels: int = 1


class LayerState(NamedTuple):
    """State of a layer.

    Attributes:
        hidden: H_t ``(b, t, d, y, x)``; ``None``, which stands for zeros, before the first frame.
        memories: C_1, ..., C_t as rows ``(b, n, d)``, n = t y x, oldest first; of them the last tau + 1.
        gate: R_t as rows, by which C_t was made: what explains it. ``None`` before the first frame.
    """

    hidden: Tensor | None = None
    memories: tuple[Tensor, ...] = ()
    gate: Tensor | None = None


class E3DState(NamedTuple):
    """State of the network.

    Attributes:
        layers: One state a layer, from the bottom up.
        memory: M of the top layer ``(b, t, d, y, x)``; ``None``, for zeros, before the first frame.
        carried: What the encoder keeps of the frames before.
    """

    layers: tuple[LayerState, ...]
    memory: Tensor | None
    carried: Any


class CellOutput(NamedTuple):
    """What a cell gives.

    Attributes:
        hidden: H_t ``(b, t, d, y, x)``.
        cell: C_t as rows ``(b, n, d)``.
        memory: M of this layer ``(b, t, d, y, x)``.
        gate: R_t as rows; ``None`` if the cell does not recall.
    """

    hidden: Tensor
    cell: Tensor
    memory: Tensor
    gate: Tensor | None


class E3DGates(nn.Module):
    """What a cell computes before it recalls: see :class:`E3DLSTMCell`."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        depth: int,
        *,
        recalls: bool,
        norm: Over | None,
    ) -> None:
        super().__init__()
        self.of_cell = (4 if recalls else 3) * channels
        self.of_memory = 3 * channels
        self.recalls = recalls
        self.from_input = VolumeConv(
            in_channels, self.of_cell + self.of_memory, kernel_size, depth, bias=True, norm=norm
        )
        self.from_hidden = VolumeConv(channels, self.of_cell, kernel_size, depth, norm=norm)
        self.from_memory = VolumeConv(channels, self.of_memory, kernel_size, depth, norm=norm)

    def forward(
        self, x: Tensor, hidden: Tensor | None, memory: Tensor | None
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Return R_t as rows, if the cell recalls, I G, the known part of O's argument, and the new M."""
        of_cell, of_memory = self.from_input(x).split([self.of_cell, self.of_memory], dim=2)
        of_cell = of_cell + self.from_hidden(hidden)
        i, g, output, *r = of_cell.chunk(4 if self.recalls else 3, dim=2)
        admit, new, forget = (of_memory + self.from_memory(memory)).chunk(3, dim=2)
        written = torch.sigmoid(i) * torch.tanh(g)
        after = torch.sigmoid(admit) * torch.tanh(new)
        if memory is not None:
            after = torch.addcmul(after, torch.sigmoid(forget + FORGET_BIAS), memory)
        gate = to_rows(torch.sigmoid(r[0])) if self.recalls else None
        return gate, written, output, after


class E3DReadout(nn.Module):
    """What a cell computes after it has recalled: see :class:`E3DLSTMCell`."""

    def __init__(self, channels: int, kernel_size: int, depth: int, norm: Over) -> None:
        super().__init__()
        self.norm = VolumeNorm(channels, shift=False, over=norm)
        self.from_states = VolumeConv(2 * channels, channels, kernel_size, depth)
        self.merge = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(
        self, written: Tensor, kept: Tensor | None, output: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return C_t and H_t from I G, C_{t-1} + RECALL as rows, the known part of O's argument, and M."""
        depth, *_, height, width = written.shape[1:]
        cell = written
        if kept is not None:
            cell = cell + self.norm(from_rows(kept, depth, (height, width)))
        states = torch.cat([cell, memory], dim=2)
        merged = self.merge(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return cell, torch.sigmoid(output + self.from_states(states)) * torch.tanh(merged)


class E3DLSTMCell(nn.Module):
    r"""One time step of a layer of an eidetic 3-D LSTM.

    All states are volumes of T slices. With ``*`` a 3-D convolution of T x k x k that keeps their size, and
    :math:`\circ` the pointwise product,

    .. math::
        R_t &= \sigma(W_{xr} * X_t + W_{hr} * H_{t-1} + b_r)                       &\text{(recall gate)} \\
        I_t &= \sigma(W_{xi} * X_t + W_{hi} * H_{t-1} + b_i) \\
        G_t &= \tanh(W_{xg} * X_t + W_{hg} * H_{t-1} + b_g) \\
        C_t &= I_t \circ G_t
               + \mathrm{LN}(C_{t-1} + \mathrm{RECALL}(R_t, C_{t-\tau:t-1}))       &\text{(eidetic memory)} \\
        I'_t &= \sigma(W'_{xi} * X_t + W_{mi} * M^{l-1}_t + b'_i) \\
        G'_t &= \tanh(W'_{xg} * X_t + W_{mg} * M^{l-1}_t + b'_g) \\
        F'_t &= \sigma(W'_{xf} * X_t + W_{mf} * M^{l-1}_t + b'_f + 1) \\
        M^l_t &= I'_t \circ G'_t + F'_t \circ M^{l-1}_t                           &\text{(climbing memory)} \\
        O_t &= \sigma(W_{xo} * X_t + W_{ho} * H_{t-1} + W_{co} * C_t + W_{mo} * M^l_t + b_o) \\
        H_t &= O_t \circ \tanh(W_{1 \times 1 \times 1} * [C_t, M^l_t])

    Convention: this follows the paper where its code does otherwise. That code hands on the old M, which
    stays 0 for ever, multiplies F' with a further gate instead of M, and takes a tanh of O's argument first.
    From the code come the forget bias of 1 and, with ``gate_norm``, the normalisation of the convolutions of
    X, H and M. RECALL does not see C_0 = 0, which would only dilute it, and is 0 at the first step. LN has a
    scale but no shift, and the convolution of [C, M] no bias. LN may take its statistics over the channels of
    each position (``norm``), but is never left out: C plus a mean of earlier C doubles at every step. The
    convolutions of each source are one.

    Shapes: ``b`` batch, ``t`` slices, ``c`` input channels, ``d`` channels of the states, ``n`` = t y x rows.

    Args:
        in_channels: ``c``.
        channels: ``d``.
        kernel_size: k, odd, in patches.
        depth: T.
        recalls: Whether there is RECALL; without, C_t = I G + LN(C_{t-1}).
        reach: How many patches away, in rows and in columns, RECALL attends at most; any number if ``None``.
        norm: What LN takes its statistics over.
        gate_norm: Whether the convolutions of X, H and M are normalised, over the same.

    Raises:
        ValueError: If ``reach`` is negative.

    References:
        Wang et al. (2019), Eidetic 3D LSTM: A Model for Video Prediction and Beyond, ICLR 2019, eqs. 1 and 2,
        https://openreview.net/forum?id=B1lKS2AqtX. Authors' code: ``google/e3d_lstm``.

    Example:
        >>> cell, x = E3DLSTMCell(16, 8), torch.rand(3, 2, 16, 6, 5)
        >>> hidden, c, memory, gate = cell(x)
        >>> hidden.shape, c.shape
        (torch.Size([3, 2, 8, 6, 5]), torch.Size([3, 60, 8]))
        >>> cell(x, hidden, c, memory, past=c).hidden.shape
        torch.Size([3, 2, 8, 6, 5])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 3,
        depth: int = 2,
        *,
        recalls: bool = True,
        reach: int | None = None,
        norm: Over = "volume",
        gate_norm: bool = True,
    ) -> None:
        super().__init__()
        if reach is not None and reach < 0:
            raise ValueError(f"expected a reach of at least 0 patches, got {reach}")
        self.reach = reach
        over = norm if gate_norm else None
        self.gates = E3DGates(in_channels, channels, kernel_size, depth, recalls=recalls, norm=over)
        self.readout = E3DReadout(channels, kernel_size, depth, norm)
        xavier(self)

    def forward(
        self,
        x: Tensor,
        hidden: Tensor | None = None,
        cell: Tensor | None = None,
        memory: Tensor | None = None,
        past: Tensor | None = None,
    ) -> CellOutput:
        """Return the states after a step; those before it are zeros where left out.

        Args:
            x: X_t ``(b, t, c, y, x)``.
            hidden: H_{t-1} ``(b, t, d, y, x)``.
            cell: C_{t-1}, as rows ``(b, n, d)``.
            memory: M of the layer below ``(b, t, d, y, x)``.
            past: The memories that are recalled, C_{t-1} among them, as rows ``(b, m, d)``.
        """
        gate, written, output, memory = self.gates(x, hidden, memory)
        if gate is not None and past is not None:
            recalled = self._recall(gate, past, (x.shape[1], x.shape[3], x.shape[4]))
            cell = recalled if cell is None else cell + recalled
        volume, hidden = self.readout(written, cell, output, memory)
        return CellOutput(hidden, to_rows(volume), memory, gate)

    def _recall(self, gate: Tensor, past: Tensor, size: Size) -> Tensor:
        return recall(gate, past) if self.reach is None else recall_nearby(gate, past, size, self.reach)


class E3DLSTM(BothWaysForecaster):
    r"""Layers of eidetic 3-D LSTM, through which the memory M climbs and comes back to the bottom.

    With X_t the encoding of the last frames, for a layer l of n,

    .. math::
        H^l_t, C^l_t, M^l_t &= \mathrm{E3D}(H^{l-1}_t, H^l_{t-1}, C^l_{t-\tau:t-1}, M^{l-1}_t) \\
        H^0_t &= X_t, \quad M^0_t = M^n_{t-1}, \quad \hat x_{t+1} = \mathrm{decoder}(H^n_t)

    Training takes the mean squared plus the mean absolute error of all frames but the first, those of the
    warm-up included.

    Convention: the paper sums squares and absolutes, its code halves the former; means keep their sizes from
    depending on the grid. Frames are cut into patches, as in the code.

    ``explain=True`` gives ``aux["recall"]`` ``(b, lead, layer, age)``: the share of its attention a layer
    paid, in the step that made the frame of this lead, to each of its memories, newest first (age 1 step, 2,
    ...), on average over all positions. Shares of one layer and lead add up to 1; memories there were not yet
    have 0. Ages go up to tau, or to the oldest memory there was if tau is ``None``.

    References:
        Wang et al. (2019), Eidetic 3D LSTM: A Model for Video Prediction and Beyond, ICLR 2019, sections 3
        and 4.1, https://openreview.net/forum?id=B1lKS2AqtX. Authors' code: ``google/e3d_lstm``.
    """

    def __init__(self, config: E3DLSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.patch if config.encoder is None else 4
        self.reverse_sampling = config.reverse_sampling
        self.both_ways = config.both_ways
        self.frame_channels = config.frame_channels
        self.encoder = (
            PatchEncoder(config.patch, config.depth, config.frame_channels)
            if config.encoder is None
            else ConvEncoder(config.encoder, config.depth, config.frame_channels)
        )
        widths = (self.encoder.out_channels, *(config.channels,) * (config.layers - 1))
        self.layers = nn.ModuleList(
            E3DLSTMCell(
                below,
                config.channels,
                config.kernel_size,
                config.depth,
                recalls=config.tau != 0,
                reach=config.reach,
                norm=config.norm,
                gate_norm=config.gate_norm,
            )
            for below in widths
        )
        self.decoder = Decoder(
            config.channels, config.depth, config.patch, config.encoder, config.frame_channels
        )
        xavier(self)

    def cells(self) -> Iterator[nn.Module]:
        """Yield both halves of every layer, before and after RECALL, whose memories grow in number."""
        for layer in self.layers:
            assert isinstance(layer, E3DLSTMCell)
            yield layer.gates
            yield layer.readout

    def begin(self, frame: Tensor) -> E3DState:
        """Return the state before the first frame, in which all is zero."""
        return E3DState((LayerState(),) * len(self.layers), None, self.encoder.start(frame))

    def step(self, frame: Tensor, inner: E3DState) -> tuple[Tensor, E3DState]:
        """Return the next frame ``(b, 1, y, x)`` and the state after ``frame``."""
        return self._step(frame, inner, None)

    def roll_out(self, x: Tensor, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Take in all frames, then forecast."""
        windows = self._windows(x.shape[1] + horizon - 2, explain=explain)
        if windows is None:
            return super().roll_out(x, horizon, feedback, explain=explain)
        following, inner = x[:, 0], self.begin(x[:, 0])
        for frame in x.unbind(1):
            following, inner = self._step(frame, inner, windows)
        return self._continue(StepState(inner, following), horizon, feedback, windows, explain=False)

    def decode(
        self, state: StepState, horizon: int, feedback: Feedback, *, explain: bool = False
    ) -> Forecast:
        """Return the forecast: the frame expected next, then one step for each further lead."""
        held = len(state.inner.layers[0].memories)
        windows = self._windows(held + horizon - 2, explain=explain)
        if windows is not None:
            for window, layer in zip(windows, state.inner.layers, strict=True):
                for memory in layer.memories[:-1]:
                    window.push(memory)
        return self._continue(state, horizon, feedback, windows, explain=explain)

    def frame_loss(self, forecast: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
        """Return the mean squared plus the mean absolute error of frames ``(b, t, 1, y, x)``."""
        return masked_mse(forecast, truth, valid) + masked_mean((forecast - truth).abs(), valid)

    def _step(
        self, frame: Tensor, inner: E3DState, windows: list[MemoryWindow] | None
    ) -> tuple[Tensor, E3DState]:
        """Return the next frame and the state, with the newest memories alone if windows have the others."""
        x, carried = self.encoder(frame, inner.carried)
        memory, states, tau = inner.memory, [], self.config.tau
        for index, (cell, state) in enumerate(zip(self.layers, inner.layers, strict=True)):
            newest = state.memories[-1] if state.memories else None
            if windows is None:
                seen = latest(state.memories, tau)
                past = torch.cat(seen, dim=1) if seen else None
            else:
                if newest is not None:
                    windows[index].push(newest)
                past = windows[index].rows()
            after = cell(x, state.hidden, newest, memory, past)
            older = state.memories if windows is None else ()
            memories = latest((*older, after.cell), None if tau is None else tau + 1)
            states.append(LayerState(after.hidden, memories, after.gate))
            x, memory = after.hidden, after.memory
        return self.decoder(x), E3DState(tuple(states), memory, carried)

    def _continue(
        self,
        state: StepState,
        horizon: int,
        feedback: Feedback,
        windows: list[MemoryWindow] | None,
        *,
        explain: bool,
    ) -> Forecast:
        """Return the forecast from a state, with its shares of attention if it is to be explained."""
        inner, forecast = state
        explain = explain and self.config.tau != 0
        frames, shares = [forecast], [self._shares(inner)] if explain else []
        for lead in range(1, horizon):
            forecast, inner = self._step(feedback.after(lead, forecast), inner, windows)
            frames.append(forecast)
            if explain:
                shares.append(self._shares(inner))
        aux = {}
        if explain:
            ages = self.config.tau or max(share.shape[2] for share in shares)
            padded = [functional.pad(share, (0, ages - share.shape[2])) for share in shares]
            aux["recall"] = torch.stack(padded, dim=1)
        return {"pred": torch.stack(frames, dim=1), "aux": aux}

    def _shares(self, inner: E3DState) -> Tensor:
        """Return the shares ``(b, layer, age)`` of the memories, newest first, in the step that led here."""
        return torch.stack(
            [
                self._shares_of(layer.gate, latest(layer.memories[:-1], self.config.tau)[::-1], layer.hidden)
                for layer in inner.layers
                if layer.gate is not None and layer.hidden is not None
            ],
            dim=1,
        )

    def _shares_of(self, gate: Tensor, memories: tuple[Tensor, ...], hidden: Tensor) -> Tensor:
        reach, (_, depth, _, rows, columns) = self.config.reach, hidden.shape
        if reach is None:
            return recall_shares(gate, memories)
        return shares_nearby(gate, memories, (depth, rows, columns), reach)

    def _windows(self, memories: int, *, explain: bool) -> list[MemoryWindow] | None:
        """Return windows for a roll-out in which ``memories`` are recalled, or ``None`` where none may be."""
        if explain or torch.is_grad_enabled():
            return None
        tau = self.config.tau
        return [MemoryWindow(memories if tau is None else tau, memories) for _ in self.layers]


def latest(memories: tuple[Tensor, ...], count: int | None) -> tuple[Tensor, ...]:
    """Return the last ``count`` of ``memories``, oldest first; all of them if ``None``."""
    return memories if count is None else memories[max(0, len(memories) - count) :]
