"""Extrapolation moves what is there, invents nothing, and stands beside pysteps."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cubes import cube_of
from numpy.typing import NDArray

from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.methods import extrapolation
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.extrapolation import Extrapolation, Persistence
from nowcast.motion.flow import motion_field
from nowcast.motion.trajectory import Carrier
from nowcast.readers import read

Array = NDArray[np.float32]


def cell(row: float, column: float, shape: tuple[int, int] = (280, 300)) -> Array:
    """A bell of 45 dBZ around a point, no echo beyond."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    bell = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 200)
    return np.maximum(60 * bell - 15, -10).astype(np.float32)


def moving_cell() -> xr.DataArray:
    """A cell at (120, 100) that goes one row south and three columns east a step."""
    return cube_of([cell(120 - k, 100 - 3 * k) for k in (3, 2, 1, 0)])


def test_persistence_is_the_newest_frame_at_every_lead():
    cube = moving_cell()
    prediction = Persistence().predict(cube, 3)
    fields = list(prediction.fields)
    assert len(fields) == 3
    assert all(np.array_equal(field, cube.values[-1]) for field in fields)
    assert prediction.motion is None
    assert "; ".join(prediction.shortfalls) == ""


def test_persistence_cannot_be_spoilt_through_its_fields():
    cube = moving_cell()
    field = next(Persistence().predict(cube, 1).fields)
    with pytest.raises(ValueError, match="read-only"):
        field[0, 0] = 3.0
    cube.values[-1, 0, 0] = 3.0  # the cube itself stays writeable


def test_a_cell_arrives_where_its_motion_takes_it():
    prediction = Extrapolation().predict(moving_cell(), 12)
    for lead, field in enumerate(prediction.fields, start=1):
        assert field.dtype == np.float32
        row, column = np.unravel_index(np.nanargmax(field), field.shape)
        assert abs(row - (120 + lead)) <= 1 + 0.1 * lead
        assert abs(column - (100 + 3 * lead)) <= 1 + 0.1 * lead
        assert np.nanmax(field) == pytest.approx(45.0, abs=0.3), "one interpolation, so the peak stays"
    assert lead == 12
    assert prediction.motion is not None
    assert prediction.motion.shape == (2, 280, 300)
    assert prediction.motion[:, 120, 100] == pytest.approx([1.0, 3.0], abs=0.1)
    assert "; ".join(prediction.shortfalls) == ""


def test_fields_are_made_one_by_one_when_asked_for(monkeypatch: pytest.MonkeyPatch):
    made: list[int] = []

    class Counting(Carrier):
        def carry(self, displacement):
            made.append(1)
            return super().carry(displacement)

    monkeypatch.setattr(extrapolation, "Carrier", Counting)
    fields = Extrapolation().predict(moving_cell(), 12).fields
    assert len(made) == 0
    next(fields)
    assert len(made) == 1


def test_dry_stays_dry_and_at_rest():
    dry = np.full((60, 70), -10.0, np.float32)
    dry[:5] = np.nan
    prediction = Extrapolation().predict(cube_of([dry] * 4), 6)
    assert all(np.array_equal(field, dry, equal_nan=True) for field in prediction.fields)
    assert prediction.motion is not None
    assert not prediction.motion.any()


def test_what_enters_the_grid_is_not_covered():
    *_, last = Extrapolation().predict(moving_cell(), 12).fields
    assert np.isnan(last[20:260, :30]).mean() > 0.95  # 36 columns came in from the west
    assert not np.isnan(last[20:, 45:]).any()


def test_the_mask_of_what_was_observed_moves_along():
    frames = list(moving_cell().values)
    for frame in frames:
        frame[:, :40] = np.nan
    *_, last = Extrapolation().predict(cube_of(frames), 10).fields
    assert np.isnan(last[50:250, :60]).all()
    assert not np.isnan(last[50:250, 80:]).any()


def test_a_forecast_is_the_same_every_time():
    cube = moving_cell()
    first = list(Extrapolation().predict(cube, 4).fields)
    for _ in range(4):
        again = Extrapolation().predict(replace(cube, values=cube.values.copy()), 4).fields
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))


def test_one_frame_alone_persists_and_says_so():
    prediction = Extrapolation().predict(cube_of([cell(120, 100)]), 2)
    assert all(np.array_equal(field, cell(120, 100)) for field in prediction.fields)
    assert prediction.motion is None
    assert "; ".join(prediction.shortfalls) == "persistence, as one frame alone shows no motion"


def test_two_frames_are_enough_to_move():
    prediction = Extrapolation().predict(cube_of([cell(119, 97), cell(120, 100)]), 1)
    assert prediction.motion is not None
    assert prediction.motion[:, 120, 100] == pytest.approx([1.0, 3.0], abs=0.15)


@pytest.fixture(scope="module")
def showers(shared_data: Path) -> list[xr.DataArray]:
    """A quarter of Finland in thirteen frames of scattered showers."""
    paths = sorted((shared_data / "train/fmi_pgm/20170509").iterdir())[:13]
    frames = [normalise(next(read(path)), Domain("fmi", 5)) for path in paths]
    return [frame[600:920, 200:500] for frame in frames]


def test_extrapolation_beats_persistence_on_real_showers(showers: list[xr.DataArray]):
    moved, still = _csi(showers, _ours), _csi(showers, _persistence)
    assert moved > 1.5 * still


def test_extrapolation_agrees_with_pysteps(showers: list[xr.DataArray]):
    pytest.importorskip("pysteps", reason="pysteps, the oracle of extrapolation, is not installed")
    assert _csi(showers, _ours) >= _csi(showers, _pysteps) - 0.005


def test_motion_agrees_with_pysteps(showers: list[xr.DataArray]):
    pytest.importorskip("pysteps", reason="pysteps, the oracle of motion, is not installed")
    frames = np.stack([frame.values for frame in showers[:4]])
    theirs, own = _lucas_kanade(frames), motion_field(frames).dense()
    echo = frames[-1] > 15
    difference = np.hypot(own[0] - theirs[1], own[1] - theirs[0])[echo]
    assert np.median(difference) < 1.0
    assert np.median(difference) < 0.3 * np.median(np.hypot(*theirs)[echo])


def _csi(frames: list[xr.DataArray], forecaster) -> float:
    """CSI at 20 dBZ, 30 minutes ahead, pooled over issue times."""
    hits = total = 0
    for newest in (3, 6):
        cube = build_cube(frames[newest - 3 : newest + 1], step_minutes=5, history=4)
        truth = frames[newest + 6].values
        forecast = forecaster(cube)[5]
        said, came = (forecast >= 20)[~np.isnan(truth)], (truth >= 20)[~np.isnan(truth)]
        hits += int(np.sum(said & came))
        total += int(np.sum(said | came))
    return hits / total


def _ours(cube: Cube) -> list[Array]:
    return list(Extrapolation().predict(cube, 6).fields)


def _persistence(cube: Cube) -> list[Array]:
    return list(Persistence().predict(cube, 6).fields)


def _pysteps(cube: Cube) -> list[Array]:
    from pysteps import nowcasts

    dbz = np.nan_to_num(cube.values, nan=-10.0).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extrapolate = nowcasts.get_method("extrapolation")
        return list(extrapolate(dbz[-1], _lucas_kanade(cube.values), 6))


def _lucas_kanade(frames: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pysteps import motion

        return motion.get_method("LK")(np.nan_to_num(frames, nan=-10.0).astype(float))
