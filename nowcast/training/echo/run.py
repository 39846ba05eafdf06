"""Training of the echo classifier on an archive: how much history helps is decided on held-out events."""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import cast

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from models.fanet.echo_classes import EchoClass
from models.fanet.network import FANet, FANetConfig
from models.fanet.segmentation import class_counts, class_weights
from models.registry import build
from nowcast.archive.archive import Archive
from nowcast.errors import NetworkError, SettingsError
from nowcast.methods.networks.checkpoint import Card, Source, Task, save
from nowcast.training.echo.clips import CELL_KM, Batches, Shape, Video, read_videos
from nowcast.training.echo.scores import UNSCORED, Scores, score, streaming

log = logging.getLogger(__name__)

#: Batches the classes are counted in, for their weights.
COUNTED_BATCHES = 40

#: 97.5 % point of Student's t by degrees of freedom; with more, the normal distribution's.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Fitting:
    """How a classifier is trained.

    Attributes:
        steps: Batches it sees.
        shape: What a batch is made of.
        learning_rate: At the start; falls to 0 along a cosine.
        weight_decay: Of AdamW.
        clip_norm: Longest gradient.
        device: Lightning's accelerator: ``"cpu"``, ``"cuda"`` or ``"auto"``.
    """

    steps: int = 300
    shape: Shape = field(default_factory=Shape)
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    device: str = "auto"


@dataclass(frozen=True)
class Outcome:
    """One training.

    Attributes:
        history: N, earlier frames each frame saw.
        seed: Of weights and batches.
        network: With its weights, in evaluation mode.
        held_out: Its scores on the held-out events.
    """

    history: int
    seed: int
    network: FANet
    held_out: Scores


def train_echo_classes(
    archive_root: Path,
    output: Path,
    *,
    domains: Sequence[str],
    held_out: Sequence[str],
    histories: Sequence[int] = (0,),
    seeds: Sequence[int] = (1, 2, 3),
    minutes: int = 10,
    fitting: Fitting | None = None,
    network: FANetConfig | None = None,
    data: Sequence[Source] = (),
    git_hash: str = "",
) -> list[Outcome]:
    """Train a FANet to tell the class each cell's echo will have; write the best to ``output``, return all.

    A longer history is taken only if held-out events say so (:func:`chosen_history`); of its seeds, the one
    with the best mean intersection over union there is written, as a checkpoint of 16-bit weights whose card
    has the scores.

    Args:
        archive_root: Folder of the archive.
        output: Folder of the checkpoint.
        domains: Names of the domains trained on.
        held_out: Names of those scored on; whole events, none of the others.
        histories: Each N to try.
        seeds: One training each, for every N.
        minutes: From a frame to the class its echo has then.
        fitting: How to train.
        network: Sizes; those for a CPU if left out. Its history is one of ``histories`` in turn.
        data: Whose data it is, for the card.
        git_hash: Version of the code, for the card.

    Raises:
        SettingsError: If an event is trained and scored on, or a setting is out of range.
        NotEnoughFrames: If no domain suits.
        NetworkError: If a loss is not finite.
    """
    fitting, network = fitting or Fitting(), network or FANetConfig(classes=len(EchoClass))
    _check(domains, held_out, histories, seeds, minutes)
    archive, frames = Archive(archive_root), fitting.shape.frames
    seen = read_videos(archive, domains, minutes=minutes, frames=frames)
    unseen = read_videos(archive, held_out, minutes=minutes, frames=UNSCORED + 1)
    outcomes = []
    for history in histories:
        for seed in seeds:
            trained = fit(seen, replace(network, history=history), fitting, seed)
            scores = score(streaming(trained), unseen)
            log.info("history %d, seed %d: mean IoU %.4f held out", history, seed, scores.miou)
            outcomes.append(Outcome(history, seed, trained, scores))
    best = best_of(outcomes)
    step = min(video.step_minutes for video in seen)
    task = Task(best.history + 1, round(minutes / step), step, CELL_KM)
    card = Card(best.network.config, task, tuple(data), git_hash, _card_scores(best.held_out))
    save(output, best.network, card, half=True)
    return outcomes


