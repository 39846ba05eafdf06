"""Early recognition of events: a classifier on an E3D-LSTM's states, which forecasting helps to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.e3d.network import E3DLSTM
from models.forecaster import Feedback, check_frames, masked_mse, pad_to_multiple
from models.parts.blocks import xavier
from models.parts.sampling import draw_mask, forced_share
from models.parts.stepwise import StepState


def prediction_weight(
    progress: float, *, start: float = 10.0, floor: float = 0.1, until: float = 0.6
) -> float:
    r"""Return how much the forecast counts beside the classes: the weight of the auxiliary task.

    .. math:: \lambda(i) = \max(\eta, \lambda(0) - \epsilon i)

    Convention: the paper takes :math:`\epsilon = 2 \cdot 10^{-5}` off per iteration, so that the floor is
    reached after 495 000, more than any of its trainings have; here ``until`` is the fraction of the training
    at which it is.

    Args:
        progress: Fraction of the training that is done, in [0, 1].
        start: :math:`\lambda(0)`.
        floor: :math:`\eta`.
        until: Where the floor is reached.

    References:
        Wang et al. (2019), Eidetic 3D LSTM: A Model for Video Prediction and Beyond, ICLR 2019, eq. 5,
        https://openreview.net/forum?id=B1lKS2AqtX.

    Example:
        >>> prediction_weight(0.0), round(prediction_weight(0.3), 2), prediction_weight(0.6)
        (10.0, 5.05, 0.1)
    """
    return max(floor, start - (start - floor) * progress / until)


@dataclass(frozen=True)
class EventClassifierConfig:
    """Sizes of an event classifier.

    Attributes:
        classes: Number of classes.
        steps: How many of the last steps' states it sees: 16, or 5 for use while an event goes on.
        filters: Filters of each of its two convolutions.
        hidden: Width of the fully connected layer.
        cells: Rows and columns that the convolutions' result is averaged to, whatever the grid: 7 is what
            frames of 224 x 224 cells have anyway.
        dropout: Share of the fully connected layer left out in training.
    """

    classes: int = 2
    steps: int = 16
    filters: int = 128
    hidden: int = 512
    cells: int = 7
    dropout: float = 0.0


class Observed(NamedTuple):
    """What a network makes of the observed frames.

    Attributes:
        hidden: Newest slice of the top layer's H at the last steps ``(b, d, t, y, x)``, oldest first.
        forecasts: Its forecasts of all frames but the first ``(b, t - 1, 1, y, x)``, on the padded grid.
        state: Its state after the last frame.
    """

    hidden: Tensor
    forecasts: Tensor
    state: StepState


class EventClassifier(nn.Module):
    r"""Tells the class of an event from its first frames, by the states of a network that forecasts them.

    The newest slices of the top layer's H of the last steps, side by side along time, go through two 3-D
    convolutions of 2 x 3 x 3 with stride 2, a pooling of 2 x 2 x 2, and a fully connected layer. Both tasks
    are trained at once, with :func:`prediction_weight` as :math:`\lambda`:

    .. math:: L = \lambda(i) \lVert x - \hat x \rVert^2 + \mathrm{CE}(y, \hat y)

    Convention: the paper's 16 steps become 2 by its layers, though it states 1, so an average over time
    follows. Steps that are too few are preceded by zeros, to an even number before every layer. A ReLU
    follows the layers, which the paper leaves open, and so does it the kind of pooling: the maximum. Rows and
    columns are averaged to ``cells``, so that no weight depends on the grid. The squared error is a mean over
    all predicted frames, those of the warm-up included; so :math:`\lambda` is the same for every grid.

    Args:
        forecaster: The network, which is trained along.
        config: Sizes.

    References:
        Wang et al. (2019), Eidetic 3D LSTM: A Model for Video Prediction and Beyond, ICLR 2019, sections 3.3
        and 4.4, https://openreview.net/forum?id=B1lKS2AqtX.
    """

    def __init__(self, forecaster: E3DLSTM, config: EventClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.forecaster = forecaster
        self.first = _halving(forecaster.config.channels, config.filters)
        self.second = _halving(config.filters, config.filters)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(config.filters * config.cells**2, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.classes),
        )
        for part in (self.first, self.second, self.head):
            xavier(part)

    def forward(self, x: Tensor) -> Tensor:
        """Return the classes' logits ``(b, classes)`` of events begun by the frames ``(b, t, 1, y, x)``.

        Nothing is forecast: only observed frames count.

        Raises:
            ValueError: If the frames' shape is another.
        """
        check_frames(x)
        return self.classify(self._observe(x).hidden)

    def classify(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(b, classes)`` of hidden states ``(b, d, t, y, x)``, oldest first."""
        features = functional.relu(self.first(_even(hidden)))
        features = functional.relu(self.second(_even(features)))
        features = functional.max_pool3d(_even(features), 2, ceil_mode=True)
        pooled = functional.adaptive_avg_pool3d(features, (1, self.config.cells, self.config.cells))
        logits: Tensor = self.head(pooled)
        return logits

    def training_loss(
        self,
        x: Tensor,
        target: Tensor,
        label: Tensor,
        *,
        valid: Tensor | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of one batch: of the classes, and of the forecast with its weight of this moment.

        Args:
            x: First frames of the events ``(b, t, 1, y, x)``.
            target: Frames that followed ``(b, lead, 1, y, x)``; the classifier does not see them.
            label: Classes ``(b,)``.
            valid: Boolean, of the target's shape: where it is observed. Everywhere if left out.
            progress: Fraction of the training that is done, in [0, 1].
            generator: Source of all random decisions.

        Returns:
            ``"loss"``, to be minimised, and its parts, detached: ``"cross_entropy"`` and ``"mse"``.
        """
        network, observed = self.forecaster, self._observe(x)
        (height, width), horizon = x.shape[-2:], target.shape[1]
        mask = draw_mask(forced_share(progress), len(x), horizon - 1, generator=generator, device=x.device)
        feedback = Feedback(pad_to_multiple(target, network.stride), mask)
        ahead = network.decode(observed.state, horizon, feedback)["pred"]
        predicted = torch.cat([observed.forecasts, ahead], dim=1)[..., :height, :width]
        seen = None
        if valid is not None:
            seen = torch.cat([torch.ones_like(x[:, 1:], dtype=torch.bool), valid], dim=1)
        mse = masked_mse(predicted, torch.cat([x[:, 1:], target], dim=1), seen)
        cross_entropy = functional.cross_entropy(self.classify(observed.hidden), label)
        loss = prediction_weight(progress) * mse + cross_entropy
        return {"loss": loss, "cross_entropy": cross_entropy.detach(), "mse": mse.detach()}

    def _observe(self, x: Tensor) -> Observed:
        network, padded = self.forecaster, pad_to_multiple(x, self.forecaster.stride)
        state, hidden, following = network.start(padded[:, 0]), [], []
        for frame in padded.unbind(1):
            state = network.encode(frame, state)
            hidden.append(state.inner.layers[-1].hidden[:, -1])
            following.append(state.following)
        forecasts = torch.stack(following, dim=1)[:, :-1]
        return Observed(torch.stack(hidden[-self.config.steps :], dim=2), forecasts, state)


def _halving(in_channels: int, out_channels: int) -> nn.Conv3d:
    return nn.Conv3d(in_channels, out_channels, (2, 3, 3), stride=2, padding=(0, 1, 1))


def _even(volume: Tensor) -> Tensor:
    """Return a volume ``(b, d, t, y, x)`` with an even t, by zeros before the first time if need be."""
    return functional.pad(volume, (0, 0, 0, 0, volume.shape[2] % 2, 0))
