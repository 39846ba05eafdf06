"""CF netCDF files as the archive and the forecasts are kept: reflectivity in 16 bits on a grid, in tiles.

Files are netCDF-4, which is HDF5 with named dimensions, written and read through h5py: any thread may use it,
unlike netCDF4's library. A file is built in memory and then published as plain bytes, because HDF5 that meets
a full disk neither says so plainly nor lets go of the file.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from nowcast.disk.durable import storage_error
from nowcast.errors import UnreadableFile
from nowcast.frame.frame import grid_coordinates, grid_of_bytes
from nowcast.frame.grid import Grid
from nowcast.frame.units import NO_ECHO_DBZ

#: The conventions the files follow, https://cfconventions.org/Data/cf-conventions/cf-conventions-1.11.
CONVENTIONS = "CF-1.11"

#: Reflectivity [dBZ] of one packed step. In float32, so that a reader decodes to float32; every multiple of
#: 1/4 dBZ comes back exactly.
SCALE_DBZ = np.float32(0.01)

#: Packed value of a pixel that is not observed or not covered.
FILL_VALUE = np.int16(-32768)

#: Unit of every time in the files.
TIME_UNITS = "seconds since 1970-01-01 00:00:00"

#: Longest side [cells] of a tile. One tile is read for a point, all for a map; about 128 KiB unpacked.
TILE_CELLS = 256

#: HDF5 1.10 (2016): the first format that carries checksums in all its structures.
_FORMAT = ("v110", "v110")

_THREADS = min(4, os.cpu_count() or 1)

#: Attributes that belong to the encoding, hence neither taken from nor given to a frame.
_ENCODING = {
    "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates",
    "_NCProperties", "_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates", "dtype",
}  # fmt: skip


@dataclass(frozen=True)
class Packing:
    """How tiles are deflated; any HDF5 or netCDF library inflates them all.

    Attributes:
        shuffle: Whether the two bytes of the values are stored apart.
        strategy: zlib's search for repetitions.
    """

    shuffle: bool
    strategy: int


#: Observations have few distinct values, which deflate finds best as they are.
OBSERVED = Packing(shuffle=False, strategy=zlib.Z_DEFAULT_STRATEGY)

#: Interpolated values hardly repeat: run lengths of shuffled bytes are a tenth smaller in 2/3 of the time.
COMPUTED = Packing(shuffle=True, strategy=zlib.Z_RLE)


def pack(dbz: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return reflectivity [dBZ] in steps of :data:`SCALE_DBZ`; NaN becomes :data:`FILL_VALUE`.

    No echo and everything that rounds to it become exactly -10 dBZ; the highest value kept is 327.67 dBZ.
    """
    packed = np.empty(dbz.shape, dtype=np.int16)
    rows = max(1, 65_536 // max(1, dbz.shape[-1]))  # blocks that stay in the cache: a third of the time
    for top in range(0, dbz.shape[0], rows):
        steps = np.maximum(dbz[top : top + rows], np.float32(NO_ECHO_DBZ))
        steps *= np.float32(100.0)
        np.rint(steps, out=steps)
        np.fmax(steps, np.float32(FILL_VALUE), out=steps)  # fmax takes the number where the other is NaN
        np.fmin(steps, np.float32(32767.0), out=steps)
        packed[top : top + rows] = steps
    return packed


def pack_steps(values: NDArray[np.float32], step: np.float32) -> NDArray[np.int16]:
    """Return values in steps of ``step``, from -32767 to 32767 of them; NaN becomes :data:`FILL_VALUE`."""
    steps = np.clip(np.rint(values / step), -32767, 32767)
    packed: NDArray[np.int16] = np.nan_to_num(steps, nan=float(FILL_VALUE)).astype(np.int16)
    return packed


def unpack(packed: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return reflectivity [dBZ] of packed steps; :data:`FILL_VALUE` becomes NaN."""
    dbz = np.multiply(packed, SCALE_DBZ, dtype=np.float32)
    dbz[packed == FILL_VALUE] = np.nan
    return dbz


@contextmanager
def new_file(path: Path | None = None) -> Iterator[h5py.File]:
    """Yield an empty file in memory, or at ``path``, whose dimensions and attributes keep their order."""
    where: dict[str, Any] = {"name": path}
    if path is None:  # HDF5 tells files in memory apart by their names
        name = secrets.token_hex(8)
        where = {"name": name, "driver": "core", "backing_store": False, "block_size": 2**20}
    with h5py.File(mode="w", libver=_FORMAT, track_order=True, **where) as file:
        yield file


def image(file: h5py.File) -> bytes:
    """Return the bytes of a file made by :func:`new_file` in memory."""
    file.flush()
    return bytes(file.id.get_file_image())


def put_variable(
    file: h5py.File,
    name: str,
    values: Any,
    dims: Sequence[str] = (),
    attributes: Mapping[str, Any] | None = None,
    **storage: Any,
) -> h5py.Dataset:
    """Add a variable over existing dimensions; one over a dimension of its own name makes that dimension."""
    variable = file.create_dataset(name, data=values, track_order=True, **storage)
    put_attributes(variable, attributes or {})
    if tuple(dims) == (name,):
        variable.make_scale(name)
    else:
        for axis, dim in enumerate(dims):
            variable.dims[axis].attach_scale(file[dim])
    return variable


def put_attributes(target: h5py.File | h5py.Dataset, attributes: Mapping[str, Any]) -> None:
    """Write attributes; text becomes characters, which every netCDF tool shows plainly."""
    for name, value in attributes.items():
        if isinstance(value, str) and value:
            content = value.encode()
            target.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", len(content)))
        else:
            target.attrs[name] = value


def put_grid(file: h5py.File, grid: Grid) -> None:
    """Add dimensions ``y`` and ``x`` and the grid mapping ``crs``."""
    for name, (dims, values, attributes) in grid_coordinates(grid).items():
        put_variable(file, name, values, (dims,) if dims else (), attributes)


def put_time(
    file: h5py.File,
    name: str,
    times: datetime | Sequence[datetime],
    dims: Sequence[str],
    attributes: Mapping[str, Any],
) -> None:
    """Add a variable of UTC times, whole seconds."""
    seconds = (
        int(times.timestamp()) if isinstance(times, datetime) else [int(time.timestamp()) for time in times]
    )
    encoding = {"units": TIME_UNITS, "calendar": "standard"}
    put_variable(file, name, np.array(seconds, dtype=np.int64), dims, {**attributes, **encoding})


def put_packed(
    file: h5py.File,
    name: str,
    leading: Mapping[str, int],
    grid: Grid,
    packing: Packing,
    attributes: Mapping[str, Any],
    *,
    coordinates: str = "",
    step: np.float32 = SCALE_DBZ,
) -> h5py.Dataset:
    """Add an empty packed variable ``(*leading, y, x)`` that :func:`write_packed` fills field by field."""
    tile = tile_shape(grid.shape)
    variable = file.create_dataset(
        name,
        shape=(*leading.values(), *grid.shape),
        dtype=np.int16,
        chunks=(*(1 for _ in leading), *tile),
        fillvalue=FILL_VALUE,
        shuffle=packing.shuffle,
        compression="gzip",
        compression_opts=1,
        track_order=True,
    )
    put_attributes(variable, {key: value for key, value in attributes.items() if key not in _ENCODING})
    encoding = {"scale_factor": step, "_FillValue": FILL_VALUE}
    put_attributes(variable, encoding | ({"coordinates": coordinates} if coordinates else {}))
    for axis, dim in enumerate((*leading, "y", "x")):
        variable.dims[axis].attach_scale(file[dim])
    return variable


def write_field(variable: h5py.Dataset, index: tuple[int, ...], dbz: NDArray[np.float32]) -> None:
    """Pack a computed field ``(y, x)`` [dBZ] and write it at ``index`` of the leading dimensions."""
    write_packed(variable, index, pack(dbz), COMPUTED)


def write_packed(
    variable: h5py.Dataset, index: tuple[int, ...], packed: NDArray[np.int16], packing: Packing
) -> None:
    """Write one field ``(y, x)`` at ``index`` of the leading dimensions, deflated by all cores."""
    rows, columns = variable.chunks[-2:]
    corners = [
        (top, left) for top in range(0, packed.shape[0], rows) for left in range(0, packed.shape[1], columns)
    ]

    def deflated(corner: tuple[int, int]) -> bytes:
        top, left = corner
        tile = packed[top : top + rows, left : left + columns]
        if tile.shape != (rows, columns):
            tile = np.pad(
                tile,
                ((0, rows - tile.shape[0]), (0, columns - tile.shape[1])),
                constant_values=FILL_VALUE,
            )
        content = tile.tobytes()
        if packing.shuffle:
            content = np.frombuffer(content, dtype=np.uint8).reshape(-1, 2).T.tobytes()
        deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, packing.strategy)
        return deflate.compress(content) + deflate.flush()

    # One share for each core, this thread's included: on a busy machine many small tasks wait for each other.
    shares = [corners[core::_THREADS] for core in range(min(_THREADS, len(corners)))]
    with ThreadPoolExecutor(_THREADS) as pool:
        others = [pool.submit(lambda share: list(map(deflated, share)), share) for share in shares[1:]]
        done = [list(map(deflated, shares[0])), *(other.result() for other in others)]
    for share, chunks in zip(shares, done, strict=True):
        for (top, left), chunk in zip(share, chunks, strict=True):
            variable.id.write_direct_chunk((*index, top, left), chunk)


def tile_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of a tile: at most :data:`TILE_CELLS`, dividing the grid as evenly as they can.

    Example:
        >>> tile_shape((1226, 760))
        (246, 254)
    """
    rows, columns = (ceil(cells / ceil(cells / TILE_CELLS)) for cells in shape)
    return rows, columns


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Yield a published file, opened to read.

    Raises:
        FileNotFoundError: If there is none.
        StorageError: If the disk refuses.
        UnreadableFile: If the file is truncated, damaged or lacks what the body looks for.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # published files never change
            yield file
    except FileNotFoundError:
        raise
    except (OSError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise storage_error("read", path, error) from error
        raise UnreadableFile(
            f"{path} is damaged: expected a netCDF-4 file of this service, {error}"
        ) from error


class StoredField(NamedTuple):
    """One time of a file of reflectivity: a frame's, or a day's cube of them.

    Attributes:
        dbz: float32 ``(y, x)`` [dBZ], NaN = not observed.
        grid: Cells.
        attributes: Those of the variable.
        text: The entry of this time in the variable of texts asked for; else empty.
    """

    dbz: NDArray[np.float32]
    grid: Grid
    attributes: dict[str, Any]
    text: str = ""


def read_field(path: Path, time: datetime, texts: str = "") -> StoredField | None:
    """Return the ``reflectivity`` of one time, ``None`` if the file has other times only.

    Args:
        path: File with one time, or with a dimension of times.
        time: The time, UTC.
        texts: Name of a variable of texts over time.

    Raises:
        FileNotFoundError, StorageError, UnreadableFile: As :func:`reading`.
    """
    with reading(path) as file:
        times = times_of(file["time"])
        if time not in times:
            return None
        variable, index = file["reflectivity"], times.index(time)
        packed = variable[()] if variable.ndim == 2 else variable[index]
        text = str(file[texts].asstr()[index]) if texts else ""
        return StoredField(unpack(packed), grid_in(file), attributes_of(variable), text)


def attributes_of(target: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return text and numbers written by :func:`put_attributes`, without what belongs to the encoding."""
    found = {}
    for name, value in target.attrs.items():
        if name in _ENCODING:
            continue
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size == 1):
            value = value.item()
        found[name] = value
    return found


def times_of(variable: h5py.Dataset) -> list[datetime]:
    """Return the times of a variable written by :func:`put_time`."""
    if attributes_of(variable).get("units") != TIME_UNITS:
        raise ValueError(f"its times are not in {TIME_UNITS!r}")
    return [datetime.fromtimestamp(int(seconds), tz=UTC) for seconds in np.atleast_1d(variable[()])]


def grid_in(file: h5py.File) -> Grid:
    """Return the grid written by :func:`put_grid`."""
    wkt = file["crs"].attrs["crs_wkt"]
    text = wkt.decode() if isinstance(wkt, bytes) else str(wkt)
    return grid_of_bytes(text, file["x"][()].tobytes(), file["y"][()].tobytes())
