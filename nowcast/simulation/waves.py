"""Gaussian fields of rain, kept as waves that drift and renew themselves."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nowcast.frame.grid import Grid

Array = NDArray[np.float32]

#: Slope of the bands' power spectrum below the outer scale [km]. Longer waves have less and less power, so
#: that the wet share of the grid stays about the same.
SPECTRAL_SLOPE, OUTER_SCALE_KM = -3.5, 220.0

#: How many times longer than wide bands are.
BAND_ELONGATION = 2.0

#: Width [km] that sets the size of convective cells.
CELL_WIDTH_KM = 46.0

#: Lifetime [minutes] of a wave of 1 km, and the power of the wavelength it grows with: 17 min at 2 km, 97
#: min at 20 km. Chosen so that extrapolation loses skill as fast as on real composites, between Alpine
#: bands and showers.
LIFETIME_MINUTES, LIFETIME_POWER = 10.0, 0.76

#: Amplitude of the bends in the wind, as a share of the grid: speed varies by about a third from place to
#: place.
WIND_BEND = 0.045


class WaveNumbers:
    """The waves of a periodic plane of cells, and the spectra of the two fields over them."""

    def __init__(self, shape: tuple[int, int], cell_km: float) -> None:
        self.shape = shape
        self.rows = np.fft.fftfreq(shape[0])[:, None]
        self.columns = np.fft.rfftfreq(shape[1])[None, :]
        self.per_km = np.hypot(self.rows, self.columns) / cell_km
        self.per_km[0, 0] = np.inf  # the mean: no wave, and no share in any spectrum
        self.cell_km = cell_km

    def bands(self, direction: float) -> Array:
        """Return the amplitudes of rain bands along a direction [radians from north]."""
        along = (-self.rows * math.cos(direction) + self.columns * math.sin(direction)) / self.cell_km
        across = (self.rows * math.sin(direction) + self.columns * math.cos(direction)) / self.cell_km
        stretch = math.sqrt(BAND_ELONGATION)
        amplitude = (np.hypot(along * stretch, across / stretch) + 1 / OUTER_SCALE_KM) ** (SPECTRAL_SLOPE / 2)
        long_waves = 1 / np.sqrt(1 + (1.5 * OUTER_SCALE_KM * self.per_km) ** -4)
        return self._of_unit_variance(amplitude * long_waves)

    def cells(self) -> Array:
        """Return the amplitudes of convective cells."""
        size = CELL_WIDTH_KM * np.where(np.isfinite(self.per_km), self.per_km, 0.0)
        return self._of_unit_variance(size**1.5 * np.exp(-size))

    def lifetime_minutes(self) -> NDArray[np.float64]:
        """Return how long each wave lives."""
        wavelength_km: NDArray[np.float64] = np.maximum(1 / self.per_km, 1e-9)
        return LIFETIME_MINUTES * wavelength_km**LIFETIME_POWER

    def _of_unit_variance(self, amplitude: NDArray[np.float64]) -> Array:
        amplitude[0, 0] = 0.0
        times = np.where((self.columns > 0) & (self.columns < 0.5), 2, 1)  # a half plane stands for the whole
        variance = float((times * amplitude**2).sum()) / math.prod(self.shape)
        return (amplitude / math.sqrt(variance)).astype(np.float32)


class Waves:
    """One Gaussian field of mean 0 and variance 1 that drifts and renews itself."""

    def __init__(
        self, waves: WaveNumbers, amplitude: Array, drift: tuple[float, float], step_minutes: float
    ) -> None:
        memory = np.exp(-step_minutes / waves.lifetime_minutes())
        phase = np.exp(-2j * np.pi * (waves.rows * drift[0] + waves.columns * drift[1]))
        self.drift = drift
        self._shape = waves.shape
        self._amplitude = amplitude
        self._memory = (memory * phase).astype(np.complex64)
        self._renewal = np.sqrt(1 - memory**2).astype(np.float32)
        self._state: NDArray[np.complexfloating] = np.zeros(amplitude.shape, dtype=np.complex64)

    def step(self, random: np.random.Generator, *, first: bool) -> None:
        """Go one step on; the first one makes the field."""
        white = np.fft.rfft2(random.standard_normal(self._shape, dtype=np.float32))
        self._state = white if first else self._memory * self._state + self._renewal * white

    def field(self) -> Array:
        """Return the field ``(y, x)`` of the plane, mean 0 and variance 1."""
        return np.fft.irfft2(self._state * self._amplitude, s=self._shape).astype(np.float32, copy=False)


class Plane:
    """The periodic plane the waves live on, larger than the grid, and where the grid's cells look into it."""

    def __init__(self, grid: Grid, random: np.random.Generator) -> None:
        self.shape = _smooth_size(grid.ny * 1.15 + 8), _smooth_size(grid.nx * 1.15 + 8)
        y, x = np.linspace(0, 1, grid.ny)[:, None], np.linspace(0, 1, grid.nx)[None, :]
        phases = random.uniform(0, 2 * np.pi, 4)

        def bend(
            along: NDArray[np.float64], across: NDArray[np.float64], first: float, second: float
        ) -> Array:
            waves = np.sin(1.8 * np.pi * across + first) + 0.6 * np.sin(1.4 * np.pi * along + second)
            return np.asarray(WIND_BEND * waves, dtype=np.float32)

        rows = np.arange(grid.ny)[:, None] + grid.ny * bend(y, x, phases[0], phases[1])
        columns = np.arange(grid.nx)[None, :] + grid.nx * bend(x, y, phases[2], phases[3])
        self._jacobian = [*np.gradient(rows), *np.gradient(columns)]
        row, column = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
        down, right = (rows - row).astype(np.float32), (columns - column).astype(np.float32)
        self._corners = [
            (
                ((row + i) % self.shape[0] * self.shape[1] + (column + j) % self.shape[1]).astype(np.int32),
                (down if i else 1 - down) * (right if j else 1 - right),
            )
            for i in (0, 1)
            for j in (0, 1)
        ]

    def sample(self, field: Array) -> Array:
        """Return a field of the plane on the grid ``(y, x)``, interpolated between four cells."""
        flat = field.ravel()
        sampled = np.zeros(self._corners[0][0].shape, dtype=np.float32)
        for index, weight in self._corners:
            sampled += flat[index] * weight
        return sampled

    def velocity(self, drift: tuple[float, float]) -> Array:
        """Return a drift of the plane as motion on the grid ``(2, y, x)``: the inverse Jacobian times it."""
        row_down, row_right, column_down, column_right = self._jacobian
        determinant = row_down * column_right - row_right * column_down
        southward = (column_right * drift[0] - row_right * drift[1]) / determinant
        eastward = (row_down * drift[1] - column_down * drift[0]) / determinant
        return np.stack([southward, eastward]).astype(np.float32)


def _smooth_size(least: float) -> int:
    """Return the next even number without prime factors above 5, which Fourier transforms like."""
    size = 2 * math.ceil(least / 2)
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2
