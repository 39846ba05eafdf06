"""The table of the experiments, as measured: means, spreads, and in how many seeds each claim holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.mechanisms.catalogue import EXPERIMENTS, Claim, Experiment
from benchmarks.mechanisms.fitting import Size

#: Measures of one variant: seed to name to number.
Measures = Mapping[int, Mapping[str, float]]


def table(results: Sequence[Mapping[str, Any]], names: Sequence[str], size: Size, machine: str) -> str:
    """Return the results as a page of Markdown."""
    lines = [
        "# Mechanisms",
        "",
        "Whether a network's mechanism does what its paper says, on sequences of known physics. Made by",
        "`python -m benchmarks.mechanisms`; mean ± standard deviation over the seeds. Networks are small and",
        "trainings short: this is about mechanisms, not about skill on radar.",
        "",
        f"{size.sequences} sequences of {size.grid} x {size.grid} cells, {size.iterations} iterations of "
        f"{size.batch}, on {machine}. Persistence is what the last frame scores as the forecast.",
    ]
    for name in names:
        measured: dict[str, dict[int, Mapping[str, float]]] = {}
        for result in results:
            if result["experiment"] == name:
                measured.setdefault(result["variant"], {})[result["seed"]] = result["measures"]
        if measured:
            lines += ["", *_section(EXPERIMENTS[name], measured)]
    return "\n".join(lines) + "\n"


def _section(experiment: Experiment, measured: Mapping[str, Measures]) -> Iterator[str]:
    columns = list(dict.fromkeys(key for runs in measured.values() for run in runs.values() for key in run))
    yield f"## {experiment.title}"
    yield ""
    yield experiment.setting
    yield ""
    yield f"| variant | {' | '.join(columns)} | seeds |"
    yield "|---" * (len(columns) + 2) + "|"
    for variant in experiment.variants:
        runs = measured.get(variant, {})
        cells = [_spread([run[key] for run in runs.values() if key in run]) for key in columns]
        yield f"| {variant} | {' | '.join(cells)} | {len(runs)} |"
    yield ""
    for claim in experiment.claims:
        yield f"- {_verdict(claim, measured)}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    digits = ".5f" if abs(fmean(values)) < 0.1 else ".3f"
    spread = f" ± {stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{fmean(values):{digits}}{spread}"


def _verdict(claim: Claim, measured: Mapping[str, Measures]) -> str:
    (low, low_measure), (high, high_measure) = claim.smaller, claim.larger
    smaller, larger = measured.get(low, {}), measured.get(high, {})
    seeds = sorted(smaller.keys() & larger.keys())
    if not seeds:
        return f"{claim.text}: not measured."
    differences = [larger[seed][high_measure] - smaller[seed][low_measure] for seed in seeds]
    held = sum(difference > 0 for difference in differences)
    word = "holds" if held == len(seeds) else "does not hold" if held == 0 else "is not settled"
    scale = abs(fmean(larger[seed][high_measure] for seed in seeds))
    relative = f" ({fmean(differences) / scale:+.1%} on average)" if scale else ""
    return f"{claim.text}: **{word}**, in {held} of {len(seeds)} seeds{relative}."
