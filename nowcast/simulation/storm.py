"""Radar that does not exist: storms of any length from a seed, for demonstrations, tests and training.

A storm is two Gaussian fields in Fourier space, rain bands and convective cells. With every step each wave
drifts with the wind and forgets a little of itself, short waves sooner than long ones, as observed rain does.
What a few radars would see of it becomes a :class:`~nowcast.frame.frame.RawFrame`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.simulation.odim_writer import write_odim
from nowcast.simulation.radars import Network
from nowcast.simulation.waves import Plane, WaveNumbers, Waves

Array = NDArray[np.float32]

#: What every simulated frame says of where it comes from.
SOURCE = "simulated radar"

#: Speeds [km/h] and directions [degrees from north, towards which] the wind is drawn from: westerlies.
WIND_KM_H, WIND_TOWARDS = (35.0, 65.0), (20.0, 110.0)

#: Cells move this much faster than bands, and this much [degrees] to their right.
CELL_SPEED, CELL_TURN = 1.05, 6.0

#: Values of the bands' and the cells' field [standard deviations] above which it rains: drawn for each
#: storm, so that a tenth to a quarter of the grid is wet and storms are more or less convective.
BAND_THRESHOLD, CELL_THRESHOLD = (0.8, 1.2), (0.85, 1.35)


def demonstration_grid() -> Grid:
    """Return the default grid: 480 x 480 cells of 1 km about 52 N, 5 E."""
    return Grid.from_crs(
        "+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=m",
        nx=480,
        ny=480,
        x0=-239_500.0,
        y0=239_500.0,
        dx=1000.0,
        dy=1000.0,
    )


class Storm:
    r"""A storm over a grid and the radars that watch it; the same arguments give the same frames.

    With ``s`` the coefficient of a wave of wavelength :math:`\lambda` and wave vector ``k``, one step of
    :math:`\Delta t` is

    .. math::
        s' = e^{-\Delta t / \tau(\lambda)} e^{-i k \cdot u} s + \sqrt{1 - e^{-2 \Delta t / \tau}} \, w

    with ``u`` the wind, ``w`` white noise and :math:`\tau` the lifetime: first-order autoregression in the
    moving frame, whose variance stays 1 for ever. A fixed smooth map from the grid to the plane of the waves
    bends the wind in space without wearing the field away.

    Frames are cheap in order, one step each; going back starts over.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        grid: Grid | None = None,
        step_minutes: int = 5,
        start: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    ) -> None:
        """Make the storm whose frame ``k`` is at ``start`` (UTC) + ``k`` steps."""
        self.seed = seed
        self.grid = grid or demonstration_grid()
        self.step_minutes = step_minutes
        self.start = start
        random = np.random.default_rng([seed, 0])
        cell_km = math.sqrt(math.prod(self.grid.cell_km))
        towards = math.radians(random.uniform(*WIND_TOWARDS))
        cells_per_step = random.uniform(*WIND_KM_H) * step_minutes / 60 / cell_km
        bands_along = towards + math.radians(random.uniform(-70, 70))
        self._plane = Plane(self.grid, random)
        waves = WaveNumbers(self._plane.shape, cell_km)
        self._bands = Waves(waves, waves.bands(bands_along), _vector(towards, cells_per_step), step_minutes)
        self._cells = Waves(
            waves,
            waves.cells(),
            _vector(towards + math.radians(CELL_TURN), CELL_SPEED * cells_per_step),
            step_minutes,
        )
        self._network = Network(self.grid, random)
        self._thresholds = random.uniform(*BAND_THRESHOLD), random.uniform(*CELL_THRESHOLD)
        self._at = -1

    @property
    def motion(self) -> Array:
        """The bands' true motion ``(2, y, x)`` [cells per step; rows southward, columns eastward]."""
        return self._plane.velocity(self._bands.drift)

    def frame(self, number: int) -> RawFrame:
        """Return frame ``number`` (0 is at the start), as the radars see it."""
        if number < 0:
            raise ValueError(f"frames are counted from 0, not {number}")
        if number < self._at:
            self._at = -1
        while self._at < number:
            self._at += 1
            for kind, waves in enumerate((self._bands, self._cells)):
                waves.step(np.random.default_rng([self.seed, 1, self._at, kind]), first=self._at == 0)
        bands, cells = (self._plane.sample(waves.field()) for waves in (self._bands, self._cells))
        return RawFrame(
            values=self._network.observe(
                _reflectivity(bands, cells, *self._thresholds), np.random.default_rng([self.seed, 2, number])
            ),
            quantity=Quantity.DBZH,
            time=self.start + number * timedelta(minutes=self.step_minutes),
            grid=self.grid,
            interval_minutes=float(self.step_minutes),
            source=SOURCE,
            attributes={"simulation_seed": self.seed},
        )

    def frames(self, count: int) -> Iterator[RawFrame]:
        """Yield the first ``count`` frames."""
        for number in range(count):
            yield self.frame(number)


def simulate_archive(
    directory: Path,
    *,
    frames: int,
    start: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    step_minutes: int = 5,
    seed: int = 1,
    grid: Grid | None = None,
) -> Iterator[Path]:
    """Write a storm as one ODIM_H5 file per frame and yield each path once its file is there.

    Raises:
        StorageError: If the disk refuses.
    """
    storm = Storm(seed=seed, grid=grid, step_minutes=step_minutes, start=start)
    for frame in storm.frames(frames):
        path = directory / f"simulated_{frame.time:%Y%m%dT%H%M%SZ}.h5"
        write_odim(path, frame)
        yield path


def _reflectivity(bands: Array, cells: Array, band_threshold: float, cell_threshold: float) -> Array:
    """Return true reflectivity [dBZ] ``(y, x)`` of two standard normal fields; -inf where it does not rain.

    Bands rain beyond a threshold and saturate towards 42 dBZ; cells grow steeply around them, towards 60.
    """
    beyond = np.maximum(bands - band_threshold, 0)
    steady = np.where(beyond > 0, 6 - 36 * np.expm1(-1.1 * beyond), -np.inf)
    support = np.clip(bands - 0.3, 0, 1.6)
    convective = 8 + 15 * (cells - cell_threshold + 0.8 * support)
    convective = np.where(convective > 50, 50 + 10 * np.tanh((convective - 50) / 10), convective)
    convective[(support == 0) | (convective < 10)] = -np.inf
    strongest: Array = np.maximum(steady, convective)
    return strongest


def _vector(towards: float, cells: float) -> tuple[float, float]:
    """Return rows southward and columns eastward of a displacement [cells] towards a direction [radians]."""
    return -math.cos(towards) * cells, math.sin(towards) * cells
