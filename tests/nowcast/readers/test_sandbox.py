"""The reading process: what it may cost is bounded, and whatever happens to it is one clear error."""

from __future__ import annotations

import gzip
import io
import os
import signal
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_SECONDS

from nowcast.errors import TooLarge, UnknownFormat, UnreadableFile
from nowcast.readers import Limits, read, sandbox
from nowcast.readers.sandbox import SandboxedReader
from nowcast.simulation import Storm
from nowcast.simulation.odim_writer import write_odim


@pytest.fixture(scope="module")
def reader() -> Iterator[SandboxedReader]:
    """One for all tests, which is what it is for: whatever happened to a file, the next one is read."""
    with SandboxedReader(seconds=PATIENCE_SECONDS) as sandboxed:
        yield sandboxed


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    path = tmp_path / "simulated.h5"
    write_odim(path, Storm(seed=2).frame(0))
    return path


def child_of(reader: SandboxedReader) -> int:
    assert reader._child is not None
    return reader._child.pid


def test_a_frame_comes_through_the_process_unchanged(reader: SandboxedReader, simulated: Path) -> None:
    (expected,), (got,) = list(read(simulated)), list(reader.read(simulated))
    np.testing.assert_array_equal(got.values, expected.values)
    assert (got.grid, got.time, got.quantity) == (expected.grid, expected.time, expected.quantity)
    assert (got.interval_minutes, got.source) == (expected.interval_minutes, expected.source)
    assert got.attributes == expected.attributes


def test_the_process_is_kept_between_files(reader: SandboxedReader, simulated: Path) -> None:
    list(reader.read(simulated))
    first = child_of(reader)
    list(reader.read(simulated))
    assert child_of(reader) == first


def test_an_error_of_a_reader_keeps_its_kind_and_sentence(reader: SandboxedReader, tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear radar,")
    with pytest.raises(UnknownFormat, match=r"letter\.txt"):
        list(reader.read(path))


def test_a_read_that_hangs_is_stopped_and_the_next_file_is_read(simulated: Path) -> None:
    with SandboxedReader(seconds=1.0) as reader:
        reader.warm_up()
        os.kill(child_of(reader), signal.SIGSTOP)  # a library in an endless loop looks the same from here
        with pytest.raises(
            UnreadableFile, match=r"simulated\.h5: reading took longer than 1 s and was stopped"
        ):
            list(reader.read(simulated))
        reader.seconds = PATIENCE_SECONDS
        assert len(list(reader.read(simulated))) == 1


def test_an_archive_takes_the_time_of_its_members_and_keeps_the_good_ones(
    reader: SandboxedReader, simulated: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.tar"
    content = simulated.read_bytes()
    with tarfile.open(path, "w") as archive:
        for name, data in (("good.h5", content), ("bad.h5", content[:900]), ("again.h5", content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    frames = reader.read(path)
    (expected,) = read(simulated)
    for _ in range(2):
        np.testing.assert_array_equal(next(frames).values, expected.values)
    with pytest.raises(UnreadableFile, match=r"run\.tar: bad\.h5: expected an HDF5 file"):
        next(frames)
    assert len(list(reader.read(simulated))) == 1


def test_a_process_that_dies_is_an_error_of_that_file_only(
    reader: SandboxedReader, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.warm_up()
    os.kill(child_of(reader), signal.SIGSTOP)
    sent = threading.Event()
    receive = sandbox._receive

    def receiving(*arguments: Any) -> bytearray:
        sent.set()
        return receive(*arguments)

    monkeypatch.setattr(sandbox, "_receive", receiving)
    killer = threading.Thread(
        target=lambda pid: sent.wait() and os.kill(pid, signal.SIGKILL), args=(child_of(reader),)
    )
    killer.start()
    with pytest.raises(UnreadableFile, match=r"simulated\.h5: the reading process died of it \(signal 9\)"):
        list(reader.read(simulated))
    killer.join()
    assert len(list(reader.read(simulated))) == 1


def test_memory_beyond_the_bound_is_refused_not_taken(simulated: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pgm.gz"
    head = b"P5\n# obstime 202601010000\n# param CorrectedReflectivity\n# projection radar {\n"
    bomb.write_bytes(gzip.compress(head) + 48 * gzip.compress(bytes(2**24), compresslevel=1))
    generous = Limits(max_expanded_bytes=2**33)
    with SandboxedReader(seconds=PATIENCE_SECONDS, memory_mb=512, limits=generous) as reader:
        assert len(list(reader.read(simulated))) == 1, "the bound is enough for an ordinary file"
        with pytest.raises(TooLarge, match=r"bomb\.pgm\.gz: takes more memory to read than it may"):
            list(reader.read(bomb))


def test_abandoning_a_file_half_way_leaves_no_stale_answer(reader: SandboxedReader, simulated: Path) -> None:
    frames = reader.read(simulated)
    next(frames)
    frames.close()
    assert len(list(reader.read(simulated))) == 1


def test_a_file_left_half_read_does_not_answer_for_the_next(reader: SandboxedReader, simulated: Path) -> None:
    half_read = reader.read(simulated)
    next(half_read)
    assert len(list(reader.read(simulated))) == 1
    assert len(list(reader.read(simulated))) == 1
    half_read.close()
    assert len(list(reader.read(simulated))) == 1
