"""Hindcast: forecasts from past frames, scored against what followed, as ``scores.json`` holds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nowcast.compute import Compute
from nowcast.errors import BadRequest, NotEnoughFrames, UnknownModel
from nowcast.frame.domain import Domain
from nowcast.hindcast.cases import Cases, judge
from nowcast.methods.method import Method, Methods
from nowcast.methods.registry import METHODS
from nowcast.readers import Declared
from nowcast.readers.listing import FrameList, Progress
from nowcast.scores.tally import WINDOWS_KM, Tally


def hindcast(
    paths: Iterable[Path],
    *,
    models: Sequence[str],
    steps: int = 12,
    every: int = 1,
    history: int = 5,
    thresholds_dbz: Sequence[float] | None = None,
    windows_km: Sequence[float] = WINDOWS_KM,
    domain: Domain | None = None,
    methods: Methods = METHODS,
    compute: Compute | None = None,
    declared: Declared | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the scores of models over the frames of files, ready to be written as ``scores.json``.

    Frames are put in order of time. Forecasts are issued from the frames with index ``history - 1``, then
    every ``every``-th, as long as ``steps`` frames follow; each sees the ``history`` frames up to its issue
    time and no other. Indices count all frames on the domain's grid whose time can be read.

    Lead times go by the clock: lead k is scored against the frame within a quarter of a step of k steps after
    the issue time, whatever its index. A lead whose truth is missing is not scored, so a gap shifts nothing.
    An issue time from which a model cannot forecast (its own frame is missing, too few others are there) is
    left out for all models, so that all are scored on the same pixels, and is listed under ``issue_times``.

    Scores are those of :data:`nowcast.scores.table.SCORES`: ``rows`` has counts and scores of events, one per
    model, lead and threshold; ``fields`` those of whole fields, one per model and lead; ``fss`` those of
    events in windows, one per row and window.

    Args:
        paths: Radar files in any order; what cannot be used is listed under ``skipped`` with its reason.
        models: Names of the methods to compare.
        steps: Number of lead times.
        every: Distance of issue times, in frames.
        history: Frames each forecast looks back on.
        thresholds_dbz: Those of the domain if left out.
        windows_km: Widths of the windows of the fractions skill score.
        domain: Found from the frames if left out.
        methods: What the names mean.
        compute: What networks may use; by default, no weights but those of the package.
        declared: What files do not say of themselves.
        progress: Called with ``"reading"`` or ``"forecasting"``, the number done and the number there is.

    Raises:
        BadRequest: If a count is not positive, no model is named, or a threshold or window means nothing.
        UnknownModel: If there is no method of a name.
        NotEnoughFrames: If no forecast can be issued or scored.
    """
    contestants = _contestants(models, methods, compute or Compute())
    if min(steps, every, history) < 1:
        raise BadRequest(
            f"expected at least one step, one frame of history and one frame from issue time to issue time, "
            f"got {steps} steps, history {history}, every {every}"
        )
    paths = list(paths)
    frames = FrameList(paths, domain=domain, declared=declared, progress=progress)
    issues = range(history - 1, len(frames) - steps, every)
    if not issues:
        raise NotEnoughFrames(
            f"a history of {history} and {steps} steps need {history + steps} frames; {len(paths)} files "
            f"have {len(frames)} that can be read{_first_reason(frames)}"
        )
    empty = _empty_tally(frames, thresholds_dbz, windows_km)
    cases = Cases(frames, history=history, steps=steps)
    left_out = []
    for done, issue in enumerate(issues):
        if progress:
            progress("forecasting", done, len(issues))
        try:
            _score_issue(contestants, cases, issue, steps=steps, empty=empty)
        except NotEnoughFrames as error:
            left_out.append({"issue_time": f"{frames.times[issue]:%Y-%m-%dT%H:%M:%SZ}", "reason": str(error)})
    if progress:
        progress("forecasting", len(issues), len(issues))
    if len(left_out) == len(issues):
        raise NotEnoughFrames(f"no forecast could be scored; {left_out[0]['reason']}{_first_reason(frames)}")
    return {
        **_tables(contestants, [k + 1 for k in range(steps)], frames.domain.step_minutes, empty),
        "files": len(paths),
        "skipped": [{"file": skipped.file, "reason": skipped.reason} for skipped in frames.skipped],
        "issue_times": {"scored": len(issues) - len(left_out), "left_out": left_out},
        "domain": {
            "name": frames.domain.name,
            "grid": str(frames.domain.grid),
            "step_minutes": frames.domain.step_minutes,
        },
    }


