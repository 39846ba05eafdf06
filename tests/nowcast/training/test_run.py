"""Training: it learns, loses at most an interval to a kill, and stops rather than going on with nonsense."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trainable
from torch import Tensor
from trainable import SHAPE, add_event, rainy_archive

from models.registry import PRESETS, build
from models.stmoe.network import STMoE
from nowcast.archive.archive import Archive
from nowcast.archive.events import find_events
from nowcast.errors import (
    BadRequest,
    NotEnoughFrames,
    TrainingStopped,
    UnknownModel,
    WeightsError,
)
from nowcast.methods.networks.checkpoint import save
from nowcast.training.callbacks import quiet, read_rows
from nowcast.training.data import Batch, Draws
from nowcast.training.module import BAD_BATCH_FILE, Learning, Recipe, rate
from nowcast.training.plan import Plan, phases, shape_for
from nowcast.training.run import train
from nowcast.training.sequences import prepare

#: One that draws, at every step, which true frames are fed back: a kill must not change what it draws.
QUICK = Plan("convlstm", steps=16, shape=SHAPE, hold_out=("storm-4",), batch=2, crop=32, checks=2, seed=7)

#: One without random decisions, and without an event held out.
PLAIN = Plan("exceedance", steps=4, shape=SHAPE, hold_out=(), batch=4, crop=32, checks=1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return rainy_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    """Small networks, of the names of the real ones."""
    kept = dict(PRESETS)
    trainable.use_tiny_networks()
    yield
    PRESETS.update(kept)


@pytest.fixture(scope="module")
def killed(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was killed after 7 of 16 steps, with a checkpoint every second step."""
    output = tmp_path_factory.mktemp("killed")
    process = multiprocessing.get_context("spawn").Process(
        target=trainable.train_and_die, args=(archive.root, output, QUICK, 7)
    )
    process.start()
    process.join(110)
    assert process.exitcode == -9
    return output


