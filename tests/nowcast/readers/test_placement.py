"""Where netCDF fields lie: planes in any words, axes in any order, and what is refused for being open."""

from __future__ import annotations

import h5py
import netCDF4
import numpy as np
import pytest
from pyproj import CRS, Transformer

from nowcast.errors import UnreadableFile
from nowcast.readers import Limits, netcdf, read
from nowcast.readers.placement import place
from nowcast.readers.source import Source

PROJ = "+proj=laea +lat_0=52 +lon_0=10 +x_0=0 +y_0=0 +R=6371000 +units=m"
CF = {
    "grid_mapping_name": "lambert_azimuthal_equal_area",
    "latitude_of_projection_origin": 52.0,
    "longitude_of_projection_origin": 10.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "earth_radius": 6371000.0,
}
NO_EARTH = {name: value for name, value in CF.items() if name != "earth_radius"}
EAST, NORTH = np.arange(8) * 2000.0 + 1000, 9000 - np.arange(5) * 2000.0
FIELD = np.arange(40, dtype=np.float32).reshape(5, 8)
TO_LONLAT = Transformer.from_crs(PROJ, "EPSG:4326", always_xy=True)
LON, LAT = TO_LONLAT.transform(*np.meshgrid(EAST, NORTH))
X = {"standard_name": "projection_x_coordinate", "units": "m"}
Y = {"standard_name": "projection_y_coordinate", "units": "m"}


@pytest.fixture
def written(tmp_path):
    """Return a function that writes one rain field; every part of its place may be changed or left out."""

    def write(
        *,
        mapping=CF,
        kind="i4",
        name="crs",
        grid_mapping="crs",
        x=(EAST, X),
        y=(NORTH, Y),
        dims=("y", "x"),
        places=False,
        sheared=0.0,
        form="NETCDF4",
        field=FIELD,
        **attributes,
    ):
        path = tmp_path / "file.nc"
        with netCDF4.Dataset(path, "w", format=form) as file:
            file.Conventions = "CF-1.7"
            rows, columns = field.shape
            file.createDimension("y", rows)
            file.createDimension("x", columns)
            for axis, centres in (("x", x), ("y", y)):
                if centres is not None:
                    file.createVariable(axis, "f8", (axis,))[:] = centres[0]
                    file[axis].setncatts(centres[1])
            file.createVariable("time", "f8", ())[...] = 0
            file["time"].setncatts({"units": "minutes since 2024-05-01", "standard_name": "time"})
            if mapping is not None:
                file.createVariable(name, kind, ()).setncatts(mapping)
            rain = file.createVariable("rain_rate", "f4", dims)
            rain[:] = field if dims == ("y", "x") else field.T
            rain.setncatts({"units": "mm h-1", "standard_name": "rainfall_rate", **attributes})
            if grid_mapping:
                rain.grid_mapping = grid_mapping
            if places:
                for kind_of, values in (("lat", LAT + sheared * LON), ("lon", LON)):
                    unit = {"lat": "degrees_north", "lon": "degrees_east"}[kind_of]
                    file.createVariable(kind_of, "f4", ("y", "x"))[:] = values
                    file[kind_of].setncatts({"units": unit})
        return path

    return write


def lies_there(path, *, field=FIELD):
    """Assert that each cell lies where PROJ puts it and holds its own number; return the frame."""
    (raw,) = read(path)
    lon, lat = raw.grid.xy_to_lonlat(*np.meshgrid(raw.grid.x, raw.grid.y))
    np.testing.assert_allclose(lon, LON, atol=2e-4)  # a hundredth of a cell
    np.testing.assert_allclose(lat, LAT, atol=2e-4)
    np.testing.assert_array_equal(raw.values, field)
    assert raw.grid.cell_km == pytest.approx((2.0, 2.0), rel=1e-4)
    return raw


