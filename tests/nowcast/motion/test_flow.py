"""Motion is what the echo does, and carrying keeps value, no echo and not observed apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nowcast.errors import NotEnoughFrames
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.motion.flow import motion_field, motions
from nowcast.motion.lagrangian import bridge
from nowcast.motion.trajectory import Carrier, Trajectory, VectorField
from nowcast.readers import read

Array = NDArray[np.float32]


def cell(row: float, column: float, shape: tuple[int, int] = (300, 320), width: float = 10.0) -> Array:
    """A bell of 45 dBZ around a point, no echo beyond."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    bell = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2))
    return np.maximum(60.0 * bell - 15.0, -10.0).astype(np.float32)


def moving(
    row: float, column: float, motion: tuple[float, float], shape: tuple[int, int] = (300, 320)
) -> list[Array]:
    """Four frames of a cell that ends at a point."""
    return [cell(row - k * motion[0], column - k * motion[1], shape) for k in (3, 2, 1, 0)]


def uniform(row: float, column: float, shape: tuple[int, int]) -> VectorField:
    """The same vector everywhere."""
    nodes = np.empty((2, *shape), np.float32)
    nodes[0], nodes[1] = row, column
    return VectorField(nodes, 1, shape)


@pytest.mark.parametrize("motion", [(0.0, 0.0), (1.5, -2.25), (-0.4, 0.3), (5.0, 3.0), (0.0, -7.5)])
def test_the_motion_of_a_cell_is_found_to_a_tenth_of_a_cell_per_step(motion):
    found = motion_field(np.stack(moving(150, 160, motion))).dense()
    echo = cell(150, 160) > 20
    assert found.shape == (2, 300, 320)
    assert found.dtype == np.float32
    assert found[0][echo].mean() == pytest.approx(motion[0], abs=0.1)
    assert found[1][echo].mean() == pytest.approx(motion[1], abs=0.1)


def test_the_motion_of_a_lone_cell_holds_everywhere():
    found = motion_field(moving(150, 160, (2.0, -1.0))).dense()
    assert np.abs(found[0] - 2.0).max() < 0.3
    assert np.abs(found[1] + 1.0).max() < 0.3


def test_two_cells_keep_their_own_motion():
    pairs = zip(moving(70, 80, (0.0, 2.0)), moving(230, 240, (-1.5, 0.0)), strict=True)
    found = motion_field([np.maximum(a, b) for a, b in pairs]).dense()
    assert found[:, 70, 80] == pytest.approx([0.0, 2.0], abs=0.1)
    assert found[:, 230, 240] == pytest.approx([-1.5, 0.0], abs=0.1)
    assert found[:, 150, 160] == pytest.approx([-0.75, 1.0], abs=0.75)


def test_a_turning_field_turns():
    turn = np.deg2rad(1.5)
    where = [(60.0, 0.0), (60.0, 2.1), (60.0, 4.2), (110.0, 1.0), (110.0, 2.6), (110.0, 4.0), (110.0, 5.5)]

    def frame(step: int) -> Array:
        cells = [
            cell(160 + r * np.sin(a + step * turn), 160 + r * np.cos(a + step * turn), (320, 320))
            for r, a in where
        ]
        return np.max(cells, axis=0)

    found = motion_field([frame(step) for step in (-3, -2, -1, 0)]).dense()
    for r, a in where:
        row, column = 160 + r * np.sin(a), 160 + r * np.cos(a)
        expected = [turn * r * np.cos(a), -turn * r * np.sin(a)]
        assert found[:, round(row), round(column)] == pytest.approx(expected, abs=0.15)


def test_without_echo_nothing_moves():
    dry = np.full((4, 300, 280), -10.0, np.float32)
    assert np.array_equal(motion_field(dry).dense(), np.zeros((2, 300, 280)))
    dry[:, 100:] = np.nan
    assert np.array_equal(motion_field(dry).dense(), np.zeros((2, 300, 280)))


def test_echo_below_the_witness_threshold_does_not_move_anything():
    weak = [np.minimum(frame, 3.0) for frame in moving(150, 160, (2.0, 2.0))]
    assert np.array_equal(motion_field(weak).dense(), np.zeros((2, 300, 320)))


