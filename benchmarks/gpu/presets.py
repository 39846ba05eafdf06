"""Times of every preset of a paper's size, at its paper's size, by what the chip's convolutions can do."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.timing import channels_last, convolution_rate, head, row, variants
from benchmarks.network_runs import Setting, flops_of, forecast_of, frames_of, setting_of
from models.registry import PRESETS, build

#: Least rows and columns of a toy forecast; a network's stride may ask for more.
TOY_CELLS = 8


def toy(setting: Setting, network: nn.Module) -> Setting:
    """Return a setting of the least size that goes the same way."""
    frames = min(setting.frames, max(getattr(network, "frames", None) or 1, 2))
    cells = max(TOY_CELLS, int(getattr(network, "stride", 1)))
    return Setting(frames, min(setting.leads, 1), cells, cells)


def measure(device: torch.device, *, dry: bool, until: float) -> dict[str, Any]:
    """Measure and print every ``_paper`` preset; those for which no time is left are named.

    Args:
        device: Where.
        dry: Whether at toy size.
        until: When to stop, by :func:`time.time`.
    """
    rate = convolution_rate(device, toy=dry)
    print(f"one large convolution in bfloat16: {rate / 1e12:.2f} TFLOP/s\n{head()}", flush=True)
    results: dict[str, Any] = {"convolution_flop_s": rate, "presets": {}, "left_out": []}
    for name in (name for name in PRESETS if "_paper" in name):
        if time.time() > until:
            results["left_out"].append(name)
            continue
        results["presets"][name] = report = of_preset(name, device, dry=dry)
        print(row(name, report, rate), flush=True)
    if results["left_out"]:
        print(f"no time was left for {', '.join(results['left_out'])}", flush=True)
    return results


def of_preset(name: str, device: torch.device, *, dry: bool) -> dict[str, Any]:
    """Return what a preset's forecast takes."""
    torch.manual_seed(1)
    network, setting = build(PRESETS[name]).eval(), setting_of(name)
    if dry:
        setting = toy(setting, network)
    flop = flops_of(network, setting)
    channels_last(network.to(device))
    x = frames_of(setting).to(device)
    report = variants(lambda: forecast_of(network, x, setting.leads), device, flop)
    return {"setting": list(setting), **report}
