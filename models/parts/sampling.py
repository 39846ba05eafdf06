"""Scheduled sampling: how often a network in training sees the true frame instead of its own forecast."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def forced_share(progress: float, *, until: float = 0.5) -> float:
    """Return the probability of a true frame in the forecast phase: 1 at the start, falling linearly to 0.

    The reference code of the PredRNN family takes 2e-5 off per iteration, so 0 is reached after 50 000 of its
    80 000; here ``until`` is the fraction of the training at which it is.

    References:
        Bengio et al. (2015), Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks,
        https://arxiv.org/abs/1506.03099.

    Example:
        >>> forced_share(0.0), forced_share(0.25), forced_share(0.5), forced_share(1.0)
        (1.0, 0.5, 0.0, 0.0)
    """
    return max(0.0, 1.0 - progress / until)


def reverse_shares(progress: float) -> tuple[float, float]:
    """Return the probabilities of a true frame in warm-up and in forecast phase, reverse scheduled sampling.

    In the warm-up, where truth is always at hand, the network first lives half on its own forecasts and then
    ever less: 0.5 up to 5/16 of the training, 1 - 0.5 exp(-(i - 25000) / 5000) up to 10/16 with i of 80 000
    iterations, then 1. In the forecast phase: 0.5, then falling linearly to 0 over the same stretch.

    References:
        Wang et al. (2021), PredRNN: A Recurrent Neural Network for Spatiotemporal Predictive Learning,
        https://arxiv.org/abs/2103.09504.

    Example:
        >>> reverse_shares(0.0), reverse_shares(1.0)
        ((0.5, 0.5), (1.0, 0.0))
    """
    iteration = progress * 80_000
    if iteration < 25_000:
        return 0.5, 0.5
    if iteration < 50_000:
        past = iteration - 25_000
        return 1 - 0.5 * math.exp(-past / 5_000), 0.5 - 0.5 * past / 25_000
    return 1.0, 0.0


def draw_mask(
    share: float, batch: int, steps: int, *, generator: torch.Generator | None = None, device: torch.device
) -> Tensor:
    """Return a boolean mask ``(batch, steps)``, each element true with probability ``share``.

    It is drawn on the CPU, so that a seed gives the same mask on every device.
    """
    return (torch.rand(batch, steps, generator=generator) < share).to(device)
