"""Training and scoring of networks that give every cell a class: loss, class weights, clips, mean IoU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

#: Label of a cell without a class: not observed, padding, or a future that is not there.
IGNORED = -1

#: Weight of the loss of each auxiliary head. Dimensionless; authors' code ``feinanshan/FANet``.
AUXILIARY_WEIGHT = 0.5


@dataclass(frozen=True)
class Mining:
    """Which cells count: those the network finds hard.

    Attributes:
        probability: A cell is hard if its true class got less than this. 0.7 is that of FANet's code.
        least_share: Where fewer cells are hard, the hardest of this share of the labelled cells count. A
            sixteenth of the batch is usual.
    """

    probability: float = 0.7
    least_share: float = 1 / 16


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    auxiliary: Sequence[Tensor] = (),
    excluded: int = 0,
    class_weights: Tensor | None = None,
    mining: Mining | None = None,
) -> dict[str, Tensor]:
    """Return the mean cross-entropy over cells, in float32 at least, plus half that of each auxiliary head.

    Labels on a finer grid than the logits are taken where the centres of the logits' cells lie; auxiliary
    logits are enlarged to the grid of the others first. With class weights the mean is a weighted one. Hard
    cells are chosen before weighting.

    Args:
        logits: ``(b, t, k, y', x')``.
        labels: Classes ``(b, t, y, x)``, int64; ``IGNORED`` cells do not count.
        auxiliary: Logits of the auxiliary heads ``(b, t, k, y", x")``.
        excluded: Number of frames at the start of each sequence that do not count.
        class_weights: ``(k,)``.
        mining: Which cells count; all if left out.

    Returns:
        ``"loss"``, to be minimised, and detached ``"cross_entropy"``, ``"auxiliary_1"``, ...

    Raises:
        ValueError: If labels and logits do not belong to the same frames, or no frame counts.
    """
    if labels.ndim != 4 or logits.ndim != 5 or labels.shape[:2] != logits.shape[:2]:
        raise ValueError(f"expected labels (b, t, y, x) of {logits.shape[:2]}, got {tuple(labels.shape)}")
    if not 0 <= excluded < logits.shape[1]:
        raise ValueError(f"expected to exclude 0 to {logits.shape[1] - 1} frames, got {excluded}")
    counted = logits[:, excluded:].flatten(0, 1)
    size = (counted.shape[-2], counted.shape[-1])
    wanted = sampled_labels(labels[:, excluded:].flatten(0, 1), size)
    main = cross_entropy(counted, wanted, class_weights=class_weights, mining=mining)
    parts, loss = {"cross_entropy": main.detach()}, main
    for number, coarse in enumerate(auxiliary, start=1):
        enlarged = functional.interpolate(
            coarse[:, excluded:].flatten(0, 1), size=size, mode="bilinear", align_corners=False
        )
        part = cross_entropy(enlarged, wanted, class_weights=class_weights, mining=mining)
        parts[f"auxiliary_{number}"] = part.detach()
        loss = loss + AUXILIARY_WEIGHT * part
    return {"loss": loss, **parts}


def cross_entropy(
    logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, mining: Mining | None = None
) -> Tensor:
    """Return the mean cross-entropy of logits ``(m, k, y, x)`` over the cells that count; 0 if none does.

    Labels are ``(m, y, x)``. The weighted mean divides by the weights of the cells that count, as
    ``torch.nn.CrossEntropyLoss`` does.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labelled = labels != IGNORED
    losses = functional.cross_entropy(exact, labels, reduction="none", ignore_index=IGNORED)[labelled]
    if losses.numel() == 0:
        return exact.sum() * 0.0
    kinds = labels[labelled]
    if mining is not None:
        hard = hard_cells(losses.detach(), mining)
        losses, kinds = losses[hard], kinds[hard]
    if class_weights is None:
        return losses.mean()
    weights = class_weights.to(losses)[kinds]
    return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)


def hard_cells(losses: Tensor, mining: Mining) -> Tensor:
    """Return the indices of the hard ones among cross-entropies ``(n,)``."""
    hard = (losses > -math.log(mining.probability)).nonzero()[:, 0]
    least = math.ceil(mining.least_share * losses.numel())
    return hard if hard.numel() >= least else losses.topk(least).indices


