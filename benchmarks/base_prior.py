"""The gate's prior of the base, which learns nothing: what it scores on events, beside extrapolation.

What the prior knows of other methods stays as it is; each is compared with extrapolation on its own pixels.

    python -m benchmarks base_prior --data DATA [--events FILE] [--issues N]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.cross_validation import MOST_CELLS
from nowcast.archive.archive import Archive
from nowcast.archive.events import Event, find_events
from nowcast.hindcast.evaluation import score_events
from nowcast.methods.blend import Blend
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.gate import counts_of
from nowcast.methods.shipped_scores import PRIOR_FILE, Prior, read_prior, write_prior
from nowcast.names import BLEND, EXTRAPOLATION, SPROG
from nowcast.scores.skillfile import Skill, pooled

#: What the base takes the place of: no longer among what the gate chooses from.
REPLACED = (SPROG, BLEND)


def with_base(prior: Prior, skill: Skill) -> Prior:
    """Return a prior with what the base scored beside extrapolation, and nothing of what it replaces."""
    counts = {key: known for key, known in prior.counts.items() if key[0] not in REPLACED}
    beside = {key: known for key, known in prior.beside.items() if key[0] not in REPLACED}
    for into, scored in ((counts, skill.events), (beside, skill.references[EXTRAPOLATION])):
        into.update({(BLEND, lead): counts_of(tally) for lead, tally in pooled(scored).items()})
    others = prior.provenance.split(f"; {BLEND}")[0]
    return Prior(counts, f"{others}; {BLEND} on {len(skill.events)} training events", beside)


def patterns_in(text: str) -> tuple[str, ...]:
    """Return the patterns of events' names, one a line; lines that begin with # are for people."""
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def _events(archive: Archive, patterns: Sequence[str]) -> Iterator[Event]:
    for event in find_events(archive):
        grid = archive.grid(event.domain)
        wanted = any(fnmatch(event.name, pattern) for pattern in patterns)
        if wanted and grid is not None and grid.ny * grid.nx <= MOST_CELLS:
            yield event


def main() -> None:
    """Score the base and write the prior."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="data directory with the training archive")
    parser.add_argument("--events", type=Path, help="patterns of names of the events to score on; else all")
    parser.add_argument("--issues", type=int, default=12, help="issue times of an event")
    parser.add_argument("--prior", type=Path, default=PRIOR_FILE)
    parser.add_argument("--json", type=Path, help="has no effect")
    arguments = parser.parse_args()
    archive = Archive(arguments.data / "archive")
    patterns = patterns_in(arguments.events.read_text()) if arguments.events else ("*",)
    events = list(_events(archive, patterns))
    skill = score_events(
        archive, events, Blend(), [Extrapolation()], most=arguments.issues,
        report=lambda what, done, total: print(f"{what} {done} of {total}", flush=True),
    )  # fmt: skip
    write_prior(arguments.prior, with_base(read_prior(arguments.prior), skill))


if __name__ == "__main__":
    main()
