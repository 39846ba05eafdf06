"""DWD RADOLAN and RADVOR composites in their binary format.

Source of the format: DWD, RADOLAN/RADVOR-OP Beschreibung des Kompositformats, version 2.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import Proj

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers.source import Limits, Source, parse_time

#: Precipitation sums [mm] in two bytes over the interval in the header: 5 minutes, hours, days and weeks.
_SUMS = frozenset(
    {"RZ", "RY", "RV", "YW", "EZ", "EY"}
    | {"RH", "RB", "RW", "RL", "RU", "RS", "RQ", "EH", "EB", "EW"}
    | {"SQ", "SH", "SF", "W1", "W2", "W3", "W4"}
)

#: Reflectivity [half dBZ above -32.5], one byte (national, extended and European composite) or two.
_REFLECTIVITY, _REFLECTIVITY_TWO_BYTES = frozenset({"RX", "WX", "EX"}), "WN"

#: Products that are an analysis and the forecasts from it; only their header tells one from the other.
_WITH_FORECASTS = frozenset({"RV", "RS", "RQ", "WN"})

#: Known products that are no precipitation frames, and what they are.
_REFUSED = {
    "RE": "the aggregate state of precipitation and hail",
    "FX": "a forecast of reflectivity",
    "RD": "a difference of two sums",
    "PG": "a picture in seven classes",
    "PC": "a picture in seven classes",
}

#: Columns and rows from the outer south-western corner to the reference point 9 E 51 N, by rows and columns.
_REFERENCE_POINT = {
    (900, 900): (450, 450),
    (1100, 900): (370, 550),
    (1200, 1100): (470, 600),
    (1500, 1400): (600, 800),
}

#: Polar stereographic plane on DWD's sphere, and since format version 5 on WGS 84.
_PROJECTION = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 {earth} +units=m +no_defs"
_SPHERE, _WGS84 = "+R=6370040", "+datum=WGS84"

#: Start of every header: product, day and time, station (10000 = composite), month and year.
_START = re.compile(rb"[A-Z][A-Z0-9]\d{11}\d{4}BY[ \d]{7}")

_HEADER = re.compile(
    rb"(?P<product>[A-Z][A-Z0-9])(?P<day>\d{6})(?P<station>\d{5})(?P<month>\d{4})"
    rb"BY(?P<size>[ \d]{7,10})VS(?P<version>[ \d]{2})SW(?P<software>[ -~]{9})PR *(?P<precision>E[+-]\d\d)"
    rb"INT(?P<interval>[ \d]{4})(?:U(?P<unit>[01]))?GP(?P<rows>[ \d]{4})x(?P<columns>[ \d]{4})"
    rb"(?:VV(?P<lead>[ \d]{4}))?(?:MF[ \d]{9})?(?:QN[ \d]{4})?(?:VR[ -~]{8})?"
    rb"MS[ \d]{3}(?:<(?P<radars>[^>\x03]*)>)?[^\x03]*\x03"
)

#: Longest header [bytes] looked at; a daily sum's is 245.
_LONGEST_HEADER = 4096


@dataclass(frozen=True)
class _Header:
    product: str
    time: str
    bytes_declared: int
    bytes_of_header: int
    version: int
    precision: float
    interval_minutes: float
    rows: int
    columns: int
    lead_minutes: int
    radars: str


def recognises(source: Source) -> bool:
    """Return whether the content is a RADOLAN composite."""
    return bool(_START.match(source.head))


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame.

    Raises:
        RefusedProduct: If the composite is a forecast or no precipitation.
        TooLarge: If it declares more cells than the limits allow.
        UnreadableFile: If header and size are not as expected.
    """
    header = _parse(source.content, source.name)
    if header.lead_minutes > 0:
        raise RefusedProduct(
            f"{source.name}: RADOLAN {header.product} {header.lead_minutes} minutes ahead is a forecast, "
            "not an observation"
        )
    yield _frame(source.content, header, source.name, limits)


