"""Trainings of the duels: each variant learns for the same CPU time, then it is scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmarks.duel_pieces import SHAPE, STAGED, VARIANTS, Piece, Squares, Terms, recipe_of, scored
from models.forecaster import Forecaster
from models.registry import build
from models.stmoe.network import STMoE
from models.stmoe.physics import PhysicsSequences
from models.stmoe.training import GATES_SHARE, stages
from nowcast.errors import TrainingStopped
from nowcast.training.data import Draws, Numbers, loader
from nowcast.training.module import Recipe, rate
from nowcast.training.plan import LOCAL_SHARE
from nowcast.training.sequences import Tiles

#: Synthetic sequences of each kind.
SYNTHETIC = 256


def trained(
    variant: str,
    seed: int,
    terms: Terms,
    learnt: Sequence[Tiles],
    squares: Squares,
    *,
    clock: Callable[[], float] = time.process_time,
) -> Piece:
    """Return what a variant comes to: trained for the time given, as the clock [s] tells, then scored.

    Raises:
        TrainingStopped: If its loss is not finite any more.
    """
    torch.manual_seed(seed)
    network = cast(Forecaster, build(VARIANTS[variant]))
    steps, planned, seconds = {"rain": 0, "synthetic": 0}, 0.0, 0.0
    for phase in phases(variant, network, terms.seconds):
        planned += phase.seconds
        batches = _rain(learnt, terms, seed) if phase.data == "rain" else _synthetic(phase.data, terms, seed)
        taken, spent = _fit(
            phase, batches, seed, planned - seconds, clock
        )  # what one overran, the next lacks
        steps["rain" if phase.data == "rain" else "synthetic"] += taken
        seconds += spent
    network.requires_grad_(True)
    sizes = sum(parameter.numel() for parameter in network.parameters())
    piece = scored(network, squares)
    return replace(
        piece,
        variant=variant,
        seed=seed,
        steps=(steps["rain"], steps["synthetic"]),
        seconds=seconds,
        parameters=sizes,
    )


class Phase(NamedTuple):
    """A part of a training: what is trained on what, how, and for how long [s of CPU time]."""

    forecaster: Forecaster
    data: str
    recipe: Recipe
    seconds: float


def phases(variant: str, network: Forecaster, seconds: float) -> Iterator[Phase]:
    """Yield the parts of a training; each thaws what it trains when it is reached.

    Shares of the stages are those of the service's own training. The learning rate is the same in all, and
    that of the training end to end: the lower one that whole networks have after long stages would leave the
    last of these short ones without effect.
    """
    recipe = recipe_of(network.config)
    if variant not in STAGED or not isinstance(network, STMoE):
        yield Phase(network, "rain", recipe, seconds)
        return
    local = len([stage for stage in stages(network) if stage.data != "rain"])
    on_rain = {"B1": GATES_SHARE * (1 - LOCAL_SHARE), "B2": (1 - GATES_SHARE) * (1 - LOCAL_SHARE)}
    for stage in stages(network):
        share = on_rain.get(stage.name, LOCAL_SHARE / local)
        yield Phase(stage.forecaster, stage.data, recipe, share * seconds)


def _fit(
    phase: Phase,
    batches: Iterator[Mapping[str, Tensor]],
    seed: int,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[int, float]:
    """Train for some seconds of the clock; return the number of steps and the seconds they took."""
    parameters = [one for one in phase.forecaster.parameters() if one.requires_grad]
    recipe, generator = phase.recipe, torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    phase.forecaster.train()
    steps, spent = 0, 0.0
    while spent < seconds:
        batch, began = next(batches), clock()
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rate(spent / seconds)
        loss = phase.forecaster.training_loss(
            batch["x"],
            batch["target"],
            valid=batch["valid"],
            progress=spent / seconds,
            generator=generator,
        )["loss"]
        if not bool(torch.isfinite(loss)):
            raise TrainingStopped(f"expected a finite loss, got {loss.item()} at step {steps}")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if recipe.clip_value:
            nn.utils.clip_grad_value_(parameters, recipe.clip_value)
        elif recipe.clip_norm:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimiser.step()
        spent += clock() - began
        steps += 1
    return steps, spent


def _rain(tiles: Sequence[Tiles], terms: Terms, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of rain, the same for every variant of a seed."""
    draws = Draws(tiles, SHAPE, crop=terms.crop, seed=seed)
    for batch in loader(draws, Numbers(), terms.batch):
        batch["target"], batch["valid"] = batch["target"][:, : terms.leads], batch["valid"][:, : terms.leads]
        yield batch


def _synthetic(kind: str, terms: Terms, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of synthetic sequences of one kind."""
    frames = SHAPE.frames + terms.leads
    made = PhysicsSequences(kind=kind, frames=frames, size=terms.crop, seed=seed)  # type: ignore[arg-type]
    every = made.batch(range(SYNTHETIC)).frames
    order = torch.Generator().manual_seed(seed)
    while True:
        chosen = every[torch.randint(SYNTHETIC, (terms.batch,), generator=order)]
        target = chosen[:, SHAPE.frames :]
        valid = torch.ones_like(target, dtype=torch.bool)
        yield {"x": chosen[:, : SHAPE.frames], "target": target, "valid": valid}
