"""ODIM_H5: synthetic composites, real ones against pysteps and their own metadata, hostile files."""

from __future__ import annotations

import gzip
import shutil
from datetime import UTC, datetime

import h5py
import numpy as np
import pytest
from hostile import damaged, outcomes
from pyproj import CRS, Transformer

from nowcast.errors import InputError, RefusedProduct, TooLarge, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers import Limits, odim, read

LAEA = "+proj=laea +lat_0=55.0 +lon_0=10.0 +x_0=1950000.0 +y_0=-2100000.0 +units=m +ellps=WGS84"
WHAT = {"gain": 0.5, "offset": -32.0, "nodata": 255.0, "undetect": 0.0}
CODES = np.array([[255, 0, 1], [64, 100, 254]], np.uint8)
DBZ = np.array([[np.nan, -np.inf, -31.5], [0.0, 18.0, 95.0]], np.float32)


def where(rows=2, columns=3, cell=2000.0, west=1_000_000.0, north=-1_000_000.0, projdef=LAEA, grow=0.0):
    """Return the attributes of a grid; ``grow`` moves each corner out by so many cells."""
    back = Transformer.from_crs(projdef, "EPSG:4326", always_xy=True)
    left, right = west - grow * cell, west + (columns + grow) * cell
    top, bottom = north + grow * cell, north - (rows + grow) * cell
    corners = {"LL": (left, bottom), "UL": (left, top), "UR": (right, top), "LR": (right, bottom)}
    found = {"projdef": projdef, "xsize": columns, "ysize": rows, "xscale": cell, "yscale": cell}
    for name, (x, y) in corners.items():
        found[f"{name}_lon"], found[f"{name}_lat"] = back.transform(x, y)
    return found


def fill(group, **attributes):
    for name, value in attributes.items():
        if value is not None:
            group.attrs[name] = np.bytes_(value) if isinstance(value, str) else value


def add_field(file, path, data, *, quantity="DBZH", what=WHAT, product="MAX", start="005500", end="010000"):
    """Write one dataset and data group; times on 2024-11-26."""
    dataset, _ = path.split("/")
    if dataset not in file:
        fill(
            file.create_group(f"{dataset}/what"),
            product=product, startdate="20241126", starttime=start, enddate="20241126", endtime=end,
        )  # fmt: skip
    group = file.create_group(path)
    if data is not None:
        group.create_dataset("data", data=data, compression="gzip")
    fill(group.create_group("what"), quantity=quantity, **what)
    return group


@pytest.fixture
def composite(tmp_path):
    """Return a function that writes a composite with one field, or an empty frame for tests to fill."""

    def write(data=CODES, *, kind="COMP", place=None, name="composite.h5", libver=None, **field):
        path = tmp_path / name
        with h5py.File(path, "w", libver=libver) as file:
            fill(file, Conventions="ODIM_H5/V2_4")
            fill(
                file.create_group("what"),
                object=kind, version="H5rad 2.4", date="20241126", time="010000", source="ORG:247",
            )  # fmt: skip
            fill(file.create_group("where"), **(where() if place is None else place))
            if data is not None:
                add_field(file, "dataset1/data1", data, **field)
        return path

    return write


def frame(path):
    (found,) = read(path)
    return found


# Values and states ------------------------------------------------------------------------------------------


def test_undetect_is_no_echo_and_nodata_is_not_observed(composite):
    raw = frame(composite())
    assert raw.quantity is Quantity.DBZH
    np.testing.assert_array_equal(raw.values, DBZ)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, ">f8", ">u2"])
def test_every_number_type_gives_the_same_values(composite, kind):
    np.testing.assert_array_equal(frame(composite(CODES.astype(kind))).values, DBZ)


def test_undetect_of_a_rain_rate_is_zero(composite):
    what = {"gain": 0.1, "offset": 0.0, "nodata": -1.0, "undetect": -2.0}
    raw = frame(composite(np.array([[-1, -2, 0], [5, 7, 30]], np.int16), quantity="RATE", what=what))
    np.testing.assert_allclose(raw.values, [[np.nan, 0, 0], [0.5, 0.7, 3.0]], rtol=1e-6)
    assert (raw.quantity, raw.interval_minutes) == (Quantity.RATE, None)


def test_a_number_that_is_both_nodata_and_undetect_is_not_observed(composite):
    raw = frame(composite(what=WHAT | {"undetect": 255.0}))
    assert np.isnan(raw.values[0, 0])


