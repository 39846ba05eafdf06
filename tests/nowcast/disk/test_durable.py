"""Nothing half-written is ever visible, nothing published is lost, and every refusal of the disk is plain."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nowcast.disk import durable
from nowcast.errors import StorageError


def partials(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if durable.is_partial(path.name)]


def test_content_appears_at_the_end_and_all_at_once(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "frame.nc"
    with durable.publish(target) as temporary:
        temporary.write_bytes(b"first half, ")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.name.startswith(f".frame.nc.{os.getpid()}-") and temporary.name.endswith(".tmp")
        with temporary.open("ab") as file:
            file.write(b"second half")
    assert target.read_bytes() == b"first half, second half"
    assert partials(tmp_path) == []


def test_publishing_again_replaces_the_file(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "x", b"old")
    durable.write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_failure_in_the_body_leaves_the_old_content_and_no_trace(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "x", b"old")
    with pytest.raises(ZeroDivisionError), durable.publish(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_refusal_of_the_disk_is_named(tmp_path: Path, number: int, sentence: str) -> None:
    with pytest.raises(StorageError) as caught, durable.publish(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"cannot write {tmp_path / 'x'}: {sentence}"


def test_body_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"), durable.publish(tmp_path / "x"):
        pass


def test_exclusive_publish_never_replaces(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "x", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        durable.write_bytes(tmp_path / "x", b"second", exclusive=True)
    assert (tmp_path / "x").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


def test_exclusive_publish_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    durable.write_bytes(tmp_path / "x", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        durable.write_bytes(tmp_path / "x", b"second", exclusive=True)
    assert (tmp_path / "x").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        steps.append("sync folder" if path.is_dir() else "sync content")
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        steps.append("appear")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    durable.write_bytes(tmp_path / "new folder" / "x", b"content")
    assert steps == ["sync folder", "sync content", "appear", "sync folder"]


WRITER = """
import hashlib, random, sys
from pathlib import Path
from nowcast.disk import durable
target = Path(sys.argv[1])
while True:
    content = random.randbytes(300_000)
    with durable.publish(target) as temporary:
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(content).digest())
            for start in range(0, len(content), 10_000):
                file.write(content[start:start + 10_000])
                file.flush()
"""


def test_killed_writer_never_leaves_a_partial_file_to_readers(tmp_path: Path) -> None:
    target = tmp_path / "latest.bin"
    durable.write_bytes(target, hashlib.sha256(b"").digest())
    seen = set()
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], cwd=Path.cwd())
        first = target.stat().st_ino
        while target.stat().st_ino == first and writer.poll() is None:
            time.sleep(0.005)  # until it is at work
        time.sleep(random.uniform(0.0, 0.03))
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        content = target.read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32]
        seen.add(content[:32])
        assert durable.listing(tmp_path) == ["latest.bin"]
    assert len(seen) == 12
    left = partials(tmp_path)
    removed = durable.sweep_partials(tmp_path, older_than_seconds=-1)
    assert sorted(path.name for path in removed) == sorted(left)
    assert os.listdir(tmp_path) == ["latest.bin"]


FULL_DISK = """
import sys
from pathlib import Path
from nowcast.disk import durable
from nowcast.errors import StorageError
target = Path(sys.argv[1]) / "x"
durable.write_bytes(target, b"old")
if len(sys.argv) > 2:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    durable.write_bytes(target, bytes(3_000_000))
except StorageError as error:
    print(error)
