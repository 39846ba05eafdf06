"""CRN: two branches that hear each other one step late, and a loss that looks at few leads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.crn import CRN, Coupled, CoupledCell, CRNConfig, RecurrentInterpretation, supervised_leads
from models.parts.blocks import LSTMState, from_patches, to_patches

TINY = CRNConfig(hidden=(6, 5), patch=2)


def parameters(*nets: nn.Module) -> int:
    return sum(parameter.numel() for net in nets for parameter in net.parameters())


def zeros(x: Tensor, hidden: tuple[int, ...]) -> Coupled:
    states = tuple(LSTMState.zeros(x, channels) for channels in hidden)
    return Coupled(states, states)


def run(cell: CoupledCell, x_a: Tensor, x_b: Tensor, hidden: tuple[int, ...]) -> list[Coupled]:
    """States after each input ``(t, b, c, y, x)``."""
    state, states = zeros(x_a[0], hidden), []
    for a, b in zip(x_a, x_b, strict=True):
        state = cell(a, b, state)
        states.append(state)
    return states


def silence(cell: CoupledCell) -> None:
    """Make every interpretation block say nothing."""
    with torch.no_grad():
        for branch in (cell.a, cell.b):
            for parameter in branch.interpret.parameters():
                parameter.zero_()


def test_sizes_are_the_published_ones():
    net = CRN(CRNConfig(bias=False))
    assert parameters(net.decoder.a, net.head_a) == 89_536
    assert parameters(net.decoder.b, net.head_b) == 89_536
    assert parameters(net.decoder, net.head_a, net.head_b) == 179_072
    # The encoder has no heads: nothing would ask them.
    assert parameters(net.encoder) == 179_072 - 2 * (24 * 16 + 16)
    assert parameters(net) == 357_344
    assert parameters(CRN(CRNConfig())) == 357_344 + 4 * 2 * 4 * 24


def test_channels_are_shared_between_dilations_and_the_last_has_the_remainder():
    block = RecurrentInterpretation(128)
    assert [(path.out_channels, path.dilation[0]) for path in block.paths] == [(42, 1), (42, 2), (44, 4)]
    assert parameters(RecurrentInterpretation(24)) == 9 * 24 * 24 + 24


@pytest.mark.parametrize(("dilations", "width"), [((1, 2, 4), 9), ((1,), 3)])
def test_an_interpretation_block_sees_nine_by_nine_patches(dilations, width):
    torch.manual_seed(0)
    block = RecurrentInterpretation(3, dilations)
    hidden = torch.rand(1, 3, 15, 15, requires_grad=True)
    with torch.no_grad():
        for path in block.paths:
            path.weight.abs_()
    block(hidden)[..., 7, 7].sum().backward()
    touched = hidden.grad.abs().sum(1)[0] > 0
    rows, columns = touched.any(1).nonzero(), touched.any(0).nonzero()
    assert rows.max() - rows.min() + 1 == width
    assert columns.max() - columns.min() + 1 == width


def test_interpretation_is_rectified():
    torch.manual_seed(0)
    said = RecurrentInterpretation(6)(torch.randn(2, 6, 9, 9))
    assert said.min() == 0
    assert said.max() > 0


@pytest.mark.parametrize("branch", ["a", "b"])
def test_a_branch_that_hears_nothing_is_a_plain_stack_of_convlstm_layers(branch):
    torch.manual_seed(0)
    cell = CoupledCell(4, TINY)
    silence(cell)
    x_a, x_b = torch.rand(2, 4, 2, 4, 8, 8).unbind(0)
    own, layers = (x_a, cell.a) if branch == "a" else (x_b, cell.b)
    states = [LSTMState.zeros(own[0], channels) for channels in TINY.hidden]
    for x, coupled in zip(own, run(cell, x_a, x_b, TINY.hidden), strict=True):
        x = layers.adapt[0](torch.cat([x, torch.zeros(2, 5, 8, 8)], dim=1))
        for level, layer in enumerate(layers.layers):
            states[level] = layer(x, states[level])
            x = states[level].hidden
        for alone, together in zip(states, getattr(coupled, branch), strict=True):
            assert torch.equal(alone.hidden, together.hidden)
            assert torch.equal(alone.cell, together.cell)


def test_a_branch_that_hears_nothing_does_not_depend_on_the_other_input():
    torch.manual_seed(0)
    cell = CoupledCell(4, TINY)
    x_a, x_b = torch.rand(3, 1, 4, 8, 8), torch.rand(3, 1, 4, 8, 8, requires_grad=True)

    def sway() -> float:
        top = run(cell, x_a, x_b, TINY.hidden)[-1].a[-1].hidden
        (gradient,) = torch.autograd.grad(top.sum(), x_b, allow_unused=True)
        return 0.0 if gradient is None else gradient.abs().sum().item()

    assert sway() > 0
    silence(cell)
    assert sway() == 0


def test_swapping_branches_and_inputs_swaps_the_states():
    torch.manual_seed(0)
    cell = CoupledCell(4, TINY)
    swapped = copy.deepcopy(cell)
    swapped.a, swapped.b = swapped.b, swapped.a
    x_a, x_b = torch.rand(2, 3, 2, 4, 8, 8).unbind(0)
    one, other = run(cell, x_a, x_b, TINY.hidden)[-1], run(swapped, x_b, x_a, TINY.hidden)[-1]
    for state, counterpart in zip((*one.a, *one.b), (*other.b, *other.a), strict=True):
        assert torch.equal(state.hidden, counterpart.hidden)
    assert not torch.equal(one.a[-1].hidden, one.b[-1].hidden)


@pytest.mark.parametrize("coupling", ["top", "per_layer"])
def test_one_branch_hears_of_the_others_input_a_step_late(coupling):
    torch.manual_seed(0)
    cell = CoupledCell(4, CRNConfig(hidden=(6, 5), coupling=coupling))
    x_a, x_b = torch.rand(2, 1, 4, 8, 8), torch.rand(2, 1, 4, 8, 8)
    first = x_b[0].clone().requires_grad_()
    states = run(cell, x_a, torch.stack([first, x_b[1]]), (6, 5))
    (at_once,) = torch.autograd.grad(
        states[0].a[-1].hidden.sum(), first, allow_unused=True, retain_graph=True
    )
    assert at_once is None or at_once.abs().sum() == 0
    (later,) = torch.autograd.grad(states[1].a[-1].hidden.sum(), first)
    assert later.abs().sum() > 0


def test_without_coupling_the_branches_are_two_networks():
    torch.manual_seed(0)
    crossed = CoupledCell(4, TINY)
    alone = CoupledCell(4, CRNConfig(hidden=(6, 5), cross=False))
    alone.load_state_dict(crossed.state_dict())
    x_a, x_b, other = torch.rand(3, 3, 1, 4, 8, 8).unbind(0)
    before, after = run(alone, x_a, x_b, (6, 5))[-1], run(alone, x_a, other, (6, 5))[-1]
    assert torch.equal(before.a[-1].hidden, after.a[-1].hidden)
    assert not torch.equal(before.b[-1].hidden, after.b[-1].hidden)
    assert not torch.equal(before.a[-1].hidden, run(crossed, x_a, x_b, (6, 5))[-1].a[-1].hidden)
    with torch.no_grad():
        for parameter in alone.a.interpret.parameters():
            parameter.zero_()
    deaf = run(alone, x_a, x_b, (6, 5))[-1].a[-1].hidden
    assert not torch.equal(deaf, before.a[-1].hidden), "a branch hears itself instead"


def test_each_layer_has_blocks_of_its_own_where_all_are_coupled():
    cell = CoupledCell(4, CRNConfig(hidden=(6, 5), coupling="per_layer"))
    assert [(rab.in_channels, rab.out_channels) for rab in cell.a.adapt] == [(4 + 6, 6), (6 + 5, 5)]
    single = CoupledCell(4, TINY)
    assert [(rab.in_channels, rab.out_channels) for rab in single.a.adapt] == [(4 + 5, 6)]


def test_simpler_interpretations_have_fewer_weights_or_none():
    cells = {rib: CoupledCell(4, CRNConfig(hidden=(6, 6), rib=rib)) for rib in ("rib", "srib", "none")}
    assert parameters(cells["rib"].a.interpret) == parameters(cells["srib"].a.interpret) == 9 * 36 + 6
    assert parameters(cells["none"].a.interpret) == 0
    torch.manual_seed(0)
    x_a, x_b = torch.rand(2, 1, 4, 8, 8), torch.rand(2, 1, 4, 8, 8)
    silent = run(cells["none"], x_a, x_b, (6, 6))[-1]
    assert not torch.equal(silent.a[0].hidden, run(cells["none"], x_a, -x_b, (6, 6))[-1].a[0].hidden)


def test_the_gates_of_the_paper_have_no_biases():
    literal = CoupledCell(4, CRNConfig(hidden=(6, 5), bias=False, forget_bias=0.0))
    assert all(layer.gates.bias is None for layer in (*literal.a.layers, *literal.b.layers))
    silence(literal)
    with torch.no_grad():
        for branch in (literal.a, literal.b):
            branch.adapt[0].weight.zero_()
            branch.adapt[0].bias.zero_()
    x, hidden = torch.rand(1, 4, 8, 8), (6, 5)
    state = tuple(LSTMState(torch.zeros(1, d, 8, 8), torch.ones(1, d, 8, 8)) for d in hidden)
    after = literal(x, x, Coupled(state, state)).a[0].cell
    # Gates without any argument are half open.
    torch.testing.assert_close(after, torch.full_like(after, 0.5))
    default = CoupledCell(4, CRNConfig(hidden=(6, 5)))
    assert all(layer.forget_bias == 1.0 for layer in (*default.a.layers, *default.b.layers))


@pytest.mark.parametrize(
    "config",
    [
        CRNConfig(hidden=(3, 3), rib="rib"),
        CRNConfig(hidden=(2, 2), rib="srib", coupling="per_layer"),
        CRNConfig(hidden=(2, 2), rib="none", cross=False, bias=False),
    ],
)
def test_gradients_of_the_coupled_cell_are_right(config):
    torch.manual_seed(0)
    cell = CoupledCell(1, config).double()
    d = config.hidden
    inputs = [torch.rand(1, 1, 3, 3).double().requires_grad_() for _ in range(2)]
    state = [torch.randn(1, k, 3, 3).double().requires_grad_() for k in d for _ in range(4)]

    def step(x_a: Tensor, x_b: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        layers = [LSTMState(*flat[k : k + 2]) for k in range(0, len(flat), 2)]
        after = cell(x_a, x_b, Coupled(tuple(layers[:2]), tuple(layers[2:])))
        return tuple(part for layer in (*after.a, *after.b) for part in layer)

    assert torch.autograd.gradcheck(step, (*inputs, *state))


def test_the_change_of_the_first_frame_is_nothing():
    net, frames = CRN(TINY), torch.rand(2, 2, 1, 8, 8)
    stream = net.observe(frames[:, 0])
    assert stream.state.change.abs().max() == 0
    stream = net.observe(frames[:, 1], stream)
    assert torch.equal(stream.state.change, frames[:, 1] - frames[:, 0])


def seen_by(cell: nn.Module, net: CRN, *arguments: object) -> tuple[Tensor, Tensor, Tensor]:
    """Frames and changes a coupled cell gets, ``(b, t, 1, y, x)`` each, and the forecast."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = cell.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    pred = net(*arguments)["pred"]
    hook.remove()
    frames, changes = (torch.stack([from_patches(x, 2) for x in part], 1) for part in zip(*seen, strict=True))
    return frames, changes, pred


