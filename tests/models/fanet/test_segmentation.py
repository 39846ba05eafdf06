"""Segmentation: losses, clips and scores with answers worked out by hand or by torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.fanet.segmentation import (
    AUXILIARY_WEIGHT,
    IGNORED,
    Clip,
    Mining,
    class_counts,
    class_iou,
    class_weights,
    confusion_matrix,
    cross_entropy,
    draw_clips,
    hard_cells,
    micro_iou_paper,
    miou,
    sampled_labels,
    segmentation_loss,
)


def example(frames: int = 3, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Return logits ``(2, t, k, 5, 6)`` that want a gradient, and labels of which some are ignored."""
    generator = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(2, frames, classes, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, classes, (2, frames, 5, 6), generator=generator)
    return logits.requires_grad_(), labels


def sure(probability: float) -> list[float]:
    """Return logits of two classes that give the first one this probability."""
    return [math.log(probability), math.log(1 - probability)]


def test_the_loss_is_the_mean_cross_entropy_over_labelled_cells() -> None:
    logits, labels = example()
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1), ignore_index=IGNORED)
    loss = segmentation_loss(logits, labels)
    torch.testing.assert_close(loss["loss"], expected)
    assert not loss["cross_entropy"].requires_grad
    assert set(loss) == {"loss", "cross_entropy"}


def test_frames_at_the_start_do_not_count_and_get_no_gradient_at_all() -> None:
    logits, labels = example()
    loss = segmentation_loss(logits, labels, excluded=2)["loss"]
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, :2] == 0).all()
    assert (logits.grad[:, 2:] != 0).any()
    expected = functional.cross_entropy(logits[:, 2], labels[:, 2], ignore_index=IGNORED)
    torch.testing.assert_close(loss, expected)


def test_auxiliary_heads_count_half_and_are_enlarged_to_the_grid_of_the_others() -> None:
    logits, labels = example()
    coarse = torch.linspace(-2, 2, 144, dtype=torch.float64).view(2, 3, 4, 2, 3).sin()
    same = logits.detach()
    loss = segmentation_loss(logits, labels, auxiliary=(coarse, same), excluded=2)
    large = functional.interpolate(coarse[:, 2], size=(5, 6), mode="bilinear", align_corners=False)
    first = functional.cross_entropy(large, labels[:, 2], ignore_index=IGNORED)
    main = loss["cross_entropy"]
    torch.testing.assert_close(loss["auxiliary_1"], first)
    torch.testing.assert_close(loss["loss"].detach(), main + AUXILIARY_WEIGHT * (first + main))
    assert AUXILIARY_WEIGHT == 0.5


def test_class_weights_weigh_the_mean() -> None:
    logits, labels = example()
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    expected = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(0, 1), weight=weights, ignore_index=IGNORED
    )
    torch.testing.assert_close(segmentation_loss(logits, labels, class_weights=weights)["loss"], expected)


def test_labels_on_a_finer_grid_are_taken_at_the_centres() -> None:
    rows = torch.arange(16)[:, None].expand(16, 8)
    assert sampled_labels(rows[None], (4, 2))[0, :, 0].tolist() == [2, 6, 10, 14]
    assert sampled_labels(rows.T[None], (2, 4))[0, 0].tolist() == [2, 6, 10, 14]
    assert torch.equal(sampled_labels(rows[None], (16, 8))[0], rows)
    thirds = torch.arange(9).expand(3, 9)[None]
    assert sampled_labels(thirds, (1, 3)).tolist() == [[[1, 4, 7]]]
    logits, labels = example()
    fine = torch.full((2, 3, 20, 24), 99)
    fine[..., 2::4, 2::4] = labels
    torch.testing.assert_close(segmentation_loss(logits, fine), segmentation_loss(logits, labels))


def test_no_label_at_all_gives_a_loss_of_0_with_a_gradient_of_0() -> None:
    logits, labels = example()
    loss = segmentation_loss(logits, torch.full_like(labels, IGNORED), mining=Mining())["loss"]
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_mining_keeps_the_cells_whose_class_got_less_than_its_share() -> None:
    logits = torch.tensor([sure(0.9), sure(0.71), sure(0.69), sure(0.2)]).T.reshape(1, 2, 1, 4)
    labels = torch.zeros(1, 1, 4, dtype=torch.int64)
    loss = cross_entropy(logits, labels, mining=Mining(0.7, 1 / 16))
    assert loss == pytest.approx(-(math.log(0.69) + math.log(0.2)) / 2)


def test_mining_keeps_at_least_its_share_of_the_labelled_cells() -> None:
    losses = torch.tensor([0.01, 0.04, 0.02, 0.03])
    assert sorted(hard_cells(losses, Mining(0.7, 0.5)).tolist()) == [1, 3]
    assert sorted(hard_cells(losses, Mining(0.7, 0.51)).tolist()) == [1, 2, 3]
    assert hard_cells(torch.tensor([0.1, 0.5, 0.4]), Mining(0.7, 0.1)).tolist() == [1, 2]
    logits = torch.tensor([sure(0.99), sure(0.9), sure(0.8), sure(0.85)]).T.reshape(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, IGNORED, 0]]])
    loss = cross_entropy(logits, labels, mining=Mining(0.7, 0.3))
    assert loss == pytest.approx(-math.log(0.85))