def test_missing_marked_by_nan_and_no_echo_by_infinity(composite):
    data = np.array([[np.nan, np.inf, 0.0], [1.0, 2.0, -5.0]])
    what = {"gain": 1.0, "offset": 0.0, "nodata": np.nan, "undetect": np.inf}
    raw = frame(composite(data, quantity="RATE", what=what))
    np.testing.assert_array_equal(raw.values, [[np.nan, 0, 0], [1, 2, np.nan]])


def test_an_undeclared_mark_far_below_any_radar_is_not_no_echo(composite):
    raw = frame(composite(np.array([[-9999.0, -99.0, -np.inf], [0, np.inf, 30]])))
    # Scaled by 0.5 and -32: -5031.5, -81.5, -inf; undetect is 0. Both are below the noise of any radar.
    np.testing.assert_array_equal(raw.values, [[np.nan, np.nan, -np.inf], [-np.inf, np.nan, -17]])


def test_an_accumulation_carries_its_interval_and_the_time_of_its_end(composite):
    raw = frame(composite(quantity="ACRR", start="004500", end="010500"))
    assert raw.time == datetime(2024, 11, 26, 1, 5, tzinfo=UTC)
    assert raw.interval_minutes == 20


def test_other_quantities_carry_the_nominal_time_and_no_interval(composite):
    raw = frame(composite(start="005001", end="010459"))
    assert raw.time == datetime(2024, 11, 26, 1, 0, tzinfo=UTC)
    assert raw.interval_minutes is None


def test_gzipped_composite_reads_the_same(composite, tmp_path):
    plain = composite()
    packed = tmp_path / "composite.h5.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(frame(packed).values, DBZ)


# Which field ------------------------------------------------------------------------------------------------


def test_reflectivity_is_preferred_and_quality_passed_over(composite):
    path = composite(None)
    with h5py.File(path, "a") as file:
        add_field(file, "dataset1/data1", CODES, quantity="QIND")
        add_field(file, "dataset2/data1", CODES, quantity="RATE")
        group = add_field(file, "dataset2/data2", CODES, quantity="DBZH")
        group.create_dataset("quality1/data", data=CODES * 0)
    raw = frame(path)
    assert (raw.quantity, raw.attributes["odim_dataset"]) == (Quantity.DBZH, "/dataset2/data2")


def test_datasets_count_in_the_order_of_their_numbers(composite):
    path = composite(None)
    with h5py.File(path, "a") as file:
        add_field(file, "dataset10/data1", CODES * 0)
        add_field(file, "dataset2/data1", CODES)
    assert frame(path).attributes["odim_dataset"] == "/dataset2/data1"


@pytest.mark.parametrize("kind", ["PVOL", "SCAN", "VP", "XSEC"])
def test_polar_and_vertical_objects_are_refused(composite, kind):
    with pytest.raises(RefusedProduct, match=f"object {kind} is not a cartesian composite"):
        frame(composite(kind=kind))


@pytest.mark.parametrize("quantity", ["HGHT", "QIND", "CLASS", "VRADH"])
def test_what_is_no_precipitation_is_refused_by_name(composite, quantity):
    with pytest.raises(RefusedProduct, match=f"holds {quantity}; expected one of DBZH, RATE, ACRR, TH"):
        frame(composite(quantity=quantity))


def test_a_vertical_section_is_refused(composite):
    with pytest.raises(RefusedProduct, match="XSEC is no horizontal field"):
        frame(composite(product="XSEC"))


# Place ------------------------------------------------------------------------------------------------------


def test_corners_are_the_outer_edges_of_the_corner_cells(composite):
    grid = frame(composite()).grid
    np.testing.assert_allclose(grid.outer_bounds, (1_000_000, -1_004_000, 1_006_000, -1_000_000), atol=0.01)
    assert (grid.nx, grid.ny) == (3, 2)


@pytest.mark.parametrize("grow", [-0.5, 0.5])
def test_corners_given_as_centres_or_a_cell_too_wide_leave_the_middle_where_it_is(composite, grow):
    grid = frame(composite(place=where(grow=grow))).grid
    np.testing.assert_allclose(grid.outer_bounds, (1_000_000, -1_004_000, 1_006_000, -1_000_000), atol=0.01)


def test_cells_given_in_kilometres_of_a_plane_in_metres(composite):
    grid = frame(composite(place=where() | {"xscale": 2.0, "yscale": 2.0})).grid
    assert (grid.dx, grid.dy) == (2000.0, 2000.0)


