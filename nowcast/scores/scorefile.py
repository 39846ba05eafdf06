"""The files a score book is made of: the scores of one valid time, and those of a whole day."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nowcast.disk import durable
from nowcast.errors import UnreadableFile
from nowcast.scores.tally import Tally

#: Which forecast: model and lead time [minutes]. With a valid time that is one forecast field.
ModelLead = tuple[str, int]
Scores = dict[ModelLead, Tally]

#: A model and lead time, its sums, and those of a reference over the same valid times.
Pair = tuple[ModelLead, Tally, Tally]

#: Version of both formats; a file of another one is refused rather than misread.
FORMAT = 1

_DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error, ValueError, KeyError, TypeError, StopIteration)


@dataclass(frozen=True)
class _Series:
    """The scores of one model and lead time over a day.

    Attributes:
        key: Model and lead time.
        times: Valid times, UTC, ``(n,)`` datetime64[s].
        tallies: Their sums, with ``n`` as the last axis.
    """

    key: ModelLead
    times: NDArray[np.datetime64]
    tallies: Tally

    def pooled(self, inside: NDArray[np.bool_]) -> Tally:
        """Return the sums over some of the times."""
        return self.tallies.with_sums([sums[..., inside].sum(axis=-1) for sums in self.tallies.sums])

    def items(self) -> Iterator[tuple[datetime, Tally]]:
        """Yield each time with its scores."""
        for i, time in enumerate(self.times.tolist()):
            yield (
                time.replace(tzinfo=UTC),
                self.tallies.with_sums([sums[..., i] for sums in self.tallies.sums]),
            )


class DayTable:
    """All scores of a day, stacked so that any span of it is summed at once."""

    def __init__(self, series: Iterable[_Series] = ()) -> None:
        """Hold the series, of a model and lead time at different thresholds the newest first."""
        self.series = sorted(series, key=lambda one: one.times.max(), reverse=True)

    @classmethod
    def of(cls, scores: Mapping[datetime, Scores]) -> DayTable:
        """Return the table of the scores of each valid time."""
        groups: dict[tuple[Any, ...], list[tuple[datetime, Tally]]] = {}
        for time, of_time in scores.items():
            for key, tally in of_time.items():
                group = (key, tally.thresholds_dbz, tally.windows_km)
                groups.setdefault(group, []).append((time, tally))
        return cls(
            _Series(
                group[0],
                np.array([_utc(time) for time, _ in members]),
                members[0][1].with_sums(
                    [
                        np.stack(sums, axis=-1)
                        for sums in zip(*(tally.sums for _, tally in members), strict=True)
                    ]
                ),
            )
            for group, members in groups.items()
        )

    def pooled(
        self, start: datetime | None = None, end: datetime | None = None
    ) -> list[tuple[ModelLead, Tally]]:
        """Return the sums over a span, ends included, the newest first where thresholds changed in it."""
        pooled = []
        for one in self.series:
            inside = _inside(one.times, start, end)
            if inside.any():
                pooled.append((one.key, one.pooled(inside)))
        return pooled

    def paired(
        self, reference: str, start: datetime | None = None, end: datetime | None = None
    ) -> list[Pair]:
        """Return the sums of every other model beside a reference's, over valid times in a span both have."""
        pairs = []
        beside = [one for one in self.series if one.key[0] == reference]
        for one in self.series:
            for other in beside:
                if other.key[1] != one.key[1] or other is one or not one.tallies.is_like(other.tallies):
                    continue
                both = np.intersect1d(one.times, other.times)
                both = both[_inside(both, start, end)]
                if both.size:
                    own, others = (each.pooled(np.isin(each.times, both)) for each in (one, other))
                    pairs.append((one.key, own, others))
        return pairs

    def scores(self) -> dict[datetime, Scores]:
        """Return the scores of each valid time."""
        scores: dict[datetime, Scores] = {}
        for one in self.series:
            for time, tally in one.items():
                scores.setdefault(time, {})[one.key] = tally
        return scores


