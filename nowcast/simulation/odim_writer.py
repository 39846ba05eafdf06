"""A frame as an ODIM_H5 composite, the format radar networks exchange.

Source: Michelson et al., EUMETNET OPERA weather radar information model for implementation with the HDF5 file
format, version 2.4 (2021): what, where and data of an object COMP.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from nowcast.disk.durable import publish
from nowcast.frame.frame import RawFrame
from nowcast.frame.grid import Grid

#: The ladder of 8-bit reflectivity: codes 1 to 254 are -31.5 to 95 dBZ in steps of half a dB.
GAIN_DB, OFFSET_DBZ = 0.5, -32.0

#: Smallest step of everything that does not stand on that ladder [dB, mm/h or mm].
FINE_GAIN = 0.01

#: Offset of fine reflectivity: codes 1 to 65534 are -99.99 to 555.34 dBZ.
FINE_OFFSET_DBZ = -100.0


@dataclass(frozen=True)
class _Packed:
    codes: NDArray[np.unsignedinteger]
    gain: float
    offset: float
    nodata: int
    undetect: int = 0


def write_odim(path: Path, raw: RawFrame) -> None:
    """Write a frame as an ODIM_H5 2.4 object COMP; it appears whole or not at all.

    Reflectivities that are whole or half dBZ between -31.5 and 95 are kept exactly, in 8 bits; all else is
    rounded to 0.01 dB, mm/h or mm, in 16 bits, and bounded to what those hold. No echo becomes ``undetect``,
    not observed ``nodata``; a value too small for the step stays a value.

    Raises:
        StorageError: If the disk refuses.
    """
    packed = _packed(raw)
    interval = timedelta(minutes=raw.interval_minutes or 0.0)
    with publish(path) as temporary, h5py.File(temporary, "w") as file:
        _attributes(file, Conventions="ODIM_H5/V2_4")
        _attributes(
            file.create_group("what"),
            object="COMP",
            version="H5rad 2.4",
            source=f"CMT:{_without_separators(raw.source)}",
            **_moment(raw.time),
        )
        _attributes(file.create_group("where"), **_where(raw.grid))
        dataset = file.create_group("dataset1")
        _attributes(
            dataset.create_group("what"),
            product="COMP",
            prodname=_without_separators(raw.source),
            **_moment(raw.time - interval, "start"),
            **_moment(raw.time, "end"),
        )
        data = dataset.create_group("data1")
        _attributes(
            data.create_group("what"),
            quantity=str(raw.quantity),
            gain=packed.gain,
            offset=packed.offset,
            nodata=float(packed.nodata),
            undetect=float(packed.undetect),
        )
        image = data.create_dataset(
            "data", data=packed.codes, chunks=True, compression="gzip", compression_opts=6
        )
        if packed.codes.dtype == np.uint8:  # the HDF5 image convention knows 8 bits only
            _attributes(image, CLASS="IMAGE", IMAGE_VERSION="1.2")


def _packed(raw: RawFrame) -> _Packed:
    """Return the stored codes: 0 no echo, the largest not observed, the rest values."""
    values = raw.values
    seen = ~np.isnan(values)
    silent = np.isneginf(values) if raw.quantity.is_reflectivity else values == 0
    measured = seen & ~silent
    gain, offset = FINE_GAIN, 0.0
    kind: type[np.uint8] | type[np.uint16] = np.uint16
    if raw.quantity.is_reflectivity:
        offset = FINE_OFFSET_DBZ
        steps = (values[measured] - OFFSET_DBZ) / GAIN_DB
        if np.all((steps == np.round(steps)) & (steps >= 1) & (steps <= 254)):
            gain, offset, kind = GAIN_DB, OFFSET_DBZ, np.uint8
    nodata = int(np.iinfo(kind).max)
    codes: NDArray[np.unsignedinteger] = np.full(values.shape, nodata, dtype=kind)
    codes[silent] = 0
    steps = (values[measured].astype(np.float64) - offset) / gain
    codes[measured] = np.clip(np.round(steps), 1, nodata - 1).astype(kind)
    return _Packed(codes, gain, offset, nodata)


def _where(grid: Grid) -> dict[str, str | int | float]:
    """Return the attributes of the grid: its projection, and the outer corners of its corner cells."""
    with warnings.catch_warnings():  # pyproj warns that PROJ strings are lossy; the standard asks for one
        warnings.simplefilter("ignore", UserWarning)
        definition = grid.crs.to_proj4().removesuffix(" +type=crs")
    x_min, y_min, x_max, y_max = grid.outer_bounds
    corners = {"LL": (x_min, y_min), "UL": (x_min, y_max), "UR": (x_max, y_max), "LR": (x_max, y_min)}
    where: dict[str, str | int | float] = {
        "projdef": definition,
        "xsize": grid.nx,
        "ysize": grid.ny,
        "xscale": grid.dx,
        "yscale": grid.dy,
    }
    for name, (x, y) in corners.items():
        where[f"{name}_lon"], where[f"{name}_lat"] = map(float, grid.xy_to_lonlat(x, y))
    return where


def _moment(time: datetime, which: str = "") -> dict[str, str]:
    return {f"{which}date": f"{time:%Y%m%d}", f"{which}time": f"{time:%H%M%S}"}


def _without_separators(words: str) -> str:
    """Return words as ASCII fit for ``what/source``, a list of ``TYPE:value`` separated by commas."""
    return words.replace(",", " ").replace(":", " ").encode("ascii", "replace").decode()


def _attributes(holder: h5py.Group | h5py.Dataset, **values: str | int | float) -> None:
    """Write attributes as the model has them: null-terminated ASCII of fixed length, long and double."""
    for name, value in values.items():
        if isinstance(value, str):
            text = value.encode("ascii")
            kind = h5py.h5t.C_S1.copy()
            kind.set_size(len(text) + 1)
            kind.set_strpad(h5py.h5t.STR_NULLTERM)
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            attribute = h5py.h5a.create(holder.id, name.encode("ascii"), kind, space)
            attribute.write(np.array(text, dtype=f"S{len(text) + 1}"))
        else:
            holder.attrs[name] = np.int64(value) if isinstance(value, int) else np.float64(value)
