"""The gate: a method is served where it beats extrapolation on the same pixels, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nowcast.errors import UnreadableFile
from nowcast.methods.gate import (
    MARGIN,
    PRIOR_EVENTS,
    Choices,
    Counts,
    Evidence,
    choose,
    counts_of,
    describe,
    evidence_of,
    may_serve,
    review,
)
from nowcast.methods.shipped_scores import PRIOR_FILE, Prior, read_prior, write_prior
from nowcast.names import NETWORKS
from nowcast.scores.tally import Tally


def scored(*csi: float, events: float = PRIOR_EVENTS) -> Counts:
    """Counts with these CSI at 20, 30 and 35 dBZ, of which there are a tenth as many events each."""
    of_threshold = [(events * 0.1**k, ratio) for k, ratio in enumerate(csi)]
    return np.array([(n * ratio, n * (1 - ratio), 0.0) for n, ratio in of_threshold]).T


def beside(
    rival: tuple[float, float, float],
    extrapolation: tuple[float, float, float] = (0.5, 0.4, 0.3),
    *,
    method: str = "sprog",
    lead: int = 5,
    events: float = PRIOR_EVENTS,
) -> Evidence:
    pair = [scored(*rival, events=events), scored(*extrapolation, events=events)]
    return {(method, lead): np.stack(pair)}


def methods(choices: Choices) -> list[str]:
    return [choice.method for choice in choices]


BETTER, WORSE = (0.55, 0.45, 0.35), (0.45, 0.35, 0.25)


def test_without_evidence_extrapolation_is_served_and_said_to_be_unrivalled() -> None:
    choices = choose({}, {}, [5, 10])
    assert methods(choices) == ["extrapolation", "extrapolation"]
    assert describe(choices, "nothing") == "extrapolation at all leads: no method has been compared with it"


def test_the_prior_alone_serves_a_better_method_at_the_leads_it_is_better_at() -> None:
    prior = {**beside(BETTER, lead=5), **beside(WORSE, lead=10)}
    choices = choose(prior, {}, [5, 10])
    assert methods(choices) == ["sprog", "extrapolation"]
    assert choices[0].ranking == ("sprog", "extrapolation")
    assert choices[0].gains == {"sprog": pytest.approx(0.05)}
    assert describe(choices, "nine events") == (
        "sprog at 5 min (CSI +0.050 over extrapolation), extrapolation at 10 min (the best other has CSI "
        "-0.050 over it); CSI is the mean of 20, 30, 35 dBZ; evidence: nine events"
    )


@pytest.mark.parametrize(
    "scores", [(0.503, 0.403, 0.303), (0.6, 0.5, 0.2)], ids=["by too little", "not at 35 dBZ"]
)
def test_why_a_method_that_is_ahead_is_not_served_is_said(scores: tuple[float, float, float]) -> None:
    choices = choose(beside(scores), {}, [5])
    (gain,) = choices[0].gains.values()
    assert gain > 0 and methods(choices) == ["extrapolation"]
    assert describe(choices, "nine events").startswith(
        f"extrapolation at 5 min (the best other has CSI {gain:+.3f} over it; to be served it needs +0.005, "
        "and to lose 0.01 at most at any threshold); "
    )


@pytest.mark.parametrize(("gain", "winner"), [(0.006, "sprog"), (0.004, "extrapolation")])
def test_a_newcomer_must_win_by_a_margin(gain: float, winner: str) -> None:
    assert 0.004 < MARGIN < 0.006
    assert methods(choose(beside((0.5 + gain, 0.4 + gain, 0.3 + gain)), {}, [5])) == [winner]


@pytest.mark.parametrize(("at_35", "winner"), [(0.291, "sprog"), (0.289, "extrapolation")])
def test_what_is_lost_at_one_threshold_is_not_made_up_for_at_another(at_35: float, winner: str) -> None:
    assert methods(choose(beside((0.6, 0.5, at_35)), {}, [5])) == [winner]


def test_a_threshold_that_never_was_observed_counts_for_nothing() -> None:
    pair = np.zeros((2, 3, 3))
    pair[:, :, 0] = [[60, 40, 0], [50, 50, 0]]
    pair[0, 2, 1] = 10  # false alarms alone: rain of 30 dBZ nobody saw
    (choice,) = choose({}, {("sprog", 5): pair}, [5])
    assert (choice.method, choice.gains) == ("sprog", {"sprog": pytest.approx(0.1)})


def test_live_scores_overturn_the_prior_once_there_are_as_many_events() -> None:
    prior = beside(BETTER, events=1000 * PRIOR_EVENTS)
    assert methods(choose(prior, beside(WORSE, events=0.1 * PRIOR_EVENTS), [5])) == ["sprog"]
    assert methods(choose(prior, beside(WORSE, events=1.1 * PRIOR_EVENTS), [5])) == ["extrapolation"]


def test_a_small_prior_is_worth_what_it_is() -> None:
    prior = beside(BETTER, events=1000)
    assert methods(choose(prior, beside(WORSE, events=1100), [5])) == ["extrapolation"]


def test_counts_are_pooled_before_any_ratio_is_taken() -> None:
    live = {("sprog", 5): beside(WORSE, events=3e5)["sprog", 5] + beside(BETTER, events=1e5)["sprog", 5]}
    (choice,) = choose({}, live, [5])
    assert choice.gains == {"sprog": pytest.approx(0.25 * 0.05 - 0.75 * 0.05)}


def test_of_several_the_best_is_served_and_the_next_stand_by() -> None:
    live = {
        **beside(BETTER, method="exceedance"),
        **beside((0.6, 0.5, 0.4), method="sprog"),
        **beside(WORSE, method="bad"),
    }
    (choice,) = choose({}, live, [5])
    assert choice.ranking == ("sprog", "exceedance", "extrapolation")


def test_what_is_served_stays_until_another_is_better_by_a_margin() -> None:
    days = [beside(BETTER, events=100), beside((0.495, 0.395, 0.296), events=900)]
    both = {("sprog", 5): days[0]["sprog", 5] + days[1]["sprog", 5]}
    assert methods(choose({}, both, [5])) == ["extrapolation"], "a newcomer with so little"
    assert methods(review({}, days, [5])) == ["sprog"], "was served the day before, and is ahead still"
    days.append(beside(WORSE, events=1000))
    assert methods(review({}, days, [5])) == ["extrapolation"]


def test_of_two_close_ones_the_one_that_is_served_stays() -> None:
    close = {**beside((0.56, 0.46, 0.36), method="a"), **beside((0.563, 0.463, 0.363), method="b")}
    first = beside(BETTER, method="a", events=1)
    assert methods(choose({}, close, [5])) == ["b"]
    assert methods(review({}, [first, close], [5])) == ["a"]


def test_between_leads_of_the_prior_the_nearest_speaks() -> None:
    prior = {**beside(WORSE, lead=5), **beside(BETTER, lead=10)}
    assert methods(choose(prior, {}, [2, 7, 8, 12])) == ["extrapolation", "extrapolation", "sprog", "sprog"]


def test_beyond_an_hour_no_network_is_served_and_others_by_their_own_scores_alone() -> None:
    network = next(iter(NETWORKS))
    prior = {**beside(BETTER, method=network, lead=30), **beside((0.52, 0.42, 0.32), lead=30)}
    live = {**beside(BETTER, method=network, lead=75), **beside(BETTER, lead=75)}
    choices = choose(prior, live, [60, 70, 75])
    assert methods(choices) == [network, "extrapolation", "sprog"]
    assert may_serve(network, 60) and not may_serve(network, 61) and may_serve("sprog", 61)


def test_evidence_is_taken_from_tallies_at_whatever_thresholds_they_have() -> None:
    tally = Tally((10.0, 20.0, 35.0))
    tally.add(np.array([[25, 36, -10, 12]], np.float32), np.array([[25, 36, 20, 12]], np.float32))
    expected = [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert counts_of(tally).tolist() == expected
    twice = evidence_of([(("sprog", 5), tally, tally.blank()), (("sprog", 5), tally, tally)])
    assert twice["sprog", 5].tolist() == [(2 * np.array(expected)).tolist(), expected]


def test_a_prior_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    counts = {("extrapolation", 5): scored(0.5, 0.4, 0.3, events=100).round()}
    counts["sprog", 5] = counts["extrapolation", 5] + 1
    path = tmp_path / "gate.json"
    write_prior(path, Prior(counts, "nine events, each left out once"))
    prior = read_prior(path)
    assert prior.provenance == "nine events, each left out once"
    assert prior.methods == ("extrapolation", "sprog")
    evidence = prior.evidence(["sprog", "exceedance", "extrapolation"])
    assert set(evidence) == {("sprog", 5)}
    assert evidence["sprog", 5].tolist() == [counts["sprog", 5].tolist(), counts["extrapolation", 5].tolist()]


def test_a_method_scored_on_other_pixels_has_extrapolation_of_its_own_beside_it(tmp_path: Path) -> None:
    shared, elsewhere = (scored(csi, csi, csi, events=100).round() for csi in (0.5, 0.2))
    counts = {("extrapolation", 5): shared, ("sprog", 5): shared + 1, ("blend", 5): elsewhere + 1}
    write_prior(tmp_path / "gate.json", Prior(counts, "", {("blend", 5): elsewhere}))
    evidence = read_prior(tmp_path / "gate.json").evidence(["sprog", "blend"])
    assert evidence["sprog", 5][1].tolist() == shared.tolist()
    assert evidence["blend", 5].tolist() == [(elsewhere + 1).tolist(), elsewhere.tolist()]
    alone = Prior({("blend", 5): elsewhere + 1}, "", {("blend", 5): elsewhere})
    assert alone.methods == ("blend", "extrapolation")


def test_a_prior_must_have_extrapolation_on_the_same_pixels() -> None:
    with pytest.raises(ValueError, match="sprog, 5 min: expected counts of extrapolation beside it"):
        Prior({("sprog", 5): scored(0.5, 0.4, 0.3)})
    with pytest.raises(ValueError, match=r"expected counts of \(3, 3\), got \(2, 3\)"):
        Prior({("extrapolation", 5): np.zeros((2, 3))})
    with pytest.raises(ValueError, match="expected counts of pixels"):
        Prior({("extrapolation", 5): np.full((3, 3), -1.0)})


def test_no_file_is_an_empty_prior_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert read_prior(tmp_path / "none.json").methods == ()
    path = tmp_path / "gate.json"
    for damage in ("{", "[]", json.dumps({"format": 2, "thresholds_dbz": [20, 30, 35], "counts": []})):
        path.write_text(damage)
        with pytest.raises(UnreadableFile, match="holds no prior"):
            read_prior(path)


def test_the_prior_of_the_package_can_be_read() -> None:
    prior = read_prior(PRIOR_FILE)
    assert bool(prior.provenance) == bool(prior.counts)
    assert "blend" in prior.methods and "sprog" not in prior.methods, "the base takes its place"
    choices = review(prior.evidence(["blend"]), (), range(5, 61, 5))
    assert methods(choices) == ["blend"] * 12
