"""An STMoE mixes its experts as its gates say, and its loss has the values of its closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from models.addl import ADDL, ADDLConfig
from models.forecaster import FREE, masked_mean, masked_mse
from models.mim import MIM, MIMConfig
from models.stmoe.network import (
    ADDLExpert,
    GatingNetwork,
    MIMExpert,
    RobustTerm,
    STMoE,
    STMoEConfig,
    entropy,
    mix,
)
from models.stmoe.physics import KINDS
from models.stmoe.robust_loss import robust_loss

SMALL_ADDL = ADDLConfig(widths=(4, 4), up=(4, 4), refined=1)
CONV = STMoEConfig(hidden=(4, 4), channels=3, gate_channels=8)
ID = replace(CONV, variant="id", translation=SMALL_ADDL)


@pytest.fixture(autouse=True)
def same_weights_every_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def lively(network: nn.Module) -> nn.Module:
    """The network with weights large enough that every part of it matters."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            wave = torch.sin(torch.arange(parameter.numel()) * 1.7 + number).view_as(parameter)
            parameter.copy_(wave / max(parameter[0].numel(), 4) ** 0.5)
    return network.eval()


def frames(count: int = 4, *, height: int = 16, width: int = 12, batch: int = 2) -> Tensor:
    shape = (batch, count, 1, height, width)
    return 0.5 + 0.5 * torch.sin(torch.arange(math.prod(shape)) * 0.37 + 1).view(shape)


def set_gates(network: STMoE, logits: list[float]) -> None:
    """Make the gates' logits the same in every cell, whatever the frames."""
    assert network.gating is not None
    with torch.no_grad():
        network.gating.head.weight.zero_()
        network.gating.head.bias.copy_(torch.tensor(logits))


@pytest.mark.parametrize("config", [CONV, ID], ids=["conv", "id"])
def test_softmax_gates_are_between_zero_and_one_and_sum_to_one(config: STMoEConfig) -> None:
    network = lively(STMoE(config))
    gates = network(frames(), 3, explain=True)["aux"]["gates"]
    assert gates.shape == (2, 3, 3, 16, 12)
    assert gates.min() >= 0
    assert gates.max() <= 1
    assert gates.std(dim=(3, 4)).min() > 1e-3, "gates differ from cell to cell"
    torch.testing.assert_close(gates.sum(dim=2), torch.ones(2, 3, 16, 12), atol=1e-6, rtol=0)


def test_sigmoid_gates_are_between_zero_and_one_each_for_itself() -> None:
    network = lively(STMoE(replace(CONV, gate="sigmoid")))
    gates = network(frames(), 2, explain=True)["aux"]["gates"]
    assert 0 <= gates.min() < gates.max() <= 1
    set_gates(network, [0.0, math.log(3), -50.0])
    weights = network.weigh(frames())
    torch.testing.assert_close(weights[0, :, 3, 3], torch.tensor([0.5, 0.75, 0.0]))


def test_uniform_gates_are_the_softmax_of_the_mean_logits() -> None:
    network = lively(STMoE(replace(CONV, gate="uniform")))
    x = frames()
    gates = network(x, 2, explain=True)["aux"]["gates"]
    assert torch.equal(gates, gates[..., :1, :1].expand_as(gates))
    assert network.gating is not None
    network.gating.mode = "softmax"
    logits = network.weigh(x).log()
    # The softmax of a cell fixes its logits but for a constant, which the mean takes along.
    expected = torch.softmax((logits - logits.mean(dim=1, keepdim=True)).mean(dim=(2, 3)), dim=1)
    torch.testing.assert_close(gates[:, 0, :, 0, 0], expected)


def test_without_gates_the_experts_are_averaged() -> None:
    network = lively(STMoE(replace(CONV, gate="none")))
    x = frames()
    features, _ = network.encode(x, [None] * 3)
    forecast = network(x, 1, explain=True)
    torch.testing.assert_close(
        forecast["pred"][:, 0], network.decoder(torch.stack(features).mean(dim=0)).clamp(0, 1)
    )
    torch.testing.assert_close(forecast["aux"]["gates"], torch.full((2, 1, 3, 16, 12), 1 / 3))


