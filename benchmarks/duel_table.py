"""The report of the duels: what each pair scored, and how sure the difference is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

from benchmarks.duel_pieces import SHAPE, STEP_MINUTES, Piece, Terms
from nowcast.names import EXTRAPOLATION
from nowcast.scores.bootstrap import CONFIDENCE, interval, resampled, student_quantile
from nowcast.scores.judged import JUDGED_DBZ, csi_of, mean_csi_of

#: Columns of a line of text.
WIDTH = 120

#: 97.5 % quantiles of Student's distribution with 1, 2, 3 and 4 degrees of freedom, from any table of it.
FEW_FREEDOMS = (12.706, 4.303, 3.182, 2.776)


class Duel(NamedTuple):
    """A claim that one variant beats another.

    Attributes:
        title: What it is about.
        claim: In words.
        first: The variant that should be better.
        second: The one it is measured against.
    """

    title: str
    claim: str
    first: str
    second: str


DUELS = (
    Duel(
        "Semi-coupled layers",
        "SCS, by its own training, beats ConvLSTM of equal depth and width (6 layers of 24 channels)",
        "SCS",
        "ConvLSTM",
    ),
    Duel(
        "Experts that learn apart first",
        "STMoE trained in stages, on synthetic sequences and then on rain, beats STMoE trained on rain alone",
        "STMoE, staged",
        "STMoE, end to end",
    ),
    Duel(
        "Memories that are recalled",
        "E3D-LSTM with RECALL over all past memories beats E3D-LSTM without",
        "E3D-LSTM with recall",
        "E3D-LSTM without",
    ),
    Duel(
        "Branches that see each other",
        "CRN beats N-CRN, whose branches see only their own states",
        "CRN",
        "N-CRN",
    ),
)


@dataclass(frozen=True)
class About:
    """What the reader of the report has to know besides the scores.

    Attributes:
        terms: How all were trained and scored.
        machine: What they were trained on.
        learnt: Number of events learnt from.
        scored: Number of events scored.
        credit: Whose data they are.
    """

    terms: Terms
    machine: str
    learnt: int
    scored: int
    credit: str


class Difference(NamedTuple):
    """How much better one variant was than another, seed by seed.

    Attributes:
        seeds: Difference of each seed, positive where the first was better.
        low: Lower end of Student's interval of their mean; NaN with one seed.
        high: Upper end.
    """

    seeds: tuple[float, ...]
    low: float
    high: float

    @property
    def held(self) -> str:
        """In how many seeds the first was better."""
        return f"in {sum(one > 0 for one in self.seeds)} of {len(self.seeds)} seeds"

    @property
    def word(self) -> str:
        """What may be said of the claim."""
        if self.low > 0:
            return "holds"
        return "does not hold, the reverse does" if self.high < 0 else "is not settled"

    def told(self, digits: int) -> str:
        """Return the figures in words."""
        by_seed = ", ".join(f"{one:+.{digits}f}" for one in self.seeds)
        return (
            f"{by_seed} by seed, {fmean(self.seeds):+.{digits}f} on average, "
            f"{CONFIDENCE * 100:g} % interval {self.low:+.{digits}f} to {self.high:+.{digits}f}"
        )


def difference(better: Sequence[float], worse: Sequence[float]) -> Difference:
    """Return how far the first figures lie above the second, seed by seed, with Student's interval."""
    seeds = tuple(one - other for one, other in zip(better, worse, strict=True))
    if len(seeds) < 2:
        return Difference(seeds, math.nan, math.nan)
    freedom = len(seeds) - 1
    quantile = FEW_FREEDOMS[freedom - 1] if freedom <= len(FEW_FREEDOMS) else student_quantile(freedom)
    half = quantile * stdev(seeds) / math.sqrt(len(seeds))
    return Difference(seeds, fmean(seeds) - half, fmean(seeds) + half)


def mean_csi(piece: Piece) -> float:
    """Return the mean CSI over leads and thresholds, 0 to 1."""
    return float(mean_csi_of(piece.counts.sum(axis=0)))


def over_hours(first: Sequence[Piece], second: Sequence[Piece]) -> tuple[float, float]:
    """Return the interval of the difference of mean CSI over what rain was scored, trainings as they are.

    Counts of all seeds are added; blocks of about an hour are resampled for both variants together.
    """
    sums = np.stack([sum(one.counts for one in pieces) for pieces in (first, second)], axis=1)
    return interval(resampled(sums.astype(np.float64)), len(sums))


def report(pieces: Sequence[Piece], about: About) -> str:
    """Return the report as Markdown; a duel of which no seed has both sides is left out."""
    by_variant = grouped(pieces)
    lines = list(_opening(about))
    for duel in DUELS:
        first, second = pairs(by_variant, duel)
        if first:
            lines += ["", *_section(duel, first, second, by_variant[EXTRAPOLATION])]
    return "\n".join(lines) + "\n"


def grouped(pieces: Sequence[Piece]) -> dict[str, list[Piece]]:
    """Return the pieces of each variant, by seed."""
    by_variant: dict[str, list[Piece]] = {}
    for piece in sorted(pieces, key=lambda piece: piece.seed):
        by_variant.setdefault(piece.variant, []).append(piece)
    return by_variant


