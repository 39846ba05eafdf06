"""One radar file, or one member of an archive: bounded access to its bytes, whatever compresses them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, cast

import zstandard

from nowcast.errors import TooLarge, UnreadableFile
from nowcast.frame.declared import Declared

#: First bytes of what compresses files: RFC 1952, section 2.3.1; bzip2; .xz file format 1.1, section 2.1.1.1;
#: RFC 8878, section 3.1.1.
GZIP, BZIP2, XZ, ZSTANDARD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"

#: Endings of their files.
COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")

#: Compressions around one content that are looked through; agencies use one, careless scripts two.
MOST_LAYERS = 4

#: What is raised where compressed bytes are damaged or cut off.
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

#: Bytes asked for at once where the size is not known beforehand.
CHUNK_BYTES = 8 * 2**20

#: Largest window [bytes] of a zstandard frame; its command line tool takes no larger one unasked either.
_ZSTANDARD_WINDOW = 128 * 2**20


def _open_xz(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], lzma.open(file, "rb", format=lzma.FORMAT_XZ))


def _open_zstandard(file: IO[bytes]) -> IO[bytes]:
    unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTANDARD_WINDOW)
    return cast(IO[bytes], unpacker.stream_reader(file, read_across_frames=True, closefd=False))


#: How each compression is opened.
_OPENERS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    GZIP: lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="rb")),
    BZIP2: lambda file: cast(IO[bytes], bz2.BZ2File(file, "rb")),
    XZ: _open_xz,
    ZSTANDARD: _open_zstandard,
}


@dataclass(frozen=True)
class Limits:
    """What one file may cost.

    Attributes:
        max_file_bytes: Size on disk.
        max_expanded_bytes: Size after decompression; of an archive that of all its members together.
        max_cells: Rows times columns of one frame; the largest composite in use, OPERA's, has 17 million.
        max_members: Files in one archive, those in archives within it counted too.
    """

    max_file_bytes: int = 512 * 2**20
    max_expanded_bytes: int = 1024 * 2**20
    max_cells: int = 64_000_000
    max_members: int = 10_000

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


@dataclass
class Budget:
    """What may still be unpacked from one file, shared by everything that lies inside it.

    Attributes:
        bytes_left: Bytes.
        members_left: Members of archives.
    """

    bytes_left: int
    members_left: int


@dataclass(frozen=True)
class Source:
    """A file on disk or a member of an archive, seen through whatever compresses it.

    Attributes:
        path: Where the file lies that all this is in. Of a member, it is not the member's own.
        limits: Bounds on what :meth:`content` may take.
        member: Name of a member of an archive, which never is a place on this machine's disk.
        packed: Bytes of that member, as they lie in the archive.
        shared: Budget of the file the member lies in.
        declared: What a person says of the file where it is silent itself.
    """

    path: Path
    limits: Limits
    member: str | None = None
    packed: bytes | None = None
    shared: Budget | None = None
    declared: Declared = field(default_factory=Declared)

    @cached_property
    def budget(self) -> Budget:
        """What may still be unpacked from the file on disk."""
        return self.shared or Budget(self.limits.max_expanded_bytes, self.limits.max_members)

    @property
    def label(self) -> str:
        """Name of the file or member, for messages."""
        return self.member or self.path.name

    @property
    def name(self) -> str:
        """Name of the file or member without the endings of its compressions."""
        name = self.label
        while name.endswith(COMPRESSED_ENDINGS):
            name = name.rpartition(".")[0]
        return name

    @cached_property
    def raw_head(self) -> bytes:
        """First 512 bytes as they lie on disk or in the archive."""
        with self._opened() as file:
            return file.read(512)

    @property
    def is_compressed(self) -> bool:
        """Whether gzip, bzip2, xz or zstandard wraps the content."""
        return bool(self._layers[0])

    @property
    def lies_on_disk(self) -> bool:
        """Whether the content is the file on disk, byte by byte."""
        return self.packed is None and not self.is_compressed

    @property
    def head(self) -> bytes:
        """First 512 bytes of the content; empty if the compression is broken."""
        return self._layers[1]

    @cached_property
    def content(self) -> bytes:
        """Everything inside, decompressed.

        Raises:
            TooLarge: If it is more than the limits allow; found out without holding more than they do.
            UnreadableFile: If the compression is broken or cut off.
        """
        if self.packed is not None and not self.is_compressed:
            return self.packed
        size = self.path.stat().st_size
        if size > self.limits.max_file_bytes:
            raise TooLarge(f"{self.label}: {size} bytes; at most {self.limits.max_file_bytes} are read")
        limit = self.budget.bytes_left
        try:
            content = self._inflate(limit) if self._layers[0] == (GZIP,) else self._read(limit)
        except DAMAGED as error:
            raise UnreadableFile(f"{self.label}: the compressed content is cut off or damaged") from error
        self.charge(len(content))
        return content

    def charge(self, count: int) -> None:
        """Take bytes that are unpacked from the budget.

        Raises:
            TooLarge: If that many are not left.
        """
        if count > self.budget.bytes_left:
            raise TooLarge(f"{self.label}: expands to more than {self.limits.max_expanded_bytes} bytes")
        self.budget.bytes_left -= count

    def charge_member(self) -> None:
        """Take a member of an archive from the budget.

        Raises:
            TooLarge: If there were as many as the limits allow before it.
        """
        if not self.budget.members_left:
            raise TooLarge(f"{self.label}: has more than {self.limits.max_members} members")
        self.budget.members_left -= 1

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """Open the content as a stream; whoever reads it counts the bytes.

        Reading may raise one of :data:`DAMAGED` if the compression is broken.
        """
        with self._unwrapped(self._layers[0]) as file:
            yield file

    @cached_property
    def _layers(self) -> tuple[tuple[bytes, ...], bytes]:
        """Return the compressions, outermost first, and the first bytes of what they wrap."""
        layers: list[bytes] = []
        head = self.raw_head
        while layer := next((magic for magic in _OPENERS if head.startswith(magic)), None):
            if len(layers) == MOST_LAYERS:
                raise TooLarge(f"{self.label}: is compressed more than {MOST_LAYERS} times over")
            layers.append(layer)
            try:
                with self._unwrapped(tuple(layers)) as file:
                    head = file.read(512)
            except DAMAGED:
                head = b""
        return tuple(layers), head

    def _opened(self) -> AbstractContextManager[IO[bytes]]:
        return self.path.open("rb") if self.packed is None else io.BytesIO(self.packed)

    @contextmanager
    def _unwrapped(self, layers: tuple[bytes, ...]) -> Iterator[IO[bytes]]:
        with ExitStack() as stack:
            file = stack.enter_context(self._opened())
            for layer in layers:
                file = stack.enter_context(_OPENERS[layer](file))
            yield file

    def _inflate(self, limit: int) -> bytes:
        """Return up to ``limit + 1`` bytes of gzip."""
        # One member, as agencies write them, in one call: a quarter faster than through gzip.open.
        member = zlib.decompressobj(wbits=31)
        packed = self.path.read_bytes() if self.packed is None else self.packed
        content = member.decompress(packed, limit + 1)
        if len(content) > limit or (member.eof and not member.unused_data):
            return content
        return self._read(limit)  # further members, or the error that says what is wrong

    def _read(self, limit: int) -> bytes:
        with self.stream() as file:
            return read_up_to(file, limit + 1)


def read_up_to(file: IO[bytes], count: int) -> bytes:
    """Return the next ``count`` bytes, fewer at the end, without taking memory for more than there are."""
    chunks = []
    while count and (chunk := file.read(min(count, CHUNK_BYTES))):
        chunks.append(chunk)
        count -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse_time(text: str, form: str, what: str) -> datetime:
    """Return the UTC time that ``text`` spells in the :meth:`datetime.strptime` format ``form``.

    Raises:
        UnreadableFile: If it spells none.
    """
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError as error:
        raise UnreadableFile(f"{what}: expected a time as {form}, got {text!r}") from error
