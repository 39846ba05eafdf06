"""The echo classifier on cubes: sensible classes from the weights that ship, and honest words about them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.fanet.echo_classes import EchoClass
from models.fanet.network import FANetConfig
from models.registry import PRESETS, build
from nowcast.errors import NetworkError, WeightsError
from nowcast.frame.frame import frame_array
from nowcast.frame.grid import Grid
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.networks.checkpoint import Card, Task, save
from nowcast.methods.networks.echo_classes import NOT_OBSERVED_CLASS, SHIPPED, classify

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TASK = Task(frames=3, leads=2, step_minutes=5.0, cell_km=1.0)


def cube_of(frames: list[NDArray[np.float32]], *, cell_m: float = 1000.0) -> Cube:
    ny, nx = frames[0].shape
    grid = Grid.from_crs("EPSG:3035", nx=nx, ny=ny, x0=4e6, y0=3e6, dx=cell_m, dy=cell_m)
    dated = [
        frame_array(values.astype(np.float32), grid, NOON - timedelta(minutes=5 * back))
        for back, values in zip(range(len(frames) - 1, -1, -1), frames, strict=True)
    ]
    return build_cube(dated, step_minutes=5, history=len(frames))


def sheet_and_showers() -> NDArray[np.float32]:
    """A sheet of 25 dBZ in the west, steep showers of 50 dBZ in the east, dry between; a corner unseen."""
    rows, columns = np.mgrid[:128, :192]
    dbz = np.where((columns < 64) & (abs(rows - 64) < 48), 25.0, -10.0)
    for row, column in ((32, 130), (64, 160), (96, 135)):
        distance = np.hypot(rows - row, columns - column)
        dbz = np.maximum(dbz, 50.0 - 4.0 * distance)
    dbz[:8, -8:] = np.nan
    return np.where(dbz < 0, -10.0, dbz).astype(np.float32)


def weights(folder: Path, config: FANetConfig) -> Path:
    torch.manual_seed(1)
    save(folder, build(config), Card(config, TASK))
    return folder


def test_the_shipped_weights_tell_showers_from_a_sheet_and_dry_air() -> None:
    told = classify(cube_of([sheet_and_showers()] * 3))
    classes = told.values
    inside = classes[30:98, 10:54]
    assert (inside == EchoClass.STRATIFORM).mean() > 0.9
    assert not (inside >= EchoClass.CONVECTIVE).any()
    cores = [
        classes[row - 2 : row + 3, column - 2 : column + 3]
        for row, column in ((32, 130), (64, 160), (96, 135))
    ]
    assert all(np.isin(core, (EchoClass.CONVECTIVE, EchoClass.INTENSE)).mean() > 0.8 for core in cores)
    assert (classes[:, 75:100] == EchoClass.NO_ECHO).mean() > 0.95
    assert told.attrs["degraded_reason"] == ""


def test_the_shipped_weights_are_small_and_say_whose_data_they_learnt() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 4e6
    card = (SHIPPED / "card.md").read_text()
    assert all(agency in card for agency in ("FMI", "KNMI", "MeteoSwiss", "Bureau of Meteorology", "DWD"))


def test_classes_are_flags_where_the_newest_frame_saw_echo() -> None:
    told = classify(cube_of([sheet_and_showers()] * 3))
    assert told.dtype == np.uint8
    assert told.dims == ("y", "x")
    assert told["time"].values == np.datetime64("2026-11-21T12:00:00")
    assert told.attrs["minutes_ahead"] == 10.0
    meanings = dict(zip(told.attrs["flag_values"], told.attrs["flag_meanings"].split(), strict=True))
    assert meanings[3] == "convective"
    assert meanings[NOT_OBSERVED_CLASS] == "not_observed"
    assert set(np.unique(told.values)) <= set(meanings)
    unseen = np.isnan(sheet_and_showers())
    assert (told.values[unseen] == NOT_OBSERVED_CLASS).all()
    assert (told.values[~unseen] != NOT_OBSERVED_CLASS).all()


def test_a_history_is_looked_at_and_no_more(tmp_path: Path) -> None:
    folder = weights(tmp_path / "two", FANetConfig(history=2))
    newest = sheet_and_showers()
    # The same cells are observed; a corner keeps its rain, as a frame without any counts as missing.
    dry = np.where(np.isnan(newest), newest, np.float32(-10.0))
    dry[:24, :24] = newest[:24, :24]
    told = classify(cube_of([dry, newest, newest, newest]), weights=folder)
    assert np.array_equal(told, classify(cube_of([newest] * 4), weights=folder))
    other = classify(cube_of([newest, dry, newest, newest]), weights=folder)
    assert not np.array_equal(told, other)
    now_dry = classify(cube_of([newest, newest, newest, dry]), weights=folder)
    assert not np.array_equal(told, now_dry)
    assert told.attrs["degraded_reason"] == ""
    short = classify(cube_of([newest]), weights=folder)
    assert short.attrs["degraded_reason"] == "made from 1 frames with weights trained on 3"


def test_other_cells_than_those_of_the_training_are_said() -> None:
    told = classify(cube_of([sheet_and_showers()] * 3, cell_m=2000.0))
    assert told.attrs["degraded_reason"] == "weights trained on cells of 1 km, not 2 x 2"


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    cube = cube_of([sheet_and_showers()])
    with pytest.raises(WeightsError, match="there is no"):
        classify(cube, weights=tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="a FANet of 6 classes"):
        classify(cube, weights=weights(tmp_path / "few", FANetConfig(classes=3)))
    config = PRESETS["unet_cpu"]
    save(tmp_path / "unet", build(config), Card(config, TASK))
    with pytest.raises(WeightsError, match="a FANet of 6 classes"):
        classify(cube, weights=tmp_path / "unet")


def test_what_overflows_is_no_answer(tmp_path: Path) -> None:
    net = build(FANetConfig())
    with torch.no_grad():
        net.head[1].weight.fill_(3e38)  # type: ignore[index, union-attr]
    save(tmp_path / "wild", net, Card(FANetConfig(), replace(TASK, frames=1)))
    with pytest.raises(NetworkError, match="finite"):
        classify(cube_of([sheet_and_showers()]), weights=tmp_path / "wild")
