"""Clips for the echo classifier: the right classes at the right time and place, and what is left out."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from models.fanet.echo_classes import EchoClass, echo_classes
from models.fanet.segmentation import IGNORED
from models.normalisation import to_bytes
from nowcast.archive.archive import Archive
from nowcast.errors import NotEnoughFrames
from nowcast.frame.frame import frame_array
from nowcast.frame.grid import Grid
from nowcast.training.echo import clips as echo_clips
from nowcast.training.echo.clips import Batches, Shape, Video, clip_of, coarsened, followed, read_videos

START = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)


def archived(root: Path, domain: str, minutes: list[int], *, cell_m: float = 1000.0, side: int = 40) -> None:
    """Frames of even rain of 30 dBZ at some minutes, with a shower of 50 dBZ that moves a column a frame."""
    grid = Grid.from_crs("EPSG:3035", nx=side, ny=side, x0=4e6, y0=3e6, dx=cell_m, dy=cell_m)
    for number, minute in enumerate(minutes):
        dbz = np.full((side, side), 30.0, np.float32)
        dbz[20, number] = 50.0
        Archive(root).add(domain, frame_array(dbz, grid, START + timedelta(minutes=minute)))


def made_video(frames: int = 4, side: int = 32) -> Video:
    """Rain of 30 dBZ that becomes of another class in each frame; the first column is not observed."""
    dbz = torch.full((frames, side, side), 30.0)
    classes = torch.arange(frames).remainder(4)[:, None, None].expand(-1, side, side).to(torch.int8).clone()
    dbz[..., 0], classes[..., 0] = torch.nan, IGNORED
    return Video("made", 5.0, to_bytes(dbz), classes)


def drifting(dbz: np.ndarray, columns_a_frame: int, frames: int) -> torch.Tensor:
    """A field that moves east, no echo coming in from the west."""
    moved = [np.roll(dbz, columns_a_frame * k, axis=1) for k in range(frames)]
    for k, frame in enumerate(moved):
        frame[:, : columns_a_frame * k] = -10.0
    return torch.from_numpy(np.stack(moved).astype(np.float32))


def bells(cores: float = 48.0) -> np.ndarray:
    """Showers on a grid of 96 x 128, strong ones in the north and weak ones in the south."""
    rows, columns = np.mgrid[:96, :128]
    dbz = np.full((96, 128), -10.0)
    for row, peak in ((20, cores), (48, 34.0), (76, 15.0)):
        for column in (20, 50, 85):
            dbz = np.maximum(dbz, peak - 0.15 * ((rows - row) ** 2 + (columns - column) ** 2))
    return np.where(dbz < 0, -10.0, dbz)


def test_a_domain_becomes_videos_between_its_gaps(tmp_path: Path) -> None:
    archived(tmp_path, "gappy", [0, 5, 10, 15, 20, 30, 35, 40, 45, 55, 60])
    videos = read_videos(Archive(tmp_path), ["gappy"], minutes=10, frames=2)
    assert [len(video.frames) for video in videos] == [3, 2]  # the last two frames have no future
    assert [len(video.classes) for video in videos] == [3, 2]
    assert all(frame[20, number] == EchoClass.CONVECTIVE for number, frame in enumerate(videos[0].classes))
    assert (videos[0].classes[:, 20, 30:34] == EchoClass.STRATIFORM).all()


def test_finer_cells_are_coarsened_and_others_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archived(tmp_path, "fine", [0, 10, 20], cell_m=500.0)
    archived(tmp_path, "coarse", [0, 10, 20], cell_m=2500.0)
    archived(tmp_path, "slow", [0, 15, 30])
    with caplog.at_level(logging.WARNING):
        (video,) = read_videos(Archive(tmp_path), ["fine", "coarse", "slow"], minutes=10, frames=2)
    assert (video.domain, video.step_minutes, video.frames.shape) == ("fine", 10.0, (2, 20, 20))
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == ["coarse", "slow"]
    with pytest.raises(NotEnoughFrames, match="found none in coarse, slow"):
        read_videos(Archive(tmp_path), ["coarse", "slow"], minutes=10, frames=2)


def test_a_coarse_cell_has_the_mean_z_of_its_cells_and_is_observed_if_all_are() -> None:
    dbz = torch.tensor([[40.0, -10.0, -10.0, -10.0], [-10.0, -10.0, torch.nan, -10.0]])
    coarse = coarsened(dbz, 2)
    assert coarse[0, 0] == pytest.approx(10 * np.log10((1e4 + 3 * 0.1) / 4), abs=1e-4)
    assert coarse[0, 1].isnan()
    assert coarsened(torch.full((3, 3), -10.0), 2).tolist() == [[pytest.approx(-10.0)]]


def test_echo_that_only_moves_keeps_its_class() -> None:
    dbz = drifting(bells(), 3, 5)
    answers = followed(dbz, (1.0, 1.0), 2)
    assert answers.shape == (3, 96, 128)
    now = torch.stack([echo_classes(frame, 1.0) for frame in dbz[:3]])
    inside = now[..., 12:116]  # the rest moves out
    echo = inside >= EchoClass.WEAK
    same = (answers[..., 12:116] == inside)[echo].float().mean()
    in_place = torch.stack([echo_classes(frame, 1.0) for frame in dbz[2:]])
    unmoved = (in_place[..., 12:116] == inside)[echo].float().mean()
    assert same > 0.93
    assert unmoved < 0.75


def test_echo_that_grows_is_of_its_later_class() -> None:
    growing = torch.from_numpy(np.stack([bells(30.0), bells(39.0), bells(48.0)]).astype(np.float32))
    assert echo_classes(growing[0], 1.0)[20, 50] == EchoClass.STRATIFORM
    (answers,) = followed(growing, (1.0, 1.0), 2)
    assert answers[20, 50] == EchoClass.CONVECTIVE
    assert answers[76, 50] == EchoClass.WEAK


def test_a_cell_is_ignored_unless_its_echo_is_observed_now_and_then() -> None:
    dbz = drifting(bells(), 3, 3)
    dbz[0, 60, 60] = torch.nan
    dbz[2, 20:24, 60:64] = torch.nan
    (answers,) = followed(dbz, (1.0, 1.0), 2)
    assert answers[60, 60] == IGNORED
    assert (answers[21:23, 55:57] == IGNORED).all()  # 6 cells west of where nothing is observed
    assert answers[22, 66] != IGNORED
    assert (answers[20, -4:] == IGNORED).all()  # on its way out


def test_without_a_future_asked_for_the_class_is_that_of_the_frame() -> None:
    dbz = drifting(bells(), 3, 2)
    assert torch.equal(followed(dbz, (1.0, 1.0), 0).long(), echo_classes(dbz, 1.0))


def test_a_clip_is_what_is_seen_and_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo_clips, "CLUTTER_PER_CELL", 0.0)
    frames, answers = clip_of(made_video(), torch.Generator().manual_seed(1))
    assert frames.shape == (4, 1, 32, 32)
    assert answers[:, 5, 5].tolist() == [0, 1, 2, 3]
    assert (answers[..., 0] == IGNORED).all()
    assert (answers[..., 1:] != IGNORED).all()
    assert (frames[..., 0] == 0).all()
    assert frames[0, 0, 5, 5] == pytest.approx(40 / 70, abs=0.002)


def test_injected_clutter_stays_in_place_and_is_a_class_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo_clips, "CLUTTER_PER_CELL", 2e-3)
    classes = torch.zeros(6, 32, 32, dtype=torch.int8)
    dry = Video("dry", 5.0, to_bytes(torch.full((6, 32, 32), -10.0)), classes)
    frames, answers = clip_of(dry, torch.Generator().manual_seed(1))
    seen = frames[:, 0] > 0
    clutter = answers == EchoClass.NON_METEOROLOGICAL
    assert 0 < clutter.float().mean() < 0.5
    assert torch.equal(seen, clutter)
    assert (clutter == clutter[0]).all()
    assert not torch.equal(frames[0], frames[1])  # it flickers
    assert (answers[~clutter] == EchoClass.NO_ECHO).all()


def test_batches_are_cut_around_echo_and_repeat_with_their_seed() -> None:
    classes = torch.zeros(6, 100, 100, dtype=torch.int8)
    classes[:, 90, 7] = EchoClass.INTENSE
    dbz = torch.where(classes > 0, 55.0, -10.0)
    video = Video("rare", 5.0, to_bytes(dbz), classes)
    shape = Shape(clips=2, frames=3, side=32)
    batches = list(islice(Batches([video], shape, 4), 8))
    assert batches[0][0].shape == (2, 3, 1, 32, 32)
    assert all(((labels == EchoClass.INTENSE).sum((-2, -1)) == 1).all() for _, labels in batches)
    places = {tuple(map(tuple, (labels == EchoClass.INTENSE).nonzero().tolist())) for _, labels in batches}
    assert len(places) > 4
    again = next(iter(Batches([video], shape, 4)))
    assert torch.equal(batches[0][0], again[0])
    assert not torch.equal(batches[0][0], next(iter(Batches([video], shape, 5)))[0])


def test_a_video_smaller_than_a_clip_is_refused() -> None:
    with pytest.raises(NotEnoughFrames, match="at least 96 x 96 cells"):
        Batches([made_video(frames=20)], Shape(), 1)
    with pytest.raises(NotEnoughFrames, match="expected 8 frames"):
        Batches([made_video(frames=7, side=96)], Shape(), 1)