def test_one_pixel_gives_a_small_finite_motion():
    frames = np.full((4, 300, 300), -10.0, np.float32)
    frames[:, 150, 150] = 40.0
    assert np.abs(motion_field(frames).dense()).max() < 0.2


def test_a_cell_on_the_edge_moves_along_it():
    found = motion_field(moving(2, 160, (0.0, 2.0))).dense()
    assert found[:, 5, 160] == pytest.approx([0.0, 2.0], abs=0.15)


def texture(motion: tuple[int, int], size: int = 300) -> list[Array]:
    """Four frames of rain everywhere that moves by whole cells."""
    rng = np.random.default_rng(3)
    wide = cv2.GaussianBlur(rng.normal(size=(size + 60, size + 60)).astype(np.float32), (0, 0), 8)
    wide = np.float32(25) + np.float32(12) * wide / wide.std()
    starts = [(30 - k * motion[0], 30 - k * motion[1]) for k in (0, 1, 2, 3)]
    return [wide[row : row + size, column : column + size].copy() for row, column in starts]


def test_the_edge_of_coverage_does_not_hold_the_echo_back():
    frames = texture((0, 3))
    for frame in frames:
        frame[:, 150:] = np.nan
    found = motion_field(frames).dense()
    assert found[1][20:-20, 120:150].mean() == pytest.approx(3.0, abs=0.15)
    assert found[1][20:-20, 120:150].min() > 2.0


def test_a_radar_that_was_away_in_older_frames_is_not_motion():
    frames = texture((2, 3))
    for older in frames[:-1]:
        older[:150] = np.nan
    found = motion_field(frames).dense()
    assert found[0][150:180, 20:-20].mean() == pytest.approx(2.0, abs=0.15)
    assert found[1][150:180, 20:-20].mean() == pytest.approx(3.0, abs=0.15)
    assert found[0][150:180, 20:-20].min() > 1.2


def test_clutter_that_stands_still_does_not_stop_the_rain_around_it():
    frames = texture((2, 4))
    for frame in frames:
        frame[100:112, 100:112] = 55.0
    found = motion_field(frames).dense()
    ring = np.zeros((300, 300), bool)
    ring[70:142, 70:142] = True
    ring[80:132, 80:132] = False
    assert np.median(found[0][ring]) == pytest.approx(2.0, abs=0.15)
    assert np.median(found[1][ring]) == pytest.approx(4.0, abs=0.3)


def test_a_patch_that_jumps_about_is_an_outlier():
    frames = texture((2, 4))
    for frame, (row, column) in zip(frames, [(135, 155), (243, 199), (52, 54), (216, 238)], strict=True):
        frame[row : row + 48, column : column + 48] = 55.0
    found = motion_field(frames).dense()
    error = np.hypot(found[0] - 2.0, found[1] - 4.0)
    assert error.mean() < 0.2
    assert np.percentile(error, 99) < 2.8


def test_motion_is_the_same_every_time_and_on_any_number_of_threads():
    frames = moving(150, 160, (1.5, -2.25))
    first = motion_field(frames).dense()
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = motion_field(frames).dense()
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(first, alone)
    kept = []  # arrays lie elsewhere in memory each time, which shows in the last bit of some routines
    for k in range(16):
        kept += [np.empty(40 * k + 8, np.uint8), motion_field(frames).dense()]
        assert np.array_equal(first, kept[-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 400), (400, 3), (117, 117), (257, 259), (300, 600)])
def test_any_grid_has_a_motion(shape):
    rng = np.random.default_rng(0)
    frames = rng.uniform(-10, 50, (3, *shape)).astype(np.float32)
    found = motion_field(frames).dense()
    assert found.shape == (2, *shape)
    assert np.isfinite(found).all()


def test_only_the_last_four_frames_count():
    frames = moving(150, 160, (1.5, -2.25))
    assert np.array_equal(motion_field([cell(20, 20), *frames]).dense(), motion_field(frames).dense())


