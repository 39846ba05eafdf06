"""MRMS GRIB2: synthetic messages, real mosaics against eccodes and cfgrib, damaged bytes."""

from __future__ import annotations

import gzip
import io
import struct
import sys
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
from hostile import damaged, outcomes
from PIL import Image

from nowcast.errors import MissingExtra, RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import grib
from nowcast.readers.source import Limits, Source

RATE, REFLECTIVITY = (6, 1), (3, 57)


def message(
    codes,
    *,
    product=RATE,
    reference=-30.0,
    decimal=1,
    nx=None,
    ny=None,
    scanning=0,
    centre=161,
    discipline=209,
    ahead=0,
    reference_time=3,
    data=7,
    process=8,
    minute=58,
    edition=2,
    month=6,
    template=41,
    first_lon=230_005_000,
    bits=16,
    bitmap=b"\xff",
    keep=None,
    earth=2,
):
    """Return a GRIB2 message as MRMS writes it; a code stands for (reference + code) / 10."""
    codes = np.asarray(codes, np.uint8 if bits == 8 else np.uint16)
    rows, columns = codes.shape
    nx, ny = nx or columns, ny or rows
    png = io.BytesIO()
    Image.fromarray(codes).save(png, "PNG")
    last_lat, first_lat = 55_000_000 - (ny - 1) * 10_000, 55_000_000
    if scanning & 0x40:
        first_lat, last_lat = last_lat, first_lat
    last_lon = (first_lon + (nx - 1) * 10_000) % 360_000_000
    if scanning & 0x80:
        first_lon, last_lon = last_lon, first_lon
    bodies = {
        1: struct.pack(
            ">HHBBBH5BBB", centre, 0, 255, 1, reference_time, 2025, month, 1, 0, minute, 7, 2, data
        ),
        3: struct.pack(">BIBBH", 0, nx * ny, 0, 0, 0)
        + struct.pack(">BBIBIBIIIII", earth, 1, 6367470, 1, 6378160, 1, 6356775, nx, ny, 1, 1_000_000)
        + struct.pack(">IIBIIIIB", first_lat, first_lon, 48, last_lat, last_lon, 10_000, 10_000, scanning),
        4: struct.pack(
            ">HHBBBBBHBBIBBIBBI", 0, 0, *product, process, 0, 97, 0, 0, 0, ahead, 102, 0, 0, 255, 1, 0
        ),
        5: struct.pack(">IHfHHBB", nx * ny, template, reference, 0, decimal, bits, 0),
        6: bitmap,
        7: png.getvalue(),
    }
    if keep:  # cut one section short
        bodies[keep[0]] = bodies[keep[0]][: keep[1]]
    sections = b"".join(struct.pack(">IB", len(body) + 5, number) + body for number, body in bodies.items())
    return struct.pack(">4sHBBQ", b"GRIB", 0, discipline, edition, len(sections) + 20) + sections + b"7777"


def frames(tmp_path, content, limits=None):
    path = tmp_path / "MRMS_PrecipRate_00.00_20250601-005800.grib2"
    path.write_bytes(content)
    limits = limits or Limits()
    source = Source(path, limits)
    assert grib.recognises(source)
    return list(grib.read(source, limits))


def test_a_rain_rate_keeps_no_coverage_missing_no_rain_and_rain_apart(tmp_path):
    (frame,) = frames(tmp_path, message([[0, 20, 30, 32], [30, 155, 1030, 30]]))  # -3, -1, 0, 0.2 mm/h ...
    expected = np.float32([[np.nan, np.nan, 0.0, 0.2], [0.0, 12.5, 100.0, 0.0]])
    np.testing.assert_allclose(frame.values, expected, rtol=1e-6)
    assert frame.quantity is Quantity.RATE
    assert frame.time == datetime(2025, 6, 1, 0, 58, 7, tzinfo=UTC)
    assert (frame.interval_minutes, frame.source) == (2.0, "NOAA MRMS PrecipRate")


def test_a_reflectivity_keeps_no_coverage_no_echo_and_echo_apart(tmp_path):
    codes = [[0, 9000, 9900, 10350], [9990, 9680, 9090, 9000]]  # -999, -99, -9, 36; 0, -31, -90, -99 dBZ
    (frame,) = frames(tmp_path, message(codes, product=REFLECTIVITY, reference=-9990.0))
    expected = np.float32([[np.nan, -np.inf, -9.0, 36.0], [0.0, -31.0, -90.0, -np.inf]])
    np.testing.assert_allclose(frame.values, expected, atol=1e-4)
    assert frame.quantity is Quantity.DBZH


