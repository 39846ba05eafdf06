"""Scores of normalised tensors, for training curves and experiments, beside the service's own scores.

Those (``nowcast.scores.tally``) take one dBZ field after the other on the CPU, and networks must not import
them; these take whole batches on the network's device, by frame as well as pooled, and know the
conventions of the networks' papers. A score of one name is one number in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from models.parts.losses import HIGHEST_DBZ, HKO7, LOWEST_DBZ, Balance

#: Width [cells] and standard deviation [cells] of the Gaussian window of SSIM, and its two constants.
#: Source: Wang et al. (2004), Image Quality Assessment, doi:10.1109/TIP.2003.819861, section III.
SSIM_WIDTH, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03

#: Width [cells] of the uniform window of scikit-image's SSIM, and the data range it takes floats to have.
LEGACY_WIDTH, LEGACY_RANGE = 7, 2.0

#: Reflectivity [dBZ] from which on a pixel is an echo, for SSIM where there is any.
ECHO_DBZ = 5.0


@dataclass(frozen=True)
class Sums:
    """Sums over the pixels of each frame ``(b, t, ...)``, which may be added up before any ratio is taken."""

    def pooled(self) -> Self:
        """Return the sums over the batch ``(t, ...)``: scores for each lead."""
        return type(self)(*(value.sum(0) for value in self._values()))

    def __add__(self, other: Self) -> Self:
        """Return the sums of both samples, pooled ones for batches of different sizes."""
        return type(self)(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Counts(Sums):
    """Pixels by what was forecast and what came, at ``k`` thresholds; a ratio of 0 to 0 is NaN.

    Attributes:
        hits: int64 ``(b, t, k)``.
        false_alarms: int64, of the same shape.
        misses: int64, of the same shape.
        correct_negatives: int64, of the same shape.
    """

    hits: Tensor
    false_alarms: Tensor
    misses: Tensor
    correct_negatives: Tensor

    @classmethod
    def of(
        cls, forecast: Tensor, truth: Tensor, thresholds: Sequence[float], valid: Tensor | None = None
    ) -> Self:
        """Return the counts of each frame, all thresholds in one pass.

        Every pixel falls into one cell of the joint histogram of forecast and truth, whose bins are
        bounded by the thresholds; counts are sums over its quadrants.

        Args:
            forecast: ``(b, t, 1, y, x)``, normalised reflectivity; NaN counts as no echo.
            truth: ``(b, t, 1, y, x)``.
            thresholds: Ascending, normalised: an event is a value at or above one.
            valid: Boolean, of the same shape: where the truth is observed. Everywhere if left out.
        """
        frames, bins = truth.shape[:2], len(thresholds) + 1
        bounds = truth.new_tensor(thresholds)
        forecast = forecast.nan_to_num(nan=0.0).to(truth.dtype)
        row, column = (torch.bucketize(x.contiguous(), bounds, right=True) for x in (forecast, truth))
        joint = row * bins + column
        number = torch.arange(frames.numel(), device=truth.device).view(*frames, 1, 1, 1)
        joint = joint + bins * bins * number
        if valid is not None:
            joint = joint[valid]
        histogram = torch.bincount(joint.flatten(), minlength=bins * bins * frames.numel())
        at_least = histogram.view(*frames, bins, bins).flip(-2, -1).cumsum(-2).cumsum(-1).flip(-2, -1)
        hits = at_least.diagonal(dim1=-2, dim2=-1)[..., 1:]
        forecast_events, truth_events = at_least[..., 1:, 0], at_least[..., 0, 1:]
        return cls(
            hits,
            forecast_events - hits,
            truth_events - hits,
            at_least[..., 0, :1] - forecast_events - truth_events + hits,
        )

    @property
    def csi(self) -> Tensor:
        """Critical success index a / (a + b + c), 0 to 1."""
        return _ratio(self.hits, self.hits + self.false_alarms + self.misses)

    @property
    def far(self) -> Tensor:
        """False alarm ratio b / (a + b), 0 to 1, smaller is better."""
        return _ratio(self.false_alarms, self.hits + self.false_alarms)

    @property
    def pod(self) -> Tensor:
        """Probability of detection a / (a + c), 0 to 1."""
        return _ratio(self.hits, self.hits + self.misses)

    @property
    def bias(self) -> Tensor:
        """Frequency bias (a + b) / (a + c); 1 where as much is forecast as is observed."""
        return _ratio(self.hits + self.false_alarms, self.hits + self.misses)

    @property
    def hss(self) -> Tensor:
        """Heidke skill score 2(ad - bc) / [(a + c)(c + d) + (a + b)(b + d)], -1 to 1; 0 is chance."""
        a, b, c, d = (value.double() for value in self._values())
        return 2 * (a * d - b * c) / ((a + c) * (c + d) + (a + b) * (b + d))

    @property
    def ets(self) -> Tensor:
        """Equitable threat score, also Gilbert skill score, HSS / (2 - HSS): CSI beyond chance, -1/3 to 1."""
        return self.hss / (2 - self.hss)

    @property
    def cor_bin(self) -> Tensor:
        """Correlation without mean of the two event masks, sqrt(POD (1 - FAR)), 0 to 1.

        It is what the text on the semi-coupled structure describes, though not what its table has.
        """
        events = (self.hits + self.false_alarms).double() * (self.hits + self.misses).double()
        return self.hits / events.sqrt()


@dataclass(frozen=True)
class Moments(Sums):
    """Sums that errors and correlations are made of, float64 ``(b, t)``, of values clipped to [0, 1].

    Attributes:
        frames: 1 for each frame.
        pixels: Pixels compared.
        absolute_error: Sum of abs(forecast - truth).
        squared_error: Sum of its square.
        balanced_absolute_error: Sum of weight abs(forecast - truth), weighted by true rain rate.
        balanced_squared_error: Sum of weight (forecast - truth)^2.
        forecast_sum: Sum of the forecast.
        truth_sum: Sum of the truth.
        forecast_square: Sum of the forecast's square.
        truth_square: Sum of the truth's square.
        product: Sum of forecast times truth.
    """

    frames: Tensor
    pixels: Tensor
    absolute_error: Tensor
    squared_error: Tensor
    balanced_absolute_error: Tensor
    balanced_squared_error: Tensor
    forecast_sum: Tensor
    truth_sum: Tensor
    forecast_square: Tensor
    truth_square: Tensor
    product: Tensor

    @classmethod
    def of(
        cls, forecast: Tensor, truth: Tensor, valid: Tensor | None = None, *, balance: Balance = HKO7
    ) -> Self:
        """Return the sums of each frame.

        Args:
            forecast: ``(b, t, 1, y, x)``, normalised reflectivity, clipped to [0, 1] here.
            truth: ``(b, t, 1, y, x)``, likewise.
            valid: Boolean, of the same shape: where the truth is observed. Everywhere if left out.
            balance: The weights of the balanced errors.
        """
        weight = balance.weight(truth)
        f, o = forecast.clamp(0, 1).double(), truth.clamp(0, 1).double()
        observed = torch.ones_like(o) if valid is None else valid.double()
        error = (f - o) * observed
        f, o = f * observed, o * observed
        sums = (
            observed,
            error.abs(),
            error**2,
            weight * error.abs(),
            weight * error**2,
            f,
            o,
            f**2,
            o**2,
            f * o,
        )
        return cls(observed.new_ones(truth.shape[:2]), *(value.sum((2, 3, 4)) for value in sums))

    @property
    def mae_px(self) -> Tensor:
        """Mean absolute error per pixel."""
        return self.absolute_error / self.pixels

    @property
    def mse_px(self) -> Tensor:
        """Mean squared error per pixel, as in the table of the semi-coupled structure."""
        return self.squared_error / self.pixels

    @property
    def mse_frame(self) -> Tensor:
        """Squared error summed over a frame, as in the tables of E3D-LSTM and PhyDNet: mse_px times cells."""
        return self.squared_error / self.frames

    @property
    def mse_seq(self) -> Tensor:
        """Squared error summed over a sequence: the sum of :attr:`mse_frame` over leads, which are last."""
        return self.mse_frame.sum(-1)

    @property
    def b_mse_frame(self) -> Tensor:
        """Balanced squared error summed over a frame: the B-MSE of HKO-7."""
        return self.balanced_squared_error / self.frames

    @property
    def b_mae_frame(self) -> Tensor:
        """Balanced absolute error summed over a frame: the B-MAE of HKO-7."""
        return self.balanced_absolute_error / self.frames

    @property
    def psnr(self) -> Tensor:
        """Peak signal-to-noise ratio -10 log10(mse_px) [dB]; to be taken by frame, then averaged.

        A perfect frame's is infinite. The published code of E3D-LSTM rounds both images to 256 levels first.
        """
        return -10 * self.mse_px.log10()

    @property
    def cor_real(self) -> Tensor:
        """Correlation without mean, sum(F O) / sqrt(sum(F^2) sum(O^2)), 0 to 1; NaN if a field is all 0.

        Source: Shi et al. (2015), Convolutional LSTM Network, section 5.2, https://arxiv.org/abs/1506.04214.
        """
        return self.product / (self.forecast_square * self.truth_square).sqrt()

    @property
    def pearson_r(self) -> Tensor:
        """Pearson's correlation, -1 to 1; NaN if a field is the same everywhere."""
        n = self.pixels
        forecast_variance = n * self.forecast_square - self.forecast_sum**2
        truth_variance = n * self.truth_square - self.truth_sum**2
        rounding = 1e-13 * n  # sums of floats do not take a constant field's variance to exactly 0
        varied = (forecast_variance > rounding * self.forecast_square) & (
            truth_variance > rounding * self.truth_square
        )
        covariance = n * self.product - self.forecast_sum * self.truth_sum
        r = covariance / (forecast_variance * truth_variance).clamp(min=0).sqrt()
        return r.where(varied, torch.nan)