def test_two_corners_are_enough(composite):
    place = {name: value for name, value in where().items() if name[:2] not in ("UL", "LR")}
    assert frame(composite(place=place)).grid.outer_bounds[0] == pytest.approx(1_000_000, abs=0.01)


#: Ways to write a plane, each with the same plane as PROJ takes it, and a place in it.
PLANES = [
    ("+proj=laea +lat_0=55 +lon_0=10 +R=6371000", None),
    ("+proj=laea +lat_0=55 +lon_0=10 +a=6371000 +b=6371000", None),
    ("+proj=laea +lat_0=55 +lon_0=10 +a=6370040", None),
    ("+proj=laea +lat_0=55 +lon_0=10 +ellps=sphere", None),
    ("+proj=laea +lat_0=55 +lon_0=10", None),  # PROJ's own Earth
    ("+proj=laea +lat_0=55 +lon_0=10 +no_defs", "+proj=laea +lat_0=55 +lon_0=10"),
    ("+proj=laea +lat_0=55 +lon_0=10 +ellps=bessel", None),
    ("+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040", None),
    ("+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0", "km"),
    ("+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6371.0", "km"),
    ("+proj=aeqd +lat_0=55 +lon_0=10 +R=6371229", None),
    ("+proj=lcc +lat_1=50 +lat_2=60 +lat_0=55 +lon_0=10 +ellps=sphere +units=km", "km"),
    ("+proj=merc +lat_ts=50 +lon_0=0 +R=6371000 +units=m", None),
    ("+proj=tmerc +lat_0=0 +lon_0=9 +k=0.9996 +x_0=500000 +ellps=GRS80 +to_meter=1000", "km"),
    ("EPSG:3035", "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80"),
    ("+init=epsg:3035", "EPSG:3035"),
    ("+init=EPSG:3035 +no_defs", "EPSG:3035"),
    ("urn:ogc:def:crs:EPSG::3035", "EPSG:3035"),
    ("http://www.opengis.net/def/crs/EPSG/0/3035", "EPSG:3035"),
    ("epsg:31467", "EPSG:31467"),  # whose own first axis is north
    ("+init=epsg:3857", "EPSG:3857"),
    ("WKT1_GDAL", "EPSG:3035"),
    ("WKT1_ESRI", "EPSG:3035"),
    ("WKT2_2019", "EPSG:25832"),
]


@pytest.mark.parametrize(("projdef", "same"), PLANES)
@pytest.mark.parametrize("written", ["m", "km"])
def test_a_plane_in_any_words_puts_the_cells_where_proj_does(composite, projdef, same, written):
    definition = projdef if same in (None, "km") else same
    for kilometres in ("6378.137", "6356.752", "6371.0"):  # which is another body to PROJ
        definition = definition.replace(kilometres, f"{float(kilometres) * 1000}")
    if projdef.startswith("WKT"):
        projdef = CRS(same).to_wkt(projdef).encode("ascii", "replace").decode()
    unit = 1000.0 if "+units=km" in definition or "+to_meter" in definition else 1.0
    plane = Transformer.from_crs("EPSG:4326", definition, always_xy=True)
    x, y = plane.transform(10.0, 55.0)
    rows, columns, cell = 40, 50, 2000.0 / unit
    place = where(rows, columns, cell, west=x - 25 * cell, north=y + 20 * cell, projdef=definition)
    place |= {"projdef": projdef, "xscale": 2000.0, "yscale": 2000.0}
    if written == "km":
        place |= {"xscale": 2.0, "yscale": 2.0}
    grid = frame(composite(np.ones((rows, columns), np.uint8), place=place)).grid
    lon, lat = grid.xy_to_lonlat(*np.meshgrid(grid.x, grid.y))
    at_x, at_y = plane.transform(lon, lat)
    np.testing.assert_allclose(at_x, np.tile(x + (np.arange(50) - 24.5) * cell, (40, 1)), atol=0.01 * cell)
    np.testing.assert_allclose(at_y.T, np.tile(y - (np.arange(40) - 19.5) * cell, (50, 1)), atol=0.01 * cell)
    assert grid.cell_km == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("drawn", ["+R=6371000", "+R=6370997", "+R=6378137", "+ellps=WGS84"])
