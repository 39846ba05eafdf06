"""The BUFR mosaic of Météo-France: synthetic messages, the real one against its bits, damage."""

from __future__ import annotations

import struct
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
from hostile import damaged, outcomes

from nowcast.errors import RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import bufr
from nowcast.readers.source import Limits, Source

REAL = "formats/bufr/T_IMFR27_C_LFPW_20240126080000.bufr.gz"

#: Section 3 of the real message.
TEMPLATE = (
    "0163 1e1f 01c0 c10b c10d 0815 0419 041a 1d02 1d01 1e15 1e16 0521 0621 ddc0 1dc0 "
    "19c2 1e20 19c0 1909 190a 190b 4a00 1f01 c101 c10b c10d 0501 0601 06c4 19d2 4100 "
    "1f01 30c0 4100 1f01 30c0 4100 1fc0 1578 4300 1fc0 817c 0a02 8100 830b 1501 83ff "
    "4500 1fc0 8184 8281 1501 8200 8100 8300"
)  # fmt: skip


def message(
    codes, *, title="Mosaique_metropole_Z_1km", month=1, significance=23, size=None, count=None,
    scanning=0xE0, grid_type=0, projection=1, geodetic=0, cell=100, lat=53.67, lon=-9.965, radars=2,
    reference=400, centre=85,
    category=6, tables=14, template=TEMPLATE, flags=0x80, subsets=1, second=b"", edition=4, end=b"7777",
    declared=None,
):  # fmt: skip
    """Return a mosaic as Météo-France writes it; reflectivity is (code - 400) / 10 dBZ, 2047 is missing."""
    codes = np.asarray(codes)
    rows, columns = size or codes.shape
    count = codes.size if count is None else count
    text = title.encode().ljust(31, b"\0")
    bits = "".join(f"{byte:08b}" for byte in text)
    head = [
        (1, 4), (1, 8), (2024, 12), (month, 4), (26, 6), (8, 5), (5, 6), (0, 6), (significance, 5),
        (2053, 12),
        (4096, 13), (grid_type, 3), (projection, 3), (columns, 12), (rows, 12), (cell, 16), (cell, 16),
        (round((lat + 90) * 1e5), 25), (round((lon + 180) * 1e5), 26), (18_000_000, 26), (0, 8),
        (scanning, 8),
        (13_500_000, 25), (geodetic, 6), (65_535, 16), (0, 16), (1, 8), (15, 4), (6, 4), (1, 2), (radars, 8),
    ]  # fmt: skip
    bits += "".join(f"{value:0{width}b}" for value, width in head)
    bits += ("1" * 133 + f"{3:08b}" + "0" * 3) * radars + f"{2:08b}00"
    bits += f"{count:032b}" + "1" * 10 * codes.size + f"{count:032b}" + "1" * 12 * codes.size
    bits += f"{(1 << 10) | reference:011b}" + f"{count:032b}"
    bits += "".join(f"{code:011b}" for code in codes.ravel().tolist())
    data = int(bits.ljust(-(-len(bits) // 16) * 16, "0"), 2).to_bytes(-(-len(bits) // 16) * 2, "big")

    first = struct.pack(
        ">3sBHHBBBBBBBHBBBBB", (22).to_bytes(3, "big"), 0, centre, 0, 0, 0x80 if second else 0, category,
        0, 27,
        16, tables, 2024, 1, 26, 8, 5, 0,
    )  # fmt: skip
    listed = bytes.fromhex(template)
    third = (8 + len(listed)).to_bytes(3, "big") + struct.pack(">BHB", 0, subsets, flags) + listed + b"\0"
    fourth = (4 + len(data)).to_bytes(3, "big") + b"\0" + data
    body = first + second + third + fourth + end
    length = 8 + len(body) if declared is None else declared
    return b"BUFR" + length.to_bytes(3, "big") + bytes([edition]) + body


CODES = [[0, 1, 400], [880, 2046, 2047]]


def frame(tmp_path, content, limits=None):
    path = tmp_path / "T_IMFR27_C_LFPW_20240126080500.bufr"
    path.write_bytes(content)
    source = Source(path, limits or Limits())
    assert bufr.recognises(source)
    (only,) = bufr.read(source, limits or Limits())
    return only


def test_no_echo_values_and_missing_are_kept_apart(tmp_path):
    read = frame(tmp_path, message(CODES))
    np.testing.assert_allclose(read.values, np.float32([[-np.inf, -39.9, 0], [48, 164.6, np.nan]]), rtol=1e-6)
    assert (read.quantity, read.time) == (Quantity.DBZH, datetime(2024, 1, 26, 8, 5, tzinfo=UTC))
    assert read.source == "Météo-France Mosaique metropole Z 1km"


@pytest.mark.parametrize("radars", [0, 1, 3, 5, 28, 255])
@pytest.mark.parametrize("second", [b"", b"\0\0\6\0xx"])
def test_the_field_is_found_behind_any_number_of_radars(tmp_path, radars, second):
    read = frame(tmp_path, message(CODES, radars=radars, second=second))
    np.testing.assert_array_equal(read.values, frame(tmp_path, message(CODES)).values)


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    codes = np.arange(40 * 51).reshape(40, 51) % 2048
    whole = frame(tmp_path, message(codes)).values
    monkeypatch.setattr(bufr, "_BLOCK_CELLS", 16)
    np.testing.assert_array_equal(frame(tmp_path, message(codes)).values, whole)
    np.testing.assert_allclose(whole.ravel()[1:2040], (codes.ravel()[1:2040] - 400) / 10, rtol=1e-5)


def test_the_grid_hangs_from_its_north_western_corner(tmp_path):
    grid = frame(tmp_path, message(CODES)).grid
    west, south, east, north = grid.outer_bounds
    np.testing.assert_allclose(grid.lonlat_to_xy(-9.965, 53.67), (west, north), atol=0.01)
    assert (east - west, north - south, grid.dx, grid.dy) == (3000, 2000, 1000, 1000)
    assert north < 0 and west < 0  # south of the pole, west of Greenwich


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"centre": 78}, RefusedProduct, "got centre 78"),
        ({"category": 0}, RefusedProduct, "category 0"),
        ({"tables": 15}, RefusedProduct, "tables 15"),
        ({"template": TEMPLATE[:-5]}, RefusedProduct, "55 descriptors"),
        ({"template": TEMPLATE.replace("8184", "8185")}, RefusedProduct, "56 descriptors"),
        ({"template": "0163 1e1f"}, RefusedProduct, "2 descriptors"),
        ({"title": "Mosaique_metropole_LAME_EAU"}, RefusedProduct, "got 'Mosaique_metropole_LAME_EAU'"),
        ({"title": "Mosaique_Z_forecast"}, RefusedProduct, "a forecast is not taken for one"),
        ({"title": ""}, RefusedProduct, "got ''"),
        ({"significance": 4}, RefusedProduct, "got a forecast"),
        ({"significance": 2}, RefusedProduct, "time significance 2"),
        ({"flags": 0xC0}, RefusedProduct, "flags 0xc0"),
        ({"flags": 0x00}, RefusedProduct, "flags 0x0"),
        ({"subsets": 2}, RefusedProduct, "one observed, uncompressed subset"),
        ({"projection": 2}, RefusedProduct, "polar stereographic"),
        ({"scanning": 0}, RefusedProduct, "scanned from the north-west"),
        ({"grid_type": 1}, RefusedProduct, "polar stereographic"),
        ({"geodetic": 5}, RefusedProduct, "geodetic system"),
        ({"edition": 3}, UnreadableFile, "edition 4"),
        ({"end": b"777"}, UnreadableFile, "ends in 7777"),
        ({"declared": 500}, UnreadableFile, "declaring 500 bytes"),
        ({"count": 7}, UnreadableFile, "expected 6 values, one for each cell, got 7"),
        ({"count": 2**32 - 1}, UnreadableFile, "one for each cell"),
        ({"size": (2, 4)}, UnreadableFile, "expected 8 values"),
        ({"size": (0, 3)}, UnreadableFile, "expected positive"),
        ({"month": 13}, UnreadableFile, "is no time"),
        ({"cell": 0}, UnreadableFile, "cannot be right"),
        ({"lat": 95.0}, UnreadableFile, "is no place"),
        ({"second": b"\xff\xff\xff\0"}, UnreadableFile, "section 2 at byte 30"),
    ],
)
def test_what_cannot_be_a_frame_is_refused_with_its_reason(tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        frame(tmp_path, message(CODES, **options))


def test_a_size_is_refused_before_memory_is_taken(tmp_path):
    with pytest.raises(TooLarge, match="4095 x 4095"):
        frame(tmp_path, message(CODES, size=(4095, 4095)), Limits(max_cells=1_000_000))


@pytest.mark.parametrize("kept", [5, 8, 20, 29, 31, 60, 100, 149, 151, 180, 200, 230, 250, 270])
def test_a_message_cut_off_is_refused(tmp_path, kept):
    content = message(CODES)
    assert kept < len(content)
    for cut in (content[:kept], content[:4] + kept.to_bytes(3, "big") + content[7 : kept - 4] + b"7777"):
        with pytest.raises((UnreadableFile, RefusedProduct)):
            frame(tmp_path, cut)


def test_damaged_messages_end_in_a_frame_or_a_refusal(tmp_path):
    content = message(np.arange(60).reshape(6, 10) * 30)
    ends = outcomes(bufr, damaged(content, 600, seed=4), tmp_path / "damaged")
    assert ends["UnreadableFile"] > 100 and ends["RefusedProduct"] > 20 and ends["frame"] > 20


def test_no_library_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "eccodes", None)
    assert frame(tmp_path, message(CODES)).values.shape == (2, 3)


