"""KNMI HDF5 images: RAD_NL25 reflectivity and accumulation composites.

Source: Roozekrans and Holleman, KNMI HDF5 data format specification, version 3.5 (2003): groups ``overview``,
``geographic`` and ``imageN`` with its ``calibration``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import h5py
import numpy as np

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers import hdf5
from nowcast.readers.packing import unpack
from nowcast.readers.projections import in_metres, proj_parameters, proj_string, to_plane
from nowcast.readers.source import Limits, Source

#: ``image_geo_parameter`` of the images that are precipitation.
QUANTITIES = {
    "REFLECTIVITY_[DBZ]": Quantity.DBZH,
    "ACCUMULATED_PRECIPITATION_[MM]": Quantity.ACRR,
    "PRECIP_[MM]": Quantity.ACRR,
}

#: Step [min] of KNMI's composites. Real-time accumulations name the first and the last minute that are in
#: them: 08:20 to 08:24 are the five minutes until 08:25.
STEP_MINUTES = 5

#: Products whose name says forecast: RAD_NL25_RAC_FM and its like.
_FORECAST_NAME = re.compile(r"_FM(?:_|$)|FORECAST|NOWCAST", re.IGNORECASE)

#: Metres per unit of ``geo_dim_pixel``.
METRES = {"KM,KM": 1000.0, "M,M": 1.0}

_NUMBER = r"[+-]?\s*(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"

#: ``GEO = slope * PV + intercept``, the only formula in use.
_CALIBRATION = re.compile(rf"\s*GEO\s*=\s*({_NUMBER})\s*\*\s*PV\s*([+-])\s*({_NUMBER})\s*")

_DATETIME = re.compile(r"(\d{2})-([A-Z]{3})-(\d{4});(\d{2}):(\d{2}):(\d{2})(?:\.\d+)?")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def recognises(source: Source) -> bool:
    """Return whether an HDF5 file has the groups of a KNMI image."""
    if not source.head.startswith(hdf5.MAGIC):
        return False
    with hdf5.guarded(source, "an HDF5 file"), hdf5.opened(source) as file:
        groups = [hdf5.child_group(file, name) for name in ("overview", "geographic", "image1")]
        return None not in groups


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the file's one precipitation image.

    Raises:
        RefusedProduct: If no image is reflectivity or accumulation, or several are (a forecast).
        UnreadableFile: If it is damaged or contradicts itself.
        TooLarge: If it exceeds the limits.
    """
    with hdf5.guarded(source, "a KNMI HDF5 image"), hdf5.opened(source) as file:
        frame = _frame(file, limits)
    yield frame


def _frame(file: h5py.File, limits: Limits) -> RawFrame:
    overview = _group(file, "overview")
    product = hdf5.text(overview, "product_group_name") or "unnamed product"
    quantity, image = _wanted(file, product)
    data = hdf5.member(image, "image_data")
    if not isinstance(data, h5py.Dataset):
        raise UnreadableFile(f"{image.name} has no image_data")
    grid = _grid(_group(file, "geographic"), data.shape, limits)
    time = _moment(overview, "product_datetime_end")
    _refuse_forecast(image, product, time)
    interval = None
    if quantity is Quantity.ACRR:
        start = _moment(overview, "product_datetime_start")
        interval = (time - start) / timedelta(minutes=1)
        if interval % STEP_MINUTES == STEP_MINUTES - 1 and start.minute % STEP_MINUTES == 0:
            time, interval = time + timedelta(minutes=1), interval + 1
        if interval <= 0:
            raise UnreadableFile(f"the accumulation starts {-interval:g} minutes after its end")

    stored = hdf5.read_image(data, limits)
    if stored.dtype.kind != "u" or stored.dtype.itemsize > 2:
        raise UnreadableFile(f"pixel values must be of 8 or 16 bits without sign, are {stored.dtype}")
    calibration = _group(image, "calibration")
    slope, intercept = _calibration(hdf5.text(calibration, "calibration_formulas") or "")
    outside = _required(calibration, "calibration_out_of_image")
    missing, no_echo = _states(outside, _required(calibration, "calibration_missing_data"))
    values = unpack(
        stored,
        quantity,
        gain=slope,
        offset=intercept,
        missing=(outside, *missing),
        no_echo=no_echo,
    )
    notes: dict[str, str | float | int] = {"product": hdf5.text(image, "image_product_name") or product}
    return RawFrame(values, quantity, time, grid, interval, f"KNMI {product}"[:120], notes)


