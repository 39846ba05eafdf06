"""One entry is a score everywhere; what it claims of itself is true of random counts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowcast.errors import WrongGrid
from nowcast.scores.contingency import Contingency
from nowcast.scores.table import SCORES, event_scores, field_scores, recorded_scores, window_scores
from nowcast.scores.tally import Tally, score_fields

PROJECT = Path(__file__).resolve().parents[3]

counts = st.integers(0, 10**9)


def test_names_are_told_apart_and_every_score_is_of_one_kind() -> None:
    assert len({score.name for score in SCORES}) == len(SCORES)
    assert [*event_scores(), *field_scores(), *window_scores()] == list(SCORES)
    assert [score.name for score in recorded_scores()] == ["csi", "far", "pod", "ets", "sedi"]


@given(a=counts, b=counts, c=counts, d=counts)
def test_scores_of_events_lie_in_their_range(a: int, b: int, c: int, d: int) -> None:
    for score in event_scores():
        value = score.of(Contingency(a, c, b, d))
        if value is not None:
            assert score.low - 1e-9 <= value <= score.high + 1e-9, score.name


@given(a=st.integers(1, 10**6), d=st.integers(1, 10**6))
def test_a_perfect_forecast_has_the_perfect_value_except_of_sedi(a: int, d: int) -> None:
    for score in event_scores():
        expected = None if score.name == "sedi" else score.perfect
        assert score.of(Contingency(a, 0, 0, d)) == pytest.approx(expected), score.name


def test_sedi_and_ets_of_a_case_done_by_hand() -> None:
    table = Contingency(hits=30, misses=20, false_alarms=10, correct_negatives=940)
    h, f = 30 / 50, 10 / 950
    top = math.log(f) - math.log(h) - math.log(1 - f) + math.log(1 - h)
    bottom = math.log(f) + math.log(h) + math.log(1 - f) + math.log(1 - h)
    assert table.sedi == pytest.approx(top / bottom, rel=1e-12)
    chance = 40 * 50 / 1000
    assert table.ets == pytest.approx((30 - chance) / (60 - chance), rel=1e-12)


def test_sedi_is_undefined_where_a_rate_is_0_or_1_or_nothing_happened() -> None:
    for a, b, c, d in ((0, 5, 5, 5), (5, 0, 5, 5), (5, 5, 0, 5), (5, 5, 5, 0), (0, 0, 0, 9), (9, 0, 0, 0)):
        assert Contingency(hits=a, misses=c, false_alarms=b, correct_negatives=d).sedi is None


def test_sedi_of_chance_is_0_and_rises_with_hits() -> None:
    assert Contingency(hits=10, misses=90, false_alarms=90, correct_negatives=810).sedi == pytest.approx(0)
    values = [Contingency(hits, 100 - hits, 50, 9850).sedi for hits in (1, 10, 50, 90)]
    assert all(value is not None for value in values)
    assert values == sorted(values, key=lambda value: value or -1.0)


def test_ets_is_what_the_heidke_score_makes_of_it() -> None:
    table = Contingency(hits=7, misses=11, false_alarms=13, correct_negatives=400)
    assert table.hss is not None
    assert table.ets == pytest.approx(table.hss / (2 - table.hss), rel=1e-12)


def test_fields_are_scored_each_for_itself_and_the_empty_tally_stays_empty() -> None:
    empty = Tally((20.0,))
    wet, dry = np.full((2, 3), 25.0, np.float32), np.full((2, 3), -10.0, np.float32)
    tallies = score_fields([("hit", wet, wet), ("miss", dry, wet)], empty)
    assert [(key, *tally.counts[:, 0].tolist()) for key, tally in tallies.items()] == [
        ("hit", 6, 0, 0),
        ("miss", 0, 6, 0),
    ]
    assert empty.forecasts == 0
    with pytest.raises(WrongGrid, match=r"expected a forecast on \(2, 3\) cells, got \(3, 2\)"):
        score_fields([("turned", wet.T, wet)], empty)


def test_asking_which_scores_there_are_loads_no_arrays() -> None:
    code = "import sys, nowcast.scores.table; print({'numpy', 'h5py', 'xarray'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert done.stdout.strip() == "set()"


#: Adds one entry to the table, then asks every place that shows scores for it, in a fresh interpreter.
TOY = """
import asyncio, json, sys
from pathlib import Path
from nowcast.scores import table

table.SCORES += (
    table.EventScore(name="toy", label="TOY", long_name="toy score", formula="a + 1", metric=True, page=True,
                     of=lambda counts: counts.hits + 1.0),
)
import north
from drifting import write_frames
from nowcast.hindcast.run import hindcast
from nowcast.telemetry import Telemetry
from worker.cli.tables import score_table
from worker.verify import Verify

folder = Path(sys.argv[1])
paths = write_frames(folder, range(6))
scores = hindcast(paths, models=["persistence"], steps=1, history=2, thresholds_dbz=[20.0])
north.fill(folder / "data")
settings, telemetry = north.settings_for(folder / "data"), Telemetry()
Verify(settings, telemetry).publish_skill(settings.domains["north"])
labels = dict(domain="north", model="extrapolation", score="toy", threshold_dbz="20", lead_minutes="5")

async def ask():
    async with north.serving(settings) as client:
        return [(await client.get(path)).json() for path in (
            "/v1/domains/north/verification?model=extrapolation&threshold=20",
            "/v1/domains/north/forecasts/latest", "/openapi.json")]

verification, latest, openapi = asyncio.run(ask())
print(json.dumps({
    "hindcast": [row["toy"] == row["hits"] + 1 for row in scores["rows"]],
    "terminal": score_table(scores["rows"], ["persistence"], ["toy"]).splitlines()[0],
    "metric": telemetry.registry.get_sample_value("nowcast_skill", labels),
    "api": [row["toy"] for row in verification["rows"]],
    "record": [row["toy"] for row in latest["recent_scores"]["rows"]],
    "page": [score["label"] for score in verification["scores"] if score["page"]][-1],
    "openapi": ["toy" in openapi["components"]["schemas"][name]["properties"]
                for name in ("VerificationRow", "LeadScore")],
}))
"""


def test_a_new_score_is_one_entry(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOY, tmp_path],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={"PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests' / 'support'}", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "hindcast": [True],
        "terminal": "TOY: toy score, a + 1; 0 to 1, larger is better",
        "metric": 9.0,  # 6 + 2 hits of the day, and 1
        "api": [9.0],
        "record": [9.0, 1.0],
        "page": "TOY",
        "openapi": [True, True],
    }