# The mapping variable ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "f4", "f8", "S1", str, "u1", "u8"])
def test_a_mapping_is_understood_whatever_its_type(written, form, kind):
    if (kind is str or kind in ("u1", "u8")) and form not in ("NETCDF4", "NETCDF3_64BIT_DATA"):
        pytest.skip("the container has no such type")
    if kind is str and form != "NETCDF4":
        pytest.skip("the container has no such type")
    lies_there(written(kind=kind, form=form))


@pytest.mark.parametrize(
    "mapping",
    [
        {"proj4": PROJ},
        {"proj4text": PROJ},
        {"proj4_params": PROJ},
        {"proj4_params": "+proj=laea +lat_0=52 +lon_0=10 +a=6371.0 +b=6371.0 y_0=0", "EPSG_code": "none"},
        {"proj4_string": PROJ, "long_name": "projection"},
        {"spatial_ref": CRS(PROJ).to_wkt("WKT1_GDAL")},
        {"spatial_ref": CRS(PROJ).to_wkt("WKT2_2019")},
        {"crs_wkt": CRS(PROJ).to_wkt()},
        {"esri_pe_string": CRS(PROJ).to_wkt("WKT1_ESRI")},
        {"crs_wkt": CRS(PROJ).to_wkt(), "GeoTransform": "0 2000 0 10000 0 -2000"},
        CF | {"spatial_ref": CRS(PROJ).to_wkt("WKT1_GDAL")},
        CF | {"proj4": PROJ},
        CF | {"crs_wkt": "", "proj4": "none"},
        NO_EARTH | {"proj4": PROJ},
        {"grid_mapping_name": "unknown", "crs_wkt": CRS(PROJ).to_wkt()},
        CF | {"earth_radius": 6371.0},
        NO_EARTH | {"semi_major_axis": 6371000.0, "inverse_flattening": 0.0},
        NO_EARTH | {"semi_major_axis": 6371000.0, "semi_minor_axis": 6371000.0},
        CF | {"longitude_of_prime_meridian": 0.0},
    ],
)  # fmt: skip
def test_a_mapping_may_say_its_plane_in_any_of_its_attributes(written, mapping):
    lies_there(written(mapping=mapping))


@pytest.mark.parametrize("code", [3035, "3035", "EPSG:3035", "epsg:3035", 3035.0])
@pytest.mark.parametrize("attribute", ["epsg_code", "EPSG_code", "epsg"])
def test_a_code_of_epsg_is_a_plane(written, attribute, code):
    x, y = EAST + 4_321_000, NORTH + 3_210_000
    (raw,) = read(written(mapping={attribute: code}, x=(x, X), y=(y, Y)))
    assert raw.grid.crs == CRS("EPSG:3035")
    np.testing.assert_array_equal(raw.grid.x, x)


@pytest.mark.parametrize(
    "named",
    ["crs", "/crs", "crs: x y", "crs: y x", "wgs84: lat lon crs: x y", "crs: x y wgs84: lat lon", " crs "],
)
def test_the_mapping_is_the_one_named_for_the_axes(written, named):
    path = written(grid_mapping=named)
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("wgs84", "i4", ()).setncatts({"grid_mapping_name": "latitude_longitude"})
    lies_there(path)


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("mapping", [CF, {"proj4": PROJ}, {"spatial_ref": CRS(PROJ).to_wkt("WKT1_GDAL")}])
def test_the_only_mapping_there_is_is_meant_though_not_named(written, mapping, places):
    raw = lies_there(written(mapping=mapping, grid_mapping="", places=places))
    assert "'crs', which 'rain_rate' does not name" in raw.attributes["plane"]


@pytest.mark.parametrize("attribute", ["proj4", "esri_pe_string", "spatial_ref", "crs_wkt"])
def test_the_field_itself_may_describe_its_plane(written, attribute):
    text = PROJ if attribute == "proj4" else CRS(PROJ).to_wkt("WKT1_GDAL")
    lies_there(written(mapping=None, grid_mapping="", **{attribute: text}))