print(sorted(path.name for path in target.parent.iterdir()), target.read_bytes())
"""


def test_file_over_the_limit_counts_as_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), "limited"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == f"cannot write {tmp_path / 'x'}: the disk is full\n['x'] b'old'\n"


def test_disk_that_really_is_full_loses_nothing(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small disk")
    inner = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec {sys.executable} -c '{FULL_DISK}' {tmp_path}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inner], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"this machine mounts no small disk: {done.stderr.strip()}")
    assert done.stdout == f"cannot write {tmp_path / 'x'}: the disk is full\n['x'] b'old'\n", done.stderr


def test_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot make"):
        durable.write_bytes(tmp_path / "a" / "b" / "x", b"")


def test_sweep_takes_only_what_killed_writers_left(tmp_path: Path) -> None:
    old, young = tmp_path / "d" / ".x.nc.17-0a1b2c3d.tmp", tmp_path / "d" / ".y.nc.17-0a1b2c3d.tmp"
    folder = tmp_path / ".z.zarr.17-0a1b2c3d.tmp"
    busy = tmp_path / ".busy.zarr.17-0a1b2c3d.tmp"
    kept = [tmp_path / "x.tmp", tmp_path / ".hidden", tmp_path / "d" / "frame.nc"]
    for path in (old, young, *kept, folder / "c" / "0", busy / "c" / "0"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    long_ago = time.time() - 7200
    for path in (old, *kept, folder / "c" / "0", folder / "c", folder, busy / "c", busy):
        os.utime(path, (long_ago, long_ago))
    assert sorted(durable.sweep_partials(tmp_path)) == sorted([folder, old])
    assert not old.exists() and not folder.exists()
    assert young.exists() and busy.exists() and all(path.exists() for path in kept)


def test_listing_hides_partial_files_and_bears_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / ".x.nc.17-0a1b2c3d.tmp").write_bytes(b"")
    (tmp_path / "x.nc").write_bytes(b"")
    assert durable.listing(tmp_path) == ["x.nc"]
    assert durable.listing(tmp_path / "x.nc") == []
    assert durable.listing(tmp_path / "nowhere") == []


def test_folder_is_published_whole_and_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with durable.publish_folder(target) as temporary:
        (temporary / "c").mkdir()
        (temporary / "c" / "0").write_bytes(b"chunk")
        assert not target.exists()
    assert (target / "c" / "0").read_bytes() == b"chunk"
    with pytest.raises(FileExistsError), durable.publish_folder(target):
        raise AssertionError("the body must not run")
    with pytest.raises(ZeroDivisionError), durable.publish_folder(tmp_path / "other") as temporary:
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["store"]


def test_folder_made_by_another_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with pytest.raises(FileExistsError), durable.publish_folder(target):
        target.mkdir()
        (target / "theirs").write_bytes(b"")
    assert os.listdir(tmp_path) == ["store"] and os.listdir(target) == ["theirs"]


def test_json_comes_back_and_refuses_what_json_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    durable.write_json(path, {"place": "Jyväskylä", "csi": None, "counts": [1, 2.5]})
    assert durable.read_json(path) == {"place": "Jyväskylä", "csi": None, "counts": [1, 2.5]}
    assert "Jyväskylä" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        durable.write_json(path, {"csi": float("nan")})
    assert durable.read_json(path)["counts"] == [1, 2.5]
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StorageError, match="expected JSON"):
        durable.read_json(path)
    with pytest.raises(FileNotFoundError):
        durable.read_json(tmp_path / "nowhere.json")


def test_removing_tells_whether_there_was_something(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "x", b"")
    assert durable.remove(tmp_path / "x") is True
    assert durable.remove(tmp_path / "x") is False


def test_damaged_file_is_set_aside_under_another_ending(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "x.nc", b"damaged")
    aside = durable.set_aside(tmp_path / "x.nc")
    assert aside.read_bytes() == b"damaged" and not aside.name.endswith(".nc")
    assert os.listdir(tmp_path) == [aside.name]


def test_lock_keeps_others_out_until_its_holder_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "d" / ".lock"
    holder = os.fork()
    if holder == 0:
        with durable.locked(lock):
            (tmp_path / "held").touch()
            time.sleep(60)
        os._exit(1)
    while not (tmp_path / "held").exists():
        time.sleep(0.005)
    waiter = os.fork()
    if waiter == 0:
        with durable.locked(lock):
            (tmp_path / "got").touch()
        os._exit(0)
    time.sleep(0.1)
    assert not (tmp_path / "got").exists()
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert os.waitpid(waiter, 0)[1] == 0
    assert (tmp_path / "got").exists()
