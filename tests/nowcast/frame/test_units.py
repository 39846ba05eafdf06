"""Reflectivity and rain rate: known pairs, round trips, and three states that never mix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowcast.frame.units import MAX_DBZ, NO_ECHO_DBZ, ZR

RELATIONS = [ZR(), ZR(300.0, 1.4), ZR(223.0, 1.53), ZR(a=31.0, b=1.71)]


def dbz_of(rate: float, zr: ZR = ZR()) -> float:  # noqa: B008 - immutable
    return float(zr.to_dbz(np.array([rate], dtype=np.float32))[0])


def rate_of(dbz: float, zr: ZR = ZR()) -> float:  # noqa: B008 - immutable
    return float(zr.to_rain_rate(np.array([dbz], dtype=np.float32))[0])


@pytest.mark.parametrize(
    ("rate", "dbz"),
    # 10 log10(200 R^1.6): R = 1 gives 10 log10(200), each factor of ten adds 16 dB
    [(1.0, 23.0103), (10.0, 39.0103), (100.0, 55.0103), (0.1, 7.0103)],
)
def test_marshall_and_palmer_pairs(rate: float, dbz: float) -> None:
    assert dbz_of(rate) == pytest.approx(dbz, abs=2e-5)
    assert rate_of(dbz) == pytest.approx(rate, rel=5e-6)


def test_coefficients_are_used() -> None:
    assert dbz_of(10.0, ZR(300.0, 1.4)) == pytest.approx(10 * np.log10(300 * 10**1.4), abs=2e-5)
    assert rate_of(40.0, ZR(300.0, 1.4)) == pytest.approx((1e4 / 300) ** (1 / 1.4), rel=1e-5)


@settings(deadline=None)
@given(st.floats(0.02, 300.0), st.sampled_from(RELATIONS))
def test_rate_comes_back(rate: float, zr: ZR) -> None:
    if dbz_of(rate, zr) > NO_ECHO_DBZ:
        assert rate_of(dbz_of(rate, zr), zr) == pytest.approx(rate, rel=2e-5)


@settings(deadline=None)
@given(st.floats(-9.99, MAX_DBZ), st.floats(-9.99, MAX_DBZ), st.sampled_from(RELATIONS))
def test_more_reflectivity_is_never_less_rain(first: float, second: float, zr: ZR) -> None:
    low, high = sorted((first, second))
    assert 0.0 < rate_of(low, zr) <= rate_of(high, zr)


def test_dry_is_exactly_dry_and_not_observed_stays_so() -> None:
    rates = ZR().to_rain_rate(np.array([-np.inf, -32.0, -10.0, np.nan, -9.99], dtype=np.float32))
    assert rates[:3].tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(rates[3]) and rates[4] > 0.0
    dbz = ZR().to_dbz(np.array([0.0, np.nan, 1e-30], dtype=np.float32))
    assert dbz[0] == -np.inf and np.isnan(dbz[1]) and np.isfinite(dbz[2])


def test_arrays_stay_float32_and_untouched() -> None:
    rates = np.array([[0.0, 1.0]], dtype=np.float32)
    dbz = ZR().to_dbz(rates)
    assert dbz.dtype == np.float32 and ZR().to_rain_rate(dbz).dtype == np.float32
    assert rates.tolist() == [[0.0, 1.0]] and dbz.tolist()[0][0] == -np.inf
