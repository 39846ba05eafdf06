"""Mutated copies of real files through ingest: archived with sane values, or quarantined with a reason."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from patience import PATIENCE_SECONDS

from nowcast.archive.archive import Archive
from nowcast.frame.domain import Domain
from nowcast.settings import Settings
from nowcast.simulation import Storm
from nowcast.simulation.odim_writer import write_odim
from nowcast.telemetry import Telemetry
from worker.ingest import Ingest

#: One real file per format and step: pattern under the shared data, step of its domain in minutes.
SAMPLES = (
    ("train/fmi_pgm/20170509/*_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz", 5),
    ("val/mch_gif/20150515/*.gif", 5),
    ("train/bom_rf3/66_brisbane_c10_20201031/*_03*.nc", 10),
    ("train/knmi_pcp_2021/2021-02-06-2005/*.h*5", 5),
    ("train/knmi_rap_20100826/*.h5", 5),
    ("train/dwd_radolan_yw_20170816/*", 5),
    ("train/openrainer_20220917/*.nc", 15),
    ("train/opera_odyssey_rate_20180824/*.h*", 15),
    ("formats/radolan/raa01-rx_10000-1408102050-dwd---bin.gz", 5),
    ("formats/radolan/radvor/DE1200_RV2210180700.tar.bz2", 5),
    ("formats/nimrod/input_preciprate.nimrod", 5),
    ("formats/odim/composite_swe_gmap.h5", 15),
    ("formats/odim/belgium.comp.hdf", 5),
    ("formats/mrms/MRMS_PrecipRate_00.00_20250601-005800.grib2.gz", 2),
    ("formats/fmi_ravake/*.pgm", 5),
)

#: Longest time [s] one file may take, and address space [MiB] of the process that reads it.
SECONDS, MEMORY_MB = 20.0, 2048


def flip_bits(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 4, 64, 1024))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def flip_header_bits(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 3, 10))):
        content[chance.randrange(min(len(content), 4096))] ^= 1 << chance.randrange(8)
    return content


def truncate(content: bytearray, chance: random.Random) -> bytearray:
    return content[: chance.randrange(len(content))]


def swap_header(content: bytearray, chance: random.Random) -> bytearray:
    size = chance.choice((8, 64, 512))
    foreign = chance.choice(
        (b"P5\n99999 99999\n255\n", b"GIF89a\xff\xff\xff\xff", b"\x89HDF\r\n\x1a\n", b"GRIB", b"RX")
    )
    content[:size] = (foreign * (size // len(foreign) + 1))[:size]
    return content


def absurd_numbers(content: bytearray, chance: random.Random) -> bytearray:
    head = min(len(content) - 8, 4096)
    for _ in range(chance.choice((1, 2, 5))):
        place = chance.randrange(max(head, 1))
        content[place : place + 4] = chance.choice(
            (b"\xff\xff\xff\xff", b"9999", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"-1-1")
        )
    return content


def cut_out(content: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(content))
    del content[start : start + chance.randrange(1, 5000)]
    return content


Mutation = Callable[[bytearray, random.Random], bytearray]

MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    flip_header_bits,
    truncate,
    swap_header,
    absurd_numbers,
    cut_out,
)


def mutated(path: Path, mutate: Mutation, chance: random.Random) -> bytes:
    content = path.read_bytes()
    inside = path.suffix == ".gz" and chance.random() < 0.6
    if inside:
        content = gzip.decompress(content)
    changed = mutate(bytearray(content), chance)
    return gzip.compress(bytes(changed), 1) if inside else bytes(changed)


def check_archived(archive: Archive, domain: str) -> None:
    for moment in archive.times(domain):
        values = archive.load(domain, moment).values
        seen = values[~np.isnan(values)]
        assert seen.size > 0, f"{domain} {moment}: nothing observed"
        assert seen.min() >= -10.0, f"{domain} {moment}"
        assert seen.max() <= 75.0, f"{domain} {moment}"


def run(tmp_path: Path, samples: list[tuple[Path, int]], count: int, seed: int) -> Counter[str]:
    """Take ``count`` mutated files, of each sample in turn by another mutation; return the outcomes."""
    chance = random.Random(seed)
    domains = {f"d{n}": Domain(name=f"d{n}", step_minutes=step) for n, (_, step) in enumerate(samples)}
    settings = Settings(
        data_dir=tmp_path / "data", domains=domains, read_seconds=SECONDS, read_memory_mb=MEMORY_MB
    )
    ingest = Ingest(settings, Telemetry())
    ingest.prepare()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    try:
        for number in range(count):
            turn, which = divmod(number, len(samples))
            name, (path, _) = f"d{which}", samples[which]
            mutate = MUTATIONS[(which + turn) % len(MUTATIONS)]
            target = settings.folder.inbox(name) / f"{number:05}_{path.name}"
            target.write_bytes(mutated(path, mutate, chance))
            start = time.monotonic()
            became = ingest.take(name, target)
            if target.exists():  # its writer might still be at work
                became += ingest_again(ingest, name, target)
            slowest = max(slowest, time.monotonic() - start)
            assert became, f"{target.name} had no outcome"
            assert not target.exists(), f"{target.name} is still in the inbox"
            outcomes.update(became)
            check_quarantine(settings.folder.quarantine(name), target.name, became)
        assert slowest < SECONDS + PATIENCE_SECONDS
        assert psutil.Process().memory_info().rss < 2 * 2**30
    finally:
        ingest.close()
    for name in domains:
        check_archived(Archive(settings.folder.archive), name)
    return outcomes


def ingest_again(ingest: Ingest, name: str, target: Path) -> Counter[str]:
    """Take a file again as if nobody had touched it for a minute."""
    old = time.time() - 60
    os.utime(target, (old, old))
    return ingest.take(name, target)


def check_quarantine(folder: Path, name: str, became: Counter[str]) -> None:
    if became.keys() <= {"archived", "duplicate", "late", "out_of_order"}:
        return
    note = json.loads((folder / f"{name}.json").read_text())
    assert all(refusal["reason"] and refusal["outcome"] for refusal in note["refusals"])
    assert (folder / name).exists()


def existing(shared_data: Path) -> Iterator[tuple[Path, int]]:
    for pattern, step in SAMPLES:
        found = sorted(shared_data.glob(pattern))
        if found:
            yield found[len(found) // 2], step


def test_mutated_simulated_files_never_break_ingest(tmp_path: Path) -> None:
    path = tmp_path / "simulated.h5"
    write_odim(path, Storm(seed=3).frame(0))
    outcomes = run(tmp_path, [(path, 5)], count=60, seed=1)
    assert outcomes["unreadable"] + outcomes["unknown_format"] > 20


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        (45, 2),
        pytest.param(120, 2, marks=pytest.mark.slow),
        pytest.param(5000, 3, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_mutated_real_files_never_break_ingest(
    tmp_path: Path, shared_data: Path, count: int, seed: int
) -> None:
    samples = list(existing(shared_data))
    assert len(samples) == len(SAMPLES)
    assert count >= max(len(SAMPLES), len(MUTATIONS)), "each sample and each mutation occurs"
    outcomes = run(tmp_path, samples, count=count, seed=seed)
    print(outcomes)  # noqa: T201
    assert outcomes.total() >= count