def test_motion_over_several_intervals_is_that_of_every_other_frame():
    path = [cell(150 + 0.3 * k**2, 100 + 5 * k) for k in range(7)]
    newest, older = motions(path, (1, 2))
    np.testing.assert_array_equal(newest.nodes, motion_field(path).nodes)
    np.testing.assert_allclose(older.nodes, motion_field(path[::2]).scaled(0.5).nodes, atol=1e-6)
    assert older.dense()[0, 160, 130] < newest.dense()[0, 160, 130] - 0.1, "it was slower southward before"
    with pytest.raises(NotEnoughFrames):
        motions(path[:2], (1, 2))


def test_one_frame_has_no_motion():
    with pytest.raises(NotEnoughFrames, match="at least two frames, got 1"):
        motion_field([cell(10, 10)]).dense()


@pytest.mark.parametrize("first, rows", [(0, 7), (5, 1), (16, 48), (90, 1000)])
def test_vectors_of_a_few_rows_are_those_of_the_whole(first, rows):
    rng = np.random.default_rng(1)
    field = VectorField(rng.normal(size=(2, 26, 13)).astype(np.float32), 4, (101, 50))
    whole = field.dense()
    assert whole.shape == (2, 101, 50)
    assert np.array_equal(field.dense(first, rows), whole[:, first : first + rows])


def test_vectors_between_nodes_are_linear_between_the_centres_of_blocks():
    nodes = np.zeros((2, 3, 3), np.float32)
    nodes[1] = [0.0, 4.0, 8.0]
    dense = VectorField(nodes, 4, (12, 12)).dense()
    assert dense[1, 6] == pytest.approx([0, 0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8, 8])


def test_air_in_a_turning_wind_comes_back_along_the_circle():
    turn = np.deg2rad(2.0)
    rows, columns = np.mgrid[:128, :128].astype(np.float32) - 63.5
    wind = VectorField(np.stack([turn * columns, -turn * rows]).astype(np.float32), 1, (128, 128))
    quarter = Trajectory(wind).displacement(45).nodes
    row, column = 83, 93  # 20 and 30 cells from the centre, roughly
    came_from = (row - 63.5 + quarter[0, row, column], column - 63.5 + quarter[1, row, column])
    assert came_from == pytest.approx((-(column - 63.5), row - 63.5), abs=0.1)


def test_a_path_asked_for_out_of_order_is_the_same_path():
    path = Trajectory(uniform(1.0, -2.0, (20, 20)))
    assert path.displacement(3).nodes[:, 10, 10] == pytest.approx([-3.0, 6.0])
    assert path.displacement(1).nodes[:, 10, 10] == pytest.approx([-1.0, 2.0])
    assert path.displacement(0).nodes[:, 10, 10] == pytest.approx([0.0, 0.0])


frames_of_three_states = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).choice(
        np.array([np.nan, -10.0, -10.0, 0.5, 20.0, 33.5, 62.0], np.float32), (24, 22)
    )
)


@settings(max_examples=60, deadline=None)
@given(frame=frames_of_three_states, rows=st.integers(-5, 5), columns=st.integers(-5, 5))
def test_carrying_whole_cells_there_and_back_changes_nothing_away_from_the_edge(frame, rows, columns):
    there = Carrier(frame).carry(uniform(rows, columns, frame.shape))
    back = Carrier(there).carry(uniform(-rows, -columns, frame.shape))
    assert np.array_equal(back[5:-5, 5:-5], frame[5:-5, 5:-5], equal_nan=True)
    assert np.array_equal(there[5:-5, 5:-5], np.roll(frame, (-rows, -columns), (0, 1))[5:-5, 5:-5], True)


@settings(max_examples=60, deadline=None)
@given(frame=frames_of_three_states, row=st.floats(-6, 6), column=st.floats(-6, 6))
def test_carrying_invents_no_value(frame, row, column):
    carried = Carrier(frame).carry(uniform(row, column, frame.shape))
    values = carried[~np.isnan(carried)]
    assert values.size == 0 or (values.min() >= -10.0 and values.max() <= 62.0)


