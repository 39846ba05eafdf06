"""The method ``auto``: whole fields of the methods chosen, and the record says which and why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from weather import DOMAIN, GRID, START, STEP, newest, raw_frames

from nowcast.archive.archive import Archive
from nowcast.compute import Compute
from nowcast.errors import MissingExtra, WeightsError
from nowcast.forecast.file import open_forecast, read_record, write_forecast
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.methods import shipped_scores
from nowcast.methods.answer import issue, predict_with_fallback
from nowcast.methods.auto import Auto
from nowcast.methods.blend import Blend
from nowcast.methods.cube import Cube, build_cube, load_cube
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.method import Method
from nowcast.methods.registry import METHODS
from nowcast.methods.shipped_scores import Prior
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.tally import Tally


class Flat(Method):
    """Forecasts one value everywhere: its own, plus the lead."""

    version = "1.2"
    frames = 7

    def __init__(self, name: str, value: float, error: Exception | None = None, at_lead: int = 1) -> None:
        self.name, self._value, self._error, self._at_lead = name, value, error, at_lead
        self.asked: list[int] = []

    def predict(self, cube: Cube, leads: int) -> Prediction:
        self.asked.append(leads)
        return Prediction(map(Lead, self._fields(cube.shape[1:], leads)))

    def _fields(self, shape: tuple[int, ...], leads: int) -> Iterator[np.ndarray]:
        for lead in range(1, leads + 1):
            if self._error is not None and lead >= self._at_lead:
                raise self._error
            yield np.full(shape, self._value + lead, np.float32)


def prior_of(**gains: tuple[float, ...]) -> Prior:
    """A prior of methods that gain so much CSI at leads of 5, 10, ... minutes."""
    counts = {}
    for k in range(max(map(len, gains.values()))):
        counts["extrapolation", 5 * (k + 1)] = scored(0.5)
        counts |= {(name, 5 * (k + 1)): scored(0.5 + gain[k]) for name, gain in gains.items()}
    return Prior(counts, "made up")


def scored(csi: float) -> np.ndarray:
    return np.array([[1000 * csi] * 3, [1000 * (1 - csi)] * 3, [0] * 3])


def registered(*methods: Flat) -> dict[str, Callable[[Compute], Method]]:
    return {"extrapolation": lambda compute: Extrapolation()} | {
        method.name: lambda compute, method=method: method for method in methods
    }


@pytest.fixture
def cube() -> Cube:
    frames = [normalise(raw, Domain("sim", 5, grid=GRID)) for raw in raw_frames(4)]
    return build_cube(frames, step_minutes=5, history=4)


def test_what_a_part_was_mixed_from_is_passed_on(cube: Cube) -> None:
    methods = {**registered(Flat("a", 10.0)), "blend": lambda compute: Blend()}
    auto = Auto(methods, Compute(), prior_of(a=(0.2, -0.1), blend=(0.1, 0.1)))
    prediction = auto.predict(cube, 2)
    assert prediction.methods == ("a", "blend")
    assert prediction.base_weights == Blend().predict(cube, 2).base_weights != {}
    assert Auto(methods, Compute(), prior_of(a=(0.2, 0.1))).predict(cube, 2).base_weights == {}


def test_each_lead_is_one_whole_field_of_the_method_chosen_for_it(cube: Cube) -> None:
    a, b = Flat("a", 10.0), Flat("b", 20.0)
    auto = Auto(registered(a, b), Compute(), prior_of(a=(0.1, -0.1, 0.1, -0.1), b=(0, 0.1, 0, -0.1)))
    prediction = auto.predict(cube, 4)
    assert prediction.methods == ("a", "b", "a", "extrapolation")
    fields = list(prediction.fields)
    for field, value in zip(fields, (11.0, 22.0, 13.0), strict=False):
        assert (field == value).all()
    *_, expected = Extrapolation().predict(cube, 4).fields
    assert np.array_equal(fields[3], expected, equal_nan=True)
    assert prediction.version == "a 1.2, b 1.2, extrapolation 1"
    assert "; ".join(prediction.shortfalls) == "" and prediction.motion is not None
    assert (a.asked, b.asked) == ([3], [2]), "no further than they are needed"
    assert "a at 5 min (CSI +0.100 over extrapolation)" in prediction.choice_reason
    assert prediction.choice_reason.endswith("made up; no domain's own scores looked at")


def test_a_method_that_is_never_chosen_is_never_made(cube: Cube) -> None:
    def unmade(compute: Compute) -> Method:
        raise AssertionError("nobody chose it")

    auto = Auto({**registered(), "a": unmade}, Compute(), prior_of(a=(-0.1, -0.1)))
    assert auto.predict(cube, 2).methods == ("extrapolation", "extrapolation")


def test_a_method_of_the_prior_that_there_is_not_is_passed_over(cube: Cube) -> None:
    prediction = Auto(registered(), Compute(), prior_of(gone=(0.1,))).predict(cube, 1)
    assert (prediction.methods, "; ".join(prediction.shortfalls)) == (("extrapolation",), "")


@pytest.mark.parametrize("at_lead", [1, 3])
def test_one_that_fails_hands_its_leads_to_the_next_best(cube: Cube, at_lead: int) -> None:
    a, b = Flat("a", 10.0, WeightsError("found no weights"), at_lead), Flat("b", 20.0)
    prior = prior_of(a=(0.1, 0.1, 0.1, -0.1), b=(-0.1, 0.05, 0.05, 0.05))
    prediction = Auto(registered(a, b), Compute(), prior).predict(cube, 4)
    assert prediction.methods == ("extrapolation", "b", "b", "b")
    assert [float(field[0, 0]) for field in prediction.fields][1:] == [22.0, 23.0, 24.0]
    assert "; ".join(prediction.shortfalls) == "a failed (found no weights)"
    assert prediction.version == "extrapolation 1, b 1.2"


def test_an_installation_without_networks_is_not_degraded(cube: Cube) -> None:
    a, b = Flat("a", 10.0, MissingExtra("a needs torch, which is not installed")), Flat("b", 20.0)
    prior = prior_of(a=(0.1, 0.1), b=(0.05, 0.05))
    prediction = Auto(registered(a, b), Compute(), prior).predict(cube, 2)
    assert prediction.methods == ("b", "b")
    assert "; ".join(prediction.shortfalls) == ""
    assert prediction.choice_reason.endswith("; a needs torch, which is not installed")


def test_one_that_inherits_leads_forecasts_further_than_it_was_to(cube: Cube) -> None:
    a, b = Flat("a", 10.0, RuntimeError()), Flat("b", 20.0)
    prior = prior_of(a=(-0.1, 0.1, 0.1), b=(0.1, 0.05, 0.05))
    prediction = Auto(registered(a, b), Compute(), prior).predict(cube, 3)
    assert [float(field[0, 0]) for field in prediction.fields] == [21.0, 22.0, 23.0]
    assert b.asked == [1, 3]


def test_fields_without_a_single_value_are_a_failure(cube: Cube) -> None:
    prediction = Auto(registered(Flat("a", np.nan)), Compute(), prior_of(a=(0.1,))).predict(cube, 1)
    assert prediction.methods == ("extrapolation",)
    assert "; ".join(prediction.shortfalls) == "a failed (RuntimeError)"


def test_what_a_part_says_of_itself_is_kept(cube: Cube) -> None:
    prediction = Auto(registered(), Compute(), Prior()).predict(newest(cube, 1), 1)
    assert (
        "; ".join(prediction.shortfalls) == "extrapolation: persistence, as one frame alone shows no motion"
    )


def test_it_wants_as_many_frames_as_the_candidate_that_wants_most() -> None:
    def broken(compute: Compute) -> Method:
        raise WeightsError("found no weights")

    methods = {**registered(Flat("a", 1.0)), "b": broken}
    assert Auto(methods, Compute(), prior_of(a=(0.1,), b=(0.1,))).frames == 7
    assert Auto(methods, Compute(), Prior()).frames == 0


def test_random_weights_are_never_served(cube: Cube) -> None:
    seen = []

    def made(compute: Compute) -> Method:
        seen.append(compute.untrained)
        return Flat("a", 10.0)

    Auto({**registered(), "a": made}, Compute(untrained=True), prior_of(a=(0.1,))).predict(cube, 1)
    assert seen == [False]


def tally(hits: int, misses: int) -> Tally:
    """Counts of one forecast, the same at 20 and at 30 dBZ."""
    both = Tally((20.0, 30.0))
    both.totals += (1, hits + misses)
    both.counts += np.array([[hits], [misses], [0]])
    return both


def test_the_domains_own_scores_up_to_the_issue_time_overturn_the_prior(tmp_path: Path) -> None:
    domain = Domain("sim", 5, grid=GRID, leads=1)
    archive, book = Archive(tmp_path / "archive"), ScoreBook(tmp_path / "scores")
    for raw in raw_frames(4, start=START + timedelta(minutes=45)):
        archive.add("sim", normalise(raw, domain))
    losing = {("a", 5): tally(1200, 1800), ("extrapolation", 5): tally(1500, 1500)}
    book.save("sim", START + STEP, losing)
    auto = Auto(registered(Flat("a", 10.0)), Compute(scores=book.root), prior_of(a=(0.05,)))
    before, after = (
        auto.predict(load_cube(archive, domain, START + timedelta(minutes=minutes)), 1)
        for minutes in (55, 60)
    )
    assert before.methods == ("a",), "at 12:55 what came in since 12:00 is not looked at yet"
    assert after.methods == ("extrapolation",)
    assert after.choice_reason.endswith(
        "made up; own scores of 1 forecast on 1 day, which weigh more than those"
    )
    elsewhere = replace(load_cube(archive, domain, START + timedelta(minutes=60)), domain="other")
    assert auto.predict(elsewhere, 1).methods == ("a",)


def test_the_record_tells_methods_and_reason_and_comes_back_from_the_file(
    cube: Cube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "a", lambda compute: Flat("a", 10.0))
    monkeypatch.setattr(shipped_scores, "shipped_prior", lambda: prior_of(a=(0.1, -0.1, 0.1)))
    record, prediction = issue(cube, DOMAIN, Compute(), model="auto")
    assert (record.model, record.model_version) == ("auto", "a 1.2, extrapolation 1")
    assert record.method_by_lead == ("a", "extrapolation", "a")
    write_forecast(tmp_path / "x.nc", record, prediction)
    back = read_record(tmp_path / "x.nc")
    assert (back.methods, back.choice_reason) == (record.methods, record.choice_reason)
    assert "CSI +0.100 over extrapolation" in back.choice_reason
    with open_forecast(tmp_path / "x.nc") as file:
        assert file["method"].dims == ("lead_time",)
        names = file["method"].attrs["flag_meanings"].split()
        assert [names[flag] for flag in file["method"].values] == ["a", "extrapolation", "a"]
        assert file["reflectivity"].attrs["ancillary_variables"] == "method"
        assert float(file["reflectivity"][2].max()) == 13.0


@pytest.mark.parametrize(
    ("broken", "answers", "excuses"),
    [
        (("extrapolation",), "blend", ("auto",)),
        (("extrapolation", "blend"), "persistence", ("auto", "blend", "extrapolation")),
    ],
)
def test_should_extrapolation_fail_in_it_the_best_that_works_answers(
    cube: Cube,
    monkeypatch: pytest.MonkeyPatch,
    broken: tuple[str, ...],
    answers: str,
    excuses: tuple[str, ...],
) -> None:
    class Broken(Method):
        name, version = "broken", "1"

        def predict(self, cube: Cube, leads: int) -> Prediction:
            raise RuntimeError("no motion")

    for name in broken:
        monkeypatch.setitem(METHODS, name, lambda compute: Broken())
    monkeypatch.setattr(shipped_scores, "shipped_prior", Prior)
    answer = predict_with_fallback(cube, 2, "auto", Compute())
    assert answer.model == answers
    assert answer.prediction.shortfalls == tuple(f"{name} failed (RuntimeError)" for name in excuses)


def test_with_an_empty_prior_torch_is_never_loaded() -> None:
    program = """