@pytest.mark.parametrize(
    "stated", ["+a=6378137.00 +b=6356752.00", "+datum=WGS84", "+R=6370040", "+ellps=airy"]
)
@pytest.mark.parametrize("plane", ["+proj=laea +lat_0=12.18 +lon_0=-68.95", "+proj=aeqd +lat_0=50 +lon_0=5"])
def test_a_map_drawn_on_another_earth_than_stated_lies_where_its_corners_say(composite, plane, stated, drawn):
    place = where(720, 720, 1250.0, -450_000.0, 450_000.0, f"{plane} {drawn}") | {
        "projdef": f"{plane} {stated}"
    }
    grid = frame(composite(np.ones((720, 720), np.uint8), place=place)).grid
    truth = Transformer.from_crs("EPSG:4326", f"{plane} {drawn}", always_xy=True)
    lon, lat = grid.xy_to_lonlat(*np.meshgrid(grid.x[::60], grid.y[::60]))
    x, y = truth.transform(lon, lat)
    # A surplus of up to a cell is what corners may have for other reasons too (see corner_surplus_cells).
    np.testing.assert_allclose(x, np.tile(-449_375 + 75_000.0 * np.arange(12), (12, 1)), atol=0.75 * 1250)
    np.testing.assert_allclose(y.T, np.tile(449_375 - 75_000.0 * np.arange(12), (12, 1)), atol=0.75 * 1250)


def test_a_map_on_no_earth_there_is_stays_unreadable(composite):
    plane = "+proj=laea +lat_0=12.18 +lon_0=-68.95"
    place = where(720, 720, 1250.0, -450_000.0, 450_000.0, f"{plane} +R=6345000")
    with pytest.raises(UnreadableFile, match=r"its corners lie .* cells apart"):
        frame(composite(np.ones((720, 720), np.uint8), place=place | {"projdef": f"{plane} +R=6371000"}))


@pytest.mark.parametrize(
    "projdef", ["+proj=longlat +datum=WGS84", "EPSG:4326", "+init=epsg:4326", "+proj=latlong +R=6371000"]
)
@pytest.mark.parametrize("west", [-180.0, -90.25, 0.0, 170.0, 179.75, 260.0])
@pytest.mark.parametrize("columns", [40, 719, 720])
def test_degrees_may_cross_180_or_go_around_the_globe(composite, projdef, west, columns):
    corners = {
        "LL": (west, -20.0),
        "UL": (west, -10.0),
        "UR": (west + columns / 2, -10.0),
        "LR": (west + columns / 2, -20.0),
    }
    place = {"projdef": projdef, "xsize": columns, "ysize": 20, "xscale": 0.5, "yscale": 0.5}
    for name, (lon, lat) in corners.items():
        place |= {f"{name}_lon": (lon + 180) % 360 - 180, f"{name}_lat": lat}
    grid = frame(composite(np.ones((20, columns), np.uint8), place=place)).grid
    for column in (0, 1, columns // 2, columns - 1):
        for lon in (west + (column + 0.4) / 2, west + (column + 0.4) / 2 - 360):
            assert grid.cell_of(-10.3, lon) == (0, column)


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"xsize": 4}, "where says 2 x 4 cells, the data have"),
        ({"xscale": 4000.0}, "its corners lie 1.50 x 2.00 cells apart"),
        ({"xscale": np.nan}, "where says a cell of nan"),
        ({"xscale": None}, "no attribute where/xscale"),
        ({"LL_lon": None}, "must give the corners LL and UR"),
        ({"LL_lat": 95.0}, "no place in its projection"),
        ({"UL_lon": where()["LL_lon"] + 0.03}, "its corners lie"),
        ({"projdef": "+proj=nonsense"}, "cannot be understood"),
        ({"projdef": "+proj=laea +nadgrids=grid.tif"}, "without references to files"),
        ({"projdef": "+proj=laea +nadgrids=/etc/passwd"}, "is no parameter of a PROJ string"),
        ({"projdef": "+init=/etc/passwd:1"}, "is no parameter of a PROJ string"),
        ({"projdef": "+init=epsg:4326"}, "its corners lie"),
        ({"projdef": "EPSG:999999"}, "cannot be understood"),
        ({"projdef": "EPSG:2053"}, "count to the west and south; expected east and north"),
        ({"projdef": "EPSG:5773"}, "is no map of the Earth: Vertical CRS"),
        ({"projdef": "+proj=laea +units=parsec"}, "'parsec' is no known unit of a projection"),
        (
            {"projdef": 'PROJCS["x",EXTENSION["PROJ4","+proj=laea +nadgrids=a.gsb"]]'},
            "WKT without references",
        ),
        ({"projdef": ""}, "expected a PROJ string"),
        ({"projdef": 7}, "must be text"),
        ({"xscale": "wide"}, "must be a number"),
    ],
    ids=str,
)
def test_a_contradictory_place_is_unreadable(composite, change, because):
    place = {name: value for name, value in (where() | change).items() if value is not None}
    with pytest.raises(UnreadableFile, match=because):
        frame(composite(place=place))


