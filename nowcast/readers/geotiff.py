"""GeoTIFF composites of any agency, if their tags say what the numbers are (extra ``geo``).

A raster knows its cells but seldom its meaning, so nothing is assumed: the unit comes from the band, from a
tag or from FMI's ``Quantity`` item; a raster that does not tell it, or tells two, is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import MissingExtra, RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers.source import Limits, Source, parse_time

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

#: First bytes of a TIFF and a BigTIFF of either byte order (TIFF 6.0, section 2; BigTIFF).
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: Compressions without a codec of their own that could be attacked.
_COMPRESSIONS = (None, "none", "deflate", "lzw")

#: Quantity of a unit, written without spaces, in lower case.
_UNITS = {
    "dbz": Quantity.DBZH,
    "mm/h": Quantity.RATE,
    "mm/hr": Quantity.RATE,
    "mmh-1": Quantity.RATE,
    "mmhr-1": Quantity.RATE,
    "mmh**-1": Quantity.RATE,
    "mm": Quantity.ACRR,
}

#: Tags that tell a unit, a scale, an offset, two states, an interval and a time; in lower case.
_UNIT_TAGS = ("unit", "units")
_SCALE_TAGS, _OFFSET_TAGS = ("gain", "scale_factor"), ("offset", "add_offset")
_NODATA_TAGS, _UNDETECT_TAGS = ("nodata",), ("undetect",)
_INTERVAL_TAGS = ("interval_minutes", "accumulation_minutes")
_TIME_TAGS = ("observation time", "observation_time", "valid_time", "nominal_time", "time")

#: Items of FMI's metadata whose unit stands in an attribute, which GDAL drops.
_FMI_ITEM = r'<Item name="{name}" unit="([^"<]{{1,20}})">([^<]{{1,40}})</Item>'

#: Minutes in the units an interval is told in.
_MINUTES = {"h": 60.0, "min": 1.0, "s": 1.0 / 60.0}

#: Date and time in a file name: 12 or 14 digits, or 8 and then 4 or 6.
_STAMP = re.compile(r"(?<!\d)(20\d{6})[-_T]?(\d{4}(?:\d\d)?)(?!\d)")

#: Time in a file name and creation time of the image may differ by this and still be the same.
_SAME_TIME = timedelta(minutes=1)


def recognises(source: Source) -> bool:
    """Return whether the content is a TIFF image."""
    return source.head.startswith(_MAGIC)


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame.

    Raises:
        MissingExtra: If rasterio is not installed.
        RefusedProduct: If the tags do not say, or say twice, what the numbers are.
        TooLarge: If the image declares more cells than the limits allow.
        UnreadableFile: If it is damaged, or not georeferenced on a grid from north to south.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError as error:
        raise MissingExtra(
            f"{source.name}: GeoTIFF needs rasterio: pip install 'nowcast-service[geo]'"
        ) from error
    content = source.content
    # Read from memory and by one driver: no file beside the image, and nothing it points to, is opened.
    try:
        with rasterio.Env(), warnings.catch_warnings(), rasterio.MemoryFile(content) as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # said in our own words
            with memory.open(driver="GTiff") as dataset:
                frame = _frame(dataset, content, source, limits)
    except (RasterioError, OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{source.name}: the TIFF image is damaged: {error}") from error
    yield frame


def _frame(dataset: DatasetReader, content: bytes, source: Source, limits: Limits) -> RawFrame:
    limits.check_cells(dataset.height, dataset.width, source.name)
    for rows, columns in dataset.block_shapes:
        limits.check_cells(rows, columns, f"{source.name}, block")
    compression = dataset.profile.get("compress")
    if (
        dataset.count != 1
        or compression not in _COMPRESSIONS
        or np.dtype(dataset.dtypes[0]).kind not in "uif"
    ):
        raise RefusedProduct(
            f"{source.name}: expected one band of numbers, plain or by deflate or lzw, "
            f"got {dataset.count} of {dataset.dtypes[0]} by {compression}"
        )
    tags = {key.lower(): str(value).strip() for key, value in {**dataset.tags(), **dataset.tags(1)}.items()}
    metadata = _metadata(content)
    quantity = _quantity(dataset, tags, metadata, source.name)
    time, told_by = _time(tags, source.name)
    return RawFrame(
        values=_values(dataset, tags, quantity, source.name),
        quantity=quantity,
        time=time,
        grid=_grid(dataset, source.name),
        interval_minutes=_interval(tags, metadata, source.name) if quantity is Quantity.ACRR else None,
        source=tags.get("institution") or tags.get("source") or "GeoTIFF",
        attributes={"time_from": told_by},
    )


def _metadata(content: bytes) -> str:
    """Return GDAL's metadata (tag 42112) as it is written, an XML text."""
    start = content.find(b"<GDALMetadata>")
    end = content.find(b"</GDALMetadata>", start)
    return content[start:end].decode("latin-1") if 0 <= start < end else ""


