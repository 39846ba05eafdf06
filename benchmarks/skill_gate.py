"""Whether a method that chooses among others is worth it: beside the better of these, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.skill_table import NOTHING, Section
from nowcast.scores.tally import Tally

#: Leads [min] that are checked.
LEADS = range(10, 61, 5)

#: Least mean CSI beyond that of the better reference, as a share of it, and least difference of any cell.
LEAST_GAIN, LEAST_DIFFERENCE = 0.05, -0.02

#: Where the frequency bias has to be, and the thresholds [dBZ] it is checked at.
BIAS, BIAS_DBZ = (0.8, 1.3), (20.0, 30.0)

#: Threshold [dBZ] whose fractions skill score must not be lower at any lead.
FSS_DBZ = 35.0


@dataclass(frozen=True)
class Cell:
    """CSI at one threshold [dBZ] and lead [minutes]: of the candidate, and the better of its references'."""

    threshold: float
    lead: int
    candidate: float
    better: float
    reference: str

    @property
    def difference(self) -> float:
        """CSI beyond that of the better reference."""
        return self.candidate - self.better


@dataclass(frozen=True)
class Criterion:
    """One thing that is asked of the candidate, what came of it, and whether that will do."""

    asked: str
    found: str
    met: bool


@dataclass(frozen=True)
class Verdict:
    """All that was checked.

    Attributes:
        candidate: Name of the method.
        references: Names of those it has to be as good as.
        cells: CSI by threshold and lead.
        criteria: What follows from them.
    """

    candidate: str
    references: tuple[str, ...]
    cells: tuple[Cell, ...]
    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        """Whether every criterion is met."""
        return all(criterion.met for criterion in self.criteria)


def check(
    name: str, candidate: Mapping[int, Tally], references: Mapping[str, Mapping[int, Tally]]
) -> Verdict:
    """Return how a candidate does beside the better of its references in each cell.

    A cell is a threshold and a lead at which rain was observed; all methods were scored on the same pixels.

    Args:
        name: Of the candidate.
        candidate: Its pooled tallies by lead [minutes].
        references: The same of each method it has to be as good as, one at least.

    Raises:
        ValueError: If there is no cell to check.
    """
    cells = tuple(_cells(candidate, references))
    if not cells:
        raise ValueError(f"expected rain at a lead of {LEADS[0]} to {LEADS[-1]} min, found none to check")
    criteria = (*_csi_criteria(cells), *_bias_criteria(candidate), *_fss_criteria(candidate, references))
    return Verdict(name, tuple(references), cells, criteria)


def _cells(candidate: Mapping[int, Tally], references: Mapping[str, Mapping[int, Tally]]) -> Iterator[Cell]:
    for lead in LEADS:
        if lead not in candidate:
            continue
        for threshold in candidate[lead].thresholds_dbz:
            counts = candidate[lead].contingency(threshold)
            if counts.hits + counts.misses == 0:
                continue
            others = {
                name: tallies[lead].contingency(threshold).csi or 0.0 for name, tallies in references.items()
            }
            best = max(others, key=lambda name: others[name])
            yield Cell(threshold, lead, counts.csi or 0.0, others[best], best)


def _csi_criteria(cells: tuple[Cell, ...]) -> Iterator[Criterion]:
    ours, theirs = (
        sum(values) for values in zip(*((cell.candidate, cell.better) for cell in cells), strict=True)
    )
    gain = ours / theirs - 1 if theirs else 0.0
    ratios = [cell.candidate / cell.better for cell in cells if cell.better]
    mean_ratio = sum(ratios) / len(ratios) - 1 if ratios else 0.0
    yield Criterion(
        f"mean CSI over {len(cells)} cells at least {LEAST_GAIN:+.1%} of the better one's",
        f"{gain:+.2%} (mean of the cells' ratios {mean_ratio:+.2%})",
        gain >= LEAST_GAIN,
    )
    worst = min(cells, key=lambda cell: cell.difference)
    yield Criterion(
        f"CSI in no cell more than {abs(LEAST_DIFFERENCE):g} below the better one's",
        f"worst {worst.difference:+.4f} at {worst.threshold:g} dBZ, {worst.lead} min, by {worst.reference}",
        worst.difference >= LEAST_DIFFERENCE,
    )


def _bias_criteria(candidate: Mapping[int, Tally]) -> Iterator[Criterion]:
    low, high = BIAS
    for threshold in BIAS_DBZ:
        found = {
            lead: bias
            for lead in LEADS
            if lead in candidate and threshold in candidate[lead].thresholds_dbz
            and (bias := candidate[lead].contingency(threshold).bias) is not None
        }  # fmt: skip
        if not found:
            continue
        least, most = min(found, key=lambda lead: found[lead]), max(found, key=lambda lead: found[lead])
        yield Criterion(
            f"frequency bias at {threshold:g} dBZ from {low:g} to {high:g}",
            f"{found[least]:.2f} ({least} min) to {found[most]:.2f} ({most} min)",
            low <= found[least] and found[most] <= high,
        )


def _fss_criteria(
    candidate: Mapping[int, Tally], references: Mapping[str, Mapping[int, Tally]]
) -> Iterator[Criterion]:
    windows = next(iter(candidate.values())).windows_km
    for window in windows:
        lacks = {}
        for lead in LEADS:
            if lead not in candidate or FSS_DBZ not in candidate[lead].thresholds_dbz:
                continue
            ours = candidate[lead].fss(FSS_DBZ, window)
            others = [tallies[lead].fss(FSS_DBZ, window) for tallies in references.values()]
            known = [value for value in others if value is not None]
            if ours is not None and known:
                lacks[lead] = ours - max(known)
        if lacks:
            worst = min(lacks, key=lambda lead: lacks[lead])
            yield Criterion(
                f"FSS at {FSS_DBZ:g} dBZ over {window:g} km at no lead below the better one's",
                f"worst {lacks[worst]:+.4f} at {worst} min",
                lacks[worst] >= 0,
            )


def gate_sections(verdict: Verdict) -> Iterator[Section]:
    """Yield the differences of CSI cell by cell, and the criteria."""
    better = " and ".join(verdict.references)
    differences = {(cell.threshold, cell.lead): f"{cell.difference:+.4f}" for cell in verdict.cells}
    thresholds = sorted({cell.threshold for cell in verdict.cells})
    yield Section(
        f"CSI of {verdict.candidate} beyond the better of {better}"
        if len(verdict.references) > 1
        else f"CSI of {verdict.candidate} beyond {better}",
        ("threshold", *(f"{lead} min" for lead in LEADS)),
        tuple(
            (f"{threshold:g} dBZ", *(differences.get((threshold, lead), NOTHING) for lead in LEADS))
            for threshold in thresholds
        ),
    )
    yield Section(
        f"What is asked of {verdict.candidate} beside {better}",
        ("asked", "found", "verdict"),
        tuple((one.asked, one.found, "PASS" if one.met else "**FAIL**") for one in verdict.criteria),
    )
