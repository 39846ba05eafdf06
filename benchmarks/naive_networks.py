"""Networks written straight from their equations: one convolution a gate and source, nothing kept or fused.

Each takes its weights from a network of :mod:`models` and computes the same forecast, so that the ratio of
their times is what the care taken there is worth, and their agreement a test of it.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.e3d.network import E3DLSTM, E3DLSTMCell
from models.e3d.volume_conv import VolumeConv
from models.mim import MIM, MemoryCell, MIMCell
from models.parts.spatiotemporal import GateConv, STLSTMCell
from models.scs.network import SCS
from models.scs.semi_coupled import Coder, SCSCell
from models.stmoe.network import MIMExpert, STMoE


def convolution(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a convolution with these weights, same-padded in space and not padded along a time axis."""
    kind = nn.Conv2d if weight.ndim == 4 else nn.Conv3d
    size = tuple(weight.shape[2:])
    padding = (0,) * (len(size) - 2) + tuple(width // 2 for width in size[-2:])
    layer = kind(weight.shape[1], weight.shape[0], size, padding=padding, bias=bias is not None)
    layer.weight.data.copy_(weight)
    if layer.bias is not None and bias is not None:
        layer.bias.data.copy_(bias)
    return layer


class Gates(nn.ModuleList):
    """Several gates of one source, each a convolution of its own."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gates: int) -> None:
        biases = [None] * gates if bias is None else bias.chunk(gates)
        super().__init__(convolution(w, b) for w, b in zip(weight.chunk(gates), biases, strict=True))

    def forward(self, source: Tensor) -> list[Tensor]:
        """Return the argument of each gate."""
        return [gate(source) for gate in self]


def gates_by_source(fused: GateConv, gates: int) -> list[Gates]:
    """Return the gates of each source of a convolution that has them all in one.

    Raises:
        ValueError: If it is normalised, which is not written out here.
    """
    if not isinstance(fused.norm, nn.Identity) or fused.biases is None:
        raise ValueError("expected a convolution with biases and without normalisation")
    weights = fused.weight.detach().split(fused.sources, dim=1)
    return [Gates(w, b, gates) for w, b in zip(weights, fused.biases.detach(), strict=True)]


class NaiveSTLSTMCell(nn.Module):
    """The spatiotemporal LSTM's step (Wang et al. 2017, section 3.1)."""

    def __init__(self, cell: STLSTMCell) -> None:
        super().__init__()
        (self.x,), (self.h,), (self.m,) = (
            gates_by_source(conv, 4) for conv in (cell.of_input, cell.of_hidden, cell.of_memory)
        )
        self.merge = deepcopy(cell.merge)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return H_t, C_t and M_t."""
        x_i, x_f, x_g, x_o = self.x(x)
        h_i, h_f, h_g, h_o = self.h(h)
        m_i, m_f, m_g, m_o = self.m(m)
        c = torch.sigmoid(x_f + h_f + 1) * c + torch.sigmoid(x_i + h_i) * torch.tanh(x_g + h_g)
        m = torch.sigmoid(x_f + m_f + 1) * m + torch.sigmoid(x_i + m_i) * torch.tanh(x_g + m_g)
        h = torch.sigmoid(x_o + h_o + m_o) * torch.tanh(self.merge(torch.cat([c, m], dim=1)))
        return h, c, m


class NaiveMemoryCell(nn.Module):
    """A memory-in-memory module's step (Wang et al. 2019, section 3.2)."""

    def __init__(self, cell: MemoryCell) -> None:
        super().__init__()
        self.x, self.h = gates_by_source(cell.gates, 4)
        self.peepholes = nn.Parameter(cell.peepholes.detach().clone())

    def forward(self, x: Tensor, h: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return H_t and S_t."""
        x_i, x_f, x_o, x_g = self.x(x)
        h_i, h_f, h_o, h_g = self.h(h)
        w_i, w_f, w_o = self.peepholes[0], self.peepholes[1], self.peepholes[2]
        i = torch.sigmoid(x_i + h_i + w_i * s)
        f = torch.sigmoid(x_f + h_f + w_f * s + 1)
        s = f * s + i * torch.tanh(x_g + h_g)
        return torch.sigmoid(x_o + h_o + w_o * s) * torch.tanh(s), s


class NaiveMIMCell(nn.Module):
    """A memory-in-memory layer's step (Wang et al. 2019, section 3.3)."""

    def __init__(self, cell: MIMCell) -> None:
        super().__init__()
        self.nonstationary = NaiveMemoryCell(cell.nonstationary)
        self.stationary = NaiveMemoryCell(cell.stationary)
        (self.x,), (self.h,), (self.m,) = (
            gates_by_source(conv, gates)
            for conv, gates in ((cell.of_input, 4), (cell.of_hidden, 3), (cell.of_memory, 4))
        )
        self.merge = deepcopy(cell.merge)

    def forward(
        self, x: Tensor, difference: Tensor | None, state: tuple[Tensor, ...], m: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return (H_t, C_t, D_t, N_t, S_t) and M_t."""
        h, c, d, n, s = state
        if difference is not None:
            d, n = self.nonstationary(difference, d, n)
        t, s = self.stationary(d, c, s)
        x_i, x_f, x_g, x_o = self.x(x)
        h_i, h_g, h_o = self.h(h)
        m_i, m_f, m_g, m_o = self.m(m)
        c = t + torch.sigmoid(x_i + h_i) * torch.tanh(x_g + h_g)
        m = torch.sigmoid(x_f + m_f + 1) * m + torch.sigmoid(x_i + m_i) * torch.tanh(x_g + m_g)
        h = torch.sigmoid(x_o + h_o + m_o) * torch.tanh(self.merge(torch.cat([c, m], dim=1)))
        return (h, c, d, n, s), m


class NaiveExpert(nn.Module):
    """A MIM that starts from zero states with every window, and what reads its top layer."""

    def __init__(self, expert: MIMExpert) -> None:
        super().__init__()
        mim: MIM = expert.mim
        if len(set(mim.config.hidden)) > 1:
            raise ValueError(f"expected layers of one width, got {mim.config.hidden}")
        self.patch, self.width = mim.config.patch, mim.config.hidden[0]
        self.bottom = NaiveSTLSTMCell(mim.bottom)
        self.upper = nn.ModuleList(NaiveMIMCell(cell) for cell in mim.upper if isinstance(cell, MIMCell))
        self.head = deepcopy(expert.head)

    def forward(self, window: Tensor) -> Tensor:
        """Return the features ``(b, c, y, x)`` after a window ``(b, t, 1, y, x)``."""
        b, _, _, y, x = window.shape
        zeros = window.new_zeros(b, self.width, y // self.patch, x // self.patch)
        h, c, m = zeros, zeros, zeros
        states = [(zeros,) * 5 for _ in self.upper]
        for t in range(window.shape[1]):
            before = h
            h, c, m = self.bottom(functional.pixel_unshuffle(window[:, t], self.patch), h, c, m)
            below, difference = h, h - before if t else None
            for k, layer in enumerate(self.upper):
                before = states[k][0]
                states[k], m = layer(below, difference, states[k], m)
                below = states[k][0]
                difference = below - before if t else None
        return functional.pixel_shuffle(self.head(below), self.patch)


class NaiveSTMoE(nn.Module):
    """The mixture of three MIM experts, one after the other (Aoyagi et al. 2021, equations 5 and 6)."""

    def __init__(self, network: STMoE) -> None:
        super().__init__()
        gating = network.gating
        if gating is None or gating.mode != "softmax" or network.carry or network.config.variant != "conv":
            raise ValueError("expected the convolutional variant with softmax gates and states from zero")
        self.frames = network.frames
        self.experts = nn.ModuleList(
            NaiveExpert(expert) for expert in network.experts if isinstance(expert, MIMExpert)
        )
        self.trunk, self.squeeze, self.excite = (
            deepcopy(part) for part in (gating.trunk, gating.squeeze, gating.excite)
        )
        self.heads = Gates(gating.head.weight.detach(), _detached(gating.head.bias), len(self.experts))
        self.decoder = deepcopy(network.decoder)

    def forward(self, x: Tensor, horizon: int) -> Tensor:
        """Return the forecast ``(b, lead, 1, y, x)``, not clamped."""
        frames = x
        for _ in range(horizon):
            window = frames[:, -self.frames :]
            features = torch.stack([expert(window) for expert in self.experts], dim=1)
            u = self.trunk(window[:, :, 0])
            scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(u.mean(dim=(2, 3))))))
            logits = torch.cat(self.heads(u * scale[:, :, None, None]), dim=1)
            weights = torch.softmax(logits, dim=1)
            frame = self.decoder((weights[:, :, None] * features).sum(dim=1))
            frames = torch.cat([frames, frame[:, None]], dim=1)
        return frames[:, x.shape[1] :]


class NaiveSCSCell(nn.Module):
    """A semi-coupled layer's step (Pang et al. 2020, equations 4 to 6)."""

    def __init__(self, cell: SCSCell) -> None:
        super().__init__()
        weight, seen = cell.temporal.weight.detach(), cell.spatial.in_channels
        self.space_u = convolution(cell.spatial.weight.detach(), _detached(cell.spatial.bias))
        self.time_u = convolution(weight[:, :seen], _detached(cell.temporal.bias))
        self.time_g = convolution(weight[:, seen:], None)
        self.space_norm, self.time_norm = deepcopy(cell.spatial_norm), deepcopy(cell.temporal_norm)

    def forward(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return u_t and c_t."""
        s = self.space_norm(self.space_u(u))
        c = self.time_norm(self.time_u(u) + self.time_g(torch.sigmoid(c)))
        return torch.relu(s) * torch.sigmoid(c), c


class NaiveCoder(nn.Module):
    """A stack of semi-coupled layers, each second one with a shortcut."""

    def __init__(self, coder: Coder) -> None:
        super().__init__()
        if not coder.residual:
            raise ValueError("expected a stack with shortcuts")
        self.stem = deepcopy(coder.stem)
        self.layers = nn.ModuleList(NaiveSCSCell(cell) for cell in coder.cells())

    def forward(self, frame: Tensor, cells: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Return u_t of the top layer and c_t of all; before the first frame c is 0."""
        u = self.stem(frame)
        cells = [torch.zeros_like(u) for _ in self.layers] if cells is None else cells
        outputs, after = [u], []
        for number, layer in enumerate(self.layers, 1):
            u, c = layer(u, cells[number - 1])
            if number % 2 == 0:
                u = u + outputs[-2]
            outputs.append(u)
            after.append(c)
        return u, after


class NaiveSCS(nn.Module):
    """Encoder and decoder of semi-coupled layers, which see the whole window again for every new frame."""

    def __init__(self, network: SCS) -> None:
        super().__init__()
        if network.config.initial_gate != 0.5:
            raise ValueError("expected gates of 1/2 before the first frame")
        self.encoder, self.decoder = NaiveCoder(network.encoder), NaiveCoder(network.decoder)
        self.head = deepcopy(network.head)

    def encode(self, window: Tensor) -> list[Tensor]:
        """Return the cells after a window ``(b, t, 1, y, x)``."""
        cells = None
        for t in range(window.shape[1]):
            _, cells = self.encoder(window[:, t], cells)
        return cells or []

    def forward(self, x: Tensor, horizon: int) -> Tensor:
        """Return the forecast ``(b, lead, 1, y, x)``, not clamped."""
        cells, frame, frames = self.encode(x), x[:, -1], []
        for _ in range(horizon):
            u, cells = self.decoder(frame, cells)
            frame = self.head(u)
            frames.append(frame)
        return torch.stack(frames, dim=1)


class NaiveE3DLSTMCell(nn.Module):
    """The eidetic 3-D LSTM's step (Wang et al. 2019, equations 1 and 2), volumes ``(b, c, t, y, x)``."""

    def __init__(self, cell: E3DLSTMCell) -> None:
        super().__init__()
        gates, readout = cell.gates, cell.readout
        if not gates.recalls:
            raise ValueError("expected a cell that recalls")
        self.x, self.h, self.m = (
            Gates(volume_weight(conv), _detached(conv.bias), count)
            for conv, count in ((gates.from_input, 7), (gates.from_hidden, 4), (gates.from_memory, 3))
        )
        self.x_norm, self.h_norm, self.m_norm = (
            deepcopy(conv.norm) for conv in (gates.from_input, gates.from_hidden, gates.from_memory)
        )
        of_c, of_m = volume_weight(readout.from_states).chunk(2, dim=1)
        self.o_c, self.o_m = convolution(of_c, None), convolution(of_m, None)
        self.merge = convolution(readout.merge.weight.detach()[:, :, None], None)
        self.norm = deepcopy(readout.norm)

    def forward(
        self, x: Tensor, h: Tensor, m: Tensor, history: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return H_t, M_t and all C up to C_t, which holds no C_0."""
        depth = x.shape[2]
        x_i, x_g, x_o, x_r, x_ii, x_gg, x_ff = separately(self.x, self.x_norm, behind(x, depth))
        h_i, h_g, h_o, h_r = separately(self.h, self.h_norm, behind(h, depth))
        m_ii, m_gg, m_ff = separately(self.m, self.m_norm, behind(m, depth))
        r = torch.sigmoid(x_r + h_r)
        c = torch.sigmoid(x_i + h_i) * torch.tanh(x_g + h_g)
        if history:
            c = c + over_channels(self.norm, history[-1] + materialised_recall(r, history))
        m = torch.sigmoid(x_ii + m_ii) * torch.tanh(x_gg + m_gg) + torch.sigmoid(x_ff + m_ff + 1) * m
        o = torch.sigmoid(x_o + h_o + self.o_c(behind(c, depth)) + self.o_m(behind(m, depth)))
        return o * torch.tanh(self.merge(torch.cat([c, m], dim=1))), m, [*history, c]


class NaiveE3DLSTM(nn.Module):
    """Layers of eidetic cells, stepped one after the other, whose memories are all kept as a list."""

    def __init__(self, network: E3DLSTM) -> None:
        super().__init__()
        config = network.config
        if config.encoder is not None:
            raise ValueError("expected a network of patches")
        self.depth, self.patch, self.channels, self.tau = (
            config.depth,
            config.patch,
            config.channels,
            config.tau,
        )
        self.cells = nn.ModuleList(NaiveE3DLSTMCell(cell) for cell in network.layers)
        head = network.decoder.layers
        self.head = convolution(
            head.weight.detach().unflatten(1, (self.depth, -1)).transpose(1, 2).squeeze(-1)[..., None],
            _detached(head.bias),
        )

    def forward(self, x: Tensor, horizon: int) -> Tensor:
        """Return the forecast ``(b, lead, 1, y, x)``, not clamped."""
        frames = [functional.pixel_unshuffle(frame, self.patch) for frame in x.unbind(1)]
        blank = torch.zeros_like(frames[0])
        b, _, height, width = blank.shape
        zeros = blank.new_zeros(b, self.channels, self.depth, height, width)
        hidden, memory = [zeros for _ in self.cells], zeros
        histories: list[list[Tensor]] = [[] for _ in self.cells]
        seen = len(frames)
        for step in range(seen + horizon - 1):
            latest = [frames[k] if k >= 0 else blank for k in range(step - self.depth + 1, step + 1)]
            below = torch.stack(latest, dim=2)
            for k, cell in enumerate(self.cells):
                hidden[k], memory, history = cell(below, hidden[k], memory, histories[k])
                histories[k] = history if self.tau is None else history[-self.tau :]
                below = hidden[k]
            if step >= seen - 1:
                frames.append(self.head(below)[:, :, 0])
        return torch.stack([functional.pixel_shuffle(frame, self.patch) for frame in frames[seen:]], dim=1)


def materialised_recall(gate: Tensor, history: list[Tensor]) -> Tensor:
    """Return RECALL ``(b, c, t, y, x)``, its matrix of scores held whole, the history joined anew."""
    memories = torch.cat(history, dim=2).flatten(2).transpose(1, 2)
    scores = gate.flatten(2).transpose(1, 2) @ memories.transpose(1, 2)
    return (torch.softmax(scores, dim=-1) @ memories).transpose(1, 2).reshape(gate.shape)


def behind(x: Tensor, depth: int) -> Tensor:
    """Return a volume ``(b, c, t, y, x)`` with slices of zeros behind, for a kernel of ``depth`` slices."""
    return functional.pad(x, (0, 0, 0, 0, 0, depth - 1))


def over_channels(norm: nn.Module, volume: Tensor) -> Tensor:
    """Return a volume ``(b, c, t, y, x)`` normalised by a module for volumes ``(b, t, c, y, x)``."""
    normalised: Tensor = norm(volume.transpose(1, 2)).transpose(1, 2)
    return normalised


def separately(gates: Gates, norm: nn.Module, source: Tensor) -> list[Tensor]:
    """Return the gates' arguments, normalised together if ``norm`` is more than the identity."""
    arguments = gates(source)
    if isinstance(norm, nn.Identity):
        return arguments
    return list(over_channels(norm, torch.cat(arguments, dim=1)).chunk(len(arguments), dim=1))


def volume_weight(conv: VolumeConv) -> Tensor:
    """Return the weights of a 3-D convolution ``(out, in, t, k, k)``."""
    return conv.weight.detach().permute(1, 2, 0, 3, 4)


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
