"""The CF netCDF file that a forecast becomes, and what is read from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.disk import durable, netcdf
from nowcast.errors import NoForecast, OutsideDomain, UnreadableFile
from nowcast.forecast.prediction import Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.forecast.variables import (
    LeadVariables,
    methods_in,
    put_frame_layers,
    put_members,
    put_methods,
    put_motion,
)


def write_forecast(
    path: Path, record: ForecastRecord, prediction: Prediction, *, exclusive: bool = False
) -> None:
    """Publish a forecast as CF netCDF: ``reflectivity(lead_time, y, x)`` [dBZ], NaN = not covered.

    Leads are taken from the prediction one by one and kept deflated, so one lead is in memory at a time. What
    else the method gives becomes variables as well: ``probability(threshold, lead_time, y, x)``,
    ``layer_<name>`` with or without ``lead_time``, ``reflectivity_member(member, lead_time, y, x)``.

    Args:
        path: Where the file shall be.
        record: What the file says about itself.
        prediction: Leads, made while they are written; those beyond the record's leads are left.
        exclusive: Never replace a file.

    Raises:
        ValueError: If an array has another shape than the grid, or there are fewer leads than the record has.
        FileExistsError: If ``exclusive`` and the file exists when the forecast is complete.
        StorageError: If the disk refuses; nothing is left behind.
    """
    with netcdf.new_file() as file:
        _put_coordinates(file, record)
        LeadVariables(file, record, prediction).write(prediction.leads)
        put_frame_layers(file, record, prediction.layers)
        if prediction.members is not None:
            put_members(file, record, prediction.members)
        put_methods(file, record.method_by_lead)
        if prediction.motion is not None:
            put_motion(file, prediction.motion, record.grid, record.step_minutes)
        netcdf.put_attributes(file, _globals(record))
        content = netcdf.image(file)
    durable.write_bytes(path, content, exclusive=exclusive)


def _put_coordinates(file: h5py.File, record: ForecastRecord) -> None:
    minutes = record.step_minutes * np.arange(1, record.leads + 1, dtype=np.int32)
    netcdf.put_variable(
        file,
        "lead_time",
        minutes,
        ("lead_time",),
        {"standard_name": "forecast_period", "long_name": "time since the newest frame", "units": "minutes"},
    )
    netcdf.put_grid(file, record.grid)
    netcdf.put_time(
        file,
        "forecast_reference_time",
        record.issue_time,
        (),
        {"standard_name": "forecast_reference_time", "long_name": "time of the newest frame"},
    )
    netcdf.put_time(
        file,
        "time",
        [record.issue_time + timedelta(minutes=int(lead)) for lead in minutes],
        ("lead_time",),
        {"standard_name": "time", "long_name": "time the field is valid at"},
    )


def _globals(record: ForecastRecord) -> dict[str, Any]:
    return {
        "Conventions": netcdf.CONVENTIONS,
        "title": f"Precipitation nowcast of domain {record.domain}",
        "source": f"{record.model} {record.model_version}",
        "history": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} nowcast: forecast made by {record.model}",
        "domain": record.domain,
        "model": record.model,
        "model_version": record.model_version,
        "input_frames": " ".join(record.input_frames),
        "degraded_reason": record.degraded_reason,
        "choice_reason": record.choice_reason,
        "base_weights": _as_text(record.base_weights),
        "step_minutes": record.step_minutes,
        "zr_a": record.zr[0],
        "zr_b": record.zr[1],
        "credit": record.credit,
    }


def open_forecast(path: Path) -> xr.Dataset:
    """Return a forecast file, read as it is used: float32 dBZ, ``lead_time`` in minutes. Close it after use.

    Raises:
        NoForecast: If there is no such file.
        UnreadableFile: If it is damaged.
    """
    try:
        return xr.open_dataset(path, engine="h5netcdf", decode_coords="all", decode_timedelta=False)
    except FileNotFoundError as error:
        raise NoForecast(f"there is no forecast file {path}") from error
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise UnreadableFile(f"{path} is damaged: expected a forecast file, {error}") from error


def read_record(path: Path) -> ForecastRecord:
    """Return what a forecast file says about itself; raises as :func:`open_forecast`."""
    with _reading(path) as file:
        said = netcdf.attributes_of(file)
        (issue_time,) = netcdf.times_of(file["forecast_reference_time"])
        methods = methods_in(file)
        return ForecastRecord(
            domain=said["domain"],
            issue_time=issue_time,
            step_minutes=said["step_minutes"],
            leads=file["lead_time"].size,
            model=said["model"],
            model_version=said["model_version"],
            input_frames=tuple(said["input_frames"].split()),
            degraded_reason=said["degraded_reason"],
            grid=netcdf.grid_in(file),
            credit=said["credit"],
            zr=(said["zr_a"], said["zr_b"]),
            methods=() if set(methods) == {said["model"]} else methods,
            choice_reason=said.get("choice_reason", ""),
            base_weights=_weights_in(said.get("base_weights", "")),
        )


def _as_text(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{rule} {weight:.2f}" for rule, weight in weights.items())


def _weights_in(text: str) -> dict[str, float]:
    parts = (part.rpartition(" ") for part in text.split(", ") if part)
    return {rule: float(weight) for rule, _, weight in parts}


def read_lead(path: Path, lead_index: int) -> NDArray[np.float32]:
    """Return one field ``(y, x)`` [dBZ], NaN = not covered; the first lead has index 0.

    Raises:
        NoForecast: If there is no such file, or no such lead in it.
        UnreadableFile: If it is damaged.
    """
    with _reading(path) as file:
        variable = file["reflectivity"]
        if not 0 <= lead_index < variable.shape[0]:
            raise NoForecast(f"expected a lead from 0 to {variable.shape[0] - 1}, got {lead_index}")
        return netcdf.unpack(variable[lead_index])


def read_point(path: Path, row: int, column: int) -> NDArray[np.float32]:
    """Return the series ``(lead_time,)`` [dBZ] of one cell; it touches one tile per lead.

    Raises:
        NoForecast: If there is no such file.
        OutsideDomain: If there is no such cell.
        UnreadableFile: If it is damaged.
    """
    with _reading(path) as file:
        variable = file["reflectivity"]
        _, rows, columns = variable.shape
        if not (0 <= row < rows and 0 <= column < columns):
            raise OutsideDomain(f"expected a cell of {rows} x {columns}, got row {row}, column {column}")
        return netcdf.unpack(variable[:, row, column])


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    try:
        with netcdf.reading(path) as file:
            yield file
    except FileNotFoundError as error:
        raise NoForecast(f"there is no forecast file {path}") from error