@pytest.fixture(scope="module")
def mosaic(shared_data):
    source = Source(shared_data / REAL, Limits())
    return next(bufr.read(source, Limits())), source.content


def test_the_real_mosaic_holds_what_its_bits_say(mosaic):
    read, content = mosaic
    assert read.time == datetime(2024, 1, 26, 8, 0, tzinfo=UTC)
    # Reflectivity is the last array: 1536 x 1536 codes of 11 bits before 13 bits of filling and the end.
    bits = len(content) * 8 - 32 - 13 - 1536 * 1536 * 11
    number = int.from_bytes(content[bits // 8 : -4], "big")
    total = len(content) * 8 - 32
    for cell in (0, 700 * 1536 + 760, 600 * 1536 + 900, 1536 * 1536 - 1):
        code = number >> (total - bits - (cell + 1) * 11) & 2047
        value = read.values.ravel()[cell]
        assert (
            np.isnan(value) if code == 2047 else value == (np.float32(code - 400) / 10 if code else -np.inf)
        )
    observed = ~np.isnan(read.values)
    assert 0.58 < observed.mean() < 0.59 and np.isneginf(read.values).mean() == pytest.approx(0.525, abs=1e-3)
    echo = read.values[np.isfinite(read.values)]
    assert (echo.min(), echo.max()) == (-9.0, 48.0)


@pytest.mark.parametrize(
    ("place", "lon", "lat", "is_observed"),
    [
        ("Paris", 2.35, 48.86, True),
        ("Brest", -4.49, 48.39, True),
        ("Ajaccio", 8.74, 41.92, True),
        ("Strasbourg", 7.75, 48.57, True),
        ("Toulouse", 1.44, 43.60, True),
        ("Birmingham", -1.9, 52.48, False),
        ("Madrid", -3.7, 40.42, False),
        ("Munich", 11.58, 48.14, False),
        ("Atlantic", -9.0, 46.0, False),
    ],
)
def test_the_real_mosaic_covers_france_and_not_its_neighbours(mosaic, place, lon, lat, is_observed):
    read, _ = mosaic
    x, y = read.grid.lonlat_to_xy(lon, lat)
    row, column = round((read.grid.y0 - y) / read.grid.dy), round((x - read.grid.x0) / read.grid.dx)
    inside = 0 <= row < 1536 and 0 <= column < 1536
    assert (inside and not np.isnan(read.values[row, column])) == is_observed, place
