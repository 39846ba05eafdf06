"""Members of zip archives, as bytes in memory."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator

from nowcast.errors import InputError, TooLarge, UnreadableFile
from nowcast.readers.source import DAMAGED, Source, read_up_to

#: First bytes of a zip archive, and of an empty one (PKWARE APPNOTE 6.3.10, sections 4.3.7 and 4.3.16).
MAGICS = (b"PK\3\4", b"PK\5\6")

#: An entry in the archive's directory (section 4.3.12).
_ENTRY = b"PK\1\2"

#: Flag of an encrypted member (section 4.4.4).
_ENCRYPTED = 0x1

#: Kinds of a Unix file in the upper half of a member's external attributes: which bits, a file.
_KIND, _FILE = 0o170000, 0o100000

#: What the library raises for damage, and for methods it does not know.
_DAMAGED = (
    *DAMAGED,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    LookupError,
    struct.error,
)


def is_zip(head: bytes) -> bool:
    """Return whether content begins as a zip archive."""
    return head.startswith(MAGICS)


def entries(source: Source) -> Iterator[tuple[str, bytes | InputError]]:
    """Yield name and content of each regular file, or why it has none; folders and links are passed over.

    Raises:
        TooLarge: If the archive holds more bytes or members than the limits allow.
        UnreadableFile: If its directory is damaged or cut off.
    """
    content = source.content
    # The library reads the whole directory at once: count its entries first.
    if content.count(_ENTRY) > source.budget.members_left:
        raise TooLarge(f"{source.label}: has more than {source.limits.max_members} members")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except _DAMAGED as error:
        raise UnreadableFile(f"{source.label}: the zip archive is cut off or damaged") from error
    with archive:
        for info in archive.infolist():
            if info.is_dir() or (info.external_attr >> 16) & _KIND not in (0, _FILE):
                continue
            source.charge_member()
            yield info.filename, _content(source, archive, info)


def _content(source: Source, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | InputError:
    if info.flag_bits & _ENCRYPTED:
        return UnreadableFile("is encrypted")
    try:
        with archive.open(info) as file:
            content = read_up_to(file, source.budget.bytes_left + 1)
    except _DAMAGED:
        return UnreadableFile("is damaged in its archive")
    source.charge(len(content))
    return content
