"""Balanced losses against thresholds worked out by hand and sums written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.forecaster import masked_mse
from models.parts.losses import HKO7, Balance, balanced_mae, balanced_mse

RATES = (0.5, 2.0, 5.0, 10.0, 30.0)
BELOW_AND_AT = ((1, 1), (1, 2), (2, 5), (5, 10), (10, 30))


def frames(seed, shape=(2, 3, 1, 5, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator)


def test_thresholds_of_hong_kong_are_those_of_the_table():
    expected = (0.328253, 0.462426, 0.551110, 0.618197, 0.724527)
    assert HKO7.thresholds == pytest.approx(expected, abs=5e-7)
    dbz = [70 * x - 10 for x in HKO7.thresholds]
    assert dbz == pytest.approx((12.978, 22.370, 28.578, 33.274, 40.717), abs=5e-4)


def test_thresholds_of_marshall_and_palmer_are_those_of_the_table():
    dbz = [70 * x - 10 for x in Balance(a=200.0, b=1.6).thresholds]
    assert dbz == pytest.approx((18.194, 27.827, 34.194, 39.010, 46.644), abs=5e-4)


@pytest.mark.parametrize(("a", "b", "rate"), [(58.53, 1.56, 2.95), (200.0, 1.6, 1.33)])
def test_half_of_the_range_is_25_dbz(a, b, rate):
    balance = Balance(rates_mm_h=(rate,), weights=(1.0, 2.0), a=a, b=b)
    assert 70 * balance.thresholds[0] - 10 == pytest.approx(25.0, abs=0.04)


@pytest.mark.parametrize("k", range(5))
def test_weight_changes_exactly_at_the_threshold(k):
    at = np.float32(HKO7.thresholds[k])
    just_below = np.nextafter(at, np.float32(0))
    assert tuple(HKO7.weight(torch.tensor([just_below, at])).tolist()) == BELOW_AND_AT[k]


def test_weights_reach_from_no_echo_to_the_heaviest_rain():
    assert HKO7.weight(torch.tensor([0.0, 1.0, 1.2])).tolist() == [1, 30, 30]


def test_another_relation_of_reflectivity_and_rain_gives_other_weights():
    truth = torch.tensor([0.65])  # 35.5 dBZ: 13.9 mm/h in Hong Kong, 6.0 mm/h after Marshall and Palmer
    assert HKO7.weight(truth).item() == 10
    assert Balance(a=200.0, b=1.6).weight(truth).item() == 5


def test_sums_written_out():
    truth = torch.tensor([0.0, 0.4, 0.5, 0.6, 0.65, 0.8]).view(1, 1, 1, 2, 3)
    forecast = truth + torch.tensor([0.1, -0.2, 0.3, 0.1, -0.1, 0.2]).view_as(truth)
    squared = 0.01 + 0.04 + 2 * 0.09 + 5 * 0.01 + 10 * 0.01 + 30 * 0.04
    absolute = 0.1 + 0.2 + 2 * 0.3 + 5 * 0.1 + 10 * 0.1 + 30 * 0.2
    assert balanced_mse(forecast, truth).item() == pytest.approx(squared / 6, rel=1e-5)
    assert balanced_mae(forecast, truth).item() == pytest.approx(absolute / 6, rel=1e-5)


def test_dry_truth_gives_the_plain_error():
    forecast, dry = frames(1), torch.zeros(2, 3, 1, 5, 4)
    valid = frames(2) > 0.3
    assert balanced_mse(forecast, dry).item() == pytest.approx(masked_mse(forecast, dry).item())
    assert balanced_mse(forecast, dry, valid).item() == pytest.approx(masked_mse(forecast, dry, valid).item())
    assert balanced_mae(forecast, dry).item() == pytest.approx(forecast.mean().item())


def test_truth_alone_decides_the_weight():
    light, heavy = torch.full((1, 1, 1, 2, 2), 0.2), torch.full((1, 1, 1, 2, 2), 0.9)
    assert balanced_mse(heavy, light).item() == pytest.approx(0.49, rel=1e-5)
    assert balanced_mse(light, heavy).item() == pytest.approx(30 * 0.49, rel=1e-5)
    forecast = heavy.clone().requires_grad_()
    balanced_mse(forecast, light).backward()
    assert torch.allclose(forecast.grad, torch.full_like(light, 2 * 0.7 / 4))


@pytest.mark.parametrize("loss", [balanced_mse, balanced_mae])
def test_what_is_not_observed_has_neither_value_nor_gradient(loss):
    truth, valid = frames(3), frames(4) > 0.5
    forecast = frames(5).requires_grad_()
    value = loss(forecast, truth, valid)
    value.backward()
    wild = forecast.detach().where(valid, 1e3)
    assert loss(wild, truth.where(valid, 1.0), valid).item() == pytest.approx(value.item())
    assert (forecast.grad[~valid] == 0).all()
    assert (forecast.grad[valid] != 0).all()


@pytest.mark.parametrize("loss", [balanced_mse, balanced_mae])
def test_nothing_observed_is_no_loss(loss):
    forecast = frames(6).requires_grad_()
    value = loss(forecast, frames(7), torch.zeros(2, 3, 1, 5, 4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert (forecast.grad == 0).all()


@pytest.mark.parametrize("loss", [balanced_mse, balanced_mae])
def test_leads_count_by_their_weight(loss):
    forecast, truth = frames(8), frames(9)
    by_lead = torch.tensor([1.0, 2.0, 4.0])
    each = [loss(forecast[:, k : k + 1], truth[:, k : k + 1]).item() for k in range(3)]
    expected = (each[0] + 2 * each[1] + 4 * each[2]) / 3
    assert loss(forecast, truth, by_lead=by_lead).item() == pytest.approx(expected, rel=1e-5)


def test_half_precision_is_summed_in_single():
    forecast, truth = torch.full((1, 1, 1, 64, 64), 0.5), torch.full((1, 1, 1, 64, 64), 0.25)
    loss = balanced_mse(forecast.bfloat16(), truth.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == 0.0625


@pytest.mark.parametrize("loss", [balanced_mse, balanced_mae])
def test_gradients_are_those_of_finite_differences(loss):
    forecast, truth = (
        frames(10, (1, 2, 1, 2, 2)).double().requires_grad_(),
        frames(11, (1, 2, 1, 2, 2)).double(),
    )
    valid = torch.tensor([True, False, True, True]).view(2, 2).expand(1, 2, 1, 2, 2)
    by_lead = torch.tensor([1.0, 5.0])
    assert torch.autograd.gradcheck(lambda f: loss(f, truth, valid, by_lead=by_lead), forecast)


@pytest.mark.parametrize("rates", [(0.0, 2.0), (2.0, 2.0), (5.0, 2.0), (1.0, math.inf)])
def test_rates_that_do_not_ascend_are_refused(rates):
    with pytest.raises(ValueError, match="ascend"):
        Balance(rates_mm_h=rates, weights=(1.0, 2.0, 3.0))


def test_weights_that_do_not_fit_the_rates_are_refused():
    with pytest.raises(ValueError, match="expected 3 weights for 2 rain rates, got 2"):
        Balance(rates_mm_h=(1.0, 2.0), weights=(1.0, 2.0))
