"""The benchmark of skill: pieces that resume and notice change, and the command."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from drifting import DRIFT, START, raw_frame, write_frames

from benchmarks import __main__ as benchmarks_main
from benchmarks import skill, skill_pieces
from benchmarks.skill_pieces import Event, Piece, Terms, events_in, tallies, version_of
from nowcast.compute import Compute
from nowcast.errors import NotEnoughFrames
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.hindcast.cases import Cases
from nowcast.methods.method import Method
from nowcast.methods.registry import METHODS
from nowcast.methods.shipped_scores import Prior, read_prior, write_prior
from nowcast.readers.listing import FrameList
from nowcast.simulation.odim_writer import write_odim

TERMS = Terms(history=2, leads=3, thresholds_dbz=(20.0, 35.0), windows_km=(10.0,))


class Oracle(Method):
    """Knows the drift, and counts how often it is asked; from the issue time ``breaks_at`` on it fails."""

    name = "oracle"

    def __init__(self, *, version="1", breaks_at=None, refuses=()):
        self.version, self.breaks_at, self.refuses, self.asked = version, breaks_at, refuses, 0

    def predict(self, cube, leads):
        self.asked += 1
        minute = (cube.issue_time - START).total_seconds() / 60
        if self.breaks_at is not None and minute >= self.breaks_at:
            raise RuntimeError("broken")
        if minute in self.refuses:
            raise NotEnoughFrames("not now")
        newest = cube.values[-1]
        return Prediction(
            Lead(np.roll(newest, (DRIFT[0] * lead, DRIFT[1] * lead), axis=(0, 1)))
            for lead in range(1, leads + 1)
        )


@pytest.fixture
def event(tmp_path):
    folder = tmp_path / "events" / "radar" / "day"
    folder.mkdir(parents=True)
    write_frames(folder, range(8))
    return Event("radar/day", folder)


def piece_of(tmp_path, event, method, terms=TERMS):
    return Piece(tmp_path / "cache", event, method.name, method.version, terms)


def plain(scored):
    return {time: {lead: tally.to_dict() for lead, tally in leads.items()} for time, leads in scored.items()}


def minutes_of(scored):
    return [(time - START) // timedelta(minutes=1) for time in scored]


def test_issue_times_follow_while_any_lead_has_a_truth(tmp_path, event):
    piece, method = piece_of(tmp_path, event, Oracle()), Oracle()
    piece.measure(method, every=1)

    scored = piece.scored(every=1)
    assert minutes_of(scored) == [5, 10, 15, 20, 25, 30]
    assert [list(leads) for leads in scored.values()] == [[5, 10, 15]] * 4 + [[5, 10], [5]]
    assert all(tally.contingency(20.0).csi == 1 for leads in scored.values() for tally in leads.values())
    assert len(piece.seconds(every=1)) == 6
    assert piece.credit == "test radar"


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, event, monkeypatch):
    monkeypatch.setattr(skill_pieces, "SAVE_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="broken"):
        piece_of(tmp_path, event, Oracle()).measure(Oracle(breaks_at=20), every=1)

    again, second = piece_of(tmp_path, event, Oracle()), Oracle()
    assert again.missing(every=1) == 3  # of the minutes 5 to 30
    again.measure(second, every=1)
    assert second.asked == 3

    whole = Piece(tmp_path / "other", event, "oracle", "1", TERMS)
    whole.measure(Oracle(), every=1)
    assert plain(again.scored(every=1)) == plain(whole.scored(every=1))


def test_what_is_scored_is_on_the_disk_before_the_next_forecast(tmp_path, event, monkeypatch):
    monkeypatch.setattr(skill_pieces, "SAVE_SECONDS", 0.0)
    left = []

    class Peeking(Oracle):
        def predict(self, cube, leads):
            left.append(piece_of(tmp_path, event, self).missing(every=1))
            return super().predict(cube, leads)

    piece_of(tmp_path, event, Oracle()).measure(Peeking(), every=1)
    assert left == [None, 5, 4, 3, 2, 1]


def test_what_is_measured_is_not_measured_again_and_not_even_read(tmp_path, event, monkeypatch):
    piece_of(tmp_path, event, Oracle()).measure(Oracle(), every=1)
    monkeypatch.setattr(skill_pieces, "FrameList", None)
    method = Oracle()
    piece = piece_of(tmp_path, event, method)
    piece.measure(method, every=1)

    assert method.asked == 0
    assert len(piece.scored(every=1)) == 6


def test_more_issue_times_take_over_those_of_few(tmp_path, event):
    piece_of(tmp_path, event, Oracle()).measure(Oracle(), every=3)
    piece, method = piece_of(tmp_path, event, Oracle()), Oracle()
    assert minutes_of(piece.scored(every=3)) == [5, 20]
    piece.measure(method, every=1)

    assert method.asked == 4
    assert minutes_of(piece.scored(every=1)) == [5, 10, 15, 20, 25, 30]
    assert minutes_of(piece.scored(every=3)) == [5, 20]


@pytest.mark.parametrize("change", ["version", "terms", "file", "more files"])
def test_what_changed_is_measured_anew(tmp_path, event, change):
    piece_of(tmp_path, event, Oracle()).measure(Oracle(), every=1)
    method = Oracle(version="2" if change == "version" else "1")
    terms = Terms(**{**TERMS.__dict__, "history": 3}) if change == "terms" else TERMS
    if change == "file":
        write_odim(event.folder / "frame_003.h5", raw_frame(3, values=raw_frame(2).values))
    elif change == "more files":
        write_frames(event.folder, [8])
    changed = Event(event.name, event.folder)

    piece = piece_of(tmp_path, changed, method, terms)
    assert piece.missing(every=1) is None
    piece.measure(method, every=1)
    assert method.asked == {"terms": 5, "more files": 7}.get(change, 6)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1, "event": "radar/day"}', b"\xff{"])
def test_a_damaged_piece_is_measured_anew(tmp_path, event, content):
    piece_of(tmp_path, event, Oracle()).measure(Oracle(), every=1)
    (path,) = (tmp_path / "cache").rglob("*.json")
    path.write_bytes(content)

    piece = piece_of(tmp_path, event, Oracle())
    piece.measure(Oracle(), every=1)
    assert len(piece.scored(every=1)) == 6


def test_an_issue_time_without_a_forecast_is_remembered_with_its_reason(tmp_path, event):
    piece_of(tmp_path, event, Oracle()).measure(Oracle(refuses=(15,)), every=1)
    piece = piece_of(tmp_path, event, Oracle())

    assert piece.missing(every=1) == 0
    assert 15 not in minutes_of(piece.scored(every=1))
    assert piece.notes(every=1) == ["not now"]


def test_tallies_are_those_counted_by_hand(tmp_path, event):
    scored = tallies("persistence", event, compute=Compute(), terms=TERMS, cache=tmp_path / "cache")

    frames = FrameList(event.paths)
    fields = [frames.load(index).values for index in range(8)]
    for time, leads in scored.items():
        issued = (time - START) // timedelta(minutes=5)
        for lead, tally in leads.items():
            said, came = fields[issued] >= 35, fields[issued + lead // 5] >= 35
            counts = [np.sum(said & came), np.sum(~said & came), np.sum(said & ~came)]
            assert tally.counts[:, 1].tolist() == counts
    assert sum(leads[5].contingency(35.0).misses for leads in scored.values()) > 0


def test_a_method_that_chooses_goes_by_all_it_chooses_by_and_from(tmp_path, monkeypatch):
    prior = tmp_path / "gate.json"
    counts = dict.fromkeys([("oracle", 5), ("absent", 5), ("extrapolation", 5)], np.ones((3, 3)))
    write_prior(prior, Prior(counts))
    monkeypatch.setattr(skill_pieces, "PRIOR_FILE", prior)
    monkeypatch.setattr(skill_pieces, "shipped_prior", lambda: read_prior(prior))
    monkeypatch.setitem(METHODS, "oracle", lambda compute: Oracle(version="7"))

    first = version_of(METHODS["auto"](Compute()), Compute())
    assert "oracle 7" in first
    monkeypatch.setitem(METHODS, "oracle", lambda compute: Oracle(version="8"))
    second = version_of(METHODS["auto"](Compute()), Compute())
    write_prior(prior, Prior(counts, "other words"))
    third = version_of(METHODS["auto"](Compute()), Compute())
    assert len({first, second, third}) == 3
    assert version_of(Oracle(version="7"), Compute()) == "7"


def test_events_are_the_folders_that_have_files(tmp_path):
    for name in ("a/one", "a/two", "b", "empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a/one/x.h5", "a/two/x.h5", "b/x.h5"):
        (tmp_path / name).touch()

    assert [event.name for event in events_in(tmp_path)] == ["a/one", "a/two", "b"]
    assert [event.name for event in events_in(tmp_path / "b")] == ["b"]


def test_cases_of_all_issue_times_load_each_frame_once(event, monkeypatch):
    frames = FrameList(event.paths)
    loaded = Counter()
    load = frames.load
    monkeypatch.setattr(frames, "load", lambda index: loaded.update([index]) or load(index))
    cases = Cases(frames, history=3, steps=2)
    cubes = [cases.at(index) for index in range(2, 7)]

    assert set(loaded.values()) == {1}
    assert [len(case.cube) for case in cubes] == [3] * 5
    assert [sorted(case.truths) for case in cubes] == [[1, 2]] * 4 + [[1]]
    assert all(before.issue_time < after.issue_time for before, after in pairwise(cubes))
    np.testing.assert_array_equal(cubes[0].truths[2], cubes[2].cube.values[-1])


def run(monkeypatch, *arguments):
    """Run the benchmark as from the command line and return its exit status."""
    monkeypatch.setattr("sys.argv", ["skill", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        skill.main()
    return exit.value.code


def test_one_command_makes_the_page_and_again_from_the_cache(tmp_path, event, monkeypatch, capsys):
    arguments = (
        "--data",
        tmp_path / "events",
        "--models",
        "persistence,extrapolation",
        "--cache",
        tmp_path / "c",
    )
    outputs = ("-o", tmp_path / "skill.md", "--json", tmp_path / "skill.json")
    assert run(monkeypatch, *arguments, *outputs) == 0
    told = capsys.readouterr().out
    assert "2/2 extrapolation, radar/day: 4 of 4" in told
    assert "auto was not checked" in told
    page = (tmp_path / "skill.md").read_text()
    assert "| radar/day | 2026-11-21 06:15 to 06:30 | 4 | test radar |" in page
    assert "### CSI at 20 dBZ, all events" in page
    figures = json.loads((tmp_path / "skill.json").read_text())
    assert figures["methods"]["extrapolation"]["leads"]["5"]["rows"][0]["csi"] > 0.9

    monkeypatch.setattr(skill_pieces, "FrameList", None)
    assert run(monkeypatch, *arguments, "-o", tmp_path / "again.md") == 0
    assert (tmp_path / "again.md").read_text() == page
    assert run(monkeypatch, *arguments, "--gate", "persistence") == 1
    assert "FAIL" in capsys.readouterr().out


def test_events_without_rain_leave_the_gate_unchecked(tmp_path, monkeypatch, capsys):
    (tmp_path / "dry").mkdir()
    write_frames(tmp_path / "dry", range(7), values=np.full((48, 64), -np.inf))
    models = ("--models", "persistence,extrapolation", "--gate", "persistence")
    assert run(monkeypatch, "--data", tmp_path / "dry", "--cache", tmp_path / "c", *models) == 0
    assert "persistence was not checked" in capsys.readouterr().out


def test_a_method_that_fails_is_named_and_the_others_are_scored(tmp_path, event, monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "oracle", lambda compute: Oracle(breaks_at=0))
    models = ("--models", "oracle,persistence", "-o", tmp_path / "skill.md")
    assert run(monkeypatch, "--data", tmp_path / "events", "--cache", tmp_path / "c", *models) == 1
    assert "oracle failed: broken" in capsys.readouterr().out
    page = (tmp_path / "skill.md").read_text()
    assert "Failed: oracle: broken" in page
    assert "| persistence |" in page


def test_networks_are_measured_if_they_have_weights(tmp_path):
    usual = skill.names_in_order(tmp_path)
    (tmp_path / "convlstm_paper").mkdir()
    (tmp_path / "convlstm_paper" / "config.json").touch()
    names = skill.names_in_order(tmp_path)

    assert [name for name in names if name not in usual] == ["convlstm_paper"]
    assert usual[:2] == ["persistence", "extrapolation"]


def test_options_after_the_names_are_handed_on(monkeypatch, tmp_path):
    commands = []

    class Done:
        returncode = 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command[2:]) or Done())
    monkeypatch.setattr("sys.argv", ["benchmarks", "skill", "--every", "10"])
    benchmarks_main.main()
    assert commands == [["benchmarks.skill", "--json", "build/bench/skill.json", "--every", "10"]]

    commands.clear()
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    benchmarks_main.main()
    assert [command[0] for command in commands] == [f"benchmarks.{name}" for name in benchmarks_main.NAMES]
    assert "benchmarks.skill" not in [command[0] for command in commands]


def test_a_method_that_asks_for_more_frames_has_them_at_the_same_issue_times(tmp_path, event):
    lengths = {}

    class Curious(Oracle):
        frames = 4

        def predict(self, cube, leads):
            lengths[cube.issue_time] = len(cube)
            return super().predict(cube, leads)

    curious = Curious()
    piece = piece_of(tmp_path, event, curious)
    piece.measure(curious, 1)
    assert sorted(piece.scored(1)) == sorted(lengths) and len(lengths) == 6
    assert [lengths[time] for time in sorted(lengths)] == [2, 3, 4, 4, 4, 4]
