"""RECALL of limited reach: the same attention, over the surroundings of each position alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.e3d.network import E3DLSTM, E3DLSTMCell, E3DLSTMConfig
from models.e3d.recall import recall, recall_nearby, recall_shares, shares_nearby

DEPTH, ROWS, COLUMNS, CHANNELS, MEMORIES = 2, 7, 10, 3, 3
SIZE = (DEPTH, ROWS, COLUMNS)


def gate_and_memories(batch: int = 2) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, DEPTH * ROWS * COLUMNS, CHANNELS)
    gate, *memories = (torch.randn(shape, generator=generator).double() for _ in range(MEMORIES + 1))
    return torch.sigmoid(gate), memories


def masked_weights(gate: Tensor, memories: list[Tensor], reach: int) -> Tensor:
    """Return all weights ``(b, n, m n)``, those of positions too far away being 0."""
    row, column = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    apart = [(each.flatten()[:, None] - each.flatten()).abs() for each in (row, column)]
    near = (torch.maximum(*apart) <= reach).repeat(DEPTH, DEPTH * len(memories))
    scores = gate @ torch.cat(memories, dim=1).transpose(1, 2)
    return torch.softmax(scores.masked_fill(~near, float("-inf")), dim=-1)


@pytest.mark.parametrize("reach", [0, 1, 3, 5, 8])
def test_it_is_a_softmax_over_the_window(reach):
    gate, memories = gate_and_memories()
    rows = torch.cat(memories, dim=1)
    recalled = recall_nearby(gate, rows, SIZE, reach)
    weights = masked_weights(gate, memories, reach)
    assert_close(recalled, weights @ rows, atol=1e-12, rtol=0)
    shares = weights.unflatten(2, (MEMORIES, -1)).sum(3).mean(1)
    assert_close(shares_nearby(gate, memories, SIZE, reach), shares, atol=1e-12, rtol=0)


def test_a_reach_of_the_whole_grid_is_none():
    gate, memories = gate_and_memories()
    rows = torch.cat(memories, dim=1)
    for reach in (9, 10, 40):
        assert_close(recall_nearby(gate, rows, SIZE, reach), recall(gate, rows), atol=1e-6, rtol=0)
        assert_close(shares_nearby(gate, memories, SIZE, reach), recall_shares(gate, memories))
    assert not torch.allclose(recall_nearby(gate, rows, SIZE, 8), recall(gate, rows), atol=1e-6)
    assert shares_nearby(gate, [], SIZE, 2).shape == (2, 0)


@pytest.mark.parametrize("reach", [1, 9])
def test_gradients_are_those_of_the_masked_softmax(reach):
    gate, memories = gate_and_memories()
    gate.requires_grad_()
    rows = torch.cat(memories, dim=1).requires_grad_()
    weight = torch.randn(gate.shape, generator=torch.Generator().manual_seed(1)).double()
    ours = torch.autograd.grad((recall_nearby(gate, rows, SIZE, reach) * weight).sum(), (gate, rows))
    parts = list(rows.split(gate.shape[1], dim=1))
    truth = torch.autograd.grad(((masked_weights(gate, parts, reach) @ rows) * weight).sum(), (gate, rows))
    for one, other in zip(ours, truth, strict=True):
        assert_close(one, other, atol=1e-9, rtol=0)
    single = recall_nearby(gate.float(), rows.float(), SIZE, reach)
    assert_close(single.double(), recall_nearby(gate, rows, SIZE, reach), atol=1e-5, rtol=0)


def test_a_view_of_part_of_an_allocation_will_do():
    """As a rollout's window of memories is."""
    gate, memories = gate_and_memories()
    held = torch.stack([torch.full_like(memories[0], torch.nan), *memories], dim=1)
    rows = held[:, 1:].flatten(1, 2)
    expected = recall_nearby(gate, torch.cat(memories, dim=1), SIZE, 2)
    assert torch.equal(recall_nearby(gate, rows, SIZE, 2), expected)


@pytest.mark.parametrize("name", ["forward", "explained", "trained"])
def test_a_network_recalls_no_farther_than_it_reaches(name):
    torch.manual_seed(0)
    near, far, none = (
        E3DLSTM(E3DLSTMConfig(channels=4, patch=1, norm="position", gate_norm=False, reach=reach)).double()
        for reach in (2, 11, None)
    )
    far.load_state_dict(near.state_dict())
    none.load_state_dict(near.state_dict())
    x = torch.rand(2, 5, 1, 9, 12, generator=torch.Generator().manual_seed(2)).double()

    def forecast(net: E3DLSTM) -> list[Tensor]:
        if name == "trained":
            loss = net.training_loss(x[:, :3], x[:, 3:], generator=torch.Generator().manual_seed(0))["loss"]
            return list(torch.autograd.grad(loss, list(net.parameters())))
        with torch.inference_mode():
            result = net.train()(x, 3, explain=name == "explained")
        return [result["pred"], *result["aux"].values()]

    for one, other in zip(forecast(far), forecast(none), strict=True):
        assert_close(one, other, atol=1e-9, rtol=0)
    differences = [(a - b).abs().max() for a, b in zip(forecast(near), forecast(none), strict=True)]
    assert max(differences) > 1e-6


def test_a_negative_reach_is_refused():
    with pytest.raises(ValueError, match="expected a reach of at least 0 patches, got -1"):
        E3DLSTMCell(1, 2, reach=-1)
