"""E3D-LSTM: its cell against a plain one, its memories, its encoders, its loss and its explanation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from models.e3d.encoders import ConvEncoder, Decoder, PatchEncoder
from models.e3d.network import E3DLSTM, E3DLSTMCell, E3DLSTMConfig, E3DState, LayerState
from models.e3d.recall import from_rows, to_rows
from models.e3d.volume_conv import VolumeConv, VolumeNorm
from models.parts.blocks import to_patches

CPU = E3DLSTMConfig(gate_norm=False)
PAPER = E3DLSTMConfig(layers=4, channels=64, kernel_size=5, tau=None, gate_norm=False)
SMALL = E3DLSTMConfig(layers=2, channels=4, patch=2, tau=3)


def network(config: E3DLSTMConfig = SMALL, seed: int = 0) -> E3DLSTM:
    """A network in double precision, some noise on all weights so that no scale is 1 and no bias 0."""
    torch.manual_seed(seed)
    net = E3DLSTM(config).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def noisy_cell(seed: int = 0, **options) -> E3DLSTMCell:
    torch.manual_seed(seed)
    cell = E3DLSTMCell(3, 4, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return cell


def states(cell: E3DLSTMCell, depth: int = 2, *, batch: int = 2, tau: int = 3) -> dict[str, Tensor]:
    """All a cell may be given, on a grid of 5 x 6."""
    torch.manual_seed(1)
    volume = (batch, depth, 4, 5, 6)
    past = torch.randn(batch, tau * depth * 30, 4).double()
    return {
        "x": torch.randn(batch, depth, 3, 5, 6).double(),
        "hidden": torch.randn(volume).double(),
        "cell": past[:, -depth * 30 :].clone(),
        "memory": torch.randn(volume).double(),
        "past": past,
    }


def rain(batch: int, frames: int, rows: int = 8, columns: int = 10, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames, 1, rows, columns, generator=generator).double()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def conv3d(x: Tensor, weight: Tensor) -> Tensor:
    """A 3-D convolution ``(b, t, c, y, x)`` with T - 1 slices of zeros behind and none before."""
    depth, half = weight.shape[0], weight.shape[-1] // 2
    padded = functional.pad(x.transpose(1, 2), (half, half, half, half, 0, depth - 1))
    return functional.conv3d(padded, weight.permute(1, 2, 0, 3, 4)).transpose(1, 2)


def normalised(x: Tensor, norm: VolumeNorm | nn.Module) -> Tensor:
    if not isinstance(norm, VolumeNorm):
        return x
    mean, var = x.mean(dim=(1, 2, 3, 4), keepdim=True), x.var(dim=(1, 2, 3, 4), keepdim=True, correction=0)
    x = (x - mean) / (var + 1e-5).sqrt() * norm.scale[:, None, None]
    return x if norm.shift is None else x + norm.shift[:, None, None]


def plain_step(cell: E3DLSTMCell, convolve, x, hidden, cell_before, memory, past):
    """The equations of a cell one by one: a gate, a source and a convolution at a time."""
    gates, readout, d = cell.gates, cell.readout, 4
    bias = gates.from_input.bias.view(-1, 1, 1)
    of_x = normalised(convolve(x, gates.from_input.weight) + bias, gates.from_input.norm)
    of_h = normalised(convolve(hidden, gates.from_hidden.weight), gates.from_hidden.norm)
    of_m = normalised(convolve(memory, gates.from_memory.weight), gates.from_memory.norm)
    x_part, h_part, m_part = (part.split(d, dim=2) for part in (of_x, of_h, of_m))
    recalls = len(h_part) == 4
    i, g, o = (a + b for a, b in zip(x_part[:3], h_part[:3], strict=True))
    kept = from_rows(cell_before, x.shape[1], x.shape[-2:])
    if recalls:
        rows = to_rows(torch.sigmoid(x_part[3] + h_part[3]))
        weights = torch.exp(torch.einsum("bqd,bkd->bqk", rows, past))
        weights = weights / weights.sum(-1, keepdim=True)
        kept = kept + from_rows(torch.einsum("bqk,bkd->bqd", weights, past), x.shape[1], x.shape[-2:])
    c = torch.sigmoid(i) * torch.tanh(g) + normalised(kept, readout.norm)
    i_, g_, f_ = (a + b for a, b in zip(x_part[-3:], m_part, strict=True))
    m = torch.sigmoid(i_) * torch.tanh(g_) + torch.sigmoid(f_ + 1.0) * memory
    w_co, w_mo = readout.from_states.weight.split(d, dim=2)
    output = torch.sigmoid(o + convolve(c, w_co) + convolve(m, w_mo))
    merged = torch.einsum("de,bteyx->btdyx", readout.merge.weight[:, :, 0, 0], torch.cat([c, m], dim=2))
    return output * torch.tanh(merged), c, m


def test_sizes_are_the_published_ones():
    assert parameters(E3DLSTM(PAPER)) == 12_068_880
    assert parameters(E3DLSTM(CPU)) == 311_056
    assert parameters(E3DLSTM(dataclasses.replace(PAPER, gate_norm=True))) == 12_068_880 + 4 * 28 * 64
    assert parameters(E3DLSTM(dataclasses.replace(CPU, gate_norm=True))) == 311_056 + 2 * 28 * 24
    recall_gates = 18 * 24 * (16 + 24) + 24 + 18 * 24 * (24 + 24) + 24
    assert parameters(E3DLSTM(dataclasses.replace(CPU, tau=0))) == 311_056 - recall_gates


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_two_dimensional_convolutions_give_the_three_dimensional_one(depth):
    torch.manual_seed(0)
    convolution = VolumeConv(3, 5, 3, depth, bias=True).double()
    nn.init.normal_(convolution.bias)
    x = torch.randn(2, depth, 3, 6, 7).double()
    expected = conv3d(x, convolution.weight) + convolution.bias[:, None, None]
    torch.testing.assert_close(convolution(x), expected)
    assert torch.autograd.gradcheck(convolution, torch.randn(1, depth, 3, 3, 2).double().requires_grad_())


def test_products_with_the_slice_of_padding_are_left_out():
    convolution, x = VolumeConv(3, 5, 3, 2), torch.randn(1, 2, 3, 8, 8)
    with FlopCounterMode(display=False) as ours:
        convolution(x)
    with FlopCounterMode(display=False) as whole:
        conv3d(x, convolution.weight)
    assert ours.get_total_flops() == 0.75 * whole.get_total_flops()


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="expected an odd kernel size, got 4"):
        VolumeConv(3, 5, 4, 2)


@pytest.mark.parametrize("gate_norm", [False, True])
def test_the_cell_computes_its_equations(gate_norm):
    cell = noisy_cell(gate_norm=gate_norm)
    given = states(cell)
    after = cell(**given)
    hidden, c, memory = plain_step(cell, conv3d, *given.values())
    torch.testing.assert_close(after.hidden, hidden)
    torch.testing.assert_close(from_rows(after.cell, 2, (5, 6)), c)
    torch.testing.assert_close(after.memory, memory)


@pytest.mark.parametrize("gate_norm", [False, True])
def test_states_left_out_are_zeros(gate_norm):
    cell = noisy_cell(gate_norm=gate_norm)
    given = states(cell)
    zeros = {name: torch.zeros_like(given[name]) for name in ("hidden", "cell", "memory")}
    # With no memory to recall RECALL is 0, as it is with memories of zeros.
    for after, explicit in zip(
        cell(given["x"]), cell(given["x"], **zeros, past=torch.zeros_like(given["past"])), strict=True
    ):
        torch.testing.assert_close(after, explicit)


def test_without_the_time_axis_the_cell_is_two_dimensional():
    cell = noisy_cell(kernel_size=5, depth=1)
    given = states(cell, depth=1)

    def conv2d(x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x[:, 0], weight[0], padding=2)[:, None]

    hidden, c, memory = plain_step(cell, conv2d, *given.values())
    after = cell(**given)
    torch.testing.assert_close(after.hidden, hidden)
    torch.testing.assert_close(to_rows(c), after.cell)
    torch.testing.assert_close(after.memory, memory)


def test_without_recall_the_memory_is_what_is_written_plus_the_normalised_old_one():
    cell = noisy_cell(recalls=False)
    given = states(cell)
    after = cell(**given)
    assert after.gate is None
    hidden, c, _ = plain_step(cell, conv3d, *given.values())
    torch.testing.assert_close(to_rows(c), after.cell)
    torch.testing.assert_close(after.hidden, hidden)
    # And in so many words, from the halves of the cell:
    _, written, _, _ = cell.gates(given["x"], given["hidden"], given["memory"])
    old = given["cell"]
    mean, std = (
        old.mean(dim=(1, 2), keepdim=True),
        (old.var(dim=(1, 2), keepdim=True, correction=0) + 1e-5) ** 0.5,
    )
    expected = to_rows(written) + (old - mean) / std * cell.readout.norm.scale
    torch.testing.assert_close(after.cell, expected)


@pytest.mark.parametrize("gate_norm", [False, True])
def test_a_recall_gate_without_weights_is_a_half_and_recalls_the_same_everywhere(gate_norm):
    torch.manual_seed(0)
    cell = E3DLSTMCell(3, 4, gate_norm=gate_norm).double()
    with torch.no_grad():
        for source, first in ((cell.gates.from_input, 12), (cell.gates.from_hidden, 12)):
            source.weight[:, first : first + 4] = 0
            if gate_norm:
                source.norm.scale[first : first + 4] = 0
    given = states(cell)
    gate = cell(**given).gate
    torch.testing.assert_close(gate, torch.full_like(gate, 0.5))
    # C_t - I G is LN(C + RECALL): with C = 0 that of one vector everywhere.
    _, written, _, _ = cell.gates(given["x"], given["hidden"], given["memory"])
    given["cell"] = torch.zeros_like(given["cell"])
    recalled = cell(**given).cell - to_rows(written)
    torch.testing.assert_close(recalled, recalled[:, :1].expand_as(recalled))
    assert recalled.abs().max() > 0.1


@pytest.mark.parametrize(("depth", "recalls", "gate_norm"), [(2, True, True), (1, False, False)])
def test_the_cell_s_gradients_are_right(depth, recalls, gate_norm):
    torch.manual_seed(0)
    cell = E3DLSTMCell(2, 2, depth=depth, recalls=recalls, gate_norm=gate_norm).double()
    volume, rows = (1, depth, 2, 3, 2), (1, depth * 6, 2)
    inputs = [torch.randn(*shape).double().requires_grad_() for shape in (volume, volume, rows, volume)]
    past = torch.randn(1, 2 * depth * 6, 2).double().requires_grad_(recalls)

    def every_output(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(cell(*given))[:3]

    assert torch.autograd.gradcheck(every_output, (*inputs, past))
    weights = dict(cell.named_parameters())

    def of_weights(*values: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(weights, values, strict=True))
        return tuple(torch.func.functional_call(cell, named, (*inputs, past)))[:3]

    assert torch.autograd.gradcheck(of_weights, tuple(weights.values()), fast_mode=True)


@pytest.mark.parametrize("name", ["x", "hidden", "cell", "memory", "past"])
def test_every_input_of_the_cell_changes_what_it_gives(name):
    cell = noisy_cell()
    given = states(cell)
    before = cell(**given)
    given[name] = given[name] + 0.1 * torch.randn_like(given[name])
    after = cell(**given)
    assert (after.hidden - before.hidden).abs().max() > 1e-4
    assert ((after.memory - before.memory).abs().max() > 1e-4) == (name in ("x", "memory"))
    assert ((after.cell - before.cell).abs().max() > 1e-4) == (name != "memory")


def run(net: E3DLSTM, x: Tensor) -> list[E3DState]:
    inner, inners = net.begin(x[:, 0]), []
    for frame in x.unbind(1):
        _, inner = net.step(frame, inner)
        inners.append(inner)
    return inners


@pytest.mark.parametrize(
    ("tau", "attended"), [(3, [0, 1, 2, 3, 3, 3]), (None, [0, 1, 2, 3, 4, 5]), (0, [0] * 6)]
)
def test_memories_are_gathered_until_there_are_tau(tau, attended, monkeypatch):
    net, counts = network(dataclasses.replace(SMALL, tau=tau)), []
    net.layers[1].register_forward_pre_hook(
        lambda _, args: counts.append(0 if args[4] is None else args[4].shape[1] // 40)
    )
    inners = run(net, rain(1, 6))
    assert counts == attended, "no zeros of before the first step, then one more each step"
    assert [len(inner.layers[0].memories) for inner in inners] == [
        min(step, 6 if tau is None else tau + 1) for step in range(1, 7)
    ], "one more is held, which explains the step before"


@pytest.mark.parametrize(("tau", "felt"), [(2, False), (None, True)])
def test_a_memory_older_than_tau_has_no_effect(tau, felt):
    net, x = network(dataclasses.replace(SMALL, tau=tau)), rain(1, 5)
    *before, last = run(net, x)
    assert before
    oldest = -3  # of the step to come, tau + 1 = 3 steps ago
    layers = []
    for layer in last.layers:
        memories = list(layer.memories)
        memories[oldest] = memories[oldest] + torch.randn_like(memories[oldest])
        layers.append(layer._replace(memories=tuple(memories)))
    here, _ = net.step(x[:, 0], last)
    there, _ = net.step(x[:, 0], last._replace(layers=tuple(layers)))
    assert torch.equal(here, there) is not felt


def test_a_memory_within_tau_has_an_effect():
    net, x = network(dataclasses.replace(SMALL, tau=2)), rain(1, 5)
    last = run(net, x)[-1]
    layers = tuple(
        layer._replace(memories=(layer.memories[0], layer.memories[1] + 1.0, layer.memories[2]))
        for layer in last.layers
    )
    assert not torch.equal(net.step(x[:, 0], last)[0], net.step(x[:, 0], last._replace(layers=layers))[0])


def test_the_climbing_memory_comes_back_from_the_top_to_the_bottom():
    net, given = network(dataclasses.replace(SMALL, layers=3)), []
    for layer in net.layers:
        layer.register_forward_pre_hook(lambda _, args: given.append(args[3]))
    run(net, rain(1, 2))
    first, *_ = given[:3]
    back = given[3]
    assert first is None, "zeros at the first step"
    assert back.abs().max() > 0.01
    assert not torch.equal(given[2], back), "the top layer has written to it"
    for layer in net.layers:
        (gradient,) = torch.autograd.grad(back.sum(), layer.gates.from_input.weight, retain_graph=True)
        assert gradient.abs().max() > 1e-6


def test_the_climbing_memory_of_one_step_acts_on_the_next():
    net, x = network(), rain(1, 2)
    _, inner = net.step(x[:, 0], net.begin(x[:, 0]))
    assert inner.memory is not None
    with_memory, _ = net.step(x[:, 1], inner)
    without, _ = net.step(x[:, 1], inner._replace(memory=torch.zeros_like(inner.memory)))
    assert not torch.allclose(with_memory, without)


def test_the_first_layer_sees_the_last_two_frames_as_patches():
    encoder, x = PatchEncoder(2, 2), rain(1, 3)
    carried = encoder.start(x[:, 0])
    first, carried = encoder(x[:, 0], carried)
    second, _ = encoder(x[:, 1], carried)
    assert torch.equal(first[:, 0], torch.zeros_like(first[:, 0]))
    assert torch.equal(first[:, 1], to_patches(x[:, 0], 2))
    assert torch.equal(second, torch.stack([to_patches(x[:, 0], 2), to_patches(x[:, 1], 2)], dim=1))


@pytest.mark.parametrize("depth", [1, 2])
def test_the_convolutional_encoder_is_two_strided_3d_convolutions_of_the_last_frames(depth):
    torch.manual_seed(0)
    encoder, x = ConvEncoder(6, depth).double(), rain(2, 6, 16, 12)
    carried = encoder.start(x[:, 0])
    for frame in x.unbind(1):
        encoded, carried = encoder(frame, carried)
    features = x[:, -(3 * depth - 2) :].transpose(1, 2)
    for layer in (encoder.first, encoder.second):
        weight = layer.weight.unflatten(1, (depth, -1)).transpose(1, 2)
        features = functional.relu(
            functional.conv3d(features, weight, layer.bias, stride=(1, 2, 2), padding=(0, 2, 2))
        )
    torch.testing.assert_close(encoded, features.transpose(1, 2))
    assert encoded.shape == (2, depth, 6, 4, 3)
    inner = encoder.start(x[:, 0])
    dry, _ = encoder(torch.zeros_like(x[:, 0]), inner)
    again = encoder(torch.zeros_like(x[:, 0]), encoder(torch.zeros_like(x[:, 0]), inner)[1])[0]
    torch.testing.assert_close(dry, again), "before the first frame there was no echo"


def test_large_frames_are_encoded_as_published():
    encoder = ConvEncoder(64, 2)
    frame = torch.rand(1, 1, 224, 224)
    with torch.inference_mode():
        encoded, _ = encoder(frame, encoder.start(frame))
        decoded = Decoder(64, 2, 4, 64)(encoded)
    assert encoded.shape == (1, 2, 64, 56, 56)
    assert decoded.shape == (1, 1, 224, 224)


@pytest.mark.parametrize(
    "options", [{"encoder": 6}, {"depth": 1}, {"encoder": 6, "depth": 1}, {"depth": 3}, {"tau": 0}]
)
def test_every_option_forecasts_and_trains_every_weight(options):
    net = network(dataclasses.replace(SMALL, **options))
    x, target = rain(2, 3, 9, 10), rain(2, 2, 9, 10, seed=1)
    assert net(x, 3)["pred"].shape == (2, 3, 1, 9, 10)
    net.training_loss(x, target, generator=torch.Generator().manual_seed(0))["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


@pytest.mark.parametrize("tau", [None, 3, 1, 0])
def test_memories_in_one_allocation_forecast_as_memories_side_by_side(tau):
    net, x = network(dataclasses.replace(SMALL, tau=tau)).eval(), rain(2, 5)
    beside = net(x, 6)["pred"]
    with torch.inference_mode():
        assert torch.equal(net(x, 6)["pred"], beside)
        stream = None
        for frame in x.unbind(1):
            stream = net.observe(frame, stream)
        memories = [memory.clone() for layer in stream.state.inner.layers for memory in layer.memories]
        assert torch.equal(net.forecast(stream, 6)["pred"], beside)
        assert all(
            torch.equal(memory, kept)
            for memory, kept in zip(
                [memory for layer in stream.state.inner.layers for memory in layer.memories],
                memories,
                strict=True,
            )
        )


def test_without_gradients_a_roll_out_holds_one_copy_of_each_memory():
    net, held = network(dataclasses.replace(SMALL, tau=None)).eval(), []
    net.layers[0].register_forward_pre_hook(lambda _, args: held.append(args[4]))
    with torch.inference_mode():
        net(rain(1, 5), 4)
    storages = {memory.untyped_storage().data_ptr() for memory in held if memory is not None}
    assert len(storages) == 1, "the memories of all steps are one allocation"
    assert held[-1].untyped_storage().nbytes() == 7 * 2 * 20 * 4 * 8, "which has room for what is recalled"


def test_shares_of_attention_are_told_newest_first_and_lead_by_lead():
    net, x = network(dataclasses.replace(SMALL, tau=3)).eval(), rain(2, 2)
    shares = net(x, 3, explain=True)["aux"]["recall"]
    assert shares.shape == (2, 3, 2, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3, 2).double())
    assert torch.equal(shares[:, 0, :, 1:], torch.zeros(2, 2, 2).double()), "one memory at the second step"
    assert torch.equal(shares[:, 1, :, 2], torch.zeros(2, 2).double())
    seen = []
    net.layers[1].register_forward_hook(lambda _, args, after: seen.append((after.gate, args[4])))
    net(x, 3)
    gate, past = seen[3]
    weights = torch.softmax(gate @ past.transpose(1, 2), dim=-1).mean(1).view(2, 3, 40).sum(-1)
    torch.testing.assert_close(shares[:, 2, 1], weights.flip(1))
    assert weights.std() > 1e-4


def test_a_stream_is_explained_as_the_frames_it_is_made_of():
    for tau in (2, None):
        net, x = network(dataclasses.replace(SMALL, tau=tau)).eval(), rain(1, 4)
        with torch.inference_mode():
            stream = None
            for frame in x.unbind(1):
                stream = net.observe(frame, stream)
            told = net.forecast(stream, 3, explain=True)["aux"]["recall"]
        assert torch.equal(told, net(x, 3, explain=True)["aux"]["recall"])
        assert told.shape[-1] == (tau or 5)
    assert network(dataclasses.replace(SMALL, tau=0))(x, 2, explain=True)["aux"] == {}


def test_the_loss_is_squared_plus_absolute_error_of_all_frames_but_the_first():
    net = network()
    with torch.no_grad():
        for parameter in net.decoder.parameters():
            parameter.zero_()
    x, target = rain(2, 3), rain(2, 2, seed=1)
    everything = torch.cat([x, target], dim=1)[:, 1:]
    losses = net.training_loss(x, target)
    torch.testing.assert_close(losses["loss"], (everything**2).mean() + everything.mean())
    torch.testing.assert_close(losses["mse"], (target**2).mean())
    valid = torch.zeros_like(target, dtype=torch.bool)
    valid[..., :3] = True
    counted = torch.cat([x[:, 1:].flatten(), target[..., :3].flatten()])
    torch.testing.assert_close(
        net.training_loss(x, target, valid=valid)["loss"], (counted**2).mean() + counted.mean()
    )


def test_training_both_ways_averages_the_losses_of_both_orders():
    forward = network()
    both = network(dataclasses.replace(SMALL, both_ways=True))
    x, target = rain(2, 3), rain(2, 2, seed=1)
    backwards = torch.cat([x, target], dim=1).flip(1)
    here = forward.training_loss(x, target, progress=1.0)["loss"]
    there = forward.training_loss(backwards[:, :3], backwards[:, 3:], progress=1.0)["loss"]
    torch.testing.assert_close(both.training_loss(x, target, progress=1.0)["loss"], (here + there) / 2)
    assert here != there


def test_reverse_sampling_hides_true_frames_of_the_warm_up():
    x, target = rain(200, 5), rain(200, 4, seed=1)
    for reverse, seen in ((False, 1.0), (True, 0.5)):
        net = network(dataclasses.replace(SMALL, reverse_sampling=reverse))
        forced = net.draw_forced(x, target, 0.1, torch.Generator().manual_seed(0))
        assert forced[:, :4].double().mean().item() == pytest.approx(seen, abs=0.05)


def test_the_halves_of_a_cell_have_the_same_shapes_at_every_step():
    net, shapes = network(), {}

    def note(module, args):
        given = tuple(arg.shape if isinstance(arg, Tensor) else None for arg in args)
        shapes.setdefault(module, []).append(given)

    cells = list(net.cells())
    assert len(cells) == 4
    for cell in cells:
        cell.register_forward_pre_hook(note)
    run(net, rain(1, 5))
    for cell in cells:
        assert len(shapes[cell]) == 5
        assert len(set(shapes[cell][1:])) == 1, "but for the first step, before which there is no state"


def test_the_state_before_the_first_frame_is_empty():
    net = network()
    inner = net.begin(rain(1, 1)[:, 0])
    assert inner.layers == (LayerState(), LayerState())
    assert inner.memory is None


def test_statistics_over_a_position_are_those_of_its_channels():
    norm = VolumeNorm(5, over="position")
    with torch.no_grad():
        norm.scale.copy_(torch.arange(1.0, 6.0))
        norm.shift.copy_(torch.arange(5.0))
    volume = torch.randn(2, 3, 5, 4, 6)
    mean, variance = volume.mean(2, keepdim=True), volume.var(2, keepdim=True, unbiased=False)
    scale, shift = norm.scale[:, None, None], norm.shift[:, None, None]
    expected = (volume - mean) / (variance + 1e-5).sqrt() * scale + shift
    torch.testing.assert_close(norm(volume), expected, atol=1e-5, rtol=0)
