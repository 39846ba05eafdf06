"""The public checker finds no error against CF-1.11 in anything the service writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cf_checker import errors_in
from weather import DOMAIN, GRID, START, raw_frames

from nowcast.archive.archive import Archive
from nowcast.compute import Compute
from nowcast.forecast.file import write_forecast
from nowcast.forecast.prediction import Layer, Lead, MemberField, Members, Prediction
from nowcast.frame.frame import normalise
from nowcast.frame.grid import Grid
from nowcast.methods.answer import issue
from nowcast.methods.cube import Cube, build_cube

pytest.importorskip("compliance_checker", reason="the public CF checker is an oracle, not a dependency")

DEGREES = Grid.from_crs("EPSG:4326", nx=40, ny=30, x0=20.0, y0=62.0, dx=0.02, dy=0.01)


def cube_on(grid: Grid) -> Cube:
    domain = replace(DOMAIN, grid=grid)
    frames = []
    for raw in raw_frames(4):
        rows, columns = np.arange(grid.ny) % raw.grid.ny, np.arange(grid.nx) % raw.grid.nx
        frames.append(normalise(replace(raw, grid=grid, values=raw.values[np.ix_(rows, columns)]), domain))
    return build_cube(frames, step_minutes=5, history=4)


@pytest.mark.parametrize("grid", [GRID, DEGREES], ids=["metres", "degrees"])
def test_a_forecast_file_keeps_the_conventions(tmp_path: Path, grid: Grid) -> None:
    domain = replace(DOMAIN, grid=grid, leads=2)
    record, prediction = issue(cube_on(grid), domain, Compute(), model="sprog")
    assert prediction.motion is not None
    write_forecast(tmp_path / "out.nc", record, prediction)
    assert errors_in(tmp_path / "out.nc") == []
    with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf", decode_timedelta=False) as forecast:
        assert forecast["motion_x"].dims == forecast["motion_y"].dims == ("y_motion", "x_motion")


def test_probabilities_layers_and_members_keep_them_too(tmp_path: Path) -> None:
    domain = replace(DOMAIN, grid=GRID, leads=2)
    record, plain = issue(cube_on(GRID), domain, Compute(), model="extrapolation")
    half = np.full(GRID.shape, 0.5, np.float32)
    layers = {
        "doubt": Layer("doubt", "1", "the larger, the less sure"),
        "age": Layer("age of the echo", "min", "since it was first seen", of_frame=lambda: half),
    }
    leads = [Lead(field, lambda: np.stack([half, half]), {"doubt": lambda: half}) for field in plain.fields]
    members = Members(2, (MemberField(m, k, leads[k].field) for m in range(2) for k in range(2)))
    rich = Prediction(iter(leads), plain.motion, thresholds_dbz=(20.0, 30.0), layers=layers, members=members)
    write_forecast(tmp_path / "out.nc", record, rich)
    assert errors_in(tmp_path / "out.nc") == []


def test_frames_and_days_of_the_archive_keep_them(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    for raw in raw_frames(3):
        archive.add("sim", normalise(raw, replace(DOMAIN, grid=GRID)))
    assert errors_in(archive.path("sim", START)) == []
    day = archive.compact("sim", START.date())
    assert day is not None and errors_in(day) == []


def test_an_exported_period_keeps_them(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    for raw in raw_frames(3):
        archive.add("sim", normalise(raw, replace(DOMAIN, grid=GRID)))
    assert archive.export("sim", tmp_path / "out.zarr") == 3
    with xr.open_zarr(tmp_path / "out.zarr", decode_cf=False) as stored:  # the checker reads netCDF only
        plain = {name: {"_FillValue": None} for name in stored.coords}
        stored.to_netcdf(tmp_path / "out.nc", engine="h5netcdf", encoding=plain)
    assert errors_in(tmp_path / "out.nc") == []
