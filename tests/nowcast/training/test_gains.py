"""Gains over the base: pooled by radar, each radar alike, and nothing where hardly anything rained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nowcast.training.gains import LEAST_PIXELS, Gains


def field(*rained: int, side: int = 20) -> Tensor:
    """A field ``(1, 1, side, side)`` in [0, 1] with 40 dBZ in some rows, -10 elsewhere."""
    made = torch.zeros(1, 1, side, side)
    made[:, :, list(rained)] = 50 / 70
    return made


def batch(number: int, guess: Tensor, target: Tensor) -> dict[str, Tensor]:
    known = torch.ones_like(target, dtype=torch.bool)
    return {
        "number": torch.tensor([number]),
        "guess": guess[None],
        "target": target[None],
        "valid": known[None],
        "known": known[None],
    }


def test_gain_is_of_pooled_counts_and_every_radar_counts_alike():
    gains = Gains(["hills", "sea", "sea"], 1)
    truth = field(1, 2, 3, 4)
    gains.add(field(1, 2, 3, 4)[None], batch(0, field(1, 2), truth))  # CSI 1 over a base of 2/4
    gains.add(field(1, 2, 3)[None], batch(1, field(1, 2, 3), truth))
    gains.add(field(1, 2)[None], batch(2, field(1, 2, 3), truth))
    table = gains.table(gains.counts)
    sea = 100 * ((5 / 8) / (6 / 8) - 1)
    assert table["gain_hills"] == pytest.approx(100)
    assert table["gain_sea"] == pytest.approx(sea)
    assert table["gain"] == table["gain_slot_1"] == pytest.approx((100 + sea) / 2)


def test_a_radar_without_rain_says_nothing():
    gains = Gains(["wet", "dry"], 1)
    gains.add(field(1, 2, 3)[None], batch(0, field(1, 2), field(1, 2, 3)))
    few = torch.zeros(1, 1, 20, 20)
    few.flatten()[: LEAST_PIXELS - 1] = 1.0
    gains.add(few[None], batch(1, few, few))
    table = gains.table(gains.counts)
    assert table["gain"] == pytest.approx(50)
    assert table["gain_dry"] == 0


def test_what_the_base_does_not_cover_does_not_count():
    gains = Gains(["one"], 1)
    told = batch(0, field(1, 2, 3), field(1, 2, 3, 9))
    told["known"][..., 9, :] = False
    gains.add(field(1, 2, 3, 9)[None], told)
    assert gains.table(gains.counts)["gain"] == 0
    assert gains.counts[0, 0, 0, 0].tolist() == [60, 60, 60]
