"""Footprints: what small runs take tells what large ones will."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from nowcast.methods.networks.cost import ALLOCATOR_FACTOR, SCRATCH_BYTES, Footprint, measured

SHAPES = [(16, 16), (16, 32), (16, 48)]


def bytes_of(footprint: Footprint, cells: int) -> float:
    return (footprint.memory(cells) - SCRATCH_BYTES) / ALLOCATOR_FACTOR


def test_the_peak_is_of_what_is_alive_together():
    def run(rows, columns):
        x = torch.ones(rows, columns)
        y = x + 1  # two alive
        del x
        z = y * 2  # two alive
        del y
        return z.view(-1)[1:] + z.view(-1)[:-1]  # views take nothing

    footprint = measured(run, SHAPES)
    assert bytes_of(footprint, 1_000_000) == pytest.approx(8e6, rel=0.01)


def test_what_is_held_until_the_end_adds_up():
    footprint = measured(lambda rows, columns: [torch.ones(rows, columns) for _ in range(7)], SHAPES)
    assert bytes_of(footprint, 10_000) == pytest.approx(7 * 4 * 10_000)


def test_work_is_counted_in_operations():
    weight = torch.ones(8, 4, 3, 3)
    footprint = measured(
        lambda rows, columns: functional.conv2d(torch.ones(1, 4, rows, columns), weight, padding=1), SHAPES
    )
    assert footprint.work(1000) == pytest.approx(2 * 8 * 4 * 9 * 1000)
    assert footprint.is_proportional(10**7)


def test_attention_to_every_cell_is_seen_in_the_work_and_takes_memory_in_proportion():
    def run(rows, columns):
        x = torch.rand(1, 1, rows * columns, 8)
        return functional.scaled_dot_product_attention(x, x, x)

    footprint = measured(run, SHAPES)
    assert footprint.work(10_000) == pytest.approx(2 * 2 * 8 * 10_000**2, rel=1e-6)
    assert not footprint.is_proportional(10_000)
    assert bytes_of(footprint, 10**6) < 200 * 10**6


def test_a_matrix_over_all_pairs_of_cells_is_seen_in_the_memory():
    def run(rows, columns):
        x = torch.rand(rows * columns, 1)
        return x @ x.T

    footprint = measured(run, SHAPES)
    assert bytes_of(footprint, 10_000) == pytest.approx(4 * 10_000**2, rel=0.01)


def test_what_small_grids_hide_behind_weights_is_seen():
    def run(rows, columns):
        weights = torch.ones(1_000_000) * 2  # more than all the rest here
        del weights
        x = torch.ones(rows, columns)
        return [x + n for n in range(9)]

    footprint = measured(run, SHAPES)
    assert bytes_of(footprint, 256) == pytest.approx(8e6)
    assert bytes_of(footprint, 10**8) == pytest.approx(10 * 4 * 10**8)


def test_steps_in_size_do_not_bend_the_line_downwards():
    footprint = Footprint([100, 400, 900], np.array([[1000.0], [5000.0], [9000.0]]), [0, 0, 0])
    assert bytes_of(footprint, 90_000) == pytest.approx(900_000, rel=0.02)


def test_where_other_sizes_take_other_operators_peaks_are_compared():
    def run(rows, columns):
        x = torch.ones(rows, columns)
        return x + 1 if columns == 16 else x + 1 + 1

    assert bytes_of(measured(run, SHAPES), 10**6) == pytest.approx(12e6, rel=0.3)


def test_measuring_does_not_load_the_compiler():
    program = (
        "import sys, torch; from nowcast.methods.networks.cost import measured; "
        "measured(lambda y, x: torch.ones(y, x), [(1, 1), (1, 2), (1, 3)]); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