def test_two_planes_of_which_none_is_named_are_refused_by_name(written):
    path = written(grid_mapping="")
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("other", "i4", ()).setncatts(CF | {"longitude_of_projection_origin": 11.0})
    with pytest.raises(
        UnreadableFile, match=r"names none of the grid mappings that are there: \['crs', 'other'"
    ):
        next(read(path))


def test_a_mapping_named_but_absent_is_refused_unless_places_confirm_another(written):
    with pytest.raises(UnreadableFile, match="names the grid mapping 'gone', which is not there"):
        next(read(written(grid_mapping="gone")))
    lies_there(written(grid_mapping="gone", places=True))


def test_two_descriptions_that_disagree_are_refused_and_named(written):
    wrong = PROJ.replace("lon_0=10", "lon_0=10.5")
    with pytest.raises(UnreadableFile, match="grid_mapping_name of 'crs' and proj4 of 'crs' disagree by 1"):
        next(read(written(mapping=CF | {"proj4": wrong})))
    raw = lies_there(written(mapping=CF | {"crs_wkt": CRS(wrong).to_wkt()}, places=True))
    assert raw.attributes["plane"].startswith(
        "grid_mapping_name of 'crs', confirmed by latitude and longitude"
    )


def test_a_named_plane_that_its_own_latitudes_contradict_is_refused(written):
    shifted = CF | {"longitude_of_projection_origin": 10.1}
    with pytest.raises(UnreadableFile, match=r"and the latitudes and longitudes disagree by 3.4 cells"):
        next(read(written(mapping=shifted, places=True)))


# Axes and units ---------------------------------------------------------------------------------------------

BARE_X, BARE_Y = ({"standard_name": axis["standard_name"]} for axis in (X, Y))


@pytest.mark.parametrize("places", [False, True])
def test_coordinates_without_a_unit_are_metres_if_the_cells_then_are_a_radar_s(written, places):
    raw = lies_there(written(x=(EAST, BARE_X), y=(NORTH, BARE_Y), places=places))
    assert ("in metres by the size of the cells" in raw.attributes["plane"]) is not places


def test_coordinates_without_a_unit_are_kilometres_if_places_say_so_else_open(written):
    lies_there(written(x=(EAST / 1000, BARE_X), y=(NORTH / 1000, BARE_Y), places=True))
    with pytest.raises(UnreadableFile, match="do not fit the plane"):
        next(read(written(x=(EAST / 1000, BARE_X), y=(NORTH / 1000, BARE_Y))))


@pytest.mark.parametrize(
    ("unit", "metres"),
    [
        ("m", 1),
        ("metre", 1),
        ("Meters", 1),
        ("km", 1000),
        ("kilometers", 1000),
        ("1000 m", 1000),
        ("2 km", 2000),
    ],
)
def test_units_of_length_are_understood(written, unit, metres):
    lies_there(written(x=(EAST / metres, X | {"units": unit}), y=(NORTH / metres, Y | {"units": unit})))


def test_one_unit_serves_both_axes_of_square_cells(written):
    lies_there(written(x=(EAST / 1000, X | {"units": "km"}), y=(NORTH / 1000, BARE_Y)))
    with pytest.raises(UnreadableFile, match="do not fit the plane"):
        next(read(written(x=(EAST / 1000, X | {"units": "km"}), y=(NORTH, BARE_Y))))


@pytest.mark.parametrize("unit", ["furlongs", "degrees", "1"])
def test_other_units_do_not_fit_a_plane(written, unit):
    with pytest.raises(UnreadableFile, match="do not fit the plane"):
        next(read(written(x=(EAST, X | {"units": unit}), y=(NORTH, Y | {"units": unit}))))


@pytest.mark.parametrize("dims", [("y", "x"), ("x", "y")])
@pytest.mark.parametrize("south_up", [False, True])
@pytest.mark.parametrize("east_first", [False, True])
def test_axes_may_run_either_way_and_stand_in_either_order(written, dims, south_up, east_first):
    rows, columns = slice(None, None, -1 if south_up else 1), slice(None, None, -1 if east_first else 1)
    lies_there(written(x=(EAST[columns], X), y=(NORTH[rows], Y), dims=dims, field=FIELD[rows, columns]))


