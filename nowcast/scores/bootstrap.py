"""Whether one method beats another on forecasts both made: a paired block bootstrap of the mean CSI."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nowcast.disk.dates import iso
from nowcast.errors import InputError
from nowcast.scores.judged import JUDGED_DBZ, mean_csi_of
from nowcast.scores.skillfile import IssueLead, Scored, entries

#: Resamples behind an interval.
RESAMPLES = 2000

#: Chance that an interval holds the true difference.
CONFIDENCE = 0.95

#: Blocks below which nothing is concluded: with 5, all favour the same method by chance 1 time in 32, more
#: often than the 2.5 % an interval may err on one side.
LEAST_BLOCKS = 6

#: Length of a block within an event, where events are too few to be the blocks. Measured on 6 to 24 h of
#: rain at Brisbane, Darwin and in the Netherlands, extrapolation against persistence over an hour's leads:
#: what an issue time adds to the difference hardly resembles what it added 50 min before (correlation below
#: 0.1; at Darwin 0.4). Of samples of 4 to 12 h without a true difference, 4 to 7 in 100 intervals lie above 0
#: with blocks of half an hour, 1 to 3 with blocks of an hour. (Far more lie below, which only refuses.)
BLOCK = timedelta(hours=1)

#: Seed of the resamples: the same files always give the same interval.
SEED = 1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How much better a candidate was than another method, on the forecasts both made.

    Attributes:
        score: Mean CSI of the candidate, 0 to 1, as :func:`nowcast.scores.judged.mean_csi_of` defines it.
        other: Mean CSI of the other method.
        low: Lower end of the interval of ``score - other``.
        high: Upper end.
        blocks: Number of blocks that were resampled.
        by_event: Whether a block is an event, or else about :data:`BLOCK` of one.
        issue_times: Number of issue times compared.
        leads: Number of leads compared.
    """

    score: float
    other: float
    low: float
    high: float
    blocks: int
    by_event: bool
    issue_times: int
    leads: int

    @property
    def is_better(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    def __str__(self) -> str:
        """Return the comparison in one line."""
        blocks = "events" if self.by_event else "blocks of an hour"
        return (
            f"mean CSI {self.score:.3f} against {self.other:.3f}, {CONFIDENCE * 100:g} % interval of the "
            f"difference {self.low:+.4f} to {self.high:+.4f} ({self.blocks} {blocks}, "
            f"{self.issue_times} issue times, {self.leads} leads)"
        )


def compare(candidate: Scored, other: Scored) -> Comparison:
    r"""Return the difference of mean CSI of two methods with its interval, by resampling blocks.

    Blocks are drawn with replacement, as many as there are, each with what *both* methods scored in it;
    counts of the drawn blocks are added before any ratio is taken. What is drawn has to be independent
    (Hamill 1999 takes days): events are, so they are the blocks if there are :data:`LEAST_BLOCKS`. If not,
    blocks are runs of issue times within events, long enough to outlast their correlation (Carlstein 1986;
    Kuensch 1989 on the length); such an interval speaks for these events more than for rain at large.

    Convention: percentiles of ``n`` blocks make too narrow an interval, by :math:`\sqrt{(n - 1)/n}` and by
    the normal for Student's distribution. The tails are therefore cut at
    :math:`\Phi(-\sqrt{n/(n - 1)}\, t_{n - 1})` (Hesterberg 2015, the expanded percentile interval): with 6
    blocks of simulated counts 93 of 100 intervals then hold the truth, and 84 without.

    Raises:
        InputError: If there is too little that both were scored on, or not against the same truth.

    References:
        Hamill (1999), Hypothesis tests for evaluating numerical precipitation forecasts, Weather and
        Forecasting 14, 155-167. Carlstein (1986), Annals of Statistics 14, 1171-1179. Kuensch (1989), Annals
        of Statistics 17, 1217-1241. Hesterberg (2015), What teachers should know about the bootstrap, The
        American Statistician 69, 371-386.
    """
    mine, others = dict(entries(candidate)), dict(entries(other))
    keys = sorted(mine.keys() & others.keys())
    if not keys:
        raise InputError("expected issue times and leads that both were scored on, got none")
    counts = np.stack([_counts(scored, keys) for scored in (candidate, other)], axis=1)
    _check_same_truth(keys, counts, [mine[key].pixels == others[key].pixels for key in keys])
    block, by_event = _blocks(keys)
    blocks = 1 + int(block.max())
    if blocks < LEAST_BLOCKS:
        raise InputError(
            f"expected scores of at least {LEAST_BLOCKS} events, or of {LEAST_BLOCKS} blocks of an hour, to "
            f"conclude anything; got {blocks}"
        )
    leads = sorted({lead for _, _, lead in keys})
    sums = np.zeros((blocks, len(leads), *counts.shape[1:]))
    np.add.at(sums, (block, np.array([leads.index(lead) for _, _, lead in keys])), counts)
    sums = sums.swapaxes(1, 2)  # (block, method, lead, 3, threshold)
    score, rival = mean_csi_of(sums.sum(axis=0))
    if math.isnan(score):
        raise InputError(f"expected rain of {min(JUDGED_DBZ):g} dBZ or more in the truth, got none")
    low, high = interval(resampled(sums), blocks)
    issued = {key[:2] for key in keys}
    return Comparison(score, rival, low, high, blocks, by_event, len(issued), len(leads))


def resampled(sums: Array, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """Return the difference of mean CSI ``(r,)`` in each of ``r`` resamples.

    A resample without rain says nothing, and counts as no difference.

    Args:
        sums: Hits, misses and false alarms ``(block, method, lead, 3, threshold)`` of two methods.
        resamples: ``r``.
        seed: Of the draws.
    """
    blocks = len(sums)
    drawn = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)
    score, rival = mean_csi_of(np.tensordot(drawn.astype(np.float64), sums, axes=1)).T
    difference: Array = score - rival
    return np.where(np.isnan(difference), 0.0, difference)


def interval(differences: Array, blocks: int) -> tuple[float, float]:
    """Return the ends of the expanded percentile interval of resampled differences."""
    tail = NormalDist().cdf(-math.sqrt(blocks / (blocks - 1)) * student_quantile(blocks - 1))
    low, high = np.quantile(differences, (tail, 1 - tail)).tolist()
    return low, high


def student_quantile(freedom: int, probability: float = (1 + CONFIDENCE) / 2) -> float:
    """Return a quantile of Student's distribution, within 0.003 from 5 degrees of freedom upward.

    Source: Abramowitz and Stegun (1972), Handbook of Mathematical Functions, 26.7.5.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term * float(freedom) ** -power for power, term in enumerate(terms))


def _counts(scored: Scored, keys: Iterable[IssueLead]) -> NDArray[np.int64]:
    """Return hits, misses and false alarms ``(key, 3, threshold)`` at the thresholds judged by."""
    rows = []
    for event, issued, lead in keys:
        tally = scored[event][issued][lead]
        if not set(JUDGED_DBZ) <= set(tally.thresholds_dbz):
            raise InputError(f"expected scores at {JUDGED_DBZ} dBZ, got those at {tally.thresholds_dbz}")
        rows.append(tally.counts[:, [tally.thresholds_dbz.index(threshold) for threshold in JUDGED_DBZ]])
    return np.stack(rows)


def _check_same_truth(keys: list[IssueLead], counts: NDArray[np.int64], same_pixels: list[bool]) -> None:
    """Raise ``InputError`` unless both methods met the same pixels, and as many events in them."""
    events = counts[:, :, 0] + counts[:, :, 1]
    same = np.all(events[:, 0] == events[:, 1], axis=-1) & same_pixels
    if not same.all():
        event, issued, lead = keys[int(np.argmin(same))]
        where = f"{event}, {iso(issued)}, {lead} min"
        raise InputError(f"expected both to be scored against the same truth, got two of {where}")


def _blocks(keys: list[IssueLead]) -> tuple[NDArray[np.intp], bool]:
    """Return the number of the block each key belongs to, and whether blocks are events."""
    times: dict[str, list[datetime]] = {}
    for event, issued, _ in keys:
        times.setdefault(event, []).append(issued)
    of_event = {event: number for number, event in enumerate(times)}
    if len(times) >= LEAST_BLOCKS:
        return np.array([of_event[event] for event, _, _ in keys]), True
    block_of: dict[tuple[str, datetime], int] = {}
    first = 0
    for event, every in times.items():
        issued_at = sorted(set(every))
        number = max(1, round((issued_at[-1] - issued_at[0]) / BLOCK))
        for place, issued in enumerate(issued_at):
            block_of[event, issued] = first + place * number // len(issued_at)
        first += number
    return np.array([block_of[event, issued] for event, issued, _ in keys]), False
