"""The scores there are: one entry each, over which files, answers, metrics, tables and the page iterate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from nowcast.scores.contingency import Contingency

if TYPE_CHECKING:  # whoever asks only which scores there are needs no arrays
    from nowcast.scores.tally import Tally


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a score is, whatever it is made of; where it is undefined it is ``None``.

    All scores stand in ``scores.json`` and in the API's verification. With a hits, b false alarms, c misses,
    d correct negatives, n of all, H = a / (a + c), F = b / (b + d), f and o forecast and truth.

    Attributes:
        name: Its key in files, answers and metrics.
        label: Short name for people.
        long_name: Whole name.
        formula: How it is made.
        low: Least value it can have.
        high: Largest value it can have.
        perfect: Value of a perfect forecast.
        better: Which of two values is better: the larger, the smaller, or the one nearer to ``perfect``.
        metric: Whether it is exported as the metric ``nowcast_skill``, and stands in a forecast's record.
        page: Whether the web page offers it.
    """

    name: str
    label: str
    long_name: str
    formula: str
    low: float = 0.0
    high: float = 1.0
    perfect: float = 1.0
    better: Literal["larger", "smaller", "nearer"] = "larger"
    metric: bool = False
    page: bool = False

    @property
    def span(self) -> str:
        """The values it can have, in words."""
        low = "-1/3" if self.low == -1 / 3 else f"{self.low:g}"
        return f"{low} to {self.high:g}" if math.isfinite(self.high) else f"{low} or more"

    def __str__(self) -> str:
        """Return in a line what it is, how it is made, and how to read it."""
        sense = "nearer 1" if self.better == "nearer" else self.better
        return f"{self.long_name}, {self.formula}; {self.span}, {sense} is better"

    def facts(self) -> dict[str, Any]:
        """Return what it is as plain data; a bound that is infinite is ``None``."""
        facts = {name: value for name, value in asdict(self).items() if name not in ("of", "metric")}
        return {**facts, "high": self.high if math.isfinite(self.high) else None}


@dataclass(frozen=True, kw_only=True)
class EventScore(Score):
    """A score of events at one threshold, made by ``of`` from their counts."""

    of: Callable[[Contingency], float | None]


@dataclass(frozen=True, kw_only=True)
class FieldScore(Score):
    """A score of whole fields, whatever the threshold, made by ``of`` from sums over pixels."""

    of: Callable[[Tally], float | None]


@dataclass(frozen=True, kw_only=True)
class WindowScore(Score):
    """A score of events within windows, made by ``of`` from sums, a threshold [dBZ] and a width [km]."""

    of: Callable[[Tally, float, float], float | None]


#: Every score, in the order it is shown. A new one is one entry here, and shown everywhere.
SCORES: tuple[Score, ...] = (
    EventScore(
        name="csi",
        label="CSI",
        long_name="critical success index",
        formula="a / (a + b + c)",
        metric=True,
        page=True,
        of=lambda counts: counts.csi,
    ),
    EventScore(
        name="far",
        label="FAR",
        long_name="false alarm ratio",
        formula="b / (a + b)",
        perfect=0.0,
        better="smaller",
        metric=True,
        page=True,
        of=lambda counts: counts.far,
    ),
    EventScore(
        name="pod",
        label="POD",
        long_name="probability of detection",
        formula="a / (a + c)",
        metric=True,
        page=True,
        of=lambda counts: counts.pod,
    ),
    EventScore(
        name="bias",
        label="Bias",
        long_name="frequency bias",
        formula="(a + b) / (a + c)",
        high=math.inf,
        better="nearer",
        page=True,
        of=lambda counts: counts.bias,
    ),
    EventScore(
        name="hss",
        label="HSS",
        long_name="Heidke skill score",
        formula="2 (a d - b c) / [(a + c)(c + d) + (a + b)(b + d)]",
        low=-1.0,
        page=True,
        of=lambda counts: counts.hss,
    ),
    EventScore(
        name="ets",
        label="ETS",
        long_name="equitable threat score (Gilbert skill score)",
        formula="(a - r) / (a + b + c - r), r = (a + b)(a + c) / n",
        low=-1 / 3,
        metric=True,
        page=True,
        of=lambda counts: counts.ets,
    ),
    EventScore(
        name="sedi",
        label="SEDI",
        long_name="symmetric extremal dependence index",
        formula="[ln F - ln H - ln(1 - F) + ln(1 - H)] / [ln F + ln H + ln(1 - F) + ln(1 - H)], "
        "null where H or F is 0 or 1",
        low=-1.0,
        metric=True,
        page=True,
        of=lambda counts: counts.sedi,
    ),
    EventScore(
        name="cor_bin",
        label="Event correlation",
        long_name="correlation without mean of the event masks",
        formula="a / sqrt[(a + b)(a + c)]",
        of=lambda counts: counts.cor_bin,
    ),
    FieldScore(
        name="mae_dbz",
        label="MAE [dBZ]",
        long_name="mean absolute error [dBZ] over all observed cells",
        formula="mean abs(f - o)",
        high=math.inf,
        perfect=0.0,
        better="smaller",
        page=True,
        of=lambda tally: tally.mae(),
    ),
    FieldScore(
        name="mse_dbz2",
        label="MSE [dBZ²]",
        long_name="mean squared error [dBZ²] over all observed cells",
        formula="mean (f - o)²",
        high=math.inf,
        perfect=0.0,
        better="smaller",
        of=lambda tally: tally.mse(),
    ),
    FieldScore(
        name="cor_real",
        label="Correlation without mean",
        long_name="correlation without mean of dBZ + 10",
        formula="sum(f o) / sqrt[sum(f²) sum(o²)]",
        of=lambda tally: tally.cor_real(),
    ),
    FieldScore(
        name="pearson_r",
        label="Correlation",
        long_name="Pearson's correlation of dBZ",
        formula="cov(f, o) / sqrt[var(f) var(o)]",
        low=-1.0,
        of=lambda tally: tally.pearson_r(),
    ),
    WindowScore(
        name="fss",
        label="FSS",
        long_name="fractions skill score in a square window",
        formula="1 - sum (Pf - Po)² / [sum Pf² + sum Po²], Pf and Po the shares of events in a window",
        of=lambda tally, threshold_dbz, window_km: tally.fss(threshold_dbz, window_km),
    ),
)


def event_scores() -> list[EventScore]:
    """Return the scores of events at a threshold."""
    return [score for score in SCORES if isinstance(score, EventScore)]


def field_scores() -> list[FieldScore]:
    """Return the scores of whole fields."""
    return [score for score in SCORES if isinstance(score, FieldScore)]


def window_scores() -> list[WindowScore]:
    """Return the scores of events within windows."""
    return [score for score in SCORES if isinstance(score, WindowScore)]


def recorded_scores() -> list[EventScore]:
    """Return the scores that are exported as metrics and stand in a forecast's record."""
    return [score for score in event_scores() if score.metric]
