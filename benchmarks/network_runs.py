"""What the benchmark of networks measures, one function a measurement, each run in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost import measured
from benchmarks.naive_networks import NaiveE3DLSTM, NaiveSCS, NaiveSTMoE, materialised_recall
from models.e3d.recall import recall, to_rows
from models.forecaster import Forecaster, RecurrentForecaster
from models.registry import PRESETS, build

#: Cores everything is measured on.
CORES = 2

#: Numbers of memories the attention is measured with, and the shape ``(b, t, d, y, x)`` of each: that of
#: E3D-LSTM on 128 x 128 cells in patches of 4.
TAUS, LATENT = (2, 4, 8, 16), (1, 2, 64, 32, 32)

#: The large convolution: channels in and out, kernel, rows and columns; 19 GFLOP.
LARGE = (256, 3, 128)

#: Forecasts [s] expected to take longer are not timed.
LONGEST_SECONDS = 10.0


class Setting(NamedTuple):
    """What a network forecasts: frames seen, leads, rows and columns."""

    frames: int
    leads: int
    rows: int
    columns: int


#: Presets with a setting of their own, by the start of their name; the first that fits.
SETTINGS = {
    "scs_paper": Setting(5, 5, 224, 244),
    "stmoe_paper": Setting(4, 4, 128, 128),
    "stmoe": Setting(4, 4, 64, 64),
    "e3d_paper": Setting(10, 10, 64, 64),
    "crn_paper": Setting(5, 5, 128, 128),
    "fanet_paper": Setting(1, 0, 480, 640),
    "fanet": Setting(4, 0, 64, 64),
    "convlstm_paper": Setting(5, 15, 100, 100),
    "convlstm_hourglass_cpu": Setting(5, 5, 64, 64),
    "convlstm_hourglass": Setting(5, 20, 480, 480),
    "mim_paper": Setting(10, 10, 64, 64),
    "predrnnpp_paper": Setting(10, 10, 64, 64),
    "phydnet_paper": Setting(10, 10, 64, 64),
    "unet_paper": Setting(4, 4, 256, 256),
    "unet": Setting(4, 4, 64, 64),
    "addl": Setting(4, 4, 64, 64),
    "": Setting(5, 5, 64, 64),
}


class Pair(NamedTuple):
    """A network beside its naive implementation.

    Attributes:
        preset: The network's.
        naive: What makes the naive one of it.
        forecast: The setting of a forecast.
        training: That of a training step; none where that has nothing to show.
        check: That in which they must agree.
    """

    preset: str
    naive: Callable[[Any], nn.Module]
    forecast: Setting
    training: Setting | None
    check: Setting


#: The pairs by name; ``STMoE`` is that for two cores, ``STMoE-64`` has the experts of the papers' size.
PAIRS = {
    "E3D-LSTM": Pair(
        "e3d_paper",
        NaiveE3DLSTM,
        forecast=Setting(5, 5, 128, 128),
        training=Setting(2, 2, 128, 128),
        check=Setting(3, 2, 16, 24),
    ),
    "STMoE": Pair(
        "stmoe_plain",
        NaiveSTMoE,
        forecast=Setting(4, 4, 128, 128),
        training=Setting(4, 4, 128, 128),
        check=Setting(4, 2, 16, 24),
    ),
    "STMoE-64": Pair(
        "stmoe_paper",
        NaiveSTMoE,
        forecast=Setting(4, 4, 128, 128),
        training=None,
        check=Setting(4, 2, 16, 24),
    ),
    "SCS": Pair(
        "scs_paper",
        NaiveSCS,
        forecast=Setting(5, 5, 224, 244),
        training=None,
        check=Setting(3, 2, 16, 24),
    ),
}


def setting_of(preset: str) -> Setting:
    """Return what a preset is measured with."""
    return next(setting for start, setting in SETTINGS.items() if preset.startswith(start))


def network_of(preset: str) -> nn.Module:
    """Return a preset's network for inference, with the same weights in every process."""
    torch.set_num_threads(CORES)
    torch.manual_seed(1)
    return build(PRESETS[preset]).eval()


def frames_of(setting: Setting, batch: int = 1) -> Tensor:
    """Return frames ``(b, t, 1, y, x)`` of noise: no operation's time depends on values."""
    shape = (batch, setting.frames, 1, setting.rows, setting.columns)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


