"""Readers: one module per format, chosen by what the file contains and never by its name alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from nowcast.errors import TooLarge, UnknownFormat, UnreadableFile
from nowcast.frame.declared import Declared, obeyed
from nowcast.frame.frame import RawFrame
from nowcast.readers import archives
from nowcast.readers.plausible import without_impossible
from nowcast.readers.source import Limits, Source

__all__ = ["READERS", "Declared", "Limits", "Source", "read"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NETCDF_CLASSIC = b"CDF"

#: Module of each format, and how its content may begin (no entry: the module alone can tell). The first that
#: recognises a file reads it; ``cf`` takes every netCDF file the others leave.
READERS: dict[str, tuple[bytes, ...]] = {
    "odim": (_HDF5,),
    "knmi": (_HDF5,),
    "rainfields": (_HDF5, _NETCDF_CLASSIC),
    "cf": (_HDF5, _NETCDF_CLASSIC),
    "fmi_pgm": (b"P5",),
    "mch_gif": (b"GIF8",),
    "geotiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "bufr": (b"BUFR",),
    "iris": (b"\x1b\0",),
    "nimrod": (b"\0\0\2\0",),
    "radolan": (),
    "grib": (),
}


class Reader(Protocol):
    """What each module of :data:`READERS` offers."""

    def recognises(self, source: Source) -> bool:
        """Return whether the content is of this format; a broken container may raise ``UnreadableFile``."""
        ...

    def read(self, source: Source, limits: Limits) -> Iterator[RawFrame]:
        """Yield the frames, oldest first."""
        ...


def _nobody() -> None:
    """Take no notice."""


def read(
    path: Path,
    limits: Limits | None = None,
    declared: Declared | None = None,
    *,
    told: Callable[[], None] = _nobody,
) -> Iterator[RawFrame]:
    """Yield the frames of a radar file or archive, oldest first and one at a time.

    Nothing is opened before the first frame is asked for. What can be no precipitation is not observed, see
    :func:`nowcast.readers.plausible.without_impossible`. An archive's frames come first; what could not be
    read of it is raised after the last of them.

    Args:
        path: The file.
        limits: What it may cost.
        declared: What a person says of it where it is silent itself.
        told: Called before each member of an archive, for whoever waits for the first frame.

    Raises:
        UnknownFormat: If no reader recognises the content.
        UnreadableFile: If the file is gone, empty, truncated, corrupt or contradicts itself.
        TooLarge: If it declares or expands to more than the limits allow.
        RefusedProduct: If it holds no precipitation frame.
        MissingExtra: If its format needs a dependency that is not installed.
    """
    limits = limits or Limits()
    try:
        if not path.is_file():  # a pipe or device would never end
            raise UnreadableFile(
                f"{path.name}: expected a file, found {'a folder' if path.is_dir() else 'none'}"
            )
        size = path.stat().st_size
        source = Source(path, limits, declared=declared or Declared())
        is_archive = archives.is_archive(source)
    except OSError as error:
        raise UnreadableFile(f"{path.name}: cannot be opened: {error.strerror}") from error
    if size > limits.max_file_bytes:
        raise TooLarge(f"{path.name}: {size} bytes; at most {limits.max_file_bytes} are read")
    if is_archive:
        yield from archives.frames(source, _read, told)
    else:
        yield from _read(source)


def _read(source: Source) -> Iterator[RawFrame]:
    if not source.head:
        raise UnreadableFile(f"{source.label}: is empty, or its compression is damaged")
    frames = _reader(source).read(source, source.limits)
    declared = source.declared
    for raw in obeyed(frames, declared, source.label) if declared.said() else frames:
        yield without_impossible(raw)


def _reader(source: Source) -> Reader:
    for name, beginnings in READERS.items():
        if not beginnings or source.head.startswith(beginnings):
            reader = cast(Reader, import_module(f"{__name__}.{name}"))
            if reader.recognises(source):
                return reader
    raise UnknownFormat(
        f"{source.label}: no reader knows content that begins with {source.head[:16]!r}; "
        f"known formats are {', '.join(READERS)}"
    )
