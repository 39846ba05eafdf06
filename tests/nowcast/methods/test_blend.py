"""The blend keeps how much it rains and trusts each rule as far as the last hour of its own event allows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cubes import cube_of
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.methods import blend
from nowcast.methods.blend import (
    EXAMINED_MINUTES,
    GROWING_MINUTES,
    PRIOR,
    RULES,
    Blend,
    Rules,
    examined,
    growth,
)
from nowcast.methods.cube import build_cube
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.sprog import SPROG, strength
from nowcast.motion.flow import FRAMES
from nowcast.motion.probability_matching import in_order_of
from nowcast.readers import read
from nowcast.scores.tally import Tally

Array = NDArray[np.float32]
IN_PLACE, OLDER, SMOOTH, UNFADED = range(len(RULES))


def texture(seed: int, scale: float, columns: int = 240) -> Array:
    """A smooth field of mean 0 and standard deviation 1 that repeats to the east."""
    noise = np.random.default_rng(seed).normal(size=(200, columns))
    field = gaussian_filter(noise, scale, mode="wrap")
    return (field / field.std()).astype(np.float32)


def rain(field: Array) -> Array:
    """Reflectivity [dBZ] of a texture: a quarter of the cells rain."""
    return np.where(field > 0.7, 15 + 12 * field, -10).astype(np.float32)


def drifting(frames: int = 13, pace: int = 4) -> list[Array]:
    """Rain that drifts eastward and changes in nothing else."""
    field = texture(1, 6.0)
    return [rain(np.roll(field, pace * k, axis=1)) for k in range(frames)]


def anchored(frames: int = 13, pace: int = 4) -> list[Array]:
    """Fine grain that drifts eastward over wide rain that stays where it is, as over mountains."""
    wide, grain = texture(2, 14.0), texture(3, 3.0)
    return [rain(0.9 * wide + 0.45 * np.roll(grain, pace * k, axis=1)) for k in range(frames)]


def csi(field: Array, truth: Array, threshold: float = 20.0) -> float:
    tally = Tally((threshold,))
    tally.add(field, truth)
    hits, misses, false_alarms = tally.counts[:, 0]
    return float(hits / (hits + misses + false_alarms))


def test_rain_that_stays_gives_weight_to_the_frame_in_place_and_is_forecast_better():
    frames = anchored(25)
    cube = cube_of(frames[:13])
    weights = examined(cube.values, 5)
    assert weights[IN_PLACE] > 0.4
    ours, sprog = ([*method.predict(cube, 12).fields] for method in (Blend(), SPROG()))
    for lead in (6, 12):
        truth = frames[12 + lead]
        assert csi(ours[lead - 1], truth) > csi(sprog[lead - 1], truth) + 0.05


def test_it_asks_for_as_many_frames_as_it_examines():
    """Without a frame of those, the forecasts of 45 minutes ago would have too few for motion."""
    assert (Blend.frames - 1) * 5 == EXAMINED_MINUTES[-1] + 5 * (FRAMES - 1)
    few, enough = (examined(np.stack(anchored(25)[13 - n : 13]), 5) for n in (4, Blend.frames))
    assert few.tolist() == PRIOR.tolist()
    assert enough[IN_PLACE] > 0.4


def test_rain_that_only_drifts_gives_no_weight_to_the_frame_in_place():
    weights = examined(cube_of(drifting()).values, 5)
    assert weights[IN_PLACE] < 0.05


def test_what_fades_nowhere_is_carried_unfaded():
    """Rain that keeps all its grain, beside rain whose grain is new in every frame."""
    wide = texture(4, 14.0)
    kept = [rain(np.roll(0.8 * wide + 0.6 * texture(5, 2.0), 4 * k, axis=1)) for k in range(13)]
    new = [rain(np.roll(0.8 * wide, 4 * k, axis=1) + 0.6 * texture(100 + k, 2.0)) for k in range(13)]
    assert examined(cube_of(kept).values, 5)[UNFADED] > examined(cube_of(new).values, 5)[UNFADED] + 0.1


def expected(rules: Rules, lead: int) -> tuple[Array, list[Array]]:
    """What S-PROG expects of the whole grid, and each rule beyond it."""
    parts = [(strip.main, *strip.beyond) for strip in rules.expected(lead)]
    main, *beyond = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return main, beyond


def test_weights_are_those_of_least_squares_held_to_the_prior():
    """The equations by hand: forecasts from 2 and 3 steps of a quarter of an hour ago for now."""
    frames = np.stack(anchored(6))
    frames[:, 40:60, 100:] = np.nan
    weights = examined(frames, 15.0)
    covariance, error = np.zeros((4, 4)), np.zeros(4)
    truth = strength(frames[-1]).astype(float)
    for back in (2, 3):
        main, beyond = expected(Rules(frames[:-back]), back)
        known = ~np.isnan(main) & ~np.isnan(frames[-1])
        columns = np.stack([one[known] for one in beyond]).astype(float) * growth(15.0 * back)
        covariance += columns @ columns.T / known.sum()
        error += columns @ (truth - main)[known] / known.sum()
    ridge = np.diag([0.004, 0.04, 0.04, 0.04]) * truth[~np.isnan(frames[-1])].var()
    solved = np.linalg.solve(covariance / 2 + ridge, error / 2 + ridge @ PRIOR)
    np.testing.assert_allclose(weights, solved.clip(-0.5, 1.0), atol=2e-4)


def test_rules_expect_what_their_names_say():
    frames = np.stack(anchored())
    frames[:, :20, :50] = np.nan
    main, beyond = expected(Rules(frames), 3)
    known = ~np.isnan(main) & ~np.isnan(frames[-1])
    np.testing.assert_allclose((main + beyond[IN_PLACE])[known], strength(frames[-1])[known], atol=1e-4)
    assert (beyond[IN_PLACE][~known] == 0).all(), "where it knows nothing"
    carried = [*Extrapolation().predict(cube_of(frames), 3).fields][2]
    near = strength(carried)[known]
    assert np.corrcoef((main + beyond[UNFADED])[known], near)[0, 1] > 0.99
    assert 0.5 < np.corrcoef(main[known], near)[0, 1] < 0.99, "S-PROG has faded"
    for rule in (OLDER, SMOOTH):
        assert 0 < np.abs(beyond[rule][known]).mean() < np.abs(beyond[IN_PLACE][known]).mean()


def test_the_forecast_tells_the_weights_in_hundredths():
    cube = cube_of(anchored())
    told = Blend().predict(cube, 1).base_weights
    assert list(told) == list(RULES)
    assert [*told.values()] == examined(cube.values, 5).round(2).tolist()
    assert Blend().predict(cube_of(drifting(1)), 1).base_weights == {}, "of persistence"


@pytest.mark.parametrize("frames", [2, 3])
def test_what_cannot_be_examined_has_the_weights_of_the_prior(frames):
    assert examined(np.stack(drifting(frames)), 5).tolist() == PRIOR.tolist()
    assert examined(np.full((13, 60, 60), -10, np.float32), 5).tolist() == PRIOR.tolist()


def test_nothing_is_known_of_the_time_after_the_issue_time():
    frames = drifting(14)
    cube, later = cube_of(frames[:13]), cube_of([*frames[:12], frames[12]])
    first, again = (np.stack([*Blend().predict(each, 3).fields]) for each in (cube, later))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], frames[13])


def test_rain_areas_are_those_of_the_extrapolated_frame():
    cube = cube_of(anchored())
    for ours, carried in zip(
        Blend().predict(cube, 12).fields, Extrapolation().predict(cube, 12).fields, strict=True
    ):
        apart = np.isnan(ours) != np.isnan(carried)
        assert apart.mean() < 5e-4, "but for cells of which half is covered, to a rounding"
        for threshold in (15, 20, 25, 30):
            area, expected = (int((field >= threshold).sum()) for field in (ours, carried))
            assert abs(area - expected) <= 0.01 * expected + 20


def test_what_was_not_observed_comes_on_with_the_air():
    frames = drifting()
    for frame in frames:
        frame[:, :30] = np.nan
    fields = [*Blend().predict(cube_of(frames), 6).fields]
    shares = [float(np.isnan(field).mean()) for field in fields]
    assert shares[0] > 30 / 240
    assert all(later >= sooner for sooner, later in pairwise(shares))
    assert np.isnan(fields[5][100, :45]).all()


def test_dry_weather_stays_dry():
    fields = np.stack([*Blend().predict(cube_of([np.full((64, 80), -10, np.float32)] * 13), 4).fields])
    assert (fields == -10).all()


def test_one_frame_persists_and_two_have_no_tendency():
    one = Blend().predict(cube_of(drifting(1)), 2)
    assert "persistence" in one.shortfalls[0]
    two = Blend().predict(cube_of(drifting(2)), 2)
    assert two.shortfalls == ("without tendency, as two frames show none",)


def test_weights_grow_with_the_lead_and_slower_beyond_half_an_hour():
    assert growth(30) == GROWING_MINUTES / 60
    assert growth(15) == growth(30) / 2
    assert growth(30) < growth(60) < 2 * growth(30)


def test_values_are_given_out_in_order():
    random = np.random.default_rng(0)
    field, frame = random.normal(size=(2, 50, 60)).astype(np.float32)
    frame = frame * 10 + 20
    frame[0], field[:, 0] = np.nan, np.nan
    given = in_order_of(field, frame)
    known = ~np.isnan(field) & ~np.isnan(frame)
    np.testing.assert_array_equal(np.isnan(given), ~known)
    order = np.argsort(field[known])
    assert (np.diff(given[known][order]) >= 0).all()
    np.testing.assert_allclose(np.sort(given[known]), np.sort(frame[known]), atol=0.2)
    assert np.isnan(in_order_of(np.full((3, 3), np.nan, np.float32), np.ones((3, 3), np.float32))).all()


def test_a_real_event_in_the_tropics_is_forecast_better_than_by_sprog(shared_data: Path):
    """Convection over Darwin grows where islands and coasts are: what stands in place is worth a lot."""
    (path,) = (shared_data / "train/cpol_darwin_20061116").glob("*.nc")
    frames = [normalise(raw, Domain("cpol", 10)) for raw in list(read(path))[30:62]]
    hits = {name: np.zeros(3) for name in ("blend", "sprog")}
    for newest in (10, 14, 18, 22):
        cube = build_cube(frames[newest - 6 : newest + 1], step_minutes=10, history=7)
        for method in (Blend(), SPROG()):
            tally = Tally((20.0,))
            tally.add([*method.predict(cube, 6).fields][5], frames[newest + 6].values)
            hits[method.name] += tally.counts[:, 0]
    scores = {name: counts[0] / counts.sum() for name, counts in hits.items()}
    assert scores["blend"] > scores["sprog"] + 0.02


def test_other_motions_of_a_large_grid_are_looked_at_in_squares(monkeypatch: pytest.MonkeyPatch):
    """Of an odd number of rows and columns: the last has no square and no difference."""
    frames = np.stack(anchored())[:, :199, :231]
    exact = expected(Rules(frames), 6)
    monkeypatch.setattr(blend, "LEAST_SIDE", 100)
    main, beyond = expected(Rules(frames), 6)
    np.testing.assert_array_equal(main, exact[0])
    known = ~np.isnan(main)
    for rule in (OLDER, SMOOTH):
        assert beyond[rule].shape == frames.shape[1:]
        inside = known[5:-5, 30:-5]
        near, true = (each[rule][5:-5, 30:-5][inside] for each in (beyond, exact[1]))
        assert np.corrcoef(near, true)[0, 1] > 0.95
        assert (beyond[rule][-1] == 0).all() and (beyond[rule][:, -1] == 0).all()
    np.testing.assert_array_equal(beyond[IN_PLACE], exact[1][IN_PLACE])


def test_rules_without_weight_are_left_out(monkeypatch: pytest.MonkeyPatch):
    cube = cube_of(anchored())
    asked = []
    inner = Rules.expected
    monkeypatch.setattr(Rules, "expected", lambda *given: asked.append(given[2:]) or inner(*given))
    monkeypatch.setattr(blend, "examined", lambda *given: np.array([0.004, 0.2, -0.004, 0.0]))
    prediction = Blend().predict(cube, 2)
    fields = [*prediction.fields]
    assert asked == [([OLDER],)] * 2
    assert prediction.base_weights == {
        "in place": 0.0, "along older motion": 0.2, "along smooth motion": 0.0, "unfaded": 0.0,
    }  # fmt: skip
    assert not np.array_equal(fields[1], [*SPROG().predict(cube, 2).fields][1], equal_nan=True)
