"""Radar file to archived frame, beside a bare loop of gzip, numpy and netCDF4 that writes the same file.

Run ``python -m benchmarks.ingest [--json PATH] [--rounds N]``. Both take turns file by file; of each file the
best of all rounds counts, so that what else the machine does weighs little.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from nowcast.archive.archive import Archive
from nowcast.disk.netcdf import tile_shape
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.readers import read

EVENT = Path(__file__).resolve().parents[2] / "shared/data/train/fmi_pgm/20170509"

DOMAIN = Domain("fmi", step_minutes=5)

#: Target: our time divided by the bare loop's that also brings its files to the disk.
WORST_RATIO = 1.6


def ingest(path: Path, archive: Archive, stages: dict[str, float]) -> None:
    """Take one file into the archive, as the service does; add up the time of each stage."""
    begin = time.perf_counter()
    for raw in read(path):
        after_read = time.perf_counter()
        frame = normalise(raw, DOMAIN)
        after_normalise = time.perf_counter()
        archive.add(DOMAIN.name, frame)
        stages["archive"] = time.perf_counter() - after_normalise
        stages["normalise"] = after_normalise - after_read
        stages["read"] = after_read - begin


def bare(path: Path, target: Path, like: dict[str, Any], *, fsync: bool) -> None:
    """Write the same variables, attributes and compression with as little code as it takes."""
    with gzip.open(path) as file:
        content = file.read()
    at = content.index(b"\n255\n")
    columns, rows = map(int, content[:at].rsplit(b"\n", 1)[1].split())
    pixels = np.frombuffer(content, np.uint8, offset=at + 5).reshape(rows, columns)
    dbz = (pixels.astype(np.float32) - 64) / 2
    dbz = np.maximum(dbz, np.float32(-10))
    packed = np.round(dbz * 100).astype(np.int16)
    packed[pixels == 255] = -32768
    with netCDF4.Dataset(target, "w") as file:
        file.setncatts(like["attributes"])
        file.createDimension("y", rows)
        file.createDimension("x", columns)
        for name, (kind, dims, attributes, values) in like["variables"].items():
            fill = attributes.get("_FillValue")
            compression: dict[str, Any] = {}
            if name == "reflectivity":
                compression = {
                    "zlib": True,
                    "complevel": 1,
                    "shuffle": False,
                    "chunksizes": tile_shape((rows, columns)),
                }
            variable = file.createVariable(name, kind, dims, fill_value=fill, **compression)
            variable.setncatts({key: value for key, value in attributes.items() if key != "_FillValue"})
            variable.set_auto_maskandscale(False)
            variable[...] = packed if name == "reflectivity" else values
    if fsync:
        for what in (target, target.parent):
            descriptor = os.open(what, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def pattern(path: Path) -> dict[str, Any]:
    """Return variables and attributes of one of our files, for the bare loop to write."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        return {
            "attributes": file.__dict__,
            "variables": {
                name: (variable.dtype, variable.dimensions, variable.__dict__, variable[...])
                for name, variable in file.variables.items()
            },
        }


def same_content(ours: Path, theirs: Path) -> bool:
    """Return whether both files hold the same packed reflectivity."""
    with netCDF4.Dataset(ours) as left, netCDF4.Dataset(theirs) as right:
        for file in (left, right):
            file.set_auto_maskandscale(False)
        return bool(np.array_equal(left["reflectivity"][:], right["reflectivity"][:]))


