"""ConvLSTM and its hourglass: sizes, symmetry, and what reaches the forecast."""

from __future__ import annotations

import pytest
import torch

from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.forecaster import FREE
from models.registry import PRESETS, build

SMALL = ConvLSTMConfig(hidden=(6, 5), patch=2)


def parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_presets_have_the_sizes_they_are_known_by():
    assert parameters(build(PRESETS["convlstm_cpu"])) == 259_600
    deep = build(PRESETS["convlstm_scs"])
    assert len(deep.encoder) == 15
    assert parameters(deep.encoder[1:]) == 14 * 4 * 64 * (128 * 9 + 1)
    assert [cell.gates.out_channels for cell in build(PRESETS["convlstm_e3d"]).encoder] == [512] * 4


def test_the_forecast_moves_with_the_echo():
    """Whole patches of shift in, the same shift out, away from the edge."""
    torch.manual_seed(0)
    net = ConvLSTM(SMALL).eval()
    x = torch.zeros(1, 3, 1, 64, 64)
    x[..., 26:36, 24:34] = torch.rand(1, 3, 1, 10, 10)
    moved = torch.roll(x, (4, -6), dims=(-2, -1))
    here, there = net(x, 2)["pred"], net(moved, 2)["pred"]
    inner = slice(18, 46)
    torch.testing.assert_close(
        torch.roll(here, (4, -6), dims=(-2, -1))[..., inner, inner],
        there[..., inner, inner],
        atol=1e-6,
        rtol=0,
    )


def test_without_condition_the_last_frame_reaches_the_forecast_through_the_states_alone():
    torch.manual_seed(0)
    net = ConvLSTM(ConvLSTMConfig(hidden=(4,), patch=2, conditioned=False)).train()
    x, truth = torch.rand(1, 3, 1, 8, 8), torch.rand(1, 2, 1, 8, 8)
    assert torch.equal(net(x, 2)["pred"], net(x, 2, truth)["pred"]), "nothing is fed back"
    conditioned = ConvLSTM(ConvLSTMConfig(hidden=(4,), patch=2)).train()
    assert not torch.equal(conditioned(x, 2)["pred"], conditioned(x, 2, truth)["pred"])


def test_the_forecaster_begins_with_the_last_frame():
    torch.manual_seed(0)
    net, (first, last) = ConvLSTM(SMALL).eval(), torch.rand(2, 1, 1, 8, 8)
    state = net.observe(last, net.observe(first)).state
    assert torch.equal(state.frame, last)
    other = net.decode(state._replace(frame=first), 1, FREE)["pred"]
    assert not torch.equal(other, net.decode(state, 1, FREE)["pred"])


def test_every_layer_reaches_the_head():
    torch.manual_seed(0)
    net = ConvLSTM(SMALL)
    net(torch.rand(1, 3, 1, 8, 8), 1)["pred"].sum().backward()
    assert net.head.in_channels == 11
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_scheduled_sampling_decides_what_the_loss_is_made_of():
    torch.manual_seed(0)
    net = ConvLSTM(SMALL)
    x, target = torch.rand(4, 3, 1, 8, 8), torch.rand(4, 4, 1, 8, 8)
    with torch.no_grad():
        forced = net.training_loss(x, target, progress=0.0)["loss"]
        free = net.training_loss(x, target, progress=1.0)["loss"]
    with torch.no_grad():
        torch.testing.assert_close(forced, ((net(x, 4, target)["pred"] - target) ** 2).mean())
        torch.testing.assert_close(free, ((net(x, 4)["pred"] - target) ** 2).mean())
    assert forced != free


@pytest.mark.parametrize("size", [(480, 480), (450, 470)])
def test_the_hourglass_works_on_the_published_scales(size):
    net = build(PRESETS["convlstm_hourglass_paper"]).eval()
    with torch.inference_mode():
        stream = net.observe(torch.rand(1, 1, *size))
    layers = stream.state.layers
    assert [tuple(layer.hidden.shape[-2:]) for layer in layers] == [
        (-(-size[0] // 30) * k, -(-size[1] // 30) * k) for k in (6, 2, 1)
    ]
    assert [layer.hidden.shape[1] for layer in layers] == [64, 192, 192]
    assert size != (480, 480) or layers[0].hidden.shape[-1] == 96


def test_the_hourglass_loss_weighs_heavy_rain():
    torch.manual_seed(0)
    net = build(PRESETS["convlstm_hourglass_cpu"])
    x = torch.zeros(1, 2, 1, 16, 16)
    light, heavy = torch.full((1, 2, 1, 16, 16), 0.40), torch.full((1, 2, 1, 16, 16), 0.80)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        light_loss, heavy_loss = net.training_loss(x, light), net.training_loss(x, heavy)
    # The forecast is 0 everywhere; the weight is 1 below 2 mm/h and 30 from 30 mm/h on.
    assert heavy_loss["balanced_mse"] / light_loss["balanced_mse"] == pytest.approx(30 * (0.8 / 0.4) ** 2)
    assert heavy_loss["balanced_mae"] / light_loss["balanced_mae"] == pytest.approx(30 * 2)
