"""The bridge: cubes in, covered fields out, weights checked, and never a false all-clear."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.convlstm import ConvLSTMConfig
from models.presets import FORECASTERS
from models.registry import PRESETS, build, forecasters
from nowcast import names
from nowcast.compute import Compute
from nowcast.errors import NetworkError, NotEnoughFrames, WeightsError
from nowcast.frame.frame import frame_array
from nowcast.frame.grid import Grid
from nowcast.methods.answer import predict_batch_with_fallback, predict_with_fallback
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.networks import loading as bridge
from nowcast.methods.networks.checkpoint import Card, Task, save
from nowcast.methods.networks.loading import network
from nowcast.methods.networks.method import Loaded, Network, encoded
from nowcast.methods.networks.versions import Change, Shelf
from nowcast.motion.flow import motion_field
from nowcast.motion.lagrangian import carried_to_issue

Array = NDArray[np.float32]
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
UNTRAINED = Compute(untrained=True)
TASK = Task(frames=4, leads=12, step_minutes=5.0, cell_km=1.0)


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the package's weights, empty here; and no network is kept from another test."""
    folder = tmp_path_factory.mktemp("shipped")
    monkeypatch.setattr(bridge, "SHIPPED", folder)
    monkeypatch.setattr(bridge, "_ready", {})
    return folder


def cube_of(*frames: Array, minutes: int = 5, cell_metres: float = 1000) -> Cube:
    ny, nx = frames[0].shape
    grid = Grid.from_crs("EPSG:3035", nx=nx, ny=ny, x0=4e6, y0=3e6, dx=cell_metres, dy=cell_metres)
    dated = [
        frame_array(values.astype(np.float32), grid, NOON - timedelta(minutes=minutes * back))
        for back, values in zip(range(len(frames) - 1, -1, -1), frames, strict=True)
    ]
    return build_cube(dated, step_minutes=minutes, history=len(frames))


