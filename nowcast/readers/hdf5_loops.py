"""Damage that sends the HDF5 library into an endless loop, found before the library opens the file.

The library refuses nearly every damaged file, but a few in ten thousand make it (version 2.0 at least) run in
circles, taking all memory or a processor for ever, where no exception and no signal handler reaches it.
Layouts: HDF5 File Format Specification 3.0, sections II.A (superblock), III.D and III.E (heaps).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from nowcast.errors import UnreadableFile

#: Signature and version of a local heap, which names the members of a group.
_LOCAL_HEAP = b"HEAP\0"

#: Signature and version of a global heap, which holds what is of variable length.
_GLOBAL_HEAP = b"GCOL\1"

#: What stands in the place of a next block after the last one (``H5HL_FREE_NULL`` of the library).
_LAST_BLOCK = 1


def refuse_endless_loops(content: bytes | mmap.mmap) -> None:
    """Refuse content that the HDF5 library would not come back from.

    Raises:
        UnreadableFile: If a local heap lists its free blocks in a circle, or an object of a global heap has
            no size.
    """
    first = (
        9 if content[8] >= 2 else 13
    )  # of two bytes in the superblock: the sizes of addresses and of lengths
    address, length = content[first], content[first + 1]
    _check_local_heaps(content, address, length)
    _check_global_heaps(content, length)


def _check_local_heaps(content: bytes | mmap.mmap, address: int, length: int) -> None:
    """Follow each heap's list of free blocks: size of the next block, then its own."""
    steps_left = len(content) // max(2 * length, 1)  # no more blocks than that fit into the file
    for heap in _places(content, _LOCAL_HEAP):
        size, block = _number(content, heap + 8, length), _number(content, heap + 8 + length, length)
        begin = _number(content, heap + 8 + 2 * length, address)
        while block != _LAST_BLOCK and block < size and begin + block < len(content):
            block = _number(content, begin + block, length)
            steps_left -= 1
            if steps_left < 0:
                raise UnreadableFile(f"the heap at byte {heap} lists its free blocks in a circle")


def _check_global_heaps(content: bytes | mmap.mmap, length: int) -> None:
    """Step from object to object: number, references, four bytes not in use, size, and the object itself."""
    header = 8 + length
    for heap in _places(content, _GLOBAL_HEAP):
        end = min(heap + _number(content, heap + 8, length), len(content))
        at = heap + header
        while at + header <= end:
            number, size = _number(content, at, 2), _number(content, at + 8, length)
            # Object 0 is the free space, whose size counts its header; the library adds in 64 bits.
            step = (header + size + -size % 8) % 2**64 if number else size
            if step == 0:
                raise UnreadableFile(f"the heap at byte {heap} holds an object without a size")
            at += step


def _places(content: bytes | mmap.mmap, signature: bytes) -> Iterator[int]:
    found = content.find(signature)
    while found >= 0:
        yield found
        found = content.find(signature, found + 1)


def _number(content: bytes | mmap.mmap, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size], "little")
