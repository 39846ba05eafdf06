"""Gradient switches change no value, and cut as often, as together and for as long as asked."""

from __future__ import annotations

import math

import pytest
import torch

from models.scs.gradient_switch import (
    OPEN,
    Edges,
    LossMonitor,
    Shares,
    cut_shares,
    draw_cuts,
    draw_edges,
    falling_share,
    switched,
    temporal_share,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("gate", [0.0, 0.25, 1.0, 2.0])
def test_an_edge_changes_no_bit_forward_and_multiplies_the_gradient(gate):
    u = torch.rand(3, 5, requires_grad=True)
    weights = torch.rand(3, 5)
    through = switched(u, gate)
    assert torch.equal(through, u)
    (through * weights + 0 * u).sum().backward()
    torch.testing.assert_close(u.grad, gate * weights)


def test_an_edge_that_is_cut_ends_the_graph():
    u = torch.rand(3, requires_grad=True)
    assert not switched(u, 0.0).requires_grad


def test_independent_draws_cut_both_edges_as_often_as_chance_has_it():
    spatial, temporal = draw_cuts(Shares(spatial=0.3, temporal=0.7), 100_000, generator=seeded())
    assert spatial.double().mean() == pytest.approx(0.3, abs=0.01)
    assert temporal.double().mean() == pytest.approx(0.7, abs=0.01)
    assert (spatial & temporal).double().mean() == pytest.approx(0.21, abs=0.01)


def test_never_both_opens_the_spatial_edge_where_time_is_mostly_cut():
    shares = Shares(spatial=0.3, temporal=0.7)
    spatial, temporal = draw_cuts(shares, 100_000, coupling="never_both", generator=seeded())
    assert temporal.double().mean() == pytest.approx(0.7, abs=0.01)
    assert spatial.double().mean() == pytest.approx(0.09, abs=0.01)
    assert not (spatial & temporal).any()


def test_never_both_opens_the_temporal_edge_where_time_is_mostly_open():
    shares = Shares(spatial=0.6, temporal=0.4)
    spatial, temporal = draw_cuts(shares, 100_000, coupling="never_both", generator=seeded())
    assert spatial.double().mean() == pytest.approx(0.6, abs=0.01)
    assert temporal.double().mean() == pytest.approx(0.16, abs=0.01)
    assert not (spatial & temporal).any()


def test_complementary_draws_cut_exactly_one_edge():
    shares = Shares(spatial=0.3, temporal=0.7)
    spatial, temporal = draw_cuts(shares, 100_000, coupling="complementary", generator=seeded())
    assert (spatial ^ temporal).all()
    assert temporal.double().mean() == pytest.approx(0.7, abs=0.01)


def test_exactly_one_edge_cannot_be_cut_with_other_shares():
    with pytest.raises(ValueError, match="add up to 1"):
        draw_cuts(Shares(0.5, 0.4), 10, coupling="complementary")


@pytest.mark.parametrize("coupling", ["independent", "never_both", "complementary"])
@pytest.mark.parametrize("temporal", [0.3, 0.5, 0.8])
def test_shares_after_coupling_are_what_is_drawn(coupling, temporal):
    shares = Shares(1 - temporal, temporal)
    drawn = draw_cuts(shares, 100_000, coupling=coupling, generator=seeded())
    expected = cut_shares(shares, coupling)
    assert [cut.double().mean().item() for cut in drawn] == pytest.approx(list(expected), abs=0.01)


def test_the_lowest_layer_is_never_cut_and_all_others_are_at_certainty():
    edges = draw_edges(Shares(1.0, 1.0), steps=4, layers=3, generator=seeded())
    assert edges == [[OPEN, Edges(0.0, 0.0), Edges(0.0, 0.0)]] * 4


def test_one_layer_has_nothing_to_cut():
    assert draw_edges(Shares(1.0, 1.0), steps=2, layers=1) == [[OPEN], [OPEN]]


def test_each_share_belongs_to_its_edge():
    edges = draw_edges(Shares(spatial=1.0, temporal=0.0), steps=2, layers=2, generator=seeded())
    assert edges == [[OPEN, Edges(spatial=0.0, temporal=1.0)]] * 2


def test_every_layer_and_time_is_drawn_on_its_own():
    edges = draw_edges(Shares(0.5, 0.5), steps=40, layers=11, generator=seeded())
    for gates in (list(zip(*edges, strict=True))[4], edges[7][1:]):
        assert {(edge.spatial, edge.temporal) for edge in gates} > {(0.0, 1.0), (1.0, 0.0)}


def test_equal_generators_draw_equal_edges_and_others_do_not():
    first, again, other = (
        draw_edges(Shares(0.5, 0.5), steps=5, layers=5, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("coupling", ["independent", "never_both", "complementary"])
def test_rescaled_gates_are_one_on_average(coupling):
    shares = Shares(0.4, 0.6)
    edges = draw_edges(shares, steps=20_000, layers=2, coupling=coupling, rescale=True, generator=seeded())
    for name in ("spatial", "temporal"):
        gates = [getattr(step[1], name) for step in edges]
        assert math.fsum(gates) / len(gates) == pytest.approx(1, abs=0.03)


def test_what_is_always_cut_stays_cut_when_rescaled():
    assert draw_edges(Shares(1.0, 1.0), steps=1, layers=2, rescale=True) == [[OPEN, Edges(0.0, 0.0)]]


def test_the_probability_falls_linearly_to_nothing():
    shares = [falling_share(progress, start=0.3, until=0.5) for progress in (0, 0.25, 0.5, 1)]
    assert shares == pytest.approx([0.3, 0.15, 0, 0])


@pytest.mark.parametrize(
    ("spatial", "main", "alpha", "expected"),
    [
        (3.5, 3.5, 0.5, 1.0),
        (2.0, 2.0, 0.5, 0.75),
        (2.0, 3.0, 0.5, 0.8125),
        (2.0, 1.0, 0.5, 0.6875),
        (0.5, 1.0, 0.5, 0.5),
        (0.2, 9.0, 0.5, 0.5),
        (2.0, 1.0, 0.0, 0.75),
        (2.0, 1.0, 1.0, 0.625),
        (4.5, 6.0, 1.0, 1.0),
    ],
)
def test_the_temporal_share_follows_the_losses(spatial, main, alpha, expected):
    assert temporal_share(spatial, main, 3.5, threshold=0.5, alpha=alpha) == pytest.approx(expected)


def test_the_formula_leaves_the_unit_interval_unless_clamped():
    raw = temporal_share(4.5, 6.0, 3.5, threshold=0.5, clamp=False)
    assert raw == pytest.approx(0.5 + 0.5 * 4 / 3 * 4 / 3)


def test_losses_of_nothing_give_the_lowest_share():
    assert temporal_share(0.0, 0.0, 0.0, threshold=0.0) == 0.5


def recorded(pairs: list[tuple[float, float]]) -> LossMonitor:
    monitor = LossMonitor()
    for spatial, main in pairs:
        monitor.record(torch.tensor(spatial), torch.tensor(main))
    return monitor


def test_before_any_loss_is_known_only_time_is_cut():
    assert LossMonitor().shares() == Shares(spatial=0.0, temporal=1.0)


def test_the_monitor_holds_running_means_and_the_mean_loss_at_the_start():
    pairs = [(2.0 + 0.01 * step, 4.0 - 0.03 * step) for step in range(60)]
    spatial, main = pairs[0]
    for here in pairs[1:]:
        spatial, main = 0.98 * spatial + 0.02 * here[0], 0.98 * main + 0.02 * here[1]
    initial = sum(pair[1] for pair in pairs[:50]) / 50
    monitor = recorded(pairs)
    assert monitor.spatial.item() == pytest.approx(spatial, rel=1e-5)
    assert monitor.main.item() == pytest.approx(main, rel=1e-5)
    assert monitor.initial.item() == pytest.approx(initial, rel=1e-5)
    expected = temporal_share(spatial, main, initial, threshold=initial / 5.99)
    assert 0.5 < expected < 1
    assert list(monitor.shares()) == pytest.approx([1 - expected, expected], rel=1e-4)


def test_a_resumed_training_cuts_as_the_one_it_continues():
    monitor, resumed = recorded([(2.0, 4.0), (1.5, 3.0)]), LossMonitor()
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.shares() == monitor.shares() != LossMonitor().shares()


def test_the_monitor_keeps_no_graph():
    monitor = LossMonitor()
    monitor.record(torch.tensor(2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True))
    assert not monitor.main.requires_grad
