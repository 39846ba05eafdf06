"""The archive gives back what it was given, refuses what contradicts it, and survives whatever stops it."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nowcast.archive.archive import Archive
from nowcast.disk import durable, netcdf
from nowcast.errors import (
    DuplicateFrame,
    MissingExtra,
    NoFrame,
    StorageError,
    UnknownDomain,
    UnreadableFile,
    WrongGrid,
)
from nowcast.frame.frame import frame_array, grid_of, time_of
from nowcast.frame.grid import Grid

GRID = Grid.from_crs(
    "+proj=laea +lat_0=55 +lon_0=10 +datum=WGS84", nx=40, ny=30, x0=-2e4, y0=3e4, dx=1000, dy=999.7
)
START = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)
DAY = date(2026, 11, 21)
ATTRIBUTES = {
    "source": "made up",
    "quantity": "DBZH",
    "interval_minutes": 5.0,
    "zr_a": 200.0,
    "bounded_pixels": 3,
}


def rain(step: int, grid: Grid = GRID) -> np.ndarray[Any, Any]:
    """A Gaussian cell of 45 dBZ moving two columns a step, dry around it; a corner is not observed."""
    rows, columns = np.mgrid[: grid.ny, : grid.nx]
    bell = 60.0 * np.exp(-((rows - 15) ** 2 + (columns - 5 - 2 * step) ** 2) / 30.0) - 15.0
    dbz = np.maximum(bell, -10.0).astype(np.float32)
    dbz[:4, :5] = np.nan
    return dbz


def frame(step: int = 0, grid: Grid = GRID, **changes: Any) -> xr.DataArray:
    return frame_array(rain(step, grid), grid, START + timedelta(minutes=5 * step), {**ATTRIBUTES, **changes})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def fill(archive: Archive, *steps: int) -> list[datetime]:
    for step in steps:
        assert archive.add("dk", frame(step))
    return [START + timedelta(minutes=5 * step) for step in steps]


def version(path: Path) -> tuple[int, int]:
    """What changes when a file is replaced or written to."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def same_frame(kept: xr.DataArray, given: xr.DataArray) -> bool:
    """Identical but for the packing: coordinates, attributes and states exactly, values to half a step."""
    xr.testing.assert_identical(kept.copy(data=given.values), given)
    np.testing.assert_array_equal(np.isnan(kept.values), np.isnan(given.values))
    np.testing.assert_array_equal(kept.values == -10.0, given.values < -9.995)
    np.testing.assert_allclose(kept.values, given.values, atol=0.005001)
    return kept.dtype == np.float32


# One frame ---------------------------------------------------------------------------------


def test_frame_comes_back_as_it_was_added(archive: Archive) -> None:
    assert archive.add("dk", frame()) is True
    assert archive.has("dk", START)
    assert same_frame(archive.load("dk", START), frame())
    assert same_frame(Archive(archive.root).load("dk", START), frame())


def test_file_lies_where_its_name_and_time_say(archive: Archive) -> None:
    fill(archive, 0)
    expected = archive.root / "dk" / "2026" / "11" / "21" / "dk_20261121T070000Z.nc"
    assert archive.path("dk", START) == expected and expected.is_file()
    assert archive.domains() == ["dk"]


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        (3, 4),
        elements=st.one_of(
            st.floats(-10, 75, width=32), st.just(float("nan")), st.just(-10.0), st.just(float("-inf"))
        ),
    )
)
def test_packing_keeps_states_apart_and_values_to_half_a_step(dbz: np.ndarray[Any, Any]) -> None:
    kept = netcdf.unpack(netcdf.pack(dbz))
    np.testing.assert_array_equal(np.isnan(kept), np.isnan(dbz))
    assert np.all(kept[dbz <= -10.0] == np.float32(-10.0))
    finite = np.isfinite(dbz)
    np.testing.assert_allclose(kept[finite], dbz[finite], atol=0.005004)
    np.testing.assert_array_equal(netcdf.pack(kept), netcdf.pack(dbz))