@torch.no_grad()
def test_the_encoder_gets_the_frames_and_their_changes():
    net, x = CRN(TINY), torch.rand(2, 4, 1, 8, 8)
    frames, changes, _ = seen_by(net.encoder, net, x, 2)
    assert torch.equal(frames, x)
    assert torch.equal(changes[:, 1:], x[:, 1:] - x[:, :-1])
    assert changes[:, 0].abs().max() == 0


@torch.no_grad()
def test_running_freely_the_decoder_gets_its_own_frames_and_their_changes():
    torch.manual_seed(0)
    net, x = CRN(TINY), torch.rand(2, 3, 1, 8, 8)
    frames, changes, pred = seen_by(net.decoder, net, x, 4)
    history = torch.cat([x, pred], dim=1)
    assert torch.equal(frames, history[:, 2:-1])
    assert torch.equal(changes, history[:, 2:-1] - history[:, 1:-2])


@torch.no_grad()
def test_forced_it_gets_the_true_frames_and_their_changes():
    torch.manual_seed(0)
    net, x, truth = CRN(TINY), torch.rand(2, 3, 1, 8, 8), torch.rand(2, 4, 1, 8, 8)
    mask = torch.tensor([[False, True, True], [False, False, False]])
    frames, changes, _ = seen_by(net.decoder, net, x, 4, truth, mask)
    free_frames, free_changes, _ = seen_by(net.decoder, net, x, 4)
    assert torch.equal(frames[1], free_frames[1])
    assert torch.equal(changes[1], free_changes[1])
    assert torch.equal(frames[0, 2:], truth[0, 1:3])
    assert torch.equal(changes[0, 2:], truth[0, 1:3] - truth[0, :2])
    frames, changes, _ = seen_by(net.decoder, net, x, 4, truth)
    history = torch.cat([x[:, -2:], truth], dim=1)
    assert torch.equal(frames, history[:, 1:5])
    assert torch.equal(changes, history[:, 1:5] - history[:, :4])


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_the_forecast_is_the_weighted_mean_of_both_branches(weight):
    torch.manual_seed(0)
    net, x = CRN(CRNConfig(hidden=(6, 5), patch=2, state_weight=weight)), torch.rand(2, 3, 1, 8, 8)
    forecast = net(x, 3, explain=True)
    pred, aux = forecast["pred"], forecast["aux"]
    torch.testing.assert_close(pred, weight * aux["state"] + (1 - weight) * aux["tendency"])
    before = torch.cat([x[:, -1:], pred[:, :-1]], dim=1)
    torch.testing.assert_close(aux["tendency"], before + aux["change"])
    assert torch.equal(aux["disagreement"], (aux["state"] - aux["tendency"]).abs())
    assert aux["disagreement"].max() > 0
    assert net(x, 3)["aux"] == {}


