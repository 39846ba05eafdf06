"""Tiles cover the grid, their weights add up, and the cheapest cut that fits is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowcast.methods.networks.tiling import LEAST_CORE, Halo, cheapest, padded, tiles

SHAPES = st.tuples(st.integers(1, 400), st.integers(1, 400))


@given(SHAPES, st.integers(1, 5), st.integers(1, 5), st.integers(0, 40), st.sampled_from([1, 2, 4, 16]))
def test_weights_add_up_to_one_in_every_cell(shape, down, across, reach, multiple):
    halo = Halo(reach, 8)
    counts = tuple(min(count, max(side // 48, 1)) for count, side in zip((down, across), shape, strict=True))
    total = np.zeros(shape, np.float32)
    for tile in tiles(shape, counts, halo, multiple):
        total[tile.rows.kept, tile.columns.kept] += tile.weights
        assert tile.weights.min() >= 0
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(SHAPES, st.integers(1, 5), st.integers(0, 40), st.sampled_from([1, 2, 4, 16]))
def test_what_is_kept_is_farther_from_the_rim_of_a_tile_than_the_network_reaches(
    shape, count, reach, multiple
):
    count = min(count, max(shape[0] // 48, 1))
    for tile in tiles(shape, (count, 1), Halo(reach, 8), multiple):
        rows = tile.rows
        assert rows.start % multiple == 0
        assert rows.start == 0 or rows.kept.start - rows.start >= reach
        assert rows.stop == shape[0] or rows.stop - rows.kept.stop >= reach
        assert rows.inside.start + rows.start == rows.kept.start
        assert rows.inside.stop - rows.inside.start == len(rows.weights)


def test_one_tile_is_the_whole_grid_with_full_weight():
    (tile,) = tiles((37, 50), (1, 1), Halo(20, 8), 4)
    assert (tile.rows.seen, tile.columns.seen) == (slice(0, 37), slice(0, 50))
    assert (tile.weights == 1).all()
    assert tile.weights.shape == (37, 50)


def test_between_two_tiles_weights_pass_smoothly_from_one_to_the_other():
    left, right = tiles((1, 100), (1, 2), Halo(10, 4), 1)
    assert left.columns.kept == slice(0, 54)
    assert right.columns.kept == slice(46, 100)
    fading = left.columns.weights[46:]
    assert (np.diff(fading) < 0).all()
    assert fading[0] == pytest.approx(0.99, abs=0.01)
    np.testing.assert_allclose(fading, right.columns.weights[7::-1], atol=1e-6)
    assert left.columns.seen == slice(0, 64)
    assert right.columns.seen == slice(36, 100)


@given(SHAPES, st.integers(1, 5), st.integers(0, 40), st.sampled_from([1, 2, 4, 16]))
def test_all_tiles_are_of_one_size_as_the_network_pads_them(shape, count, reach, multiple):
    count = min(count, max(shape[0] // 48, 1))
    parts = tiles(shape, (count, 1), Halo(reach, 8), multiple)
    assert len({padded(tile.seen[0], multiple) for tile in parts}) == 1


def test_proportional_work_is_cheapest_in_as_few_tiles_as_fit():
    halo = Halo(12, 8)

    def cut(most):
        return cheapest((300, 400), halo, 4, fits=lambda cells: cells <= most, cost=float)

    assert cut(120_000) == (1, 1)
    assert cut(80_000) == (1, 2), "the shorter sides meet, so there is least to see twice"
    down, across = cut(20_000)
    parts = tiles((300, 400), (down, across), halo, 4)
    assert max((p.rows.stop - p.rows.start) * (p.columns.stop - p.columns.start) for p in parts) <= 20_000
    assert down * across >= 6


def test_quadratic_work_is_cheapest_in_small_tiles_even_if_the_grid_fits():
    down, across = cheapest((320, 320), Halo(8, 8), 4, fits=lambda cells: True, cost=lambda cells: cells**2.0)
    assert down * across > 16


def test_no_cut_fits_where_the_surroundings_alone_are_too_much():
    least = LEAST_CORE + 2 * 100
    fits = {"fits": lambda cells: cells < least**2 / 2, "cost": float}
    assert cheapest((1000, 1000), Halo(92, 8), 4, **fits) is None
    assert cheapest((100, 100), Halo(92, 8), 4, **fits) == (1, 1), "a small grid needs no surroundings"


def test_tiles_count_as_large_as_the_network_pads_them():
    sizes = []
    cheapest((50, 70), Halo(8, 8), 16, fits=lambda cells: sizes.append(cells) or True, cost=float)
    assert sizes[0] == 64 * 80
