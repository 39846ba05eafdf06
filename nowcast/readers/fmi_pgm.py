"""FMI composites: reflectivity as an 8-bit PGM image with georeferencing in ``#`` comments."""

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
from nowcast.readers.source import Limits, Source, parse_time

#: Radius [m] of the sphere FMI projects on. The header leaves it out, but with this one the corners are as
#: far apart as the pixels say, to 1e-4 of a pixel; with WGS 84 they miss by three pixels.
EARTH_RADIUS_M = 6_371_288.0

#: Reflectivity [dBZ] of each pixel value: (v - 64) / 2; 0 = no echo, 255 = not observed.
DBZ = ((np.arange(256) - 64.0) / 2.0).astype(np.float32)
DBZ[0], DBZ[255] = -np.inf, np.nan

#: Magic number, comments, columns, rows, largest value, each line ended by one line feed.
_HEADER = re.compile(rb"P5\n((?:#[^\n]*\n)+)(\d{1,6}) (\d{1,6})\n(\d{1,5})\n")

#: Longest header [bytes] looked at; FMI's are under 1000.
_LONGEST_HEADER = 65_536

#: Comments that only FMI writes; one of them stands in the first lines.
_MARKS = (b"\n# composite_area ", b"\n# projection_name ", b"\n# obstime ")


def recognises(source: Source) -> bool:
    """Return whether the content is a PGM with FMI's comments."""
    return source.head.startswith(b"P5\n#") and any(mark in source.head for mark in _MARKS)


def read(source: Source, limits: Limits) -> Iterator[RawFrame]:
    """Yield the one frame.

    Raises:
        RefusedProduct: If the image holds something else than corrected reflectivity.
        UnreadableFile: If the header or the size of the image is not as expected.
    """
    content = source.content
    header = _HEADER.match(content, 0, _LONGEST_HEADER)
    if header is None:
        raise UnreadableFile(f"{source.name}: expected a PGM header with comments, columns, rows and 255")
    comments, columns, rows, largest = header.groups()
    nx, ny = int(columns), int(rows)
    limits.check_cells(ny, nx, source.name)
    found = len(content) - header.end()
    if found != nx * ny:
        raise UnreadableFile(f"{source.name}: declares {ny} x {nx} pixels of one byte, holds {found} bytes")

    fields = dict(re.findall(r"^# ?(\w+) +(.*?) *$", comments.decode("latin-1"), re.MULTILINE))
    if fields.get("param") != "CorrectedReflectivity" or largest != b"255":
        raise RefusedProduct(
            f"{source.name}: expected CorrectedReflectivity in one byte, "
            f"got {fields.get('param')!r} up to {int(largest)}"
        )
    pixels = np.frombuffer(content, np.uint8, offset=header.end())
    yield RawFrame(
        values=np.take(DBZ, pixels).reshape(ny, nx),
        quantity=Quantity.DBZH,
        time=parse_time(fields.get("obstime", ""), "%Y%m%d%H%M", source.name),
        grid=_grid(nx, ny, *(fields.get(key, "") for key in _GEOREFERENCE)),
        interval_minutes=None,
        source=f"FMI {fields.get('projection_name', 'composite')} {fields.get('productname', '')}".strip(),
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
