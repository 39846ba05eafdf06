"""The engine forecasts any grid within its memory, and in tiles the same as at once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.normalisation import to_unit
from nowcast.errors import NetworkError
from nowcast.methods.networks import engine as module
from nowcast.methods.networks.engine import Engine

CPU = torch.device("cpu")
PLENTY = 1 << 40


def encode(frames: NDArray[np.float32]) -> Tensor:
    return to_unit(torch.from_numpy(frames))[0]


def showers(rows: int, columns: int, frames: int = 3, seed: int = 0) -> NDArray[np.float32]:
    """Frames of smooth showers [dBZ] with dry places between."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(-60, 70, (frames, 1, rows // 6 + 2, columns // 6 + 2)))
    fine = functional.interpolate(coarse, size=(rows, columns), mode="bilinear")
    return fine[:, 0].clamp(min=-10).numpy().astype(np.float32)


def loud(config: ConvLSTMConfig) -> ConvLSTM:
    """A ConvLSTM of random weights that are large enough for echo of all strengths."""
    torch.manual_seed(2)
    network = ConvLSTM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        network.head.bias.fill_(0.3)
    return network


class Blur(nn.Module):
    """Forecasts the newest frame's mean over squares ``2 radius + 1`` wide, and counts how it is called."""

    stride = 1

    def __init__(self, radius: int = 5) -> None:
        super().__init__()
        self.radius, self.scale = radius, nn.Parameter(torch.ones(1))
        self.called: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, horizon: int) -> dict[str, Tensor]:
        self.called.append(tuple(x.shape))
        width = 2 * self.radius + 1
        mean = functional.avg_pool2d(x[:, -1], width, 1, self.radius) * self.scale
        return {"pred": mean[:, None].expand(-1, horizon, -1, -1, -1)}

    def cells(self) -> Iterator[nn.Module]:
        yield from ()


def test_a_forecast_is_the_networks():
    network = loud(ConvLSTMConfig(hidden=(8, 8)))
    frames = [showers(40, 52), showers(40, 52, seed=1)]
    forecast = Engine(network, CPU).forecast(frames, 4, PLENTY, encode=encode)
    assert forecast.shape == (2, 4, 40, 52)
    assert forecast.dtype == np.float32
    with torch.inference_mode():
        expected = network.eval()(encode(np.stack(frames))[:, :, None], 4)["pred"][:, :, 0]
    np.testing.assert_allclose(forecast, expected.numpy(), atol=1e-6)
    assert forecast.std() > 0.1, "echo of many strengths"


