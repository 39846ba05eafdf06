"""The copy test of long memory: an event, another one, then the first again, to be forecast from memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.parts.sampling import draw_mask, forced_share
from models.parts.stepwise import StepwiseForecaster


class CopySequence(NamedTuple):
    """Frames in the order of the copy test.

    First the whole second sequence as context, then the first sequence, which has nothing to do with it, then
    the second one again. Of the latter two only the beginning is shown; the rest is forecast.

    Attributes:
        frames: All frames ``(b, t, 1, y, x)``.
        observed: How many frames of the first and of the second sequence are shown.
        leads: How many are forecast after them.
    """

    frames: Tensor
    observed: int
    leads: int

    @property
    def shown(self) -> Tensor:
        """Boolean ``(t,)``: which frames are shown."""
        context = torch.ones(self.observed + self.leads, dtype=torch.bool)
        sequence = torch.arange(self.observed + self.leads) < self.observed
        return torch.cat([context, sequence, sequence])


def copy_sequence(event: Tensor, distractor: Tensor, observed: int) -> CopySequence:
    """Return the copy test of events: ``event`` is context and second sequence, ``distractor`` the first.

    Args:
        event: Whole events ``(b, t, 1, y, x)``.
        distractor: Other events, of the same shape.
        observed: How many of the t frames are shown when an event is to be forecast.

    Raises:
        ValueError: If the shapes differ, or nothing is shown, or nothing is left to forecast.

    References:
        Wang et al. (2019), Eidetic 3D LSTM: A Model for Video Prediction and Beyond, ICLR 2019, section 4.1,
        https://openreview.net/forum?id=B1lKS2AqtX.
    """
    if event.shape != distractor.shape:
        raise ValueError(
            f"expected events of one shape, got {tuple(event.shape)} and {tuple(distractor.shape)}"
        )
    if not 0 < observed < event.shape[1]:
        raise ValueError(f"expected to show from 1 to {event.shape[1] - 1} frames, got {observed}")
    return CopySequence(torch.cat([event, distractor, event], dim=1), observed, event.shape[1] - observed)


def copy_training_loss(
    network: StepwiseForecaster,
    sequence: CopySequence,
    *,
    progress: float = 0.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return the network's own loss of the frames that are to be forecast, those of both sequences.

    Args:
        network: The network in training.
        sequence: What it sees and forecasts.
        progress: Fraction of the training that is done, in [0, 1]: scheduled sampling shows true frames in
            place of forecast ones ever less.
        generator: Source of all random decisions.

    Returns:
        ``"loss"``, to be minimised, and ``"mse"`` of the second sequence alone, detached.
    """
    frames = sequence.frames
    lucky = draw_mask(
        forced_share(progress), len(frames), frames.shape[1] - 2, generator=generator, device=frames.device
    )
    forecasts = network.every_step(frames, _forced(sequence) | lucky)
    wanted = ~sequence.shown[1:].to(frames.device)
    loss = network.frame_loss(forecasts[:, wanted], frames[:, 1:][:, wanted], None)
    second = (forecasts[:, -sequence.leads :] - frames[:, -sequence.leads :]).detach()
    return {"loss": loss, "mse": second.square().mean()}


@torch.no_grad()
def copy_error(network: StepwiseForecaster, sequence: CopySequence) -> Tensor:
    """Return the mean squared error by lead ``(lead,)`` of the second sequence's forecast, clamped to [0, 1].

    No true frame takes the place of a forecast one, neither in the second nor in the first sequence.
    """
    forecasts = network.every_step(sequence.frames, _forced(sequence))[:, -sequence.leads :].clamp(0, 1)
    return (forecasts - sequence.frames[:, -sequence.leads :]).square().mean(dim=(0, 2, 3, 4))


def _forced(sequence: CopySequence) -> Tensor:
    """Return where ``(b, t - 2)`` the second, third, ... frame is shown; the last one is never an input."""
    frames = sequence.frames
    return sequence.shown[1:-1].to(frames.device).expand(len(frames), -1)
