"""A cascade gives back what it was made of, and its autoregression is the one that made a series."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from nowcast.motion.cascade import Cascade, autoregression, iterated, level_weights

Array = NDArray[np.float32]


def noise(count: int, shape: tuple[int, int]) -> list[Array]:
    """Fields of which each is half the one before and half new, alike at all scales."""
    random = np.random.default_rng(5)
    fields = [random.normal(size=shape)]
    for _ in range(count - 1):
        fields.append(0.5 * fields[-1] + random.normal(size=shape))
    return [field.astype(np.float32) for field in fields]


def wave(wavenumber: int, side: int = 128) -> Array:
    """So many waves from west to east."""
    phase = 2 * np.pi * wavenumber * np.arange(side) / side
    return np.broadcast_to(np.cos(phase), (side, side)).astype(np.float32)


def one_level(level: int, levels: int) -> NDArray[np.float64]:
    return np.eye(levels)[level][None]


@pytest.mark.parametrize("side", [1, 2, 7, 117, 512, 4500])
def test_the_weights_of_levels_add_up_to_one(side):
    weights = level_weights(side)
    assert weights.sum(0) == pytest.approx(1)
    assert (weights >= 0).all()


@pytest.mark.parametrize(("side", "levels"), [(128, 5), (512, 6), (1250, 7), (4500, 8)])
def test_a_larger_grid_has_more_levels(side, levels):
    assert len(level_weights(side)) == levels


@pytest.mark.parametrize("shape", [(64, 64), (97, 61), (50, 133), (1, 9), (1, 1)])
def test_all_levels_together_are_the_field(shape):
    field = noise(1, shape)[0]
    cascade = Cascade([np.zeros_like(field), field])
    whole = cascade.recomposed(np.ones((1, cascade.levels)))
    assert whole.dtype == np.float32
    assert whole == pytest.approx(field, abs=1e-5)


def test_a_wave_lies_on_the_level_of_its_length():
    strongest = []
    for wavenumber in (1, 8, 64):  # centres are 1, 2.8, 8, 22.6 and 64 waves per grid
        cascade = Cascade([wave(wavenumber)])
        sizes = [np.ptp(cascade.recomposed(one_level(k, 5))) for k in range(5)]
        strongest.append(int(np.argmax(sizes)))
        assert max(sizes) > 1.5, "most of what goes from -1 to 1"
    assert strongest == [0, 2, 4]


def test_each_field_takes_its_own_factor():
    older, newer = noise(2, (40, 56))
    cascade = Cascade([older, newer])
    mixed = cascade.recomposed(np.repeat([[-0.25], [2.0]], cascade.levels, axis=1))
    assert mixed == pytest.approx(2 * newer - 0.25 * older, abs=1e-4)


def test_correlations_are_those_of_levels_on_the_grid():
    fields = noise(3, (64, 96))
    cascade = Cascade(fields)
    levels = [
        [Cascade([field]).recomposed(one_level(k, cascade.levels)).ravel() for field in fields]
        for k in range(cascade.levels)
    ]
    expected = [np.corrcoef(level) for level in levels]
    lag_1, lag_2 = cascade.autocorrelations()
    assert lag_1 == pytest.approx([(c[0, 1] + c[1, 2]) / 2 for c in expected], abs=1e-4)
    assert lag_2 == pytest.approx([c[0, 2] for c in expected], abs=1e-4)


def test_what_does_not_vary_is_not_correlated():
    flat = np.full((32, 32), 7.0, np.float32)
    assert not Cascade([flat, flat, flat]).autocorrelations().any()


def test_the_coefficients_of_a_second_order_process_come_back():
    phi = np.array([1.2, -0.4])
    first = phi[0] / (1 - phi[1])
    correlations = np.array([[first], [phi[0] * first + phi[1]]])
    assert autoregression(correlations)[:, 0] == pytest.approx(phi)


def test_one_lag_gives_a_process_of_first_order():
    assert autoregression(np.array([[0.7, 0.2]])).tolist() == [[0.7, 0.2]]


@pytest.mark.parametrize("correlations", [(0.9, 0.1), (1.0, 1.0), (0.5, 1.2), (-1.0, 0.3), (1.3, 0.9)])
def test_impossible_correlations_still_give_a_process_that_fades(correlations):
    phi = autoregression(np.array(correlations)[:, None])[:, 0]
    roots = np.linalg.eigvals([[phi[0], phi[1]], [1, 0]])
    assert np.abs(roots).max() < 1


def test_a_process_goes_on_from_its_last_two_fields():
    phi = np.array([[1.2, 0.5], [-0.4, 0.1]])
    older, newest = np.array([3.0, 1.0]), np.array([2.0, -1.0])
    series = [older, newest]
    for factors in islice(iterated(phi), 6):
        series.append(phi[0] * series[-1] + phi[1] * series[-2])
        assert factors[0] * older + factors[1] * newest == pytest.approx(series[-1])
