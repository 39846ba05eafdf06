"""What lies under and over the rain on a map of a grid: drawn once, then kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from nowcast.frame.grid import Grid
from nowcast.rendering.coastline import Points, outlines
from nowcast.rendering.themes import Theme, theme_of

#: Lines and areas are drawn this many times larger and reduced, which smooths their edges.
OVERSAMPLING = 3

#: Distance [pixels] between two hatching lines.
HATCH_SPACING = 7

#: Along a line one vertex is kept in this many pixels, and a coast that would fill a smaller box is left
#: out.
FINEST_DETAIL, SMALLEST_COAST = 1.0, 3.0

#: Spacings [degrees] a graticule may have; the largest that gives four lines across is taken.
GRATICULE_DEGREES = (30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1)


@dataclass(frozen=True)
class Label:
    """A few characters at a place [pixels] of the map."""

    text: str
    x: float
    y: float
    align: str


@dataclass(frozen=True)
class Basemap:
    """The constant parts of a map, all of one size.

    Attributes:
        ground: Land, water and graticule: what shows where there is no echo.
        veiled: The ground greyed and hatched: what shows where nothing is observed.
        coasts: Coverage (0 to 255) of the coast lines.
        borders: Coverage of the country borders.
        lines: Coverage of both.
        labels: Degrees beside the graticule.
        bar_km: Length of the scale bar on the ground.
        bar_px: Length of the scale bar on the map.
    """

    ground: Image.Image
    veiled: Image.Image
    coasts: Image.Image
    borders: Image.Image
    lines: Image.Image
    labels: tuple[Label, ...]
    bar_km: float
    bar_px: int


@lru_cache(maxsize=8)
def basemap(grid: Grid, width: int, height: int, theme: str) -> Basemap:
    """Return the constant parts of a map of a grid, ``width`` by ``height`` pixels."""
    colours = theme_of(theme)
    shapes = outlines(grid)
    canvas = _Canvas(grid, width, height)
    graticule, labels = _graticule(grid, canvas)

    ground = Image.new("RGB", (width, height), colours.water)
    ground.paste(colours.land, (0, 0), canvas.areas(shapes.areas))
    ground.paste(colours.graticule, (0, 0), canvas.lines(graticule, 1.0))

    coasts = canvas.lines(filter(_is_visible, map(canvas.pixels, shapes.coasts)), 1.0)
    borders = canvas.lines(map(canvas.pixels, shapes.borders), 1.0)

    km_per_pixel = grid.cell_km[1] * grid.nx / width
    bar_km = _round_below(0.2 * width * km_per_pixel)
    return Basemap(
        ground=ground,
        veiled=veil(ground, colours),
        coasts=coasts,
        borders=borders,
        lines=ImageChops.lighter(coasts, borders),
        labels=labels,
        bar_km=bar_km,
        bar_px=round(bar_km / km_per_pixel),
    )


@dataclass(frozen=True)
class _Canvas:
    """A drawing surface as large as the map."""

    grid: Grid
    width: int
    height: int

    def pixels(self, cells: Points) -> Points:
        """Return pixel coordinates ``(n, 2)`` of fractional columns and rows, without needless vertices."""
        scale = np.array([self.width / self.grid.nx, self.height / self.grid.ny])
        at: Points = (cells + 0.5) * scale
        if len(at) < 3:
            return at
        steps = np.floor(np.cumsum(np.hypot(*np.diff(at, axis=0).T)) / FINEST_DETAIL)
        keep = np.ones(len(at), dtype=bool)
        keep[1:-1] = np.diff(steps, prepend=0.0)[:-1] > 0
        kept: Points = at[keep]
        return kept

    def lines(self, lines: Iterable[Points], thickness_px: float) -> Image.Image:
        """Return the coverage (0 to 255) of lines of pixel coordinates."""
        return _coverage(lines, (self.width, self.height), thickness_px)

    def areas(self, areas: Iterable[tuple[Points, bool]]) -> Image.Image:
        """Return the coverage (0 to 255) of land."""
        large = Image.new("L", (self.width * OVERSAMPLING, self.height * OVERSAMPLING), 0)
        draw = ImageDraw.Draw(large)
        for ring, is_land in areas:
            points = self.pixels(ring)
            if len(points) > 2:
                draw.polygon(_flat(points), fill=255 if is_land else 0)
        return large.reduce(OVERSAMPLING)


def _is_visible(line: Points) -> bool:
    return bool(np.ptp(line, axis=0).max() >= SMALLEST_COAST) if len(line) else False


def veil(ground: Image.Image, colours: Theme) -> Image.Image:
    """Return a ground as it looks where nothing is observed: greyed and hatched."""
    width, height = ground.size
    veiled = Image.blend(ground, Image.new("RGB", ground.size, colours.veil), colours.veil_strength)
    starts = range(-height - HATCH_SPACING + height % HATCH_SPACING, width, HATCH_SPACING)
    hatching = [np.array([[start, height], [start + height, 0]], dtype=np.float64) for start in starts]
    veiled.paste(colours.hatch, (0, 0), _coverage(hatching, ground.size, 1.0))
    return veiled


def _coverage(lines: Iterable[Points], size: tuple[int, int], thickness_px: float) -> Image.Image:
    large = Image.new("L", (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING), 0)
    draw = ImageDraw.Draw(large)
    for line in lines:
        draw.line(_flat(line), fill=255, width=max(1, round(thickness_px * OVERSAMPLING)))
    return large.reduce(OVERSAMPLING)


def _flat(points: Points) -> list[float]:
    flat: list[float] = (points * OVERSAMPLING).ravel().tolist()
    return flat


def _round_below(value: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, 50, ... (or 0.1, ...) up to a positive value."""
    decade = 10.0 ** math.floor(math.log10(value))
    return max(step * decade for step in (1.0, 2.0, 5.0) if step * decade <= value * (1 + 1e-9))