@torch.no_grad()
def test_each_head_says_its_own_branch():
    torch.manual_seed(0)
    net, x = CRN(TINY), torch.rand(1, 3, 1, 8, 8)
    stream = net.observe(x[:, 2], net.observe(x[:, 1], net.observe(x[:, 0])))
    state = stream.state
    after = net.decoder(to_patches(state.frame, 2), to_patches(state.change, 2), state.coupled)
    aux = net(x, 1, explain=True)["aux"]
    torch.testing.assert_close(aux["state"][:, 0], from_patches(net.head_a(after.a[-1].hidden), 2))
    torch.testing.assert_close(aux["change"][:, 0], from_patches(net.head_b(after.b[-1].hidden), 2))


def test_two_leads_are_supervised_the_last_and_a_random_earlier_one():
    generator = torch.Generator().manual_seed(0)
    drawn = [supervised_leads("last+1", 6, generator=generator) for _ in range(2000)]
    assert all(len(leads) == 2 and leads[6] == 1.0 for leads in drawn)
    counts = torch.zeros(7)
    for leads in drawn:
        counts[min(leads)] += 1
        assert set(leads.values()) == {1.0}
    assert counts[0] == counts[6] == 0
    # 400 each; five standard deviations are 90.
    assert (counts[1:6] - 400).abs().max() < 90


