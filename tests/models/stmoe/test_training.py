"""Every stage of an STMoE's training changes what it should, leaves the rest alone, and teaches something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from models.addl import ADDL, ADDLConfig
from models.forecaster import masked_mse
from models.stmoe.network import ExpertMixture, STMoE, STMoEConfig
from models.stmoe.physics import KINDS, PhysicsSequences
from models.stmoe.training import (
    GATES_SHARE,
    LEARNING_RATES,
    Stage,
    decoder_stage,
    expert_stage,
    gates_loss,
    gates_stage,
    stages,
    whole_stage,
    window_features,
)

CONV = STMoEConfig(hidden=(4, 4), channels=3, gate_channels=8)
ID = replace(CONV, variant="id", translation=ADDLConfig(widths=(4, 4), up=(4, 4), refined=1))


@pytest.fixture(autouse=True)
def same_weights_every_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        yield


def frames(count: int, *, height: int = 16, width: int = 12) -> Tensor:
    shape = (2, count, 1, height, width)
    return 0.5 + 0.5 * torch.sin(torch.arange(2 * count * height * width) * 0.37 + count).view(shape)


def train(stage: Stage, steps: int = 3) -> None:
    optimiser = torch.optim.Adam(stage.parameters, stage.learning_rate)
    stage.forecaster.train()
    for _ in range(steps):
        optimiser.zero_grad()
        stage.forecaster.training_loss(frames(4), frames(3))["loss"].backward()
        optimiser.step()


def changed_by(stage: Stage, network: nn.Module) -> set[str]:
    """The parts, by name, in which training changes a parameter or a buffer by as much as a bit."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained = {id(parameter) for parameter in stage.parameters}
    assert all(id(parameter) in trained or not parameter.requires_grad for parameter in network.parameters())
    train(stage)
    parts = ("experts.0", "experts.1", "experts.2", "gating", "decoder")
    return {
        part
        for part in parts
        for name, value in network.state_dict().items()
        if name.startswith(part) and not torch.equal(value, before[name])
    }


