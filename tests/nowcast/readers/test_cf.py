"""CF netCDF: synthetic files in both containers, real ones against xarray and wradlib, hostile files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import h5py
import numpy as np
import pytest
import xarray as xr
from hostile import damaged, outcomes
from pyproj import Transformer

from nowcast.errors import RefusedProduct, TooLarge, UnknownFormat, UnreadableFile
from nowcast.frame.frame import Quantity, frame_array
from nowcast.frame.grid import Grid
from nowcast.readers import Limits, cf, read

CPOL = "train/cpol_darwin_20061116/CPOL_radar.nc"
RADOLAN = "val/dwd_radolan_ry_nc_20210823/radolan_ry_data_compressed.nc"
OPENRAINER = "train/openrainer_20220917/openrainer_RAD.nc"
NIMROD = "formats/nimrod/kgo_preciprate.nc"

STEREOGRAPHIC = {
    "grid_mapping_name": "polar_stereographic",
    "straight_vertical_longitude_from_pole": 10.0,
    "latitude_of_projection_origin": 90.0,
    "standard_parallel": 60.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "semi_major_axis": 6378137.0,
    "inverse_flattening": 298.257223563,
}
EPOCH = "minutes since 2026-11-21 07:00:00"
RAIN = {"units": "mm h-1", "standard_name": "rainfall_rate", "grid_mapping": "crs"}
AMOUNT = {"units": "kg m-2", "standard_name": "precipitation_amount", "grid_mapping": "crs"}
FIELDS = np.arange(18, dtype=np.float32).reshape(3, 2, 3)


def dataset(fields=FIELDS, attributes=RAIN, *, times=(0, 5, 10), dims=("time", "y", "x"), name="rain"):
    """Return three fields of 2 x 3 cells of 1 km, south first, in a polar stereographic plane."""
    rows, columns = fields.shape[-2:]
    x = {"standard_name": "projection_x_coordinate", "units": "km"}
    y = {"standard_name": "projection_y_coordinate", "units": "km"}
    found = xr.Dataset(
        {name: (dims, fields, attributes), "crs": ((), np.int32(0), STEREOGRAPHIC)},
        {"x": ("x", np.arange(columns) + 0.5, x), "y": ("y", np.arange(rows) - 3000.5, y)},
    )
    if times is not None:
        found["time"] = ("time", np.asarray(times, np.float64), {"units": EPOCH, "standard_name": "time"})
    return found


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a dataset, as netCDF-4 unless told otherwise, and returns its path."""

    def save(file, form="NETCDF4", **encoding):
        path = tmp_path / "file.nc"
        encoding = {name: {"_FillValue": None, **encoding.get(name, {})} for name in file.variables}
        engine = "h5netcdf" if form == "NETCDF4" else "netcdf4"
        file.to_netcdf(
            path, engine=engine, encoding=encoding, **({} if form == "NETCDF4" else {"format": form})
        )
        return path

    return save


def frame(path):
    (found,) = read(path)
    return found


