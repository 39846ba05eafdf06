"""NIMROD: synthetic fields, a real one against its known-good netCDF twin, damaged bytes."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import numpy as np
import pytest
import xarray as xr
from hostile import damaged, outcomes

from nowcast.errors import RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import nimrod
from nowcast.readers.source import Limits, Source


def field(
    values,
    *,
    dtype=">i2",
    kind=None,
    size=None,
    code=213,
    unit=b"mm/h*32",
    valid=(2018, 8, 3, 22, 45, 0),
    issued=(2018, 8, 3, 22, 45),
    grid_type=0,
    origin=0,
    corner=(1_223_000.0, -239_000.0),
    spacing=2000.0,
):
    """Return a file as the Met Office writes it, its first cell centred on 238 km west and 1222 km north."""
    values = np.asarray(values).astype(dtype)
    rows, columns = size or values.shape
    kind = kind or ({"f": 0, "i": 1, "u": 2}[values.dtype.kind], values.dtype.itemsize)
    integers = [
        *valid,
        *issued,
        *kind,
        -32767,
        grid_type,
        rows,
        columns,
        2,
        code,
        5,
        -32767,
        0,
        11,
        origin,
        -1,
    ]
    integers += [-32767] * (31 - len(integers))
    reals = [9999.0, -32767.0, 1_222_000.0, spacing, -238_000.0, spacing, -1.0, 0.0, 0.0] + [-32767.0] * 19
    specific = [*corner, *[-32767.0] * 43]
    header = struct.pack(
        ">i31h28f45f8s24s24s51hi",
        512,
        *integers,
        *reals,
        *specific,
        unit,
        b"Plr single site radars",
        b"Rainfall rate Composite",
        *[0] * 51,
        512,
    )
    return header + struct.pack(">i", values.nbytes) + values.tobytes() + struct.pack(">i", values.nbytes)


def frame(tmp_path, content, limits=None):
    path = tmp_path / "rain.nimrod"
    path.write_bytes(content)
    limits = limits or Limits()
    source = Source(path, limits)
    assert nimrod.recognises(source)
    (only,) = nimrod.read(source, limits)
    return only


def test_integers_become_mm_per_hour_with_missing_kept_from_no_rain(tmp_path):
    read = frame(tmp_path, field([[-1, 0, 1], [32, 3200, -5]]))
    expected = np.float32([[np.nan, 0, 0.03125], [1, 100, np.nan]])
    np.testing.assert_array_equal(read.values, expected)
    assert read.quantity is Quantity.RATE
    assert read.time == datetime(2018, 8, 3, 22, 45, tzinfo=UTC)
    assert read.source == "Met Office Rainfall rate Composite"


def test_reals_and_bytes_are_read_too(tmp_path):
    reals = frame(tmp_path, field([[-1.0, 0.0], [2.5, np.nan], [7.0, np.inf]], dtype=">f4", unit=b"mm/hr"))
    np.testing.assert_array_equal(reals.values, np.float32([[np.nan, 0], [2.5, np.nan], [7, np.nan]]))
    octets = frame(tmp_path, field([[0, 32], [64, 255]], dtype=">u1"))
    np.testing.assert_array_equal(octets.values, np.float32([[0, 1], [2, 255 / 32]]))


def test_the_grid_is_the_british_one_from_cell_centres(tmp_path):
    grid = frame(tmp_path, field(np.zeros((3, 4)))).grid
    assert grid.crs.to_epsg() == 27700
    assert grid.outer_bounds == (-239_000, 1_217_000, -231_000, 1_223_000)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"code": 450}, RefusedProduct, "field code 450"),
        ({"unit": b"K"}, RefusedProduct, "'K'"),
        ({"valid": (2018, 8, 3, 23, 0, 0)}, RefusedProduct, "forecast for 23:00 made at 22:45"),
        ({"grid_type": 1}, RefusedProduct, "grid type 1"),
        ({"origin": 2}, RefusedProduct, "origin 2"),
        ({"valid": (2018, 13, 3, 22, 45, 0)}, UnreadableFile, "no time"),
        ({"corner": (1_222_000.0, -238_000.0)}, UnreadableFile, "does not touch"),
        ({"spacing": -2000.0, "corner": (-32767.0, -32767.0)}, UnreadableFile, "positive finite spacing"),
        ({"kind": (1, 8)}, UnreadableFile, "type 1 in 8 bytes"),
        ({"size": (3, 2)}, UnreadableFile, "3 x 2 values in one record of 12 bytes"),
        ({"size": (-2, -2)}, UnreadableFile, "expected positive"),
        ({"size": (32000, 32000)}, TooLarge, "32000 x 32000"),
    ],
)
def test_what_cannot_be_a_frame_is_refused_with_its_reason(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        frame(tmp_path, field([[0, 1], [2, 3]], **changes))


def test_a_file_that_is_cut_off_is_unreadable(tmp_path):
    content = field([[0, 1], [2, 3]])
    for length in (20, 523, len(content) - 1):
        with pytest.raises(UnreadableFile):
            frame(tmp_path, content[:length])


def test_a_missing_corner_is_not_checked(tmp_path):
    assert frame(tmp_path, field([[0, 1], [2, 3]], corner=(-32767.0, -32767.0))).grid.x0 == -238_000


def test_damaged_fields_end_in_a_frame_or_a_refusal(tmp_path):
    content = field(np.arange(80).reshape(8, 10))
    ends = outcomes(nimrod, damaged(content, 600, seed=6), tmp_path / "damaged.nimrod")
    assert ends["UnreadableFile"] > 100 and ends["frame"] > 30


def test_the_real_rain_rate_agrees_with_its_known_good_twin(shared_data):
    folder = shared_data / "formats/nimrod"
    (read,) = nimrod.read(Source(folder / "input_preciprate.nimrod", Limits()), Limits())
    with xr.open_dataset(folder / "kgo_preciprate.nc", engine="h5netcdf") as good:
        y, x = good["projection_y_coordinate"].values, good["projection_x_coordinate"].values
        values = good["rainfall_rate_composite"].values[::-1]  # the twin runs from south to north
        # The twin writes what is missing as netCDF's default fill value and declares none.
        values = np.where(values > 1e30, np.nan, values)
        np.testing.assert_array_equal(read.values, values)
        np.testing.assert_array_equal(read.grid.y, y[::-1])
        np.testing.assert_array_equal(read.grid.x, x)
        assert good["time"].values == np.datetime64(read.time.replace(tzinfo=None))


def test_what_is_missing_in_the_real_rain_rate_is_where_no_radar_looks(shared_data):
    folder = shared_data / "formats/nimrod"
    (read,) = nimrod.read(Source(folder / "input_preciprate.nimrod", Limits()), Limits())
    with xr.open_dataset(folder / "kgo_coverage.nc", engine="h5netcdf", mask_and_scale=False) as good:
        covered = good["arc_composite"].values[::-1] > 0
    np.testing.assert_array_equal(np.isfinite(read.values), covered)


def test_the_real_coverage_is_no_precipitation(shared_data):
    with pytest.raises(RefusedProduct, match="'ARC Composite'"):
        list(nimrod.read(Source(shared_data / "formats/nimrod/input_coverage.nimrod", Limits()), Limits()))
