"""The mosaic of Météo-France: reflectivity of mainland France in one BUFR message.

Sources: WMO Manual on Codes (WMO-No. 306), FM 94 BUFR edition 4 and its table B version 16 for the layout
and the widths; local tables 14 of Météo-France (centre 85) for the descriptors from 192 on.

A message is read only if its list of descriptors is the mosaic's, word for word: then every width is known,
the three fields (probability of rain, height, reflectivity) are runs of equal numbers of bits, and no byte of
it reaches a decoder written in C. Lengths are checked against the bytes that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers.forecasts import refuse_forecast
from nowcast.readers.projections import to_plane
from nowcast.readers.source import Limits, Source

#: Originating centre Toulouse, data category radar, version of the local tables.
CENTRE, RADAR, LOCAL_TABLES = 85, 6, 14

#: Descriptors of the mosaic as section 3 lists them.
_DESCRIPTORS = (
    1099, 30031, 1192, 301011, 301013, 8021, 4025, 4026, 29002, 29001, 30021, 30022, 5033, 6033,
    329192, 29192, 25194, 30032, 25192, 25009, 25010, 25011, 110000, 31001, 301001, 301011, 301013, 5001,
    6001, 6196, 25210, 101000, 31001, 48192, 101000, 31001, 48192, 101000, 31192, 21120, 103000, 31192,
    201124, 10002, 201000, 203011, 21001, 203255, 105000, 31192, 201132, 202129,
    21001, 202000, 201000, 203000,
)  # fmt: skip

#: Names and widths [bits] of the elements before the radars (tables B), sequences expanded.
_HEAD = {
    "title": 248, "picture": 4, "composite": 8, "year": 12, "month": 4, "day": 6, "hour": 5, "minute": 6,
    "second": 6, "significance": 5, "period_minutes": 12, "period_seconds": 13, "grid_type": 3,
    "projection": 3, "columns": 12, "rows": 12, "width": 16, "height": 16, "latitude": 25, "longitude": 26,
    "meridian": 26, "centre": 8, "scanning": 8, "true_latitude": 25, "geodetic": 6, "version": 16,
    "combination": 16, "method": 8, "calibration": 4, "clutter": 4, "occultation": 2,
}  # fmt: skip

#: Bits of one radar, of one probability (021120), height (010002 less 4) and reflectivity (021001 plus 4).
_RADAR_BITS, _PROBABILITY_BITS, _HEIGHT_BITS, _REFLECTIVITY_BITS = 133, 10, 12, 11

#: Significances of time (008021) of an observation: analysis, monitoring period, nominal, not given.
_OBSERVED = (16, 23, 25, 31)

#: Longest side [m] of a cell.
_MOST_CELL_M = 20_000.0

#: Cells unpacked at once: a multiple of 8, so that each block begins on a byte of its own.
_BLOCK_CELLS = 2**18


def recognises(source: Source) -> bool:
    """Return whether the content is a BUFR message."""
    return source.head.startswith(b"BUFR")


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame.

    Raises:
        RefusedProduct: If the message is no reflectivity mosaic of Météo-France, or no analysis.
        TooLarge: If it declares more cells than the limits allow.
        UnreadableFile: If it is cut off or contradicts itself.
    """
    name = source.name
    try:
        bits = _Bits(_body(source.content, name), name)
    except (struct.error, IndexError) as error:
        raise UnreadableFile(f"{name}: a section of the BUFR message is too short") from error
    title = bits.text(_HEAD["title"])
    head = {key: bits.number(width) for key, width in _HEAD.items() if key != "title"}
    refuse_forecast(name, title)
    if not title.startswith("Mosaique_") or "_Z_" not in title:
        raise RefusedProduct(f"{name}: expected a mosaic of reflectivity (Mosaique_…_Z_…), got {title!r}")
    if head["significance"] not in _OBSERVED:
        kind = "a forecast" if head["significance"] == 4 else f"time significance {head['significance']}"
        raise RefusedProduct(f"{name}: expected an observation, got {kind} (008021)")
    rows, columns = head["rows"], head["columns"]
    limits.check_cells(rows, columns, name)
    for _ in range(bits.number(8)):  # the radars, each with filling bits
        bits.skip(_RADAR_BITS)
        bits.skip(bits.number(8))
    bits.skip(bits.number(8))
    for width in (_PROBABILITY_BITS, _HEIGHT_BITS):
        bits.skip(_count(bits, rows * columns) * width)
    reference = bits.signed(_REFLECTIVITY_BITS)
    count = _count(bits, rows * columns)
    yield RawFrame(
        values=_values(bits, count, reference).reshape(rows, columns),
        quantity=Quantity.DBZH,
        time=_time(head, name),
        grid=_grid(head, name),
        interval_minutes=None,
        source="Météo-France " + title.replace("_", " "),
    )


