"""One opened file: bounded bytes, whatever wraps them."""

from __future__ import annotations

import bz2
import gzip
import tracemalloc
from datetime import UTC, datetime

import pytest

from nowcast.errors import TooLarge, UnreadableFile
from nowcast.readers.source import Limits, Source, parse_time

TEXT = b"rain " * 1000


def source(tmp_path, content, name="frame.bin", **limits):
    path = tmp_path / name
    path.write_bytes(content)
    return Source(path, Limits(**limits))


@pytest.mark.parametrize("wrap", [bytes, gzip.compress, bz2.compress])
def test_content_and_head_are_the_same_whatever_wraps_them(tmp_path, wrap):
    opened = source(tmp_path, wrap(TEXT))
    assert opened.content == TEXT
    assert opened.head == TEXT[:512]
    assert opened.is_compressed == (wrap is not bytes)
    with opened.stream() as stream:
        assert stream.read() == TEXT


@pytest.mark.parametrize(
    ("on_disk", "name"), [("a.h5", "a.h5"), ("a.pgm.gz", "a.pgm"), ("a.tar.bz2", "a.tar"), ("bin", "bin")]
)
def test_the_name_is_without_the_ending_of_its_compression(tmp_path, on_disk, name):
    assert source(tmp_path, b"", on_disk).name == name


def test_several_gzip_members_follow_each_other(tmp_path):
    assert source(tmp_path, gzip.compress(TEXT) + gzip.compress(b"more")).content == TEXT + b"more"


@pytest.mark.parametrize("wrap", [gzip.compress, bz2.compress])
def test_broken_compression_is_unreadable_and_has_no_head(tmp_path, wrap):
    whole = wrap(TEXT)
    for broken in (whole[:-5], whole[:20], whole[:12] + b"\xff\xff\xff" + whole[15:], whole + b"rubbish"):
        opened = source(tmp_path, broken)
        if wrap is bz2.compress and broken.endswith(b"rubbish"):
            assert opened.content == TEXT  # bz2 leaves what follows its stream alone
            continue
        with pytest.raises(UnreadableFile, match="cut off or damaged"):
            _ = opened.content
    assert source(tmp_path, whole[:12]).head == b""


def test_a_file_larger_than_allowed_on_disk_is_refused(tmp_path):
    with pytest.raises(TooLarge, match="5000 bytes; at most 4999"):
        _ = source(tmp_path, TEXT, max_file_bytes=4999).content
    assert source(tmp_path, TEXT, max_file_bytes=5000).content == TEXT


@pytest.mark.parametrize("wrap", [bytes, gzip.compress, bz2.compress])
def test_content_larger_than_allowed_is_refused_at_the_exact_byte(tmp_path, wrap):
    assert source(tmp_path, wrap(TEXT), max_expanded_bytes=5000).content == TEXT
    with pytest.raises(TooLarge, match="more than 4999 bytes"):
        _ = source(tmp_path, wrap(TEXT), max_expanded_bytes=4999).content


@pytest.mark.parametrize("wrap", [gzip.compress, bz2.compress])
def test_a_decompression_bomb_takes_no_more_memory_than_allowed(tmp_path, wrap):
    opened = source(tmp_path, wrap(bytes(200_000_000)), max_expanded_bytes=10_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            _ = opened.content
        assert tracemalloc.get_traced_memory()[1] < 45_000_000  # two copies, and the buffers of both codecs
    finally:
        tracemalloc.stop()


def test_limits_refuse_sizes_before_memory_is_taken():
    limits = Limits(max_cells=100)
    limits.check_cells(10, 10, "frame")
    with pytest.raises(TooLarge, match="frame: declares 10 x 11 cells; at most 100"):
        limits.check_cells(10, 11, "frame")
    for rows, columns in ((0, 5), (5, 0), (-3, -4)):
        with pytest.raises(UnreadableFile, match="expected positive numbers"):
            limits.check_cells(rows, columns, "frame")


def test_times_are_utc_and_nonsense_is_unreadable():
    assert parse_time("201705091200", "%Y%m%d%H%M", "f") == datetime(2017, 5, 9, 12, tzinfo=UTC)
    with pytest.raises(UnreadableFile, match="f: expected a time as %Y%m%d, got '20171399'"):
        parse_time("20171399", "%Y%m%d", "f")
