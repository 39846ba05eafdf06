"""The model store: a pointer that is whole or not believed, and the way back through the versions."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from candidates import candidate

from nowcast.errors import NotFound, StorageError, UnknownModel, WeightsError
from nowcast.methods.networks.checkpoint import load
from nowcast.methods.networks.versions import Change, Shelf, current_of, hash_of, shelves, trail, version_name

NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def change(version: str, action: Any = "promote", minutes: int = 0) -> Change:
    return Change(NOON + timedelta(minutes=minutes), action, version)


def shelved(store: Path, candidate_folder: Path, minutes: int = 0) -> str:
    """Put a candidate on the shelf and make it current; return its version."""
    shelf = Shelf(store, "convlstm")
    version = version_name(NOON + timedelta(minutes=minutes), hash_of(candidate_folder))
    with shelf.adding(version, candidate_folder):
        pass
    shelf.switch(change(version, minutes=minutes))
    return version


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    assert current_of(tmp_path / "absent", "convlstm") is None
    assert shelves(tmp_path / "absent") == []
    shelf = Shelf(tmp_path, "convlstm")
    assert (shelf.versions(), shelf.history()) == ([], ())
    with pytest.raises(NotFound, match="no version of convlstm was promoted"):
        shelf.version()


def test_a_version_is_a_copy_for_reading_only(tmp_path: Path) -> None:
    trained = candidate(tmp_path / "trained", None)
    version = shelved(tmp_path / "store", trained)
    folder = current_of(tmp_path / "store", "convlstm")
    assert folder == tmp_path / "store" / "convlstm" / version
    assert version == f"20261128T120000-{load(trained).sha256[:8]}"
    copied = {path.name for path in folder.iterdir()}
    assert copied == {"weights.safetensors", "config.json", "card.md", "curves.csv"}  # and no training state
    assert all((folder / name).read_bytes() == (trained / name).read_bytes() for name in copied)
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in folder.iterdir())


def test_a_shelf_tells_versions_from_what_else_lies_there(tmp_path: Path) -> None:
    first = shelved(tmp_path, candidate(tmp_path / "one", None))
    second = shelved(tmp_path, candidate(tmp_path / "two", None, seed=1), minutes=1)
    shelf = Shelf(tmp_path, "convlstm")
    (shelf.folder / ".half.tmp").mkdir()
    (shelf.folder / "empty").mkdir()
    assert shelf.versions() == [first, second]
    assert shelf.version().name == second
    assert shelf.version(first).name == first
    assert shelves(tmp_path) == [shelf]
    for wrong in ("empty", "../one", "none"):
        with pytest.raises(NotFound, match=f"among {first}, {second}; got"):
            shelf.version(wrong)


def test_a_checkpoint_that_lies_there_without_a_pointer_is_no_version(tmp_path: Path) -> None:
    """So it was before there was a store: ``weights/convlstm/config.json``."""
    candidate(tmp_path / "convlstm", None)
    assert current_of(tmp_path, "convlstm") is None
    assert shelves(tmp_path) == []


def test_names_that_are_no_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"got '\.\./elsewhere'"):
        Shelf(tmp_path, "../elsewhere")


def test_the_way_back_skips_what_was_rolled_back() -> None:
    a, b, c, d = (change(name) for name in "abcd")
    back_to_b, back_to_a = change("b", "rollback"), change("a", "rollback")
    assert trail(()) == []
    assert trail((a, b, c)) == ["a", "b", "c"]
    assert trail((a, b, c, back_to_b)) == ["a", "b"]
    assert trail((a, b, c, back_to_b, d)) == ["a", "b", "d"]
    assert trail((a, b, c, back_to_b, back_to_a)) == ["a"]


def test_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "convlstm")
    changes = (
        Change(NOON, "promote", "a", "against extrapolation: better", False, 0.5, 0.4),
        Change(NOON + timedelta(days=1), "promote", "b", "no skill", True),
        Change(NOON + timedelta(days=2), "rollback", "a", "back from b"),
    )
    for one in changes:
        shelf.switch(one)
    assert shelf.history() == changes
    assert shelf.current() == tmp_path / "convlstm" / "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b'{"format": 1, "history": [', "names no version"),
        (b"[]", "list indices"),
        (b'{"format": 2, "history": []}', "expected format 1, got 2"),
        (b'{"format": 1, "history": []}', "leads to its last version"),
        (b'{"format": 1, "history": [{"when": "2026-11-28T12:00:00Z"}]}', "missing"),
        (b'{"format": 1, "history": [{"when": "noon", "action": "promote", "version": "a"}]}', "noon"),
    ],
)
def test_a_damaged_pointer_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "convlstm").mkdir()
    (tmp_path / "convlstm" / "current").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        current_of(tmp_path, "convlstm")


@pytest.mark.parametrize(
    "last", [{"version": "../../etc"}, {"action": "burn"}, {"action": "rollback"}, {"version": 3}]
)
def test_a_pointer_that_makes_no_sense_is_told(tmp_path: Path, last: dict[str, Any]) -> None:
    shelf = Shelf(tmp_path, "convlstm")
    for one in (change("a"), change("b")):
        shelf.switch(one)
    pointer = shelf.folder / "current"
    content = json.loads(pointer.read_text())
    content["history"][-1].update(last)
    pointer.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="names no version"):
        shelf.current()


def test_a_full_disk_leaves_the_old_pointer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path, "convlstm")
    shelf.switch(change("a"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="the disk is full"):
        patched.setattr(os, "replace", full)
        shelf.switch(change("b"))
    assert [one.version for one in shelf.history()] == ["a"]
    assert os.listdir(shelf.folder) == ["current"]


def test_a_version_is_never_replaced(tmp_path: Path) -> None:
    trained = candidate(tmp_path / "trained", None)
    shelved(tmp_path, trained)
    with pytest.raises(WeightsError, match="exists already"):
        shelved(tmp_path, trained)
    with pytest.raises(WeightsError, match="there is no "):
        hash_of(tmp_path)
