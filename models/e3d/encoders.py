"""What stands between frames and states with a time axis of their own: encoders before, a decoder behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.parts.blocks import from_patches, to_patches

#: Width of the encoder's and decoder's convolutions, in cells; Wang et al. (2019), section 4.4.
ENCODER_WIDTH = 5


class PatchEncoder(nn.Module):
    """What the first layer sees where frames are cut into patches: the last T frames, each cell a channel.

    Args:
        patch: Width of a patch, in cells.
        depth: T.
        frame_channels: Channels of a frame.
    """

    def __init__(self, patch: int, depth: int, frame_channels: int = 1) -> None:
        super().__init__()
        self.patch = patch
        self.depth = depth
        self.out_channels = frame_channels * patch**2

    def start(self, frame: Tensor) -> tuple[Tensor, ...]:
        """Return what is carried before the first frame: frames of no echo."""
        return (torch.zeros_like(to_patches(frame, self.patch)),) * (self.depth - 1)

    def forward(self, frame: Tensor, carried: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return X_t ``(b, t, c, y, x)`` from the frame ``(b, 1, y, x)``, and what is carried after it."""
        seen = (*carried, to_patches(frame, self.patch))
        return torch.stack(seen, dim=1), seen[1:]


class ConvEncoder(nn.Module):
    """What the first layer sees of large frames: two 3-D convolutions, a quarter of the rows and columns.

    Each is as long as the states' time axis T, valid along time, and of stride 2 in space: for T = 2, four
    consecutive frames give two slices. Only the newest slice of each is computed; the others are carried.

    Convention: a ReLU follows each convolution; the paper names none. Before the first frame there are frames
    of no echo.

    Args:
        channels: Filters of each convolution.
        depth: T.
        frame_channels: Channels of a frame.

    References:
        Wang et al. (2019), Eidetic 3D LSTM: A Model for Video Prediction and Beyond, ICLR 2019, section 4.4.
    """

    def __init__(self, channels: int, depth: int, frame_channels: int = 1) -> None:
        super().__init__()
        self.depth = depth
        self.out_channels = channels
        self.first = nn.Conv2d(
            depth * frame_channels, channels, ENCODER_WIDTH, stride=2, padding=ENCODER_WIDTH // 2
        )
        self.second = nn.Conv2d(
            depth * channels, channels, ENCODER_WIDTH, stride=2, padding=ENCODER_WIDTH // 2
        )

    def start(self, frame: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Return what is carried before the first frame: what frames of no echo give."""
        earlier = self.depth - 1
        frames = (torch.zeros_like(frame),) * earlier
        features = (self._newest(self.first, (torch.zeros_like(frame), *frames)),) * earlier
        slices = (self._newest(self.second, (*features, *features[:1])),) * earlier if earlier else ()
        return frames, features, slices

    def forward(
        self, frame: Tensor, carried: tuple[tuple[Tensor, ...], ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        """Return X_t ``(b, t, c, y, x)`` from the frame ``(b, 1, y, x)``, and what is carried after it."""
        frames = (*carried[0], frame)
        features = (*carried[1], self._newest(self.first, frames))
        slices = (*carried[2], self._newest(self.second, features))
        return torch.stack(slices, dim=1), (frames[1:], features[1:], slices[1:])

    @staticmethod
    def _newest(convolution: nn.Conv2d, seen: tuple[Tensor, ...]) -> Tensor:
        return functional.relu(convolution(torch.cat(seen, dim=1)))


class Decoder(nn.Module):
    """The frame that the top layer's state stands for.

    A 3-D convolution as long as the state, over single positions, gives the cells of each patch.

    Convention: with an ``encoder`` it is the encoder in mirror image, two transposed convolutions of stride 2
    with a ReLU between, of which the first takes in the whole time axis; the paper says no more than that
    there are two layers.

    Args:
        channels: Channels of the state.
        depth: Its length along time.
        patch: Width of a patch, in cells.
        encoder: Filters between the two transposed convolutions; patches if ``None``.
        frame_channels: Channels of a frame.
    """

    def __init__(
        self, channels: int, depth: int, patch: int, encoder: int | None, frame_channels: int = 1
    ) -> None:
        super().__init__()
        self.patch = patch
        self.layers: nn.Module = nn.Conv2d(depth * channels, frame_channels * patch**2, 1)
        if encoder is not None:
            self.patch = 1
            self.layers = nn.Sequential(
                _twice_as_large(depth * channels, encoder),
                nn.ReLU(),
                _twice_as_large(encoder, frame_channels),
            )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the frame ``(b, 1, y, x)`` of H_t ``(b, t, d, y, x)``."""
        return from_patches(self.layers(hidden.flatten(1, 2)), self.patch)


def _twice_as_large(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        in_channels, out_channels, ENCODER_WIDTH, stride=2, padding=ENCODER_WIDTH // 2, output_padding=1
    )
