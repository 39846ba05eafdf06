"""The method ``auto``: at each lead the field of the method that the gate chose for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path

from nowcast.compute import Compute
from nowcast.errors import MissingExtra
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.methods.cube import Cube
from nowcast.methods.fallback import FAILURES, excuse, secured
from nowcast.methods.gate import PERIOD, Choices, Evidence, describe, evidence_of, outweighed, review
from nowcast.methods.method import Method, Methods
from nowcast.methods.shipped_scores import Prior
from nowcast.names import AUTO, EXTRAPOLATION
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.scorefile import ModelLead


def contenders(prior: Prior, methods: Methods) -> tuple[str, ...]:
    """Return the names of the methods the gate chooses among: those of the prior that there are."""
    return tuple(name for name in prior.methods if name in methods)


@dataclass(frozen=True)
class _Part:
    """What one method forecasts, up to the last lead it is needed at."""

    prediction: Prediction
    leads: int
    version: str


@dataclass(frozen=True)
class _Own:
    """What a domain's own scores say.

    Attributes:
        days: Evidence of each day, the oldest first.
        compared: Forecasts scored beside extrapolation, by method and lead.
        scored: Forecasts scored at all.
    """

    days: tuple[Evidence, ...] = ()
    compared: Mapping[ModelLead, int] = field(default_factory=dict)
    scored: int = 0

    def of(self, methods: Sequence[str]) -> _Own:
        """Return what they say of some methods."""
        days = tuple({key: day[key] for key in day if key[0] in methods} for day in self.days)
        compared = {key: count for key, count in self.compared.items() if key[0] in methods}
        return _Own(days, compared, self.scored)

    def describe(self, heavier: int, leads: int) -> str:
        """Return in words how much there is, and whether it is enough.

        Args:
            heavier: Leads at which it weighs more than the prior.
            leads: Leads there are.
        """
        seen, forecasts = sum(map(bool, self.days)), max(self.compared.values(), default=0)
        if seen:
            where = "" if heavier == leads else f" at {heavier} of {leads} leads"
            weigh = f"weigh more than those{where}" if heavier else "weigh not yet as much as those"
            return (
                f"own scores of {_several(forecasts, 'forecast')} on {_several(seen, 'day')}, which {weigh}"
            )
        if self.scored:
            return f"{_several(self.scored, 'forecast')} of this domain scored, none beside a rival yet"
        return f"no forecast of this domain scored in the {PERIOD.days} days up to the full hour"


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


class Auto(Method):
    """Serves at each lead the method that has won so far, and never one that loses to extrapolation.

    A field is of one method as a whole; what changes from lead to lead is at most which. Methods are made
    only when chosen, and forecast no further than to the last lead they are chosen for. One that fails hands
    its leads to the next best.

    What a domain's own scores say is reviewed at every full hour of the issue time, on valid times up to it:
    a forecast made late, or again, comes out as it would have then.

    Attributes:
        version: Of the rules; a forecast names the versions of its parts.
    """

    name = AUTO
    proven_by_first = True  # as every part is secured before the first lead

    def __init__(self, methods: Methods, compute: Compute, prior: Prior) -> None:
        self._methods, self._prior = methods, prior
        self._compute = replace(compute, untrained=False)  # random weights have not won anything
        self._contenders = contenders(prior, methods)

    @property
    def frames(self) -> int:  # type: ignore[override]
        """How many frames its contenders want to look back on at most; they are made to be asked."""
        wanted = [0]
        for name in self._contenders:
            try:
                wanted.append(self._methods[name](self._compute).frames)
            except FAILURES:
                continue  # asked for a forecast, it will say why
        return max(wanted)

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the chosen fields, the method behind each and the reason for the choice.

        Args:
            cube: Its ``domain``, if there is one, says whose scores count.
            leads: Number of lead times.

        Raises:
            NowcastError, RuntimeError, MemoryError, cv2.error: If extrapolation fails, which stands in for
                every other method.
        """
        choices, reason = self._choices(cube, leads)
        parts, served, failed, absent = self._parts(cube, choices)
        predictions = {name: part.prediction for name, part in parts.items()}
        shortfalls = (f"{name}: {why}" for name, made in predictions.items() for why in made.shortfalls)
        return Prediction(
            _by_lead(served, predictions),
            next((made.motion for made in predictions.values() if made.motion is not None), None),
            (*failed, *shortfalls),
            version=", ".join(f"{name} {part.version}" for name, part in parts.items()),
            methods=tuple(served),
            choice_reason="; ".join([reason, *absent]),
            base_weights=next((made.base_weights for made in predictions.values() if made.base_weights), {}),
            thresholds_dbz=_common_thresholds([predictions[name] for name in served]),
        )

    def _choices(self, cube: Cube, leads: int) -> tuple[Choices, str]:
        """Return what to serve at each lead, and why."""
        minutes = [cube.step_minutes * lead for lead in range(1, leads + 1)]
        scores, prior = self._compute.scores, self._prior.evidence(self._contenders)
        if not cube.domain or scores is None:
            choices = review(prior, (), minutes)
            return choices, describe(choices, f"{self._prior.provenance}; no domain's own scores looked at")
        hour = cube.issue_time.replace(minute=0, second=0, microsecond=0)
        own = _own(scores, cube.domain, hour).of(self._contenders)
        choices = review(prior, own.days, minutes)
        weight = own.describe(len(outweighed(prior, own.days, minutes)), len(minutes))
        return choices, describe(choices, f"{self._prior.provenance}; {weight}")

    def _parts(
        self, cube: Cube, choices: Choices
    ) -> tuple[dict[str, _Part], list[str], list[str], list[str]]:
        """Return what each method forecasts, the method of each lead, why better ones failed or are absent.

        With it, all that may fail is done: an error at a late lead must not leave half a forecast.
        """
        parts: dict[str, _Part] = {}
        failed: dict[str, str] = {}
        absent: dict[str, str] = {}
        while True:
            out = failed.keys() | absent.keys()
            served = [next(name for name in choice.ranking if name not in out) for choice in choices]
            needed = {name: lead for lead, name in enumerate(served, start=1)}
            name = next((name for name, lead in needed.items() if lead > _leads(parts.get(name))), None)
            if name is None:
                return parts, served, list(failed.values()), list(absent.values())
            try:
                parts[name] = self._part(name, cube, needed[name])
            except MissingExtra as error:  # an installation without networks is whole as it is
                absent[name] = str(error)
            except FAILURES as error:
                if name == EXTRAPOLATION:
                    raise
                failed[name] = excuse(name, error)

    def _part(self, name: str, cube: Cube, leads: int) -> _Part:
        method = self._methods[name](self._compute)
        prediction = secured(method, cube, leads)
        return _Part(prediction, leads, prediction.version or method.version)