def _parse(content: bytes, name: str) -> _Header:
    """Return the header of a precipitation composite."""
    product = content[:2].decode("latin-1")
    known = product in _SUMS or product in _REFLECTIVITY or product == _REFLECTIVITY_TWO_BYTES
    if not known:
        what = _REFUSED.get(product, "not a product this reader knows to be precipitation")
        raise RefusedProduct(f"{name}: RADOLAN {product} is {what}")
    found = _HEADER.match(content, 0, _LONGEST_HEADER)
    if found is None:
        raise UnreadableFile(f"{name}: the header of RADOLAN {product} is not as the format describes it")
    text = {key: value.decode("latin-1") for key, value in found.groupdict(default=b"").items()}
    if text["station"] != "10000":
        raise RefusedProduct(f"{name}: expected a composite (station 10000), got station {text['station']}")
    if product in _WITH_FORECASTS and not text["lead"]:
        raise UnreadableFile(f"{name}: RADOLAN {product} must tell its lead time (VV) in the header")
    try:
        return _Header(
            product=product,
            time=text["day"] + text["month"],
            bytes_declared=int(text["size"]),
            bytes_of_header=found.end(),
            version=int(text["version"]),
            precision=float(f"1{text['precision']}"),
            interval_minutes=int(text["interval"]) * (1440.0 if text["unit"] == "1" else 1.0),
            rows=int(text["rows"]),
            columns=int(text["columns"]),
            lead_minutes=int(text["lead"] or 0),
            radars=text["radars"],
        )
    except ValueError as error:  # "1 2" is no number
        raise UnreadableFile(f"{name}: a number in the header of RADOLAN {product} is damaged") from error


def _frame(content: bytes, header: _Header, name: str, limits: Limits) -> RawFrame:
    limits.check_cells(header.rows, header.columns, name)
    one_byte = header.product in _REFLECTIVITY
    expected = header.bytes_of_header + header.rows * header.columns * (1 if one_byte else 2)
    if not header.bytes_declared == len(content) == expected:
        raise UnreadableFile(
            f"{name}: {header.rows} x {header.columns} cells with their header take {expected} bytes, "
            f"{header.bytes_declared} are declared and {len(content)} are there"
        )
    if not 1e-4 <= header.precision <= 1.0:
        raise UnreadableFile(f"{name}: a precision of {header.precision:g} cannot be right")
    meaning = _byte_meaning() if one_byte else _word_meaning(header.precision, header.product in _SUMS)
    cells = np.frombuffer(content, np.uint8 if one_byte else "<u2", offset=header.bytes_of_header)
    return RawFrame(
        values=np.take(meaning, cells.reshape(header.rows, header.columns)[::-1]),  # stored south to north
        quantity=Quantity.ACRR if header.product in _SUMS else Quantity.DBZH,
        time=parse_time(header.time, "%d%H%M%m%y", name),
        grid=_grid(header.rows, header.columns, _WGS84 if header.version >= 5 else _SPHERE),
        interval_minutes=header.interval_minutes,
        source=f"DWD RADOLAN {header.product}",
        attributes={"radars": header.radars},
    )


@lru_cache(maxsize=1)
def _byte_meaning() -> NDArray[np.float32]:
    """Return the reflectivity [dBZ] of each byte: 0 = no echo, 249 = clutter, 250 = no data."""
    dbz = (np.arange(256) / 2.0 - 32.5).astype(np.float32)
    dbz[0], dbz[249:] = -np.inf, np.nan
    return dbz


@lru_cache(maxsize=8)
def _word_meaning(precision: float, is_sum: bool) -> NDArray[np.float32]:
    """Return the sum [mm] or reflectivity [dBZ] of each two-byte word.

    Twelve bits of value and four flags: 0x1000 from a secondary source (a measurement all the same), 0x2000
    no data, 0x4000 negative (no sum is), 0x8000 clutter. Clutter with the value 2490 was left empty; with any
    other value it was filled: in YW those follow their unflagged neighbours with a correlation above 0.93.
    """
    words = np.arange(65536)
    number = words & 0x0FFF
    values = number * precision
    if not is_sum:
        values = np.where(number == 0, -np.inf, values / 2.0 - 32.5)
    values[(words & 0x6000 > 0) | ((words & 0x8000 > 0) & (number == 2490))] = np.nan
    return values.astype(np.float32)


@lru_cache(maxsize=8)
def _grid(rows: int, columns: int, earth: str) -> Grid:
    """Return one of DWD's grids of 1 km."""
    if (rows, columns) not in _REFERENCE_POINT:
        known = ", ".join(f"{ny} x {nx}" for ny, nx in _REFERENCE_POINT)
        raise UnreadableFile(f"RADOLAN: expected one of DWD's grids ({known}), got {rows} x {columns}")
    west, south = _REFERENCE_POINT[rows, columns]
    projection = _PROJECTION.format(earth=earth)
    x, y = Proj(projection)(9.0, 51.0)
    return Grid.from_crs(
        projection,
        nx=columns,
        ny=rows,
        x0=x + 1000.0 * (0.5 - west),
        y0=y + 1000.0 * (rows - south - 0.5),
        dx=1000.0,
        dy=1000.0,
    )
