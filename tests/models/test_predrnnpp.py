"""PredRNN++: the causal LSTM gate by gate, the gradient highway, and what each layer is given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.parts.blocks import LSTMState
from models.parts.spatiotemporal import GateConv
from models.predrnnpp import CausalLSTMCell, GradientHighway, PredRNNPP, PredRNNPPConfig

C, D = 2, 3
SIGMOID_1 = 0.7310585786300049
SMALL = PredRNNPPConfig(hidden=(4, 4, 4), patch=2)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def noisy(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.double()


def draw(channels: int, seed: int) -> Tensor:
    return torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(seed)).double()


def gate(conv: GateConv, number: int, *sources: Tensor) -> Tensor:
    """One gate's argument, with one convolution a source."""
    weights = torch.split(conv.weight[number * D : (number + 1) * D], list(conv.sources), dim=1)
    return sum(functional.conv2d(x, w, padding="same") for x, w in zip(sources, weights, strict=True))


def test_parameters_are_as_many_as_published_and_computed_by_hand():
    assert parameters(PredRNNPP(PredRNNPPConfig())) == 354_624
    assert parameters(PredRNNPP(PredRNNPPConfig(hidden=(128,) * 4, kernel_size=5))) == 35_307_520
    paper = PredRNNPP(PredRNNPPConfig(hidden=(128, 64, 64, 64), kernel_size=5))
    assert parameters(paper) == 15_690_752
    assert parameters(paper.adapters) == 2 * 128 * 64, "from the top to the bottom, and to the second layer"
    assert parameters(CausalLSTMCell(C, D, 3)) == (7 * C + 15 * D) * D * 9 + 2 * D**2
    assert parameters(GradientHighway(D, 3)) == 4 * D**2 * 9


def test_the_causal_lstm_is_what_its_equations_say_gate_by_gate():
    cell = noisy(CausalLSTMCell(C, D, 3))
    x, h, c, m = draw(C, 1), draw(D, 2), draw(D, 3), draw(D, 4)
    i, f, g = (gate(cell.to_cell, k, x, h, c) for k in range(3))
    c2 = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
    i2, f2 = (gate(cell.to_memory, k, x, c2) + gate(cell.of_memory, k, m) for k in range(2))
    g2, kept = gate(cell.to_memory, 2, x, c2), gate(cell.of_memory, 2, m)
    m2 = torch.sigmoid(f2 + 1) * torch.tanh(kept) + torch.sigmoid(i2) * torch.tanh(g2)
    o = torch.tanh(gate(cell.to_memory, 3, x, c2) + gate(cell.to_output, 0, h, m2))
    h2 = o * torch.tanh(cell.merge(torch.cat([c2, m2], 1)))
    state, memory = cell(x, LSTMState(h, c), m)
    torch.testing.assert_close((*state, memory), (h2, c2, m2))
    assert o.min() < -0.5, "the output gate turns signs"


def test_without_weights_the_cell_keeps_what_a_forget_gate_at_one_lets_it_and_the_memory_nothing():
    cell, ones = CausalLSTMCell(C, D, 3), torch.ones(1, D, 4, 4)
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    state, memory = cell(torch.rand(1, C, 4, 4), LSTMState(ones, ones), ones)
    torch.testing.assert_close(state.cell, SIGMOID_1 * ones)
    assert torch.equal(memory, torch.zeros_like(ones)), "M passes its own convolution before it is forgotten"


def test_states_left_out_are_states_of_zero():
    cell, highway = noisy(CausalLSTMCell(C, D, 3)), noisy(GradientHighway(D, 3))
    x, zero = draw(C, 1), torch.zeros(2, D, 4, 5).double()
    torch.testing.assert_close(cell(x, None, None), cell(x, LSTMState(zero, zero), zero))
    torch.testing.assert_close(highway(draw(D, 1), None), highway(draw(D, 1), zero))


@pytest.mark.parametrize("which", range(4))
def test_every_input_of_a_layer_has_a_say(which):
    cell, inputs = noisy(CausalLSTMCell(C, D, 3)), [draw(C, 1), draw(D, 2), draw(D, 3), draw(D, 4)]
    changed = list(inputs)
    changed[which] = torch.randn_like(inputs[which])
    (x, h, c, m), (x2, h2, c2, m2) = inputs, changed
    plain, moved = cell(x, LSTMState(h, c), m), cell(x2, LSTMState(h2, c2), m2)
    assert (plain[0].hidden - moved[0].hidden).abs().max() > 1e-3