@pytest.mark.parametrize(
    ("field", "because"),
    [
        ({"what": WHAT | {"gain": np.nan}}, "gain nan and offset -32.0 must be finite"),
        ({"what": WHAT | {"gain": 0.0}}, "gain 0.0"),
        ({"what": WHAT | {"offset": np.inf}}, "offset inf"),
        ({"what": WHAT | {"nodata": None}}, "whole numbers need"),
        ({"quantity": "ACRR", "start": "010500"}, "starts 5 minutes after its end"),
        ({"quantity": "ACRR", "start": "256199"}, "expected a time as"),
        ({"quantity": "ACRR", "start": "noon"}, "got '20241126' 'noon'"),
        ({"data": np.zeros((2, 3, 1), np.uint8)}, "the data have"),
        ({"data": np.zeros((2, 3), "S4")}, "must hold numbers"),
    ],
    ids=str,
)
def test_contradictory_fields_are_unreadable(composite, field, because):
    with pytest.raises(UnreadableFile, match=because):
        frame(composite(**field))


# Hostile files ----------------------------------------------------------------------------------------------


def test_absurd_dimensions_are_refused_before_memory_is_taken(composite):
    side = 1_000_000
    path = composite(None, place=where() | {"xsize": side, "ysize": side})
    with h5py.File(path, "a") as file:
        group = add_field(file, "dataset1/data1", None)
        group.create_dataset("data", shape=(side, side), dtype="f8", chunks=(1000, 1000))
    with pytest.raises(TooLarge, match="at most 64000000"):
        frame(path)


def test_absurd_chunks_are_refused(composite):
    path = composite(None)
    with h5py.File(path, "a") as file:
        group = add_field(file, "dataset1/data1", None)
        group.create_dataset("data", shape=(2, 3), maxshape=(None, None), chunks=(9000, 9000), dtype="u1")
    with pytest.raises(TooLarge, match="chunks of 81000000 cells"):
        frame(path)


def test_limits_of_the_caller_hold(composite):
    with pytest.raises(TooLarge):
        next(read(composite(), Limits(max_cells=5)))


def test_links_out_of_the_file_are_not_followed(composite, tmp_path):
    other = composite(name="other.h5")
    path = composite(None)
    with h5py.File(path, "a") as file:
        file["dataset1"] = h5py.ExternalLink(str(other), "/dataset1")
    with pytest.raises(UnreadableFile, match="link that may lead outside"):
        frame(path)


def test_soft_links_are_not_followed(composite):
    path = composite()
    with h5py.File(path, "a") as file:
        file.move("dataset1/data1/data", "elsewhere")
        file["dataset1/data1/data"] = h5py.SoftLink("/elsewhere")
    with pytest.raises(UnreadableFile, match="link that may lead outside"):
        frame(path)


def test_numbers_stored_in_another_file_are_not_read(composite, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(6))
    path = composite(None)
    with h5py.File(path, "a") as file:
        group = add_field(file, "dataset1/data1", None)
        outside = [(str(tmp_path / "secret.bin"), 0, 6)]
        group.create_dataset("data", shape=(2, 3), dtype="u1", external=outside)
    with pytest.raises(UnreadableFile, match="lie in another file"):
        frame(path)


def test_virtual_datasets_are_not_read(composite):
    other = composite(name="other.h5")
    layout = h5py.VirtualLayout(shape=(2, 3), dtype="u1")
    layout[:] = h5py.VirtualSource(str(other), "dataset1/data1/data", shape=(2, 3))
    path = composite(None)
    with h5py.File(path, "a") as file:
        add_field(file, "dataset1/data1", None).create_virtual_dataset("data", layout)
    with pytest.raises(UnreadableFile, match="lie in another file"):
        frame(path)


def test_groups_in_a_circle_do_not_catch_the_reader(composite):
    path = composite()
    with h5py.File(path, "a") as file:
        file["dataset1/dataset1"] = file["dataset1"]
        file["dataset1/data2"] = file["dataset1"]
        file["how"] = file["/"]
    np.testing.assert_array_equal(frame(path).values, DBZ)


