"""ConvLSTM encoder-forecaster: the first recurrent network for nowcasting, and the peer of all later ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.forecaster import Feedback, Forecast, RecurrentForecaster, masked_mse
from models.parts.blocks import ConvLSTMCell, LSTMState, from_patches, to_patches, xavier
from models.parts.sampling import draw_mask, forced_share


@dataclass(frozen=True)
class ConvLSTMConfig:
    """Sizes of a ConvLSTM.

    Attributes:
        hidden: Channels of each layer, from the bottom up, the same in encoder and forecaster.
        kernel_size: Odd width of the state's convolutions, in patches.
        patch: Width of a patch, in cells.
        conditioned: Whether the forecaster sees the last frame; else zeros, as in the paper.
        peephole: Whether gates see the cell.
        frame_channels: Channels of a frame: 1, reflectivity, unless the network is the core of another one.
    """

    hidden: tuple[int, ...] = (32, 32)
    kernel_size: int = 3
    patch: int = 4
    conditioned: bool = True
    peephole: bool = False
    frame_channels: int = 1


class ConvLSTMState(NamedTuple):
    """State of the encoder.

    Attributes:
        layers: One state a layer.
        frame: Last frame seen ``(b, 1, y, x)``.
    """

    layers: tuple[LSTMState, ...]
    frame: Tensor


class ConvLSTM(RecurrentForecaster):
    r"""Two stacks of ConvLSTM layers: one takes in the frames, one continues them from its states.

    A frame is cut into patches, every patch's cells becoming channels. The encoder's states are copied layer
    by layer into the forecaster, whose hidden states, concatenated over the layers, give the next frame
    through a 1x1 convolution.

    Convention: the forecaster's input is the last frame, own or true, so that scheduled sampling works; the
    paper's forecaster gets none (``conditioned=False``). Loss is the mean squared error; the paper's is the
    cross-entropy.

    References:
        Shi et al. (2015), Convolutional LSTM Network: A Machine Learning Approach for Precipitation
        Nowcasting, sections 3.2 and 3.3, https://arxiv.org/abs/1506.04214.
    """

    def __init__(self, config: ConvLSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.patch
        self.frame_channels = config.frame_channels
        self.encoder = self._stack()
        self.forecaster = self._stack()
        self.head = nn.Conv2d(sum(config.hidden), config.frame_channels * config.patch**2, 1)
        xavier(self)

    def _stack(self) -> nn.ModuleList:
        config = self.config
        widths = (config.frame_channels * config.patch**2, *config.hidden)
        return nn.ModuleList(
            ConvLSTMCell(below, here, config.kernel_size, peephole=config.peephole)
            for below, here in zip(widths, config.hidden, strict=False)
        )

    def cells(self) -> Iterator[nn.Module]:
        """Yield every layer of both stacks."""
        yield from self.encoder
        yield from self.forecaster

    def start(self, frame: Tensor) -> ConvLSTMState:
        """Return states of zeros."""
        patches = to_patches(frame, self.config.patch)
        return ConvLSTMState(tuple(LSTMState.zeros(patches, d) for d in self.config.hidden), frame)

    def encode(self, frame: Tensor, state: ConvLSTMState) -> ConvLSTMState:
        """Return the states after one more frame."""
        layers = _climb(self.encoder, to_patches(frame, self.config.patch), state.layers)
        return ConvLSTMState(layers, frame)

    def decode(
        self, state: ConvLSTMState, horizon: int, feedback: Feedback, *, explain: bool = False
    ) -> Forecast:
        """Return the forecast."""
        patch, layers, frame = self.config.patch, state.layers, state.frame
        frames = []
        for lead in range(1, horizon + 1):
            seen = to_patches(frame, patch)
            layers = _climb(
                self.forecaster, seen if self.config.conditioned else torch.zeros_like(seen), layers
            )
            forecast = from_patches(self.head(torch.cat([layer.hidden for layer in layers], dim=1)), patch)
            frames.append(forecast)
            frame = feedback.after(lead, forecast) if lead < horizon else forecast
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
        """Return the mean squared error under scheduled sampling."""
        batch, horizon = target.shape[:2]
        mask = draw_mask(
            forced_share(progress), batch, horizon - 1, generator=generator, device=target.device
        )
        loss = masked_mse(self(x, horizon, target, mask)["pred"], target, valid)
        return {"loss": loss, "mse": loss.detach()}


def _climb(layers: nn.ModuleList, x: Tensor, states: tuple[LSTMState, ...]) -> tuple[LSTMState, ...]:
    """Return the states of all layers after the bottom one got ``x`` ``(b, c, y, x)``."""
    after = []
    for layer, state in zip(layers, states, strict=True):
        after.append(layer(x, state))
        x = after[-1].hidden
    return tuple(after)