def _states(outside: float, missing_data: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the pixel values that are missing and those that are no echo.

    Some images, reflectivity and real-time accumulations, call pixel value 0 "missing data", but it is the
    dry weather inside the radars' range: its area changes with the weather, while that of "out of image"
    stays the same from one file, and one product, to the next.

    Raises:
        RefusedProduct: If 0 is out of image too, so that dry and not observed cannot be told apart.
    """
    if missing_data != 0:
        return (missing_data,), ()
    if outside == 0:
        raise RefusedProduct("pixel value 0 is missing data and out of image: dry weather cannot be told")
    return (), (0.0,)


def _refuse_forecast(image: h5py.Group, product: str, end: datetime) -> None:
    """Refuse an image that is called a forecast, or is valid for a time after its product's.

    Raises:
        RefusedProduct: If it is one.
    """
    for name in (product, hdf5.text(image, "image_product_name") or ""):
        if _FORECAST_NAME.search(name):
            raise RefusedProduct(f"{name[:80]} is a forecast, not an observation")
    if hdf5.text(image, "image_datetime_valid") is None:
        return
    valid = _moment(image, "image_datetime_valid")
    if valid > end:
        raise RefusedProduct(
            f"{product} is valid at {valid:%H:%M}, {(valid - end) / timedelta(minutes=1):g} minutes after "
            "its end: a forecast, not an observation"
        )


def _wanted(file: h5py.File, product: str) -> tuple[Quantity, h5py.Group]:
    found: list[tuple[Quantity, h5py.Group]] = []
    others = []
    for member in sorted(name for name in hdf5.names(file) if re.fullmatch(r"image\d{1,3}", name)):
        image = _group(file, member)
        parameter = (hdf5.text(image, "image_geo_parameter") or "nameless").upper()
        if parameter in QUANTITIES:
            found.append((QUANTITIES[parameter], image))
        else:
            others.append(parameter)
    if not found:
        raise RefusedProduct(
            f"{product} holds {', '.join(others) or 'no image'}; expected {' or '.join(QUANTITIES)}"
        )
    if len(found) > 1:
        raise RefusedProduct(f"{product} holds {len(found)} precipitation images; expected one")
    return found[0]


def _calibration(formula: str) -> tuple[float, float]:
    """Return slope and intercept of a calibration formula.

    Raises:
        UnreadableFile: If it is not a straight line.

    Example:
        >>> _calibration("GEO = 0.500000 * PV + -32.000000")
        (0.5, -32.0)
    """
    match = _CALIBRATION.fullmatch(formula)
    if match is None:
        raise UnreadableFile(f"expected a calibration 'GEO = a * PV + b', got {formula[:60]!r}")
    slope, sign, intercept = (part.replace(" ", "") for part in match.groups())
    return float(slope), float(intercept) * (-1.0 if sign == "-" else 1.0)


def _grid(geographic: h5py.Group, shape: tuple[int, ...], limits: Limits) -> Grid:
    """Return the grid; offsets count pixels from the projection's origin to the image's outer edge."""
    rows, columns = _required(geographic, "geo_number_rows"), _required(geographic, "geo_number_columns")
    if (rows, columns) != shape:
        raise UnreadableFile(f"geographic says {rows:g} x {columns:g} pixels, the image has {shape}")
    limits.check_cells(int(rows), int(columns), "image_data")
    unit = METRES.get((hdf5.text(geographic, "geo_dim_pixel") or "").upper().replace(" ", ""))
    if unit is None:
        raise UnreadableFile(f"pixels must be measured in {' or '.join(METRES)}")
    dx, dy = (_required(geographic, f"geo_pixel_size_{axis}") * unit for axis in "xy")
    x_edge = _required(geographic, "geo_column_offset") * dx
    y_edge = _required(geographic, "geo_row_offset") * dy
    if dx <= 0 or dy >= 0:
        raise UnreadableFile(
            f"pixels must run west to east and north to south, have sizes {dx:g} and {dy:g} m"
        )
    parameters = proj_parameters(
        hdf5.text(_group(geographic, "map_projection"), "projection_proj4_params") or ""
    )
    # The axes of the Earth come in kilometres too, so that PROJ takes kilometres for metres.
    definition = proj_string(in_metres(parameters)[0])
    grid = Grid.from_crs(
        definition, nx=int(columns), ny=int(rows), x0=x_edge + dx / 2, y0=y_edge + dy / 2, dx=dx, dy=-dy
    )
    _check_corners(grid, definition, hdf5.attribute(geographic, "geo_product_corners"))
    return grid


def _check_corners(grid: Grid, definition: str, corners: Any) -> None:
    """Refuse a grid whose outer corners are not where the file says, to half a pixel."""
    if not isinstance(corners, tuple) or len(corners) != 8:
        return
    lon, lat = np.array(corners).reshape(4, 2).T
    west, south, east, north = grid.outer_bounds
    x, y = to_plane(definition, lon, lat)
    wrong_x = np.abs(x - np.array([west, west, east, east])).max() / grid.dx
    wrong_y = np.abs(y - np.array([south, north, north, south])).max() / grid.dy
    if max(wrong_x, wrong_y) > 0.5:
        raise UnreadableFile(
            f"the image's offsets and its corners disagree by {wrong_x:.1f} columns and {wrong_y:.1f} rows"
        )


def _moment(overview: h5py.Group, name: str) -> datetime:
    written = hdf5.text(overview, name) or ""
    match = _DATETIME.fullmatch(written.upper())
    if match is None or match[2] not in _MONTHS:
        raise UnreadableFile(f"expected {name} as DD-MON-YYYY;HH:MM:SS, got {written[:40]!r}")
    day, month, year, hour, minute, second = match.groups()
    return datetime(
        int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC
    )


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    group = hdf5.child_group(parent, name)
    if group is None:
        raise UnreadableFile(f"{parent.name} has no group {name!r}")
    return group


def _required(group: h5py.Group, name: str) -> float:
    value = hdf5.number(group, name)
    if value is None:
        raise UnreadableFile(f"{group.name} has no attribute {name!r}")
    return value
