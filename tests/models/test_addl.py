"""ADDL: what is estimated is motion, and all the forecast does is move the last observed frame along it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.addl import ADDL, CHARBONNIER_EPSILON, ADDLConfig, FlowEstimator
from models.forecaster import FREE, pad_to_multiple

PAPER = ADDLConfig(widths=(64, 128, 256, 512, 1024), up=(256, 128, 64, 32, 16), refined=3)
TINY = ADDLConfig(widths=(2, 3), up=(3, 2), refined=1)


class Wind(nn.Module):
    """An estimator that always says the same, and remembers what it was shown."""

    def __init__(self, u: float, v: float) -> None:
        super().__init__()
        self.motion = torch.tensor([u, v]).view(1, 2, 1, 1)
        self.shown: list[Tensor] = []

    def forward(self, frames: Tensor) -> Tensor:
        self.shown.append(frames.clone())
        return self.motion.to(frames.dtype).expand(frames.shape[0], 2, *frames.shape[-2:])


def driven(u: float, v: float, config: ADDLConfig = TINY) -> ADDL:
    net = ADDL(config).eval()
    net.estimator = Wind(u, v)
    return net


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_sizes_are_the_published_ones():
    with torch.device("meta"):
        paper = ADDL(PAPER)
    assert parameters(paper) == 22_198_232
    assert paper.stride == 32
    assert parameters(ADDL(ADDLConfig())) == 404_976


def test_the_deepest_levels_have_a_second_convolution():
    with torch.device("meta"):
        net = ADDL(PAPER)
    convolutions = [
        [layer.out_channels for layer in level if isinstance(layer, nn.Conv2d)]
        for level in net.estimator.down
    ]
    assert convolutions == [[64], [128], [256, 256], [512, 512], [1024, 1024]]
    assert [level.in_channels for level in net.estimator.up] == [
        1024,
        256 + 512,
        128 + 256,
        64 + 128,
        32 + 64,
    ]
    assert (net.estimator.flow.in_channels, net.estimator.flow.bias) == (16 + 4, None)


@torch.no_grad()
def test_the_estimator_is_that_of_the_paper():
    torch.manual_seed(0)
    estimator, frames = FlowEstimator(4, TINY).double(), torch.rand(2, 4, 8, 12, dtype=torch.float64)
    for parameter in estimator.parameters():
        parameter.copy_(torch.randn_like(parameter))
    for _ in range(3):
        estimator(frames)
    estimator.eval()

    def contracted(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, stride: int) -> Tensor:
        x = functional.conv2d(x, conv.weight, stride=stride, padding=1)
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        return (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)

    def expanded(x: Tensor, conv: nn.Conv2d) -> Tensor:
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return functional.conv2d(x, conv.weight, conv.bias, padding=1).clamp(min=0)

    half = contracted(frames, estimator.down[0][0], estimator.down[0][1], 2)
    quarter = contracted(half, estimator.down[1][0], estimator.down[1][1], 2)
    quarter = contracted(quarter, estimator.down[1][3], estimator.down[1][4], 1)
    x = torch.cat([expanded(quarter, estimator.up[0]), half], dim=1)
    x = torch.cat([expanded(x, estimator.up[1]), frames], dim=1)
    expected = functional.conv2d(x, estimator.flow.weight, padding=1)
    torch.testing.assert_close(estimator(frames), expected)


def test_a_new_network_forecasts_persistence():
    torch.manual_seed(0)
    net = ADDL(ADDLConfig())
    x = torch.rand(2, 4, 1, 32, 32)
    for mode in (net.train(), net.eval()):
        forecast = mode(x, 2, explain=True)
        assert forecast["aux"]["flow"].abs().max() < 0.1
        torch.testing.assert_close(forecast["pred"][:, 0], x[:, -1], atol=0.1, rtol=0)


@pytest.mark.parametrize("small", ["last", "all"])
def test_weights_start_as_small_as_asked(small):
    torch.manual_seed(0)
    estimator = FlowEstimator(4, ADDLConfig(small=small))
    assert estimator.flow.weight.std().item() == pytest.approx(0.02 / (9 * 2), rel=0.2)
    deep = estimator.down[-1][0].weight
    expected = 0.02 / (9 * 128) if small == "all" else (2 / (9 * 64)) ** 0.5
    assert deep.std().item() == pytest.approx(expected, rel=0.05)
    assert all(level.bias.abs().max() == 0 for level in estimator.up)


def test_each_lead_moves_the_echo_further_east_and_south():
    x = torch.zeros(1, 5, 1, 32, 32)
    x[0, -1, 0, 6, 5] = 0.8
    forecast = driven(2, 1)(x, 4, explain=True)
    for lead in range(4):
        frame = forecast["pred"][0, lead, 0]
        assert frame[6 + (lead + 1), 5 + 2 * (lead + 1)].item() == pytest.approx(0.8, abs=1e-5)
        assert frame.sum().item() == pytest.approx(0.8, abs=1e-4)
    assert forecast["aux"]["flow"].shape == (1, 4, 2, 32, 32)
    assert forecast["aux"]["flow"][0, :, 0].unique().tolist() == [2.0]
    assert forecast["aux"]["flow"][0, :, 1].unique().tolist() == [1.0]


def test_composed_motion_interpolates_once_however_many_leads():
    x = torch.zeros(1, 4, 1, 16, 16)
    x[0, -1, 0, 8, 4] = 1.0
    sharp = driven(0.5, 0)(x, 4)["pred"][0, :, 0, 8]
    torch.testing.assert_close(sharp[0, 4:6], torch.tensor([0.5, 0.5]), atol=1e-5, rtol=0)
    assert sharp[1, 5].item() == pytest.approx(1.0, abs=1e-5)
    assert sharp[3, 6].item() == pytest.approx(1.0, abs=1e-5)
    config = ADDLConfig(widths=(2, 3), up=(3, 2), compose=False)
    blurred = driven(0.5, 0, config)(x, 4)["pred"][0, :, 0, 8]
    torch.testing.assert_close(blurred[1, 4:7], torch.tensor([0.25, 0.5, 0.25]), atol=1e-5, rtol=0)


def test_composed_motion_goes_on_beyond_the_border():
    """Two half cells are one whole cell, in the first column too, where nothing but no echo flows in."""
    x = torch.rand(1, 4, 1, 8, 12)
    second = driven(0.5, 0)(x, 2)["pred"][0, 1, 0]
    expected = functional.pad(x[0, -1, 0], (1, 0))[:, :-1]
    torch.testing.assert_close(second, expected, atol=1e-5, rtol=0)


def test_each_forecast_becomes_the_newest_of_four_frames():
    net, x = driven(1, 0), torch.rand(2, 6, 1, 8, 8)
    pred = net(x, 3)["pred"]
    shown = net.estimator.shown
    assert torch.equal(shown[0], x[:, -4:, 0])
    assert torch.equal(shown[1], torch.cat([x[:, -3:, 0], pred[:, 0]], dim=1))
    assert torch.equal(shown[2], torch.cat([x[:, -2:, 0], pred[:, 0], pred[:, 1]], dim=1))
    shown.clear()
    truth = torch.rand(2, 3, 1, 8, 8)
    net(x, 3, truth)
    assert torch.equal(shown[2], torch.cat([x[:, -2:, 0], truth[:, 0], truth[:, 1]], dim=1))


@pytest.mark.parametrize("composed", [True, False])
def test_a_true_frame_that_is_fed_back_is_what_moves_next(composed):
    config = ADDLConfig(widths=(2, 3), up=(3, 2), compose=composed)
    net, x, truth = driven(1, 0, config), torch.rand(2, 4, 1, 8, 12), torch.rand(2, 3, 1, 8, 12)
    mask = torch.tensor([[True, False], [False, False]])
    pred = net(x, 3, truth, mask)["pred"]

    def moved(frame: Tensor, cells: int) -> Tensor:
        return functional.pad(frame, (cells, 0))[..., : frame.shape[-1]]

    for lead in range(3):
        torch.testing.assert_close(pred[1, lead], moved(x[1, -1], lead + 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(pred[0, 0], moved(x[0, -1], 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(pred[0, 1], moved(truth[0, 0], 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(pred[0, 2], moved(truth[0, 0], 2), atol=1e-5, rtol=0)
    everywhere = net(x, 3, truth)["pred"]
    torch.testing.assert_close(everywhere[:, 2], moved(truth[:, 1], 1), atol=1e-5, rtol=0)


def test_advection_never_makes_echo_stronger_than_it_was():
    torch.manual_seed(0)
    net = ADDL(TINY).train()
    with torch.no_grad():
        net.estimator.flow.weight.mul_(500)
    x = torch.rand(2, 4, 1, 16, 16)
    forecast = net(x, 5, explain=True)
    assert forecast["aux"]["flow"].abs().max() > 1
    assert forecast["pred"].max() <= x[:, -1].max() + 1e-6
    assert forecast["pred"].min() >= -1e-6


def test_the_gaussian_scheme_spreads_at_every_lead():
    config = ADDLConfig(widths=(2, 3), up=(3, 2), scheme="gaussian", compose=False)
    column = torch.arange(48.0)
    x = torch.zeros(1, 4, 1, 48, 48)
    x[0, -1, 0, 24, 20] = 1.0
    pred = driven(1.5, 0, config)(x, 3)["pred"][0, :, 0]
    for lead, frame in enumerate(pred, start=1):
        mean = (frame * column).sum()
        assert frame.sum().item() == pytest.approx(1, abs=1e-3)
        assert mean.item() == pytest.approx(20 + 1.5 * lead, abs=0.02)
        assert (frame * (column - mean) ** 2).sum().item() == pytest.approx(lead, rel=0.01)


def test_the_loss_is_the_data_term_and_the_weighted_penalties_averaged_over_leads():
    class Expansion(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            row, column = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
            return torch.stack([0.1 * column, 0.2 * row]).expand(frames.shape[0], 2, 12, 16)

    config = ADDLConfig(widths=(2, 3), up=(3, 2), divergence=0.5, gradient=0.25, magnitude=-0.003)
    net = ADDL(config)
    net.estimator = Expansion()
    x, target = torch.rand(2, 4, 1, 12, 16), torch.rand(2, 6, 1, 12, 16)
    flow = Expansion()(x[:, 0])
    terms = net.training_loss(x, target)
    mse = ((net(x, 6)["pred"] - target) ** 2).mean().item()
    magnitude = (flow**2).sum(1).mean().item()
    assert terms["mse"].item() == pytest.approx(mse)
    assert terms["divergence"].item() == pytest.approx(0.3**2, rel=1e-4)
    assert terms["gradient"].item() == pytest.approx(0.1**2 + 0.2**2, rel=1e-4)
    assert terms["magnitude"].item() == pytest.approx(magnitude, rel=1e-4)
    expected = mse + 0.5 * 0.09 + 0.25 * 0.05 - 0.003 * magnitude
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_the_charbonnier_loss_is_nearly_the_absolute_error():
    net = ADDL(ADDLConfig(widths=(2, 3), up=(3, 2), loss="charbonnier", divergence=0, gradient=0))
    net.estimator = Wind(0, 0)
    x = torch.zeros(1, 4, 1, 8, 8)
    target, valid = torch.full((1, 2, 1, 8, 8), 0.5), torch.ones(1, 2, 1, 8, 8, dtype=torch.bool)
    target[..., :4], valid[..., 4:] = 0.25, False
    expected = (0.25**2 + CHARBONNIER_EPSILON**2) ** 0.5
    assert net.training_loss(x, target, valid=valid)["loss"].item() == pytest.approx(expected)
    both = (expected + (0.5**2 + CHARBONNIER_EPSILON**2) ** 0.5) / 2
    assert net.training_loss(x, target)["loss"].item() == pytest.approx(both)


def test_motion_where_the_grid_was_padded_is_not_penalised():
    torch.manual_seed(0)
    net = ADDL(TINY).eval()
    x = torch.rand(1, 4, 1, 5, 6)
    flow = net.roll_out(pad_to_multiple(x, 4), 1, FREE, explain=True)["aux"]["flow"]
    assert flow.shape[-2:] == (8, 8)
    with torch.no_grad():
        terms = net.training_loss(x, torch.rand(1, 1, 1, 5, 6))
    assert terms["magnitude"].item() == pytest.approx((flow[..., :5, :6] ** 2).sum(2).mean().item())


def test_gradients_of_the_estimator_are_right():
    torch.manual_seed(2)
    estimator = FlowEstimator(4, TINY).double()
    frames = torch.rand(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        estimator.flow.weight.mul_(100)
    assert torch.autograd.gradcheck(estimator, (frames,))
    parameters = tuple(parameter.detach().requires_grad_() for parameter in estimator.parameters())
    names = [name for name, _ in estimator.named_parameters()]

    def of_weights(*weights: Tensor) -> Tensor:
        return torch.func.functional_call(estimator, dict(zip(names, weights, strict=True)), frames.detach())

    assert torch.autograd.gradcheck(of_weights, parameters)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="as many levels up as down, got 3 and 2"):
        ADDL(ADDLConfig(widths=(2, 3), up=(3, 2, 1)))
    with pytest.raises(ValueError, match="compose=False with the Gaussian scheme"):
        ADDL(ADDLConfig(scheme="gaussian"))


@pytest.mark.slow
def test_it_learns_to_move_echo():
    """On blobs in steady motion the error falls well below that of persistence."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")

    def blobs(batch: int) -> Tensor:
        velocity = (torch.rand(batch, 1, 2, generator=generator) - 0.5) * 4
        start = torch.rand(batch, 3, 2, generator=generator) * 32
        frames = []
        for step in range(7):
            u, v = (start + velocity * step)[..., None, None].unbind(2)
            frames.append(torch.exp(-((column - u) ** 2 + (row - v) ** 2) / 18).sum(1).clamp(0, 1))
        return torch.stack(frames, dim=1)[:, :, None]

    net = ADDL(ADDLConfig())
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(240):
        frames = blobs(8)
        optimiser.zero_grad()
        net.training_loss(frames[:, :4], frames[:, 4:])["loss"].backward()
        optimiser.step()
    frames = blobs(32)
    with torch.no_grad():
        error = net.train().training_loss(frames[:, :4], frames[:, 4:])["mse"]
    persistence = ((frames[:, 3:4] - frames[:, 4:]) ** 2).mean()
    assert error < 0.4 * persistence
