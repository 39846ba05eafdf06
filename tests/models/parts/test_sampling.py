"""Scheduled sampling lets go of the true frames as training goes on."""

from __future__ import annotations

import pytest
import torch

from models.parts.sampling import draw_mask, forced_share, reverse_shares


def test_the_share_of_true_frames_falls_linearly_to_none():
    """Per iteration 2e-5 less, of 80 000: none after 50 000, five eighths of the training."""
    at = {k: forced_share(k / 80_000, until=50_000 / 80_000) for k in (0, 25_000, 50_000, 80_000)}
    assert at == {0: 1.0, 25_000: 0.5, 50_000: 0.0, 80_000: 0.0}


def test_reverse_shares_follow_the_published_schedule():
    warm_up = {k: reverse_shares(k / 80_000)[0] for k in (0, 24_999, 30_000, 50_000)}
    assert warm_up[0] == warm_up[24_999] == 0.5
    assert warm_up[30_000] == pytest.approx(1 - 0.5 / 2.718281828)
    assert warm_up[50_000] == 1.0
    ahead = {k: reverse_shares(k / 80_000)[1] for k in (0, 24_999, 37_500, 50_000)}
    assert ahead == {0: 0.5, 24_999: 0.5, 37_500: 0.25, 50_000: 0.0}


def test_masks_follow_their_share_and_their_seed():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return draw_mask(0.3, 2000, 5, generator=generator, device=torch.device("cpu"))

    mask = draw(1)
    assert mask.dtype == torch.bool
    assert mask.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(mask, draw(1))
    assert not torch.equal(mask, draw(2))
    assert not draw_mask(0.0, 9, 9, device=torch.device("cpu")).any()
    assert draw_mask(1.0, 9, 9, device=torch.device("cpu")).all()
