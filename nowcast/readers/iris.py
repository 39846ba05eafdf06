"""IRIS (Sigmet, Vaisala) product files of one radar: CAPPI, PPI, surface rainfall and the plan view of MAX.

Source: Vaisala, IRIS Programmer's Manual, chapter 4: scalars 4.2, ``product_configuration`` 4.3.24,
``product_end`` 4.3.25, ``product_hdr`` 4.3.26, ``structure_header`` 4.3.48, ``ymds_time`` 4.3.77, data types
4.4 (DB_DBT 1, DB_DBZ 2, DB_DBZC 7, the same in two bytes 8, 9 and 21, DB_RAINRATE2 13), constants 4.9.

Convention: 0, "no data available", counts as no echo and the largest code, "area not scanned", as not
observed; IRIS does not tell a blocked sector from a dry one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers.forecasts import refuse_forecast
from nowcast.readers.projections import to_plane
from nowcast.readers.source import Limits, Source

#: Identifiers in the structure headers of ``product_hdr``, and of the ``product_configuration`` inside.
_PRODUCT, _CONFIGURATION = 27, 26

#: Bytes of ``product_hdr``, after which the cells come, and where its two structures begin.
_HEADER_BYTES, _CONFIGURATION_AT, _END_AT = 640, 12, 332

#: Structure header: identifier, version, bytes, flags.
_STRUCTURE = struct.Struct("<hhihh")

#: Names of the products, by their code.
_PRODUCTS = {
    1: "PPI", 2: "RHI", 3: "CAPPI", 4: "CROSS", 5: "TOPS", 6: "TRACK", 7: "RAIN1", 8: "RAINN", 9: "VVP",
    10: "VIL", 11: "SHEAR", 12: "WARN", 13: "CATCH", 14: "RTI", 15: "RAW", 16: "MAX", 17: "USER", 25: "FCAST",
    26: "NDOP", 28: "COMP", 32: "SRI", 33: "BASE", 34: "HMAX", 35: "VAD", 36: "THICK", 38: "LAYER",
}  # fmt: skip

#: Products that are maps of rain at one time.
_MAPS = ("PPI", "CAPPI", "MAX", "SRI")

#: Quantity and bytes of the accepted data types.
_DATA_TYPES = {
    1: (Quantity.TH, 1),
    2: (Quantity.DBZH, 1),
    7: (Quantity.DBZH, 1),
    8: (Quantity.TH, 2),
    9: (Quantity.DBZH, 2),
    21: (Quantity.DBZH, 2),
    13: (Quantity.RATE, 2),
}

#: Names of the other data types that products are known to hold.
_OTHER_DATA = {3: "velocity", 4: "width", 5: "ZDR", 32: "height", 33: "liquid", 37: "accumulated liquid"}

#: Bit of a time that says it is UTC (bits 0 to 9 are milliseconds), and the one of daylight saving time.
_UTC_BIT, _SAVING_BIT = 1 << 11, 1 << 10

#: Longest side [m] of a cell, and radii [m] and inverse flattenings an earth may have (0 = a sphere).
_MOST_CELL_M, _RADII_M, _FLATTENINGS = 20_000.0, (6.3e6, 6.4e6), (290.0, 305.0)


@dataclass(frozen=True)
class _Header:
    """What this reader needs of the two structures; comments give bytes from the start of each."""

    product: str  # configuration 12
    time: tuple[int, ...]  # configuration 44, of the volume scanned: seconds, milliseconds, year, month, day
    name: str  # configuration 62
    scale_m: tuple[float, float]  # configuration 88, per cell
    size: tuple[int, int, int]  # configuration 100: columns, rows, layers
    radar: tuple[float, float]  # configuration 112, in cells from the south-western corner
    data_type: int  # configuration 130
    projection: int  # configuration 146
    panel: int  # configuration 176, of MAX only: cells of each side panel
    site: str  # end 90
    minutes_west: tuple[int, int]  # end 72, 106
    position: tuple[float, float]  # end 108: latitude and longitude of the radar
    earth: tuple[float, float]  # end 220: radius [m] and inverse flattening
    centre: tuple[float, float]  # end 240: latitude and longitude of the projection


def recognises(source: Source) -> bool:
    """Return whether the content starts with the header of an IRIS product."""
    head = source.head
    return (
        len(head) >= 24
        and _STRUCTURE.unpack_from(head)[0] == _PRODUCT
        and _STRUCTURE.unpack_from(head, _CONFIGURATION_AT)[0] == _CONFIGURATION
    )


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame.

    Raises:
        RefusedProduct: If the product is no map of rain (an echo top, a raw volume, a forecast), or lies in
            another projection than the azimuthal equidistant one.
        TooLarge: If it declares more cells than the limits allow.
        UnreadableFile: If it is cut off or contradicts itself.
    """
    content = source.content
    header = _header(content, source.name)
    refuse_forecast(source.name, header.name.replace("_", " "))
    if header.product not in _MAPS:
        kind = "a forecast (FCAST)" if header.product == "FCAST" else f"the product {header.product}"
        raise RefusedProduct(
            f"{source.name}: expected a map of rain ({', '.join(_MAPS)}) of IRIS, got {kind} {header.name!r}"
        )
    if header.data_type not in _DATA_TYPES:
        kind = _OTHER_DATA.get(header.data_type, "unknown")
        raise RefusedProduct(
            f"{source.name}: expected reflectivity or rain rate in the product {header.product}, "
            f"got data type {header.data_type} ({kind})"
        )
    limits.check_cells(header.size[1], header.size[0], source.name)
    values = _values(content, header, source.name)
    yield RawFrame(
        values=values,
        quantity=_DATA_TYPES[header.data_type][0],
        time=_time(header, source.name),
        grid=_grid(header, values.shape[0], values.shape[1], source.name),
        interval_minutes=None,
        source=f"IRIS {header.product} {header.site}".strip(),
        attributes={"product": header.name},
    )


