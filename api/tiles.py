"""One cell's numbers out of stored files: the tile that holds it is read once and serves its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.archive.archive import Archive
from nowcast.disk import netcdf
from nowcast.frame.grid import Grid
from nowcast.frame.units import NO_ECHO_DBZ, ZR


@dataclass(frozen=True)
class Tile:
    """A rectangle of cells that is stored together: first row and column, number of both."""

    row: int
    column: int
    rows: int
    columns: int

    @classmethod
    def of(cls, grid: Grid, row: int, column: int) -> Tile:
        """Return the tile of a grid that holds a cell."""
        rows, columns = netcdf.tile_shape(grid.shape)
        first_row, first_column = row // rows * rows, column // columns * columns
        return cls(
            first_row, first_column, min(rows, grid.ny - first_row), min(columns, grid.nx - first_column)
        )

    @property
    def name(self) -> str:
        """What it is called among the tiles of a file."""
        return f"tile:{self.row},{self.column}"

    @property
    def _window(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)

    def of_forecast(self, path: Path) -> bytes:
        """Return its packed reflectivities at every lead of a forecast file, ``(lead_time, y, x)``."""
        with netcdf.reading(path) as file:
            return bytes(file["reflectivity"][:, *self._window].tobytes())

    def of_frame(self, archive: Archive, domain: str, time: datetime) -> bytes:
        """Return its packed reflectivities in an archived frame, in a file of its own or a day's cube."""
        with netcdf.reading(archive.path(domain, time)) as file:
            variable = file["reflectivity"]
            frame = () if variable.ndim == 2 else (netcdf.times_of(file["time"]).index(time),)
            return bytes(variable[*frame, *self._window].tobytes())

    def at(self, content: bytes, row: int, column: int, zr: ZR) -> list[dict[str, Any]]:
        """Return state, reflectivity [dBZ] and rain rate [mm/h] of a cell, for each field in ``content``."""
        fields = np.frombuffer(content, np.int16).reshape(-1, self.rows, self.columns)
        dbz = netcdf.unpack(fields[:, row - self.row, column - self.column])
        return [_told(*pair) for pair in zip(dbz.tolist(), zr.to_rain_rate(dbz).tolist(), strict=True)]


def _told(dbz: float, rain_rate_mm_h: float) -> dict[str, Any]:
    if dbz != dbz:
        return {"state": "not_covered", "reflectivity_dbz": None, "rain_rate_mm_h": None}
    if dbz <= NO_ECHO_DBZ:
        return {"state": "no_echo", "reflectivity_dbz": None, "rain_rate_mm_h": 0.0}
    return {"state": "value", "reflectivity_dbz": round(dbz, 2), "rain_rate_mm_h": round(rain_rate_mm_h, 3)}
