"""The gate: which method is served at which lead, judged by what each scored on the same pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from nowcast.names import EXTRAPOLATION, NETWORKS
from nowcast.scores.judged import JUDGED_DBZ, csi_of
from nowcast.scores.scorefile import ModelLead, Pair
from nowcast.scores.tally import Tally

#: Hits, misses and false alarms ``(3, t)`` [pixels] at each of :data:`JUDGED_DBZ`, as in a
#: :class:`~nowcast.scores.tally.Tally`; a threshold nobody counted at has zeros.
Counts = NDArray[np.float64]

#: Counts ``(2, 3, t)`` of a method and of extrapolation over the same pixels, by method and lead [minutes].
Evidence = Mapping[ModelLead, Counts]

#: Mean CSI by which a method must beat the one that would be served without it.
MARGIN = 0.005

#: CSI that a method may lose to extrapolation at one threshold for what it gains at others.
MOST_LOSS = 0.01

#: Event pixels the prior is worth at most, at each lead: what 1 km composites of half a million cells bring
#: in about a day of rain (20,000 cells of 20 dBZ or more, a hindcast every half hour). From then on the
#: domain's own scores weigh more.
PRIOR_EVENTS = 1e6

#: Period of the domain's own scores that count.
PERIOD = timedelta(days=14)

#: Longest lead [minutes] a network is served at: none is trained on more, and prior scores end there.
NETWORK_MINUTES = 60


@dataclass(frozen=True)
class Choice:
    """What is served at one lead, and why.

    Attributes:
        lead_minutes: The lead time.
        ranking: Methods fit to be served, best first; the last is extrapolation, which always is.
        gains: Mean CSI above extrapolation's of every method that was compared with it.
    """

    lead_minutes: int
    ranking: tuple[str, ...] = (EXTRAPOLATION,)
    gains: Mapping[str, float] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method to serve."""
        return self.ranking[0]


Choices = tuple[Choice, ...]


def counts_of(tally: Tally) -> Counts:
    """Return a tally's counts at the thresholds the gate judges by, 0 at those the tally has not."""
    counts = np.zeros((3, len(JUDGED_DBZ)))
    for k, threshold in enumerate(JUDGED_DBZ):
        if threshold in tally.thresholds_dbz:
            counts[:, k] = tally.counts[:, tally.thresholds_dbz.index(threshold)]
    return counts


def evidence_of(pairs: Iterable[Pair]) -> Evidence:
    """Return the evidence in pairs of tallies, the second of which is extrapolation's."""
    evidence: dict[ModelLead, Counts] = {}
    for key, tally, reference in pairs:
        counts = np.stack([counts_of(tally), counts_of(reference)])
        evidence[key] = evidence.get(key, 0.0) + counts
    return evidence


def may_serve(method: str, lead_minutes: float) -> bool:
    """Return whether a method may be served at a lead at all."""
    return method not in NETWORKS or lead_minutes <= NETWORK_MINUTES


def review(prior: Evidence, days: Iterable[Evidence], lead_minutes: Sequence[int]) -> Choices:
    """Return the choices after the evidence of days has come in, one day after the other.

    Each day's choices start from those of the day before, so that a lead changes its method only for one that
    is better by :data:`MARGIN`. They are a function of the evidence alone: whoever asks gets the same.

    Args:
        prior: What was scored before any day.
        days: What was scored on each day, the oldest first.
        lead_minutes: The leads to choose for.
    """
    live: dict[ModelLead, Counts] = {}
    choices = choose(prior, live, lead_minutes)
    for day in days:
        for key, counts in day.items():
            live[key] = live.get(key, 0.0) + counts
        choices = choose(prior, live, lead_minutes, before=choices)
    return choices