@pytest.mark.parametrize("gate", ["softmax", "sigmoid", "uniform"])
@pytest.mark.parametrize("config", [CONV, ID], ids=["conv", "id"])
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_gate_of_one_expert_gives_that_experts_forecast_bit_for_bit(
    config: STMoEConfig, chosen: int, gate: Literal["softmax", "sigmoid", "uniform"]
) -> None:
    network = lively(STMoE(replace(config, gate=gate))).train()
    set_gates(network, [1e9 if k == chosen else -1e9 for k in range(3)])
    network.eval()
    expert = network.experts[chosen]
    x = frames()
    window, expected = x, []
    for _ in range(3):
        following = network.decoder(expert(window)[0])
        expected.append(following)
        window = torch.cat([window[:, 1:], following[:, None]], dim=1)
    assert torch.equal(network(x, 3)["pred"], torch.stack(expected, dim=1).clamp(0, 1))
    assert torch.equal(network(x, 3)["pred"], network.alone(expert).eval()(x, 3)["pred"])


def test_identical_experts_make_the_gates_irrelevant() -> None:
    network = lively(STMoE(CONV))
    for expert in network.experts[1:]:
        expert.load_state_dict(network.experts[0].state_dict())
    x = frames()
    before = network(x, 3, explain=True)
    assert network.gating is not None
    with torch.no_grad():
        for parameter in network.gating.parameters():
            parameter.add_(torch.sin(torch.arange(parameter.numel())).view_as(parameter))
    after = network(x, 3, explain=True)
    assert (before["aux"]["gates"] - after["aux"]["gates"]).abs().max() > 0.05
    torch.testing.assert_close(before["pred"], after["pred"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid", "uniform"])
def test_order_of_experts_and_gates_together_makes_no_difference(
    gate: Literal["softmax", "sigmoid", "uniform"],
) -> None:
    network = lively(STMoE(replace(CONV, gate=gate)))
    x = frames()
    before = network(x, 3)["pred"]
    order = [2, 0, 1]
    assert network.gating is not None
    with torch.no_grad():
        network.gating.head.weight.copy_(network.gating.head.weight[order])
        network.gating.head.bias.copy_(network.gating.head.bias[order])
    only_gates = network(x, 3)["pred"]
    network.experts = nn.ModuleList(network.experts[k] for k in order)
    torch.testing.assert_close(network(x, 3)["pred"], before, atol=1e-6, rtol=0)
    assert (only_gates - before).abs().max() > 1e-4


def test_a_forecast_joins_the_window_of_the_next_lead() -> None:
    for config in (CONV, ID):
        network = lively(STMoE(config)).train()
        x = frames()
        first = network(x, 1)["pred"]
        longer = torch.cat([x[:, 1:], first], dim=1)
        torch.testing.assert_close(network(x, 2)["pred"][:, 1], network(longer, 1)["pred"][:, 0])
        earlier = torch.cat([1 - x[:, :1], x], dim=1)
        assert torch.equal(network(earlier, 2)["pred"], network(x, 2)["pred"]), "four frames count"


def test_carried_state_takes_in_the_newest_frame_only() -> None:
    network = lively(STMoE(replace(CONV, expert_state="carry"))).train()
    reset = STMoE(CONV).train()
    reset.load_state_dict(network.state_dict())
    x = frames()
    forecast = network(x, 2)["pred"]
    assert torch.equal(forecast[:, 0], reset(x, 1)["pred"][:, 0])
    assert (forecast[:, 1] - reset(x, 2)["pred"][:, 1]).abs().max() > 1e-5
    all_frames = torch.cat([x, forecast[:, :1]], dim=1)
    features = [expert(all_frames)[0] for expert in network.experts]
    second = network.decoder(mix(features, network.weigh(all_frames[:, 1:])))
    torch.testing.assert_close(forecast[:, 1], second)


@pytest.mark.parametrize(("expert_state", "steps"), [("carry", 4 + 2), ("reset", 3 * 4)])
def test_carried_state_costs_one_step_a_lead(expert_state: str, steps: int) -> None:
    network = lively(STMoE(replace(CONV, expert_state=expert_state, frame_channels=2, patch=1)))
    counts = dict.fromkeys(range(len(KINDS)), 0)

    def count(number: int) -> None:
        counts[number] += 1

    for number, expert in enumerate(network.experts):
        expert.mim.bottom.register_forward_hook(lambda *_, number=number: count(number))
    network(frames().expand(-1, -1, 2, -1, -1), 3)
    assert set(counts.values()) == {steps}


def test_every_frame_and_every_parameter_counts() -> None:
    for config in (CONV, ID, replace(CONV, gate="sigmoid"), replace(CONV, gate="uniform")):
        network = lively(STMoE(config)).train()
        x = frames().requires_grad_()
        network(x, 2)["pred"].square().sum().backward()
        assert x.grad is not None
        assert (x.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_a_single_channel_reads_the_mim_as_its_own_head_does() -> None:
    config = MIMConfig(hidden=(4, 4))
    whole = lively(MIM(config))
    expert = MIMExpert(replace(config, head=False), channels=1)
    expert.mim.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("head.")})
    expert.head.load_state_dict(whole.head.state_dict())
    x = frames()
    assert torch.equal(expert(x)[0], whole.roll_out(x, 1, FREE)["pred"][:, 0])


def test_identity_variant_mixes_forecasts_and_translates_with_advection() -> None:
    network = lively(STMoE(ID))
    assert isinstance(network.experts[KINDS.index("translation")], ADDLExpert)
    assert [type(expert) for expert in network.experts[1:]] == [MIMExpert, MIMExpert]
    assert isinstance(network.decoder, nn.Identity)
    x = frames()
    forecast = network(x, 1, explain=True)
    gates, alone = forecast["aux"]["gates"], forecast["aux"]["experts"]
    torch.testing.assert_close(forecast["pred"][:, :, 0], (gates * alone).sum(dim=2).clamp(0, 1))
    advected = network.experts[0].addl.roll_out(x, 1, FREE)["pred"][:, 0, 0]
    assert torch.equal(alone[:, 0, 0], advected)
    bright = network.experts[0](3 * x)[0]
    assert bright.max() > 2, "what experts say is not clamped"


@pytest.mark.parametrize("config", [CONV, ID], ids=["conv", "id"])
def test_explanation_shows_each_experts_forecast_from_the_same_window(config: STMoEConfig) -> None:
    network = lively(STMoE(config)).train()
    network.eval()
    x = frames(height=15, width=10)
    forecast = network(x, 2, explain=True)
    assert forecast["aux"]["gates"].shape == forecast["aux"]["experts"].shape == (2, 2, 3, 15, 10)
    assert network(x, 2)["aux"] == {}
    for number, expert in enumerate(network.experts):
        network_of_one = network.alone(expert).eval()
        one = network_of_one(x, 1)["pred"][:, 0, 0]
        torch.testing.assert_close(forecast["aux"]["experts"][:, 0, number].clamp(0, 1), one)


def test_gates_see_nine_by_nine_cells_and_the_frames_means() -> None:
    gating = GatingNetwork(frames=4, channels=8, experts=3, mode="softmax").double()
    for number in (1, 4):
        gating.trunk[number] = nn.Identity()
    for number in (2, 5):
        gating.trunk[number] = nn.Softplus()  # no cell is cut off by chance
    window = torch.rand(1, 4, 19, 19, dtype=torch.float64, requires_grad=True)

    def reached() -> Tensor:
        (slope,) = torch.autograd.grad(gating(window)[0, 0, 9, 9], window)
        return slope[0].abs() > 1e-12

    assert reached().all(), "squeeze-and-excitation sees the whole frame"
    with torch.no_grad():
        gating.excite.weight.zero_()
    seen = reached()
    assert seen[:, 5:14, 5:14].all()
    assert seen.sum() == 4 * 9 * 9


def test_excitation_scales_each_channel_by_what_all_means_say() -> None:
    gating = lively(GatingNetwork(frames=4, channels=8, experts=3, mode="sigmoid"))
    window = frames()[:, :, 0]
    u = gating.trunk(window)
    hidden = (u.mean(dim=(2, 3)) @ gating.squeeze.weight.T + gating.squeeze.bias).clamp(min=0)
    scale = 1 / (1 + torch.exp(-(hidden @ gating.excite.weight.T + gating.excite.bias)))
    expected = torch.sigmoid(gating.head(u * scale[:, :, None, None]))
    torch.testing.assert_close(gating(window), expected)
    assert scale.std() > 1e-3


@pytest.mark.parametrize("mode", ["softmax", "sigmoid", "uniform"])
def test_gradients_of_the_gates_are_those_of_finite_differences(
    mode: Literal["softmax", "sigmoid", "uniform"],
) -> None:
    gating = lively(GatingNetwork(frames=2, channels=8, experts=3, mode=mode).double())
    window = torch.rand(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gating, (window,))


@pytest.mark.parametrize("config", [CONV, ID], ids=["conv", "id"])
def test_gradients_of_the_network_are_those_of_finite_differences(config: STMoEConfig) -> None:
    small = replace(config, hidden=(2, 2), channels=2, patch=2)
    network = lively(STMoE(small).double()).eval()
    x = frames(height=4, width=4, batch=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: network.roll_out(x, 2, FREE)["pred"], (x,), fast_mode=True)


def test_entropy_is_zero_of_a_decision_and_ln_three_of_none() -> None:
    decided = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    assert entropy(decided).sum().item() == 0
    (slope,) = torch.autograd.grad(entropy(decided).sum(), decided)
    assert slope.isfinite().all()
    undecided = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert entropy(undecided).sum().item() == pytest.approx(1.098612, abs=5e-7)
    half = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropy, (half,))


