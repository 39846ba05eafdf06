from __future__ import annotations

from datetime import UTC, datetime

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nowcast.errors import StorageError
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers import read
from nowcast.simulation.odim_writer import write_odim

TIME = datetime(2026, 11, 21, 7, 10, tzinfo=UTC)
GRIDS = {
    "laea": Grid.from_crs(
        "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84",
        nx=4, ny=3, x0=1_000_500.0, y0=-900_500.0, dx=1000.0, dy=2000.0,
    ),
    "stereographic": Grid.from_crs(
        "+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +a=6371288 +b=6371288",
        nx=4, ny=3, x0=-117_302.0, y0=-2_000_000.0, dx=999.7, dy=999.7,
    ),
    "latlon": Grid.from_crs("EPSG:4326", nx=4, ny=3, x0=5.05, y0=52.95, dx=0.1, dy=0.1),
}  # fmt: skip


def raw_frame(values, quantity=Quantity.DBZH, grid=GRIDS["laea"], interval_minutes=5.0) -> RawFrame:
    return RawFrame(np.asarray(values, np.float32), quantity, TIME, grid, interval_minutes, "simulated radar")


STATES = [[np.nan, -np.inf, -31.5, 0.0], [0.5, 17.0, 59.5, 95.0], [-np.inf, np.nan, 30.0, 44.5]]


@pytest.mark.parametrize("name", GRIDS)
def test_our_reader_gives_back_values_states_time_and_grid(tmp_path, name):
    raw = raw_frame(STATES, grid=GRIDS[name])
    write_odim(tmp_path / "frame.h5", raw)
    (again,) = read(tmp_path / "frame.h5")
    np.testing.assert_array_equal(again.values, raw.values)
    assert again.grid.matches(raw.grid, tolerance_cells=1e-4)
    assert (again.time, again.quantity, again.source) == (TIME, Quantity.DBZH, "simulated radar")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    hnp.arrays(
        np.float32, (3, 4), elements=st.floats(-40, 100, width=32) | st.sampled_from([np.nan, -np.inf])
    )
)
def test_any_reflectivity_comes_back_to_a_hundredth_of_a_decibel(tmp_path, values):
    write_odim(tmp_path / "frame.h5", raw_frame(values))
    (again,) = read(tmp_path / "frame.h5")
    np.testing.assert_array_equal(np.isnan(again.values), np.isnan(values))
    np.testing.assert_array_equal(np.isneginf(again.values), np.isneginf(values))
    measured = np.isfinite(values)
    np.testing.assert_allclose(again.values[measured], values[measured], atol=0.005001)


def test_half_decibels_take_one_byte_and_finer_values_two(tmp_path):
    write_odim(tmp_path / "coarse.h5", raw_frame(STATES))
    write_odim(tmp_path / "fine.h5", raw_frame(np.full((3, 4), 17.13)))
    for name, kind in (("coarse.h5", np.uint8), ("fine.h5", np.uint16)):
        with h5py.File(tmp_path / name) as file:
            assert file["dataset1/data1/data"].dtype == kind


def test_a_rain_rate_keeps_its_states_and_its_smallest_values(tmp_path):
    rate = np.array([[np.nan, 0.0, 0.001, 0.01], [1.25, 80.0, 600.0, 5.0], [0, 0, 0, 0.02]], dtype=np.float32)
    write_odim(tmp_path / "rate.h5", raw_frame(rate, Quantity.RATE))
    (again,) = read(tmp_path / "rate.h5")
    np.testing.assert_array_equal(again.values == 0, rate == 0)  # 0.001 mm/h is rounded up, not away
    np.testing.assert_array_equal(np.isnan(again.values), np.isnan(rate))
    np.testing.assert_allclose(again.values[rate > 0.005], rate[rate > 0.005], atol=0.00501)


def test_an_accumulation_keeps_its_interval(tmp_path):
    write_odim(tmp_path / "sum.h5", raw_frame(np.ones((3, 4)), Quantity.ACRR, interval_minutes=10.0))
    (again,) = read(tmp_path / "sum.h5")
    assert (again.interval_minutes, again.time) == (10.0, TIME)


