"""Losses that any network may be trained with: errors balanced by rain rate and by lead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.forecaster import masked_mean

#: Reflectivity [dBZ] that the normalised values 0 and 1 stand for.
LOWEST_DBZ, HIGHEST_DBZ = -10.0, 60.0


@dataclass(frozen=True)
class Balance:
    r"""How much a pixel counts, by its true rain rate.

    With :math:`Z = a R^b` and reflectivity normalised, a rain rate R [mm/h] is the value

    .. math::
        x = (10 \log_{10} a + 10\, b \log_{10} R + 10) / 70.

    The default is that of HKO-7, where 0.5 mm/h is a threshold that leaves the weight as it is. Every score
    made with a balance is to be given with its ``a`` and ``b``: Marshall and Palmer's 200 and 1.6 put
    10 mm/h at 39.0 dBZ, Hong Kong's at 33.3.

    Attributes:
        rates_mm_h: Rain rates, ascending, from which on the next weight holds.
        weights: One more than ``rates_mm_h``, the first below all of them.
        a: Factor of the Z-R relation, Z in mm^6 m^-3.
        b: Exponent of the Z-R relation.

    Raises:
        ValueError: If the rates do not ascend from above 0, or the number of weights does not fit.

    References:
        Shi et al. (2017), Deep Learning for Precipitation Nowcasting: A Benchmark and A New Model,
        https://arxiv.org/abs/1706.03458. Authors' code: ``sxjscience/HKO-7``.

    Example:
        >>> [round(threshold, 4) for threshold in Balance().thresholds]
        [0.3283, 0.4624, 0.5511, 0.6182, 0.7245]
    """

    rates_mm_h: tuple[float, ...] = (0.5, 2.0, 5.0, 10.0, 30.0)
    weights: tuple[float, ...] = (1.0, 1.0, 2.0, 5.0, 10.0, 30.0)
    a: float = 58.53
    b: float = 1.56

    def __post_init__(self) -> None:
        """Check the rates and weights."""
        steps = zip((0.0, *self.rates_mm_h), self.rates_mm_h, strict=False)
        if not all(below < rate < math.inf for below, rate in steps):
            raise ValueError(f"expected rain rates that ascend from above 0 mm/h, got {self.rates_mm_h}")
        if len(self.weights) != len(self.rates_mm_h) + 1:
            raise ValueError(
                f"expected {len(self.rates_mm_h) + 1} weights for {len(self.rates_mm_h)} rain rates, "
                f"got {len(self.weights)}"
            )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The rain rates as normalised reflectivity."""
        dbz = [10 * math.log10(self.a) + 10 * self.b * math.log10(rate) for rate in self.rates_mm_h]
        return tuple((value - LOWEST_DBZ) / (HIGHEST_DBZ - LOWEST_DBZ) for value in dbz)

    def weight(self, truth: Tensor) -> Tensor:
        """Return the weight of every pixel, of the shape of ``truth``: normalised reflectivity."""
        thresholds = truth.new_tensor(self.thresholds)
        return truth.new_tensor(self.weights)[torch.bucketize(truth.contiguous(), thresholds, right=True)]


#: The balance HKO-7 is scored with.
HKO7 = Balance()


def balanced_mse(
    forecast: Tensor,
    truth: Tensor,
    valid: Tensor | None = None,
    *,
    balance: Balance = HKO7,
    by_lead: Tensor | None = None,
) -> Tensor:
    """Return the mean over the valid pixels of weight (forecast - truth)^2; 0 if none is valid.

    Convention: the mean is per pixel, so that it takes the place of the plain mean squared error at the same
    learning rate. HKO-7 sums over a frame instead: this times the pixels of a frame.

    Args:
        forecast: ``(b, t, 1, y, x)``, normalised reflectivity as the network gives it, not clamped.
        truth: ``(b, t, 1, y, x)``; it alone decides the weights.
        valid: Boolean, of the same shape: where the truth is observed. Everywhere if left out.
        balance: The weights by rain rate.
        by_lead: ``(t,)``, factors of the leads.

    References:
        Shi et al. (2017), Deep Learning for Precipitation Nowcasting: A Benchmark and A New Model,
        https://arxiv.org/abs/1706.03458.
    """
    forecast, truth = _precise(forecast), _precise(truth)
    return _balanced_mean((forecast - truth) ** 2, truth, valid, balance, by_lead)


def balanced_mae(
    forecast: Tensor,
    truth: Tensor,
    valid: Tensor | None = None,
    *,
    balance: Balance = HKO7,
    by_lead: Tensor | None = None,
) -> Tensor:
    """Return the mean over the valid pixels of weight abs(forecast - truth); see :func:`balanced_mse`."""
    forecast, truth = _precise(forecast), _precise(truth)
    return _balanced_mean((forecast - truth).abs(), truth, valid, balance, by_lead)


def _balanced_mean(
    error: Tensor, truth: Tensor, valid: Tensor | None, balance: Balance, by_lead: Tensor | None
) -> Tensor:
    weighted = error * balance.weight(truth)
    if by_lead is not None:
        weighted = weighted * by_lead.to(error)[:, None, None, None]
    return masked_mean(weighted, valid)


def _precise(x: Tensor) -> Tensor:
    """Return ``x`` in float32 or better: a mean over a batch needs more digits than a half has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
