"""The event in a series: its start, peak, end and sum, and what stays open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from api.event import first_event, outlook
from api.schemas import Expected, Observed

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def series(*rates: float | None) -> list[Expected]:
    """Return leads of 10 minutes with these rates [mm/h]; ``None`` = not covered."""
    return [
        Expected(
            lead_minutes=10 * n,
            valid_time=NOON + timedelta(minutes=10 * n),
            state="not_covered" if rate is None else "value" if rate else "no_echo",
            reflectivity_dbz=None,
            rain_rate_mm_h=rate,
        )
        for n, rate in enumerate(rates, 1)
    ]


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def test_rain_that_comes_and_goes_has_both_ends() -> None:
    event = first_event(series(0, 3, 6, 0, 9), None, 10)
    assert event is not None
    assert (event.start, event.end, event.open_end) == (at(20), at(40), None)
    assert (event.peak.time, event.peak.rain_rate_mm_h) == (at(30), 6)
    assert event.total_mm == 1.5


def test_rain_at_the_horizon_has_no_end() -> None:
    event = first_event(series(0, 0, 2), None, 10)
    assert event is not None
    assert (event.start, event.end, event.open_end) == (at(30), None, "horizon")


def test_rain_that_leaves_the_coverage_has_no_end_either() -> None:
    event = first_event(series(2, None, 0), None, 10)
    assert event is not None
    assert (event.end, event.open_end) == (None, "not_covered")


@pytest.mark.parametrize(("rate", "already"), [(1.0, True), (0.05, False), (None, False)])
def test_rain_now_means_the_start_may_lie_before(rate: float | None, already: bool) -> None:
    state = "not_covered" if rate is None else "value"
    observed = Observed(time=NOON, state=state, reflectivity_dbz=None, rain_rate_mm_h=rate)
    event = first_event(series(2, 0), observed, 10)
    assert event is not None
    assert event.already_raining is already


def test_drizzle_below_a_tenth_of_a_millimetre_is_no_event() -> None:
    assert first_event(series(0.09, 0.05), None, 10) is None
    assert outlook(series(0.09, 0.05)) == "dry"


def test_dry_needs_every_lead_covered() -> None:
    assert outlook(series(0, 0)) == "dry"
    assert outlook(series(0, None)) == "unknown"
    assert outlook(series(None, 1)) == "rain"