def test_a_view_from_a_satellite_is_no_map(written):
    geostationary = {
        "grid_mapping_name": "geostationary", "perspective_point_height": 35786023.0, "sweep_angle_axis": "x",
        "longitude_of_projection_origin": -75.0, "latitude_of_projection_origin": 0.0,
        "semi_major_axis": 6378137.0, "semi_minor_axis": 6356752.31414,
    }  # fmt: skip
    for unit in ("rad", "radian", "microradian"):
        angles = {"units": unit}
        with pytest.raises(UnreadableFile, match="angles of view from a satellite"):
            next(
                read(
                    written(mapping=geostationary, x=(EAST * 1e-9, X | angles), y=(NORTH * 1e-9, Y | angles))
                )
            )


def test_latitudes_and_longitudes_alone_are_fitted_to_the_plane_described(written):
    raw = lies_there(written(x=None, y=None, places=True))
    assert raw.attributes["plane"] == "grid_mapping_name of 'crs', fitted to latitude and longitude"
    with pytest.raises(UnreadableFile, match="evenly spaced in none of the planes"):
        next(read(written(x=None, y=None, places=True, sheared=0.2, mapping=None, grid_mapping="")))
    with pytest.raises(UnreadableFile, match="needs one-dimensional coordinates"):
        next(read(written(x=None, y=None)))


# Degrees ----------------------------------------------------------------------------------------------------

LON_ATTRIBUTES = {"standard_name": "longitude", "units": "degrees_east"}
LAT_ATTRIBUTES = {"standard_name": "latitude", "units": "degrees_north"}


def degrees(written, lon, lat, **more):
    field = np.arange(len(lat) * len(lon), dtype=np.float32).reshape(len(lat), len(lon)) % 8999
    path = written(
        mapping=None, grid_mapping="", x=(lon, LON_ATTRIBUTES), y=(lat, LAT_ATTRIBUTES), field=field, **more
    )
    (raw,) = read(path)
    return raw, field