@settings(max_examples=60, deadline=None)
@given(row=st.floats(-6, 6), column=st.floats(-6, 6), seed=st.integers(0, 1000))
def test_dry_stays_exactly_dry(row, column, seed):
    dry = np.where(np.random.default_rng(seed).uniform(size=(24, 22)) < 0.1, np.nan, -10.0).astype(np.float32)
    carried = Carrier(dry).carry(uniform(row, column, dry.shape))
    assert np.all(carried[~np.isnan(carried)] == -10.0)


def test_what_flows_in_from_outside_is_not_covered():
    carried = Carrier(np.full((20, 30), 25.0, np.float32)).carry(uniform(-3.0, 4.0, (20, 30)))
    assert np.isnan(carried[:3]).all() and np.isnan(carried[:, -4:]).all()
    assert np.all(carried[3:, :-4] == 25.0)


def test_what_was_not_observed_moves_along_and_keeps_its_size():
    frame = np.full((40, 40), 25.0, np.float32)
    frame[10:15, 10:18] = np.nan
    carried = Carrier(frame).carry(uniform(-2.25, -6.25, frame.shape))
    expected = np.full((40, 40), 25.0, np.float32)
    expected[12:17, 16:24] = np.nan
    assert np.array_equal(carried[2:, 6:], expected[2:, 6:], equal_nan=True)


def test_between_echo_and_none_reflectivity_falls_linearly_in_z():
    frame = np.full((9, 9), -10.0, np.float32)
    frame[:, :5] = 40.0
    carried = Carrier(frame).carry(uniform(0.0, 0.75, frame.shape))
    quarter = 10 * np.log10(0.25 * 10**4.0)
    assert carried[4, 4] == pytest.approx(quarter, abs=1 / 128)
    assert carried[4, 3] == 40.0 and carried[4, 5] == -10.0


def test_strips_leave_no_seam():
    frame = cell(256, 20, (600, 40), width=30)
    motion = uniform(2.5, 0.0, (600, 40))
    assert np.array_equal(
        Carrier(frame).carry(motion)[200:300],
        Carrier(frame[100:400]).carry(uniform(2.5, 0, (300, 40)))[100:200],
    )


def test_a_bridged_frame_has_the_cell_halfway():
    middle = bridge(cell(140, 150), cell(148, 162))
    expected = cell(144, 156)
    assert np.unravel_index(np.nanargmax(middle), middle.shape) == (144, 156)
    assert np.nanmax(middle) == pytest.approx(45.0, abs=0.3)
    core = expected > 20
    assert np.abs(middle - expected)[core].max() < 1.5


def test_a_bridge_takes_the_side_that_was_observed():
    before, after = cell(140, 150), cell(140, 150)
    before[:, :100] = np.nan
    after[:, 200:] = np.nan
    both = bridge(before, after)
    assert not np.isnan(both).any()
    before[:, 250:] = np.nan
    assert np.isnan(bridge(before, after)[:, 255:]).all()


@pytest.mark.parametrize("first", [0, 15, 30])
def test_bridging_a_real_gap_beats_repeating_either_neighbour(shared_data: Path, first: int):
    paths = sorted((shared_data / "train/fmi_pgm/20170509").iterdir())[first : first + 3]
    domain = Domain("fmi", 5)
    before, truth, after = (normalise(next(read(path)), domain).values for path in paths)
    scores = [_csi(guess, truth, 20.0) for guess in (bridge(before, after), before, after)]
    assert scores[0] > 1.3 * max(scores[1:])


def test_real_motion_is_finite_smooth_and_plausible(shared_data: Path):
    paths = sorted((shared_data / "train/fmi_pgm/20170509").iterdir())[:4]
    frames = [normalise(next(read(path)), Domain("fmi", 5)).values for path in paths]
    motion = motion_field(frames)
    speed_km_h = np.hypot(*motion.dense()) * 12
    assert np.isfinite(speed_km_h).all()
    assert 10 < np.median(speed_km_h) < 80
    assert np.percentile(speed_km_h, 99.9) < 150


def _csi(forecast: Array, truth: Array, threshold: float) -> float:
    observed = ~np.isnan(truth)
    said, came = (forecast >= threshold)[observed], (truth >= threshold)[observed]
    return float(np.sum(said & came) / np.sum(said | came))
