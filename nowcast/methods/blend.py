"""A forecast that examines itself: simple rules, mixed as they proved right within the last hour."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
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
from nowcast.motion.cascade import Cascade, autoregression, iterated
from nowcast.motion.flow import FRAMES, motion_field, motions
from nowcast.motion.lagrangian import carried_to_issue
from nowcast.motion.probability_matching import in_order_of
from nowcast.motion.trajectory import DBZ_PER_LOG, STRIP_ROWS, Trajectory, VectorField, mean_dbz, to_z

Array = NDArray[np.float32]

#: What may be mixed into the faded field, in the order of all weights.
RULES = ("in place", "along older motion", "along smooth motion", "unfaded")
IN_PLACE, OLDER, SMOOTH, _UNFADED = range(len(RULES))

#: How long ago [min] the forecasts for now were due to start whose success decides the weights.
EXAMINED_MINUTES = (30.0, 45.0)

#: Weights that a forecast of an hour has when nothing is known of an event, and how firmly each is believed:
#: as a share of the variance of the field. Chosen in nearly every case where one event of twelve radars was
#: left out (docs/decisions/0025-the-last-hour-decides.md).
PRIOR = np.array([0.15, 0.2, 0.2, 0.0])
FIRMNESS = np.array([0.004, 0.04, 0.04, 0.04])

#: Bounds of every weight.
LEAST_WEIGHT, LARGEST_WEIGHT = -0.5, 1.0

#: Lead [min] up to which weights grow in proportion, and what is left of that growth beyond.
GROWING_MINUTES, SLOWER = 30.0, 0.4

#: Grids with a shorter side [cells] are examined cell by cell, others by squares of 2 x 2.
LEAST_SIDE = 512

#: Standard deviation [nodes] of the Gaussian that smooths the smooth motion.
SMOOTH_NODES = 12.0


class Blend(Method):
    r"""S-PROG's field, mixed with what other simple rules expect, by how right each was within the last hour.

    In :math:`Z^{0.3}`, with :math:`F_0` what S-PROG leaves of the field, carried to its lead,

    .. math:: F = F_0 + \sum_i h(\tau)\, w_i (F_i - F_0)

    mixes in the newest frame in place, the faded field carried along a motion measured over longer intervals
    and along a smoother one, and the newest frame carried without fading. The weights are those with which
    forecasts for now that started 30 and 45 minutes ago come closest to the newest frame, by least squares,
    held to a prior by a ridge; :math:`h` grows with the lead, slower beyond half an hour. What the
    mixture says of an order, the extrapolated frame says of values, as with S-PROG: so rain areas are kept.

    What comes from outside the grid or from where nothing was observed is not covered (NaN).

    Convention: a cell that a rule knows nothing of has what S-PROG says there. Weights may be negative: a
    rule can be known to be wrong.

    References:
        Breiman (1996), Stacked Regressions, doi:10.1007/BF00117832. Hoerl and Kennard (1970), Ridge
        Regression, doi:10.1080/00401706.1970.10488634. Seed (2003), see :class:`nowcast.methods.sprog.SPROG`.
    """

    name = names.BLEND
    version = "2"
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
    rules, weights = Rules(frames), examined(frames, step_minutes).round(2)
    told = dict(zip(RULES, weights.tolist(), strict=True))
    return Blended(rules.motion, told, _mixed(rules, weights, step_minutes, leads))


class Strip(NamedTuple):
    """What the rules expect of some rows of the grid, as :math:`Z^{0.3}` if not said otherwise.

    Attributes:
        rows: Which rows.
        main: What S-PROG expects ``(rows, x)``, NaN where the air is not known.
        beyond: How far each rule asked for is from that, 0 where the rule knows nothing.
        z: Z [mm^6 m^-3] of the newest frame, carried along as all is.
        weight: Share of a cell that was observed.
    """

    rows: slice
    main: Array
    beyond: list[Array]
    z: Array
    weight: Array


class Rules:
    """What S-PROG and each of :data:`RULES` expect after the newest of frames ``(t, y, x)`` [dBZ].

    Attributes:
        motion: Motion [cells per step] at the newest frame.
        shape: Rows and columns.
    """

    def __init__(self, frames: Array) -> None:
        newest, self.shape = frames[-1], frames[-1].shape
        self.motion, older = _motions(frames)
        carried = carried_to_issue(frames[-1 - ORDER :], self.motion)
        self._cascade = Cascade([strength(frame) for frame in carried])
        self._factors = enumerate(iterated(autoregression(self._cascade.autocorrelations())), start=1)
        self._main = Trajectory(self.motion)
        self._others = {OLDER: Trajectory(older), SMOOTH: Trajectory(_smoothed(self.motion))}
        self._unknown = np.isnan(newest)
        # Faded and unfaded strength, Z and weight of each cell, to be carried together.
        unfaded = strength(newest)
        weight = (~self._unknown).astype(np.float32)
        self._source = np.stack([unfaded, unfaded, to_z(newest), weight], axis=-1)
        self._in_place = np.where(self._unknown, np.float32(np.nan), unfaded)

    def expected(self, lead: int, rules: Collection[int] = range(len(RULES))) -> Iterator[Strip]:
        """Yield what is expected at a lead, from north to south.

        Args:
            lead: Steps after the newest frame; leads must ascend.
            rules: Indices of the rules in question, ascending.
        """
        faded = self._cascade.recomposed(next(factors for step, factors in self._factors if step == lead))
        self._source[..., 0] = faded
        faded[self._unknown] = np.nan
        displacement = self._main.displacement(lead)
        paths = {rule: path.displacement(lead) for rule, path in self._others.items() if rule in rules}
        elsewhere = self._elsewhere(faded, displacement, paths)
        for first in range(0, self.shape[0], STRIP_ROWS):
            carried = _fetched(self._source, _places(displacement, first), 0.0)
            main, unfaded, z, weight = np.asarray(cv2.split(carried), np.float32)
            rows = slice(first, first + len(main))
            share = np.where(weight < 0.5, np.float32(np.nan), weight)
            main /= share
            beyond = []
            for rule in rules:
                if rule in elsewhere:
                    beyond.append(elsewhere[rule][rows])
                else:
                    beyond.append(
                        _known((self._in_place[rows] if rule == IN_PLACE else unfaded / share) - main)
                    )
            yield Strip(rows, main, beyond, z, weight)

    def _elsewhere(
        self, faded: Array, main: VectorField, paths: Mapping[int, VectorField]
    ) -> dict[int, Array]:
        """Return how far a field along other paths is from that along the main one, 0 where not known.

        On large grids both are carried as means of 2 x 2 cells: what they differ in is wide.
        """
        if not paths:
            return {}
        halve = min(self.shape) >= LEAST_SIDE
        rows, columns = (side // 2 * 2 for side in self.shape) if halve else self.shape
        if halve:
            size = (columns // 2, rows // 2)
            faded = np.asarray(cv2.resize(faded[:rows, :columns], size, interpolation=cv2.INTER_AREA))

        def along(path: VectorField) -> Array:
            if halve:
                path = VectorField(path.nodes / np.float32(2), path.spacing // 2, (rows // 2, columns // 2))
            return _fetched(faded, _places(path, 0, faded.shape[0]), np.nan)

        newest = along(main)
        beyond = {rule: _known(along(path) - newest) for rule, path in paths.items()}
        if not halve:
            return beyond
        below, right = self.shape[0] - rows, self.shape[1] - columns
        return {
            rule: np.pad(np.asarray(cv2.resize(small, (columns, rows))), ((0, below), (0, right)))
            for rule, small in beyond.items()
        }


def examined(frames: Array, step_minutes: float) -> NDArray[np.float64]:
    """Return the weights of :data:`RULES` that were right for frames ``(t, y, x)`` [dBZ], for an hour.

    Forecasts from earlier issue times are compared with the newest frame, as far as there are two frames to
    start from.
    """
    backs = [back for back in _examined_steps(step_minutes) if back + 2 <= len(frames)]
    if not backs:
        return PRIOR.copy()
    past, (newest,) = frames[: -backs[0]], frames[-1:]
    if min(newest.shape) >= LEAST_SIDE:
        past, (newest,) = _halved(past), _halved(frames[-1:])
    observed, truth = ~np.isnan(newest), strength(newest)
    sums, starts = np.zeros((len(RULES), len(RULES) + 1)), 0
    for back in backs:
        rules = Rules(past[: len(past) - (back - backs[0])])
        moments, count = _moments(rules.expected(back), truth, observed)
        if count:
            share = growth(back * step_minutes)
            moments[:, :-1] *= share
            sums += moments * (share / count)
            starts += 1
    variance = float(truth[observed].var()) if starts else 0.0
    if not variance:
        return PRIOR.copy()
    ridge = np.diag(FIRMNESS * variance)
    weights = np.linalg.solve(sums[:, :-1] / starts + ridge, sums[:, -1] / starts + ridge @ PRIOR)
    return np.asarray(np.clip(weights, LEAST_WEIGHT, LARGEST_WEIGHT), np.float64)


def _examined_steps(step_minutes: float) -> list[int]:
    return sorted({max(round(minutes / step_minutes), 1) for minutes in EXAMINED_MINUTES})


def _moments(
    strips: Iterable[Strip], truth: Array, observed: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], int]:
    """Return the sums of products of what rules say beyond S-PROG, and over how many cells.

    ``(rule, 1 + rule)``: with each other, and last with what S-PROG missed of the truth.
    """
    sums, count = np.zeros((len(RULES), len(RULES) + 1)), 0
    for strip in strips:
        known = ~np.isnan(strip.main) & observed[strip.rows]
        beyond = np.stack(strip.beyond)[:, known]
        missed = truth[strip.rows][known] - strip.main[known]
        sums += beyond @ np.vstack([beyond, missed]).T
        count += len(missed)
    return sums, count


def growth(minutes: float) -> float:
    """Return the share of the weights of an hour that a lead [min] has."""
    beyond = max(minutes - GROWING_MINUTES, 0.0)
    return (min(minutes, GROWING_MINUTES) + SLOWER * beyond) / 60.0


def _mixed(
    rules: Rules, weights: NDArray[np.float64], step_minutes: float, leads: Iterable[int]
) -> Iterator[Array]:
    having = np.flatnonzero(weights)
    for lead in leads:
        shares = growth(lead * step_minutes) * weights[having]
        mixture, extrapolated = np.empty((2, *rules.shape), np.float32)
        for strip in rules.expected(lead, having.tolist()):
            for share, beyond in zip(shares.tolist(), strip.beyond, strict=True):
                cv2.scaleAdd(beyond, share, strip.main, dst=strip.main)
            mixture[strip.rows], extrapolated[strip.rows] = strip.main, mean_dbz(strip.z, strip.weight)
        yield in_order_of(mixture, extrapolated)


def _known(difference: Array) -> Array:
    return np.asarray(cv2.patchNaNs(difference, 0.0), np.float32)


def _places(displacement: VectorField, first: int, count: int = STRIP_ROWS) -> tuple[Array, Array]:
    """Return rows and columns that the air of ``count`` rows, from ``first`` on, comes from."""
    rows, columns = displacement.dense(first, count)
    rows += np.arange(first, first + len(rows), dtype=np.float32)[:, None]
    columns += np.arange(columns.shape[1], dtype=np.float32)
    return rows, columns


def _fetched(source: Array, places: tuple[Array, Array], border: float) -> Array:
    """Return values of a source ``(y, x)`` or ``(y, x, k)`` at places, ``border`` beyond its edge."""
    rows, columns = places
    fetched = cv2.remap(source, columns, rows, cv2.INTER_LINEAR, borderValue=(border,) * 4)
    return np.asarray(fetched, np.float32)


def _motions(frames: Array) -> list[VectorField]:
    """Return the motion [cells per step] at the newest frame, and over intervals of two steps.

    If there are few frames, the second is that of the last interval.
    """
    if len(frames) < 2 * FRAMES - 1:
        return [motion_field(frames[-FRAMES:]), motion_field(frames[-2:])]
    return motions(frames, (1, 2))


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
        small[...] = np.maximum(np.log(echo) * np.float32(DBZ_PER_LOG / EXPONENT), np.float32(NO_ECHO_DBZ))
        small[seen < 0.5] = np.nan
    return halved
