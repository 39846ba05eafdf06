"""The bridge between cubes and networks: a network as a forecasting method, with its weights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from models.correction import Correction
from models.exceedance import Exceedance
from models.registry import PRESETS, build
from nowcast.compute import UNTRAINED, Compute
from nowcast.errors import NetworkError, WeightsError
from nowcast.methods.method import Method
from nowcast.methods.networks.checkpoint import Card, CheckpointError, load, verify
from nowcast.methods.networks.correction import CorrectionNetwork
from nowcast.methods.networks.engine import Engine
from nowcast.methods.networks.exceedance import ExceedanceNetwork
from nowcast.methods.networks.method import Loaded, Network
from nowcast.methods.networks.versions import SHIPPED, current_of
from nowcast.names import CONFIG_FILE, NETWORKS, WEIGHTS_FILE

T = TypeVar("T")

#: Seed of the weights of a network that was never trained, so that its forecasts are at least the same.
UNTRAINED_SEED = 0


#: Networks that are ready, each with the state of the checkpoint it is from, by name, device, weights asked
#: for and memory: loading takes longer than a forecast, and a network keeps what it has measured.
_ready: dict[tuple[str, str, Path | None, int], tuple[object, Method]] = {}
_loading = threading.Lock()


def network(name: str, compute: Compute) -> Method:
    """Return a network as a method, loaded if it is not kept from an earlier call.

    A checkpoint that was replaced since is loaded anew.

    Raises:
        WeightsError: If there are no weights, and untrained ones will not do; if they are damaged, or of
            another network.
        NetworkError: If there is no such device.
        StorageError: If the disk refuses.
    """
    device, checkpoint = _device(compute.device), _checkpoint(name, compute)
    key, stamp = (name, str(device), compute.weights, compute.memory_mb), (checkpoint, _state(checkpoint))
    with _loading:
        known, method = _ready.get(key, (None, None))
        if method is None or known != stamp:
            method = _method(name, _load(name, checkpoint, device), compute.memory_mb)
            _ready[key] = stamp, method
    return method


def _method(name: str, loaded: Loaded, memory_mb: int) -> Method:
    """Return the method that makes forecasts of what a network of its kind answers."""
    if type(loaded.engine.network) is Correction:
        return CorrectionNetwork(name, loaded, memory_mb)
    if type(loaded.engine.network) is Exceedance:
        return ExceedanceNetwork(name, loaded, memory_mb)
    return Network(name, loaded, memory_mb)


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


def _load(name: str, checkpoint: Path | None, device: torch.device) -> Loaded:
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(UNTRAINED_SEED)
            untrained = build(PRESETS[NETWORKS[name]])
        return Loaded(_engine(untrained, device), None, UNTRAINED)
    loaded = _checked(load, checkpoint)
    _check_of(name, checkpoint, loaded.card)
    return Loaded(_engine(loaded.network, device), loaded.card, f"sha256:{loaded.sha256}")


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
