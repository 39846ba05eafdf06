"""One network learning from one kind of sequences: what Lightning needs to know of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors.torch import save as bytes_of
from torch import Tensor

from models.forecaster import Forecaster
from nowcast.disk import durable
from nowcast.errors import TrainingStopped, WeightsError
from nowcast.training.gains import THRESHOLDS_DBZ, Gains, counts

#: File that keeps the batch on which a training failed, beside its checkpoints.
BAD_BATCH_FILE = "bad-batch.safetensors"

#: Share of the steps over which the learning rate rises from 0; then it falls to a hundredth by a cosine.
WARM_UP = 0.05
LAST_RATE = 0.01


@dataclass(frozen=True)
class Recipe:
    """How a network is optimised.

    Attributes:
        learning_rate: Highest of AdamW.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        clip_norm: Longest gradient; longer ones are shortened to it.
        clip_value: Largest element of a gradient, in its place.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    clip_norm: float | None = 1.0
    clip_value: float | None = None


class Learning(lightning.LightningModule):
    """A forecaster under training.

    Every random decision of a step is a function of the seed and the step's number, so that a training that
    was killed goes on as it would have gone.

    Attributes:
        forecaster: What learns; it knows its own loss.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        recipe: Recipe,
        *,
        steps: int,
        seed: int,
        folder: Path,
        monitored: bool,
        gains: Gains | None = None,
    ) -> None:
        """Prepare to learn.

        Args:
            forecaster: What learns.
            recipe: How.
            steps: Steps of the optimiser from the start to the end of the training.
            seed: Of all random decisions.
            folder: Where a batch that fails is kept.
            monitored: Whether it is scored on held-out sequences on the way.
            gains: Where what it gains over its base is counted, if it has one.
        """
        super().__init__()
        self.forecaster = forecaster
        self._recipe, self._steps, self._seed, self._folder = recipe, steps, seed, folder
        self.monitored, self._gains = monitored, gains
        self._counts: Tensor | None = None
        self._batch: Mapping[str, Tensor] = {}

    @property
    def done(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return min(self.global_step / self._steps, 1.0)

    def training_step(self, batch: Mapping[str, Tensor], index: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            TrainingStopped: If it is not finite; the batch is saved first.
        """
        parts = self.loss_of(batch, index)
        loss = parts["loss"]
        if not bool(torch.isfinite(loss)):
            self._stop(batch, f"the loss is {loss.item()}")
        self.log_dict({f"train/{name}": part.detach() for name, part in parts.items()})
        return loss

    def loss_of(self, batch: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
        """Return the loss of a batch and its parts."""
        seed = hash((self._seed, self.global_step, index)) % 2**31
        return self.forecaster.training_loss(
            batch["x"],
            batch["target"],
            valid=batch["valid"],
            progress=self.done,
            generator=torch.Generator().manual_seed(seed),
            **self._context(batch),
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse gradients that are not finite, which clipping would spread over all weights."""
        squares = [p.grad.square().sum() for p in self.forecaster.parameters() if p.grad is not None]
        total = torch.stack(squares).sum()
        if not bool(torch.isfinite(total)):
            self._stop(None, "a gradient is not finite")
        self.log("train/gradient", total.sqrt())

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Remember the batch for :data:`BAD_BATCH_FILE`."""
        self._batch = batch

    def validation_step(self, batch: Mapping[str, Tensor], index: int) -> None:
        """Count hits, misses and false alarms of the forecast, and of the base or the newest frame."""
        pred = self.forecaster(batch["x"], batch["target"].shape[1], **self._context(batch))["pred"]
        if self._gains is not None:
            self._gains.add(pred, batch)
            return
        still = batch["x"][:, -1:].expand_as(pred)
        both = torch.stack([counts(field, batch["target"], batch["valid"]) for field in (pred, still)])
        self._counts = both if self._counts is None else self._counts + both

    def on_validation_epoch_end(self) -> None:
        """Log scores of all held-out sequences together: counts are added over processes, then divided."""
        if self._gains is not None:
            for name, value in self._gains.table(self._gathered(self._gains.counts)).items():
                self.log(f"val/{name}", value, prog_bar=name == "gain")
        if self._counts is None:
            return
        both = self._gathered(self._counts)
        self._counts = None
        csi = both[:, 0] / both.sum(1).clamp(min=1)
        for name, values in zip(("csi", "csi_still"), csi, strict=True):
            self.log(f"val/{name}", values.mean(), prog_bar=True)
            for threshold, value in zip(THRESHOLDS_DBZ, values, strict=True):
                self.log(f"val/{name}_{threshold:.0f}", value)

    def _gathered(self, counted: Tensor) -> Tensor:
        """Return the sum of what all processes counted."""
        gathered = cast(Tensor, self.all_gather(counted))
        return gathered.reshape(-1, *counted.shape).sum(0)

    def configure_optimizers(self) -> Any:
        """Return AdamW, warmed up, its rate falling along half a cosine."""
        recipe = self._recipe
        trained = [parameter for parameter in self.forecaster.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step / self._steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _context(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what a network wants to know of a batch besides its frames."""
        return {name: batch[name] for name in self.forecaster.context}

    def _stop(self, batch: Mapping[str, Tensor] | None, why: str) -> None:
        kept = {name: value.detach().cpu().contiguous() for name, value in (batch or self._batch).items()}
        path = self._folder / BAD_BATCH_FILE
        durable.write_bytes(path, bytes_of(kept))
        numbers = kept["number"].tolist() if "number" in kept else []
        raise TrainingStopped(
            f"expected a finite loss, but {why} at step {self.global_step}; its batch, draws {numbers}, "
            f"is {path}"
        )


def rate(done: float) -> float:
    """Return the learning rate as a share of the highest, ``done`` in [0, 1] into the training."""
    if done < WARM_UP:
        return max(done / WARM_UP, LAST_RATE)
    falling = (min(done, 1.0) - WARM_UP) / (1 - WARM_UP)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * falling)) / 2


class DurableCheckpoints(TorchCheckpointIO):
    """Checkpoints of a training that appear whole or not at all, and are read without executing anything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint under another name, bring it to the disk, and rename it."""
        with durable.publish(Path(path)) as partial:
            torch.save(checkpoint, partial)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Return a checkpoint.

        Raises:
            WeightsError: If it is damaged, or holds more than plain data.
        """
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:  # torch names no type for what a damaged archive may raise
            raise WeightsError(f"{path}: expected a training's checkpoint; {error}") from error