def test_codes_of_one_byte_and_a_field_of_one_value_are_read_too(tmp_path):
    (octets,) = frames(tmp_path, message([[0, 30], [35, 255]], bits=8))
    np.testing.assert_allclose(octets.values, np.float32([[np.nan, 0.0], [0.5, 22.5]]), rtol=1e-6)
    (dry,) = frames(tmp_path, message(np.zeros((2, 3)), reference=0.0, bits=0))
    np.testing.assert_array_equal(dry.values, np.zeros((2, 3)))
    (blind,) = frames(tmp_path, message(np.zeros((2, 3)), bits=0))
    assert np.isnan(blind.values).all()


def test_the_grid_lies_on_cell_centres_with_longitudes_west_of_greenwich(tmp_path):
    (frame,) = frames(tmp_path, message(np.full((3, 5), 30)))
    grid = frame.grid
    assert grid.crs.to_epsg() == 4326
    assert (grid.nx, grid.ny, grid.dx, grid.dy) == (5, 3, 0.01, 0.01)
    np.testing.assert_allclose((grid.x0, grid.y0), (-129.995, 55.0), atol=1e-9)


def test_rows_from_the_south_are_turned_over(tmp_path):
    codes = [[30, 31], [40, 41], [50, 51]]
    (north,) = frames(tmp_path, message(codes))
    (south,) = frames(tmp_path, message(codes[::-1], scanning=0x40))
    np.testing.assert_array_equal(north.values, south.values)
    assert north.grid == south.grid


@pytest.mark.parametrize("scanning", [0x00, 0x40, 0x80, 0xC0])
@pytest.mark.parametrize("first", [0, 100_000_000, 179_990_000, 230_005_000, 359_980_000])
def test_cells_keep_their_places_across_every_meridian_and_in_every_direction(tmp_path, first, scanning):
    codes = np.arange(30, 50).reshape(4, 5)
    stored = codes[:: -1 if scanning & 0x40 else 1, :: -1 if scanning & 0x80 else 1]
    (frame,) = frames(tmp_path, message(stored, scanning=scanning, first_lon=first))
    np.testing.assert_allclose(frame.values, (codes - 30) / 10, atol=1e-6)
    for row, column in ((0, 0), (3, 4), (1, 2)):
        for turn in (-360, 0):
            lon = first / 1e6 + column * 0.01 + turn
            assert frame.grid.cell_of(55 - row * 0.01, lon) == (row, column)


