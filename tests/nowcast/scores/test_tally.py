"""Tallies against a plain loop, published implementations and answers visible in the test."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nowcast.scores.contingency import Contingency
from nowcast.scores.fss import BLOCK_CELLS
from nowcast.scores.tally import Tally

NAN, DRY = np.nan, -10.0
THRESHOLDS = (20.0, 30.0, 35.0, 40.0)
#: Every kind of pixel: not observed, no echo in two spellings, below, at and above thresholds.
VALUES = st.sampled_from([NAN, -np.inf, DRY, 3.5, 19.999, 20.0, 30.0, 34.0, 35.0, 60.0])
FIELDS = arrays(np.float32, (5, 6), elements=VALUES)


def tally_of(forecast, truth, thresholds=THRESHOLDS, **windows):
    tally = Tally(thresholds, **windows)
    tally.add(np.array(forecast, np.float32), np.array(truth, np.float32))
    return tally


def with_windows(forecast, truth):
    return tally_of(forecast, truth, windows_km=(1.0, 3.0), cell_km=(1.0, 1.0))


def rain(seed, ny=90, nx=80, missing=0.1):
    rng = np.random.default_rng(seed)
    coarse = rng.gamma(0.7, 14.0, (ny // 10, nx // 10)).repeat(10, 0).repeat(10, 1)
    forecast, truth = (coarse + rng.normal(0, 6, (2, ny, nx)) - 10).clip(-10, 60).astype(np.float32)
    truth[rng.random((ny, nx)) < missing] = NAN
    return forecast, truth


def test_counts_and_ratios_of_a_case_done_by_hand():
    forecast = [[25, 25, 25, DRY, DRY, DRY, 25, NAN]]
    truth = [[25, 25, DRY, 25, DRY, DRY, NAN, 25]]
    counts = tally_of(forecast, truth).contingency(20.0)

    assert counts == Contingency(hits=2, misses=2, false_alarms=1, correct_negatives=2)
    assert counts.csi == 2 / 5
    assert counts.far == 1 / 3
    assert counts.pod == 2 / 4
    assert counts.bias == 3 / 4
    assert counts.hss == 2 * (2 * 2 - 1 * 2) / (4 * 4 + 3 * 3)
    assert counts.ets == pytest.approx((2 - 12 / 7) / (5 - 12 / 7))  # hits beyond the 3*4/7 of chance
    assert counts.cor_bin == pytest.approx(math.sqrt((2 / 4) * (1 - 1 / 3)))


def test_errors_and_correlations_of_a_case_done_by_hand():
    tally = tally_of([[20, NAN, DRY, 55]], [[25, 0, DRY, NAN]])  # x: 30, 0, 0 and 35, 10, 0

    assert tally.pixels == 3
    assert tally.mae() == pytest.approx((5 + 10 + 0) / 3)
    assert tally.mse() == pytest.approx((25 + 100 + 0) / 3)
    assert tally.cor_real() == pytest.approx(30 * 35 / math.sqrt(30**2 * (35**2 + 10**2)))
    assert tally.pearson_r() == pytest.approx(np.corrcoef([30, 0, 0], [35, 10, 0])[0, 1])


@settings(max_examples=80, deadline=None)
@given(FIELDS, FIELDS)
def test_counts_equal_a_plain_loop(forecast, truth):
    tally = tally_of(forecast, truth)
    for threshold in THRESHOLDS:
        a = b = c = d = 0
        for f, o in zip(forecast.flat, truth.flat, strict=True):
            if math.isnan(o):
                continue
            a += f >= threshold and o >= threshold
            b += f >= threshold and not o >= threshold
            c += o >= threshold and not f >= threshold
            d += not f >= threshold and not o >= threshold
        assert tally.contingency(threshold) == Contingency(a, c, b, d)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FIELDS, FIELDS), min_size=2, max_size=4))
def test_the_sum_of_tallies_is_the_tally_of_all_forecasts(pairs):
    tallies = [with_windows(*pair) for pair in pairs]
    total = sum(tallies[1:], tallies[0])
    gap = np.full((2, 6), NAN, np.float32)  # keeps windows of one field off the next
    joined = with_windows(
        *(np.concatenate([part for f in fields for part in (f, gap)]) for fields in zip(*pairs, strict=True))
    )
    one_after_the_other = Tally(THRESHOLDS, windows_km=(1.0, 3.0), cell_km=(1.0, 1.0))
    for pair in pairs:
        one_after_the_other.add(*pair)

    for whole in (joined, one_after_the_other):
        assert np.array_equal(total.counts, whole.counts)
        assert total.pixels == whole.pixels
        assert total.fractions == pytest.approx(whole.fractions, rel=1e-12)
        assert total.moments == pytest.approx(whole.moments, rel=1e-12)
    assert total.forecasts == one_after_the_other.forecasts


@settings(max_examples=40, deadline=None)
@given(FIELDS, FIELDS)
def test_scores_stay_in_range_and_swap_with_the_fields(forecast, truth):
    tally, swapped = with_windows(forecast, truth), with_windows(truth, forecast)
    counts = tally.contingency(30.0)

    for ratio in (counts.csi, counts.far, counts.pod, tally.fss(30.0, 3.0), tally.cor_real()):
        assert ratio is None or 0 <= ratio <= 1 + 1e-12
    assert counts.hss is None or -1 <= counts.hss <= 1
    assert tally.pearson_r() is None or abs(tally.pearson_r()) <= 1 + 1e-9
    if not np.isnan(forecast).any() and not np.isnan(truth).any():
        assert swapped.contingency(30.0).pod == (
            None if counts.far is None else pytest.approx(1 - counts.far)
        )


def test_a_perfect_forecast_has_perfect_scores():
    _, truth = rain(2)
    tally = with_windows(truth, truth)
    counts = tally.contingency(30.0)

    assert (counts.csi, counts.far, counts.pod, counts.bias, counts.hss) == (1, 0, 1, 1, 1)
    assert (tally.mae(), tally.mse(), tally.fss(30.0, 3.0)) == (0, 0, 1)
    assert tally.cor_real() == pytest.approx(1, abs=1e-12)
    assert tally.pearson_r() == pytest.approx(1, abs=1e-12)


def test_a_truth_without_one_observed_pixel_scores_nothing():
    tally = with_windows(np.full((4, 4), 30.0), np.full((4, 4), NAN))

    assert (tally.forecasts, tally.pixels) == (0, 0)
    assert all(row[name] is None for row in tally.rows() for name in ("csi", "far", "pod", "bias", "hss"))
    assert tally.mae() is tally.mse() is tally.cor_real() is tally.pearson_r() is tally.fss(20.0, 1.0) is None


def test_all_dry_is_counted_but_its_ratios_are_undefined():
    tally = with_windows(np.full((4, 4), DRY), np.full((4, 4), DRY))
    counts = tally.contingency(20.0)

    assert (tally.forecasts, counts) == (1, Contingency(0, 0, 0, 16))
    assert (
        counts.csi
        is counts.far
        is counts.pod
        is counts.bias
        is counts.hss
        is counts.ets
        is counts.sedi
        is None
    )
    assert (tally.mae(), tally.mse()) == (0, 0)
    assert tally.cor_real() is tally.pearson_r() is tally.fss(20.0, 3.0) is counts.cor_bin is None


def test_a_field_that_is_the_same_everywhere_has_no_pearson_correlation():
    forecast, truth = rain(3, missing=0)

    assert tally_of(np.full_like(truth, 25.1), truth).pearson_r() is None
    assert tally_of(forecast, np.full_like(truth, 33.3)).pearson_r() is None


def test_an_event_is_compared_in_float32_as_the_fields_are():
    stored = np.float32(35.1)  # slightly less than the float64 of the same name
    assert tally_of([[stored]], [[stored]], thresholds=(35.1,)).contingency(35.1).hits == 1


def test_a_network_gone_wild_has_a_bad_score_and_not_an_infinite_one():
    tally = with_windows([[np.inf, 1e30, NAN, -np.inf]], [[20.0, DRY, DRY, DRY]])

    assert tally.mae() == pytest.approx((80 + 110) / 4)
    assert np.isfinite(tally.moments).all()
    assert json.loads(json.dumps(tally.to_dict(), allow_nan=False))


def test_a_field_larger_than_a_block_is_counted_once():
    ny, nx = 3, BLOCK_CELLS // 2
    forecast, truth = np.full((2, ny, nx), 25.0, np.float32)
    truth[1] = NAN

    tally = tally_of(forecast, truth)

    assert tally.contingency(20.0) == Contingency(2 * nx, 0, 0, 0)
    assert (tally.forecasts, tally.pixels) == (1, 2 * nx)


def test_hss_of_years_of_a_continent_does_not_overflow():
    many = 10**13
    assert Contingency(many, 0, 0, many).hss == 1.0
    assert Contingency(many, many, many, many).hss == 0.0


@settings(max_examples=30, deadline=None)
@given(FIELDS, FIELDS)
def test_sums_come_back_from_json_exactly(forecast, truth):
    tally = with_windows(forecast, truth)
    again = Tally.from_dict(json.loads(json.dumps(tally.to_dict())))

    assert again.to_dict() == tally.to_dict()
    assert again.is_like(tally)
    for name in ("totals", "counts", "fractions", "moments"):
        assert np.array_equal(getattr(again, name), getattr(tally, name))
        assert getattr(again, name).dtype == getattr(tally, name).dtype


@pytest.mark.parametrize("windows", [{}, {"windows_km": (5.0,), "cell_km": (1.0, 2.0)}])
def test_a_tally_without_windows_comes_back_too(windows):
    tally = tally_of([[31.0]], [[28.0]], (30.0,), **windows)
    again = Tally.from_dict(json.loads(json.dumps(tally.to_dict())))

    assert again.to_dict() == tally.to_dict()
    assert (again + tally).mae() == pytest.approx(3.0)


@pytest.mark.parametrize(
    "damage",
    [
        {"hits": [1, 2]},
        {"hits": "many"},
        {"pixels": -1},
        {"squared_error": float("nan")},
        {"product": None},
        {"fss_reference": []},
        {"thresholds_dbz": [30.0]},
        {"windows_km": [1.0]},
        {"thresholds_dbz": [30.0, "x"]},
        {"cell_km": [1.0]},
    ],
)
def test_damaged_sums_are_refused(damage):
    content = with_windows(*rain(4)).to_dict() | damage
    with pytest.raises(ValueError, match=r".+"):
        Tally.from_dict(content)


def test_missing_sums_are_refused():
    content = with_windows(*rain(4)).to_dict()
    del content["misses"]
    with pytest.raises(ValueError, match="misses"):
        Tally.from_dict(content)


def test_tallies_of_other_thresholds_or_windows_do_not_add():
    field = np.zeros((2, 2))
    with pytest.raises(ValueError, match="cannot add"):
        tally_of(field, field) + tally_of(field, field, (20.0,))
    with pytest.raises(ValueError, match="cannot add"):
        tally_of(field, field) + with_windows(field, field)


@pytest.mark.parametrize(
    ("thresholds", "windows"),
    [
        ((), {}),
        ((DRY,), {}),
        ((NAN,), {}),
        ((np.inf,), {}),
        ((20.0,), {"windows_km": (5.0,)}),
        ((20.0,), {"windows_km": (0.0,), "cell_km": (1.0, 1.0)}),
        ((20.0,), {"windows_km": (5.0,), "cell_km": (0.0, 1.0)}),
    ],
)
def test_thresholds_and_windows_that_mean_nothing_are_refused(thresholds, windows):
    with pytest.raises(ValueError, match=r"threshold|window"):
        Tally(thresholds, **windows)


def test_fields_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        tally_of(np.zeros((3, 4)), np.zeros((4, 3)))


def test_rows_carry_the_names_of_the_scores_file():
    rows = tally_of(*rain(5)).rows()

    assert [row["threshold_dbz"] for row in rows] == list(THRESHOLDS)
    assert set(rows[0]) == {
        "threshold_dbz", "hits", "misses", "false_alarms", "correct_negatives",
        "csi", "far", "pod", "bias", "hss", "ets", "sedi", "cor_bin", "forecasts",
    }  # fmt: skip
    assert json.dumps(rows)


def test_correlations_agree_with_numpy_on_the_observed_pixels():
    forecast, truth = rain(6)
    tally = tally_of(forecast, truth)
    f, o = (field[~np.isnan(truth)].astype(np.float64) + 10 for field in (forecast, truth))

    assert tally.pearson_r() == pytest.approx(np.corrcoef(f, o)[0, 1], rel=1e-9)
    assert tally.cor_real() == pytest.approx((f * o).sum() / np.sqrt((f**2).sum() * (o**2).sum()), rel=1e-9)
    assert tally.mae() == pytest.approx(np.abs(f - o).mean(), rel=1e-9)
    assert tally.mse() == pytest.approx(((f - o) ** 2).mean(), rel=1e-9)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_ratios_agree_with_scores(threshold):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the oracle warns of while importing is not ours
        categorical = pytest.importorskip("scores.categorical", reason="scores is the oracle")
        xr = pytest.importorskip("xarray")
    forecast, truth = rain(7)
    counts = tally_of(forecast, truth).contingency(threshold)

    operator = categorical.ThresholdEventOperator(default_event_threshold=threshold)
    theirs = operator.make_contingency_manager(
        xr.DataArray(forecast, dims=("y", "x")), xr.DataArray(truth, dims=("y", "x"))
    ).transform()
    table = theirs.get_counts()
    assert counts == Contingency(
        int(table["tp_count"]), int(table["fn_count"]), int(table["fp_count"]), int(table["tn_count"])
    )
    assert counts.csi == pytest.approx(float(theirs.critical_success_index()))
    assert counts.pod == pytest.approx(float(theirs.probability_of_detection()))
    assert counts.far == pytest.approx(float(theirs.false_alarm_ratio()))
    assert counts.bias == pytest.approx(float(theirs.frequency_bias()))
    assert counts.hss == pytest.approx(float(theirs.heidke_skill_score()))
    assert counts.ets == pytest.approx(float(theirs.gilberts_skill_score()))
    assert counts.ets == pytest.approx(float(theirs.equitable_threat_score()))
    assert counts.sedi == pytest.approx(float(theirs.symmetric_extremal_dependence_index()))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_ratios_agree_with_pysteps_once_what_is_not_observed_is_left_out(threshold):
    detcatscores = pytest.importorskip("pysteps.verification.detcatscores", reason="pysteps is the oracle")
    forecast, truth = rain(8)
    counts = tally_of(forecast, truth).contingency(threshold)
    observed = ~np.isnan(truth)  # it would take NaN for no rain

    theirs = detcatscores.det_cat_fct(forecast[observed], truth[observed], threshold)
    for name in ("csi", "far", "pod", "hss", "sedi"):
        assert getattr(counts, name) == pytest.approx(theirs[name.upper()], rel=1e-9), name
    assert counts.ets == pytest.approx(theirs["GSS"], rel=1e-9)
    assert counts.bias == pytest.approx(theirs["BIAS"], rel=1e-9)


def test_fss_over_windows_in_km_uses_the_cell_size():
    forecast, truth = rain(9, missing=0)
    fine = tally_of(forecast, truth, windows_km=(5.0,), cell_km=(1.0, 1.0))
    coarse = tally_of(forecast, truth, windows_km=(10.0,), cell_km=(2.0, 2.0))

    assert fine.fss(30.0, 5.0) == coarse.fss(30.0, 10.0)
    assert fine.fss(30.0, 5.0) > with_windows(forecast, truth).fss(30.0, 1.0)
