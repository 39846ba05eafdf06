"""Times on a device: calls as they are and replayed as a CUDA graph; on the CPU, the same without one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Calls before anything is timed or captured: libraries choose their algorithms in them. And calls timed.
WARM_UP, ROUNDS = 2, 7

#: The large convolution: batch, channels in and out, kernel, rows and columns; 1.2 TFLOP. And a toy one.
LARGE, TOY_LARGE = (16, 512, 3, 128), (1, 16, 3, 16)


class Replayed:
    """A call that is captured as a CUDA graph and replayed; on the CPU, or if not to be, it is made again.

    What it reads must stay where it is, and what it returns is overwritten by the next one.
    """

    def __init__(self, call: Callable[[], Tensor], device: torch.device, *, capture: bool = True) -> None:
        """Make the call a few times, then capture it.

        Raises:
            RuntimeError: If it does what a graph cannot hold, such as waiting for the device.
        """
        self._call, self._graph = call, None
        self.result = torch.empty(0)
        if device.type != "cuda" or not capture:
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                call()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self.result = call()

    def __call__(self) -> Tensor:
        """Return what the call returns."""
        if self._graph is None:
            self.result = self._call()
        else:
            self._graph.replay()
        return self.result


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a call [ms] by the device's own clock; on the CPU, that of a single one."""
    on_gpu, taken = device.type == "cuda", list[float]()
    for _ in range(WARM_UP if on_gpu else 0):
        call()
    for _ in range(ROUNDS if on_gpu else 1):
        if on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            taken.append(begin.elapsed_time(end))
        else:
            begun = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(taken)


def convolution_rate(device: torch.device, *, toy: bool = False) -> float:
    """Return FLOP/s of one large convolution in bfloat16, of random numbers, channels last."""
    batch, channels, kernel, size = TOY_LARGE if toy else LARGE
    kind: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    x = torch.randn(batch, channels, size, size, **kind).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, kernel, kernel, **kind).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        taken = milliseconds(lambda: functional.conv2d(x, weight, padding=kernel // 2), device)
    return 2 * batch * channels**2 * kernel**2 * size**2 / taken * 1e3


def channels_last(network: nn.Module) -> nn.Module:
    """Return a network whose 2-D convolutions have their channels last."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def variants(call: Callable[[], Tensor], device: torch.device, flop: int) -> dict[str, Any]:
    """Return what a forecast takes in float32 and bfloat16, as it is and as a graph, and how they differ.

    A variant that fails says why instead: the others are measured all the same.
    """
    report: dict[str, Any] = {"flop": flop, "ms": {}, "gflop_s": {}, "errors": {}}
    exact = None
    for precision in ("float32", "bf16"):
        for how in ("eager", "graph"):
            name = f"{precision} {how}"
            try:
                half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
                with torch.inference_mode(), half:
                    subject = Replayed(call, device, capture=how == "graph")
                    taken = milliseconds(subject, device)
                    last = subject.result.float()
                exact = last.clone() if exact is None else exact
                report["ms"][name] = taken
                report["gflop_s"][name] = flop / taken / 1e6
                report[f"difference {name}"] = float((last - exact).abs().max())
            except RuntimeError as error:
                report["errors"][name] = str(error).splitlines()[0]
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return report


#: Variants in the order they are printed in.
NAMES = ("float32 eager", "float32 graph", "bf16 eager", "bf16 graph")


def head() -> str:
    """Return the head of the table that :func:`row` makes rows of."""
    return (
        f"{'ms':>24}{'GFLOP':>9}"
        + "".join(f"{name:>15}" for name in NAMES)
        + f"{'GFLOP/s':>10}{'of conv':>9}"
    )


def row(name: str, report: dict[str, Any], rate: float) -> str:
    """Return one line: times, then the best rate, and that by the rate of one large convolution."""
    cells = "".join(
        f"{report['ms'][each]:>15.2f}" if each in report["ms"] else f"{'failed':>15}" for each in NAMES
    )
    best = max(report["gflop_s"].values(), default=0.0)
    failed = "".join(f"\n    {each}: {why}" for each, why in report["errors"].items())
    return f"{name:>24}{report['flop'] / 1e9:>9.1f}{cells}{best:>10.0f}{1e9 * best / rate:>9.1%}{failed}"
