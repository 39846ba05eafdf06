"""The record every forecast answer carries: who made it, from what, how old it is, how good it has been."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from api.schemas import InputFrame, LeadScore, RecentScores, Record, ZRelation
from api.service import Pooled, Service, StoredForecast
from nowcast.scores.table import recorded_scores

#: Period of recent scores.
RECENT = timedelta(hours=24)

#: Fields of a record that change with the clock alone.
VOLATILE = {"answered_at", "age_seconds"}


async def record_of(service: Service, stored: StoredForecast) -> Record:
    """Return a forecast's record, as of now."""
    record, now = stored.record, service.now()
    a, b = record.zr
    return Record(
        domain=record.domain,
        issue_time=record.issue_time,
        answered_at=now,
        age_seconds=round((now - record.issue_time).total_seconds(), 1),
        model=record.model,
        model_version=record.model_version,
        degraded_reason=record.degraded_reason or None,
        method_by_lead=list(record.method_by_lead),
        choice_reason=record.choice_reason or None,
        base_weights=dict(record.base_weights) or None,
        input_frames=[_input_frame(text) for text in record.input_frames],
        step_minutes=record.step_minutes,
        zr=ZRelation(a=a, b=b),
        credit=record.credit,
        recent_scores=await service.recent_scores.get(
            stored.identity, partial(_recent_scores, service, stored)
        ),
    )


async def _recent_scores(service: Service, stored: StoredForecast) -> RecentScores:
    record = stored.record
    pooled = await service.pooled(record.domain, record.issue_time - RECENT, record.issue_time)
    return _recent(stored, pooled)


def _input_frame(text: str) -> InputFrame:
    return InputFrame(time=datetime.fromisoformat(text.rstrip("*")), bridged=text.endswith("*"))


def _recent(stored: StoredForecast, pooled: Pooled) -> RecentScores:
    record = stored.record
    rows = [
        LeadScore(
            lead_minutes=lead,
            threshold_dbz=row["threshold_dbz"],
            forecasts=row["forecasts"],
            **{score.name: _rounded(row[score.name]) for score in recorded_scores()},
        )
        for lead in stored.lead_minutes
        if (record.model, lead) in pooled
        for row in pooled[record.model, lead].rows()
    ]
    return RecentScores(start=record.issue_time - RECENT, end=record.issue_time, rows=rows)


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 4)
