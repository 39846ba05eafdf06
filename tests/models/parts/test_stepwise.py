"""A network of one kind of step trains on every step and forecasts by feeding itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.parts.stepwise import StepwiseForecaster


class Doubling(StepwiseForecaster):
    """Expects twice the frame plus the number of frames seen so far, so that every input shows."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def begin(self, frame: Tensor) -> int:
        return 0

    def step(self, frame: Tensor, inner: int) -> tuple[Tensor, int]:
        return self.factor * frame + inner, inner + 1


def constant(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1, 1).expand(1, len(values), 1, 5, 3)


def per_frame(frames: Tensor) -> list[float]:
    return frames[0, :, 0, 0, 0].tolist()


def test_forecasts_are_fed_back():
    # After 1 and 2: 2*2+1 = 5; then 2*5+2 = 12; then 2*12+3 = 27.
    assert per_frame(Doubling()(constant(1, 2), 3)["pred"]) == [5, 12, 27]


def test_true_frames_replace_forecast_ones_where_they_are_forced():
    truth, mask = constant(100, 200, 300), torch.tensor([[True, False]])
    # 5; then 2*100+2 = 202, forced; then 2*202+3 = 407, free.
    assert per_frame(Doubling()(constant(1, 2), 3, truth, mask)["pred"]) == [5, 202, 407]
    assert per_frame(Doubling()(constant(1, 2), 3, truth)["pred"]) == [5, 202, 403]


def test_every_step_forecasts_all_frames_but_the_first():
    frames = constant(1, 2, 3, 4)
    forced, free = torch.tensor([[True, True]]), torch.tensor([[False, False]])
    assert per_frame(Doubling().every_step(frames, forced)) == [2, 5, 8]
    assert per_frame(Doubling().every_step(frames, free)) == [2, 5, 12]
    assert Doubling().every_step(frames, forced).shape == (1, 3, 1, 5, 3)


def test_the_loss_counts_warm_up_and_forecast_and_leaves_out_what_was_not_observed():
    x, target = constant(1, 2), constant(3, 4)
    # With all frames true: 2 for 2, 5 for 3, 8 for 4: squared errors 0, 4, 16.
    assert Doubling().training_loss(x, target)["loss"].item() == pytest.approx(20 / 3)
    assert Doubling().training_loss(x, target)["mse"].item() == pytest.approx(10)
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[:, 1] = False
    assert Doubling().training_loss(x, target, valid=valid)["loss"].item() == pytest.approx(2)
    assert Doubling().training_loss(x, target, valid=valid)["mse"].item() == pytest.approx(4)


def test_sampling_forces_the_warm_up_always_and_the_forecast_less_and_less():
    net, x, target = Doubling(), torch.zeros(4000, 3, 1, 1, 1), torch.zeros(4000, 3, 1, 1, 1)

    def shares(progress):
        generator = torch.Generator().manual_seed(0)
        return net.draw_forced(x, target, progress, generator).float().mean(0).tolist()

    assert shares(0.0) == [1, 1, 1, 1]
    assert shares(0.25) == pytest.approx([1, 1, 0.5, 0.5], abs=0.03)
    assert shares(1.0) == [1, 1, 0, 0]
    net.reverse_sampling = True
    assert shares(0.0) == pytest.approx([0.5] * 4, abs=0.03)
    assert shares(1.0) == [1, 1, 0, 0]
