"""The parts networks share do what their equations say."""

from __future__ import annotations

import pytest
import torch

from models.parts.blocks import ConvLSTMCell, LSTMState, from_patches, layer_norm, to_patches, xavier


def test_patches_and_back_is_the_identity_bit_for_bit():
    frames = torch.rand(2, 3, 1, 12, 8)
    assert torch.equal(from_patches(to_patches(frames, 4), 4), frames)


def test_a_patch_holds_its_cells_row_by_row():
    frame = torch.arange(16.0).reshape(1, 1, 4, 4)
    patches = to_patches(frame, 2)
    assert patches.shape == (1, 4, 2, 2)
    assert patches[0, :, 0, 1].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize(
    ("widths", "published"),
    [
        ((64, 8), 470_304),
        ((128, 128, 64, 32, 8), 2_939_040),
        ((128,) * 5 + (64,) * 3 + (32, 8), 7_069_856),
        ((256, 256) + (128,) * 4 + (64,) * 6 + (32, 32, 8), 15_712_288),
    ],
)
def test_stacked_cells_have_the_published_numbers_of_parameters(widths, published):
    """Stacks of two, five, ten and fifteen layers on 131 channels: 0.47, 2.94, 7.07 and 15.71 million."""
    cells = [ConvLSTMCell(c, d) for c, d in zip((131, *widths), widths, strict=False)]
    assert sum(p.numel() for cell in cells for p in cell.parameters()) == published


def gate_by_gate(cell: ConvLSTMCell, x: torch.Tensor, state: LSTMState) -> LSTMState:
    """The cell written out: one convolution for each gate of each source."""
    conv, d, c = torch.nn.functional.conv2d, state.hidden.shape[1], x.shape[1]
    weight, bias = cell.gates.weight, cell.gates.bias

    def gate(k):
        own = weight[k * d : (k + 1) * d]
        return (
            conv(x, own[:, :c], padding=1)
            + conv(state.hidden, own[:, c:], padding=1)
            + bias[k * d : (k + 1) * d].reshape(1, d, 1, 1)
        )

    i, f, o, g = (gate(k) for k in range(4))
    peep = cell.peepholes
    if peep is not None:
        i, f = i + peep[0] * state.cell, f + peep[1] * state.cell
    memory = torch.sigmoid(f) * state.cell + torch.sigmoid(i) * torch.tanh(g)
    if peep is not None:
        o = o + peep[2] * memory
    return LSTMState(torch.sigmoid(o) * torch.tanh(memory), memory)


@pytest.mark.parametrize("peephole", [False, True])
def test_fused_gates_equal_separate_convolutions(peephole):
    cell = ConvLSTMCell(3, 5, peephole=peephole).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    state = LSTMState(*torch.randn(2, 2, 5, 7, 6, dtype=torch.float64).unbind(0))
    ours, written_out = cell(x, state), gate_by_gate(cell, x, state)
    torch.testing.assert_close(ours.hidden, written_out.hidden, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.cell, written_out.cell, atol=1e-12, rtol=0)


def test_an_open_forget_gate_and_a_closed_input_gate_keep_the_cell():
    cell = ConvLSTMCell(1, 2)
    torch.nn.init.zeros_(cell.gates.weight)
    with torch.no_grad():
        cell.gates.bias.copy_(torch.tensor([-1e3, -1e3, 1e3, 1e3, 0.3, 0.3, 0.9, 0.9]))
    state = LSTMState(torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4))
    after = cell(torch.randn(1, 1, 4, 4), state)
    assert torch.equal(after.cell, state.cell)


def test_the_forget_bias_opens_the_forget_gate():
    plain, biased = ConvLSTMCell(1, 1), ConvLSTMCell(1, 1, forget_bias=1.0)
    biased.load_state_dict(plain.state_dict())
    for cell in (plain, biased):
        torch.nn.init.zeros_(cell.gates.weight)
        torch.nn.init.zeros_(cell.gates.bias)
    x, state = torch.zeros(1, 1, 3, 3), LSTMState(torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
    assert plain(x, state).cell[0, 0, 1, 1].item() == pytest.approx(0.5)
    assert biased(x, state).cell[0, 0, 1, 1].item() == pytest.approx(0.7310586, abs=1e-6)


@pytest.mark.parametrize("peephole", [False, True])
def test_gradients_of_the_cell(peephole):
    cell = ConvLSTMCell(2, 2, peephole=peephole).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    inputs = [torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def step(x, hidden, memory, *_):
        return tuple(cell(x, LSTMState(hidden, memory)))

    assert torch.autograd.gradcheck(step, (*inputs, *cell.parameters()))


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="expected an odd kernel size, got 4"):
        ConvLSTMCell(1, 1, kernel_size=4)


@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (2, 6, 2, 5, 4)], ids=["in the plane", "in space"])
def test_layer_norm_takes_mean_and_spread_over_channels_and_positions(shape):
    norm = layer_norm(6)
    x = 3 + 2 * torch.randn(*shape)
    x[:, :3] += 4
    assert norm(x)[:, :3].mean() > 0.5, "channels are not normalised apart"
    normal = norm(x).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std(1, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert [tuple(p.shape) for p in norm.parameters()] == [(6,), (6,)]


def test_xavier_reaches_every_convolution_and_leaves_no_bias():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv3d(2, 4, 3), torch.nn.Linear(5, 7))
    for layer in net:
        torch.nn.init.constant_(layer.weight, 9.0)
        torch.nn.init.constant_(layer.bias, 9.0)
    xavier(net)
    for layer, fans in zip(net, (27 + 36, 54 + 108, 12), strict=True):
        assert torch.count_nonzero(layer.bias) == 0
        assert layer.weight.abs().max() <= (6 / fans) ** 0.5
        assert layer.weight.abs().max() > 0.8 * (6 / fans) ** 0.5
