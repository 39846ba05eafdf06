"""GeoTIFF composites of any agency, if their tags say what the numbers are (extra ``geo``).

A raster knows its cells but seldom its meaning, so nothing is assumed: the unit comes from the band, from a
tag or from FMI's ``Quantity`` item; a raster that does not tell it, or tells two, is refused.

Sources: TIFF 6.0; OGC GeoTIFF 1.1 (19-008r4); GDAL's GTiff driver for ``GDAL_NODATA`` and ``GDAL_METADATA``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import MissingExtra, RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers.geotiff_tags import Tags, quantity_of, read_tags
from nowcast.readers.packing import unpack
from nowcast.readers.source import Limits, Source

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

#: First bytes of a TIFF and a BigTIFF of either byte order (TIFF 6.0, section 2; BigTIFF).
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: Compressions that lose nothing, by GDAL's names; JPEG, WebP and LERC may change a value.
_COMPRESSIONS = (None, "none", "deflate", "lzw", "packbits", "zstd", "lzma")


def recognises(source: Source) -> bool:
    """Return whether the content is a TIFF image."""
    return source.head.startswith(_MAGIC)


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame.

    Raises:
        MissingExtra: If rasterio is not installed.
        RefusedProduct: If the tags do not say, or say twice, what the numbers are; or say a forecast.
        TooLarge: If the image declares more cells than the limits allow.
        UnreadableFile: If it is damaged, or not georeferenced on a grid along the axes of its plane.
    """
    try:
        import rasterio
        from rasterio._err import CPLE_BaseError  # what GDAL says late leaves rasterio as it came
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
    except (RasterioError, CPLE_BaseError, OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{source.name}: the TIFF image is damaged: {error}") from error
    yield frame


def _frame(dataset: DatasetReader, content: bytes, source: Source, limits: Limits) -> RawFrame:
    name = source.name
    limits.check_cells(dataset.height, dataset.width, name)
    for rows, columns in dataset.block_shapes:
        limits.check_cells(rows, columns, f"{name}, block")
    if dataset.subdatasets:
        raise RefusedProduct(f"{name}: expected one image, got {len(dataset.subdatasets)} pages")
    band = _band(dataset, name)
    compression = dataset.profile.get("compress")
    kind = dataset.dtypes[band - 1]
    if compression not in _COMPRESSIONS or np.dtype(kind).kind not in "uif":
        raise RefusedProduct(
            f"{name}: expected numbers, plain or by a compression that loses nothing "
            f"({', '.join(filter(None, _COMPRESSIONS[1:]))}), got {kind} by {compression}"
        )
    tags = read_tags(dataset, band, content, name)
    quantity = tags.quantity()
    time, told_by = tags.time()
    tags.refuse_forecast(time)
    grid, is_south_up, is_mirrored = _grid(dataset, name)
    values = _values(dataset, band, tags, quantity)
    if is_south_up or is_mirrored:
        values = np.ascontiguousarray(values[:: -1 if is_south_up else 1, :: -1 if is_mirrored else 1])
    return RawFrame(
        values=values,
        quantity=quantity,
        time=time,
        grid=grid,
        interval_minutes=tags.interval() if quantity is Quantity.ACRR else None,
        source=tags.text("institution", "source") or "GeoTIFF",
        attributes={"time_from": told_by},
    )


def _band(dataset: DatasetReader, name: str) -> int:
    """Return the number, from 1, of the band with precipitation: the only one there is, or in its unit."""
    bands = [i for i, use in enumerate(dataset.colorinterp, 1) if use.name != "alpha"]
    if len(bands) > 1:
        known = [i for i in bands if quantity_of(_units(dataset, i)) is not None]
        if len(known) != 1:
            raise RefusedProduct(
                f"{name}: expected one band of precipitation, got {len(bands)} bands of {dataset.dtypes[0]}, "
                f"{len(known)} of them in dBZ, mm/h or mm"
            )
        return known[0]
    if not bands:
        raise RefusedProduct(f"{name}: expected a band of numbers, got transparency only")
    return bands[0]


def _units(dataset: DatasetReader, band: int) -> set[str]:
    tags = {key.lower(): value for key, value in dataset.tags(band).items()}
    return {text for text in (dataset.units[band - 1], tags.get("unit"), tags.get("units")) if text}


def _values(dataset: DatasetReader, band: int, tags: Tags, quantity: Quantity) -> NDArray[np.float32]:
    """Return the values ``(y, x)`` in the unit told, with NaN and no echo where the raw numbers say so."""
    from rasterio.enums import MaskFlags

    scaling = tags.scaling(dataset.scales[band - 1], dataset.offsets[band - 1])
    if dataset.colorinterp[band - 1].name == "palette" and scaling is None:
        raise RefusedProduct(
            f"{tags.name}: expected numbers, got a picture whose pixels are indices of a palette"
        )
    gain, offset = scaling or (1.0, 0.0)
    missing = [
        code
        for code in (dataset.nodatavals[band - 1], tags.number("nodata", "missing_data"))
        if code is not None and code == code
    ]
    undetect = tags.number("undetect")
    raw = dataset.read(band)
    has_mask = MaskFlags.per_dataset in dataset.mask_flag_enums[band - 1]
    if not missing and not has_mask and raw.dtype.kind != "f":
        raise RefusedProduct(
            f"{tags.name}: whole numbers without a no-data value do not tell what is not observed"
        )
    values = unpack(
        raw,
        quantity,
        gain=gain,
        offset=offset,
        missing=missing,
        no_echo=[] if undetect is None else [undetect],
    )
    if has_mask:  # transparency, or a mask inside the file
        values[dataset.read_masks(band) == 0] = np.nan
    return values


def _grid(dataset: DatasetReader, name: str) -> tuple[Grid, bool, bool]:
    """Return the grid, and whether the rows come from the south and the columns from the east."""
    transform = dataset.transform
    if dataset.crs is None or transform.b or transform.d or not (transform.a and transform.e):
        raise UnreadableFile(
            f"{name}: expected a coordinate reference system and rows along its axes, got {dataset.crs} "
            f"and the transform {tuple(transform)[:6]}"
        )
    dx, dy = abs(transform.a), abs(transform.e)
    west = min(transform.c, transform.c + transform.a * dataset.width)
    north = max(transform.f, transform.f + transform.e * dataset.height)
    code = dataset.crs.to_epsg()
    grid = Grid.from_crs(
        f"EPSG:{code}" if code else dataset.crs.to_wkt(version="WKT2_2019"),
        nx=dataset.width,
        ny=dataset.height,
        x0=west + dx / 2,
        y0=north - dy / 2,
        dx=dx,
        dy=dy,
    )
    return grid, transform.e > 0, transform.a < 0
