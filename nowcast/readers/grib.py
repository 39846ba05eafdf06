"""MRMS mosaics (NOAA): rain rate and reflectivity of the United States in GRIB2, in bulletins or not.

The sections are read here (WMO Manual on Codes, FM 92 GRIB edition 2: fixed offsets), so that size and
product are known before anything is unpacked. MRMS packs its values as PNG images, which need nothing
further; for other packings there is the extra ``grib`` (eccodes).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nowcast.errors import InputError, MissingExtra, RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import FULL_TURN, Grid
from nowcast.readers.bulletins import after_heading
from nowcast.readers.eccodes_last import load_eccodes
from nowcast.readers.source import Limits, Source

#: Originating centre NOAA and MRMS's own discipline: parameter numbers are those of the MRMS tables.
CENTRE, DISCIPLINE = 161, 209

#: Name and quantity of the accepted parameters, by category and number (MRMS GRIB2 tables, version 12.2).
PRODUCTS = {
    (6, 1): ("PrecipRate", Quantity.RATE),
    (3, 57): ("ReflectivityAtLowestAltitude", Quantity.DBZH),
    (8, 8): ("SeamlessHSR", Quantity.DBZH),
    (10, 0): ("MergedReflectivityQCComposite", Quantity.DBZH),
    (11, 0): ("MergedBaseReflectivityQC", Quantity.DBZH),
}

#: Time [minutes] between two mosaics.
STEP_MINUTES = 2.0

#: Reflectivity [dBZ] MRMS writes where its radars look and see nothing. The tables call it "missing" and
#: -999 "no coverage"; that -99 is inside the coverage shows where it stands: cells without coverage in the
#: rain rate (-3) have -999 in the reflectivity, while a dry Oklahoma has 0 mm/h and -99.
NO_ECHO = -99.0

#: Reflectivity [dBZ] below which a number is one of these marks and no measurement.
LEAST_DBZ = -90.0

#: Templates known here: grid 3.0 (latitude and longitude), product 4.0 (at one time), packing 5.41 (PNG).
_LATLON_TEMPLATE, _INSTANT_TEMPLATE, _PNG_TEMPLATE = 0, 0, 41

#: Packings left to eccodes: 5.0 (simple) and 5.42 (CCSDS). On damaged bytes its unpackers of complex packing,
#: JPEG 2000 and PNG end the whole process, so those are not called.
_ECCODES_TEMPLATES = (0, 42)

#: What GRIB calls a forecast (WMO code tables 1.2, 1.4 and 4.3): a reference time that verifies one, types of
#: data and of the process they come from. An observation, an analysis or nothing said is none.
_FORECAST_TIMES, _FORECAST_DATA = (2,), (1, 2, 3, 4, 5, 8)
_FORECAST_PROCESSES = (2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)

#: Product templates whose forecast time stands where that of 4.0 does.
_POINT_TEMPLATES = range(16)

#: Beginning and end of a message; the edition stands 7 bytes behind the beginning.
_MAGIC, _END = b"GRIB", b"7777"
#: Scanning modes (code table 3.4): columns stored from the east, rows from the south.
_WESTWARD, _NORTHWARD = 0x80, 0x40

#: An integer of 32 bits that is not given.
_NOT_GIVEN = 0xFFFFFFFF

#: Section 6 says that every cell has a value.
_NO_BITMAP = b"\xff"

#: What Pillow raises for damaged images.
_PNG_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)

#: Rows unpacked at once, so that the indices numpy makes of codes stay in the processor's cache.
_BLOCK_ROWS = 64


def recognises(source: Source) -> bool:
    """Return whether the content is a GRIB message, behind a bulletin's heading or not."""
    start = after_heading(source.head)
    return source.head.startswith(_MAGIC, start)


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield a frame for each message, in the order of their times.

    Headings and trailers of bulletins, filling and other bytes between and after messages are passed over.

    Raises:
        MissingExtra: If the values are packed otherwise than MRMS does and eccodes is not installed.
        RefusedProduct: If a message is no MRMS rain rate or reflectivity, or a forecast.
        TooLarge: If a message declares more cells than the limits allow.
        UnreadableFile: If it is cut off or contradicts itself. The frames of the others come before.
    """
    content = source.content
    errors: list[InputError] = []
    messages: list[tuple[datetime, memoryview]] = []
    for found in _messages(content, source.name):
        try:
            if isinstance(found, InputError):
                raise found
            messages.append((_time(_sections(found, source.name)[1], source.name), found))
        except struct.error as error:
            errors.append(_too_short(source.name, error))
        except InputError as error:
            errors.append(error)
    for _, message in sorted(messages, key=lambda message: message[0]):
        try:
            yield _frame(message, source.name, limits)
        except struct.error as error:
            errors.append(_too_short(source.name, error))
        except InputError as error:
            errors.append(error)
    if errors:
        more = f" (and {len(errors) - 1} more messages)" if len(errors) > 1 else ""
        raise type(errors[0])(f"{errors[0]}{more}") from errors[0]


def _too_short(name: str, cause: struct.error) -> UnreadableFile:
    error = UnreadableFile(f"{name}: a section of the GRIB message is too short")
    error.__cause__ = cause
    return error


def _messages(content: bytes, name: str) -> Iterator[memoryview | InputError]:
    """Yield the messages of a file, or what is wrong with one; after a damaged one the next is looked for."""
    start, behind = content.find(_MAGIC), 0
    while start >= 0:
        try:
            message = _message(content, start, name)
            behind = start + len(message)
            yield message
        except InputError as error:
            yield error
            behind = start + len(_MAGIC)
        next_start = content.find(_MAGIC, behind)
        gap = content[behind : next_start if next_start >= 0 else len(content)]
        if behind - start > len(_MAGIC) and _END in gap:
            yield UnreadableFile(f"{name}: expected a GRIB message at byte {behind}, got only its end")
        start = next_start


def _message(content: bytes, start: int, name: str) -> memoryview:
    """Return the message that starts there."""
    head = content[start : start + 16]
    if len(head) < 16 or not head.startswith(b"GRIB"):
        raise UnreadableFile(f"{name}: expected a GRIB message at byte {start}")
    if head[7] != 2:
        raise RefusedProduct(f"{name}: GRIB edition {head[7]}; expected edition 2, which MRMS uses")
    length = int.from_bytes(head[8:16], "big")
    message = memoryview(content)[start : start + length]
    if length < 16 or len(message) < length or bytes(message[-4:]) != b"7777":
        raise UnreadableFile(
            f"{name}: the GRIB message declares {length} bytes, of which {len(message)} are there, "
            "or does not end in 7777"
        )
    return message


def _sections(message: memoryview, name: str) -> dict[int, memoryview]:
    """Return sections 1 to 7 by their number."""
    sections: dict[int, memoryview] = {}
    at, end = 16, len(message) - 4
    while at < end:
        length, number = struct.unpack_from(">IB", message, at)
        if length < 5 or at + length > end or number in sections:
            raise UnreadableFile(
                f"{name}: GRIB section {number} at byte {at} is {length} bytes long, or repeated"
            )
        sections[number] = message[at : at + length]
        at += length
    if not {1, 3, 4, 5, 6, 7} <= sections.keys():
        raise UnreadableFile(f"{name}: expected GRIB sections 1 and 3 to 7, got {sorted(sections)}")
    return sections


def _frame(message: memoryview, name: str, limits: Limits) -> RawFrame:
    sections = _sections(message, name)
    product, quantity = _product(message, sections, name)
    grid, down, across = _grid(bytes(sections[3]), name, limits)
    values = _values(message, sections, grid, quantity, name)
    return RawFrame(
        values=np.ascontiguousarray(values[::down, ::across]),
        quantity=quantity,
        time=_time(sections[1], name),
        grid=grid,
        interval_minutes=STEP_MINUTES,
        source=f"NOAA MRMS {product}",
    )


def _product(message: memoryview, sections: dict[int, memoryview], name: str) -> tuple[str, Quantity]:
    (centre,) = struct.unpack_from(">H", sections[1], 5)
    template, category, number = struct.unpack_from(">HBB", sections[4], 7)
    _refuse_forecast(sections, template, name)
    known = PRODUCTS.get((category, number))
    if (centre, message[6]) != (CENTRE, DISCIPLINE) or known is None or template != _INSTANT_TEMPLATE:
        raise RefusedProduct(
            f"{name}: expected an MRMS rain rate or reflectivity (centre 161, discipline 209), got "
            f"{centre}, {message[6]}, parameter {category}-{number} by template 4.{template}"
        )
    return known


def _refuse_forecast(sections: dict[int, memoryview], template: int, name: str) -> None:
    """Refuse a message whose times, data or process are those of a forecast."""
    reference, data = struct.unpack_from(">B8xB", sections[1], 11)
    if template in _POINT_TEMPLATES:
        process, ahead = struct.unpack_from(">B6xI", sections[4], 11)
        if ahead != 0:
            raise RefusedProduct(f"{name}: a forecast ({ahead} time units ahead), not an observation")
        if process in _FORECAST_PROCESSES:
            raise RefusedProduct(f"{name}: a forecast (generating process {process}), not an observation")
    if reference in _FORECAST_TIMES or data in _FORECAST_DATA:
        raise RefusedProduct(
            f"{name}: a forecast (significance of its time {reference}, type of data {data}), "
            "not an observation"
        )


def _time(section: memoryview, name: str) -> datetime:
    year, month, day, hour, minute, second = struct.unpack_from(">H5B", section, 12)
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise UnreadableFile(f"{name}: {year}-{month}-{day} {hour}:{minute}:{second} is no time") from error


def _signed(number: int) -> int:
    """Return a GRIB2 integer of 32 bits, whose first bit is the sign."""
    return -(number & 0x7FFFFFFF) if number & 0x80000000 else number


def _grid(section: bytes, name: str, limits: Limits) -> tuple[Grid, int, int]:
    """Return the grid, and the steps that put its rows and columns in order; -1 from the south or the east.

    Convention: degrees are taken as those of WGS 84, whichever sphere or ellipsoid the message names.
    """
    (template,) = struct.unpack_from(">H", section, 12)
    if template != _LATLON_TEMPLATE:
        raise UnreadableFile(f"{name}: expected a latitude-longitude grid (template 3.0), got 3.{template}")
    nx, ny = struct.unpack_from(">II", section, 30)
    limits.check_cells(ny, nx, name)
    basic, parts, lat_1, lon_1, _, lat_2, lon_2, di, dj, scanning = struct.unpack_from(
        ">IIIIBIIIIB", section, 38
    )
    if basic in (0, _NOT_GIVEN):
        basic, parts = 1, 1_000_000
    if not 0 < basic <= parts or scanning & ~(_WESTWARD | _NORTHWARD):
        raise UnreadableFile(
            f"{name}: expected row after row in fractions of a degree, got scanning mode {scanning} and"
            f" units of {basic}/{parts} degrees"
        )
    unit = basic / parts
    lat_1, lon_1, lat_2, lon_2 = (_signed(angle) * unit for angle in (lat_1, lon_1, lat_2, lon_2))
    dx, dy = di * unit, dj * unit
    across = -1 if scanning & _WESTWARD else 1
    beyond = ((lon_2 - lon_1) * across - (nx - 1) * dx) % FULL_TURN  # 359.5 to 0.5 is one degree
    if min(beyond, FULL_TURN - beyond) > dx / 2 or abs(abs(lat_2 - lat_1) - (ny - 1) * dy) > dy / 2:
        raise UnreadableFile(
            f"{name}: {ny} x {nx} cells of {dy:g} x {dx:g} degrees do not lie between "
            f"{lat_1:g} N {lon_1:g} E and {lat_2:g} N {lon_2:g} E"
        )
    if not (abs(lat_1) <= 90 and abs(lat_2) <= 90 and -180 <= lon_1 <= 360):
        raise UnreadableFile(f"{name}: {lat_1:g} to {lat_2:g} N, {lon_1:g} E is no place on earth")
    west = lon_1 if across == 1 else lon_1 - (nx - 1) * dx
    grid = _latlon(nx, ny, round((west + 180) % FULL_TURN - 180, 6), max(lat_1, lat_2), dx, dy)
    return grid, -1 if scanning & _NORTHWARD else 1, across


@lru_cache(maxsize=8)
def _latlon(nx: int, ny: int, x0: float, y0: float, dx: float, dy: float) -> Grid:
    # The message names the ellipsoid of IAU 1965; geodetic coordinates on it and on WGS 84 differ by far less
    # than a cell, and no transformation between the two is defined.
    return Grid.from_crs("EPSG:4326", nx=nx, ny=ny, x0=x0, y0=y0, dx=dx, dy=dy)


def _values(
    message: memoryview, sections: dict[int, memoryview], grid: Grid, quantity: Quantity, name: str
) -> NDArray[np.float32]:
    """Return the values ``(y, x)`` in the order they are stored: (R + X 2^E) 10^-D for the code X."""
    points, template, reference, *exponents, bits = struct.unpack_from(">IHfHHB", sections[5], 5)
    binary, decimal = (-(e & 0x7FFF) if e & 0x8000 else e for e in exponents)
    has_bitmap = sections[6][5:6] != _NO_BITMAP  # then only cells with a value are packed
    if points > grid.nx * grid.ny or (points < grid.nx * grid.ny and not has_bitmap):
        raise UnreadableFile(f"{name}: {points} values are packed for a grid of {grid.ny} x {grid.nx} cells")
    if not abs(reference) < 1e6 or abs(binary) > 32 or abs(decimal) > 10:
        raise UnreadableFile(
            f"{name}: a packing by {reference:g}, 2^{binary} and 10^{decimal} cannot be right"
        )
    if not has_bitmap and (bits == 0 or (template == _PNG_TEMPLATE and bits in (8, 16))):
        unpacked = (reference + np.arange(2**bits) * 2.0**binary) / 10.0**decimal
        meaning = _states(unpacked, quantity).astype(np.float32)
        if bits == 0:  # all cells have the same value and nothing is packed
            return np.full(grid.shape, meaning[0])
        codes = _image(sections[7][5:], grid, bits, name)
        values = np.empty(grid.shape, np.float32)
        for row in range(0, grid.ny, _BLOCK_ROWS):
            np.take(meaning, codes[row : row + _BLOCK_ROWS], out=values[row : row + _BLOCK_ROWS], mode="clip")
        return values
    if template not in _ECCODES_TEMPLATES:
        raise UnreadableFile(
            f"{name}: expected values packed as PNG of 8 or 16 bits (template 5.41), as MRMS publishes them, "
            f"or by 5.0 or 5.42, got 5.{template} of {bits} bits"
        )
    return _states(_unpack_with_eccodes(message, grid, template, name), quantity)


def _states(values: NDArray[Any], quantity: Quantity) -> NDArray[Any]:
    """Return the values with NaN for no coverage and missing, and -inf for no echo (changed in place)."""
    if quantity is Quantity.RATE:
        values[~(values >= 0)] = np.nan  # -3 = no coverage, -1 = missing
        return values
    no_echo = np.abs(values - NO_ECHO) < 0.05
    values[~(values >= LEAST_DBZ)] = np.nan  # -999 = no coverage
    values[no_echo] = -np.inf
    return values


def _image(data: memoryview, grid: Grid, bits: int, name: str) -> NDArray[np.uint8 | np.uint16]:
    """Return the codes ``(y, x)`` of a greyscale PNG, whose size is known before it is unpacked."""
    head = struct.unpack(">8s4x4sIIBB", data[:26]) if len(data) >= 26 else ()
    if head != (b"\x89PNG\r\n\x1a\n", b"IHDR", grid.nx, grid.ny, bits, 0):
        raise UnreadableFile(f"{name}: expected a grey PNG of {grid.ny} x {grid.nx} pixels in {bits} bits")
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        codes = np.asarray(image)
    except _PNG_ERRORS as error:
        raise UnreadableFile(f"{name}: the PNG image with the values is damaged") from error
    if codes.shape != grid.shape or codes.dtype not in (np.uint8, np.uint16):
        raise UnreadableFile(f"{name}: the PNG image holds {codes.dtype} on {codes.shape} pixels")
    return codes


def _unpack_with_eccodes(message: memoryview, grid: Grid, template: int, name: str) -> NDArray[np.float32]:
    """Return the values of a message whose packing is not MRMS's own."""
    try:
        eccodes = load_eccodes()
    except ImportError as error:
        raise MissingExtra(
            f"{name}: values packed by template 5.{template} need eccodes: "
            "pip install 'nowcast-service[grib]'"
        ) from error
    handle = None
    try:
        handle = eccodes.codes_new_from_message(bytes(message))
        eccodes.codes_set(handle, "missingValue", 1e20)  # where a bitmap leaves a cell out
        values = np.asarray(eccodes.codes_get_values(handle), np.float32)
    except eccodes.CodesInternalError as error:
        raise UnreadableFile(f"{name}: eccodes cannot unpack the values: {error}") from error
    finally:
        if handle is not None:
            eccodes.codes_release(handle)
    if values.size != grid.nx * grid.ny:
        raise UnreadableFile(f"{name}: {values.size} values came for {grid.ny} x {grid.nx} cells")
    values[values > 1e19] = np.nan
    return values.reshape(grid.shape)
