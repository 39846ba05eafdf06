"""Fields made of probabilities and ranks have the areas and values that were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.motion.probability_matching import most_probable, rank_matched

THRESHOLDS = np.array([10.0, 20.0, 30.0], np.float32)
EVEN = np.ones(3, np.float32)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def nested(random: np.random.Generator, shape=(3, 40, 50)) -> np.ndarray:
    return np.minimum.accumulate(random.uniform(0.01, 1, shape).astype(np.float32), axis=0)


def rain(random: np.random.Generator, shape=(40, 50)) -> np.ndarray:
    return np.clip(random.normal(15, 12, shape), -10, 50).astype(np.float32)


def test_each_threshold_is_reached_on_as_many_cells_as_in_the_extrapolated_frame(random):
    probability, extrapolated = nested(random), rain(random)
    field = most_probable(probability, extrapolated, THRESHOLDS, EVEN)
    # a higher threshold cannot be reached where a lower one is not: its area may fall short, never exceed
    areas = [(int((field >= t).sum()), int((extrapolated >= t).sum())) for t in THRESHOLDS]
    assert areas[0][0] == areas[0][1]
    assert all(0.8 * wanted < got <= wanted for got, wanted in areas[1:])


def test_the_cells_are_the_most_probable_ones(random):
    probability, extrapolated = nested(random), rain(random)
    reached = most_probable(probability, extrapolated, THRESHOLDS, EVEN) >= 10
    assert probability[0][reached].min() >= probability[0][~reached].max()


def test_a_factor_widens_the_area(random):
    probability, extrapolated = nested(random), rain(random)
    wider = most_probable(probability, extrapolated, THRESHOLDS, np.float32([1.5, 1, 1]))
    assert (wider >= 10).sum() == round(1.5 * int((extrapolated >= 10).sum()))


def test_values_rise_with_the_probability_between_two_thresholds():
    probability = np.stack([[[0.9, 0.8, 0.7, 0.6, 0.5]], [[0.5, 0.4, 0.3, 0.2, 0.1]], np.full((1, 5), 0.001)])
    extrapolated = np.float32([[25, 15, 15, 15, 15]])
    field = most_probable(probability.astype(np.float32), extrapolated, THRESHOLDS, EVEN)
    assert field[0, 0] >= 20
    assert (field[0, 1:] >= 10).all()
    assert (np.diff(field[0]) < 0).all()


def test_the_three_states_of_a_cell_stay_apart(random):
    probability, extrapolated = nested(random), rain(random)
    extrapolated[:5], extrapolated[5:] = np.nan, np.minimum(extrapolated[5:], 25)
    field = most_probable(probability, extrapolated, THRESHOLDS, EVEN)
    assert np.isnan(field[:5]).all()
    assert not np.isnan(field[5:]).any()
    assert set(np.unique(field[5:][field[5:] < 10])) == {-10.0}
    assert not (field[5:] >= 30).any()  # no core out of nothing


def test_without_rain_there_is_none(random):
    dry = np.full((40, 50), -10, np.float32)
    assert (most_probable(nested(random), dry, THRESHOLDS, EVEN) == -10).all()
    assert (rank_matched(rain(random), dry) == -10).all()


def test_rank_matching_gives_out_the_values_of_the_extrapolated_frame_by_rank(random):
    smooth, extrapolated = random.permutation(2000).reshape(40, 50).astype(np.float32), rain(random)
    matched = rank_matched(smooth, extrapolated)
    assert np.array_equal(np.sort(matched, axis=None), np.sort(extrapolated, axis=None))
    order = np.argsort(smooth, axis=None)
    assert (np.diff(matched.ravel()[order]) >= 0).all()


def test_rank_matching_leaves_dry_cells_dry_and_unknown_ones_unknown():
    field = np.float32([[-10, 5, 8, 2], [7, 3, -10, 1]])
    extrapolated = np.float32([[30, 20, np.nan, -10], [10, 40, 25, 15]])
    assert np.array_equal(
        rank_matched(field, extrapolated),
        np.float32([[-10, 30, np.nan, 20], [40, 25, -10, 15]]),
        equal_nan=True,
    )