def test_gradients_agree_with_finite_differences():
    cell, highway = noisy(CausalLSTMCell(1, 2, 3)), noisy(GradientHighway(2, 3))

    def inputs(*channels: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [
            torch.randn(1, c, 2, 3, dtype=torch.float64, generator=generator).requires_grad_()
            for c in channels
        ]

    def causal(x, h, c, m):
        state, memory = cell(x, LSTMState(h, c), m)
        return *state, memory

    assert torch.autograd.gradcheck(causal, inputs(1, 2, 2, 2))
    assert torch.autograd.gradcheck(highway, inputs(2, 2))


def switched(to: float) -> GradientHighway:
    """A highway whose switch S is ``to``, 0 or 1, wherever X is 1."""
    highway = noisy(GradientHighway(D, 3))
    with torch.no_grad():
        highway.gates.weight[D:] = 0
        highway.gates.weight[D:, :D, 1, 1] = 1e4 * (2 * to - 1)
    return highway


def test_a_highway_switched_off_keeps_its_state_and_hands_gradients_through_unchanged():
    highway, ones, start = switched(0), torch.ones(1, D, 2, 3).double(), torch.randn(1, D, 2, 3).double()

    def after_five(z: Tensor) -> Tensor:
        for _ in range(5):
            z = highway(ones, z)
        return z

    assert torch.equal(after_five(start), start)
    jacobian = torch.autograd.functional.jacobian(after_five, start).reshape(18, 18)
    assert torch.equal(jacobian, torch.eye(18).double())


def test_a_highway_switched_on_takes_the_new_alone():
    highway, ones, before = switched(1), torch.ones(1, D, 4, 4).double(), torch.randn(1, D, 4, 4).double()
    weight = highway.gates.weight[:D]
    new = torch.tanh(functional.conv2d(torch.cat([ones, before], 1), weight, padding="same"))
    torch.testing.assert_close(highway(ones, before), new)


def test_the_highway_mixes_old_and_new_by_its_switch():
    highway, x, z = noisy(GradientHighway(D, 3)), draw(D, 1), draw(D, 2)
    p, s = torch.tanh(gate(highway.gates, 0, x, z)), torch.sigmoid(gate(highway.gates, 1, x, z))
    torch.testing.assert_close(highway(x, z), s * p + (1 - s) * z)


def test_the_second_layer_is_given_the_highway_and_the_third_the_second():
    torch.manual_seed(0)
    net, calls, lanes = PredRNNPP(SMALL), [], []
    for layer in net.layers:
        layer.register_forward_hook(
            lambda module, inputs, output: calls.append((inputs[0], output[0].hidden))
        )
    net.highway.register_forward_hook(lambda module, inputs, output: lanes.append((*inputs, output)))
    net(torch.rand(1, 2, 1, 8, 8), 1)
    given, hidden = zip(*calls, strict=True)
    for step, (x, before, after) in enumerate(lanes):
        assert x is hidden[3 * step]
        assert before is (None if step == 0 else lanes[step - 1][2])
        assert given[3 * step + 1] is after
        assert given[3 * step + 2] is hidden[3 * step + 1]


def test_the_memory_climbs_and_starts_again_at_the_bottom_with_the_next_frame():
    net, calls = PredRNNPP(SMALL), []
    for layer in net.layers:
        layer.register_forward_hook(lambda module, inputs, output: calls.append((inputs[2], output[1])))
    net(torch.rand(1, 2, 1, 8, 8), 1)
    came, left = zip(*calls, strict=True)
    assert came[0] is None
    for later, earlier in zip(came[1:], left, strict=False):
        assert torch.equal(later, earlier)
    assert torch.autograd.grad(left[3].sum(), left[2])[0].abs().sum() > 0


@pytest.mark.parametrize("norm", [False, True])
def test_layers_may_differ_in_width_and_gates_be_normalised(norm):
    torch.manual_seed(0)
    net = PredRNNPP(PredRNNPPConfig(hidden=(4, 4, 6), patch=2, norm=norm))
    assert [type(adapter) for adapter in net.adapters] == [nn.Conv2d, nn.Identity, nn.Conv2d]
    net.training_loss(torch.rand(2, 3, 1, 8, 8), torch.rand(2, 3, 1, 8, 8))["loss"].backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    if norm:
        z = net.highway.gates(torch.rand(2, 4, 5, 5), torch.rand(2, 4, 5, 5))
        torch.testing.assert_close(z.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)


def test_one_layer_is_refused():
    with pytest.raises(ValueError, match="at least two layers"):
        PredRNNPP(PredRNNPPConfig(hidden=(4,)))


def test_the_loss_may_count_absolute_errors_too():
    net = PredRNNPP(PredRNNPPConfig(hidden=(4, 4), patch=2, absolute_loss=True))
    forecast, truth = torch.tensor([0.5, 0.0, 9.0, 1.0]), torch.tensor([0.0, 0.0, 0.0, 2.0])
    forecast, truth = forecast.reshape(1, 1, 1, 2, 2), truth.reshape(1, 1, 1, 2, 2)
    valid = torch.tensor([True, True, False, True]).reshape(1, 1, 1, 2, 2)
    assert net.frame_loss(forecast, truth, valid).item() == pytest.approx((1.25 + 1.5) / 3)
    assert net.frame_loss(forecast, truth, None).item() == pytest.approx((82.25 + 10.5) / 4)
    assert net.frame_loss(forecast, truth, torch.zeros_like(valid)).item() == 0
    squared = PredRNNPP(PredRNNPPConfig(hidden=(4, 4), patch=2))
    assert squared.frame_loss(forecast, truth, valid).item() == pytest.approx(1.25 / 3)


def test_training_both_ways_and_reverse_sampling_are_options():
    torch.manual_seed(0)
    net = PredRNNPP(SMALL)
    both = PredRNNPP(PredRNNPPConfig(hidden=(4, 4, 4), patch=2, both_ways=True, reverse_sampling=True))
    both.load_state_dict(net.state_dict())
    frames = torch.rand(2, 6, 1, 8, 8)
    x, target, backwards = frames[:, :4], frames[:, 4:], frames.flip(1)
    with torch.no_grad():
        there = net.training_loss(x, target, progress=1.0)["loss"]
        back = net.training_loss(backwards[:, :4], backwards[:, 4:], progress=1.0)["loss"]
        torch.testing.assert_close(both.training_loss(x, target, progress=1.0)["loss"], (there + back) / 2)
    many = torch.zeros(500, 4, 1, 1, 1)
    forced = both.draw_forced(many, many, 0.0, torch.Generator().manual_seed(0))
    assert forced[:, :3].float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_autocast_leaves_memories_in_full_precision():
    net = PredRNNPP(SMALL)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        stream = net.observe(torch.rand(1, 1, 8, 8), net.observe(torch.rand(1, 1, 8, 8)))
    layers, memory, highway = stream.state.inner
    assert {value.dtype for value in (*(layer.cell for layer in layers), memory, highway)} == {torch.float32}
