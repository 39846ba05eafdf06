"""RECALL: the plain softmax it stands for, repeated memories, and what it allocates."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from models.e3d import recall as module
from models.e3d.recall import MemoryWindow, from_rows, recall, recall_shares, to_rows


def rows(positions: int, channels: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, positions, channels, generator=generator)


def plain(gate: torch.Tensor, memories: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return torch.softmax(scale * gate @ memories.transpose(1, 2), dim=-1) @ memories


@pytest.mark.parametrize("tau", [1, 3])
def test_recall_is_the_softmax_of_unscaled_products(tau):
    gate, memories = torch.sigmoid(rows(30, 16, 0)), rows(tau * 30, 16, 1)
    recalled = recall(gate, memories)
    torch.testing.assert_close(recalled, plain(gate, memories), atol=1e-5, rtol=0)
    assert (recalled - plain(gate, memories, scale=16**-0.5)).abs().max() > 0.1


def test_repeating_a_memory_changes_nothing():
    gate, memory = torch.sigmoid(rows(24, 8, 0)), rows(24, 8, 1)
    torch.testing.assert_close(
        recall(gate, torch.cat([memory] * 5, dim=1)), recall(gate, memory), atol=1e-5, rtol=0
    )


def test_a_constant_memory_is_recalled_as_it_is():
    constant = torch.tensor([0.3, -2.0, 5.0])
    recalled = recall(torch.sigmoid(rows(7, 3, 0)), constant.expand(2, 21, 3))
    torch.testing.assert_close(recalled, constant.expand(2, 7, 3), atol=1e-5, rtol=0)


def test_rows_and_volumes_are_each_other_s_inverse():
    volume = torch.arange(2 * 2 * 3 * 4 * 5.0).reshape(2, 2, 3, 4, 5)
    as_rows = to_rows(volume)
    assert torch.equal(from_rows(as_rows, 2, (4, 5)), volume)
    assert torch.equal(as_rows[1, 1 * 20 + 2 * 5 + 3], volume[1, 1, :, 2, 3]), "channels last, time first"


def test_shares_are_the_sums_of_each_memory_s_weights(monkeypatch):
    gate, memories = torch.sigmoid(rows(10, 4, 0)), [rows(10, 4, seed) for seed in (1, 2, 3)]
    weights = torch.softmax(gate @ torch.cat(memories, dim=1).transpose(1, 2), dim=-1)
    expected = torch.stack([part.sum(-1).mean(1) for part in weights.split(10, dim=-1)], dim=1)
    whole = recall_shares(gate, memories)
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(whole.sum(1), torch.ones(2))
    monkeypatch.setattr(module, "SCORES_AT_A_TIME", 2 * 30 * 3)
    three_queries_at_a_time = recall_shares(gate, memories)
    torch.testing.assert_close(three_queries_at_a_time, whole)
    assert recall_shares(gate, []).shape == (2, 0)


def test_a_memory_like_the_gate_gets_the_attention():
    gate = torch.zeros(1, 4, 6)
    gate[..., 0] = 1.0
    shares = recall_shares(gate, [-10 * gate, 10 * gate, torch.zeros(1, 4, 6)])
    assert shares.argmax() == 1
    assert shares[0, 1] > 0.99


@pytest.mark.parametrize(("length", "pushes"), [(3, 11), (1, 5), (4, 4), (9, 6), (2, 4), (2, 5)])
def test_the_window_holds_the_latest_memories_in_their_order(length, pushes):
    window, memories = MemoryWindow(length, pushes), [rows(4, 3, seed) for seed in range(pushes)]
    assert window.rows() is None
    for count, memory in enumerate(memories, start=1):
        window.push(memory)
        held = window.rows()
        assert held is not None
        assert torch.equal(held, torch.cat(memories[max(0, count - length) : count], dim=1))
        assert held.untyped_storage().nbytes() == min(2 * length, pushes) * memory.numel() * 4
        assert held._is_view()


def test_a_window_of_no_length_holds_nothing():
    window = MemoryWindow(0, 5)
    window.push(rows(4, 3, 0))
    assert window.rows() is None


def test_filling_a_window_copies_each_memory_at_most_twice():
    window, memory = MemoryWindow(4, 40), rows(64, 8, 0)
    window.push(memory)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True) as record:
        for _ in range(39):
            window.push(memory)
            window.rows()
    copied = sum(
        torch.Size(event.input_shapes[0]).numel() for event in record.events() if event.name == "aten::copy_"
    )
    assert 39 * memory.numel() <= copied <= 2 * 39 * memory.numel()
    assert all(event.self_cpu_memory_usage <= memory.numel() * 4 * 4 for event in record.events())


@pytest.mark.parametrize("gradients", [False, True])
def test_the_scores_are_never_held(gradients):
    """2048 queries against eight times as many keys: 134 MB of scores, in vain."""
    gate = torch.rand(1, 2048, 16, requires_grad=gradients)
    memories = torch.randn(1, 8 * 2048, 16, requires_grad=gradients)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        recalled = recall(gate, memories)
        if gradients:
            recalled.sum().backward()
    allocated = [event.self_cpu_memory_usage for event in record.events()]
    assert sum(size for size in allocated if size > 0) < 2048 * 8 * 2048 * 4 / 10
    assert max(allocated) > 0, "the profiler sees allocations"
    assert any("flash_attention" in event.name for event in record.events())


@pytest.mark.parametrize("depth", [1, 2])
def test_rows_of_a_volume_need_no_matrix_of_scores_either(depth):
    gate, memory = (to_rows(torch.rand(1, depth, 8, 16, 16)) for _ in range(2))
    with profile(activities=[ProfilerActivity.CPU]) as record, torch.inference_mode():
        recall(gate, memory)
    assert any("flash_attention" in event.name for event in record.events())


def test_recall_has_the_gradients_of_the_plain_softmax():
    gate, memories = (
        torch.rand(1, 5, 3).double().requires_grad_(),
        torch.randn(1, 10, 3).double().requires_grad_(),
    )
    assert torch.autograd.gradcheck(recall, (gate, memories))
    torch.manual_seed(0)
    weight = torch.randn(1, 5, 3).double()
    ours = torch.autograd.grad((recall(gate, memories) * weight).sum(), (gate, memories))
    theirs = torch.autograd.grad((plain(gate, memories) * weight).sum(), (gate, memories))
    torch.testing.assert_close(ours, theirs)


def test_shares_take_no_gradient_and_are_computed_in_parts():
    gate = torch.rand(1, 3000, 4, requires_grad=True)
    memories = [torch.randn(1, 3000, 4) for _ in range(2)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        shares = recall_shares(gate, memories)
    assert not shares.requires_grad
    assert max(event.self_cpu_memory_usage for event in record.events()) <= 4 * module.SCORES_AT_A_TIME
    keys = torch.cat(memories, dim=1)
    expected = functional.softmax(gate @ keys.transpose(1, 2), dim=-1)[..., :3000].sum(-1).mean()
    torch.testing.assert_close(shares[0, 0], expected.detach(), atol=1e-4, rtol=0)
