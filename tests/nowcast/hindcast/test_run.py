"""Hindcasts of rain whose future is known: the right truth at each lead, and nothing of it seen before."""

from __future__ import annotations

import json
import random
import weakref
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from drifting import DRIFT, GRID, START, raw_frame, write_frames

from nowcast.errors import BadRequest, NotEnoughFrames, UnknownModel
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.frame.domain import Domain
from nowcast.hindcast.run import hindcast
from nowcast.methods.method import Method
from nowcast.readers.listing import FrameList
from nowcast.simulation.odim_writer import write_odim

ROW = {
    "model", "lead_minutes", "threshold_dbz", "hits", "misses", "false_alarms", "correct_negatives",
    "csi", "far", "pod", "bias", "hss", "ets", "sedi", "cor_bin", "forecasts",
}  # fmt: skip


class Oracle(Method):
    """Knows the drift, so each lead is perfect, if it is compared with the right truth."""

    name, version = "oracle", "1"

    def predict(self, cube, leads):
        newest = cube.values[-1]
        return Prediction(
            Lead(np.roll(newest, (DRIFT[0] * lead, DRIFT[1] * lead), axis=(0, 1)))
            for lead in range(1, leads + 1)
        )


class Spy(Oracle):
    """Notes the times it is shown."""

    name = "spy"

    def __init__(self):
        self.seen = []

    def predict(self, cube, leads):
        self.seen.append(list(cube.times))
        return super().predict(cube, leads)


class Choosy(Oracle):
    """Needs as many frames as it was made with."""

    name = "choosy"

    def __init__(self, frames=3):
        self.frames = frames

    def predict(self, cube, leads):
        if len(cube) < self.frames:
            raise NotEnoughFrames(f"needs {self.frames} frames")
        return Prediction(super().predict(cube, leads).leads, shortfalls=("never quite well",))


class Blind(Oracle):
    """Covers nothing."""

    name = "blind"

    def predict(self, cube, leads):
        return Prediction(Lead(np.full(cube.shape[1:], np.nan, np.float32)) for _ in range(leads))


METHODS = {
    "oracle": lambda compute: Oracle(),
    "choosy": lambda compute: Choosy(),
    "blind": lambda compute: Blind(),
}


def minutes(*indices):
    return [START + timedelta(minutes=5 * index) for index in indices]


def run(paths, **options):
    options = {"models": ["oracle"], "steps": 3, "history": 2, "methods": METHODS} | options
    return hindcast(paths, **{"thresholds_dbz": [20.0, 35.0], **options})


def test_each_lead_is_scored_against_its_own_truth(tmp_path):
    scores = run(write_frames(tmp_path, range(8)))

    assert len(scores["rows"]) == 3 * 2
    assert {row["lead_minutes"] for row in scores["rows"]} == {5, 10, 15}
    for row in scores["rows"]:
        assert set(row) == ROW
        assert (row["csi"], row["far"], row["pod"], row["bias"], row["hss"]) == (1, 0, 1, 1, 1)
        assert row["forecasts"] == 4  # issued at the indices 1 to 4
        assert row["hits"] + row["correct_negatives"] == 4 * 48 * 64
    assert all(row["fss"] == 1 for row in scores["fss"])
    assert all(row["mae_dbz"] == row["mse_dbz2"] == 0 for row in scores["fields"])
    assert scores["files"] == 8
    assert scores["skipped"] == []
    assert scores["models"]["oracle"]["seconds_per_forecast"] > 0
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_each_forecast_sees_the_frames_up_to_its_issue_time_and_no_others(tmp_path):
    spy = Spy()
    run(
        write_frames(tmp_path, range(12)),
        models=["spy"],
        methods={"spy": lambda compute: spy},
        history=3,
        every=2,
    )

    assert spy.seen == [minutes(0, 1, 2), minutes(2, 3, 4), minutes(4, 5, 6), minutes(6, 7, 8)]


def test_the_last_issue_time_is_followed_by_all_steps(tmp_path):
    spy = Spy()
    run(write_frames(tmp_path, range(5)), models=["spy"], methods={"spy": lambda compute: spy})
    assert spy.seen == [minutes(0, 1)]

    with pytest.raises(NotEnoughFrames, match="5 frames; 4 files have 4"):
        run(write_frames(tmp_path, range(4)))


def test_the_order_of_files_does_not_matter(tmp_path):
    paths = write_frames(tmp_path, range(9))
    in_order = run(paths)
    random.Random(3).shuffle(paths)

    shuffled = run(paths)
    assert [shuffled[table] for table in ("rows", "fields", "fss")] == [
        in_order[table] for table in ("rows", "fields", "fss")
    ]


