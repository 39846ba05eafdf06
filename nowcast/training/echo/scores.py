"""Scores of the echo classifier on whole events: what is confused with what, and the rule it must beat."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.fanet.echo_classes import EchoClass, echo_classes
from models.fanet.network import FANet, FANetState
from models.fanet.segmentation import class_iou, confusion_matrix, micro_iou_paper, miou
from models.normalisation import to_dbz
from nowcast.archive.archive import Archive
from nowcast.errors import WeightsError
from nowcast.methods.networks.checkpoint import CheckpointError, load
from nowcast.training.echo.clips import CELL_KM, Video, clip_of, read_videos

#: Frames at the start of every held-out event that are not scored, so that classifiers of any history up to
#: this one answer for the same cells.
UNSCORED = 4

#: Seed of the clutter in events that are scored.
SCORING_SEED = 0

#: Gives the classes ``(t, y, x)`` of frames ``(t, 1, y, x)`` in [0, 1].
Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scores:
    """How well a classifier answers.

    Attributes:
        matrix: Cells of each class (row) that were given each class (column).
        micro_iou: Mean over frames of the intersection over union pooled over classes, to compare only.
    """

    matrix: Tensor
    micro_iou: float

    @property
    def miou(self) -> float:
        """Mean intersection over union of the classes that occur."""
        return float(miou(self.matrix))

    @property
    def iou(self) -> dict[str, float | None]:
        """Intersection over union by name of the class; ``None`` where none occurs."""
        by_class = class_iou(self.matrix).tolist()
        return {
            kind.name.lower(): None if math.isnan(by_class[kind]) else by_class[kind] for kind in EchoClass
        }


def score_echo_classes(weights: Path, archive_root: Path, domains: Sequence[str]) -> Scores:
    """Return how well a classifier's checkpoint does on the events of an archive.

    Raises:
        WeightsError: If the checkpoint is missing, damaged, or no classifier's.
        NotEnoughFrames: If no domain suits.
    """
    try:
        loaded = load(weights)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(loaded.network, FANet):
        raise WeightsError(f"{weights}: expected a FANet, got {loaded.card.config}")
    minutes = round(loaded.card.task.leads * loaded.card.task.step_minutes)
    videos = read_videos(Archive(archive_root), domains, minutes=minutes, frames=UNSCORED + 1)
    return score(streaming(loaded.network), videos)


def streaming(net: FANet) -> Classifier:
    """Return a network as a classifier that goes through an event frame by frame, as frames come in."""
    fused = net.fused()

    def classes(frames: Tensor) -> Tensor:
        state: FANetState | None = None
        answers = []
        with torch.inference_mode():
            for frame in frames:
                logits, state = fused.observe(frame[None], state)
                answers.append(logits[0].argmax(0))
        return torch.stack(answers)

    return classes


def rule(frames: Tensor) -> Tensor:
    """Return the classes the rule behind the labels sees in the frames themselves: what is to be beaten.

    It knows neither what is clutter nor that echo grows and decays.
    """
    return torch.stack([echo_classes(to_dbz(frame[0]), CELL_KM) for frame in frames])


def score(classifier: Classifier, videos: Iterable[Video]) -> Scores:
    """Return how well a classifier answers in videos, from frame ``UNSCORED`` on, clutter injected alike."""
    matrix = torch.zeros(len(EchoClass), len(EchoClass), dtype=torch.int64)
    micro = []
    for video in videos:
        frames, labels = clip_of(video, torch.Generator().manual_seed(SCORING_SEED))
        answers = classifier(frames)
        for answer, label in zip(answers[UNSCORED:], labels[UNSCORED:], strict=True):
            matrix += confusion_matrix(answer, label, len(EchoClass))
            micro.append(float(micro_iou_paper(answer[None], label[None])))
    return Scores(matrix, statistics.fmean(value for value in micro if not math.isnan(value)))
