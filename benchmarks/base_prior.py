"""The gate's prior of the base, which learns nothing: what it scores on events, beside extrapolation.

What the prior knows of other methods stays as it is. They are compared by what they gain over extrapolation,
so the base is scored where the network was: from the issue times of :mod:`benchmarks.cross_validation`, to
the same counts of extrapolation. For a prior without a network, or with one scored on those events, the
events are named.

    python -m benchmarks base_prior --data DATA [--events FILE] [--issues N]

The prior of the package has four issue times of an event. A correction is known from its ``skill.json``, of
other events: it enters as the base with as many times its hits as there.

    python -m benchmarks base_prior --corrections nowcast/weights/scs nowcast/weights/crn
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from benchmarks.cross_validation import FOLDS, HISTORY, MOST_CELLS, events_of
from nowcast.archive.archive import Archive
from nowcast.archive.events import Event, find_events
from nowcast.hindcast.cases import Cases, judge
from nowcast.hindcast.evaluation import ArchivedFrames, issue_indices, score_events
from nowcast.methods.blend import Blend
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.gate import counts_of
from nowcast.methods.method import Method
from nowcast.methods.shipped_scores import PRIOR_FILE, Prior, read_prior, write_prior
from nowcast.names import BLEND, EXTRAPOLATION, SPROG
from nowcast.scores.judged import JUDGED_DBZ
from nowcast.scores.skillfile import SKILL_FILE, Skill, pooled, read_skill, shared
from nowcast.scores.tally import Tally

#: What the base takes the place of: no longer among what the gate chooses from.
REPLACED = (SPROG, BLEND)


def with_base(prior: Prior, skill: Skill) -> Prior:
    """Return a prior with what the base scored beside extrapolation, and nothing of what it replaces."""
    counts = {key: known for key, known in prior.counts.items() if key[0] not in REPLACED}
    beside = {key: known for key, known in prior.beside.items() if key[0] not in REPLACED}
    counts |= {(BLEND, lead): counts_of(tally) for lead, tally in pooled(skill.events).items()}
    for lead, tally in pooled(skill.references[EXTRAPOLATION]).items():
        known, own = counts.get((EXTRAPOLATION, lead)), counts_of(tally)
        if known is None or not np.array_equal(known, own):  # else the pixels are the same
            beside[BLEND, lead] = own
    others = prior.provenance.split(f"; {BLEND}")[0]
    return Prior(counts, f"{others}; {BLEND} on {len(skill.events)} training events", beside)


def with_correction(prior: Prior, name: str, skill: Skill) -> Prior:
    """Return a prior with a correction: the base's counts, its hits as many times as on other events.

    A correction keeps the base's areas, so what it hits more it misses less, and is as much less false.

    Args:
        prior: With the base.
        name: Of the correction.
        skill: What it and the base scored.
    """
    mine, base = (pooled(scored) for scored in shared(skill.events, skill.references[BLEND]))
    counts, beside = dict(prior.counts), dict(prior.beside)
    for lead in sorted(lead for method, lead in prior.counts if method == BLEND):
        nearest = min(mine, key=lambda known: (abs(known - lead), known))
        own, others = counts_of(mine[nearest])[0], counts_of(base[nearest])[0]
        hits, misses, false_alarms = prior.counts[BLEND, lead]
        more = hits * np.divide(own, others, out=np.ones_like(own), where=others > 0) - hits
        more = np.minimum(more, np.minimum(misses, false_alarms))
        counts[name, lead] = np.stack([hits + more, misses - more, false_alarms - more])
        if (BLEND, lead) in beside:
            beside[name, lead] = beside[BLEND, lead]
    parts = [part for part in prior.provenance.split("; ") if not part.startswith(f"{name} ")]
    told = f"{name} with as many times the base's hits as on {len(skill.events)} events it never saw"
    return Prior(counts, "; ".join([*parts, told]), beside)


def patterns_in(text: str) -> tuple[str, ...]:
    """Return the patterns of events' names, one a line; lines that begin with # are for people."""
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def where_the_network_was(archive: Archive, issues: int) -> Skill:
    """Return what base and extrapolation score from the issue times of cross-validation."""
    methods: tuple[Method, ...] = (Blend(), Extrapolation())
    scored: list[dict[str, dict[datetime, dict[int, Tally]]]] = [{}, {}]
    for event in (event for fold in FOLDS for event in events_of(archive, fold)):
        steps = 60 // event.step_minutes
        cases = Cases(ArchivedFrames(archive, event), history=Blend.frames, steps=steps)
        for index in issue_indices(archive, event, HISTORY, issues):
            case = cases.at(index)
            for method, of_method in zip(methods, scored, strict=True):
                tallies = judge(method, case, steps, Tally(JUDGED_DBZ)).tallies
                by_minutes = {lead * event.step_minutes: tally for lead, tally in tallies.items()}
                of_method.setdefault(event.name, {})[case.issue_time] = by_minutes
        print(event.name, flush=True)
    return Skill(scored[0], {EXTRAPOLATION: scored[1]})


def _events(archive: Archive, patterns: Sequence[str]) -> Iterator[Event]:
    for event in find_events(archive):
        grid = archive.grid(event.domain)
        wanted = any(fnmatch(event.name, pattern) for pattern in patterns)
        if wanted and grid is not None and grid.ny * grid.nx <= MOST_CELLS:
            yield event


def main() -> None:
    """Score the base and write the prior."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="data directory with the training archive")
    parser.add_argument("--corrections", type=Path, nargs="*", default=[], help="folders of checkpoints")
    parser.add_argument("--events", type=Path, help="patterns of names of the events to score on")
    parser.add_argument("--issues", type=int, default=4, help="issue times of an event")
    parser.add_argument("--prior", type=Path, default=PRIOR_FILE)
    parser.add_argument("--json", type=Path, help="has no effect")
    arguments = parser.parse_args()
    if arguments.data is not None:
        write_prior(arguments.prior, with_base(read_prior(arguments.prior), _base_skill(arguments)))
    for folder in arguments.corrections:
        known = read_prior(arguments.prior)
        write_prior(arguments.prior, with_correction(known, folder.name, read_skill(folder / SKILL_FILE)))


def _base_skill(arguments: argparse.Namespace) -> Skill:
    """Return what base and extrapolation score on what was asked for."""
    archive = Archive(arguments.data / "archive")
    if arguments.events:
        events = list(_events(archive, patterns_in(arguments.events.read_text())))
        return score_events(
            archive, events, Blend(), [Extrapolation()], most=arguments.issues,
            report=lambda what, done, total: print(f"{what} {done} of {total}", flush=True),
        )  # fmt: skip
    return where_the_network_was(archive, arguments.issues)


if __name__ == "__main__":
    main()
