"""The variables of a forecast file: a field for each lead, what else a method gives, the motion of rain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import h5py
import numpy as np
from numpy.typing import NDArray

from nowcast.disk import netcdf
from nowcast.forecast.prediction import Layer, Lead, Members, Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.frame.frame import REFLECTIVITY_ATTRIBUTES
from nowcast.frame.grid import METRES_PER_DEGREE, Grid

Array = NDArray[np.float32]

#: Cells between two motion vectors in a file; rain moves as one over some ten kilometres.
MOTION_SPACING = 16

#: Probability of one packed step.
PROBABILITY_STEP = np.float32(0.005)

#: Coordinates, besides those of its dimensions, of a variable with ``lead_time``.
_TIMES = "time forecast_reference_time"


class LeadVariables:
    """The variables that get a field with every lead: reflectivity, and what the prediction promises."""

    def __init__(self, file: h5py.File, record: ForecastRecord, prediction: Prediction) -> None:
        """Add the variables, empty as yet."""
        self._record, self._shape = record, record.grid.shape
        leading = {"lead_time": record.leads}
        self._reflectivity = netcdf.put_packed(
            file,
            "reflectivity",
            leading,
            record.grid,
            netcdf.COMPUTED,
            {**REFLECTIVITY_ATTRIBUTES, "ancillary_variables": "method"},
            coordinates=_TIMES,
        )
        thresholds = prediction.thresholds_dbz
        if thresholds:
            netcdf.put_variable(
                file,
                "threshold",
                np.array(thresholds, np.float32),
                ("threshold",),
                {"long_name": "reflectivity that is reached or exceeded", "units": "dBZ"},
            )
            self._probability = netcdf.put_packed(
                file,
                "probability",
                {"threshold": len(thresholds), **leading},
                record.grid,
                netcdf.COMPUTED,
                {
                    "long_name": "probability that reflectivity reaches the threshold",
                    "units": "1",
                    "grid_mapping": "crs",
                },
                coordinates=_TIMES,
                step=PROBABILITY_STEP,
            )
        self._thresholds = thresholds
        self._layers = {
            name: _put_layer(file, record, name, layer, leading)
            for name, layer in prediction.layers.items()
            if layer.of_frame is None
        }

    def write(self, leads: Iterator[Lead]) -> None:
        """Write all of every lead, one after the other; those beyond the record's are left.

        Raises:
            ValueError: If there are fewer leads than the record has, an array has another shape than the
                grid, or something promised is not there.
        """
        written = 0
        for index, lead in enumerate(islice(leads, self._record.leads)):
            self._write(index, lead)
            written += 1
        if written != self._record.leads:
            raise ValueError(f"{self._record.model}: expected {self._record.leads} fields, got {written}")

    def _write(self, index: int, lead: Lead) -> None:
        field = self._checked(lead.field, "fields")
        netcdf.write_field(self._reflectivity, (index,), field)
        if self._thresholds:
            if lead.probability is None:
                raise ValueError(f"{self._record.model}: expected probabilities with every lead, got none")
            planes = lead.probability()
            if len(planes) != len(self._thresholds):
                raise ValueError(
                    f"{self._record.model}: expected probabilities at {len(self._thresholds)} thresholds, "
                    f"got {len(planes)}"
                )
            for k, plane in enumerate(planes):
                stored = netcdf.pack_steps(self._checked(plane, "probabilities"), PROBABILITY_STEP)
                netcdf.write_packed(self._probability, (k, index), stored, netcdf.COMPUTED)
        for name, variable in self._layers.items():
            if name not in lead.layers:
                raise ValueError(f"{self._record.model}: expected layer {name!r} with every lead, got none")
            variable[index] = self._checked(lead.layers[name](), f"layer {name!r}")

    def _checked(self, field: Array, what: str) -> Array:
        return _checked(field, self._shape, self._record.model, what)


def put_frame_layers(file: h5py.File, record: ForecastRecord, layers: Mapping[str, Layer]) -> None:
    """Add ``layer_<name>(y, x)`` for each layer that belongs to the newest frame.

    Raises:
        ValueError: If one has another shape than the grid.
    """
    for name, layer in layers.items():
        if layer.of_frame is not None:
            variable = _put_layer(file, record, name, layer, {})
            variable[...] = _checked(layer.of_frame(), record.grid.shape, record.model, f"layer {name!r}")


def put_members(file: h5py.File, record: ForecastRecord, members: Members) -> None:
    """Add ``reflectivity_member(member, lead_time, y, x)``, one field in memory at a time.

    Raises:
        ValueError: If a field has another shape than the grid, or not every lead of every member comes once.
    """
    netcdf.put_variable(
        file,
        "member",
        np.arange(members.count, dtype=np.int32),
        ("member",),
        {"standard_name": "realization", "long_name": "member of the ensemble", "units": "1"},
    )
    variable = netcdf.put_packed(
        file,
        "reflectivity_member",
        {"member": members.count, "lead_time": record.leads},
        record.grid,
        netcdf.COMPUTED,
        REFLECTIVITY_ATTRIBUTES,
        coordinates=_TIMES,
    )
    due = {(member, lead) for member in range(members.count) for lead in range(record.leads)}
    for member, lead, field in members.fields:
        if (member, lead) not in due:
            raise ValueError(f"{record.model}: did not expect lead {lead} of member {member}, or not again")
        due.remove((member, lead))
        field = _checked(field, record.grid.shape, record.model, "fields of members")
        netcdf.write_field(variable, (member, lead), field)
    if due:
        raise ValueError(f"{record.model}: expected all leads of all members, got none of {min(due)}")


def _put_layer(
    file: h5py.File, record: ForecastRecord, name: str, layer: Layer, leading: Mapping[str, int]
) -> h5py.Dataset:
    variable = netcdf.put_variable(
        file,
        f"layer_{name}",
        None,
        (*leading, "y", "x"),
        {
            "long_name": layer.long_name,
            "units": layer.units,
            "comment": layer.comment,
            "grid_mapping": "crs",
            **({"coordinates": _TIMES} if leading else {}),
        },
        shape=(*leading.values(), *record.grid.shape),
        dtype=np.float32,
        chunks=(*(1 for _ in leading), *netcdf.tile_shape(record.grid.shape)),
        fillvalue=np.float32(np.nan),
        shuffle=True,
        compression="gzip",
        compression_opts=1,
    )
    netcdf.put_attributes(variable, {"_FillValue": np.float32(np.nan)})
    return variable


def _checked(field: Array, shape: tuple[int, int], model: str, what: str) -> Array:
    if field.shape != shape:
        raise ValueError(f"{model}: expected {what} of {shape} cells, got {field.shape}")
    return field


def put_methods(file: h5py.File, methods: Sequence[str]) -> None:
    """Add ``method(lead_time)``: a CF flag, whose meanings are the names of methods."""
    names = list(dict.fromkeys(methods))
    netcdf.put_variable(
        file,
        "method",
        np.array([names.index(name) for name in methods], np.int8),
        ("lead_time",),
        {
            "long_name": "method that made the field",
            "flag_values": np.arange(len(names), dtype=np.int8),
            "flag_meanings": " ".join(names),
        },
    )


def methods_in(file: h5py.File) -> tuple[str, ...]:
    """Return the method of each lead, none of a file from before it told."""
    if "method" not in file:
        return ()
    names = netcdf.attributes_of(file["method"])["flag_meanings"].split()
    return tuple(names[flag] for flag in file["method"][()])


def put_motion(file: h5py.File, motion: NDArray[np.float32], grid: Grid, step_minutes: int) -> None:
    """Add ``motion_x`` and ``motion_y`` [m/s] at every :data:`MOTION_SPACING`-th cell."""
    rows = slice(min(MOTION_SPACING, grid.ny) // 2, None, MOTION_SPACING)
    columns = slice(min(MOTION_SPACING, grid.nx) // 2, None, MOTION_SPACING)
    for name, values in (("y", grid.y[rows]), ("x", grid.x[columns])):
        # No standard name and no axis: a grid mapping has one coordinate of each, and that is the grid's.
        plain = {
            "long_name": f"{name} of every {MOTION_SPACING}th cell, where motion is given",
            "units": netcdf.attributes_of(file[name])["units"],
        }
        netcdf.put_variable(file, f"{name}_motion", values, (f"{name}_motion",), plain)
    height, width = _cell_metres(grid, grid.y[rows])
    seconds = 60.0 * step_minutes
    southward, eastward = motion[0, rows, columns], motion[1, rows, columns]
    for name, towards, velocity in (
        ("motion_x", "increasing x (eastward on the grid)", eastward * width / seconds),
        ("motion_y", "increasing y (northward on the grid)", -southward * height / seconds),
    ):
        netcdf.put_variable(
            file,
            name,
            velocity.astype(np.float32),
            ("y_motion", "x_motion"),
            {
                "long_name": f"velocity of precipitation, positive towards {towards}",
                "units": "m s-1",
                "grid_mapping": "crs",
            },
            compression="gzip",
            shuffle=True,
        )


def _cell_metres(grid: Grid, y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return a cell's height and, for each row ``(y, 1)``, its width in metres; on the ground for degrees."""
    if not grid.crs.is_geographic:
        factor = float(grid.crs.axis_info[0].unit_conversion_factor)
        return grid.dy * factor, np.full((len(y), 1), grid.dx * factor)
    return grid.dy * METRES_PER_DEGREE, grid.dx * METRES_PER_DEGREE * np.cos(np.radians(y))[:, None]
