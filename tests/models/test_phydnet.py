"""PhyDNet: filters as derivatives, prediction and correction, the two branches and their training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.phydnet import PhyCell, PhyDNet, PhyDNetConfig, moment_matrix

SMALL = PhyDNetConfig(width=16, derivatives=3, residual=(4, 5))


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def derivative_filters(k: int) -> Tensor:
    """The filters ``(k^2, k, k)`` whose moments are those wanted: A^-1 Delta A^-T."""
    inverse = torch.linalg.inv(moment_matrix(k))
    wanted = torch.eye(k**2, dtype=torch.float64).view(k**2, k, k)
    return inverse @ wanted @ inverse.T


def perfect(k: int, channels: int = 2) -> PhyCell:
    """A cell in double precision whose filters are derivatives."""
    cell = PhyCell(channels, k).double()
    with torch.no_grad():
        cell.derive.weight.copy_(derivative_filters(k)[:, None].expand(-1, channels, -1, -1))
        nn.init.zeros_(cell.derive.bias)
    return cell


def idle(cell: PhyCell, gain: float) -> PhyCell:
    """The cell with no dynamics of its own and a gain of 0 or 1."""
    for layer in (cell.combine, cell.gain):
        nn.init.zeros_(layer.weight)
    nn.init.zeros_(cell.combine.bias)
    nn.init.constant_(cell.gain.bias, 1e4 * (2 * gain - 1))
    return cell


def test_parameters_are_as_many_as_published_and_computed_by_hand():
    assert parameters(PhyDNet(PhyDNetConfig())) == 358_988
    paper = PhyDNet(PhyDNetConfig(width=32, derivatives=7, residual=(128, 128, 64)))
    assert parameters(paper) == 3_091_732
    assert parameters(paper.physical) == 49 * 64 * (49 + 1) + 3 * 49 + 18 * 64**2 + 2 * 64


@pytest.mark.parametrize("k", [3, 5, 7])
def test_filters_made_from_their_moments_have_these_moments_and_no_loss(k):
    a, filters = moment_matrix(k), derivative_filters(k)
    wanted = torch.eye(k**2, dtype=torch.float64).view(k**2, k, k)
    torch.testing.assert_close(a @ filters @ a.T, wanted, atol=1e-10, rtol=0)
    assert perfect(k).moment_loss().item() < 1e-20


def test_moments_of_seven_rows_are_badly_conditioned():
    assert torch.linalg.cond(moment_matrix(7)).item() == pytest.approx(294, abs=0.5)
    assert moment_matrix(3).tolist() == [[1, 1, 1], [-1, 0, 1], [0.5, 0, 0.5]]


@pytest.mark.parametrize("k", [3, 5, 7])
def test_filters_without_loss_differentiate_polynomials(k):
    """Filter k i + j answers y^p x^q with the derivative of order (i, j) at the middle."""
    filters = derivative_filters(k)
    offset = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
    for p in range(k):
        for q in range(k):
            field = offset[:, None] ** p * offset**q
            answers = functional.conv2d(field[None, None], filters[:, None]).view(k, k)
            expected = torch.zeros(k, k, dtype=torch.float64)
            expected[p, q] = math.factorial(p) * math.factorial(q)
            torch.testing.assert_close(answers, expected, atol=1e-8, rtol=0)


def test_the_filter_for_one_derivative_in_x_sees_the_column_ramp_and_no_constant():
    first_in_x = derivative_filters(7)[1][None, None]
    ramp = torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    torch.testing.assert_close(functional.conv2d(ramp, first_in_x), torch.ones(1, 1, 10, 10).double())
    for flat in (torch.ones_like(ramp), ramp.mT):
        response = functional.conv2d(flat, first_in_x)
        torch.testing.assert_close(response, torch.zeros_like(response), atol=1e-10, rtol=0)


def test_the_moment_loss_is_a_sum_over_channels_of_means():
    cell = PhyCell(3, 5)
    a = moment_matrix(5)
    wanted = torch.eye(25, dtype=torch.float64).view(25, 5, 5)
    weight = cell.derive.weight.detach().double()
    by_channel = [((a @ weight[:, c] @ a.T - wanted) ** 2).mean().item() for c in range(3)]
    assert cell.moment_loss().item() == pytest.approx(sum(by_channel), rel=1e-6)
    nn.init.zeros_(cell.derive.weight)
    assert cell.moment_loss().item() == pytest.approx(3 / 25)


def test_autocast_leaves_the_moments_in_double_precision():
    cell = perfect(7).float()
    outside = cell.moment_loss()
    with torch.autocast("cpu", torch.bfloat16):
        inside = cell.moment_loss()
    assert torch.equal(inside, outside)
    assert inside.dtype == torch.float32
    assert inside < 1e-8


def test_the_moment_matrix_is_no_part_of_the_weights():
    assert "moments" not in PhyCell(2, 3).state_dict()
    assert "moments" in dict(PhyCell(2, 3).named_buffers())


def test_a_cell_predicts_and_corrects_as_its_equations_say():
    cell, encoded, state = (
        PhyCell(2, 3).double(),
        torch.rand(2, 2, 4, 5).double(),
        torch.rand(2, 2, 4, 5).double(),
    )
    derivatives = functional.conv2d(state, cell.derive.weight, cell.derive.bias, padding=1)
    scaled = functional.group_norm(derivatives, 3, cell.normalise.weight, cell.normalise.bias)
    predicted = state + functional.conv2d(scaled, cell.combine.weight, cell.combine.bias)
    from_frame, from_state = cell.gain.weight.split(2, dim=1)
    argument = functional.conv2d(encoded, from_frame, cell.gain.bias, padding=1)
    gain = torch.sigmoid(argument + functional.conv2d(state, from_state, padding=1))
    torch.testing.assert_close(cell(encoded, state), (1 - gain) * predicted + gain * encoded)
    torch.testing.assert_close(cell(None, state), predicted)
    assert not torch.allclose(cell(encoded, state), cell(torch.rand_like(encoded), state))
    assert not torch.allclose(cell(None, state), cell(None, torch.rand_like(state)))


def test_a_gain_of_zero_without_dynamics_keeps_the_state_and_one_of_one_takes_the_frame():
    encoded, state = torch.rand(1, 2, 5, 6), torch.rand(1, 2, 5, 6)
    closed, open_ = idle(PhyCell(2, 3), 0.0), idle(PhyCell(2, 3), 1.0)
    assert torch.equal(closed(encoded, closed(encoded, state)), state)
    assert torch.equal(closed(None, state), state)
    torch.testing.assert_close(open_(encoded, state), encoded)


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    cell = PhyCell(2, 3).double()
    encoded, state = (torch.rand(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(cell, (encoded, state))
    assert torch.autograd.gradcheck(lambda h: cell(None, h), (state,))

    def loss(weight: Tensor) -> Tensor:
        return torch.func.functional_call(Moments(cell), {"cell.derive.weight": weight}, ())

    assert torch.autograd.gradcheck(loss, (cell.derive.weight.detach().requires_grad_(),))


class Moments(nn.Module):
    """The moment loss of a cell as a module's forward."""

    def __init__(self, cell: PhyCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self) -> Tensor:
        return self.cell.moment_loss()


