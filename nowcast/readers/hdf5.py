"""HDF5 files nobody vouches for: no link out of the file is followed, no declared size believed unchecked."""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nowcast.errors import InputError, TooLarge, UnreadableFile
from nowcast.readers.hdf5_loops import refuse_endless_loops
from nowcast.readers.source import Limits, Source

#: Signature of an HDF5 file (HDF5 File Format Specification 3.0, section II.A).
MAGIC = b"\x89HDF\r\n\x1a\n"

#: Longest attribute [bytes] that is read; HDF5 keeps ordinary ones below 64 KiB anyway.
MAX_ATTRIBUTE_BYTES = 64 * 2**10

#: Most members of a group and attributes of an object that are looked at.
MAX_MEMBERS = 4096

#: What an attribute becomes: text, a number, or several numbers.
Attribute = str | int | float | tuple[float, ...]

# What h5py, numpy, pyproj and struct raise on damage. h5py has no error class of its own: a broken tree
# is a RuntimeError, a missing member a KeyError, a damaged type a TypeError, bad text a UnicodeDecodeError.
_DAMAGE = (OSError, LookupError, ValueError, TypeError, RuntimeError, ArithmeticError, struct.error)


@contextmanager
def guarded(source: Source, expected: str) -> Iterator[None]:
    """Turn every error that damaged content causes inside the block into an :class:`InputError`.

    Args:
        source: The file; every message begins with its name.
        expected: What the file should have been, such as ``"an ODIM_H5 composite"``.

    Raises:
        InputError: As raised on purpose inside.
        UnreadableFile: For what the format libraries raise.
        TooLarge: If memory ran out.
    """
    name = source.label
    try:
        yield
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    except MemoryError as error:
        raise TooLarge(f"{name}: takes more memory to read than there is") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnreadableFile(f"{name}: expected {expected}, but the file is damaged: {reason}") from error


@contextmanager
def opened(source: Source) -> Iterator[h5py.File]:
    """Open a file, whatever compresses it or is around it; use inside :func:`guarded`."""
    # As a Python stream, just as fast: HDF5 would lock a path, which fails on network and read-only file
    # systems and where others in the process have it open. The cache holds chunks that several times share.
    with source.path.open("rb") if source.lies_on_disk else io.BytesIO(source.content) as stream:
        if isinstance(stream, io.BytesIO):
            refuse_endless_loops(source.content)
        else:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                refuse_endless_loops(content)
        with h5py.File(stream, "r", rdcc_nbytes=64 * 2**20) as file:
            yield file


def member(group: h5py.Group, path: str) -> Any | None:
    """Return the group or dataset under ``path``, ``None`` if there is none.

    Raises:
        UnreadableFile: If the way leads over a soft or external link; those may point outside the file.
    """
    found: Any = group
    for name in path.split("/"):
        # `name in group` would follow the link already.
        if not isinstance(found, h5py.Group) or not found.id.links.exists(name.encode()):
            return None
        if found.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise UnreadableFile(f"member {name!r} of {found.name} is a link that may lead outside the file")
        found = found[name]
    return found


def child_group(group: h5py.Group, path: str) -> h5py.Group | None:
    """Return the group under ``path``, ``None`` if there is none."""
    found = member(group, path)
    return found if isinstance(found, h5py.Group) else None


def names(group: h5py.Group) -> list[str]:
    """Return the names of a group's members; a name that is not UTF-8 is nobody's and left out.

    Raises:
        TooLarge: If there are more than :data:`MAX_MEMBERS`.
    """
    count = len(group)
    if count > MAX_MEMBERS:
        raise TooLarge(f"group {group.name} has {count} members; at most {MAX_MEMBERS} are looked at")
    return [name for name in group if isinstance(name, str)]


def attribute(item: Any, name: str) -> Attribute | None:
    """Return an attribute as text or numbers; ``None`` if it is absent, of no such kind or empty.

    Raises:
        TooLarge: If it takes more than :data:`MAX_ATTRIBUTE_BYTES`.
    """
    if name not in item.attrs:
        return None
    handle = item.attrs.get_id(name)
    if handle.shape is None:  # an attribute without a value, as netCDF writes an empty text
        return None
    size = handle.get_storage_size()
    if size > MAX_ATTRIBUTE_BYTES or int(np.prod(handle.shape, dtype=np.float64)) > MAX_ATTRIBUTE_BYTES:
        raise TooLarge(
            f"attribute {name!r} of {item.name} has {size} bytes; at most {MAX_ATTRIBUTE_BYTES} are read"
        )
    value = plain(item.attrs[name])
    if isinstance(value, str) and len(value) > MAX_ATTRIBUTE_BYTES:
        raise TooLarge(f"attribute {name!r} of {item.name} has {len(value)} characters")
    return value


