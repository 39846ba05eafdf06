"""Barron's general robust loss: one family from the squared error to losses that ignore outliers."""

from __future__ import annotations

import torch
from torch import Tensor


def robust_loss(residual: Tensor, alpha: float | Tensor, scale: float | Tensor) -> Tensor:
    r"""Return the robust loss of every element.

    With :math:`z = (x / c)^2`,

    .. math::
        \rho(x; \alpha, c) = \begin{cases}
            z / 2 & \alpha = 2 \\
            \log(z / 2 + 1) & \alpha = 0 \\
            1 - \exp(-z / 2) & \alpha = -\infty \\
            \frac{|\alpha - 2|}{\alpha} \left[ \left( \frac{z}{|\alpha - 2|} + 1 \right)^{\alpha / 2}
            - 1 \right] & \text{otherwise}
        \end{cases}

    Near zero all are z / 2. For alpha <= 1 the slope never exceeds 1 / c, and for alpha < 0 the loss itself
    stays below (alpha - 2) / alpha, so that a few wrong values cannot dominate a batch.

    Convention: closer to 0 or 2 than the number format resolves, alpha counts as 0 or 2, so that no branch
    divides by zero; the gradient with respect to ``alpha`` is 0 there. Half-precision residuals are
    converted to float32.

    Args:
        residual: x, any shape.
        alpha: How heavy the tails may be, one for all or broadcast: 2 squared error, 1 smoothed absolute
            error, 0 Cauchy, -2 Geman-McClure, ``-inf`` Welsch. ``+inf`` is not supported.
        scale: c > 0, the residual where the tail begins, in the residual's unit.

    References:
        Barron (2019), A General and Adaptive Robust Loss Function, eq. 8, https://arxiv.org/abs/1701.03077.

    Example:
        >>> robust_loss(torch.tensor([0.0, 1.0, 10.0]), 1.0, 1.0)
        tensor([0.0000, 0.4142, 9.0499])
    """
    x = residual.to(torch.promote_types(residual.dtype, torch.float32))
    alpha = torch.as_tensor(alpha, dtype=x.dtype, device=x.device)
    resolution = torch.finfo(x.dtype).eps
    half = 0.5 * (x / scale) ** 2
    is_zero, is_two = alpha.abs() < resolution, (alpha - 2).abs() < resolution
    # A branch that is not taken still gets a gradient of zero times its slope: it must be finite.
    ordinary = torch.where(is_zero | is_two | alpha.isneginf(), 1.0, alpha)
    distance = (ordinary - 2).abs()
    loss = distance / ordinary * torch.expm1(0.5 * ordinary * torch.log1p(2 * half / distance))
    loss = torch.where(is_zero, torch.log1p(half), loss)
    loss = torch.where(is_two, half, loss)
    return torch.where(alpha.isneginf(), -torch.expm1(-half), loss)
