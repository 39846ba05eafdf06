"""The exceedance network starts as extrapolation, learns probabilities, and makes one field of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.exceedance import Exceedance, ExceedanceConfig, Probabilities, field_of, matched, nested
from models.normalisation import to_unit

SMALL = ExceedanceConfig(coarseness=2, widths=(4, 8), hidden=8, slots=3, thresholds_dbz=(10.0, 20.0, 30.0))


def network(config: ExceedanceConfig = SMALL) -> Exceedance:
    torch.manual_seed(1)
    return Exceedance(config)


def rain(batch: int = 2, frames: int = 4, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch * frames, 1, size // 8, size // 8, generator=generator) * 70 - 25
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return to_unit(fine)[0].reshape(batch, frames, 1, size, size)


@torch.inference_mode()
def test_an_untrained_network_follows_the_guess_and_without_one_the_newest_frame():
    net, x = network(ExceedanceConfig()).eval(), rain()
    guess = x[:, -1:].flip(-1).expand(-1, 12, -1, -1, -1)  # the same values in other places
    for pred, expected in ((net(x, 3)["pred"], x[:, -1:]), (net(x, 3, guess=guess)["pred"], guess[:, :3])):
        for unit in net.units:
            assert ((expected >= unit) != (pred >= unit - 1e-6)).float().mean() < 0.02


@torch.inference_mode()
def test_probabilities_never_rise_with_the_threshold():
    net = network().eval()
    with torch.no_grad():
        net.weight.add_(torch.randn_like(net.weight))
    probability = net(rain(), 3)["aux"]["probability"]
    assert (probability.diff(dim=2) <= 0).all()
    assert torch.equal(
        nested(torch.tensor([0.2, 0.5, 0.1])[:, None, None])[:, 0, 0], torch.tensor([0.2, 0.2, 0.1])
    )


@torch.inference_mode()
def test_between_two_slots_logits_are_the_mean_of_both_and_beyond_the_last_its_own():
    net, x, one = network().eval(), rain(), torch.ones(2)
    with torch.no_grad():
        net.weight.add_(0.3 * torch.randn_like(net.weight))
    frames, guess = x[:, :, 0], x[:, -1:, 0]
    minutes = [5.0, 7.5, 10.0, 15.0, 90.0, 1.0]
    at = net.logits(frames, guess.expand(-1, 2, -1, -1), guess.expand(-1, 6, -1, -1), minutes, 5 * one, one)
    torch.testing.assert_close(at[:, 1], (at[:, 0] + at[:, 2]) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(at[:, 4], at[:, 3])
    torch.testing.assert_close(at[:, 5], at[:, 0])


@torch.inference_mode()
def test_step_and_cell_make_a_difference():
    net, x, one = network().eval(), rain(), torch.ones(2)
    seen = (x[:, :, 0], x[:, -2:, 0], x[:, -1:, 0], [5.0])
    usual = net.logits(*seen, 5 * one, one)
    assert not torch.allclose(usual, net.logits(*seen, 10 * one, one))
    assert not torch.allclose(usual, net.logits(*seen, 5 * one, 2 * one))


@torch.inference_mode()
def test_without_trust_nothing_learnt_counts():
    net, x = network().eval(), rain()
    untouched = net(x, 3)["aux"]["probability"]
    with torch.no_grad():
        net.weight.add_(torch.randn_like(net.weight))
        net.trust[1] = 0
    learnt = net(x, 3)["aux"]["probability"]
    torch.testing.assert_close(learnt[:, 1], untouched[:, 1], atol=0.02, rtol=0)
    assert (learnt[:, 0] - untouched[:, 0]).abs().max() > 0.1


def test_the_loss_is_the_weighted_cross_entropy_where_the_truth_is_known():
    net, x, target = network(replace(SMALL, coarseness=1)), rain(), rain(frames=3, seed=1)
    valid = torch.zeros_like(target, dtype=torch.bool)
    valid[0, 1, :, :16] = True  # one slot of one sample
    loss = net.training_loss(x, target, valid=valid)["loss"]
    seen = (x[:, :, 0], x[:, -1:, 0].expand(-1, 2, -1, -1), x[:, -1:, 0], [10.0])
    logits = net.logits(*seen, 5 * torch.ones(2), torch.ones(2))[0, 0, :, :16]
    exceeded = (target[0, 1, :, :16] >= torch.tensor(net.units)[:, None, None]).float()
    entropy = -(exceeded * logits.sigmoid().log() + (1 - exceeded) * (-logits).sigmoid().log())
    rarity = torch.tensor([0.25**0.5, 1.0, 0.25**-0.5])  # at 10, 20 and 30 dBZ
    expected = (entropy * (rarity / rarity.mean())[:, None, None]).mean()
    torch.testing.assert_close(loss, expected)


def test_learning_tells_decay_from_growth():
    """Echo that was stronger before dies, echo that was weaker grows: extrapolation cannot know."""
    net = network(ExceedanceConfig(widths=(8, 8), hidden=16, slots=1, thresholds_dbz=(10.0, 20.0, 30.0)))
    generator = torch.Generator().manual_seed(3)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)

    def sample() -> tuple[torch.Tensor, torch.Tensor]:
        now = 20 + 6 * torch.randn(4, 1, 1, 4, 4, generator=generator).repeat_interleave(
            8, -1
        ).repeat_interleave(8, -2)
        rate = torch.where(torch.rand(4, 1, 1, 1, 1, generator=generator) < 0.5, -3.0, 3.0)
        frames = torch.cat([now + rate * k for k in (-3, -2, -1, 0)], dim=1)
        return to_unit(frames)[0], to_unit(now + 3 * rate)[0]

    for _ in range(120):
        x, target = sample()
        optimiser.zero_grad()
        net.training_loss(x, target)["loss"].backward()
        optimiser.step()
    x, target = sample()
    with torch.inference_mode():
        forecast = net(x, 1)["aux"]["probability"][:, 0, 1] > 0.5
    truth, still = target[:, 0, 0] >= net.units[1], x[:, -1, 0] >= net.units[1]
    assert (forecast == truth).float().mean() > 0.95 > (still == truth).float().mean() + 0.1


@torch.inference_mode()
def test_the_field_reaches_a_threshold_where_its_probability_reaches_its_level():
    generator = torch.Generator().manual_seed(0)
    probability = nested(torch.rand(2, 5, 3, 20, 20, generator=generator))
    units, levels = (0.3, 0.5, 0.7), torch.tensor([0.6, 0.4, 0.2])[:, None, None]
    field = field_of(probability, levels.expand(2, 5, 3, 1, 1), units)[:, :, 0]
    reached = (probability >= levels).cummin(dim=2).values  # never a higher one without the lower
    for k, unit in enumerate(units):
        assert torch.equal(field >= unit, reached[:, :, k])


@torch.inference_mode()
def test_matched_fields_have_the_areas_of_the_newest_frame():
    generator = torch.Generator().manual_seed(0)
    probability, newest = torch.rand(2, 5, 1, 20, 20, generator=generator), rain(frames=1, size=20)[:, 0] * 0
    newest[0, 0, :3] = 0.6  # 60 cells; the other sample is dry
    field = matched(probability.expand(-1, -1, 1, -1, -1), newest, (0.5,))
    assert (field[0] >= 0.5).flatten(1).sum(1).tolist() == [60] * 5
    assert not (field[1] >= 0.5).any()


@torch.inference_mode()
def test_as_a_network_of_planes_it_gives_the_same_probabilities():
    net, x = network().eval(), rain(batch=1)
    planes = Probabilities(net, [5.0, 10.0], step_minutes=5.0, cell_km=1.0)
    guess = rain(batch=1, frames=3, seed=4)
    whole = torch.cat([x, guess[:, [2, 2]], guess[:, :2]], dim=1)  # of three slots, the last is the longest
    flat = planes(whole, planes.planes)["pred"]
    expected = net(x, 2, guess=guess)["aux"]["probability"].flatten(1, 2)
    torch.testing.assert_close(flat[:, :, 0], expected)
    with pytest.raises(ValueError, match="expected all 6 probabilities"):
        planes(x, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"widths": (8,)}, "two levels"),
        ({"slots": 0}, "positive"),
        ({"thresholds_dbz": (20.0, 20.0)}, "ascend"),
    ],
)
def test_impossible_sizes_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ExceedanceConfig(**wrong)