@pytest.mark.parametrize("how", ["absent", "cut off"])
def test_a_missing_time_shifts_no_lead(tmp_path, how):
    paths = write_frames(tmp_path, range(10))
    if how == "absent":
        del paths[5]
    else:
        paths[5].write_bytes(paths[5].read_bytes()[:500])

    scores = run(paths, history=2)

    assert all(row["csi"] == 1 for row in scores["rows"])
    by_lead = {row["lead_minutes"]: row["forecasts"] for row in scores["rows"]}
    # Frames 0-4 and 6-9 have indices 0-8, of which 1 to 5 issue: 1, 2, 3, 4 and 6; nothing is there at 5.
    assert by_lead == {5: 4, 10: 4, 15: 4}
    assert [skipped["file"] for skipped in scores["skipped"]] == ([] if how == "absent" else ["frame_005.h5"])


@pytest.mark.parametrize("offset_minutes", [0, 2])
def test_a_frame_seconds_late_is_still_its_lead(tmp_path, offset_minutes):
    paths = []
    for index in range(8):
        delay = timedelta(minutes=offset_minutes, seconds=40 * (index == 4))
        paths.append(tmp_path / f"{index}.h5")
        write_odim(paths[-1], replace(raw_frame(index), time=START + timedelta(minutes=5 * index) + delay))

    assert {row["forecasts"] for row in run(paths)["rows"]} == {4}


def test_only_the_frames_one_forecast_needs_are_in_memory_and_each_is_loaded_once(tmp_path, monkeypatch):
    loaded, references, most = [], [], []

    class Watched(FrameList):
        def load(self, index):
            frame = super().load(index)
            loaded.append(index)
            references.append(weakref.ref(frame))
            most.append(sum(reference() is not None for reference in references))
            return frame

    monkeypatch.setattr("nowcast.hindcast.run.FrameList", Watched)
    run(write_frames(tmp_path, range(12)))

    assert sorted(loaded) == list(range(12))
    assert max(most) == 2 + 3  # history and steps


def test_an_unobserved_frame_keeps_its_index_and_issues_nothing(tmp_path):
    paths = write_frames(tmp_path, range(9))
    write_odim(paths[3], raw_frame(3, values=np.full(GRID.shape, np.nan)))

    scores = run(paths)

    assert scores["issue_times"]["scored"] == 4  # of the indices 1 to 5
    assert [entry["issue_time"] for entry in scores["issue_times"]["left_out"]] == ["2026-11-21T06:15:00Z"]
    assert [entry["file"] for entry in scores["skipped"]] == ["frame_003.h5"]
    assert all(row["csi"] == 1 for row in scores["rows"])


def test_an_issue_time_one_model_cannot_use_is_left_out_for_all(tmp_path):
    paths = write_frames(tmp_path, [0, 1, 4, 5, 6, 7, 8, 9, 10])  # after the gap two frames are not three

    scores = run(paths, models=["oracle", "choosy"], history=3)

    forecasts = {
        name: {row["forecasts"] for row in scores["rows"] if row["model"] == name} for name in METHODS
    }
    assert forecasts["oracle"] == forecasts["choosy"] == {2}
    assert [entry["reason"] for entry in scores["issue_times"]["left_out"]] == ["needs 3 frames"] * 2
    assert scores["models"]["choosy"]["degraded"] == {"never quite well": 2}


def test_a_forecast_without_a_value_is_no_echo_and_truth_without_one_counts_nowhere(tmp_path):
    paths = write_frames(tmp_path, range(5))
    half_seen = np.full(GRID.shape, -np.inf)
    half_seen[:, :20] = np.nan
    half_seen[10, 30:40] = 40.0
    write_odim(paths[4], raw_frame(4, values=half_seen))

    (row,) = run(paths, models=["blind"], steps=1, history=4, thresholds_dbz=[20.0])["rows"]

    assert (row["hits"], row["misses"], row["false_alarms"]) == (0, 10, 0)
    assert row["correct_negatives"] == 48 * 44 - 10
    assert (row["pod"], row["csi"], row["bias"], row["far"]) == (0, 0, 0, None)


def test_all_dry_scores_null_and_not_zero(tmp_path):
    dry = np.full(GRID.shape, -np.inf)
    scores = run(write_frames(tmp_path, range(6), values=dry))

    assert all(row[name] is None for row in scores["rows"] for name in ("csi", "far", "pod", "bias", "hss"))
    assert all(row["correct_negatives"] == 2 * dry.size for row in scores["rows"])
    assert all(row["fss"] is None for row in scores["fss"])


