"""A cube is the newest frames in order; a gap is bridged or owned up to, never hidden."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from nowcast.archive.archive import Archive
from nowcast.disk.dates import stamp
from nowcast.errors import DuplicateFrame, NoFrame, NotEnoughFrames, WrongGrid
from nowcast.frame.domain import Domain
from nowcast.frame.frame import frame_array, time_of
from nowcast.frame.grid import Grid
from nowcast.methods.cube import Cube, build_cube, load_cube
from nowcast.motion.flow import motion_field
from nowcast.readers.listing import FrameList

GRID = Grid.from_crs("EPSG:3035", nx=90, ny=80, x0=4e6, y0=3e6, dx=1000, dy=1000)
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DOMAIN = Domain("test", step_minutes=5, history=4)


def frame(minutes: float, grid: Grid = GRID) -> xr.DataArray:
    """A cell two columns further east every five minutes, so many from noon; a corner is not observed."""
    rows, columns = np.mgrid[: grid.ny, : grid.nx]
    bell = np.exp(-((rows - 40) ** 2 + (columns - 45 - minutes / 5 * 2) ** 2) / 128)
    dbz = np.maximum(60 * bell - 15, -10).astype(np.float32)
    dbz[:6, :6] = np.nan
    return frame_array(
        dbz, grid, NOON + timedelta(minutes=minutes), {"source": "made up", "zr_a": 300.0, "zr_b": 1.4}
    )


def cube_of(*minutes: float, history: int = 4) -> Cube:
    return build_cube([frame(m) for m in minutes], step_minutes=5, history=history)


def minutes_of(cube: Cube) -> list[float]:
    return [(time - NOON).total_seconds() / 60 for time in cube.times]


def test_frames_in_any_order_become_one_cube_in_order_of_time():
    cube = cube_of(-5, 0, -15, -10)
    assert cube.shape == (4, 80, 90) and len(cube) == 4
    assert cube.values.dtype == np.float32
    assert minutes_of(cube) == [-15, -10, -5, 0]
    assert list(cube.bridged) == [False] * 4
    assert cube.shortfalls == ()
    assert (cube.issue_time, cube.step_minutes, cube.domain) == (NOON, 5, "")
    assert np.array_equal(cube.newest, frame(0).values, equal_nan=True)
    assert cube.grid.matches(GRID)
    for k, minutes in enumerate((-15, -10, -5, 0)):
        assert np.array_equal(cube.values[k], frame(minutes).values, equal_nan=True)


def test_frames_older_than_the_history_are_left_out():
    assert minutes_of(cube_of(-25, -20, -15, -10, -5, 0, history=3)) == [-10, -5, 0]


def test_one_missing_frame_is_bridged_and_marked():
    cube = cube_of(-15, -5, 0)
    assert minutes_of(cube) == [-15, -10, -5, 0]
    assert list(cube.bridged) == [False, True, False, False]
    assert cube.shortfalls == ()
    expected = frame(-10).values
    core = expected > 20
    assert np.abs(cube.values[1] - expected)[core].max() < 1.5
    assert np.isnan(cube.values[1][:5, :3]).all()


def test_the_oldest_frame_is_bridged_from_one_before_the_history():
    cube = cube_of(-20, -10, -5, 0)
    assert minutes_of(cube) == [-15, -10, -5, 0]
    assert list(cube.bridged) == [True, False, False, False]


def test_a_second_gap_shortens_the_history_and_says_so():
    cube = cube_of(-25, -15, -5, 0, history=5)
    assert minutes_of(cube) == [-15, -10, -5, 0]
    assert list(cube.bridged) == [False, True, False, False]
    assert cube.shortfalls == (
        "made from the newest 4 frames instead of 5, as that of 2026-11-21T11:40Z is missing",
    )


def test_two_missing_in_a_row_are_not_bridged():
    cube = cube_of(-15, 0)
    assert minutes_of(cube) == [0]
    assert list(cube.bridged) == [False]
    assert cube.shortfalls == (
        "made from the newest frame alone instead of 4, as that of 2026-11-21T11:55Z is missing",
    )


def test_a_young_archive_gives_what_it_has():
    cube = cube_of(-5, 0)
    assert minutes_of(cube) == [-5, 0]
    assert "newest 2 frames instead of 4" in cube.shortfalls[0]


def test_a_frame_seconds_off_its_nominal_time_stands_for_it():
    cube = cube_of(-14.8, -10.1, -5.3, 0)
    assert minutes_of(cube) == pytest.approx([-14.8, -10.1, -5.3, 0], abs=0.02)
    assert not any(cube.bridged)


def test_a_frame_between_steps_stands_for_none():
    cube = cube_of(-10, -7.5, -5, 0, history=3)
    assert minutes_of(cube) == [-10, -5, 0]
    assert minutes_of(cube_of(-7.5, 0)) == [0]


def test_the_same_frame_twice_counts_once():
    assert minutes_of(cube_of(-5, 0, -5, 0, history=2)) == [-5, 0]


def test_two_different_frames_of_one_time_are_refused():
    other = frame(-5).copy(data=frame(0).values)
    with pytest.raises(DuplicateFrame, match="one frame of 2026-11-21T11:55:00Z, got two that differ"):
        build_cube([frame(-5), other, frame(0)], step_minutes=5, history=4)


def test_frames_on_another_grid_are_refused():
    moved = Grid.from_crs("EPSG:3035", nx=90, ny=80, x0=4.001e6, y0=3e6, dx=1000, dy=1000)
    with pytest.raises(WrongGrid, match="expected all frames on one grid"):
        build_cube([frame(-5, moved), frame(0)], step_minutes=5, history=4)


def test_no_frames_make_no_cube():
    with pytest.raises(NotEnoughFrames, match="at least one frame"):
        build_cube([], step_minutes=5, history=4)


def archive_with(folder: Path, *minutes: float) -> Archive:
    archive = Archive(folder)
    for m in minutes:
        archive.add("test", frame(m))
    return archive


def test_a_cube_is_loaded_up_to_its_issue_time_and_no_further(tmp_path: Path):
    archive = archive_with(tmp_path, -25, -20, -15, -10, -5, 0, 5)
    cube = load_cube(archive, DOMAIN, NOON)
    assert minutes_of(cube) == [-15, -10, -5, 0]
    assert cube.values[-1] == pytest.approx(frame(0).values, abs=0.006, nan_ok=True)


def test_a_gap_in_the_archive_is_bridged(tmp_path: Path):
    cube = load_cube(archive_with(tmp_path, -20, -10, -5, 0), DOMAIN, NOON)
    assert minutes_of(cube) == [-15, -10, -5, 0]
    assert list(cube.bridged) == [True, False, False, False]


def test_without_the_frame_of_the_issue_time_there_is_no_cube(tmp_path: Path):
    archive = archive_with(tmp_path, -15, -10, -5)
    with pytest.raises(NoFrame):
        load_cube(archive, DOMAIN, NOON)


def test_a_damaged_older_frame_counts_as_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    archive = archive_with(tmp_path, -15, -10, -5, 0)
    damaged = archive.path("test", NOON - timedelta(minutes=5))
    assert stamp(NOON - timedelta(minutes=5)) in damaged.name
    damaged.write_bytes(damaged.read_bytes()[:700])
    cube = load_cube(archive, DOMAIN, NOON)
    assert list(cube.bridged) == [False, False, True, False]
    assert "left out of the history" in caplog.text


def dry(minutes: float) -> xr.DataArray:
    """A frame of which the same cells are observed, without any echo."""
    full = frame(minutes)
    return full.copy(data=np.where(np.isnan(full.values), full.values, np.float32(-10)))


def test_a_frame_that_is_dry_between_wet_ones_is_left_out_and_said():
    frames = [frame(-15), dry(-10), frame(-5), frame(0)]
    cube = build_cube(frames, step_minutes=5, history=4)
    expected = cube_of(-15, -5, 0)
    assert cube.bridged == (False, True, False, False)
    assert np.array_equal(cube.values, expected.values, equal_nan=True)
    assert cube.shortfalls == (
        "the frame of 2026-11-21T11:50Z is left out, as it is dry between frames full of echo",
    )


def test_a_dry_newest_frame_after_rain_stays_and_is_said():
    cube = build_cube([frame(-15), frame(-10), frame(-5), dry(0)], step_minutes=5, history=4)
    assert np.array_equal(cube.newest, dry(0).values, equal_nan=True)
    assert cube.shortfalls == ("the newest frame is dry, though the one before it was full of echo",)


@pytest.mark.parametrize("share", [0.03, 0.3, 1.0])
def test_rain_that_loses_area_and_gains_it_again_is_weather(share: float):
    weak = dry(-10)
    rows, columns = np.nonzero(frame(-10).values > -10)
    some = slice(int(share * len(rows)) + 1)
    weak.values[rows[some], columns[some]] = 20.0
    cube = build_cube([frame(-15), weak, frame(-5), frame(0)], step_minutes=5, history=4)
    assert (cube.bridged, cube.shortfalls) == ((False,) * 4, ())


def test_a_few_cells_of_echo_may_come_and_go():
    frames = [dry(minutes) for minutes in (-10, -5, 0)]
    for time in (frames[0], frames[2]):
        time.values[20, 10:80] = 30.0
    cube = build_cube(frames, step_minutes=5, history=3)
    assert (cube.bridged, cube.shortfalls) == ((False,) * 3, ())


def test_echo_where_the_dry_frame_saw_nothing_is_no_sign_of_loss():
    blind = dry(-5)
    blind.values[frame(-10).values > -10] = np.nan
    blind.values[frame(0).values > -10] = np.nan
    cube = build_cube([frame(-10), blind, frame(0)], step_minutes=5, history=3)
    assert (cube.bridged, cube.shortfalls) == ((False,) * 3, ())


def test_the_frame_that_lost_its_echo_in_a_real_file_is_left_out_of_motion(shared_data: Path):
    paths = sorted((shared_data / "faults" / "dry_frame_in_the_middle").glob("*.nc"))
    files = FrameList(paths)
    frames = [files.load(index) for index in range(len(files))]
    empty = [int((frame.values > -10).sum()) == 0 for frame in frames]
    assert sum(empty) == 1 and not empty[0] and not empty[-1]
    others = [frame for frame, is_empty in zip(frames, empty, strict=True) if not is_empty]
    step = files.domain.step_minutes
    cube = build_cube(frames, step_minutes=step, history=4)
    expected = build_cube(others, step_minutes=step, history=4)
    assert np.array_equal(cube.values, expected.values, equal_nan=True)
    lost = time_of(frames[empty.index(True)])
    assert cube.shortfalls == (
        f"the frame of {lost:%Y-%m-%dT%H:%MZ} is left out, as it is dry between frames full of echo",
    )
    motion, wanted = (motion_field(each.values).dense() for each in (cube, expected))
    assert np.array_equal(motion, wanted)
