"""S-PROG keeps how much it rains, lets go of what cannot be foreseen, and stands beside pysteps."""

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
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.sprog import SPROG, Ranked
from nowcast.motion.cascade import Cascade
from nowcast.motion.flow import motion_field
from nowcast.readers import read

Array = NDArray[np.float32]


def cell(row: float, column: float, spread: float = 200.0) -> Array:
    """A bell of 45 dBZ around a point, no echo beyond, on a grid of 200 x 240 cells."""
    rows, columns = np.mgrid[:200, :240]
    bell = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / spread)
    return np.maximum(60 * bell - 15, -10).astype(np.float32)


def moving_cell(frames: int = 4) -> xr.DataArray:
    """A cell at (100, 90) that goes one row south and three columns east a step."""
    return cube_of([cell(100 - k, 90 - 3 * k) for k in reversed(range(frames))])


def flickering_rain() -> list[Array]:
    """Wide rain that stays, under grain that is new in every frame."""
    random = np.random.default_rng(3)
    wide = cell(100, 120, spread=3000.0)
    grain = [random.normal(scale=6.0, size=wide.shape).astype(np.float32) for _ in range(4)]
    return [np.where(wide > -10, np.maximum(wide + one, -10), -10).astype(np.float32) for one in grain]


def test_a_cell_arrives_where_its_motion_takes_it():
    prediction = SPROG().predict(moving_cell(), 12)
    for lead, field in enumerate(prediction.fields, start=1):
        assert field.dtype == np.float32
        row, column = np.unravel_index(np.nanargmax(field), field.shape)
        assert abs(row - (100 + lead)) <= 1 + 0.1 * lead
        assert abs(column - (90 + 3 * lead)) <= 1 + 0.1 * lead
        assert np.nanmax(field) == pytest.approx(45.0, abs=0.5), "ranks keep the peak"
    assert lead == 12
    assert prediction.motion is not None
    assert prediction.motion[:, 100, 90] == pytest.approx([1.0, 3.0], abs=0.1)
    assert "; ".join(prediction.shortfalls) == ""


def test_the_area_of_rain_is_kept_at_every_threshold():
    frames = flickering_rain()
    fields = list(SPROG().predict(cube_of(frames), 6).fields)
    for threshold in (20, 30, 48):
        area = np.sum(frames[-1] >= threshold)
        assert [np.sum(field >= threshold) for field in fields] == pytest.approx([area] * 6, rel=0.2)


def test_grain_that_no_frame_shares_with_the_next_is_let_go():
    frames = flickering_rain()
    *_, faded = SPROG().predict(cube_of(frames), 6).fields
    *_, carried = Extrapolation().predict(cube_of(frames), 6).fields
    lasting = cell(100, 120, spread=3000.0)

    def likeness(field: Array) -> float:
        inside = lasting > 5
        return float(np.corrcoef(field[inside], lasting[inside])[0, 1])

    assert likeness(faded) > 0.97
    assert likeness(carried) < 0.94


def test_dry_stays_dry_and_at_rest():
    dry = np.full((60, 70), -10.0, np.float32)
    dry[:5] = np.nan
    prediction = SPROG().predict(cube_of([dry] * 4), 6)
    assert all(np.array_equal(field, dry, equal_nan=True) for field in prediction.fields)
    assert prediction.motion is not None
    assert not prediction.motion.any()


def test_nothing_observed_gives_nothing():
    nothing = np.full((30, 40), np.nan, np.float32)
    assert all(np.isnan(field).all() for field in SPROG().predict(cube_of([nothing] * 3), 2).fields)


def test_what_is_covered_is_what_extrapolation_covers():
    frames = list(moving_cell().values)
    for frame in frames:
        frame[:, :40] = np.nan
        frame[60:70, 80:95] = np.nan
    cube = cube_of(frames)
    ours, theirs = SPROG().predict(cube, 10).fields, Extrapolation().predict(cube, 10).fields
    for faded, carried in zip(ours, theirs, strict=True):
        assert np.array_equal(np.isnan(faded), np.isnan(carried))
        assert np.nanmin(faded) == -10.0


