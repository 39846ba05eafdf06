"""The one number a forecast is judged by: the mean CSI over leads and thresholds, of pooled counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Thresholds [dBZ] of the one number a forecast is judged by: light, moderate and heavy rain.
JUDGED_DBZ = (20.0, 30.0, 35.0)

#: Rows of an array of counts, in its last axis but one.
COUNTS = ("hits", "misses", "false_alarms")


def csi_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return the CSI ``(..., threshold)`` of :data:`COUNTS` ``(..., 3, threshold)``.

    NaN where the truth never reached the threshold: such a cell is the same for every method scored on the
    same forecasts, and says nothing of any.
    """
    hits, misses, false_alarms = np.moveaxis(counts, -2, 0)
    rained = hits + misses > 0
    return np.where(rained, hits / np.where(rained, hits + misses + false_alarms, 1), np.nan)


def mean_csi_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean CSI ``(...)`` over leads and thresholds of counts ``(..., lead, 3, threshold)``.

    Leads and thresholds the truth never reached are left out; NaN if it reached none.
    """
    csi = csi_of(counts)
    rained = ~np.isnan(csi)
    cells = rained.sum(axis=(-2, -1))
    total = np.where(rained, csi, 0.0).sum(axis=(-2, -1))
    return np.where(cells > 0, total / np.maximum(cells, 1), np.nan)
