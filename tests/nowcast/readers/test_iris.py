"""IRIS products: synthetic files, real ones against wradlib and GDAL, damaged bytes."""

from __future__ import annotations

import gzip
import struct
from datetime import UTC, datetime

import numpy as np
import pytest
from hostile import damaged, outcomes

from nowcast.errors import RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import iris
from nowcast.readers.source import Limits, Source

UTC_BIT, SAVING_BIT = 1 << 11, 1 << 10


def angle(degrees):
    return round(degrees % 360.0 * 2**32 / 360.0) % 2**32


def product(
    codes, *, code=3, data_type=2, panel=0, bits=UTC_BIT | 999, west=(0, 0), day=(2016, 7, 3), seconds=79_200,
    scale=(100_000, 100_000), size=None, layers=1, radar=(1000, 1000), projection=0, declared=None,
    radius=637_813_700, flattening=298_257_224, lat=58.5, lon=25.5, centre=None, name=b"CAPPI",
):  # fmt: skip
    """Return a product as IRIS writes it; rows of ``codes`` come from the south."""
    codes = np.asarray(codes)
    rows, columns = codes.shape
    header = bytearray(640)
    total = 640 + codes.nbytes if declared is None else declared
    struct.pack_into("<hhihh", header, 0, 27, 8, total, 0, 0)
    struct.pack_into("<hhihh", header, 12, 26, 6, 320, 0, 0)
    struct.pack_into("<HHi", header, 24, code, 1, 0)
    struct.pack_into("<iHhhh", header, 32, 1, UTC_BIT, 2018, 12, 3)  # when the product was made
    struct.pack_into("<iHhhh", header, 56, seconds, bits, *day)
    struct.pack_into("12s", header, 74, name)
    struct.pack_into("<3i", header, 100, *scale, 0)
    struct.pack_into("<3i", header, 112, *(size or (columns, rows)), layers)
    struct.pack_into("<2i", header, 124, *radar)
    struct.pack_into("<H", header, 142, data_type)
    struct.pack_into("<B", header, 158, projection)
    struct.pack_into("<i", header, 188, panel)
    struct.pack_into("<h", header, 332 + 72, west[0])
    struct.pack_into("16s", header, 332 + 90, b"Somewhere")
    struct.pack_into("<h", header, 332 + 106, west[1])
    struct.pack_into("<II", header, 332 + 108, angle(lat), angle(lon))
    struct.pack_into("<II", header, 332 + 220, radius, flattening)
    struct.pack_into("<II", header, 332 + 240, *map(angle, centre or (lat, lon)))
    return bytes(header) + codes.tobytes()


CODES = np.uint8([[0, 1, 64], [144, 254, 255]])
VALUES = np.float32([[40, 95, np.nan], [-np.inf, -31.5, 0]])  # north first


def frame(tmp_path, content, limits=None):
    path = tmp_path / "SUR160703220000.CAP"
    path.write_bytes(content)
    source = Source(path, limits or Limits())
    assert iris.recognises(source)
    (only,) = iris.read(source, limits or Limits())
    return only


@pytest.mark.parametrize(("code", "kind"), [(1, "PPI"), (3, "CAPPI"), (16, "MAX"), (32, "SRI")])
@pytest.mark.parametrize(("data_type", "quantity"), [(1, "TH"), (2, "DBZH"), (7, "DBZH")])
def test_one_byte_becomes_dbz_with_no_echo_and_not_scanned_kept_apart(
    tmp_path, code, kind, data_type, quantity
):
    read = frame(tmp_path, product(CODES, code=code, data_type=data_type))
    np.testing.assert_array_equal(read.values, VALUES)
    assert (read.quantity, read.source) == (quantity, f"IRIS {kind} Somewhere")
    assert read.time == datetime(2016, 7, 3, 22, 0, tzinfo=UTC), "of the scan, not of the product's making"