def _inside(times: NDArray[np.datetime64], start: datetime | None, end: datetime | None) -> NDArray[np.bool_]:
    """Return which times lie in a span, ends included."""
    inside: NDArray[np.bool_] = np.full(times.shape, True)
    if start is not None:
        inside &= times >= _utc(start)
    if end is not None:
        inside &= times <= _utc(end)
    return inside


def write_time(path: Path, valid_time: datetime, scores: Mapping[ModelLead, Tally]) -> None:
    """Publish the scores of one valid time as JSON.

    Raises:
        StorageError: If the disk refuses; what was there before is as it was.
    """
    stamp = valid_time.astimezone(UTC).isoformat()
    entries = [_entry(key, tally) for key, tally in scores.items()]
    durable.write_bytes(path, _dumps({"format": FORMAT, "valid_time": stamp, "scores": entries}))


def read_time(path: Path) -> Scores:
    """Return the scores of one valid time.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableFile: If it is not as :func:`write_time` left it.
        StorageError: If the disk refuses.
    """
    with _reading(path):
        content = _checked(json.loads(path.read_bytes()))
        return {_key(entry): Tally.from_dict(entry) for entry in content["scores"]}


def write_day(path: Path, table: DayTable) -> None:
    """Publish the scores of a day as gzipped lines of JSON: the sums, then a line of columns for each series.

    Raises:
        StorageError: If the disk refuses; what was there before is as it was.
    """
    sums = [_entry(key, tally) for key, tally in table.pooled()]
    with durable.publish(path) as temporary, gzip.open(temporary, "wb", compresslevel=1) as file:
        file.write(_dumps({"format": FORMAT, "series": len(table.series), "sums": sums}))
        for one in table.series:
            times = np.datetime_as_string(one.times, unit="s", timezone="UTC").tolist()
            file.write(_dumps({**_entry(one.key, one.tallies), "valid_times": times}))


def read_day(path: Path) -> DayTable:
    """Return the scores of a day.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableFile: If it is not as :func:`write_day` left it.
        StorageError: If the disk refuses.
    """
    with _reading(path), gzip.open(path, "rb") as file:
        head = _checked(json.loads(next(file)))
        series = []
        for line in file:
            columns = json.loads(line)
            times = np.array([time.removesuffix("Z") for time in columns["valid_times"]], "datetime64[s]")
            series.append(_Series(_key(columns), times, Tally.from_dict(columns, length=times.size)))
        if len(series) != head["series"]:
            raise ValueError(f"expected {head['series']} series, got {len(series)}")
        return DayTable(series)


def read_day_sums(path: Path) -> list[tuple[ModelLead, Tally]]:
    """Return the sums over a whole day, the newest first where thresholds changed within it.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableFile: If it does not begin as :func:`write_day` left it.
        StorageError: If the disk refuses.
    """
    with _reading(path), gzip.open(path, "rb") as file:
        head = _checked(json.loads(next(file)))
        return [(_key(entry), Tally.from_dict(entry)) for entry in head["sums"]]


def _entry(key: ModelLead, tally: Tally) -> dict[str, Any]:
    return {"model": key[0], "lead_minutes": key[1], **tally.to_dict()}


def _key(entry: Mapping[str, Any]) -> ModelLead:
    return str(entry["model"]), int(entry["lead_minutes"])


def _checked(content: Any) -> Any:
    if content["format"] != FORMAT:
        raise ValueError(f"expected format {FORMAT}, got {content['format']!r}")
    return content


def _dumps(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _utc(time: datetime) -> np.datetime64:
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "s")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a damaged file or a failing disk raises into the errors of this project."""
    try:
        yield
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise UnreadableFile(f"{path} holds no scores: {error or type(error).__name__}") from error
    except OSError as error:
        raise durable.storage_error("read", path, error) from error