def test_absurdly_long_attributes_are_refused(composite):
    path = composite(libver="latest")
    with h5py.File(path, "a", libver="latest") as file:
        del file["what"].attrs["source"]
        file["what"].attrs.create("source", np.bytes_(b"x" * 100_000))
    with pytest.raises(TooLarge, match="attribute 'source' of /what has 100000 bytes"):
        frame(path)


def test_attributes_of_a_wrong_type_are_refused(composite):
    path = composite()
    with h5py.File(path, "a") as file:
        file["dataset1/data1/what"].attrs["gain"] = file["where"].ref
        file["dataset1/data1/what"].attrs["nodata"] = np.arange(3.0)
    with pytest.raises(UnreadableFile, match=r"'nodata' of /dataset1/data1/what must be a number"):
        frame(path)


def test_an_unknown_filter_is_named(composite):
    path = composite(None)
    with h5py.File(path, "a") as file:
        group = add_field(file, "dataset1/data1", None)
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((2, 3))
        plan.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((2, 3))
        h5py.h5d.create(group.id, b"data", h5py.h5t.NATIVE_UINT8, space, plan)
    with pytest.raises(UnreadableFile, match="HDF5 filter number 32999, which is not installed"):
        frame(path)


def test_filters_stacked_to_explode_are_refused(composite):
    path = composite(None)
    with h5py.File(path, "a") as file:
        group = add_field(file, "dataset1/data1", None)
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((2, 3))
        plan.set_deflate(9)
        plan.set_deflate(9)
        space = h5py.h5s.create_simple((2, 3))
        h5py.h5d.create(group.id, b"data", h5py.h5t.NATIVE_UINT8, space, plan)
    with pytest.raises(UnreadableFile, match="passes twice through one of its filters"):
        frame(path)


def test_free_blocks_in_a_circle_do_not_take_all_memory(composite):
    path = composite()
    content = bytearray(path.read_bytes())
    heap = content.index(b"HEAP\0")
    free, begin = (int.from_bytes(content[heap + at : heap + at + 8], "little") for at in (16, 24))
    content[begin + free : begin + free + 8] = content[heap + 16 : heap + 24]  # the next block is itself
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match="free blocks in a circle"):
        frame(path)


def test_a_file_cut_anywhere_is_unreadable(composite):
    path = composite()
    content = path.read_bytes()
    for size in range(8, len(content) - 1, 97):
        path.write_bytes(content[:size])
        with pytest.raises(InputError):
            frame(path)


@pytest.mark.parametrize("count", [150, pytest.param(400, marks=pytest.mark.slow)])
def test_damaged_composites_raise_nothing_but_input_errors(composite, tmp_path, count):
    content = composite(np.arange(600, dtype=np.uint8).reshape(20, 30), place=where(20, 30)).read_bytes()
    ends = outcomes(odim, damaged(content, count, seed=1, head=6000), tmp_path / "damaged.h5")
    assert ends["UnreadableFile"] > count / 8
    assert ends["frame"] > count / 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["composite_swe_gmap.h5", "CPC2335513304_00060.001.h5", "belgium.comp.hdf"])
def test_damaged_real_composites_raise_nothing_but_input_errors(shared_data, tmp_path, name):
    content = (shared_data / "formats/odim" / name).read_bytes()
    ends = outcomes(odim, damaged(content, 3000, seed=2, head=12_000), tmp_path / "damaged.h5")
    assert ends["UnreadableFile"] > 500


# Real composites --------------------------------------------------------------------------------------------

ODYSSEY = "train/opera_odyssey_rate_20180824/T_PAAH21_C_EUOC_20180824180000.hdf"
CIRRUS = "train/opera_cirrus_dbzh_20241126/T_PABV21_C_EUOC_20241126010000.hdf"


def test_odyssey_keeps_undetect_and_nodata_apart(shared_data):
    raw = frame(shared_data / ODYSSEY)
    with h5py.File(shared_data / ODYSSEY) as file:
        stored = file["dataset1/data1/data"][()]
    np.testing.assert_array_equal(np.isnan(raw.values), stored == -9_999_000)
    np.testing.assert_array_equal(raw.values == 0, (stored == -8_888_000) | (stored == 0))
    assert raw.time == datetime(2018, 8, 24, 18, tzinfo=UTC)


