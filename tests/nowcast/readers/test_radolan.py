"""RADOLAN: synthetic composites and archives, real ones against wradlib, damaged bytes."""

from __future__ import annotations

import io
import tarfile
from datetime import UTC, datetime

import numpy as np
import pytest
from hostile import damaged, outcomes

from nowcast.errors import RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity, check_is_frame
from nowcast.readers import radolan, read
from nowcast.readers.source import Limits, Source

NO_DATA = 0x29C4  # the flag 0x2000 and the value 2500


def composite(
    cells=(),
    *,
    product="RY",
    precision="E-02",
    interval="   5",
    grid=(900, 900),
    version=3,
    between="",
    station=10000,
    when=("102050", "0814"),
    size_error=0,
    dtype="<u2",
    fill=0,
):
    """Return a composite whose southern row starts with the cells given."""
    values = np.full(grid, fill, dtype)
    values.ravel()[: len(cells)] = cells
    rows, columns = grid

    def header(size):
        return (
            f"{product}{when[0]}{station}{when[1]}BY{size:7d}VS{version:2d}SW   2.13.1PR {precision}"
            f"INT{interval}GP{rows:4d}x{columns:4d}{between}MS 12<boo,ros,emd>\x03"
        ).encode()

    size = len(header(0)) + values.nbytes
    return header(size + size_error) + values.tobytes()


def frames(tmp_path, content, name="raa01-ry_10000-1408102050-dwd---bin", limits=None):
    path = tmp_path / name
    path.write_bytes(content)
    limits = limits or Limits()
    source = Source(path, limits)
    assert radolan.recognises(source)
    return list(radolan.read(source, limits))


def test_a_sum_keeps_no_data_no_rain_and_rain_apart_and_runs_north_to_south(tmp_path):
    words = [0, 1, 250, 250 | 0x1000, NO_DATA, 2490 | 0x8000, 30 | 0x8000, 7 | 0x4000]
    (raw,) = frames(tmp_path, composite(words))
    # secondary and filled clutter are measurements; no data, empty clutter and a negative sum are not
    expected = np.float32([0, 0.01, 2.5, 2.5, np.nan, np.nan, 0.3, np.nan])
    np.testing.assert_allclose(raw.values[-1, :8], expected, rtol=1e-6)
    assert (raw.quantity, raw.interval_minutes) == (Quantity.ACRR, 5.0)
    assert raw.time == datetime(2014, 8, 10, 20, 50, tzinfo=UTC)
    assert (raw.source, raw.attributes) == ("DWD RADOLAN RY", {"radars": "boo,ros,emd"})
    assert not raw.values[:-1].any()