def timed(work: Callable[[], object]) -> float:
    """Return how long it takes [s]."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(paths: list[Path], folder: Path, rounds: int) -> dict[str, Any]:
    """Return the best time of each file in each way [s], summed over the event."""
    kept = Archive(folder / "pattern")
    for path in paths:
        ingest(path, kept, {})
    times = kept.times(DOMAIN.name)
    like = pattern(kept.path(DOMAIN.name, times[0]))
    best: dict[str, list[float]] = {}
    stages_best = {name: [np.inf] * len(paths) for name in ("read", "normalise", "archive")}
    for turn in range(rounds):
        archive = Archive(folder / f"round-{turn}")
        for index, path in enumerate(paths):
            stages: dict[str, float] = {}
            targets = [folder / f"bare-{turn}-{index}-{fsync}.nc" for fsync in (0, 1)]
            turns: dict[str, Callable[[], None]] = {
                "nowcast": partial(ingest, path, archive, stages),
                "bare": partial(bare, path, targets[0], like, fsync=False),
                "bare, on the disk": partial(bare, path, targets[1], like, fsync=True),
            }
            for name in list(turns)[turn % 3 :] + list(turns)[: turn % 3]:
                seconds = timed(turns[name])
                slots = best.setdefault(name, [np.inf] * len(paths))
                slots[index] = min(slots[index], seconds)
            for name, seconds in stages.items():
                stages_best[name][index] = min(stages_best[name][index], seconds)
            if turn == 0 and not same_content(kept.path(DOMAIN.name, times[index]), targets[0]):
                raise SystemExit(f"{path.name}: the bare loop wrote other values; the comparison is void")
    sizes = [kept.path(DOMAIN.name, moment).stat().st_size for moment in times]
    cube = kept.compact(DOMAIN.name, times[0].date())
    return {
        "files": len(paths),
        "rounds": rounds,
        "seconds": {name: sum(slots) for name, slots in best.items()},
        "stages_ms_per_frame": {name: 1000 * sum(slots) / len(paths) for name, slots in stages_best.items()},
        "mb_per_frame": sum(sizes) / len(sizes) / 1e6,
        "mb_per_frame_compacted": (cube.stat().st_size if cube else 0) / len(sizes) / 1e6,
        "frames_a_day": 24 * 60 // DOMAIN.step_minutes,
    }


def listing_of_a_month(folder: Path) -> float:
    """Return how long the times of a month of 5-minute frames take to list [s], names alone."""
    archive = Archive(folder / "month")
    for day in range(1, 32):
        day_folder = archive.root / "fmi" / "2017" / "05" / f"{day:02d}"
        day_folder.mkdir(parents=True)
        for minute in range(0, 24 * 60, 5):
            (day_folder / f"fmi_201705{day:02d}T{minute // 60:02d}{minute % 60:02d}00Z.nc").touch()
    seconds = min(timed(lambda: archive.times("fmi")) for _ in range(5))
    if len(archive.times("fmi")) != 31 * 288:
        raise SystemExit("the listing misses frames")
    return seconds


def main() -> None:
    """Print the comparison and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    paths = sorted(EVENT.glob("*.pgm.gz"))
    if not paths:
        raise SystemExit(f"no radar files in {EVENT}")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(paths, Path(folder), arguments.rounds)
        result["month_listing_ms"] = 1000 * listing_of_a_month(Path(folder))
    seconds = result["seconds"]
    result["ratio"] = seconds["nowcast"] / seconds["bare, on the disk"]
    result["ratio_to_bare_without_fsync"] = seconds["nowcast"] / seconds["bare"]
    result["target"] = WORST_RATIO

    print(f"{len(paths)} FMI frames, best of {arguments.rounds}, ms per frame")
    for name, total in seconds.items():
        print(f"  {name:20} {1000 * total / len(paths):7.2f}   x {seconds['nowcast'] / total:.2f}")
    for name, milliseconds in result["stages_ms_per_frame"].items():
        print(f"    of ours {name:10} {milliseconds:7.2f}")
    for name, size in (("frame files", "mb_per_frame"), ("compacted", "mb_per_frame_compacted")):
        print(
            f"  {name:20} {result[size]:.3f} MB a frame, {result[size] * result['frames_a_day']:.0f} MB a day"
        )
    print(f"  times of a month     {result['month_listing_ms']:.1f} ms")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
