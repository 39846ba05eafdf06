"""Units of precipitation: reflectivity in dBZ, rain rate in mm/h, and the Z-R relation between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

#: Reflectivity [dBZ] at and below which a pixel counts as dry in a frame or forecast.
NO_ECHO_DBZ = -10.0

#: Highest reflectivity [dBZ] a frame keeps; giant hail reaches about 75, larger values are artefacts.
MAX_DBZ = 75.0


@dataclass(frozen=True)
class ZR:
    """The power law ``Z = a R^b`` between reflectivity Z [mm^6 m^-3] and rain rate R [mm/h].

    The default is Marshall and Palmer (1948), doi:10.1175/1520-0469(1948)005<0165:TDORWS>2.0.CO;2.

    Example:
        >>> round(float(ZR().to_dbz(np.float32(10.0))), 3)
        39.01
    """

    a: Annotated[float, Gt(0)] = 200.0
    b: Annotated[float, Gt(0)] = 1.6

    def to_dbz(self, rain_rate_mm_h: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return reflectivity [dBZ]; 0 mm/h gives -inf, NaN stays NaN."""
        rate = np.asarray(rain_rate_mm_h, dtype=np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            decibel = np.log10(rate)
        decibel *= np.float32(10.0 * self.b)
        decibel += np.float32(10.0 * np.log10(self.a))
        return decibel

    def to_rain_rate(self, dbz: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rain rate [mm/h]; :data:`NO_ECHO_DBZ` and below give exactly 0, NaN stays NaN."""
        dbz = np.asarray(dbz, dtype=np.float32)
        exponent = (dbz - np.float32(10.0 * np.log10(self.a))) / np.float32(10.0 * self.b)
        rate = np.power(np.float32(10.0), exponent, dtype=np.float32)
        return np.where(dbz <= NO_ECHO_DBZ, np.float32(0.0), rate)
