"""Corrections on a GPU: wider ones than two cores can train, and times of all as the service runs them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.timing import channels_last, convolution_rate, head, row, variants
from models.correction import Correction, CorrectionConfig, Maps
from models.crn import CRNConfig
from models.e3d.network import E3DLSTMConfig
from models.registry import PRESETS
from models.scs.network import SCSConfig
from models.stmoe.network import STMoEConfig

#: Channels of what wide corrections see and say.
CHANNELS = 64

#: Wide corrections by name: the presets' options, with cores of 64 to 128 channels,
#: such that 16-bit weights take less than 16 MiB, which is the most that comes back in one file.
WIDE = {
    "scs_wide": CorrectionConfig(
        SCSConfig(
            channels=128,
            patch=1,
            frame_channels=CHANNELS,
            norm="position",
            spatial_weight=0.0,
            temporal_weight=0.0,
            switch="none",
        ),
        channels=CHANNELS,
    ),
    "stmoe_wide": CorrectionConfig(
        STMoEConfig(
            hidden=(64, 64),
            channels=32,
            gate_channels=32,
            patch=1,
            frame_channels=CHANNELS,
            gate_norm=False,
            expert_state="carry",
        ),
        channels=CHANNELS,
    ),
    "e3d_wide": CorrectionConfig(
        E3DLSTMConfig(
            channels=64, patch=1, frame_channels=CHANNELS, gate_norm=False, norm="position", reach=3
        ),
        channels=CHANNELS,
    ),
    "crn_wide": CorrectionConfig(
        CRNConfig(hidden=(96, 96), patch=1, frame_channels=CHANNELS), channels=CHANNELS
    ),
}

#: Presets timed beside them.
SMALL = ("scs_cpu", "stmoe_cpu", "e3d_cpu", "crn_cpu")

#: The grid, of cells of 1 km, its toy, and the step of its frames [min].
GRID, TOY_GRID, STEP_MINUTES = (640, 710), (32, 24), 5.0


class Served(nn.Module):
    """A correction's maps of one grid, as an engine asks for them."""

    def __init__(self, config: CorrectionConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        network, side = Correction(config).eval(), config.square_cells(1.0)
        minutes = [config.slot_minutes * (slot + 1) for slot in range(config.slots)]
        self.maps = Maps(network, minutes, step_minutes=STEP_MINUTES, square_km=float(side))
        self.shape = (1, self.maps.frames, 1, -(-grid[0] // side), -(-grid[1] // side))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps ``(1, planes, 1, y, x)``, given :attr:`shape`."""
        pred: Tensor = self.maps(x, self.maps.planes)["pred"]
        return pred


def measure(device: torch.device, *, dry: bool) -> dict[str, Any]:
    """Measure and print every correction of one grid, in the form the service runs."""
    rate, grid = convolution_rate(device, toy=dry), TOY_GRID if dry else GRID
    print(f"corrections of {grid[0]} x {grid[1]} cells, all leads and thresholds\n{head()}", flush=True)
    results: dict[str, Any] = {"convolution_flop_s": rate, "grid": grid, "corrections": {}}
    for name, config in ({name: PRESETS[name] for name in SMALL} | WIDE).items():
        torch.manual_seed(1)
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            abstract = Served(config, grid)
            abstract(torch.empty(abstract.shape))
        served = Served(config, grid)
        channels_last(served.to(device))
        x = torch.rand(served.shape, generator=torch.Generator().manual_seed(2)).to(device)
        report = variants(partial(served, x), device, counter.get_total_flops())
        report["parameters"] = sum(weight.numel() for weight in served.parameters())
        results["corrections"][name] = report
        print(row(name, report, rate), flush=True)
    return results
