"""Archives of radar files: tar and zip, inside each other and behind any compression, of any format.

Nothing in an archive touches the disk: members are bytes in memory, one at a time, and their names are words
for messages. What a member is, its content says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby, pairwise

from nowcast.errors import InputError, RefusedProduct, TooLarge, UnknownFormat, UnreadableFile
from nowcast.frame.frame import RawFrame
from nowcast.readers import tar, zipped
from nowcast.readers.source import Source

#: Archives within archives that are opened.
MOST_LEVELS = 4

#: Memory [bytes] for frames that wait until those before them in time are read.
KEPT_BYTES = 256 * 2**20

#: How often an archive is gone through again for frames there was no memory for.
MOST_PASSES = 32

#: Longest note [characters] on what was left out.
LONGEST_NOTE = 300

#: First bytes of what lies beside radar data and is none: pictures, documents, macOS's resource forks.
_NO_RADAR = (b"\x89PNG", b"\xff\xd8\xff", b"%PDF", b"\0\5\x16\7")

#: Yields the frames of one file.
Read = Callable[[Source], Iterator[RawFrame]]


def is_archive(source: Source) -> bool:
    """Return whether the content is a tar or zip archive."""
    return zipped.is_zip(source.head) or tar.is_tar(source.head)


def frames(archive: Source, read: Read, told: Callable[[], None] = lambda: None) -> Iterator[RawFrame]:
    """Yield the frames of all members in the order of their times, then say what could not be read.

    Members that are sound but no frame (forecasts beside their analysis, other products, texts) are left out.
    Every frame's ``attributes`` name its ``member`` and what was ``left_out``.

    Args:
        archive: The file.
        read: How a member is read.
        told: Called before each member, for whoever waits.

    Raises:
        InputError: After the last frame, if a member or the archive itself is damaged, too large or of no
            known format: the kind is the first one's, the message counts the others. If there is no frame at
            all, what the members were refused for.
    """
    waiting: list[_Waiting] = []
    bad: list[InputError] = []
    left_out: list[InputError] = []
    room, members = KEPT_BYTES, 0
    for members, member in enumerate(_members(archive), start=1):
        told()
        try:
            for position, raw in enumerate(_frames_of(member, read)):
                room -= raw.values.nbytes
                waiting.append(_Waiting(raw.time, (members, position), raw if room >= 0 else None))
        except InputError as error:
            (left_out if _is_left_out(member, error) else bad).append(_named(archive, member, error))
    waiting.sort(key=lambda frame: frame.time)
    notes = {"left_out": _summary(left_out, members)[:LONGEST_NOTE]} if left_out else {}
    again = _read_again(archive, read, told, waiting)
    for frame in waiting:
        raw = frame.raw or next(again)
        yield replace(raw, attributes={**raw.attributes, **notes})
    if bad:
        raise type(bad[0])(_summary(bad, members))
    if not waiting:
        if not left_out:
            raise RefusedProduct(f"{archive.label}: the archive is empty")
        raise type(left_out[0])(_summary(left_out, members))


@dataclass(frozen=True)
class _Member:
    """A file in an archive: the way to it, and either its content or why there is none."""

    way: str
    source: Source | InputError


@dataclass(frozen=True)
class _Waiting:
    """A frame whose turn comes when all are known: its place in the archive, its values if there was room."""

    time: datetime
    place: tuple[int, int]
    raw: RawFrame | None


def _members(archive: Source, way: str = "", level: int = 1) -> Iterator[_Member]:
    """Yield the files of an archive, those in archives within it too."""
    entries = zipped.entries if zipped.is_zip(archive.head) else tar.entries
    try:
        for name, packed in entries(archive):
            here = way + _printable(name)
            if isinstance(packed, InputError):
                yield _Member(here, packed)
                continue
            file_name = here.replace("\\", "/").rsplit("/", 1)[-1].strip() or here
            member = Source(archive.path, archive.limits, file_name, packed, archive.budget, archive.declared)
            if not is_archive(member):
                yield _Member(here, member)
            elif level == MOST_LEVELS:
                yield _Member(here, TooLarge(f"{file_name}: lies in more than {level} archives"))
            else:
                yield from _members(member, f"{here}: ", level + 1)
    except InputError as error:  # cut off, damaged or too large: what comes after cannot be found
        yield _Member(way.removesuffix(": "), error)


def _frames_of(member: _Member, read: Read) -> Iterator[RawFrame]:
    if isinstance(member.source, InputError):
        raise member.source
    for raw in read(member.source):
        yield replace(raw, attributes={**raw.attributes, "member": member.way})


def _read_again(
    archive: Source, read: Read, told: Callable[[], None], waiting: list[_Waiting]
) -> Iterator[RawFrame]:
    """Yield the frames that were not kept, in their order, each ascending run in one pass."""
    missing = [frame for frame in waiting if frame.raw is None]
    descents = [0]
    for before, after in pairwise(missing):
        descents.append(descents[-1] + (after.place < before.place))
    if descents[-1] >= MOST_PASSES:
        raise TooLarge(
            f"{archive.label}: its frames lie in no order of time and take more than {KEPT_BYTES} bytes; "
            "unpack it first"
        )
    for _, run in groupby(zip(descents, missing, strict=False), key=lambda frame: frame[0]):
        wanted = {frame.place: frame.time for _, frame in run}
        found = 0
        for number, member in enumerate(
            _members(Source(archive.path, archive.limits, declared=archive.declared)), start=1
        ):
            told()
            if all(place[0] != number for place in wanted):
                continue
            for position, raw in enumerate(_frames_of(member, read)):
                if wanted.get((number, position)) == raw.time:
                    found += 1
                    yield raw
                if found == len(wanted):
                    break
        if found < len(wanted):
            raise UnreadableFile(f"{archive.label}: changed while it was read")


def _is_left_out(member: _Member, error: InputError) -> bool:
    """Return whether a refused member is sound: another product, a forecast, or no radar data at all."""
    if isinstance(error, RefusedProduct):
        return True
    if not isinstance(error, UnknownFormat) or isinstance(member.source, InputError):
        return False
    head = member.source.head
    return head.startswith(_NO_RADAR) or _is_text(head)


def _is_text(head: bytes) -> bool:
    try:
        text = head[:500].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < 490 - 4:
            return False
        text = head[: error.start].decode("utf-8")
    return all(letter.isprintable() or letter in "\r\n\t\f\ufeff" for letter in text)


def _named(archive: Source, member: _Member, error: InputError) -> InputError:
    """Return an error of the same kind that names the archive, and the way to the member."""
    reason = str(error)
    if not isinstance(member.source, InputError):
        reason = reason.removeprefix(f"{member.source.label}: ").removeprefix(f"{member.source.name}: ")
    place = f"{archive.label}: {member.way}".removesuffix(": ")
    return type(error)(f"{place}: {reason.removeprefix(f'{archive.label}: ')}")


def _summary(errors: list[InputError], members: int) -> str:
    """Return the first reason, and how many others there are."""
    more = f" (and {len(errors) - 1} more of {members} members)" if len(errors) > 1 else ""
    return f"{errors[0]}{more}"


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:200]
