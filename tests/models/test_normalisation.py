"""Reflectivity on the networks' scale: physical, reversible, and blind to the future."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.normalisation import (
    NOT_OBSERVED,
    from_bytes,
    to_bytes,
    to_dbz,
    to_unit,
)

WITHIN = st.floats(-10, 60, width=32)


@pytest.mark.parametrize(
    ("dbz", "unit"),
    [
        (-10.0, 0.0),
        (25.0, 0.5),
        (60.0, 1.0),
        (-32.0, 0.0),
        (72.0, 1.0),
        (float("-inf"), 0.0),
        (17.5, 27.5 / 70),
    ],
)
def test_the_scale_is_physical_and_bounded(dbz, unit):
    x, observed = to_unit(torch.tensor([dbz]))
    assert x.item() == pytest.approx(unit, abs=1e-7)
    assert observed.item()


def test_what_was_not_observed_is_zero_and_only_the_mask_tells_it_from_no_echo():
    x, observed = to_unit(torch.tensor([float("nan"), -10.0, 30.0]))
    assert x.tolist() == pytest.approx([0.0, 0.0, 4 / 7])
    assert observed.tolist() == [False, True, True]


def test_the_frame_handed_in_stays_as_it_is():
    dbz = torch.tensor([float("nan"), -32.0, 30.0])
    before = dbz.clone()
    to_unit(dbz)
    to_bytes(dbz)
    assert torch.equal(dbz.nan_to_num(-99.0), before.nan_to_num(-99.0))


@given(WITHIN)
def test_there_and_back_is_the_same(dbz):
    assert to_dbz(to_unit(torch.tensor([dbz]))[0]).item() == pytest.approx(dbz, abs=1e-5)


def test_no_echo_comes_back_as_exactly_that():
    back = to_dbz(torch.tensor([0.0, -0.0, -0.25, -1e-9]))
    assert back.tolist() == [-10.0] * 4


@given(WITHIN)
def test_a_byte_errs_by_at_most_a_seventh_of_a_dbz(dbz):
    packed = to_bytes(torch.tensor([dbz]))
    x, observed = from_bytes(packed)
    assert packed.dtype == torch.uint8
    assert observed.item()
    assert to_dbz(x).item() == pytest.approx(dbz, abs=0.14)


def test_bytes_keep_no_echo_the_ends_and_what_was_not_observed():
    packed = to_bytes(torch.tensor([float("nan"), -10.0, 60.0, 80.0]))
    assert packed.tolist() == [NOT_OBSERVED, 0, 254, 254]
    x, observed = from_bytes(packed)
    assert x.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert observed.tolist() == [False, True, True, True]


def test_a_frame_to_come_never_changes_the_input():
    frames, followed = torch.rand(3, 5, 8, 8) * 40, torch.rand(3, 4, 8, 8) * 40
    other = followed + 30
    both = torch.cat([frames, followed], dim=1), torch.cat([frames, other], dim=1)
    assert torch.equal(*(to_unit(sequence)[0][:, :5] for sequence in both))


def test_each_frame_has_the_same_scale_whatever_else_is_in_the_sequence():
    steady = torch.full((1, 2, 1, 2), 20.0)
    steady[0, 0, 0, 1], steady[0, 1, 0, 1] = 50.0, 30.0  # one pixel fades, the rest is steady
    x, _ = to_unit(steady)
    assert x[0, 0, 0, 0] == x[0, 1, 0, 0]
