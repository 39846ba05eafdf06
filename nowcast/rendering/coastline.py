"""Land, coasts and borders in a grid's own cells, from Natural Earth (data/README.md)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from nowcast.frame.grid import Grid

Points = NDArray[np.float64]

#: Margin [radians] drawn beyond the grid's farthest corner, to keep clipped edges out of sight; 30 km.
MARGIN = 0.005

#: Widest view [radians] from the grid's centre; farther land would be stretched without bound.
WIDEST_VIEW = 3.1


@dataclass(frozen=True)
class Outlines:
    """Lines of a map, each ``(n, 2)`` fractional columns and rows (0 = centre of the first cell).

    Attributes:
        areas: Closed rings with whether their inside is land (else water), to be painted in this order.
        coasts: Lines between land and water.
        borders: Lines between countries.
    """

    areas: tuple[tuple[Points, bool], ...]
    coasts: tuple[Points, ...]
    borders: tuple[Points, ...]


@dataclass(frozen=True)
class _Atlas:
    vertices: Points  # (n, 3) on the unit sphere, arc after arc
    starts: NDArray[np.int64]  # first vertex of each arc, and the end of the last
    on_date_line: NDArray[np.bool_]  # (n,) at exactly 180 degrees, where the atlas cuts countries in two
    is_border: NDArray[np.bool_]
    rings: tuple[NDArray[np.int32], ...]  # arc numbers of each ring of land; ~n is arc n backwards


@lru_cache(maxsize=1)
def _atlas() -> _Atlas:
    with files("nowcast").joinpath("data", "coastline.npz").open("rb") as stream, np.load(stream) as data:
        lengths = data["arc_lengths"].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        steps = np.zeros((starts[-1], 2), dtype=np.int64)
        is_start = np.zeros(len(steps), dtype=bool)
        is_start[starts[:-1]] = True
        steps[~is_start] = data["steps"].T
        # A running sum over all arcs at once: each start first takes back where the previous arc ended.
        travelled = np.add.reduceat(steps, starts[:-1])
        first = data["starts"].astype(np.int64)
        steps[is_start] = np.diff(first, axis=0, prepend=0)
        steps[starts[1:-1]] -= travelled[:-1]
        degrees = np.cumsum(steps, axis=0) * float(data["quantum_degrees"])
        lon, lat = np.radians(degrees).T
        ring_ends = np.cumsum(data["ring_lengths"])[:-1]
        return _Atlas(
            vertices=np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1),
            starts=starts,
            on_date_line=np.abs(np.abs(degrees[:, 0]) - 180.0) < 1e-9,
            is_border=data["is_border"],
            rings=tuple(np.split(data["ring_arcs"], ring_ends)),
        )


@lru_cache(maxsize=8)
def outlines(grid: Grid) -> Outlines:
    """Return land, coasts and borders around a grid, anywhere on Earth, poles and date line included.

    The atlas is clipped in a stereographic plane about the grid's centre, where no meridian is special, and
    only what lies near the grid goes through the grid's own projection. Where that repeats itself to the
    east, as degrees do, lines are followed over its seam and drawn in each turn that the grid shows.
    """
    atlas = _atlas()
    view = _View.of(grid)
    plane = view.project(atlas.vertices)
    first, last = atlas.starts[:-1], atlas.starts[1:]
    low, high = np.minimum.reduceat(plane, first), np.maximum.reduceat(plane, first)
    near = ((low <= view.half_width) & (high >= -view.half_width)).all(axis=1)

    lines: list[list[Points]] = []
    for wanted in (~atlas.is_border, atlas.is_border):
        pieces: list[Points] = []
        for arc in np.flatnonzero(near & wanted):
            vertices = slice(first[arc], last[arc])
            pieces += _pieces_inside(plane[vertices], atlas.on_date_line[vertices], view.half_width)
        lines.append(_in_each_turn(view.to_cells(pieces, grid), grid))

    rings: list[tuple[float, Points]] = []
    for ring in atlas.rings:
        arcs = np.where(ring < 0, ~ring, ring)
        ring_low, ring_high = low[arcs].min(axis=0), high[arcs].max(axis=0)
        if not ((ring_low <= view.half_width) & (ring_high >= -view.half_width)).all():
            continue
        parts = [
            plane[first[arc] : last[arc]][:: -1 if backwards else 1]
            for arc, backwards in zip(arcs, ring < 0, strict=True)
        ]
        whole = np.concatenate(parts)
        if grid.turn is not None:
            rings.append((0.0, whole))
            continue
        clipped = _clipped(whole, view.half_width)
        if len(clipped) >= 3:
            rings.append((_signed_area(whole), _densified(clipped, view.half_width)))
    if grid.turn is not None:
        unrolled = view.to_cells([points for _, points in rings], grid)
        return Outlines(_unrolled_areas(unrolled, grid), tuple(lines[0]), tuple(lines[1]))
    rings.sort(key=lambda item: -abs(item[0]))
    # Land lies to the right of its ring, also on the sphere. A ring around the antipode runs the other way in
    # the plane, as a lake's does; inside both is water.
    cells = view.to_cells([points for _, points in rings], grid)
    areas = tuple((points, area < 0) for (area, _), points in zip(rings, cells, strict=True))
    return Outlines(areas, tuple(lines[0]), tuple(lines[1]))


@dataclass(frozen=True)
class _View:
    """A stereographic plane about a grid's centre, with a square window that holds the grid."""

    axes: Points  # (3, 3): east, north and outward at the centre
    half_width: float

    @classmethod
    def of(cls, grid: Grid) -> _View:
        x_min, y_min, x_max, y_max = grid.outer_bounds
        along = np.linspace(0.0, 1.0, 21)
        x, y = np.meshgrid(x_min + along * (x_max - x_min), y_min + along * (y_max - y_min))
        lon, lat = np.radians(grid.xy_to_lonlat(x.ravel(), y.ravel()))
        seen = np.isfinite(lon) & np.isfinite(lat)
        points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)[seen]
        outward = points.mean(axis=0) if len(points) else np.array([0.0, 0.0, 1.0])
        if np.linalg.norm(outward) < 1e-6:  # the whole globe has no middle
            outward = points[len(points) // 2]
        outward = outward / np.linalg.norm(outward)
        east = np.cross([0.0, 0.0, 1.0] if abs(outward[2]) < 0.999 else [1.0, 0.0, 0.0], outward)
        east /= np.linalg.norm(east)
        farthest = float(np.arccos(np.clip(points @ outward, -1, 1)).max()) if len(points) else WIDEST_VIEW
        reach = min(farthest * 1.02 + MARGIN, WIDEST_VIEW)
        return cls(np.stack([east, np.cross(outward, east), outward]), 2 * np.tan(reach / 2))

    def project(self, vertices: Points) -> Points:
        """Return plane coordinates ``(n, 2)`` of points on the unit sphere ``(n, 3)``."""
        east, north, outward = self.axes @ vertices.T
        scale = 2.0 / np.maximum(1.0 + outward, 1e-9)
        return np.stack([east * scale, north * scale], axis=1)

    def to_cells(self, lines: list[Points], grid: Grid) -> list[Points]:
        """Return plane lines as fractional columns and rows; what the grid's CRS cannot show is left out."""
        if not lines:
            return []
        plane = np.concatenate(lines)
        squared = (plane**2).sum(axis=1) / 4.0
        local = np.stack([plane[:, 0], plane[:, 1], 1.0 - squared], axis=1) / (1.0 + squared)[:, None]
        x, y, z = self.axes.T @ local.T
        grid_x, grid_y = grid.lonlat_to_xy(
            np.degrees(np.arctan2(y, x)), np.degrees(np.arcsin(np.clip(z, -1, 1)))
        )
        cells: Points = np.stack([(grid_x - grid.x0) / grid.dx, (grid.y0 - grid_y) / grid.dy], axis=1)
        ends = np.cumsum([len(line) for line in lines])[:-1]
        return [line[np.isfinite(line).all(axis=1)] for line in np.split(cells, ends)]


def _unrolled_areas(rings: list[Points], grid: Grid) -> tuple[tuple[Points, bool], ...]:
    """Return closed rings of a plane that repeats, in each turn, the largest first, and whether it is land.

    A ring around a pole, Antarctica's, is open there and closed beyond the map: land lies to its right.
    """
    period = (grid.turn or 0.0) / grid.dx
    areas = []
    for ring in rings:
        if len(ring) < 3:
            continue
        columns = np.unwrap(np.append(ring[:, 0], ring[0, 0]), period=period)
        rows, around = np.append(ring[:, 1], ring[0, 1]), columns[-1] - columns[0]
        if abs(around) > period / 2:
            beyond = max(rows.max(), grid.ny) + 1.0 if around > 0 else min(rows.min(), 0.0) - 1.0
            columns = np.concatenate([columns, columns[[-1, 0]]])
            rows = np.concatenate([rows, [beyond, beyond]])
        closed = np.stack([columns, rows], axis=1)
        area = _signed_area(closed)
        areas += [(abs(area), shown, area > 0) for shown in _copies(closed, grid)]
    return tuple((shown, is_land) for _, shown, is_land in sorted(areas, key=lambda item: -item[0]))


def _in_each_turn(lines: list[Points], grid: Grid) -> list[Points]:
    """Return lines as they are, or followed over the seam and once for each turn the grid shows."""
    if grid.turn is None:
        return lines
    shown = []
    for line in lines:
        if len(line):
            columns = np.unwrap(line[:, 0], period=grid.turn / grid.dx)
            shown += _copies(np.stack([columns, line[:, 1]], axis=1), grid)
    return shown


def _copies(line: Points, grid: Grid) -> list[Points]:
    """Return a line moved by whole turns to wherever the grid shows a part of it."""
    period = (grid.turn or np.inf) / grid.dx
    first = int(np.ceil((-0.5 - line[:, 0].max()) / period))
    last = int(np.floor((grid.nx - 0.5 - line[:, 0].min()) / period))
    return [line + np.array([turns * period, 0.0]) for turns in range(first, last + 1)]


def _pieces_inside(line: Points, on_date_line: NDArray[np.bool_], half_width: float) -> list[Points]:
    """Return the runs of a line inside the window, without edges along the date line: no coast."""
    inside = np.abs(line).max(axis=1) <= half_width
    drawn = (inside[:-1] | inside[1:]) & ~(on_date_line[:-1] & on_date_line[1:])
    ends = np.flatnonzero(np.diff(drawn.astype(np.int8), prepend=0, append=0))
    return [line[start : end + 1] for start, end in zip(ends[::2], ends[1::2], strict=True)]


def _clipped(ring: Points, half_width: float) -> Points:
    """Return a closed ring cut to the window (Sutherland and Hodgman 1974, doi:10.1145/360767.360802)."""
    for axis in (0, 1):
        for sign in (1.0, -1.0):
            if len(ring) < 3:
                return ring
            distance = half_width - sign * ring[:, axis]
            inside = distance >= 0
            following, distance_following = np.roll(ring, -1, axis=0), np.roll(distance, -1)
            crosses = np.flatnonzero(inside != np.roll(inside, -1))
            if len(crosses) == 0:
                ring = ring if inside.all() else ring[:0]
                continue
            share = distance[crosses] / (distance[crosses] - distance_following[crosses])
            cuts = ring[crosses] + share[:, None] * (following[crosses] - ring[crosses])
            order = np.concatenate([np.flatnonzero(inside).astype(np.float64), crosses + 0.5])
            ring = np.concatenate([ring[inside], cuts])[np.argsort(order, kind="stable")]
    return ring


def _densified(ring: Points, half_width: float) -> Points:
    """Return a closed ring with edges of at most a twentieth of the window, so that they can curve."""
    closed = np.concatenate([ring, ring[:1]])
    pieces = np.maximum(1, np.ceil(np.abs(np.diff(closed, axis=0)).max(axis=1) * 10 / half_width)).astype(int)
    if pieces.max() == 1:
        return ring
    at = np.concatenate([[0.0], np.cumsum(np.repeat(1.0 / pieces, pieces))])[:-1]
    vertex = np.arange(len(closed))
    return np.stack([np.interp(at, vertex, closed[:, axis]) for axis in (0, 1)], axis=1)


def _signed_area(ring: Points) -> float:
    """Return the area inside a closed ring, positive if it runs counter-clockwise."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
