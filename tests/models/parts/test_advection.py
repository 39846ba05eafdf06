"""Warps move echo where they say and by how much; composition and penalties agree with closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.parts.advection import (
    BilinearWarp,
    GaussianWarp,
    compose,
    divergence,
    divergence_penalty,
    gradient_penalty,
    magnitude_penalty,
)


def uniform(u: float, v: float, rows: int, columns: int) -> Tensor:
    return torch.tensor([u, v], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, rows, columns)


def coordinates(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Column and row of each cell."""
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    return column, row


def blob(size: int, width: float) -> Tensor:
    column, row = coordinates(size, size)
    centre = size / 2
    return torch.exp(-((column - centre) ** 2 + (row - centre) ** 2) / (2 * width**2))[None, None]


def spread(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the column, weighted by echo."""
    column, _ = coordinates(*frame.shape[-2:])
    mass = frame[0, 0] / frame.sum()
    mean = (mass * column).sum()
    return mean, (mass * (column - mean) ** 2).sum()


def test_whole_cell_motion_shifts_exactly_to_the_east_and_south():
    frame = torch.rand(1, 2, 9, 12, dtype=torch.float64)
    moved = BilinearWarp()(frame, uniform(2, 1, 9, 12))
    torch.testing.assert_close(moved[..., 1:, 2:], frame[..., :-1, :-2], atol=1e-14, rtol=0)
    torch.testing.assert_close(moved[..., 0, :], torch.zeros(1, 2, 12).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(moved[..., :2], torch.zeros(1, 2, 9, 2).double(), atol=1e-14, rtol=0)


def test_half_a_cell_of_motion_averages_two_cells():
    frame = torch.rand(1, 1, 7, 11, dtype=torch.float64)
    moved = BilinearWarp()(frame, uniform(0.5, 0, 7, 11))
    expected = (frame[..., 1:] + frame[..., :-1]) / 2
    torch.testing.assert_close(moved[..., 1:], expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("warp", [BilinearWarp(), BilinearWarp("border")])
def test_no_motion_is_persistence(warp):
    frame = torch.rand(2, 1, 6, 5, dtype=torch.float64)
    moved = warp(frame, torch.zeros(2, 2, 6, 5, dtype=torch.float64))
    torch.testing.assert_close(moved, frame, atol=1e-14, rtol=0)


def test_every_cell_follows_its_own_motion():
    frame = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    flow = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    flow[0, :, 3, 4] = torch.tensor([-1.0, 2.0])
    moved = BilinearWarp()(frame, flow)
    assert moved[0, 0, 3, 4].item() == pytest.approx(frame[0, 0, 1, 5].item(), abs=1e-14)
    moved[0, 0, 3, 4] = frame[0, 0, 3, 4]
    torch.testing.assert_close(moved, frame, atol=1e-14, rtol=0)


def test_beyond_the_border_the_nearest_value_goes_on():
    frame = torch.arange(5, dtype=torch.float64).expand(1, 1, 4, 5) + 1
    assert BilinearWarp("border")(frame, uniform(-9, 0, 4, 5)).unique().tolist() == [5.0]
    assert BilinearWarp()(frame, uniform(-9, 0, 4, 5)).abs().max() == 0


def test_a_grid_of_one_column_has_no_unit_of_length():
    with pytest.raises(ValueError, match="at least two rows and two columns, got 3 and 1"):
        BilinearWarp()(torch.rand(1, 1, 3, 1), torch.zeros(1, 2, 3, 1))


@pytest.mark.parametrize("motion", [(0.0, 0.0), (1.5, -2.25), (3.0, 2.0)])
@pytest.mark.parametrize("std", [1.0, 1.5])
def test_diffusion_keeps_the_mass_moves_the_centre_and_adds_its_variance(std, motion):
    before = blob(64, 3.0)
    after = GaussianWarp(std, window=int(4 * std))(before, uniform(*motion, 64, 64))
    assert after.sum().item() == pytest.approx(before.sum().item(), rel=1e-3)
    (mean, variance), (was, variance_was) = spread(after), spread(before)
    assert (mean - was).item() == pytest.approx(motion[0], abs=1e-3)
    assert (variance - variance_was).item() == pytest.approx(std**2, rel=0.01)


@pytest.mark.parametrize(
    ("std", "shift", "added"),
    [(0.25, 0.0, 0.0007), (0.25, 0.5, 0.25), (1.0, 0.0, 0.9999), (1.0, 0.5, 0.9997)],
)
def test_a_narrow_kernel_is_hardly_a_diffusion(std, shift, added):
    before = blob(64, 3.0)
    after = GaussianWarp(std, window=4)(before, uniform(shift, 0, 64, 64))
    assert (spread(after)[1] - spread(before)[1]).item() == pytest.approx(added, abs=6e-5)


def test_the_gaussian_average_is_that_of_its_definition():
    frame = torch.rand(1, 1, 8, 9, dtype=torch.float64)
    warp = GaussianWarp(std=0.8, window=2)
    moved = warp(frame, uniform(0.3, -1.2, 8, 9))
    row, column = 4, 5
    expected, total = 0.0, 0.0
    # The nearest cell to the departure point (4 + 1.2, 5 - 0.3) is (5, 5).
    for r in range(3, 8):
        for c in range(3, 8):
            weight = torch.exp(torch.tensor(-((r - 5.2) ** 2 + (c - 4.7) ** 2) / (2 * 0.8**2))).item()
            total += weight
            expected += weight * frame[0, 0, r, c].item()
    assert moved[0, 0, row, column].item() == pytest.approx(expected / total, rel=1e-6)


def test_no_echo_comes_from_far_outside():
    frame = torch.ones(1, 1, 6, 7, dtype=torch.float64)
    for warp in (BilinearWarp(), GaussianWarp()):
        for motion in ((100.0, 0.0), (0.0, -100.0), (-1e6, 1e6)):
            assert warp(frame, uniform(*motion, 6, 7)).abs().max() == 0


@pytest.mark.parametrize("warp", [BilinearWarp(), BilinearWarp("border"), GaussianWarp(0.7, 1)])
def test_gradients_of_frame_and_motion_are_right(warp):
    torch.manual_seed(1)
    frame = torch.rand(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    # Away from whole and half cells, where a bilinear map or a rounded window has a kink.
    flow = (0.1 + 0.3 * torch.rand(2, 2, 4, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(warp, (frame, flow))


def test_coordinates_are_made_once_a_grid_and_are_no_weights():
    warp, frame = BilinearWarp(), torch.rand(1, 1, 6, 5)
    kept = warp.centres(frame)
    assert warp.centres(torch.rand(3, 2, 6, 5)).columns is kept.columns
    assert warp.centres(torch.rand(1, 1, 6, 9)).columns.shape == (1, 9)
    assert warp.centres(frame.double()).columns.dtype == torch.float64
    assert warp.centres(torch.rand(1, 1, 5, 6)).rows.shape == (5, 1)
    assert warp.centres(frame.half()).rows.dtype == torch.float32
    assert warp.state_dict() == {}


def test_coordinates_made_in_inference_serve_training():
    frame, flow = torch.rand(1, 1, 6, 5), torch.full((1, 2, 6, 5), 0.3)
    for warp in (BilinearWarp(), GaussianWarp()):
        with torch.inference_mode():
            warp(frame, flow)
        assert not warp.centres(frame).columns.is_inference()
        moving = flow.clone().requires_grad_()
        warp(frame, moving).sum().backward()
        assert moving.grad.abs().sum() > 0


def test_half_precision_frames_are_moved_with_full_precision():
    frame, flow = torch.rand(1, 1, 4, 3000), torch.zeros(1, 2, 4, 3000)
    for warp in (BilinearWarp(), GaussianWarp(0.2, 1)):
        moved = warp(frame.half(), flow.half())
        assert moved.dtype == torch.float16
        torch.testing.assert_close(moved.float(), warp(frame, flow), atol=2e-3, rtol=0)


def test_uniform_motions_add_up():
    far = BilinearWarp("border")
    total = compose(uniform(0.5, -1.0, 8, 8), uniform(1.0, 2.0, 8, 8), far)
    torch.testing.assert_close(total, uniform(1.5, 1.0, 8, 8), atol=1e-14, rtol=0)


def test_one_warp_along_the_composed_motion_is_two_warps_in_turn():
    """Frames and motions linear in the coordinates are interpolated exactly, so nothing is blurred."""
    column, row = coordinates(20, 24)
    frame = (3 * column - 2 * row)[None, None]
    first = torch.stack([0.05 * column - 0.02 * row + 0.3, 0.04 * row - 0.2])[None]
    second = torch.stack([-0.03 * row + 0.4, 0.06 * column - 0.5])[None]
    warp = BilinearWarp()
    in_turn = warp(warp(frame, first), second)
    at_once = warp(frame, compose(second, first, BilinearWarp("border")))
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(at_once[inner], in_turn[inner], atol=1e-12, rtol=0)
    other_order = warp(frame, compose(first, second, BilinearWarp("border")))
    assert (other_order[inner] - in_turn[inner]).abs().max() > 0.05


def test_rotation_has_no_divergence_and_expansion_has_two():
    column, row = coordinates(6, 7)
    assert divergence(torch.stack([-row, column])).abs().max() == 0
    assert torch.equal(divergence(torch.stack([column, row])), torch.full((5, 6), 2.0).double())
    assert torch.equal(divergence(torch.stack([column, torch.zeros_like(row)])), torch.ones(5, 6).double())
    shear = torch.stack([row, torch.zeros_like(row)])
    assert divergence(shear).abs().max() == 0


def test_penalties_are_means_over_the_grid():
    column, row = coordinates(6, 7)
    flow = torch.stack([2 * column - row, 0.5 * row])[None]
    assert divergence_penalty(flow).item() == pytest.approx(2.5**2)
    assert gradient_penalty(flow).item() == pytest.approx(2**2 + 1**2 + 0.5**2)
    assert magnitude_penalty(uniform(3, -4, 6, 7)).item() == pytest.approx(25.0)


def test_a_single_row_has_no_differences_to_penalise():
    flow = torch.ones(1, 2, 1, 5)
    assert divergence_penalty(flow) == 0
    assert gradient_penalty(flow) == 0
