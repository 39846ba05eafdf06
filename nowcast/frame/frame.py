"""A frame: one composite of one time, from what the agency wrote to dBZ on the domain's grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.errors import EmptyFrame, RefusedProduct, UnreadableFile, WrongGrid, WrongInterval
from nowcast.frame.domain import Domain
from nowcast.frame.grid import Grid
from nowcast.frame.regrid import nearest_cells, take_cells
from nowcast.frame.units import NO_ECHO_DBZ

#: Longest accumulation [minutes] that still is a frame of a nowcast; hourly sums are not.
LONGEST_FRAME_MINUTES = 30.0


class Quantity(StrEnum):
    """What a raw frame's numbers are, by the names of ODIM_H5."""

    DBZH = "DBZH"  #: logged horizontally polarised reflectivity factor, corrected [dBZ]
    TH = "TH"  #: the same, uncorrected [dBZ]
    RATE = "RATE"  #: rain rate [mm/h]
    ACRR = "ACRR"  #: accumulated precipitation [mm] over the frame's interval

    @property
    def is_reflectivity(self) -> bool:
        """Whether the unit is dBZ."""
        return self in (Quantity.DBZH, Quantity.TH)


@dataclass(frozen=True)
class RawFrame:
    """A frame as its agency made it: what every reader returns.

    Attributes:
        values: float32 ``(y, x)``, north first, in the quantity's unit. Three states, never mixed: NaN = not
            observed; no echo = ``-inf`` dBZ, or 0 mm/h or mm (the same thing: the logarithm of nothing);
            anything else is a measured value.
        quantity: What the numbers are.
        time: Nominal time, UTC; for an accumulation the end of its interval.
        grid: Where the cells lie.
        interval_minutes: Interval an accumulation covers, or the product's nominal step; ``None`` unknown.
        source: Agency and product for people, such as ``"DWD RADOLAN RY"``.
        attributes: Further facts worth keeping (strings and numbers only).
    """

    values: NDArray[np.float32]
    quantity: Quantity
    time: datetime
    grid: Grid
    interval_minutes: float | None
    source: str
    attributes: dict[str, str | float | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the promises above for every reader."""
        if self.values.shape != self.grid.shape or self.values.dtype != np.float32:
            raise UnreadableFile(
                f"{self.source}: expected float32 values on {self.grid.shape} cells, "
                f"got {self.values.dtype} on {self.values.shape}"
            )
        if self.time.tzinfo is not UTC:
            raise UnreadableFile(f"{self.source}: time {self.time} must be UTC")
        if not 1950 <= self.time.year <= 2200:
            raise UnreadableFile(f"{self.source}: the year of {self.time:%Y-%m-%d} is no radar's")
        if self.quantity is Quantity.ACRR and not (self.interval_minutes and self.interval_minutes > 0):
            raise RefusedProduct(
                f"{self.source}: an accumulation [mm] without its interval cannot become a rain rate"
            )


def check_is_frame(raw: RawFrame) -> None:
    """Refuse an accumulation too long to be a frame of a nowcast.

    Raises:
        RefusedProduct: If it covers more than :data:`LONGEST_FRAME_MINUTES`.
    """
    if raw.quantity is Quantity.ACRR and (raw.interval_minutes or 0) > LONGEST_FRAME_MINUTES:
        raise RefusedProduct(
            f"{raw.source}: a sum over {raw.interval_minutes:g} minutes is not a frame of a nowcast; "
            f"expected at most {LONGEST_FRAME_MINUTES:g} minutes"
        )


def normalise(raw: RawFrame, domain: Domain) -> xr.DataArray:
    """Return the frame ``reflectivity(y, x)`` [dBZ] on the domain's grid, ready for archive and forecast.

    Accumulations are divided by their interval; rates become dBZ by the domain's Z-R relation, which is
    recorded; no echo and everything below become exactly -10 dBZ; values above ``domain.max_dbz`` are bounded
    to it and counted; the time becomes the domain's full step it stands for; another grid is brought to the
    domain's by nearest neighbour, so the three states never mix. NaN stays "not observed".

    Raises:
        RefusedProduct: If the frame is no frame of a nowcast (an hourly sum).
        WrongInterval: If an accumulation covers another interval than the domain's step.
        WrongGrid: If the grids differ and the domain does not reproject.
        EmptyFrame: If not one pixel is observed.
    """
    check_is_frame(raw)
    if raw.quantity is Quantity.ACRR and abs((raw.interval_minutes or 0) - domain.step_minutes) > 0.5:
        raise WrongInterval(
            f"{raw.source}: domain {domain.name!r} takes sums over its step of {domain.step_minutes} "
            f"minutes, got a sum over {raw.interval_minutes:g} minutes"
        )
    grid = domain.grid or raw.grid
    values = raw.values
    if not grid.matches(raw.grid):
        if not domain.reproject:
            raise WrongGrid(f"{raw.source}: domain {domain.name!r} has {grid}; got {raw.grid}")
        values = take_cells(values, nearest_cells(raw.grid, grid))

    if raw.quantity.is_reflectivity:
        dbz = np.maximum(values, np.float32(NO_ECHO_DBZ))
    else:
        rate = values
        if raw.quantity is Quantity.ACRR:
            rate = values * np.float32(60.0 / float(raw.interval_minutes or domain.step_minutes))
        dbz = domain.zr.to_dbz(rate)
        np.maximum(dbz, np.float32(NO_ECHO_DBZ), out=dbz)
    observed = int(np.count_nonzero(dbz == dbz))
    if observed == 0:
        raise EmptyFrame(
            f"{raw.source}: not one of {dbz.size} pixels is observed at {raw.time:%Y-%m-%dT%H:%MZ}"
        )
    bounded = int(np.count_nonzero(dbz > domain.max_dbz))
    if bounded:
        np.minimum(dbz, np.float32(domain.max_dbz), out=dbz)

    attributes: dict[str, Any] = {
        **raw.attributes,
        "source": raw.source,
        "quantity": str(raw.quantity),
        "interval_minutes": float(raw.interval_minutes or domain.step_minutes),
        "zr_a": domain.zr.a,
        "zr_b": domain.zr.b,
        "bounded_pixels": bounded,
        "observed_fraction": round(observed / dbz.size, 6),
    }
    time = domain.nominal_time(raw.time)
    if time != raw.time:
        attributes["time_in_file"] = raw.time.isoformat()
    return frame_array(dbz, grid, time, attributes)


def frame_array(
    dbz: NDArray[np.float32], grid: Grid, time: datetime, attributes: dict[str, Any] | None = None
) -> xr.DataArray:
    """Return a frame from dBZ ``(y, x)``, its grid and its UTC time."""
    return xr.DataArray(
        dbz,
        dims=("y", "x"),
        coords={**grid_coordinates(grid), "time": ((), np.datetime64(time.replace(tzinfo=None), "ns"))},
        name="reflectivity",
        attrs={**REFLECTIVITY_ATTRIBUTES, **(attributes or {})},
    )


#: CF attributes of every reflectivity array.
REFLECTIVITY_ATTRIBUTES = {
    "standard_name": "equivalent_reflectivity_factor",
    "long_name": "reflectivity of precipitation; -10 dBZ = no echo, missing = not observed",
    "units": "dBZ",
    "grid_mapping": "crs",
}


@lru_cache(maxsize=64)  # what PROJ says of a grid takes longer than reading a frame, and frames share grids
def grid_coordinates(grid: Grid) -> Mapping[str, Any]:
    """Return CF coordinates ``x``, ``y`` and grid mapping ``crs`` of a grid, for an xarray object."""
    if grid.crs.is_geographic:
        names, unit = ("longitude", "latitude"), ("degrees_east", "degrees_north")
    else:
        metres = grid.crs.axis_info[0].unit_conversion_factor
        length = "km" if metres == 1000.0 else "m"
        names, unit = ("projection_x_coordinate", "projection_y_coordinate"), (length, length)
    return {
        "y": ("y", grid.y, {"standard_name": names[1], "units": unit[1], "axis": "Y"}),
        "x": ("x", grid.x, {"standard_name": names[0], "units": unit[0], "axis": "X"}),
        "crs": ((), np.int32(0), _grid_mapping_attributes(grid)),
    }


def _grid_mapping_attributes(grid: Grid) -> dict[str, Any]:
    with warnings.catch_warnings():  # what CF's parameters cannot say, such as a skew angle, crs_wkt does
        warnings.simplefilter("ignore", UserWarning)
        parameters = grid.crs.to_cf()
    attributes = {
        key: value for key, value in parameters.items() if value is not None and value != "undefined"
    }
    if attributes.get("grid_mapping_name") == "polar_stereographic":  # CF wants the pole, PROJ leaves it out
        pole = math.copysign(90.0, attributes.get("standard_parallel", 90.0))
        attributes.setdefault("latitude_of_projection_origin", pole)
    return {"grid_mapping_name": "unknown", **attributes, "crs_wkt": grid.crs_wkt}


def grid_of(array: xr.DataArray | xr.Dataset) -> Grid:
    """Return the grid written by :func:`grid_coordinates` into a frame, cube or forecast."""
    x, y = (np.asarray(array[name].values, np.float64).tobytes() for name in ("x", "y"))
    return grid_of_bytes(str(array["crs"].attrs["crs_wkt"]), x, y)


@lru_cache(maxsize=64)  # parsing a reference system takes longer than reading a frame
def grid_of_bytes(crs_wkt: str, x: bytes, y: bytes) -> Grid:
    """Return the grid of :meth:`Grid.from_coordinates` from its float64 coordinates as they lie in memory."""
    return Grid.from_coordinates(crs_wkt, np.frombuffer(x), np.frombuffer(y))


def on_one_grid(frames: Sequence[xr.DataArray]) -> tuple[list[datetime], Grid]:
    """Return the time of each frame, and the grid all of them lie on.

    Raises:
        WrongGrid: If one lies on another grid than the first.
    """
    times = [time_of(frame) for frame in frames]
    grids = [grid_of(frame) for frame in frames]
    for time, grid in zip(times, grids, strict=True):
        if grid is not grids[0] and not grids[0].matches(grid):
            raise WrongGrid(
                f"expected all frames on one grid, {grids[0]} as at {times[0]:%Y-%m-%dT%H:%MZ}, "
                f"got {grid} at {time:%Y-%m-%dT%H:%MZ}"
            )
    return times, grids[0]


def time_of(frame: xr.DataArray) -> datetime:
    """Return a frame's time as an aware UTC datetime."""
    return to_datetime(frame["time"].values)


def to_datetime(value: np.datetime64 | NDArray[Any]) -> datetime:
    """Return a numpy time (UTC by convention) as an aware datetime, to the second."""
    seconds = int(np.asarray(value).astype("datetime64[s]").astype(np.int64))
    return datetime.fromtimestamp(seconds, tz=UTC)
