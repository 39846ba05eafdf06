"""Training sequences: events share nothing, gaps stay gaps, and tiles are made once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from trainable import GRID, SHAPE, START, add_event

from models.normalisation import BYTE_STEPS, NOT_OBSERVED
from nowcast.archive.archive import Archive
from nowcast.archive.events import APART, Event, events_to_hold_out, find_events
from nowcast.errors import NotEnoughFrames
from nowcast.frame.frame import frame_array
from nowcast.training.sequences import Shape, prepare

#: Sequences in place, so that every cell is known.
IN_PLACE = Shape(frames=2, slots=4, moving=False, tile=64)


def add_numbered(root: Path, name: str, minutes: list[int]) -> None:
    """Archive frames of one value each, in steps of a byte: a frame's byte is 150 plus its minute."""
    for minute in minutes:
        field = np.full(GRID.shape, (150 + minute) / BYTE_STEPS * 70 - 10, np.float32)
        field[:, :8] = np.nan
        Archive(root).add(name, frame_array(field, GRID, START + timedelta(minutes=minute)))


def byte_of(frame: np.ndarray) -> int:
    """Return the byte of the cells that were observed, of which there are no two."""
    (value,) = set(np.unique(frame)) - {NOT_OBSERVED}
    return int(value)


def test_an_event_of_ten_minutes_fills_every_second_slot_and_invents_none(tmp_path: Path) -> None:
    add_numbered(tmp_path / "archive", "slow", [0, 10, 20, 30, 40])
    archive = Archive(tmp_path / "archive")
    (tiles,) = prepare(archive, find_events(archive), IN_PLACE, tmp_path)
    assert tiles.step_minutes == 10
    first = tiles.bytes[0]
    assert [byte_of(frame) for frame in first[:2]] == [150, 160]
    assert [byte_of(first[2 + slot]) for slot in (1, 3)] == [170, 180]
    assert (first[[2, 4]] == NOT_OBSERVED).all()


def test_a_gap_is_not_observed_and_nothing_crosses_it(tmp_path: Path) -> None:
    add_numbered(tmp_path / "archive", "gap", [0, 5, 15, 20, 25, 30])  # the frame at 10 min is missing
    archive = Archive(tmp_path / "archive")
    (tiles,) = prepare(archive, find_events(archive), IN_PLACE, tmp_path)
    issued = [byte_of(tile[1]) - 150 for tile in tiles.bytes[::1] if tile[1].min() < NOT_OBSERVED]
    assert sorted(set(issued)) == [5, 20, 25]  # at 15 there is no frame 5 min before, at 30 none after
    (at_five,) = [tile for tile in tiles.bytes if byte_of(tile[1]) == 155][:1]
    assert (at_five[2] == NOT_OBSERVED).all()
    assert [byte_of(at_five[3 + k]) - 150 for k in range(3)] == [15, 20, 25]


def test_cells_not_observed_stay_so(tmp_path: Path) -> None:
    add_numbered(tmp_path / "archive", "masked", [0, 5, 10])
    archive = Archive(tmp_path / "archive")
    (tiles,) = prepare(archive, find_events(archive), IN_PLACE, tmp_path)
    west = tiles.bytes[0]
    assert (west[:3, :, :8] == NOT_OBSERVED).all()
    assert (west[:3, :, 8:] != NOT_OBSERVED).all()


def test_small_grids_are_padded_with_what_was_not_observed(tmp_path: Path) -> None:
    add_numbered(tmp_path / "archive", "small", [0, 5, 10])
    archive = Archive(tmp_path / "archive")
    large = Shape(frames=2, slots=4, moving=False, tile=96)
    (tiles,) = prepare(archive, find_events(archive), large, tmp_path)
    assert tiles.bytes.shape == (1, 6, 96, 96)
    assert (tiles.bytes[:, :, GRID.ny :] == NOT_OBSERVED).all()
    assert (tiles.bytes[:, :, :, GRID.nx :] == NOT_OBSERVED).all()


def test_tiles_are_made_once_and_anew_for_other_frames(tmp_path: Path) -> None:
    add_event(tmp_path / "archive", "storm", seed=3, frames=8)
    archive = Archive(tmp_path / "archive")
    (made,) = prepare(archive, find_events(archive), SHAPE, tmp_path / "cache")
    written = made.path.stat().st_mtime_ns
    (kept,) = prepare(archive, find_events(archive), SHAPE, tmp_path / "cache")
    assert (kept.path, kept.path.stat().st_mtime_ns) == (made.path, written)
    assert kept.rain.tolist() == made.rain.tolist()
    assert len(made.rain) == len(made.bytes) > 0
    add_event(tmp_path / "archive", "storm", seed=3, frames=9)
    (other,) = prepare(archive, find_events(archive), SHAPE, tmp_path / "cache")
    assert other.path != made.path


def test_dry_weather_and_odd_steps_are_refused(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for minute in (0, 5, 10, 15):
        dry = frame_array(np.full(GRID.shape, -10, np.float32), GRID, START + timedelta(minutes=minute))
        archive.add("dry", dry)
    with pytest.raises(NotEnoughFrames, match="found none in 1 events"):
        prepare(archive, find_events(archive), IN_PLACE, tmp_path / "cache")
    add_numbered(tmp_path / "odd", "odd", [0, 7, 14, 21])
    with pytest.raises(NotEnoughFrames):
        prepare(Archive(tmp_path / "odd"), find_events(Archive(tmp_path / "odd")), IN_PLACE, tmp_path / "c")


def test_a_long_domain_is_an_event_a_day_with_an_hour_between(tmp_path: Path) -> None:
    hours = [0, 0.5, 1, 12, 24, 24.5, 25, 36, 48.5, 60, 72]
    field = np.full(GRID.shape, 30, np.float32)
    for hour in hours:
        Archive(tmp_path).add(
            "live", frame_array(field, GRID, datetime(2026, 5, 1, tzinfo=UTC) + timedelta(hours=hour))
        )
    events = find_events(Archive(tmp_path))
    assert [event.name for event in events] == ["live@2026-05-01", "live@2026-05-02"]
    assert all(event.domain == "live" and event.step_minutes == 30 for event in events)
    assert [event.times[0].hour for event in events] == [1, 1]
    assert events[1].times[0] - events[0].times[-1] >= APART


def test_no_frame_is_in_two_events(tmp_path: Path) -> None:
    add_numbered(tmp_path, "a", [0, 5, 10])
    add_numbered(tmp_path, "b", [0, 5, 10])
    events = find_events(Archive(tmp_path))
    assert events == [
        Event(name, tuple(START + timedelta(minutes=minute) for minute in (0, 5, 10)), 5, name)
        for name in ("a", "b")
    ]


def test_about_a_fifth_of_the_rain_is_held_out_in_whole_events() -> None:
    rain = {f"event {k}": 1.0 for k in range(20)}
    chosen = events_to_hold_out(rain)
    assert len(chosen) == 4
    assert chosen == events_to_hold_out(dict(reversed(rain.items())))
    assert len(set(chosen) & set(events_to_hold_out({**rain, "event 20": 0.5}))) >= 3
    assert events_to_hold_out({"wet": 10.0, "dry": 8.0}) == ("dry",)
    assert events_to_hold_out({"only": 1.0}) == ()