def test_other_strategies_supervise_the_last_all_or_three_leads():
    generator = torch.Generator().manual_seed(0)
    assert supervised_leads("last", 4, generator=generator) == {4: 1.0}
    assert sorted(supervised_leads("all", 4, generator=generator)) == [1, 2, 3, 4]
    three = supervised_leads("last+2", 6, generator=generator)
    assert len(three) == 3
    assert max(three) == 6
    assert supervised_leads("last+2", 2, reweight=True, generator=generator) == {1: 1.0, 2: 1.0}
    assert supervised_leads("last+2", 7, reweight=True, generator=generator)[7] == 1.0
    assert sorted(supervised_leads("last+2", 7, reweight=True, generator=generator).values()) == [
        1.0,
        3.0,
        3.0,
    ]


@pytest.mark.parametrize("supervise", ["last", "all", "last+1", "last+2"])
def test_a_single_lead_can_be_trained(supervise):
    net = CRN(CRNConfig(hidden=(6, 5), patch=2, supervise=supervise, reweight=True))
    terms = net.training_loss(torch.rand(1, 1, 1, 8, 8), torch.rand(1, 1, 1, 8, 8))
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])


def test_leads_that_are_not_supervised_give_the_heads_no_gradient():
    """Fed the truth, a forecast acts through its own error alone."""
    torch.manual_seed(0)
    net = CRN(TINY)
    said: dict[str, list[Tensor]] = {"a": [], "b": []}

    def keep(branch: str) -> object:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            output.retain_grad()
            said[branch].append(output)

        return hook

    net.head_a.register_forward_hook(keep("a"))
    net.head_b.register_forward_hook(keep("b"))
    generator = torch.Generator().manual_seed(3)
    net.training_loss(
        torch.rand(1, 2, 1, 8, 8), torch.rand(1, 6, 1, 8, 8), progress=0.0, generator=generator
    )["loss"].backward()
    for outputs in said.values():
        moved = [
            lead
            for lead, output in enumerate(outputs, start=1)
            if output.grad is not None and output.grad.abs().sum() > 0
        ]
        assert len(outputs) == 6
        assert len(moved) == 2
        assert moved[-1] == 6


