"""Training of the echo classifier: it learns, says so truly, and takes a longer history only for a gain."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.fanet.echo_classes import EchoClass
from models.fanet.network import FANet, FANetConfig
from models.fanet.segmentation import IGNORED
from models.normalisation import to_bytes
from nowcast.archive.archive import Archive
from nowcast.errors import NetworkError, SettingsError, WeightsError
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.frame.grid import Grid
from nowcast.methods.networks.checkpoint import load
from nowcast.simulation import Storm
from nowcast.training.echo import clips as echo_clips
from nowcast.training.echo.clips import Shape, Video
from nowcast.training.echo.run import Fitting, Outcome, best_of, chosen_history, interval, train_echo_classes
from nowcast.training.echo.scores import UNSCORED, Scores, rule, score, score_echo_classes

GRID = Grid.from_crs("+proj=laea +lat_0=52 +lon_0=5", nx=96, ny=96, x0=-48e3, y0=48e3, dx=1000, dy=1000)
TINY = FANetConfig(widths=(8, 12, 16, 16), key_channels=8, smooth=8)
QUICK = Fitting(steps=60, shape=Shape(clips=2, frames=4, side=64), learning_rate=1e-2, device="cpu")
EVENTS = ("event-1", "event-2", "event-3")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three simulated storms as events."""
    root = tmp_path_factory.mktemp("archive")
    for seed, name in enumerate(EVENTS, start=3):
        for raw in Storm(seed=seed, grid=GRID).frames(12):
            Archive(root).add(name, normalise(raw, Domain(name, 5)))
    return root


def test_a_short_training_learns_and_the_checkpoint_keeps_it(archive: Path, tmp_path: Path) -> None:
    plan = {"domains": EVENTS[:2], "held_out": EVENTS[2:], "histories": (1,), "seeds": (1,), "network": TINY}
    (trained,) = train_echo_classes(archive, tmp_path / "trained", fitting=QUICK, **plan)  # type: ignore[arg-type]
    idle = replace(QUICK, steps=1, learning_rate=0.0)
    (untrained,) = train_echo_classes(archive, tmp_path / "idle", fitting=idle, **plan)  # type: ignore[arg-type]
    assert trained.held_out.miou > untrained.held_out.miou + 0.15
    everything_dry = trained.held_out.matrix[0].sum() / trained.held_out.matrix.sum() / 5
    assert trained.held_out.miou > everything_dry + 0.1

    loaded = load(tmp_path / "trained")
    assert loaded.card.config == replace(TINY, history=1)
    assert (loaded.card.task.frames, loaded.card.task.leads, loaded.card.task.step_minutes) == (2, 2, 5.0)
    assert loaded.card.scores["held_out_miou"] == trained.held_out.miou
    again = score_echo_classes(tmp_path / "trained", archive, EVENTS[2:])
    assert again.miou == pytest.approx(trained.held_out.miou, abs=0.002)  # weights of 16 bits


def test_a_loss_that_is_not_finite_stops_the_training(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(
        NetworkError, match=r"expected a finite loss, got .* of 60 with a learning rate of 1e\+30"
    ):
        train_echo_classes(
            archive,
            tmp_path / "never",
            domains=EVENTS[:1],
            held_out=EVENTS[1:2],
            fitting=replace(QUICK, learning_rate=1e30),
            network=TINY,
        )
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": ("a",)}, "got a as both"),
        ({"histories": (0, 5)}, "histories of 0 to 4"),
        ({"histories": ()}, "histories of 0 to 4"),
        ({"seeds": ()}, "at least one seed"),
        ({"minutes": 0}, "got 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    plan = {"domains": ("a",), "held_out": ("b",), **changes}
    with pytest.raises(SettingsError, match=message):
        train_echo_classes(tmp_path, tmp_path / "out", **plan)  # type: ignore[arg-type]


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        score_echo_classes(tmp_path, tmp_path, ["a"])


def even(classes: list[int]) -> Video:
    """A video of one class in each frame, over a grid of 16 x 16 whose first row is not observed."""
    told = torch.tensor(classes, dtype=torch.int8)[:, None, None].repeat(1, 16, 16)
    dbz = torch.full(told.shape, 30.0)
    told[:, 0], dbz[:, 0] = IGNORED, torch.nan
    return Video("even", 5.0, to_bytes(dbz), told)


def test_scores_leave_out_the_first_frames_and_pool_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo_clips, "CLUTTER_PER_CELL", 0.0)

    def always_stratiform(frames: Tensor) -> Tensor:
        return torch.full((len(frames), 16, 16), int(EchoClass.STRATIFORM))

    start = [int(EchoClass.WEAK)] * UNSCORED
    scores = score(always_stratiform, [even([*start, 2, 2, 3, 1]), even([*start, 2, 2])])
    assert scores.matrix.sum() == 6 * 240
    assert scores.matrix[2].tolist() == [0, 0, 4 * 240, 0, 0, 0]
    assert scores.iou["stratiform"] == pytest.approx(4 / 6)
    assert scores.iou["intense"] is None
    assert scores.miou == pytest.approx((4 / 6 + 0 + 0) / 3)
    assert scores.micro_iou == pytest.approx(4 / 6)


def test_the_rule_sees_the_class_of_the_frame_itself() -> None:
    frames = torch.full((2, 1, 16, 16), 40 / 70)
    frames[1] = 52 / 70
    assert rule(frames)[:, 8, 8].tolist() == [EchoClass.STRATIFORM, EchoClass.CONVECTIVE]


def test_a_longer_history_needs_a_gain_that_is_sure() -> None:
    assert chosen_history({0: [0.40, 0.42, 0.41], 2: [0.42, 0.44, 0.43], 4: [0.43, 0.45, 0.44]}) == 4
    assert chosen_history({0: [0.40, 0.42, 0.41], 2: [0.42, 0.44, 0.43], 4: [0.55, 0.42, 0.41]}) == 2
    assert chosen_history({0: [0.40, 0.42, 0.41], 2: [0.39, 0.43, 0.44]}) == 0
    assert chosen_history({0: [0.40], 4: [0.60]}) == 0  # one seed tells nothing of the spread


def test_the_best_seed_of_the_chosen_history_ships() -> None:
    net = FANet(TINY)

    def outcome(history: int, seed: int, hits: int) -> Outcome:
        matrix = torch.zeros(6, 6, dtype=torch.int64)
        matrix[0, 0], matrix[0, 1] = hits, 100 - hits  # IoU of the only class that occurs: hits in 100
        return Outcome(history, seed, net, Scores(matrix, 0.0))

    outcomes = [outcome(0, 1, 50), outcome(0, 2, 55), outcome(0, 3, 52), outcome(2, 1, 90)]
    outcomes += [outcome(2, 2, 51), outcome(2, 3, 53)]
    best = best_of(outcomes)
    assert (best.history, best.seed) == (0, 2)
    assert best.held_out.miou == pytest.approx(0.55)


def test_intervals_are_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 * 1.0 / math.sqrt(3))
    assert interval([1.0]) == (1.0, math.inf)
    assert interval(list(range(20)))[1] == pytest.approx(1.96 * math.sqrt(35) / math.sqrt(20))
