"""All forecasts on disk, and which of them is the latest to serve."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from nowcast.disk import durable
from nowcast.disk.dated_tree import DatedFile, DatedTree
from nowcast.disk.dates import iso
from nowcast.errors import NoForecast, StorageError, UnknownModel
from nowcast.forecast.file import open_forecast, read_lead, read_point, read_record, write_forecast
from nowcast.forecast.prediction import Prediction
from nowcast.forecast.record import ForecastRecord

__all__ = ["ForecastStore", "open_forecast", "read_lead", "read_point", "read_record", "write_forecast"]

log = logging.getLogger(__name__)

#: A model's name becomes part of a file's name: nothing in it may lead elsewhere.
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class ForecastStore:
    """Forecasts under ``root/<domain>/YYYY/MM/DD``, one immutable file per issue time and model.

    ``root/<domain>/latest.json`` names the one to serve. It is swapped after the file is durable, and never
    goes back in issue time: forecasts made late, from a backlog, do not displace newer ones.
    """

    def __init__(self, root: Path) -> None:
        """Use the folder ``root``; it is made when the first forecast is saved."""
        self.root = root
        self._tree = DatedTree(root, suffix=".nc", labelled=True)

    def save(self, record: ForecastRecord, prediction: Prediction, *, serve: bool = True) -> Path:
        """Keep a forecast and return its file; one that is kept already is not computed again.

        Args:
            record: What the forecast says about itself.
            prediction: Its fields, taken one by one.
            serve: Whether it may become the latest (a forecast made for comparison only may not).

        Raises:
            StorageError: If the disk refuses; nothing is left behind.
        """
        path = self._file(record.domain, record.issue_time, record.model)
        if not path.exists():
            with suppress(FileExistsError):  # another worker was faster with the same forecast
                write_forecast(path, record, prediction, exclusive=True)
        if serve:
            self._advance(record.domain, record.issue_time, record.model, path)
        return path

    def issue_times(
        self, domain: str, start: datetime | None = None, end: datetime | None = None
    ) -> list[datetime]:
        """Return the issue times from ``start`` to ``end``, both included, that have a forecast, in order."""
        found = {forecast.time for forecast in self._stored(domain, start, end)}
        return sorted(time for time in found if (not start or time >= start) and (not end or time <= end))

    def models(self, domain: str, issue_time: datetime) -> list[str]:
        """Return the models with a forecast of an issue time, in alphabetical order."""
        return self.models_of(domain, [issue_time])[issue_time]

    def models_of(self, domain: str, issue_times: Iterable[datetime]) -> dict[datetime, list[str]]:
        """Return the models with a forecast of each issue time, in alphabetical order; a day is read once."""
        models: dict[datetime, list[str]] = {time: [] for time in issue_times}
        if models:
            for forecast in self._stored(domain, min(models), max(models)):
                if forecast.time in models:
                    models[forecast.time].append(forecast.label)
        return {time: sorted(labels) for time, labels in models.items()}

    def path(self, domain: str, issue_time: datetime, model: str) -> Path:
        """Return the file of a forecast.

        Raises:
            NoForecast: If there is none.
        """
        path = self._file(domain, issue_time, model)
        if not path.exists():
            raise NoForecast(
                f"domain {domain!r} has no forecast of model {model!r} issued at {iso(issue_time)}"
            )
        return path

    def latest(self, domain: str) -> tuple[datetime, str, Path] | None:
        """Return issue time, model and file of the forecast to serve, ``None`` if there is no forecast.

        A pointer that is lost, damaged or points nowhere is replaced by a look at the files.
        """
        pointed = self._pointed(domain)
        if pointed is not None and pointed[2].exists():
            return pointed
        newest = next(self._stored(domain, newest_first=True), None)
        return None if newest is None else (newest.time, newest.label, newest.path)

    def prune(self, domain: str, older_than: datetime) -> int:
        """Remove the forecasts issued before a time, the latest excepted; return how many.

        Raises:
            StorageError: If the disk refuses.
        """
        latest = self.latest(domain)
        removed = 0
        for forecast in list(self._stored(domain, None, older_than)):
            if forecast.time < older_than and not (latest and forecast.time == latest[0]):
                removed += durable.remove(forecast.path)
                for folder in list(forecast.path.parents)[:3]:
                    with suppress(OSError):  # not empty yet
                        folder.rmdir()
        return removed

    def _stored(
        self,
        domain: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[DatedFile]:
        """Yield the forecasts of the days ``start`` to ``end``, labelled by model, by issue time."""
        for day in self._tree.days(domain, start, end, newest_first=newest_first):
            for forecast in self._tree.files_of_day(domain, day, newest_first=newest_first):
                if _MODEL_NAME.fullmatch(forecast.label):
                    yield forecast

    def _advance(self, domain: str, issue_time: datetime, model: str, path: Path) -> None:
        with durable.locked(self._tree.folder(domain) / ".latest.lock"):
            pointed = self._pointed(domain)
            if pointed is None or issue_time >= pointed[0]:
                pointer = {
                    "issue_time": iso(issue_time),
                    "model": model,
                    "path": str(path.relative_to(self.root)),
                }
                durable.write_json(self._tree.folder(domain) / "latest.json", pointer)

    def _pointed(self, domain: str) -> tuple[datetime, str, Path] | None:
        """Return what the pointer says, ``None`` if there is none that makes sense."""
        try:
            pointer = durable.read_json(self._tree.folder(domain) / "latest.json")
            issue_time = datetime.fromisoformat(pointer["issue_time"]).astimezone(UTC)
            return issue_time, pointer["model"], self._file(domain, issue_time, pointer["model"])
        except FileNotFoundError:
            return None
        except (StorageError, UnknownModel, KeyError, TypeError, ValueError) as error:
            log.warning("the pointer to the latest forecast of domain %r is passed over: %s", domain, error)
            return None

    def _file(self, domain: str, issue_time: datetime, model: str) -> Path:
        if not _MODEL_NAME.fullmatch(model):
            raise UnknownModel(f"expected a model's name of letters, digits and '._+-', got {model!r}")
        return self._tree.file(domain, issue_time, model)
