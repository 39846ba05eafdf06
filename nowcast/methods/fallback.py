"""The methods there are, and the order they stand in for each other: a forecast always comes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import xarray as xr

from nowcast.compute import Compute
from nowcast.errors import MissingExtra, UnknownModel
from nowcast.forecast.file import BatchMethod, Method, Prediction
from nowcast.methods.attempt import FAILURES, excuse, secured
from nowcast.methods.auto import Auto
from nowcast.methods.extrapolation import Extrapolation, Persistence
from nowcast.methods.shipped_scores import shipped_prior
from nowcast.methods.sprog import SPROG
from nowcast.names import AUTO, EXTRAPOLATION, FALLBACK, NETWORKS, PERSISTENCE

log = logging.getLogger(__name__)


def _network(name: str, compute: Compute) -> Method:
    """Return a network; PyTorch, which takes seconds and may be absent, is loaded only now."""
    try:
        from nowcast.methods.networks.loading import network
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise MissingExtra(
            f"{name} needs {error.name}, which is not installed: pip install 'nowcast-service[network]'"
        ) from error
    return network(name, compute)


#: Every forecasting method by name, made with the means there are. Called for each forecast, so one that
#: loads weights keeps them.
METHODS: dict[str, Callable[[Compute], Method]] = {
    AUTO: lambda compute: Auto(METHODS, compute, shipped_prior()),
    PERSISTENCE: lambda compute: Persistence(),
    EXTRAPOLATION: lambda compute: Extrapolation(),
    SPROG.name: lambda compute: SPROG(),
    **{name: partial(_network, name) for name in NETWORKS},
}

#: Methods whose fields are known to be good once the first is made.
LAZY = (Auto.name, SPROG.name, *FALLBACK)


class Answer(NamedTuple):
    """A forecast and who made it.

    Attributes:
        prediction: Its fields and motion.
        model: Name of the method that made it.
        model_version: That method's version, or hash of its weights.
        degraded_reason: Why the method asked for did not answer, or fell short; empty if all is well. What
            the cube lacks stands in the cube's own ``degraded_reason`` and is not repeated.
    """

    prediction: Prediction
    model: str
    model_version: str
    degraded_reason: str


def check_made(model: str, compute: Compute) -> None:
    """Return if a method can be made, for callers who want no other in its place.

    Raises:
        UnknownModel: If there is no method of that name.
        NowcastError: What keeps it from being made: no weights, no device, no PyTorch.
    """
    _check_known(model)
    METHODS[model](compute)


def can_answer(model: str, compute: Compute) -> bool:
    """Return whether a method can be made, which loads what it needs.

    Raises:
        UnknownModel: If there is no method of that name.
    """
    return _made(model, compute) is not None


def takes_batches(model: str, compute: Compute) -> bool:
    """Return whether a method forecasts several cubes at once; one that cannot be made does not.

    Raises:
        UnknownModel: If there is no method of that name.
    """
    return isinstance(_made(model, compute), BatchMethod)


def frames_wanted(model: str, compute: Compute) -> int:
    """Return how many frames a method wants to look back on, 0 if it takes what there is.

    Raises:
        UnknownModel: If there is no method of that name.
    """
    return getattr(_made(model, compute), "frames", None) or 0


def predict_batch_with_fallback(
    cubes: Sequence[xr.DataArray], leads: int, model: str, compute: Compute
) -> list[Answer]:
    """Return the forecast that follows each cube, made together if the method can and the cubes are alike.

    Should the batch fail, each cube is forecast alone, so that one cannot take the others with it; raises as
    :func:`predict_with_fallback`.
    """
    method = _made(model, compute)
    if len(cubes) > 1 and len({cube.shape for cube in cubes}) == 1 and isinstance(method, BatchMethod):
        try:
            predictions = method.predict_batch(cubes, leads)
            together = zip(predictions, cubes, strict=True)
            return [_answered(model, method, one, cube, leads) for one, cube in together]
        except (*FAILURES, ValueError) as error:
            log.warning("%s failed on a batch of %d: %s", model, len(cubes), error)
    return [predict_with_fallback(cube, leads, model, compute) for cube in cubes]


def predict_with_fallback(cube: xr.DataArray, leads: int, model: str, compute: Compute) -> Answer:
    """Return the forecast of ``model``, or of the next method of :data:`FALLBACK` if that fails, and so on.

    All fields of a network are made before this returns, since one that fails at a late lead must not leave
    half a forecast. Those of the fallback methods stay lazy after the first: with it, all that may fail is
    done.

    Raises:
        UnknownModel: If there is no method of that name.
        NowcastError: What the last method raised, should even persistence fail.
    """
    _check_known(model)
    reasons: list[str] = []
    *candidates, last = dict.fromkeys((model, *FALLBACK[_rank(model) :]))
    for name in candidates:
        try:
            return _answer(cube, leads, name, compute, reasons)
        except FAILURES as error:
            reasons.append(excuse(name, error))
    return _answer(cube, leads, last, compute, reasons)


def _check_known(model: str) -> None:
    if model not in METHODS:
        raise UnknownModel(f"expected a model among {', '.join(sorted(METHODS))}, got {model!r}")


def _made(model: str, compute: Compute) -> Method | None:
    """Return a method, ``None`` if it cannot be made: asked for a forecast, it will say why."""
    _check_known(model)
    try:
        return METHODS[model](compute)
    except FAILURES:
        return None


def _answer(cube: xr.DataArray, leads: int, model: str, compute: Compute, reasons: Sequence[str]) -> Answer:
    method = METHODS[model](compute)
    return _answered(model, method, method.predict(cube, leads), cube, leads, reasons)


def _answered(
    model: str,
    method: Method,
    prediction: Prediction,
    cube: xr.DataArray,
    leads: int,
    reasons: Sequence[str] = (),
) -> Answer:
    prediction = secured(prediction, cube, leads, lazy=model in LAZY)
    reason = "; ".join(filter(None, (*reasons, prediction.degraded_reason)))
    version = prediction.version or method.version
    return Answer(replace(prediction, degraded_reason=reason), model, version, reason)


def _rank(model: str) -> int:
    """Return where in :data:`FALLBACK` the stand-ins of a method begin."""
    return FALLBACK.index(model) if model in FALLBACK else 0
