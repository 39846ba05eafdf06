"""Ingest: each kind of frame has one outcome, and nothing is lost on the way."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from weather import DOMAIN, GRID, START, STEP, drop, filled, raw_frames, settings

from nowcast import errors
from nowcast.archive.archive import Archive
from nowcast.disk.data_folder import DataFolder
from nowcast.errors import StorageError
from nowcast.frame.frame import RawFrame, normalise
from nowcast.readers.sandbox import SandboxedReader
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry
from worker.bus import FRAMES, Bus
from worker.ingest import OUTCOMES, PATIENCE_SECONDS, RETRY_SECONDS, SETTLED_SECONDS, Ingest

Frames = tuple[RawFrame, ...]

NOW = START + timedelta(hours=3)


class Clock:
    """Time that passes only when told to, for files that are dated by it."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def time(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def touch(self, path: Path) -> None:
        os.utime(path, (self.seconds, self.seconds))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("worker.ingest.time", clock)
    return clock


@pytest.fixture
def here(data_dir: Path) -> Settings:
    return settings(data_dir)


@pytest.fixture(scope="module")
def reader() -> Iterator[SandboxedReader]:
    with SandboxedReader() as sandboxed:
        yield sandboxed


@pytest.fixture
def ingest(here: Settings, reader: SandboxedReader) -> Ingest:
    worker = Ingest(here, Telemetry(), reader=reader, clock=lambda: NOW)
    worker.prepare()
    return worker


@pytest.fixture(scope="module")
def storm() -> Frames:
    return raw_frames(4)


def note_of(here: Settings, path: Path) -> dict[str, list[dict[str, str]]]:
    content: dict[str, list[dict[str, str]]] = json.loads(
        (here.folder.quarantine("sim") / f"{path.name}.json").read_text()
    )
    return content


def assert_quarantined(here: Settings, path: Path, outcome: str, reason: str) -> None:
    assert not path.exists()
    assert (here.folder.quarantine("sim") / path.name).exists()
    (refusal,) = note_of(here, path)["refusals"]
    assert refusal["outcome"] == outcome
    assert reason in refusal["reason"]


def test_a_frame_is_archived_with_its_values_and_leaves_the_inbox(
    ingest: Ingest, here: Settings, storm: Frames
) -> None:
    path = drop(storm[0], here.folder.inbox("sim"))
    assert ingest.take("sim", path) == Counter(archived=1)
    archived = Archive(here.folder.archive).load("sim", START)
    expected = normalise(storm[0], replace(DOMAIN, grid=GRID))
    np.testing.assert_allclose(archived.values, expected.values, atol=0.26)  # ODIM's half-dBZ steps
    assert not path.exists()
    assert not here.folder.quarantine("sim").exists()


def test_the_same_frame_again_is_a_duplicate_and_leaves_the_inbox(
    ingest: Ingest, here: Settings, storm: Frames
) -> None:
    ingest.take("sim", drop(storm[0], here.folder.inbox("sim")))
    path = drop(storm[0], here.folder.inbox("sim"), "again.h5")
    assert ingest.take("sim", path) == Counter(duplicate=1)
    assert not path.exists()


def test_another_frame_of_a_known_time_is_kept_in_quarantine(
    ingest: Ingest, here: Settings, storm: Frames
) -> None:
    ingest.take("sim", drop(storm[0], here.folder.inbox("sim")))
    path = drop(storm[1], here.folder.inbox("sim"), "revised.h5", time=storm[0].time)
    assert ingest.take("sim", path) == Counter(conflict=1)
    assert_quarantined(here, path, "conflict", "2026-01-01T12:00")


def test_a_damaged_member_of_an_archive_loses_no_other_and_stays_in_quarantine(
    ingest: Ingest, here: Settings, storm: Frames
) -> None:
    members = [drop(raw, here.folder.inbox("sim"), f"{index}.h5") for index, raw in enumerate(storm[:3])]
    path = here.folder.inbox("sim") / "run.tar"
    with tarfile.open(path, "w") as archive:
        for index in (2, 1, 0):
            content = members[index].read_bytes()[: 900 if index == 1 else None]
            info = tarfile.TarInfo(f"{index}.h5")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    long_ago = time.time() - 60
    os.utime(path, (long_ago, long_ago))
    assert ingest.take("sim", path) == Counter(archived=2, unreadable=1)
    assert Archive(here.folder.archive).times("sim") == [START, START + 2 * STEP]
    assert_quarantined(here, path, "unreadable", "run.tar: 1.h5: expected an HDF5 file")