def test_the_file_has_what_the_standard_makes_mandatory(tmp_path):
    write_odim(tmp_path / "frame.h5", raw_frame(STATES))
    with h5py.File(tmp_path / "frame.h5") as file:
        # ODIM_H5 2.4, sections 3.3 (image data), 4.1 (what) and 4.2 (where).
        assert file.attrs["Conventions"] == b"ODIM_H5/V2_4"
        what = file["what"].attrs
        assert (what["object"], what["version"]) == (b"COMP", b"H5rad 2.4")
        assert (what["date"], what["time"]) == (b"20261121", b"071000")
        assert what["source"] == b"CMT:simulated radar"
        where = file["where"].attrs
        assert (where["xsize"], where["ysize"], where["xscale"], where["yscale"]) == (4, 3, 1000.0, 2000.0)
        assert where["projdef"].startswith(b"+proj=laea ")
        assert {"LL_lon", "LL_lat", "UL_lon", "UL_lat", "UR_lon", "UR_lat", "LR_lon", "LR_lat"} <= set(where)
        dataset = file["dataset1/what"].attrs
        assert dataset["product"] == b"COMP"
        assert (dataset["startdate"], dataset["starttime"]) == (b"20261121", b"070500")
        assert (dataset["enddate"], dataset["endtime"]) == (b"20261121", b"071000")
        data = file["dataset1/data1/what"].attrs
        assert data["quantity"] == b"DBZH"
        assert [data[name] for name in ("gain", "offset", "nodata", "undetect")] == [0.5, -32.0, 255.0, 0.0]
        image = file["dataset1/data1/data"].attrs
        assert (image["CLASS"], image["IMAGE_VERSION"]) == (b"IMAGE", b"1.2")

        # Section 3: strings are fixed-length and null-terminated, whole numbers long, real ones double.
        for holder, name in ((file, "Conventions"), (file["what"], "source"), (file["where"], "projdef")):
            kind = holder.attrs.get_id(name).get_type()
            assert not kind.is_variable_str()
            assert kind.get_strpad() == h5py.h5t.STR_NULLTERM
        assert where["xsize"].dtype == np.int64
        assert where["UL_lon"].dtype == data["nodata"].dtype == np.float64


def test_corners_are_the_outer_corners_of_the_grid(tmp_path):
    grid = GRIDS["laea"]
    write_odim(tmp_path / "frame.h5", raw_frame(STATES))
    with h5py.File(tmp_path / "frame.h5") as file:
        where = dict(file["where"].attrs)
    x, y = grid.lonlat_to_xy(where["UL_lon"], where["UL_lat"])
    assert (x, y) == pytest.approx((1_000_000.0, -899_500.0), abs=0.01)
    x, y = grid.lonlat_to_xy(where["LR_lon"], where["LR_lat"])
    assert (x, y) == pytest.approx((1_004_000.0, -905_500.0), abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_wradlib_reads_the_same_codes(tmp_path):
    wradlib_io = pytest.importorskip("wradlib.io", reason="wradlib is an oracle, not a dependency")
    write_odim(tmp_path / "frame.h5", raw_frame(STATES))
    content = wradlib_io.read_opera_hdf5(str(tmp_path / "frame.h5"))
    what, codes = content["dataset1/data1/what"], content["dataset1/data1/data"]
    values = codes * what["gain"] + what["offset"]
    values[codes == what["undetect"]] = -np.inf
    values[codes == what["nodata"]] = np.nan
    np.testing.assert_array_equal(values, np.array(STATES))


@pytest.mark.filterwarnings("ignore")
def test_pysteps_reads_the_same_values_on_the_same_grid(tmp_path):
    importers = pytest.importorskip("pysteps.io.importers", reason="pysteps is an oracle, not a dependency")
    write_odim(tmp_path / "frame.h5", raw_frame(STATES))
    values, _, metadata = importers.import_odim_hdf5(str(tmp_path / "frame.h5"), qty="DBZH")
    echo = np.isfinite(STATES)
    np.testing.assert_array_equal(values[echo], np.array(STATES)[echo])
    np.testing.assert_array_equal(np.isnan(values), np.isnan(STATES))
    assert (metadata["x1"], metadata["y2"]) == pytest.approx((1_000_000.0, -899_500.0), abs=0.1)


def test_the_same_frame_gives_the_same_bytes(tmp_path):
    for name in ("one.h5", "two.h5"):
        write_odim(tmp_path / name, raw_frame(STATES))
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_a_refused_write_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(StorageError):
        write_odim(tmp_path / "file" / "frame.h5", raw_frame(STATES))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_source_with_separators_cannot_break_the_attribute(tmp_path):
    raw = RawFrame(np.zeros((3, 4), np.float32), Quantity.DBZH, TIME, GRIDS["laea"], None, "Météo, NOD:frabb")
    write_odim(tmp_path / "frame.h5", raw)
    with h5py.File(tmp_path / "frame.h5") as file:
        assert file["what"].attrs["source"] == b"CMT:M?t?o  NOD frabb"
