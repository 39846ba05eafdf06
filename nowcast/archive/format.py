"""The files of the archive: one frame, one day's cube of frames, and the Zarr store a training run reads."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.disk import durable, netcdf
from nowcast.disk.dates import stamp
from nowcast.errors import MissingExtra, StorageError, UnreadableFile, WrongGrid
from nowcast.frame.frame import REFLECTIVITY_ATTRIBUTES, frame_array
from nowcast.frame.grid import Grid

_TIME_ATTRIBUTES = {"standard_name": "time", "long_name": "nominal time of the composite", "axis": "T"}


def digest_of(packed: NDArray[np.int16], time: datetime) -> str:
    """Return the SHA-256 of a frame's time and values, row by row from the north: its identity."""
    header = f"{stamp(time)} {packed.shape[0]} {packed.shape[1]} "
    sha256 = hashlib.sha256(header.encode())
    sha256.update(np.ascontiguousarray(packed, dtype="<i2").data)
    return sha256.hexdigest()


def frame_file(
    domain: str,
    time: datetime,
    grid: Grid,
    packed: NDArray[np.int16],
    digest: str,
    attributes: Mapping[str, Any],
) -> bytes:
    """Return the netCDF file of one frame."""
    with netcdf.new_file() as file:
        netcdf.put_grid(file, grid)
        netcdf.put_time(file, "time", time, (), _TIME_ATTRIBUTES)
        variable = netcdf.put_packed(
            file,
            "reflectivity",
            {},
            grid,
            netcdf.OBSERVED,
            {**attributes, **REFLECTIVITY_ATTRIBUTES},
            coordinates="time",
        )
        netcdf.write_packed(variable, (), packed, netcdf.OBSERVED)
        _put_globals(file, domain, {"source": attributes.get("source", ""), "content_sha256": digest})
        return netcdf.image(file)


def load_frame(path: Path, time: datetime) -> xr.DataArray:
    """Return the frame ``reflectivity(y, x)`` of a frame file.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableFile: If it is damaged, or holds another time than its name says.
    """
    stored = netcdf.read_field(path, time)
    if stored is None:
        inside = ", ".join(map(str, cube_times(path)))
        raise UnreadableFile(f"{path} is damaged: expected a frame of {time}, it holds one of {inside}")
    return frame_array(stored.dbz, stored.grid, time, stored.attributes)


def load_from_cube(path: Path, time: datetime) -> xr.DataArray | None:
    """Return one time of a day's cube as a frame ``reflectivity(y, x)``, ``None`` if it is not in it.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableFile: If it is damaged.
    """
    stored = netcdf.read_field(path, time, "frame_attributes")
    return None if stored is None else frame_array(stored.dbz, stored.grid, time, json.loads(stored.text))


def cube_times(path: Path) -> tuple[datetime, ...]:
    """Return the times in a day's cube, in order; none if there is no such file.

    Raises:
        UnreadableFile: If it is damaged.
    """
    try:
        with netcdf.reading(path) as file:
            return tuple(netcdf.times_of(file["time"]))
    except FileNotFoundError:
        return ()


def cube_digests(path: Path) -> dict[datetime, str]:
    """Return the content hash of each time in a day's cube; empty if there is no such file.

    Raises:
        UnreadableFile: If it is damaged.
    """
    try:
        with netcdf.reading(path) as file:
            digests = file["content_sha256"].asstr()[()]
            return dict(zip(netcdf.times_of(file["time"]), digests, strict=True))
    except FileNotFoundError:
        return {}


def write_cube(cube: Path, domain: str, late: Mapping[datetime, Path]) -> None:
    """Publish a day's cube of the frames in ``cube``, if it exists, and in the frame files ``late``.

    Deflated tiles are copied as they are; then all is read back and compared with the hash of each frame.

    Raises:
        UnreadableFile: If a frame or the earlier cube is damaged.
        WrongGrid: If the frames lie on different grids.
        StorageError: If the disk refuses.
    """
    sources: dict[datetime, tuple[Path, tuple[int, ...]]] = {time: (path, ()) for time, path in late.items()}
    if cube.exists():
        with netcdf.reading(cube) as file:
            for index, time in enumerate(netcdf.times_of(file["time"])):
                sources[time] = cube, (index,)
    times = sorted(sources)
    _check_space(cube, {path for path, _ in sources.values()})
    with durable.publish(cube) as temporary:
        try:
            with netcdf.new_file(temporary) as target:
                _fill_cube(target, domain, times, [sources[time] for time in times])
        except RuntimeError as error:  # how HDF5 says that a write failed
            raise StorageError(f"cannot write {cube}: {error}") from error
        try:
            verify(temporary)
        except UnreadableFile as error:
            raise UnreadableFile(f"{cube} is not written, a frame is damaged: {error}") from error


def _fill_cube(
    target: h5py.File, domain: str, times: Sequence[datetime], sources: Sequence[tuple[Path, tuple[int, ...]]]
) -> None:
    grid: Grid | None = None
    digests, attributes = [], []
    for position, (path, index) in enumerate(sources):
        with netcdf.reading(path) as source:
            if grid is None:
                grid = netcdf.grid_in(source)
                _prepare_cube(target, domain, times, grid)
            elif not grid.matches(netcdf.grid_in(source)):
                raise WrongGrid(f"{path}: the day's other frames have {grid}; got {netcdf.grid_in(source)}")
            _copy_field(source["reflectivity"], index, target["reflectivity"], (position,))
            if index:
                digests.append(source["content_sha256"].asstr()[index])
                attributes.append(source["frame_attributes"].asstr()[index])
            else:
                digests.append(netcdf.attributes_of(source)["content_sha256"])
                attributes.append(json.dumps(netcdf.attributes_of(source["reflectivity"])))
    text = h5py.string_dtype()
    netcdf.put_variable(
        target, "content_sha256", np.array(digests, dtype=object), ("time",),
        {"long_name": "SHA-256 of each frame's packed values and time"}, dtype=text,
    )  # fmt: skip
    netcdf.put_variable(
        target, "frame_attributes", np.array(attributes, dtype=object), ("time",),
        {"long_name": "attributes of each frame as JSON"}, dtype=text,
    )  # fmt: skip


