"""Networks as the cores of others: frames of several channels, cell by cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.convlstm import ConvLSTMConfig
from models.convlstm_hourglass import HourglassConfig
from models.crn import CRNConfig
from models.e3d.network import E3DLSTMConfig
from models.forecaster import Feedback, Forecaster, RecurrentForecaster, check_frames
from models.mim import MIMConfig
from models.phydnet import PhyDNetConfig
from models.predrnnpp import PredRNNPPConfig
from models.registry import build
from models.scs.network import SCSConfig
from models.stmoe.network import STMoEConfig
from models.unet import UNetConfig

CHANNELS = 5
BATCH, FRAMES, LEADS, ROWS, COLUMNS = 2, 4, 3, 16, 24
NO_SUB_GOALS = {"spatial_weight": 0.0, "temporal_weight": 0.0}

#: A small core of every kind, at full resolution where the network has patches.
CORES = {
    "convlstm": ConvLSTMConfig(hidden=(6, 6), patch=1, frame_channels=CHANNELS),
    "hourglass": HourglassConfig((1, 2), (4, 6), (5, 6), (3, 3), frame_channels=CHANNELS),
    "unet": UNetConfig(leads=1, widths=(4, 6), up=(4,), frame_channels=CHANNELS),
    "predrnnpp": PredRNNPPConfig(hidden=(6, 6), patch=1, frame_channels=CHANNELS),
    "mim": MIMConfig(hidden=(6, 6), patch=1, frame_channels=CHANNELS),
    "phydnet": PhyDNetConfig(derivatives=3, residual=(6,), frame_channels=CHANNELS),
    "scs": SCSConfig(layers=2, channels=8, patch=1, frame_channels=CHANNELS, **NO_SUB_GOALS),
    "scs strided": SCSConfig(layers=2, channels=8, stem="strided", frame_channels=CHANNELS, **NO_SUB_GOALS),
    "stmoe": STMoEConfig(hidden=(6, 6), patch=1, frame_channels=CHANNELS),
    "stmoe carry": STMoEConfig(hidden=(6, 6), patch=1, expert_state="carry", frame_channels=CHANNELS),
    "e3d": E3DLSTMConfig(channels=6, patch=1, frame_channels=CHANNELS),
    "e3d encoder": E3DLSTMConfig(channels=6, encoder=4, frame_channels=CHANNELS),
    "crn": CRNConfig(hidden=(6, 6), patch=1, frame_channels=CHANNELS),
}


def core(name: str) -> Forecaster:
    torch.manual_seed(4)
    net = build(CORES[name])
    assert isinstance(net, Forecaster)
    return net


def latents(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, frames, CHANNELS, ROWS, COLUMNS, generator=generator)


@pytest.mark.parametrize("name", CORES)
def test_frames_of_several_channels_are_continued_and_every_weight_learns(name):
    net = core(name).train()
    x, truth = latents(FRAMES).requires_grad_(), latents(LEADS, 1).requires_grad_()
    pred = net.roll_out(x, LEADS, Feedback(truth))["pred"]
    assert pred.shape == (BATCH, LEADS, CHANNELS, ROWS, COLUMNS)
    pred.square().mean().backward()
    assert bool((x.grad.abs().amax((0, 1, 3, 4)) > 0).all()), "every channel is seen"
    without = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Of an SCS's encoder only the gates are handed over.
    assert [key for key in without if not key.startswith("encoder.layers.1.spatial.")] == []
    if name != "hourglass":
        assert bool((truth.grad[:, 0].abs().amax((0, 2, 3)) > 0).all()), "what is fed back is seen, too"


@pytest.mark.parametrize("name", CORES)
@torch.inference_mode()
def test_every_channel_has_weights_of_its_own(name):
    net, x = core(name).eval(), latents(FRAMES)
    pred, flipped = (net.roll_out(each, 1, Feedback())["pred"] for each in (x, x.flip(2)))
    assert not torch.allclose(flipped, pred, atol=1e-6)
    assert not torch.allclose(pred[:, :, 0], pred[:, :, 1], atol=1e-6)


@pytest.mark.parametrize("name", CORES)
@torch.inference_mode()
def test_nothing_is_clamped_and_the_channels_are_checked(name):
    net, x = core(name).eval(), latents(FRAMES)
    for parameter in net.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    forecast = net(x, LEADS, explain=True)
    assert torch.allclose(forecast["pred"], net.roll_out(x, LEADS, Feedback())["pred"], atol=1e-5)
    assert forecast["pred"].min() < 0
    with pytest.raises(ValueError, match=rf"expected frames \(b, t, {CHANNELS}, y, x\) of floats, got"):
        net(x[:, :, :1], LEADS)
    if isinstance(net, RecurrentForecaster):
        stream = None
        for frame in x.unbind(1):
            stream = net.observe(frame, stream)
        assert torch.allclose(net.forecast(stream, LEADS)["pred"], forecast["pred"], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CORES if name != "hourglass"])
def test_a_core_can_learn_on_its_own(name):
    net = core(name).train()
    loss = net.training_loss(
        latents(FRAMES), latents(LEADS, 1), progress=0.5, generator=torch.Generator().manual_seed(0)
    )["loss"]
    assert torch.isfinite(loss)
    loss.backward()


def test_what_only_reflectivity_has_is_refused_for_several_channels():
    with pytest.raises(ValueError, match=r"expected spatial_weight and temporal_weight of 0 .* got 0 and 1"):
        SCSConfig(frame_channels=2, spatial_weight=0)
    with pytest.raises(ValueError, match="expected frames of one channel for the id variant, got 2"):
        STMoEConfig(variant="id", frame_channels=2)
    with pytest.raises(ValueError, match="expected one channel for classes of rain rate, got 2"):
        build(UNetConfig(frame_channels=2, rates_mm_h=(0.1, 1.0, 2.5)))
    with pytest.raises(ValueError, match="expected frames of reflectivity to weigh, got 5 channels"):
        core("hourglass").training_loss(latents(FRAMES), latents(LEADS))
    with pytest.raises(ValueError, match="expected a patch of 4 cells for the strided stem, got 2"):
        SCSConfig(stem="strided", patch=2)


def test_frames_of_another_number_of_channels_are_refused():
    check_frames(torch.zeros(1, 1, 3, 2, 2), 3)
    with pytest.raises(ValueError, match=r"expected frames \(b, t, 3, y, x\) of floats"):
        check_frames(torch.zeros(1, 1, 1, 2, 2), 3)
    with pytest.raises(ValueError, match=r"expected frames \(b, t, 1, y, x\) of floats"):
        check_frames(torch.zeros(1, 1, 3, 2, 2))


#: Cores of which no part takes statistics over the sample.
LOCAL = {
    "convlstm": ConvLSTMConfig(hidden=(6,), patch=1, frame_channels=8),
    "predrnnpp": PredRNNPPConfig(hidden=(4, 4), patch=1, frame_channels=8),
    "mim": MIMConfig(hidden=(4, 4), patch=1, frame_channels=8),
    "scs": SCSConfig(layers=2, channels=8, norm="none", patch=1, frame_channels=8, **NO_SUB_GOALS),
    "stmoe": STMoEConfig(hidden=(4,), patch=1, gate_norm=False, expert_state="carry", frame_channels=8),
    "e3d": E3DLSTMConfig(
        layers=1, channels=4, patch=1, reach=2, norm="position", gate_norm=False, frame_channels=8
    ),
    "e3d gates": E3DLSTMConfig(layers=1, channels=4, patch=1, tau=0, norm="position", frame_channels=8),
    "crn": CRNConfig(hidden=(6,), patch=1, frame_channels=8),
}

#: The same with something that does, where a network has it.
GLOBAL = {
    "predrnnpp": replace(LOCAL["predrnnpp"], norm=True),
    "mim": replace(LOCAL["mim"], norm=True),
    "scs": replace(LOCAL["scs"], norm="group"),
    "stmoe": replace(LOCAL["stmoe"], gate_norm=True),
    "e3d": replace(LOCAL["e3d"], norm="volume"),
    "e3d gates": replace(LOCAL["e3d gates"], norm="volume"),
}

#: Side of the grid, side of the corner that is looked at, and how far each network sees at most, in cells.
GRID, CORNER, SIGHT = 60, 16, 36


def continued(config: Any, x: Tensor) -> Tensor:
    """Return the two leads a network with lively weights makes of frames."""
    torch.manual_seed(6)
    net = build(config).double()
    with torch.inference_mode():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        return net.roll_out(x, 2, Feedback())["pred"]


def wide_frames(config: Any) -> Tensor:
    frames = 4 if isinstance(config, STMoEConfig) else 2
    generator = torch.Generator().manual_seed(7)
    return torch.randn(1, frames, 8, GRID, GRID, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", LOCAL)
def test_what_is_far_away_has_no_say(name):
    x = wide_frames(LOCAL[name])
    other = x.clone()
    other[..., CORNER + SIGHT :, CORNER + SIGHT :] = 5.0
    pred, changed = continued(LOCAL[name], x), continued(LOCAL[name], other)
    assert_close(changed[..., :CORNER, :CORNER], pred[..., :CORNER, :CORNER], atol=1e-12, rtol=0)
    assert not torch.allclose(changed[..., -4:, -4:], pred[..., -4:, -4:], atol=1e-3)
    if name in GLOBAL:
        pred, changed = continued(GLOBAL[name], x), continued(GLOBAL[name], other)
        far = (changed - pred)[..., :CORNER, :CORNER].abs().max()
        assert far > 1e-6, "the test would see it if statistics were taken"


@pytest.mark.parametrize("name", LOCAL)
def test_a_crop_is_forecast_as_in_the_whole(name):
    x = wide_frames(LOCAL[name])
    size = CORNER + SIGHT
    whole, crop = continued(LOCAL[name], x), continued(LOCAL[name], x[..., :size, :size])
    assert_close(crop[..., :CORNER, :CORNER], whole[..., :CORNER, :CORNER], atol=1e-5, rtol=0)
    assert not torch.allclose(crop[..., -2:, -2:], whole[..., size - 2 : size, size - 2 : size], atol=1e-5)