def sampled_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return labels ``(m, y, x)`` on a grid of ``size``: that of the cell at the centre of each coarse cell.

    Where an even number of cells falls into a coarse one, it is the one behind the centre.
    """
    rows, columns = (
        ((torch.arange(coarse, device=labels.device) * 2 + 1) * fine) // (2 * coarse)
        for coarse, fine in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], columns]


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Return how many cells have each class ``(classes,)``, int64."""
    return torch.bincount(labels[labels != IGNORED], minlength=classes)


def class_weights(counts: Tensor) -> Tensor:
    """Return weights ``(k,)`` that fall with the root of the frequency, 1 on average over the cells.

    A class that never occurs has weight 0.

    Example:
        >>> class_weights(torch.tensor([9, 1, 0]))
        tensor([0.8333, 2.5000, 0.0000])
    """
    frequency = counts.float() / counts.sum().clamp(min=1)
    weights = torch.where(counts > 0, frequency.clamp(min=torch.finfo(torch.float32).tiny).rsqrt(), 0.0)
    return weights / (weights * frequency).sum().clamp(min=torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video.

    Attributes:
        video: Index of the video.
        start: Index of the first frame.
        frames: Number of frames.
    """

    video: int
    start: int
    frames: int


def draw_clips(
    lengths: Sequence[int], clips: int, frames: int, *, mixed: bool = True, generator: torch.Generator
) -> list[Clip]:
    """Return the clips of one batch of ``clips * frames`` frames.

    Mixed batches hold clips of different videos as long as there are enough, any stretch of a video as likely
    as any other. Homogeneous ones are a single clip; with a temporal context their training collapsed late.

    Args:
        lengths: Frames of each video.
        clips: Number of clips, 4 by default of the literature's batches of 32.
        frames: Frames of each.
        mixed: Whether the clips come from several videos.
        generator: Source of the draw.

    Raises:
        ValueError: If no video is long enough.
    """
    wanted, length = (clips, frames) if mixed else (1, clips * frames)
    starts = torch.tensor([max(0, have - length + 1) for have in lengths], dtype=torch.float64)
    if not (starts > 0).any():
        raise ValueError(
            f"expected a video of at least {length} frames, got at most {max(lengths, default=0)}"
        )
    distinct = wanted <= int((starts > 0).sum())
    videos = torch.multinomial(starts, wanted, replacement=not distinct, generator=generator).tolist()
    return [
        Clip(video, int(torch.randint(int(starts[video]), (), generator=generator)), length)
        for video in videos
    ]


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return how many cells of each class (row) were given each class (column), int64; sums pool exactly.

    Args:
        predicted: Classes, of the labels' shape.
        labels: True classes; ``IGNORED`` cells do not count.
        classes: k.

    Returns:
        ``(k, k)``.
    """
    labelled = labels != IGNORED
    joint = labels[labelled] * classes + predicted[labelled]
    return torch.bincount(joint, minlength=classes**2).view(classes, classes)


def class_iou(matrix: Tensor) -> Tensor:
    """Return the intersection over union of each class ``(k,)``, float64; NaN where no cell has the class."""
    exact = matrix.double()
    hits, true = exact.diagonal(), exact.sum(1)
    return torch.where(true > 0, hits / (true + exact.sum(0) - hits), torch.nan)


def miou(matrix: Tensor) -> Tensor:
    """Return the mean intersection over union of the classes that occur, from a whole data set's matrix."""
    return class_iou(matrix).nanmean()


def micro_iou_paper(predicted: Tensor, labels: Tensor) -> Tensor:
    r"""Return the mean over images of the intersection over union pooled over classes, to compare only.

    With one-hot maps, hits c of n labelled cells give

    .. math:: \mathrm{IoU}_j = \frac{c}{2n - c}

    for an image, whatever the classes; images without labels are left out. The paper averages this over the
    images of a batch, then over the batches: the same where batches are of one size.

    Args:
        predicted: Classes ``(m, y, x)``.
        labels: True classes ``(m, y, x)``; ``IGNORED`` cells do not count.

    References:
        Torgesen, Elatov and Howard, Temporal Context Aggregation with FANet, equations 1 and 2.
    """
    labelled = (labels != IGNORED).flatten(1).sum(1)
    hits = (predicted == labels).flatten(1).sum(1).double()
    return (hits / (2 * labelled - hits)).nanmean()
