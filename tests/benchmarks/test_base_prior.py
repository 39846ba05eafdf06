"""The prior of the base has extrapolation on the base's own pixels, and leaves other methods as they were."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from benchmarks.base_prior import patterns_in, with_base, with_correction
from nowcast.methods.shipped_scores import Prior
from nowcast.scores.skillfile import Skill
from nowcast.scores.tally import Tally

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def scored(hits: int) -> dict[str, dict[datetime, dict[int, Tally]]]:
    """One event, one issue time, one lead: ten cells of 40 dBZ, so many of them hit, and no false alarm."""
    forecast, truth = np.full((2, 5, 5), -10, np.float32)
    truth.ravel()[:10] = 40
    forecast.ravel()[:hits] = 40
    tally = Tally((20.0, 30.0, 35.0), windows_km=(10.0,), cell_km=(1.0, 1.0))
    tally.add(forecast, truth)
    return {"event": {NOON: {5: tally}}}


def test_the_base_takes_the_place_of_sprog_and_others_stay():
    known = np.full((3, 3), 100.0)
    counts = {(name, 5): known + k for k, name in enumerate(("extrapolation", "exceedance", "sprog"))}
    before = Prior(counts, "in 2 folds")
    prior = with_base(before, Skill(scored(8), {"extrapolation": scored(6)}))
    assert prior.methods == ("blend", "exceedance", "extrapolation")
    evidence = prior.evidence(["exceedance", "blend"])
    assert evidence["exceedance", 5].tolist() == before.evidence(["exceedance"])["exceedance", 5].tolist()
    assert evidence["blend", 5].tolist() == [
        [[8.0] * 3, [2.0] * 3, [0.0] * 3],
        [[6.0] * 3, [4.0] * 3, [0.0] * 3],
    ]
    assert prior.provenance == "in 2 folds; blend on 1 training events"
    again = with_base(prior, Skill(scored(9), {"extrapolation": scored(6)}))
    assert again.provenance == prior.provenance
    assert again.counts["blend", 5][0].tolist() == [9.0] * 3


def test_patterns_stand_a_line_each_and_remarks_do_not_count():
    assert patterns_in("# of Italy\ndpc_*_20250212\n\n  cpol_darwin \n") == ("dpc_*_20250212", "cpol_darwin")


def test_on_the_same_pixels_extrapolation_is_not_told_twice():
    same = np.array([[6.0] * 3, [4.0] * 3, [0.0] * 3])
    skill = Skill(scored(8), {"extrapolation": scored(6)})
    prior = with_base(Prior({("extrapolation", 5): same}), skill)
    assert prior.beside == {}
    assert prior.evidence(["blend"])["blend", 5][1].tolist() == same.tolist()
    assert set(with_base(Prior({("extrapolation", 5): same + 1}), skill).beside) == {("blend", 5)}


def test_a_correction_has_as_many_times_the_hits_of_the_base_as_elsewhere():
    base = np.array([[600.0, 300.0, 0.0], [400.0, 100.0, 10.0], [90.0, 200.0, 0.0]])
    counts = {
        ("blend", 5): base,
        ("blend", 10): base,
        ("extrapolation", 5): base,
        ("extrapolation", 10): base,
    }
    beside = {("blend", 5): base - base / 10}
    skill = Skill(scored(10), {"blend": scored(8), "extrapolation": scored(6)})  # a quarter more hits
    prior = with_correction(Prior(counts, "somewhere", beside), "scs", skill)
    for lead in (5, 10):  # of ten minutes nothing is known but what is of five
        assert prior.counts["scs", lead].tolist() == [
            [690.0, 375.0, 0.0],  # no more than what was false
            [310.0, 25.0, 10.0],
            [0.0, 125.0, 0.0],
        ]
    assert prior.beside["scs", 5].tolist() == (base - base / 10).tolist()
    again = with_correction(prior, "scs", skill)
    assert again.provenance == prior.provenance
    assert prior.provenance.startswith("somewhere; scs with as many times")
