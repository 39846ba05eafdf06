"""``nowcast models``: what is served and why, one line for a refusal, and the way back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from candidates import candidate

from nowcast.methods.networks import versions
from nowcast.methods.networks.versions import Shelf, current_of
from worker.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def models(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``nowcast models`` on the store; return exit code, output and errors."""
    monkeypatch.setenv("NOWCAST_WEIGHTS_DIR", str(store))
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(versions, "SHIPPED", store.with_name("shipped"))

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nowcast", "models", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return run


def rows(output: str) -> list[list[str]]:
    """Return the cells of a table's rows below its heading."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]


def test_a_refusal_is_one_line_with_the_interval_and_exit_code_1(
    models: Run, store: Path, tmp_path: Path
) -> None:
    code, out, err = models("promote", "convlstm", candidate(tmp_path / "worse", 0.55))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith(
        "nowcast: convlstm is not promoted, expected the whole interval above 0; against extrap"
    )
    assert "95 % interval of the difference -0.0" in err
    assert current_of(store, "convlstm") is None
    code, out, _ = models("promote", "convlstm", tmp_path / "worse", "--force")
    assert code == 0
    assert "promoted by force; against extrapolation: mean CSI 0.5" in out


def test_errors_are_one_line_and_exit_code_2(models: Run, tmp_path: Path) -> None:
    trained = candidate(tmp_path / "trained", 0.7)
    (trained / "weights.safetensors").write_bytes(b"tampered")
    for words, message in (
        (("promote", "convlstm", trained), "is damaged: expected"),
        (("promote", "persistence", trained), "expected a network among"),
        (("rollback", "convlstm"), "to go back to, but none was ever promoted"),
        (("show", "convlstm"), "no version of convlstm was promoted"),
    ):
        code, out, err = models(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_ls_says_what_is_served(models: Run, store: Path, tmp_path: Path) -> None:
    assert models("ls")[1].startswith("there are no weights in")
    for seed, rate in enumerate((0.65, 0.75)):
        assert models("promote", "convlstm", candidate(tmp_path / f"{rate}", rate, seed=seed))[0] == 0
    assert models("promote", "convlstm", candidate(tmp_path / "0.5", 0.5, seed=2), "--force")[0] == 0
    assert models("rollback", "convlstm")[1].endswith("\n")
    first, second, third, _ = (change.version for change in Shelf(store, "convlstm").history())
    by_version = {cells[1]: cells for cells in rows(models("ls")[1])}
    since = f"{Shelf(store, 'convlstm').history()[-1].when:%Y-%m-%d %H:%M}"
    assert by_version[first] == ["convlstm", first, "", "0.606 / 0.553", ""]
    assert by_version[second] == ["convlstm", second, since, "0.691 / 0.553", ""]
    assert by_version[third] == ["convlstm", third, "", "0.462 / 0.553", "forced"]


def test_ls_lists_what_is_no_version_in_the_order_it_is_looked_for(
    models: Run, store: Path, tmp_path: Path
) -> None:
    candidate(store.with_name("shipped") / "convlstm", 0.65)
    assert rows(models("ls")[1]) == [["convlstm", "shipped", "-", "0.606 / 0.553", ""]]
    candidate(store / "convlstm", None)
    assert [cells[1:4] for cells in rows(models("ls")[1])] == [
        ["unversioned", "-", "- / -"],
        ["shipped", "", "0.606 / 0.553"],
    ]
    models("promote", "convlstm", candidate(tmp_path / "one", 0.75))
    assert [bool(cells[2]) for cells in rows(models("ls")[1])] == [True, False, False]


def test_show_prints_the_facts(models: Run, store: Path, tmp_path: Path) -> None:
    models("promote", "convlstm", candidate(tmp_path / "one", 0.65))
    version = Shelf(store, "convlstm").versions()[0]
    code, out, _ = models("show", "convlstm")
    assert code == 0
    assert f"folder: {store / 'convlstm' / version}\n" in out
    assert "configuration: ConvLSTMConfig(hidden=(2,)" in out
    assert "task: Task(frames=5, leads=12, step_minutes=5.0, cell_km=1.0" in out
    assert "data: KNMI, composite, CC BY 4.0, 2021\n" in out
    assert "code: abc1234\n" in out
    assert "CSI: these weights / extrapolation / persistence" in out
    assert ["5", "0.61 / 0.55 / 0.37", "0.61 / 0.55 / 0.37", "0.61 / 0.55 / 0.37", "24"] in rows(out)
    assert f"promote {version}: against extrapolation: mean CSI 0.606 against 0.553, 95 % interval" in out
    assert models("show", "convlstm", version)[1] == out


def test_show_takes_what_is_served_and_does_without_scores(models: Run, store: Path) -> None:
    shipped = candidate(store.with_name("shipped") / "convlstm", None)
    _, out, _ = models("show", "convlstm")
    assert f"folder: {shipped}\n" in out
    assert f"scores: none in {shipped / 'skill.json'}\n" in out
    code, _, err = models("show", "convlstm", "yesterday")
    assert code == 2
    assert "expected a version of convlstm among none; got 'yesterday'" in err
