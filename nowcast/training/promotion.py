"""Promotion: a trained candidate becomes current if it forecasts better than the version it replaces."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from nowcast.disk import durable
from nowcast.errors import InputError, NotFound, StorageError, WeightsError
from nowcast.methods.networks.loading import verified
from nowcast.methods.networks.versions import Change, Shelf, hash_of, trail, version_name
from nowcast.names import EXTRAPOLATION
from nowcast.scores.bootstrap import compare
from nowcast.scores.skillfile import SKILL_FILE, Skill, beside, read_skill, write_skill


@dataclass(frozen=True)
class Promotion:
    """What became of a candidate.

    Attributes:
        version: The version it is now; ``None`` if it was refused.
        against: What it was compared with: a version, or extrapolation.
        verdict: The comparison in one line, or why there is none.
        forced: Whether it was promoted against the verdict.
    """

    version: str | None
    against: str
    verdict: str
    forced: bool = False


class _Verdict(NamedTuple):
    against: str
    is_better: bool
    text: str


def promote(
    store: Path, model: str, candidate: Path, *, force: bool = False, now: datetime | None = None
) -> Promotion:
    """Make a candidate the current version of a model, if it is better than the one before.

    It is better if the whole interval of :func:`nowcast.scores.bootstrap.compare` is above 0: against the
    current version, or for the first one against extrapolation on the candidate's own events. Killed at any
    point, the old version is current or the new one; several at once are judged one after the other.

    Args:
        store: Folder of the model store.
        model: Name of the network.
        candidate: Folder of a checkpoint, with what it scored beside it (``skill.json``).
        force: Promote whatever the comparison says, and record that.
        now: Time of the promotion, UTC; the present if left out.

    Raises:
        UnknownModel: If there is no network of that name.
        WeightsError: If the candidate's weights are missing, damaged or of another network, or the store's
            pointer is damaged.
        StorageError: If the disk refuses; nothing has changed then.
    """
    shelf = Shelf(store, model)
    sha256 = hash_of(candidate)
    verified(model, candidate)
    skill = _skill_of(candidate)
    with shelf.alone():
        now = now or datetime.now(UTC)
        durable.sweep_partials(shelf.folder)
        verdict = _judge(shelf, skill)
        if not (verdict.is_better or force):
            return Promotion(None, verdict.against, verdict.text)
        forced = not verdict.is_better
        version = version_name(now, sha256)
        _add(shelf, version, candidate, sha256, skill)
        reason = f"against {verdict.against}: {verdict.text}"
        scores = (None, None) if isinstance(skill, InputError) else beside(skill)
        try:
            shelf.switch(Change(now, "promote", version, reason, forced, *scores))
        except StorageError:
            if version not in trail(shelf.history()):
                shutil.rmtree(shelf.folder / version, ignore_errors=True)  # the disk may be full
            raise
    return Promotion(version, verdict.against, verdict.text, forced)


def rollback(store: Path, model: str, *, now: datetime | None = None) -> Change:
    """Make the version current that was so before the present one was promoted, and return the change.

    Raises:
        UnknownModel: If there is no network of that name.
        NotFound: If there is none before it.
        WeightsError: If that one is damaged or was removed; nothing has changed then.
        StorageError: If the disk refuses; nothing has changed then.
    """
    shelf = Shelf(store, model)
    with shelf.alone():
        way = trail(shelf.history())
        if len(way) < 2:
            got = f"{way[0]} is the only one" if way else "none was ever promoted"
            raise NotFound(f"expected a version of {model} to go back to, but {got}")
        verified(model, shelf.folder / way[-2])
        change = Change(now or datetime.now(UTC), "rollback", way[-2], f"back from {way[-1]}")
        shelf.switch(change)
    return change


def _judge(shelf: Shelf, skill: Skill | InputError) -> _Verdict:
    """Compare what a candidate scored with the current version, or with extrapolation if there is none."""
    current = shelf.current()
    against = current.name if current else EXTRAPOLATION
    try:
        mine = _known(skill)
        rival = _known(_skill_of(current)).events if current else mine.references.get(EXTRAPOLATION, {})
        comparison = compare(mine.events, rival)
    except InputError as error:
        return _Verdict(against, False, f"not comparable: {error}")
    return _Verdict(against, comparison.is_better, str(comparison))


def _skill_of(checkpoint: Path) -> Skill | InputError:
    """Return what a checkpoint scored, or why that is not known: who forces a promotion may do without."""
    try:
        return read_skill(checkpoint / SKILL_FILE)
    except FileNotFoundError:
        return InputError(f"expected scores in {checkpoint / SKILL_FILE}, but there is no such file")
    except InputError as error:
        return error


def _known(skill: Skill | InputError) -> Skill:
    if isinstance(skill, InputError):
        raise skill
    return skill


def _add(shelf: Shelf, version: str, candidate: Path, sha256: str, skill: Skill | InputError) -> None:
    """Copy a candidate into the store, with the very scores it was judged by."""
    with shelf.adding(version, candidate) as copy:
        verified(shelf.model, copy)
        if hash_of(copy) != sha256:
            raise WeightsError(f"{candidate} changed while it was judged; expected sha256 {sha256}")
        if not isinstance(skill, InputError):
            write_skill(copy / SKILL_FILE, skill)