@pytest.mark.parametrize("value", [1e9, 1e4])
def test_loss_of_decided_gates_has_finite_gradients(value: float) -> None:
    network = lively(STMoE(CONV)).train()
    set_gates(network, [value, 0.0, 0.0])
    loss = network.training_loss(frames(), frames(3))
    assert loss["entropy"] == 0
    loss["loss"].backward()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_smoothness_is_zero_of_constant_gates_and_of_a_single_lead() -> None:
    network = STMoE(replace(CONV, smoothness=RobustTerm(0.5, 2.0, 0.1)))
    target = frames(3)
    constant = torch.softmax(torch.randn(2, 1, 3, 16, 12), dim=2).expand(2, 3, 3, 16, 12)
    assert network.loss_of(target, constant, target)["smoothness"] == 0
    changing = torch.stack([torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.5, 0.3, 0.2])])
    gates = changing[None, :, :, None, None].expand(2, 2, 3, 16, 12)
    found = network.loss_of(target[:, :2], gates, target[:, :2])
    assert found["smoothness"].item() == pytest.approx(0.5 * (3**2 + 3**2) / 3, rel=1e-5)
    assert network.loss_of(target[:, :1], gates[:, :1], target[:, :1])["smoothness"] == 0


def test_loss_is_the_weighted_sum_of_its_robust_terms() -> None:
    config = replace(
        CONV,
        forecast=RobustTerm(0.7, -2.0, 0.3),
        entropy=RobustTerm(0.2, 0.0, 0.5),
        smoothness=RobustTerm(0.4, 1.0, 0.1),
        magnitude=RobustTerm(0.3, 2.0, 2.0),
    )
    network = STMoE(config)
    target, forecast = frames(2), frames(3)[:, 1:] ** 2
    gates = torch.softmax(torch.randn(2, 2, 3, 16, 12), dim=2)
    found = network.loss_of(forecast, gates, target)
    z = ((forecast - target) / 0.3) ** 2
    expected = {
        "forecast": (-2 * ((z / 4 + 1) ** -1 - 1)).mean(),
        "entropy": torch.log(((gates * gates.log()) / 0.5) ** 2 / 2 + 1).mean(),
        "smoothness": (torch.sqrt(((gates[:, 1] - gates[:, 0]) / 0.1) ** 2 + 1) - 1).mean(),
        "magnitude": (gates**2 / 8).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)
    total = sum(getattr(config, name).weight * value for name, value in expected.items())
    torch.testing.assert_close(found["loss"], total, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found["mse"], ((forecast - target) ** 2).mean())


