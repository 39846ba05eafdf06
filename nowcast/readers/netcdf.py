"""netCDF files as plain variables, whichever of the two containers they come in.

The netCDF C library stays out of it: it reads whole headers before anybody can object, follows links, and
must never run in two threads. Sources: NetCDF-4 Format Specification, Unidata (netCDF 4.9 documentation,
appendix B.3); HDF5 Dimension Scale Specification, The HDF Group (2005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nowcast.errors import TooLarge, UnreadableFile
from nowcast.readers import hdf5, netcdf_classic
from nowcast.readers.hdf5 import Attribute
from nowcast.readers.source import Limits, Source

#: What a cell never written holds, by type (``NC_FILL_*`` of netcdf.h); 8-bit types have none in use.
DEFAULT_FILL: Mapping[str, float] = {
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "i8": -9223372036854775806,
    "u8": 18446744073709551614,
    "f4": float(np.float32(9.969209968386869e36)),
    "f8": 9.969209968386869e36,
}

#: Begins the HDF5 name of a dimension that has no coordinate variable (``DIM_WITHOUT_VARIABLE`` of netCDF).
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"

#: An index into a variable: one entry per dimension.
Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Variable:
    """One array of a netCDF file, not yet read.

    Attributes:
        name: Its name.
        dimensions: Names of its dimensions; empty names where the file does not say.
        shape: Their lengths.
        dtype: Type of the stored numbers.
        describe: Returns the attributes.
        fetch: Returns the stored numbers under an index, within the limits.
    """

    name: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    describe: Callable[[], Mapping[str, Attribute]]
    fetch: Callable[[Index], NDArray[Any]]

    @property
    def is_numeric(self) -> bool:
        """Whether it holds numbers; text holds none."""
        return self.dtype.kind in "iuf"

    @cached_property
    def attributes(self) -> Mapping[str, Attribute]:
        """Text and numbers; what is neither, or absurdly large, is left out."""
        return self.describe()

    def text(self, name: str) -> str:
        """Return an attribute if it is text, else an empty string."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) else ""

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return the numbers of an attribute; none if it is absent or text."""
        value = self.attributes.get(name, ())
        if isinstance(value, str):
            return ()
        return value if isinstance(value, tuple) else (float(value),)

    @property
    def scaling(self) -> tuple[float, float]:
        """``scale_factor`` and ``add_offset`` (CF section 8.1)."""
        return (*self.numbers("scale_factor"), 1.0)[0], (*self.numbers("add_offset"), 0.0)[0]

    @property
    def missing_codes(self) -> tuple[float, ...]:
        """The stored numbers that mean "missing": the declared ones, else the default (CF section 2.5.1)."""
        declared = self.numbers("_FillValue") + self.numbers("missing_value")
        default = DEFAULT_FILL.get(self.dtype.str[1:])
        return declared or (() if default is None else (default,))

    def coordinate(self) -> NDArray[np.float64]:
        """Return all values, scaled, in double precision; missing ones are NaN."""
        stored = self.fetch((slice(None),) * len(self.shape))
        scale, offset = self.scaling
        with np.errstate(all="ignore"):
            values = np.asarray(stored, dtype=np.float64) * scale + offset
        return np.where(np.isin(stored, self.missing_codes), np.nan, values)


@dataclass(frozen=True)
class NetCDF:
    """An opened netCDF file: global attributes, and the variables of its root group."""

    attributes: Mapping[str, Attribute]
    variables: Mapping[str, Variable]

    def text(self, name: str) -> str:
        """Return a global attribute if it is text, else an empty string."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) else ""


def is_container(source: Source) -> bool:
    """Return whether the content begins like one of the two containers, HDF5 and classic netCDF."""
    return source.head.startswith((hdf5.MAGIC, *netcdf_classic.MAGICS))


@contextmanager
def opened(source: Source, limits: Limits) -> Iterator[NetCDF]:
    """Open a netCDF file; use inside :func:`nowcast.readers.hdf5.guarded`."""
    if source.head.startswith(hdf5.MAGIC):
        with hdf5.opened(source) as file:
            yield _from_hdf5(file, limits)
    else:
        attributes, variables = netcdf_classic.parse(source.content)
        yield NetCDF(
            attributes,
            {
                name: Variable(
                    name,
                    found.dimensions,
                    found.values.shape,
                    found.values.dtype,
                    partial(dict, found.attributes),
                    _bounded(name, found.values.shape, found.values.__getitem__, limits),
                )
                for name, found in variables.items()
            },
        )


def _from_hdf5(file: h5py.File, limits: Limits) -> NetCDF:
    datasets = {}
    for name in hdf5.names(file):
        # A link out of the file is not refused here, just not followed: it is no variable of this file.
        if file.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD:
            found = file[name]
            if isinstance(found, h5py.Dataset) and found.shape is not None and _is_plain(found.dtype):
                datasets[name] = found
    scales = {
        h5py.h5o.get_info(dataset.id).addr: name
        for name, dataset in datasets.items()
        if hdf5.attribute(dataset, "CLASS") == "DIMENSION_SCALE"
    }
    variables = {}
    for name, dataset in datasets.items():
        if str(hdf5.attribute(dataset, "NAME")).startswith(_NO_VARIABLE):
            continue
        is_scale = dataset.ndim == 1 and name in scales.values()
        variables[name] = Variable(
            name,
            (name,) if is_scale else _axes(file, dataset, scales),
            dataset.shape,
            dataset.dtype,
            partial(hdf5.attributes, dataset),
            _bounded(name, dataset.shape, _fetch_of(dataset, limits), limits),
        )
    return NetCDF(hdf5.attributes(file), variables)


def _is_plain(kind: np.dtype[Any]) -> bool:
    return kind.kind in "iufS" or h5py.check_string_dtype(kind) is not None


def _fetch_of(dataset: h5py.Dataset, limits: Limits) -> Callable[[Index], NDArray[Any]]:
    def fetch(index: Index) -> NDArray[Any]:
        hdf5.check_array(dataset, limits)
        return np.asarray(dataset[index])

    return fetch


def _bounded(
    name: str, shape: tuple[int, ...], fetch: Callable[[Index], NDArray[Any]], limits: Limits
) -> Callable[[Index], NDArray[Any]]:
    def bounded(index: Index) -> NDArray[Any]:
        taken = [n for n, at in zip(shape, index, strict=True) if isinstance(at, slice)]
        if np.prod(taken, dtype=np.float64) > limits.max_cells:
            raise TooLarge(
                f"variable {name!r} has {taken} values; at most {limits.max_cells} are read at once"
            )
        return fetch(index)

    return bounded


def _axes(file: h5py.File, dataset: h5py.Dataset, scales: Mapping[int, str]) -> tuple[str, ...]:
    """Return the names of the dimension scales attached to a dataset, empty names where there is none."""
    nameless: tuple[str, ...] = ("",) * int(dataset.ndim)
    if not nameless or "DIMENSION_LIST" not in dataset.attrs:
        return nameless
    if dataset.attrs.get_id("DIMENSION_LIST").shape != (dataset.ndim,):
        raise UnreadableFile(
            f"the list of dimensions of {dataset.name} does not fit its shape {dataset.shape}"
        )
    found = []
    for attached in dataset.attrs["DIMENSION_LIST"]:
        reference = attached[0] if len(attached) else None
        if not isinstance(reference, h5py.Reference) or not reference:
            return nameless
        address = h5py.h5o.get_info(h5py.h5r.dereference(reference, file.id)).addr
        found.append(scales.get(address, ""))
    return tuple(found)
