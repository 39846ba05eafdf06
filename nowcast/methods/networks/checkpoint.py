"""Weights on disk: a folder of ``weights.safetensors`` and ``config.json``, checked before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_in
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from models.normalisation import HIGH_DBZ, LOW_DBZ
from models.registry import NETWORKS, PRESETS, build
from nowcast.disk.durable import write_bytes
from nowcast.methods.networks.plain_data import from_plain, to_plain
from nowcast.names import CONFIG_FILE, WEIGHTS_FILE

#: Version of ``config.json``; :func:`upgrade` knows the ones before.
FORMAT = 3

#: Fields that configurations got after format 2, and what networks did before they had them.
LATER_FIELDS: dict[str, dict[str, Any]] = {
    "ConvLSTMConfig": {"frame_channels": 1},
    "HourglassConfig": {"frame_channels": 1},
    "UNetConfig": {"frame_channels": 1},
    "PredRNNPPConfig": {"frame_channels": 1},
    "MIMConfig": {"frame_channels": 1},
    "PhyDNetConfig": {"frame_channels": 1},
    "SCSConfig": {"patch": 4, "frame_channels": 1},
    "STMoEConfig": {"gate_norm": True, "frame_channels": 1},
    "E3DLSTMConfig": {"reach": None, "norm": "volume", "frame_channels": 1},
    "CRNConfig": {"frame_channels": 1},
}

#: Longest ``config.json`` that is looked at, in bytes; real ones have a few thousand.
MOST_CONFIG_BYTES = 1 << 16

#: Largest whole number, and longest list, in a configuration: no network has more channels, or more layers.
MOST_CHANNELS, MOST_LAYERS = 1 << 14, 1 << 8


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, of another format, or does not fit the network."""


@dataclass(frozen=True)
class Source:
    """Radar data that weights were trained on.

    Attributes:
        agency: Whose data it is.
        product: Which product.
        licence: Terms of use.
        period: From when to when.
    """

    agency: str
    product: str = ""
    licence: str = ""
    period: str = ""


@dataclass(frozen=True)
class Task:
    """What weights were trained to do.

    Attributes:
        frames: Number of input frames.
        leads: Number of leads.
        step_minutes: Time between frames.
        cell_km: Width of a cell.
        moving: Whether frames and leads are seen from the moving air: both carried along the motion of the
            input frames to the time of the newest of them, and leads carried on from there afterwards.

    Raises:
        ValueError: If one of them is not positive.
    """

    frames: int
    leads: int
    step_minutes: float
    cell_km: float
    moving: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no task."""
        if min(self.frames, self.leads, self.step_minutes, self.cell_km) <= 0:
            raise ValueError(f"expected frames, leads, step and cell that are positive, got {self}")


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself besides its weights.

    Attributes:
        config: The network's configuration, of a type in :data:`models.registry.NETWORKS`.
        task: What it was trained to do.
        data: What it was trained on.
        git_hash: Version of the code that trained it.
        scores: Results on data it was not trained on, by name; ``None`` where one is undefined.
    """

    config: Any
    task: Task
    data: tuple[Source, ...] = ()
    git_hash: str = ""
    scores: dict[str, float | None] = field(default_factory=dict)


class Checkpoint(NamedTuple):
    """A checkpoint in memory.

    Attributes:
        network: The network with its weights, in evaluation mode, on the CPU, in float32.
        card: What it says of itself.
        sha256: Hash of the weights' file, by which forecasts name it.
    """

    network: nn.Module
    card: Card
    sha256: str


@dataclass(frozen=True)
class _Scale:
    low_dbz: float
    high_dbz: float


@dataclass(frozen=True)
class _Weights:
    sha256: str
    size: int
    parameters: int


@dataclass(frozen=True)
class Description:
    """All of ``config.json`` but the fields of the configuration, which ``kind`` says how to read."""

    format: int
    kind: str
    preset: str | None
    normalisation: _Scale
    task: Task
    data: tuple[Source, ...]
    git_hash: str
    scores: dict[str, float | None]
    weights: _Weights