@pytest.mark.parametrize("earth", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_degrees_are_degrees_on_any_earth(tmp_path, earth):
    (frame,) = frames(tmp_path, message([[30, 31], [32, 33]], earth=earth))
    assert frame.grid.crs.to_epsg() == 4326
    np.testing.assert_allclose(frame.grid.outer_bounds, (-130, 54.985, -129.98, 55.005))


def test_every_message_of_a_file_is_a_frame_and_gzip_changes_nothing(tmp_path):
    one = message([[30, 31], [32, 33]])
    assert len(frames(tmp_path, one + one)) == 2
    (packed,) = frames(tmp_path, gzip.compress(one))
    (plain,) = frames(tmp_path, one)
    np.testing.assert_array_equal(packed.values, plain.values)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"product": (6, 2)}, RefusedProduct, "parameter 6-2"),  # an hourly sum
        ({"centre": 7}, RefusedProduct, "centre 161"),
        ({"discipline": 0}, RefusedProduct, "discipline 209"),
        ({"ahead": 10}, RefusedProduct, "forecast"),
        ({"edition": 1}, RefusedProduct, "edition 1"),
        ({"month": 13}, UnreadableFile, "no time"),
        ({"decimal": 300}, UnreadableFile, "cannot be right"),
        ({"reference": float("nan")}, UnreadableFile, "cannot be right"),
        ({"scanning": 0x20}, UnreadableFile, "scanning mode 32"),
        ({"scanning": 0x10}, UnreadableFile, "scanning mode 16"),
        ({"nx": 3, "ny": 2}, UnreadableFile, "grey PNG of 2 x 3"),
        ({"template": 3}, UnreadableFile, "got 5.3"),
        ({"bits": 24}, UnreadableFile, "of 24 bits"),
        ({"bitmap": b"\0\xf0"}, UnreadableFile, "got 5.41"),
        ({"keep": (1, 4)}, UnreadableFile, "too short"),
        ({"keep": (3, 20)}, UnreadableFile, "too short"),
        ({"keep": (5, 3)}, UnreadableFile, "too short"),
        ({"keep": (6, 0)}, UnreadableFile, "got 5.41"),
        ({"keep": (7, 10)}, UnreadableFile, "grey PNG"),
        ({"template": 40}, UnreadableFile, "got 5.40"),
        ({"nx": 100_000, "ny": 1000}, TooLarge, "1000 x 100000"),
    ],
)
def test_what_cannot_be_a_frame_is_refused_with_its_reason(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        frames(tmp_path, message([[30, 31], [32, 33]], **changes))


def test_a_declared_size_is_refused_before_anything_is_unpacked(tmp_path, monkeypatch):
    def unpack(*_):
        raise AssertionError("the image was unpacked")

    monkeypatch.setattr(grib.Image, "open", unpack)
    with pytest.raises(TooLarge, match="at most 3 are read"):
        frames(tmp_path, message([[30, 31], [32, 33]]), Limits(max_cells=3))


def test_a_message_that_is_cut_off_is_unreadable(tmp_path):
    content = message([[30, 31], [32, 33]])
    for length in (16, 100, len(content) - 1):
        with pytest.raises(UnreadableFile):
            frames(tmp_path, content[:length])
    with pytest.raises(UnreadableFile, match="does not end in 7777"):
        frames(tmp_path, content[:-1] + b"8")
    for length in (0, 4, 10_000):
        with pytest.raises(UnreadableFile, match=f"section 1 at byte 16 is {length} bytes long"):
            frames(tmp_path, content[:16] + struct.pack(">I", length) + content[20:])


HEADING = b"HZXX01 KWBC 010058"


@pytest.mark.parametrize(
    "heading",
    [
        b"\x01\r\r\n123\r\r\n" + HEADING + b"\r\r\n",
        b"\x01\r\r\n12345\r\r\n" + HEADING + b"\r\r\n",
        b"\x01\r\n123 \r\n" + HEADING + b"\r\n",
        b"\x01\n" + HEADING + b"\n",
        HEADING + b"\r\r\n",
        HEADING + b"\n",
        HEADING + b" RRA\r\r\n",
        b"HZXX KWBC 010058\r\r\n",
        b"0000012300\x01\r\r\n123\r\r\n" + HEADING + b"\r\r\n",
        b"****0000012345****\n" + HEADING + b"\r\r\n",
    ],
)
@pytest.mark.parametrize("trailer", [b"", b"\r\r\n\x03", b"\0" * 300, b"rest", bytes(range(128, 256)) * 50])
def test_bulletins_are_read_as_the_messages_in_them(tmp_path, heading, trailer):
    one, other = message([[30, 31], [32, 33]], minute=10), message([[40, 41], [42, 43]], minute=8)
    first, second = frames(tmp_path, heading + one + trailer + heading + other + trailer)
    np.testing.assert_allclose(first.values, [[1.0, 1.1], [1.2, 1.3]], rtol=1e-6)
    np.testing.assert_allclose(second.values, [[0.0, 0.1], [0.2, 0.3]], rtol=1e-6)
    assert (second.time - first.time).total_seconds() == 120


def test_a_damaged_message_is_said_and_loses_no_other(tmp_path):
    good, bad = message([[30, 31], [32, 33]]), bytearray(message([[30, 31], [32, 33]]))
    for at, value in ((0, 0), (15, 0xFF), (16, 0xFF), (len(bad) - 1, 0)):
        damaged_one = bytearray(bad)
        damaged_one[at] = value
        path = tmp_path / "several.grib2"
        path.write_bytes(good + bytes(damaged_one) + good)
        got = []
        with pytest.raises(UnreadableFile):
            got.extend(frame.values[0, 1] for frame in grib.read(Source(path, Limits()), Limits()))
        np.testing.assert_allclose(got, [0.1, 0.1], rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        *({"ahead": minutes} for minutes in (1, 5, 10, 60, 2**31)),
        *({"data": kind} for kind in (1, 2, 3, 4, 5, 8)),
        *({"process": kind} for kind in (2, 3, 4, 5, 9, 10, 11, 12)),
        {"reference_time": 2},
    ],
    ids=str,
)
def test_a_forecast_is_refused_whatever_says_so(tmp_path, changes):
    for centre in (161, 7, 78):
        with pytest.raises(RefusedProduct, match=r"a forecast .*, not an observation"):
            frames(tmp_path, message([[30, 31], [32, 33]], centre=centre, **changes))


def repacked(content, packing):
    eccodes = pytest.importorskip("eccodes", reason="the extra 'grib' is not installed")
    handle = eccodes.codes_new_from_message(content)
    eccodes.codes_set(handle, "packingType", packing)
    other = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return other


@pytest.mark.parametrize("packing", ["grid_simple", "grid_ccsds"])
def test_other_packings_come_through_eccodes(tmp_path, packing):
    content = message(np.arange(0, 12_000, 100).reshape(10, 12), product=REFLECTIVITY, reference=-9990.0)
    (expected,) = frames(tmp_path, content)
    (frame,) = frames(tmp_path, repacked(content, packing))
    np.testing.assert_allclose(frame.values, expected.values, atol=1e-3)
    assert np.isneginf(frame.values).any() and np.isnan(frame.values).any()


