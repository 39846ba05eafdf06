"""U-Net: published sizes, what it sees, direct leads and re-application, reflectivity and classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.forecaster import FREE, Feedback
from models.unet import BasicBlock, DownBlock, UNet, UNetConfig, UpBlock, reflectivity

TINY = UNetConfig(widths=(3, 4, 5), up=(4, 3), leads=2, fastest_cells=3.0)
CLASSES = UNetConfig(widths=(3, 4, 5), up=(4, 3), leads=2, fastest_cells=3.0, rates_mm_h=(0.1, 1.0, 2.5))
PAPER = UNetConfig(widths=(32, 32, 64, 128, 256, 512, 512, 1024), up=(1024, 512, 512, 256, 128, 64, 32))


def settled(config: UNetConfig, seed: int = 0) -> UNet:
    """A network in evaluation whose batch statistics are not those of a new one."""
    torch.manual_seed(seed)
    net = UNet(config)
    for _ in range(3):
        net(torch.rand(4, config.frames, 1, 16, 16), 1)
    return net.eval()


def test_sizes_are_the_published_ones():
    def parameters(config: UNetConfig) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in UNet(config).parameters())

    assert parameters(UNetConfig()) == 752_836
    assert parameters(UNetConfig(widths=(32, 64, 128, 256), up=(128, 64, 32))) == 3_003_780
    assert parameters(PAPER) == 92_226_180
    with torch.device("meta"):
        assert UNet(PAPER).stride == 128


@torch.inference_mode()
def test_a_forecast_does_not_depend_on_the_rest_of_the_batch():
    net, x = settled(TINY), torch.rand(3, 4, 1, 16, 16)
    other = x.clone()
    other[1:] = 50 * torch.rand(2, 4, 1, 16, 16)
    assert torch.equal(net.roll_out(x, 2, FREE)["pred"][0], net.roll_out(other, 2, FREE)["pred"][0])
    # While training it does, which is what makes the test above one of evaluation.
    net.train()
    assert not torch.equal(net.roll_out(x, 2, FREE)["pred"][0], net.roll_out(other, 2, FREE)["pred"][0])


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(widths=(2, 2), up=(2,), fastest_cells=1),
        UNetConfig(widths=(2, 2, 2), up=(2, 2), fastest_cells=1),
        UNetConfig(widths=(2, 2, 2, 2), up=(2, 2, 2)),
    ],
)
def test_it_sees_as_far_as_its_sizes_say(config):
    torch.manual_seed(0)
    net = UNet(config).double().eval()
    for block in net.down:
        # A mean over the same window hands on what every cell of it says, not only the strongest.
        block.body[2] = nn.AvgPool2d(3, stride=2, padding=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_().clamp_(min=0.1)
    middle, reaches = 96, []
    for column in range(middle, middle + net.stride):
        x = torch.rand(1, 4, 1, 8, 192, dtype=torch.float64, requires_grad=True)
        net.roll_out(x, 1, FREE)["pred"][0, 0, 0, 4, column].backward()
        touched = (x.grad.abs().sum((0, 1, 2, 3)) > 0).nonzero()
        reaches += [column - touched.min().item(), touched.max().item() - column]
    assert min(reaches) == config.reach_cells


def test_echo_cannot_arrive_from_beyond_what_it_sees():
    config = UNetConfig()
    assert config.reach_cells == 46
    assert config.reach_cells >= config.fastest_cells * config.leads
    with pytest.raises(ValueError, match=r"as far as echo moves, 48\.0 cells, got 46"):
        UNet(UNetConfig(fastest_cells=12.0))


def test_the_map_handed_across_is_taken_before_the_sum():
    torch.manual_seed(0)
    block, x = DownBlock(3, 4).eval(), torch.rand(2, 3, 8, 8)
    out, across = block(x)
    torch.testing.assert_close(
        out - across, functional.conv2d(x, block.shortcut.weight, block.shortcut.bias, 2)
    )
    assert across.shape == (2, 4, 4, 4)
    assert (out - across).abs().max() > 0.01
    net, frames = UNet(TINY).eval(), torch.rand(1, 4, 16, 16)
    up = net.up[1]
    given: list[torch.Tensor] = []
    up.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    net.maps(frames)
    first_across = net.down[0](net.first(frames))[1]
    torch.testing.assert_close(given[0][:, -4:], first_across)


def activated(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    x = (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    return torch.where(x > 0, x, 0.1 * x)


@torch.no_grad()
def test_blocks_are_those_of_the_paper():
    net = settled(UNetConfig(widths=(3, 4, 5), up=(4, 3), fastest_cells=3.0))
    generator = torch.Generator().manual_seed(1)

    def conv(x: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
        return functional.conv2d(x, layer.weight, layer.bias, padding=1)

    basic: BasicBlock = net.first
    x = torch.rand(1, 4, 8, 8, generator=generator)
    expected = conv(activated(conv(x, basic.body[0]), basic.body[1]), basic.body[3])
    torch.testing.assert_close(
        basic(x), expected + functional.conv2d(x, basic.shortcut.weight, basic.shortcut.bias)
    )

    down: DownBlock = net.down[0]
    x = torch.rand(1, 3, 8, 8, generator=generator) - 0.5
    pooled = functional.max_pool2d(activated(x, down.body[0]), 3, stride=2, padding=1)
    expected = conv(activated(pooled, down.body[3]), down.body[5])
    torch.testing.assert_close(down(x)[1], expected)

    up: UpBlock = net.up[1]
    x = torch.rand(1, 8, 4, 4, generator=generator)
    # Repeated first, then normalised and activated, as the paper has it.
    doubled = x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    inner = conv(activated(doubled, up.body[0]), up.body[3])
    expected = conv(activated(inner, up.body[4]), up.body[6])
    shortcut = functional.conv_transpose2d(x, up.shortcut.weight, up.shortcut.bias, stride=2)
    torch.testing.assert_close(up(x), expected + shortcut)


@torch.inference_mode()
@pytest.mark.parametrize("config", [TINY, CLASSES])
def test_further_leads_are_forecast_from_its_own_forecasts(config):
    net, x = settled(config).train(False), torch.rand(2, 5, 1, 16, 16)
    pred = net.roll_out(x, 5, FREE)["pred"]
    first = net.roll_out(x, 2, FREE)["pred"]
    second = net.roll_out(torch.cat([x, first], dim=1), 2, FREE)["pred"]
    third = net.roll_out(torch.cat([x, first, second], dim=1), 1, FREE)["pred"]
    torch.testing.assert_close(pred, torch.cat([first, second, third], dim=1))
    assert not torch.equal(first, second)


@torch.inference_mode()
def test_further_leads_are_forecast_from_true_frames_where_forced():
    net, x, truth = settled(TINY), torch.rand(2, 4, 1, 16, 16), torch.rand(2, 4, 1, 16, 16)
    pred, free = net.roll_out(x, 4, Feedback(truth))["pred"], net.roll_out(x, 2, FREE)["pred"]
    assert torch.equal(pred[:, :2], free), "what is forecast at once is fed nothing"
    again = net.roll_out(torch.cat([x, truth[:, :2]], dim=1), 2, FREE)["pred"]
    torch.testing.assert_close(pred[:, 2:], again)
    mask = torch.tensor([[False, True, False], [False, False, True]])
    mixed = net.roll_out(x, 4, Feedback(truth, mask))["pred"]
    seen = torch.stack([torch.stack([free[0, 0], truth[0, 1]]), free[1]])
    torch.testing.assert_close(mixed[:, 2:], net.roll_out(torch.cat([x, seen], dim=1), 2, FREE)["pred"])


@torch.inference_mode()
def test_each_true_frame_is_fed_back_in_its_place():
    """Of three applications, the last one sees the true frames of the leads just before it."""
    net, x, truth = settled(TINY), torch.rand(1, 4, 1, 16, 16), torch.rand(1, 6, 1, 16, 16)
    pred = net.roll_out(x, 6, Feedback(truth))["pred"]
    torch.testing.assert_close(pred[:, 4:], net.roll_out(truth[:, :4], 2, FREE)["pred"])


@torch.inference_mode()
def test_the_forecast_is_the_expectation_over_the_classes():
    net, x = settled(CLASSES), torch.rand(2, 4, 1, 16, 16)
    forecast = net(x, 3, explain=True)
    probability = forecast["aux"]["log_probability"].exp()
    assert probability.shape == (2, 3, 4, 16, 16)
    torch.testing.assert_close(probability.sum(2), torch.ones(2, 3, 16, 16))
    values = torch.tensor([reflectivity(rate, CLASSES.z_r) for rate in CLASSES.class_mm_h])
    expected = (probability * values[:, None, None]).sum(2, keepdim=True)
    torch.testing.assert_close(forecast["pred"], expected)
    assert net(x, 3)["aux"] == {}


def test_the_classes_are_parted_by_rain_rate():
    """A network sure of one class pays nothing where that class is, and much elsewhere."""
    net = settled(CLASSES)
    x = torch.zeros(1, 4, 1, 8, 8)
    rates = (0.0, 0.099, 0.1, 0.99, 1.0, 2.49, 2.5, 50.0)
    classes = (0, 0, 1, 1, 2, 2, 3, 3)
    for sure in range(4):
        with torch.no_grad():
            net.head.weight.zero_()
            net.head.bias.zero_()
            net.head.bias[sure::4] = 20.0
        for rate, right in zip(rates, classes, strict=True):
            target = torch.full((1, 2, 1, 8, 8), reflectivity(rate, CLASSES.z_r))
            loss = net.training_loss(x, target)["cross_entropy"].item()
            assert loss == pytest.approx(0.0 if right == sure else 20.0, abs=1e-4)


def test_without_an_opinion_the_loss_is_the_logarithm_of_the_number_of_classes():
    net = settled(CLASSES)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.zero_()
    x, target = torch.rand(1, 4, 1, 8, 8), torch.rand(1, 2, 1, 8, 8)
    assert net.training_loss(x, target)["loss"].item() == pytest.approx(math.log(4))
    with torch.no_grad():
        net.head.bias[0::4] = 5.0
    target[..., :4], target[..., 4:] = 0.0, 0.9
    seen = torch.zeros_like(target, dtype=torch.bool)
    seen[..., :4] = True
    assert net.training_loss(x, target, valid=seen)["loss"] < 0.03
    assert net.training_loss(x, target, valid=~seen)["loss"] > 4.9


def test_reflectivity_of_rain_rates_is_that_of_marshall_and_palmer():
    # Z = 200 R^1.6: 1 mm/h is 23.01 dBZ, 10 mm/h 39.01 dBZ.
    assert reflectivity(1.0, (200.0, 1.6)) == pytest.approx((23.0103 + 10) / 70, abs=1e-6)
    assert reflectivity(10.0, (200.0, 1.6)) == pytest.approx((39.0103 + 10) / 70, abs=1e-6)
    assert reflectivity(0.0, (200.0, 1.6)) == 0
    assert reflectivity(1e9, (200.0, 1.6)) == 1


@pytest.mark.parametrize("block", [BasicBlock(2, 3), DownBlock(2, 3), UpBlock(2, 3)])
def test_gradients_of_the_blocks_are_right(block):
    torch.manual_seed(0)
    block = block.double()
    x = torch.rand(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one level up for each down"):
        UNet(UNetConfig(up=(64, 32)))
    with pytest.raises(ValueError, match="a rain rate for each of 3 classes"):
        UNet(UNetConfig(rates_mm_h=(0.1, 1.0)))
    with pytest.raises(ValueError, match="ascend from above 0"):
        UNet(UNetConfig(rates_mm_h=(1.0, 0.1, 2.5)))