def rain(shift: float = 0.0, shape: tuple[int, int] = (96, 120)) -> Array:
    """Bells of up to 45 dBZ all over, moved eastward by some cells; no echo between them."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    waves = np.sin(rows / 7) * np.sin((columns - shift) / 9) + 0.3 * np.sin((columns - shift + 2 * rows) / 13)
    return np.maximum(60 * waves - 15, -10).clip(max=45).astype(np.float32)


def moving(step: float = 3.0, count: int = 4) -> list[Array]:
    return [rain(step * (k - count + 1)) for k in range(count)]


class Newest(nn.Module):
    """Forecasts the newest frame less a constant, and keeps what it was shown."""

    stride, frames = 1, None

    def __init__(self, less: float = 0.0, frames: int | None = None) -> None:
        super().__init__()
        self.less, self.frames = less, frames
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, horizon: int) -> dict[str, Tensor]:
        self.seen.append(x)
        return {"pred": (x[:, -1:] - self.less).expand(-1, horizon, -1, -1, -1)}

    def cells(self) -> Iterator[nn.Module]:
        yield from ()


def serve(monkeypatch: pytest.MonkeyPatch, net: nn.Module) -> Network:
    """Let a network answer as ``convlstm``."""
    monkeypatch.setattr(bridge, "build", lambda config: net)
    return network("convlstm", UNTRAINED)


def in_the_moving_frame(net: nn.Module, frames: int = 4) -> Network:
    """A network whose card says that it was trained on what is seen from the moving air."""
    card = Card(PRESETS["convlstm_cpu"], replace(TASK, frames=frames, moving=True))
    loaded = Loaded(bridge.Engine(net, torch.device("cpu")), card, "sha256:0")
    return Network("convlstm", loaded, 512)


def weighed(folder: Path, config: Any = PRESETS["convlstm_cpu"], task: Task = TASK, seed: int = 1) -> Path:
    """Save a checkpoint of a network with weights that produce echo."""
    torch.manual_seed(seed)
    net = build(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save(folder, net, Card(config, task))
    return folder


def test_names_are_those_of_the_networks_that_forecast():
    assert set(names.NETWORKS.values()) == set(FORECASTERS) == set(forecasters())


def test_names_are_known_without_torch():
    code = "import sys, nowcast.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_short_name_is_the_preset_of_cpu_size_and_a_full_name_its_own():
    assert names.NETWORKS["convlstm"] == "convlstm_cpu"
    assert all(names.NETWORKS[name] == name for name in FORECASTERS)


def test_it_is_a_method_that_takes_batches():
    assert network("convlstm", UNTRAINED).takes_batches


def test_a_network_sees_normalised_frames_with_what_was_not_observed_as_no_echo(monkeypatch):
    net = Newest()
    frames = [np.full((20, 24), value, np.float32) for value in (-32.0, -10.0, 25.0, 70.0)]
    frames[3][2, 3] = np.nan
    serve(monkeypatch, net).predict(cube_of(*frames), 2)
    seen = net.seen[-1]
    assert seen.shape == (1, 4, 1, 20, 24)
    assert [seen[0, t, 0, 9, 9].item() for t in range(4)] == [0.0, 0.0, 0.5, 1.0]
    assert seen[0, 3, 0, 2, 3].item() == 0.0


def test_fields_are_dbz_and_what_is_no_echo_is_exactly_that(monkeypatch):
    frames = [rain()] * 4
    fields = list(serve(monkeypatch, Newest(less=0.25)).predict(cube_of(*frames), 2).fields)
    assert len(fields) == 2
    for field in fields:
        assert field.dtype == np.float32
        np.testing.assert_allclose(field, np.maximum(rain() - 17.5, -10), atol=1e-4)
        assert (field[rain() <= 7.5] == -10.0).all()


def test_air_from_outside_the_grid_is_not_covered(monkeypatch):
    cube = cube_of(*moving(3.0))
    prediction = serve(monkeypatch, Newest()).predict(cube, 4)
    carried = Extrapolation().predict(cube, 4)
    assert prediction.motion is not None
    np.testing.assert_array_equal(prediction.motion, carried.motion)
    for lead, (field, other) in enumerate(zip(prediction.fields, carried.fields, strict=True), start=1):
        np.testing.assert_array_equal(np.isnan(field), np.isnan(other))
        west = np.isnan(field[20:80]).sum(1)
        assert abs(np.median(west) - 3 * lead) <= 1


def test_what_is_not_observed_is_not_covered_nor_is_what_comes_from_there(monkeypatch):
    frames = moving(3.0)
    for frame in frames:
        frame[:, 50:60] = np.nan
    field = list(serve(monkeypatch, Newest()).predict(cube_of(*frames), 2).fields)[1]
    gap = np.isnan(field[40])
    assert gap[50:60].all(), "as the newest frame has it"
    assert gap[60:65].all(), "and where that air has gone to"
    assert not gap[70:].any()


def test_one_frame_shows_no_motion_and_the_forecast_says_so(monkeypatch):
    frame = rain()
    frame[:5] = np.nan
    prediction = serve(monkeypatch, Newest()).predict(cube_of(frame), 2)
    assert prediction.motion is None
    assert "one frame alone shows no motion" in "; ".join(prediction.shortfalls)
    for field in prediction.fields:
        np.testing.assert_array_equal(np.isnan(field), np.isnan(frame))


def test_too_few_frames_are_an_error_that_says_how_many(monkeypatch):
    method = serve(monkeypatch, Newest(frames=4))
    assert method.frames == 4
    with pytest.raises(NotEnoughFrames, match="convlstm: expected 4 frames, got 3"):
        method.predict(cube_of(*moving(count=3)), 2)


def test_of_more_frames_than_it_wants_a_network_sees_the_last(monkeypatch):
    net = Newest(frames=2)
    cube = cube_of(*moving(count=4))
    serve(monkeypatch, net).predict(cube, 1)
    assert net.seen[-1].shape[1] == 2
    expected = encoded(cube.values[-2:])
    assert torch.equal(net.seen[-1][0, :, 0], expected)


def test_a_network_for_any_number_of_frames_sees_all(monkeypatch):
    net = Newest()
    method = serve(monkeypatch, net)
    method.predict(cube_of(*moving(count=6)), 1)
    assert net.seen[-1].shape[1] == 6
    assert method.frames == 0


def test_values_that_are_not_finite_let_another_method_answer(monkeypatch):
    serve(monkeypatch, Newest(less=float("nan")))
    answer = predict_with_fallback(cube_of(*moving()), 2, "convlstm", UNTRAINED)
    assert answer.model == "blend"
    assert "; ".join(answer.prediction.shortfalls) == (
        "convlstm failed (the network's forecast has values that are not finite)"
    )


def test_a_batch_is_the_same_as_one_by_one(tmp_path):
    method = network("convlstm", Compute(weights=weighed(tmp_path)))
    cubes = [cube_of(*moving(step)) for step in (3.0, -2.0, 0.0)]
    together = method.predict_batch(cubes, 3)
    for cube, prediction in zip(cubes, together, strict=True):
        alone = method.predict(cube, 3)
        for field, other in zip(prediction.fields, alone.fields, strict=True):
            np.testing.assert_allclose(field, other, atol=1e-3)
            assert np.nanstd(field) > 1


def test_memory_is_bounded_and_tiles_give_the_same_fields(tmp_path):
    compute = Compute(weights=weighed(tmp_path))
    frames = [np.tile(frame, (4, 5)) for frame in moving()]
    cube = cube_of(*frames)
    whole = list(network("convlstm", compute).predict(cube, 3).fields)
    tiled = list(network("convlstm", replace(compute, memory_mb=64)).predict(cube, 3).fields)
    for field, other in zip(whole, tiled, strict=True):
        np.testing.assert_allclose(field, other, atol=0.1)
    with pytest.raises(NetworkError, match="networks may take 33 MiB"):
        network("convlstm", replace(compute, memory_mb=33)).predict(cube, 3)


def test_trained_weights_answer_without_a_reason_and_with_their_hash(tmp_path):
    compute = Compute(weights=weighed(tmp_path / "convlstm").parent)
    answer = predict_with_fallback(cube_of(*moving()), 2, "convlstm", compute)
    digest = json.loads((tmp_path / "convlstm/config.json").read_text())["weights"]["sha256"]
    assert (answer.model, answer.model_version) == ("convlstm", f"sha256:{digest}")
    assert "; ".join(answer.prediction.shortfalls) == ""


@pytest.mark.parametrize(
    ("cube", "reason"),
    [
        (cube_of(*moving(count=3)), "made from 3 frames with weights trained on 4"),
        (cube_of(*moving(), minutes=10), "weights trained on steps of 5 minutes, not 10"),
        (cube_of(*moving(), cell_metres=2000), "weights trained on cells of 1 km, not 2 x 2"),
    ],
    ids=["frames", "step", "cells"],
)
def test_what_the_weights_were_not_trained_for_is_stated(tmp_path, cube, reason):
    prediction = network("convlstm", Compute(weights=weighed(tmp_path))).predict(cube, 2)
    assert "; ".join(prediction.shortfalls) == reason
    assert len(list(prediction.fields)) == 2


def test_a_network_wants_the_frames_it_was_trained_on(tmp_path):
    weighed(tmp_path, task=replace(TASK, frames=6))
    assert network("convlstm", Compute(weights=tmp_path)).frames == 6


def test_untrained_weights_say_so_and_are_the_same_every_time(monkeypatch):
    cube = cube_of(*moving())
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first = network("convlstm", UNTRAINED).predict(cube, 2)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers are drawn"
    monkeypatch.setattr(bridge, "_ready", {})
    torch.rand(1)
    second = network("convlstm", UNTRAINED)
    assert second.version == "untrained"
    assert "; ".join(first.shortfalls) == "untrained weights"
    for field, other in zip(first.fields, second.predict(cube, 2).fields, strict=True):
        np.testing.assert_array_equal(field, other)


def test_the_live_service_forecasts_by_the_base_rather_than_with_untrained_weights(tmp_path):
    cubes = [cube_of(*moving()), cube_of(*moving(1.0))]
    for answer in predict_batch_with_fallback(cubes, 2, "convlstm", Compute(weights=tmp_path)):
        assert answer.model == "blend"
        assert "; ".join(answer.prediction.shortfalls) == (
            f"convlstm failed (expected weights of convlstm, found no {tmp_path / 'convlstm'})"
        )


def test_weights_that_are_there_are_used_even_where_untrained_ones_would_do(tmp_path):
    weighed(tmp_path / "convlstm")
    method = network("convlstm", Compute(weights=tmp_path, untrained=True))
    assert method.version.startswith("sha256:")
    assert network("scs", Compute(weights=tmp_path, untrained=True)).version == "untrained"


def test_damaged_weights_are_an_error_even_where_untrained_ones_would_do(tmp_path):
    with (weighed(tmp_path / "convlstm") / "weights.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(WeightsError, match="is damaged: expected"):
        network("convlstm", Compute(weights=tmp_path, untrained=True))
    (tmp_path / "convlstm/config.json").unlink()
    with pytest.raises(WeightsError, match=r"there is no .*config\.json"):
        network("convlstm", Compute(weights=tmp_path, untrained=True))


def test_weights_of_another_network_are_refused(tmp_path):
    weighed(tmp_path / "unet")
    with pytest.raises(
        WeightsError, match=r"expected weights of unet, UNetConfig.*; got those of ConvLSTMConfig"
    ):
        network("unet", Compute(weights=tmp_path))


def test_a_short_name_takes_weights_of_any_size_and_a_full_name_its_own(tmp_path):
    weighed(tmp_path, ConvLSTMConfig(hidden=(6,)))
    assert network("convlstm", Compute(weights=tmp_path)).version.startswith("sha256:")
    with pytest.raises(WeightsError, match="expected weights of convlstm_cpu"):
        network("convlstm_cpu", Compute(weights=tmp_path))


def test_a_network_is_loaded_once_however_many_ask_at_once(tmp_path, monkeypatch):
    weighed(tmp_path)
    loads, load = [], bridge.load
    monkeypatch.setattr(bridge, "load", lambda folder: (loads.append(folder), load(folder))[1])
    found: list[Network] = []
    threads = [
        threading.Thread(target=lambda: found.append(network("convlstm", Compute(weights=tmp_path))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert loads == [tmp_path]


def test_threads_that_share_a_network_get_their_own_forecasts(tmp_path):
    method = network("convlstm", Compute(weights=weighed(tmp_path)))
    cubes = [cube_of(*moving(step)) for step in (3.0, -2.0, 0.0, 1.0)]
    expected = [next(method.predict(cube, 1).fields) for cube in cubes]
    got: dict[int, Array] = {}

    def forecast(number: int) -> None:
        got[number] = next(method.predict(cubes[number], 1).fields)

    threads = [threading.Thread(target=forecast, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_array_equal(got[number], expected[number])


def test_replaced_weights_are_taken_over(tmp_path):
    compute = Compute(weights=weighed(tmp_path))
    before = network("convlstm", compute).version
    weighed(tmp_path, seed=2)
    after = network("convlstm", compute).version
    assert before != after
    assert len(bridge._ready) == 1, "the old ones are let go"


def test_a_moving_network_that_changes_nothing_is_extrapolation():
    frames = moving(3.3)
    for frame in frames:
        frame[:, 50:60] = np.nan
    cube = cube_of(*frames)
    prediction = in_the_moving_frame(Newest()).predict(cube, 4)
    expected = Extrapolation().predict(cube, 4)
    np.testing.assert_array_equal(prediction.motion, expected.motion)
    assert "; ".join(prediction.shortfalls) == ""
    for field, other in zip(prediction.fields, expected.fields, strict=True):
        assert field.dtype == np.float32
        np.testing.assert_allclose(field, other, atol=1 / 64)
        np.testing.assert_array_equal(field == -10.0, other == -10.0)
        assert np.isnan(field[40, 60:64]).any(), "the gap moves"


def test_what_a_moving_network_forecasts_moves_on_by_one_step_a_lead():
    """Three cells further east at every lead; where the network lets echo die there is none, and the rest has
    the values of the extrapolated frame."""
    fields = list(in_the_moving_frame(Newest(less=0.25)).predict(cube_of(*moving(3.0)), 3).fields)
    for lead, field in enumerate(fields, start=1):
        expected = np.where(rain(3.0 * lead) > 7.5, rain(3.0 * lead), np.float32(-10))
        inner = np.s_[20:-20, 30:-20]
        assert np.abs(field - expected)[inner].mean() < 0.6
        assert np.abs(field - np.where(rain() > 7.5, rain(), -10))[inner].mean() > 2


def test_a_moving_network_sees_the_past_where_its_air_is_now():
    net, cube = Newest(), cube_of(*moving(3.0))
    in_the_moving_frame(net).predict(cube, 1)
    seen = net.seen[-1][0, :, 0]
    assert torch.equal(seen, encoded(carried_to_issue(cube.values, motion_field(cube.values))))
    inner = np.s_[:, 20:-20, 20:-20]
    still = (seen - seen[-1])[inner].abs().mean()
    assert still < 0.2 * (encoded(cube.values) - seen[-1])[inner].abs().mean()


def test_motion_comes_from_all_frames_though_the_network_wants_fewer():
    net, cube = Newest(frames=2), cube_of(*moving(3.0))
    in_the_moving_frame(net, frames=2).predict(cube, 1)
    expected = carried_to_issue(cube.values[-2:], motion_field(cube.values))
    assert torch.equal(net.seen[-1][0, :, 0], encoded(expected))


def test_a_moving_network_answers_from_one_frame_in_place_and_says_so():
    frame = rain()
    frame[:5] = np.nan
    prediction = in_the_moving_frame(Newest()).predict(cube_of(frame), 2)
    assert prediction.motion is None
    assert "; ".join(prediction.shortfalls) == (
        "made from 1 frames with weights trained on 4; "
        "one frame alone shows no motion, so the echo stays in place"
    )
    for field in prediction.fields:
        np.testing.assert_allclose(field, frame, atol=1e-4)


def test_in_a_batch_each_cube_moves_its_own_way():
    method = in_the_moving_frame(Newest())
    cubes = [cube_of(*moving(step)) for step in (3.0, -2.0, 0.0)]
    for cube, prediction in zip(cubes, method.predict_batch(cubes, 3), strict=True):
        alone = Extrapolation().predict(cube, 3)
        for field, other in zip(prediction.fields, alone.fields, strict=True):
            np.testing.assert_allclose(field, other, atol=1 / 64)


def test_a_checkpoint_says_whether_its_network_moves_with_the_air(tmp_path):
    cube = cube_of(*moving(3.0))
    still = network("convlstm", Compute(weights=weighed(tmp_path / "a"))).predict(cube, 2)
    task = replace(TASK, moving=True)
    onward = network("convlstm", Compute(weights=weighed(tmp_path / "b", task=task))).predict(cube, 2)
    differ = [np.abs(a - b) for a, b in zip(still.fields, onward.fields, strict=True)]
    assert all(np.nanmean(each) > 1 for each in differ)


def test_tiles_of_a_moving_network_give_the_same_fields(tmp_path):
    compute = Compute(weights=weighed(tmp_path, task=replace(TASK, moving=True)))
    cube = cube_of(*[np.tile(frame, (4, 5)) for frame in moving()])
    whole = list(network("convlstm", compute).predict(cube, 3).fields)
    tiled = list(network("convlstm", replace(compute, memory_mb=64)).predict(cube, 3).fields)
    for field, other in zip(whole, tiled, strict=True):
        np.testing.assert_array_equal(np.isnan(field), np.isnan(other))
        # below, whether a cell is just above no echo or just at it makes a dB of difference once averaged
        differ = np.abs(np.maximum(field, 0) - np.maximum(other, 0))[~np.isnan(field)]
        assert differ.max() < 0.5  # cells of nearly one rank may change places
        assert (differ > 0.1).mean() < 1e-3


def digest(folder: Path) -> str:
    return "sha256:" + json.loads((folder / "config.json").read_text())["weights"]["sha256"]


def test_weights_of_the_package_answer_where_no_one_named_any(tmp_path, shipped):
    weighed(shipped / "convlstm")
    for compute in (Compute(), UNTRAINED, Compute(weights=tmp_path), Compute(weights=tmp_path / "absent")):
        answer = predict_with_fallback(cube_of(*moving()), 2, "convlstm", compute)
        assert (answer.model, "; ".join(answer.prediction.shortfalls)) == ("convlstm", "")
        assert answer.model_version == digest(shipped / "convlstm")


def test_weights_of_ones_own_come_before_those_of_the_package(tmp_path, shipped):
    weighed(shipped / "convlstm")
    weighed(tmp_path / "convlstm", seed=2)
    for weights in (tmp_path, tmp_path / "convlstm"):
        version = network("convlstm", Compute(weights=weights)).version
        assert version == digest(tmp_path / "convlstm") != digest(shipped / "convlstm")


def test_weights_of_the_package_can_be_declined(tmp_path, shipped):
    weighed(shipped / "convlstm")
    with pytest.raises(WeightsError, match=f"expected weights of convlstm, found no {tmp_path}"):
        network("convlstm", Compute(weights=tmp_path, shipped=False))
    assert network("convlstm", replace(UNTRAINED, shipped=False)).version == "untrained"


def test_a_full_name_takes_the_packages_weights_if_they_are_of_its_size(shipped):
    weighed(shipped / "convlstm")
    assert network("convlstm_cpu", Compute()).version == digest(shipped / "convlstm")
    with pytest.raises(WeightsError, match="expected weights of convlstm_paper, but no folder was named"):
        network("convlstm_paper", Compute())
    weighed(shipped / "convlstm", ConvLSTMConfig(hidden=(6,)))
    assert network("convlstm", Compute()).version == digest(shipped / "convlstm")
    with pytest.raises(WeightsError, match="expected weights of convlstm_cpu, but no folder was named"):
        network("convlstm_cpu", Compute())
    assert network("convlstm_cpu", UNTRAINED).version == "untrained"


@pytest.mark.parametrize("name", ["convlstm", "convlstm_cpu"])
def test_damaged_weights_of_the_package_are_an_error(shipped, name):
    with (weighed(shipped / "convlstm") / "weights.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(WeightsError, match="is damaged: expected"):
        network(name, UNTRAINED)


def promoted(store: Path, version: str, seed: int) -> Path:
    """Add a version of ``convlstm`` to a model store, and make it current."""
    folder = weighed(store / "convlstm" / version, seed=seed)
    Shelf(store, "convlstm").switch(Change(NOON, "promote", version))
    return folder


def test_of_the_versions_in_a_store_the_current_one_answers(tmp_path, shipped):
    weighed(shipped / "convlstm")
    compute = Compute(weights=tmp_path)
    weighed(tmp_path / "convlstm" / "20261121T1200-00000000", seed=2)
    assert network("convlstm", compute).version == digest(shipped / "convlstm"), "no one promoted it"
    first = promoted(tmp_path, "20261121T1200-00000000", seed=2)
    assert network("convlstm", compute).version == digest(first)
    second = promoted(tmp_path, "20261121T1300-11111111", seed=3)
    assert network("convlstm", compute).version == digest(second) != digest(first)
    Shelf(tmp_path, "convlstm").switch(Change(NOON, "rollback", first.name))
    assert network("convlstm", compute).version == digest(first)
    assert len(bridge._ready) == 1, "of the others none stays in memory"


def test_a_current_version_that_is_gone_is_an_error(tmp_path):
    (promoted(tmp_path, "20261121T1200-00000000", seed=2) / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"there is no .*20261121T1200-00000000/config\.json"):
        network("convlstm", Compute(weights=tmp_path, untrained=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(NetworkError, match="expected a CUDA device, as asked for, but PyTorch sees none"):
        network("convlstm", replace(UNTRAINED, device="cuda"))
    assert network("convlstm", UNTRAINED).engine.device.type == "cpu"
