"""U-Net: stacked frames in, all leads out at once, as one image-to-image mapping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.forecaster import Feedback, Forecast, Forecaster, masked_mse
from models.parts.losses import HIGHEST_DBZ, LOWEST_DBZ

#: Slope of the activations below 0. Dimensionless.
SLOPE = 0.1


@dataclass(frozen=True)
class UNetConfig:
    """Sizes and options of a U-Net.

    Attributes:
        frames: Number of frames it looks at.
        leads: Number of leads it forecasts at once.
        widths: Channels at full resolution and of each level downwards, at half the one before.
        up: Channels of each level upwards, one fewer than ``widths``.
        rates_mm_h: Rain rates, ascending, that part the classes it tells; none if it forecasts reflectivity.
        class_mm_h: Rain rate a class stands for where a frame is asked for, one more than ``rates_mm_h``.
        z_r: Factor and exponent of the Z-R relation, Z in mm^6 m^-3; Marshall and Palmer's if left out.
        fastest_cells: Fastest motion it has to follow, in cells per frame.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one.
    """

    frames: int = 4
    leads: int = 4
    widths: tuple[int, ...] = (16, 32, 64, 128)
    up: tuple[int, ...] = (64, 32, 16)
    rates_mm_h: tuple[float, ...] = ()
    class_mm_h: tuple[float, ...] = (0.0, 0.3, 1.6, 5.0)
    z_r: tuple[float, float] = (200.0, 1.6)
    fastest_cells: float = 6.0
    frame_channels: int = 1

    @property
    def reach_cells(self) -> int:
        """How far away, at least, a cell of the input still changes a cell of the forecast."""
        levels = len(self.widths) - 1
        scale = 1 << levels
        # Each 3x3 window adds the cell width of its level: 2 windows in a block at one resolution; in a down
        # block 1 before and 1 after halving; in an up block 2 after doubling. Over all levels, the cell
        # widths add up to scale - 1.
        reach = 2 + (scale - 1) + 2 * (scale - 1) + 2 * scale + 2 * (scale - 1)
        # A coarse cell covers cells on one side of where it looks only.
        return reach - (scale - 1)


class BasicBlock(nn.Module):
    """Two convolutions beside a 1x1 one, at one resolution: ``(b, c, y, x)`` to ``(b, d, y, x)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            *_activation(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class DownBlock(nn.Module):
    """Halves the resolution: ``(b, c, y, x)`` to twice ``(b, d, y / 2, x / 2)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_activation(in_channels),
            nn.MaxPool2d(3, stride=2, padding=1),
            *_activation(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output, and the map handed across, which is taken before the sum."""
        across = self.body(x)
        return across + self.shortcut(x), across


class UpBlock(nn.Module):
    """Doubles the resolution: ``(b, c, y, x)`` to ``(b, d, 2 y, 2 x)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_activation(in_channels),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            *_activation(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.shortcut = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class UNet(Forecaster):
    r"""Pre-activation residual U-Net from the last frames, as channels, to all leads at once.

    A basic block at full resolution, one down block a level, a basic block at the bottom, one up block a
    level, each with the map of its resolution handed across, and a 1x1 convolution. Batch normalisation
    and leaky ReLU come before the convolutions they serve.

    It forecasts either reflectivity (mean squared error), or, with ``rates_mm_h``, for each lead and cell the
    probability of each class of rain rate (cross-entropy); a frame then is the expectation

    .. math:: \hat y = \sum_c p_c\, x(R_c), \qquad x(R) = (10 \log_{10} a + 10\, b \log_{10} R + 10) / 70

    of the reflectivity each class stands for. For more leads than it has outputs it is applied again, on
    its own forecasts or on true frames where those are fed back.

    Convention: the up blocks normalise and activate before they repeat each cell four times, not after; that
    gives the same with a quarter of the work.

    With ``explain=True`` and classes, ``aux["log_probability"]`` is the logarithm of the classes' probability
    ``(b, lead, class, y, x)``.

    Raises:
        ValueError: If the sizes do not fit together, or echo as fast as ``fastest_cells`` would arrive within
            ``leads`` frames from beyond what the network sees.

    References:
        Agrawal et al. (2019), Machine Learning for Precipitation Nowcasting from Radar Images,
        https://arxiv.org/abs/1912.12132.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.frames = config.frames
        self.frame_channels = config.frame_channels
        widths = config.widths
        self.stride = 2 ** (len(widths) - 1)
        self.first = BasicBlock(config.frames * config.frame_channels, widths[0])
        self.down = nn.ModuleList(DownBlock(above, here) for above, here in pairwise(widths))
        self.bottom = BasicBlock(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            UpBlock(below + across, here)
            for below, across, here in zip(
                (widths[-1], *config.up), reversed(widths[1:]), config.up, strict=False
            )
        )
        self.classes = len(config.rates_mm_h) + 1
        self.head = nn.Conv2d(config.up[-1], config.leads * config.frame_channels * self.classes, 1)

    def cells(self) -> Iterator[nn.Module]:
        """Yield all blocks."""
        yield self.first
        yield from self.down
        yield self.bottom
        yield from self.up

    def maps(self, window: Tensor) -> Tensor:
        """Return what the head says ``(b, leads, classes, y, x)`` of frames ``(b, t c, y, x)``.

        Without classes, the channels of a frame stand in their place.
        """
        x = self.first(window)
        handed = []
        for level in self.down:
            x, across = level(x)
            handed.append(across)
        x = self.bottom(x)
        for level in self.up:
            x = level(torch.cat([x, handed.pop()], dim=1))
        out: Tensor = self.head(x)
        return out.view(out.shape[0], self.config.leads, -1, *out.shape[-2:])

    def roll_out(self, x: Tensor, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Return the forecast, the network being applied once for every ``leads`` leads."""
        seen = self.config.frames * self.frame_channels
        window = x[:, -self.config.frames :].flatten(1, 2)
        frames: list[Tensor] = []
        told: list[Tensor] = []
        while len(frames) < horizon:
            said = self.maps(window)
            if self.classes > 1:
                said = said.to(torch.promote_types(said.dtype, torch.float32)).log_softmax(2)
                told.append(said)
                said = self._expected(said)
            block = said.unbind(1)
            lead = len(frames)
            frames.extend(block)
            if len(frames) < horizon:
                fed = [feedback.after(lead + k, frame) for k, frame in enumerate(block, start=1)]
                window = torch.cat([window, *fed], dim=1)[:, -seen:]
        aux = {"log_probability": torch.cat(told, dim=1)[:, :horizon]} if explain and told else {}
        return {"pred": torch.stack(frames[:horizon], dim=1), "aux": aux}

    def _expected(self, log_probability: Tensor) -> Tensor:
        """Return the expected reflectivity ``(b, leads, 1, y, x)`` of classes ``(b, leads, class, y, x)``."""
        values = [reflectivity(rate, self.config.z_r) for rate in self.config.class_mm_h]
        values_of = log_probability.new_tensor(values)[:, None, None]
        expected: Tensor = (log_probability.exp() * values_of).sum(2, keepdim=True)
        return expected

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean squared error, or the cross-entropy where there are classes."""
        forecast = self(x, target.shape[1], explain=True)
        mse = masked_mse(forecast["pred"], target, valid)
        if self.classes == 1:
            return {"loss": mse, "mse": mse.detach()}
        bounds = target.new_tensor([reflectivity(rate, self.config.z_r) for rate in self.config.rates_mm_h])
        true_class = torch.bucketize(target.contiguous(), bounds, right=True)
        surprise = -forecast["aux"]["log_probability"].gather(2, true_class)
        weight = torch.ones_like(surprise) if valid is None else valid.to(surprise.dtype)
        loss = (surprise * weight).sum() / weight.sum().clamp(min=1)
        return {"loss": loss, "mse": mse.detach(), "cross_entropy": loss.detach()}


def reflectivity(rate_mm_h: float, z_r: tuple[float, float]) -> float:
    """Return the normalised reflectivity, in [0, 1], of a rain rate.

    Example:
        >>> [round(reflectivity(rate, (200.0, 1.6)), 3) for rate in (0.0, 0.1, 1.0, 2.5)]
        [0.0, 0.243, 0.472, 0.563]
    """
    if rate_mm_h <= 0:
        return 0.0
    a, b = z_r
    dbz = 10 * math.log10(a) + 10 * b * math.log10(rate_mm_h)
    return min(max((dbz - LOWEST_DBZ) / (HIGHEST_DBZ - LOWEST_DBZ), 0.0), 1.0)


def _activation(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE, inplace=True)


def _check(config: UNetConfig) -> None:
    if len(config.up) != len(config.widths) - 1 or not config.up:
        raise ValueError(f"expected one level up for each down, got {config.up} for {config.widths}")
    if config.rates_mm_h and len(config.class_mm_h) != len(config.rates_mm_h) + 1:
        raise ValueError(
            f"expected a rain rate for each of {len(config.rates_mm_h) + 1} classes, got {config.class_mm_h}"
        )
    if list(config.rates_mm_h) != sorted(set(config.rates_mm_h)) or min(config.rates_mm_h, default=1) <= 0:
        raise ValueError(f"expected rain rates that ascend from above 0 mm/h, got {config.rates_mm_h}")
    if config.rates_mm_h and config.frame_channels > 1:
        raise ValueError(f"expected one channel for classes of rain rate, got {config.frame_channels}")
    far = config.fastest_cells * config.leads
    if config.reach_cells < far:
        raise ValueError(
            f"expected the network to see as far as echo moves, {far} cells, got {config.reach_cells}"
        )
