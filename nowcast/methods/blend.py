"""A forecast that examines itself: simple rules, mixed as they proved right within the last hour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nowcast import names
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.frame.units import NO_ECHO_DBZ
from nowcast.methods.cube import Cube
from nowcast.methods.extrapolation import without_motion
from nowcast.methods.method import Method
from nowcast.methods.sprog import EXPONENT, ORDER, strength
from nowcast.motion.cascade import Cascade
from nowcast.motion.flow import FRAMES, motion_field
from nowcast.motion.lagrangian import carried_to_issue
from nowcast.motion.probability_matching import in_order_of
from nowcast.motion.trajectory import Carrier, Trajectory, VectorField

Array = NDArray[np.float32]

#: What may be mixed into the faded field, in the order of all weights.
RULES = ("in place", "along older motion", "along smooth motion", "unfaded")

#: How long before the issue time [min] the forecasts were due to start whose success decides the weights.
EXAMINED_MINUTES = (15.0, 30.0, 45.0)

#: Weights that a forecast of an hour has when nothing is known of an event, and how firmly each is believed:
#: as a share of the variance of the field. Set on events of eleven radars together.
PRIOR = np.array([0.15, 0.1, 0.1, 0.0])
FIRMNESS = np.array([0.001, 0.01, 0.01, 0.01])

#: Bounds of every weight.
LEAST_WEIGHT, LARGEST_WEIGHT = -0.5, 1.0

#: Lead [min] up to which weights grow in proportion, and what is left of that growth beyond.
GROWING_MINUTES, SLOWER = 30.0, 0.4

#: Grids with a shorter side [cells] are examined cell by cell, others by squares of 2 x 2.
LEAST_SIDE = 512

#: Standard deviation [nodes] of the Gaussian that smooths the smooth motion.
SMOOTH_NODES = 12.0


#: Share of a carried cell that must have been observed: a hair less than for the extrapolated frame, which
#: decides about coverage: OpenCV may round positions to a 32nd of a cell.
LEAST_OBSERVED = 0.46


class Blend(Method):
    r"""S-PROG's field, mixed with what other simple rules expect, by how right each was within the last hour.

    In :math:`Z^{0.3}`, with :math:`F_0` what S-PROG leaves of the field, carried to its lead,

    .. math:: F = F_0 + \sum_i h(\tau)\, w_i (F_i - F_0)

    mixes in the newest frame in place, the faded field carried along a motion measured over longer intervals
    and along a smoother one, and the newest frame carried without fading. The weights are those with which
    forecasts that started 15, 30 and 45 minutes ago come closest to the frames that followed, by least
    squares, held to a prior by a ridge; :math:`h` grows with the lead, slower beyond half an hour. What the
    mixture says of an order, the extrapolated frame says of values, as with S-PROG: so rain areas are kept.

    What comes from outside the grid or from where nothing was observed is not covered (NaN).

    Convention: a cell that a rule knows nothing of has what S-PROG says there. Weights may be negative: a
    rule can be known to be wrong.

    References:
        Breiman (1996), Stacked Regressions, doi:10.1007/BF00117832. Hoerl and Kennard (1970), Ridge
        Regression, doi:10.1080/00401706.1970.10488634. Seed (2003), see :class:`nowcast.methods.sprog.SPROG`.
    """

    name = names.BLEND
    frames = 13  # an hour of five minutes, so that the forecasts of 45 minutes ago have motion to start from
    proven_by_first = True

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the mixed fields and the motion of the newest frames."""
        frames = cube.values
        if len(frames) < 2:
            return without_motion(cube, leads)
        motion, weights, fields = blended(frames, cube.step_minutes, range(1, leads + 1))
        shortfalls = () if len(frames) > ORDER else ("without tendency, as two frames show none",)
        return Prediction(map(Lead, fields), motion.dense(), shortfalls, base_weights=weights)


class Blended(NamedTuple):
    """What is mixed from the frames up to an issue time.

    Attributes:
        motion: Motion [cells per step] at the newest frame.
        weights: Weight of each of :data:`RULES` in a forecast of an hour.
        fields: The field [dBZ] of each lead that was asked for.
    """

    motion: VectorField
    weights: dict[str, float]
    fields: Iterator[Array]


def blended(frames: Array, step_minutes: float, leads: Iterable[int]) -> Blended:
    """Return the mixed fields that follow frames ``(t, y, x)`` [dBZ], two or more, one step apart.

    Args:
        frames: The frames; an hour of them is examined.
        step_minutes: The step.
        leads: Leads in steps, ascending.
    """
    rules, weights = Rules(frames), examined(frames, step_minutes)
    told = {rule: round(weight, 2) for rule, weight in zip(RULES, weights.tolist(), strict=True)}
    return Blended(rules.motion, told, _mixed(rules, weights, step_minutes, leads))