# Values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("unlimited", [True, False])
def test_fields_come_in_the_order_of_time_with_rows_from_the_north(saved, form, unlimited):
    file = dataset(times=(10, 0, 5))
    file.encoding["unlimited_dims"] = {"time"} if unlimited else set()
    frames = list(read(saved(file, form)))
    start = datetime(2026, 11, 21, 7, tzinfo=UTC)
    assert [raw.time for raw in frames] == [start + timedelta(minutes=minute) for minute in (0, 5, 10)]
    for raw, i in zip(frames, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(raw.values, FIELDS[i, ::-1])
        assert (raw.quantity, raw.interval_minutes, raw.source) == (Quantity.RATE, 5, "netCDF rain")
        np.testing.assert_allclose(raw.grid.outer_bounds, (0, -3_001_000, 3000, -2_999_000))


@pytest.mark.parametrize(
    ("units", "quantity", "factor"),
    [
        ("mm/h", "RATE", 1),
        ("mm hr-1", "RATE", 1),
        ("kg m-2 s-1", "RATE", 3600),
        ("m s-1", "RATE", 3.6e6),
        ("mm", "ACRR", 1),
        ("kg m-2", "ACRR", 1),
        ("m", "ACRR", 1000),
        ("dBZ", "DBZH", 1),
    ],
)
def test_units_decide_the_quantity(saved, units, quantity, factor):
    fields = FIELDS / np.float32(factor)
    raw = next(read(saved(dataset(fields, {**RAIN, "units": units}))))
    assert raw.quantity == quantity
    np.testing.assert_allclose(raw.values, FIELDS[0, ::-1], rtol=1e-5)


def test_packed_numbers_are_scaled_and_fill_values_not_observed(saved):
    packed = np.array([[-32768, 0, 10], [250, -1, -2]], np.int16)
    attributes = {**RAIN, "scale_factor": 0.1, "add_offset": 1.0, "missing_value": np.int16(-1)}
    path = saved(dataset(packed[np.newaxis], attributes, times=(0,)), rain={"_FillValue": np.int16(-32768)})
    np.testing.assert_allclose(frame(path).values, [[26, np.nan, 0.8], [np.nan, 1, 2]], rtol=1e-6)


def test_bytes_marked_unsigned_count_to_255(saved):
    packed = np.array([[0, 1, 100], [-56, -2, -1]], np.int8)
    file = dataset(packed[np.newaxis], {**RAIN, "_Unsigned": "true"}, times=(0,))
    raw = frame(saved(file, rain={"_FillValue": np.int8(-1)}))
    np.testing.assert_array_equal(raw.values, [[200, 254, np.nan], [0, 1, 100]])


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_cells_never_written_are_not_observed(saved, form):
    fields = FIELDS[:1].copy()
    fields[0, 0, 0] = np.float32(9.969209968386869e36)  # netCDF's default for what was never written
    raw = frame(saved(dataset(fields, times=(0,)), form))
    np.testing.assert_array_equal(raw.values, [[3, 4, 5], [np.nan, 1, 2]])


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"])
def test_records_of_classic_files_are_padded_unless_alone(saved, form):
    small = np.arange(18, dtype=np.int8).reshape(3, 2, 3)  # 6 bytes a record, padded to 8
    file = dataset(small)
    file.encoding["unlimited_dims"] = {"time"}
    np.testing.assert_array_equal([raw.values for raw in read(saved(file, form))], small[:, ::-1])
    alone = file.assign_coords(time=[0, 1, 2]).drop_vars("time")
    alone["start"] = ((), 0.0, {"units": EPOCH, "standard_name": "time"})
    alone = alone.rename(time="level").isel(level=slice(0, 1))
    alone.encoding["unlimited_dims"] = {"level"}
    np.testing.assert_array_equal(frame(saved(alone, form)).values, small[0, ::-1])


def test_numbers_outside_the_valid_range_are_not_observed(saved):
    raw = frame(saved(dataset(FIELDS[:1], {**RAIN, "valid_min": 1.0, "valid_max": 4.0}, times=(0,))))
    np.testing.assert_array_equal(raw.values, [[3, 4, np.nan], [np.nan, 1, 2]])


def test_transposed_fields_are_turned(saved):
    file = dataset().transpose("x", "time", "y")
    np.testing.assert_array_equal(next(read(saved(file))).values, FIELDS[0, ::-1])


def test_a_single_time_may_be_a_scalar(saved):
    file = dataset(FIELDS[0], dims=("y", "x"), times=None)
    file["time"] = ((), 5.0, {"units": EPOCH, "standard_name": "time"})
    assert frame(saved(file)).time == datetime(2026, 11, 21, 7, 5, tzinfo=UTC)


def test_a_level_of_one_is_no_obstacle_and_of_several_is_refused(saved):
    one = dataset(FIELDS[np.newaxis, :1], dims=("level", "time", "y", "x"), times=(0,))
    np.testing.assert_array_equal(frame(saved(one)).values, FIELDS[0, ::-1])
    several = dataset(FIELDS[:, np.newaxis], dims=("level", "time", "y", "x"), times=(0,))
    with pytest.raises(RefusedProduct, match="'rain' has 3 levels along 'level'"):
        frame(saved(several))


def test_one_array_is_read_at_a_time(saved):
    path = saved(dataset(), rain={"chunksizes": (1, 2, 3), "zlib": True})
    with h5py.File(path) as file:
        last = file["rain"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[last.byte_offset : last.byte_offset + last.size] = bytes(last.size)
    path.write_bytes(content)
    frames = read(path)
    np.testing.assert_array_equal(next(frames).values, FIELDS[0, ::-1])
    np.testing.assert_array_equal(next(frames).values, FIELDS[1, ::-1])
    with pytest.raises(UnreadableFile, match="damaged"):
        next(frames)


def test_a_frame_of_our_archive_comes_back(tmp_path):
    grid = Grid.from_crs(
        "+proj=laea +lat_0=55 +lon_0=10", nx=3, ny=2, x0=500.0, y0=-500.0, dx=1000.0, dy=1000.0
    )
    time = datetime(2026, 11, 21, 7, 10, tzinfo=UTC)
    dbz = np.array([[np.nan, -10, 20], [30, 40.5, -10]], np.float32)
    frame_array(dbz, grid, time).to_netcdf(tmp_path / "frame.nc", engine="h5netcdf")
    raw = frame(tmp_path / "frame.nc")
    assert (raw.quantity, raw.time) == (Quantity.DBZH, time)
    assert raw.grid.matches(grid)
    np.testing.assert_array_equal(raw.values, dbz)


# Which variable ---------------------------------------------------------------------------------------------


def test_reflectivity_is_preferred_to_rain(saved):
    file = dataset()
    file["dbz"] = (("time", "y", "x"), FIELDS + 1, {"units": "dBZ", "grid_mapping": "crs"})
    file["rain_quality"] = (("time", "y", "x"), FIELDS, {"units": "mm/h"})
    raw = next(read(saved(file)))
    assert (raw.quantity, raw.attributes["variable"]) == (Quantity.DBZH, "dbz")


def test_two_rain_rates_are_refused_by_name(saved):
    file = dataset()
    file["rain_adjusted"] = (("time", "y", "x"), FIELDS, RAIN)
    with pytest.raises(
        RefusedProduct, match=r"several variables may be the precipitation: \['rain', 'rain_adj"
    ):
        next(read(saved(file)))


@pytest.mark.parametrize(
    ("attributes", "because"),
    [
        ({"standard_name": "rainfall_rate"}, "'rain' states no unit, so it may be any"),
        ({"units": "sum 5min"}, "'rain' states the unit 'sum 5min', which is no known"),
        ({"units": "1"}, "'rain' states the unit '1'"),
        ({"units": 5}, "'rain' states no unit"),
    ],
    ids=str,
)
def test_a_unit_left_open_is_refused_and_not_guessed(saved, attributes, because):
    with pytest.raises(RefusedProduct, match=because):
        next(read(saved(dataset(attributes=attributes))))


@pytest.mark.parametrize(("name", "units"), [("evaporation", "mm/h"), ("terrain", "m"), ("rain_error", "mm")])
def test_other_fields_are_no_precipitation(saved, name, units):
    with pytest.raises(RefusedProduct, match=f"holds no precipitation; its fields are {name}"):
        next(read(saved(dataset(attributes={"units": units}, name=name))))


def test_forecasts_are_refused(saved):
    file = dataset(dims=("lead", "y", "x"), times=None)
    file["lead"] = ("lead", [0, 5, 10], {"standard_name": "forecast_period", "units": "minutes"})
    file["time"] = ((), 0.0, {"units": EPOCH, "standard_name": "time"})
    with pytest.raises(RefusedProduct, match="'rain' holds forecasts, by its coordinate 'lead'"):
        next(read(saved(file)))


# Time and interval ------------------------------------------------------------------------------------------


def test_the_interval_of_an_accumulation_is_taken_from_the_bounds_of_its_time(saved):
    file = dataset(attributes=AMOUNT, times=(2.5, 7.5, 12.5))
    file["time"].attrs["bounds"] = "time_bounds"
    file["time_bounds"] = (("time", "edge"), [[0.0, 5.0], [5.0, 10.0], [10.0, 15.0]])
    frames = list(read(saved(file)))
    assert [(raw.time.minute, raw.interval_minutes) for raw in frames] == [(5, 5), (10, 5), (15, 5)]
    assert frames[0].attributes["interval_source"] == "bounds of 'time'"


@pytest.mark.parametrize(
    ("more", "times", "interval", "source"),
    [
        ({"cell_methods": "time: sum (interval: 5 minutes)"}, (0,), 5, "cell_methods"),
        ({"cell_methods": "area: mean time: sum (interval: 0.25 h)"}, (0,), 15, "cell_methods"),
        ({"accum_time_h": 0.25}, (0,), 15, "attribute accum_time_h"),
        ({}, (0, 10, 30), 10, "step between the times"),
        ({"accum_time_h": 0.5}, (0, 30, 60), 30, "attribute accum_time_h, step between the times"),
    ],
)
def test_else_the_interval_is_what_the_file_states(saved, more, times, interval, source):
    raw = next(read(saved(dataset(FIELDS[: len(times)], {**AMOUNT, **more}, times=times))))
    assert (raw.interval_minutes, raw.attributes["interval_source"]) == (interval, source)


@pytest.mark.parametrize(
    ("more", "times"),
    [
        ({}, (0,)),
        ({}, (0, 4, 10)),
        ({"accum_time_h": 0.25}, (0, 5, 10)),
        ({"cell_methods": "time: sum (interval: 5 fortnights)"}, (0,)),
    ],
)
def test_an_interval_left_open_or_contradicted_is_refused(saved, more, times):
    with pytest.raises(RefusedProduct, match="the interval of 'rain' stays open"):
        next(read(saved(dataset(FIELDS[: len(times)], {**AMOUNT, **more}, times=times))))


def test_bounds_of_unequal_length_are_refused(saved):
    file = dataset(attributes=AMOUNT)
    file["time"].attrs["bounds"] = "time_bounds"
    file["time_bounds"] = (("time", "edge"), [[0.0, 5.0], [5.0, 10.0], [10.0, 20.0]])
    with pytest.raises(RefusedProduct, match=r"the bounds of its times span \[5.0, 10.0\] minutes"):
        next(read(saved(file)))


@pytest.mark.parametrize(
    ("units", "value", "expected"),
    [
        ("seconds since 1970-01-01", 1_440_634_800, "2015-08-27T00:20:00"),
        ("seconds since 1970-01-01 00:00", 1_440_634_800.4, "2015-08-27T00:20:00"),
        ("minutes since 2021-08-23T08:50:00", 55, "2021-08-23T09:45:00"),
        ("hours since 2020-1-1 0:0:0 UTC", 1.5, "2020-01-01T01:30:00"),
        ("days since 2020-02-28 12:00:00.0 +00:00", 1.25, "2020-02-29T18:00:00"),
    ],
)
def test_times_are_utc_to_the_second(saved, units, value, expected):
    file = dataset(FIELDS[:1], times=(value,))
    file["time"].attrs["units"] = units
    assert frame(saved(file)).time == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"units": "fortnights since 2020-01-01"}, 1),
        ({"calendar": "360_day"}, 1),
        ({}, np.nan),
        ({}, 1e300),
        ({"units": "days since 1900-01-01"}, 1),
    ],
    ids=str,
)
def test_times_that_are_none_are_unreadable(saved, change, value):
    file = dataset(FIELDS[:1], times=(value,))
    file["time"].attrs.update(change)
    with pytest.raises(UnreadableFile):
        frame(saved(file))