def save(folder: Path, network: nn.Module, card: Card, *, half: bool = False) -> str:
    """Write a checkpoint, replacing one that is there, and return the hash of the weights' file.

    Each file appears whole and durable, ``config.json`` last. Should the process die in between, loading
    fails; it never gives wrong weights.

    Args:
        folder: Where it shall be; made if need be.
        network: What ``card.config`` describes.
        card: What to say of it.
        half: Store weights as 16-bit floats: half the size, about three digits.

    Raises:
        CheckpointError: If a weight is not finite, or the network is not the one the card describes.
        StorageError: If the disk refuses.
    """
    state = {name: _stored(value, half) for name, value in network.state_dict().items()}
    _check_finite(state)
    _check_fits(state, card.config)
    content = bytes_of(state)
    sha256 = hashlib.sha256(content).hexdigest()
    preset = next((name for name, config in PRESETS.items() if config == card.config), None)
    told = Description(
        format=FORMAT,
        kind=type(card.config).__name__,
        preset=preset,
        normalisation=_Scale(LOW_DBZ, HIGH_DBZ),
        task=card.task,
        data=card.data,
        git_hash=card.git_hash,
        scores=card.scores,
        weights=_Weights(sha256, len(content), _count(state)),
    )
    document = {**to_plain(told), "config": to_plain(card.config)}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / WEIGHTS_FILE, content)
    write_bytes(folder / CONFIG_FILE, text.encode())
    return sha256


def load(folder: Path) -> Checkpoint:
    """Return the network of a checkpoint with its weights; nothing in the files is ever executed.

    Raises:
        CheckpointError: If a file is missing or damaged, the weights are not those that were saved or not
            finite, or they do not fit the network.
    """
    card, content, sha256, document = _read(folder)
    _, tensors = upgrade(document, _tensors(content, folder))
    try:
        _check_finite(tensors)
        _check_fits(tensors, card.config)
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, but only to be replaced
            network = build(card.config)
        network.load_state_dict(tensors, strict=True)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{folder}: the weights do not fit the network: {error}") from error
    return Checkpoint(network.eval(), card, sha256)


def verify(folder: Path) -> Card:
    """Return what a checkpoint says of itself once its weights are known to be those that were saved.

    The network is not built. Raises as :func:`load`.
    """
    return _read(folder).card


