"""Times are written in UTC, come back as they were, and nothing else is taken for one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowcast.disk import dates


@settings(deadline=None)
@given(st.datetimes(datetime(1950, 1, 1), datetime(2200, 1, 1)).map(lambda t: t.replace(microsecond=0)))
def test_stamp_comes_back(moment: datetime) -> None:
    assert dates.parse_stamp(dates.stamp(moment.replace(tzinfo=UTC))) == moment.replace(tzinfo=UTC)


def test_times_are_written_in_utc() -> None:
    moment = datetime(2026, 11, 21, 9, 10, tzinfo=timezone(timedelta(hours=2)))
    assert dates.stamp(moment) == "20261121T071000Z"
    assert dates.iso(moment) == "2026-11-21T07:10:00Z"
    for write in (dates.stamp, dates.iso):
        with pytest.raises(ValueError, match="aware"):
            write(datetime(2026, 11, 21))


@pytest.mark.parametrize(
    "text",
    ["", "20261121T071000", "20261321T071000Z", "2026112 T071000Z", "20261121-071000Z", "20261121T0710000"],
)
def test_what_is_no_stamp_is_none(text: str) -> None:
    assert dates.parse_stamp(text) is None