import sys
import nowcast.methods.shipped_scores as shipped_scores
from nowcast.compute import Compute
from nowcast.methods.shipped_scores import Prior
from nowcast.methods.registry import METHODS
shipped_scores.shipped_prior = shipped_scores.Prior
assert METHODS["auto"](Compute()).frames == 0
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_domain_without_scores_is_told_from_no_domain(cube: Cube, tmp_path: Path) -> None:
    auto = Auto(registered(Flat("a", 10.0)), Compute(scores=tmp_path / "scores"), prior_of(a=(0.05,)))
    assert auto.predict(cube, 1).choice_reason.endswith("made up; no domain's own scores looked at")
    reason = auto.predict(replace(cube, domain="sim"), 1).choice_reason
    assert reason.endswith("made up; no forecast of this domain scored in the 14 days up to the full hour")


def test_scores_without_a_rival_are_not_called_none(tmp_path: Path) -> None:
    domain = Domain("sim", 5, grid=GRID, leads=1)
    archive, book = Archive(tmp_path / "archive"), ScoreBook(tmp_path / "scores")
    for raw in raw_frames(4, start=START + timedelta(minutes=45)):
        archive.add("sim", normalise(raw, domain))
    auto = Auto(registered(Flat("a", 10.0)), Compute(scores=book.root), prior_of(a=(0.05,)))
    for k in range(39):
        book.save("sim", START - k * STEP, {("auto", 5): tally(1200, 1800)})
    reason = auto.predict(load_cube(archive, domain, START + timedelta(minutes=60)), 1).choice_reason
    assert reason.endswith("made up; 39 forecasts of this domain scored, none beside a rival yet")


