"""All forecasts on disk, and which of them is the latest to serve."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from nowcast.disk import files
from nowcast.errors import NoForecast, StorageError, UnknownDomain, UnknownModel
from nowcast.forecast.file import open_forecast, read_lead, read_point, read_record, write_forecast
from nowcast.forecast.prediction import Prediction
from nowcast.forecast.record import ForecastRecord

__all__ = ["ForecastStore", "open_forecast", "read_lead", "read_point", "read_record", "write_forecast"]

log = logging.getLogger(__name__)

#: A domain's and a model's name become names of folders and files: nothing in them may lead elsewhere.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class ForecastStore:
    """Forecasts under ``root/<domain>/YYYY/MM/DD``, one immutable file per issue time and model.

    ``root/<domain>/latest.json`` names the one to serve. It is swapped after the file is durable, and never
    goes back in issue time: forecasts made late, from a backlog, do not displace newer ones.
    """

    def __init__(self, root: Path) -> None:
        """Use the folder ``root``; it is made when the first forecast is saved."""
        self.root = root

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
        found = {time for time, _, _ in self._stored(domain, start, end)}
        return sorted(time for time in found if (not start or time >= start) and (not end or time <= end))

    def models(self, domain: str, issue_time: datetime) -> list[str]:
        """Return the models with a forecast of an issue time, in alphabetical order."""
        return self.models_of(domain, [issue_time])[issue_time]

    def models_of(self, domain: str, issue_times: Iterable[datetime]) -> dict[datetime, list[str]]:
        """Return the models with a forecast of each issue time, in alphabetical order; a day is read once."""
        names: dict[Path, list[str]] = {}
        models = {}
        for issue_time in issue_times:
            folder = files.day_folder(self._folder(domain), issue_time)
            if folder not in names:
                names[folder] = sorted(files.listing(folder))
            start = f"{domain}_{files.stamp(issue_time)}_"
            stored = (name for name in names[folder] if name.startswith(start) and name.endswith(".nc"))
            models[issue_time] = sorted(
                model for name in stored if _NAME.fullmatch(model := name[len(start) : -3])
            )
        return models

    def path(self, domain: str, issue_time: datetime, model: str) -> Path:
        """Return the file of a forecast.

        Raises:
            NoForecast: If there is none.
        """
        path = self._file(domain, issue_time, model)
        if not path.exists():
            raise NoForecast(
                f"domain {domain!r} has no forecast of model {model!r} issued at {files.iso(issue_time)}"
            )
        return path

    def latest(self, domain: str) -> tuple[datetime, str, Path] | None:
        """Return issue time, model and file of the forecast to serve, ``None`` if there is no forecast.

        A pointer that is lost, damaged or points nowhere is replaced by a look at the files.
        """
        pointed = self._pointed(domain)
        if pointed is not None and pointed[2].exists():
            return pointed
        for kept in self._stored(domain, newest_first=True):
            return kept
        return None

    def prune(self, domain: str, older_than: datetime) -> int:
        """Remove the forecasts issued before a time, the latest excepted; return how many.

        Raises:
            StorageError: If the disk refuses.
        """
        latest = self.latest(domain)
        removed = 0
        for issue_time, _, path in list(self._stored(domain, None, older_than)):
            if issue_time < older_than and not (latest and issue_time == latest[0]):
                removed += files.remove(path)
                for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
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
    ) -> Iterator[tuple[datetime, str, Path]]:
        """Yield issue time, model and file of the forecasts of the days ``start`` to ``end``, in order."""
        folder = self._folder(domain)
        for month, month_folder in files.month_folders(folder, start, end, newest_first=newest_first):
            days = (month + name for name in files.listing(month_folder) if len(name) == 2)
            for day in files.midnights(days, start, end, newest_first=newest_first):
                day_folder = files.day_folder(folder, day)
                for name in sorted(files.listing(day_folder), reverse=newest_first):
                    time = files.parse_stamp(name[len(domain) + 1 : len(domain) + 17])
                    model = name[len(domain) + 18 : -3]
                    if time and _NAME.fullmatch(model) and name == _file_name(domain, time, model):
                        yield time, model, day_folder / name

    def _advance(self, domain: str, issue_time: datetime, model: str, path: Path) -> None:
        with files.locked(self._folder(domain) / ".latest.lock"):
            pointed = self._pointed(domain)
            if pointed is None or issue_time >= pointed[0]:
                pointer = {
                    "issue_time": files.iso(issue_time),
                    "model": model,
                    "path": str(path.relative_to(self.root)),
                }
                files.write_json(self._folder(domain) / "latest.json", pointer)

    def _pointed(self, domain: str) -> tuple[datetime, str, Path] | None:
        """Return what the pointer says, ``None`` if there is none that makes sense."""
        try:
            pointer = files.read_json(self._folder(domain) / "latest.json")
            issue_time = datetime.fromisoformat(pointer["issue_time"]).astimezone(UTC)
            return issue_time, pointer["model"], self._file(domain, issue_time, pointer["model"])
        except FileNotFoundError:
            return None
        except (StorageError, UnknownModel, KeyError, TypeError, ValueError) as error:
            log.warning("the pointer to the latest forecast of domain %r is passed over: %s", domain, error)
            return None

    def _folder(self, domain: str) -> Path:
        if not _NAME.fullmatch(domain):
            raise UnknownDomain(f"expected a domain's name of letters, digits, '-' and '_', got {domain!r}")
        return self.root / domain

    def _file(self, domain: str, issue_time: datetime, model: str) -> Path:
        if not _NAME.fullmatch(model):
            raise UnknownModel(f"expected a model's name of letters, digits and '._+-', got {model!r}")
        return files.day_folder(self._folder(domain), issue_time) / _file_name(domain, issue_time, model)


def _file_name(domain: str, issue_time: datetime, model: str) -> str:
    return f"{domain}_{files.stamp(issue_time)}_{model}.nc"
