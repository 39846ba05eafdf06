"""Flow is how far echoes moved, east and south, in cells."""

from __future__ import annotations

import pytest
import torch

from models.scs.optical_flow import has_echo, optical_flow, warp


def cell(east: float, south: float, width: float = 5.0, size: tuple[int, int] = (64, 72)) -> torch.Tensor:
    """A round echo ``(1, 1, y, x)``, its middle ``east`` and ``south`` of the upper left cell."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
    return (0.8 * torch.exp(-((columns - east) ** 2 + (rows - south) ** 2) / (2 * width**2)))[None, None]


def error(east: float, south: float, width: float = 5.0, **options) -> float:
    """Root of the mean squared error of the flow of an echo that moved, in cells, where there is an echo."""
    before, after = cell(30, 34, width), cell(30 + east, 34 + south, width)
    flow = optical_flow(before, after, **options)
    squared = (flow - torch.tensor([east, south]).reshape(1, 2, 1, 1)) ** 2
    return squared.sum(1)[has_echo(before, after)[:, 0]].mean().sqrt().item()


@pytest.mark.parametrize(("east", "south"), [(1, 0), (0, -1), (0.4, 0.3), (3, -2), (-4, 5), (6, 4)])
@pytest.mark.parametrize("width", [3.0, 5.0, 9.0])
def test_the_motion_of_an_echo_is_found(east, south, width):
    assert error(east, south, width) < 0.2


def test_coarse_grids_find_what_one_grid_misses():
    assert error(10, 0) < 1
    assert error(10, 0, levels=1) > 3


def test_nothing_moves_where_nothing_changes():
    frame = torch.rand(1, 1, 20, 20)
    assert optical_flow(frame, frame).abs().max() < 1e-5
    assert optical_flow(0 * frame, 0 * frame).abs().max() == 0


def test_there_is_no_motion_far_from_echoes_and_no_number_is_missing():
    flow = optical_flow(cell(15, 15, 2.0), cell(17, 15, 2.0))
    assert flow.isfinite().all()
    assert flow[..., 45:, :].abs().max() < 0.05


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 31), (30, 50)])
def test_any_grid_will_do(size):
    before, after = cell(10, 10, size=size), cell(11, 10, size=size)
    flow = optical_flow(before, after)
    assert flow.shape == (1, 2, *size)
    assert flow.isfinite().all()


def test_an_odd_grid_finds_the_same_motion():
    before, after = (cell(east, 20.0, 4.0, size=(41, 43)) for east in (20.0, 24.0))
    flow = optical_flow(before, after)[:, :, has_echo(before, after)[0, 0]]
    assert flow[:, 0].mean() == pytest.approx(4, abs=0.1)
    assert flow[:, 1].abs().mean() < 0.1


def test_samples_do_not_see_one_another():
    before = torch.cat([cell(30, 30), cell(20, 40)])
    after = torch.cat([cell(33, 30), cell(20, 38)])
    both = optical_flow(before, after)
    for sample in range(2):
        alone = optical_flow(before[sample : sample + 1], after[sample : sample + 1])
        torch.testing.assert_close(both[sample : sample + 1], alone, rtol=1e-4, atol=1e-4)


def test_half_precision_frames_are_computed_in_single():
    flow = optical_flow(cell(30, 30).bfloat16(), cell(32, 30).bfloat16())
    assert flow.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        mixed = optical_flow(cell(30, 30), cell(32, 30))
    assert torch.equal(mixed, optical_flow(cell(30, 30), cell(32, 30)))
    assert optical_flow(cell(30, 30).double(), cell(32, 30).double()).dtype == torch.float64


def test_warping_reads_where_the_flow_points():
    frame = torch.rand(1, 1, 6, 7)
    flow = torch.zeros(1, 2, 6, 7)
    flow[:, 0], flow[:, 1] = 2, -1
    moved = warp(frame, flow)
    torch.testing.assert_close(moved[..., 1:, :-2], frame[..., :-1, 2:])


def test_an_echo_counts_from_a_tenth_in_either_frame():
    before, after = torch.tensor([0.0, 0.0, 0.1, 0.05]), torch.tensor([0.0, 0.1, 0.0, 0.09])
    assert has_echo(before, after).tolist() == [False, True, True, False]