@pytest.mark.parametrize("hidden", [(8,), (8, 8)])
def test_tiles_together_are_the_forecast_of_the_whole_grid(hidden, caplog):
    engine = Engine(loud(ConvLSTMConfig(hidden=hidden)), CPU)
    frames = [showers(171, 230)]
    whole = engine.forecast(frames, 3, PLENTY, encode=encode)
    memory = int(engine.memory_bytes(171 * 230 // 3, 3, 3))
    with caplog.at_level(logging.INFO):
        tiled = engine.forecast(frames, 3, memory, encode=encode)
    assert "tiles" in caplog.text
    assert whole.std() > 0.1
    assert 70 * np.abs(tiled - whole).max() < 0.1, "dBZ, everywhere"


def test_without_surroundings_the_seams_would_show(monkeypatch):
    engine = Engine(loud(ConvLSTMConfig(hidden=(8, 8))), CPU)
    frames = [showers(171, 230)]
    whole = engine.forecast(frames, 3, PLENTY, encode=encode)
    monkeypatch.setattr(Engine, "_reach", lambda *sizes: 0)
    tiled = engine.forecast(frames, 3, int(engine.memory_bytes(171 * 230 // 3, 3, 3)), encode=encode)
    assert 70 * np.abs(tiled - whole).max() > 1


@pytest.mark.parametrize("radius", [0, 3, 17])
def test_the_reach_is_how_far_surroundings_matter(radius):
    assert abs(Engine(Blur(radius), CPU)._reach(2, 1) - radius) <= 2


def test_a_network_that_reaches_farther_than_is_granted_gets_what_is_granted(monkeypatch):
    monkeypatch.setattr(module, "STRIP_COLUMNS", 40)
    monkeypatch.setattr(module, "TOLERANCE", 1e-6)
    assert Engine(Blur(60), CPU)._reach(2, 1) == 20


def test_sequences_are_forecast_together_as_far_as_memory_goes():
    network = Blur(2)
    engine = Engine(network, CPU)
    frames = [showers(60, 80, seed=seed) for seed in range(5)]
    each = [engine.forecast([one], 2, PLENTY, encode=encode)[0] for one in frames]
    one, none = (engine.memory_bytes(cells, 3, 2) for cells in (60 * 80, 0))
    network.called.clear()
    together = engine.forecast(frames, 2, int(2.5 * one), encode=encode)
    assert [shape[0] for shape in network.called] == [2, 2, 1]
    np.testing.assert_array_equal(together, each)
    network.called.clear()
    engine.forecast(frames, 2, PLENTY, encode=encode)
    assert [shape[0] for shape in network.called] == [5]
    assert none < one


def test_too_little_memory_is_an_error_that_says_how_much_it_takes():
    engine = Engine(Blur(5), CPU)
    for memory in (1 << 20, int(engine.memory_bytes(0, 3, 2)) + 200_000):
        with pytest.raises(NetworkError, match=r"takes \d+ MiB, but networks may take \d+ MiB"):
            engine.forecast([showers(900, 900)], 2, memory, encode=encode)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_an_error(value):
    network = Blur(1)
    with torch.no_grad():
        network.scale.fill_(value)
    with pytest.raises(NetworkError, match="not finite"):
        Engine(network, CPU).forecast([showers(20, 20)], 2, PLENTY, encode=encode)


class Attentive(Blur):
    """Every cell attends to every other."""

    def forward(self, x: Tensor, horizon: int) -> dict[str, Tensor]:
        rows = x[:, -1].flatten(2).transpose(1, 2)[:, None]
        mixed = functional.scaled_dot_product_attention(rows, rows, rows)
        self.called.append(tuple(x.shape))
        return {"pred": mixed[:, 0].transpose(1, 2).reshape(x[:, -1:].shape).expand(-1, horizon, -1, -1, -1)}


def test_a_network_whose_work_grows_with_the_square_of_a_grid_gets_small_tiles():
    parts = Engine(Attentive(), CPU)._tiles((300, 400), 3, 1, PLENTY)
    assert len(parts) > 20
    assert all(len(range(*tile.rows.seen.indices(300))) <= 120 for tile in parts)


def test_where_compiling_fails_the_network_goes_on_without(monkeypatch, caplog):
    def fail(*arguments: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", fail))
    network, frames = loud(ConvLSTMConfig(hidden=(4,))), [showers(24, 24)]
    plain = Engine(network, CPU).forecast(frames, 2, PLENTY, encode=encode)
    engine = Engine(network, CPU, compiled=True)
    np.testing.assert_array_equal(engine.forecast(frames, 2, PLENTY, encode=encode), plain)
    assert "goes on without being compiled, as that failed: no compiler here" in caplog.text
    caplog.clear()

    def broken(self: ConvLSTM, x: Tensor, horizon: int) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(ConvLSTM, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        engine.forecast(frames, 2, PLENTY, encode=encode)
    assert caplog.text == "", "it is tried once"


def test_an_error_of_the_network_itself_is_not_blamed_on_compiling(caplog):
    class Broken(Blur):
        def forward(self, x: Tensor, horizon: int) -> dict[str, Tensor]:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Engine(Broken(), CPU).forecast([showers(20, 20)], 2, PLENTY, encode=encode)
    assert caplog.text == ""


def test_one_forecast_runs_at_a_time_so_that_memory_is_not_taken_twice():
    running, most = [], []

    class Slow(Blur):
        def forward(self, x: Tensor, horizon: int) -> dict[str, Tensor]:
            running.append(1)
            most.append(len(running))
            time.sleep(0.02)
            running.pop()
            return super().forward(x, horizon)

    engine = Engine(Slow(), CPU)
    forecast = partial(engine.forecast, [showers(20, 20)], 1, PLENTY, encode=encode)
    threads = [threading.Thread(target=forecast) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_a_device_without_memory_is_an_error_of_ours():
    class Hungry(Blur):
        def forward(self, x: Tensor, horizon: int) -> dict[str, Tensor]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(NetworkError, match="the device has not enough memory"):
        Engine(Hungry(), CPU).forecast([showers(20, 20)], 2, PLENTY, encode=encode)


def test_the_reach_is_measured_in_float32_where_forecasts_are_not(monkeypatch):
    class Recorded(Blur):
        halved: list[bool]

        def forward(self, x: Tensor, leads: int) -> dict[str, Tensor]:
            self.halved.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x, leads)

    monkeypatch.setattr(module, "HALVING", ("cpu",))
    network = Recorded(3)
    network.halved = []
    engine = Engine(network, CPU)
    engine.forecast([showers(20, 20)], 2, PLENTY, encode=encode)
    assert all(network.halved)
    network.halved.clear()
    assert engine._reach(3, 2) > 0
    assert network.halved == [False, False]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
def test_compiled_cells_forecast_the_same():
    network, frames = loud(ConvLSTMConfig(hidden=(8, 8))), [showers(48, 48)]
    plain = Engine(network, CPU).forecast(frames, 3, PLENTY, encode=encode)
    compiled = Engine(network, CPU, compiled=True)
    np.testing.assert_allclose(compiled.forecast(frames, 3, PLENTY, encode=encode), plain, atol=1e-4)
    assert compiled._cells, "compiling did not fail"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
def test_a_gpu_forecasts_the_same_to_a_dbz():
    network, frames = loud(ConvLSTMConfig(hidden=(8, 8))), [showers(171, 230)]
    plain = Engine(network, CPU).forecast(frames, 3, PLENTY, encode=encode)
    engine = Engine(network, torch.device("cuda"))
    for memory in (PLENTY, int(engine.memory_bytes(171 * 230 // 3, 3, 3))):
        assert 70 * np.abs(engine.forecast(frames, 3, memory, encode=encode) - plain).max() < 1
    assert engine._cells, "compiling did not fail"


MEASURE = """
import ctypes, sys, numpy as np, torch
from pathlib import Path
from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.normalisation import to_unit
from nowcast.methods.networks.engine import Engine

def kilobytes(what):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1])

torch.set_num_threads(1)
engine = Engine(ConvLSTM(ConvLSTMConfig(hidden=(32, 32))), torch.device("cpu"))
encode = lambda frames: to_unit(torch.from_numpy(frames))[0]
engine.forecast([np.zeros((2, 64, 64), np.float32)], 3, 1 << 40, encode=encode)
frames = np.random.default_rng(0).uniform(-40, 60, (2, 1000, 900)).astype(np.float32)
for bound in map(int, sys.argv[1:]):
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator has kept shall not make room for the next
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest memory so far
    forecast = engine.forecast([frames], 3, bound, encode=encode)
    print((kilobytes("VmHWM") - before) * 1024 - forecast.nbytes, engine.memory_bytes(900_000, 2, 3))
    del forecast
"""

BOUNDS = [80 * 2**20, 160 * 2**20, 1 << 40]


@pytest.fixture(scope="module")
def measured() -> dict[int, tuple[float, float]]:
    """What a process took for a forecast within each bound, and what was foretold for one without [bytes]."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not tell the highest memory of a process")
    command = [sys.executable, "-c", MEASURE, *map(str, BOUNDS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    took, foretold = np.loadtxt(done.stdout.splitlines()).T
    return dict(zip(BOUNDS, zip(took, foretold, strict=True), strict=True))


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_process_stays_within_the_memory_it_is_given(measured, bound):
    took, foretold = measured[bound]
    assert foretold > 200 * 2**20, "the whole grid would not fit"
    assert 0 < took < min(bound, foretold)


def test_without_a_bound_the_process_takes_more(measured):
    """Were the memory of a forecast hidden in what the process had before, bounds would prove nothing."""
    assert measured[BOUNDS[-1]][0] > BOUNDS[1]
