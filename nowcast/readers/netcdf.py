"""netCDF files as plain variables, whichever of the two containers they come in.

The netCDF C library stays out of it: it reads whole headers before anybody can object, follows links, and
must never run in two threads. Sources: NetCDF-4 Format Specification, Unidata (netCDF 4.9 documentation,
appendix B.3); HDF5 Dimension Scale Specification, The HDF Group (2005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

#: Deepest level of groups that is looked at.
MAX_DEPTH = 8

#: Most characters that a variable of text may hold altogether.
MAX_CHARACTERS = 1_000_000

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
        fetch: Returns the stored numbers, or text, under an index, within the limits.
        type_of: Returns the type an attribute is stored in, ``None`` where it has none.
    """

    name: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    describe: Callable[[], Mapping[str, Attribute]]
    fetch: Callable[[Index], NDArray[Any]]
    type_of: Callable[[str], np.dtype[Any] | None] = lambda name: None

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
        """Return the numbers of an attribute; none if it is absent or empty.

        Raises:
            UnreadableFile: If it is text, even text that spells a number: its maker compared nothing with it.
        """
        value = self.attributes.get(name, ())
        if isinstance(value, str):
            if not value.strip():
                return ()
            raise UnreadableFile(
                f"attribute {name!r} of {self.name!r} must be a number, is the text {value[:40]!r}"
            )
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

    def words(self) -> list[str]:
        """Return the text a variable holds, one piece per cell; characters along the last dimension are one.

        Raises:
            TooLarge: If it holds more than :data:`MAX_CHARACTERS`.
        """
        if np.prod(self.shape, dtype=np.float64) * self.dtype.itemsize > MAX_CHARACTERS:
            raise TooLarge(f"variable {self.name!r} holds more than {MAX_CHARACTERS} characters")
        stored = self.fetch((slice(None),) * len(self.shape))
        if stored.dtype.kind == "S" and stored.dtype.itemsize == 1 and stored.ndim:
            pieces = [b"".join(row) for row in stored.reshape(-1, stored.shape[-1])]
        else:
            pieces = list(stored.ravel())
        texts = (
            piece.decode("utf-8", "replace") if isinstance(piece, bytes) else str(piece) for piece in pieces
        )
        return [text.strip("\0 ") for text in texts]


@dataclass(frozen=True)
class NetCDF:
    """An opened netCDF file seen from one of its groups, mostly the root.

    Attributes:
        attributes: Global attributes, those of the group before those of the groups around it.
        variables: Variables of the group and of the groups around it, whose dimensions are its own too.
        own: Names of the group's own variables.
        path: Path of the group, empty for the root.
        groups: The file seen from each group below the root.
    """

    attributes: Mapping[str, Attribute]
    variables: Mapping[str, Variable]
    own: frozenset[str] = frozenset()
    path: str = ""
    groups: tuple[NetCDF, ...] = ()

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
                    found.types.get,
                )
                for name, found in variables.items()
            },
            frozenset(variables),
        )


def _from_hdf5(file: h5py.File, limits: Limits) -> NetCDF:
    levels = dict(_levels(file))
    scales = {
        h5py.h5o.get_info(dataset.id).addr: name
        for _, datasets in levels.values()
        for name, dataset in datasets.items()
        if hdf5.attribute(dataset, "CLASS") == "DIMENSION_SCALE"
    }
    seen: dict[str, NetCDF] = {}
    for path, (group, datasets) in levels.items():
        around = seen.get(path.rpartition("/")[0]) if path else None
        own = {
            name: _variable(file, name, dataset, scales, limits)
            for name, dataset in datasets.items()
            if not str(hdf5.attribute(dataset, "NAME")).startswith(_NO_VARIABLE)
        }
        seen[path] = NetCDF(
            {**(around.attributes if around else {}), **hdf5.attributes(group)},
            {**(around.variables if around else {}), **own},
            frozenset(own),
            path,
        )
    root = seen.pop("")
    return replace(root, groups=tuple(seen.values()))


def _levels(file: h5py.File) -> Iterator[tuple[str, tuple[h5py.Group, dict[str, h5py.Dataset]]]]:
    """Yield path, group and arrays of every group, the outer ones first; each group once.

    Raises:
        TooLarge: If the groups lie deeper than :data:`MAX_DEPTH` or have too many members altogether.
    """
    waiting: list[tuple[str, h5py.Group]] = [("", file)]
    visited, members = {h5py.h5o.get_info(file.id).addr}, 0
    while waiting:
        path, group = waiting.pop(0)
        datasets = {}
        for name in hdf5.names(group):
            # A link out of the file is not refused here, just not followed: it is no variable of this file.
            if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                continue
            found = group[name]
            if isinstance(found, h5py.Group):
                address = h5py.h5o.get_info(found.id).addr
                if address not in visited:
                    visited.add(address)
                    waiting.append((f"{path}/{name}", found))
            elif isinstance(found, h5py.Dataset) and found.shape is not None and _is_plain(found.dtype):
                datasets[name] = found
        members += len(datasets)
        if path.count("/") > MAX_DEPTH or max(members, len(visited)) > hdf5.MAX_MEMBERS:
            raise TooLarge(
                f"has groups {path.count('/')} deep and {members} variables; at most {MAX_DEPTH} and "
                f"{hdf5.MAX_MEMBERS} are looked at"
            )
        yield path, (group, datasets)


def _is_plain(kind: np.dtype[Any]) -> bool:
    return kind.kind in "iufS" or h5py.check_string_dtype(kind) is not None


def _variable(
    file: h5py.File, name: str, dataset: h5py.Dataset, scales: Mapping[int, str], limits: Limits
) -> Variable:
    is_scale = dataset.ndim == 1 and h5py.h5o.get_info(dataset.id).addr in scales
    return Variable(
        name,
        (name,) if is_scale else _axes(file, dataset, scales),
        dataset.shape,
        dataset.dtype,
        partial(hdf5.attributes, dataset),
        _bounded(name, dataset.shape, _fetch_of(dataset, limits), limits),
        partial(_attribute_type, dataset),
    )


def _attribute_type(dataset: h5py.Dataset, name: str) -> np.dtype[Any] | None:
    return dataset.attrs.get_id(name).dtype if name in dataset.attrs else None


def _fetch_of(dataset: h5py.Dataset, limits: Limits) -> Callable[[Index], NDArray[Any]]:
    def fetch(index: Index) -> NDArray[Any]:
        hdf5.check_array(dataset, limits)
        return np.asarray(dataset[index])

    def fetch_text(index: Index) -> NDArray[Any]:
        plan = dataset.id.get_create_plist()
        if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
            raise UnreadableFile(f"the text of {dataset.name} lies in another file; those are not followed")
        if np.prod(dataset.chunks or (0,), dtype=np.float64) * dataset.dtype.itemsize > MAX_CHARACTERS:
            raise TooLarge(f"{dataset.name} has chunks of more than {MAX_CHARACTERS} characters")
        return np.asarray(dataset[index])

    return fetch if dataset.dtype.kind in "iuf" else fetch_text


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