def test_even_filters_are_refused():
    with pytest.raises(ValueError, match="odd width of filters, got 6"):
        PhyCell(2, 6)


def test_a_missing_frame_is_not_seen_by_the_physical_branch_but_by_the_residual_one():
    torch.manual_seed(0)
    net = PhyDNet(SMALL)
    frame, other = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    _, before = net.step(torch.rand(2, 1, 8, 8), net.begin(frame))
    (first, one), (second, two) = (net.step(f, before, missing=True) for f in (frame, other))
    assert torch.equal(one.physical, two.physical)
    assert torch.equal(one.physical, net.physical(None, before.physical))
    assert not torch.equal(one.residual[-1].hidden, two.residual[-1].hidden)
    assert not torch.equal(first, second)
    assert not torch.equal(net.step(frame, before)[1].physical, one.physical)


@pytest.mark.parametrize("branch", ["from_physical", "from_residual"])
def test_both_branches_reach_the_forecast(branch):
    torch.manual_seed(0)
    net, x = PhyDNet(SMALL), torch.rand(1, 3, 1, 8, 8)
    plain = net(x, 2)["pred"]
    getattr(net, branch).register_forward_hook(lambda module, inputs, output: output + 1)
    assert not torch.allclose(net(x, 2)["pred"], plain, atol=1e-4)