def test_quarters_of_a_dbz_are_exact_whatever_library_decodes_them(archive: Archive) -> None:
    quarters = np.resize(np.arange(-10, 75.25, 0.25, dtype=np.float32), GRID.shape)
    archive.add("dk", frame_array(quarters, GRID, START))
    np.testing.assert_array_equal(archive.load("dk", START).values, quarters)
    for engine in ("h5netcdf", "netcdf4"):
        with xr.open_dataset(archive.path("dk", START), engine=engine) as dataset:
            assert dataset["reflectivity"].dtype == np.float32
            np.testing.assert_array_equal(dataset["reflectivity"].values, quarters)


def test_values_beyond_the_packing_are_bounded_not_wrapped() -> None:
    dbz = np.array([[400.0, np.inf, -400.0]], dtype=np.float32)
    np.testing.assert_allclose(netcdf.unpack(netcdf.pack(dbz)), [[327.67, 327.67, -10.0]], rtol=1e-6)


def test_grid_larger_than_a_tile_comes_back(archive: Archive) -> None:
    grid = Grid.from_crs("EPSG:4326", nx=530, ny=301, x0=5.005, y0=56.995, dx=0.01, dy=0.01)
    archive.add("dk", frame(0, grid))
    assert same_frame(archive.load("dk", START), frame(0, grid))
    assert archive.grid("dk") == grid


def test_same_content_again_is_known(archive: Archive) -> None:
    archive.add("dk", frame())
    before = version(archive.path("dk", START))
    assert archive.add("dk", frame()) is False
    assert archive.add("dk", frame(source="sent twice")) is False
    assert version(archive.path("dk", START)) == before


def test_other_content_of_a_known_time_is_refused(archive: Archive) -> None:
    archive.add("dk", frame())
    other = frame()
    other.values[20, 20] = 30.0
    with pytest.raises(DuplicateFrame, match="2026-11-21T07:00:00Z"):
        archive.add("dk", other)
    assert same_frame(archive.load("dk", START), frame())


def test_no_echo_turned_into_not_observed_is_other_content(archive: Archive) -> None:
    archive.add("dk", frame())
    other = frame()
    other.values[29, 0] = np.nan
    with pytest.raises(DuplicateFrame):
        archive.add("dk", other)


def test_all_frames_of_a_domain_share_its_first_grid(archive: Archive) -> None:
    assert archive.grid("dk") is None
    fill(archive, 0)
    moved = Grid(GRID.crs_wkt, GRID.nx, GRID.ny, GRID.x0 + 500, GRID.y0, GRID.dx, GRID.dy)
    for fresh in (archive, Archive(archive.root)):
        with pytest.raises(WrongGrid, match="30 x 40 cells"):
            fresh.add("dk", frame(1, moved))
    nearly = Grid(GRID.crs_wkt, GRID.nx, GRID.ny, GRID.x0 + 1, GRID.y0, GRID.dx, GRID.dy)
    assert archive.add("dk", frame(1, nearly))
    assert (
        grid_of(archive.load("dk", START + timedelta(minutes=5))) == GRID == Archive(archive.root).grid("dk")
    )
    assert archive.add("other", frame(0, moved))


