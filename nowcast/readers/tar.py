"""Members of tar archives: POSIX ustar and pax, GNU and the old Unix format, as bytes in memory.

The standard library reads the headers. Going from one to the next is done here, because ``tarfile`` takes a
damaged header for the end of the archive and says nothing about the members behind it.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from nowcast.errors import InputError, TooLarge, UnreadableFile
from nowcast.readers.source import DAMAGED, Source, read_up_to

#: Size [bytes] of a header, and what contents are filled up to (POSIX.1-2017, pax, ustar interchange format).
BLOCK = 512

#: Longest name or extended header [bytes] that is looked at.
LONGEST_HEADER = 2**20

#: Headers whose content describes the member after them.
_DESCRIPTIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

#: A record of an extended header: its length, a keyword, a value (POSIX.1-2017, pax extended header).
_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]{1,100})=")


def is_tar(head: bytes) -> bool:
    """Return whether content begins with a tar header; its checksum tells, whatever the dialect."""
    return len(head) >= BLOCK and head[0] != 0 and _header(head[:BLOCK]) is not None


def entries(source: Source) -> Iterator[tuple[str, bytes | InputError]]:
    """Yield name and content of each regular file, or why it has none; links and devices are passed over.

    Raises:
        TooLarge: If the archive holds more bytes or members than the limits allow.
        UnreadableFile: If it is cut off.
    """
    try:
        yield from _entries(source)
    except DAMAGED as error:
        raise UnreadableFile(f"{source.label}: the archive is cut off or damaged") from error


@dataclass
class _Extended:
    """What headers before a member's own say of it."""

    name: str | None = None
    size: int | None = None
    is_sparse: bool = False


def _entries(source: Source) -> Iterator[tuple[str, bytes | InputError]]:
    extended, is_lost, has_ended, last = _Extended(), False, False, "its start"
    with source.stream() as stream:
        while block := read_up_to(stream, BLOCK):
            source.charge(len(block))
            if not block.strip(b"\0"):
                has_ended = True
                continue
            info = _header(block) if len(block) == BLOCK else None
            if info is None:
                if not (is_lost or has_ended):
                    yield (f"after {last}", UnreadableFile("the header of a member is damaged or cut off"))
                is_lost = not has_ended  # look for the next header; behind the end there is only filling
                continue
            is_lost = has_ended = False
            size = info.size if extended.size is None else extended.size
            if not _has_content(info):
                extended = _Extended()
                continue
            if info.type in _DESCRIPTIONS and size > LONGEST_HEADER:
                raise TooLarge(f"{source.label}: a header of {size} bytes; at most {LONGEST_HEADER} are read")
            content = _content(source, stream, size)
            if info.type == tarfile.XHDTYPE:
                extended = _records(content)
                continue
            if info.type == tarfile.GNUTYPE_LONGNAME:
                extended.name = content.rstrip(b"\0").decode("utf-8", "replace")
                continue
            if info.isreg():
                last = extended.name or info.name
                source.charge_member()
                is_sparse = extended.is_sparse or info.type == tarfile.GNUTYPE_SPARSE
                yield last, UnreadableFile("a sparse file is not unpacked") if is_sparse else content
            if info.type not in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
                extended = _Extended()
    if not has_ended:
        raise UnreadableFile(f"{source.label}: the archive is cut off after {last}")


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except (tarfile.HeaderError, ValueError, IndexError):
        return None
    return info if info.size >= 0 else None


def _has_content(info: tarfile.TarInfo) -> bool:
    """Return whether blocks with content follow a header; a folder's, link's or device's size is none."""
    return info.isreg() or info.type not in tarfile.SUPPORTED_TYPES or info.type in _DESCRIPTIONS


def _content(source: Source, stream: IO[bytes], size: int) -> bytes:
    padded = -(-size // BLOCK) * BLOCK
    source.charge(padded)
    content = read_up_to(stream, padded)
    if len(content) < size:
        raise UnreadableFile(f"{source.label}: the archive is cut off in a member of {size} bytes")
    return content if len(content) == size else content[:size]


def _records(content: bytes) -> _Extended:
    """Return what an extended header says of the next member's name, size and storage."""
    extended, at = _Extended(), 0
    while record := _RECORD.match(content, at):
        end = at + int(record[1])
        if end <= record.end():
            break
        value, at = content[record.end() : end].rstrip(b"\n"), end
        if record[2] == b"path":
            extended.name = value.decode("utf-8", "replace")
        elif record[2] == b"size" and value.isdigit() and len(value) < 20:
            extended.size = int(value)
        elif record[2].startswith(b"GNU.sparse."):
            extended.is_sparse = True
    return extended