def test_the_forecast_is_the_decoded_sum_of_both_branches():
    torch.manual_seed(0)
    net, frame = PhyDNet(SMALL), torch.rand(1, 1, 8, 12)
    forecast, state = net.step(frame, net.begin(frame))
    decoded = net.from_physical(state.physical) + net.from_residual(state.residual[-1].hidden)
    torch.testing.assert_close(forecast, torch.sigmoid(net.decoder(decoded)))
    assert state.physical.shape == (1, 32, 2, 3)


def test_observed_frames_are_not_decoded():
    net, decoded = PhyDNet(SMALL).eval(), []
    net.decoder.register_forward_hook(lambda module, inputs, output: decoded.append(output))
    net(torch.rand(1, 5, 1, 8, 8), 3)
    assert len(decoded) == 3


def test_one_draw_decides_for_the_whole_batch_and_all_leads():
    net, x, target = PhyDNet(SMALL), torch.zeros(3, 4, 1, 4, 4), torch.zeros(3, 5, 1, 4, 4)
    generator = torch.Generator().manual_seed(0)
    decisions = []
    for _ in range(400):
        forced = net.draw_forced(x, target, 0.25, generator)
        assert forced.shape == (3, 7)
        assert forced[:, :3].all(), "the warm-up is always true"
        assert forced[:, 3:].all() or not forced[:, 3:].any()
        decisions.append(bool(forced[0, 3]))
    assert sum(decisions) / 400 == pytest.approx(0.5, abs=0.07)
    assert net.draw_forced(x, target, 0.0, generator).all()
    assert not net.draw_forced(x, target, 1.0, generator)[:, 3:].any()


def test_the_loss_is_the_sum_over_all_steps_plus_that_of_the_moments():
    torch.manual_seed(0)
    net, x, target = PhyDNet(SMALL), torch.rand(2, 3, 1, 8, 8), torch.rand(2, 2, 1, 8, 8)
    with torch.no_grad():
        losses = net.training_loss(x, target, progress=0.0)
        frames = torch.cat([x, target], 1)
        forecasts = net.every_step(frames, torch.ones(2, 3, dtype=torch.bool))
        steps = [((forecasts[:, k] - frames[:, k + 1]) ** 2).mean() for k in range(4)]
        torch.testing.assert_close(losses["loss"], sum(steps) + net.physical.moment_loss())
        torch.testing.assert_close(losses["moments"], net.physical.moment_loss())
        torch.testing.assert_close(losses["mse"], (steps[2] + steps[3]) / 2)
    light = PhyDNet(PhyDNetConfig(width=16, derivatives=3, residual=(4, 5), moment_weight=0.0))
    light.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(light.training_loss(x, target)["loss"], sum(steps))


def test_each_step_is_averaged_over_what_was_observed_of_it():
    net = PhyDNet(SMALL)
    forecast, truth = torch.zeros(1, 2, 1, 1, 4), torch.tensor([[1.0, 2, 3, 4], [1, 1, 1, 9]])
    truth = truth.view(1, 2, 1, 1, 4)
    valid = torch.tensor([[True, True, False, False], [True, True, True, False]]).view(1, 2, 1, 1, 4)
    assert net.frame_loss(forecast, truth, valid).item() == pytest.approx(2.5 + 1)
    assert net.frame_loss(forecast, truth, None).item() == pytest.approx(30 / 4 + 84 / 4)
    assert net.frame_loss(forecast, truth, torch.zeros_like(valid)).item() == 0


def test_samples_without_echo_do_not_break_the_gradient():
    """Normalising what does not vary makes gradients explode from step to step."""
    torch.manual_seed(0)
    net = PhyDNet(PhyDNetConfig())
    x = torch.zeros(2, 4, 1, 32, 32)
    x[1, :, :, 8:20, 5:25] = 0.6
    target = x[:, :1].repeat(1, 12, 1, 1, 1)
    alone = net.training_loss(x[1:], target[1:])["loss"]
    loss = net.training_loss(x, target)["loss"]
    torch.testing.assert_close(loss, alone)
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    dry = net.training_loss(x[:1], target[:1])
    torch.testing.assert_close(dry["loss"].detach(), net.config.moment_weight * dry["moments"])
