"""Met Office NIMROD files: rain rate on the British National Grid."""

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
from nowcast.readers.source import Limits, Source

#: Fortran record of the header: its length before and after, 31 integers, 28 and 45 reals, three texts of 8,
#: 24 and 24 letters, 51 integers, all big-endian (Met Office NIMROD file specification, header release 2).
_RECORD = struct.Struct(">i31h28f45f8s24s24s51hi")

#: Bytes of the header without the two lengths.
_HEADER_BYTES = 512

#: Field code of a precipitation rate.
_PRECIPITATION_RATE = 213

#: Value of a header element that is not given.
_NOT_GIVEN = -32767

#: Scale of the data, by its unit: 1/32 mm/h in integers.
_MM_PER_HOUR = {"mm/h*32": 32.0, "mm/hr*32": 32.0, "mm/h": 1.0, "mm/hr": 1.0}

#: Kinds of data, by the header's type (0 = real, 1 = integer, 2 = byte) and bytes per value.
_DTYPES = {(0, 4): ">f4", (1, 2): ">i2", (1, 4): ">i4", (2, 1): ">u1"}


@dataclass(frozen=True)
class _Header:
    """What this reader needs of the header; the comments are positions in the specification's list."""

    valid: tuple[int, ...]  # 1-6
    issued: tuple[int, ...]  # 7-11
    kind: tuple[int, int]  # 12, 13
    grid_type: int  # 15
    rows: int  # 16
    columns: int  # 17
    field_code: int  # 19
    origin: int  # 24
    missing_integer: int  # 25
    y0: float  # 34
    dy: float  # 35
    x0: float  # 36
    dx: float  # 37
    missing_real: float  # 38
    top_left: tuple[float, float]  # 60, 61
    unit: str  # 105
    source: str  # 106
    title: str  # 107


def recognises(source: Source) -> bool:
    """Return whether the content starts with a NIMROD header record."""
    head = source.head
    return (
        len(head) >= 16
        and head.startswith(struct.pack(">i", _HEADER_BYTES))
        and 1950 <= struct.unpack_from(">h", head, 4)[0] <= 2200
    )


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame.

    Raises:
        RefusedProduct: If the field is no rain rate, a forecast, or on another grid than the national one.
        UnreadableFile: If the file is cut off or contradicts itself.
    """
    content = source.content
    header = _header(content, source.name)
    if header.field_code != _PRECIPITATION_RATE or header.unit not in _MM_PER_HOUR:
        raise RefusedProduct(
            f"{source.name}: expected a precipitation rate (field code 213) in mm/h, got {header.title!r} "
            f"(field code {header.field_code}) in {header.unit!r}"
        )
    valid, issued = _time(header.valid, source.name), _time((*header.issued, 0), source.name)
    if valid > issued:
        raise RefusedProduct(
            f"{source.name}: a forecast for {valid:%H:%M} made at {issued:%H:%M}, not an observation"
        )
    if header.grid_type != 0 or header.origin != 0:
        raise RefusedProduct(
            f"{source.name}: expected the British National Grid from its north-western corner (0, 0), "
            f"got grid type {header.grid_type} and origin {header.origin}"
        )
    limits.check_cells(header.rows, header.columns, source.name)
    yield RawFrame(
        values=_values(content, header, source.name),
        quantity=Quantity.RATE,
        time=valid,
        grid=_grid(header.rows, header.columns, header.x0, header.y0, header.dx, header.dy, header.top_left),
        interval_minutes=None,
        source=f"Met Office {header.title or 'NIMROD'}",
        attributes={"source_text": header.source},
    )


def _header(content: bytes, name: str) -> _Header:
    if len(content) < _RECORD.size:
        raise UnreadableFile(f"{name}: expected a header of {_RECORD.size} bytes, got {len(content)}")
    items = _RECORD.unpack_from(content)
    if items[0] != _HEADER_BYTES or items[-1] != _HEADER_BYTES:
        raise UnreadableFile(
            f"{name}: the header record is {items[0]} and {items[-1]} bytes long, expected 512"
        )
    unit, source, title = (text.decode("latin-1").replace("\0", " ").strip() for text in items[105:108])
    return _Header(
        valid=items[1:7],
        issued=items[7:12],
        kind=items[12:14],
        grid_type=items[15],
        rows=items[16],
        columns=items[17],
        field_code=items[19],
        origin=items[24],
        missing_integer=items[25],
        y0=items[34],
        dy=items[35],
        x0=items[36],
        dx=items[37],
        missing_real=items[38],
        top_left=items[60:62],
        unit=unit,
        source=source,
        title=title,
    )


def _time(parts: tuple[int, ...], name: str) -> datetime:
    try:
        return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]
    except (ValueError, OverflowError) as error:
        raise UnreadableFile(f"{name}: {parts} is no time") from error


def _values(content: bytes, header: _Header, name: str) -> NDArray[np.float32]:
    """Return the rain rate [mm/h] ``(y, x)``; 0 = no rain, NaN where the file has its missing value."""
    dtype = _DTYPES.get(header.kind)
    if dtype is None:
        raise UnreadableFile(f"{name}: data of type {header.kind[0]} in {header.kind[1]} bytes are not known")
    cells = header.rows * header.columns
    size = cells * header.kind[1]
    lengths = content[_RECORD.size :][:4], content[_RECORD.size + 4 + size :]
    if lengths != (struct.pack(">i", size),) * 2:
        raise UnreadableFile(
            f"{name}: expected {header.rows} x {header.columns} values in one record of {size} bytes "
            "after the header"
        )
    stored = np.frombuffer(content, dtype, count=cells, offset=_RECORD.size + 4)
    missing = header.missing_real if header.kind[0] == 0 else header.missing_integer
    with np.errstate(invalid="ignore"):  # a signalling NaN in a damaged file
        values: NDArray[np.float32] = stored.astype(np.float32)
        values /= np.float32(_MM_PER_HOUR[header.unit])
        # The missing value is -1; any other negative number is no rate either.
        values[(stored == missing) | ~((values >= 0) & (values < np.inf))] = np.nan
    return values.reshape(header.rows, header.columns)


@lru_cache(maxsize=32)
def _grid(
    rows: int, columns: int, x0: float, y0: float, dx: float, dy: float, top_left: tuple[float, float]
) -> Grid:
    """Return the grid from the centre of the north-western cell; its outer corner is checked where given."""
    if _NOT_GIVEN not in top_left:
        north, west = top_left
        if not (abs(y0 + dy / 2 - north) < dy / 4 and abs(x0 - dx / 2 - west) < dx / 4):
            raise UnreadableFile(
                f"NIMROD: the first cell, centred on ({x0:g}, {y0:g}) m, does not touch "
                f"the corner ({west:g}, {north:g}) m"
            )
    return Grid.from_crs("EPSG:27700", nx=columns, ny=rows, x0=x0, y0=y0, dx=dx, dy=dy)