def test_enough_scores_of_its_own_are_said_to_weigh_more(tmp_path: Path) -> None:
    domain = Domain("sim", 5, grid=GRID, leads=1)
    archive, book = Archive(tmp_path / "archive"), ScoreBook(tmp_path / "scores")
    for raw in raw_frames(4, start=START + timedelta(minutes=45)):
        archive.add("sim", normalise(raw, domain))
    auto = Auto(registered(Flat("a", 10.0)), Compute(scores=book.root), prior_of(a=(0.05,)))
    for k in range(2):
        both = {("a", 5): tally(500_000, 100_000), ("extrapolation", 5): tally(400_000, 200_000)}
        book.save("sim", START - k * STEP, both)
    reason = auto.predict(load_cube(archive, domain, START + timedelta(minutes=60)), 1).choice_reason
    assert reason.endswith("made up; own scores of 2 forecasts on 1 day, which weigh more than those")


@pytest.mark.parametrize(
    ("events", "weigh"),
    [
        ((900, 900), "weigh not yet as much as those"),
        ((1100, 900), "weigh more than those at 1 of 2 leads"),
        ((1100, 1100), "weigh more than those"),
    ],
)
def test_own_scores_are_weighed_against_what_the_prior_holds_at_each_lead(
    tmp_path: Path, events: tuple[int, int], weigh: str
) -> None:
    domain = Domain("sim", 5, grid=GRID, leads=2)
    archive, book = Archive(tmp_path / "archive"), ScoreBook(tmp_path / "scores")
    for raw in raw_frames(4, start=START + timedelta(minutes=45)):
        archive.add("sim", normalise(raw, domain))
    auto = Auto(registered(Flat("a", 10.0)), Compute(scores=book.root), prior_of(a=(0.05, 0.05)))
    own = {
        (name, 5 * (k + 1)): tally(count, 0)
        for k, count in enumerate(events)
        for name in ("a", "extrapolation")
    }
    book.save("sim", START, own)
    reason = auto.predict(load_cube(archive, domain, START + timedelta(minutes=60)), 2).choice_reason
    assert reason.endswith(f"own scores of 1 forecast on 1 day, which {weigh}")
