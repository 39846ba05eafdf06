"""ConvLSTM on three scales, as the HKO-7 benchmark runs its recurrent networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.forecaster import Feedback, Forecast, RecurrentForecaster
from models.parts.blocks import ConvLSTMCell, LSTMState
from models.parts.losses import balanced_mae, balanced_mse

#: Slope of the leaky rectifiers for negative arguments, dimensionless; HKO-7, section 4.
SLOPE = 0.2


@dataclass(frozen=True)
class HourglassConfig:
    """Sizes of the hourglass, from the finest scale to the coarsest.

    Attributes:
        strides: How much coarser each scale is than the one before.
        features: Channels each down-sampling convolution gives to the cell of its scale.
        hidden: Channels of each scale's cell.
        kernel_sizes: Odd widths of the cells' convolutions.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one.
    """

    strides: tuple[int, ...] = (5, 3, 2)
    features: tuple[int, ...] = (8, 64, 192)
    hidden: tuple[int, ...] = (64, 192, 192)
    kernel_sizes: tuple[int, ...] = (5, 5, 3)
    frame_channels: int = 1


class HourglassState(NamedTuple):
    """State of the encoder.

    Attributes:
        layers: One state a scale, the finest first.
        size: Rows and columns of the frames, padded.
    """

    layers: tuple[LSTMState, ...]
    size: tuple[int, int]


class ConvLSTMHourglass(RecurrentForecaster):
    r"""An encoder that climbs from fine to coarse scales, and a forecaster that comes back down.

    Each scale's convolution of stride ``s`` and width ``s + 2`` feeds a ConvLSTM cell; its hidden state feeds
    the next scale. The forecaster's cells start from the states of the encoder's cells of their scale; the
    coarsest gets no input, so that forecasts follow from the states alone and nothing is fed back.

    Convention: ConvLSTM cells; the benchmark's best are GRUs with learnt trajectories, in the same frame.

    References:
        Shi et al. (2017), Deep Learning for Precipitation Nowcasting: A Benchmark and A New Model, sections
        3.1 and 4, https://arxiv.org/abs/1706.03458.
    """

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = prod(config.strides)
        self.frame_channels = config.frame_channels
        below = (config.frame_channels, *config.hidden[:-1])
        self.down = nn.ModuleList(
            nn.Conv2d(c, d, s + 2, stride=s, padding=1)
            for c, d, s in zip(below, config.features, config.strides, strict=True)
        )
        self.encoder = nn.ModuleList(
            ConvLSTMCell(c, d, k)
            for c, d, k in zip(config.features, config.hidden, config.kernel_sizes, strict=True)
        )
        coarser = (*config.hidden[1:], 0)
        self.forecaster = nn.ModuleList(
            ConvLSTMCell(c, d, k) for c, d, k in zip(coarser, config.hidden, config.kernel_sizes, strict=True)
        )
        finer = (config.features[0], *config.hidden[1:])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(d, c, s + 2, stride=s, padding=1)
            for d, c, s in zip(config.hidden, finer, config.strides, strict=True)
        )
        self.head = nn.Sequential(
            nn.Conv2d(finer[0], finer[0], 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(finer[0], config.frame_channels, 1),
        )

    def cells(self) -> Iterator[nn.Module]:
        """Yield the cells of every scale."""
        yield from self.encoder
        yield from self.forecaster

    def start(self, frame: Tensor) -> HourglassState:
        """Return states of zeros."""
        rows, columns, layers = frame.shape[-2], frame.shape[-1], []
        for stride, channels in zip(self.config.strides, self.config.hidden, strict=True):
            rows, columns = rows // stride, columns // stride
            layers.append(LSTMState.zeros(frame.new_empty(frame.shape[0], 1, rows, columns), channels))
        return HourglassState(tuple(layers), (frame.shape[-2], frame.shape[-1]))

    def encode(self, frame: Tensor, state: HourglassState) -> HourglassState:
        """Return the states after one more frame."""
        x, layers = frame, []
        for down, cell, layer in zip(self.down, self.encoder, state.layers, strict=True):
            layers.append(cell(functional.leaky_relu(down(x), SLOPE), layer))
            x = layers[-1].hidden
        return HourglassState(tuple(layers), state.size)

    def decode(
        self, state: HourglassState, horizon: int, feedback: Feedback, *, explain: bool = False
    ) -> Forecast:
        """Return the forecast; ``feedback`` has no say, as no frame is fed back."""
        layers, frames = list(state.layers), []
        for _ in range(horizon):
            x = state.layers[-1].hidden[:, :0]
            for scale in range(len(layers) - 1, -1, -1):
                layers[scale] = self.forecaster[scale](x, layers[scale])
                x = functional.leaky_relu(self.up[scale](layers[scale].hidden), SLOPE)
            frames.append(self.head(x))
        return {"pred": torch.stack(frames, dim=1), "aux": {}}

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the sum of balanced squared and absolute errors, which weigh heavy rain up.

        Raises:
            ValueError: If a frame has several channels, of which none is rain.
        """
        if self.frame_channels > 1:
            raise ValueError(f"expected frames of reflectivity to weigh, got {self.frame_channels} channels")
        forecast = self(x, target.shape[1])["pred"]
        squared, absolute = balanced_mse(forecast, target, valid), balanced_mae(forecast, target, valid)
        return {
            "loss": squared + absolute,
            "balanced_mse": squared.detach(),
            "balanced_mae": absolute.detach(),
        }
