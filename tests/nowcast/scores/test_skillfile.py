"""What a candidate scored: the same after a file, pooled by adding, and damage is told apart from absence."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nowcast.errors import UnreadableFile
from nowcast.scores.skillfile import Skill, mean_csi, pooled, read_skill, write_skill
from nowcast.scores.tally import Tally

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
THRESHOLDS = (20.0, 30.0, 35.0)


def tally(hits: int, misses: int, false_alarms: int) -> Tally:
    """Return a tally with the same counts at every threshold, of 100 pixels."""
    empty = Tally(THRESHOLDS)
    counts = np.repeat([[hits], [misses], [false_alarms]], len(THRESHOLDS), axis=1)
    return empty.with_sums([np.array([1, 100]), counts, empty.fractions, empty.moments])


def skill() -> Skill:
    events = {
        "one": {
            NOON: {5: tally(3, 1, 0), 10: tally(1, 2, 1)},
            NOON + timedelta(minutes=5): {5: tally(0, 2, 2)},
        },
        "two": {NOON: {5: tally(5, 0, 0)}},
    }
    return Skill(events, {"extrapolation": {"one": {NOON: {5: tally(2, 2, 0)}}}})


def test_a_file_gives_back_every_tally(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    fields = rng.normal(20, 10, (2, 16, 16)).astype(np.float32)
    scored = Tally(THRESHOLDS, windows_km=(5.0,), cell_km=(1.0, 1.0))
    scored.add(fields[0], fields[1])
    written = Skill({"storm": {NOON: {5: scored}}}, {"persistence": {"storm": {NOON: {5: scored.blank()}}}})
    write_skill(tmp_path / "skill.json", written)
    read = read_skill(tmp_path / "skill.json")
    assert read.events["storm"][NOON][5].to_dict() == scored.to_dict()
    assert read.references["persistence"]["storm"][NOON][5].to_dict() == scored.blank().to_dict()
    assert read.thresholds_dbz == THRESHOLDS


def test_issue_times_are_written_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "skill.json"
    cet = datetime(2026, 11, 21, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    write_skill(path, Skill({"storm": {cet: {5: tally(1, 0, 0)}}}))
    assert list(json.loads(path.read_text())["events"]["storm"]) == ["2026-11-21T12:00:00Z"]
    assert list(read_skill(path).events["storm"]) == [NOON]


def test_pooling_adds_counts_and_never_averages_ratios() -> None:
    by_lead = pooled(skill().events)
    assert list(by_lead) == [5, 10]
    assert (
        by_lead[5].contingency(30.0).csi == 8 / 13
    )  # (3 + 0 + 5) of (4 + 4 + 5), not the mean of 3/4, 0 and 1
    assert by_lead[5].forecasts == 3
    assert pooled(skill().events, ["two"])[5].contingency(30.0).csi == 1.0


def test_the_one_number_is_the_mean_over_leads_and_thresholds() -> None:
    assert mean_csi(pooled(skill().events)) == pytest.approx((8 / 13 + 1 / 4) / 2)


def test_a_lead_without_rain_in_the_truth_does_not_count() -> None:
    """Or a false alarm where it stayed dry would make the mean of other leads than silence does."""
    by_lead = {5: tally(1, 1, 0), 10: tally(0, 0, 7), 15: tally(0, 0, 0), 20: tally(0, 4, 0)}
    assert mean_csi(by_lead) == (1 / 2 + 0) / 2
    assert mean_csi({15: tally(0, 0, 0)}) is None


def test_what_could_not_be_pooled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"storm, 2026-11-21T12:00:00Z, 10 min: .*\(20.0, 30.0, 35.0\)"):
        Skill({"storm": {NOON: {5: tally(1, 0, 0), 10: Tally((20.0,))}}})
    with pytest.raises(ValueError, match="without"):
        Skill({"storm": {NOON.replace(tzinfo=None): {5: tally(1, 0, 0)}}})
    with pytest.raises(ValueError, match="positive leads, got 0"):
        Skill({}, {"persistence": {"storm": {NOON: {0: tally(1, 0, 0)}}}})


def test_no_file_is_not_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_skill(tmp_path / "skill.json")


def entry(**changes: Any) -> dict[str, Any]:
    return {"format": 1, "events": {"storm": {"2026-11-21T12:00:00Z": {"5": tally(1, 0, 0).to_dict()}}},
            "references": {}, **changes}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (json.dumps(entry()).encode()[:-30], "skill.json holds no skill"),
        (b"[]", "list indices"),
        (b"[" * 100_000, "recursion"),
        (json.dumps({"format": 1}).encode(), "expected the field 'references', got none"),
        (json.dumps(entry(format=2)).encode(), "expected format 1, got 2"),
        (json.dumps(entry(events=[])).encode(), "items"),
        (json.dumps(entry(events={"storm": {"noon": {}}})).encode(), "noon"),
        (json.dumps(entry(events={"storm": {"2026-11-21T12:00:00": {}}})).encode(), "with a zone"),
        (
            json.dumps(entry(events={"storm": {"2026-11-21T12:00:00Z": {"5": {}}}})).encode(),
            "no sums of scores",
        ),
        (json.dumps(entry(events={"storm": {"2026-11-21T12:00:00Z": {"5.5": {}}}})).encode(), "5.5"),
    ],
)
def test_damage_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "skill.json"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=message):
        read_skill(path)