def test_file_follows_the_cf_conventions(archive: Archive) -> None:
    fill(archive, 0)
    with netCDF4.Dataset(archive.path("dk", START)) as dataset:
        assert dataset.Conventions == "CF-1.11"
        assert dataset.source == "made up" and dataset.domain == "dk"
        values = dataset["reflectivity"]
        assert values.dimensions == ("y", "x") and values.dtype == np.int16
        assert values.standard_name == "equivalent_reflectivity_factor" and values.units == "dBZ"
        assert values._FillValue == -32768 and values.scale_factor.dtype == np.float32
        assert dataset[values.grid_mapping].crs_wkt == GRID.crs_wkt
        assert dataset[values.coordinates].units == "seconds since 1970-01-01 00:00:00"
        assert dataset["time"].calendar == "standard" and dataset["time"][...] == START.timestamp()
        assert dataset["y"].standard_name == "projection_y_coordinate" and dataset["y"].units == "m"
        np.testing.assert_array_equal(dataset["y"][:], GRID.y)
        for variable in dataset.variables.values():
            for name in variable.ncattrs():
                if isinstance(variable.getncattr(name), str):  # characters, which ncdump shows plainly
                    assert "string" not in str(variable.getncattr(name).__class__)


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_xarray_opens_frames_and_cubes(archive: Archive, engine: Any) -> None:
    fill(archive, 0, 1)
    for compacted in (False, True):
        if compacted:
            archive.compact("dk", DAY)
        with xr.open_dataset(archive.path("dk", START), engine=engine, decode_coords="all") as dataset:
            array = dataset["reflectivity"]
            first = array.isel(time=0) if compacted else array
            np.testing.assert_allclose(first.values, rain(0), atol=0.005001)
            assert first["time"].values == np.datetime64("2026-11-21T07:00:00")
            assert grid_of(dataset) == GRID


def test_attributes_that_belong_to_the_encoding_do_no_harm(archive: Archive) -> None:
    archive.add(
        "dk", frame(scale_factor=7.0, _FillValue=0, coordinates="lat lon", note="", place="Jyväskylä")
    )
    kept = archive.load("dk", START)
    np.testing.assert_allclose(kept.values, rain(0), atol=0.005001)
    assert kept.attrs["note"] == "" and kept.attrs["place"] == "Jyväskylä"


def test_domain_that_leads_elsewhere_is_unknown(archive: Archive) -> None:
    for name in ("../dk", "", "a/b", ".hidden", "..", "dk\n"):
        with pytest.raises(UnknownDomain):
            archive.times(name)


# Many frames -------------------------------------------------------------------------------


def test_times_are_in_order_and_bounds_are_included(archive: Archive) -> None:
    midnight = datetime(2026, 12, 1, tzinfo=UTC)
    times = [midnight + timedelta(minutes=minutes) for minutes in (5, -5, 0, 60 * 24, -60 * 24 * 40)]
    for moment in times:
        archive.add("dk", frame_array(rain(0), GRID, moment))
    assert archive.times("dk") == sorted(times)
    assert archive.times("dk", midnight - timedelta(minutes=5), midnight) == sorted(times)[1:3]
    assert archive.times("dk", midnight, midnight) == [midnight]
    assert archive.times("dk", start=midnight + timedelta(minutes=1)) == sorted(times)[3:]
    assert archive.times("dk", end=midnight - timedelta(minutes=1)) == sorted(times)[:2]
    assert archive.newest("dk") == midnight + timedelta(days=1)


def test_domain_without_frames_has_none_of_anything(archive: Archive) -> None:
    assert archive.times("dk") == [] and archive.newest("dk") is None and archive.domains() == []
    assert not archive.has("dk", START) and archive.compact("dk", DAY) is None
    assert list(archive.damaged("dk")) == [] and not archive.root.exists()
    for ask in (archive.load, archive.path):
        with pytest.raises(NoFrame, match="2026-11-21T07:00:00Z"):
            ask("dk", START)


def test_only_the_days_asked_for_are_listed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in range(0, 60, 10):
        archive.add("dk", frame_array(rain(0), GRID, START + timedelta(days=days)))
    visited: list[Path] = []
    listing = durable.listing
    monkeypatch.setattr(durable, "listing", lambda folder: visited.append(folder) or listing(folder))
    assert len(archive.times("dk", START + timedelta(days=9), START + timedelta(days=11))) == 1
    assert [path.name for path in visited if len(path.relative_to(archive.root).parts) == 4] == ["01"]


