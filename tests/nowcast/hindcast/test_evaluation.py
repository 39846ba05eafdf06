"""Evaluation: tallies of an event's full frames, the same issue times for all, and all a candidate leaves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import trainable
from drifting import START, raw_frame
from PIL import Image
from torch import nn
from trainable import SHAPE, rainy_archive

from models.registry import PRESETS
from nowcast.archive.archive import Archive
from nowcast.archive.events import Event, find_events
from nowcast.errors import NotEnoughFrames
from nowcast.forecast.prediction import Prediction
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.hindcast import evaluation
from nowcast.hindcast.evaluation import score_events
from nowcast.methods.cube import Cube
from nowcast.methods.extrapolation import Extrapolation, Persistence
from nowcast.methods.method import Method
from nowcast.methods.networks.checkpoint import load
from nowcast.scores.skillfile import entries, mean_csi, pooled, read_skill
from nowcast.scores.tally import Tally
from nowcast.training.callbacks import read_rows
from nowcast.training.candidate import loses_nothing, write_candidate
from nowcast.training.plan import Plan
from nowcast.training.run import train


def drifting_archive(root: Path, indices: list[int]) -> tuple[Archive, list[Event]]:
    """Return an archive of rain that drifts by whole cells, with the frames of some indices."""
    archive = Archive(root)
    for index in indices:
        archive.add("drift", normalise(raw_frame(index), Domain("drift", 5)))
    return archive, find_events(archive)


def test_tallies_are_those_of_the_frames_themselves(tmp_path: Path) -> None:
    archive, events = drifting_archive(tmp_path, list(range(8)))
    skill = score_events(archive, events, Extrapolation(), [Persistence()], minutes=10)
    times = events[0].times
    frames = [archive.load("drift", time).values for time in times]
    expected = Tally((20.0, 30.0, 35.0, 40.0))
    expected.add(frames[4], frames[6])
    found = skill.references["persistence"]["drift"][times[4]][10]
    assert found.to_dict() == expected.to_dict()
    assert sorted(skill.events["drift"]) == list(times[3:7]), "four frames behind, one ahead"
    assert sorted(skill.events["drift"][times[6]]) == [5], "nothing is known ten minutes on"
    mine, others = (mean_csi(pooled(scored)) for scored in (skill.events, skill.references["persistence"]))
    assert mine is not None and others is not None
    assert mine > 0.9 > 0.6 > others


def test_issue_times_are_limited_and_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, events = drifting_archive(tmp_path, list(range(10)))
    reports: list[tuple[int, int]] = []
    skill = score_events(
        archive, events, Persistence(), [], minutes=5, most=3, report=lambda _, *done: reports.append(done)
    )
    assert [time - START for time in skill.events["drift"]] == [
        timedelta(minutes=minutes) for minutes in (15, 25, 40)
    ]
    assert reports == [(0, 3), (1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(evaluation, "MOST_CELLS", 4 * 64 * 48)
    assert len(score_events(archive, events, Persistence(), [], minutes=5).events["drift"]) == 4
    monkeypatch.setattr(evaluation, "MOST_CELLS", 1)
    assert len(score_events(archive, events, Persistence(), [], minutes=5).events["drift"]) == 2


def test_a_missing_frame_leaves_out_its_lead_and_shifts_nothing(tmp_path: Path) -> None:
    archive, events = drifting_archive(tmp_path, [0, 1, 2, 3, 5, 6, 7])
    skill = score_events(archive, events, Persistence(), [], minutes=15)
    times = events[0].times
    assert sorted(skill.events["drift"][times[3]]) == [10, 15]
    frames = [archive.load("drift", time).values for time in times]
    expected = Tally((20.0, 30.0, 35.0, 40.0))
    expected.add(frames[3], frames[4])
    assert skill.events["drift"][times[3]][10].to_dict() == expected.to_dict()


class Choosy(Method):
    """Persistence that refuses one issue time."""

    name, version = "choosy", "1"

    def predict(self, cube: Cube, leads: int) -> Prediction:
        if cube.issue_time == START + timedelta(minutes=20):
            raise NotEnoughFrames("not this one")
        return Persistence().predict(cube, leads)


def test_what_one_cannot_forecast_counts_for_none(tmp_path: Path) -> None:
    archive, events = drifting_archive(tmp_path, list(range(7)))
    skill = score_events(archive, events, Persistence(), [Choosy()], minutes=5)
    assert START + timedelta(minutes=20) not in skill.events["drift"]
    assert {key for key, _ in entries(skill.events)} == {
        key for key, _ in entries(skill.references["choosy"])
    }
    short, of_short = drifting_archive(tmp_path / "short", [0, 1])
    with pytest.raises(NotEnoughFrames, match="1 events have too few"):
        score_events(short, of_short, Persistence(), [])


@pytest.fixture
def tiny() -> Iterator[None]:
    kept = dict(PRESETS)
    trainable.use_tiny_networks()
    yield
    PRESETS.update(kept)


@pytest.mark.usefixtures("tiny")
def test_a_candidate_has_all_that_promotion_and_people_want(tmp_path: Path) -> None:
    archive, output = rainy_archive(tmp_path / "archive", 2), tmp_path / "candidate"
    plan = Plan("convlstm", steps=6, shape=SHAPE, batch=2, crop=32, checks=2)
    trained = train(archive, output, plan)
    skill = write_candidate(archive, output, trained, most_issues=2)
    assert skill is not None
    kept = read_skill(output / "skill.json")
    (event,) = kept.events
    assert set(kept.references) == {"persistence", "extrapolation"}
    assert {one.event for one in trained.learnt} == {"storm-3", "storm-4"} - {event}
    assert {lead for (_, _, lead), _ in entries(kept.events)} == {5, 10, 15, 20}
    loaded = load(output)
    assert loaded.card.scores == {
        "csi": mean_csi(pooled(kept.events)),
        "csi_persistence": mean_csi(pooled(kept.references["persistence"])),
        "csi_extrapolation": mean_csi(pooled(kept.references["extrapolation"])),
    }
    for name, value in trained.network.state_dict().items():
        assert torch.allclose(loaded.network.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    card = (output / "card.md").read_text()
    for words in (
        "simulated radar",
        f"| {event} | held out",
        loaded.sha256,
        "| 20 |",
        "energy:",
        "## Limits",
    ):
        assert words in card, words
    rows = read_rows(output / "curves.csv")
    assert {row["phase"] for row in rows} == {"rain"}
    assert [row["step"] for row in rows if "val/csi" in row] == [3, 6]
    for name, size in (("curves.png", (900, 350)), ("examples.png", (1600, None))):
        with Image.open(output / name) as picture:
            assert picture.size[0] == size[0] and size[1] in (None, picture.size[1])


class Product(nn.Module):
    """A forecast that is a weight times a number, for rounding to matter or not."""

    context = ()

    def __init__(self, weight: float, factor: float) -> None:
        super().__init__()
        self.weight, self.factor = nn.Parameter(torch.tensor(weight)), factor

    def forward(self, x: torch.Tensor, leads: int) -> dict[str, torch.Tensor]:
        return {"pred": self.weight * self.factor * torch.ones(1, leads)}


def test_weights_are_halved_only_if_the_forecast_stays() -> None:
    batch = {"x": torch.zeros(1), "target": torch.zeros(1, 2)}
    assert loses_nothing(Product(0.5, 1.0), batch)
    assert loses_nothing(Product(1 + 2**-11, 1.0), batch)  # off by 0.03 dBZ
    assert not loses_nothing(Product(1 + 2**-11, 4.0), batch)
    assert not loses_nothing(Product(1e5, 1e-5), batch), "more than 16 bits can hold"