def test_robust_loss_acts_on_every_cell() -> None:
    network = STMoE(CONV)
    target = torch.zeros(1, 1, 1, 8, 8)
    forecast = target.clone()
    forecast[..., 0, 0] = 1.0
    gates = torch.full((1, 1, 3, 8, 8), 1 / 3)
    expected = robust_loss(torch.tensor(1.0), 1.0, 0.05) / 64
    torch.testing.assert_close(network.loss_of(forecast, gates, target)["forecast"], expected)


def test_mean_of_softmax_gates_says_nothing() -> None:
    gates = torch.softmax(torch.randn(2, 3, 3, 5, 5, dtype=torch.float64), dim=2)
    assert masked_mean(gates.abs()).item() == pytest.approx(1 / 3, abs=1e-12)


def test_cells_that_were_not_observed_do_not_count() -> None:
    network = lively(STMoE(CONV)).train()
    x, target = frames(), frames(3)
    valid = torch.arange(target.numel()).view_as(target) % 3 > 0
    wrong = torch.where(valid, target, 7.0)
    found = network.training_loss(x, wrong, valid=valid)
    expected = network.training_loss(x, target, valid=valid)
    assert torch.equal(found["loss"], expected["loss"])
    torch.testing.assert_close(found["mse"], masked_mse(network(x, 3)["pred"], target, valid))
    nowhere = network.training_loss(x, target, valid=torch.zeros_like(valid))
    assert nowhere["forecast"] == 0
    assert nowhere["loss"].isfinite()