def forecast_of(network: nn.Module, x: Tensor, leads: int) -> Tensor:
    """Return what a network makes of frames: a forecast, or classes if it does not forecast."""
    if not leads:
        classes: Tensor = network(x)
        return classes
    forecast = network(x, leads)
    pred: Tensor = forecast["pred"] if isinstance(network, Forecaster) else forecast
    return pred


def warmed_up(network: nn.Module, setting: Setting) -> None:
    """Let threads and libraries take what they keep."""
    forecast_of(network, frames_of(setting._replace(rows=32, columns=32)), min(setting.leads, 1))


def one_forecast(pair: str, naive: bool) -> dict[str, float]:
    """Return seconds and memory [MB] of one forecast."""
    preset, naive_network, setting, *_ = PAIRS[pair]
    network = network_of(preset)
    with torch.inference_mode():
        subject = naive_network(network) if naive else network
        warmed_up(subject, setting)
        x = frames_of(setting)
        return measured(lambda: forecast_of(subject, x, setting.leads))


def one_training_step(pair: str, naive: bool) -> dict[str, float]:
    """Return seconds and memory [MB] of one forecast and the gradients of all weights."""
    preset, naive_network, _, setting, _ = PAIRS[pair]
    assert setting is not None
    network = network_of(preset).train()
    subject = naive_network(network) if naive else network
    small = setting._replace(rows=32, columns=32)
    forecast_of(subject, frames_of(small), 1).square().mean().backward()
    x = frames_of(setting)
    return measured(lambda: forecast_of(subject, x, setting.leads).square().mean().backward())


def disagreement(pair: str) -> float:
    """Return by how much a network and its naive implementation differ; see :func:`difference`."""
    preset, naive_network, *_, setting = PAIRS[pair]
    return difference(network_of(preset), naive_network, setting)


def difference(network: nn.Module, naive_network: Callable[[Any], nn.Module], setting: Setting) -> float:
    """Return the largest difference of forecasts and of gradients, each by the largest naive value.

    Every weight is moved from where it was initialised first, for zeros would hide what is mixed up.
    """
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.02)
    results = []
    for subject in (network.train(), naive_network(network).train()):
        x = frames_of(setting, batch=2).requires_grad_()
        forecast = forecast_of(subject, x, setting.leads)
        forecast.square().sum().backward()
        assert x.grad is not None
        results.append((forecast.detach(), x.grad))
    return max(
        float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(*results, strict=True)
    )


def median_seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """Return the median time of a call."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def large_rate() -> float:
    """Return FLOP/s of one large convolution."""
    torch.set_num_threads(CORES)
    channels, kernel, size = LARGE
    x, weight = torch.rand(1, channels, size, size), torch.rand(channels, channels, kernel, kernel)
    with torch.inference_mode():
        seconds = median_seconds(lambda: functional.conv2d(x, weight, padding=kernel // 2))
    return 2 * channels**2 * kernel**2 * size**2 / seconds


def convolutions(pair: str) -> dict[str, Any]:
    """Return FLOP/s of a network's convolutions by those of one large one, and where its time goes."""
    preset, _, setting, shorter, _ = PAIRS[pair]
    network = network_of(preset)
    setting = shorter or setting
    x = frames_of(setting)
    before = large_rate()
    with torch.inference_mode():
        warmed_up(network, setting)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            forecast_of(network, x, setting.leads)
    events = {event.key: event for event in profiled.key_averages()}
    total = sum(event.self_cpu_time_total for event in events.values()) / 1e6
    seconds = events["aten::convolution"].cpu_time_total / 1e6
    flops = flops_of(network, setting, only="aten.convolution")
    top = sorted(events.values(), key=lambda event: -event.self_cpu_time_total)[:8]
    return {
        "share": flops / seconds / statistics.mean((before, large_rate())),
        "gflop_s": flops / seconds / 1e9,
        "of_time": seconds / total,
        "operators": {event.key: round(event.self_cpu_time_total / 1e6 / total, 3) for event in top},
    }


