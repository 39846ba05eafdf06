"""A forecast: what a method predicts, its record, and the CF netCDF file both become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.disk import durable, netcdf
from nowcast.errors import NoForecast, OutsideDomain, UnreadableFile
from nowcast.forecast.variables import methods_in, put_methods, put_motion
from nowcast.frame.frame import REFLECTIVITY_ATTRIBUTES
from nowcast.frame.grid import Grid


@dataclass(frozen=True)
class Prediction:
    """What a method returns: one field per lead time, made when asked for.

    Attributes:
        fields: Yields float32 dBZ ``(y, x)``, lead after lead; NaN = not covered, -10 dBZ = no echo. Lazy, so
            a continental grid never holds all leads in memory.
        motion: Displacement ``(2, y, x)`` [cells per step; rows southward, columns eastward] behind the
            forecast, or ``None`` where the method has none.
        degraded_reason: Why the method fell short of its usual self, empty if it did not.
        version: Version of what made it, where that is not always the method's own; else empty.
        methods: Method of each lead, of a forecast that was put together of several; else empty.
        choice_reason: Why those methods, empty where there was no choice.
    """

    fields: Iterator[NDArray[np.float32]]
    motion: NDArray[np.float32] | None = None
    degraded_reason: str = ""
    version: str = ""
    methods: tuple[str, ...] = ()
    choice_reason: str = ""


class Method(Protocol):
    """A way to forecast: persistence, extrapolation, a network."""

    name: str
    version: str

    def predict(self, cube: xr.DataArray, leads: int) -> Prediction:
        """Return ``leads`` fields following the newest frame of ``cube`` ``reflectivity(time, y, x)``."""
        ...


@runtime_checkable
class BatchMethod(Method, Protocol):
    """A method that is faster asked for several forecasts at once: a network on a GPU."""

    def predict_batch(self, cubes: Sequence[xr.DataArray], leads: int) -> list[Prediction]:
        """Return a prediction for each of several cubes of one shape."""
        ...


@dataclass(frozen=True)
class ForecastRecord:
    """All a forecast file says about itself besides its numbers.

    Attributes:
        domain: Name of the domain.
        issue_time: Time of the newest frame behind it, UTC.
        step_minutes: Time between leads.
        leads: Number of leads.
        model: Name of the method.
        model_version: Version, or hash of the weights.
        input_frames: ISO times of the frames it was made from, oldest first; a bridged one is marked ``*``.
        degraded_reason: Why a better method did not answer, empty if it did.
        grid: Cells.
        credit: Agency behind the data.
        zr: Coefficients (a, b) of the Z-R relation behind dBZ and mm/h.
        methods: Method behind each lead; empty if it is ``model`` throughout.
        choice_reason: Why these methods were served, empty where there was no choice.
    """

    domain: str
    issue_time: datetime
    step_minutes: int
    leads: int
    model: str
    model_version: str
    input_frames: tuple[str, ...]
    degraded_reason: str
    grid: Grid
    credit: str = ""
    zr: tuple[float, float] = (200.0, 1.6)
    methods: tuple[str, ...] = ()
    choice_reason: str = ""

    @property
    def method_by_lead(self) -> tuple[str, ...]:
        """Method behind each lead."""
        return self.methods or (self.model,) * self.leads


def write_forecast(
    path: Path, record: ForecastRecord, prediction: Prediction, *, exclusive: bool = False
) -> None:
    """Publish a forecast as CF netCDF: ``reflectivity(lead_time, y, x)`` [dBZ], NaN = not covered.

    Fields are taken from the prediction one by one and kept deflated, so one lead is in memory at a time.

    Args:
        path: Where the file shall be.
        record: What the file says about itself.
        prediction: Fields, made while they are written; those beyond the record's leads are left.
        exclusive: Never replace a file.

    Raises:
        ValueError: If a field has another shape than the grid, or there are fewer than the record has leads.
        FileExistsError: If ``exclusive`` and the file exists when the forecast is complete.
        StorageError: If the disk refuses; nothing is left behind.
    """
    with netcdf.new_file() as file:
        _put_coordinates(file, record)
        variable = netcdf.put_packed(
            file,
            "reflectivity",
            {"lead_time": record.leads},
            record.grid,
            netcdf.COMPUTED,
            {**REFLECTIVITY_ATTRIBUTES, "ancillary_variables": "method"},
            coordinates="time forecast_reference_time",
        )
        written = 0
        for lead, field in enumerate(islice(prediction.fields, record.leads)):
            if field.shape != record.grid.shape:
                raise ValueError(
                    f"{record.model}: expected fields of {record.grid.shape} cells, got {field.shape}"
                )
            netcdf.write_packed(variable, (lead,), netcdf.pack(field), netcdf.COMPUTED)
            written += 1
        if written != record.leads:
            raise ValueError(f"{record.model}: expected {record.leads} fields, got {written}")
        put_methods(file, record.method_by_lead)
        if prediction.motion is not None:
            put_motion(file, prediction.motion, record.grid, record.step_minutes)
        netcdf.put_attributes(file, _globals(record, prediction))
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


def _globals(record: ForecastRecord, prediction: Prediction) -> dict[str, Any]:
    return {
        "Conventions": netcdf.CONVENTIONS,
        "title": f"Precipitation nowcast of domain {record.domain}",
        "source": f"{record.model} {record.model_version}",
        "domain": record.domain,
        "model": record.model,
        "model_version": record.model_version,
        "input_frames": " ".join(record.input_frames),
        "degraded_reason": record.degraded_reason or prediction.degraded_reason,
        "choice_reason": record.choice_reason,
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
        )


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