@pytest.mark.parametrize(("data_type", "quantity"), [(8, "TH"), (9, "DBZH"), (21, "DBZH")])
def test_two_bytes_become_dbz_in_hundredths(tmp_path, data_type, quantity):
    codes = np.uint16([[0, 32768, 65535], [36768, 28768, 65534]])
    read = frame(tmp_path, product(codes, data_type=data_type))
    expected = np.float32([[40, -40, 327.66], [-np.inf, 0, np.nan]])
    np.testing.assert_allclose(read.values, expected, rtol=1e-6)
    assert read.quantity == quantity


def test_rain_rates_are_floats_of_two_bytes(tmp_path):
    # manual, 4.4: exponent in 4 bits, mantissa in 12; 1 = 0 mm/h, 2 = 0.0001 mm/h
    codes = np.uint16([[0, 1, 2, 4095], [4096, 0x2000, 0xFFFE, 0xFFFF]])
    read = frame(tmp_path, product(codes, data_type=13))
    expected = [[0.4095, 0.8191, (8190 * 2**14 - 1) / 1e4, np.nan], [0, 0, 0.0001, 0.4094]]
    np.testing.assert_allclose(read.values, np.float32(expected), rtol=1e-6)
    assert read.quantity is Quantity.RATE


def test_the_side_panels_of_a_maximum_are_no_rain_on_the_map(tmp_path):
    codes = np.full((5, 6), 100, np.uint8)
    codes[:3, :4] = 64
    read = frame(tmp_path, product(codes, code=16, panel=2))
    np.testing.assert_array_equal(read.values, np.zeros((3, 4)))
    np.testing.assert_allclose(read.grid.outer_bounds, (-1000, -1000, 3000, 2000), atol=1e-3)
    for panel in (-1, 5, 2**31 - 1):
        with pytest.raises(UnreadableFile, match="side panels"):
            frame(tmp_path, product(codes, code=16, panel=panel))


def test_the_grid_counts_its_cells_from_the_radar(tmp_path):
    grid = frame(tmp_path, product(CODES, radar=(1500, 500), scale=(50_000, 200_000))).grid
    np.testing.assert_allclose(grid.outer_bounds, (-750, -1000, 750, 3000), atol=1e-3)
    np.testing.assert_allclose(grid.lonlat_to_xy(25.5, 58.5), (0, 0), atol=0.02)
    moved = frame(tmp_path, product(CODES, centre=(58.0, 25.5))).grid
    assert moved.y0 == pytest.approx(grid.crs.get_geod().inv(25.5, 58.0, 25.5, 58.5)[2] + 500, abs=0.1)
    southern = frame(tmp_path, product(CODES, lat=-12.25, lon=-131.0)).grid
    np.testing.assert_allclose(southern.lonlat_to_xy(-131.0, -12.25), (0, 0), atol=0.02)