def test_foreign_and_damaged_files_do_not_disturb_the_listing(archive: Archive) -> None:
    times = fill(archive, 0, 1)
    day = archive.path("dk", START).parent
    for name in (
        "notes.txt",
        "dk_20261121T0700.nc",
        "no_20261121T071500Z.nc",
        "dk_20261122T000000Z.nc",
        ".x.1.tmp",
    ):
        (day / name).write_bytes(b"foreign")
    (day.parent / "dk_20261122.nc").write_bytes(b"no netCDF")
    (day.parent / "dk_2026112x.nc").write_bytes(b"")
    (day.parent / "31").write_bytes(b"a file, not a day")
    (day.parents[2] / "1999").mkdir()
    (archive.root / ".snapshots").mkdir()
    (archive.root / "README").write_bytes(b"")
    assert archive.times("dk") == times
    assert archive.newest("dk") == times[-1]
    assert archive.domains() == ["dk"]
    assert archive.grid("dk") == Archive(archive.root).grid("dk") == GRID


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_a_byte_of_the_values(path: Path) -> None:
    with h5py.File(path) as file:
        offset = file["reflectivity"].id.get_chunk_info(0).byte_offset + 40
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def take_the_values_away(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["reflectivity"]


def put_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(5000))


DAMAGES = [truncate, empty, flip_a_byte_of_the_values, take_the_values_away, put_noise]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("compacted", [False, True])
def test_damaged_file_is_reported_and_never_taken_for_rain(
    archive: Archive, damage: Callable[[Path], None], compacted: bool
) -> None:
    fill(archive, 0, 1, 300)
    if compacted:
        archive.compact("dk", DAY)
    path = archive.path("dk", START)
    damage(path)
    fresh = Archive(archive.root)
    with pytest.raises(UnreadableFile, match=path.name):
        fresh.load("dk", START)
    assert [found for found, _ in fresh.damaged("dk")] == [path]
    assert fresh.newest("dk") == START + timedelta(minutes=1500)
    assert fresh.grid("dk") == GRID
    assert same_frame(fresh.load("dk", START + timedelta(minutes=1500)), frame(300))


