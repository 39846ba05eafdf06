"""What networks see of reflectivity: one fixed, physical scale for every frame, and a mask of what was seen.

A scale taken from each image would leak the strongest echo of frames to come, lose the absolute reflectivity
that thresholds and rain rates need, make steady rain seem to grow when one pixel fades, and stretch the noise
of a dry frame. Here half the scale is 25 dBZ in every image.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Reflectivity [dBZ] that becomes 0: no echo, as frames and forecasts hold it. Weaker echo is none.
LOW_DBZ = -10.0

#: Reflectivity [dBZ] that becomes 1. Rain hardly exceeds 55 dBZ; what does is hail, of no use to rain rates.
HIGH_DBZ = 60.0

#: Steps of a byte between 0 and 1; the last value is left for what was not observed.
BYTE_STEPS = 254

#: Byte of a cell that was not observed.
NOT_OBSERVED = 255


def to_unit(dbz: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return reflectivity [dBZ] on the networks' scale [0, 1], and where it was observed.

    .. math:: x = (\mathrm{clip}(Z, -10, 60) + 10) / 70

    What was not observed (NaN) is 0, as no echo; only the boolean mask tells them apart.
    """
    observed = ~torch.isnan(dbz)
    unit = torch.nan_to_num(dbz, nan=LOW_DBZ).clamp_(LOW_DBZ, HIGH_DBZ)
    return unit.sub_(LOW_DBZ).div_(HIGH_DBZ - LOW_DBZ), observed


def to_dbz(unit: Tensor) -> Tensor:
    """Return reflectivity [dBZ] from the networks' scale; 0 and less is no echo, exactly -10 dBZ."""
    return unit.clamp(min=0) * (HIGH_DBZ - LOW_DBZ) + LOW_DBZ


def to_bytes(dbz: Tensor) -> Tensor:
    """Return reflectivity [dBZ] as one byte a cell, right to 0.14 dBZ between -10 and 60 dBZ."""
    unit, observed = to_unit(dbz)
    return unit.mul_(BYTE_STEPS).round_().masked_fill_(~observed, NOT_OBSERVED).to(torch.uint8)


def from_bytes(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`to_unit` does, in float32, from the bytes of :func:`to_bytes`."""
    observed = packed != NOT_OBSERVED
    return (packed.to(torch.float32) / BYTE_STEPS).masked_fill_(~observed, 0.0), observed
