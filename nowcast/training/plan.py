"""What is trained, and how: the plan of a training, and the phases it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.convlstm import ConvLSTMConfig
from models.correction import CorrectionConfig
from models.e3d.network import E3DLSTMConfig
from models.exceedance import ExceedanceConfig
from models.forecaster import Forecaster
from models.registry import PRESETS, build
from models.scs.network import SCSConfig
from models.stmoe.network import STMoE
from models.stmoe.physics import PhysicsSequences
from models.stmoe.training import GATES_SHARE, stages
from nowcast.errors import BadRequest, UnknownModel
from nowcast.names import NETWORKS
from nowcast.training.module import Recipe
from nowcast.training.sequences import Shape

#: How each network is optimised, by its configuration: as its paper says where that serves a training of
#: minutes; published rates of 1e-4 are for days of it.
RECIPES: dict[type[Any], Recipe] = {
    ConvLSTMConfig: Recipe(learning_rate=2e-3),
    ExceedanceConfig: Recipe(learning_rate=2e-3),
    CorrectionConfig: Recipe(learning_rate=3e-3, weight_decay=1e-3),
    SCSConfig: Recipe(learning_rate=2e-3, clip_norm=None, clip_value=5.0),
    E3DLSTMConfig: Recipe(betas=(0.95, 0.9995)),
}

#: Share of an STMoE's steps that its local stages take, together.
LOCAL_SHARE = 0.3

#: Rows and columns of synthetic sequences.
SYNTHETIC_CELLS = 64


@dataclass(frozen=True)
class Plan:
    """What is trained, and how.

    Attributes:
        model: Name of the network, as methods are called.
        minutes: How long to train; how many steps that is, is measured at the start.
        steps: Number of steps, in place of minutes.
        shape: What a sequence looks like.
        step_minutes: Take only events with this step; all whose step fits the slots if 0.
        hold_out: Events kept for validation and the scores of the card; ``None`` has them chosen
            (:func:`nowcast.archive.events.events_to_hold_out`).
        batch: Sequences a step and process.
        accumulate: Steps whose gradients are added up.
        crop: Side of the squares trained on [cells].
        slots: Slots of the truth trained on, from the first; all of the shape's if ``None``. A network that
            rolls out goes on beyond them.
        seed: Of all random decisions.
        precision: ``32-true``, or ``bf16-mixed``.
        devices: Number of processes: GPUs where there are any, else CPU processes.
        workers: Processes that read sequences; 0 reads them in between.
        checks: How often it is validated.
        patience: Validations without a better CSI after which it stops.
        staged: Whether a network with a staged training is trained in stages.

    Raises:
        UnknownModel: If there is no such network.
        BadRequest: If there is nothing to train, or not either minutes or steps to train.
    """

    model: str
    minutes: float | None = None
    steps: int | None = None
    shape: Shape = field(default_factory=Shape)
    step_minutes: int = 0
    hold_out: tuple[str, ...] | None = None
    batch: int = 8
    accumulate: int = 1
    crop: int = 128
    slots: int | None = None
    seed: int = 0
    precision: str = "32-true"
    devices: int = 1
    workers: int = 0
    checks: int = 10
    patience: int = 5
    staged: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.model not in NETWORKS:
            raise UnknownModel(f"expected a network among {', '.join(sorted(NETWORKS))}, got {self.model!r}")
        if (self.minutes is None) == (self.steps is None):
            raise BadRequest("expected either minutes or steps to train")
        counts = (self.batch, self.accumulate, self.crop, self.devices, self.checks)
        if min(*counts, self.steps or 1) < 1 or not (self.minutes or 1) > 0:
            raise BadRequest("expected at least one sequence, cell, process, validation and step")


def shape_for(model: str) -> Shape:
    """Return the usual shape of sequences, with as many frames as a network needs.

    Raises:
        UnknownModel: If there is no such network.
    """
    if model not in NETWORKS:
        raise UnknownModel(f"expected a network among {', '.join(sorted(NETWORKS))}, got {model!r}")
    with torch.device("meta"):
        needed = build(PRESETS[NETWORKS[model]]).frames
    return Shape(frames=max(Shape.frames, needed if isinstance(needed, int) else 1))


class Phase(NamedTuple):
    """A part of a training that has an optimiser of its own.

    Attributes:
        name: Its name.
        forecaster: What is trained; it shares weights with the network.
        recipe: How.
        steps: For how long.
        data: ``"rain"``, or a kind of synthetic sequences.
    """

    name: str
    forecaster: Forecaster
    recipe: Recipe
    steps: int
    data: str


def phases(network: Forecaster, plan: Plan, steps: int) -> Iterator[Phase]:
    """Yield the parts of a training in order; each thaws what it trains when it is reached.

    Args:
        network: What is trained.
        plan: How.
        steps: Steps of all parts together.
    """
    recipe = RECIPES.get(type(network.config), Recipe())
    if not (isinstance(network, STMoE) and plan.staged):
        yield Phase("rain", network, recipe, steps, "rain")
        return
    local = len([stage for stage in stages(network) if stage.data != "rain"])
    shares = {"B1": GATES_SHARE * (1 - LOCAL_SHARE), "B2": (1 - GATES_SHARE) * (1 - LOCAL_SHARE)}
    for number, stage in enumerate(stages(network)):
        part = max(round(steps * shares.get(stage.name, LOCAL_SHARE / max(local, 1))), 1)
        at = replace(recipe, learning_rate=stage.learning_rate)
        yield Phase(f"{number}-{stage.name}-{stage.data}", stage.forecaster, at, part, stage.data)


class Synthetic(Dataset[dict[str, Tensor]]):
    """Synthetic sequences of one kind, number by number."""

    def __init__(self, kind: str, plan: Plan) -> None:
        """Make sequences as long as those of the plan."""
        self._past = plan.shape.frames
        frames = self._past + (plan.slots or plan.shape.slots)
        self._sequences = PhysicsSequences(
            kind=kind,  # type: ignore[arg-type]  # a stage names no other
            frames=frames,
            size=min(SYNTHETIC_CELLS, plan.crop),
            seed=plan.seed,
        )

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return one sequence, all of it observed; after the last comes the first again."""
        frames = self._sequences.batch([number % len(self._sequences)]).frames[0]
        target = frames[self._past :]
        valid = torch.ones_like(target, dtype=torch.bool)
        return {"x": frames[: self._past], "target": target, "valid": valid, "number": torch.tensor(number)}