def test_a_frame_on_another_grid_is_kept_in_quarantine(ingest: Ingest, here: Settings, storm: Frames) -> None:
    ingest.take("sim", drop(storm[0], here.folder.inbox("sim")))
    path = drop(storm[1], here.folder.inbox("sim"), grid=replace(GRID, x0=GRID.x0 + 2000))
    assert ingest.take("sim", path) == Counter(wrong_grid=1)
    assert_quarantined(here, path, "wrong_grid", "domain 'sim' has 80 x 96 cells")


def test_a_frame_on_another_grid_is_reprojected_where_the_domain_says_so(
    data_dir: Path, storm: Frames, reader: SandboxedReader
) -> None:
    shifted = replace(GRID, x0=GRID.x0 + 2000, nx=90)
    here = settings(data_dir, reproject=True, grid=shifted)
    worker = Ingest(here, Telemetry(), reader=reader, clock=lambda: NOW)
    assert worker.take("sim", drop(storm[0], here.folder.inbox("sim"))) == Counter(archived=1)
    archived = Archive(DataFolder(data_dir).archive).load("sim", START).values
    expected = normalise(storm[0], replace(DOMAIN, grid=GRID)).values[:, 1:91]
    np.testing.assert_allclose(archived, expected, atol=0.26)


def test_an_older_frame_is_archived_as_out_of_order_or_late(
    ingest: Ingest, here: Settings, storm: Frames
) -> None:
    ingest.take("sim", drop(storm[2], here.folder.inbox("sim")))
    assert ingest.take("sim", drop(storm[1], here.folder.inbox("sim"))) == Counter(out_of_order=1)
    long_ago = drop(storm[0], here.folder.inbox("sim"), time=START - timedelta(hours=2))
    assert ingest.take("sim", long_ago) == Counter(late=1)
    times = Archive(here.folder.archive).times("sim")
    assert times == [START - timedelta(hours=2), START + STEP, START + 2 * STEP]


def test_a_frame_from_the_future_is_kept_in_quarantine(ingest: Ingest, here: Settings, storm: Frames) -> None:
    path = drop(storm[0], here.folder.inbox("sim"), time=NOW + timedelta(minutes=11))
    assert ingest.take("sim", path) == Counter(future=1)
    assert_quarantined(here, path, "future", "11 minutes ahead of the clock; at most 10 are allowed")


def test_a_slightly_fast_clock_is_no_reason_to_refuse(ingest: Ingest, here: Settings, storm: Frames) -> None:
    path = drop(storm[0], here.folder.inbox("sim"), time=NOW + timedelta(minutes=10))
    assert ingest.take("sim", path) == Counter(archived=1)


def test_a_dry_frame_is_archived_as_no_echo(ingest: Ingest, here: Settings, storm: Frames) -> None:
    path = drop(filled(storm[0], -np.inf), here.folder.inbox("sim"), "dry.h5")
    assert ingest.take("sim", path) == Counter(archived=1)
    values = Archive(here.folder.archive).load("sim", START).values
    assert (values == -10.0).all()


def test_a_frame_without_one_observed_pixel_is_kept_in_quarantine(
    ingest: Ingest, here: Settings, storm: Frames
) -> None:
    path = drop(filled(storm[0], np.nan), here.folder.inbox("sim"), "outage.h5")
    assert ingest.take("sim", path) == Counter(empty=1)
    assert_quarantined(here, path, "empty", "not one of 7680 pixels is observed at 2026-01-01T12:00Z")


def test_a_file_of_no_known_format_is_kept_in_quarantine(ingest: Ingest, here: Settings) -> None:
    path = here.folder.inbox("sim") / "letter.txt"
    path.write_text("Dear radar,")
    os.utime(path, (0, 0))
    assert ingest.take("sim", path) == Counter(unknown_format=1)
    assert_quarantined(here, path, "unknown_format", "letter.txt")