def gradient(net: CRN, x: Tensor, target: Tensor, seed: int = 0) -> Tensor:
    net.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    net.training_loss(x, target, progress=1.0, generator=generator)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def test_reweighted_the_expected_gradient_is_that_of_all_leads():
    torch.manual_seed(0)
    config = CRNConfig(hidden=(3, 3), patch=2, reweight=True)
    random = CRN(config).double()
    every = CRN(CRNConfig(hidden=(3, 3), patch=2, supervise="all")).double()
    every.load_state_dict(random.state_dict())
    x, target = torch.rand(1, 2, 1, 4, 4).double(), torch.rand(1, 5, 1, 4, 4).double()
    by_lead: dict[int, Tensor] = {}
    seed = 0
    while len(by_lead) < 4:
        # The mask of the true frames is drawn first.
        generator = torch.Generator().manual_seed(seed)
        torch.rand(1, 4, generator=generator)
        lead = min(supervised_leads("last+1", 5, generator=generator))
        if lead not in by_lead:
            by_lead[lead] = gradient(random, x, target, seed)
        seed += 1
    expected = gradient(every, x, target)
    torch.testing.assert_close(torch.stack(list(by_lead.values())).mean(0), expected)
    assert not torch.allclose(by_lead[1], expected)


def test_each_branch_is_trained_on_its_own_target():
    torch.manual_seed(0)
    net = CRN(CRNConfig(hidden=(6, 5), patch=2, supervise="all", absolute=0.5))
    x, target = torch.rand(2, 2, 1, 8, 8), torch.rand(2, 3, 1, 8, 8)
    aux = net(x, 3, explain=True)["aux"]
    change = target - torch.cat([x[:, -1:], target[:, :-1]], dim=1)
    terms = net.training_loss(x, target, progress=1.0)

    def error(own: Tensor, truth: Tensor) -> float:
        return sum(
            (((own - truth) ** 2).mean((0, 2, 3, 4)) + 0.5 * (own - truth).abs().mean((0, 2, 3, 4))).tolist()
        )

    assert terms["state"].item() == pytest.approx(error(aux["state"], target), rel=1e-5)
    assert terms["change"].item() == pytest.approx(error(aux["change"], change), rel=1e-5)
    assert terms["loss"].item() == pytest.approx((terms["state"] + terms["change"]).item())


def test_a_change_counts_only_where_both_frames_were_observed():
    torch.manual_seed(0)
    net = CRN(CRNConfig(hidden=(6, 5), patch=2, supervise="all"))
    x, target = torch.rand(1, 2, 1, 8, 8), torch.rand(1, 3, 1, 8, 8)
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[:, 0, :, 2:5, 2:5] = False
    other = target.clone()
    other[~valid] = 9.0
    one, same = (net.training_loss(x, y, valid=valid, progress=1.0)["change"] for y in (target, other))
    assert torch.equal(one, same)
    assert net.training_loss(x, other, progress=1.0)["change"] > one + 1