def choose(prior: Evidence, live: Evidence, lead_minutes: Sequence[int], *, before: Choices = ()) -> Choices:
    """Return what to serve at each lead.

    A method's score is the mean over thresholds of its CSI from pooled counts, prior and live added; a
    threshold that was never observed is left out. A method is fit to be served where its
    score is above extrapolation's by :data:`MARGIN`, or above it at all if it was served before, and where
    its CSI is at no threshold more than :data:`MOST_LOSS` below. Of several, the one with the largest gain is
    served, unless the one served before, or at the lead before, is within :data:`MARGIN` of it. A network
    takes longer and needs more than others: it must be ahead of them by :data:`MARGIN`.

    Args:
        prior: Scores from elsewhere, worth at most :data:`PRIOR_EVENTS` event pixels.
        live: The domain's own scores.
        lead_minutes: The leads to choose for.
        before: What was served before.
    """
    served = {choice.lead_minutes: choice.method for choice in before}
    methods = sorted({method for method, _ in (*prior, *live)} - {EXTRAPOLATION})
    choices, last = [], ""
    for lead in lead_minutes:
        gains, worth = {}, {EXTRAPOLATION: 0.0}
        for method in methods:
            differences = _csi_differences(_combined(prior, live, method, lead))
            if not differences.size:
                continue
            gain, worst = float(differences.mean()), float(differences.min())
            gains[method] = gain
            was_served = served.get(lead) == method
            if worst >= -MOST_LOSS and gain > (0.0 if was_served else MARGIN):
                kept = was_served or method == last
                worth[method] = gain + MARGIN * (kept - (method in NETWORKS))
        ranking = sorted(worth, key=lambda name: -worth[name])
        last = ranking[0]
        choices.append(Choice(lead, tuple(ranking), gains))
    return tuple(choices)


def outweighed(prior: Evidence, days: Iterable[Evidence], lead_minutes: Sequence[int]) -> tuple[int, ...]:
    """Return the leads at which the days have more event pixels on some method than the prior is worth."""
    live: dict[ModelLead, Counts] = {}
    for day in days:
        for key, counts in day.items():
            live[key] = live.get(key, 0.0) + counts
    heavier = {
        lead
        for (name, lead), own in live.items()
        if may_serve(name, lead) and _events(own) > _events(_discounted(prior, name, lead))
    }
    return tuple(lead for lead in lead_minutes if lead in heavier)


def describe(choices: Choices, evidence: str) -> str:
    """Return in a sentence what was chosen, by how much it is ahead, and on what evidence."""
    if not any(choice.gains for choice in choices):
        return f"{EXTRAPOLATION} at all leads: no method has been compared with it"
    parts = []
    for method, run in groupby(choices, key=lambda choice: choice.method):
        of_run = list(run)
        leads = _span([f"{choice.lead_minutes}" for choice in of_run])
        parts.append(f"{method} at {leads} min{_margin(of_run, method)}")
    thresholds = ", ".join(f"{threshold:g}" for threshold in JUDGED_DBZ)
    return f"{', '.join(parts)}; CSI is the mean of {thresholds} dBZ; evidence: {evidence}"


def _margin(choices: Sequence[Choice], method: str) -> str:
    """Return by how much a method beats extrapolation, or the best other fails to."""
    if method != EXTRAPOLATION:
        return f" (CSI {_span([f'{choice.gains[method]:+.3f}' for choice in choices])} over extrapolation)"
    others = [max(choice.gains.values()) for choice in choices if choice.gains]
    if not others:
        return ""
    ahead = f"; to be served it needs {MARGIN:+g}, and to lose {MOST_LOSS:g} at most at any threshold"
    gains = _span([f"{gain:+.3f}" for gain in others])
    return f" (the best other has CSI {gains} over it{ahead if max(others) > 0 else ''})"


def _span(texts: Sequence[str]) -> str:
    """Return the first and the last of several, or the only one."""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _combined(prior: Evidence, live: Evidence, method: str, lead: int) -> Counts:
    """Return all evidence on a method at a lead, the prior discounted."""
    own = live.get((method, lead), np.zeros((2, 3, len(JUDGED_DBZ))))
    if not may_serve(method, lead):
        return np.zeros_like(own)
    return own + _discounted(prior, method, lead)


def _discounted(prior: Evidence, method: str, lead: int) -> Counts:
    """Return what the prior says of a method at a lead, worth :data:`PRIOR_EVENTS` at most, else zeros."""
    known = [minutes for name, minutes in prior if name == method]
    if not known or lead > max(NETWORK_MINUTES, *known):
        return np.zeros((2, 3, len(JUDGED_DBZ)))
    counts = prior[method, min(known, key=lambda minutes: abs(minutes - lead))]
    events = _events(counts)
    return counts * min(1.0, PRIOR_EVENTS / events) if events else np.zeros_like(counts)


def _events(counts: Counts) -> float:
    """Return the event pixels of counts, at the threshold that has most."""
    return float(counts[1].sum(axis=0).max())


def _csi_differences(counts: Counts) -> NDArray[np.float64]:
    """Return a method's CSI less extrapolation's at each threshold that was ever observed."""
    own, others = csi_of(counts)
    differences: NDArray[np.float64] = own - others
    return differences[~np.isnan(differences)]
