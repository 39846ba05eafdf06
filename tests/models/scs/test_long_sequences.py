"""Clips cover a long sequence, overlap, and hand on what they are told to."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.forecaster import FREE
from models.scs.long_sequences import clip_starts, detached, run_clips


@pytest.mark.parametrize(
    ("steps", "length", "expected"),
    [
        (60, 10, [0, 7, 14, 21, 28, 35, 42, 49, 50]),
        (10, 4, [0, 3, 6]),
        (30, 10, [0, 7, 14, 20]),
        (5, 10, [0]),
        (10, 10, [0]),
        (4, 2, [0, 1, 2]),
    ],
)
def test_clips_start_where_the_paper_has_them(steps, length, expected):
    assert clip_starts(steps, length) == expected


@given(steps=st.integers(1, 200), length=st.integers(2, 30), overlap=st.sampled_from([0.1, 0.25, 0.3, 0.5]))
def test_clips_cover_every_step_and_overlap_enough(steps, length, overlap):
    starts = clip_starts(steps, length, overlap)
    clips = [range(start, min(start + length, steps)) for start in starts]
    assert set().union(*clips) == set(range(steps))
    for before, after in itertools.pairwise(clips):
        assert before.start < after.start
        assert len(set(before) & set(after)) >= max(1, overlap * length - 1e-9)


@pytest.mark.parametrize(
    ("steps", "length", "overlap"), [(0, 4, 0.25), (9, 1, 0.25), (9, 4, 0.0), (9, 4, 1.0)]
)
def test_clips_that_would_not_move_on_or_not_overlap_are_refused(steps, length, overlap):
    with pytest.raises(ValueError, match="seen again"):
        clip_starts(steps, length, overlap)


def leaky(frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A step whose every output tells all earlier frames."""
    state = 0.5 * state + frame
    return state, state


#: Ten steps of two samples; clips of four start at 0, 3 and 6.
FRAMES = list(torch.linspace(1, 2, 20).reshape(10, 2, 1).double().unbind(0))
START = torch.full((2, 1), 8.0, dtype=torch.float64)


def one_run(frames, state):
    outputs = []
    for frame in frames:
        output, state = leaky(frame, state)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


def test_exact_clips_repeat_one_long_run():
    whole, last = one_run(FRAMES, START)
    clips = list(run_clips(leaky, FRAMES, START, length=4, carry="exact"))
    assert [clip.start for clip in clips] == [0, 3, 6]
    for clip in clips:
        assert torch.equal(clip.outputs, whole[:, clip.start : clip.start + 4])
        assert clip.overlap == 0
    assert torch.equal(clips[-1].state, last)


def test_a_clip_goes_on_from_the_end_of_the_one_before():
    first, second, _ = run_clips(leaky, FRAMES, START, length=4)
    again, _ = one_run(FRAMES[3:7], first.state)
    assert torch.equal(second.outputs, again)
    assert second.overlap == pytest.approx(((first.outputs[:, 3:] - again[:, :1]) ** 2).mean().item())
    assert second.overlap > 0
    assert first.overlap == 0


def test_a_clip_may_start_anew():
    for clip in run_clips(leaky, FRAMES, START, length=4, carry="none"):
        assert torch.equal(clip.outputs, one_run(FRAMES[clip.start : clip.start + 4], START)[0])


def test_the_overlap_of_a_last_clip_is_all_both_saw():
    """Of eight steps the clips 0-3, 3-6 and 4-7: the last two share three."""
    _, second, third = run_clips(leaky, FRAMES[:8], START, length=4)
    expected = ((second.outputs[:, 1:] - third.outputs[:, :3]) ** 2).mean()
    assert third.overlap == pytest.approx(expected.item())


@pytest.mark.parametrize("carry", ["end_detached", "none", "exact"])
def test_no_gradient_goes_back_into_the_clip_before(carry):
    frames = [frame.clone().requires_grad_() for frame in FRAMES]
    clips = list(run_clips(leaky, frames, START, length=4, carry=carry))
    (clips[1].outputs.sum() + clips[1].overlap).backward()
    assert all(frame.grad is None for frame in frames[:3])
    assert all(frame.grad is not None for frame in frames[3:7])


class Pair(NamedTuple):
    left: torch.Tensor
    right: tuple[torch.Tensor, int]


def test_nested_states_keep_their_kind_without_gradient():
    grown = torch.ones(2, requires_grad=True) * 2
    state = detached(Pair(grown, (grown, 3)))
    assert isinstance(state, Pair)
    assert not state.left.requires_grad
    assert not state.right[0].requires_grad
    assert state.right[1] == 3


def test_any_recurrent_forecaster_can_take_in_a_long_sequence_in_clips():
    network = ConvLSTM(ConvLSTMConfig(hidden=(2,)))
    x = torch.rand(1, 9, 1, 8, 8)

    def step(frame, state):
        state = network.encode(frame, state)
        return state.layers[0].hidden, state

    clips = list(run_clips(step, x.unbind(1), network.start(x[:, 0]), length=4, carry="exact"))
    whole = network(x, 2)["pred"]
    handed = network.decode(clips[-1].state, 2, FREE)["pred"]
    torch.testing.assert_close(handed, whole)
