"""Seen from the moving air, what only moves stands still, and the way there leads back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.motion.flow import FRAMES, motion_field
from nowcast.motion.lagrangian import carried_back, carried_to_issue
from nowcast.motion.trajectory import Carrier, Trajectory, VectorField, carried_forward
from nowcast.readers import read

Array = NDArray[np.float32]
SHAPE = (160, 180)
CENTRE = (79.5, 89.5)


def field_of(rows: object, columns: object) -> VectorField:
    """The same or another vector at every cell."""
    nodes = np.empty((2, *SHAPE), np.float32)
    nodes[0], nodes[1] = rows, columns
    return VectorField(nodes, 1, SHAPE)


def smooth(rows: Array, columns: Array) -> Array:
    """Rain of 10 to 40 dBZ with a scale of some 60 cells, at any place, so that it can be moved exactly."""
    waves = np.sin(rows / 11) * np.cos(columns / 13) + 0.5 * np.sin((rows + 2 * columns) / 29)
    return (25 + 10 * waves).astype(np.float32)


def places() -> tuple[Array, Array]:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    return rows, columns


def rotation(degrees: float) -> VectorField:
    """Motion that turns about the centre, clockwise on the map, by so much a step: chords of the circles."""
    rows, columns = places()
    turn = np.deg2rad(degrees)
    south, east = rows - CENTRE[0], columns - CENTRE[1]
    return field_of(turn * east, -turn * south)


def turned(degrees: float) -> Array:
    """The rain after it turned by so much about the centre, with the motion of :func:`rotation`."""
    rows, columns = places()
    south, east = rows - CENTRE[0], columns - CENTRE[1]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return smooth(CENTRE[0] + cos * south - sin * east, CENTRE[1] + sin * south + cos * east)


def near_centre(radius: float = 70.0) -> NDArray[np.bool_]:
    rows, columns = places()
    return np.asarray(np.hypot(rows - CENTRE[0], columns - CENTRE[1]) < radius)


def test_what_only_moves_stands_still_in_the_moving_frame():
    frames = np.stack([smooth(*places()) for _ in range(4)])
    for back in (1, 2, 3):
        rows, columns = places()
        frames[3 - back] = smooth(rows + 2 * back, columns - 3 * back)
    carried = carried_to_issue(frames, field_of(2.0, -3.0))
    assert carried.dtype == np.float32
    for frame in carried:
        known = ~np.isnan(frame)
        np.testing.assert_allclose(frame[known], frames[3][known], atol=0.02)
    # after k steps, 2 k rows have come in from the north and 3 k columns from the east
    assert [int(np.isnan(frame[80]).sum()) for frame in carried] == [9, 6, 3, 0]
    assert [int(np.isnan(frame[:, 60]).sum()) for frame in carried] == [6, 4, 2, 0]


def test_what_turns_stands_still_along_curved_paths():
    """Twelve steps of 4 degrees: along straight lines a cell 60 away would miss its place by 20 cells."""
    frames = np.stack([turned(4.0 * step) for step in range(-12, 1)])
    carried = carried_to_issue(frames, rotation(4.0))
    inside = near_centre()
    for frame in carried:
        np.testing.assert_allclose(frame[inside], frames[-1][inside], atol=0.25)
    assert np.abs(frames[0] - frames[-1])[inside].mean() > 5


def test_what_follows_is_brought_back_along_curved_paths_too():
    leads = (1, 5, 12)
    back = carried_back([turned(4.0 * lead) for lead in leads], rotation(4.0), leads)
    for field in back:
        np.testing.assert_allclose(field[near_centre()], turned(0.0)[near_centre()], atol=0.25)


def test_the_newest_frame_stays_as_it_is_to_the_last_bit():
    newest = np.full(SHAPE, -10.0, np.float32)
    newest[40:80, 50:90] = 12.3456  # no multiple of what carrying rounds to
    newest[:20] = np.nan
    carried = carried_to_issue([newest, newest], field_of(0.5, 0.5))
    np.testing.assert_array_equal(carried[-1], newest)
    assert not np.array_equal(carried[0], newest, equal_nan=True)


def test_one_frame_alone_is_unchanged():
    frame = smooth(*places())
    np.testing.assert_array_equal(carried_to_issue([frame], field_of(3.0, 3.0)), frame[None])


def test_past_frames_are_carried_as_extrapolation_carries_its_own():
    rng = np.random.default_rng(1)
    frames = rng.uniform(-10, 50, (3, *SHAPE)).astype(np.float32)
    motion, carried = rotation(2.0), carried_to_issue(frames, rotation(2.0))
    for steps in (1, 2):
        expected = Carrier(frames[-1 - steps]).carry(Trajectory(motion).displacement(steps))
        np.testing.assert_array_equal(carried[-1 - steps], expected)


def test_forward_fields_of_one_frame_are_its_extrapolation():
    frame, motion = smooth(*places()), rotation(2.0)
    carrier, trajectory = Carrier(frame), Trajectory(motion)
    for lead, field in enumerate(carried_forward([frame] * 3, motion), start=1):
        np.testing.assert_array_equal(field, carrier.carry(trajectory.displacement(lead)))


def test_not_observed_moves_with_the_air_and_no_echo_stays_no_echo():
    later = np.full(SHAPE, -10.0, np.float32)
    later[50:70, 60:100] = np.nan
    later[100:110, 100:110] = 30.0
    (back,) = carried_back([later], field_of(4.0, -6.0), [2])  # the air moves 8 south and 12 west
    expected = np.full(SHAPE, -10.0, np.float32)
    expected[42:62, 72:112] = np.nan
    expected[92:102, 112:122] = 30.0
    expected[-8:] = np.nan  # gone south, out of the grid
    expected[:, :12] = np.nan
    np.testing.assert_array_equal(back, expected)


def test_leads_need_not_follow_each_other():
    frames = [turned(4.0 * lead) for lead in (3, 9)]
    both = carried_back(frames, rotation(4.0), [3, 9])
    for index, lead in enumerate((3, 9)):
        np.testing.assert_array_equal(both[index], carried_back([frames[index]], rotation(4.0), [lead])[0])


@pytest.mark.parametrize("leads", [(1,), (2, 1), (0, 1), (1, 1), (-1, 1)])
def test_leads_that_do_not_fit_the_frames_are_refused(leads):
    frame = smooth(*places())
    with pytest.raises(ValueError, match=r"expected a lead for each of 2 frames, ascending from 1, got \("):
        carried_back([frame, frame], field_of(0.0, 0.0), leads)


def test_motion_of_another_grid_is_refused():
    frames = [np.zeros((30, 40), np.float32)] * 2
    message = r"expected frames of \(160, 180\) cells, as the motion, got \[\(30, 40\)\]"
    with pytest.raises(ValueError, match=message):
        carried_to_issue(frames, field_of(0.0, 0.0))
    with pytest.raises(ValueError, match=message):
        carried_back(frames, field_of(0.0, 0.0), [1, 2])


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Array:
    """Sixteen frames of convection over the Netherlands, five minutes apart."""
    paths = sorted((shared_data / "train" / "knmi_rap_20100826").iterdir())[10:26]
    return np.stack([normalise(raw, Domain("rain", 5)).values for path in paths for raw in read(path)])


def test_there_and_back_is_the_same_frame_in_a_real_motion_that_turns_and_shears(real):
    """What is carried here is smooth, so that what remains is the error of the paths."""
    motion = motion_field(real[:FRAMES])
    southward, eastward = motion.dense()
    turning = np.abs(np.gradient(eastward, axis=0) - np.gradient(southward, axis=1))
    assert 12 * turning.max() > 3, "an hour of it turns rain by more than a right angle somewhere"
    rows, columns = np.mgrid[: motion.shape[0], : motion.shape[1]].astype(np.float32)
    frame = smooth(rows, columns)
    back = carried_back([frame] * 12, motion, range(1, 13))
    assert np.sqrt(np.nanmean((back[-1] - frame) ** 2)) > 5
    for field in carried_forward(back, motion):
        known = ~np.isnan(field)
        assert known.mean() > 0.8
        assert np.sqrt(np.mean((field - frame)[known] ** 2)) < 0.1


def test_with_motion_taken_away_real_rain_changes_less(real):
    motion = motion_field(real[:FRAMES])
    newest, later = real[FRAMES - 1], real[FRAMES:]
    back = carried_back(later, motion, range(1, 13))
    for lead, less in ((1, 0.5), (6, 0.6), (12, 0.7)):
        known = ~(np.isnan(back[lead - 1]) | np.isnan(newest) | np.isnan(later[lead - 1]))
        moving, still = (np.abs(each[lead - 1] - newest)[known].mean() for each in (back, later))
        assert moving < less * still, f"after {lead} steps"


def test_real_frames_of_the_past_resemble_the_newest_once_carried_to_it(real):
    frames = real[:FRAMES]
    carried = carried_to_issue(frames, motion_field(frames))
    known = ~(np.isnan(carried).any(0) | np.isnan(frames).any(0))
    for steps in (1, 2, 3):
        moving, still = (np.abs(each[-1 - steps] - frames[-1])[known].mean() for each in (carried, frames))
        assert moving < 0.6 * still, f"{steps} steps before"
