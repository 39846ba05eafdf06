"""A frame stamped a little beside its step stands for that step; one between two steps stands for itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowcast.frame.domain import Domain
from nowcast.frame.units import ZR

SEVEN = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("step_minutes", "seconds", "nominal_minutes"),
    [
        (5, 0, 0),
        (5, 12, 0),
        (5, -40, 0),
        (5, 75, 0),
        (5, 76, None),
        (5, 150, None),
        (5, 290, 5),
        (15, 224, 0),
        (15, 300, None),
        (2, 118, 2),
    ],
)
def test_time_goes_to_the_step_within_a_quarter(
    step_minutes: int, seconds: int, nominal_minutes: int | None
) -> None:
    moment = SEVEN + timedelta(seconds=seconds)
    expected = moment if nominal_minutes is None else SEVEN + timedelta(minutes=nominal_minutes)
    assert Domain("dk", step_minutes).nominal_time(moment) == expected


@settings(deadline=None)
@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)), st.sampled_from([1, 2, 5, 6, 10, 15, 30]))
def test_nominal_time_is_its_own_and_never_far(moment: datetime, step_minutes: int) -> None:
    domain = Domain("dk", step_minutes)
    nominal = domain.nominal_time(moment.replace(tzinfo=UTC))
    assert domain.nominal_time(nominal) == nominal and nominal.tzinfo is UTC
    assert abs(nominal - moment.replace(tzinfo=UTC)) <= timedelta(minutes=step_minutes) / 4


def test_a_domain_needs_no_more_than_name_and_step() -> None:
    domain = Domain("dk", 5)
    assert domain.zr == ZR(200.0, 1.6) and domain.grid is None and not domain.reproject
    assert domain.thresholds_dbz == (20.0, 30.0, 35.0, 40.0) and domain.leads == 12
