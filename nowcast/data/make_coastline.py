"""Build ``coastline.npz`` from Natural Earth as world-atlas packs it; see README.md for when and how."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Largest distance [degrees] a dropped vertex may lie from the simplified line; about 450 m.
TOLERANCE_DEGREES = 0.004

#: Unit [degrees] of the stored integers, about 220 m.
QUANTUM_DEGREES = 0.002

#: Longest step [quanta] between two stored vertices: fits int8, and keeps edges short when projected.
LONGEST_STEP = 127


def simplified(points: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Return the vertices of an open line ``(n, 2)`` that Douglas and Peucker (1973) keep."""
    keep = np.zeros(len(points), dtype=bool)
    keep[[0, -1]] = True
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        start, chord = points[first], points[last] - points[first]
        inner = points[first + 1 : last] - start
        length_squared = float(chord @ chord)
        along = np.clip(inner @ chord / length_squared, 0, 1) if length_squared else np.zeros(len(inner))
        distance = np.hypot(*(inner - along[:, None] * chord).T)
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return points[keep]


def steps(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the starting vertex and the steps that follow it ``(n, 2)`` [quanta], long ones cut."""
    vertices = np.round(points / QUANTUM_DEGREES).astype(np.int64)
    whole = [vertices[0]]
    for start, end in pairwise(vertices):
        pieces = max(1, -(-int(np.abs(end - start).max()) // LONGEST_STEP))
        whole += [start + (end - start) * piece // pieces for piece in range(1, pieces + 1)]
    return np.diff(np.array(whole), axis=0, prepend=0)


def rings(geometry: dict[str, Any]) -> Iterator[list[int]]:
    """Yield the arc numbers of every ring of a TopoJSON geometry; ``~n`` is arc ``n`` backwards."""
    for part in geometry.get("geometries", []):
        yield from rings(part)
    if geometry["type"] == "Polygon":
        yield from geometry["arcs"]
    elif geometry["type"] == "MultiPolygon":
        for polygon in geometry["arcs"]:
            yield from polygon


def main(source: Path, target: Path) -> None:
    """Write the arcs of ``countries``, which of them are borders, and the rings of ``land``."""
    topology = json.loads(source.read_text(encoding="utf-8"))
    scale, translate = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    arcs = [np.cumsum(np.array(arc), axis=0) * scale + translate for arc in topology["arcs"]]
    for arc in arcs:  # across the date line longitude counts on, past 180 degrees
        arc[:, 0] = np.unwrap(arc[:, 0], period=360.0)
    arcs = [simplified(arc, TOLERANCE_DEGREES) for arc in arcs]

    countries_along = np.zeros(len(arcs), dtype=np.int64)
    for country in topology["objects"]["countries"]["geometries"]:
        countries_along[list({n if n >= 0 else ~n for ring in rings(country) for n in ring})] += 1
    land = list(rings(topology["objects"]["land"]))

    stored = [steps(arc) for arc in arcs]
    np.savez_compressed(
        target,
        quantum_degrees=np.float64(QUANTUM_DEGREES),
        starts=np.array([arc[0] for arc in stored], dtype=np.int32),
        steps=np.concatenate([arc[1:] for arc in stored]).T.astype(np.int8),
        arc_lengths=np.array([len(arc) for arc in stored], dtype=np.int32),
        is_border=countries_along > 1,
        ring_arcs=np.concatenate([np.array(ring, dtype=np.int32) for ring in land]),
        ring_lengths=np.array([len(ring) for ring in land], dtype=np.int32),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("coastline.npz"))
