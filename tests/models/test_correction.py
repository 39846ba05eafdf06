"""Corrections: an untrained one is its base, what is learnt is relative to a threshold, no lattice shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.convlstm import ConvLSTMConfig
from models.correction import (
    KNOT_MINUTES,
    ODDS,
    ODDS_DB,
    Choices,
    Correction,
    CorrectionConfig,
    above_of,
    logits_above,
    pooled,
    raised_field,
    to_dbz,
)
from models.registry import PRESETS, build

TINY = CorrectionConfig(ConvLSTMConfig(hidden=(8,), patch=1, frame_channels=8), channels=8, slots=3)

#: Presets that correct a base.
CORRECTIONS = [name for name, config in PRESETS.items() if isinstance(config, CorrectionConfig)]

ROWS, COLUMNS = 70, 92


def showers(*shape: int, seed: int = 0) -> Tensor:
    """Smooth fields in [0, 1] with dry places, ``(b, t, 1, y, x)``."""
    generator = torch.Generator().manual_seed(seed)
    *first, rows, columns = shape
    coarse = torch.rand(
        int(torch.tensor(first).prod()), 1, rows // 6 + 2, columns // 6 + 2, generator=generator
    )
    fine = nn.functional.interpolate(coarse, size=(rows, columns), mode="bilinear")
    return (1.4 * fine - 0.5).clamp(0, 1).reshape(*first, 1, rows, columns)


def told(batch: int = 1, leads: int = 3, rows: int = ROWS, columns: int = COLUMNS) -> dict[str, Tensor]:
    """What a correction is told besides frames and base."""
    known = torch.ones(batch, leads, 1, rows, columns, dtype=torch.bool)
    observed = torch.ones(batch, 4, 1, rows, columns, dtype=torch.bool)
    observed[..., :9, :9] = False
    known[..., -6:, :] = False
    return {
        "known": known,
        "in_place": showers(batch, leads, rows, columns, seed=5),
        "in_place_known": known,
        "observed": observed,
        "motion": torch.full((batch, 2, 1, rows, columns), 30.0),
        "step_minutes": torch.full((batch,), 10.0),
        "cell_km": torch.full((batch,), 1.0),
        "minutes": torch.tensor([[10.0, 20.0, 30.0]]).expand(batch, -1)[:, :leads],
    }


def tiny(config: CorrectionConfig = TINY, *, learnt: bool = False) -> Correction:
    """A small correction; where ``learnt``, its head says something."""
    torch.manual_seed(1)
    net = Correction(config)
    if learnt:
        last = net.head[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, std=1.0)
    return net


@pytest.mark.parametrize("name", CORRECTIONS)
@torch.inference_mode()
def test_an_untrained_network_is_the_base(name):
    torch.manual_seed(0)
    net = build(PRESETS[name]).eval()
    x, base = showers(1, 4, ROWS, COLUMNS), showers(1, 3, ROWS, COLUMNS, seed=2)
    pred = net(x, 3, guess=base, **told())["pred"]
    assert torch.equal(pred, base)


@torch.inference_mode()
def test_a_network_that_learnt_moves_rain_and_keeps_its_amount():
    net = tiny(learnt=True).eval()
    x, base, context = showers(1, 4, ROWS, COLUMNS), showers(1, 3, ROWS, COLUMNS, seed=2), told()
    pred = net(x, 3, guess=base, **context)["pred"]
    assert (pred - base).abs().mean() > 0.005
    known = context["known"]
    assert torch.equal(pred[~known], base[~known])
    assert torch.equal(pred[known].sort().values, base[known].sort().values)


@pytest.mark.parametrize("knot", range(len(KNOT_MINUTES)))
@torch.inference_mode()
def test_what_is_not_trusted_is_the_base(knot):
    net = tiny(learnt=True).eval()
    net.trust.zero_()
    net.trust[knot] = 1
    x, base, context = showers(1, 4, ROWS, COLUMNS), showers(1, 1, ROWS, COLUMNS, seed=2), told(leads=1)
    for minutes in (15.0, 60.0):
        context["minutes"] = torch.tensor([[minutes]])
        same = torch.equal(net(x, 1, guess=base, **context)["pred"], base)
        assert same == (KNOT_MINUTES[knot] != minutes)


@torch.inference_mode()
def test_all_is_relative_to_the_threshold():
    net = tiny(learnt=True)
    x, base = showers(1, 4, ROWS, COLUMNS).clamp(min=0.2), showers(1, 3, ROWS, COLUMNS, seed=2).clamp(min=0.2)
    context, raise_dbz = told(), 7.0
    context["observed"] = torch.ones_like(context["observed"])
    context["known"] = context["in_place_known"] = torch.ones_like(context["known"])
    context["in_place"] = context["in_place"].clamp(min=0.2)
    maps = net.maps(net.squares(x, base, **context, side=4), torch.tensor([25.0]))
    up = raise_dbz / 70
    context["in_place"] = context["in_place"] + up
    raised = net.maps(net.squares(x + up, base + up, **context, side=4), torch.tensor([25.0 + raise_dbz]))
    torch.testing.assert_close(raised, maps, atol=1e-4, rtol=0)
    assert maps.std() > 0.01


@torch.inference_mode()
def test_the_far_corner_has_no_say():
    net = tiny(learnt=True)
    x, base, context = showers(1, 4, 256, 64), showers(1, 3, 256, 64, seed=2), told(rows=256, columns=64)
    here = net.maps(net.squares(x, base, **context, side=4), torch.tensor([25.0]))
    x[..., -16:, :], base[..., -16:, :] = 1.0, 1.0
    there = net.maps(net.squares(x, base, **context, side=4), torch.tensor([25.0]))
    torch.testing.assert_close(there[..., :12, :], here[..., :12, :], atol=1e-6, rtol=0)
    assert not torch.equal(there[..., -8:, :], here[..., -8:, :])


@torch.inference_mode()
def test_no_lattice_shows_at_the_period_of_squares():
    net = tiny(learnt=True).eval()
    side = 192
    x, base = showers(1, 4, side, side), showers(1, 1, side, side, seed=2)
    context = told(leads=1, rows=side, columns=side)
    context["known"] = torch.ones_like(context["known"])
    changed = net(x, 1, guess=base, **context)["pred"] - base
    spectrum = torch.fft.rfft(changed[0, 0, 0], dim=1).abs().square().mean(0)
    for period in (4, 8):
        at = side // period
        beside = torch.cat([spectrum[at - 6 : at - 1], spectrum[at + 2 : at + 7]]).mean()
        assert spectrum[at] < 2 * beside, f"a lattice of {period} cells"


#: Odds that fall by a tenth of a logit per dB, whatever the lead.
STRAIGHT = torch.tensor(ODDS_DB) / 10

NODES = (20.0, 30.0, 40.0)


def test_a_field_without_corrections_is_the_base_and_one_raised_is_raised():
    base, none = torch.linspace(-10, 60, 701)[None], torch.zeros(3, 2, 1, 701)
    for odds in (STRAIGHT, *torch.tensor(list(ODDS.values()))):
        torch.testing.assert_close(raised_field(base, none, odds, NODES), base, atol=1e-3, rtol=0)
    some = none.clone()
    some[:, 0] = 0.4  # as much as 4 dB of these odds
    rained = (base > 5) & (base < 50)
    raised = raised_field(base, some, STRAIGHT, NODES)
    torch.testing.assert_close(raised[rained], base[rained] + 4.0, atol=1e-3, rtol=0)


def test_maps_between_nodes_are_linear_in_the_threshold():
    base, maps = torch.full((1, 1), 25.0), torch.zeros(3, 2, 1, 1)
    maps[0, 0], maps[1, 0] = 1.0, -1.0  # up at 20 dBZ, down at 30: nothing at 25
    assert raised_field(base, maps, STRAIGHT, NODES).item() == pytest.approx(25.0, abs=1e-3)


def test_odds_are_linear_between_what_was_counted_and_turn_back():
    net = tiny()
    odds = net.odds_at(torch.tensor([[3.0, 15.0, 90.0]]))
    tables = torch.tensor(list(ODDS.values()))
    torch.testing.assert_close(odds[0, 0], tables[0])
    torch.testing.assert_close(odds[0, 1], (tables[0] + tables[1]) / 2)
    torch.testing.assert_close(odds[0, 2], tables[-1])
    above = torch.tensor([-60.0, -12.0, 0.0, 0.5, 40.0])[None, None, :, None].expand(1, 3, -1, 1)
    logits = logits_above(above, odds)
    assert logits[0, 0, 1, 0] == pytest.approx((tables[0, 3] + tables[0, 4]).item() / 2, abs=1e-5)
    assert logits[0, 2, 3, 0] == pytest.approx((tables[-1, 9] + tables[-1, 10]).item() / 2, abs=1e-5)
    for lead in range(3):
        torch.testing.assert_close(
            above_of(logits[0, lead], odds[0, lead]), above[0, lead], atol=1e-3, rtol=0
        )


def test_what_is_not_observed_is_neither_dry_nor_wet():
    unit = torch.full((1, 1, 1, 4, 8), 0.5)
    known = torch.ones_like(unit, dtype=torch.bool)
    known[..., :2, :4], known[..., 4:] = False, False
    unit[~known] = 0.0
    mean, largest, share = pooled(unit, known, 4)[0, 0]
    assert mean[0, 0] == pytest.approx(25.0, abs=1e-4)
    assert largest[0, 0] == pytest.approx(25.0, abs=1e-4)
    assert share.tolist() == [[0.5, 0.0]]


def test_what_is_not_valid_teaches_nothing():
    net = tiny()
    x, base, target = (showers(2, n, 48, 48, seed=seed) for n, seed in ((4, 0), (3, 1), (3, 2)))
    context = told(2, rows=48, columns=48)
    valid = torch.rand(target.shape, generator=torch.Generator().manual_seed(3)) > 0.4

    def loss(target: Tensor) -> float:
        generator = torch.Generator().manual_seed(7)
        parts = net.training_loss(x, target, valid=valid, generator=generator, guess=base, **context)
        return float(parts["loss"].detach())

    before = loss(target)
    counted = valid & context["known"] & context["observed"][:, -1:]
    assert loss(torch.where(counted, target, 1.0 - target)) == before
    assert loss(torch.where(counted, 1.0 - target, target)) != before


@pytest.mark.parametrize("name", CORRECTIONS)
def test_every_weight_learns_once_the_head_says_something(name):
    torch.manual_seed(0)
    net = build(PRESETS[name])
    assert isinstance(net, Correction)
    last = net.head[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.normal_(last.weight, std=0.1)
    x, base, target = (showers(1, n, 48, 48, seed=seed) for n, seed in ((4, 0), (3, 1), (3, 2)))
    context = told(rows=48, columns=48)
    net.training_loss(x, target, guess=base, generator=torch.Generator().manual_seed(0), **context)[
        "loss"
    ].backward()
    still = [key for key, value in net.named_parameters() if value.grad is None or not value.grad.any()]
    # SCS's encoder hands over the gate of its top layer, so that nothing asks for what else that layer says.
    assert [key for key in still if not key.startswith("core.encoder.layers.5.spatial.")] == []


def test_growth_that_the_base_does_not_know_is_learnt():
    """Rain that moves south grows, rain that moves north decays: the base knows of neither."""
    net = tiny(replace(TINY, leads_a_step=1))
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)

    def batch(seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x, context = showers(4, 4, 64, 64, seed=seed), told(4, 1, 64, 64)
        south = torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None, None, None]
        context["motion"] = 40 * torch.stack([south, torch.zeros_like(south)], dim=1).expand(
            -1, -1, 1, 64, 64
        )
        return x, (x[:, -1:] + 0.15 * south[:, None] * (x[:, -1:] > 0)).clamp(0, 1), context

    def losses(seed: int) -> Tensor:
        x, target, context = batch(seed)
        generator = torch.Generator().manual_seed(seed)
        return net.training_loss(x, target, guess=x[:, -1:], generator=generator, **context)["loss"]

    with torch.no_grad():
        first = sum(float(losses(1000 + k)) for k in range(8))
    for step in range(120):
        optimiser.zero_grad()
        losses(step).backward()
        optimiser.step()
    with torch.no_grad():
        assert sum(float(losses(1000 + k)) for k in range(8)) < 0.7 * first


def test_a_core_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="expected a core of 16 channels a frame, got 8"):
        replace(TINY, channels=16)


def test_squares_are_of_the_same_size_on_the_ground():
    sides = {km: TINY.square_cells(km) for km in (0.25, 0.5, 1.0, 1.2, 2.0, 2.5, 5.0)}
    assert sides == {0.25: 4, 0.5: 4, 1.0: 4, 1.2: 3, 2.0: 2, 2.5: 2, 5.0: 1}
    assert tiny().crop_cells(192, 2.0) == 96
    assert to_dbz(torch.tensor(0.5)) == 25.0


def drawn_as_a_step_does(net: Correction, x: Tensor, counted: Tensor, side: int, seed: int) -> Choices:
    """What a step draws, spelt out with strides."""
    generator = torch.Generator().manual_seed(seed)
    strongest = to_dbz(x[:, -1]).flatten(1).amax(1)
    threshold = 10 + torch.rand(len(x), generator=generator) * (strongest.clamp(25, 45) - 10)
    slots = counted.flatten(2).any(2).any(0).nonzero().flatten()
    order = torch.randperm(len(slots), generator=generator)[: net.config.leads_a_step]
    row, column = torch.randint(2, (2,), generator=generator).tolist()
    rows, columns = torch.arange(x.shape[-2])[row::2], torch.arange(x.shape[-1])[column::2]
    return Choices(side, threshold, slots[order].sort().values, rows, columns)


def test_given_choices_teach_what_drawn_ones_do():
    net = tiny(replace(TINY, leads_a_step=2), learnt=True)
    x, base, target = (showers(2, n, ROWS, COLUMNS, seed=n) for n in (4, 3, 3))
    context, valid = told(2), torch.ones_like(target, dtype=torch.bool)
    valid[:, 1] = False
    counted = valid & context["known"] & context["observed"][:, -1:]
    gradients, losses = [], []
    for drawn in (
        {"generator": torch.Generator().manual_seed(7)},
        {"choices": drawn_as_a_step_does(net, x, counted, side=4, seed=7)},
    ):
        net.zero_grad()
        parts = net.training_loss(x, target, valid=valid, guess=base, **context, **drawn)
        parts["loss"].backward()
        losses.append(parts["loss"].detach())
        gradients.append([weight.grad.clone() for weight in net.parameters()])
    assert torch.equal(*losses)
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("name", CORRECTIONS)
def test_what_is_added_to_odds_is_exact_in_half_precision(name, monkeypatch):
    net = build(PRESETS[name])
    nn.init.normal_(net.head[-1].weight, std=0.1)
    x, base, target = (showers(1, n, ROWS, COLUMNS, seed=n) for n in (4, 3, 3))
    seen, compare = [], nn.functional.binary_cross_entropy_with_logits

    def recorded(logits: Tensor, reached: Tensor, **how: str) -> Tensor:
        seen.extend([logits.dtype, reached.dtype])
        return compare(logits, reached, **how)

    monkeypatch.setattr(nn.functional, "binary_cross_entropy_with_logits", recorded)
    drawn = torch.Generator().manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        net.head[0].register_forward_hook(lambda *_: seen.append(_[-1].dtype))
        net.head[-1].register_forward_hook(lambda *_: seen.append(_[-1].dtype))
        parts = net.training_loss(x, target, guess=base, generator=drawn, **told())
    assert seen == [torch.bfloat16, *[torch.float32] * 3]
    assert {part.dtype for part in parts.values()} == {torch.float32}
