"""``nowcast train``: a candidate from an archive in one command, and again without doing it twice."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import trainable
from command import nowcast
from drifting import write_frames
from trainable import rainy_archive

from models.registry import PRESETS
from nowcast.archive.archive import Archive
from nowcast.compute import Compute
from nowcast.methods.networks.loading import network
from nowcast.scores.skillfile import read_skill
from nowcast.training.echo.run import Outcome
from worker.cli import training as training_commands

Run = Callable[..., tuple[int, str, str]]

#: Options that make a training a matter of seconds.
QUICK = ("--steps", 3, "--batch", 2, "--crop", 32, "--issue-times", 2)

LEFT = (
    "weights.safetensors",
    "config.json",
    "card.md",
    "skill.json",
    "curves.csv",
    "curves.png",
    "examples.png",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    rainy_archive(data / "archive", 2)
    return data


@pytest.fixture
def tiny() -> Iterator[None]:
    kept = dict(PRESETS)
    trainable.use_tiny_networks()
    yield
    PRESETS.update(kept)


@pytest.fixture
def train(data_dir: Path) -> Run:
    """Run ``nowcast train`` on the archive; return exit code, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        done = nowcast("train", *words, "--data", data_dir)
        return done.code, done.out, done.err

    return run


@pytest.mark.usefixtures("tiny")
def test_one_command_leaves_a_candidate_that_serves_and_again_only_scores(train: Run, tmp_path: Path) -> None:
    output = tmp_path / "candidate"
    code, out, err = train("convlstm", "-o", output, *QUICK)
    assert (code, err) == (0, "")
    assert all((output / name).exists() for name in LEFT)
    (event,) = read_skill(output / "skill.json").events
    assert f"scored on {event}" in out
    assert "these weights  extrapolation  persistence" in out
    at_20_dbz = [line.split() for line in out.splitlines() if line.startswith(" 20 ")]
    assert [int(minutes) for _, minutes, *_ in at_20_dbz] == list(range(5, 35, 5))
    weights = (output / "weights.safetensors").read_bytes()
    made = network("convlstm", Compute(weights=output)).version
    (output / "card.md").unlink()
    assert train("convlstm", "-o", output, *QUICK)[0] == 0
    assert (output / "weights.safetensors").read_bytes() == weights
    assert made in (output / "card.md").read_text()
    code, out, err = train("convlstm", "-o", output, *QUICK, "--seed", 1)
    assert (code, out.strip(), err.count("\n")) == (2, "", 1)
    assert "another plan: seed differ" in err


@pytest.mark.slow  # imports everything in a process of its own
def test_people_read_nothing_but_the_result(data_dir: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "worker.cli",
        "train",
        "exceedance",
        "--data",
        data_dir,
        "-o",
        tmp_path / "o",
    ]
    done = subprocess.run(
        list(map(str, [*command, *QUICK])),
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "COLUMNS": "150"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("GPU", "litlogger", "Tip", "Trainer", "Warning"):
        assert word not in done.stdout


@pytest.mark.usefixtures("tiny")
def test_nothing_held_out_is_said(train: Run, tmp_path: Path) -> None:
    code, out, _ = train("convlstm", "-o", tmp_path, *QUICK, "--hold-out", "none")
    assert code == 0
    assert "no event was held out" in out
    assert not (tmp_path / "skill.json").exists()
    assert "No event was held out" in (tmp_path / "card.md").read_text()


def test_wrong_words_are_one_line(train: Run, tmp_path: Path) -> None:
    for words, message in (
        (("persistence", *QUICK), "expected a network among"),
        (("convlstm", *QUICK, "--minutes", 3), "either minutes or steps"),
        (("convlstm", *QUICK, "--hold-out", "storm-3,storm-9"), "got 'storm-9'"),
        (("fanet", "--hold-out", "none"), "expected events to hold out"),
    ):
        code, out, err = train(*words, "-o", tmp_path / "o")
        assert (code, out.strip(), err.count("\n")) == (2, "", 1), err
        assert message in err


def test_a_missing_package_names_its_extra(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "lightning" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    code, _, err = train("convlstm", "-o", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "lightning, which is not installed: pip install 'nowcast-service[train]'" in err


def test_fanet_has_its_own_training(train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nowcast.training.echo import run as echo_training

    asked: dict[str, object] = {}

    def noted(root: Path, output: Path, **options: object) -> list[Outcome]:
        asked.update(options, root=root, output=output)
        return []

    monkeypatch.setattr(echo_training, "train_echo_classes", noted)
    assert train("fanet", "-o", tmp_path, "--steps", 9, "--hold-out", "storm-4")[0] == 0
    assert (asked["domains"], asked["held_out"]) == (["storm-3"], ("storm-4",))
    assert asked["fitting"].steps == 9  # type: ignore[attr-defined]
    assert training_commands.CLASSIFIER == "fanet"


def test_gather_makes_each_folder_an_event_and_leaves_others_out(tmp_path: Path) -> None:
    radar, data = tmp_path / "radar", tmp_path / "data"
    for folder, indices in (("knmi/one", range(2)), ("two", range(3))):
        (radar / folder).mkdir(parents=True)
        write_frames(radar / folder, indices)
    (radar / "notes").mkdir()
    (radar / "notes" / "text.txt").write_text("nothing of radar")
    done = nowcast("archive", "gather", radar, "--data", data)
    assert done.code == 0
    assert "notes: left out, not one frame could be read" in done.out
    archive = Archive(data / "archive")
    assert {name: len(archive.times(name)) for name in archive.domains()} == {"knmi-one": 2, "two": 3}
    (tmp_path / "empty").mkdir()
    done = nowcast("archive", "gather", tmp_path / "empty", "--data", data)
    assert (done.code, "expected radar files in folders under" in done.err) == (2, True)
