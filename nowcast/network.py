"""The bridge between cubes and networks: a network as a forecasting method, with its weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoint import CONFIG_FILE, Card, CheckpointError, load
from models.normalisation import to_dbz, to_unit
from models.registry import PRESETS, build
from nowcast.compute import UNTRAINED, Compute
from nowcast.engine import Engine
from nowcast.errors import NetworkError, NotEnoughFrames, WeightsError
from nowcast.forecast import Prediction
from nowcast.frame import grid_of
from nowcast.motion import FRAMES, Carrier, Trajectory, motion_field
from nowcast.presets import NETWORKS

Array = NDArray[np.float32]

#: Grids whose cells are wider or narrower than those of the training by more than this factor are others.
CELL_FACTOR = 1.15

#: Seed of the weights of a network that was never trained, so that its forecasts are at least the same.
UNTRAINED_SEED = 0


@dataclass(frozen=True)
class _Loaded:
    """A network that is ready.

    Attributes:
        engine: Runs it.
        card: What its checkpoint says, ``None`` if it is untrained.
        version: Hash of its weights.
        stamp: Tells one state of its checkpoint's file from another.
    """

    engine: Engine
    card: Card | None
    version: str
    stamp: object


#: Networks that are ready, by name, device and checkpoint: loading takes longer than many a forecast.
_ready: dict[tuple[str, str, Path | None], _Loaded] = {}
_loading = threading.Lock()


def network(name: str, compute: Compute) -> Network:
    """Return a network as a method, loaded if it is not kept from an earlier call.

    A checkpoint that was replaced since is loaded anew.

    Raises:
        WeightsError: If there are no weights, and untrained ones will not do; if they are damaged, or of
            another network.
        NetworkError: If there is no such device.
    """
    device, checkpoint = _device(compute.device), _checkpoint(name, compute)
    key, stamp = (name, str(device), checkpoint), _stamp(checkpoint)
    with _loading:
        found = _ready.get(key)
        if found is None or found.stamp != stamp:
            found = _load(name, checkpoint, device, stamp)
            _ready[key] = found
    return Network(name, found, compute.memory_mb)


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked == "cuda" and not torch.cuda.is_available():
        raise NetworkError("expected a CUDA device, as asked for, but PyTorch sees none")
    return torch.device(asked)


def _checkpoint(name: str, compute: Compute) -> Path | None:
    """Return the folder of a network's weights, ``None`` if it may and must do without.

    Raises:
        WeightsError: If there is none, and the network must not do without.
    """
    if compute.weights is not None:
        if (compute.weights / CONFIG_FILE).exists():
            return compute.weights
        if (compute.weights / name).exists():
            return compute.weights / name
    if not compute.untrained:
        where = "but no folder was named" if compute.weights is None else f"found no {compute.weights / name}"
        raise WeightsError(f"expected weights of {name}, {where}")
    return None


def _stamp(checkpoint: Path | None) -> object:
    if checkpoint is None:
        return None
    try:
        status = (checkpoint / CONFIG_FILE).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _load(name: str, checkpoint: Path | None, device: torch.device, stamp: object) -> _Loaded:
    config = PRESETS[NETWORKS[name]]
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(UNTRAINED_SEED)
            untrained = build(config)
        return _Loaded(_engine(untrained, device), None, UNTRAINED, stamp)
    try:
        loaded = load(checkpoint)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    card = loaded.card
    # A preset's full name promises its sizes; the short name stands for whatever size was trained.
    if type(card.config) is not type(config) or (name in PRESETS and card.config != config):
        raise WeightsError(f"{checkpoint}: expected weights of {name}, {config}; got those of {card.config}")
    return _Loaded(_engine(loaded.network, device), card, f"sha256:{loaded.sha256}", stamp)


def _engine(net: nn.Module, device: torch.device) -> Engine:
    try:
        return Engine(net, device)
    except torch.OutOfMemoryError as error:
        raise NetworkError("the device has not enough memory for the network's weights") from error


class Network:
    """A network that continues the frames of a cube.

    Cells are not covered (NaN) where the newest frame was not observed, and where the air comes from outside
    the grid or from where nothing was observed, by the motion of the echo, as for extrapolation: a network
    fills such cells too, with what it cannot know.

    Attributes:
        name: Name of the method.
        version: Hash of the weights, or ``"untrained"``.
        frames: How many frames it wants to look back on, ``None`` if any number will do.
    """

    def __init__(self, name: str, loaded: _Loaded, memory_mb: int) -> None:
        self.name = name
        self.version = loaded.version
        self._engine, self._card, self._memory = loaded.engine, loaded.card, memory_mb * 2**20
        self._least: int | None = loaded.engine.network.frames  # type: ignore[assignment]
        self.frames = self._least if self._card is None else max(self._card.task.frames, self._least or 1)

    def predict(self, cube: xr.DataArray, leads: int) -> Prediction:
        """Return the forecast that follows a cube.

        Raises:
            NotEnoughFrames: If the cube has fewer frames than the network needs.
            NetworkError: If the network cannot forecast, or what it forecasts is not finite.
        """
        (prediction,) = self.predict_batch([cube], leads)
        return prediction

    def predict_batch(self, cubes: Sequence[xr.DataArray], leads: int) -> list[Prediction]:
        """Return the forecasts that follow cubes of one shape, as many made together as memory allows."""
        have = cubes[0].sizes["time"]
        if self._least is not None and have < self._least:
            raise NotEnoughFrames(f"{self.name}: expected {self._least} frames, got {have}")
        seen = [cube.values[-min(self.frames or have, have) :] for cube in cubes]
        forecasts = self._engine.forecast(seen, leads, self._memory, encode=_encoded)
        return [self._prediction(cube, forecast) for cube, forecast in zip(cubes, forecasts, strict=True)]

    def _prediction(self, cube: xr.DataArray, forecast: Array) -> Prediction:
        """Return a forecast ``(lead, y, x)`` in [0, 1] as fields in dBZ of what is covered."""
        reasons, frames = list(self._shortfalls(cube)), cube.values
        if len(frames) < 2:
            reasons.append("one frame alone shows no motion, so what comes in from outside is not left out")
            return Prediction(_fields(forecast, frames[-1]), degraded_reason="; ".join(reasons))
        motion = motion_field(frames[-FRAMES:])
        fields = _fields(forecast, frames[-1], Trajectory(motion))
        return Prediction(fields, motion.dense(), "; ".join(reasons))

    def _shortfalls(self, cube: xr.DataArray) -> Iterator[str]:
        """Yield why the forecast is not what the network is made for."""
        if self._card is None:
            yield "untrained weights"
            return
        task, times = self._card.task, cube["time"].values
        if len(times) < task.frames:
            yield f"made from {len(times)} frames with weights trained on {task.frames}"
        if len(times) > 1:
            step = float((times[-1] - times[0]) / np.timedelta64(1, "m")) / (len(times) - 1)
            if abs(step - task.step_minutes) > task.step_minutes / 4:
                yield f"weights trained on steps of {task.step_minutes:g} minutes, not {step:.3g}"
        cells = grid_of(cube).cell_km
        if not all(1 / CELL_FACTOR < cell / task.cell_km < CELL_FACTOR for cell in cells):
            yield f"weights trained on cells of {task.cell_km:g} km, not {cells[0]:.3g} x {cells[1]:.3g}"


def _encoded(frames: Array) -> Tensor:
    return to_unit(torch.from_numpy(frames))[0]


def _fields(forecast: Array, newest: Array, trajectory: Trajectory | None = None) -> Iterator[Array]:
    """Yield a forecast ``(lead, y, x)`` in [0, 1] as fields in dBZ, NaN where they are not covered.

    They take the place of the forecast, as a continent's leads are not to be in memory twice.
    """
    unobserved = np.isnan(newest)
    carrier = Carrier(newest)
    for lead, field in enumerate(forecast, start=1):
        field[...] = to_dbz(torch.from_numpy(field)).numpy()
        field[unobserved] = np.nan
        if trajectory is not None:
            field[np.isnan(carrier.carry(trajectory.displacement(lead)))] = np.nan
        yield field
