"""What methods scored on events, kept piece by piece, so that only what changed is measured again.

A piece is what one method scored on one event: a JSON file with a tally for each issue time and lead. It goes
by the event's files, the method's version or the hash of its weights, and the terms of the measurement; if
one of them changes, it is another piece. A method whose code changes has to change its version, or its
pieces have to be removed. Issue times are added as they are measured, so a run that was killed goes on where
it was, and one with all issue times takes over those of one with few.

In Python, from the cache as far as it has them:

    event = Event("fmi_pgm/20170509", Path("../shared/data/train/fmi_pgm/20170509"))
    scored = {event.name: tallies("extrapolation", event)}
    pooled(scored)[30].rows()

where ``scored``, with more events beside this one, is what :mod:`nowcast.scores.skillfile` pools and keeps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.machine import machine
from benchmarks.pysteps_methods import PYSTEPS
from nowcast.compute import Compute
from nowcast.disk import dates, durable
from nowcast.errors import NotEnoughFrames, StorageError
from nowcast.hindcast.cases import Cases, Outcome, judge
from nowcast.methods.auto import Auto, contenders
from nowcast.methods.fallback import FAILURES
from nowcast.methods.method import Method
from nowcast.methods.registry import METHODS
from nowcast.methods.shipped_scores import PRIOR_FILE, shipped_prior
from nowcast.readers.listing import FrameList
from nowcast.scores.judged import JUDGED_DBZ
from nowcast.scores.tally import WINDOWS_KM, Tally

CACHE = Path(".skill")
WEIGHTS = Path("weights")

#: Version of the file; one of another is another piece.
FORMAT = 1

#: A piece is written this often [s] while it grows: so much work is lost to a kill, besides one forecast.
SAVE_SECONDS = 5.0

#: Told how many forecasts are made, how many there are to make, and the seconds they took with scoring.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Terms:
    """What all methods are measured by alike.

    Attributes:
        history: Frames a forecast looks back on; a method that asks for more has more, where there are.
        leads: Lead times, in the event's own steps.
        thresholds_dbz: A cell at or above is an event.
        windows_km: Widths of the windows of the fractions skill score.
    """

    history: int = 4
    leads: int = 12
    thresholds_dbz: tuple[float, ...] = JUDGED_DBZ
    windows_km: tuple[float, ...] = WINDOWS_KM


@dataclass(frozen=True)
class Event:
    """A folder of radar files of one event.

    Attributes:
        name: What it goes by in tables.
        folder: Where its files are.
    """

    name: str
    folder: Path

    @property
    def paths(self) -> list[Path]:
        """Its files, in order of their names."""
        return sorted(path for path in self.folder.iterdir() if path.is_file())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of its files' names and content."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def events_in(folder: Path) -> list[Event]:
    """Return the events in a folder: itself if it has files, and every folder below that has; by name."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    return sorted(
        (
            Event(folder.name if one == folder else one.relative_to(folder).as_posix(), one)
            for one in folders
            if any(path.is_file() for path in one.iterdir())
        ),
        key=lambda event: event.name,
    )


def made(name: str, compute: Compute) -> Method:
    """Return a method of ours or of pysteps by name.

    Raises:
        KeyError: If there is none of that name.
        NowcastError: What keeps it from being made: no weights, no device, no PyTorch.
    """
    return PYSTEPS[name]() if name in PYSTEPS else METHODS[name](compute)


def version_of(method: Method, compute: Compute) -> str:
    """Return what a method's scores go by: its version, and where it chooses, all it chooses by and from."""
    if not isinstance(method, Auto):
        return method.version
    prior = PRIOR_FILE.read_bytes() if PRIOR_FILE.exists() else b""
    parts = [f"prior {hashlib.sha256(prior).hexdigest()[:12]}"]
    for name in contenders(shipped_prior(), METHODS):
        try:
            parts.append(f"{name} {METHODS[name](compute).version}")
        except FAILURES:  # it chooses without
            parts.append(f"no {name}")
    return ", ".join([method.version, *parts])


def tallies(
    method: str,
    event: Event,
    *,
    compute: Compute | None = None,
    terms: Terms | None = None,
    every: int = 1,
    cache: Path = CACHE,
) -> dict[datetime, dict[int, Tally]]:
    """Return what a method scored on an event by issue time (UTC) and lead [minutes].

    What the cache lacks is measured and added to it. An issue time from which the method could not forecast
    is absent.

    Args:
        method: Name of a method of ours or of pysteps.
        event: The event.
        compute: What networks may use; by default, the weights in :data:`WEIGHTS`.
        terms: By what it is measured.
        every: Distance of issue times, in frames.
        cache: Folder of pieces.

    Raises:
        NowcastError: If the method cannot be made or fails, or no frame of the event can be read.
    """
    compute, terms = compute or Compute(weights=WEIGHTS), terms or Terms()
    one = made(method, compute)
    piece = Piece(cache, event, method, version_of(one, compute), terms)
    piece.measure(one, every)
    return piece.scored(every)


