"""Files become one list of frames: in order, on one grid, each time once, whatever else lies among them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from drifting import GRID, START, rain, raw_frame, write_frames

from nowcast.errors import NotEnoughFrames, WrongInterval
from nowcast.frame.domain import Domain
from nowcast.frame.frame import Quantity, time_of
from nowcast.frame.grid import Grid
from nowcast.readers.listing import FrameList, domain_from_frames
from nowcast.simulation.odim_writer import write_odim

OTHER_GRID = replace(GRID, dx=1_000.0)


def sums(indices, *, minutes=5, interval=5.0):
    return [
        raw_frame(
            index, quantity=Quantity.ACRR, values=np.ones(GRID.shape), minutes=minutes, interval=interval
        )
        for index in indices
    ]


def test_grid_and_step_are_taken_from_the_frames():
    domain = domain_from_frames([raw_frame(index, minutes=10) for index in (2, 0, 1)])

    assert domain.step_minutes == 10
    assert domain.grid == GRID
    assert domain.credit == "test radar"


def test_the_step_is_the_median_so_a_gap_does_not_change_it():
    assert domain_from_frames([raw_frame(index) for index in (0, 1, 2, 9, 10)]).step_minutes == 5


def test_seconds_of_delay_do_not_change_the_step():
    late = [
        replace(raw_frame(i), time=START + timedelta(minutes=5 * i, seconds=17 * (i % 3))) for i in range(6)
    ]
    assert domain_from_frames(late).step_minutes == 5


def test_the_grid_is_the_one_most_frames_lie_on():
    strangers = [raw_frame(index, grid=OTHER_GRID) for index in (0, 1)]
    domain = domain_from_frames([*strangers, *(raw_frame(index) for index in (2, 3, 4))])

    assert domain.grid == GRID


def test_sums_tell_their_step_by_their_interval_even_among_gaps():
    assert domain_from_frames(sums([0, 1, 3, 5])).step_minutes == 5
    assert domain_from_frames(sums([0])).step_minutes == 5


def test_sums_that_are_nowhere_as_far_apart_as_they_last_are_refused():
    with pytest.raises(WrongInterval, match="5 minutes"):
        domain_from_frames(sums([0, 1, 2], minutes=10))


def test_one_frame_tells_its_step_only_by_its_interval():
    assert domain_from_frames([raw_frame(0, interval=15.0)]).step_minutes == 15
    with pytest.raises(NotEnoughFrames, match="one frame"):
        domain_from_frames([raw_frame(0)])


def test_frames_seconds_apart_are_no_radar_series():
    with pytest.raises(WrongInterval, match="minute"):
        domain_from_frames(
            [replace(raw_frame(0), time=START + timedelta(seconds=second)) for second in (0, 9)]
        )


def test_frames_come_in_order_of_time_whatever_the_order_of_files(tmp_path):
    paths = write_frames(tmp_path, range(5))
    frames = FrameList([paths[index] for index in (3, 0, 4, 1, 2)])

    assert frames.times == [START + timedelta(minutes=5 * index) for index in range(5)]
    assert frames.skipped == []
    for index in range(5):
        assert np.array_equal(frames.load(index).values, np.maximum(rain(index), -10))
        assert time_of(frames.load(index)) == frames.times[index]


def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path):
    paths = write_frames(tmp_path, range(6))
    paths[1].write_bytes(paths[1].read_bytes()[:700])
    paths[2].write_text("no radar at all")
    write_odim(paths[3], raw_frame(3, grid=OTHER_GRID))
    write_odim(paths[4], raw_frame(4, quantity=Quantity.ACRR, values=np.ones(GRID.shape), interval=60.0))
    twin = tmp_path / "twin.h5"
    write_odim(twin, raw_frame(5, values=rain(4)))

    frames = FrameList([*paths, tmp_path / "absent.h5", twin], domain=Domain("fin", 5))

    assert frames.times == [START, START + timedelta(minutes=25)]
    reasons = {skipped.file: skipped.reason for skipped in frames.skipped}
    assert set(reasons) == {
        "frame_001.h5",
        "frame_002.h5",
        "frame_003.h5",
        "frame_004.h5",
        "absent.h5",
        "twin.h5",
    }
    assert "1000 m" in reasons["frame_003.h5"]
    assert "60 minutes" in reasons["frame_004.h5"]
    assert "read before" in reasons["twin.h5"]


def test_a_frame_without_one_observed_pixel_keeps_its_time_and_loads_as_none(tmp_path):
    paths = write_frames(tmp_path, [0, 2])
    write_odim(tmp_path / "empty.h5", raw_frame(1, values=np.full(GRID.shape, np.nan)))
    frames = FrameList([*paths, tmp_path / "empty.h5"])

    assert len(frames) == 3
    assert frames.load(1) is None
    assert frames.load(1) is None
    assert [skipped.file for skipped in frames.skipped] == ["empty.h5"]


def test_a_domain_that_is_given_decides(tmp_path):
    paths = write_frames(tmp_path, range(3))
    elsewhere = Grid.from_crs("EPSG:3067", nx=10, ny=8, x0=320_000, y0=6_880_000, dx=4_000, dy=4_000)

    assert len(FrameList(paths, domain=Domain("fin", 5, grid=elsewhere))) == 0
    frames = FrameList(paths, domain=Domain("fin", 5, grid=elsewhere, reproject=True))
    assert frames.load(0).shape == (8, 10)


def test_no_readable_file_says_why(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(NotEnoughFrames, match=r"notes\.txt"):
        FrameList([tmp_path / "notes.txt"])
    with pytest.raises(NotEnoughFrames):
        FrameList([])


def test_frames_are_the_same_when_there_is_no_memory_to_keep_them(tmp_path):
    paths = write_frames(tmp_path, range(6))
    frames, kept = FrameList(paths, kept_bytes=0), FrameList(paths)

    for index in (0, 1, 2, 5, 3):
        assert frames.load(index).identical(kept.load(index))


def test_a_file_that_changes_between_two_readings_is_noticed(tmp_path):
    paths = write_frames(tmp_path, range(3))
    frames = FrameList(paths, kept_bytes=0)
    write_odim(paths[1], raw_frame(7))

    assert frames.load(1) is None
    assert "changed" in frames.skipped[0].reason


def test_the_nearest_frame_within_the_tolerance_is_found(tmp_path):
    frames = FrameList(write_frames(tmp_path, [0, 1, 3]))
    near = timedelta(seconds=75)

    assert frames.index_at(START + timedelta(minutes=5), tolerance=near) == 1
    assert frames.index_at(START + timedelta(minutes=5, seconds=70), tolerance=near) == 1
    assert frames.index_at(START + timedelta(minutes=10), tolerance=near) is None
    assert frames.index_at(START + timedelta(minutes=14), tolerance=near) == 2
    assert frames.index_at(START - timedelta(minutes=1), tolerance=near) == 0
    assert frames.index_at(START + timedelta(hours=1), tolerance=near) is None


def test_progress_is_told_for_each_file(tmp_path):
    told = []
    FrameList(write_frames(tmp_path, range(2)), progress=lambda *what: told.append(what))
    assert told == [("reading", 0, 2), ("reading", 1, 2), ("reading", 2, 2)]


def test_the_many_times_of_one_real_file_are_read_alike_with_and_without_memory(shared_data):
    path = shared_data / "train" / "cpol_darwin_20061116" / "CPOL_radar.nc"
    frames, kept = FrameList([path], kept_bytes=0), FrameList([path])

    assert (len(frames), frames.domain.step_minutes) == (144, 10)
    for index in (0, 1, 50, 51, 20):
        a, b = frames.load(index), kept.load(index)
        assert (a is None and b is None) or a.identical(b)