def _quantity(dataset: DatasetReader, tags: dict[str, str], metadata: str, name: str) -> Quantity:
    item = re.search(_FMI_ITEM.format(name="Quantity"), metadata)
    told = {dataset.units[0], *(tags.get(key) for key in _UNIT_TAGS), item[1] if item else None} - {None, ""}
    meant = {_UNITS.get(re.sub(r"\s", "", str(unit)).lower()) for unit in told}
    quantity = meant.pop() if len(meant) == 1 else None
    if quantity is None:
        raise RefusedProduct(
            f"{name}: the tags must tell one unit, dBZ, mm/h or mm, "
            f"but tell {', '.join(sorted(map(str, told))) or 'none'}"
        )
    return quantity


def _number(tags: dict[str, str], keys: tuple[str, ...], name: str) -> float | None:
    for key in keys:
        if key in tags:
            try:
                return float(tags[key])
            except ValueError as error:
                raise UnreadableFile(f"{name}: tag {key!r} is no number: {tags[key]!r}") from error
    return None


def _values(
    dataset: DatasetReader, tags: dict[str, str], quantity: Quantity, name: str
) -> NDArray[np.float32]:
    """Return the values ``(y, x)`` in the unit told, with NaN and no echo where the raw numbers say so."""
    scale, offset = dataset.scales[0], dataset.offsets[0]
    gain, add = _number(tags, _SCALE_TAGS, name), _number(tags, _OFFSET_TAGS, name)
    if gain is not None or add is not None:
        told = (1.0 if gain is None else gain, 0.0 if add is None else add)
        if (scale, offset) not in ((1.0, 0.0), told):
            raise RefusedProduct(
                f"{name}: the band's scale and offset are {scale:g} and {offset:g}, "
                f"the tags say {told[0]:g} and {told[1]:g}"
            )
        scale, offset = told
    nodata = _number(tags, _NODATA_TAGS, name) if dataset.nodata is None else dataset.nodata
    undetect = _number(tags, _UNDETECT_TAGS, name)
    raw = dataset.read(1)
    if nodata is None and raw.dtype.kind != "f":
        raise RefusedProduct(
            f"{name}: whole numbers without a no-data value do not tell what is not observed"
        )

    least = -np.inf if quantity.is_reflectivity else 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is no possible number either
        values: NDArray[np.float32] = raw.astype(np.float32)
        values *= np.float32(scale)
        values += np.float32(offset)
        values[~(values >= least) | (values == np.inf)] = np.nan  # not a number, or no possible one
    if undetect is not None:
        values[raw == undetect] = least
    if nodata is not None:
        values[raw == nodata] = np.nan
    return values


def _grid(dataset: DatasetReader, name: str) -> Grid:
    transform = dataset.transform
    if dataset.crs is None or transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise UnreadableFile(
            f"{name}: expected a coordinate reference system and rows from north to south, got {dataset.crs} "
            f"and the transform {tuple(transform)[:6]}"
        )
    dx, dy = transform.a, -transform.e
    code = dataset.crs.to_epsg()
    return Grid.from_crs(
        f"EPSG:{code}" if code else dataset.crs.to_wkt(version="WKT2_2019"),
        nx=dataset.width,
        ny=dataset.height,
        x0=transform.c + dx / 2,
        y0=transform.f - dy / 2,
        dx=dx,
        dy=dy,
    )


def _interval(tags: dict[str, str], metadata: str, name: str) -> float | None:
    """Return the minutes an accumulation covers."""
    minutes = _number(tags, _INTERVAL_TAGS, name)
    item = re.search(_FMI_ITEM.format(name="Accumulation time"), metadata)
    if minutes is None and item and item[1] in _MINUTES:
        told = _number({"accumulation time": item[2]}, ("accumulation time",), name)
        minutes = None if told is None else told * _MINUTES[item[1]]
    return minutes


def _time(tags: dict[str, str], name: str) -> tuple[datetime, str]:
    """Return the time of observation and who tells it.

    A tag that names the observation counts most. The DateTime tag of TIFF is by its definition the time of
    the image's creation (TIFF 6.0, section 8): it serves, unless the file name tells another time.
    """
    for key in _TIME_TAGS:
        if tags.get(key):
            return _spelt(tags[key], name), "tag"
    stamp = _STAMP.search(name)
    named = parse_time((stamp[1] + stamp[2]).ljust(14, "0"), "%Y%m%d%H%M%S", name) if stamp else None
    created = _spelt(tags["tifftag_datetime"], name) if tags.get("tifftag_datetime") else None
    if named and created and abs(named - created) >= _SAME_TIME:
        raise UnreadableFile(
            f"{name}: the file name says {named:%Y-%m-%dT%H:%MZ} and the tag DateTime "
            f"{created:%Y-%m-%dT%H:%MZ}; a tag 'observation_time' would decide"
        )
    if created:
        return created, "tag"
    if named:
        return named, "file name"
    raise UnreadableFile(f"{name}: neither a tag nor the file name tells the time of observation")


def _spelt(text: str, name: str) -> datetime:
    """Return the time of an ISO 8601 text, or of 12 or 14 digits; without an offset it is UTC."""
    if re.fullmatch(r"\d{12}(\d\d)?", text):
        return parse_time(text.ljust(14, "0"), "%Y%m%d%H%M%S", name)
    if re.fullmatch(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", text):
        return parse_time(text, "%Y:%m:%d %H:%M:%S", name)
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UnreadableFile(f"{name}: {text!r} is no time") from error
