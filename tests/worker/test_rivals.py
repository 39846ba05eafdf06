"""Rivals: candidates are hindcast from what was known then, scored once, and the gate learns from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from weather import DOMAIN, GRID, START, STEP, raw_frames, settings

from nowcast.archive.archive import Archive
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.forecast.store import ForecastStore, read_record
from nowcast.frame.frame import normalise
from nowcast.hindcast import rivals
from nowcast.methods import shipped_scores
from nowcast.methods.cube import Cube, load_cube
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.method import Method
from nowcast.methods.registry import METHODS
from nowcast.methods.shipped_scores import Prior
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.tally import Tally
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry
from worker import verify
from worker.infer import Infer, Job
from worker.verify import Verify


class Sharp(Method):
    """Twice the rain of extrapolation, so worse, and it remembers what it was shown."""

    name, version = "sharp", "1"

    def __init__(self) -> None:
        self.seen: list[tuple[datetime, int]] = []
        self.error: Exception | None = None

    def predict(self, cube: Cube, leads: int) -> Prediction:
        self.seen.append((cube.issue_time, leads))
        if self.error:
            raise self.error
        return Prediction(map(Lead, self._fields(cube, leads)))

    def _fields(self, cube: Cube, leads: int) -> Iterator[np.ndarray]:
        for field in Extrapolation().predict(cube, leads).fields:
            yield np.where(field > 0, field + 10, field)


@pytest.fixture
def sharp(monkeypatch: pytest.MonkeyPatch) -> Sharp:
    """The one rival of extrapolation, far ahead on the prior."""
    one = Sharp()
    better, worse = (np.array([[n] * 3, [100 - n] * 3, [0] * 3], np.float64) for n in (90, 50))
    prior = Prior({("sharp", 5): better, ("extrapolation", 5): worse}, "made up")
    monkeypatch.setitem(METHODS, "sharp", lambda compute: one)
    for module in (shipped_scores, rivals):
        monkeypatch.setattr(module, "shipped_prior", lambda: prior)
    monkeypatch.setattr(verify, "RIVALS_SECONDS", 0.0)
    return one


@pytest.fixture
def here(data_dir: Path) -> Settings:
    return settings(data_dir, model="auto")


def add_frames(here: Settings, count: int, *, first: int = 0) -> None:
    archive = Archive(here.folder.archive)
    for raw in raw_frames(count)[first:]:
        archive.add("sim", normalise(raw, replace(DOMAIN, grid=GRID)))


def caught_up(here: Settings) -> Verify:
    verify = Verify(here, Telemetry())
    while verify.catch_up():
        pass
    return verify


def test_candidates_are_scored_from_every_half_hour_when_all_truths_are_there(
    here: Settings, sharp: Sharp
) -> None:
    book = ScoreBook(here.folder.scores)
    add_frames(here, 9)  # 12:00 to 12:40; a forecast from 12:30 reaches to 12:45
    caught_up(here)
    keys = [(name, lead) for name in ("extrapolation", "sharp") for lead in (5, 10, 15)]
    scored = {START + n * STEP: book.scored("sim", START + n * STEP) for n in range(11)}
    for n, of_time in enumerate(scored.values()):
        assert of_time & set(keys) == {key for key in keys if n * 5 == key[1]}, "from 12:00 alone"
    add_frames(here, 10, first=9)
    caught_up(here)
    for lead in (5, 10, 15):
        assert {("extrapolation", lead), ("sharp", lead)} <= book.scored(
            "sim", START + (6 + lead // 5) * STEP
        )
    assert {time for time, _ in sharp.seen} == {
        START,
        START + 6 * STEP,
    }


def test_a_candidate_sees_no_frame_after_the_issue_time_and_its_counts_are_right(
    here: Settings, sharp: Sharp
) -> None:
    add_frames(here, 10)
    caught_up(here)
    archive = Archive(here.folder.archive)
    issued = START + 6 * STEP
    cube = load_cube(archive, here.domains["sim"], issued)
    expected = Tally(DOMAIN.thresholds_dbz)
    *_, field = Sharp().predict(cube, 2).fields
    expected.add(field, archive.load("sim", issued + 2 * STEP).values)
    valid = issued + 2 * STEP
    tally = ScoreBook(here.folder.scores).pooled("sim", valid, valid)["sharp", 10]
    assert np.array_equal(tally.counts, expected.counts) and tally.counts[0, 0] > 0


def test_what_is_scored_is_not_hindcast_again_nor_by_a_successor(here: Settings, sharp: Sharp) -> None:
    add_frames(here, 10)
    caught_up(here)
    count = len(sharp.seen)
    assert count == 2
    caught_up(here)
    assert len(sharp.seen) == count


def test_after_a_kill_only_the_missing_leads_are_scored(
    here: Settings, sharp: Sharp, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_frames(here, 4)
    book, kept = ScoreBook(here.folder.scores), ScoreBook.save

    def killed(
        self: ScoreBook, domain: str, valid_time: object, scores: dict[tuple[str, int], Tally]
    ) -> None:
        if ("sharp", 10) in scores:
            raise KeyboardInterrupt
        kept(self, domain, valid_time, scores)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreBook, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            caught_up(here)
    assert ("sharp", 5) in book.scored("sim", START + STEP)
    caught_up(here)
    assert book.pooled("sim")["sharp", 5].forecasts == 1
    assert ("sharp", 15) in book.scored("sim", START + 3 * STEP)


def test_one_that_fails_is_given_up_for_now_and_the_others_are_scored(here: Settings, sharp: Sharp) -> None:
    sharp.error = RuntimeError("out of memory")
    add_frames(here, 4)
    caught_up(here)
    assert len(sharp.seen) == rivals.TRIES
    assert ("extrapolation", 15) in ScoreBook(here.folder.scores).scored("sim", START + 3 * STEP)


def test_a_domain_that_chose_its_method_itself_has_no_rivals(data_dir: Path, sharp: Sharp) -> None:
    here = settings(data_dir, model="extrapolation")
    add_frames(here, 10)
    caught_up(here)
    assert sharp.seen == []


def test_the_gate_leaves_a_method_that_loses_here(here: Settings, sharp: Sharp) -> None:
    store = ForecastStore(here.folder.forecasts)
    add_frames(here, 13)
    infer = Infer(here, Telemetry())
    infer.handle([Job("sim", START + 11 * STEP)])
    before = read_record(store.path("sim", START + 11 * STEP, "auto"))
    assert before.method_by_lead == ("sharp",) * 3
    caught_up(here)
    infer.handle([Job("sim", START + 12 * STEP)])  # 13:00, when the scores since 12:00 are looked at
    after = read_record(store.path("sim", START + 12 * STEP, "auto"))
    assert after.method_by_lead == ("extrapolation",) * 3
    assert "on 1 day, which weigh more than those" in after.choice_reason
