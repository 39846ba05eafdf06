"""What a candidate scored on held-out events, beside what its references did: ``skill.json`` of a checkpoint.

One tally for each event, issue time and lead, so that two candidates can be compared on what both were
scored on. Ratios are made last, of sums: of an event, of all events, or of a resample of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.disk import dates, durable
from nowcast.errors import UnreadableFile
from nowcast.names import BLEND, EXTRAPOLATION
from nowcast.scores.judged import JUDGED_DBZ, mean_csi_of
from nowcast.scores.tally import Tally

#: Name of the file in a checkpoint's folder.
SKILL_FILE = "skill.json"

#: Name a checkpoint's configuration has the mean CSI under, and that of a reference with its name after it.
MEAN_CSI = "csi"

#: Version of the format; a file of another one is refused rather than misread.
FORMAT = 1

#: Tallies by event, issue time (UTC) and lead [minutes].
Scored = Mapping[str, Mapping[datetime, Mapping[int, Tally]]]

#: Event, issue time and lead [minutes] of one forecast field.
IssueLead = tuple[str, datetime, int]


@dataclass(frozen=True)
class Skill:
    """What a candidate and its references scored, all at the same thresholds and windows.

    Attributes:
        events: Tallies of the candidate.
        references: Tallies of other methods, by name of the method.

    Raises:
        ValueError: If an issue time has no zone, a lead is not positive, or tallies could not be added.
    """

    events: Scored
    references: Mapping[str, Scored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be written, or not be pooled."""
        first: Tally | None = None
        for scored in (self.events, *self.references.values()):
            for (event, issued, lead), tally in entries(scored):
                if issued.tzinfo is None:
                    raise ValueError(f"{event}: expected issue times with a zone, got {issued} without")
                if lead <= 0:
                    raise ValueError(f"{event}, {dates.iso(issued)}: expected positive leads, got {lead}")
                first = first or tally
                if not tally.is_like(first):
                    got, expected = (
                        f"{one.thresholds_dbz} dBZ over {one.windows_km} km" for one in (tally, first)
                    )
                    where = f"{event}, {dates.iso(issued)}, {lead} min"
                    raise ValueError(f"{where}: expected scores at {expected}, got {got}")

    @property
    def base(self) -> str:
        """Name of what the candidate starts from: the base, if it was scored, else extrapolation."""
        return BLEND if BLEND in self.references else EXTRAPOLATION

    @property
    def thresholds_dbz(self) -> tuple[float, ...]:
        """Thresholds of every tally; none if there is no tally."""
        return next((tally.thresholds_dbz for _, tally in entries(self.events)), ())


def entries(scored: Scored) -> Iterator[tuple[IssueLead, Tally]]:
    """Yield event, issue time and lead of each tally, with the tally."""
    for event, times in scored.items():
        for issued, leads in times.items():
            for lead, tally in leads.items():
                yield (event, issued, lead), tally


def shared(first: Scored, second: Scored) -> tuple[Scored, Scored]:
    """Return both, less the forecast fields only one was scored on."""
    keys = dict(entries(first)).keys() & dict(entries(second)).keys()
    return _restricted(first, keys), _restricted(second, keys)


def at_leads(scored: Scored, leads: Set[int]) -> Scored:
    """Return what was scored at some leads [minutes]."""
    return _restricted(scored, {key for key, _ in entries(scored) if key[2] in leads})


def pooled(scored: Scored, events: Iterable[str] | None = None) -> dict[int, Tally]:
    """Return one tally for each lead [minutes], ascending: the sum over issue times and events.

    Args:
        scored: Tallies of a method.
        events: Names of the events to pool; all of them if left out.

    Raises:
        KeyError: If there is no event of a name asked for.
    """
    sums: dict[int, Tally] = {}
    chosen = scored if events is None else {name: scored[name] for name in events}
    for (_, _, lead), tally in entries(chosen):
        sums[lead] = sums[lead] + tally if lead in sums else tally
    return dict(sorted(sums.items()))


def mean_csi(by_lead: Mapping[int, Tally], thresholds_dbz: Iterable[float] = JUDGED_DBZ) -> float | None:
    """Return the mean over leads and thresholds of the CSI of pooled tallies, 0 to 1.

    As :func:`nowcast.scores.judged.mean_csi_of`, ``None`` where that is NaN.

    Raises:
        ValueError: If a threshold is none of the tallies'.
    """
    thresholds = tuple(thresholds_dbz)
    counts = [
        tally.counts[:, [tally.thresholds_dbz.index(threshold) for threshold in thresholds]]
        for tally in by_lead.values()
    ]
    mean = float(mean_csi_of(np.stack(counts))) if counts else math.nan
    return None if math.isnan(mean) else mean


def beside(skill: Skill, reference: str = EXTRAPOLATION) -> tuple[float | None, float | None]:
    """Return mean CSI of a candidate and of a reference, on what both were scored on; ``None`` if unknown."""
    if not set(JUDGED_DBZ) <= set(skill.thresholds_dbz):
        return None, None
    mine, others = shared(skill.events, skill.references.get(reference, {}))
    return mean_csi(pooled(mine)), mean_csi(pooled(others))


def write_skill(path: Path, skill: Skill) -> None:
    """Publish what a candidate scored, as JSON.

    Raises:
        StorageError: If the disk refuses; what was there before is as it was.
    """
    content = {
        "format": FORMAT,
        "events": _plain(skill.events),
        "references": {name: _plain(scored) for name, scored in skill.references.items()},
    }
    durable.write_bytes(path, json.dumps(content, separators=(",", ":"), allow_nan=False).encode())


def read_skill(path: Path) -> Skill:
    """Return what a candidate scored.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableFile: If it is not as :func:`write_skill` left it.
        StorageError: If the disk refuses.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {content['format']!r:.60}")
        references = {name: _scored(one) for name, one in content["references"].items()}
        return Skill(_scored(content["events"]), references)
    except FileNotFoundError:
        raise
    except KeyError as error:
        raise UnreadableFile(f"{path} holds no skill: expected the field {error}, got none") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableFile(f"{path} holds no skill: {error}") from error
    except OSError as error:
        raise durable.storage_error("read", path, error) from error


def _restricted(scored: Scored, keys: Set[IssueLead]) -> Scored:
    rest: dict[str, dict[datetime, dict[int, Tally]]] = {}
    for (event, issued, lead), tally in entries(scored):
        if (event, issued, lead) in keys:
            rest.setdefault(event, {}).setdefault(issued, {})[lead] = tally
    return rest


def _plain(scored: Scored) -> dict[str, Any]:
    return {
        event: {
            dates.iso(issued): {str(lead): tally.to_dict() for lead, tally in leads.items()}
            for issued, leads in times.items()
        }
        for event, times in scored.items()
    }


def _scored(content: dict[str, Any]) -> Scored:
    return {
        event: {
            _issue_time(text): {int(lead): Tally.from_dict(tally) for lead, tally in leads.items()}
            for text, leads in times.items()
        }
        for event, times in content.items()
    }


def _issue_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"expected issue times with a zone, got {text!r:.60}")
    return moment.astimezone(UTC)
