"""FMI composites: reflectivity as an 8-bit PGM image with georeferencing in ``#`` comments.

Sources: Netpbm's pgm(5) for the image; the comments of FMI's open data for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from pyproj import Proj
from pyproj.exceptions import CRSError

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers.forecasts import WORDS, denies, refuse_forecast
from nowcast.readers.source import Limits, Source, parse_time

#: Radius [m] of the sphere FMI projects on. The header leaves it out, but with this one the corners are as
#: far apart as the pixels say, to 1e-4 of a pixel; with WGS 84 they miss by three pixels.
EARTH_RADIUS_M = 6_371_288.0

#: Reflectivity [dBZ] of each pixel value: (v - 64) / 2; 0 = no echo, 255 = not observed.
DBZ = ((np.arange(256) - 64.0) / 2.0).astype(np.float32)
DBZ[0], DBZ[255] = -np.inf, np.nan

#: What stands between two words of the header: white space, and comments to the end of their line.
_BETWEEN = rb"((?:\s|#[^\n]*\n)+)"

#: Magic number, columns, rows, largest value and one white space; comments anywhere before the last.
_HEADER = re.compile(rb"P5" + rb"".join(_BETWEEN + rb"(\d{1,6})" for _ in range(3)) + rb"\s")

#: One comment, its name and its text.
_COMMENT = re.compile(r"^#[ \t]*(\w+)[ \t]+(.*?)\s*$", re.MULTILINE)

#: Comments that may stand more than once.
_REPEATED = ("radar", "projection")

#: Comments that tell when a forecast is valid or how far ahead; in an observation they say its own time or 0.
_AHEAD = ("validtime", "fctime", "leadtime", "forecasttime", "forecast", "analysistime", "origintime")

#: Longest header [bytes] looked at; FMI's are under 1000.
_LONGEST_HEADER = 65_536

#: A comment that only FMI writes; one of them stands in the first lines.
_MARK = re.compile(rb"P5\s(?:.*\n)?#[ \t]*(composite_area|projection_name|obstime)[ \t]", re.DOTALL)


def recognises(source: Source) -> bool:
    """Return whether the content is a PGM with FMI's comments."""
    return _MARK.match(source.head) is not None


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame.

    Raises:
        RefusedProduct: If the image holds something else than observed, corrected reflectivity.
        UnreadableFile: If the header or the size of the image is not as expected.
    """
    content = source.content
    header = _HEADER.match(content, 0, _LONGEST_HEADER)
    if header is None:
        raise UnreadableFile(f"{source.name}: expected a PGM header with comments, columns, rows and 255")
    nx, ny, largest = int(header[2]), int(header[4]), int(header[6])
    fields = _fields(header, source.name)
    if fields.get("param") != "CorrectedReflectivity" or largest != 255:
        raise RefusedProduct(
            f"{source.name}: expected CorrectedReflectivity in one byte, "
            f"got {fields.get('param')!r} up to {largest}"
        )
    _refuse_forecast(fields, source.name)
    limits.check_cells(ny, nx, source.name)
    found = len(content) - header.end()
    if found != nx * ny:
        raise UnreadableFile(f"{source.name}: declares {ny} x {nx} pixels of one byte, holds {found} bytes")
    pixels = np.frombuffer(content, np.uint8, offset=header.end())
    yield RawFrame(
        values=np.take(DBZ, pixels).reshape(ny, nx),
        quantity=Quantity.DBZH,
        time=parse_time(fields.get("obstime", ""), "%Y%m%d%H%M", source.name),
        grid=_grid(nx, ny, *(fields.get(key, "") for key in _GEOREFERENCE)),
        interval_minutes=None,
        source=f"FMI {fields.get('projection_name', 'composite')} {fields.get('productname', '')}".strip(),
    )


def _fields(header: re.Match[bytes], name: str) -> dict[str, str]:
    """Return the comments by their name.

    Raises:
        UnreadableFile: If one is told twice and differently.
    """
    comments = b"\n".join((header[1], header[3], header[5])).decode("latin-1")
    fields: dict[str, str] = {}
    for key, text in _COMMENT.findall(comments):
        if fields.setdefault(key, text) != text and key not in _REPEATED:
            raise UnreadableFile(f"{name}: the header tells {key!r} twice: {fields[key]!r} and {text!r}")
    return fields


def _refuse_forecast(fields: dict[str, str], name: str) -> None:
    refuse_forecast(name, *(fields.get(key, "") for key in ("producttype", "productname", "projection_name")))
    for key, text in fields.items():
        is_ahead = key.lower().replace("_", "") in _AHEAD or WORDS.search(key.replace("_", " "))
        if is_ahead and not denies(text) and text != fields.get("obstime"):
            raise RefusedProduct(
                f"{name}: a forecast, not an observation: the header says {key} {text[:40]!r}"
            )


#: Comments a grid is made of, in the order of the arguments of :func:`_grid`.
_GEOREFERENCE = (
    "type",
    "centrallongitude",
    "centrallatitude",
    "truelatitude",
    "bottomleft",
    "topright",
    "metersperpixel_x",
    "metersperpixel_y",
)


@lru_cache(maxsize=32)
def _grid(
    nx: int,
    ny: int,
    kind: str,
    central_longitude: str,
    central_latitude: str,
    true_latitude: str,
    bottom_left: str,
    top_right: str,
    pixel_width: str,
    pixel_height: str,
) -> Grid:
    """Return the grid between the outer corners of the corner pixels (not their centres)."""
    if kind != "stereographic":
        raise UnreadableFile(f"FMI PGM: expected a stereographic projection, got {kind!r}")
    try:
        lon_0, lat_0, lat_ts = float(central_longitude), float(central_latitude), float(true_latitude)
        (west, south), (east, north) = map(float, bottom_left.split()), map(float, top_right.split())
        dx, dy = float(pixel_width), float(pixel_height)
        projection = f"+proj=stere +lat_0={lat_0!r} +lon_0={lon_0!r} +lat_ts={lat_ts!r} +R={EARTH_RADIUS_M}"
        x, y = Proj(projection)([west, east], [south, north])
    except (ValueError, CRSError) as error:
        raise UnreadableFile(f"FMI PGM: the georeferencing in the header is incomplete: {error}") from error
    if not (abs(x[1] - x[0] - nx * dx) < dx / 2 and abs(y[1] - y[0] - ny * dy) < dy / 2):
        raise UnreadableFile(
            f"FMI PGM: the corners lie {x[1] - x[0]:g} x {y[1] - y[0]:g} m apart, which is not "
            f"{nx} x {ny} pixels of {dx:g} x {dy:g} m"
        )
    return Grid.from_crs(
        f"{projection} +units=m +no_defs", nx=nx, ny=ny, x0=x[0] + dx / 2, y0=y[1] - dy / 2, dx=dx, dy=dy
    )
