"""The bridge between cubes and the echo classifier: what becomes of the echo of each cell."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from models.fanet.echo_classes import EchoClass
from models.fanet.network import FANet
from models.normalisation import to_unit
from nowcast.errors import NetworkError, WeightsError
from nowcast.frame.frame import grid_coordinates
from nowcast.methods.cube import Cube
from nowcast.methods.networks.checkpoint import CheckpointError, Task, load
from nowcast.methods.networks.method import CELL_FACTOR

#: The classifier that ships; its ``card.md`` says what it was trained on and how well it does.
SHIPPED = Path(__file__).parents[2] / "weights" / "fanet"

#: Value of a cell that was not observed.
NOT_OBSERVED_CLASS = 255

#: Meaning of every value, as CF's ``flag_meanings`` has them.
MEANINGS = {**{int(kind): kind.name.lower() for kind in EchoClass}, NOT_OBSERVED_CLASS: "not_observed"}


def classify(cube: Cube, *, weights: Path = SHIPPED) -> xr.DataArray:
    """Return the class the echo of each cell is about to have, ``echo_class(y, x)``, uint8.

    It is the class some minutes later (``attrs["minutes_ahead"]``, as the weights were trained), wherever the
    echo has moved by then, shown where it is in the newest frame. The attributes ``flag_values`` and
    ``flag_meanings`` name the classes; cells the newest frame did not observe are ``NOT_OBSERVED_CLASS``.
    ``attrs["degraded_reason"]`` says why the weights may not suit the cube; else it is empty. Memory grows
    with the grid, by about 100 bytes a cell.

    Args:
        cube: Of :func:`nowcast.methods.cube.build_cube`.
        weights: Folder of the classifier's checkpoint.

    Raises:
        WeightsError: If the weights are missing, damaged, or no classifier's.
        NetworkError: If what it answers is not finite.
    """
    network, task, version = _classifier(weights)
    dbz = torch.from_numpy(cube.values[-(network.config.history + 1) :].copy())
    with torch.inference_mode():
        logits = network(to_unit(dbz)[0][None, :, None])[0, -1]
    if not bool(torch.isfinite(logits).all()):
        raise NetworkError(f"expected finite logits of {weights}, got others")
    classes = logits.argmax(0).to(torch.uint8).masked_fill(dbz[-1].isnan(), NOT_OBSERVED_CLASS)
    return xr.DataArray(
        classes.numpy(),
        dims=("y", "x"),
        coords={
            **grid_coordinates(cube.grid),
            "time": np.datetime64(cube.issue_time.replace(tzinfo=None), "ns"),
        },
        name="echo_class",
        attrs={
            "long_name": "kind of radar echo",
            "flag_values": np.array(list(MEANINGS), np.uint8),
            "flag_meanings": " ".join(MEANINGS.values()),
            "grid_mapping": "crs",
            "minutes_ahead": task.leads * task.step_minutes,
            "weights": version,
            "degraded_reason": "; ".join(_shortfalls(cube, network.config.history, task)),
        },
    )


@lru_cache(maxsize=2)
def _classifier(folder: Path) -> tuple[FANet, Task, str]:
    """Return a checkpoint's network, ready to answer, its task, and the hash of its weights."""
    try:
        loaded = load(folder)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(loaded.network, FANet) or loaded.network.config.classes != len(EchoClass):
        raise WeightsError(
            f"{folder}: expected a FANet of {len(EchoClass)} classes, got {loaded.card.config}"
        )
    return loaded.network.fused(), loaded.card.task, f"sha256:{loaded.sha256}"


def _shortfalls(cube: Cube, history: int, task: Task) -> Iterator[str]:
    """Yield why the weights are not made for a cube."""
    if len(cube) <= history:
        yield f"made from {len(cube)} frames with weights trained on {history + 1}"
    cells = cube.grid.cell_km
    if not all(1 / CELL_FACTOR < cell / task.cell_km < CELL_FACTOR for cell in cells):
        yield f"weights trained on cells of {task.cell_km:g} km, not {cells[0]:.3g} x {cells[1]:.3g}"