def _body(content: bytes, name: str) -> memoryview:
    """Return the data of section 4 of the one message, after every length is checked."""
    length = int.from_bytes(content[4:7], "big")
    if len(content) < 8 or content[7] != 4 or length != len(content) or content[-4:] != b"7777":
        raise UnreadableFile(
            f"{name}: expected a BUFR message of edition 4 that ends in 7777, got {content[7:8].hex()} "
            f"declaring {length} bytes of {len(content)}"
        )
    message, at, sections = memoryview(content), 8, []
    has_second = bool(content[8 + 9] & 0x80)
    for number in (1, 2, 3, 4) if has_second else (1, 3, 4):
        size = int.from_bytes(message[at : at + 3], "big")
        if size < {1: 22, 2: 4, 3: 7, 4: 4}[number] or at + size > length - 4:
            raise UnreadableFile(f"{name}: BUFR section {number} at byte {at} is {size} bytes long")
        sections.append(message[at : at + size])
        at += size
    if at != length - 4:
        raise UnreadableFile(f"{name}: {length - 4 - at} bytes are left after BUFR section 4")
    first, third, fourth = sections[0], sections[-2], sections[-1]
    centre, category = int.from_bytes(first[4:6], "big"), first[10]
    descriptors = struct.unpack(f">{(len(third) - 7) // 2}H", third[7 : 7 + (len(third) - 7) // 2 * 2])
    listed = tuple((d >> 14) * 100_000 + (d >> 8 & 0x3F) * 1000 + (d & 0xFF) for d in descriptors)
    is_mosaic = (centre, category, first[3], first[14]) == (CENTRE, RADAR, 0, LOCAL_TABLES)
    if not is_mosaic or listed != _DESCRIPTORS:
        raise RefusedProduct(
            f"{name}: expected the mosaic of Météo-France (centre {CENTRE}, local tables {LOCAL_TABLES}), "
            f"got centre {centre}, category {category}, tables {first[14]} and {len(listed)} descriptors"
        )
    if int.from_bytes(third[4:6], "big") != 1 or third[6] != 0x80:
        raise RefusedProduct(f"{name}: expected one observed, uncompressed subset, got flags {third[6]:#x}")
    return fourth[4:]


@dataclass
class _Bits:
    """The data of a message, read from its first bit on."""

    data: memoryview
    name: str
    at: int = 0

    def skip(self, count: int) -> int:
        """Go on by so many bits and return where they begin."""
        start = self.at
        if count > len(self.data) * 8 - start:
            raise UnreadableFile(
                f"{self.name}: the BUFR message ends early: {count} bits are declared, "
                f"{len(self.data) * 8 - start} are left"
            )
        self.at += count
        return start

    def number(self, count: int) -> int:
        """Return the next bits as a whole number."""
        start = self.skip(count)
        last = (self.at + 7) // 8
        number = int.from_bytes(self.data[start // 8 : last], "big")
        return number >> (last * 8 - self.at) & (1 << count) - 1

    def signed(self, count: int) -> int:
        """Return a number whose first bit is its sign (operator 2 03)."""
        number = self.number(count)
        sign = 1 << (count - 1)
        return sign - number if number & sign else number

    def text(self, count: int) -> str:
        """Return the next bits as letters."""
        return self.number(count).to_bytes(count // 8, "big").decode("latin-1").strip(" \0")


def _count(bits: _Bits, cells: int) -> int:
    count = bits.number(32)
    if count != cells:
        raise UnreadableFile(f"{bits.name}: expected {cells} values, one for each cell, got {count}")
    return count


def _values(bits: _Bits, count: int, reference: int) -> NDArray[np.float32]:
    """Return (reference + code) / 10 dBZ: the least is no echo, all bits set are not observed."""
    start = bits.skip(count * _REFLECTIVITY_BITS)
    codes = np.arange(2**_REFLECTIVITY_BITS)
    meaning = ((reference + codes) / 10.0).astype(np.float32)
    meaning[0], meaning[-1] = -np.inf, np.nan
    data = np.frombuffer(bits.data, np.uint8)
    weights = 1 << np.arange(_REFLECTIVITY_BITS - 1, -1, -1, dtype=np.uint16)
    values = np.empty(count, np.float32)
    for first in range(0, count, _BLOCK_CELLS):
        cells = min(_BLOCK_CELLS, count - first)
        bit = start + first * _REFLECTIVITY_BITS
        end = bit + cells * _REFLECTIVITY_BITS
        block = np.unpackbits(data[bit // 8 : (end + 7) // 8])[bit % 8 : bit % 8 + end - bit]
        numbers = (block.reshape(cells, _REFLECTIVITY_BITS) * weights).sum(axis=1, dtype=np.uint16)
        values[first : first + cells] = meaning[numbers]
    return values


def _time(head: dict[str, int], name: str) -> datetime:
    parts = [head[key] for key in ("year", "month", "day", "hour", "minute", "second")]
    try:
        return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError as error:
        raise UnreadableFile(f"{name}: {parts} is no time") from error


def _grid(head: dict[str, int], name: str) -> Grid:
    """Return the grid: cells count from the outer corner of the north-western one, rows from the north."""
    facts = head["grid_type"], head["projection"], head["scanning"], head["centre"], head["geodetic"]
    if facts != (0, 1, 0b1110_0000, 0, 0):
        raise RefusedProduct(
            f"{name}: expected a polar stereographic plane of WGS 84 scanned from the north-west, "
            f"got grid type, projection, scanning, centre and geodetic system {facts}"
        )
    latitude, true_latitude = (head[key] / 1e5 - 90.0 for key in ("latitude", "true_latitude"))
    longitude, meridian = (head[key] / 1e5 - 180.0 for key in ("longitude", "meridian"))
    dx, dy = head["width"] * 10.0, head["height"] * 10.0  # tens of metres
    if not (0 < latitude < 90 and 0 < true_latitude <= 90 and abs(longitude) <= 180 and abs(meridian) <= 180):
        raise UnreadableFile(
            f"{name}: a corner at {latitude:g} N {longitude:g} E, true at {true_latitude:g} N, is no place"
        )
    if not 0 < dx <= _MOST_CELL_M or not 0 < dy <= _MOST_CELL_M:
        raise UnreadableFile(f"{name}: cells of {dx:g} x {dy:g} m cannot be right")
    return _placed(
        head["columns"], head["rows"], round(latitude, 5), round(longitude, 5), round(meridian, 5),
        round(true_latitude, 5), dx, dy,
    )  # fmt: skip


@lru_cache(maxsize=8)
def _placed(
    columns: int,
    rows: int,
    north: float,
    west: float,
    meridian: float,
    true_latitude: float,
    dx: float,
    dy: float,
) -> Grid:
    plane = (
        f"+proj=stere +lat_0=90 +lon_0={meridian!r} +lat_ts={true_latitude!r} +ellps=WGS84 +units=m +no_defs"
    )
    x, y = to_plane(plane, np.array([west]), np.array([north]))
    return Grid.from_crs(
        plane, nx=columns, ny=rows, x0=float(x[0]) + dx / 2, y0=float(y[0]) - dy / 2, dx=dx, dy=dy
    )