def test_two_fields_of_one_time_are_unreadable(saved):
    with pytest.raises(UnreadableFile, match="two fields of one time"):
        next(read(saved(dataset(times=(0, 5, 5)))))


def test_a_field_without_time_is_unreadable(saved):
    with pytest.raises(UnreadableFile, match="has no time"):
        next(read(saved(dataset(FIELDS[0], dims=("y", "x"), times=None))))


# Place ------------------------------------------------------------------------------------------------------


def test_latitudes_and_longitudes_need_no_grid_mapping(saved):
    file = xr.Dataset(
        {"rain": (("time", "lat", "lon"), FIELDS, {"units": "mm/h"})},
        {
            "time": ("time", [0.0, 5.0, 10.0], {"units": EPOCH}),
            "lat": ("lat", [45.0, 45.1], {"units": "degrees_north"}),
            "lon": ("lon", [7.0, 7.2, 7.4], {"units": "degrees_east"}),
        },
    )
    raw = next(read(saved(file)))
    assert raw.grid.crs.is_geographic
    np.testing.assert_allclose(raw.grid.outer_bounds, (6.9, 44.95, 7.5, 45.15))


@pytest.mark.parametrize(
    ("change", "because"),
    [
        (
            lambda file: file.update({"crs": ((), 0)}) or file["rain"].attrs.pop("grid_mapping"),
            "plane that no grid mapping names",
        ),
        (
            lambda file: file["rain"].attrs.update(grid_mapping="gone"),
            "grid mapping 'gone', which is not there",
        ),
        (lambda file: file["crs"].attrs.update(grid_mapping_name="flat"), "cannot be understood"),
        (lambda file: file["crs"].attrs.update(crs_wkt="PROJCRS[" + "x" * 30_000), "20000 characters"),
        (lambda file: file["x"].attrs.update(units="furlongs"), "do not fit the plane"),
        (lambda file: file.update({"x": ("x", [0.0, 1.0, 3.0], file["x"].attrs)}), "evenly spaced"),
        (lambda file: file.update({"x": ("x", [0.0, np.nan, 2.0], file["x"].attrs)}), "missing or absurd"),
        (lambda file: file.update({"y": ("y", [0.0, 1e300], file["y"].attrs)}), "missing or absurd"),
    ],
    ids=range(8),
)
def test_a_place_left_open_or_contradicted_is_unreadable(saved, change, because):
    file = dataset()
    change(file)
    with pytest.raises(UnreadableFile, match=because):
        next(read(saved(file)))


