from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from nowcast.frame.frame import Quantity
from nowcast.frame.grid import Grid
from nowcast.frame.units import ZR
from nowcast.motion.flow import motion_field
from nowcast.readers import read
from nowcast.simulation import SOURCE, Storm, demonstration_grid, simulate_archive

START = datetime(2026, 5, 9, 12, 0, tzinfo=UTC)

SMALL = Grid.from_crs(
    "+proj=laea +lat_0=52 +lon_0=5", nx=160, ny=120, x0=-79_500.0, y0=59_500.0, dx=1000.0, dy=1000.0
)


@pytest.fixture(scope="module")
def storm() -> Storm:
    return Storm(seed=7, start=START)


@pytest.fixture(scope="module")
def hours(storm) -> list[np.ndarray]:
    """Three hours of frames."""
    return [frame.values for frame in storm.frames(37)]


def observed(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def test_a_frame_says_that_it_is_simulated_and_when(storm):
    frame = storm.frame(3)
    assert frame.source == SOURCE == "simulated radar"
    assert frame.quantity is Quantity.DBZH
    assert frame.time == START + timedelta(minutes=15)
    assert frame.interval_minutes == 5.0
    assert frame.grid == demonstration_grid()
    assert frame.attributes == {"simulation_seed": 7}


def test_a_frame_depends_on_seed_and_number_alone():
    forward = [frame.values for frame in Storm(seed=3, grid=SMALL).frames(5)]
    jumping = Storm(seed=3, grid=SMALL)
    for number in (4, 1, 1, 3, 0, 2):
        np.testing.assert_array_equal(jumping.frame(number).values, forward[number])
    other = Storm(seed=4, grid=SMALL).frame(2).values
    assert np.mean((other > 5) != (forward[2] > 5)) > 0.05
    with pytest.raises(ValueError, match="counted from 0, not -1"):
        jumping.frame(-1)


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 7))])
def test_every_storm_is_mostly_dry_partly_wet_and_of_believable_strength(seed):
    storm = Storm(seed=seed)
    for number in (0, 40):
        values = observed(storm.frame(number).values)
        assert 0.08 < np.mean(values >= 5) < 0.30
        assert np.mean(np.isneginf(values)) > 0.65
        assert 45 < values.max() <= 60
        echo = values[np.isfinite(values)]
        assert 17 < np.median(echo) < 25  # 13 to 25 on composites of showers and of Alpine rain
        assert 0.003 < np.mean(echo > 40) < 0.06


def test_values_stand_on_half_decibels(hours):
    echo = hours[0][np.isfinite(hours[0])]
    np.testing.assert_array_equal(echo * 2, np.round(echo * 2))


def test_what_the_radars_cannot_see_is_the_same_in_every_frame_and_round(storm, hours):
    unseen = np.isnan(hours[0])
    assert 0.01 < unseen.mean() < 0.25
    assert all(np.array_equal(np.isnan(values), unseen) for values in hours)
    assert not unseen[100:380, 100:380].all(axis=0).any()
    assert unseen[0, 0] or unseen[-1, 0] or unseen[0, -1] or unseen[-1, -1]


def test_far_from_the_radars_weak_echo_is_lost():
    storm = Storm(seed=2)
    weakest = np.min([np.where(np.isfinite(f.values), f.values, 99) for f in storm.frames(30)], axis=0)
    floor = storm._network._weakest_received_dbz
    echo = weakest < 99
    assert np.all(weakest[echo] >= floor[echo] - 0.25)  # half a recording step below at most
    assert floor[storm._network.in_sight].max() == pytest.approx(-34 + 20 * np.log10(165), abs=0.1)


def spectral_slope(dbz: np.ndarray, shortest: float, longest: float) -> float:
    """Return the slope of the ring-averaged power spectrum between two wavelengths [cells]."""
    side = min(dbz.shape)
    window = np.hanning(side)
    field = (dbz[:side, :side] - dbz[:side, :side].mean()) * window * window[:, None]
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.fft.fftfreq(side)
    ring = np.round(np.hypot(frequency, frequency[:, None]) * side).astype(int).ravel()
    mean = np.bincount(ring, power.ravel()) / np.bincount(ring)
    rings = np.arange(int(np.ceil(side / longest)), int(side / shortest) + 1)
    return float(np.polyfit(np.log(rings), np.log(mean[rings]), 1)[0])


def test_the_spectrum_falls_as_steeply_as_that_of_real_composites(hours):
    slopes = [spectral_slope(np.maximum(values, -10)[100:380, 100:380], 8, 32) for values in hours[::6]]
    assert -3.2 < np.mean(slopes) < -2.1


