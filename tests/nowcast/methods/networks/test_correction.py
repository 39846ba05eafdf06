"""Corrections in service: untrained they are the base to the last bit; what they say moves with the air."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
import torch
from cubes import cube_of
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import nn

from models.convlstm import ConvLSTMConfig
from models.correction import Correction, CorrectionConfig
from nowcast.errors import NetworkError, NotEnoughFrames
from nowcast.methods.blend import Blend
from nowcast.methods.cube import Cube
from nowcast.methods.networks.correction import CorrectionNetwork
from nowcast.methods.networks.engine import Engine
from nowcast.methods.networks.method import Loaded

Array = NDArray[np.float32]

ROWS, COLUMNS = 96, 120

CONFIG = CorrectionConfig(ConvLSTMConfig(hidden=(8,), patch=1, frame_channels=8), channels=8)


def moving_rain(frames: int = 13) -> list[Array]:
    """Showers that move east by two cells a frame, with a corner that was never observed."""
    field = gaussian_filter(np.random.default_rng(3).normal(size=(ROWS, COLUMNS + 2 * frames)), 5)
    dbz = np.where(field > 0.02, 20 + 300 * field, -10).astype(np.float32)
    cut = [dbz[:, 2 * (frames - k) : 2 * (frames - k) + COLUMNS].copy() for k in range(frames)]
    for frame in cut:
        frame[:10, :10] = np.nan
    return cut


def method(
    *, say: Callable[[Correction], None] = lambda net: None, memory_mb: int = 512
) -> CorrectionNetwork:
    torch.manual_seed(0)
    net = Correction(CONFIG)
    say(net)
    return CorrectionNetwork("tiny", Loaded(Engine(net, torch.device("cpu")), None, "untrained"), memory_mb)


def loud(net: Correction) -> None:
    last = net.head[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.normal_(last.weight, std=4.0)


def fields(one: CorrectionNetwork | Blend, cube: Cube, leads: int) -> list[Array]:
    return [field.copy() for field in one.predict(cube, leads).fields]


@pytest.fixture(scope="module")
def cube() -> Cube:
    return cube_of(moving_rain())


def test_an_untrained_network_serves_the_base(cube):
    ours, base = fields(method(), cube, 7), fields(Blend(), cube, 7)
    assert len(ours) == 7
    for one, other in zip(ours, base, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_it_learnt_moves_rain_but_not_its_amount_nor_its_cover(cube):
    ours, base = fields(method(say=loud), cube, 4), fields(Blend(), cube, 4)
    for one, other in zip(ours, base, strict=True):
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        known = ~np.isnan(one)
        assert np.abs(one - other)[known].max() > 0.3
        # Values of one step of rank are given out alike: that makes no difference to rain.
        ours_sorted, base_sorted = np.sort(one[known]), np.sort(other[known])
        rains = base_sorted > 5
        np.testing.assert_allclose(ours_sorted[rains], base_sorted[rains], atol=0.5)
        for threshold in (10, 20, 30, 40):
            assert (ours_sorted >= threshold).sum() == pytest.approx((base_sorted >= threshold).sum(), abs=3)


def test_more_is_said_of_later_leads_and_beyond_the_last_as_of_it(cube):
    def constant(net: Correction) -> None:
        last = net.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        with torch.no_grad():
            last.bias[0] = 1.0

    one = method(say=constant)
    nodes = one._nodes(5.0, 14)
    assert nodes == [2, 4, 6, 8, 10, 12]
    assert one._nodes(5.0, 3) == [2, 4]
    assert one._nodes(15.0, 4) == [1, 2, 3, 4]
    assert one._nodes(6.0, 10) == [2, 3, 5, 7, 8, 10]
    assert "leads of up to 60 minutes" in " ".join(one.predict(cube, 14).shortfalls)


def test_it_can_be_asked_in_tiles(cube):
    whole, small = method(say=loud), method(say=loud, memory_mb=40)
    with pytest.raises(NetworkError):
        fields(method(say=loud, memory_mb=1), cube, 2)
    for one, other in zip(fields(whole, cube, 2), fields(small, cube, 2), strict=True):
        np.testing.assert_allclose(one, other, atol=2.0)


def test_fewer_frames_than_it_looks_back_on_are_refused(cube):
    few = cube_of(moving_rain()[-3:])
    with pytest.raises(NotEnoughFrames, match="tiny: expected 4 frames, got 3"):
        method().predict(few, 2)
    assert method().frames == Blend.frames
    assert cube.issue_time - cube.times[0] == timedelta(hours=1)
