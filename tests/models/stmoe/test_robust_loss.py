"""The robust loss has the values, bounds and limits of its closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from models.stmoe.robust_loss import robust_loss

INF = math.inf
POINTS = torch.tensor([0.5, 1.0, 2.0, 10.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (2.0, [0.125, 0.5, 2.0, 50.0]),
        (1.0, [0.118034, 0.414214, 1.236068, 9.049876]),
        (0.0, [0.117783, 0.405465, 1.098612, 3.931826]),
        (-2.0, [0.117647, 0.4, 1.0, 1.923077]),
        (-INF, [0.117503, 0.393469, 0.864665, 1.0]),
    ],
)
def test_values_are_those_of_the_closed_forms(alpha: float, expected: list[float]) -> None:
    torch.testing.assert_close(
        robust_loss(POINTS, alpha, 1.0), torch.tensor(expected, dtype=torch.float64), atol=5e-7, rtol=0
    )


def test_scale_divides_the_residual() -> None:
    three = torch.tensor(3.0, dtype=torch.float64)
    assert robust_loss(three, 1.0, 2.0).item() == pytest.approx(math.sqrt(13) / 2 - 1, abs=1e-12)
    assert robust_loss(three, 1.0, 2.0).item() == pytest.approx(0.802776, abs=5e-7)
    assert robust_loss(three, -2.0, 2.0).item() == pytest.approx(0.72, abs=1e-12)


@pytest.mark.parametrize("alpha", [3.0, 2.0, 1.0, 0.5, 0.0, -2.0, -10.0, -INF])
def test_loss_is_even_zero_at_zero_and_quadratic_near_it(alpha: float) -> None:
    x = torch.linspace(0, 3, 31, dtype=torch.float64)
    assert torch.equal(robust_loss(-x, alpha, 0.7), robust_loss(x, alpha, 0.7))
    assert robust_loss(torch.zeros(1), alpha, 0.7).item() == 0
    small = torch.tensor(0.01, dtype=torch.float64)
    assert robust_loss(small, alpha, 1.0).item() == pytest.approx(0.5e-4, rel=1e-3)


@pytest.mark.parametrize("alpha", [2.0, 1.5, 1.0, 0.0, -2.0, -INF])
def test_slope_is_bounded(alpha: float) -> None:
    scale = 0.3
    x = torch.linspace(-5, 5, 1001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(robust_loss(x, alpha, scale).sum(), x)
    assert (slope.abs() <= x.abs() / scale**2 + 1e-9).all()
    if alpha <= 1:
        assert slope.abs().max() <= 1 / scale + 1e-9


@pytest.mark.parametrize("alpha", [-0.5, -2.0, -8.0])
def test_loss_with_negative_alpha_saturates(alpha: float) -> None:
    bound = (alpha - 2) / alpha
    far = robust_loss(torch.tensor([1.0, 1e3, 1e8], dtype=torch.float64), alpha, 1.0)
    assert (far <= bound).all()
    assert far[-1].item() == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("special", [0.0, 2.0])
@pytest.mark.parametrize("step", [1e-6, -1e-6])
def test_loss_is_continuous_in_alpha(special: float, step: float) -> None:
    at = robust_loss(POINTS, special, 1.0)
    torch.testing.assert_close(robust_loss(POINTS, special + step, 1.0), at, rtol=2e-5, atol=0)
    torch.testing.assert_close(
        robust_loss(POINTS.float(), special + step, 1.0), at.float(), rtol=2e-5, atol=0
    )


def test_tiny_alpha_keeps_its_digits_in_single_precision() -> None:
    assert robust_loss(torch.tensor(2.0), 1e-6, 1.0).item() == pytest.approx(1.09861237, abs=2e-7)


def test_alpha_may_differ_from_element_to_element() -> None:
    alphas = torch.tensor([2.0, 1.0, 0.0, -2.0, -INF], dtype=torch.float64)
    x = torch.full_like(alphas, 2.0)
    expected = torch.tensor([2.0, 1.236068, 1.098612, 1.0, 0.864665], dtype=torch.float64)
    torch.testing.assert_close(robust_loss(x, alphas, 1.0), expected, atol=5e-7, rtol=0)


def test_gradients_are_finite_in_every_branch() -> None:
    alphas = torch.tensor([2.0, 1.0, 0.0, -2.0, -INF, 1e-9, 2 - 1e-9], requires_grad=True)
    x = torch.tensor([0.0, 1e4, 1e4, 1e4, 1e4, 3.0, 3.0], requires_grad=True)
    scale = torch.tensor(0.05, requires_grad=True)
    for gradient in torch.autograd.grad(robust_loss(x, alphas, scale).sum(), (x, alphas, scale)):
        assert gradient.isfinite().all()


def test_gradients_are_those_of_finite_differences() -> None:
    x = torch.tensor([-1.3, 0.4, 2.0, -0.2], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([1.0, 0.3, -1.5, 1.9], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(robust_loss, (x, alpha, scale))


def test_half_precision_is_computed_in_single_precision() -> None:
    assert robust_loss(torch.tensor(300.0, dtype=torch.float16), 2.0, 0.5).item() == 180_000.0
