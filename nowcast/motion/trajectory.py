"""Where air comes from and what it brings along: vectors on a grid, trajectories, frames carried on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nowcast.frame.units import NO_ECHO_DBZ

Array = NDArray[np.float32]

#: A carried field is rounded to multiples of this [dBZ]: far finer than radar measures, it gives whole and
#: half dBZ back unchanged after the way through logarithms, and lets files shrink.
RESOLUTION_DBZ = 1 / 64

#: Rows carried at a time, to bound the memory of coordinates.
STRIP_ROWS = 256

#: dBZ per unit of the natural logarithm of Z.
DBZ_PER_LOG = 10.0 / math.log(10.0)


@dataclass(frozen=True)
class VectorField:
    """Vectors on a lattice over a grid: motion [cells per step] or displacement [cells].

    Attributes:
        nodes: float32 ``(2, rows, columns)``, southward and eastward, in cells of the grid. They stand at the
            centres of blocks of ``spacing`` x ``spacing`` cells, the first of them in the first corner.
        spacing: Cells between nodes; 1 for vectors at every cell.
        shape: Rows and columns of the grid.
    """

    nodes: Array
    spacing: int
    shape: tuple[int, int]

    def dense(self, first_row: int = 0, rows: int | None = None) -> Array:
        """Return the vectors at every cell ``(2, rows, columns)``, bilinear between nodes."""
        last_row = min(self.shape[0], first_row + (self.shape[0] if rows is None else rows))
        if self.spacing == 1:
            return self.nodes[:, first_row:last_row, : self.shape[1]].copy()
        top = max(first_row // self.spacing - 1, 0)
        bottom = -(-last_row // self.spacing) + 1
        dense = _enlarged(self.nodes[:, top:bottom], self.spacing)
        offset = top * self.spacing
        return dense[:, first_row - offset : last_row - offset, : self.shape[1]]

    def scaled(self, factor: float) -> VectorField:
        """Return the field with every vector ``factor`` times as long."""
        return VectorField(self.nodes * np.float32(factor), self.spacing, self.shape)

    def minus(self, other: VectorField) -> VectorField:
        """Return the field less another on the same nodes."""
        return VectorField(self.nodes - other.nodes, self.spacing, self.shape)

    def at(self, displacement: VectorField) -> VectorField:
        """Return for each node the vector found ``displacement`` away; beyond the edge, that of the edge."""
        rows, columns = displacement.nodes / np.float32(self.spacing)
        rows += np.arange(rows.shape[0], dtype=np.float32)[:, None]
        columns += np.arange(columns.shape[1], dtype=np.float32)
        return VectorField(_remap(self.nodes, columns, rows), self.spacing, self.shape)


def _remap(layers: Array, columns: Array, rows: Array) -> Array:
    border = cv2.BORDER_REPLICATE
    moved = [cv2.remap(layer, columns, rows, cv2.INTER_LINEAR, borderMode=border) for layer in layers]
    return np.asarray(moved, dtype=np.float32)


def _enlarged(layers: Array, times: int) -> Array:
    size = (layers.shape[2] * times, layers.shape[1] * times)
    enlarged = [cv2.resize(layer, size, interpolation=cv2.INTER_LINEAR) for layer in layers]
    return np.asarray(enlarged, dtype=np.float32)


class Trajectory:
    """Where the air over each node came from, step by step, in a motion that stays as it is.

    Semi-Lagrangian with the midpoint rule: the path back over k steps prolongs that over k - 1, so a field is
    interpolated once from the frame however far it is carried.

    References:
        Germann and Zawadzki (2002), doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2.
    """

    def __init__(self, motion: VectorField) -> None:
        self.motion = motion
        self._lead, self._displacement = 0, motion.scaled(0.0)

    def displacement(self, lead: int) -> VectorField:
        """Return the displacement [cells] from each node to where its air was ``lead`` steps ago.

        Only the last answer is kept: ask for leads in ascending order.
        """
        if lead < self._lead:
            self._lead, self._displacement = 0, self.motion.scaled(0.0)
        while self._lead < lead:
            halfway = self._displacement.minus(self.motion.at(self._displacement).scaled(0.5))
            self._displacement = self._displacement.minus(self.motion.at(halfway))
            self._lead += 1
        return self._displacement

    def carried(self, frame: Array, lead: int) -> Array:
        """Return a field [dBZ] ``(y, x)`` where its air is after ``lead`` steps, as :meth:`Carrier.carry`."""
        return Carrier(frame).carry(self.displacement(lead))


def carried_forward(fields: Iterable[Array], motion: VectorField) -> Iterator[Array]:
    """Yield fields ``(y, x)`` [dBZ] at the issue time's places where their air is 1, 2, 3, ... steps later.

    Args:
        fields: For each lead from 1 on, what the air looks like then, NaN = not known.
        motion: Motion at the issue time [cells per step].
    """
    trajectory = Trajectory(motion)
    for lead, field in enumerate(fields, start=1):
        yield trajectory.carried(field, lead)


class Carrier:
    """A frame ready to be carried along displacements, as often as wanted.

    Values are interpolated linearly in the reflectivity factor Z, which adds up as drops do. In dBZ, the fall
    from strong echo to none would eat away the edges of cells (up to 0.02 of CSI). Only observed cells carry
    weight, and half of it must be there, so that the mask moves with the echo and its edge stays sharp.
    """

    def __init__(self, frame: Array) -> None:
        observed = ~np.isnan(frame)
        #: Z [mm^6 m^-3] and weight of each cell ``(y, x, 2)``.
        self._source = np.empty((*frame.shape, 2), np.float32)
        self._source[..., 0] = to_z(frame)
        self._source[..., 1] = observed

    def carry(self, displacement: VectorField) -> Array:
        """Return the field [dBZ] ``(y, x)`` whose cells come from ``displacement`` away.

        NaN where that is outside the grid or not observed; no echo stays exactly -10 dBZ.
        """
        ny, nx = displacement.shape
        field = np.empty((ny, nx), np.float32)
        for first in range(0, ny, STRIP_ROWS):
            rows, columns = displacement.dense(first, STRIP_ROWS)
            rows += np.arange(first, first + len(rows), dtype=np.float32)[:, None]
            columns += np.arange(nx, dtype=np.float32)
            carried = cv2.remap(self._source, columns, rows, cv2.INTER_LINEAR, borderValue=0)
            z, weight = np.asarray(cv2.split(carried), dtype=np.float32)
            field[first : first + len(rows)] = mean_dbz(z, weight)
        return field


def to_z(dbz: Array) -> Array:
    """Return Z [mm^6 m^-3]: 0 for no echo, and for NaN."""
    echo = np.where(dbz > NO_ECHO_DBZ, dbz, np.float32(-np.inf))
    return np.asarray(np.exp(echo * np.float32(1 / DBZ_PER_LOG)), dtype=np.float32)


def mean_dbz(z: Array, weight: Array) -> Array:
    """Return ``z / weight`` as dBZ: -10 where it is that or less, NaN where half the weight is missing."""
    mean = np.maximum(z / np.maximum(weight, np.float32(0.5)), np.float32(1e-3))
    dbz = np.log(mean)
    dbz *= np.float32(DBZ_PER_LOG / RESOLUTION_DBZ)
    np.rint(dbz, out=dbz)
    dbz *= np.float32(RESOLUTION_DBZ)
    np.maximum(dbz, np.float32(NO_ECHO_DBZ), out=dbz)
    dbz[weight < 0.5] = np.nan
    return dbz
