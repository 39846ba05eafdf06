"""How much of what a correction learnt is trusted at each lead: what helped on events it did not see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.correction import KNOT_MINUTES, Correction
from nowcast.disk import durable
from nowcast.training.data import Issues, loader
from nowcast.training.gains import Gains
from nowcast.training.sequences import Shape, Tiles

#: Factors that are tried, the least first: of two that are as good, the lesser one is taken.
FACTORS = (0.0, 0.5, 1.0, 1.5)

#: Gain [%] that a larger factor must bring over a lesser one.
LEAST_GAIN = 0.02


def trust(network: Correction, held_out: Sequence[Tiles], shape: Shape, path: Path) -> None:
    """Set the trust of a network by what each factor gains on whole grids of held-out events.

    What was found is kept in a file, where a training that goes on after a kill finds it.

    Args:
        network: In evaluation mode.
        held_out: Whole grids.
        shape: What they look like.
        path: The file.

    Raises:
        StorageError: If the disk refuses.
    """
    try:
        table = durable.read_json(path)["gains"]
    except FileNotFoundError:
        table = [_gains(network, held_out, shape, factor) for factor in FACTORS]
        durable.write_json(path, {"factors": FACTORS, "gains": table})
    minutes = torch.tensor([float(shape.slot_minutes * (slot + 1)) for slot in range(shape.slots)])
    network.trust.copy_(chosen(torch.tensor(table), minutes)[:, None].expand_as(network.trust))


def chosen(gains: Tensor, minutes: Tensor) -> Tensor:
    """Return the factor at each of :data:`models.correction.KNOT_MINUTES`.

    A knot looks at the leads that are nearest to it, and at those halfway to its neighbours; the first, at
    the issue time, where nothing is corrected, has the factor of the second.

    Args:
        gains: Gain [%] by factor and lead ``(factor, lead)``.
        minutes: The leads ``(lead,)``.
    """
    factors = []
    bounds = zip(KNOT_MINUTES[:-1], KNOT_MINUTES[1:], (*KNOT_MINUTES[2:], float("inf")), strict=True)
    for early, knot, late in bounds:
        near = (minutes >= (early + knot) / 2) & (minutes <= (knot + late) / 2)
        if not near.any():
            near = (minutes - knot).abs() == (minutes - knot).abs().min()
        of_knot, best = gains[:, near].mean(1).tolist(), 0
        for k, gain in enumerate(of_knot):
            if gain > of_knot[best] + LEAST_GAIN:
                best = k
        factors.append(FACTORS[best])
    return torch.tensor([factors[0], *factors])


@torch.inference_mode()
def _gains(network: Correction, held_out: Sequence[Tiles], shape: Shape, factor: float) -> list[float]:
    """Return the gain [%] at each lead with one factor throughout, each radar alike."""
    if factor == 0:
        return [0.0] * shape.slots
    network.trust.fill_(factor)
    issues = Issues(held_out, shape)
    gains = Gains([issues.event(number).radar for number in range(len(issues))], shape.slots)
    for batch in loader(issues, range(len(issues)), 1):
        told = {name: batch[name] for name in network.context}
        gains.add(network(batch["x"], shape.slots, **told)["pred"], batch)
    table = gains.table(gains.counts)
    return [table[f"gain_slot_{slot + 1}"] for slot in range(shape.slots)]
