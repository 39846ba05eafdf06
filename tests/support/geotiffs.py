"""GeoTIFFs written as agencies and their users write them."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import rasterio

from nowcast.readers import geotiff, read
from nowcast.readers.source import Limits, Source

NAME = "202210031300_FIN-DBZ-3067-1KM.tif"
WHEN = datetime(2022, 10, 3, 13, 0, tzinfo=UTC)
NORTH_UP = (1000.0, 0.0, 50_000.0, 0.0, -1000.0, 7_900_000.0)

#: What FMI's radar images tell of themselves; the unit is an attribute that GDAL does not hand on.
FMI = (
    '<GDALMetadata>\n<Item name="Observation time" format="YYYYMMDDhhmm">202210031300</Item>\n'
    '<Item name="Quantity" unit="{unit}">{quantity}</Item>\n<Item name="Gain">{gain}</Item>\n'
    '<Item name="Offset">{offset}</Item>\n<Item name="Nodata">{nodata}</Item>\n'
    '<Item name="Undetect">0</Item>\n{more}</GDALMetadata>\n'
)


def tiff(
    values,
    *,
    unit="",
    tags=None,
    nodata=None,
    scale=1.0,
    offset=0.0,
    crs="EPSG:3067",
    transform=NORTH_UP,
    bands=1,
    metadata="",
    finish=None,
    **profile,
):
    """Return a GeoTIFF; ``metadata`` is written as GDAL's own tag would be, ``finish`` does the rest."""
    values = np.asarray(values)
    profile = {"height": values.shape[0], "width": values.shape[1], "dtype": values.dtype, **profile}
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=bands,
            crs=crs,
            transform=rasterio.Affine(*transform) if transform else None,
            nodata=nodata,
            **profile,
        ) as dataset:
            dataset.write(values, 1, window=((0, values.shape[0]), (0, values.shape[1])))
            if (scale, offset) != (1.0, 0.0):
                dataset.scales, dataset.offsets = [scale], [offset]
            if unit:
                dataset.units = [unit] * bands
            dataset.update_tags(**(tags or {}))
            if finish:
                finish(dataset)
            if metadata:
                dataset.update_tags(placeholder="x" * len(metadata))
        content = bytes(memory.getbuffer())
    if metadata:  # swap GDAL's XML for FMI's, padded to the same length
        start = content.index(b"<GDALMetadata>")
        end = content.index(b"</GDALMetadata>", start) + len(b"</GDALMetadata>")
        text = metadata.encode().strip()
        padding = b" " * (end - start - len(text))
        content = (
            content[:start] + text.replace(b"</GDALMetadata>", padding + b"</GDALMetadata>") + content[end:]
        )
    return content


def frame(tmp_path, content, name=NAME, limits=None):
    path = tmp_path / name
    path.write_bytes(content)
    limits = limits or Limits()
    assert geotiff.recognises(Source(path, limits))
    (only,) = read(path, limits)
    return only