def test_training_feeds_back_forecasts_or_as_sampling_says_true_frames() -> None:
    x, target = frames(), frames(3) ** 2
    free = lively(STMoE(CONV)).train()
    torch.testing.assert_close(free.training_loss(x, target)["mse"], masked_mse(free(x, 3)["pred"], target))
    sampled = STMoE(replace(CONV, scheduled_sampling=True)).train()
    sampled.load_state_dict(free.state_dict())
    forced = masked_mse(free(x, 3, target)["pred"], target)
    torch.testing.assert_close(sampled.training_loss(x, target, progress=0.0)["mse"], forced)
    torch.testing.assert_close(
        sampled.training_loss(x, target, progress=1.0)["mse"], free.training_loss(x, target)["mse"]
    )
    assert (forced - masked_mse(free(x, 3)["pred"], target)).abs() > 1e-6


def test_frozen_parts_keep_their_batch_statistics() -> None:
    network = STMoE(ID)
    network.experts.requires_grad_(False)
    network.train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(frames(), 2)
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    network.experts.requires_grad_(True)
    network.train()
    network(frames(), 2)
    assert not all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_a_network_that_is_all_frozen_can_change_its_mode() -> None:
    network = STMoE(CONV).requires_grad_(False)
    assert network.train().training
    assert not network.eval().training


@pytest.mark.parametrize("hidden", [(16, 16)])
def test_mim_experts_have_the_parameters_of_their_formulas(hidden: tuple[int, ...]) -> None:
    network = STMoE(STMoEConfig(hidden=hidden))
    for expert in network.experts:
        assert isinstance(expert, MIMExpert)
        assert count(expert.mim) == 91_632
        assert count(expert.head) == (16 + 1) * 8 * 16
    assert count(network.decoder) == 8 * 9 + 1


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gate_count(width: int) -> int:
    trunk = (4 * 9 + 1) * width + (width * 9 + 1) * width + 4 * width
    excitation = (width + 1) * 4 + (4 + 1) * width
    return trunk + excitation + (width * 25 + 1) * 3


def test_presets_have_their_numbers_of_parameters() -> None:
    conv = STMoE(STMoEConfig())
    assert count(conv) == 3 * (91_632 + 2_176) + gate_count(16) + 73 == 285_824
    advection = count(ADDL(ADDLConfig()))
    identity = STMoE(STMoEConfig(variant="id"))
    assert count(identity) == advection + 2 * (91_632 + 17 * 16) + gate_count(16)
    with torch.device("meta"):
        paper = STMoE(STMoEConfig(hidden=(64,) * 4, kernel_size=5, gate_channels=32))
        assert count(paper) == 3 * (9_256_128 + 65 * 8 * 16) + gate_count(32) + 73 == 27_806_672


def test_grid_of_the_identity_variant_suits_both_kinds_of_expert() -> None:
    assert STMoE(CONV).stride == 4
    assert STMoE(ID).stride == 4
    assert STMoE(replace(ID, patch=3)).stride == 12
    assert STMoE(STMoEConfig(variant="id")).stride == 16


def test_cells_are_the_experts_and_the_gates() -> None:
    network = STMoE(ID)
    cells = list(network.cells())
    assert network.gating in cells
    for expert in network.experts[1:]:
        assert isinstance(expert, MIMExpert)
        assert set(expert.mim.cells()) <= set(cells)
    assert set(network.experts[0].addl.cells()) <= set(cells)


@torch.inference_mode()
def test_gates_without_means_see_nine_by_nine_cells():
    torch.manual_seed(0)
    gating = GatingNetwork(frames=3, channels=8, experts=2, mode="softmax", norm=False).double()
    x = torch.rand(1, 3, 21, 21).double()
    weights = gating(x)
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 21, 21).double())
    other = x.clone()
    other[:, :, 10, 10] += 1
    changed = (gating(other) - weights).abs().amax((0, 1)) > 1e-12
    assert changed[6:15, 6:15].all()
    assert changed.sum() == 81
