"""Recurrent networks that forecast at every step, warm-up included: PredRNN's family and PhyDNet."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.forecaster import Feedback, Forecast, RecurrentForecaster, masked_mse, pad_to_multiple
from models.parts.sampling import draw_mask, forced_share, reverse_shares


class StepState(NamedTuple):
    """State between two steps.

    Attributes:
        inner: The network's own state: nested tuples of tensors.
        following: The frame ``(b, 1, y, x)`` it expects next.
    """

    inner: Any
    following: Tensor


class StepwiseForecaster(RecurrentForecaster):
    """A network of one kind of step: it takes a frame, observed or its own, and gives the next one.

    Subclasses write :meth:`begin` and :meth:`step`. Training supervises every step, those of the warm-up
    too, under scheduled sampling or, where ``reverse_sampling`` is set, reverse scheduled sampling.
    """

    reverse_sampling: bool = False

    @abstractmethod
    def begin(self, frame: Tensor) -> Any:
        """Return the own state before the first frame, for frames like ``frame`` ``(b, 1, y, x)``."""

    @abstractmethod
    def step(self, frame: Tensor, inner: Any) -> tuple[Tensor, Any]:
        """Return the next frame ``(b, 1, y, x)`` and the state after ``frame``."""

    def frame_loss(self, forecast: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of frames ``(b, t, 1, y, x)``; the mean squared error unless a subclass differs."""
        return masked_mse(forecast, truth, valid)

    def start(self, frame: Tensor) -> StepState:
        """Return the state before the first frame."""
        return StepState(self.begin(frame), torch.zeros_like(frame))

    def encode(self, frame: Tensor, state: StepState) -> StepState:
        """Return the state after one more observed frame."""
        following, inner = self.step(frame, state.inner)
        return StepState(inner, following)

    def decode(
        self, state: StepState, horizon: int, feedback: Feedback, *, explain: bool = False
    ) -> Forecast:
        """Return the forecast: the frame expected next, then one step for each further lead."""
        inner, forecast = state
        frames = [forecast]
        for lead in range(1, horizon):
            forecast, inner = self.step(feedback.after(lead, forecast), inner)
            frames.append(forecast)
        return {"pred": torch.stack(frames, dim=1), "aux": {}}

    def every_step(self, frames: Tensor, forced: Tensor) -> Tensor:
        """Return the forecasts of all frames but the first, each made from those before it.

        Args:
            frames: A whole sequence ``(b, t, 1, y, x)``.
            forced: Boolean ``(b, t - 2)``: where the true second, third, ... frame is the input; elsewhere
                the forecast of it is.

        Returns:
            ``(b, t - 1, 1, y, x)``, unclamped.
        """
        height, width = frames.shape[-2:]
        feedback = Feedback(pad_to_multiple(frames[:, 1:-1], self.stride), forced)
        frame = pad_to_multiple(frames[:, 0], self.stride)
        inner, forecasts = self.begin(frame), []
        for count in range(1, frames.shape[1]):
            forecast, inner = self.step(frame, inner)
            forecasts.append(forecast)
            if count < frames.shape[1] - 1:
                frame = feedback.after(count, forecast)
        return torch.stack(forecasts, dim=1)[..., :height, :width]

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean loss over all steps, those of the warm-up included.

        Frames observed in the warm-up count everywhere; ``valid`` masks those of the target.
        """
        frames = torch.cat([x, target], dim=1)
        forecasts = self.every_step(frames, self.draw_forced(x, target, progress, generator))
        seen = None
        if valid is not None:
            seen = torch.cat([torch.ones_like(x[:, 1:], dtype=torch.bool), valid], dim=1)
        loss = self.frame_loss(forecasts, frames[:, 1:], seen)
        lead_mse = masked_mse(forecasts[:, x.shape[1] - 1 :].detach(), target, valid)
        return {"loss": loss, "mse": lead_mse}

    def draw_forced(
        self, x: Tensor, target: Tensor, progress: float, generator: torch.Generator | None
    ) -> Tensor:
        """Return which inputs after the first are true ``(b, t_in + t_out - 2)``, as sampling has it."""
        warm_up, ahead = reverse_shares(progress) if self.reverse_sampling else (1.0, forced_share(progress))
        return torch.cat(
            [
                draw_mask(share, x.shape[0], steps, generator=generator, device=x.device)
                for share, steps in ((warm_up, x.shape[1] - 1), (ahead, target.shape[1] - 1))
            ],
            dim=1,
        )
