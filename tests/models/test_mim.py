"""MIM follows what changes: its modules gate by gate, its two memories, and what each layer sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.mim import MIM, MemoryCell, MIMCell, MIMConfig, MIMLayerState
from models.parts.blocks import LSTMState
from models.parts.spatiotemporal import GateConv, STLSTMCell

C, D, SIZE = 2, 3, (2, 4, 5)
SIGMOID_1 = 0.7310585786300049


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def noisy(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in double precision with all weights, biases too, drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.double()


def draw(channels: int, seed: int) -> Tensor:
    b, y, x = SIZE
    return torch.randn(b, channels, y, x, generator=torch.Generator().manual_seed(seed)).double()


def layer_state(seed: int = 10) -> MIMLayerState:
    h, c, d, n, s = (draw(D, seed + k) for k in range(5))
    return MIMLayerState(h, c, LSTMState(d, n), s)


def gate(conv: GateConv, number: int, x: Tensor, source: int = 0) -> Tensor:
    """One gate's share of one source, by a convolution of its own."""
    weight = torch.split(conv.weight, list(conv.sources), dim=1)[source]
    rows = slice(number * D, (number + 1) * D)
    return functional.conv2d(x, weight[rows], conv.biases[source, rows], padding="same")


def lstm_with_peepholes(cell: MemoryCell, x: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o, g = (gate(cell.gates, k, x) + gate(cell.gates, k, hidden, 1) for k in range(4))
    w_i, w_f, w_o = cell.peepholes
    after = torch.sigmoid(f + w_f * memory + 1) * memory + torch.sigmoid(i + w_i * memory) * torch.tanh(g)
    return torch.sigmoid(o + w_o * after) * torch.tanh(after), after


def test_parameters_are_as_many_as_published_and_computed_by_hand():
    assert parameters(MIM(MIMConfig())) == 341_032
    assert parameters(MIM(MIMConfig(hidden=(64,) * 4, kernel_size=5))) == 9_257_168
    assert parameters(MIM(MIMConfig(hidden=(16, 16), head=False))) == 91_632
    assert parameters(STLSTMCell(C, D, 3)) == (4 * C + 8 * D) * D * 9 + 12 * D + 2 * D**2 + D
    module, cell = MemoryCell(C, D, 3), MIMCell(C, D, 3)
    assert parameters(module) == (4 * C + 4 * D) * D * 9 + 11 * D
    assert parameters(cell) - parameters(module) == (4 * C + 15 * D) * D * 9 + 23 * D + 2 * D**2


def test_the_spatiotemporal_lstm_is_what_its_equations_say_gate_by_gate():
    cell = noisy(STLSTMCell(C, D, 3))
    x, h, c, m = draw(C, 1), draw(D, 2), draw(D, 3), draw(D, 4)
    of_x, of_h, of_m = cell.of_input, cell.of_hidden, cell.of_memory
    i, f, g = (gate(of_x, k, x) + gate(of_h, k, h) for k in range(3))
    i2, f2, g2 = (gate(of_x, k, x) + gate(of_m, k, m) for k in range(3))
    c2 = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
    m2 = torch.sigmoid(f2 + 1) * m + torch.sigmoid(i2) * torch.tanh(g2)
    o = torch.sigmoid(gate(of_x, 3, x) + gate(of_h, 3, h) + gate(of_m, 3, m))
    h2 = o * torch.tanh(cell.merge(torch.cat([c2, m2], 1)))
    state, memory = cell(x, LSTMState(h, c), m)
    torch.testing.assert_close((*state, memory), (h2, c2, m2))


def test_a_layer_is_what_its_equations_say_gate_by_gate():
    cell = noisy(MIMCell(C, D, 3))
    x, change, m, before = draw(C, 1), draw(C, 2), draw(D, 3), layer_state()
    d, n = lstm_with_peepholes(cell.nonstationary, change, *before.change)
    t, s = lstm_with_peepholes(cell.stationary, d, before.cell, before.stationary)
    of_x, of_h, of_m = cell.of_input, cell.of_hidden, cell.of_memory
    i = gate(of_x, 0, x) + gate(of_h, 0, before.hidden)
    g = gate(of_x, 2, x) + gate(of_h, 1, before.hidden)
    o = gate(of_x, 3, x) + gate(of_h, 2, before.hidden) + gate(of_m, 3, m)
    i2, f2, g2 = (gate(of_x, k, x) + gate(of_m, k, m) for k in range(3))
    c = t + torch.sigmoid(i) * torch.tanh(g)
    m2 = torch.sigmoid(f2 + 1) * m + torch.sigmoid(i2) * torch.tanh(g2)
    h = torch.sigmoid(o) * torch.tanh(cell.merge(torch.cat([c, m2], 1)))
    after, memory = cell(x, change, before, m)
    torch.testing.assert_close(
        (after.hidden, after.cell, *after.change, after.stationary, memory), (h, c, d, n, s, m2)
    )


def test_without_weights_the_memories_keep_what_a_forget_gate_at_one_lets_them():
    cell, module = STLSTMCell(C, D, 3), MemoryCell(C, D, 3)
    for parameter in (*cell.parameters(), *module.parameters()):
        nn.init.zeros_(parameter)
    ones = torch.ones(1, D, 4, 4)
    state, memory = cell(torch.rand(1, C, 4, 4), LSTMState(ones, ones), 2 * ones)
    torch.testing.assert_close(state.cell, SIGMOID_1 * ones)
    torch.testing.assert_close(memory, 2 * SIGMOID_1 * ones)
    torch.testing.assert_close(module(torch.rand(1, C, 4, 4), ones, ones)[1], SIGMOID_1 * ones)


def test_states_left_out_are_states_of_zero():
    bottom, cell = noisy(STLSTMCell(C, D, 3)), noisy(MIMCell(C, D, 3))
    x, m, zero = draw(C, 1), draw(D, 3), torch.zeros_like(draw(D, 0))
    state, memory = bottom(x, None, None)
    torch.testing.assert_close((state, memory), bottom(x, LSTMState(zero, zero), zero))
    first, _ = cell(x, None, None, m)
    assert torch.equal(first.change.hidden, zero), (
        "nothing has changed at the first step, whatever the biases"
    )
    assert torch.equal(first.change.cell, zero)
    assert first.stationary.shape == zero.shape
    nn.init.zeros_(cell.nonstationary.gates.biases)
    before = MIMLayerState(zero, zero, LSTMState(zero, zero), zero)
    torch.testing.assert_close(cell(x, None, None, m), cell(x, torch.zeros_like(x), before, m))
    module = noisy(MemoryCell(C, D, 3))
    torch.testing.assert_close(module(x, None, None), module(x, zero, zero))


@pytest.mark.parametrize("which", ["x", "difference", "hidden", "cell", "D", "N", "S", "memory"])
def test_every_input_of_a_layer_has_a_say(which):
    cell, other = noisy(MIMCell(C, D, 3)), draw(D, 99)
    x, change, m, before = draw(C, 1), draw(C, 2), draw(D, 3), layer_state()
    inputs = {"x": x, "difference": change, "state": before, "memory": m}
    changed = {
        "x": {"x": draw(C, 98)},
        "difference": {"difference": draw(C, 98)},
        "hidden": {"state": before._replace(hidden=other)},
        "cell": {"state": before._replace(cell=other)},
        "D": {"state": before._replace(change=LSTMState(other, before.change.cell))},
        "N": {"state": before._replace(change=LSTMState(before.change.hidden, other))},
        "S": {"state": before._replace(stationary=other)},
        "memory": {"memory": other},
    }[which]
    plain, moved = cell(**inputs)[0].hidden, cell(**(inputs | changed))[0].hidden
    assert (plain - moved).abs().max() > 1e-4


def test_gradients_agree_with_finite_differences():
    bottom, cell = noisy(STLSTMCell(1, 2, 3)), noisy(MIMCell(1, 2, 3))

    def inputs(*channels: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [
            torch.randn(1, c, 2, 3, dtype=torch.float64, generator=generator).requires_grad_()
            for c in channels
        ]

    def spatiotemporal(x, h, c, m):
        state, memory = bottom(x, LSTMState(h, c), m)
        return *state, memory

    def layer(x, difference, h, c, d, n, s, m):
        state, memory = cell(x, difference, MIMLayerState(h, c, LSTMState(d, n), s), m)
        return state.hidden, state.cell, *state.change, state.stationary, memory

    def first(x, m):
        state, memory = cell(x, None, None, m)
        return state.hidden, state.cell, state.stationary, memory

    assert torch.autograd.gradcheck(spatiotemporal, inputs(1, 2, 2, 2))
    assert torch.autograd.gradcheck(layer, inputs(1, 1, 2, 2, 2, 2, 2, 2))
    assert torch.autograd.gradcheck(first, inputs(1, 2))


def test_a_layer_below_that_stands_still_changes_nothing():
    """Without biases D stays exactly zero, and what is kept of the cell depends on the cell alone."""
    torch.manual_seed(0)
    net = MIM(MIMConfig(hidden=(4, D), patch=2))
    cell, still, m = net.upper[0], torch.rand(2, 4, 4, 5), draw(D, 3).float()
    state, _ = cell(still, None, None, m)
    for _ in range(3):
        state, _ = cell(still, torch.zeros_like(still), state, m)
        assert torch.equal(state.change.hidden, torch.zeros_like(state.change.hidden))
        assert torch.equal(state.change.cell, torch.zeros_like(state.change.cell))
    kept = cell.stationary(state.change.hidden, state.cell, state.stationary)[0]
    assert torch.equal(kept, cell.stationary(None, state.cell, state.stationary)[0])
    assert not torch.equal(kept, cell.stationary(None, 2 * state.cell, state.stationary)[0])


def test_before_a_still_image_the_change_dies_away():
    torch.manual_seed(0)
    net, frame, inner, sizes = MIM(MIMConfig(hidden=(4, D), patch=2)), torch.rand(1, 1, 8, 8), None, []
    with torch.no_grad():
        for _ in range(80):
            _, inner = net.step(frame, inner)
            sizes.append(inner.upper[0].change.hidden.abs().max().item())
    assert sizes[0] == 0
    assert sizes[1] > 1e-3, "the layer below has not settled at the second step"
    assert sizes[-1] < 1e-3 * sizes[1]


class Ramp(nn.Module):
    """A bottom layer whose hidden state grows by the same map each step."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor, state: LSTMState | None, memory: Tensor | None) -> tuple[LSTMState, Tensor]:
        hidden = self.slope if state is None else state.hidden + self.slope
        return LSTMState(hidden, hidden), torch.zeros_like(hidden)


def test_a_steady_growth_below_is_seen_as_one_and_the_same_change():
    net, slope, seen = MIM(MIMConfig(hidden=(3, 3), patch=2)), torch.rand(1, 3, 4, 4), []
    net.bottom = Ramp(slope)
    net.upper[0].nonstationary.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net.features(torch.rand(1, 5, 1, 8, 8))
    assert len(seen) == 4, "the first step has no change"
    for change in seen:
        torch.testing.assert_close(change, slope)


@pytest.mark.parametrize("once", [False, True])
def test_the_third_layer_sees_a_change_of_its_own_or_what_the_second_made_of_its(once):
    torch.manual_seed(0)
    net = MIM(MIMConfig(hidden=(3, 4, 5), patch=2, difference_once=once))
    seen, made, hidden = [], [], []
    net.upper[1].nonstationary.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net.upper[0].nonstationary.register_forward_hook(lambda module, inputs, output: made.append(output[0]))
    net.upper[0].register_forward_hook(lambda module, inputs, output: hidden.append(output[0].hidden))
    net.features(torch.rand(1, 3, 1, 8, 8))
    expected = made if once else [hidden[1] - hidden[0], hidden[2] - hidden[1]]
    assert len(seen) == 2
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_memory_climbs_and_starts_again_at_the_bottom_with_the_next_frame():
    net, calls = MIM(MIMConfig(hidden=(3, 3, 3), patch=2)), []
    for layer in net.cells():
        layer.register_forward_hook(lambda module, inputs, output: calls.append((inputs[-1], output[1])))
    net.features(torch.rand(1, 2, 1, 8, 8))
    came, left = zip(*calls, strict=True)
    assert came[0] is None
    for later, earlier in zip(came[1:], left, strict=False):
        assert torch.equal(later, earlier)
    assert torch.autograd.grad(left[3].sum(), left[2])[0].abs().sum() > 0


def test_gradients_run_through_the_stationary_memory_of_earlier_steps():
    cell, before = noisy(MIMCell(C, D, 3)), layer_state()
    start = before.stationary.requires_grad_()
    state, m = before, draw(D, 3)
    for seed in range(3):
        state, _ = cell(draw(C, seed), draw(C, seed + 5), state, m)
    assert torch.autograd.grad(state.stationary.sum(), start)[0].abs().max() > 1e-6


def test_two_calls_in_a_row_give_the_same_forecast():
    net, x = MIM(MIMConfig(hidden=(4, 4), patch=2)), torch.rand(2, 4, 1, 8, 8)
    assert torch.equal(net(x, 3)["pred"], net(x, 3)["pred"])


def test_features_are_what_the_head_makes_the_next_frame_of():
    torch.manual_seed(0)
    net, x = MIM(MIMConfig(hidden=(4, 6), patch=2)), torch.rand(2, 4, 1, 8, 12)
    features = net.features(x)
    assert features.shape == (2, 6, 4, 6)
    frame = functional.pixel_shuffle(net.head(features), 2)
    torch.testing.assert_close(net(x, 1)["pred"][:, 0], frame)
    headless = MIM(MIMConfig(hidden=(4, 6), patch=2, head=False))
    weights = {key: value for key, value in net.state_dict().items() if not key.startswith("head.")}
    headless.load_state_dict(weights)
    assert torch.equal(headless.features(x), features)
    with pytest.raises(TypeError, match="with an output layer"):
        headless(x, 1)


def test_layers_may_differ_in_width():
    torch.manual_seed(0)
    net = MIM(MIMConfig(hidden=(4, 4, 6), patch=2))
    assert [type(adapter) for adapter in net.adapters] == [nn.Conv2d, nn.Identity, nn.Conv2d]
    net.training_loss(torch.rand(1, 3, 1, 8, 8), torch.rand(1, 2, 1, 8, 8))["loss"].backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_gates_may_be_normalised_over_the_sample():
    conv = GateConv((2, 3), 8, 3, norm=True)
    result = conv(5 + torch.rand(2, 2, 6, 7), torch.rand(2, 3, 6, 7))
    torch.testing.assert_close(result.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.var((1, 2, 3), correction=0), torch.ones(2), atol=1e-3, rtol=0)
    torch.manual_seed(0)
    x = torch.rand(1, 3, 1, 8, 8)
    plain, normalised = (MIM(MIMConfig(hidden=(4, 4), patch=2, norm=norm)) for norm in (False, True))
    normalised.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(normalised.features(x), plain.features(x), atol=1e-2)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="odd kernel size, got 4"):
        MIM(MIMConfig(kernel_size=4))


def test_autocast_leaves_gates_and_memories_in_full_precision():
    net = MIM(MIMConfig(hidden=(4, 4), patch=2))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        arguments = net.bottom.of_hidden(torch.rand(1, 4, 8, 8))
        stream = net.observe(torch.rand(1, 1, 8, 8), net.observe(torch.rand(1, 1, 8, 8)))
    bottom, (upper,), memory = stream.state.inner
    kept = (arguments, bottom.cell, upper.cell, upper.change.cell, upper.stationary, memory)
    assert [value.dtype for value in kept] == [torch.float32] * 6


def test_training_both_ways_is_the_mean_over_the_sequence_and_its_reverse():
    torch.manual_seed(0)
    net, both = MIM(MIMConfig(hidden=(4, 4), patch=2)), MIM(MIMConfig(hidden=(4, 4), patch=2, both_ways=True))
    both.load_state_dict(net.state_dict())
    frames = torch.rand(2, 6, 1, 8, 8)
    x, target, backwards = frames[:, :4], frames[:, 4:], frames.flip(1)
    with torch.no_grad():
        # At the end of the training, when inputs of the forecast phase are all its own.
        there = net.training_loss(x, target, progress=1.0)["loss"]
        back = net.training_loss(backwards[:, :4], backwards[:, 4:], progress=1.0)["loss"]
        loss = both.training_loss(x, target, progress=1.0)["loss"]
    torch.testing.assert_close(loss, (there + back) / 2)
    assert not torch.isclose(there, back)


def test_backwards_too_what_was_not_observed_has_no_say_as_truth():
    torch.manual_seed(0)
    net = MIM(MIMConfig(hidden=(4, 4), patch=2, both_ways=True))
    x, target = torch.rand(1, 3, 1, 8, 8), torch.rand(1, 3, 1, 8, 8)
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[:, 1] = False
    # Backwards, the frame is the second input: with every input after the first its own, it is truth alone.
    net.draw_forced = lambda *args: torch.zeros(1, 4, dtype=torch.bool)
    with torch.no_grad():
        plain = net.training_loss(x, target, valid=valid)["loss"]
        target[:, 1] += 1
        assert torch.equal(net.training_loss(x, target, valid=valid)["loss"], plain)
        assert not torch.equal(net.training_loss(x, target)["loss"], plain)


def test_reverse_sampling_is_an_option():
    net = MIM(MIMConfig(hidden=(4,), patch=2, reverse_sampling=True))
    x = torch.zeros(500, 4, 1, 1, 1)
    forced = net.draw_forced(x, x, 0.0, torch.Generator().manual_seed(0))
    assert forced[:, :3].float().mean().item() == pytest.approx(0.5, abs=0.05)
