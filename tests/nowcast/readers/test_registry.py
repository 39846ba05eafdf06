"""The registry: content decides, nothing else; what is no file at all is refused in one sentence."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from importlib import import_module

import h5py
import numpy as np
import pytest

from nowcast.errors import RefusedProduct, TooLarge, UnknownFormat, UnreadableFile
from nowcast.readers import READERS, Limits, read


@pytest.fixture
def polar(tmp_path):
    """Return a small ODIM_H5 file that is recognised, and refused: a polar scan."""
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.attrs["Conventions"] = np.bytes_("ODIM_H5/V2_4")
        file.create_group("what").attrs["object"] = np.bytes_("SCAN")
    return path


@pytest.mark.parametrize("name", READERS)
def test_every_reader_offers_both_functions(name):
    module = import_module(f"nowcast.readers.{name}")
    assert callable(module.recognises) and callable(module.read)


def test_nothing_happens_before_the_first_frame_is_asked_for(tmp_path):
    frames = read(tmp_path / "not there yet")
    with pytest.raises(UnreadableFile, match="not there yet: expected a file, found none"):
        next(frames)


@pytest.mark.parametrize("name", ["scan.gif", "radolan.gz", "noending"])
def test_the_name_does_not_matter(polar, name):
    with pytest.raises(RefusedProduct, match=f"{name}: ODIM_H5 object SCAN"):
        next(read(polar.rename(polar.with_name(name))))


def test_compression_does_not_matter(polar):
    polar.write_bytes(gzip.compress(polar.read_bytes()))
    with pytest.raises(RefusedProduct, match="object SCAN"):
        next(read(polar))


@pytest.mark.parametrize(
    ("content", "kind", "because"),
    [
        (b"", UnreadableFile, "is empty"),
        (b"\x1f\x8b\x08 this is no gzip", UnreadableFile, "compression is damaged"),
        (b"BZh9 this is no bzip2", UnreadableFile, "compression is damaged"),
        (b"a letter to the editor", UnknownFormat, "no reader knows content that begins with b'a letter"),
        (b"\x89HDF\r\n\x1a\n and nothing more", UnreadableFile, "expected an HDF5 file"),
        (b"CDF\1 and nothing more", UnreadableFile, "the header counts"),
        (b"CDF\7 of the future", UnknownFormat, "no reader knows"),
        (b"\0" * 600, UnknownFormat, "no reader knows"),
    ],
    ids=range(8),
)
def test_what_cannot_be_read_is_named(tmp_path, content, kind, because):
    (tmp_path / "thing").write_bytes(content)
    with pytest.raises(kind, match=because) as refusal:
        next(read(tmp_path / "thing"))
    assert str(refusal.value).startswith("thing: ")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UnreadableFile, match="expected a file, found a folder"):
        next(read(tmp_path))


def test_a_pipe_does_not_hang_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableFile, match="expected a file"):
        next(read(tmp_path / "pipe"))


def test_a_file_that_may_not_be_opened_is_unreadable(polar):
    if os.geteuid() == 0:
        pytest.skip("root may open everything")
    polar.chmod(0)
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        next(read(polar))


def test_a_file_larger_than_allowed_is_not_opened(polar):
    with pytest.raises(TooLarge, match="at most 100 are read"):
        next(read(polar, Limits(max_file_bytes=100)))


def test_an_archive_that_expands_beyond_the_limit_is_refused(polar):
    polar.write_bytes(gzip.compress(polar.read_bytes() + bytes(10_000_000)))
    with pytest.raises(TooLarge, match="expands to more than 1000000 bytes"):
        next(read(polar, Limits(max_expanded_bytes=1_000_000)))


def test_importing_the_registry_loads_no_format_library():
    script = "import sys, nowcast.readers; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"h5py", "netCDF4", "eccodes", "rasterio", "PIL"} & set(loaded.stdout.split())
