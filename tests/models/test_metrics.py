"""Scores against direct counting, windows written out, and the service's own scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from models.metrics import Counts, Moments, mean_image, ssim, ssim_legacy, ssim_of_echoes
from models.parts.losses import Balance, balanced_mae, balanced_mse
from nowcast.scores.tally import Tally

THRESHOLDS = (0.25, 0.5, 0.75)
RATIOS = ("csi", "far", "pod", "bias", "hss", "ets", "cor_bin")


def row(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, 1, -1)


def rain(seed, shape=(2, 3, 1, 24, 20)):
    """Return blocks of rain with noise, forecast and truth, a third dry."""
    generator = torch.Generator().manual_seed(seed)
    *leading, y, x = shape
    coarse = torch.rand(*leading, y // 4, x // 4, generator=generator)
    coarse = coarse.repeat_interleave(4, -2).repeat_interleave(4, -1)
    noise = 0.3 * torch.rand(2, *shape, generator=generator)
    forecast, truth = (coarse + noise - 0.4).clamp(0, 1)
    return forecast, truth


def some(seed, shape=(2, 3, 1, 24, 20), share=0.8):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def test_counts_and_ratios_of_a_case_done_by_hand():
    counts = Counts.of(row(0.6, 0.6, 0.6, 0, 0, 0, 0.1), row(0.5, 0.9, 0, 0.7, 0, 0, 0.1), [0.5]).pooled()
    assert [value.item() for value in (counts.hits, counts.false_alarms, counts.misses)] == [2, 1, 1]
    assert counts.correct_negatives.item() == 3
    assert counts.csi.item() == 2 / 4
    assert counts.far.item() == 1 / 3
    assert counts.pod.item() == 2 / 3
    assert counts.bias.item() == 1
    hss = 2 * (2 * 3 - 1 * 1) / (3 * 4 + 3 * 4)
    assert counts.hss.item() == pytest.approx(hss)
    chance = 3 * 3 / 7
    assert counts.ets.item() == pytest.approx((2 - chance) / (4 - chance))
    assert counts.cor_bin.item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("masked", [False, True])
def test_counts_of_every_frame_and_threshold_equal_direct_counting(masked):
    forecast, truth = rain(1)
    forecast, truth = (8 * forecast).round() / 8, (8 * truth).round() / 8  # many values at a threshold
    valid = some(2) if masked else torch.ones_like(truth, dtype=torch.bool)
    counts = Counts.of(forecast, truth, THRESHOLDS, valid if masked else None)
    for b in range(2):
        for t in range(3):
            for k, threshold in enumerate(THRESHOLDS):
                f, o = forecast[b, t][valid[b, t]] >= threshold, truth[b, t][valid[b, t]] >= threshold
                expected = (f & o).sum(), (f & ~o).sum(), (~f & o).sum(), (~f & ~o).sum()
                got = counts.hits, counts.false_alarms, counts.misses, counts.correct_negatives
                assert [value[b, t, k].item() for value in got] == [int(value) for value in expected]
                assert all(value.dtype == torch.int64 for value in got)
    assert counts.hits.sum() > 100
    assert counts.misses.sum() > 10
    assert counts.false_alarms.sum() > 10


def test_a_value_at_the_threshold_is_an_event_and_one_just_below_is_none():
    at = torch.tensor(0.462426)
    below = torch.nextafter(at, torch.tensor(0.0))
    counts = Counts.of(row(at, at, below, below), row(at, below, at, below), [0.462426])
    got = (counts.hits, counts.false_alarms, counts.misses, counts.correct_negatives)
    assert [value.item() for value in got] == [1, 1, 1, 1]


def test_a_forecast_without_value_is_no_echo():
    counts = Counts.of(row(math.nan, math.nan), row(0.9, 0.0), [0.5])
    got = (counts.hits, counts.false_alarms, counts.misses, counts.correct_negatives)
    assert [value.item() for value in got] == [0, 0, 1, 1]


def test_undefined_ratios_are_nan():
    dry = torch.zeros(1, 1, 1, 4, 4)
    counts = Counts.of(dry, dry, [0.5])
    assert all(getattr(counts, name).isnan().all() for name in RATIOS)
    missed = Counts.of(dry, dry + 0.8, [0.5])
    assert missed.csi.item() == 0
    assert missed.pod.item() == 0
    assert missed.far.isnan()
    assert missed.cor_bin.isnan()


def test_skill_of_counts_beyond_a_billion_does_not_overflow():
    a, b, c, d = 6 * 10**9, 2 * 10**9, 3 * 10**9, 9 * 10**9
    counts = Counts(*(torch.tensor([value]) for value in (a, b, c, d)))
    assert counts.hss.item() == pytest.approx(2 * (a * d - b * c) / ((a + c) * (c + d) + (a + b) * (b + d)))
    assert counts.cor_bin.item() == pytest.approx(a / math.sqrt((a + b) * (a + c)))


def test_pooling_weighs_pixels_and_the_mean_of_images_weighs_frames():
    forecast = torch.zeros(3, 1, 1, 1, 8)
    truth = torch.zeros(3, 1, 1, 1, 8)
    forecast[0, ..., :6] = truth[0, ..., :6] = 0.9  # six hits: CSI 1
    forecast[1, ..., :1] = truth[1, ..., 1:2] = 0.9  # one false alarm, one miss: CSI 0; the third is dry
    counts = Counts.of(forecast, truth, [0.5])
    assert counts.pooled().csi.tolist() == [[6 / 8]]
    by_image = mean_image(counts.csi)
    assert by_image.mean.tolist() == [[0.5]]
    assert by_image.defined.tolist() == [[2]]
    assert mean_image(counts.csi, undefined=0.0).mean.item() == pytest.approx(1 / 3)
    assert mean_image(counts.csi, undefined=0.0).defined.tolist() == [[2]]


def test_mean_over_no_defined_frame_is_nan():
    nothing = mean_image(torch.full((3, 2), math.nan))
    assert nothing.mean.isnan().all()
    assert nothing.defined.tolist() == [0, 0]


def test_sums_of_two_batches_are_those_of_both_together():
    forecast, truth = rain(3, (5, 3, 1, 24, 20))
    for whole, parts in (
        (
            Counts.of(forecast, truth, THRESHOLDS),
            [Counts.of(forecast[s], truth[s], THRESHOLDS) for s in (slice(2), slice(2, 5))],
        ),
        (
            Moments.of(forecast, truth),
            [Moments.of(forecast[s], truth[s]) for s in (slice(2), slice(2, 5))],
        ),
    ):
        together = parts[0].pooled() + parts[1].pooled()
        for name, value in vars(whole.pooled()).items():
            assert torch.allclose(getattr(together, name), value, rtol=1e-12, atol=0), name


def test_binary_correlation_is_that_of_the_masks_and_the_root_of_pod_and_far():
    forecast, truth = rain(4)
    counts = Counts.of(forecast, truth, [0.5])
    identity = (counts.pod * (1 - counts.far)).sqrt()
    assert torch.allclose(counts.cor_bin, identity, rtol=1e-12, atol=0)
    masks = Moments.of((forecast >= 0.5).float(), (truth >= 0.5).float())
    assert torch.allclose(counts.cor_bin[..., 0], masks.cor_real, rtol=1e-12, atol=0)


def test_correlation_without_mean_is_1_of_equal_fields_and_undefined_of_dry_ones():
    forecast, truth = rain(5)
    same = Moments.of(truth, truth)
    assert torch.allclose(same.cor_real, torch.ones(2, 3, dtype=torch.float64))
    product = (forecast.double() * truth).sum((2, 3, 4))
    norms = forecast.double().square().sum((2, 3, 4)) * truth.double().square().sum((2, 3, 4))
    assert torch.allclose(Moments.of(forecast, truth).cor_real, product / norms.sqrt())
    dry = Moments.of(torch.zeros_like(truth), torch.zeros_like(truth)).cor_real
    assert dry.isnan().all()
    filled = mean_image(dry, undefined=0.0)
    assert filled.mean.tolist() == [0, 0, 0]
    assert filled.defined.tolist() == [0, 0, 0]


def test_pearson_takes_off_the_mean():
    forecast, truth = rain(6)
    got = Moments.of(forecast, truth).pearson_r
    for b in range(2):
        for t in range(3):
            r = np.corrcoef(forecast[b, t].flatten().double(), truth[b, t].flatten().double())[0, 1]
            assert got[b, t].item() == pytest.approx(r, rel=1e-9)
    assert Moments.of(forecast, torch.full_like(truth, 0.3)).pearson_r.isnan().all()
    assert Moments.of(torch.full_like(truth, 0.3), truth).pearson_r.isnan().all()


def test_squared_error_under_its_three_names():
    forecast, truth = rain(7)
    squared = (forecast.double() - truth.double()).square()
    pooled = Moments.of(forecast, truth).pooled()
    assert pooled.mse_px.mean().item() == pytest.approx(squared.mean().item(), rel=1e-12)
    assert pooled.mse_frame.mean().item() == pytest.approx(squared.sum((2, 3, 4)).mean().item(), rel=1e-12)
    assert pooled.mse_seq.item() == pytest.approx(squared.sum((1, 2, 3, 4)).mean().item(), rel=1e-12)
    assert torch.allclose(pooled.mse_frame, pooled.mse_px * 24 * 20)
    assert pooled.mse_seq.item() == pytest.approx(3 * pooled.mse_frame.mean().item())
    by_lead = (forecast.double() - truth.double()).abs().mean((0, 2, 3, 4))
    assert torch.allclose(pooled.mae_px, by_lead)


def test_scores_are_of_clipped_values():
    moments = Moments.of(row(1.5, -0.5, 0.5), row(1.0, 0.0, 1.2))
    assert moments.squared_error.item() == pytest.approx(0.25)


def test_signal_to_noise_is_averaged_over_frames():
    truth = torch.zeros(2, 1, 1, 4, 4)
    forecast = truth.clone()
    forecast[0] += 0.1
    forecast[1] += 0.01
    moments = Moments.of(forecast, truth)
    assert moments.psnr.flatten().tolist() == pytest.approx([20, 40], rel=1e-6)
    assert mean_image(moments.psnr).mean.item() == pytest.approx(30, rel=1e-6)
    assert Moments.of(truth, truth).psnr.tolist() == [[math.inf], [math.inf]]


def test_balanced_errors_are_sums_over_a_frame():
    forecast, truth = rain(8)
    valid = some(9)
    pooled = Moments.of(forecast, truth).pooled()
    cells = 24 * 20
    assert pooled.b_mse_frame.mean().item() == pytest.approx(
        cells * balanced_mse(forecast, truth).item(), rel=1e-5
    )
    assert pooled.b_mae_frame.mean().item() == pytest.approx(
        cells * balanced_mae(forecast, truth).item(), rel=1e-5
    )
    assert pooled.b_mse_frame.sum() > 1.5 * pooled.mse_frame.sum()
    masked = Moments.of(forecast, truth, valid).pooled()
    assert masked.b_mse_frame.mean().item() == pytest.approx(
        balanced_mse(forecast, truth, valid).item() * valid.sum().item() / 6, rel=1e-5
    )
    even = Moments.of(forecast, truth, balance=Balance(rates_mm_h=(1.0,), weights=(1.0, 1.0))).pooled()
    assert torch.equal(even.b_mse_frame, even.mse_frame)
    dry = Moments.of(forecast, torch.zeros_like(truth)).pooled()
    assert torch.equal(dry.b_mse_frame, dry.mse_frame)


def test_pixels_not_observed_do_not_count():
    forecast, truth = rain(10)
    valid = some(11)
    other = forecast.where(valid, 1 - forecast), truth.where(valid, 0.9)
    for name, value in vars(Moments.of(forecast, truth, valid)).items():
        assert torch.equal(value, getattr(Moments.of(*other, valid), name)), name
    assert torch.equal(Moments.of(forecast, truth, valid).pixels, valid.sum((2, 3, 4)).double())
    assert torch.equal(Counts.of(forecast, truth, [0.5], valid).hits, Counts.of(*other, [0.5], valid).hits)


def test_scores_agree_with_those_of_the_service():
    forecast, truth = rain(12, (1, 1, 1, 40, 40))
    valid = some(13, (1, 1, 1, 40, 40))
    in_dbz = [(70 * field[0, 0, 0] - 10).numpy() for field in (forecast, truth.where(valid, math.nan))]
    thresholds_dbz = (12.3, 25.2, 40.1)
    tally = Tally(thresholds_dbz)
    tally.add(*in_dbz)
    counts = Counts.of(forecast, truth, [(value + 10) / 70 for value in thresholds_dbz], valid).pooled()
    for k, threshold in enumerate(thresholds_dbz):
        theirs = tally.contingency(threshold)
        assert theirs.hits > 20
        for name in RATIOS:
            assert getattr(counts, name)[0, k].item() == pytest.approx(getattr(theirs, name)), name
    moments = Moments.of(forecast, truth, valid).pooled()
    assert 70 * moments.mae_px.item() == pytest.approx(tally.mae(), rel=1e-5)
    assert 70**2 * moments.mse_px.item() == pytest.approx(tally.mse(), rel=1e-5)
    assert moments.cor_real.item() == pytest.approx(tally.cor_real(), rel=1e-5)
    assert moments.pearson_r.item() == pytest.approx(tally.pearson_r(), rel=1e-5)


def similarity_by_windows(f, o, weight, *, data_range, sample):
    """Return SSIM at every window ``(y - w + 1, x - w + 1)``, each computed on its own."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    out = np.empty(np.array(f.shape) - np.array(weight.shape) + 1)
    windows = zip(
        np.ndindex(out.shape),
        sliding_window_view(f, weight.shape).reshape(-1, weight.size),
        sliding_window_view(o, weight.shape).reshape(-1, weight.size),
        strict=True,
    )
    w = weight.ravel()
    for place, a, b in windows:
        mean_a, mean_b = w @ a, w @ b
        variance_a, variance_b = sample * (w @ (a - mean_a) ** 2), sample * (w @ (b - mean_b) ** 2)
        covariance = sample * (w @ ((a - mean_a) * (b - mean_b)))
        out[place] = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
            (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
        )
    return out


