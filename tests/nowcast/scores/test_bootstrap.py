"""The bootstrap: numbers of a plain loop, intervals that hold the truth, and pairing that is checked."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from candidates import NOON, scores, tally
from numpy.typing import NDArray

from nowcast.errors import InputError
from nowcast.scores.bootstrap import compare, interval, resampled, student_quantile
from nowcast.scores.skillfile import Scored, mean_csi, pooled
from nowcast.scores.tally import Tally


def test_resampling_agrees_with_a_plain_loop() -> None:
    """Tallies of the drawn blocks added one by one, ratios after, for each resample."""
    rng = np.random.default_rng(3)
    sums = rng.integers(0, 30, (4, 2, 2, 3, 3)).astype(np.float64)  # block, method, lead, count, threshold
    sums[:3, :, 1, :2, 2] = 0  # at one lead and threshold only the last block has rain
    got = resampled(sums, resamples=50, seed=9)
    drawn = np.random.default_rng(9).multinomial(4, [0.25] * 4, size=50)
    for times, difference in zip(drawn, got, strict=True):
        score = [0.0, 0.0]
        for method in (0, 1):
            found = []
            for lead in (0, 1):
                for threshold in range(3):
                    hits = misses = false_alarms = 0.0
                    for block in range(4):
                        for _ in range(times[block]):
                            hits += sums[block, method, lead, 0, threshold]
                            misses += sums[block, method, lead, 1, threshold]
                            false_alarms += sums[block, method, lead, 2, threshold]
                    if hits + misses:
                        found.append(hits / (hits + misses + false_alarms))
            score[method] = sum(found) / len(found)
        assert difference == pytest.approx(score[0] - score[1], abs=1e-12)


def test_the_score_is_the_mean_csi_of_pooled_tallies() -> None:
    comparison = compare(scores(0.7), scores(0.6))
    assert comparison.score == pytest.approx(mean_csi(pooled(scores(0.7))), abs=1e-12)
    assert comparison.other == pytest.approx(mean_csi(pooled(scores(0.6))), abs=1e-12)
    assert (comparison.blocks, comparison.by_event) == (8, True)
    assert (comparison.issue_times, comparison.leads) == (24, 2)
    assert comparison.low < comparison.score - comparison.other < comparison.high
    assert comparison.is_better
    assert not compare(scores(0.6), scores(0.7)).is_better


def test_a_forecast_against_itself_is_no_better() -> None:
    comparison = compare(scores(0.6), scores(0.6))
    assert (comparison.low, comparison.high) == (0.0, 0.0)
    assert not comparison.is_better


def test_the_same_files_give_the_same_interval() -> None:
    assert compare(scores(0.7), scores(0.6)) == compare(scores(0.7), scores(0.6))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Methods that differ by chance alone, 8 blocks of unequal rain; plain percentiles hold 0 in 84 %."""
    rng = np.random.default_rng(5)
    ends = np.array([interval(resampled(_alike(rng, blocks=8)), blocks=8) for _ in range(400)])
    assert 0.90 <= np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0)) <= 0.98
    assert np.mean(ends[:, 0] > 0) < 0.06


def _alike(rng: np.random.Generator, blocks: int) -> NDArray[np.float64]:
    """Return counts ``(block, 2, 1, 3, 1)`` of methods whose hit rates differ by chance in each block."""
    rain, weather = rng.lognormal(7, 1, blocks), rng.normal(0.5, 0.1, blocks)
    rates = np.clip(weather + rng.normal(0, 0.05, (2, blocks)), 0.02, 0.98)
    counts = np.stack([rain * rates, rain * (1 - rates), rain * (1 - rates)])  # count, method, block
    return counts.transpose(2, 1, 0)[:, :, None, :, None]


@pytest.mark.parametrize(("freedom", "value"), [(5, 2.5706), (7, 2.3646), (10, 2.2281), (30, 2.0423)])
def test_students_quantile_agrees_with_the_table(freedom: int, value: float) -> None:
    assert student_quantile(freedom) == pytest.approx(value, abs=3e-3)


def test_few_events_are_cut_into_hours() -> None:
    """Two events of 3 h: 6 blocks. Of 2 h: 4, of which nothing is concluded."""

    def long(times: int, rate: float) -> Scored:
        return scores(rate, events=2, times=times)

    comparison = compare(long(36, 0.7), long(36, 0.6))
    assert (comparison.blocks, comparison.by_event) == (6, False)
    assert "6 blocks of an hour, 72 issue times" in str(comparison)
    with pytest.raises(InputError, match="6 blocks of an hour, to conclude anything; got 4"):
        compare(long(24, 0.7), long(24, 0.6))


def test_events_keep_their_own_hours() -> None:
    """What is wholly good in one event and wholly bad in another must not meet in one block."""
    hour = [NOON + timedelta(minutes=5 * step) for step in range(12)]
    good = {f"storm {event}": {time: {5: tally(90, 10, 0)} for time in hour} for event in range(5)}
    bad = {event: {time: {5: tally(10, 90, 0)} for time in times} for event, times in good.items()}
    with pytest.raises(InputError, match="got 5"):
        compare(good, bad)


def test_only_what_both_were_scored_on_is_compared() -> None:
    more = scores(0.7, leads=(5, 10, 15))
    more = {**more, "another": {NOON: {5: tally(0, 1000, 0)}}}
    assert compare(more, scores(0.6)) == compare(scores(0.7), scores(0.6))
    with pytest.raises(InputError, match="that both were scored on, got none"):
        compare(scores(0.7), {"another": {NOON: {5: tally(1, 0, 0)}}})


def test_scores_against_different_truths_are_not_compared() -> None:
    other = {event: dict(times) for event, times in scores(0.6).items()}
    other["storm 3"] = {NOON + timedelta(days=3): {5: tally(1, 1, 0)}}
    with pytest.raises(InputError, match="two of storm 3, 2026-11-24T12:00:00Z, 5 min"):
        compare(scores(0.7), other)


def test_other_thresholds_are_told() -> None:
    one = Tally((20.0, 40.0))
    scored = {"storm": {NOON: {5: one}}}
    with pytest.raises(
        InputError, match=r"expected scores at \(20.0, 30.0, 35.0\) dBZ, got those at \(20.0, 40.0\)"
    ):
        compare(scored, scored)


def test_rain_in_one_event_alone_does_not_decide() -> None:
    """Every third resample lacks that event; it counts as no difference, and the interval reaches 0."""

    def one_wet(rate: float) -> Scored:
        dry = {f"dry {k}": {NOON: {5: tally(0, 0, 0)}} for k in range(5)}
        return {"wet": {NOON: {5: tally(int(100 * rate), 100 - int(100 * rate), 0)}}, **dry}

    comparison = compare(one_wet(0.9), one_wet(0.1))
    assert comparison.low == 0.0
    assert not comparison.is_better
    with pytest.raises(InputError, match="got none"):
        compare(*[{f"dry {k}": {NOON: {5: tally(0, 0, 3)}} for k in range(6)}] * 2)
