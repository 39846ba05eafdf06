"""From a finished training to a candidate: a checkpoint with its scores, card and pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.correction import Correction
from models.normalisation import HIGH_DBZ, LOW_DBZ
from nowcast.archive.archive import Archive
from nowcast.compute import Compute
from nowcast.disk import durable
from nowcast.hindcast.cases import Cases
from nowcast.hindcast.evaluation import MOST_ISSUES, ArchivedFrames, score_events
from nowcast.methods.blend import Blend
from nowcast.methods.extrapolation import Extrapolation, Persistence
from nowcast.methods.method import Method
from nowcast.methods.networks.checkpoint import save
from nowcast.methods.networks.loading import network
from nowcast.names import CARD_FILE, EXTRAPOLATION
from nowcast.rendering import Panel, render_panels
from nowcast.scores.skillfile import MEAN_CSI, SKILL_FILE, Skill, entries, mean_csi, pooled, write_skill
from nowcast.training.callbacks import Report, read_rows, write_rows
from nowcast.training.card import model_card
from nowcast.training.data import Draws, loader
from nowcast.training.phase import CURVES_FILE, RUN_FOLDER
from nowcast.training.plots import plot_curves
from nowcast.training.run import Trained

#: Pictures beside the card.
CURVES_PICTURE, EXAMPLES_PICTURE = "curves.png", "examples.png"

#: Mean difference [dBZ] of forecasts up to which 16-bit weights lose nothing: a third of the 0.14 dBZ that
#: the truth is known to.
HALF_LOSS_DBZ = 0.05

#: Sequences that forecasts with 16-bit weights are compared on.
COMPARED = 4

#: Lead [minutes] of the example.
EXAMPLE_MINUTES = 30


def write_candidate(
    archive: Archive,
    output: Path,
    trained: Trained,
    *,
    most_issues: int = MOST_ISSUES,
    report: Report | None = None,
) -> Skill | None:
    """Write all that a training leaves, and return what it scored on the events held out, if any were.

    Args:
        archive: Where the frames are.
        output: Folder of the training.
        trained: What it gave.
        most_issues: Most issue times that are scored of an event.
        report: Called as the work goes on.

    Raises:
        NotEnoughFrames: If held-out events are too short to score a forecast.
        StorageError: If the disk refuses.
    """
    half = loses_nothing(trained.network, _some_sequences(trained))
    sha256, card, skill = save(output, trained.network, trained.card, half=half), trained.card, None
    rows = [
        {"phase": path.parent.name, **row}
        for path in sorted((output / RUN_FOLDER).glob(f"*/{CURVES_FILE}"))
        for row in read_rows(path)
    ]
    write_rows(output / CURVES_FILE, rows)
    durable.write_bytes(output / CURVES_PICTURE, plot_curves(rows))
    pictures = [CURVES_PICTURE]
    if trained.events:
        method = network(trained.plan.model, Compute(weights=output))
        longest = trained.plan.shape.slots * trained.plan.shape.slot_minutes
        references: tuple[Method, ...] = (Persistence(), Extrapolation())
        if isinstance(trained.network, Correction):
            references = (*references, Blend())
        skill = score_events(
            archive, trained.events, method, references, minutes=longest, most=most_issues, report=report
        )
        write_skill(output / SKILL_FILE, skill)
        card = replace(card, scores=_means(skill))
        sha256 = save(output, trained.network, card, half=half)
        durable.write_bytes(output / EXAMPLES_PICTURE, _example(archive, trained, skill, method))
        pictures.append(EXAMPLES_PICTURE)
    text = model_card(trained.plan.model, sha256, card, trained.facts, skill, pictures)
    durable.write_bytes(output / CARD_FILE, text.encode())
    return skill


@torch.inference_mode()
def loses_nothing(net: nn.Module, batch: Mapping[str, Tensor]) -> bool:
    """Return whether a network forecasts the same with its weights rounded to 16 bits.

    Args:
        net: A forecaster in evaluation mode.
        batch: Sequences to compare on, as in :class:`nowcast.training.data.Batch`.
    """
    told = {name: batch[name] for name in net.context}  # type: ignore[union-attr]
    leads = batch["target"].shape[1]
    full, rounded = (one(batch["x"], leads, **told)["pred"] for one in (net, deepcopy(net).half().float()))
    return bool((full - rounded).abs().mean() * (HIGH_DBZ - LOW_DBZ) <= HALF_LOSS_DBZ)


def _some_sequences(trained: Trained) -> dict[str, Tensor]:
    """Return a few sequences, of the held-out events if there are any."""
    plan = trained.plan
    draws = Draws(trained.held_out or trained.learnt, plan.shape, crop=plan.crop, seed=0, turned=False)
    batch: dict[str, Tensor] = next(iter(loader(draws, range(COMPARED), COMPARED)))
    return batch


def _means(skill: Skill) -> dict[str, float | None]:
    """Return the mean CSI of the candidate and its references, for the checkpoint's card."""
    others = {f"{MEAN_CSI}_{name}": mean_csi(pooled(scored)) for name, scored in skill.references.items()}
    return {MEAN_CSI: mean_csi(pooled(skill.events)), **others}


def _example(archive: Archive, trained: Trained, skill: Skill, method: Method) -> bytes:
    """Return a picture of truth, forecast and extrapolation, of the issue time after which it rained most."""
    name, issued, minutes = max(
        (key for key, _ in entries(skill.events)), key=lambda key: _worth(skill, *key)
    )
    event = next(event for event in trained.events if event.name == name)
    lead, index = minutes // event.step_minutes, event.times.index(issued)
    history = max(4, method.frames)
    case = Cases(ArchivedFrames(archive, event), history=history, steps=lead).at(index)
    panels = [Panel(case.truths[lead], f"observed, {minutes} min later")]
    rivals = [Extrapolation()] if skill.base == EXTRAPOLATION else [Blend(), Extrapolation()]
    for one in (method, *rivals):
        field = next(islice(one.predict(case.cube, lead).fields, lead - 1, None))
        panels.append(Panel(field.copy(), one.name))
    credit: Any = archive.load(event.domain, issued).attrs.get("source", event.domain)
    return render_panels(
        panels,
        case.cube.grid,
        title=f"{trained.plan.model}: {minutes} minutes ahead",
        subtitle=f"{name}, issued {issued:%Y-%m-%d %H:%M} UTC",
        credit=str(credit),
        columns=len(panels),
        width_px=1600,
    )


def _worth(skill: Skill, event: str, issued: Any, minutes: int) -> tuple[int, int]:
    """Return how good an example a forecast is: near :data:`EXAMPLE_MINUTES`, then much rain."""
    tally = skill.events[event][issued][minutes]
    rained = tally.contingency(tally.thresholds_dbz[0])
    return -abs(minutes - EXAMPLE_MINUTES), rained.hits + rained.misses