def fit(videos: Sequence[Video], config: FANetConfig, fitting: Fitting, seed: int) -> FANet:
    """Return a network trained on videos, in evaluation mode on the CPU.

    Raises:
        NetworkError: If a loss is not finite.
    """
    batches = Batches(videos, fitting.shape, seed)
    counts = [class_counts(classes, config.classes) for _, classes in islice(batches, COUNTED_BATCHES)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = cast(FANet, build(config))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a sixth faster on a CPU
    module = _Module(net, fitting, class_weights(torch.stack(counts).sum(0)))
    trainer = lightning.Trainer(
        accelerator=fitting.device,
        devices=1,
        max_steps=fitting.steps,
        gradient_clip_val=fitting.clip_norm,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():  # Lightning's words on PyTorch's newest release and its own add-ons
        warnings.filterwarnings("ignore", module=r"lightning\.")
        trainer.fit(module, train_dataloaders=batches)
    return net.cpu().eval()


class _Module(lightning.LightningModule):
    """What Lightning asks of a training."""

    def __init__(self, net: FANet, fitting: Fitting, weights: Tensor) -> None:
        super().__init__()
        self.net, self._fitting = net, fitting
        self.register_buffer("weights", weights)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        frames, classes = batch
        loss = self.net.training_loss(frames, classes, class_weights=cast(Tensor, self.weights))["loss"]
        if not bool(torch.isfinite(loss)):
            raise NetworkError(
                f"expected a finite loss, got {loss.item()} at step {batch_idx + 1} of {self._fitting.steps} "
                f"with a learning rate of {self._fitting.learning_rate:g}"
            )
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        fitting = self._fitting
        optimizer = torch.optim.AdamW(
            self.net.parameters(), fitting.learning_rate, weight_decay=fitting.weight_decay
        )
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, fitting.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}


def chosen_history(scores: Mapping[int, Sequence[float]]) -> int:
    """Return the history that held-out events ask for: the shortest, unless a longer one is surely better.

    Surely means that the 95 % interval (:func:`interval`) of its gain over the shortest, paired by seed, lies
    above 0; of several such, the one with the greatest mean gain.

    Args:
        scores: A score for each seed, in the same order, by history; greater is better.
    """
    shortest = min(scores)
    gains = {
        history: interval([b - a for a, b in zip(scores[shortest], values, strict=True)])
        for history, values in scores.items()
    }
    surer = {history: mean for history, (mean, half) in gains.items() if mean - half > 0}
    return max(surer, key=surer.__getitem__, default=shortest)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half the width of its 95 % interval by Student's t; infinite for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    return mean, STUDENT.get(len(values) - 1, 1.96) * statistics.stdev(values) / math.sqrt(len(values))


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome to ship: of the chosen history, that with the best mean IoU on held-out events."""
    by_history: dict[int, list[float]] = {}
    for outcome in outcomes:
        by_history.setdefault(outcome.history, []).append(outcome.held_out.miou)
    history = chosen_history(by_history)
    return max((one for one in outcomes if one.history == history), key=lambda one: one.held_out.miou)


def _card_scores(scores: Scores) -> dict[str, float | None]:
    named = {f"held_out_iou_{name}": value for name, value in scores.iou.items()}
    return {"held_out_miou": scores.miou, "held_out_micro_iou": scores.micro_iou, **named}


def _check(
    domains: Sequence[str],
    held_out: Sequence[str],
    histories: Sequence[int],
    seeds: Sequence[int],
    minutes: int,
) -> None:
    if both := sorted(set(domains) & set(held_out)):
        raise SettingsError(
            f"expected events that are either trained or scored on, got {', '.join(both)} as both"
        )
    if not histories or not all(0 <= history <= UNSCORED for history in histories):
        raise SettingsError(f"expected histories of 0 to {UNSCORED} frames, got {list(histories)}")
    if not seeds:
        raise SettingsError("expected at least one seed, got none")
    if minutes <= 0:
        raise SettingsError(f"expected classes 1 or more minutes on, got {minutes}")