@pytest.mark.parametrize(
    ("options", "hour"),
    [
        ({}, 22),
        ({"bits": 0}, 22),
        ({"bits": 0, "west": (-120, -120)}, 20),
        ({"bits": SAVING_BIT, "west": (-120, -120)}, 19),
        ({"bits": 0, "west": (60, 60)}, 23),
        ({"bits": UTC_BIT, "west": (-120, -180)}, 22),
    ],
)
def test_local_times_become_utc(tmp_path, options, hour):
    assert frame(tmp_path, product(CODES, **options)).time == datetime(2016, 7, 3, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        *(({"code": code}, RefusedProduct, words) for code, words in [
            (2, "RHI"), (5, "TOPS"), (7, "RAIN1"), (8, "RAINN"), (10, "VIL"), (15, "RAW"),
            (25, r"a forecast \(FCAST\)"),
            (28, "COMP"), (33, "BASE"), (34, "HMAX"), (99, "number 99"),
        ]),
        *(({"data_type": kind}, RefusedProduct, words) for kind, words in [
            (3, "velocity"), (5, "ZDR"), (32, "height"), (33, "liquid"), (0, "unknown"), (255, "unknown"),
        ]),
        ({"name": b"NOWCAST_10"}, RefusedProduct, "a forecast is not taken"),
        ({"projection": 1}, RefusedProduct, r"azimuthal equidistant projection \(0\)"),
        ({"radius": 0}, RefusedProduct, "radius of 0 m"),
        ({"flattening": 5}, RefusedProduct, "inverse flattening"),
        ({"layers": 2}, UnreadableFile, "got 2 layers"),
        ({"size": (4, 2)}, UnreadableFile, "expected one layer of 2 x 4 cells"),
        ({"size": (0, 2)}, UnreadableFile, "expected positive"),
        ({"size": (90_000, 90_000)}, TooLarge, "90000 x 90000"),
        ({"declared": 700}, UnreadableFile, "700 in all"),
        ({"scale": (0, 100)}, UnreadableFile, "cannot be right"),
        ({"scale": (-5, 100)}, UnreadableFile, "cannot be right"),
        ({"lat": 100.0}, UnreadableFile, "cannot be right"),
        ({"day": (2016, 13, 3)}, UnreadableFile, "is no time"),
        ({"seconds": 86_400}, UnreadableFile, "is no time"),
        ({"bits": 0, "west": (0, -120)}, UnreadableFile, "expected UTC or one zone"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_frame_is_refused_with_its_reason(tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        frame(tmp_path, product(CODES, **options))


def test_damaged_products_end_in_a_frame_or_a_refusal(tmp_path):
    content = product(np.arange(48, dtype=np.uint8).reshape(6, 8))
    ends = outcomes(iris, damaged(content, 600, seed=9), tmp_path / "damaged")
    assert ends["UnreadableFile"] > 50 and ends["frame"] > 50


@pytest.mark.parametrize(("kind", "panel"), [("CAP71P6", 0), ("SRI71PF", 0), ("MAX71NP", 60)])
def test_real_products_agree_with_wradlib(shared_data, kind, panel):
    wradlib = pytest.importorskip("wradlib.io.iris", reason="wradlib is an oracle, not a dependency")
    path = shared_data / f"formats/iris/SUR160703220000.{kind}.gz"
    (read,) = iris.read(Source(path, Limits()), Limits())
    raw = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
    told = wradlib.IrisCartesianProductFile(raw, loaddata=True, origin="upper")
    values = np.asarray(told.data[0][0])[panel:, : read.values.shape[1]]
    assert values.shape == read.values.shape
    seen = np.isfinite(read.values) & (read.values != 0)
    np.testing.assert_allclose(read.values[seen], values[seen], rtol=1e-6, atol=1e-6)
    end = told.product_hdr["product_end"]
    x, y = read.grid.lonlat_to_xy(end["longitude"], end["latitude"])
    np.testing.assert_allclose((x, y), (0, 0), atol=0.01)
    assert read.time == datetime(2016, 7, 3, 22, 0, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["CAP71P6", "SRI71PF"])
def test_real_maps_lie_where_gdal_puts_them(shared_data, tmp_path, kind):
    rasterio = pytest.importorskip("rasterio", reason="the extra 'geo' is not installed")
    path = shared_data / f"formats/iris/SUR160703220000.{kind}.gz"
    (read,) = iris.read(Source(path, Limits()), Limits())
    (tmp_path / "product").write_bytes(gzip.decompress(path.read_bytes()))
    with rasterio.open(tmp_path / "product", driver="IRIS") as dataset:
        values, bounds = dataset.read(1), dataset.bounds
    np.testing.assert_allclose(read.grid.outer_bounds, bounds, atol=0.01)
    seen = np.isfinite(read.values)
    np.testing.assert_array_equal(values[seen], read.values[seen])
    assert set(np.unique(values[np.isnan(read.values)])) == {-9999.0}
    rows, columns = np.indices(values.shape)
    away = np.hypot(rows + 0.5 - len(rows) / 2, columns + 0.5 - len(rows) / 2)
    assert np.isnan(read.values[away > 0.56 * len(rows)]).all(), "nothing is seen beyond the range"
    seen_near = (away > 0.01 * len(rows)) & (away < 0.45 * len(rows))  # not right above the radar
    assert not np.isnan(read.values[seen_near]).any()