def _header(content: bytes, name: str) -> _Header:
    declared = _STRUCTURE.unpack_from(content)[2]
    if len(content) < _HEADER_BYTES or declared != len(content):
        raise UnreadableFile(
            f"{name}: expected a header of {_HEADER_BYTES} bytes and {declared} in all, got {len(content)}"
        )

    def configuration(form: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{form}", content, _CONFIGURATION_AT + at)

    def end(form: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{form}", content, _END_AT + at)

    def text(at: int, size: int) -> str:
        return content[at : at + size].split(b"\0")[0].decode("latin-1").strip()

    (code,) = configuration("H", 12)
    (west_local,), (west_recorded,) = end("h", 72), end("h", 106)
    radius_cm, flattening = end("II", 220)
    x_scale, y_scale = configuration("ii", 88)
    columns, rows, layers = configuration("iii", 100)
    radar_x, radar_y = configuration("ii", 112)
    return _Header(
        product=_PRODUCTS.get(code, f"number {code}"),
        time=configuration("iHhhh", 44),
        name=text(_CONFIGURATION_AT + 62, 12),
        scale_m=(x_scale / 100.0, y_scale / 100.0),
        size=(columns, rows, layers),
        radar=(radar_x / 1000.0, radar_y / 1000.0),
        data_type=configuration("H", 130)[0],
        projection=configuration("B", 146)[0],
        panel=configuration("i", 176)[0] if _PRODUCTS.get(code) == "MAX" else 0,
        site=text(_END_AT + 90, 16),
        minutes_west=(west_local, west_recorded),
        position=_angles(*end("II", 108)),
        earth=(radius_cm / 100.0, flattening / 1e6),
        centre=_angles(*end("II", 240)),
    )


def _angles(latitude: int, longitude: int) -> tuple[float, float]:
    """Return degrees of two binary angles (BIN4: a full turn is 2^32)."""
    return tuple((angle * 360.0 / 2**32 + 180.0) % 360.0 - 180.0 for angle in (latitude, longitude))  # type: ignore[return-value]


def _time(header: _Header, name: str) -> datetime:
    """Return the time at which the volume scan began, in UTC."""
    seconds, bits, year, month, day = header.time
    try:
        if not 0 <= seconds < 86_400:
            raise ValueError
        time = datetime(year, month, day, tzinfo=UTC) + timedelta(seconds=seconds)
    except ValueError as error:
        raise UnreadableFile(f"{name}: {year}-{month}-{day} and {seconds} s is no time") from error
    if bits & _UTC_BIT:
        return time
    west, recorded = header.minutes_west
    if west != recorded or abs(west) > 14 * 60:
        raise UnreadableFile(
            f"{name}: expected UTC or one zone, got a time {west} or {recorded} minutes west of Greenwich"
        )
    return time + timedelta(minutes=west - (60 if bits & _SAVING_BIT else 0))


def _values(content: bytes, header: _Header, name: str) -> NDArray[np.float32]:
    """Return the values ``(y, x)`` of the map; rows are stored from the south, side panels north and east."""
    quantity, width = _DATA_TYPES[header.data_type]
    columns, rows, layers = header.size
    cells = rows * columns
    if layers != 1 or len(content) < _HEADER_BYTES + cells * width:
        raise UnreadableFile(
            f"{name}: expected one layer of {rows} x {columns} cells of {width} bytes, got {layers} layers "
            f"and {len(content) - _HEADER_BYTES} bytes"
        )
    if not 0 <= header.panel < min(rows, columns):
        raise UnreadableFile(
            f"{name}: side panels of {header.panel} cells do not fit {rows} x {columns} cells"
        )
    codes = np.frombuffer(content, f"<u{width}", count=cells, offset=_HEADER_BYTES).reshape(rows, columns)
    codes = codes[: rows - header.panel, : columns - header.panel][::-1]
    return np.take(_meaning(quantity, width), codes)


@lru_cache(maxsize=8)
def _meaning(quantity: Quantity, width: int) -> NDArray[np.float32]:
    """Return the value of each code: (code - 64) / 2 or (code - 32768) / 100 dBZ, (number - 1) / 10^4 mm/h.

    The number of a rain rate has 4 bits exponent e, 12 bits mantissa m: m if e = 0, or (m + 4096) 2^(e - 1).
    """
    codes = np.arange(2 ** (8 * width))
    if quantity is Quantity.RATE:
        exponent, mantissa = codes >> 12, codes & 0xFFF
        number = np.where(exponent > 0, (mantissa + 4096) << np.maximum(exponent - 1, 0), mantissa)
        values, nothing = (number - 1) / 10_000.0, 0.0
    else:
        values, nothing = (codes - 64) / 2.0 if width == 1 else (codes - 32_768) / 100.0, -np.inf
    values[0], values[-1] = nothing, np.nan
    meaning: NDArray[np.float32] = values.astype(np.float32)
    return meaning


def _grid(header: _Header, rows: int, columns: int, name: str) -> Grid:
    """Return the grid: its cells count from the radar, its plane is centred where the file says."""
    radius, flattening = header.earth
    is_earth = _RADII_M[0] <= radius <= _RADII_M[1] and (
        flattening == 0 or _FLATTENINGS[0] <= flattening <= _FLATTENINGS[1]
    )
    if header.projection != 0 or not is_earth:
        raise RefusedProduct(
            f"{name}: expected an azimuthal equidistant projection (0) of the earth, got {header.projection} "
            f"with a radius of {radius:g} m and an inverse flattening of {flattening:g}"
        )
    dx, dy = header.scale_m
    latitudes = header.position[0], header.centre[0]
    if not (0 < dx <= _MOST_CELL_M and 0 < dy <= _MOST_CELL_M) or max(map(abs, latitudes)) > 90:
        raise UnreadableFile(
            f"{name}: cells of {dx:g} x {dy:g} m at {latitudes[0]:g} or {latitudes[1]:g} N cannot be right"
        )
    earth = f"+a={radius:.2f} " + (f"+rf={flattening:.6f}" if flattening else f"+b={radius:.2f}")
    plane = (
        f"+proj=aeqd +lat_0={header.centre[0]:.8f} +lon_0={header.centre[1]:.8f} {earth} +units=m +no_defs"
    )
    return _placed(plane, rows, columns, dx, dy, header.radar, header.position)


@lru_cache(maxsize=32)
def _placed(
    plane: str,
    rows: int,
    columns: int,
    dx: float,
    dy: float,
    radar: tuple[float, float],
    position: tuple[float, float],
) -> Grid:
    x, y = to_plane(plane, np.array([position[1]]), np.array([position[0]]))
    west, south = float(x[0]) - radar[0] * dx, float(y[0]) - radar[1] * dy
    return Grid.from_crs(
        plane, nx=columns, ny=rows, x0=west + dx / 2, y0=south + (rows - 0.5) * dy, dx=dx, dy=dy
    )
