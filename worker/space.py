"""Room on the disk: below the reserve old forecasts go, the oldest first; frames and scores never do."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta

from nowcast.forecast.store import ForecastStore
from nowcast.settings import Settings

log = logging.getLogger(__name__)

#: Forecasts younger than this are kept in any case: they are served, or wait for their truth.
YOUNG = timedelta(days=1)


def has_room(settings: Settings) -> bool:
    """Return whether the disk of the data directory has its reserve, after old forecasts have made way."""
    if _has_reserve(settings):
        return True
    store, young = ForecastStore(settings.folder.forecasts), datetime.now(UTC) - YOUNG
    issue_times = {name: store.issue_times(name, end=young) for name in settings.domains}
    for day in sorted({moment.date() for times in issue_times.values() for moment in times}):
        older_than = min(datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1), young)
        removed = sum(store.prune(name, older_than=older_than) for name in settings.domains)
        log.warning("the disk is nearly full: %d forecasts of %s and before are removed", removed, day)
        if _has_reserve(settings):
            return True
    return False


def _has_reserve(settings: Settings) -> bool:
    return shutil.disk_usage(settings.data_dir).free >= settings.reserve_mb * 2**20
