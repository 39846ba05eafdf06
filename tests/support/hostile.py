"""Damage done to files on purpose, and what readers promise about it: only an InputError comes out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nowcast.errors import InputError
from nowcast.readers.source import Limits, Source

#: Bytes at the start of a file that are damaged as often as all the others together.
HEAD = 700


def damaged(content: bytes, count: int, *, seed: int, head: int = HEAD) -> Iterator[bytes]:
    """Yield ``count`` damaged copies: flipped bits, cut, shifted, repeated and overwritten parts."""
    dice = random.Random(seed)
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(dice.choice((1, 1, 1, 2, 5))):
            at = dice.randrange(min(len(copy), head) if dice.random() < 0.5 else len(copy)) if copy else 0
            match dice.randrange(8):
                case 0 | 1 if copy:
                    copy[at] ^= 1 << dice.randrange(8)
                case 2 if copy:
                    copy[at] = dice.choice((0, 1, 9, 10, 32, 45, 48, 57, 127, 128, 254, 255))
                case 3:
                    del copy[at : at + dice.choice((1, 2, 4, 50))]
                case 4:
                    copy[at:at] = dice.randbytes(dice.choice((1, 2, 4, 50)))
                case 5:
                    copy[at : at + 4] = dice.choice(
                        (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"9999", b"-1  ")
                    )
                case 6:
                    copy[at:at] = copy[at : at + dice.choice((1, 8, 100))]
                case 7 if dice.random() < 0.3:
                    del copy[at:]
        yield bytes(copy)


def outcomes(
    reader: object, copies: Iterator[bytes], path: Path, limits: Limits | None = None
) -> Counter[str]:
    """Return how often each kind of end came of reading the copies; anything but an InputError is raised."""
    limits = limits or Limits(max_cells=4_000_000)
    ends: Counter[str] = Counter()
    for copy in copies:
        path.write_bytes(copy)
        source = Source(path, limits)
        try:
            if not reader.recognises(source):  # type: ignore[attr-defined]
                ends["unrecognised"] += 1
                continue
            ends.update("frame" for _ in reader.read(source, limits))  # type: ignore[attr-defined]
        except InputError as error:
            assert str(error), "a refusal says why"
            ends[type(error).__name__] += 1
    return ends
