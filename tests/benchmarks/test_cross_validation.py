"""What cross-validation chooses follows from the counts, and the prior holds their sums."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cross_validation import FACTORS, FOLDS, TRUSTS, at_all_thresholds, chosen, prior_of


def counts(best: int, *, bias: float = 1.0) -> np.ndarray:
    """Counts ``(1 + trust x factor, 3, 3)`` of 10,000 observed cells, the ``best``-th row with most hits."""
    rows = np.full((1 + len(TRUSTS) * len(FACTORS), 3, 3), 5000.0)
    rows[best, 0], rows[best, 1] = 6000, 4000
    rows[:, 2] = 10_000 * bias - rows[:, 0]
    return rows


def row(trust: float, factor: float) -> int:
    return 1 + TRUSTS.index(trust) * len(FACTORS) + FACTORS.index(factor)


def test_folds_share_no_event():
    assert not set(FOLDS["A"]) & set(FOLDS["B"])


def test_the_trust_and_factor_with_the_best_scores_are_chosen():
    table = chosen({"x": {5.0: counts(row(0.5, 1.1)), 10.0: counts(row(0.5, 1.1))}}, 2, 5.0)
    assert (table[0] == 0.5).all()
    assert np.allclose(table[1], 1.1)


def test_every_event_has_the_same_say_whatever_its_size():
    large, small = counts(row(1.0, 1.0)), counts(row(0.25, 1.2))
    large[:, :, :] *= 100
    third = counts(row(0.25, 1.2))
    table = chosen({"large": {5.0: large}, "small": {5.0: small}, "third": {5.0: third}}, 1, 5.0)
    assert (table[0, 0] == 0.25).all()


def test_a_factor_that_smears_is_not_chosen():
    table = chosen({"x": {5.0: counts(row(1.0, 1.3), bias=1.3)}}, 1, 5.0)
    assert (table[1] == 1.0).all()


def test_a_lead_nothing_is_known_of_has_the_values_of_the_lead_before():
    table = chosen({"x": {5.0: counts(row(0.5, 1.1))}}, 6, 5.0)
    assert np.allclose(table[:, 5], [[0.5] * 3, [1.1] * 3])


def test_between_judged_thresholds_values_are_interpolated_and_beyond_them_kept():
    table = at_all_thresholds(np.float32([[1.0, 1.2, 1.4]]), np.float32([5, 20, 25, 30, 35, 50]))
    np.testing.assert_allclose(table[0], [1.0, 1.0, 1.1, 1.2, 1.4, 1.4], rtol=1e-6)


def test_the_prior_has_the_sums_of_what_was_chosen():
    by_event = {"x": {5.0: counts(row(0.5, 1.1))}, "y": {5.0: counts(row(0.5, 1.1))}}
    prior = prior_of(by_event, chosen(by_event, 1, 5.0), 5.0)
    assert prior.methods == ("exceedance", "extrapolation")
    assert prior.counts["exceedance", 5].tolist() == [[12_000.0] * 3, [8000.0] * 3, [8000.0] * 3]


@pytest.mark.parametrize("part", [0, 1])
def test_thresholds_choose_for_themselves(part):
    mixed = counts(row(0.5, 1.1))
    other = counts(row(0.75, 1.2))
    mixed[:, :, 2] = other[:, :, 2]
    table = chosen({"x": {5.0: mixed}}, 1, 5.0)
    assert np.allclose(table[part, 0], [[0.5, 0.5, 0.75], [1.1, 1.1, 1.2]][part])