def _leads(part: _Part | None) -> int:
    return 0 if part is None else part.leads


def _by_lead(served: Sequence[str], predictions: Mapping[str, Prediction]) -> Iterator[Lead]:
    """Yield each lead as the method that serves it has it."""
    taken = dict.fromkeys(predictions, 0)
    for index, name in enumerate(served):
        yield next(islice(predictions[name].leads, index - taken[name], None))
        taken[name] = index + 1


def _common_thresholds(served: Sequence[Prediction]) -> tuple[float, ...]:
    """Return the thresholds whose probability every lead gives, whoever serves it; else none."""
    thresholds = {prediction.thresholds_dbz for prediction in served}
    return thresholds.pop() if len(thresholds) == 1 else ()


@lru_cache(maxsize=64)
def _own(scores: Path, domain: str, until: datetime) -> _Own:
    """Return a domain's own scores up to a time; read once for an hour."""
    start = (until - PERIOD).replace(hour=0)  # whole days are kept in memory
    days, compared = [], Counter[ModelLead]()
    for of_day in _book(scores).paired(domain, EXTRAPOLATION, start, until):
        days.append(evidence_of(of_day))
        compared.update({key: tally.forecasts for key, tally, _ in of_day})
    pooled = _book(scores).pooled(domain, start, until)
    scored = max((tally.forecasts for tally in pooled.values()), default=0)
    return _Own(tuple(days), compared, scored)


@lru_cache(maxsize=4)
def _book(scores: Path) -> ScoreBook:
    """Return a score book that remembers the days it has read."""
    return ScoreBook(scores)