class Rules:
    """What S-PROG and each of :data:`RULES` expect after the newest of frames ``(t, y, x)`` [dBZ].

    Attributes:
        motion: Motion [cells per step] at the newest frame.
        newest: The newest frame [dBZ].
    """

    def __init__(self, frames: Array) -> None:
        self.newest: Array = frames[-1]
        self.motion = motion_field(frames[-FRAMES:])
        carried = carried_to_issue(frames[-1 - ORDER :], self.motion)
        self._faded = Cascade([strength(frame) for frame in carried]).continued()
        self._main = Trajectory(self.motion)
        self._others = [Trajectory(_older_motion(frames)), Trajectory(_smoothed(self.motion))]
        self._strength = strength(self.newest)
        self._observed = (~np.isnan(self.newest)).astype(np.float32)
        self._lead = 0

    def expected(self, lead: int) -> Array:
        """Return ``(1 + rule, y, x)`` of :math:`Z^{0.3}` at a lead, NaN where the air is not known.

        Leads must ascend.
        """
        while self._lead < lead:
            faded = next(self._faded)
            self._lead += 1
        main, unfaded = _carried([faded, self._strength], self._observed, self._main.displacement(lead))
        elsewhere = [_carried([faded], self._observed, other.displacement(lead))[0] for other in self._others]
        in_place = np.where(self._observed > 0, self._strength, np.float32(np.nan))
        rules = (np.where(np.isnan(rule), main, rule) for rule in (in_place, *elsewhere))
        return np.stack([main, *rules, unfaded])

    def extrapolated(self, lead: int) -> Array:
        """Return the newest frame [dBZ] carried to a lead."""
        return Carrier(self.newest).carry(self._main.displacement(lead))


def examined(frames: Array, step_minutes: float) -> NDArray[np.float64]:
    """Return the weights of :data:`RULES` that were right for frames ``(t, y, x)`` [dBZ], for an hour.

    Forecasts from earlier issue times are compared with the frames that followed them, as far as there are
    two frames to start from and one to compare with.
    """
    seen = _halved(frames) if min(frames.shape[1:]) >= LEAST_SIDE else frames
    backs = sorted({max(round(minutes / step_minutes), 1) for minutes in EXAMINED_MINUTES})
    covariance, error = np.zeros((len(RULES),) * 2), np.zeros(len(RULES))
    variances: list[float] = []
    for back in (back for back in backs if back + 2 <= len(seen)):
        rules = Rules(seen[:-back])
        for lead in (lead for lead in backs if lead <= back):
            truth, expected = strength(seen[lead - back - 1]), rules.expected(lead)
            known = ~np.isnan(expected[0]) & ~np.isnan(seen[lead - back - 1])
            if not known.any():
                continue
            main, *others = expected[:, known]
            differences = np.stack(others) - main
            grown, count = growth(lead * step_minutes), int(known.sum())
            covariance += (differences @ differences.T).astype(np.float64) * (grown**2 / count)
            error += (differences @ (truth[known] - main)).astype(np.float64) * (grown / count)
            variances.append(float(truth[known].var()))
    if not variances or not any(variances):
        return PRIOR.copy()
    ridge = np.diag(FIRMNESS * float(np.mean(variances)))
    weights = np.linalg.solve(covariance / len(variances) + ridge, error / len(variances) + ridge @ PRIOR)
    return np.asarray(np.clip(weights, LEAST_WEIGHT, LARGEST_WEIGHT), np.float64)


def growth(minutes: float) -> float:
    """Return the share of the weights of an hour that a lead [min] has."""
    beyond = max(minutes - GROWING_MINUTES, 0.0)
    return (min(minutes, GROWING_MINUTES) + SLOWER * beyond) / 60.0


def _mixed(
    rules: Rules, weights: NDArray[np.float64], step_minutes: float, leads: Iterable[int]
) -> Iterator[Array]:
    for lead in leads:
        shares = growth(lead * step_minutes) * weights
        factors = np.concatenate([[1.0 - shares.sum()], shares]).astype(np.float32)
        mixture = np.tensordot(factors, rules.expected(lead), axes=1)
        yield in_order_of(mixture, rules.extrapolated(lead))


def _carried(planes: Sequence[Array], observed: Array, displacement: VectorField) -> Array:
    """Return planes ``(k, y, x)`` carried along a displacement, NaN where too little is observed."""
    rows, columns = displacement.dense()
    rows += np.arange(rows.shape[0], dtype=np.float32)[:, None]
    columns += np.arange(columns.shape[1], dtype=np.float32)
    *carried, weight = cv2.split(
        cv2.remap(cv2.merge([*planes, observed]), columns, rows, cv2.INTER_LINEAR, borderValue=0)
    )
    unknown = weight < LEAST_OBSERVED
    weight = np.maximum(weight, np.float32(LEAST_OBSERVED))
    known = np.asarray(carried, np.float32) / weight
    known[:, unknown] = np.nan
    return known


def _older_motion(frames: Array) -> VectorField:
    """Return the motion [cells per step] over intervals of two steps, or of the last one if there are few."""
    if len(frames) < 2 * FRAMES - 1:
        return motion_field(frames[-2:])
    return motion_field(frames[1 - 2 * FRAMES :: 2]).scaled(0.5)


def _smoothed(motion: VectorField) -> VectorField:
    nodes = [
        cv2.GaussianBlur(layer, (0, 0), SMOOTH_NODES, borderType=cv2.BORDER_REPLICATE)
        for layer in motion.nodes
    ]
    return VectorField(np.asarray(nodes, np.float32), motion.spacing, motion.shape)


def _halved(frames: Array) -> Array:
    """Return frames [dBZ] of squares of 2 x 2 cells: the mean of :math:`Z^{0.3}` of what is observed."""
    halved = np.empty((len(frames), frames.shape[1] // 2, frames.shape[2] // 2), np.float32)
    size = (halved.shape[2], halved.shape[1])
    for frame, small in zip(frames, halved, strict=True):
        whole = frame[: 2 * size[1], : 2 * size[0]]
        mean = cv2.resize(strength(whole), size, interpolation=cv2.INTER_AREA)
        seen = cv2.resize((~np.isnan(whole)).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        echo = np.maximum(mean / np.maximum(seen, np.float32(0.25)), np.float32(1e-6))
        small[...] = np.maximum(np.log10(echo) * np.float32(10 / EXPONENT), np.float32(NO_ECHO_DBZ))
        small[seen < 0.5] = np.nan
    return halved