def test_damaged_frame_stays_listed_and_damaged_cube_is_logged(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    times = fill(archive, 0, 1, 300)
    truncate(archive.path("dk", START))
    assert archive.times("dk") == times
    os.remove(archive.path("dk", START))
    cube = archive.compact("dk", DAY)
    assert cube is not None
    truncate(cube)
    with caplog.at_level(logging.WARNING):
        assert Archive(archive.root).times("dk") == times[2:]
    assert cube.name in caplog.text


@pytest.mark.parametrize("damage", [truncate, empty, put_noise])
def test_sound_frame_takes_the_place_of_a_damaged_file(
    archive: Archive, damage: Callable[[Path], None]
) -> None:
    fill(archive, 0, 1)
    path = archive.path("dk", START)
    damage(path)
    assert archive.add("dk", frame()) is True
    assert same_frame(archive.load("dk", START), frame())
    assert [name for name in os.listdir(path.parent) if ".damaged-" in name]
    assert len(archive.times("dk")) == 2


def test_damaged_cube_does_not_keep_its_frames_from_coming_back(archive: Archive) -> None:
    fill(archive, 0, 1)
    cube = archive.compact("dk", DAY)
    assert cube is not None
    truncate(cube)
    assert archive.add("dk", frame()) is True
    assert same_frame(archive.load("dk", START), frame())
    with pytest.raises(UnreadableFile, match=cube.name):  # a person must decide about the others
        archive.compact("dk", DAY)
    assert archive.has("dk", START)


def test_frame_damaged_beside_its_cube_is_read_from_the_cube(archive: Archive) -> None:
    fill(archive, 0, 1)
    own = archive.path("dk", START)
    archive.compact("dk", DAY)
    own.write_bytes(b"what a disk may leave of a file that was about to be removed")
    assert same_frame(archive.load("dk", START), frame())
    own.unlink()


def test_file_renamed_to_another_time_is_not_believed(archive: Archive) -> None:
    fill(archive, 0)
    path = archive.path("dk", START)
    path.rename(path.with_name("dk_20261121T071500Z.nc"))
    with pytest.raises(UnreadableFile, match="it holds one of 2026-11-21 07:00"):
        archive.load("dk", START + timedelta(minutes=15))


def test_threads_may_read_at_once(archive: Archive) -> None:
    times = fill(archive, *range(8))
    archive.compact("dk", DAY)
    fill(archive, *range(300, 308))
    problems: list[BaseException] = []

    def read() -> None:
        try:
            for step, moment in enumerate(times):
                assert same_frame(archive.load("dk", moment), frame(step))
                assert len(archive.times("dk")) == 16
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_threads_may_add_at_once(archive: Archive) -> None:
    fill(archive, 0)
    grid = Grid.from_crs("EPSG:3035", nx=600, ny=600, x0=0, y0=0, dx=1000, dy=1000)
    with ThreadPoolExecutor(4) as pool:
        for step in range(8):
            pool.submit(Archive(archive.root).add, f"d{step % 4}", frame(step, grid))
    assert [len(archive.times(f"d{index}")) for index in range(4)] == [2, 2, 2, 2]
    assert [list(archive.damaged(f"d{index}")) for index in range(4)] == [[], [], [], []]


# Compaction --------------------------------------------------------------------------------


def frame_files(archive: Archive) -> list[str]:
    return sorted(path.name for path in archive.root.rglob("dk_*T*.nc"))


def test_compacted_day_gives_the_same_frames_from_one_file(archive: Archive) -> None:
    times = fill(archive, 2, 0, 1, 300)
    before = [archive.load("dk", moment) for moment in sorted(times)]
    cube = archive.compact("dk", DAY)
    assert cube == archive.root / "dk" / "2026" / "11" / "dk_20261121.nc"
    assert frame_files(archive) == ["dk_20261122T080000Z.nc"]
    assert archive.path("dk", START) == cube and archive.has("dk", START)
    assert archive.times("dk") == sorted(times)
    for fresh in (archive, Archive(archive.root)):
        for kept in before:
            xr.testing.assert_identical(fresh.load("dk", time_of(kept)), kept)
    assert not archive.has("dk", START + timedelta(minutes=55))
    with pytest.raises(NoFrame):
        archive.load("dk", START + timedelta(minutes=55))


def test_compacting_again_changes_nothing(archive: Archive) -> None:
    fill(archive, 0, 1)
    cube = archive.compact("dk", DAY)
    assert cube is not None
    before = version(cube)
    assert archive.compact("dk", DAY) == cube
    assert version(cube) == before


def test_known_and_contradicting_frames_are_told_apart_after_compaction(archive: Archive) -> None:
    fill(archive, 0, 1)
    archive.compact("dk", DAY)
    assert archive.add("dk", frame(1)) is False
    other = frame(1)
    other.values[20, 20] = 30.0
    with pytest.raises(DuplicateFrame):
        archive.add("dk", other)
    assert frame_files(archive) == []


def test_late_frames_join_a_compacted_day(archive: Archive) -> None:
    times = fill(archive, 0, 3)
    archive.compact("dk", DAY)
    times += fill(archive, 1, 4)
    assert archive.times("dk") == sorted(times)
    assert frame_files(archive) == ["dk_20261121T070500Z.nc", "dk_20261121T072000Z.nc"]
    archive.compact("dk", DAY)
    assert frame_files(archive) == []
    assert archive.times("dk") == sorted(times)
    for step in (0, 1, 3, 4):
        assert same_frame(archive.load("dk", START + timedelta(minutes=5 * step)), frame(step))


def test_cube_of_other_tiles_is_still_merged(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(archive, 0)
    archive.compact("dk", DAY)
    monkeypatch.setattr(netcdf, "TILE_CELLS", 16)
    fill(archive, 1)
    archive.compact("dk", DAY)
    for step in (0, 1):
        assert same_frame(archive.load("dk", START + timedelta(minutes=5 * step)), frame(step))
    assert list(archive.damaged("dk")) == []


def test_damaged_frame_stops_compaction_and_nothing_is_removed(archive: Archive) -> None:
    fill(archive, 0, 1, 2)
    flip_a_byte_of_the_values(archive.path("dk", START + timedelta(minutes=5)))
    before = frame_files(archive)
    with pytest.raises(UnreadableFile, match=r"dk_20261121\.nc is not written"):
        archive.compact("dk", DAY)
    assert frame_files(archive) == before
    assert sorted(path.name for path in archive.root.rglob("*.nc")) == before
    assert not [path for path in archive.root.rglob("*.tmp")]


def test_frames_of_two_grids_in_one_day_are_not_compacted(archive: Archive, tmp_path: Path) -> None:
    fill(archive, 0)
    other = Archive(tmp_path / "other")
    other.add("dk", frame(1, Grid(GRID.crs_wkt, GRID.nx, GRID.ny, 0.0, 0.0, 1000.0, 1000.0)))
    stray = other.path("dk", START + timedelta(minutes=5))
    stray.rename(archive.path("dk", START).with_name(stray.name))
    with pytest.raises(WrongGrid, match=stray.name):
        archive.compact("dk", DAY)
    assert len(frame_files(archive)) == 2


def test_two_compactions_wait_for_each_other(archive: Archive) -> None:
    fill(archive, 0, 1)
    go = archive.root / "go"
    child = os.fork()  # before the lock is taken, for a child inherits what its parent holds
    if child == 0:
        while not go.exists() and os.getppid() != 1:
            time.sleep(0.005)
        Archive(archive.root).compact("dk", DAY)
        os._exit(0)
    with durable.locked(archive.root / "dk" / ".compact.lock"):
        go.touch()
        time.sleep(0.3)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        assert len(frame_files(archive)) == 2
    assert os.waitpid(child, 0)[1] == 0
    assert frame_files(archive) == []


def test_full_disk_is_met_before_the_cube_is_begun(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(archive, 0, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="the disk is full"):
        archive.compact("dk", DAY)
    assert len(frame_files(archive)) == 2


def die_at(step: int) -> None:
    """Make the process die, without any clean-up, at its ``step``-th touch of the disk."""
    count = 0
    for name in ("fsync", "replace", "unlink", "open", "link"):
        original = getattr(os, name)

        def touch(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                os.kill(os.getpid(), signal.SIGKILL)
            return _original(*args, **kwargs)

        setattr(os, name, touch)


def killed_child(work: Callable[[], object], step: int) -> bool:
    """Run ``work`` in a child that dies at a step; return whether it got to its end."""
    child = os.fork()
    if child == 0:
        die_at(step)
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_compaction_killed_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    expected = [START + timedelta(minutes=5 * step) for step in range(4)]
    before = Archive(tmp_path / "before")
    fill(before, 0, 2)
    before.compact("dk", DAY)
    fill(before, 1, 3)
    step, finished = 0, False
    while not finished:
        archive = Archive(tmp_path / str(step))
        shutil.copytree(before.root, archive.root)
        finished = killed_child(lambda: Archive(archive.root).compact("dk", DAY), step)  # noqa: B023
        for _ in range(2):
            after = Archive(archive.root)
            assert after.times("dk") == expected, step
            for index, moment in enumerate(expected):
                assert same_frame(after.load("dk", moment), frame(index))
            assert list(after.damaged("dk")) == []
            assert after.compact("dk", DAY) is not None  # and then once more, after it finished the work
            assert frame_files(after) == []
        step += 1
    assert step > 10


def test_adding_killed_at_any_step_keeps_all_or_nothing(tmp_path: Path) -> None:
    step, finished = 0, False
    outcomes = set()
    while not finished:
        archive = Archive(tmp_path / str(step))
        fill(archive, 0)
        finished = killed_child(lambda: Archive(archive.root).add("dk", frame(1)), step)  # noqa: B023
        kept = archive.times("dk")
        assert kept in ([START], [START, START + timedelta(minutes=5)])
        outcomes.add(len(kept))
        assert archive.add("dk", frame(1)) is (len(kept) == 1)
        assert same_frame(archive.load("dk", START + timedelta(minutes=5)), frame(1))
        step += 1
    assert outcomes == {1, 2} and step > 3


# Several processes -------------------------------------------------------------------------


def race(count: int, work: Callable[[int], int]) -> list[int]:
    """Start ``count`` processes at one instant; return what each exits with."""
    begin = time.monotonic() + 0.05
    children = []
    for index in range(count):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                while time.monotonic() < begin:
                    pass
                code = work(index)
            finally:
                os._exit(code)
        children.append(child)
    return sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def test_processes_adding_the_same_frame_agree_that_one_was_first(tmp_path: Path) -> None:
    for attempt in range(5):
        root = tmp_path / str(attempt)
        assert race(4, lambda _: int(Archive(root).add("dk", frame()))) == [0, 0, 0, 1]  # noqa: B023
        assert same_frame(Archive(root).load("dk", START), frame())
        assert not list(root.rglob("*.tmp"))


def test_processes_adding_different_frames_of_one_time_cannot_both_win(tmp_path: Path) -> None:
    for attempt in range(5):
        root = tmp_path / str(attempt)

        def add(index: int) -> int:
            mine = frame()
            mine.values[20, 20] = 30.0 + index
            try:
                return int(Archive(root).add("dk", mine))  # noqa: B023
            except DuplicateFrame:
                return 7

        assert race(4, add) == [1, 7, 7, 7]


def test_readers_and_writers_go_on_during_compaction(archive: Archive) -> None:
    fill(archive, *range(0, 40, 2))

    def work(index: int) -> int:
        mine = Archive(archive.root)
        if index == 0:
            for _ in range(3):
                mine.compact("dk", DAY)
        elif index == 1:
            for step in range(1, 40, 2):
                assert mine.add("dk", frame(step))
        else:
            for step in 3 * list(range(0, 40, 2)):
                assert same_frame(mine.load("dk", START + timedelta(minutes=5 * step)), frame(step))
                assert len(mine.times("dk")) >= 20
        return 0

    assert race(4, work) == [0, 0, 0, 0]
    archive.compact("dk", DAY)
    assert archive.times("dk") == [START + timedelta(minutes=5 * step) for step in range(40)]
    assert frame_files(archive) == [] and list(archive.damaged("dk")) == []


def test_frame_added_while_its_like_is_compacted_away_is_not_doubled(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(archive, 0)
    write = durable.write_bytes

    def late_write(*args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        other = Archive(archive.root)
        other.add("dk", frame(1))
        other.compact("dk", DAY)
        write(*args, **kwargs)

    monkeypatch.setattr(durable, "write_bytes", late_write)
    assert archive.add("dk", frame(1)) is False
    assert frame_files(archive) == []


def test_full_disk_leaves_no_half_frame(tmp_path: Path) -> None:
    grid = Grid.from_crs("EPSG:3035", nx=300, ny=300, x0=0, y0=0, dx=1000, dy=1000)
    noise = np.random.default_rng(0).uniform(-10, 60, (300, 300)).astype(np.float32)
    root, said = tmp_path / "archive", tmp_path / "said"
    child = os.fork()  # for the bound on sizes of files cannot be lifted again
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            Archive(root).add("dk", frame_array(noise, grid, START))
        except StorageError as error:
            said.write_text(str(error))
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    path = root / "dk" / "2026" / "11" / "21" / "dk_20261121T070000Z.nc"
    assert said.read_text() == f"cannot write {path}: the disk is full"
    assert Archive(root).times("dk") == []
    assert [path.name for path in root.rglob("*") if path.is_file()] == []


# Export ------------------------------------------------------------------------------------


def test_exported_store_holds_the_frames_one_time_a_chunk(archive: Archive, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    fill(archive, 0, 1)
    archive.compact("dk", DAY)
    fill(archive, 2)
    target = tmp_path / "dk.zarr"
    assert archive.export("dk", target) == 3
    with xr.open_zarr(target, consolidated=False, chunks=None) as store:
        assert store["reflectivity"].dims == ("time", "y", "x")
        assert store["reflectivity"].encoding["chunks"] == (1, 30, 40)
        assert grid_of(store) == GRID
        for step in range(3):
            np.testing.assert_array_equal(
                store["reflectivity"][step].values,
                archive.load("dk", START + timedelta(minutes=5 * step)).values,
            )
            assert store["time"].values[step] == np.datetime64("2026-11-21T07:00") + 5 * step
    assert json.loads((target / "zarr.json").read_text())["zarr_format"] == 3


def test_export_takes_the_period_asked_for(archive: Archive, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    times = fill(archive, 0, 1, 2)
    assert archive.export("dk", tmp_path / "z", times[1], times[1]) == 1
    with pytest.raises(NoFrame):
        archive.export("dk", tmp_path / "none", end=START - timedelta(days=1))
    assert not (tmp_path / "none").exists()


def test_export_refuses_to_overwrite(archive: Archive, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    fill(archive, 0)
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "precious").write_bytes(b"")
    with pytest.raises(StorageError, match="exists already"):
        archive.export("dk", tmp_path / "z")
    assert os.listdir(tmp_path / "z") == ["precious"]


def test_export_that_fails_half_way_leaves_nothing(archive: Archive, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    fill(archive, 0, 1)
    truncate(archive.path("dk", START + timedelta(minutes=5)))
    with pytest.raises(UnreadableFile):
        archive.export("dk", tmp_path / "z")
    assert os.listdir(tmp_path) == ["archive"]


def test_export_holds_one_frame_at_a_time(archive: Archive, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    grid = Grid.from_crs("EPSG:3035", nx=512, ny=512, x0=0, y0=0, dx=1000, dy=1000)
    for step in range(16):
        archive.add("dk", frame(step, grid))
    archive.export("dk", tmp_path / "warm-up", START, START)
    tracemalloc.start()
    archive.export("dk", tmp_path / "z")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 512 * 512 * 4  # a frame, its packed twin, its chunk and working space; all would be 16


def test_export_without_zarr_names_the_extra(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(archive, 0)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingExtra, match=r"nowcast-service\[zarr\]"):
        archive.export("dk", tmp_path / "z")


# Real frames -------------------------------------------------------------------------------
REAL = {
    "fmi_pgm/20170509": "201705091200_fmi*",
    "knmi_pcp_2021/2021-02-06-2005": "*",
    "opera_odyssey_rate_20180824": "*",
    "dwd_radolan_yw_20170816": "*",
    "bom_rf3/66_brisbane_c10_20201031": "*",
}


@pytest.mark.parametrize("folder", REAL)
def test_real_frame_comes_back_with_its_three_states(
    archive: Archive, shared_data: Path, folder: str
) -> None:
    from nowcast.frame.domain import Domain
    from nowcast.frame.frame import normalise
    from nowcast.readers import read

    paths = sorted(path for path in (shared_data / "train" / folder).glob(REAL[folder]) if path.is_file())
    if not paths:
        pytest.skip(f"no real file in {folder}")
    raw = next(read(paths[0]))
    given = normalise(raw, Domain("real", int(raw.interval_minutes or 5)))
    assert archive.add("real", given) is True
    kept = archive.load("real", time_of(given))
    assert same_frame(kept, given)
    archive.compact("real", time_of(given).date())
    xr.testing.assert_identical(archive.load("real", time_of(given)), kept)
    assert np.isfinite(kept.values).any() and (kept.values > 10.0).any()