def plain(value: Any) -> Attribute | None:
    """Return what a format library gave as text or numbers, ``None`` if it is neither."""
    if isinstance(value, np.ndarray):
        if value.size > 1 and value.dtype.kind in "iuf":
            return tuple(float(number) for number in value.ravel())
        value = value.ravel()[0] if value.size == 1 else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        return "".join(character for character in " ".join(value.split()) if character.isprintable())
    if isinstance(value, np.integer | np.bool_ | int):  # HDF5 has truth as an enumeration of h5py's
        return int(value)
    if isinstance(value, np.floating | float):
        return float(value)
    return None


def attributes(item: Any) -> dict[str, Attribute]:
    """Return all attributes that are text or numbers of a sensible size; the others are left out."""
    found = {}
    for name in names_of_attributes(item):
        try:
            value = attribute(item, name)
        except TooLarge:
            continue
        if value is not None:
            found[name] = value
    return found


def names_of_attributes(item: Any) -> list[str]:
    """Return the names of an object's attributes; a name that is not UTF-8 is nobody's and left out.

    Raises:
        TooLarge: If there are more than :data:`MAX_MEMBERS`.
    """
    count = len(item.attrs)
    if count > MAX_MEMBERS:
        raise TooLarge(f"{item.name} has {count} attributes; at most {MAX_MEMBERS} are looked at")
    return [name for name in item.attrs if isinstance(name, str)]


def text(item: Any, name: str) -> str | None:
    """Return an attribute that must be text, ``None`` if it is absent.

    Raises:
        UnreadableFile: If it is something else.
    """
    value = attribute(item, name)
    if value is not None and not isinstance(value, str):
        raise UnreadableFile(f"attribute {name!r} of {item.name} must be text, is {value!r}")
    return value


def number(item: Any, name: str) -> float | None:
    """Return an attribute that must be one number, ``None`` if it is absent.

    Raises:
        UnreadableFile: If it is something else.
    """
    value = attribute(item, name)
    if value is not None and not isinstance(value, int | float):
        raise UnreadableFile(f"attribute {name!r} of {item.name} must be a number, is {str(value)[:40]!r}")
    return None if value is None else float(value)


def check_array(dataset: h5py.Dataset, limits: Limits) -> None:
    """Refuse an array whose type, storage or chunks are not those of plain numbers inside this file.

    Raises:
        UnreadableFile: If it is not numeric, lies in another file, or needs a filter that is not installed.
        TooLarge: If one chunk exceeds the limits.
    """
    if dataset.dtype.kind not in "iuf" or dataset.dtype.itemsize > 8:
        raise UnreadableFile(f"{dataset.name} must hold numbers, holds {dataset.dtype}")
    plan = dataset.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or (
        plan.get_layout() == h5py.h5d.CONTIGUOUS and plan.get_external_count()
    ):
        raise UnreadableFile(f"the numbers of {dataset.name} lie in another file; those are not followed")
    chunk = int(np.prod(dataset.chunks or (0,), dtype=np.float64))
    if chunk > limits.max_cells:
        raise TooLarge(f"{dataset.name} has chunks of {chunk} cells; at most {limits.max_cells} are read")
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if len(set(filters)) < len(filters):
        raise UnreadableFile(f"{dataset.name} passes twice through one of its filters {filters}")
    for code in filters:
        if not h5py.h5z.filter_avail(code):
            raise UnreadableFile(
                f"{dataset.name} needs the HDF5 filter number {code}, which is not installed"
            )


def read_image(dataset: h5py.Dataset, limits: Limits) -> NDArray[Any]:
    """Return a two-dimensional array: whole numbers as they are, fractions as float32.

    HDF5 rounds 64-bit fractions chunk by chunk, so they never lie in memory whole.

    Raises:
        UnreadableFile: If the array is not two-dimensional, or as :func:`check_array` says.
        TooLarge: If it exceeds the limits.
    """
    if len(dataset.shape) != 2:
        raise UnreadableFile(f"{dataset.name} must have two dimensions, has shape {dataset.shape}")
    rows, columns = dataset.shape
    limits.check_cells(rows, columns, str(dataset.name))
    check_array(dataset, limits)
    kind = np.dtype(np.float32) if dataset.dtype.kind == "f" else dataset.dtype.newbyteorder("=")
    values = np.empty(dataset.shape, dtype=kind)
    dataset.read_direct(values)
    return values
