"""Issuing a forecast: from a cube to the fields of a method and the record that goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from nowcast.compute import Compute
from nowcast.disk.dates import iso
from nowcast.forecast.file import ForecastRecord, Prediction
from nowcast.frame.domain import Domain
from nowcast.frame.frame import grid_of, to_datetime
from nowcast.methods.fallback import Answer, frames_wanted, predict_batch_with_fallback, predict_with_fallback


def looking_back(domain: Domain, compute: Compute) -> Domain:
    """Return the domain with as long a history as its method wants, if that is longer.

    Raises:
        UnknownModel: If there is no such method.
    """
    return replace(domain, history=max(domain.history, frames_wanted(domain.model, compute)))


def issue(
    cube: xr.DataArray, domain: Domain, compute: Compute, *, model: str | None = None
) -> tuple[ForecastRecord, Prediction]:
    """Return record and fields of the forecast that follows a cube ``reflectivity(time, y, x)`` [dBZ].

    Args:
        cube: Frames up to the issue time, of :func:`nowcast.methods.cube.build_cube`.
        domain: Says how many leads, and whose data this is.
        compute: What a network may use.
        model: Method to ask; the domain's if left out. Should it fail, a lesser one answers and the record
            says so.

    Raises:
        UnknownModel: If there is no such method.
        NotEnoughFrames: If not even persistence can answer.
    """
    answer = predict_with_fallback(cube, domain.leads, model or domain.model, compute)
    return _record(cube, domain, answer), answer.prediction


def issue_batch(
    cubes: Sequence[xr.DataArray], domains: Sequence[Domain], compute: Compute, *, model: str
) -> list[tuple[ForecastRecord, Prediction]]:
    """Return what :func:`issue` does for each cube, made together; all domains want as many leads."""
    answers = predict_batch_with_fallback(cubes, domains[0].leads, model, compute)
    return [
        (_record(cube, domain, answer), answer.prediction)
        for cube, domain, answer in zip(cubes, domains, answers, strict=True)
    ]


def _record(cube: xr.DataArray, domain: Domain, answer: Answer) -> ForecastRecord:
    prediction, name, version, reason = answer
    reasons = dict.fromkeys((str(cube.attrs.get("degraded_reason", "")), reason, prediction.degraded_reason))
    return ForecastRecord(
        domain=domain.name,
        issue_time=to_datetime(cube["time"].values[-1]),
        step_minutes=domain.step_minutes,
        leads=domain.leads,
        model=name,
        model_version=version,
        input_frames=input_frames(cube),
        degraded_reason="; ".join(text for text in reasons if text),
        grid=grid_of(cube),
        credit=domain.credit,
        zr=(domain.zr.a, domain.zr.b),
        methods=prediction.methods,
        choice_reason=prediction.choice_reason,
    )


def input_frames(cube: xr.DataArray) -> tuple[str, ...]:
    """Return ISO times of a cube's frames, oldest first; one that was bridged ends in ``*``."""
    times = [iso(to_datetime(time)) for time in np.atleast_1d(cube["time"].values)]
    marks = ["*" if bridged else "" for bridged in cube["bridged"].values]
    return tuple(time + mark for time, mark in zip(times, marks, strict=True))