def test_hard_cells_are_chosen_before_weighting() -> None:
    logits = torch.tensor([sure(0.9), sure(0.2)]).T.reshape(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    weights = torch.tensor([100.0, 1.0])
    easy_too = cross_entropy(logits, labels, class_weights=weights, mining=Mining(0.85, 0.5))
    assert easy_too == pytest.approx(-math.log(0.8))


def test_half_precision_logits_are_compared_in_float32() -> None:
    logits, labels = example()
    half = logits.detach().to(torch.bfloat16)
    loss = segmentation_loss(half, labels)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, segmentation_loss(half.float(), labels)["loss"])


def test_losses_of_what_does_not_belong_together_are_refused() -> None:
    logits, labels = example()
    with pytest.raises(ValueError, match="expected labels"):
        segmentation_loss(logits, labels[:, 1:])
    with pytest.raises(ValueError, match="exclude"):
        segmentation_loss(logits, labels, excluded=3)


def test_class_weights_fall_with_the_root_of_the_frequency_and_average_to_1() -> None:
    labels = torch.tensor([0] * 16 + [1] * 4 + [3] + [IGNORED] * 9)
    counts = class_counts(labels, 5)
    assert counts.tolist() == [16, 4, 0, 1, 0]
    weights = class_weights(counts)
    assert weights[1] / weights[0] == pytest.approx(2.0)
    assert weights[3] / weights[0] == pytest.approx(4.0)
    assert weights[2] == weights[4] == 0
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1.0)
    assert (class_weights(torch.zeros(3, dtype=torch.int64)) == 0).all()


def test_the_confusion_matrix_counts_truth_by_row_and_answer_by_column() -> None:
    labels = torch.tensor([[0, 0, 1, IGNORED], [2, 2, 2, 1]])
    predicted = torch.tensor([[0, 1, 1, 0], [2, 2, 0, 1]])
    matrix = confusion_matrix(predicted, labels, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    parts = sum(confusion_matrix(p, q, 4) for p, q in zip(predicted, labels, strict=True))
    assert torch.equal(parts, matrix)


def test_the_mean_iou_is_that_of_the_classes_that_occur() -> None:
    matrix = torch.tensor([[1, 1, 0, 1], [0, 2, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])
    iou = class_iou(matrix)
    torch.testing.assert_close(iou[:3], torch.tensor([1 / 4, 2 / 3, 2 / 3], dtype=torch.float64))
    assert iou[3].isnan()
    assert miou(matrix) == pytest.approx((1 / 4 + 2 / 3 + 2 / 3) / 3)
    assert miou(torch.zeros(4, 4, dtype=torch.int64)).isnan()


def test_the_mean_iou_pools_the_data_set_and_is_not_a_mean_over_images() -> None:
    labels = torch.tensor([[[0, 0, 0, 0]], [[1, 0, 0, 0]]])
    predicted = torch.tensor([[[0, 0, 0, 1]], [[1, 0, 0, 0]]])
    assert miou(confusion_matrix(predicted, labels, 2)) == pytest.approx((6 / 7 + 1 / 2) / 2)


def test_the_papers_iou_pools_classes_within_an_image_and_averages_images() -> None:
    labels = torch.tensor([[[0, 1, 2, 2]], [[0, IGNORED, IGNORED, 1]], [[IGNORED] * 4]])
    predicted = torch.tensor([[[0, 1, 2, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 0]]])
    assert micro_iou_paper(predicted, labels) == pytest.approx((3 / 5 + 1 / 3) / 2)
    one_hot = functional.one_hot(predicted[0], 3), functional.one_hot(labels[0], 3)
    both = (one_hot[0] * one_hot[1]).sum()
    assert both / (one_hot[0] + one_hot[1] - one_hot[0] * one_hot[1]).sum() == pytest.approx(3 / 5)


def test_mixed_batches_draw_clips_of_different_videos_that_lie_inside_them() -> None:
    generator = torch.Generator().manual_seed(7)
    lengths = [9, 8, 3, 20, 10]
    seen: dict[int, set[int]] = {}
    for _ in range(300):
        clips = draw_clips(lengths, 4, 8, generator=generator)
        assert len({clip.video for clip in clips}) == 4
        for clip in clips:
            assert clip.frames == 8
            seen.setdefault(clip.video, set()).add(clip.start)
    assert seen == {0: {0, 1}, 1: {0}, 3: set(range(13)), 4: {0, 1, 2}}


def test_mixed_batches_take_a_video_twice_only_where_there_are_too_few() -> None:
    clips = draw_clips([12, 3], 4, 8, generator=torch.Generator().manual_seed(1))
    assert [clip.video for clip in clips] == [0] * 4


def test_homogeneous_batches_are_one_stretch_of_one_video() -> None:
    clips = draw_clips([31, 32], 4, 8, mixed=False, generator=torch.Generator().manual_seed(1))
    assert clips == [Clip(video=1, start=0, frames=32)]


def test_clips_longer_than_any_video_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 frames"):
        draw_clips([7, 3], 2, 8, generator=torch.Generator())
