"""Tables of skill of known counts, and the verdict on the method that chooses."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks import skill_gate
from benchmarks.skill_gate import check, gate_sections
from benchmarks.skill_table import NOTHING, Result, figures, markdown, on_common_ground, sections
from nowcast.scores.tally import Tally


def tally(hits, misses, false_alarms, *, fss=0.5, mae=2, pixels=10_000):
    """Return a tally with the same counts and FSS at every threshold, and a mean absolute error [dBZ]."""
    empty = Tally((20.0, 30.0, 35.0), windows_km=(10.0,), cell_km=(1.0, 1.0))
    totals, counts, fractions, moments = (np.zeros_like(sums) for sums in empty.sums)
    totals[:] = 1, pixels
    counts[:] = np.array([hits, misses, false_alarms])[:, None]
    fractions[0], fractions[1] = 1 - fss, 1.0
    moments[0] = mae * pixels
    return empty.with_sums([totals, counts, fractions, moments])


TIMES = [datetime(2021, 8, 23, 9, 5 * minute, tzinfo=UTC) for minute in range(3)]


def result(name, by_event, **facts):
    scored = {
        event: {time: {10: one, 30: one} for time, one in zip(TIMES, of_times, strict=False)}
        for event, of_times in by_event.items()
    }
    return Result(name, "sha256:0123456789abcdef", scored, **facts)


def test_tables_pool_counts_and_not_ratios():
    ours = result("ours", {"a": [tally(30, 10, 10)], "b": [tally(0, 100, 50)]}, seconds=(1.0, 3.0, 2.0))
    theirs = result("theirs", {"a": [tally(20, 20, 0)], "b": [tally(60, 40, 60, mae=3)]})
    tables = {table.title: table for table in sections([ours, theirs])}

    pooled = tables["CSI at 30 dBZ, all events"]
    assert pooled.headings == ("method", "5 min", "10 min", "15 min", "20 min", "30 min", "45 min", "60 min")
    # 30 of 30+110+60, and 80 of 80+60+60
    assert pooled.rows[0] == ("ours", NOTHING, "0.150", NOTHING, NOTHING, "0.150", NOTHING, NOTHING)
    assert pooled.rows[1][2] == "**0.400**"
    others = tables["Other scores at 35 dBZ, all events"]
    assert others.headings == ("method", "FAR", "POD", "Bias", "HSS", "ETS", "SEDI", "FSS 10 km")
    far, pod, bias, _, _, _, fss = others.rows[0][1:]
    assert far == f"0.67 / 0.67 / {NOTHING}"  # 60 of 90
    assert pod == f"0.21 / 0.21 / {NOTHING}"  # 30 of 140
    assert bias == f"0.64 / 0.64 / {NOTHING}"  # 90 of 140
    assert fss == f"0.50 / 0.50 / {NOTHING}"
    assert tables["Mean absolute error [dBZ], all events"].rows[0][2] == "**2.00**"
    assert tables["Mean absolute error [dBZ], all events"].rows[1][2] == "2.50"
    assert tables["CSI on a"].rows[0][1] == "**0.600**"
    assert tables["CSI on b"].rows[0][1] == "0.000"
    assert tables["Seconds per forecast"].rows[0][1:5] == ("2.000", "3.000", "3", "sha256:0123456789ab")
    assert figures([ours])["ours"]["leads"][30]["rows"][1]["csi"] == pytest.approx(0.15)


def test_all_methods_are_scored_on_the_issue_times_they_all_have():
    one = tally(1, 1, 1)
    full = result("full", {"a": [one, one, one], "b": [one], "c": [one]})
    less = result("less", {"a": [one, one], "b": [], "c": [one]})
    common = on_common_ground([full, less])

    assert [list(one.scored["a"]) for one in common] == [TIMES[:2], TIMES[:2]]
    assert [list(one.scored) for one in common] == [["a", "c"], ["a", "c"]]


def test_times_of_different_machines_are_not_passed_off_as_comparable():
    ours = result("ours", {"a": [tally(1, 1, 1)]}, machines=frozenset({"one"}), notes=Counter({"short": 2}))
    theirs = result("theirs", {"a": [tally(1, 1, 1)]}, machines=frozenset({"two"}))
    *_, speed = sections([ours, theirs])

    assert "cannot be compared" in speed.note
    assert speed.rows[0][-1] == "2 x short"
    *_, speed = sections([ours])
    assert speed.note.endswith("timed on one.")


def test_a_table_becomes_markdown():
    *_, speed = sections([result("a|b", {"a": [tally(1, 1, 1)]})])
    lines = markdown(speed).splitlines()
    assert lines[0] == "### Seconds per forecast"
    assert r"| a\|b |" in lines[-1]
    assert lines[-2] == "| --- | ---: | ---: | ---: | --- | ---: |"  # a version is no number


BEST, GOOD, POOR = tally(60, 15, 15), tally(50, 25, 25), tally(40, 35, 35)


def verdict_of(candidate, extrapolation, sprog):
    """Return the verdict on tallies at leads of 5 to 60 minutes: one for all, or exceptions by lead."""

    def at_leads(usual, others):
        return {lead: others.get(lead, usual) for lead in range(5, 61, 5)}

    return check(
        "auto", at_leads(*candidate), {"extrapolation": at_leads(*extrapolation), "sprog": at_leads(*sprog)}
    )


def failures(verdict):
    return [criterion.asked.split()[0] for criterion in verdict.criteria if not criterion.met]


def test_the_gate_passes_if_it_is_the_better_one_everywhere():
    late = {lead: GOOD for lead in range(35, 61, 5)}
    verdict = verdict_of((BEST, {}), (GOOD, {lead: POOR for lead in late}), (POOR, late))

    assert verdict.passed
    assert len(verdict.criteria) == 5
    assert len(verdict.cells) == 11 * 3
    assert {cell.reference for cell in verdict.cells if cell.lead < 35} == {"extrapolation"}
    assert {cell.reference for cell in verdict.cells if cell.lead >= 35} == {"sprog"}
    assert verdict.criteria[0].found == "+33.33% (mean of the cells' ratios +33.33%)"


def test_as_good_as_the_better_one_is_not_enough():
    assert failures(verdict_of((GOOD, {}), (GOOD, {}), (POOR, {}))) == ["mean"]


def test_one_worse_cell_fails_though_the_mean_is_better():
    better = tally(60, 15, 15)
    verdict = verdict_of((better, {40: POOR}), (GOOD, {}), (POOR, {}))

    assert failures(verdict) == ["CSI"]
    assert verdict.criteria[1].found.startswith("worst -0.1364 at 20 dBZ, 40 min")  # 40/110 - 50/100
    ours, theirs = (10 * 60 / 90 + 40 / 110) / 11, 0.5
    ratios = (10 * (60 / 90) / 0.5 + (40 / 110) / 0.5) / 11
    assert (
        verdict.criteria[0].found == f"{ours / theirs - 1:+.2%} (mean of the cells' ratios {ratios - 1:+.2%})"
    )
    differences, _ = gate_sections(verdict)
    assert differences.rows[0][1 + skill_gate.LEADS.index(40)] == "-0.1364"
    assert differences.rows[0][1] == "+0.1667"


def test_a_lower_mean_fails():
    assert failures(verdict_of((POOR, {}), (GOOD, {}), (POOR, {}))) == ["mean", "CSI"]


def test_a_lead_before_those_checked_does_not_count():
    assert verdict_of((BEST, {5: POOR}), (GOOD, {}), (GOOD, {})).passed


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((50, 20, 40), []),  # 90 of 70
        ((60, 10, 40), ["frequency", "frequency"]),  # 100 of 70 are too many
        ((50, 40, 0), ["frequency", "frequency"]),  # 50 of 90 too few
    ],
)
def test_a_frequency_bias_out_of_range_fails_at_either_threshold(counts, expected):
    poor = tally(10, 80, 80)
    verdict = verdict_of((GOOD, {25: tally(*counts)}), (GOOD, {25: poor}), (poor, {}))
    assert failures(verdict) == expected


def test_a_lower_fss_at_one_lead_fails():
    low, lower = tally(60, 15, 15, fss=0.4), tally(50, 25, 25, fss=0.3)
    verdict = verdict_of((BEST, {50: low}), (GOOD, {}), (GOOD, {50: lower}))
    assert failures(verdict) == ["FSS"]
    assert verdict.criteria[-1].found == "worst -0.1000 at 50 min"


def test_a_cell_without_observed_rain_is_none():
    dry = tally(0, 0, 5)
    verdict = verdict_of((GOOD, {20: dry}), (GOOD, {20: dry}), (POOR, {20: dry}))
    assert len(verdict.cells) == 10 * 3
    with pytest.raises(ValueError, match="none to check"):
        verdict_of((dry, {}), (dry, {}), (dry, {}))