class ImageMean(NamedTuple):
    """Mean of a score over frames.

    Attributes:
        mean: ``(t, ...)``; NaN where no frame had the score.
        defined: int64 ``(t, ...)``: how many frames had it.
    """

    mean: Tensor
    defined: Tensor


def mean_image(score: Tensor, *, undefined: float | None = None) -> ImageMean:
    """Return the mean over the batch of a score of each frame ``(b, t, ...)``, for each lead.

    Pooled scores are those to compare networks by; this is how some papers average.

    Args:
        score: NaN where it is undefined.
        undefined: What counts in place of an undefined score; such frames are left out if this is. Papers
            that add a small number to the denominator have 0.
    """
    defined = ~score.isnan()
    if undefined is not None:
        score = score.where(defined, undefined)
    return ImageMean(score.nanmean(0), defined.sum(0))


def ssim(forecast: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Return the structural similarity of each frame ``(b, t)``, at most 1.

    With means, variances and covariance under a Gaussian window, :math:`C_i = K_i^2` for a data range of 1,

    .. math::
        \frac{(2 \mu_f \mu_o + C_1)(2 \sigma_{fo} + C_2)}
             {(\mu_f^2 + \mu_o^2 + C_1)(\sigma_f^2 + \sigma_o^2 + C_2)},

    averaged over the windows that lie within the frame.

    Convention: the window sums to 1 and variances are those of a population. Where both fields are dry it
    is 1, so a frame with little rain is similar to most others: see :func:`ssim_of_echoes`.

    Args:
        forecast: ``(b, t, 1, y, x)``, clipped to [0, 1] here.
        truth: ``(b, t, 1, y, x)``, likewise.
        valid: Boolean, of the same shape: a window with a pixel that is not is left out. NaN if all are.

    Raises:
        ValueError: If the grid is smaller than the window.

    References:
        Wang et al. (2004), Image Quality Assessment: From Error Visibility to Structural Similarity,
        doi:10.1109/TIP.2003.819861.
    """
    return _mean_where(_similarity(forecast, truth, _gaussian()), _whole(truth, valid, SSIM_WIDTH))


def ssim_of_echoes(forecast: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return :func:`ssim` over the windows that hold an echo, forecast or true; NaN for a dry frame."""
    threshold = (ECHO_DBZ - LOWEST_DBZ) / (HIGHEST_DBZ - LOWEST_DBZ)
    similarity = _similarity(forecast, truth, _gaussian())
    echo = torch.maximum(forecast, truth) >= threshold
    touched = functional.max_pool2d(echo.float().flatten(0, 1), SSIM_WIDTH, stride=1) > 0
    return _mean_where(similarity, touched.view_as(similarity) & _whole(truth, valid, SSIM_WIDTH))


def ssim_legacy(forecast: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return what scikit-image's defaults make of float images, for comparison with published tables.

    The window is uniform, 7 cells wide, the covariance that of a sample; the data range is taken to be that
    of the type, -1 to 1, so constants are four times as large as for [0, 1] and values are higher.
    Arguments and errors are those of :func:`ssim`.
    """
    window = torch.full((LEGACY_WIDTH,), 1 / LEGACY_WIDTH, dtype=torch.float64)
    count = LEGACY_WIDTH**2
    similarity = _similarity(forecast, truth, window, data_range=LEGACY_RANGE, sample=count / (count - 1))
    return _mean_where(similarity, _whole(truth, valid, LEGACY_WIDTH))


def _gaussian() -> Tensor:
    offset = torch.arange(SSIM_WIDTH, dtype=torch.float64) - SSIM_WIDTH // 2
    return torch.softmax(-(offset**2) / (2 * SSIM_SIGMA**2), dim=0)


def _similarity(
    forecast: Tensor, truth: Tensor, window: Tensor, *, data_range: float = 1.0, sample: float = 1.0
) -> Tensor:
    """Return the similarity at every window within the frame ``(b, t, 1, y - w + 1, x - w + 1)``.

    Args:
        forecast: ``(b, t, 1, y, x)``.
        truth: ``(b, t, 1, y, x)``.
        window: ``(w,)``, sums to 1; the window is its outer product with itself.
        data_range: Largest difference of two values.
        sample: Factor from the variance of a population to the one wanted.
    """
    if min(truth.shape[-2:]) < len(window):
        raise ValueError(f"expected frames of at least {len(window)} cells, got {tuple(truth.shape[-2:])}")
    f, o = forecast.clamp(0, 1).double(), truth.clamp(0, 1).double()
    planes = torch.stack([f, o, f * f, o * o, f * o])
    window = window.to(planes.device)
    smooth = functional.conv2d(planes.view(-1, 1, *planes.shape[-2:]), window.view(1, 1, -1, 1))
    smooth = functional.conv2d(smooth, window.view(1, 1, 1, -1))
    mean_f, mean_o, ff, oo, fo = smooth.view(*planes.shape[:-2], *smooth.shape[-2:]).unbind(0)
    variances = sample * (ff - mean_f**2 + oo - mean_o**2)
    covariance = sample * (fo - mean_f * mean_o)
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    luminance = (2 * mean_f * mean_o + c1) / (mean_f**2 + mean_o**2 + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def _whole(truth: Tensor, valid: Tensor | None, width: int) -> Tensor:
    """Return which windows are observed throughout ``(b, t, 1, y - w + 1, x - w + 1)``."""
    missing = torch.zeros_like(truth) if valid is None else (~valid).to(truth.dtype)
    touched = functional.max_pool2d(missing.flatten(0, 1), width, stride=1) > 0
    return ~touched.view(*truth.shape[:3], *touched.shape[-2:])


def _mean_where(values: Tensor, keep: Tensor) -> Tensor:
    """Return the mean of each frame ``(b, t)`` over what is kept; NaN if nothing is."""
    return (values * keep).sum((2, 3, 4)) / keep.sum((2, 3, 4))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator.double() / denominator.double()