@pytest.mark.parametrize("first", [-180.0, -179.75, -100.0, 0.0, 0.25, 150.0, 179.0, 260.0, 359.5, -359.0])
@pytest.mark.parametrize("columns", [3, 50, 720])
@pytest.mark.parametrize("counted", ["on", "to 180", "to 360"])
@pytest.mark.parametrize("westward", [False, True])
def test_every_cell_is_found_however_its_longitudes_count(written, first, columns, counted, westward):
    lon = first + 0.5 * np.arange(columns)
    stored = {"on": lon, "to 180": (lon + 180) % 360 - 180, "to 360": lon % 360}[counted]
    lat = 40 - 0.5 * np.arange(4)
    raw, field = degrees(written, stored[:: -1 if westward else 1], lat)
    for column in {0, 1, columns // 2, columns - 1}:
        for turns in (-360, 0, 360):
            row, at = raw.grid.cell_of(39.1, lon[column] + 0.2 + turns)
            assert raw.values[row, at] == field[2, columns - 1 - column if westward else column]


def test_a_globe_may_have_rows_on_its_poles_and_a_column_twice(written):
    raw, field = degrees(written, np.arange(0, 361, 1.0), 90 - np.arange(0, 181, 1.0))
    for lat, row in ((90, 0), (-90, 180), (89.6, 0), (-89.6, 180), (0, 90)):
        at = raw.grid.cell_of(lat, -77.2)
        assert at[0] == row and raw.values[at] == field[row, 283]
    assert raw.grid.lonlat_bounds[1::2] == (-90, 90)


@pytest.mark.parametrize(
    ("lon", "lat", "because"),
    [
        (np.arange(0, 400, 1.0), [1.0, 0.0], "do not fit on the globe"),
        (np.arange(3.0), [92.0, 91.0, 90.0], "do not fit on the globe"),
        ([0.0, 1.0, 3.0], [1.0, 0.0], "evenly spaced"),
        ([358.0, 359.0, 0.0, 2.0], [1.0, 0.0], "evenly spaced"),
    ],
)
def test_degrees_that_are_no_grid_on_the_globe_are_refused(written, lon, lat, because):
    with pytest.raises(UnreadableFile, match=because):
        degrees(written, np.asarray(lon), np.asarray(lat))


def test_radians_of_a_longitude_are_degrees_in_other_numbers(written):
    lon, lat = 260 + 0.5 * np.arange(8), 40 - 0.5 * np.arange(5)
    path = written(
        mapping=None, grid_mapping="",
        x=(np.radians(lon), LON_ATTRIBUTES | {"units": "radians"}),
        y=(np.radians(lat), LAT_ATTRIBUTES | {"units": "radians"}),
    )  # fmt: skip
    (raw,) = read(path)
    np.testing.assert_allclose((raw.grid.x, raw.grid.y[:1].repeat(8)), (lon, np.full(8, 40.0)))


def test_a_rotated_pole_turns_its_degrees_and_without_its_mapping_they_are_open(written):
    pole = {
        "grid_mapping_name": "rotated_latitude_longitude", "grid_north_pole_latitude": 39.25,
        "grid_north_pole_longitude": -162.0, "earth_radius": 6371229.0,
    }  # fmt: skip
    x = (np.arange(8) * 0.1 - 0.35, {"standard_name": "grid_longitude", "units": "degrees"})
    y = (0.2 - np.arange(5) * 0.1, {"standard_name": "grid_latitude", "units": "degrees"})
    (raw,) = read(written(mapping=pole, x=x, y=y))
    lon, lat = raw.grid.xy_to_lonlat(0.0, 0.0)
    assert (lon, lat) == (pytest.approx(18.0), pytest.approx(50.75))  # the rotated equator's origin
    assert raw.grid.cell_of(50.75, 18.0 + 0.01) == (2, 4 if raw.grid.x[4] < 0.06 else 3)
    with pytest.raises(UnreadableFile, match="turn about a pole that no grid mapping names"):
        next(read(written(mapping=None, grid_mapping="", x=x, y=y)))


# Real and made files ----------------------------------------------------------------------------------------


def test_mappings_of_every_type_are_read_alike(shared_data):
    kinds = (
        "char_grid_mapping_nc3",
        "char_grid_mapping_nc4",
        "string_grid_mapping_nc4",
        "byte_grid_mapping_nc4",
    )
    frames = [next(read(shared_data / f"faults/{kind}.nc")) for kind in kinds]
    for raw in frames[1:]:
        assert raw.grid == frames[0].grid
        np.testing.assert_array_equal(raw.values, frames[0].values)
    assert np.unique(frames[0].values).tolist() == [0, 5]


@pytest.mark.parametrize(
    ("name", "variable", "plane"),
    [
        (
            "RADNL_OPER_R___25PCPRR_L3__20110617T150000_20110617T150500_0001.nc",
            "precipitation",
            "proj4_params",
        ),
        ("openMRG_example_rad_20150827_90minutes.nc", "rainfall", "spatial_ref"),
    ],
)
def test_real_fields_lie_where_their_latitudes_say(shared_data, name, variable, plane):
    path = shared_data / "faults" / name
    with netcdf.opened(Source(path, Limits()), Limits()) as file:
        found = place(file, file.variables[variable], Limits())
    assert plane in found.note
    with h5py.File(path) as file:
        lat, lon = (found.orient(file[key][()], ("y", "x")) for key in ("lat", "lon"))
    row, column = found.grid.position(lon, lat)
    rows, columns = np.indices(found.grid.shape)
    assert np.abs(row - rows).max() < 0.01 and np.abs(column - columns).max() < 0.01