def test_coordinates_that_are_none_are_unreadable(saved):
    with pytest.raises(UnreadableFile, match="needs one-dimensional coordinates"):
        next(read(saved(dataset().drop_vars("x"))))


# Hostile files ----------------------------------------------------------------------------------------------


def test_files_of_no_netcdf_making_are_unknown(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["layer"] = np.zeros((3, 3))
    with pytest.raises(UnknownFormat):
        next(read(tmp_path / "weights.h5"))


def test_absurd_dimensions_are_refused_before_memory_is_taken(saved):
    path = saved(dataset())
    with h5py.File(path, "a") as file:
        for name in ("rain", "x", "y", "time"):
            del file[name]
        for name, size in (("time", 1), ("y", 10**6), ("x", 10**6)):
            file.create_dataset(name, shape=(size,), dtype="f8", chunks=(min(size, 1000),)).make_scale(name)
            file[name].attrs["units"] = np.bytes_("km" if name != "time" else EPOCH)
        rain = file.create_dataset("rain", shape=(1, 10**6, 10**6), dtype="f8", chunks=(1, 1000, 1000))
        for i, name in enumerate(("time", "y", "x")):
            rain.dims[i].attach_scale(file[name])
        rain.attrs["units"] = np.bytes_("mm/h")
    with pytest.raises(TooLarge, match="declares 1000000 x 1000000 cells"):
        next(read(path))


def test_limits_of_the_caller_hold(saved):
    with pytest.raises(TooLarge):
        next(read(saved(dataset()), Limits(max_cells=5)))


def test_too_many_times_are_refused(saved):
    many = np.arange(50_000.0)
    file = dataset(np.zeros((50_000, 2, 3), np.int8), times=many)
    with pytest.raises(TooLarge, match="at most 20000 are read"):
        next(read(saved(file)))


def test_variables_behind_links_are_not_seen(saved, tmp_path):
    path = saved(dataset())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["dbz"] = FIELDS
        other["dbz"].attrs["units"] = "dBZ"
    with h5py.File(path, "a") as file:
        file["dbz"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/dbz")
        file["again"] = h5py.SoftLink("/rain")
        file["circle"] = file["/"]
    assert next(read(path)).quantity is Quantity.RATE


def test_heap_objects_without_a_size_do_not_hang_the_reader(saved):
    path = saved(dataset())
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL\1")
    content[heap + 16 : heap + 18] = bytes(2)  # the first object becomes free space ...
    content[heap + 24 : heap + 32] = bytes(8)  # ... of no size
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match="object without a size"):
        next(read(path))


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("count", [100, pytest.param(250, marks=pytest.mark.slow)])
def test_damaged_files_raise_nothing_but_input_errors(saved, tmp_path, form, count):
    content = saved(dataset(np.zeros((3, 20, 30), np.float32)), form).read_bytes()
    ends = outcomes(cf, damaged(content, count, seed=1, head=6000), tmp_path / "damaged.nc")
    assert ends["UnreadableFile"] > 0.12 * count
    assert ends["frame"] > 0.12 * count


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET"])
def test_classic_files_cut_anywhere_are_unreadable(saved, form):
    path = saved(dataset(), form)
    content = path.read_bytes()
    for size in range(4, len(content) - 4, 11):
        path.write_bytes(content[:size])
        with pytest.raises(UnreadableFile):
            list(read(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", [NIMROD, OPENRAINER, CPOL])
def test_damaged_real_files_raise_nothing_but_input_errors(shared_data, tmp_path, name):
    content = (shared_data / name).read_bytes()
    ends = outcomes(cf, damaged(content, 600, seed=2, head=14_000), tmp_path / "damaged.nc")
    assert ends["UnreadableFile"] > 100


# Real files -------------------------------------------------------------------------------------------------


def test_cpol_times_without_a_radar_file_are_not_observed_at_all(shared_data):
    with h5py.File(shared_data / CPOL) as file:
        empty = np.flatnonzero(file["isfile"][()] == 0)
    frames = list(read(shared_data / CPOL))
    assert list(empty) == [91, 97]
    for i, raw in enumerate(frames):
        assert int(np.isnan(raw.values).sum()) == (117 * 117 if i in empty else 3132)


def test_a_time_marked_absent_is_not_dry_even_if_zeros_are_stored(saved):
    file = dataset(np.zeros((3, 2, 3), np.float32))
    file["isfile"] = ("time", np.array([1, 0, 1], np.int32))
    first, absent, last = read(saved(file))
    assert np.isnan(absent.values).all()
    assert (first.values == 0).all() and (last.values == 0).all()


def test_cpol_lies_where_its_latitudes_say_and_not_where_its_dimension_names_do(shared_data):
    # The field is (time, x, y), but the latitudes grow along x: what is called x is northward.
    raw = next(read(shared_data / CPOL))
    with h5py.File(shared_data / CPOL) as file:
        lat, lon, stored = file["latitude"][()], file["longitude"][()], file["radar_estimated_rain_rate"][0]
    assert lat[-1, 0] - lat[0, 0] > 2 and abs(lat[0, -1] - lat[0, 0]) < 0.01
    x, y = raw.grid.lonlat_to_xy(lon, lat)
    np.testing.assert_allclose(x[::-1], np.broadcast_to(raw.grid.x, x.shape), atol=1.0)
    np.testing.assert_allclose(y[::-1], np.broadcast_to(raw.grid.y[:, np.newaxis], y.shape), atol=1.0)
    np.testing.assert_array_equal(
        raw.values, np.where(stored == -9999, np.nan, stored)[::-1].astype(np.float32)
    )


@pytest.mark.parametrize("dims", [("y", "x"), ("x", "y")])
@pytest.mark.parametrize("radius", [6_371_000.0, 6_370_997.0])
def test_distances_from_an_antenna_are_placed_by_their_latitudes(saved, dims, radius):
    x, y = np.arange(-3, 5) * 1000.0, np.arange(-2, 5) * 1000.0
    plane = Transformer.from_crs(f"+proj=aeqd +lat_0=-12 +lon_0=131 +R={radius}", "EPSG:4326", always_xy=True)
    lon, lat = plane.transform(*np.meshgrid(x, y))
    fields = np.arange(56, dtype=np.float32).reshape(7, 8)
    file = xr.Dataset(
        {
            "rain_rate": (("y", "x"), fields, {"units": "mm/h"}),
            "latitude": (("y", "x"), lat, {"units": "degrees"}),
            "longitude": (("y", "x"), lon, {"units": "degrees"}),
            "time": ((), 0.0, {"units": EPOCH}),
        },
        {"x": ("x", x, {"units": "meters"}), "y": ("y", y, {"units": "meters"})},
    ).transpose(*dims)
    raw = frame(saved(file))
    np.testing.assert_array_equal(raw.values, fields[::-1])
    np.testing.assert_allclose(raw.grid.outer_bounds, (-3500, -2500, 4500, 4500))
    assert "confirmed by latitude and longitude" in raw.attributes["plane"]


def test_distances_that_latitudes_do_not_confirm_are_unreadable(saved):
    lon, lat = np.meshgrid(131 + np.arange(-3, 5) * 0.02, -12 + np.arange(-2, 5) * 0.02)
    file = xr.Dataset(
        {
            "rain_rate": (("y", "x"), np.zeros((7, 8)), {"units": "mm/h"}),
            "latitude": (("y", "x"), lat),
            "longitude": (("y", "x"), lon),
            "time": ((), 0.0, {"units": EPOCH}),
        },
        {
            "x": ("x", np.arange(-3, 5) * 1000.0, {"units": "m"}),
            "y": ("y", np.arange(-2, 5) * 1000.0, {"units": "m"}),
        },
    )
    with pytest.raises(UnreadableFile, match="latitudes and longitudes fit none that is known"):
        frame(saved(file))


def test_radolan_coordinates_are_corners_of_cells(shared_data):
    # The coordinates of the first cell are the corner of the grid, by DWD's description 3.5889 E 46.9526 N.
    raw = next(read(shared_data / RADOLAN))
    west, south, _, _ = raw.grid.outer_bounds
    lon, lat = raw.grid.xy_to_lonlat(west, south)
    assert (lon, lat) == (pytest.approx(3.5889, abs=1e-3), pytest.approx(46.9526, abs=1e-3))
    binary = next(read(next(shared_data.glob("formats/dwd_radolan_ry_20200101/*.gz"))))
    assert raw.grid.matches(binary.grid, tolerance_cells=0.01)


def test_radolan_cells_lie_where_wradlib_says(shared_data):
    georef = pytest.importorskip("wradlib.georef", reason="wradlib is an optional oracle")
    grid = next(read(shared_data / RADOLAN)).grid
    centres_km = georef.get_radolan_grid(900, 900, mode="center")
    np.testing.assert_allclose(grid.x, centres_km[0, :, 0] * 1000, atol=10)
    np.testing.assert_allclose(grid.y[::-1], centres_km[:, 0, 1] * 1000, atol=10)


@pytest.mark.parametrize(
    ("path", "variable", "rows"), [(RADOLAN, "RY", -1), (OPENRAINER, "rainfall_amount", -1), (CPOL, None, -1)]
)
def test_values_agree_with_xarray(shared_data, path, variable, rows):
    with xr.open_dataset(shared_data / path, engine="h5netcdf") as file:
        theirs = file[variable or "radar_estimated_rain_rate"]
        for raw, i in zip(read(shared_data / path), range(12), strict=False):
            expected = theirs[i].values[::rows]
            np.testing.assert_allclose(raw.values, expected, rtol=1e-6, equal_nan=True)
            assert raw.time.replace(tzinfo=None) == theirs["time"].values[i].astype("datetime64[s]").item()


def test_nimrod_twin_holds_the_same_frame_as_the_original(shared_data):
    twin, original = (
        frame(shared_data / NIMROD),
        frame(shared_data / "formats/nimrod/input_preciprate.nimrod"),
    )
    np.testing.assert_array_equal(twin.values, original.values)
    assert (twin.time, twin.quantity) == (original.time, original.quantity)
    np.testing.assert_allclose(twin.grid.outer_bounds, original.grid.outer_bounds)