def test_other_packings_without_eccodes_name_the_extra(tmp_path, monkeypatch):
    content = message([[30, 31], [32, 33]], template=0)
    monkeypatch.setitem(sys.modules, "eccodes", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nowcast-service\[grib\]'"):
        frames(tmp_path, content)


def test_a_bitmap_is_left_to_eccodes_and_its_gaps_are_not_observed(tmp_path):
    eccodes = pytest.importorskip("eccodes", reason="the extra 'grib' is not installed")
    handle = eccodes.codes_new_from_message(repacked(message([[30, 40], [50, 60]]), "grid_simple"))
    eccodes.codes_set(handle, "bitmapPresent", 1)
    eccodes.codes_set_values(handle, [0.0, 1.0, eccodes.codes_get(handle, "missingValue"), 3.0])
    (frame,) = frames(tmp_path, eccodes.codes_get_message(handle))
    eccodes.codes_release(handle)
    np.testing.assert_allclose(frame.values, [[0.0, 1.0], [np.nan, 3.0]], atol=1e-6)


def test_damaged_messages_end_in_a_frame_or_a_refusal(tmp_path):
    content = message(np.arange(0, 1200).reshape(30, 40))
    ends = outcomes(grib, damaged(content, 600, seed=1, head=200), tmp_path / "damaged.grib2")
    assert ends["UnreadableFile"] > 50 and ends["frame"] > 20


@cache
def real(shared_data, name):
    path = shared_data / "formats" / "mrms" / name
    source = Source(path, Limits())
    (frame,) = grib.read(source, Limits())
    return source, frame


RATE_FILE = "MRMS_PrecipRate_00.00_20250601-005800.grib2.gz"
REFLECTIVITY_FILE = "MRMS_ReflectivityAtLowestAltitude_00.50_20230406-120039.grib2.gz"


@pytest.mark.parametrize(("name", "marks"), [(RATE_FILE, (-3.0, -1.0)), (REFLECTIVITY_FILE, (-999.0,))])
def test_real_mosaics_agree_with_eccodes(shared_data, name, marks):
    eccodes = pytest.importorskip("eccodes", reason="the extra 'grib' is not installed")
    source, frame = real(shared_data, name)
    handle = eccodes.codes_new_from_message(source.content)
    values = eccodes.codes_get_values(handle).reshape(frame.grid.shape)
    corners = [
        eccodes.codes_get(handle, f"{axis}Of{end}GridPointInDegrees")
        for end in ("First", "Last")
        for axis in ("latitude", "longitude")
    ]
    eccodes.codes_release(handle)
    for ours, theirs in zip(frame.values, values, strict=True):  # by rows, as copies of the whole take longer
        np.testing.assert_array_equal(np.isnan(ours), np.isin(theirs, marks))
        np.testing.assert_array_equal(np.isneginf(ours), theirs == -99.0)
        measured = np.isfinite(ours)
        assert np.abs(ours[measured] - theirs[measured]).max(initial=0.0) < 1e-4
    assert np.isfinite(frame.values[::100]).any()
    ours = (frame.grid.y[0], frame.grid.x[0] + 360, frame.grid.y[-1], frame.grid.x[-1] + 360)
    np.testing.assert_allclose(ours, corners, atol=0.005)


def test_no_echo_lies_inside_the_coverage_and_no_coverage_outside(shared_data):
    """What -99 and -999 mean, from the mosaics themselves: the rain rate says where radars look."""
    _, rate = real(shared_data, RATE_FILE)
    _, reflectivity = real(shared_data, REFLECTIVITY_FILE)
    dark = np.isnan(rate.values)
    assert np.isnan(reflectivity.values[dark]).mean() > 0.97
    assert np.isneginf(reflectivity.values[~dark]).mean() > 0.9
    assert not np.isneginf(rate.values).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", [RATE_FILE, REFLECTIVITY_FILE])
def test_real_mosaics_agree_with_cfgrib(shared_data, tmp_path, name):
    pytest.importorskip("cfgrib", reason="cfgrib is an oracle, not a dependency")
    import xarray as xr

    source, frame = real(shared_data, name)
    path = tmp_path / source.name
    path.write_bytes(source.content)
    with xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""}) as dataset:
        oracle = dataset["unknown"]
        np.testing.assert_allclose(oracle["latitude"].values, frame.grid.y, atol=0.005)
        np.testing.assert_allclose(oracle["longitude"].values - 360, frame.grid.x, atol=0.005)
        assert oracle["time"].values == np.datetime64(frame.time.replace(second=0, tzinfo=None))
        measured = np.isfinite(frame.values)
        assert np.abs(oracle.values[measured] - frame.values[measured]).max() < 1e-3