def pairs(by_variant: dict[str, list[Piece]], duel: Duel) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces of both sides of a duel, of the seeds that both have."""
    sides = [{piece.seed: piece for piece in by_variant.get(name, [])} for name in (duel.first, duel.second)]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    return [sides[0][seed] for seed in seeds], [sides[1][seed] for seed in seeds]


def figures(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Return every figure of the report, and more, as plain data."""
    return {
        "pieces": [{**piece.to_dict(), "mean_csi": mean_csi(piece)} for piece in pieces],
        "duels": {
            duel.title: {
                "csi": difference(*([mean_csi(one) for one in side] for side in sides))._asdict(),
                "mse": difference(*([-one.mse for one in side] for side in sides))._asdict(),
                "csi_over_hours": over_hours(*sides),
            }
            for duel in DUELS
            if (sides := pairs(grouped(pieces), duel))[0]
        },
    }


def _opening(about: About) -> Iterator[str]:
    terms = about.terms
    thresholds = ", ".join(f"{one:g}" for one in JUDGED_DBZ)
    how = (
        f"Both sides of a pair learn for {terms.seconds:g} s of CPU time on one thread, from the same draws "
        f"of {terms.batch} squares of {terms.crop} x {terms.crop} cells: {SHAPE.frames} frames, then "
        f"{terms.leads} leads of {STEP_MINUTES} min, all seen from the moving air; what costs more a step "
        "takes fewer of them. Stages of a training share its time and have its learning rate. "
        f"{about.learnt} events are learnt from. Scored are the same {terms.squares} squares of "
        f"{terms.scored_crop} x {terms.scored_crop} cells of each of {about.scored} events of other days. "
        "Extrapolation is the "
        "newest frame where the motion carries it. Counts and squared errors are pooled over all squares; "
        f"the mean CSI is over leads and thresholds of {thresholds} dBZ. Figures are mean ± standard "
        "deviation over seeds."
    )
    reading = (
        "A claim holds where the whole interval over seeds, of Student's distribution, lies on its side. The "
        "interval over hours resamples blocks of about an hour of the scored rain, all seeds' counts added, "
        "and leaves the trainings as they are. Where a network scores below extrapolation it has learnt too "
        "little for the figures to say what longer trainings would come to."
    )
    yield from (
        "# Duels",
        "",
        "Whether what the papers claim of a mechanism shows on real radar, in small networks and short",
        "trainings. Made by `python -m benchmarks duels`.",
        "",
        *fill(how, WIDTH).splitlines(),
        "",
        *fill(reading, WIDTH).splitlines(),
        "",
        *fill(f"On {about.machine}, one thread. Data: {about.credit}.", WIDTH).splitlines(),
    )


def _section(
    duel: Duel, first: Sequence[Piece], second: Sequence[Piece], reference: Sequence[Piece]
) -> Iterator[str]:
    sides = (first, second, reference)
    yield f"## {duel.title}"
    yield ""
    yield f"{duel.claim}."
    yield ""
    yield "| variant | mean CSI | MSE [dBZ²] | steps on rain | synthetic steps | CPU s | weights | seeds |"
    yield "|---" * 8 + "|"
    for pieces in sides:
        scores = _spread([mean_csi(one) for one in pieces], 4), _spread([one.mse for one in pieces], 1)
        steps = (round(fmean(one.steps[kind] for one in pieces)) for kind in (0, 1))
        seconds = f"{fmean(one.seconds for one in pieces):.1f}"
        cells = [pieces[0].variant, *scores, *steps, seconds, pieces[0].parameters, len(pieces)]
        yield f"| {' | '.join(str(cell) for cell in cells)} |"
    yield ""
    csi = difference([mean_csi(one) for one in first], [mean_csi(one) for one in second])
    mse = difference([-one.mse for one in first], [-one.mse for one in second])
    low, high = over_hours(first, second)
    yield f"- By mean CSI the claim **{csi.word}**, it held {csi.held}: {csi.told(4)}."
    yield f"- By squared error the claim **{mse.word}**, it held {mse.held}: {mse.told(1)} dBZ² less."
    yield (
        f"- Over hours, the interval of the difference of mean CSI is {low:+.4f} to {high:+.4f} "
        f"({len(first[0].counts)} blocks)."
    )
    yield ""
    leads = range(STEP_MINUTES, STEP_MINUTES * (1 + first[0].counts.shape[1]), STEP_MINUTES)
    yield f"| CSI | {' | '.join(f'{lead} min' for lead in leads)} |"
    yield "|---" * (1 + len(leads)) + "|"
    for column, threshold in enumerate(JUDGED_DBZ):
        for pieces in sides:
            by_lead = np.mean([csi_of(one.counts.sum(axis=0))[:, column] for one in pieces], axis=0)
            row = " | ".join(f"{one:.3f}" for one in by_lead)
            yield f"| {threshold:g} dBZ, {pieces[0].variant} | {row} |"


def _spread(values: Sequence[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"