def test_one_frame_alone_persists_and_says_so():
    prediction = SPROG().predict(cube_of([cell(100, 90)]), 2)
    assert all(np.array_equal(field, cell(100, 90)) for field in prediction.fields)
    assert prediction.motion is None
    assert "; ".join(prediction.shortfalls) == "persistence, as one frame alone shows no motion"


def test_two_frames_move_and_say_what_they_lack():
    prediction = SPROG().predict(moving_cell(2), 4)
    *_, last = prediction.fields
    row, column = np.unravel_index(np.nanargmax(last), last.shape)
    assert (row, column) == (pytest.approx(104, abs=2), pytest.approx(102, abs=2))
    assert "; ".join(prediction.shortfalls) == "without tendency, as two frames show none"


def test_fields_are_made_one_by_one_when_asked_for(monkeypatch: pytest.MonkeyPatch):
    made: list[int] = []
    recomposed = Cascade.recomposed

    def counting(self, factors):
        made.append(1)
        return recomposed(self, factors)

    monkeypatch.setattr(Cascade, "recomposed", counting)
    fields = SPROG().predict(moving_cell(), 12).fields
    assert len(made) == 0
    next(fields)
    assert len(made) == 1
    assert sum(1 for _ in fields) == 11


def test_a_forecast_is_the_same_every_time():
    cube = moving_cell()
    first = list(SPROG().predict(cube, 4).fields)
    again = SPROG().predict(replace(cube, values=cube.values.copy()), 4).fields
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))


def test_values_are_given_out_by_rank():
    frame = np.array([[-10, 30, np.nan], [-10, 20, 50]], np.float32)
    field = np.array([[0.9, 0.1, 7.0], [0.5, 0.0, 0.4]], np.float32)
    assert Ranked(frame).in_order_of(field) == pytest.approx(
        np.array([[50, -10, np.nan], [30, -10, 20]], np.float32), nan_ok=True
    )


@pytest.fixture(scope="module")
def showers(shared_data: Path) -> list[xr.DataArray]:
    """A quarter of Finland in nineteen frames of scattered showers."""
    paths = sorted((shared_data / "train/fmi_pgm/20170509").iterdir())[:19]
    frames = [normalise(next(read(path)), Domain("fmi", 5)) for path in paths]
    return [frame[600:920, 200:500] for frame in frames]


def test_sprog_beats_extrapolation_on_real_showers(showers: list[xr.DataArray]):
    assert _csi(showers, _by(SPROG()), 12) > 1.1 * _csi(showers, _by(Extrapolation()), 12)


def test_sprog_agrees_with_pysteps(showers: list[xr.DataArray]):
    pytest.importorskip("pysteps", reason="pysteps, the oracle of S-PROG, is not installed")
    assert _csi(showers, _by(SPROG()), 4) >= _csi(showers, _pysteps, 4) - 0.005


def _csi(frames: list[xr.DataArray], forecaster, lead: int) -> float:
    """CSI at 20 dBZ, so many steps ahead, pooled over issue times."""
    hits = total = 0
    for newest in (3, 6):
        cube = build_cube(frames[newest - 3 : newest + 1], step_minutes=5, history=4)
        truth, forecast = frames[newest + lead].values, forecaster(cube, lead)[-1]
        said, came = (forecast >= 20)[~np.isnan(truth)], (truth >= 20)[~np.isnan(truth)]
        hits += int(np.sum(said & came))
        total += int(np.sum(said | came))
    return hits / total


def _by(method):
    return lambda cube, leads: list(method.predict(cube, leads).fields)


def _pysteps(cube: Cube, leads: int) -> list[Array]:
    """S-PROG of pysteps along our motion: rain from 7 dBZ (0.1 mm/h) on, less stands at -1 dBZ."""
    rain = np.where(cube.values >= 7, cube.values, -1).astype(float)
    velocity = motion_field(cube.values).dense()[::-1].astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pysteps import nowcasts

        return list(nowcasts.get_method("sprog")(rain[-3:], velocity, leads, precip_thr=7.0))
