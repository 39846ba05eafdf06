"""Verify: scores come with the truth, once, also when the forecast comes after it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from weather import DOMAIN, GRID, START, STEP, raw_frames, settings

from nowcast.archive.archive import Archive
from nowcast.disk import netcdf
from nowcast.forecast.store import ForecastStore, read_lead
from nowcast.frame.frame import frame_array, normalise
from nowcast.scores.scorebook import ScoreBook
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry
from worker.infer import Infer, Job
from worker.verify import Verify


@pytest.fixture
def here(data_dir: Path) -> Settings:
    return settings(data_dir)


def add_frames(here: Settings, *numbers: int) -> None:
    archive, frames = Archive(here.folder.archive), raw_frames(max(numbers) + 1)
    for number in numbers:
        archive.add("sim", normalise(frames[number], replace(DOMAIN, grid=GRID)))


def test_a_new_frame_scores_the_forecasts_that_were_for_it(here: Settings) -> None:
    add_frames(here, 0, 1, 2, 3)
    Infer(here, Telemetry()).handle([Job("sim", START + 3 * STEP)])
    add_frames(here, 4)
    verify, book = Verify(here, Telemetry()), ScoreBook(here.folder.scores)
    assert verify.score(here.domains["sim"], START + 4 * STEP)
    expected = {("extrapolation", 5), ("persistence", 5), ("persistence", 10), ("persistence", 15)}
    assert book.scored("sim", START + 4 * STEP) == expected


def test_the_counts_are_those_of_a_plain_comparison(here: Settings) -> None:
    add_frames(here, 0, 1, 2, 3)
    Infer(here, Telemetry()).handle([Job("sim", START + 3 * STEP)])
    add_frames(here, 4, 5)
    Verify(here, Telemetry()).score(here.domains["sim"], START + 5 * STEP)
    truth = Archive(here.folder.archive).load("sim", START + 5 * STEP).values
    field = read_lead(ForecastStore(here.folder.forecasts).path("sim", START + 3 * STEP, "extrapolation"), 1)
    seen = truth == truth
    hits = int(((field >= 20) & (truth >= 20) & seen).sum())
    misses = int((~(field >= 20) & (truth >= 20) & seen).sum())
    false_alarms = int(((field >= 20) & (truth < 20) & seen).sum())
    tally = ScoreBook(here.folder.scores).pooled("sim")["extrapolation", 10]
    counts = tally.contingency(20.0)
    assert (counts.hits, counts.misses, counts.false_alarms) == (hits, misses, false_alarms)
    assert hits > 0


def test_a_forecast_made_after_its_truth_is_scored_too(here: Settings) -> None:
    add_frames(here, 0, 1, 2, 3, 4)
    verify, book = Verify(here, Telemetry()), ScoreBook(here.folder.scores)
    verify.score(here.domains["sim"], START + 4 * STEP)
    assert ("extrapolation", 5) not in book.scored("sim", START + 4 * STEP)
    Infer(here, Telemetry()).handle([Job("sim", START + 3 * STEP)])
    verify.score_issue(here.domains["sim"], START + 3 * STEP)
    assert ("extrapolation", 5) in book.scored("sim", START + 4 * STEP)
    assert book.pooled("sim")["persistence", 5].forecasts == 1


def test_what_is_scored_is_not_scored_again(here: Settings) -> None:
    add_frames(here, 0, 1)
    verify = Verify(here, Telemetry())
    assert verify.score(here.domains["sim"], START + STEP)
    assert not verify.score(here.domains["sim"], START + STEP)


def test_catching_up_scores_everything_there_is(here: Settings) -> None:
    add_frames(here, *range(5))
    infer = Infer(here, Telemetry())
    while infer.catch_up():
        pass
    verify = Verify(here, Telemetry())
    while verify.catch_up():
        pass
    pooled = ScoreBook(here.folder.scores).pooled("sim")
    assert {key: tally.forecasts for key, tally in pooled.items() if key[0] == "persistence"} == {
        ("persistence", 5): 4,
        ("persistence", 10): 3,
        ("persistence", 15): 2,
    }
    assert pooled["extrapolation", 5].forecasts >= 3


def test_skill_is_published_as_metrics(here: Settings) -> None:
    add_frames(here, 0, 1)
    telemetry = Telemetry()
    verify = Verify(here, telemetry)
    verify.score(here.domains["sim"], START + STEP)
    verify.publish_skill(here.domains["sim"])
    labels = {
        "domain": "sim",
        "model": "persistence",
        "score": "csi",
        "threshold_dbz": "20",
        "lead_minutes": "5",
    }
    counts = ScoreBook(here.folder.scores).pooled("sim")["persistence", 5].contingency(20.0)
    for name, expected in (("csi", counts.csi), ("ets", counts.ets), ("sedi", counts.sedi)):
        value = telemetry.registry.get_sample_value("nowcast_skill", {**labels, "score": name})
        assert value == pytest.approx(expected), name


def test_old_days_are_compacted_and_can_still_be_read(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_frames(here, 0, 1)
    verify = Verify(here, Telemetry())
    verify.score(here.domains["sim"], START + STEP)
    monkeypatch.setattr(verify, "_next_tidy", 0.0)
    verify.tidy()
    assert len(list((here.folder.archive).rglob("*.nc"))) == 1
    assert Archive(here.folder.archive).times("sim") == [START, START + STEP]
    assert ScoreBook(here.folder.scores).pooled("sim")["persistence", 5].forecasts == 1


def test_tidying_opens_no_day_that_is_gathered_already(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_frames(here, 0, 1)
    archive = Archive(here.folder.archive)
    archive.compact("sim", START.date())
    late = frame_array(archive.load("sim", START).values, GRID, START - timedelta(days=1))
    archive.add("sim", late)
    reading, opened = netcdf.reading, set()
    monkeypatch.setattr(netcdf, "reading", lambda path: opened.add(path.name) or reading(path))
    verify = Verify(here, Telemetry())
    monkeypatch.setattr(verify, "_next_tidy", 0.0)
    verify.tidy()
    assert f"sim_{START:%Y%m%d}.nc" not in opened
    assert opened, "the late frame is gathered"
    assert archive.path("sim", START - timedelta(days=1)).name == f"sim_{START - timedelta(days=1):%Y%m%d}.nc"


def test_a_truth_that_cannot_be_read_is_given_up_after_three_tries_and_counted(
    here: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    add_frames(here, 0, 1)
    archive = Archive(here.folder.archive)
    path = archive.path("sim", START + STEP)
    path.write_bytes(path.read_bytes()[:500])
    telemetry = Telemetry()
    verify = Verify(here, telemetry)
    for _ in range(5):
        verify.catch_up()
    labels = {"stage": "verify", "domain": "sim"}
    assert telemetry.registry.get_sample_value("nowcast_given_up_total", labels) == 1
    tries = [record for record in caplog.records if "cannot be scored" in record.message]
    assert len(tries) == 3 and "left alone until the next start" in tries[-1].message