def gaussian_window():
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    return weight / weight.sum()


def as_arrays(field, b, t):
    return field[b, t, 0].double().numpy()


def test_similarity_equals_windows_written_out():
    forecast, truth = rain(14)
    got, legacy = ssim(forecast, truth), ssim_legacy(forecast, truth)
    for b, t in np.ndindex(2, 3):
        f, o = as_arrays(forecast, b, t), as_arrays(truth, b, t)
        ours = similarity_by_windows(f, o, gaussian_window(), data_range=1.0, sample=1.0)
        theirs = similarity_by_windows(f, o, np.full((7, 7), 1 / 49), data_range=2.0, sample=49 / 48)
        assert got[b, t].item() == pytest.approx(ours.mean(), rel=1e-9)
        assert legacy[b, t].item() == pytest.approx(theirs.mean(), rel=1e-9)
    assert legacy.mean() > got.mean() + 0.01


def test_similarity_of_equal_fields_is_1_and_of_even_ones_that_of_their_means():
    _, truth = rain(15)
    ones = torch.ones(2, 3, dtype=torch.float64)
    assert torch.allclose(ssim(truth, truth), ones)
    assert torch.allclose(ssim_legacy(truth, truth), ones)
    a, b = torch.full_like(truth, 0.25), torch.full_like(truth, 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert torch.allclose(ssim(a, b), expected * ones)
    wider = (2 * 0.25 * 0.75 + 4e-4) / (0.25**2 + 0.75**2 + 4e-4)
    assert torch.allclose(ssim_legacy(a, b), wider * ones)


def test_similarity_is_of_clipped_values():
    forecast, truth = rain(16)
    outside = torch.where(forecast == 0, -0.5, forecast)
    assert torch.equal(ssim(outside, truth), ssim(forecast, truth))


def test_similarity_of_echoes_leaves_out_windows_without_any():
    forecast, truth = torch.zeros(1, 2, 1, 30, 34), torch.zeros(1, 2, 1, 30, 34)
    drizzle = 14.9 / 70  # 4.9 dBZ
    truth[:, 0, :, 3:6, 4:9] = 0.6
    forecast[:, 0, :, 4:7, 4:9] = 0.5
    forecast[:, 0, :, 15, 20] = 15.1 / 70
    truth[:, :, :, 28, 30] = drizzle
    f, o = as_arrays(forecast, 0, 0), as_arrays(truth, 0, 0)
    similarity = similarity_by_windows(f, o, gaussian_window(), data_range=1.0, sample=1.0)
    rows, columns = np.nonzero(np.maximum(f, o) >= 15 / 70)
    near = [
        similarity[y, x]
        for y, x in np.ndindex(similarity.shape)  # the window's middle is 5 cells further on
        if np.any((abs(rows - y - 5) <= 5) & (abs(columns - x - 5) <= 5))
    ]
    got = ssim_of_echoes(forecast, truth)[0]
    assert 0 < len(near) < similarity.size
    assert got[0].item() == pytest.approx(np.mean(near), rel=1e-9)
    assert got[1].isnan()
    assert got[0] < ssim(forecast, truth)[0, 0]


@pytest.mark.parametrize(("score", "width"), [(ssim, 11), (ssim_of_echoes, 11), (ssim_legacy, 7)])
def test_similarity_is_over_windows_observed_throughout(score, width):
    forecast, truth = rain(17)
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[..., :, 18] = False  # windows up to column 17 remain
    wild = truth.where(valid, 1.0)
    assert torch.allclose(score(forecast, wild, valid), score(forecast[..., :18], truth[..., :18]))
    assert score(forecast, truth, torch.zeros_like(valid)).isnan().all()


@pytest.mark.parametrize(("score", "width"), [(ssim, 11), (ssim_of_echoes, 11), (ssim_legacy, 7)])
def test_a_grid_smaller_than_the_window_is_refused(score, width):
    small = torch.zeros(1, 1, 1, 30, width - 1)
    with pytest.raises(ValueError, match=f"at least {width} cells"):
        score(small, small)