@pytest.fixture(scope="module")
def unbroken(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same training, left in peace."""
    output = tmp_path_factory.mktemp("unbroken")
    kept = dict(PRESETS)
    trainable.use_tiny_networks()
    train(archive, output, QUICK)
    PRESETS.update(kept)
    return output


def weights(output: Path) -> Tensor:
    """Return all weights a training kept, in a row."""
    state = torch.load(output / "run" / "rain" / "finished.ckpt", weights_only=True)
    return torch.cat([value.flatten() for value in state.values()])


def last_weights(output: Path) -> Tensor:
    """Return all weights of the last checkpoint, in a row."""
    state = torch.load(output / "run" / "rain" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.flatten() for value in state.values()])


def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    archive: Archive, killed: Path, unbroken: Path, tmp_path: Path
) -> None:
    output, steps = tmp_path / "resumed", []
    shutil.copytree(killed, output)
    train(archive, output, QUICK, report=lambda what, done, _: steps.append(done) if "rain" in what else None)
    assert steps[0] == 7, "the checkpoint of step 6 is the last before the kill at 7"
    rows, others = (read_rows(folder / "run" / "rain" / "curves.csv") for folder in (output, unbroken))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):  # the same draws, masks and order: equal to rounding
        assert row == pytest.approx(other, rel=1e-5), row["step"]
    assert torch.allclose(last_weights(output), last_weights(unbroken), atol=1e-6)
    assert torch.allclose(weights(output), weights(unbroken), atol=1e-6)


def end_at(moment: str, step: int, signal_number: int) -> Iterator[None]:
    """Send this process a signal at a step, or while that step is validated, once."""
    original = getattr(Learning, moment)
    left = [step]

    def ending(learning: Learning, *words: object) -> object:
        if left == [learning.global_step]:
            left.clear()
            assert signal.getsignal(signal_number) != signal.SIG_DFL, "or this process would end"
            os.kill(os.getpid(), signal_number)
        return original(learning, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learning, moment, ending)
        yield


@pytest.mark.parametrize(
    ("moment", "at", "lost"), [("training_step", 4, 0), ("training_step", 6, 0), ("validation_step", 8, 2)]
)
def test_a_training_asked_to_end_goes_on_where_it_was_and_elsewhere(
    archive: Archive, unbroken: Path, tmp_path: Path, moment: str, at: int, lost: int
) -> None:
    steps: list[int] = []
    with contextmanager(end_at)(moment, at, signal.SIGTERM), pytest.raises(SystemExit):
        train(archive, tmp_path / "ended", QUICK, report=lambda what, done, _: steps.append(done))
    done = at if moment == "validation_step" else at + 1  # the step that was begun is taken
    assert steps[-1] == done
    (tmp_path / "ended").rename(tmp_path / "moved")
    steps.clear()
    train(
        archive,
        tmp_path / "moved",
        QUICK,
        report=lambda what, done, _: steps.append(done) if "rain" in what else None,
    )
    assert steps[0] == done + 1 - lost
    rows, others = (read_rows(one / "run" / "rain" / "curves.csv") for one in (tmp_path / "moved", unbroken))
    assert [row["step"] for row in rows] == [row["step"] for row in others], "no validation is left out"
    assert torch.allclose(weights(tmp_path / "moved"), weights(unbroken), atol=1e-6)


def test_a_training_may_begin_with_the_weights_of_another(archive: Archive, tmp_path: Path) -> None:
    first = train(archive, tmp_path / "first", replace(QUICK, steps=2, checks=1))
    save(tmp_path / "first", first.network, first.card)
    plan = replace(QUICK, steps=1, checks=1, seed=8)  # a step's rate is a hundredth of the highest
    other, second = (
        train(archive, tmp_path / name, plan, start=start).network
        for name, start in (("other", None), ("second", tmp_path / "first"))
    )
    given, drawn, begun = (
        torch.cat([value.flatten() for value in one.state_dict().values()])
        for one in (first.network, other, second)
    )
    assert (begun - given).abs().max() < 1e-3 < 0.1 < (drawn - given).abs().max()
    with pytest.raises(WeightsError, match="expected weights of ExceedanceConfig"):
        train(archive, tmp_path / "third", PLAIN, start=tmp_path / "first")


def test_a_finished_training_is_not_run_again(archive: Archive, unbroken: Path) -> None:
    before = weights(unbroken)
    again = train(archive, unbroken, QUICK, report=_refuse_steps)
    kept = torch.cat([value.flatten() for value in again.network.state_dict().values()])
    assert torch.equal(kept, before)


def _refuse_steps(what: str, done: int, total: int) -> None:
    assert not what.startswith("training")


def test_a_truncated_checkpoint_is_refused(archive: Archive, killed: Path, tmp_path: Path) -> None:
    output = tmp_path / "damaged"
    shutil.copytree(killed, output)
    last = output / "run" / "rain" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-4000])
    with pytest.raises(WeightsError, match=r"last\.ckpt: expected a training's checkpoint"):
        train(archive, output, QUICK)


def test_another_plan_or_archive_is_refused(archive: Archive, unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="another plan: batch, seed differ"):
        train(archive, unbroken, replace(QUICK, seed=8, batch=3))
    shutil.copytree(archive.root, tmp_path / "grown")
    add_event(tmp_path / "grown", "storm-3", seed=3, frames=11, day=3)
    with pytest.raises(BadRequest, match="other frames than the archive has now"):
        train(Archive(tmp_path / "grown"), unbroken, QUICK)


def test_events_held_out_are_not_learnt_from(archive: Archive, unbroken: Path) -> None:
    trained = train(archive, unbroken, QUICK)
    assert [one.event for one in trained.learnt] == ["storm-3", "storm-5"]
    assert [one.event for one in trained.held_out] == [event.name for event in trained.events] == ["storm-4"]
    assert [source.agency for source in trained.card.data] == ["simulated radar"]
    assert trained.card.data[0].period == "2026-05-04 to 2026-05-06"
    plan = json.loads((unbroken / "plan.json").read_text())
    learnt, held_out = ({name.rpartition("-")[0] for name in part} for part in plan["tiles"])
    assert (learnt, held_out) == ({"storm-3", "storm-5"}, {"storm-4"})


def test_learning_lowers_the_loss(archive: Archive, tmp_path: Path) -> None:
    trained = train(archive, tmp_path, replace(PLAIN, model="convlstm", steps=80))
    draws = Draws(trained.learnt, SHAPE, crop=32, seed=1)
    batch = torch.utils.data.default_collate([draws[number] for number in range(32)])

    def loss(network: torch.nn.Module) -> float:
        learning = Learning(network, Recipe(), steps=1, seed=0, folder=tmp_path, monitored=False)  # type: ignore[arg-type]
        return learning.loss_of(batch, 0)["loss"].item()

    torch.manual_seed(1)
    assert loss(trained.network) < 0.7 * loss(build(PRESETS["convlstm_cpu"]))


def test_a_batch_of_nan_stops_the_training_and_is_kept(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Draws.__getitem__

    def damaged(draws: Draws, number: int) -> Batch:
        draw = sound(draws, number)
        if number == 5:
            draw["x"][0, 0, 3, 4] = torch.nan
        return draw

    monkeypatch.setattr(Draws, "__getitem__", damaged)
    with pytest.raises(TrainingStopped, match=r"the loss is nan at step 1; its batch, draws \[4, 5, 6, 7\]"):
        train(archive, tmp_path, PLAIN)
    from safetensors.torch import load_file

    kept = load_file(tmp_path / BAD_BATCH_FILE)
    assert kept["number"].tolist() == [4, 5, 6, 7]
    assert torch.isnan(kept["x"]).nonzero().tolist() == [[1, 0, 0, 3, 4]]
    assert kept["target"].shape == (4, 4, 1, 32, 32)


def test_gradients_added_up_are_those_of_a_larger_batch(archive: Archive, tmp_path: Path) -> None:
    for name, plan in (("one", PLAIN), ("two", replace(PLAIN, batch=2, accumulate=2))):
        train(archive, tmp_path / name, plan, cache=tmp_path / "cache")
    assert_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow  # three processes import PyTorch
@pytest.mark.timeout(300)
def test_two_processes_learn_what_one_does_from_twice_the_batch(archive: Archive, tmp_path: Path) -> None:
    for name, devices, batch in (("one", 1, 4), ("two", 2, 2)):
        command = [sys.executable, trainable.__file__, archive.root, tmp_path / name, devices, batch, 4]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, timeout=140
        )
        assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "two", tmp_path / "one")


def assert_close(output: Path, other: Path) -> None:
    """Check that two trainings went the same way: they differ by a small part of what they learnt.

    Not by nothing, as the mean over a batch weighs all observed cells alike, and the mean of two means does
    not quite; and each part of a batch draws leads and cells of its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(PLAIN.seed)
        start = torch.cat(
            [value.flatten() for value in build(PRESETS["exceedance_cpu"]).state_dict().values()]
        )
    learnt, different = weights(other) - start, weights(output) - weights(other)
    assert learnt.norm() > 0.01
    assert different.norm() < 0.25 * learnt.norm()


def test_cells_not_observed_change_neither_loss_nor_score(archive: Archive, tmp_path: Path) -> None:
    (tiles, *_) = prepare(archive, find_events(archive), SHAPE, tmp_path)
    network = build(PRESETS["exceedance_cpu"])
    batch = torch.utils.data.default_collate([Draws([tiles], SHAPE, crop=32, seed=0)[n] for n in range(3)])
    batch["valid"][:, 1, :, :16] = False
    results = []
    for value in (0.0, 1.0):
        other = {**batch, "target": torch.where(batch["valid"], batch["target"], value)}
        learning = Learning(network, Recipe(), steps=9, seed=0, folder=tmp_path, monitored=True)  # type: ignore[arg-type]
        loss = learning.loss_of(other, 0)["loss"].item()
        learning.validation_step(other, 0)
        assert learning._counts is not None
        results.append((loss, learning._counts.tolist()))
    assert results[0] == results[1]
    assert sum(map(sum, results[0][1][1])) > 0


def test_the_rate_rises_then_falls_to_a_hundredth() -> None:
    assert rate(0.025) == pytest.approx(0.5)
    assert rate(0.05) == pytest.approx(1.0)
    assert rate(0.525) == pytest.approx(0.505)
    assert rate(1.0) == rate(1.5) == pytest.approx(0.01)
    assert rate(0.0) == 0.01


def test_an_stmoe_learns_in_stages_that_add_up() -> None:
    network = build(PRESETS["stmoe_plain"])
    assert isinstance(network, STMoE)
    staged = list(phases(network, replace(PLAIN, model="stmoe_plain", steps=1000), 1000))
    assert [phase.name.partition("-")[2] for phase in staged] == [
        "A1-all",
        "A2-translation",
        "A2-rotation",
        "A2-intensity",
        "B1-rain",
        "B2-rain",
    ]
    assert sum(phase.steps for phase in staged) == 1000
    assert [phase.steps for phase in staged[-2:]] == [140, 560]
    (whole,) = phases(network, replace(PLAIN, model="stmoe_plain", staged=False), 1000)
    assert (whole.steps, whole.data) == (1000, "rain")


def test_plans_that_mean_nothing_are_refused(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="got 'persistence'"):
        Plan("persistence", steps=1)
    with pytest.raises(BadRequest, match="either minutes or steps"):
        Plan("unet")
    with pytest.raises(BadRequest, match="at least one"):
        Plan("unet", steps=1, batch=0)
    with pytest.raises(BadRequest, match="among storm-3, storm-4, storm-5, got 'storm-9'"):
        train(archive, tmp_path, replace(PLAIN, hold_out=("storm-9",)))
    with pytest.raises(BadRequest, match="exceedance needs 4 frames, the plan has 2"):
        train(archive, tmp_path, replace(PLAIN, shape=replace(SHAPE, frames=2)))
    with pytest.raises(NotEnoughFrames, match="10 minutes' step, got 5"):
        train(archive, tmp_path, replace(PLAIN, step_minutes=10))
    with pytest.raises(NotEnoughFrames, match="all 3 are held out"):
        train(archive, tmp_path, replace(PLAIN, hold_out=("storm-3", "storm-4", "storm-5")))
    assert shape_for("convlstm").frames == 4


def test_minutes_become_steps_that_a_resumed_training_keeps(archive: Archive, tmp_path: Path) -> None:
    plan = replace(PLAIN, steps=None, minutes=0.01)
    steps = train(archive, tmp_path, plan).steps
    assert steps >= plan.checks
    assert train(archive, tmp_path, plan).steps == steps


def test_lightning_says_nothing_below_a_warning() -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with quiet():
        assert not logger.isEnabledFor(logging.INFO)
        assert logger.isEnabledFor(logging.WARNING)
