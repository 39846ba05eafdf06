"""Fields cut into scales in Fourier space, and an autoregression in time for each scale."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Spectrum = NDArray[np.complex64]
Coefficients = NDArray[np.float64]

#: Octaves of scale from one level of a cascade to the next: 6 levels for 500 cells a side, 8 for 4,000.
OCTAVES_PER_LEVEL = 1.5

#: Standard deviation of a level's Gaussian in units of the way to the next level.
LEVEL_WIDTH = 0.5

#: Largest size of a partial autocorrelation; at 1 an autoregression would no longer be stationary.
LARGEST_PARTIAL = 0.9999

#: Rows of a spectrum handled at a time, to bound memory.
STRIP_ROWS = 64


class Cascade:
    r"""Fields of one grid as sums over levels of scale.

    Level k of a field is its Fourier transform times a weight of the wavenumber alone,

    .. math::
        w_k(r) = g_k(r) / \sum_j g_j(r), \qquad g_k(r) = \exp(-(\ln r - \ln r_k)^2 / 2 s^2),

    with the centres r_k spaced evenly in the logarithm from one wave per grid to one per two cells. The
    weights add up to 1, so the levels of a field add up to the field. Nothing here ever goes back to the grid
    level by level: correlations are sums of products of coefficients (Parseval), and a sum of levels, each
    times a number, is the spectrum times one function of the wavenumber.

    Convention: wavenumbers count waves on the longer side after padding with zeros, and are rounded to whole
    ones. Cells are taken to be square. The mean of a field belongs to level 0, and to no correlation.

    Args:
        fields: Each ``(y, x)``, with 0 where there is nothing; all of one shape.

    References:
        Seed (2003), A Dynamic and Spatial Scaling Approach to Advection Forecasting,
        doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2.
        Pulkkinen et al. (2019), Pysteps, doi:10.5194/gmd-12-4185-2019.
    """

    def __init__(self, fields: Sequence[Array]) -> None:
        rows, columns = fields[0].shape
        self._shape, self._padded = (rows, columns), (_fft_size(rows), _fft_size(columns))
        self._wavenumber = _wavenumbers(self._padded)
        self._weights = level_weights(max(self._padded))
        self._spectra = [self._transformed(field) for field in fields]

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return len(self._weights)

    def _transformed(self, field: Array) -> Spectrum:
        return np.asarray(np.fft.rfft2(field, s=self._padded), dtype=np.complex64)

    def autocorrelations(self) -> Coefficients:
        """Return correlations ``(lag, level)`` of fields 1, 2, ... steps apart, for all lags there are.

        All pairs of one lag count alike. A level without variance is not correlated.
        """
        count, weights = len(self._spectra), self._weights**2
        covariance = {
            pair: weights @ self._shared_power(*pair)
            for pair in combinations_with_replacement(range(count), 2)
        }
        correlations = np.zeros((count - 1, len(weights)))
        for (one, other), shared in covariance.items():
            if one != other:
                scale = np.sqrt(covariance[one, one] * covariance[other, other])
                share = np.divide(shared, scale, out=np.zeros_like(shared), where=scale > 0)
                correlations[other - one - 1] += share / (count - (other - one))
        return correlations

    def recomposed(self, factors: Coefficients) -> Array:
        """Return the sum ``(y, x)`` of all levels of the last fields, each times its factor.

        Args:
            factors: ``(field, level)``; the last of them belong to the last field.
        """
        response = (factors @ self._weights).astype(np.float32)
        spectra = self._spectra[-len(factors) :]
        total = np.zeros_like(spectra[-1])
        for rows in self._strips():
            for by_wavenumber, spectrum in zip(response, spectra, strict=True):
                total[rows] += by_wavenumber[self._wavenumber[rows]] * spectrum[rows]
        field = np.fft.irfft2(total, s=self._padded)
        return np.asarray(field[: self._shape[0], : self._shape[1]], dtype=np.float32)

    def continued(self) -> Iterator[Array]:
        """Yield the fields ``(y, x)`` that follow, step after step without end, of what is remembered.

        Each level goes on by its own autoregression, as long as there are fields, without its noise.
        """
        for factors in iterated(autoregression(self.autocorrelations())):
            yield self.recomposed(factors)

    def _shared_power(self, one: int, other: int) -> Coefficients:
        """Return Re(X Y*) summed by wavenumber; a coefficient stands for its mirror image too."""
        x, y = self._spectra[one], self._spectra[other]
        total = np.zeros(self._weights.shape[1])
        for rows in self._strips():
            shared = x[rows].real * y[rows].real + x[rows].imag * y[rows].imag
            shared[:, 1:-1] *= 2
            total += np.bincount(self._wavenumber[rows].ravel(), shared.ravel(), len(total))
        total[0] = 0  # the means
        return total

    def _strips(self) -> Iterator[slice]:
        return (slice(first, first + STRIP_ROWS) for first in range(0, self._padded[0], STRIP_ROWS))


def level_weights(side: int) -> Coefficients:
    """Return the weights ``(level, wavenumber)`` for a grid of so many cells on its longer side."""
    octaves = max(math.log2(side / 2), OCTAVES_PER_LEVEL)
    centres = np.linspace(0, octaves, 1 + round(octaves / OCTAVES_PER_LEVEL))
    wavenumbers = np.arange(_largest_wavenumber(side) + 1)
    distance = np.log2(np.maximum(wavenumbers, 1)) - centres[:, None]
    gaussian = np.exp(-0.5 * (distance / (LEVEL_WIDTH * centres[1])) ** 2)
    return np.asarray(gaussian / gaussian.sum(0), dtype=np.float64)


def autoregression(correlations: Coefficients) -> Coefficients:
    """Return coefficients ``(order, level)`` of the stationary process of correlations ``(lag, level)``.

    They solve the Yule-Walker equations, by the Durbin-Levinson recursion: a process is stationary just when
    all its partial autocorrelations lie inside (-1, 1), so each is clipped to that on the way.
    """
    coefficients = np.empty((0, correlations.shape[1]))
    for order, correlation in enumerate(correlations):
        known = correlations[:order]
        left = 1 - (coefficients * known).sum(0)
        partial = (correlation - (coefficients * known[::-1]).sum(0)) / np.maximum(left, 1e-9)
        partial = np.clip(partial, -LARGEST_PARTIAL, LARGEST_PARTIAL)
        coefficients = np.vstack([coefficients - partial * coefficients[::-1], partial])
    return coefficients


def iterated(coefficients: Coefficients) -> Iterator[Coefficients]:
    """Yield, step after step, the factors ``(field, level)`` that make the process of its last fields.

    Args:
        coefficients: ``(order, level)``, that of the newest field first. The factors are as many, but that of
            the newest field comes last, as fields do.
    """
    order, levels = coefficients.shape
    past = deque(np.repeat(np.eye(order)[..., None], levels, axis=2), maxlen=order)
    while True:
        terms = zip(coefficients, reversed(past), strict=True)
        past.append(np.sum([coefficient * factors for coefficient, factors in terms], axis=0))
        yield past[-1]


def _largest_wavenumber(side: int) -> int:
    return math.ceil(side * math.sqrt(0.5))


def _wavenumbers(shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Return the wavenumber of each coefficient of a real transform, in waves on the longer side."""
    southward = np.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    eastward = np.fft.rfftfreq(shape[1]).astype(np.float32)
    whole = np.rint(max(shape) * np.sqrt(southward**2 + eastward**2))
    return np.asarray(whole, dtype=np.uint16)


def _fft_size(least: int) -> int:
    """Return the smallest even number without prime factors beyond 5 that is at least ``least``."""
    size = least + least % 2
    while _without_small_factors(size) > 1:
        size += 2
    return size


def _without_small_factors(number: int) -> int:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number
