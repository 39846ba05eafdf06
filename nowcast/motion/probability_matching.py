"""From probabilities to one field: rain put where it is most probable, as much of it as was carried there."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nowcast.frame.units import NO_ECHO_DBZ

Array = NDArray[np.float32]

#: Steps in which values are told apart, over their range.
RANKS = 1 << 16

#: Probability below which a cell never exceeds a threshold, whatever the area to fill.
LEAST_PROBABILITY = 1e-4


def most_probable(probability: Array, extrapolated: Array, thresholds_dbz: Array, areas: Array) -> Array:
    r"""Return the field [dBZ] ``(y, x)`` that exceeds each threshold where that is most probable.

    With :math:`n_k` the cells on which the extrapolated frame reaches threshold k, the field reaches it on
    the :math:`a_k n_k` cells with the highest probability. So it is one field of growing demands, with the
    distribution of the extrapolated one at a = 1. Between thresholds the value follows the logarithm of
    :math:`P_k / q_k`, with :math:`q_k` the least probability of those cells. NaN where the extrapolated frame
    is; no echo, -10 dBZ, where not even the lowest threshold is reached.

    Args:
        probability: Of reaching each threshold ``(k, y, x)``, at most that of the threshold before.
        extrapolated: The newest frame carried to the lead, dBZ, NaN = not covered.
        thresholds_dbz: Ascending ``(k,)``.
        areas: The factors a ``(k,)``.

    References:
        Ebert (2001), Ability of a Poor Man's Ensemble to Predict the Probability and Distribution of
        Precipitation, doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2: probability matching.
    """
    covered = ~np.isnan(extrapolated)
    field = np.full(extrapolated.shape, NO_ECHO_DBZ, np.float32)
    below = np.full(extrapolated.shape, np.inf, np.float32)  # how far the threshold before is exceeded
    reached = covered.copy()
    for k, threshold in enumerate(thresholds_dbz):
        count = round(float(areas[k]) * int(np.count_nonzero(extrapolated >= threshold)))
        excess = _excess(probability[k], covered, count)
        np.minimum(excess, below, out=excess)
        if k:  # cells that stay between the threshold before and this one
            between = reached & (excess < 0)
            share = below[between] / np.maximum(below[between] - excess[between], np.float32(1e-6))
            step = threshold - thresholds_dbz[k - 1]
            field[between] = thresholds_dbz[k - 1] + np.clip(share, 0, 0.999) * step
        reached &= excess >= 0
        below = excess
        if not reached.any():
            break
        field[reached] = threshold
    field[~covered] = np.nan
    return field


def _excess(probability: Array, covered: NDArray[np.bool_], count: int) -> Array:
    """Return log(P / q) with q such that ``count`` of the covered cells have 0 or more."""
    count = min(count, int(np.count_nonzero(covered)))
    if count < 1:
        return np.full(probability.shape, -np.inf, np.float32)
    cells = probability[covered & (probability > LEAST_PROBABILITY)]
    place = len(cells) - count
    level = float(np.partition(cells, place)[place]) if place > 0 else LEAST_PROBABILITY
    excess = np.log(np.maximum(probability, np.float32(1e-8)) / np.float32(level))
    return np.asarray(excess, dtype=np.float32)


def in_order_of(field: Array, extrapolated: Array) -> Array:
    """Return the values of an extrapolated frame [dBZ] ``(y, x)``, the largest where a field is largest.

    NaN where either is. Values of the field closer than a step of :data:`RANKS` over its range share one
    value; those of the frame are told apart by :data:`RANKS` steps over theirs.

    References:
        Ebert (2001), doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2.
    """
    unknown = np.isnan(extrapolated) | np.isnan(field)
    if unknown.all():
        return np.full(field.shape, np.nan, np.float32)
    order, cells, _, _ = _binned(field, unknown)
    _, values, low, step = _binned(extrapolated, unknown)
    taken = np.flatnonzero(cells)
    middle = np.cumsum(cells)[taken] - cells[taken] // 2
    given = np.zeros(RANKS, np.float32)
    given[taken] = low + step * np.searchsorted(np.cumsum(values), middle).clip(max=RANKS - 1)
    arranged = given[order]
    arranged[unknown] = np.nan
    return arranged


def _binned(
    values: Array, unknown: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], NDArray[np.int64], np.float32, np.float32]:
    """Return the step of each value over their range, how many have each, the least value, a step's width."""
    steps = values.copy()
    steps[unknown] = np.nan
    low, high = np.fmin.reduce(steps, axis=None), np.fmax.reduce(steps, axis=None)
    width = np.float32(max((high - low) / (RANKS - 1), np.float32(1e-12)))
    steps -= low
    steps /= width
    steps += np.float32(0.5)
    cv2.patchNaNs(steps, 0.0)
    ranks = steps.astype(np.uint16)
    counts = cv2.calcHist([ranks], [0], None, [RANKS], [0, RANKS]).ravel().astype(np.int64)
    counts[0] -= np.count_nonzero(unknown)
    return ranks, counts, low, width


def rank_matched(field: Array, extrapolated: Array) -> Array:
    """Return a field [dBZ] ``(y, x)`` with the ranks of one field and the values of another.

    A network that minimises an error forecasts what is likely on average: too much weak echo, hardly any
    strong. Where it rains most and where least is what it knows; how strong rain is, the extrapolated frame
    tells. A cell where the field has no echo gets none; NaN where the extrapolated frame is.

    Args:
        field: What a network forecasts, dBZ.
        extrapolated: The newest frame carried to the same lead, dBZ, NaN = not covered.

    References:
        Ebert (2001), doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2.
    """
    covered = ~np.isnan(extrapolated)
    matched = np.where(covered, np.float32(NO_ECHO_DBZ), np.float32(np.nan))
    echo = covered & (field > NO_ECHO_DBZ)
    values = extrapolated[covered & (extrapolated > NO_ECHO_DBZ)]
    count = min(int(np.count_nonzero(echo)), len(values))
    if count:
        ranks = np.argsort(field[echo], kind="stable")[-count:]
        ordered = np.full(int(np.count_nonzero(echo)), NO_ECHO_DBZ, np.float32)
        ordered[ranks] = np.sort(values)[-count:]
        matched[echo] = ordered
    return np.asarray(matched, dtype=np.float32)
