"""Early recognition of events: the schedule of its two tasks, what it sees, and that both tasks learn."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from models.e3d.network import E3DLSTM, E3DLSTMConfig
from models.event_classifier import EventClassifier, EventClassifierConfig, prediction_weight
from models.parts.sampling import forced_share

NETWORK = E3DLSTMConfig(layers=2, channels=4, patch=2, tau=5)


def classifier(**options) -> EventClassifier:
    torch.manual_seed(0)
    config = EventClassifierConfig(**{"classes": 3, "filters": 6, "hidden": 8, "cells": 2, **options})
    net = EventClassifier(E3DLSTM(NETWORK), config).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def rain(batch: int, frames: int, rows: int = 12, columns: int = 10, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames, 1, rows, columns, generator=generator).double()


def test_the_forecast_counts_ever_less_down_to_a_floor():
    # 2e-5 less an iteration, as published, reach the floor at 495 000: 60 % of a training of 825 000.
    by_iteration = {i: prediction_weight(i / 825_000) for i in (0, 100_000, 495_000, 600_000)}
    assert by_iteration == pytest.approx({0: 10.0, 100_000: 8.0, 495_000: 0.1, 600_000: 0.1})
    assert prediction_weight(0.25, start=4.0, floor=2.0, until=0.5) == pytest.approx(3.0)


def test_true_frames_are_fed_ever_less():
    assert [forced_share(i / 100_000) for i in (0, 25_000, 50_000, 90_000)] == [1.0, 0.5, 0.0, 0.0]


def test_the_published_sizes_follow_from_its_layers():
    net = EventClassifier(E3DLSTM(E3DLSTMConfig(layers=1, channels=64)), EventClassifierConfig(classes=41))
    convolutions = 2 * 128 + 128 * 18 * (64 + 128)
    fully_connected = (128 * 7 * 7 + 1) * 512 + (512 + 1) * 41
    own = sum(p.numel() for name, p in net.named_parameters() if not name.startswith("forecaster"))
    assert own == convolutions + fully_connected
    shapes = []
    for part in (net.first, net.second, net.head):
        part.register_forward_hook(lambda _, args, out: shapes.append((args[0].shape[2:], out.shape)))
    with torch.inference_mode():
        assert net.classify(torch.rand(1, 64, 16, 56, 56)).shape == (1, 41)
    assert [tuple(given) for given, _ in shapes] == [(16, 56, 56), (8, 28, 28), (1, 7, 7)]
    assert shapes[1][1][2:] == (4, 14, 14), "pooled to 2 times of 7 x 7, then averaged over time"


def test_it_computes_its_layers():
    net, hidden = classifier(), torch.randn(2, 4, 16, 16, 16).double()
    x = functional.relu(functional.conv3d(hidden, net.first.weight, net.first.bias, 2, (0, 1, 1)))
    x = functional.relu(functional.conv3d(x, net.second.weight, net.second.bias, 2, (0, 1, 1)))
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).amax(dim=(-3, -2, -1)).mean(2)
    assert x.shape == (2, 6, 2, 2)
    x = functional.relu(x.flatten(1) @ net.head[1].weight.T + net.head[1].bias)
    expected = x @ net.head[4].weight.T + net.head[4].bias
    torch.testing.assert_close(net.classify(hidden), expected)


def test_missing_steps_are_zeros_before_the_first():
    net, hidden = classifier(), torch.randn(2, 4, 5, 6, 6).double()
    first = torch.cat([torch.zeros_like(hidden[:, :, :1]), hidden], dim=2)
    torch.testing.assert_close(net.classify(hidden), net.classify(first))
    other = hidden.clone()
    other[:, :, 0] += 1.0
    assert not torch.allclose(net.classify(hidden), net.classify(other)), "the oldest step counts"


@pytest.mark.parametrize(("rows", "columns", "frames"), [(12, 10, 1), (7, 23, 5), (24, 30, 20)])
def test_any_grid_and_any_number_of_frames(rows, columns, frames):
    logits = classifier()(rain(2, frames, rows, columns))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


def test_it_sees_the_newest_slices_of_the_top_layer_in_the_last_steps():
    net, x, tops = classifier(steps=4), rain(2, 7), []
    net.forecaster.layers[-1].register_forward_hook(lambda _, args, after: tops.append(after.hidden))
    logits = net(x)
    expected = net.classify(torch.stack([top[:, -1] for top in tops[-4:]], dim=2))
    torch.testing.assert_close(logits, expected)
    longer = classifier(steps=6)(x)
    assert not torch.allclose(longer, logits)


def test_every_observed_frame_changes_the_classes():
    net, x = classifier(), rain(2, 5)
    for frame in range(5):
        other = x.clone()
        other[:, frame] = rain(2, 1, seed=3)[:, 0]
        assert (net(other) - net(x)).abs().max() > 1e-9


def test_the_loss_is_the_cross_entropy_and_the_weighted_error_of_all_forecast_frames():
    net, x, target, label = (
        classifier(),
        rain(3, 4, 11, 9),
        rain(3, 2, 11, 9, seed=1),
        torch.tensor([0, 2, 1]),
    )
    losses = net.training_loss(x, target, label, progress=1.0)
    frames = torch.cat([x, target], dim=1)
    forced = torch.tensor([True] * 3 + [False]).expand(3, -1)
    error = (net.forecaster.every_step(frames, forced) - frames[:, 1:]).square()
    cross_entropy = functional.cross_entropy(net(x), label)
    torch.testing.assert_close(losses["mse"], error.mean())
    torch.testing.assert_close(losses["cross_entropy"], cross_entropy)
    torch.testing.assert_close(losses["loss"], 0.1 * error.mean() + cross_entropy)
    early = net.training_loss(x, target, label, progress=0.0)
    torch.testing.assert_close(early["loss"], 10.0 * early["mse"] + early["cross_entropy"])
    valid = torch.zeros_like(target, dtype=torch.bool)
    torch.testing.assert_close(
        net.training_loss(x, target, label, valid=valid, progress=1.0)["mse"], error[:, :3].mean()
    )


def test_scheduled_sampling_feeds_true_frames_early_on_and_follows_its_generator():
    net, x, target, label = classifier(), rain(3, 2), rain(3, 4, seed=1), torch.tensor([0, 2, 1])

    def mse(progress: float, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return net.training_loss(x, target, label, progress=progress, generator=generator)["mse"]

    assert mse(0.0, 0) != mse(1.0, 0)
    assert mse(0.25, 0) == mse(0.25, 0)
    assert mse(0.25, 0) != mse(0.25, 1)


def test_both_tasks_train_the_network_they_share():
    net, x, target, label = classifier(), rain(2, 3), rain(2, 2, seed=1), torch.tensor([0, 2])
    losses = net.training_loss(x, target, label)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert not losses["mse"].requires_grad
    assert not losses["cross_entropy"].requires_grad
    net.zero_grad()
    functional.cross_entropy(net(x), label).backward()
    assert all(p.grad.abs().sum() > 0 for p in net.forecaster.layers[-1].parameters())


def test_it_learns_whether_an_echo_grows():
    """Squares that grow or shrink, told apart by their first frames."""
    torch.manual_seed(0)
    config = EventClassifierConfig(classes=2, steps=4, filters=8, hidden=16, cells=1)
    net = EventClassifier(E3DLSTM(E3DLSTMConfig(layers=1, channels=8, tau=2)), config)
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")

    def events(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        label = torch.randint(2, (16,), generator=generator)
        centre = torch.randint(6, 10, (16, 2, 1, 1, 1), generator=generator)
        steps = torch.arange(4).view(1, 4, 1, 1)
        half = torch.where(label.view(-1, 1, 1, 1) == 1, 2 + steps, 5 - steps)
        inside = ((y - centre[:, 0]).abs() < half) & ((x - centre[:, 1]).abs() < half)
        return inside.float()[:, :, None], label

    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(60):
        frames, label = events(step)
        generator = torch.Generator().manual_seed(step)
        loss = net.training_loss(frames[:, :3], frames[:, 3:], label, progress=step / 60, generator=generator)
        optimiser.zero_grad()
        loss["loss"].backward()
        optimiser.step()
    with torch.inference_mode():
        frames, label = events(999)
        assert (net(frames[:, :3]).argmax(1) == label).float().mean() >= 0.9


def test_frames_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"expected frames \(b, t, 1, y, x\)"):
        classifier()(rain(2, 3)[:, :, 0])
