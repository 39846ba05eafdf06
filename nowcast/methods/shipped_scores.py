"""The prior: what methods scored on events of the past, shipped for domains that have no scores yet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.disk import durable
from nowcast.errors import UnreadableFile
from nowcast.methods.gate import Counts, Evidence
from nowcast.names import EXTRAPOLATION
from nowcast.scores.judged import COUNTS, JUDGED_DBZ
from nowcast.scores.scorefile import ModelLead

#: The prior that comes with the package.
PRIOR_FILE = Path(__file__).parents[1] / "data" / "gate.json"

#: Version of the format; a file of another one is refused rather than misread.
FORMAT = 1


@dataclass(frozen=True)
class Prior:
    """Scores from elsewhere.

    Attributes:
        counts: Hits, misses and false alarms ``(3, t)`` [pixels] at the gate's thresholds, by method and lead
            [minutes], all over the same pixels; extrapolation has every lead that another method has.
        provenance: Where they are from, in a few words: which events, how many, how it was made sure that no
            method had seen them.
        beside: Counts of extrapolation over the pixels of a method and lead, where those are not the pixels
            of all others.

    Raises:
        ValueError: If counts have another shape, are negative or not finite, or extrapolation lacks a lead.
    """

    counts: Mapping[ModelLead, Counts] = field(default_factory=dict)
    provenance: str = ""
    beside: Mapping[ModelLead, Counts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what the gate could not use."""
        shape = len(COUNTS), len(JUDGED_DBZ)
        for (method, lead), counts in (*self.counts.items(), *self.beside.items()):
            if counts.shape != shape:
                raise ValueError(f"{method}, {lead} min: expected counts of {shape}, got {counts.shape}")
            if not (np.isfinite(counts) & (counts >= 0)).all():
                raise ValueError(f"{method}, {lead} min: expected counts of pixels, got {counts.tolist()}")
            if (EXTRAPOLATION, lead) not in self.counts and (method, lead) not in self.beside:
                raise ValueError(f"{method}, {lead} min: expected counts of {EXTRAPOLATION} beside it")

    def evidence(self, methods: Iterable[str]) -> Evidence:
        """Return the counts of some methods beside extrapolation's."""
        rivals = set(methods) - {EXTRAPOLATION}
        return {
            (method, lead): np.stack([counts, self._extrapolation(method, lead)])
            for (method, lead), counts in self.counts.items()
            if method in rivals
        }

    def _extrapolation(self, method: str, lead: int) -> Counts:
        own = self.beside.get((method, lead))
        return self.counts[EXTRAPOLATION, lead] if own is None else own

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods it has scores of, in alphabetical order."""
        beside = {EXTRAPOLATION} if self.beside else set()
        return tuple(sorted({method for method, _ in self.counts} | beside))


def write_prior(path: Path, prior: Prior) -> None:
    """Publish a prior as JSON, one line for each method and lead, so that a change of it can be read.

    Raises:
        StorageError: If the disk refuses; what was there before is as it was.
    """
    head = {"format": FORMAT, "provenance": prior.provenance, "thresholds_dbz": JUDGED_DBZ}
    lines = [
        json.dumps(
            {"method": method, "lead_minutes": lead}
            | _entry(counts)
            | ({EXTRAPOLATION: _entry(prior.beside[method, lead])} if (method, lead) in prior.beside else {})
        )
        for (method, lead), counts in sorted(prior.counts.items())
    ]
    opening, rows = json.dumps(head, ensure_ascii=False).removesuffix("}"), ",\n".join(lines)
    durable.write_bytes(path, f'{opening}, "counts": [\n{rows}\n]}}\n'.encode())


def read_prior(path: Path) -> Prior:
    """Return the prior in a file, an empty one if there is no file.

    Raises:
        UnreadableFile: If it is not as :func:`write_prior` left it.
        StorageError: If the disk refuses.
    """
    try:
        content = json.loads(path.read_bytes())
        return _prior(content)
    except FileNotFoundError:
        return Prior()
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableFile(f"{path} holds no prior: {error}") from error
    except OSError as error:
        raise durable.storage_error("read", path, error) from error


@lru_cache(maxsize=1)
def shipped_prior() -> Prior:
    """Return the prior that comes with the package; raises as :func:`read_prior`."""
    return read_prior(PRIOR_FILE)


def _prior(content: Any) -> Prior:
    if content["format"] != FORMAT or tuple(content["thresholds_dbz"]) != JUDGED_DBZ:
        raise ValueError(
            f"expected format {FORMAT} at {JUDGED_DBZ} dBZ, "
            f"got {content['format']!r} at {content['thresholds_dbz']}"
        )
    entries = {(str(entry["method"]), int(entry["lead_minutes"])): entry for entry in content["counts"]}
    beside = {key: _counts(entry[EXTRAPOLATION]) for key, entry in entries.items() if EXTRAPOLATION in entry}
    counts = {key: _counts(entry) for key, entry in entries.items()}
    return Prior(counts, str(content["provenance"]), beside)


def _entry(counts: Counts) -> dict[str, list[int]]:
    return dict(zip(COUNTS, np.rint(counts).astype(int).tolist(), strict=True))


def _counts(entry: Mapping[str, Any]) -> Counts:
    return np.array([entry[name] for name in COUNTS], np.float64)