def upgrade(
    document: dict[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a ``config.json`` and weights of any format as those of the present one.

    Format 0, that of the first experiments, had no normalisation, as there was but one; and its weights were
    named by the wrappers the network was trained in: ``module.`` of data parallelism, ``_orig_mod.`` of
    compiling. Format 1 knew no moving frame, format 2 not yet all fields of today's configurations
    (:data:`LATER_FIELDS`).

    Raises:
        CheckpointError: If the format is not known.
    """
    version = document.get("format")
    if type(version) is not int or not 0 <= version <= FORMAT:
        raise CheckpointError(f"expected a format of at most {FORMAT}, got {version!r:.60}")
    if version == 0:
        document = {**document, "format": 1, "normalisation": {"low_dbz": -10.0, "high_dbz": 60.0}}
        tensors = {
            name.removeprefix("module.").replace("_orig_mod.", ""): value for name, value in tensors.items()
        }
        version = 1
    if version == 1:
        document = {**document, "format": 2}
        if isinstance(document.get("task"), dict):
            document["task"] = {"moving": False, **document["task"]}
        version = 2
    if version == 2:
        document = {**document, "format": 3}
        kinds = {kind.__name__: kind for kind in NETWORKS}
        if "config" in document and document.get("kind") in tuple(kinds):
            document["config"] = _completed(kinds[document["kind"]], document["config"])
    return document, dict(tensors)


def _completed(kind: type, config: Any) -> Any:
    """Return a configuration of format 2, and those inside it, with the fields that came later."""
    if not isinstance(config, dict):
        return config
    inner = {name: hint for name, hint in get_type_hints(kind).items() if is_dataclass(hint)}
    inside = {
        name: _completed(hint, config[name])
        for name, hint in inner.items()
        if isinstance(hint, type) and name in config
    }
    return {**LATER_FIELDS.get(kind.__name__, {}), **config, **inside}


class _Content(NamedTuple):
    card: Card
    weights: bytes
    sha256: str
    document: dict[str, Any]


def _read(folder: Path) -> _Content:
    """Return card and checked weights' file of a checkpoint, and its ``config.json`` as it stands there."""
    document = _document(folder / CONFIG_FILE)
    try:
        card, weights = _card(upgrade(document, {})[0])
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:  # some from its own checks
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
    content = _bytes(folder / WEIGHTS_FILE, most=weights.size)
    if len(content) != weights.size:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} is damaged: expected {weights.size} bytes, got {len(content)}"
        )
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != weights.sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} is not what was saved: expected sha256 {weights.sha256}, got {sha256}"
        )
    return _Content(card, content, sha256, document)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_bytes(path, most=MOST_CONFIG_BYTES))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON; {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got a {type(document).__name__}")
    return document


def _card(document: dict[str, Any]) -> tuple[Card, _Weights]:
    if "config" not in document:
        raise ValueError("expected the field config, got none")
    told = from_plain(Description, {key: value for key, value in document.items() if key != "config"})
    kinds = {kind.__name__: kind for kind in NETWORKS}
    if told.kind not in kinds:
        raise ValueError(f"kind: expected one of {', '.join(sorted(kinds))}, got {told.kind!r:.60}")
    if told.normalisation != _Scale(LOW_DBZ, HIGH_DBZ):
        raise ValueError(
            f"normalisation: expected {LOW_DBZ:g} to {HIGH_DBZ:g} dBZ, got {told.normalisation.low_dbz:g} to "
            f"{told.normalisation.high_dbz:g}"
        )
    _check_modest(document["config"])
    config = from_plain(kinds[told.kind], document["config"], "config")
    return Card(config, told.task, told.data, told.git_hash, told.scores), told.weights


def _check_modest(value: Any) -> None:
    """Raise ``ValueError`` for sizes no network has, lest hours pass before weights are found missing."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        if len(value) > MOST_LAYERS:
            raise ValueError(f"config: expected lists of at most {MOST_LAYERS}, got one of {len(value)}")
        for one in value:
            _check_modest(one)
    if isinstance(value, int) and value > MOST_CHANNELS:
        raise ValueError(f"config: expected whole numbers of at most {MOST_CHANNELS}, got {value}")


def _bytes(path: Path, most: int) -> bytes:
    try:
        if path.stat().st_size > most:
            raise CheckpointError(f"{path}: expected at most {most} bytes, got {path.stat().st_size}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _tensors(content: bytes, folder: Path) -> dict[str, Tensor]:
    try:
        return tensors_in(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: expected safetensors; {error}") from error


def _stored(value: Tensor, half: bool) -> Tensor:
    """Return a tensor as it is saved: on the CPU, in memory order, floats in 32 or 16 bits."""
    value = value.detach().cpu()
    if value.is_floating_point():
        value = value.to(torch.float16 if half else torch.float32)
    return value.contiguous().clone()


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"expected finite weights, got others in {name}")


def _check_fits(tensors: Mapping[str, Tensor], config: Any) -> None:
    """Compare names, shapes and kinds of numbers with the network's, of which nothing is allocated.

    So a file that asks for a network larger than memory is refused by the weights it does not have.
    """
    try:
        with torch.device("meta"):
            expected = build(config).state_dict()
    except (RuntimeError, ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise CheckpointError(f"there is no such network: {error}") from error
    if expected.keys() != tensors.keys():
        missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        raise CheckpointError(
            f"the weights are of another network than {type(config).__name__} describes: "
            f"{len(missing)} are missing {missing[:3]}, {len(unknown)} are unknown {unknown[:3]}"
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{name}: expected weights {tuple(expected[name].shape)}, got {tuple(value.shape)}"
            )
        if value.is_floating_point() != expected[name].is_floating_point() or value.is_complex():
            raise CheckpointError(f"{name}: expected {expected[name].dtype}, got {value.dtype}")


def _count(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in tensors.values())
