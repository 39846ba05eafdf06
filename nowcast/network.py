"""The bridge between cubes and networks: a network as a forecasting method, with its weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Card, CheckpointError, load, verify
from models.exceedance import Exceedance, Probabilities
from models.normalisation import to_dbz, to_unit
from models.registry import PRESETS, build
from nowcast.compute import UNTRAINED, Compute
from nowcast.engine import Engine
from nowcast.errors import NetworkError, NotEnoughFrames, WeightsError
from nowcast.forecast import Prediction
from nowcast.frame import grid_of
from nowcast.matching import most_probable, rank_matched
from nowcast.model_store import SHIPPED, current_of
from nowcast.motion import FRAMES, Carrier, Trajectory, VectorField, motion_field
from nowcast.moving_frame import carried_forward, carried_planes, carried_to_issue
from nowcast.presets import NETWORKS

Array = NDArray[np.float32]
T = TypeVar("T")

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
        stamp: Tells one checkpoint, and one state of its file, from another.
    """

    engine: Engine
    card: Card | None
    version: str
    stamp: object


#: Networks that are ready, by name, device and the weights asked for: loading takes longer than a forecast.
_ready: dict[tuple[str, str, Path | None], _Loaded] = {}
_loading = threading.Lock()


def network(name: str, compute: Compute) -> Network:
    """Return a network as a method, loaded if it is not kept from an earlier call.

    A checkpoint that was replaced since is loaded anew.

    Raises:
        WeightsError: If there are no weights, and untrained ones will not do; if they are damaged, or of
            another network.
        NetworkError: If there is no such device.
        StorageError: If the disk refuses.
    """
    device, checkpoint = _device(compute.device), _checkpoint(name, compute)
    key, stamp = (name, str(device), compute.weights), (checkpoint, _state(checkpoint))
    with _loading:
        found = _ready.get(key)
        if found is None or found.stamp != stamp:
            found = _load(name, checkpoint, device, stamp)
            _ready[key] = found
    if isinstance(found.engine.network, Exceedance):
        return ExceedanceNetwork(name, found, compute.memory_mb)
    return Network(name, found, compute.memory_mb)


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked == "cuda" and not torch.cuda.is_available():
        raise NetworkError("expected a CUDA device, as asked for, but PyTorch sees none")
    return torch.device(asked)


def _checkpoint(name: str, compute: Compute) -> Path | None:
    """Return the folder of a network's weights, ``None`` if it may and must do without.

    First comes what was asked for: a checkpoint, or in a folder of them, the current version of that name, or
    the checkpoint of that name; then what the package has.

    Raises:
        WeightsError: If there is none, and the network must not do without; or if what says which is damaged.
        StorageError: If the disk refuses.
    """
    if compute.weights is not None:
        if (compute.weights / CONFIG_FILE).exists():
            return compute.weights
        if (current := current_of(compute.weights, name)) is not None:
            return current
        named = compute.weights / name  # a checkpoint, though it may be damaged; not versions no one promoted
        if any((named / file).exists() for file in (CONFIG_FILE, WEIGHTS_FILE)):
            return named
    if compute.shipped and (shipped := _shipped(name)) is not None:
        return shipped
    if not compute.untrained:
        where = "but no folder was named" if compute.weights is None else f"found no {compute.weights / name}"
        raise WeightsError(f"expected weights of {name}, {where}")
    return None


def _shipped(name: str) -> Path | None:
    """Return the folder of the package's weights of a network, ``None`` if it has none.

    They go by a short name, which stands for whatever size was trained; a full name takes them if they are of
    its size.
    """
    folder = SHIPPED / name.removesuffix("_cpu")
    if not (folder / CONFIG_FILE).exists():
        return None
    if name in PRESETS and _checked(verify, folder).config != PRESETS[name]:
        return None
    return folder


def _state(checkpoint: Path | None) -> tuple[int, ...] | None:
    if checkpoint is None:
        return None
    try:
        status = (checkpoint / CONFIG_FILE).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _load(name: str, checkpoint: Path | None, device: torch.device, stamp: object) -> _Loaded:
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(UNTRAINED_SEED)
            untrained = build(PRESETS[NETWORKS[name]])
        return _Loaded(_engine(untrained, device), None, UNTRAINED, stamp)
    loaded = _checked(load, checkpoint)
    _check_of(name, checkpoint, loaded.card)
    return _Loaded(_engine(loaded.network, device), loaded.card, f"sha256:{loaded.sha256}", stamp)