def test_a_reflectivity_of_one_byte_keeps_clutter_and_no_data_from_no_echo(tmp_path):
    content = composite(
        [0, 1, 65, 145, 248, 249, 250, 255], product="RX", precision="E+00", dtype=np.uint8, fill=250
    )
    (raw,) = frames(tmp_path, content)
    expected = np.float32([-np.inf, -32, 0, 40, 91.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(raw.values[-1, :8], expected)
    assert (raw.quantity, raw.interval_minutes) == (Quantity.DBZH, 5.0)
    assert np.isnan(raw.values[0]).all()


def test_a_reflectivity_of_two_bytes_takes_its_precision_from_the_header(tmp_path):
    words = [0, 1450, NO_DATA, 2490 | 0x8000]
    content = composite(
        words, product="WN", precision="E-01", grid=(1200, 1100), version=5, between="VV 000MF 00000008"
    )
    (raw,) = frames(tmp_path, content)
    np.testing.assert_allclose(raw.values[-1, :4], np.float32([-np.inf, 40.0, np.nan, np.nan]))
    assert raw.quantity is Quantity.DBZH


@pytest.mark.parametrize(
    ("product", "interval", "minutes"), [("RW", "  60", 60), ("SF", "1440", 1440), ("W1", "   7U1", 10080)]
)
def test_long_sums_are_read_with_their_interval_and_are_no_frames(tmp_path, product, interval, minutes):
    (raw,) = frames(tmp_path, composite(product=product, precision="E-01", interval=interval))
    assert raw.interval_minutes == minutes
    with pytest.raises(RefusedProduct, match=f"{product}: a sum over {minutes} minutes"):
        check_is_frame(raw)


def test_an_analysis_is_a_frame_and_its_forecasts_are_not(tmp_path):
    assert len(frames(tmp_path, composite(product="RQ", version=5, between="VV   0MF 00000008QN 000"))) == 1
    with pytest.raises(RefusedProduct, match="RQ 60 minutes ahead is a forecast, not an observation"):
        frames(tmp_path, composite(product="RQ", version=5, between="VV  60MF 00000008QN 000"))
    with pytest.raises(UnreadableFile, match="must tell its lead time"):
        frames(tmp_path, composite(product="RV", version=5))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"product": "RE"}, RefusedProduct, "aggregate state"),
        ({"product": "XY"}, RefusedProduct, "XY is not a product"),
        ({"station": 10132}, RefusedProduct, "station 10132"),
        ({"size_error": 1}, UnreadableFile, "1620086 are declared and 1620085 are there"),
        ({"dtype": np.uint8}, UnreadableFile, "take 1620085 bytes, 810085"),
        ({"grid": (460, 460)}, UnreadableFile, "one of DWD's grids"),
        ({"grid": (0, 900)}, UnreadableFile, "expected positive"),
        ({"precision": "E-09"}, UnreadableFile, "precision of 1e-09"),
        ({"precision": "????"}, UnreadableFile, "header of RADOLAN RY"),
        ({"interval": "5  5"}, UnreadableFile, "number in the header"),
        ({"between": "VW 060"}, UnreadableFile, "header of RADOLAN RY"),
        ({"when": ("322050", "0814")}, UnreadableFile, "expected a time"),
    ],
)
def test_what_cannot_be_a_frame_is_refused_with_its_reason(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        frames(tmp_path, composite(**changes))


def test_a_declared_size_is_refused_before_memory_is_taken(tmp_path):
    with pytest.raises(TooLarge, match="900 x 900"):
        frames(tmp_path, composite(), limits=Limits(max_cells=800_000))


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("grid", [(900, 900), (1100, 900), (1200, 1100), (1500, 1400)])
def test_corners_agree_with_wradlib(tmp_path, grid, version):
    georef = pytest.importorskip("wradlib.georef", reason="wradlib is an oracle, not a dependency")
    (raw,) = frames(
        tmp_path,
        composite(
            product="EX" if grid[0] == 1500 else "RY",
            grid=grid,
            version=version,
            dtype=np.uint8 if grid[0] == 1500 else "<u2",
        ),
    )
    crs = georef.create_crs("dwd-radolan-wgs84" if version == 5 else "dwd-radolan-sphere")
    corners = georef.get_radolan_grid(*grid, mode="edge", crs=crs)
    x_min, y_min, x_max, y_max = raw.grid.outer_bounds
    np.testing.assert_allclose(corners[0, 0], (x_min, y_min), atol=1.0)
    np.testing.assert_allclose(corners[-1, -1], (x_max, y_max), atol=1.0)
    lonlat = georef.reproject(corners[[0, -1], [0, -1]], src_crs=crs, trg_crs=georef.get_default_projection())
    ours = raw.grid.xy_to_lonlat(np.array([x_min, x_max]), np.array([y_min, y_max]))
    np.testing.assert_allclose(ours, lonlat.T, atol=1e-4)


def forecast(lead, word):
    return composite([word], product="RV", grid=(1200, 1100), version=5, between=f"VV {lead:03d}MF 00000008")


@pytest.mark.parametrize("lead", range(5, 125, 5))
def test_every_member_of_a_run_but_its_analysis_is_a_forecast(tmp_path, lead):
    with pytest.raises(RefusedProduct, match=f"RV {lead} minutes ahead is a forecast"):
        frames(tmp_path, forecast(lead, 100))


def test_of_a_forecast_run_only_the_analysis_is_read_wherever_it_stands(tmp_path):
    for leads in ((0, 5, 10), (10, 5, 0)):
        path = tmp_path / "DE1200_RV2210180700.tar.bz2"
        with tarfile.open(path, "w:bz2", compresslevel=1) as archive:
            for lead in leads:
                content = forecast(lead, 100 + lead)
                info = tarfile.TarInfo(f"DE1200_RV2210180700_{lead:03d}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        (raw,) = read(path)
        assert (raw.values[-1, 0], raw.source) == (np.float32(1.0), "DWD RADOLAN RV")
        assert raw.attributes["member"] == "DE1200_RV2210180700_000"
        assert (
            "minutes ahead is a forecast, not an observation (and 1 more of 3" in raw.attributes["left_out"]
        )


def test_damaged_composites_end_in_a_frame_or_a_refusal(tmp_path):
    one_byte = composite([100], product="RX", precision="E+00", dtype=np.uint8)
    ends = outcomes(radolan, damaged(one_byte, 300, seed=4, head=140), tmp_path / "rx")
    assert ends["UnreadableFile"] > 50 and ends["frame"] > 20


REAL = [
    "formats/radolan/raa01-rx_10000-0902120000-dwd---bin",
    "formats/radolan/raa01-rx_10000-1408102050-dwd---bin.gz",
    "formats/radolan/raa01-wx_10000-1408102050-dwd---bin.gz",
    "formats/radolan/raa01-ex_10000-1408102050-dwd---bin.gz",
    "formats/radolan/raa01-ry_10000-1408102050-dwd---bin.gz",
    "formats/radolan/raa01-rz_10000-1408102050-dwd---bin.gz",
    "formats/radolan/raa01-rw_10000-1408102050-dwd---bin.gz",
    "formats/radolan/raa01-sf_10000-1408102050-dwd---bin.gz",
    "formats/radolan/radvor/RQ2210180700_000.gz",
    "formats/dwd_radolan_ry_20200101/raa01-ry_10000-2001011500-dwd---bin.gz",
    "train/dwd_radolan_yw_20170816/raa01-yw2017.002_10000-1708160135-dwd---bin.gz",
]


@pytest.mark.parametrize("name", REAL)
def test_real_composites_agree_with_wradlib(shared_data, name):
    wradlib_io = pytest.importorskip("wradlib.io", reason="wradlib is an oracle, not a dependency")
    (raw,) = radolan.read(Source(shared_data / name, Limits()), Limits())
    values, attributes = wradlib_io.read_radolan_composite(str(shared_data / name))
    values = values[::-1]  # wradlib keeps the rows from the south
    missing = values == -9999
    if raw.quantity is Quantity.DBZH:
        no_echo = ~missing & (values == 0)
        values = values / 2 - 32.5
        np.testing.assert_array_equal(np.isneginf(raw.values), no_echo)
    np.testing.assert_array_equal(np.isnan(raw.values), missing)
    measured = np.isfinite(raw.values)
    assert np.abs(raw.values[measured] - values[measured]).max() < 1e-5
    assert raw.time == attributes["datetime"].replace(tzinfo=UTC)
    assert raw.interval_minutes == attributes["intervalseconds"] / 60


def test_the_real_forecast_run_agrees_with_wradlib(shared_data):
    wradlib_io = pytest.importorskip("wradlib.io", reason="wradlib is an oracle, not a dependency")
    path = shared_data / "formats/radolan/radvor/DE1200_RV2210180700.tar.bz2"
    (ours,) = read(path)
    with tarfile.open(path, "r|bz2") as archive:
        member = archive.extractfile(archive.next())
        values, attributes = wradlib_io.read_radolan_composite(io.BytesIO(member.read()))
    assert attributes["predictiontime"] == 0
    values = np.where(values == -9999, np.nan, values)[::-1]
    np.testing.assert_allclose(ours.values, values, atol=1e-5)


def test_real_forecasts_and_hail_are_refused(shared_data):
    folder = shared_data / "formats/radolan/radvor"
    for name, words in (("RQ2210180700_060.gz", "forecast"), ("RE2210180700_000.gz", "aggregate state")):
        with pytest.raises(RefusedProduct, match=words):
            list(radolan.read(Source(folder / name, Limits()), Limits()))
