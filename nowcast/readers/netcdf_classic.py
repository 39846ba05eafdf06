"""Classic netCDF files (versions 1, 2 and 5) taken apart: no library, no number in the header trusted.

Source: NetCDF Classic Format Specification, Unidata (netCDF 4.9 documentation, appendix B.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import TooLarge, UnreadableFile
from nowcast.readers.hdf5 import MAX_ATTRIBUTE_BYTES, MAX_MEMBERS, Attribute, plain

#: Signature of a classic netCDF file by version.
MAGICS = (b"CDF\1", b"CDF\2", b"CDF\5")

_TYPES = {1: "i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8"}
_TYPES_OF_VERSION_5 = {7: "u1", 8: ">u2", 9: ">u4", 10: ">i8", 11: ">u8"}
_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 0x0A, 0x0B, 0x0C


@dataclass(frozen=True)
class ClassicVariable:
    """One variable: its dimensions, attributes and their types, and what it holds as a view into the file."""

    dimensions: tuple[str, ...]
    attributes: dict[str, Attribute]
    types: dict[str, np.dtype[Any]]
    values: NDArray[Any]


@dataclass(frozen=True)
class _Declared:
    axes: list[tuple[str, int]]
    attributes: dict[str, Attribute]
    types: dict[str, np.dtype[Any]]
    kind: np.dtype[Any]
    begin: int

    @property
    def is_record(self) -> bool:
        return bool(self.axes) and self.axes[0][1] == 0

    @property
    def row_bytes(self) -> int:
        return int(np.prod([n for _, n in self.axes[1:]], dtype=np.float64)) * self.kind.itemsize


def parse(content: bytes) -> tuple[dict[str, Attribute], dict[str, ClassicVariable]]:
    """Return the global attributes and the variables of a classic file.

    Raises:
        UnreadableFile: If the header is cut off or contradicts the file's size.
        TooLarge: If it lists more than :data:`nowcast.readers.hdf5.MAX_MEMBERS` of anything.
    """
    header = _Header(content)
    records = header.count()
    dimensions = [(header.name(), header.length()) for _ in header.entries(_DIMENSIONS)]
    attributes, _ = header.attributes()
    declared = {}
    for _ in header.entries(_VARIABLES):
        name = header.name()
        axes = [dimensions[header.count()] for _ in range(header.length())]
        declared[name] = _Declared(axes, *header.attributes(), *header.kind_and_begin())

    # A dimension of length 0 is the record dimension: its variables take turns, record after record, each
    # padded to four bytes unless it is alone.
    rows = [variable.row_bytes for variable in declared.values() if variable.is_record]
    record_bytes = rows[0] if len(rows) == 1 else sum(size + -size % 4 for size in rows)
    variables = {}
    for name, variable in declared.items():
        values = _values(content, variable, records, record_bytes)
        names = tuple(axis for axis, _ in variable.axes)
        variables[name] = ClassicVariable(names, variable.attributes, variable.types, values)
    return attributes, variables


def _values(content: bytes, variable: _Declared, records: int, record_bytes: int) -> NDArray[Any]:
    """Return a variable as a view into the file; numpy refuses what does not fit."""
    lengths = [n for _, n in variable.axes]
    strides = [variable.kind.itemsize] * len(lengths)
    for i in reversed(range(len(lengths) - 1)):
        strides[i] = strides[i + 1] * lengths[i + 1]
    if variable.is_record:
        lengths[0], strides[0] = records, record_bytes
    return np.ndarray(tuple(lengths), variable.kind, content, variable.begin, tuple(strides))


class _Header:
    """Reads a header from its start to its end."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 4
        self.is_version_1 = content[3] == 1
        self.is_version_5 = content[3] == 5
        self.types = _TYPES | (_TYPES_OF_VERSION_5 if self.is_version_5 else {})

    def integer(self, code: str) -> int:
        (value,) = struct.unpack_from(">" + code, self.content, self.position)
        self.position += struct.calcsize(code)
        return int(value)

    def count(self) -> int:
        return self.integer("Q" if self.is_version_5 else "I")

    def length(self) -> int:
        """Return the length of something that takes at least a byte each, or of a dimension."""
        length = self.count()
        if length > len(self.content):
            raise UnreadableFile(f"the header counts {length} in a file of {len(self.content)} bytes")
        return length

    def raw(self, size: int) -> bytes:
        taken = self.content[self.position : self.position + size]
        if len(taken) < size:
            raise UnreadableFile("the header is cut off")
        self.position += size + -size % 4
        return taken

    def name(self) -> str:
        return self.raw(self.length()).decode("utf-8", errors="replace")

    def entries(self, tag: int) -> range:
        found, count = self.integer("I"), self.length()
        if found != tag and (found or count):
            raise UnreadableFile(f"expected list {tag:#x} in the header, found {found:#x}")
        if count > MAX_MEMBERS:
            raise TooLarge(f"the header lists {count} entries; at most {MAX_MEMBERS} are looked at")
        return range(count)

    def kind(self) -> np.dtype[Any]:
        code = self.integer("I")
        if code not in self.types:
            raise UnreadableFile(f"unknown type {code} in the header")
        return np.dtype(self.types[code])

    def kind_and_begin(self) -> tuple[np.dtype[Any], int]:
        kind = self.kind()
        self.count()  # the variable's size: redundant, and too small a number for large ones
        return kind, self.integer("I" if self.is_version_1 else "Q")

    def attributes(self) -> tuple[dict[str, Attribute], dict[str, np.dtype[Any]]]:
        """Return the attributes of the next list, and the type each is stored in."""
        found, types = {}, {}
        for _ in self.entries(_ATTRIBUTES):
            name, kind, count = self.name(), self.kind(), self.length()
            raw = self.raw(count * kind.itemsize)
            if len(raw) <= MAX_ATTRIBUTE_BYTES:
                value = plain(raw if kind.kind == "S" else np.frombuffer(raw, dtype=kind))
                if value is not None:
                    found[name], types[name] = value, kind
        return found, types
