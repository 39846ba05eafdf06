"""The radars that watch a simulated storm: what they reach, and what gets lost on the way."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nowcast.frame.grid import Grid

Array = NDArray[np.float32]
Distances = NDArray[np.floating]

#: Lowest and highest reflectivity [dBZ] recorded, and the step between.
LOWEST_DBZ, HIGHEST_DBZ, STEP_DBZ = -31.5, 60.0, 0.5

#: Range [km] of a radar, and distance [km] between neighbours.
RANGE_KM, SPACING_KM = 165.0, 220.0

#: Weakest reflectivity [dBZ] a radar detects at 1 km; 20 log10(r) more at r km.
SENSITIVITY_DBZ = -34.0

#: A hill stands this far [km] from most radars; what is behind it loses this much [dB] or is out of sight.
HILL_KM, HILL_LOSS_DB = 45.0, 9.0

#: Standard deviation [dB] of a single measurement.
NOISE_DB = 0.8


class Network:
    """Radars in rows and columns over a grid, each cell seen by the one that detects most there."""

    def __init__(self, grid: Grid, random: np.random.Generator) -> None:
        height_km, width_km = grid.cell_km
        y = height_km * np.arange(grid.ny, dtype=np.float64)[:, None]
        x = width_km * np.arange(grid.nx, dtype=np.float64)[None, :]
        weakest = np.full(grid.shape, np.inf, dtype=np.float32)  # true reflectivity just detected
        loss_db = np.zeros(grid.shape, dtype=np.float32)
        for south in _sites(grid.ny * height_km):
            for east in _sites(grid.nx * width_km):
                range_km, loss = _view(
                    y - south - random.uniform(-20, 20), x - east - random.uniform(-20, 20), random
                )
                detected = SENSITIVITY_DBZ + 20 * np.log10(range_km) + loss
                better = detected < weakest
                weakest[better], loss_db[better] = detected[better], loss[better]
        self.in_sight = np.isfinite(weakest)
        self._loss_db = loss_db
        self._weakest_received_dbz = weakest - loss_db

    def observe(self, dbz: Array, random: np.random.Generator) -> Array:
        """Return what is recorded of true reflectivity [dBZ] ``(y, x)``: NaN out of sight, -inf no echo."""
        received = dbz - self._loss_db + NOISE_DB * random.standard_normal(dbz.shape, dtype=np.float32)
        recorded = np.clip(np.round(received / STEP_DBZ) * STEP_DBZ, LOWEST_DBZ, HIGHEST_DBZ)
        recorded = np.where(received >= self._weakest_received_dbz, recorded, -np.inf)
        return np.where(self.in_sight, recorded, np.nan).astype(np.float32)


def _sites(length_km: float) -> list[float]:
    """Return where radars stand along a side of the grid [km], drawn in a little from its ends."""
    count = max(1, round(length_km / SPACING_KM))
    return [length_km * (0.5 + 0.8 * ((number + 0.5) / count - 0.5)) for number in range(count)]


def _view(
    south_km: Distances, east_km: Distances, random: np.random.Generator
) -> tuple[Distances, Distances]:
    """Return range [km] and loss [dB] of the cells around a radar; an infinite loss is out of sight."""
    range_km = np.maximum(np.hypot(south_km, east_km), 1.0)
    loss = np.where(range_km < RANGE_KM, 0.0, np.inf)
    hill, width = random.uniform(-np.pi, np.pi), math.radians(random.uniform(3, 9))
    beside = np.abs((np.arctan2(east_km, -south_km) - hill + np.pi) % (2 * np.pi) - np.pi)
    loss[(beside < width / 2) & (range_km > HILL_KM)] += random.choice([0.0, HILL_LOSS_DB, np.inf])
    return range_km, loss
