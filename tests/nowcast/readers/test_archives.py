"""Archives of any format: in order of time, nothing lost, nothing on disk, nothing without bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from datetime import timedelta

import numpy as np
import pytest
import zstandard
from drifting import GRID, START, rain, raw_frame
from hostile import damaged

from nowcast.errors import InputError, RefusedProduct, TooLarge, UnknownFormat, UnreadableFile
from nowcast.readers import Limits, archives, read
from nowcast.simulation.odim_writer import write_odim

WRAPS = {
    "plain": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "gz.gz": lambda content: gzip.compress(gzip.compress(content)),
    "gz of two": lambda content: gzip.compress(content[:700]) + gzip.compress(content[700:]),
}


def tar(members, form=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zipped(members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


PACKS = {
    "ustar": lambda members: tar(members, tarfile.USTAR_FORMAT),
    "pax": tar,
    "gnu": lambda members: tar(members, tarfile.GNU_FORMAT),
    "zip": zipped,
    "zip stored": lambda members: zipped(members, zipfile.ZIP_STORED),
    "zip bzip2": lambda members: zipped(members, zipfile.ZIP_BZIP2),
    "zip lzma": lambda members: zipped(members, zipfile.ZIP_LZMA),
}


@pytest.fixture(scope="module")
def composites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("composites")
    for index in range(4):
        write_odim(folder / f"{index}.h5", raw_frame(index))
    return [(folder / f"{index}.h5").read_bytes() for index in range(4)]


def opened(tmp_path, content, limits=None, name="thing"):
    path = tmp_path / name
    path.write_bytes(content)
    return read(path, limits)


def assert_frames(frames, indices):
    frames = list(frames)
    assert [raw.time for raw in frames] == [START + timedelta(minutes=5 * index) for index in indices]
    for raw, index in zip(frames, indices, strict=True):
        np.testing.assert_array_equal(np.maximum(raw.values, -10), np.maximum(rain(index), -10))
        assert raw.grid.matches(GRID)


@pytest.mark.parametrize("outer", WRAPS)
@pytest.mark.parametrize("pack", PACKS)
def test_members_come_in_order_of_time_whatever_packs_them(tmp_path, composites, pack, outer):
    inner = list(WRAPS.values())
    members = {f"z/{9 - index}.bin": inner[index](composites[index]) for index in (2, 0, 3, 1)}
    assert_frames(opened(tmp_path, WRAPS[outer](PACKS[pack](members))), range(4))


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_single_file_is_read_through_every_compression(tmp_path, composites, wrap):
    assert_frames(opened(tmp_path, WRAPS[wrap](composites[1])), [1])


def test_archives_lie_in_archives(tmp_path, composites):
    inner = gzip.compress(tar({"b": lzma.compress(composites[2]), "a": composites[0]}))
    middle = zipped({"deep/inner.tar.gz": inner, "c.h5": composites[1]})
    (first, *others) = opened(tmp_path, gzip.compress(tar({"middle.zip": middle, "d": composites[3]})))
    assert first.attributes["member"] == "middle.zip: deep/inner.tar.gz: a"
    assert_frames([first, *others], range(4))


def test_too_many_archives_in_each_other_are_refused(tmp_path, composites):
    content = composites[0]
    for _ in range(archives.MOST_LEVELS):
        content = tar({"a": content})
    assert_frames(opened(tmp_path, content), [0])
    with pytest.raises(TooLarge, match="lies in more than 4 archives"):
        list(opened(tmp_path, tar({"a": content})))
    with pytest.raises(TooLarge, match="compressed more than 4 times over"):
        content = composites[0]
        for _ in range(5):
            content = gzip.compress(content)
        list(opened(tmp_path, content))


@pytest.mark.parametrize("long", [False, True])
def test_long_names_and_extended_headers_are_understood(tmp_path, composites, long):
    name = "é" * 60 + "/" + "n" * (180 if long else 20)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        (raw,) = opened(tmp_path, tar({name: composites[0]}, form))
        assert raw.attributes["member"] == name[:200]


BAD = {
    "cut off": lambda content: content[:900],
    "empty": lambda content: b"",
    "broken gzip": lambda content: gzip.compress(content)[:-9],
    "no format": lambda content: b"\x8f\x01\x02" + content,
    "damaged hdf5": lambda content: content[:16] + bytes(400) + content[416:],
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("pack", ["ustar", "pax", "zip"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_member_is_said_and_loses_no_other(tmp_path, composites, pack, bad, place):
    names = ["one", "two", "three"]
    members = dict(zip(names, composites, strict=False))
    members[names[place]] = BAD[bad](composites[place])
    frames, got = opened(tmp_path, PACKS[pack](members)), []
    with pytest.raises(InputError, match=f"^thing: {names[place]}: ") as error:
        got.extend(frames)
    assert len(got) == 2
    assert error.type in (UnreadableFile, UnknownFormat)


@pytest.mark.parametrize("pack", ["pax", "zip"])
def test_the_good_members_come_before_the_error(tmp_path, composites, pack):
    members = {"a": composites[2], "bad": composites[1][:900], "worse": b"\x8f", "b": composites[0]}
    frames = opened(tmp_path, PACKS[pack](members))
    assert_frames([next(frames), next(frames)], [0, 2])
    with pytest.raises(UnreadableFile, match=r"thing: bad: .*\(and 1 more of 4 members\)"):
        next(frames)


def test_texts_pictures_and_other_products_are_left_out_and_noted(tmp_path, composites):
    members = {
        "README": "Read this, bitte schön\n".encode() * 40,
        "look.png": b"\x89PNG\r\n\x1a\n rest",
        "._a.h5": b"\0\5\x16\7 fork",
        "a.h5": composites[0],
    }
    (raw,) = opened(tmp_path, tar(members))
    assert raw.attributes["left_out"].startswith("thing: README: no reader knows content that begins with")
    assert raw.attributes["left_out"].endswith("(and 2 more of 4 members)")


def test_an_archive_without_a_frame_says_why(tmp_path):
    with pytest.raises(UnknownFormat, match="thing: README: no reader knows"):
        list(opened(tmp_path, tar({"README": b"nothing here"})))
    for empty in (zipped({}), tar({"folder/": b""})):
        with pytest.raises(InputError):
            list(opened(tmp_path, empty))
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w") as archive:
        info = tarfile.TarInfo("a.h5")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(RefusedProduct, match="thing: the archive is empty"):
        list(opened(tmp_path, link.getvalue()))


HOSTILE_NAMES = [
    "../../escaped.h5", "/tmp/escaped.h5", "a/../../escaped.h5", "C:\\escaped.h5", "..\\escaped.h5", ".",
    "..", "a\nb", "\x1b[31mred", "nul\0byte", "x" * 4000, "/etc/passwd", "~/escaped.h5",
    "$(touch escaped.h5)",
    "a/b/c/../../../../../escaped.h5", "\u202egnp.h5", "con", "-rf", "file://escaped.h5",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
@pytest.mark.parametrize("pack", ["pax", "gnu", "zip"])
def test_hostile_names_touch_nothing(tmp_path, composites, monkeypatch, pack, name):
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    try:
        content = PACKS[pack]({name: composites[0]})
    except (ValueError, UnicodeError):
        pytest.skip("not even the library writes that")
    before = sorted(tmp_path.rglob("*"))
    (raw,) = opened(folder, content)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, folder / "thing"])
    assert raw.attributes["member"].isprintable() and len(raw.attributes["member"]) <= 200


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
)
def test_links_and_devices_are_passed_over(tmp_path, composites, kind):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        odd = tarfile.TarInfo("odd")
        odd.type, odd.linkname, odd.devmajor = kind, "/etc/passwd", 1
        archive.addfile(odd)
        good = tarfile.TarInfo("a.h5")
        good.size = len(composites[0])
        archive.addfile(good, io.BytesIO(composites[0]))
    assert_frames(opened(tmp_path, file.getvalue()), [0])


@pytest.mark.parametrize("pack", ["pax", "zip"])
@pytest.mark.parametrize("outer", ["plain", "gz", "xz", "zst"])
def test_bombs_are_bounded(tmp_path, composites, pack, outer):
    bomb = PACKS[pack]({"a.h5": composites[0], "zeros": bytes(30_000_000)})
    frames = opened(tmp_path, WRAPS[outer](bomb), Limits(max_expanded_bytes=10_000_000))
    with pytest.raises(TooLarge, match="expands to more than 10000000 bytes"):
        list(frames)


def test_a_bomb_of_many_members_that_expand_again_is_bounded(tmp_path):
    bombs = {f"{number}.gz": gzip.compress(b"\x8f" * 3_000_000) for number in range(10)}
    with pytest.raises(InputError) as error:
        list(opened(tmp_path, zipped(bombs), Limits(max_expanded_bytes=10_000_000)))
    assert "more of 10 members" in str(error.value)


@pytest.mark.parametrize("pack", ["ustar", "zip"])
def test_members_are_counted(tmp_path, composites, pack):
    members = {f"{number}": b"text" for number in range(60)} | {"a.h5": composites[0]}
    assert_frames(opened(tmp_path, PACKS[pack](members), Limits(max_members=61)), [0])
    with pytest.raises(TooLarge, match="more than 60 members"):
        list(opened(tmp_path, PACKS[pack](members), Limits(max_members=60)))


def test_a_tar_that_ends_too_soon_gives_what_is_there_and_says_so(tmp_path, composites):
    whole = tar({"a": composites[0], "b": composites[1]}, tarfile.USTAR_FORMAT)
    second = 512 + -(-len(composites[0]) // 512) * 512
    for cut in (second, second + 300, second + 512, second + 5000):
        frames = opened(tmp_path, whole[:cut])
        assert_frames([next(frames)], [0])
        with pytest.raises(UnreadableFile, match="cut off"):
            next(frames)


def test_members_behind_a_damaged_header_are_found(tmp_path, composites):
    content = bytearray(tar(dict(zip("abc", composites, strict=False)), tarfile.USTAR_FORMAT))
    second = 512 + -(-len(composites[0]) // 512) * 512
    content[second + 130] ^= 1
    frames = opened(tmp_path, bytes(content))
    assert_frames([next(frames), next(frames)], [0, 2])
    with pytest.raises(UnreadableFile, match="thing: after a: the header of a member is damaged"):
        next(frames)


def test_an_encrypted_member_is_said(tmp_path, composites):
    content = bytearray(zipped({"a": composites[0], "b": composites[1]}, zipfile.ZIP_STORED))
    for signature, flag in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.index(signature) + flag] |= 1
    frames = opened(tmp_path, bytes(content))
    assert_frames([next(frames)], [1])
    with pytest.raises(UnreadableFile, match="a: is encrypted"):
        next(frames)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (3, 2, 1, 0)])
def test_frames_are_the_same_where_there_is_no_memory_to_keep_them(tmp_path, composites, monkeypatch, order):
    monkeypatch.setattr(archives, "KEPT_BYTES", raw_frame(0).values.nbytes)
    content = tar({str(index): composites[index] for index in order} | {"README": b"words"})
    assert_frames(opened(tmp_path, content), range(4))


def test_passes_without_memory_are_bounded(tmp_path, composites, monkeypatch):
    monkeypatch.setattr(archives, "KEPT_BYTES", 0)
    monkeypatch.setattr(archives, "MOST_PASSES", 2)
    with pytest.raises(TooLarge, match="unpack it first"):
        list(opened(tmp_path, tar({str(index): composites[index] for index in (3, 2, 1)})))


@pytest.mark.parametrize("pack", ["ustar", "pax", "gnu", "zip"])
def test_damaged_archives_raise_nothing_but_input_errors(tmp_path, composites, pack):
    content = PACKS[pack]({"a": composites[0][:3000], "README": b"words", "b": b"P5\n"})
    ends = 0
    for copy in damaged(content, 150, seed=7, head=len(content)):
        try:
            list(opened(tmp_path, copy))
        except InputError as error:
            ends += 1
            assert str(error).startswith("thing")
    assert ends > 100


def test_nothing_is_written_where_files_are_read(tmp_path, composites, monkeypatch):
    path = tmp_path / "run.tar.gz"
    path.write_bytes(gzip.compress(tar({"a.h5": composites[0]})))
    before = set(os.listdir(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert len(list(read(path))) == 1
    assert set(os.listdir(tmp_path)) == before
