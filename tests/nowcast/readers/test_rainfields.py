"""Rainfields 3: synthetic files, a real one against pysteps and its own bounds, damaged bytes."""

from __future__ import annotations

from datetime import UTC, datetime

import h5py
import numpy as np
import pytest
import xarray as xr
from hostile import damaged, outcomes

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import rainfields, read

REAL = "train/bom_rf3/66_brisbane_c10_20201031/66_20201031_051000.prcp-c10.nc"
SECONDS = {"units": "seconds since 1970-01-01 00:00:00 UTC"}
ALBERS = {
    "grid_mapping_name": "albers_conical_equal_area",
    "standard_parallel": [-26.2, -29.3],
    "longitude_of_central_meridian": 153.24,
    "latitude_of_projection_origin": -27.7178,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "semi_major_axis": 6378137.0,
    "semi_minor_axis": 6356752.31414,
}


@pytest.fixture
def accumulation(tmp_path):
    """Return a function that writes a Rainfields file of 2 x 3 cells."""

    def write(
        *, units="kg m-2", start=1_604_120_400, end=1_604_121_000, source="rainfields 3.2.2", packed=None
    ):
        packed = np.array([[-1, 0, 1], [20, 100, 303]], np.int16) if packed is None else packed
        rows, columns = packed.shape[-2:]
        dims = ("level", "y", "x")[-packed.ndim :]
        path = tmp_path / "accumulation.nc"
        about = {"scale_factor": 0.05, "add_offset": 0.0, "units": units, "grid_mapping": "proj"}
        xr.Dataset(
            {
                "precipitation": (dims, packed, {**about, "_FillValue": np.int16(-1)}),
                "proj": ((), np.int8(0), ALBERS),
                "start_time": ((), np.int64(start), SECONDS),
                "valid_time": ((), np.int64(end), {**SECONDS, "standard_name": "time"}),
            },
            {
                "x": (
                    "x",
                    np.arange(columns) * 0.5 - 1,
                    {"units": "km", "standard_name": "projection_x_coordinate"},
                ),
                "y": (
                    "y",
                    1 - np.arange(rows) * 0.5,
                    {"units": "km", "standard_name": "projection_y_coordinate"},
                ),
            },
            {"source": source, "station_name": "MtStapl"},
        ).to_netcdf(path, engine="h5netcdf")
        return path

    return write


def frame(path):
    (found,) = read(path)
    return found


def test_an_accumulation_ends_at_its_valid_time(accumulation):
    raw = frame(accumulation())
    assert (raw.quantity, raw.interval_minutes) == (Quantity.ACRR, 10)
    assert raw.time == datetime(2020, 10, 31, 5, 10, tzinfo=UTC)
    np.testing.assert_allclose(raw.values, [[np.nan, 0, 0.05], [1, 5, 15.15]], rtol=1e-6)


def test_kilometres_become_metres_of_the_projection(accumulation):
    grid = frame(accumulation()).grid
    np.testing.assert_allclose(grid.outer_bounds, (-1250, 250, 250, 1250))


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"units": "mm/h"}, "expected precipitation in kg m-2 or mm, got 'mm/h'"),
        ({"packed": np.zeros((2, 2, 3), np.int16)}, "expected one field"),
    ],
    ids=str,
)
def test_what_is_no_single_amount_is_refused(accumulation, change, because):
    with pytest.raises(RefusedProduct, match=because):
        frame(accumulation(**change))


def test_an_interval_that_runs_backwards_is_unreadable(accumulation):
    with pytest.raises(UnreadableFile, match="starts 10 minutes after its end"):
        frame(accumulation(start=1_604_121_600))


def test_files_of_other_makers_are_left_to_others(accumulation):
    with pytest.raises(RefusedProduct, match="the interval of 'precipitation' stays open"):
        frame(accumulation(source="somebody else"))


def test_damaged_accumulations_raise_nothing_but_input_errors(accumulation, tmp_path):
    content = accumulation(packed=np.arange(600, dtype=np.int16).reshape(20, 30)).read_bytes()
    ends = outcomes(rainfields, damaged(content, 300, seed=1, head=8000), tmp_path / "damaged.nc")
    assert ends["UnreadableFile"] > 50
    assert ends["frame"] > 30


@pytest.mark.slow
def test_damaged_real_accumulations_raise_nothing_but_input_errors(shared_data, tmp_path):
    content = (shared_data / REAL).read_bytes()
    ends = outcomes(rainfields, damaged(content, 3000, seed=2, head=14_000), tmp_path / "damaged.nc")
    assert ends["UnreadableFile"] > 500


def test_real_accumulation_agrees_with_pysteps(shared_data):
    importers = pytest.importorskip("pysteps.io.importers", reason="pysteps is an optional oracle")
    theirs, _, metadata = importers.import_bom_rf3(str(shared_data / REAL))
    ours = frame(shared_data / REAL)
    assert metadata["accutime"] == ours.interval_minutes
    np.testing.assert_allclose(ours.values, np.ma.filled(theirs, np.nan), rtol=1e-6, equal_nan=True)
    # pysteps takes the outermost centres for the outer edges, half a pixel inside those of the next test.
    west, south, east, north = (metadata[name] for name in ("x1", "y1", "x2", "y2"))
    np.testing.assert_allclose(ours.grid.outer_bounds, (west - 250, south - 250, east + 250, north + 250))


def test_outer_edges_are_the_bounds_of_the_file(shared_data):
    grid = frame(shared_data / REAL).grid
    with h5py.File(shared_data / REAL) as file:
        x, y = file["x_bounds"][()] * 1000, file["y_bounds"][()] * 1000
    np.testing.assert_allclose(grid.outer_bounds, (x.min(), y.min(), x.max(), y.max()))
