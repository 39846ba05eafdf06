"""Forecasts that let go of small scales as they lose their memory: S-PROG, in Fourier space."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nowcast import names
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.frame.units import NO_ECHO_DBZ
from nowcast.methods.cube import Cube
from nowcast.methods.extrapolation import without_motion
from nowcast.methods.method import Method
from nowcast.motion.cascade import Cascade
from nowcast.motion.flow import FRAMES, motion_field
from nowcast.motion.lagrangian import carried_to_issue
from nowcast.motion.trajectory import DBZ_PER_LOG, carried_forward

Array = NDArray[np.float32]

#: Order of the autoregression: value and tendency.
ORDER = 2

#: Power of Z whose scales are followed: about the square root of rain rate. Set on showers in Finland, rain
#: in Switzerland, severe convection at Brisbane and extreme rain in the Netherlands together; 0.2 and 0.45
#: differ by less than 0.01 from it in most cells. In dBZ, where the step from no echo to echo outweighs
#: cores, CSI at 35 dBZ is up to 0.05 lower.
EXPONENT = 0.3

#: Steps in which forecast values are ranked, over their range.
RANKS = 1 << 15


class SPROG(Method):
    r"""The newest frames carried along their motion, and smoothed as fast as each scale is forgotten.

    Frames are carried to the issue time and cut into levels of scale
    (:class:`nowcast.motion.cascade.Cascade`). In the moving air, level k follows an autoregression without
    its noise, hence fades to its mean:

    .. math:: X_k(t + 1) = \phi_{k,1} X_k(t) + \phi_{k,2} X_k(t - 1).

    The sum of levels is what can be known of the field, with ever less contrast. It says where there is more
    rain and where less; how much there is, the newest frame says: its values are given out by rank, so the
    rain area at every threshold is kept. Then the field is carried to its lead, once.

    What comes from outside the grid or from where nothing was observed is not covered (NaN), as in
    extrapolation. Two frames give an autoregression of first order, one gives persistence; both say so.

    Convention: levels are of a power of Z, which is 0 without echo, not of dBZ. The cascade is not normalised
    by time, and all values are matched, not only those of rain above a threshold. Members would add to the
    sum of :meth:`nowcast.motion.cascade.Cascade.recomposed` spectra of noise whose level k has the variance
    that its autoregression leaves unexplained.

    References:
        Seed (2003), doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2.
        Bowler et al. (2006), STEPS, doi:10.1256/qj.04.100.
        Pulkkinen et al. (2019), Pysteps, doi:10.5194/gmd-12-4185-2019.
    """

    name = names.SPROG
    proven_by_first = True

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the smoothed and carried fields and their motion."""
        frames = cube.values
        if len(frames) < 2:
            return without_motion(cube, leads)
        motion = motion_field(frames[-FRAMES:])
        carried = carried_to_issue(frames[-1 - ORDER :], motion)
        fields = carried_forward(islice(faded(carried), leads), motion)
        shortfalls = () if len(carried) > ORDER else ("without tendency, as two frames show none",)
        return Prediction(map(Lead, fields), motion.dense(), shortfalls)


def faded(carried: Array) -> Iterator[Array]:
    """Yield, for each lead without end, what is known of the field [dBZ] ``(y, x)`` in the moving air.

    Args:
        carried: Frames ``(t, y, x)`` [dBZ] carried to the issue time, of which the last three count.
    """
    cascade = Cascade([strength(frame) for frame in carried[-1 - ORDER :]])
    ranked = Ranked(carried[-1])
    yield from map(ranked.in_order_of, cascade.continued())


def strength(frame: Array) -> Array:
    """Return ``Z ** EXPONENT``, 0 for no echo and for what was not observed."""
    power = np.exp(frame * np.float32(EXPONENT / DBZ_PER_LOG))
    return np.where(frame > NO_ECHO_DBZ, power, np.float32(0))


class Ranked:
    """The values of a frame [dBZ], to be given out in another order."""

    def __init__(self, frame: Array) -> None:
        self._observed = ~np.isnan(frame)
        self._echo = np.sort(frame[frame > NO_ECHO_DBZ])
        self._dry_cells = int(self._observed.sum()) - len(self._echo)

    def in_order_of(self, field: Array) -> Array:
        """Return a field ``(y, x)`` of the frame's values, the largest where ``field`` is largest.

        NaN where the frame is. Values closer than a rank of :data:`RANKS` share one value of the frame.
        """
        known = field[self._observed]
        arranged = np.full(field.shape, np.nan, np.float32)
        if len(self._echo) == 0:
            arranged[self._observed] = NO_ECHO_DBZ
            return arranged
        low, high = known.min(), known.max()
        ranks = ((known - low) * ((RANKS - 1) / max(high - low, np.float32(1e-9)))).astype(np.uint16)
        cells = np.bincount(ranks, minlength=RANKS)
        middle = np.cumsum(cells) - cells // 2 - 1 - self._dry_cells
        values = np.where(middle < 0, np.float32(NO_ECHO_DBZ), self._echo[np.maximum(middle, 0)])
        arranged[self._observed] = values[ranks]
        return arranged