def thinned(path, target, every):
    """Write a composite with every so manieth row and column of its first field, each cell as much larger."""
    shutil.copyfile(path, target)
    with h5py.File(target, "a") as file:
        field, place = file["dataset1/data1/data"], file["where"].attrs
        kept, attributes = field[()][::every, ::every], dict(field.attrs)
        del file["dataset1/data1/data"]
        file["dataset1/data1"].create_dataset("data", data=kept, compression="gzip").attrs.update(attributes)
        for name in ("xsize", "ysize"):
            assert place[name] % every == 0, "the corners stay where they are"
            place[name] = place[name] // every
        for name in ("xscale", "yscale"):
            place[name] = place[name] * every
    return target


@pytest.mark.parametrize(
    ("path", "quantity", "every"),
    [(ODYSSEY, "RATE", 1), (CIRRUS, "DBZH", 4), pytest.param(CIRRUS, "DBZH", 1, marks=pytest.mark.slow)],
)
def test_opera_agrees_with_pysteps(shared_data, tmp_path, path, quantity, every):
    importers = pytest.importorskip("pysteps.io.importers", reason="pysteps is an optional oracle")
    path = shared_data / path
    if every > 1:
        whole, path = frame(path), thinned(path, tmp_path / path.name, every)
        np.testing.assert_array_equal(frame(path).values, whole.values[::every, ::every])
    theirs, _, metadata = importers.import_odim_hdf5(str(path), qty=quantity)
    ours = frame(path)
    theirs = np.ma.filled(theirs, np.nan)
    np.testing.assert_array_equal(np.isnan(ours.values), np.isnan(theirs))
    # pysteps writes no echo as -30 dBZ, which is a measured value too: CIRRUS reaches down to -32 dBZ.
    measured = np.isfinite(ours.values)
    np.testing.assert_allclose(ours.values[measured], theirs[measured], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(theirs[np.isneginf(ours.values)], -30.0)
    edges = [metadata[name] for name in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(ours.grid.outer_bounds, edges, atol=1.0)
    assert (metadata["xpixelsize"], metadata["ypixelsize"]) == (ours.grid.dx, ours.grid.dy)


def test_meteoswiss_lies_on_the_national_grid(shared_data):
    grid = frame(next(shared_data.glob("formats/odim/CPC*.h5"))).grid
    # MeteoSwiss products span 2255 to 2965 km east, 840 to 1480 km north (LV95); the file rounds its corners.
    np.testing.assert_allclose(grid.outer_bounds, (2_255_000, 840_000, 2_965_000, 1_480_000), atol=200)


def test_both_opera_generations_share_their_cells(shared_data):
    odyssey = frame(shared_data / ODYSSEY).grid
    nimbus = frame(next(shared_data.glob("formats/opera_nimbus*/T_PAAH22*"))).grid
    assert nimbus.matches(odyssey)


def test_a_plane_with_axes_and_a_datum_is_read_as_its_corners_say(shared_data):
    # The projection names a sphere (+a=+b) and a datum (WGS 84). On the sphere the corners lie 1093.5 rows
    # apart, on the ellipsoid 1091.03; the file has 1090. Its columns, the same either way, span 801 of 800.
    raw = frame(shared_data / "formats/odim/composite_swe_gmap.h5")
    assert raw.grid.crs.ellipsoid.inverse_flattening == pytest.approx(298.257, abs=0.001)
    with h5py.File(shared_data / "formats/odim/composite_swe_gmap.h5") as file:
        corner = dict(file["where"].attrs)
    x, y = raw.grid.lonlat_to_xy(corner["UL_lon"], corner["UL_lat"])
    west, _, _, north = raw.grid.outer_bounds
    assert abs(x - west) < 0.55 * raw.grid.dx
    assert abs(y - north) < 0.55 * raw.grid.dy


def test_of_two_datasets_of_one_quantity_the_first_is_read(shared_data):
    raw = frame(shared_data / "formats/odim/comp4ctfilter.h5")
    with h5py.File(shared_data / "formats/odim/comp4ctfilter.h5") as file:
        first, second = (file[f"dataset{i}/data1/data"][()] for i in (1, 2))
    np.testing.assert_array_equal(np.isneginf(raw.values), first == 0)
    assert (first != second).any()


# Forecasts --------------------------------------------------------------------------------------------------

TRUE = ["True", "true", "TRUE", "T", "yes", "Y", "1", " true ", "on", 1, 1.0, np.True_, np.uint8(1)]
FALSE = ["False", "false", "FALSE", "F", "no", "N", "0", "", "none", 0, 0.0, np.False_]
HOLDERS = ["how", "dataset1/how", "dataset1/data1/how", "how/POLARA", "dataset1/how/POLARA", "dataset1/what"]


def say_simulated(path, holder, value, name="simulated"):
    with h5py.File(path, "a") as file:
        file.require_group(holder).attrs[name] = np.bytes_(value) if isinstance(value, str) else value


@pytest.mark.parametrize("value", TRUE, ids=repr)
@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_simulated_is_refused_in_any_spelling_at_any_level(composite, holder, value):
    path = composite()
    say_simulated(path, holder, value)
    with pytest.raises(RefusedProduct, match=r"simulated is .*: expected an observation, got a forecast"):
        frame(path)


@pytest.mark.parametrize("value", FALSE, ids=repr)
def test_what_is_not_simulated_is_read(composite, value):
    path = composite()
    for holder in HOLDERS:
        say_simulated(path, holder, value, "Simulated")
    np.testing.assert_array_equal(frame(path).values, DBZ)


@pytest.mark.parametrize("quantity", ["DBZH", "RATE", "ACRR"])
@pytest.mark.parametrize(
    ("start", "end"),
    [("010000", "010500"), ("010500", "011000"), ("015500", "020000"), ("011000", "011000"),
     ("005500", "013000"), ("010200", "010230"), ("020000", "030000")],
)  # fmt: skip
def test_what_is_valid_after_its_nominal_time_is_a_forecast(composite, quantity, start, end):
    with pytest.raises(RefusedProduct, match="minutes beyond its nominal time 01:00:00"):
        frame(composite(quantity=quantity, start=start, end=end))


@pytest.mark.parametrize(
    ("quantity", "start", "end"),
    [("ACRR", "005500", "010000"), ("ACRR", "000000", "010000"), ("ACRR", "005000", "010500"),
     ("RATE", "005000", "010500"), ("DBZH", "010000", "010000"), ("DBZH", "010012", "010448"),
     ("DBZH", "005500", "005957"), ("RATE", "005230", "010730"), ("DBZH", "005001", "010000")],
)  # fmt: skip
def test_windows_around_the_nominal_time_are_observations(composite, quantity, start, end):
    assert frame(composite(quantity=quantity, start=start, end=end)).quantity == quantity


@pytest.mark.parametrize("word", ["forecast", "NOWCAST", "Rain_forecast_5min", "Vorhersage", "prediction"])
def test_a_product_called_a_forecast_is_one(composite, word):
    path = composite()
    with h5py.File(path, "a") as file:
        file["dataset1/what"].attrs["prodname"] = np.bytes_(word)
    with pytest.raises(RefusedProduct, match="expected an observation, got a forecast"):
        frame(path)


def test_dwd_composites_keep_their_states_and_place(shared_data):
    from nowcast.readers import radolan

    (raw,) = read(shared_data / "faults/composite_rv_20250923_0855.tar")
    assert (raw.time, raw.interval_minutes) == (datetime(2025, 9, 23, 8, 55, tzinfo=UTC), 5.0)
    assert raw.attributes["member"] == "composite_rv_20250923_0855_000-hd5"
    assert "050-hd5: /dataset1/how/simulated is 'True'" in raw.attributes["left_out"]
    assert (np.isnan(raw.values).sum(), (raw.values == 0).sum()) == (621_995, 668_372)
    assert np.nanmax(raw.values) == pytest.approx(1.848, abs=1e-4)
    # The same cells as in RADOLAN's binary files, to a thousandth of one.
    national = radolan._grid(1200, 1100, radolan._WGS84)
    for x, y in ((0, 0), (-1, -1), (0, -1)):
        ours = raw.grid.xy_to_lonlat(raw.grid.x[x], raw.grid.y[y])
        theirs = national.xy_to_lonlat(national.x[x], national.y[y])
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_curacao_lies_on_its_sphere_within_half_a_cell_of_its_corners(shared_data):
    path = shared_data / "faults/RAD_CU21_PPZ_E05_202208302235.h5"
    raw = frame(path)
    with h5py.File(path) as file:
        place = dict(file["where"].attrs)
    west, south, east, north = raw.grid.outer_bounds
    for name, (x, y) in {
        "LL": (west, south),
        "UL": (west, north),
        "UR": (east, north),
        "LR": (east, south),
    }.items():
        at = raw.grid.lonlat_to_xy(place[f"{name}_lon"], place[f"{name}_lat"])
        assert abs(at[0] - x) < raw.grid.dx / 2 and abs(at[1] - y) < raw.grid.dy / 2
    assert raw.attributes["plane"].startswith("drawn on +R=6371000")