def test_a_truncated_file_goes_to_quarantine_once_it_stopped_growing(
    ingest: Ingest, here: Settings, storm: Frames, clock: Clock
) -> None:
    path = drop(storm[0], here.folder.inbox("sim"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    clock.touch(path)
    clock.seconds += 0.9 * PATIENCE_SECONDS
    assert ingest.take("sim", path) == Counter()  # its writer may be slow
    assert path.exists()
    clock.seconds += 0.2 * PATIENCE_SECONDS
    assert ingest.take("sim", path) == Counter(unreadable=1)
    assert_quarantined(here, path, "unreadable", path.name)


def test_a_file_that_was_still_being_written_is_taken_when_it_is_whole(
    ingest: Ingest, here: Settings, storm: Frames, clock: Clock
) -> None:
    path = drop(storm[0], here.folder.inbox("sim"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    clock.touch(path)
    assert ingest.poll() == 0  # too young to be complete
    clock.seconds += 1.1 * SETTLED_SECONDS
    assert ingest.poll() == 1  # looked at, and left
    assert path.exists()
    path.write_bytes(whole)
    clock.touch(path)
    clock.seconds += 1.1 * SETTLED_SECONDS
    assert ingest.poll() == 0  # it has been tried only just
    assert path.exists()
    clock.seconds += RETRY_SECONDS
    assert ingest.poll() == 1
    assert not path.exists()
    assert Archive(here.folder.archive).times("sim") == [START]


def test_hidden_and_unfinished_names_are_left_alone(ingest: Ingest, here: Settings, storm: Frames) -> None:
    for name in (".hidden.h5", "frame.h5.part", "frame.h5.tmp"):
        path = drop(storm[0], here.folder.inbox("sim"), name)
        os.utime(path, (0, 0))
    os.mkfifo(here.folder.inbox("sim") / "pipe.h5")
    os.utime(here.folder.inbox("sim") / "pipe.h5", (0, 0))
    assert ingest.poll() == 0


def test_names_taken_in_quarantine_are_numbered(ingest: Ingest, here: Settings) -> None:
    for content in ("one", "two"):
        path = here.folder.inbox("sim") / "letter.txt"
        path.write_text(content)
        os.utime(path, (0, 0))
        ingest.take("sim", path)
    kept = sorted(path.name for path in here.folder.quarantine("sim").iterdir())
    assert kept == ["letter.2.txt", "letter.2.txt.json", "letter.txt", "letter.txt.json"]


def test_a_full_disk_leaves_the_file_in_the_inbox(ingest: Ingest, here: Settings, storm: Frames) -> None:
    path = drop(storm[0], here.folder.inbox("sim"))
    os.utime(path, (0, 0))
    (here.folder.archive).write_text("a file where the archive's folder should be")
    assert ingest.poll() == 0
    assert path.exists()
    with pytest.raises(StorageError):
        ingest.take("sim", path)
    (here.folder.archive).unlink()
    assert ingest.take("sim", path) == Counter(archived=1)


def test_each_archived_frame_is_announced(here: Settings, storm: Frames, client: redis.Redis) -> None:
    worker = Ingest(here, Telemetry(), Bus(client), clock=lambda: NOW)
    worker.prepare()
    try:
        path = drop(storm[0], here.folder.inbox("sim"))
        arrived = path.stat().st_ctime
        worker.take("sim", path)
    finally:
        worker.close()
    ((_, fields),) = client.xrange(FRAMES)
    assert (fields["domain"], fields["time"], fields["v"]) == ("sim", "2026-01-01T12:00:00+00:00", "1")
    assert float(fields["arrived"]) == pytest.approx(arrived, abs=0.001)


def test_outcomes_are_counted(here: Settings, storm: Frames, reader: SandboxedReader) -> None:
    telemetry = Telemetry()
    worker = Ingest(here, telemetry, reader=reader, clock=lambda: NOW)
    for name in ("first.h5", "second.h5"):
        worker.take("sim", drop(storm[0], here.folder.inbox("sim"), name))
    counts = {
        outcome: telemetry.registry.get_sample_value(
            "nowcast_frames_total", {"domain": "sim", "outcome": outcome}
        )
        for outcome in ("archived", "duplicate")
    }
    assert counts == {"archived": 1.0, "duplicate": 1.0}


def test_every_refusal_of_a_frame_has_an_outcome() -> None:
    def leaves(kind: type[Exception]) -> Iterator[type[Exception]]:
        for child in kind.__subclasses__():
            yield from leaves(child) if child.__subclasses__() else [child]

    assert {*leaves(errors.InputError), errors.UnreadableFile} == set(OUTCOMES)


class Killed(SandboxedReader):
    """A reading process that somebody ends while it reads, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def _header(self, *arguments: Any) -> dict[str, Any]:
        if self.left and self._answering and self._child is not None:
            self.left -= 1
            self._child.kill()
        return super()._header(*arguments)


@pytest.mark.parametrize(("times", "archived"), [(1, True), (2, False)])
def test_a_file_whose_reader_was_killed_once_is_read_again_and_twice_is_set_aside(
    here: Settings, storm: Frames, times: int, archived: bool
) -> None:
    path = drop(storm[0], here.folder.inbox("sim"))
    os.utime(path, (1, 1))  # its writer is long done
    with Killed(times) as reader:
        worker = Ingest(here, Telemetry(), reader=reader, clock=lambda: NOW)
        worker.prepare()
        assert worker.take("sim", path) == Counter()
        assert path.exists()
        outcome = worker.take("sim", path)
    assert outcome == (Counter(archived=1) if archived else Counter(unreadable=1))
    assert not path.exists()
    if archived:
        assert Archive(here.folder.archive).times("sim") == [START]
    else:
        assert_quarantined(here, path, "unreadable", "the reading process died of it")
