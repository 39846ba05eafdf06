"""The fractions skill score against a plain loop, published implementations and cases known by heart."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nowcast.scores.fss import BLOCK_CELLS, fss_sums, half_windows

VALUES = st.sampled_from([np.nan, -10.0, 5.0, 20.0, 25.0, 30.0, 45.0])


def score(forecast, truth, threshold, window_cells):
    half = (window_cells // 2, window_cells // 2)
    sums = fss_sums(forecast, truth, np.array([threshold], np.float32), [half])
    return 1 - sums[0, 0, 0] / sums[1, 0, 0]


def sums_by_loop(forecast, truth, threshold, half):
    difference = reference = 0.0
    observed = ~np.isnan(truth)
    for j, i in np.argwhere(observed):
        window = (
            slice(max(j - half[0], 0), j + half[0] + 1),
            slice(max(i - half[1], 0), i + half[1] + 1),
        )
        inside = observed[window]
        p_f = np.mean((forecast[window] >= threshold)[inside])
        p_o = np.mean((truth[window] >= threshold)[inside])
        difference += (p_f - p_o) ** 2
        reference += p_f**2 + p_o**2
    return difference, reference


def moving_rain(ny=60, nx=70):
    """Two overlapping cells of rain, and the same a little further, far enough from every edge."""
    y, x = np.mgrid[:ny, :nx]
    fields = []
    for shift in (0, 4):
        field = 55 * np.exp(-((y - 28) ** 2 + (x - 30 - shift) ** 2) / 40)
        field = np.maximum(field, 48 * np.exp(-((y - 35) ** 2 + (x - 38 - shift) ** 2) / 30))
        fields.append(np.where(field < 1, -10, field).astype(np.float32))
    return fields


def test_a_window_holds_the_cells_within_half_its_width():
    assert half_windows([1.0, 5.0, 10.0], (1.0, 1.0)) == ((0, 0), (2, 2), (5, 5))
    assert half_windows([10.0], (2.0, 2.0)) == ((2, 2),)
    assert half_windows([0.3], (0.15, 0.05)) == ((1, 3),)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, (7, 9), elements=VALUES),
    arrays(np.float32, (7, 9), elements=VALUES),
    st.tuples(st.integers(0, 8), st.integers(0, 12)),
)
def test_sums_equal_a_plain_loop_whatever_is_missing(forecast, truth, half):
    sums = fss_sums(forecast, truth, np.array([20.0, 30.0], np.float32), [half, (1, 1)])

    for k, threshold in enumerate((20.0, 30.0)):
        for w, window in enumerate((half, (1, 1))):
            assert sums[:, k, w] == pytest.approx(sums_by_loop(forecast, truth, threshold, window), rel=1e-12)


def test_a_field_of_several_blocks_scores_as_its_parts_do():
    rng = np.random.default_rng(1)
    ny, nx = 2 * BLOCK_CELLS // 600, 600
    forecast, truth = rng.uniform(-10, 45, (2, ny, nx)).astype(np.float32)
    truth[rng.random((ny, nx)) < 0.2] = np.nan
    threshold, half = np.array([30.0], np.float32), [(3, 5)]

    whole = fss_sums(forecast, truth, threshold, half)

    parts = np.zeros_like(whole)
    for start in range(0, ny, 50):  # centres of 50 rows, with the rows their windows reach
        top, bottom = max(start - 3, 0), min(start + 53, ny)
        centres = slice(start - top, min(start + 50, ny) - top)
        parts += sums_of_centres(forecast[top:bottom], truth[top:bottom], 30.0, (3, 5), centres)
    assert whole == pytest.approx(parts, rel=1e-12)


def sums_of_centres(forecast, truth, threshold, half, centres):
    """The same sums from an integral image of float64, over some centre rows only."""

    def box(events):
        padded = np.pad(events.astype(np.float64), ((half[0] + 1, half[0]), (half[1] + 1, half[1])))
        image = padded.cumsum(0).cumsum(1)
        rows, columns = 2 * half[0] + 1, 2 * half[1] + 1
        return (
            image[rows:, columns:]
            - image[:-rows, columns:]
            - image[rows:, :-columns]
            + image[:-rows, :-columns]
        )

    observed = ~np.isnan(truth)
    cells = np.maximum(box(observed), 1)
    p_f = (box((forecast >= threshold) & observed) / cells)[centres][observed[centres]]
    p_o = (box(truth >= threshold) / cells)[centres][observed[centres]]
    return np.array([np.sum((p_f - p_o) ** 2), np.sum(p_f**2 + p_o**2)]).reshape(2, 1, 1)


def test_windows_of_more_cells_than_sixteen_bits_count_are_exact():
    truth = np.full((400, 300), 40.0, np.float32)
    forecast = np.full((400, 300), -10.0, np.float32)
    forecast[:, :150] = 40.0

    difference, reference = fss_sums(forecast, truth, np.array([30.0], np.float32), [(400, 300)])[:, 0, 0]

    assert difference == pytest.approx(400 * 300 * 0.25, rel=1e-12)  # half the rain everywhere
    assert reference == pytest.approx(400 * 300 * 1.25, rel=1e-12)


def test_a_shifted_cell_scores_nothing_at_its_own_scale_and_more_over_wider_windows():
    truth = np.full((50, 50), -10.0, np.float32)
    truth[20:24, 20:24] = 40.0
    forecast = np.roll(truth, 4, axis=1)

    assert score(truth, truth, 30.0, 5) == 1.0
    assert score(forecast, truth, 30.0, 1) == 0.0
    assert 0.0 < score(forecast, truth, 30.0, 5) < score(forecast, truth, 30.0, 15) < 1.0


def test_rain_under_a_hole_in_the_truth_is_no_false_alarm():
    forecast, truth = moving_rain()
    hidden = truth.copy()
    hidden[20:45, 20:50] = np.nan  # where all the rain of both is
    sums = fss_sums(forecast, hidden, np.array([30.0], np.float32), [(3, 3)])

    assert score(forecast, truth, 30.0, 7) < 1
    assert np.all(sums == 0)


@pytest.mark.parametrize("window", [1, 5, 11])
@pytest.mark.parametrize("threshold", [20.0, 35.0])
def test_fss_agrees_with_pysteps(threshold, window):
    spatial = pytest.importorskip("pysteps.verification.spatialscores", reason="pysteps is the oracle")
    forecast, truth = moving_rain()

    assert score(forecast, truth, threshold, window) == pytest.approx(
        spatial.fss(forecast, truth, threshold, window), rel=1e-6
    )


@pytest.mark.parametrize("window", [1, 5, 11])
@pytest.mark.parametrize("threshold", [20.0, 35.0])
def test_fss_agrees_with_scores(threshold, window):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the oracle warns of while importing is not ours
        spatial = pytest.importorskip("scores.spatial", reason="scores is the oracle")
    forecast, truth = moving_rain()

    theirs = spatial.fss_2d_single_field(
        forecast, truth, event_threshold=threshold, window_size=(window, window)
    )
    assert score(forecast, truth, threshold, window) == pytest.approx(float(theirs), rel=1e-6)