def _prepare_cube(target: h5py.File, domain: str, times: Sequence[datetime], grid: Grid) -> None:
    netcdf.put_time(target, "time", times, ("time",), _TIME_ATTRIBUTES)
    netcdf.put_grid(target, grid)
    leading = {"time": len(times)}
    netcdf.put_packed(target, "reflectivity", leading, grid, netcdf.OBSERVED, REFLECTIVITY_ATTRIBUTES)
    _put_globals(target, domain, {})


def _copy_field(
    source: h5py.Dataset, source_index: tuple[int, ...], target: h5py.Dataset, target_index: tuple[int, ...]
) -> None:
    """Copy a field without inflating it, unless an earlier version of this code cut other tiles."""
    rows, columns = target.chunks[-2:]
    if source.chunks[-2:] != (rows, columns) or source.shuffle != target.shuffle:
        netcdf.write_packed(target, target_index, source[(*source_index, ...)], netcdf.OBSERVED)
        return
    for top in range(0, target.shape[-2], rows):
        for left in range(0, target.shape[-1], columns):
            filter_mask, chunk = source.id.read_direct_chunk((*source_index, top, left))
            target.id.write_direct_chunk((*target_index, top, left), chunk, filter_mask)


def _put_globals(file: h5py.File, domain: str, further: Mapping[str, Any]) -> None:
    netcdf.put_attributes(
        file,
        {
            "Conventions": netcdf.CONVENTIONS,
            "title": f"Radar reflectivity of domain {domain}",
            "domain": domain,
            **further,
        },
    )


def _check_space(cube: Path, sources: Iterable[Path]) -> None:
    """Refuse before HDF5 meets a full disk, which it handles badly: a cube is as large as its sources."""
    needed = sum(path.stat().st_size for path in sources)
    free = shutil.disk_usage(cube.parent).free
    if free < needed + 2**20:
        raise StorageError(
            f"cannot write {cube}: the disk is full, {needed} bytes are needed and {free} are free"
        )


def verify(path: Path) -> None:
    """Read a whole frame file or day's cube and compare it with the hashes made when the frames were added.

    Raises:
        UnreadableFile: If a frame is not what was added.
    """
    with netcdf.reading(path) as file:
        variable = file["reflectivity"]
        times = netcdf.times_of(file["time"])
        if variable.ndim == 2:
            digests = [netcdf.attributes_of(file)["content_sha256"]]
        else:
            digests = list(file["content_sha256"].asstr()[()])
        for position, (time, digest) in enumerate(zip(times, digests, strict=True)):
            packed = variable[()] if variable.ndim == 2 else variable[position]
            if digest_of(packed, time) != digest:
                raise UnreadableFile(f"{path} is damaged: the values of {time} are not those that were added")


def write_zarr(target: Path, domain: str, times: Sequence[datetime], frames: Iterable[xr.DataArray]) -> None:
    """Publish frames as a Zarr v3 store ``reflectivity(time, y, x)``, one chunk a time, one frame in memory.

    Raises:
        MissingExtra: If the package ``zarr`` is not installed.
        StorageError: If ``target`` exists, or the disk refuses.
    """
    try:
        import zarr  # optional, and slow to import
    except ImportError as error:
        raise MissingExtra(
            "exporting to Zarr needs the package 'zarr': install nowcast-service[zarr]"
        ) from error
    seconds = np.array([int(time.timestamp()) for time in times], dtype=np.int64)
    time_attributes = {**_TIME_ATTRIBUTES, "units": netcdf.TIME_UNITS, "calendar": "standard"}
    try:
        with durable.publish_folder(target) as temporary:
            group = zarr.create_group(
                temporary,
                zarr_format=3,
                attributes={"Conventions": netcdf.CONVENTIONS, "domain": domain},
            )
            cube = None
            for index, frame in enumerate(frames):
                if cube is None:
                    for name in ("y", "x", "crs"):
                        _put_zarr(group, name, frame[name].values, frame[name].dims, frame[name].attrs)
                    _put_zarr(group, "time", seconds, ("time",), time_attributes)
                    cube = group.create_array(
                        "reflectivity",
                        shape=(len(times), *frame.shape),
                        chunks=(1, *frame.shape),
                        dtype=np.float32,
                        fill_value=np.nan,
                        dimension_names=("time", "y", "x"),
                        attributes=dict(REFLECTIVITY_ATTRIBUTES),
                    )
                cube[index] = frame.values
            with warnings.catch_warnings():  # zarr warns that other readers may not know it; xarray wants it
                warnings.simplefilter("ignore")
                zarr.consolidate_metadata(temporary)
    except FileExistsError as error:
        raise StorageError(f"cannot write {target}: it exists already; expected a new name") from error


def _put_zarr(
    group: Any, name: str, values: NDArray[Any], dims: tuple[Any, ...], attributes: Mapping[str, Any]
) -> None:
    plain = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in attributes.items()
    }
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, dimension_names=dims, attributes=plain
    )
    array[...] = values