def test_real_composites_have_the_spectrum_the_storm_is_held_to(shared_data):
    slopes = []
    for folder in ("train/fmi_pgm/20170509", "val/mch_gif/20150515"):
        raw = next(read(sorted((shared_data / folder).iterdir())[20]))
        dbz = raw.values if raw.quantity.is_reflectivity else ZR().to_dbz(raw.values * 12)
        slopes.append(spectral_slope(np.fmax(dbz, -10)[150:600, 150:600], 8, 32))
    assert -3.6 < min(slopes) < -2.8
    assert -2.8 < max(slopes) < -2.1


def carried(values: np.ndarray, motion: np.ndarray, steps: int) -> np.ndarray:
    """Return a field moved along straight lines; NaN where it comes from outside."""
    rows, columns = np.indices(values.shape)
    row, column = (
        np.round(at - steps * v).astype(int) for at, v in zip((rows, columns), motion, strict=True)
    )
    inside = (row >= 0) & (row < values.shape[0]) & (column >= 0) & (column < values.shape[1])
    return np.where(inside, values[row * inside, column * inside], np.nan)


def csi(forecast: np.ndarray, truth: np.ndarray, threshold_dbz: float) -> float:
    both = ~np.isnan(forecast) & ~np.isnan(truth)
    f, t = forecast[both] >= threshold_dbz, truth[both] >= threshold_dbz
    return float(np.sum(f & t) / np.sum(f | t))


def test_extrapolation_loses_skill_as_on_real_radar(storm, hours):
    def skill(lead: int, motion: np.ndarray) -> float:
        return float(
            np.mean([csi(carried(hours[k], motion, lead), hours[k + lead], 20.0) for k in range(0, 24, 4)])
        )

    # MeteoSwiss 2015-05-15 and FMI 2017-05-09 by optical flow at 20 dBZ: 0.64 and 0.33 after 15 minutes,
    # 0.49 and 0.21 after 30, 0.35 and 0.10 after 60.
    by_lead = {lead: skill(lead, storm.motion) for lead in (1, 3, 6, 12)}
    assert 0.50 < by_lead[1] < 0.78
    assert 0.33 < by_lead[3] < 0.64
    assert 0.21 < by_lead[6] < 0.49
    assert 0.10 < by_lead[12] < 0.35
    assert by_lead[1] > by_lead[3] > by_lead[6] > by_lead[12]
    standing = np.zeros_like(storm.motion)
    assert skill(3, standing) < 0.7 * by_lead[3]


def test_optical_flow_finds_the_wind(storm, hours):
    frames = np.stack([np.maximum(values, -10) for values in hours[10:14]])
    wet = frames[-1] > 15
    found = np.median(motion_field(frames).dense()[:, wet], axis=1)
    true = np.median(storm.motion[:, wet], axis=1)
    assert np.linalg.norm(found - true) < 0.25 * np.linalg.norm(true)


def test_the_wind_differs_from_place_to_place_but_nowhere_turns_back(storm):
    speed = np.hypot(*storm.motion)
    assert 0.15 < np.ptp(speed) / speed.mean() < 1.5
    assert np.all(np.einsum("iyx,i->yx", storm.motion, storm.motion.mean(axis=(1, 2))) > 0)


def test_cells_and_bands_grow_and_decay(hours):
    area = np.array([np.mean(observed(values) >= 35) for values in hours])
    assert area.max() > 1.15 * area.min()


def test_a_storm_neither_dies_nor_swells_in_the_long_run():
    storm = Storm(seed=5, grid=SMALL)
    spread = []
    for number in range(0, 300, 10):
        storm.frame(number)
        spread.append(storm._bands.field().std())
    assert 0.85 < np.mean(spread) < 1.15
    assert max(spread[20:]) < 1.5


def test_a_longer_step_moves_and_changes_more():
    five, ten = Storm(seed=9, grid=SMALL), Storm(seed=9, grid=SMALL, step_minutes=10)
    np.testing.assert_allclose(ten.motion, 2 * five.motion, rtol=1e-4)
    assert ten.frame(2).time - ten.frame(0).time == timedelta(minutes=20)


def test_any_grid_will_do():
    latlon = Grid.from_crs("EPSG:4326", nx=90, ny=70, x0=5.0, y0=53.0, dx=0.05, dy=0.05)
    values = Storm(seed=1, grid=latlon).frame(1).values
    assert values.shape == (70, 90)
    assert np.isfinite(values).any()


def test_an_archive_is_read_back_as_it_was_simulated(tmp_path):
    paths = list(
        simulate_archive(tmp_path / "radar", frames=3, start=START, step_minutes=10, seed=3, grid=SMALL)
    )
    assert [path.name for path in paths] == [
        "simulated_20260509T120000Z.h5",
        "simulated_20260509T121000Z.h5",
        "simulated_20260509T122000Z.h5",
    ]
    storm = Storm(seed=3, grid=SMALL, step_minutes=10, start=START)
    for path, frame in zip(paths, storm.frames(3), strict=True):
        (again,) = read(path)
        np.testing.assert_array_equal(again.values, frame.values)
        assert (again.time, again.source) == (frame.time, SOURCE)
        assert again.grid.matches(SMALL)
