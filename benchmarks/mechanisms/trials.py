"""The experiments: each trains one variant of a network and returns what it scores."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.mechanisms.copy_test import copy_error, copy_sequence, copy_training_loss
from benchmarks.mechanisms.fitting import (
    AHEAD,
    SEEN,
    TEST_OFFSET,
    Loss,
    Size,
    fit,
    held_out_frames,
    persistence,
    physics,
    scored,
    training_frames,
)
from models.addl import ADDL, ADDLConfig
from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.crn import CRN, Coupled, CRNConfig
from models.e3d.network import E3DLSTM, E3DLSTMConfig
from models.fanet.network import FANet, FANetConfig
from models.fanet.segmentation import IGNORED, confusion_matrix, miou
from models.forecaster import Forecaster
from models.mim import MIM, MIMConfig
from models.parts.losses import HKO7, balanced_mse
from models.scs.network import SCS, SCSConfig
from models.stmoe.network import STMoE, STMoEConfig
from models.stmoe.physics import KINDS, Kind, Objects, render
from models.stmoe.training import GATES_SHARE, stages, whole_stage

#: The gates' modes by the names of variants.
GATES: dict[str, Literal["softmax", "uniform", "none"]] = {
    "pixel gates": "softmax",
    "uniform gates": "uniform",
    "no gates": "none",
}

#: Sequences of rain the mixture of experts is trained on: a small archive.
RAIN_SEQUENCES = 200

#: Share of the iterations in the experiments whose steps cost most.
COSTLY = 2 / 3

#: Frames of an event that are shown, and that are to be forecast, in the experiment on long memory.
COPY_SEEN, COPY_AHEAD = 2, 4

#: Width of the squares, in cells, that only one branch sees in the experiment on coupled branches.
SQUARE = 8

#: Rain rate [mm/h] from which rain counts as heavy in the experiment on balanced losses.
HEAVY_MM_H = 10.0

#: Standard deviation of each frame's noise in the experiment on temporal context, normalised reflectivity.
FRAME_NOISE = 0.25

#: Frames of a clip in that experiment, and how many of them at its end are trained on.
CLIP, SUPERVISED = 4, 2


def depth(variant: str, seed: int, size: Size) -> dict[str, float]:
    """Return loss and score of SCS or ConvLSTM of a number of layers: ``"SCS x 6"``."""
    name, _, layers = variant.partition(" x ")
    torch.manual_seed(seed)
    net: Forecaster
    if name == "SCS":
        net = SCS(SCSConfig(layers=int(layers), channels=24 * size.width))
    else:
        net = ConvLSTM(ConvLSTMConfig(hidden=(24 * size.width,) * int(layers)))
    return _trained(net, "all", seed, size)


def warp_or_memory(variant: str, seed: int, size: Size) -> dict[str, float]:
    """Return loss and score of ADDL or MIM on one kind of physics: ``"MIM, intensity"``."""
    name, _, kind = variant.partition(", ")
    torch.manual_seed(seed)
    net: Forecaster
    if name == "ADDL":
        net = ADDL(ADDLConfig(widths=(16, 32, 64), up=(32, 16, 8)))
    else:
        net = MIM(MIMConfig(hidden=(16 * size.width,) * 2))
    return _trained(net, "translation" if kind == "translation" else "intensity", seed, size)


def _trained(net: Forecaster, kind: Kind, seed: int, size: Size) -> dict[str, float]:
    """Return loss and score of a network trained by its own method on sequences of one kind."""
    net.to(size.device)
    sequences = physics(kind, size, seed)
    frames, held_out = training_frames(sequences, size), held_out_frames(sequences, size)

    final = fit(net.parameters(), _own_loss(net, frames), len(frames), size, seed)
    return {
        "MSE": scored(net, lambda x: net(x, AHEAD)["pred"], held_out),
        "training loss": final,
        "persistence": persistence(held_out),
    }


def _own_loss(net: Forecaster, frames: Tensor) -> Loss:
    """Return the loss a network's own paper trains it with, on sequences ``(n, t, 1, y, x)``."""

    def loss(chosen: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        batch = frames[chosen]
        return net.training_loss(batch[:, :SEEN], batch[:, SEEN:], progress=progress, generator=generator)[
            "loss"
        ]

    return loss


def balance(variant: str, seed: int, size: Size) -> dict[str, float]:
    """Return the scores of ConvLSTM trained on plain or balanced squared errors."""
    torch.manual_seed(seed)
    net = ConvLSTM(ConvLSTMConfig(hidden=(24 * size.width,) * 2)).to(size.device)
    sequences = physics("mixed", size, seed, noise=0.26)
    frames, held_out = training_frames(sequences, size), held_out_frames(sequences, size)

    def loss(chosen: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        batch = frames[chosen]
        pred, truth = net(batch[:, :SEEN], AHEAD)["pred"], batch[:, SEEN:]
        return balanced_mse(pred, truth) / 10 if variant == "balanced" else functional.mse_loss(pred, truth)

    fit(net.parameters(), loss, len(frames), size, seed)
    heavy = replace(HKO7, rates_mm_h=(HEAVY_MM_H,), weights=(1.0, 1.0)).thresholds
    net.eval()
    with torch.inference_mode():
        pred = net(held_out[:, :SEEN], AHEAD)["pred"]
    (threshold,) = heavy
    forecast, observed = pred >= threshold, held_out[:, SEEN:] >= threshold
    by_lead = (0, 2, 3, 4)
    csi = (forecast & observed).sum(by_lead) / (forecast | observed).sum(by_lead)
    return {"MSE": scored(net, lambda x: net(x, AHEAD)["pred"], held_out), "CSI": float(csi.mean())}


def mixture(variant: str, seed: int, size: Size) -> dict[str, float]:
    """Return the score of STMoE with one kind of gates, trained one way: ``"pixel gates, staged"``.

    Rain is a few sequences in which moving, turning and growing objects meet under noise.
    """
    gates, _, schedule = variant.partition(", ")
    torch.manual_seed(seed)
    net = STMoE(STMoEConfig(hidden=(16 * size.width,) * 2, gate=GATES[gates])).to(size.device)
    rain = physics("mixed", size, seed, noise=0.26)
    plan = stages(net) if schedule == "staged" else [whole_stage(net)]
    shares = {"A1": 1 / 3, "A2": 1 / 3, "B1": GATES_SHARE, "B2": 1.0}
    if schedule == "staged" and net.gating is not None:
        shares["B2"] -= GATES_SHARE  # as many steps on rain as without stages
    for stage in plan:
        sequences, count = rain, RAIN_SEQUENCES
        if stage.data != "rain":
            sequences, count = physics(stage.data, size, seed + 1, noise=0.7), size.sequences
        frames = training_frames(sequences, size, count)
        steps = max(round(shares[stage.name] * COSTLY * size.iterations), 1)
        fit(
            stage.parameters,
            _own_loss(stage.forecaster, frames),
            count,
            size,
            seed,
            iterations=steps,
            learning_rate=1e-3,
        )
    held_out = rain.batch(range(TEST_OFFSET, TEST_OFFSET + size.held_out))
    frames = held_out.frames.to(size.device)
    measures = {
        "MSE": scored(net, lambda x: net(x, AHEAD)["pred"], frames),
        "persistence": persistence(frames),
    }
    if gates == "pixel gates":
        net.eval()
        with torch.inference_mode():
            weights = net(frames[:, :SEEN], 1, explain=True)["aux"]["gates"][:, 0].cpu()
        owner = held_out.owner[:, SEEN]
        kinds = held_out.metadata.kind.gather(1, owner.clamp(min=0).flatten(1)).reshape(owner.shape)
        for number, kind in enumerate(KINDS):
            inside = (owner >= 0) & (kinds == number)
            measures[f"{kind} expert's weight on its own"] = float(weights[:, number][inside].mean())
    return measures


def copying(variant: str, seed: int, size: Size) -> dict[str, float]:
    """Return the error of E3D-LSTM ``"with recall"`` or ``"without"`` on events it has seen before.

    A whole event is shown, then the beginning of another, then the beginning of the first again.
    """
    torch.manual_seed(seed)
    tau = None if variant == "with recall" else 0
    net = E3DLSTM(E3DLSTMConfig(channels=16 * size.width, tau=tau)).to(size.device)
    sequences = physics("translation", size, seed, frames=COPY_SEEN + COPY_AHEAD)
    events, held_out = training_frames(sequences, size), held_out_frames(sequences, size)

    def loss(chosen: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        other = events[(chosen + 1) % len(events)]
        sequence = copy_sequence(events[chosen], other, COPY_SEEN)
        return copy_training_loss(net, sequence, progress=progress, generator=generator)["loss"]

    steps = max(round(COSTLY * size.iterations), 1)
    final = fit(net.parameters(), loss, len(events), size, seed, iterations=steps)
    sequence = copy_sequence(held_out, held_out.roll(1, 0), COPY_SEEN)
    return {
        "MSE": float(copy_error(net.eval(), sequence).mean()),
        "training loss": final,
        "persistence": persistence(held_out, COPY_SEEN),
    }


class HalfBlind(CRN):
    """A CRN whose first branch sees every other square of the frame, the second the change in the others."""

    def _step(self, cell: nn.Module, frame: Tensor, change: Tensor, coupled: Coupled) -> Coupled:
        seen = _chequered(frame.shape[-2], frame.shape[-1], frame.device)
        return super()._step(cell, frame * seen, change * ~seen, coupled)


def exchange(variant: str, seed: int, size: Size) -> dict[str, float]:
    """Return loss and score of ``"CRN"`` or ``"N-CRN"`` whose branches see different halves of the grid."""
    torch.manual_seed(seed)
    net = HalfBlind(CRNConfig(hidden=(24 * size.width,) * 2, cross=variant == "CRN"))
    return _trained(net, "all", seed, size)


def _chequered(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return a boolean chessboard ``(y, x)`` of squares of :data:`SQUARE` cells."""
    row, column = torch.arange(rows, device=device) // SQUARE, torch.arange(columns, device=device) // SQUARE
    return (row[:, None] + column) % 2 == 0


def context(variant: str, seed: int, size: Size) -> dict[str, float]:
    """Return the mean IoU of FANet with a history, on scenes that move: ``"N = 2, 4 cells"``.

    Every frame has independent noise; the class of a cell is the outline of the object that covers it.
    """
    history, moved = (float(number) for number in re.findall(r"\d+", variant))
    torch.manual_seed(seed)
    net = FANet(FANetConfig(classes=4, widths=(8, 16, 32, 64), history=int(history), auxiliary=False))
    net.to(size.device)
    sequences = physics("translation", size, seed, frames=CLIP)
    noise = torch.Generator().manual_seed(seed)
    scenes, labels = _scenes(sequences.batch(range(size.sequences)).metadata, moved, size)
    labels[:, :-SUPERVISED] = IGNORED  # so that every history learns from the same frames
    steps = 2 * size.iterations  # classes of noisy frames are slow to learn, and a step costs little

    def loss(chosen: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        return net.training_loss(_noisy(scenes[chosen], noise), labels[chosen])["loss"]

    final = fit(net.parameters(), loss, len(scenes), size, seed, iterations=steps)
    scenes, labels = _scenes(
        sequences.batch(range(TEST_OFFSET, TEST_OFFSET + size.held_out)).metadata, moved, size
    )
    net.eval()
    with torch.inference_mode():
        classes = net(_noisy(scenes, noise))[:, -1].argmax(1)
    return {"mIoU": float(miou(confusion_matrix(classes, labels[:, -1], 4))), "training loss": final}


def _scenes(objects: Objects, moved: float, size: Size) -> tuple[Tensor, Tensor]:
    """Return frames ``(n, t, 1, y, x)`` and classes ``(n, t, y, x)``; objects move ``moved`` cells a frame.

    They are where they should be in the last frame, which is scored, however fast they move.
    """
    motion = torch.zeros_like(objects.motion)
    velocity = objects.motion[..., 1, :]
    motion[..., 1, :] = moved * velocity / velocity.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    motion[..., 0, :] = objects.motion[..., 0, :] - (CLIP - 1) * motion[..., 1, :]
    frames, _, owner = render(objects._replace(motion=motion), CLIP, size.grid)
    shapes = objects.shape.gather(1, owner.clamp(min=0).flatten(1)).reshape(owner.shape)
    classes = torch.where(owner >= 0, shapes + 1, 0)
    return frames[:, :, None].clamp(0, 1).to(size.device), classes.to(size.device)


def _noisy(frames: Tensor, generator: torch.Generator) -> Tensor:
    return frames + FRAME_NOISE * torch.randn(frames.shape, generator=generator).to(frames.device)