class Piece:
    """What a method scored on an event, as far as it was measured; see the module."""

    def __init__(self, cache: Path, event: Event, method: str, version: str, terms: Terms) -> None:
        """Take over what the cache has."""
        self.event, self.terms = event, terms
        identity = {"format": FORMAT, "event": event.name, "files": event.fingerprint} | {
            "method": method, "version": version, "terms": asdict(terms),
        }  # fmt: skip
        identity = json.loads(json.dumps(identity))  # as it comes back from the file
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.path = cache / event.name.replace("/", "__") / f"{method}-{key}.json"
        self._content = _read(self.path, identity) or {**identity, "times": None, "issues": {}}

    @property
    def credit(self) -> str:
        """Agency and product of the event; empty while nothing was measured."""
        return str(self._content.get("credit", ""))

    def missing(self, every: int) -> int | None:
        """Return how many issue times are not measured yet, ``None`` if it is not known how many are."""
        return None if self._content["times"] is None else len(self._missing(every))

    def scored(self, every: int) -> dict[datetime, dict[int, Tally]]:
        """Return the tallies by issue time and lead [minutes]."""
        return {
            datetime.fromisoformat(time): {
                int(lead): Tally.from_dict(tally) for lead, tally in issue["leads"].items()
            }
            for time, issue in self._issues(every)
            if "leads" in issue
        }

    def seconds(self, every: int) -> list[float]:
        """Return the time [s] of each forecast, all its leads, without the scoring."""
        return [issue["seconds"] for _, issue in self._issues(every) if "leads" in issue]

    def notes(self, every: int) -> list[str]:
        """Return why forecasts fell short or could not be made, one for each that did or could not."""
        reasons = (issue.get("left_out") or issue["degraded"] for _, issue in self._issues(every))
        return [reason for reason in reasons if reason]

    def machines(self, every: int) -> set[str]:
        """Return the machines the forecasts were timed on."""
        return {issue["machine"] for _, issue in self._issues(every)}

    def measure(self, method: Method, every: int, progress: Progress | None = None) -> None:
        """Forecast from the issue times that are missing, and keep what was scored, whatever then happens.

        Raises:
            NowcastError: If the method fails other than for want of frames, or no frame can be read.
        """
        if self.missing(every) == 0:
            return
        frames = FrameList(self.event.paths)
        self._content["times"] = [dates.iso(time) for time in frames.times]
        self._content["credit"] = frames.domain.credit
        try:
            self._measure(method, frames, self._missing(every), progress)
        finally:
            durable.write_json(self.path, self._content)

    def _measure(
        self, method: Method, frames: FrameList, indices: Sequence[int], progress: Progress | None
    ) -> None:
        history = max(self.terms.history, method.frames)
        cases = Cases(frames, history=history, steps=self.terms.leads)
        empty = Tally(
            self.terms.thresholds_dbz, windows_km=self.terms.windows_km, cell_km=frames.grid.cell_km
        )
        started = saved = monotonic()
        for done, index in enumerate(indices):
            if progress:
                progress(done, len(indices), monotonic() - started)
            try:
                outcome = judge(method, cases.at(index), self.terms.leads, empty)
                entry = _entry(outcome, frames.domain.step_minutes)
            except NotEnoughFrames as error:
                entry = {"left_out": str(error)}
            self._content["issues"][dates.iso(frames.times[index])] = {**entry, "machine": machine()}
            if monotonic() - saved > SAVE_SECONDS:
                durable.write_json(self.path, self._content)
                saved = monotonic()
        if progress:
            progress(len(indices), len(indices), monotonic() - started)

    def _wanted(self, every: int) -> range:
        """Return the indices that are issue times: with a full history before and one frame or more after."""
        return range(self.terms.history - 1, len(self._content["times"] or ()) - 1, every)

    def _missing(self, every: int) -> list[int]:
        times, known = self._content["times"], self._content["issues"]
        return [index for index in self._wanted(every) if times[index] not in known]

    def _issues(self, every: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the issue times that were measured, with what they brought."""
        for index in self._wanted(every):
            time = self._content["times"][index]
            if time in self._content["issues"]:
                yield time, self._content["issues"][time]


def _entry(outcome: Outcome, step_minutes: int) -> dict[str, Any]:
    leads = {str(lead * step_minutes): tally.to_dict() for lead, tally in outcome.tallies.items()}
    return {"leads": leads, "seconds": outcome.seconds, "degraded": outcome.degraded_reason}


def _read(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return a piece from its file, ``None`` if there is none or it is another's or damaged."""
    try:
        content = durable.read_json(path)
    except (FileNotFoundError, StorageError):
        return None
    same = isinstance(content, dict) and identity.items() <= content.items()
    return content if same else None