@dataclass
class _Contestant:
    """A model and what it scored so far."""

    name: str
    method: Method
    tallies: dict[int, Tally] = field(default_factory=dict)
    seconds: float = 0.0
    forecasts: int = 0
    degraded: Counter[str] = field(default_factory=Counter)


def _contestants(models: Sequence[str], methods: Methods, compute: Compute) -> list[_Contestant]:
    if not models:
        raise BadRequest("expected the name of at least one model")
    if unknown := [name for name in models if name not in methods]:
        raise UnknownModel(f"there is no model {unknown[0]!r}; known are {', '.join(sorted(methods))}")
    return [_Contestant(name, methods[name](compute)) for name in dict.fromkeys(models)]


def _empty_tally(
    frames: FrameList, thresholds_dbz: Sequence[float] | None, windows_km: Sequence[float]
) -> Tally:
    thresholds = frames.domain.thresholds_dbz if thresholds_dbz is None else thresholds_dbz
    try:
        return Tally(thresholds, windows_km=windows_km, cell_km=frames.grid.cell_km)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _score_issue(
    contestants: Sequence[_Contestant], cases: Cases, index: int, *, steps: int, empty: Tally
) -> None:
    """Forecast from one issue time with every model, and keep all scores or none.

    Raises:
        NotEnoughFrames: If a model cannot forecast from it, or nothing observed follows.
    """
    case = cases.at(index)
    outcomes = [judge(contestant.method, case, steps, empty) for contestant in contestants]
    for contestant, outcome in zip(contestants, outcomes, strict=True):
        contestant.forecasts += 1
        contestant.seconds += outcome.seconds
        if outcome.degraded_reason:
            contestant.degraded[outcome.degraded_reason] += 1
        for lead, tally in outcome.tallies.items():
            contestant.tallies[lead] = contestant.tallies.get(lead, empty) + tally


def _tables(
    contestants: Sequence[_Contestant], leads: Sequence[int], step_minutes: int, empty: Tally
) -> dict[str, Any]:
    """Return the tables of ``scores.json``: models as they were asked for, leads, thresholds, windows."""
    result: dict[str, Any] = {"rows": [], "models": {}, "fields": [], "fss": []}
    for contestant in contestants:
        result["models"][contestant.name] = {
            "version": contestant.method.version,
            "forecasts": contestant.forecasts,
            "seconds_per_forecast": contestant.seconds / contestant.forecasts,
            "degraded": dict(contestant.degraded),
        }
        for lead in leads:
            tally = contestant.tallies.get(lead, empty)
            which = {"model": contestant.name, "lead_minutes": lead * step_minutes}
            result["rows"] += [{**which, **row} for row in tally.rows()]
            sizes = {"pixels": tally.pixels, "forecasts": tally.forecasts}
            result["fields"].append({**which, **tally.field_row(), **sizes})
            result["fss"] += [
                {**which, "threshold_dbz": threshold, **row}
                for threshold in tally.thresholds_dbz
                for row in tally.window_rows(threshold)
            ]
    return result


def _first_reason(frames: FrameList) -> str:
    return f"; skipped {frames.skipped[0].file}: {frames.skipped[0].reason}" if frames.skipped else ""
