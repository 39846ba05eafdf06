"""Sequences with a base: what a correction is shown is what the service has, and turns as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from trainable import GRID, START, add_event

from models.convlstm import ConvLSTMConfig
from models.correction import Correction, CorrectionConfig
from models.normalisation import NOT_OBSERVED, from_bytes
from models.registry import PRESETS
from nowcast.archive.archive import Archive
from nowcast.archive.events import find_events
from nowcast.frame.frame import frame_array
from nowcast.methods.blend import blended
from nowcast.motion.lagrangian import carried_back
from nowcast.training.callbacks import read_rows
from nowcast.training.data import Draws, Issues, loader, turned
from nowcast.training.plan import Plan
from nowcast.training.run import train
from nowcast.training.sequences import STILL, Shape, prepare

BASED = Shape(slot_minutes=10, slots=3, tile=48, base=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Two storms every 5 minutes, one every 6 and one every 15."""
    root = tmp_path_factory.mktemp("archive")
    for seed, step in ((3, 5), (4, 5), (5, 6), (6, 15)):
        add_event(root, f"storm-{seed}", seed=seed, day=seed, step_minutes=step, frames=12)
    return Archive(root)


def test_leads_are_the_nearest_an_event_has_and_their_minutes_are_told(
    archive: Archive, tmp_path: Path
) -> None:
    tiles = prepare(archive, find_events(archive), BASED, tmp_path)
    minutes = {one.event: one.minutes for one in tiles}
    assert minutes["storm-3"] == (10, 20, 30)
    assert minutes["storm-5"] == (12, 18, 30)
    assert minutes["storm-6"] == (15, 15, 30)


def test_planes_are_those_of_the_base_and_of_the_truth(archive: Archive, tmp_path: Path) -> None:
    whole = replace(BASED, tile=0)
    event = next(event for event in find_events(archive) if event.name == "storm-3")
    (tiles,) = prepare(archive, [event], whole, tmp_path)
    issue = 3  # the first with four frames
    planes, observed = from_bytes(torch.from_numpy(tiles.bytes[0].copy())[:, None])
    dbz = np.where(observed[:, 0], planes[:, 0] * 70 - 10, np.nan)
    frames = np.stack([archive.load("storm-3", time).values for time in event.times])
    motion, _, fields = blended(frames[: issue + 1], 5, (2, 4, 6))
    expected = {
        "truth": carried_back(frames[[issue + lead for lead in (2, 4, 6)]], motion, (2, 4, 6)),
        "guess": carried_back(list(fields), motion, (2, 4, 6)),
        "in_place": carried_back([frames[issue]] * 3, motion, (2, 4, 6)),
    }
    for name, wanted in expected.items():
        got = dbz[whole.parts[name]]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
        np.testing.assert_allclose(got, np.clip(wanted, -10, 60), atol=0.15)
    np.testing.assert_allclose(dbz[3], np.clip(frames[issue], -10, 60), atol=0.15)
    kmh = tiles.bytes[0][whole.parts["motion"]].astype(float) - STILL
    np.testing.assert_allclose(kmh, motion.dense() * 12 * tiles.cell_km, atol=0.51)
    assert np.abs(kmh).max() > 10


def test_a_truth_that_is_missing_is_not_observed(tmp_path: Path) -> None:
    frames = [*range(4), 5, 6, 7, 8, 9]
    root = tmp_path / "archive"
    rain = np.random.default_rng(0).uniform(20, 40, GRID.shape).astype(np.float32)
    for number in frames:
        Archive(root).add("gap", frame_array(rain, GRID, START + timedelta(minutes=10 * number)))
    archive = Archive(root)
    (tiles,) = prepare(archive, find_events(archive), replace(BASED, tile=0), tmp_path / "cache")
    known = [(tile[BASED.parts["truth"]] != NOT_OBSERVED).any((1, 2)).tolist() for tile in tiles.bytes]
    assert known[0] == [False, True, True]  # issued at 30 min, the frame at 40 is not there
    assert (tiles.bytes[0][BASED.parts["guess"]] != NOT_OBSERVED).any((1, 2)).all()


def test_all_events_of_one_side_may_be_in_a_batch_and_no_others(archive: Archive, tmp_path: Path) -> None:
    tiles = prepare(archive, find_events(archive), BASED, tmp_path)
    # Cells of the slow storm are taken to be twice as wide, so its squares are half as large.
    tiles = [replace(one, cell_km=2.0 if one.step_minutes == 15 else 1.0) for one in tiles]
    draws = Draws(tiles, BASED, crop=lambda km: round(32 / km), seed=1, together=4)
    steps = [set(batch["step_minutes"].tolist()) for batch in loader(draws, range(160), 4)]
    assert {15.0} in steps and {5.0, 6.0} in steps
    assert all(15.0 not in step or step == {15.0} for step in steps)
    two = Draws(tiles, BASED, crop=lambda km: round(32 / km), seed=1, together=4, world=2)
    shapes = [two[number]["x"].shape[-1] for number in range(0, 160, 2)]  # of the first of two processes
    assert all(len(set(shapes[k : k + 4])) == 1 for k in range(0, 80, 4))


def test_motion_turns_with_the_rain() -> None:
    shape = Shape(frames=2, slot_minutes=10, slots=1, base=True)
    square = np.zeros((shape.planes, 5, 5), np.uint8)
    square[0, 1, 1], square[1, 1, 3] = 200, 200  # moves east by two cells
    square[shape.parts["motion"].start] = STILL
    square[shape.parts["motion"].start + 1] = STILL + 2
    for quarters in range(4):
        for mirrored in (False, True):
            made = turned(square, shape, quarters, mirrored)
            (before,), (after,) = (np.argwhere(made[k] == 200) for k in (0, 1))
            south, east = (int(plane[0, 0]) - STILL for plane in made[shape.parts["motion"]])
            assert (after - before).tolist() == [south, east]


@pytest.fixture
def tiny() -> Iterator[None]:
    kept = dict(PRESETS)
    core = ConvLSTMConfig(hidden=(8,), patch=1, frame_channels=8)
    PRESETS["scs_cpu"] = CorrectionConfig(core, channels=8, slots=3)
    yield
    PRESETS.update(kept)


def test_a_correction_is_trained_and_judged_by_its_gain(archive: Archive, tmp_path: Path, tiny: None) -> None:
    plan = Plan("scs", steps=8, hold_out=("storm-4",), batch=2, accumulate=2, crop=32, checks=2, seed=1)
    trained = train(archive, tmp_path, plan)
    assert isinstance(trained.network, Correction)
    rows = read_rows(tmp_path / "run" / "rain" / "curves.csv")
    gains = [row["val/gain"] for row in rows if "val/gain" in row]
    assert len(gains) == 2
    assert {"val/gain_slot_1", "val/gain_slot_3"} <= set(rows[-1])
    issues = Issues(trained.held_out, replace(BASED, tile=0))
    assert issues[0]["x"].shape[-2:] == GRID.shape
    assert trained.card.task.frames == 4
