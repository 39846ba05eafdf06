"""MeteoSwiss composites: rain accumulation as the palette index of a GIF image.

Sources: GIF89a (CompuServe, 1990), sections 18 to 20 and 24; the comments MeteoSwiss writes into its files;
for the scale, pySTEPS's ``import_mch_gif``.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nowcast.errors import RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers.forecasts import refuse_forecast
from nowcast.readers.source import Limits, Source, parse_time

#: Rows and columns of the composite (1 km).
ROWS, COLUMNS = 640, 710

#: Centre of the north-western pixel [m] in the Swiss grid CH1903 / LV03 (EPSG:21781), whose outer corner is
#: 255 km east and 480 km north; the pixels are 1 km wide.
X0, Y0, SPACING = 255_500.0, 479_500.0, 1000.0

#: The relation Z = a R^b by which the scale ``mmh2LASSEN8bitmm`` writes rain as half decibels.
SCALE_A, SCALE_B = 316.0, 1.5

#: What the comment of a GIF says: product with year, day of year, hour and minute; scale; minutes of the sum.
_PRODUCT = re.compile(r"\bPRDT=([A-Z]{3})(\d{9})\b")
_SCALE = re.compile(r"\bSCALE=(\S+)")
_ACCUMULATION = re.compile(r"\bACCUm=(\d{1,6})\b")

#: The same in a file name, such as ``AQC151351850F_00005.801.gif``.
_NAME = re.compile(r"([A-Z]{3})(\d{9})[A-Z]?_(\d{5})\.")

#: Products whose index is on that scale: AQC = Acquire, CPC = CombiPrecip.
_PRODUCTS = ("AQC", "CPC")


def recognises(source: Source) -> bool:
    """Return whether the content is a GIF image."""
    return source.head.startswith((b"GIF87a", b"GIF89a"))


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame; time and interval come from the comment, else from the file name.

    Raises:
        RefusedProduct: If the image is no rain accumulation of MeteoSwiss, is a forecast, or one of several.
        UnreadableFile: If it is damaged, or has another size or palette.
    """
    index, comment = _decode(source, limits)
    refuse_forecast(source.name, *comment.splitlines())
    product, scale = _PRODUCT.search(comment), _SCALE.search(comment)
    accumulation, name = _ACCUMULATION.search(comment), _NAME.search(source.name)
    told = product or name
    if told is None or told[1] not in _PRODUCTS:
        raise RefusedProduct(
            f"{source.name}: a GIF image whose comment and name do not say that it is MeteoSwiss AQC or CPC"
        )
    if scale is not None and not scale[1].startswith("mmh2LASSEN8bitmm"):
        raise RefusedProduct(f"{source.name}: expected the scale mmh2LASSEN8bitmm, got {scale[1]!r}")
    minutes = float(accumulation[1]) if accumulation else float(name[3]) if name else 0.0
    yield RawFrame(
        values=np.take(_amounts(), index),
        quantity=Quantity.ACRR,
        time=parse_time(told[2], "%y%j%H%M", source.name),
        grid=_grid(),
        interval_minutes=minutes,
        source=f"MeteoSwiss {told[1]}",
        attributes={"time_from": "comment" if product else "file name"},
    )


def _decode(source: Source, limits: Limits) -> tuple[NDArray[np.uint8], str]:
    """Return the palette indices ``(y, x)`` and the comment of the first image."""
    content = source.content
    width, height = struct.unpack_from("<HH", content.ljust(10, b"\0"), 6)
    limits.check_cells(height, width, source.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=["GIF"])
            if image.size != (COLUMNS, ROWS):  # before the pixels are decoded
                raise UnreadableFile(
                    f"{source.name}: expected {ROWS} x {COLUMNS} pixels, got {image.height} x {image.width}"
                )
            # Pixels outside an image that leaves part of its screen empty would come as index 0, no rain.
            if image.tile[0][1] != (0, 0, COLUMNS, ROWS):
                raise UnreadableFile(f"{source.name}: the image fills {image.tile[0][1]} of its screen only")
            if getattr(image, "is_animated", False):
                raise RefusedProduct(f"{source.name}: expected one image, got an animation")
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"{source.name}: the image inside is larger than declared") from error
    except (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, struct.error) as error:
        raise UnreadableFile(f"{source.name}: the GIF image is damaged") from error
    if image.mode != "P" or image.getpalette() != _palette():
        raise UnreadableFile(f"{source.name}: expected MeteoSwiss's palette from white to red, got another")
    comment = image.info.get("comment", b"")
    return np.asarray(image), comment.decode("latin-1") if isinstance(comment, bytes) else ""


@lru_cache(maxsize=1)
def _palette() -> list[int]:
    """Return red, green and blue of the 256 colours: white through pink to red, and black for no data.

    A file saved again by another program may have its palette sorted anew; then the index means nothing.
    """
    return [channel for i in range(255) for channel in (255, 255 - i, 255 - i)] + [0, 0, 0]


@lru_cache(maxsize=1)
def _amounts() -> NDArray[np.float32]:
    """Return the rain amount [mm] of each palette index.

    Index i stands for a reflectivity of (i - 71.5) / 2 dBZ, turned into rain by Z = 316 R^1.5; 0 and 1 are no
    rain and 255 is no data. Nothing is known to be written as 251 to 254: they count as not observed rather
    than as dry.
    """
    amounts = (10.0 ** ((np.arange(256) - 71.5) / 20.0) / SCALE_A) ** (1.0 / SCALE_B)
    amounts[:2] = 0.0
    amounts[251:] = np.nan
    return amounts.astype(np.float32)


@lru_cache(maxsize=1)
def _grid() -> Grid:
    return Grid.from_crs("EPSG:21781", nx=COLUMNS, ny=ROWS, x0=X0, y0=Y0, dx=SPACING, dy=SPACING)