def test_tables_are_ordered_by_model_as_asked_for_then_lead_threshold_and_window(tmp_path):
    scores = run(
        write_frames(tmp_path, range(6)), models=["blind", "oracle", "blind"], thresholds_dbz=[35.0, 20.0]
    )

    assert [(row["model"], row["lead_minutes"], row["threshold_dbz"]) for row in scores["rows"]] == [
        (model, lead, threshold)
        for model in ("blind", "oracle")
        for lead in (5, 10, 15)
        for threshold in (20.0, 35.0)
    ]
    assert [row["window_km"] for row in scores["fss"][:3]] == [5.0, 10.0, 20.0]
    assert set(scores["models"]) == {"blind", "oracle"}


def test_a_domain_that_is_given_brings_its_thresholds(tmp_path):
    domain = Domain("fin", 5, thresholds_dbz=(25.0,), grid=GRID)
    scores = run(write_frames(tmp_path, range(6)), thresholds_dbz=None, domain=domain)

    assert {row["threshold_dbz"] for row in scores["rows"]} == {25.0}
    assert scores["domain"]["name"] == "fin"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"models": ["oracle", "crystal ball"]}, UnknownModel, "crystal ball"),
        ({"models": []}, BadRequest, "model"),
        ({"steps": 0}, BadRequest, "0 steps"),
        ({"every": 0}, BadRequest, "every 0"),
        ({"history": 0}, BadRequest, "history 0"),
        ({"thresholds_dbz": []}, BadRequest, "threshold"),
        ({"thresholds_dbz": [-10.0]}, BadRequest, "threshold"),
        ({"windows_km": [-1.0]}, BadRequest, "window"),
        ({"models": ["choosy"], "history": 2}, NotEnoughFrames, "needs 3 frames"),
    ],
)
def test_a_question_without_an_answer_is_refused_in_one_line(tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        run(write_frames(tmp_path, range(6)), **options)


def test_progress_counts_files_and_forecasts(tmp_path):
    told = []
    run(write_frames(tmp_path, range(6)), progress=lambda *what: told.append(what))

    assert told[0] == ("reading", 0, 6)
    assert [what for what in told if what[0] == "forecasting"] == [
        ("forecasting", done, 2) for done in range(3)
    ]


def test_extrapolation_beats_persistence_on_drifting_rain(tmp_path):
    scores = hindcast(
        write_frames(tmp_path, range(12)),
        models=["extrapolation", "persistence"],
        steps=4,
        every=2,
        thresholds_dbz=[30.0],
    )
    csi = {(row["model"], row["lead_minutes"]): row["csi"] for row in scores["rows"]}

    for lead in (5, 10, 15, 20):
        assert csi["extrapolation", lead] > 0.8 > csi["persistence", lead]
    assert scores["models"]["extrapolation"]["degraded"] == {}


def test_persistence_over_real_frames_scores_as_counted_by_hand(shared_data):
    path = shared_data / "train" / "cpol_darwin_20061116" / "CPOL_radar.nc"
    scores = hindcast([path], models=["persistence"], steps=2, every=5, thresholds_dbz=[20.0, 35.0])

    frames = FrameList([path])
    fields = [None if (frame := frames.load(i)) is None else frame.values for i in range(len(frames))]
    assert sum(field is None for field in fields) == 2  # the file says so itself (``isfile``)
    for row in scores["rows"]:
        lead = row["lead_minutes"] // 10
        counts = np.zeros(4, int)
        for issue in range(4, 144 - 2, 5):
            now, truth = fields[issue], fields[issue + lead]
            if now is None or truth is None:
                continue
            forecast, observed = (
                now[~np.isnan(truth)] >= row["threshold_dbz"],
                truth[~np.isnan(truth)] >= row["threshold_dbz"],
            )
            counts += [
                np.sum(forecast & observed), np.sum(~forecast & observed),
                np.sum(forecast & ~observed), np.sum(~forecast & ~observed),
            ]  # fmt: skip
        names = ("hits", "misses", "false_alarms", "correct_negatives")
        assert [row[name] for name in names] == counts.tolist()
        assert row["csi"] == pytest.approx(counts[0] / counts[:3].sum())


@pytest.mark.slow
def test_extrapolation_beats_persistence_on_real_showers(shared_data):
    paths = sorted((shared_data / "train" / "fmi_pgm" / "20170509").iterdir())
    scores = hindcast(paths, models=["extrapolation", "persistence"], every=9, thresholds_dbz=[20.0])
    csi = {(row["model"], row["lead_minutes"]): row["csi"] for row in scores["rows"]}

    for lead in range(5, 65, 5):
        assert csi["extrapolation", lead] > csi["persistence", lead]
