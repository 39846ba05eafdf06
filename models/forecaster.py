"""The contract of every forecasting network: frames in, frames out, whatever the grid and the horizon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional


class Forecast(TypedDict):
    """What a network returns.

    Attributes:
        pred: Forecast frames ``(b, lead, 1, y, x)``, reflectivity normalised to [0, 1].
        aux: Further outputs by name: explanations, and what the network's own loss needs.
    """

    pred: Tensor
    aux: dict[str, Tensor]


class Feedback(NamedTuple):
    """Which frame a network sees next while it forecasts: its own, or the true one where it is forced.

    Attributes:
        teacher: True frames ``(b, lead, 1, y, x)`` of the leads, or ``None`` to run freely.
        mask: Where ``(b, lead - 1)`` the true frame replaces the forecast one; everywhere if ``None``.
    """

    teacher: Tensor | None = None
    mask: Tensor | None = None

    def after(self, lead: int, forecast: Tensor) -> Tensor:
        """Return the input of lead ``lead + 1`` (leads count from 1), given the forecast ``(b, 1, y, x)``."""
        if self.teacher is None:
            return forecast
        truth = self.teacher[:, lead - 1]
        if self.mask is None:
            return truth
        return torch.where(self.mask[:, lead - 1, None, None, None], truth, forecast)


#: Runs freely.
FREE = Feedback()


class Forecaster(nn.Module, ABC):
    """A network that continues a sequence of frames.

    Rules every subclass keeps, and one test checks for all of them:

    - nothing is remembered between calls;
    - no parameter has the grid's size in its shape; rows and columns are padded with no echo (0) to a
      multiple of :attr:`stride` and cropped again;
    - the horizon may exceed that of training;
    - without a teacher, training and evaluation give the same forecast, but for dropout, batch statistics
      and the final clamping to [0, 1], which only evaluation does. What is fed back is never clamped.

    What is said of frames ``(b, t, 1, y, x)`` of reflectivity, here and in subclasses, holds for frames of
    ``frame_channels`` channels too, which a larger network makes of its own for the network at its core. Such
    frames have no range, so nothing is clamped.

    Attributes:
        stride: Rows and columns a subclass sees are multiples of this.
        frame_channels: Channels of a frame.
        frames: Number of frames the network needs; ``None`` if any number from one will do.
        context: Names of what it wants to know besides frames, given to :meth:`forward` and
            :meth:`training_loss` by keyword; nothing for most.
    """

    stride: int = 1
    frame_channels: int = 1
    frames: int | None = None
    context: tuple[str, ...] = ()

    def forward(
        self,
        x: Tensor,
        horizon: int,
        teacher: Tensor | None = None,
        teacher_mask: Tensor | None = None,
        *,
        explain: bool = False,
    ) -> Forecast:
        """Return the forecast of ``horizon`` frames that follows ``x``.

        Args:
            x: Observed frames ``(b, t, 1, y, x)``, oldest first, reflectivity normalised to [0, 1], not
                observed as 0.
            horizon: Number of leads.
            teacher: The true frames ``(b, horizon, 1, y, x)``, for training.
            teacher_mask: Boolean ``(b, horizon - 1)``: where the true frame of a lead is fed back instead of
                the forecast one. All true frames are if left out.
            explain: Put the network's explanations into ``aux``; each network's docstring names them.

        Raises:
            ValueError: If a shape is not as above, ``horizon`` is not positive, or there are too few frames.
        """
        self._check(x, horizon, teacher, teacher_mask)
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.stride)
        forced = None if teacher is None else pad_to_multiple(teacher, self.stride)
        forecast = self.roll_out(padded, horizon, Feedback(forced, teacher_mask), explain=explain)
        return self._finished(forecast, (height, width))

    @abstractmethod
    def roll_out(self, x: Tensor, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Return what :meth:`forward` does for checked frames whose rows and columns need no padding."""

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of one batch as the network's own paper trains it.

        Args:
            x: Observed frames ``(b, t, 1, y, x)``.
            target: Frames that followed ``(b, lead, 1, y, x)``.
            valid: Boolean, of the target's shape: where it is observed. Everywhere if left out.
            progress: Fraction of the training that is done, in [0, 1], for schedules.
            generator: Source of all random decisions.

        Returns:
            ``"loss"``, to be minimised, and its parts by name, detached, for curves.
        """
        loss = masked_mse(self(x, target.shape[1])["pred"], target, valid)
        return {"loss": loss, "mse": loss.detach()}

    def cells(self) -> Iterator[nn.Module]:
        """Yield the modules that are called again and again with one shape: what is worth compiling."""
        yield from ()

    def _finished(self, forecast: Forecast, size: tuple[int, int]) -> Forecast:
        """Return a forecast cropped to the grid asked for, clamped unless the network is in training.

        Only reflectivity is clamped, not frames of several channels.

        Of the auxiliary outputs those on the padded grid are cropped; those on a coarser one are left.
        """
        height, width = size
        padded = forecast["pred"].shape[-2:]
        aux = {
            name: value[..., :height, :width] if value.shape[-2:] == padded else value
            for name, value in forecast["aux"].items()
        }
        pred = forecast["pred"][..., :height, :width]
        clamped = self.frame_channels == 1 and not self.training
        return {"pred": pred.clamp(0, 1) if clamped else pred, "aux": aux}

    def _check(self, x: Tensor, horizon: int, teacher: Tensor | None, mask: Tensor | None) -> None:
        check_frames(x, self.frame_channels)
        if self.frames is not None and x.shape[1] < self.frames:
            raise ValueError(f"expected at least {self.frames} frames, got {x.shape[1]}")
        if horizon < 1:
            raise ValueError(f"expected a horizon of at least one frame, got {horizon}")
        expected = (x.shape[0], horizon, *x.shape[2:])
        if teacher is not None and tuple(teacher.shape) != expected:
            raise ValueError(f"expected true frames {expected}, got {tuple(teacher.shape)}")
        if mask is not None and (
            tuple(mask.shape) != (*expected[:1], horizon - 1) or mask.dtype != torch.bool
        ):
            raise ValueError(
                f"expected a boolean mask ({x.shape[0]}, {horizon - 1}), got {mask.dtype} {tuple(mask.shape)}"
            )


class Stream(NamedTuple):
    """What a recurrent network knows of the frames so far; the caller keeps it between frames.

    Attributes:
        state: The network's own state, on the padded grid: nested tuples of tensors.
        size: Rows and columns of the frames.
    """

    state: Any
    size: tuple[int, int]


class RecurrentForecaster(Forecaster):
    """A forecaster that takes in one frame after the other, so that a new frame costs one step.

    ``observe`` each frame, ``forecast`` whenever wanted: the same as calling the network with all frames
    observed so far, to rounding. Subclasses write :meth:`start`, :meth:`encode` and :meth:`decode`.
    """

    def observe(self, frame: Tensor, stream: Stream | None = None) -> Stream:
        """Return the stream ``stream``, or a new one, after one more frame ``(b, 1, y, x)``.

        Raises:
            ValueError: If the frame's shape is another, or not that of the stream.
        """
        check_frames(frame[:, None], self.frame_channels)
        size = (frame.shape[-2], frame.shape[-1])
        if stream is not None and stream.size != size:
            raise ValueError(f"expected a frame of {stream.size} cells, as in the stream, got {size}")
        padded = pad_to_multiple(frame, self.stride)
        state = self.start(padded) if stream is None else stream.state
        return Stream(self.encode(padded, state), size)

    def forecast(self, stream: Stream, horizon: int, *, explain: bool = False) -> Forecast:
        """Return the forecast of ``horizon`` frames that follows a stream, which stays as it is."""
        if horizon < 1:
            raise ValueError(f"expected a horizon of at least one frame, got {horizon}")
        return self._finished(self.decode(stream.state, horizon, FREE, explain=explain), stream.size)

    def roll_out(self, x: Tensor, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Take in all frames, then forecast."""
        state = self.start(x[:, 0])
        for frame in x.unbind(1):
            state = self.encode(frame, state)
        return self.decode(state, horizon, feedback, explain=explain)

    @abstractmethod
    def start(self, frame: Tensor) -> Any:
        """Return the state before the first frame, for frames like ``frame`` ``(b, 1, y, x)``."""

    @abstractmethod
    def encode(self, frame: Tensor, state: Any) -> Any:
        """Return the state after one more observed frame ``(b, 1, y, x)``."""

    @abstractmethod
    def decode(self, state: Any, horizon: int, feedback: Feedback, *, explain: bool = False) -> Forecast:
        """Return the forecast from a state, which holds all a forecast needs, the last frame included."""


def check_frames(x: Tensor, channels: int = 1) -> None:
    """Raise ``ValueError`` unless ``x`` is a floating-point ``(b, t, c, y, x)`` with at least one of each.

    ``c`` are ``channels``.
    """
    if x.ndim != 5 or x.shape[2] != channels or 0 in x.shape or not x.is_floating_point():
        raise ValueError(
            f"expected frames (b, t, {channels}, y, x) of floats, got {x.dtype} {tuple(x.shape)}"
        )


def pad_to_multiple(x: Tensor, stride: int) -> Tensor:
    """Return ``x`` ``(..., y, x)`` with rows and columns of 0 added behind, up to multiples of ``stride``."""
    rows, columns = -x.shape[-2] % stride, -x.shape[-1] % stride
    return functional.pad(x, (0, columns, 0, rows)) if rows or columns else x


def masked_mean(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean over the elements that are ``valid``, all if left out; 0 if there is none."""
    if valid is None:
        return values.sum() / max(values.numel(), 1)
    weight = valid.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1)


def masked_mse(forecast: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean squared error over the elements that are ``valid``; 0 if none is."""
    return masked_mean((forecast - truth) ** 2, valid)