def flops_of(network: nn.Module, setting: Setting, only: str | None = None) -> int:
    """Return the FLOPs of one forecast, attention included, or those of one operator."""
    abstract = deepcopy(network).to("meta")  # where attention is spelt out, and nothing is computed
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forecast_of(abstract, frames_of(setting).to("meta"), setting.leads)
    counts = counter.get_flop_counts()["Global"]
    return sum(count for operator, count in counts.items() if only in (None, str(operator)))


def recall_memory(tau: int, naive: bool) -> dict[str, float]:
    """Return seconds and memory [MB] of the attention to ``tau`` memories, their joining included."""
    torch.set_num_threads(CORES)
    volumes = [torch.rand(LATENT) for _ in range(tau + 1)]
    with torch.inference_mode():
        if naive:
            gate, *memories = (volume.transpose(1, 2).contiguous() for volume in volumes)
            materialised_recall(gate[..., :4, :4], [gate[..., :4, :4]])
            return measured(lambda: materialised_recall(gate, memories))
        query, *rows = map(to_rows, volumes)
        recall(query[:, :64], query[:, :64])
        return measured(lambda: recall(query, torch.cat(rows, dim=1)))


def streaming() -> dict[str, float]:
    """Return seconds for SCS to take in a new frame, and a window of five again, fast and naive."""
    preset, naive_network, setting, _, _ = PAIRS["SCS"]
    network = network_of(preset)
    assert isinstance(network, RecurrentForecaster)
    naive = naive_network(network)
    window = frames_of(setting)
    seconds: dict[str, list[float]] = {"frame": [], "window": [], "naive_window": []}

    def encoded_again() -> object:
        stream = None
        for frame in window.unbind(1):
            stream = network.observe(frame, stream)
        return stream

    with torch.inference_mode():
        stream = encoded_again()
        for _ in range(3):
            for name, call in (
                ("frame", lambda: network.observe(window[:, -1], stream)),
                ("window", encoded_again),
                ("naive_window", lambda: naive.encode(window)),
            ):
                seconds[name].append(median_seconds(call, rounds=1))
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def one_preset(preset: str, rate: float) -> dict[str, Any]:
    """Return parameters, FLOPs, seconds and memory [MB] of one forecast of a preset.

    Args:
        preset: Its name.
        rate: FLOP/s expected, to leave out what takes too long.
    """
    setting, network = setting_of(preset), network_of(preset)
    report: dict[str, Any] = {
        "setting": list(setting),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "flop": flops_of(network, setting),
    }
    if report["flop"] / rate > LONGEST_SECONDS:
        return report
    x = frames_of(setting)
    with torch.inference_mode():
        warmed_up(network, setting)
        report |= measured(lambda: forecast_of(network, x, setting.leads))
        if report["seconds"] < 1:
            report["seconds"] = median_seconds(lambda: forecast_of(network, x, setting.leads))
    return report


def accelerated(preset: str, device: str = "cuda", backend: str = "inductor") -> dict[str, Any]:
    """Return seconds of one forecast in float32, and in bfloat16 with compiled cells; and how they differ."""
    setting, network = setting_of(preset), network_of(preset)
    flops = flops_of(network, setting)
    network.to(device)
    x = frames_of(setting).to(device)

    def forecast() -> Tensor:
        return finished(device, forecast_of(network, x, setting.leads))

    with torch.inference_mode():
        exact, eager = forecast(), median_seconds(forecast)
        for cell in network.cells() if isinstance(network, Forecaster) else ():
            cell.compile(dynamic=False, backend=backend)
        with torch.autocast(device, torch.bfloat16):
            rounded = [forecast() for _ in range(3)][-1]
            compiled = median_seconds(forecast)
    return {
        "setting": list(setting),
        "flop": flops,
        "seconds": eager,
        "seconds_compiled": compiled,
        "memory_mb": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0,
        "difference": float((rounded.float() - exact).abs().max()),
    }


def matrix_rate(device: str = "cuda", size: int = 8192) -> float:
    """Return FLOP/s of one large product of bfloat16 matrices: what the device can do."""
    a = torch.rand(size, size, device=device, dtype=torch.bfloat16)
    finished(device, a @ a)
    return 2 * size**3 / median_seconds(lambda: finished(device, a @ a))


def finished(device: str, result: Tensor) -> Tensor:
    """Return a result once the device has it."""
    if device == "cuda":
        torch.cuda.synchronize()
    return result
