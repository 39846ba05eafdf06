"""One method's try at a forecast: what may go wrong with it, and fields that are known to be good."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import chain, islice

import cv2
import numpy as np
import xarray as xr

from nowcast.errors import NowcastError
from nowcast.forecast.file import Prediction

log = logging.getLogger(__name__)

#: What a failing method raises: on purpose, from torch (no device memory, wrong shapes), from OpenCV.
FAILURES = (NowcastError, RuntimeError, MemoryError, cv2.error)


def excuse(name: str, error: BaseException) -> str:
    """Log why a method failed, and return it in words for everybody."""
    on_purpose = isinstance(error, NowcastError)
    log.warning("%s failed: %s", name, error, exc_info=None if on_purpose else error)
    # What another library says may be long, and is not for everybody's eyes.
    return f"{name} failed ({error if on_purpose else type(error).__name__})"


def secured(prediction: Prediction, cube: xr.DataArray, leads: int, *, lazy: bool) -> Prediction:
    """Return a prediction with its first field made, or all of them made and checked.

    Args:
        prediction: Of a method.
        cube: What it was made from.
        leads: Number of fields there must be.
        lazy: Whether the first field proves the others, so that they may be made when asked for.

    Raises:
        RuntimeError: If there are not as many fields as leads, or one has another shape or no value at all.
    """
    if lazy:
        first = list(islice(prediction.fields, 1))
        return replace(prediction, fields=chain(first, prediction.fields))
    fields = list(prediction.fields)
    if len(fields) != leads or any(field.shape != cube.shape[1:] for field in fields):
        shapes = sorted({field.shape for field in fields})
        raise RuntimeError(
            f"expected {leads} fields of {cube.shape[1:]} cells, got {len(fields)} of {shapes}"
        )
    if not all(np.isfinite(field).any() for field in fields):
        raise RuntimeError("a field has not a single value")
    return replace(prediction, fields=iter(fields))
