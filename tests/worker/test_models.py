"""``nowcast models``: what is served and why, one line for a refusal, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from candidates import candidate
from columns import cells
from command import WIDE, nowcast

from nowcast.methods.networks import versions
from nowcast.methods.networks.versions import SHIPPED, Shelf, current_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def models(store: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``nowcast models`` on the store; return exit code, output and errors."""
    monkeypatch.setattr(versions, "SHIPPED", store.with_name("shipped"))

    def run(*words: object, columns: int = WIDE) -> tuple[int, str, str]:
        done = nowcast("models", *words, columns=columns, NOWCAST_WEIGHTS_DIR=store)
        return done.code, done.out, done.err

    return run


def rows(output: str) -> list[list[str]]:
    """Return the cells of the table of ``ls`` below its heading."""
    return cells(output.split("\n", 3)[3])[1:]


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
    by_version = {row[1]: row for row in rows(models("ls")[1])}
    since = f"{Shelf(store, 'convlstm').history()[-1].when:%Y-%m-%d %H:%M}"
    assert by_version[first] == ["convlstm", first, "", "0.606", "+0.053*", ""]
    assert by_version[second] == ["convlstm", second, since, "0.691", "+0.138*", ""]
    assert by_version[third] == ["convlstm", third, "", "0.462", "-0.091", "forced"]


def test_ls_lists_what_is_no_version_in_the_order_it_is_looked_for(
    models: Run, store: Path, tmp_path: Path
) -> None:
    candidate(store.with_name("shipped") / "convlstm", 0.65)
    assert rows(models("ls")[1]) == [["convlstm", "shipped", "-", "0.606", "+0.053*", ""]]
    candidate(store / "convlstm", None)
    assert [row[1:5] for row in rows(models("ls")[1])] == [
        ["unversioned", "-", "-", ""],
        ["shipped", "", "0.606", "+0.053*"],
    ]
    models("promote", "convlstm", candidate(tmp_path / "one", 0.75))
    assert [bool(row[2]) for row in rows(models("ls")[1])] == [True, False, False]


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
    assert "CSI: critical success index" in out
    headings, first = ([*filter(None, re.split(r"\s{2,}", line.strip()))] for line in _below_dbz(out)[:2])
    assert headings == ["dBZ", "min", "n", "these weights", "extrapolation", "persistence"]
    assert first == ["20", "5", "24", "0.606", "0.553", "0.371"]
    assert f"promote {version}: against extrapolation: mean CSI 0.606 against 0.553, 95 % interval" in out
    assert models("show", "convlstm", version)[1] == out


def _below_dbz(output: str) -> list[str]:
    """Return the lines of the score table from its headings on."""
    lines = output.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("dBZ")) :]


def test_ls_shows_what_the_weights_of_the_package_scored(
    models: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "SHIPPED", SHIPPED)
    _, out, _ = models("ls", columns=80)
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    shipped = {row[0]: row for row in rows(out)}
    assert shipped["addl"][1:5] == ["shipped", "-", "0.384", "+0.001"]
    for name, row in shipped.items():
        card = (SHIPPED / name / "card.md").read_text()
        told = re.search(r"these weights ([\d.]+), (?:blend ([\d.]+), )?extrapolation ([\d.]+),", card)
        assert told is not None
        score, base = float(told[1]), float(told[2] or told[3])
        assert float(row[3]) == pytest.approx(score, abs=1.1e-3)
        assert float(row[4].rstrip("*")) == pytest.approx(score - base, abs=1.6e-3)


def test_show_takes_what_is_served_and_does_without_scores(models: Run, store: Path) -> None:
    shipped = candidate(store.with_name("shipped") / "convlstm", None)
    _, out, _ = models("show", "convlstm")
    assert f"folder: {shipped}\n" in out
    assert f"scores: none in {shipped / 'skill.json'}\n" in out
    code, _, err = models("show", "convlstm", "yesterday")
    assert code == 2
    assert "expected a version of convlstm among none; got 'yesterday'" in err