def verified(name: str, checkpoint: Path) -> Card:
    """Return what a checkpoint says of itself, once its weights are known to be whole, and that network's.

    Raises:
        WeightsError: If they are not, or there are none.
    """
    card = _checked(verify, checkpoint)
    _check_of(name, checkpoint, card)
    return card


def _check_of(name: str, checkpoint: Path, card: Card) -> None:
    """Raise ``WeightsError`` unless a card is of the network of that name.

    A preset's full name promises its sizes; the short name stands for whatever size was trained.
    """
    config = PRESETS[NETWORKS[name]]
    if type(card.config) is not type(config) or (name in PRESETS and card.config != config):
        raise WeightsError(f"{checkpoint}: expected weights of {name}, {config}; got those of {card.config}")


def _checked(read: Callable[[Path], T], checkpoint: Path) -> T:
    try:
        return read(checkpoint)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error


def _engine(net: nn.Module, device: torch.device) -> Engine:
    try:
        return Engine(net, device)
    except torch.OutOfMemoryError as error:
        raise NetworkError("the device has not enough memory for the network's weights") from error


class Network:
    """A network that continues the frames of a cube.

    If it was trained so, it sees them from the moving air (:mod:`nowcast.moving_frame`), and its forecast is
    carried onward along the same motion.

    Cells are not covered (NaN) where the air comes from outside the grid or from where nothing was observed,
    by the motion of the echo, as for extrapolation: a network fills such cells too, with what it cannot know.
    Nor are they, for a network that sees fields in place, where the newest frame was not observed.

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
        self._moving = self._card is not None and self._card.task.moving

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
        newest = [cube.values[-min(self.frames or have, have) :] for cube in cubes]
        motions = [motion_field(cube.values[-FRAMES:]) if have > 1 else None for cube in cubes]
        seen = [self._seen(*each) for each in zip(newest, motions, strict=True)]
        forecasts = self._engine.forecast(seen, leads, self._memory, encode=_encoded)
        return [self._prediction(*each) for each in zip(cubes, forecasts, motions, strict=True)]

    def _seen(self, frames: Array, motion: VectorField | None) -> Array:
        """Return frames ``(t, y, x)`` [dBZ] as the network shall see them."""
        return carried_to_issue(frames, motion) if self._moving and motion is not None else frames

    def _prediction(self, cube: xr.DataArray, forecast: Array, motion: VectorField | None) -> Prediction:
        """Return a forecast ``(lead, y, x)`` in [0, 1] as fields in dBZ of what is covered."""
        newest, reasons = cube.values[-1], list(self._shortfalls(cube))
        if motion is None:
            then = "the echo stays in place" if self._moving else "what comes in from outside is not left out"
            reasons.append(f"one frame alone shows no motion, so {then}")
            return Prediction(_in_dbz(forecast, newest), degraded_reason="; ".join(reasons))
        fields = (_onward if self._moving else _covered)(forecast, newest, motion)
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
            step = _step_minutes(cube)
            if abs(step - task.step_minutes) > task.step_minutes / 4:
                yield f"weights trained on steps of {task.step_minutes:g} minutes, not {step:.3g}"
        cells = grid_of(cube).cell_km
        if not all(1 / CELL_FACTOR < cell / task.cell_km < CELL_FACTOR for cell in cells):
            yield f"weights trained on cells of {task.cell_km:g} km, not {cells[0]:.3g} x {cells[1]:.3g}"


def _step_minutes(cube: xr.DataArray) -> float:
    """Return the mean time between the frames of a cube of two or more."""
    times = cube["time"].values
    return float((times[-1] - times[0]) / np.timedelta64(1, "m")) / (len(times) - 1)


def _encoded(frames: Array) -> Tensor:
    return to_unit(torch.from_numpy(frames))[0]


# A continent's leads are not to be in memory twice: what follows writes fields where the forecast stood.


def _in_dbz(forecast: Array, newest: Array) -> Iterator[Array]:
    """Yield a forecast ``(lead, y, x)`` in [0, 1] as fields in dBZ, NaN where ``newest`` was not observed."""
    unobserved = np.isnan(newest)
    for field in forecast:
        field[...] = to_dbz(torch.from_numpy(field)).numpy()
        field[unobserved] = np.nan
        yield field


def _covered(forecast: Array, newest: Array, motion: VectorField) -> Iterator[Array]:
    """Yield fields as :func:`_in_dbz` does, NaN also where air comes from outside or was not observed."""
    carrier, trajectory = Carrier(newest), Trajectory(motion)
    for lead, field in enumerate(_in_dbz(forecast, newest), start=1):
        field[np.isnan(carrier.carry(trajectory.displacement(lead)))] = np.nan
        yield field


def _onward(forecast: Array, newest: Array, motion: VectorField) -> Iterator[Array]:
    """Yield fields as :func:`_in_dbz` does, but where their air is at their lead; NaN where none is known.

    Their values are those of the extrapolated frame, given out by rank (:func:`rank_matched`).
    """
    carrier, trajectory = Carrier(newest), Trajectory(motion)
    onward = carried_forward(_in_dbz(forecast, newest), motion)
    for lead, (place, field) in enumerate(zip(forecast, onward, strict=True), start=1):
        place[...] = rank_matched(field, carrier.carry(trajectory.displacement(lead)))
        yield place


class ExceedanceNetwork(Network):
    """A network that tells how probably thresholds are exceeded, and the field that follows from it.

    The field exceeds each threshold on as many cells as the extrapolated frame does, times a factor learnt
    for the lead, and on the cells most likely to: what rain there is, is put where it is most probable. How
    much there is stays a matter of observation, as probabilities learnt in one climate do not hold in
    another, while their order does.
    """

    def predict_batch(self, cubes: Sequence[xr.DataArray], leads: int) -> list[Prediction]:
        """Return the forecasts that follow cubes, one after the other: probabilities fill the memory."""
        return [self._predicted(cube, leads) for cube in cubes]

    def _predicted(self, cube: xr.DataArray, leads: int) -> Prediction:
        frames, net = cube.values, self._engine.network
        assert isinstance(net, Exceedance)
        if len(frames) < net.config.frames:
            raise NotEnoughFrames(f"{self.name}: expected {net.config.frames} frames, got {len(frames)}")
        motion = motion_field(frames[-FRAMES:])
        seen = carried_to_issue(frames[-net.config.frames :], motion)
        step = _step_minutes(cube)
        told = {"step_minutes": step, "cell_km": float(np.mean(grid_of(cube).cell_km))}
        reasons = list(self._shortfalls(cube))
        if leads * step > (longest := net.config.slots * net.config.slot_minutes):
            reasons.append(f"weights trained on leads of up to {longest:g} minutes")
        fields = self._fields(net, seen, motion, [step * lead for lead in range(1, leads + 1)], told)
        return Prediction(fields, motion.dense(), "; ".join(reasons))

    def _fields(
        self,
        net: Exceedance,
        seen: Array,
        motion: VectorField,
        minutes: Sequence[float],
        told: Mapping[str, float],
    ) -> Iterator[Array]:
        """Yield fields in dBZ, as many leads at a time as their probabilities fit the memory."""
        thresholds = np.asarray(net.config.thresholds_dbz, np.float32)
        trajectory, carrier = Trajectory(motion), Carrier(seen[-1])
        together = max(int(self._memory // (4 * len(thresholds) * seen[-1].size)), 1)
        for first in range(0, len(minutes), together):
            some = minutes[first : first + together]
            engine = Engine(Probabilities(net, some, **told), self._engine.device)
            planes = len(some) * len(thresholds)
            (flat,) = engine.forecast([seen], planes, self._memory, encode=_encoded)
            for lead, probability in enumerate(flat.reshape(len(some), len(thresholds), *motion.shape)):
                displacement = trajectory.displacement(first + lead + 1)
                slot = int(np.clip(round(some[lead] / net.config.slot_minutes), 1, net.config.slots)) - 1
                yield most_probable(
                    carried_planes(probability, displacement),
                    carrier.carry(displacement),
                    thresholds,
                    net.areas[slot].numpy(),
                )
