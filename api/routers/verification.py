"""How good the forecasts have been: pooled counts and the ratios made of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.parameters import End, Start, period
from api.record import RECENT
from api.responses import document
from api.schemas import ScoreEntry, Verification, VerificationRow, WindowRow, ZRelation
from api.service import Pooled, TheDomain, TheService
from nowcast.errors import BadRequest
from nowcast.frame.domain import Domain
from nowcast.methods.registry import METHODS
from nowcast.scores import table
from nowcast.scores.tally import Tally

router = APIRouter(prefix="/v1/domains/{domain}/verification", tags=["verification"])

MASK_POLICY = "a pixel counts where the truth is observed; a forecast pixel without a value counts as no echo"

Models = Annotated[
    list[str] | None,
    Query(alias="model", max_length=16, description="Methods; all without it", examples=[["extrapolation"]]),
]
Thresholds = Annotated[
    list[float] | None,
    Query(
        alias="threshold", max_length=16, description="Thresholds [dBZ]; all without it", examples=[[20.0]]
    ),
]
Leads = Annotated[
    list[int] | None,
    Query(alias="lead", max_length=72, description="Lead times [minutes]; all without it", examples=[[30]]),
]


@router.get("", summary="Scores by method, lead time and threshold", response_model=Verification)
async def verification(
    service: TheService,
    domain: TheDomain,
    models: Models = None,
    thresholds: Thresholds = None,
    leads: Leads = None,
    start: Start = None,
    end: End = None,
) -> Response:
    """Scores of every forecast whose truth has come, persistence beside them, for valid times `from` to `to`.

    Counts are added up before any ratio is taken, so scores of any period are exact. Without `from` and `to`,
    the day up to the newest frame. What is undefined (0/0) is null.
    """
    newest = await service.newest_frame(domain.name)
    start, end = period(start, end, newest or service.now().replace(microsecond=0), RECENT)
    pooled = await service.pooled(domain.name, start, end)
    _check_known(models, thresholds, leads, domain, pooled)
    answer = Verification(
        domain=domain.name,
        start=start,
        end=end,
        zr=ZRelation(a=domain.zr.a, b=domain.zr.b),
        mask_policy=MASK_POLICY,
        scores=[ScoreEntry(**score.facts()) for score in table.SCORES],
        rows=_rows(pooled, models, thresholds, leads),
    )
    return document(answer)


def _check_known(
    models: list[str] | None,
    thresholds: list[float] | None,
    leads: list[int] | None,
    domain: Domain,
    pooled: Pooled,
) -> None:
    """Refuse a method, threshold or lead that there is not: an empty answer would read as "never scored".

    Raises:
        BadRequest: Naming the unknown and the known ones.
    """
    names = {**METHODS, **dict.fromkeys(model for model, _ in pooled)}
    if unknown := [model for model in models or () if model not in names]:
        raise BadRequest(f"expected a model among {', '.join(names)}, got {unknown[0][:64]!r}")
    scored = {threshold for tally in pooled.values() for threshold in tally.thresholds_dbz}
    known = sorted(scored.union(domain.thresholds_dbz))
    if unknown_dbz := [threshold for threshold in thresholds or () if threshold not in known]:
        there_are = ", ".join(f"{threshold:g}" for threshold in known)
        raise BadRequest(f"expected a threshold among {there_are} dBZ, got {unknown_dbz[0]:g}")
    made = {domain.step_minutes * number for number in range(1, domain.leads + 1)}
    minutes = sorted(made.union(lead for _, lead in pooled))
    if unknown_leads := [lead for lead in leads or () if lead not in minutes]:
        there_are = ", ".join(map(str, minutes))
        raise BadRequest(f"expected a lead among {there_are} min, got {unknown_leads[0]}")


def _rows(
    pooled: Pooled, models: list[str] | None, thresholds: list[float] | None, leads: list[int] | None
) -> list[VerificationRow]:
    return [
        row
        for (model, lead), tally in sorted(pooled.items())
        if (models is None or model in models) and (leads is None or lead in leads)
        for row in rows_of(model, lead, tally)
        if thresholds is None or row.threshold_dbz in thresholds
    ]


def rows_of(model: str, lead_minutes: int, tally: Tally) -> list[VerificationRow]:
    """Return one row for each threshold of a tally."""
    of_fields = tally.field_row()
    return [
        VerificationRow(
            model=model,
            lead_minutes=lead_minutes,
            fss=[WindowRow.model_validate(window) for window in tally.window_rows(threshold)],
            **row,
            **of_fields,
        )
        for threshold, row in zip(tally.thresholds_dbz, tally.rows(), strict=True)
    ]
