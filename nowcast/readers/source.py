"""One opened radar file: bounded access to its bytes, whatever wraps them."""

from __future__ import annotations

import bz2
import gzip
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, cast

from nowcast.errors import TooLarge, UnreadableFile
from nowcast.readers.declared import Declared

#: First bytes of the two compressions agencies use (RFC 1952, section 2.3.1; bzip2 format).
GZIP, BZIP2 = b"\x1f\x8b", b"BZh"

#: Bytes asked for at once where the size is not known beforehand.
CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Limits:
    """What one file may cost.

    Attributes:
        max_file_bytes: Size on disk.
        max_expanded_bytes: Size after decompression.
        max_cells: Rows times columns of one frame; the largest composite in use, OPERA's, has 17 million.
    """

    max_file_bytes: int = 512 * 2**20
    max_expanded_bytes: int = 1024 * 2**20
    max_cells: int = 64_000_000

    def check_cells(self, rows: int, columns: int, what: str) -> None:
        """Refuse declared sizes before memory is taken for them.

        Raises:
            UnreadableFile: If a size is not positive.
            TooLarge: If the product exceeds ``max_cells``.
        """
        if rows <= 0 or columns <= 0:
            raise UnreadableFile(
                f"{what}: declares {rows} rows and {columns} columns; expected positive numbers"
            )
        if rows * columns > self.max_cells:
            raise TooLarge(
                f"{what}: declares {rows} x {columns} cells; at most {self.max_cells} are read from one frame"
            )


@dataclass(frozen=True)
class Source:
    """A file on disk, seen through gzip or bzip2 if it is compressed.

    Attributes:
        path: Where it lies; formats whose library wants a path (HDF5) use it.
        limits: Bounds on what :meth:`content` may take.
        declared: What a person says of the file where it is silent itself.
    """

    path: Path
    limits: Limits
    declared: Declared = field(default_factory=Declared)

    @property
    def name(self) -> str:
        """File name without the ending of its compression."""
        return self.path.name.removesuffix(".gz").removesuffix(".bz2")

    @cached_property
    def raw_head(self) -> bytes:
        """First 512 bytes as they lie on disk."""
        with self.path.open("rb") as file:
            return file.read(512)

    @property
    def is_compressed(self) -> bool:
        """Whether gzip or bzip2 wraps the content."""
        return self.raw_head.startswith((GZIP, BZIP2))

    @cached_property
    def head(self) -> bytes:
        """First 512 bytes of the content; empty if the compression is broken."""
        try:
            with self.stream() as file:
                return file.read(512)
        except (OSError, EOFError, zlib.error):
            return b""

    @cached_property
    def content(self) -> bytes:
        """Everything inside, decompressed.

        Raises:
            TooLarge: If it is more than the limits allow; found out without holding more than they do.
            UnreadableFile: If the compression is broken or cut off.
        """
        size, limit = self.path.stat().st_size, self.limits.max_expanded_bytes
        if size > self.limits.max_file_bytes:
            raise TooLarge(f"{self.path.name}: {size} bytes; at most {self.limits.max_file_bytes} are read")
        try:
            content = self._inflate(limit) if self.raw_head.startswith(GZIP) else self._read(limit)
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableFile(f"{self.path.name}: the compressed content is cut off or damaged") from error
        if len(content) > limit:
            raise TooLarge(f"{self.path.name}: expands to more than {limit} bytes")
        return content

    def stream(self) -> IO[bytes]:
        """Return the content as a stream to close after use; whoever reads it counts the bytes.

        Reading may raise OSError, EOFError or zlib.error if the compression is broken.
        """
        if self.raw_head.startswith(GZIP):
            return cast(IO[bytes], gzip.open(self.path, "rb"))
        if self.raw_head.startswith(BZIP2):
            return cast(IO[bytes], bz2.open(self.path, "rb"))
        return self.path.open("rb")

    def _inflate(self, limit: int) -> bytes:
        """Return up to ``limit + 1`` bytes of a gzip file."""
        # One member, as agencies write them, in one call: a quarter faster than through gzip.open.
        member = zlib.decompressobj(wbits=31)
        content = member.decompress(self.path.read_bytes(), limit + 1)
        if len(content) > limit or (member.eof and not member.unused_data):
            return content
        return self._read(limit)  # further members, or the error that says what is wrong

    def _read(self, limit: int) -> bytes:
        """Return up to ``limit + 1`` bytes, without taking memory for more than there is."""
        chunks, room = [], limit + 1
        with self.stream() as file:
            while room and (chunk := file.read(min(room, CHUNK_BYTES))):
                chunks.append(chunk)
                room -= len(chunk)
        return b"".join(chunks)


def parse_time(text: str, form: str, what: str) -> datetime:
    """Return the UTC time that ``text`` spells in the :meth:`datetime.strptime` format ``form``.

    Raises:
        UnreadableFile: If it spells none.
    """
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError as error:
        raise UnreadableFile(f"{what}: expected a time as {form}, got {text!r}") from error
