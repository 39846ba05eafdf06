"""Counts of hits and misses at one threshold, and the ratios made of them, in plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Contingency:
    r"""Counts of pixels at one threshold, and the ratios made of them; a ratio of 0 to 0 is ``None``.

    With a hits, b false alarms, c misses, d correct negatives, n of all; formulas stand with each score in
    :mod:`nowcast.scores.table`, and are those of Wilks (2011), Statistical Methods in the Atmospheric
    Sciences, section 8.2. With :math:`H = a / (a + c)` and :math:`F = b / (b + d)`,

    .. math::
        \mathrm{SEDI} = \frac{\ln F - \ln H - \ln(1 - F) + \ln(1 - H)}
                             {\ln F + \ln H + \ln(1 - F) + \ln(1 - H)}

    Convention: SEDI is ``None`` where H or F is 0, 1 or undefined, so also for a perfect forecast: a
    logarithm is infinite there, and the limit of the quotient depends on how the counts came near.

    Example:
        >>> Contingency(hits=2, misses=1, false_alarms=1, correct_negatives=6).csi
        0.5

    References:
        Ferro and Stephenson (2011), Extremal Dependence Indices: Improved Verification Measures for
        Deterministic Forecasts of Rare Binary Events, doi:10.1175/WAF-D-10-05030.1.
    """

    hits: int
    misses: int
    false_alarms: int
    correct_negatives: int

    @property
    def csi(self) -> float | None:
        """Critical success index, 0 to 1."""
        return ratio(self.hits, self.hits + self.misses + self.false_alarms)

    @property
    def far(self) -> float | None:
        """False alarm ratio, 0 to 1, smaller is better."""
        return ratio(self.false_alarms, self.hits + self.false_alarms)

    @property
    def pod(self) -> float | None:
        """Probability of detection, 0 to 1."""
        return ratio(self.hits, self.hits + self.misses)

    @property
    def bias(self) -> float | None:
        """Frequency bias; 1 where as much is forecast as is observed."""
        return ratio(self.hits + self.false_alarms, self.hits + self.misses)

    @property
    def hss(self) -> float | None:
        """Heidke skill score, -1 to 1; 0 is chance."""
        a, b, c, d = self.hits, self.false_alarms, self.misses, self.correct_negatives
        return ratio(2 * (a * d - b * c), (a + c) * (c + d) + (a + b) * (b + d))

    @property
    def ets(self) -> float | None:
        """Equitable threat score, also Gilbert skill score: CSI beyond chance, -1/3 to 1."""
        a, b, c, d = self.hits, self.false_alarms, self.misses, self.correct_negatives
        n, chance = a + b + c + d, (a + b) * (a + c)  # n times the hits of chance
        return ratio(a * n - chance, (a + b + c) * n - chance)

    @property
    def sedi(self) -> float | None:
        """Symmetric extremal dependence index, -1 to 1; 0 is chance, however rare the event."""
        a, b, c, d = self.hits, self.false_alarms, self.misses, self.correct_negatives
        if not min(a, b, c, d):
            return None
        f, not_f = math.log(b / (b + d)), math.log(d / (b + d))
        h, not_h = math.log(a / (a + c)), math.log(c / (a + c))
        return (f - h - not_f + not_h) / (f + h + not_f + not_h)

    @property
    def cor_bin(self) -> float | None:
        """Correlation without mean of the two event masks, 0 to 1."""
        events = (self.hits + self.false_alarms) * (self.hits + self.misses)
        return ratio(self.hits, math.sqrt(events))


def ratio(numerator: float, denominator: float) -> float | None:
    """Return a quotient, ``None`` where the denominator is 0."""
    return numerator / denominator if denominator else None