def test_decoder_stage_trains_the_decoder_and_a_throw_away_encoder() -> None:
    network = STMoE(CONV)
    stage = decoder_stage(network)
    assert isinstance(stage.forecaster, ExpertMixture)
    (encoder,) = stage.forecaster.experts
    assert all(encoder is not expert for expert in network.experts)
    before = [parameter.clone() for parameter in encoder.parameters()]
    assert changed_by(stage, network) == {"decoder"}
    assert all(not torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("config", [CONV, ID], ids=["conv", "id"])
def test_expert_stage_trains_one_expert_and_leaves_the_decoder_bit_for_bit(
    config: STMoEConfig, number: int
) -> None:
    network = STMoE(config)
    stage = expert_stage(network, KINDS[number])
    assert changed_by(stage, network) == {f"experts.{number}"}
    assert {id(p) for p in stage.parameters} == {id(p) for p in network.experts[number].parameters()}


@pytest.mark.parametrize("gate", ["softmax", "sigmoid", "uniform"])
@pytest.mark.parametrize("config", [CONV, ID], ids=["conv", "id"])
def test_gates_stage_changes_only_the_gates_batch_statistics_included(config: STMoEConfig, gate: str) -> None:
    network = STMoE(replace(config, gate=gate))
    assert network.gating is not None
    stage = gates_stage(network)
    assert changed_by(stage, network) == {"gating"}
    assert {id(p) for p in stage.parameters} == {id(p) for p in network.gating.parameters()}


@pytest.mark.parametrize("config", [CONV, ID], ids=["conv", "id"])
def test_whole_stage_changes_everything(config: STMoEConfig) -> None:
    network = STMoE(config)
    gates_stage(network)
    stage = whole_stage(network)
    parts = {"experts.0", "experts.1", "experts.2", "gating"}
    assert changed_by(stage, network) == (parts | {"decoder"} if config is CONV else parts)
    assert len(stage.parameters) == len(list(network.parameters()))


def test_stages_come_in_order_each_with_its_data_and_rate() -> None:
    found = [(stage.name, stage.data, stage.learning_rate) for stage in stages(STMoE(CONV))]
    assert found == [
        ("A1", "all", 1e-3),
        ("A2", "translation", 1e-3),
        ("A2", "rotation", 1e-3),
        ("A2", "intensity", 1e-3),
        ("B1", "rain", 1e-3),
        ("B2", "rain", 1e-4),
    ]
    assert [stage.name for stage in stages(STMoE(ID))] == ["A2", "A2", "A2", "B1", "B2"]
    ungated = stages(STMoE(replace(CONV, gate="none")))
    assert [stage.name for stage in ungated] == ["A1", "A2", "A2", "A2", "B2"]
    assert set(LEARNING_RATES) == {"A1", "A2", "B1", "B2"}
    assert GATES_SHARE == 0.2


def test_stages_without_anything_to_train_are_refused() -> None:
    with pytest.raises(ValueError, match="a decoder"):
        decoder_stage(STMoE(ID))
    with pytest.raises(ValueError, match="gates"):
        gates_stage(STMoE(replace(CONV, gate="none")))


def test_local_stages_minimise_the_experts_own_losses() -> None:
    x, target = frames(4), frames(3)
    for stage in islice(stages(STMoE(CONV)), 4):
        loss = stage.forecaster.training_loss(x, target)
        torch.testing.assert_close(loss["loss"], masked_mse(stage.forecaster(x, 3)["pred"], target))
    translation = expert_stage(STMoE(ID), "translation")
    assert isinstance(translation.forecaster, ADDL)
    assert "divergence" in translation.forecaster.training_loss(x, target)
    for global_stage in (gates_stage(STMoE(CONV)), whole_stage(STMoE(CONV))):
        assert {"entropy", "smoothness", "magnitude"} <= set(global_stage.forecaster.training_loss(x, target))


@pytest.mark.parametrize("config", [CONV, ID], ids=["conv", "id"])
def test_gates_learn_the_same_from_kept_features_as_from_true_frames(config: STMoEConfig) -> None:
    network = STMoE(config).eval()
    x, target = frames(6, height=15, width=10), frames(3, height=15, width=10) ** 2
    valid = torch.arange(target.numel()).view_as(target) % 5 > 0
    features = window_features(network, x, target)
    stage = gates_stage(network)
    assert not features.requires_grad
    found = gates_loss(network, features, x, target, valid=valid)
    forecast = network(x, 3, target, explain=True)
    expected = network.loss_of(forecast["pred"], forecast["aux"]["gates"], target, valid)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)
    slopes = torch.autograd.grad(found["loss"], stage.parameters)
    for slope, wanted in zip(slopes, torch.autograd.grad(expected["loss"], stage.parameters), strict=True):
        torch.testing.assert_close(slope, wanted, atol=1e-6, rtol=1e-4)


def teach(stage: Stage, *, steps: int, batch: int = 8) -> None:
    sequences = PhysicsSequences(stage.data, size=32, noise=0.0, seed=1)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(stage.parameters, 4e-3)
    stage.forecaster.train()
    for step in range(steps):
        shown = sequences.batch(range(step * batch, (step + 1) * batch)).frames
        optimiser.zero_grad()
        stage.forecaster.training_loss(shown[:, :4], shown[:, 4:6])["loss"].backward()
        nn.utils.clip_grad_norm_(stage.parameters, 1.0)
        optimiser.step()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_experts_are_best_at_what_they_were_taught() -> None:
    network = STMoE(replace(CONV, hidden=(16, 16), channels=8))
    teach(decoder_stage(network), steps=150)
    for kind in ("translation", "rotation"):
        teach(expert_stage(network, kind), steps=400)
    errors = {}
    for shown in ("translation", "rotation"):
        sequences = PhysicsSequences(shown, size=32, noise=0.0, seed=2).batch(range(100)).frames  # type: ignore[arg-type]
        for taught in ("translation", "rotation"):
            forecaster = network.alone(network.experts[KINDS.index(taught)]).eval()
            with torch.inference_mode():
                forecast = forecaster(sequences[:, :4], 2)["pred"]
            errors[taught, shown] = masked_mse(forecast, sequences[:, 4:6]).item()
    assert errors["translation", "translation"] < 0.9 * errors["rotation", "translation"], errors
    assert errors["rotation", "rotation"] < 0.9 * errors["translation", "rotation"], errors