def _graticule(grid: Grid, canvas: _Canvas) -> tuple[list[Points], tuple[Label, ...]]:
    """Return meridians and parallels [pixels], and their labels along the upper and the left edge."""
    columns, rows = np.meshgrid(np.linspace(-0.5, grid.nx - 0.5, 25), np.linspace(-0.5, grid.ny - 0.5, 25))
    lon, lat = grid.xy_to_lonlat(grid.x0 + columns * grid.dx, grid.y0 - rows * grid.dy)
    seen = np.isfinite(lon) & np.isfinite(lat)
    if not seen.any():
        return [], ()
    middle = float(lon[seen][seen.sum() // 2])
    lon = middle + (lon[seen] - middle + 180.0) % 360.0 - 180.0
    lat = lat[seen]

    lines: list[Points] = []
    labels: list[Label] = []
    for values, along, is_meridian in ((lon, lat, True), (lat, lon, False)):
        low, high = float(values.min()), float(values.max())
        step = next((step for step in GRATICULE_DEGREES if (high - low) / step >= 4), GRATICULE_DEGREES[-1])
        course = np.linspace(along.min() - 1.0, along.max() + 1.0, 200)
        for multiple in range(math.ceil(low / step), math.floor(high / step) + 1):
            degrees = np.full_like(course, multiple * step)
            line = _on_map(grid, canvas, *((degrees, course) if is_meridian else (course, degrees)))
            if len(line) < 2:
                continue
            lines.append(line)
            labels += _labels(line, multiple * step, canvas, is_meridian=is_meridian)
    return lines, tuple(labels)


def _on_map(grid: Grid, canvas: _Canvas, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Points:
    x, y = grid.lonlat_to_xy(lon, np.clip(lat, -90, 90))
    cells = np.stack([(x - grid.x0) / grid.dx, (grid.y0 - y) / grid.dy], axis=1)
    size = np.array([grid.nx, grid.ny])
    near = (np.isfinite(cells) & (cells > -size) & (cells < 2 * size)).all(axis=1)
    return canvas.pixels(cells[near])


def _labels(line: Points, degrees: float, canvas: _Canvas, *, is_meridian: bool) -> list[Label]:
    """Return the label where a line meets the upper edge (a meridian) or the left one (a parallel)."""
    across, edge, length = (1, 0.0, canvas.width) if is_meridian else (0, 0.0, canvas.height)
    side = line[:, across] > edge
    crossings = np.flatnonzero(side[1:] != side[:-1])
    if len(crossings) == 0:
        return []
    before, after = line[crossings[0]], line[crossings[0] + 1]
    share = (edge - before[across]) / (after[across] - before[across])
    place = float((before + share * (after - before))[1 - across])
    if not 0.06 * length < place < 0.97 * length:
        return []
    if is_meridian:
        degrees = (degrees + 180.0) % 360.0 - 180.0
        return [Label(_named(degrees, "E", "W"), place, 4, "middle")]
    return [Label(_named(degrees, "N", "S"), 5, place - 8, "left")]


def _named(degrees: float, positive: str, negative: str) -> str:
    if abs(degrees) < 1e-9:
        return "0°"
    return f"{abs(degrees):g}° {positive if degrees > 0 else negative}"
