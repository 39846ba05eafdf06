"""A forecast file is CF, complete or absent, cheap to read in part; the store serves the newest in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from nowcast.errors import NoForecast, OutsideDomain, UnknownDomain, UnknownModel, UnreadableFile
from nowcast.forecast import file as forecast_module
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.forecast.store import (
    ForecastStore,
    open_forecast,
    read_lead,
    read_point,
    read_record,
    write_forecast,
)
from nowcast.frame.frame import grid_of
from nowcast.frame.grid import METRES_PER_DEGREE, Grid

GRID = Grid.from_crs("EPSG:3035", nx=40, ny=30, x0=4.3e6, y0=3.6e6, dx=1000, dy=2000)
ISSUED = datetime(2026, 11, 21, 7, 10, tzinfo=UTC)
RECORD = ForecastRecord(
    domain="dk",
    issue_time=ISSUED,
    step_minutes=5,
    leads=3,
    model="extrapolation",
    model_version="1.2+abc",
    input_frames=("2026-11-21T07:00:00Z", "2026-11-21T07:05:00Z*", "2026-11-21T07:10:00Z"),
    degraded_reason="",
    grid=GRID,
    credit="Sää ja Vesi",
    zr=(223.0, 1.53),
)


def field(lead: int, grid: Grid = GRID) -> NDArray[np.float32]:
    """Rain at row 10, column ``lead``; dry elsewhere; the southernmost rows are not covered."""
    dbz = np.full(grid.shape, -10.0, dtype=np.float32)
    dbz[10, lead] = 20.0 + lead
    dbz[-3:] = np.nan
    return dbz


def prediction(leads: int = 3, grid: Grid = GRID, **more: Any) -> Prediction:
    return Prediction((Lead(field(lead, grid)) for lead in range(leads)), **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_forecast(tmp_path / "out.nc", RECORD, prediction())
    return tmp_path / "out.nc"


# The file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_file_is_what_the_format_promises(path: Path, engine: Any) -> None:
    with xr.open_dataset(path, engine=engine, decode_timedelta=False) as out:
        dbz = out["reflectivity"]
        assert dbz.dims == ("lead_time", "y", "x") and dbz.dtype == np.float32
        assert dbz.attrs["standard_name"] == "equivalent_reflectivity_factor" and dbz.attrs["units"] == "dBZ"
        for lead in range(3):
            np.testing.assert_array_equal(dbz[lead].values, field(lead))
        assert out["lead_time"].values.tolist() == [5, 10, 15]
        assert out["lead_time"].attrs["units"] == "minutes"
        assert out["lead_time"].attrs["standard_name"] == "forecast_period"
        assert out["forecast_reference_time"].values == np.datetime64("2026-11-21T07:10")
        assert out["forecast_reference_time"].shape == ()
        assert out["time"].dims == ("lead_time",)
        assert out["time"].values[2] == np.datetime64("2026-11-21T07:25")
        assert dbz.attrs["grid_mapping"] == "crs" and out["crs"].attrs["crs_wkt"] == GRID.crs_wkt
        assert grid_of(out) == GRID
        assert {key: out.attrs[key] for key in ("Conventions", "model", "model_version", "domain")} == {
            "Conventions": "CF-1.11",
            "model": "extrapolation",
            "model_version": "1.2+abc",
            "domain": "dk",
        }
        assert out.attrs["input_frames"] == " ".join(RECORD.input_frames)
        assert out.attrs["degraded_reason"] == "" and out.attrs["credit"] == "Sää ja Vesi"


def test_netcdf_library_sees_coordinates_and_reference_time(path: Path) -> None:
    with netCDF4.Dataset(path) as out:
        assert set(out["reflectivity"].coordinates.split()) == {"time", "forecast_reference_time"}
        assert out["forecast_reference_time"].standard_name == "forecast_reference_time"
        assert out["time"].standard_name == "time" and out["time"].calendar == "standard"
        assert np.ma.count_masked(out["reflectivity"][0]) == 3 * 40


def test_opened_forecast_is_lazy_and_decoded(path: Path) -> None:
    with open_forecast(path) as out:
        assert not out["reflectivity"].variable._in_memory
        assert out["reflectivity"].dtype == np.float32
        assert out["reflectivity"].sel(lead_time=10, method=None).values[10, 1] == 21.0
        assert {"time", "crs", "forecast_reference_time"} <= set(out.coords)


def test_record_comes_back(path: Path) -> None:
    assert read_record(path) == RECORD


def test_record_without_words_comes_back(tmp_path: Path) -> None:
    bare = replace(RECORD, credit="", input_frames=(), model_version="")
    write_forecast(tmp_path / "x.nc", bare, prediction())
    assert read_record(tmp_path / "x.nc") == bare


def test_a_file_from_before_there_was_a_choice_is_read_as_of_one_method(tmp_path: Path) -> None:
    mixed = {"in place": 0.12, "unfaded": -0.4}
    record = replace(
        RECORD, model="auto", methods=("a", "b", "a"), choice_reason="they won", base_weights=mixed
    )
    write_forecast(tmp_path / "x.nc", record, prediction())
    assert read_record(tmp_path / "x.nc") == record
    with h5py.File(tmp_path / "x.nc", "a") as file:
        assert file.attrs["base_weights"].decode() == "in place 0.12, unfaded -0.40"
        del file["method"], file.attrs["choice_reason"], file.attrs["base_weights"]
    old = read_record(tmp_path / "x.nc")
    assert old == replace(record, methods=(), choice_reason="", base_weights={})
    assert old.method_by_lead == ("auto", "auto", "auto")


def test_not_covered_no_echo_and_rain_stay_apart(tmp_path: Path) -> None:
    fields = np.full((3, 30, 40), -10.0, dtype=np.float32)
    fields[:, 0, :5] = np.nan, -10.0, -32.0, -np.inf, -9.99
    write_forecast(tmp_path / "x.nc", RECORD, Prediction(map(Lead, fields)))
    np.testing.assert_array_equal(
        read_lead(tmp_path / "x.nc", 0)[0, :5], np.array([np.nan, -10, -10, -10, -9.99], dtype=np.float32)
    )


def test_one_lead_and_one_point_are_read_alone(path: Path) -> None:
    for lead in range(3):
        np.testing.assert_array_equal(read_lead(path, lead), field(lead))
    assert read_point(path, 10, 1).tolist() == [-10.0, 21.0, -10.0]
    assert np.isnan(read_point(path, 29, 39)).all()


def test_leads_and_cells_that_are_not_there_are_named(path: Path) -> None:
    for lead in (-1, 3):
        with pytest.raises(NoForecast, match=f"from 0 to 2, got {lead}"):
            read_lead(path, lead)
    for cell in ((-1, 0), (30, 0), (0, 40), (0, -1)):
        with pytest.raises(OutsideDomain, match="30 x 40"):
            read_point(path, *cell)


def test_point_touches_one_tile_a_lead(tmp_path: Path) -> None:
    grid = Grid.from_crs("EPSG:3035", nx=1000, ny=700, x0=4.3e6, y0=3.6e6, dx=1000, dy=1000)
    write_forecast(tmp_path / "x.nc", replace(RECORD, grid=grid), prediction(grid=grid))
    with netCDF4.Dataset(tmp_path / "x.nc") as out:
        lead, rows, columns = out["reflectivity"].chunking()
    assert (lead, rows, columns) == (1, 234, 250)


def test_missing_file_is_no_forecast(tmp_path: Path) -> None:
    for read in (open_forecast, read_record, lambda path: read_lead(path, 0)):
        with pytest.raises(NoForecast):
            read(tmp_path / "nowhere.nc")


def test_damaged_file_is_unreadable(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 500)
    for read in (open_forecast, read_record, lambda path: read_point(path, 0, 0)):
        with pytest.raises(UnreadableFile, match=r"out\.nc"):
            read(path)


def test_foreign_netcdf_is_unreadable(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "x.nc", "w") as dataset:
        dataset.createDimension("x", 3)
    with pytest.raises(UnreadableFile, match=r"x\.nc"):
        read_record(tmp_path / "x.nc")


def test_method_that_yields_too_little_or_another_shape_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 3 fields, got 2"):
        write_forecast(tmp_path / "x.nc", RECORD, prediction(2))
    with pytest.raises(ValueError, match=r"\(30, 40\) cells, got \(3, 4\)"):
        write_forecast(tmp_path / "x.nc", RECORD, Prediction(map(Lead, [np.zeros((3, 4), np.float32)])))
    assert os.listdir(tmp_path) == []


def test_method_that_never_ends_is_asked_for_no_more_than_the_leads(tmp_path: Path) -> None:
    asked: list[int] = []

    def endless() -> Iterator[NDArray[np.float32]]:
        while True:
            asked.append(len(asked))
            yield field(0)

    write_forecast(tmp_path / "x.nc", RECORD, Prediction(map(Lead, endless())))
    assert asked == [0, 1, 2]


def test_method_may_reuse_its_array_and_keeps_it(tmp_path: Path) -> None:
    buffer = field(0)

    def reusing() -> Iterator[NDArray[np.float32]]:
        for lead in range(3):
            buffer[:] = field(lead)
            yield buffer

    write_forecast(tmp_path / "x.nc", RECORD, Prediction(map(Lead, reusing())))
    np.testing.assert_array_equal(buffer, field(2))
    for lead in range(3):
        np.testing.assert_array_equal(read_lead(tmp_path / "x.nc", lead), field(lead))


def test_one_lead_is_in_memory_at_a_time(tmp_path: Path) -> None:
    grid = Grid.from_crs("EPSG:3035", nx=1000, ny=1000, x0=4.3e6, y0=3.6e6, dx=1000, dy=1000)
    record = replace(RECORD, grid=grid, leads=12)
    write_forecast(tmp_path / "warm-up.nc", RECORD, prediction())
    tracemalloc.start()
    write_forecast(tmp_path / "x.nc", record, prediction(12, grid))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 1000 * 1000 * 4  # the lead, the one before it, its packed twin, tiles; all would be 12


def test_motion_is_kept_in_metres_a_second(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:30, :40].astype(np.float32)
    motion = np.stack([1.0 + rows / 10, -columns / 4]).astype(np.float32)  # cells a step: southward, eastward
    write_forecast(tmp_path / "x.nc", RECORD, prediction(motion=motion))
    with open_forecast(tmp_path / "x.nc") as out:
        assert out["motion_x"].dims == ("y_motion", "x_motion") and out["motion_x"].attrs["units"] == "m s-1"
        assert out["x_motion"].values.tolist() == GRID.x[[8, 24]].tolist()
        assert out["y_motion"].values.tolist() == GRID.y[[8, 24]].tolist()
        # 1 km wide, 2 km high cells in 300 s; row 8 moves 1.8 cells south, column 24 moves 6 cells west
        np.testing.assert_allclose(out["motion_y"].values[0], -1.8 * 2000 / 300, rtol=1e-6)
        np.testing.assert_allclose(out["motion_x"].values[:, 1], -6.0 * 1000 / 300, rtol=1e-6)


def test_motion_on_a_grid_of_degrees_counts_metres_on_the_ground(tmp_path: Path) -> None:
    grid = Grid.from_crs("EPSG:4326", nx=40, ny=30, x0=10.0, y0=60.4, dx=0.1, dy=0.05)
    motion = np.ones((2, 30, 40), dtype=np.float32)
    write_forecast(tmp_path / "x.nc", replace(RECORD, grid=grid), prediction(grid=grid, motion=motion))
    with open_forecast(tmp_path / "x.nc") as out:  # row 8 lies at 60 N, where a degree of longitude is half
        np.testing.assert_allclose(out["motion_x"][0], 0.1 * METRES_PER_DEGREE * 0.5 / 300, rtol=1e-5)
        np.testing.assert_allclose(out["motion_y"][0], -0.05 * METRES_PER_DEGREE / 300, rtol=1e-5)
        assert out["y_motion"].attrs["units"] == "degrees_north"


def test_grid_smaller_than_the_motion_spacing_keeps_one_vector(tmp_path: Path) -> None:
    grid = Grid.from_crs("EPSG:3035", nx=12, ny=11, x0=4.3e6, y0=3.6e6, dx=1000, dy=1000)
    motion = np.ones((2, 11, 12), dtype=np.float32)
    write_forecast(tmp_path / "x.nc", replace(RECORD, grid=grid), prediction(grid=grid, motion=motion))
    with open_forecast(tmp_path / "x.nc") as out:
        assert out["motion_x"].shape == (1, 1)


# The store -----------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ForecastStore:
    return ForecastStore(tmp_path / "forecasts")


def save(store: ForecastStore, minutes: int = 0, model: str = "extrapolation", **more: Any) -> Path:
    record = replace(RECORD, issue_time=ISSUED + timedelta(minutes=minutes), model=model)
    return store.save(record, prediction(), **more)


def test_forecast_lies_where_its_name_says(store: ForecastStore) -> None:
    path = save(store)
    folder = store.root / "dk" / "2026" / "11" / "21"
    assert (
        path == folder / "dk_20261121T071000Z_extrapolation.nc" == store.path("dk", ISSUED, "extrapolation")
    )
    assert os.listdir(folder) == [path.name]


def test_saving_again_keeps_the_first_and_computes_nothing(store: ForecastStore) -> None:
    path = save(store)
    before = path.stat()

    def never() -> Iterator[NDArray[np.float32]]:
        raise AssertionError("computed again")
        yield

    assert store.save(RECORD, Prediction(map(Lead, never()))) == path
    assert path.stat() == before


def test_forecast_another_worker_finished_first_is_not_replaced(store: ForecastStore) -> None:
    def overtaken() -> Iterator[NDArray[np.float32]]:
        save(store)
        for lead in range(3):
            yield field(lead) + 5.0

    path = store.save(RECORD, Prediction(map(Lead, overtaken())))
    np.testing.assert_array_equal(read_lead(path, 1), field(1))
    assert store.latest("dk") == (ISSUED, "extrapolation", path)


def test_what_is_stored_is_listed_by_time_and_model(store: ForecastStore) -> None:
    for minutes, model in (
        (5, "b_model"),
        (0, "persistence"),
        (0, "extrapolation"),
        (60 * 24, "extrapolation"),
    ):
        save(store, minutes, model)
    (store.root / "dk" / "2026" / "11" / "21" / "notes.nc").write_bytes(b"")
    (store.root / "dk" / "2026" / "11" / "21" / "dk_20261121T080000Z.nc").write_bytes(b"")
    times = [ISSUED, ISSUED + timedelta(minutes=5), ISSUED + timedelta(days=1)]
    assert store.issue_times("dk") == times
    assert store.issue_times("dk", ISSUED, times[1]) == times[:2]
    assert store.issue_times("dk", ISSUED + timedelta(minutes=1)) == times[1:]
    assert store.models("dk", ISSUED) == ["extrapolation", "persistence"]
    assert store.models("dk", times[1]) == ["b_model"]
    assert store.models("dk", ISSUED + timedelta(minutes=1)) == []
    asked = [ISSUED, times[1], ISSUED + timedelta(minutes=1)]
    assert store.models_of("dk", asked) == {time: store.models("dk", time) for time in asked}


def test_empty_store_has_nothing(store: ForecastStore) -> None:
    assert store.issue_times("dk") == [] and store.latest("dk") is None and store.models("dk", ISSUED) == []
    with pytest.raises(NoForecast, match="2026-11-21T07:10:00Z"):
        store.path("dk", ISSUED, "extrapolation")


def test_latest_is_the_newest_issue_time_in_whatever_order_they_come(store: ForecastStore) -> None:
    newest = save(store, 5)
    save(store, 0)
    save(store, -60, "persistence")
    assert store.latest("dk") == (ISSUED + timedelta(minutes=5), "extrapolation", newest)
    assert json.loads((store.root / "dk" / "latest.json").read_text()) == {
        "issue_time": "2026-11-21T07:15:00Z",
        "model": "extrapolation",
        "path": "dk/2026/11/21/dk_20261121T071500Z_extrapolation.nc",
    }


def test_forecast_for_comparison_only_is_never_the_latest(store: ForecastStore) -> None:
    save(store)
    save(store, 5, "persistence", serve=False)
    latest = store.latest("dk")
    assert latest is not None and latest[:2] == (ISSUED, "extrapolation")


def test_saving_again_after_a_crash_moves_the_pointer(store: ForecastStore) -> None:
    save(store)
    path = save(store, 5, serve=False)  # as if the writer was killed between the file and the pointer
    assert save(store, 5) == path
    latest = store.latest("dk")
    assert latest is not None and latest[2] == path


@pytest.mark.parametrize(
    "pointer",
    [
        "",
        "{}",
        "[]",
        '{"issue_time": "yesterday", "model": "extrapolation"}',
        '{"issue_time": "2026-11-21T07:10:00Z", "model": "../../../etc/passwd"}',
        '{"issue_time": "2026-11-21T07:10:00Z", "model": 7}',
        '{"issue_time": "2026-11-21T09:10:00Z", "model": "extrapolation"}',
    ],
)
def test_useless_pointer_is_replaced_by_a_look_at_the_files(store: ForecastStore, pointer: str) -> None:
    newest = save(store)
    save(store, -5)
    (store.root / "dk" / "latest.json").write_text(pointer)
    assert store.latest("dk") == (ISSUED, "extrapolation", newest)
    (store.root / "dk" / "latest.json").unlink()
    assert store.latest("dk") == (ISSUED, "extrapolation", newest)


def test_names_that_lead_elsewhere_are_unknown(store: ForecastStore) -> None:
    with pytest.raises(UnknownDomain):
        store.latest("../dk")
    for model in ("", "../x", "a/b", ".hidden"):
        with pytest.raises(UnknownModel):
            store.path("dk", ISSUED, model)


def test_pruning_removes_the_old_and_keeps_the_latest(store: ForecastStore) -> None:
    for minutes in (0, -5, -60 * 24, -60 * 24 * 40):
        save(store, minutes)
    save(store, -5, "persistence")
    assert store.prune("dk", ISSUED - timedelta(minutes=5)) == 2
    assert store.issue_times("dk") == [ISSUED - timedelta(minutes=5), ISSUED]
    assert sorted(path.name for path in (store.root / "dk" / "2026").iterdir()) == ["11"]
    assert store.prune("dk", ISSUED + timedelta(days=365)) == 2
    latest = store.latest("dk")
    assert latest is not None and latest[0] == ISSUED and latest[2].exists()


def test_workers_saving_the_same_forecast_get_the_same_file(store: ForecastStore) -> None:
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if save(store).exists() else 2
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
    assert store.issue_times("dk") == [ISSUED]
    np.testing.assert_array_equal(read_lead(store.path("dk", ISSUED, "extrapolation"), 1), field(1))
    assert not list(store.root.rglob("*.tmp"))


FULL_DISK = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
import numpy as np
from nowcast.errors import StorageError
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.frame.grid import Grid
from nowcast.forecast.store import ForecastStore
grid = Grid.from_crs("EPSG:3035", nx=300, ny=300, x0=0, y0=0, dx=1000, dy=1000)
record = ForecastRecord("dk", datetime(2026, 11, 21, tzinfo=UTC), 5, 3, "noise", "1", (), "", grid)
noise = np.random.default_rng(0).uniform(-10, 60, (3, 300, 300)).astype(np.float32)
store = ForecastStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    store.save(record, Prediction(map(Lead, noise)))
except StorageError as error:
    print(error)
print(store.latest("dk"), [path.name for path in Path(sys.argv[1]).rglob("*") if path.is_file()])
"""


def test_full_disk_leaves_no_half_forecast_and_no_pointer(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    path = tmp_path / "dk" / "2026" / "11" / "21" / "dk_20261121T000000Z_noise.nc"
    assert done.stdout == f"cannot write {path}: the disk is full\nNone []\n", done.stderr


def test_store_passes_the_functions_of_the_file_on() -> None:
    assert write_forecast is forecast_module.write_forecast
