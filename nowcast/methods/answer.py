"""The answer to a cube: the forecast of the method asked for or of the next best, and its record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from nowcast.compute import Compute
from nowcast.disk.dates import iso
from nowcast.errors import UnknownModel
from nowcast.forecast.prediction import Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.frame.domain import Domain
from nowcast.methods.cube import Cube
from nowcast.methods.fallback import FAILURES, excuse, secured
from nowcast.methods.method import Method
from nowcast.methods.registry import made
from nowcast.names import FALLBACK

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A forecast and who made it.

    Attributes:
        prediction: What was predicted; its ``shortfalls`` say also why the method asked for did not answer.
            What the cube lacks stands in the cube's own and is not repeated.
        model: Name of the method that made it.
        model_version: That method's version, or hash of its weights.
    """

    prediction: Prediction
    model: str
    model_version: str


def ready(model: str, compute: Compute) -> Method | None:
    """Return a method, loaded; ``None`` if it cannot be made: asked for a forecast, it will say why.

    Raises:
        UnknownModel: If there is no method of that name.
    """
    try:
        return made(model, compute)
    except UnknownModel:
        raise
    except FAILURES:
        return None


def looking_back(domain: Domain, compute: Compute) -> Domain:
    """Return the domain with as long a history as its method wants, if that is longer.

    Raises:
        UnknownModel: If there is no such method.
    """
    method = ready(domain.model, compute)
    return replace(domain, history=max(domain.history, method.frames if method else 0))


def issue(
    cube: Cube, domain: Domain, compute: Compute, *, model: str | None = None
) -> tuple[ForecastRecord, Prediction]:
    """Return record and prediction of the forecast that follows a cube.

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
    cubes: Sequence[Cube], domains: Sequence[Domain], compute: Compute, *, model: str
) -> list[tuple[ForecastRecord, Prediction]]:
    """Return what :func:`issue` does for each cube, made together; all domains want as many leads."""
    answers = predict_batch_with_fallback(cubes, domains[0].leads, model, compute)
    return [
        (_record(cube, domain, answer), answer.prediction)
        for cube, domain, answer in zip(cubes, domains, answers, strict=True)
    ]


def predict_with_fallback(cube: Cube, leads: int, model: str, compute: Compute) -> Answer:
    """Return the forecast of ``model``, or of the next method of ``FALLBACK`` if that fails, and so on.

    Raises:
        UnknownModel: If there is no method of that name.
        NowcastError: What the last method raised, should even persistence fail.
    """
    excuses: list[str] = []
    *candidates, last = dict.fromkeys((model, *FALLBACK[_rank(model) :]))
    for name in candidates:
        try:
            return _answer(cube, leads, name, made(name, compute), excuses)
        except UnknownModel:
            raise
        except FAILURES as error:
            excuses.append(excuse(name, error))
    return _answer(cube, leads, last, made(last, compute), excuses)


def predict_batch_with_fallback(
    cubes: Sequence[Cube], leads: int, model: str, compute: Compute
) -> list[Answer]:
    """Return the forecast that follows each cube, made together if the method can and the cubes are alike.

    Should the batch fail, each cube is forecast alone, so that one cannot take the others with it; raises as
    :func:`predict_with_fallback`.
    """
    alike = len(cubes) > 1 and len({cube.shape for cube in cubes}) == 1
    method = ready(model, compute) if alike else None
    if method and method.takes_batches:
        try:
            predictions = method.predict_batch(cubes, leads)
            together = zip(cubes, predictions, strict=True)
            return [_answer(cube, leads, model, method, (), prediction) for cube, prediction in together]
        except (*FAILURES, ValueError) as error:
            log.warning("%s failed on a batch of %d: %s", model, len(cubes), error)
    return [predict_with_fallback(cube, leads, model, compute) for cube in cubes]


def _answer(
    cube: Cube,
    leads: int,
    model: str,
    method: Method,
    excuses: Sequence[str],
    prediction: Prediction | None = None,
) -> Answer:
    prediction = secured(method, cube, leads, prediction)
    shortfalls = (*excuses, *prediction.shortfalls)
    return Answer(replace(prediction, shortfalls=shortfalls), model, prediction.version or method.version)


def _rank(model: str) -> int:
    """Return where in ``FALLBACK`` the stand-ins of a method begin."""
    return FALLBACK.index(model) if model in FALLBACK else 0


def _record(cube: Cube, domain: Domain, answer: Answer) -> ForecastRecord:
    prediction = answer.prediction
    return ForecastRecord(
        domain=domain.name,
        issue_time=cube.issue_time,
        step_minutes=domain.step_minutes,
        leads=domain.leads,
        model=answer.model,
        model_version=answer.model_version,
        input_frames=input_frames(cube),
        degraded_reason="; ".join(dict.fromkeys((*cube.shortfalls, *prediction.shortfalls))),
        grid=cube.grid,
        credit=domain.credit,
        zr=(domain.zr.a, domain.zr.b),
        methods=prediction.methods,
        choice_reason=prediction.choice_reason,
        base_weights=prediction.base_weights,
    )


def input_frames(cube: Cube) -> tuple[str, ...]:
    """Return ISO times of a cube's frames, oldest first; one that was bridged ends in ``*``."""
    return tuple(
        iso(time) + ("*" if bridged else "") for time, bridged in zip(cube.times, cube.bridged, strict=True)
    )
