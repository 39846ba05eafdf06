"""What may go wrong with a method, and leads that are known to be good: a forecast always comes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

import cv2
import numpy as np

from nowcast.errors import NowcastError
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.methods.cube import Cube
from nowcast.methods.method import Method

log = logging.getLogger(__name__)

#: What a failing method raises: on purpose, from torch (no device memory, wrong shapes), from OpenCV.
FAILURES = (NowcastError, RuntimeError, MemoryError, cv2.error)


def excuse(name: str, error: BaseException) -> str:
    """Log why a method failed, and return it in words for everybody."""
    on_purpose = isinstance(error, NowcastError)
    log.warning("%s failed: %s", name, error, exc_info=None if on_purpose else error)
    # What another library says may be long, and is not for everybody's eyes.
    return f"{name} failed ({error if on_purpose else type(error).__name__})"


def secured(method: Method, cube: Cube, leads: int, prediction: Prediction | None = None) -> Prediction:
    """Return a method's prediction with its first lead made, or all of them made and checked.

    All leads of most methods are made, since one that fails at a late lead must not leave half a forecast.
    Those of a method that the first lead proves stay lazy after it.

    Args:
        method: Makes the prediction.
        cube: What it is made from.
        leads: Number of leads there must be.
        prediction: What the method has predicted already, in a batch.

    Raises:
        RuntimeError: If there are not as many leads as asked for, or a field has another shape or no value.
        NowcastError, MemoryError, cv2.error: What the method raises.
    """
    prediction = prediction or method.predict(cube, leads)
    if method.proven_by_first:
        first = list(islice(prediction.leads, 1))
        return replace(prediction, leads=chain(first, prediction.leads))
    made = list(prediction.leads)
    _check([lead.field.shape for lead in made], leads, cube)
    if not all(np.isfinite(lead.field).any() for lead in made):
        raise RuntimeError("a field has not a single value")
    return replace(prediction, leads=_given_away(made))


def _check(shapes: list[tuple[int, ...]], leads: int, cube: Cube) -> None:
    expected = cube.shape[1:]
    if len(shapes) != leads or any(shape != expected for shape in shapes):
        raise RuntimeError(
            f"expected {leads} fields of {expected} cells, got {len(shapes)} of {sorted(set(shapes))}"
        )


def _given_away(made: list[Lead]) -> Iterator[Lead]:
    """Yield leads and forget each, so that its memory is free once it is written."""
    made.reverse()
    while made:
        yield made.pop()
