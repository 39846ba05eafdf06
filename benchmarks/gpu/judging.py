"""What corrections gain over their base on whole grids of events they did not learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.gpu.packed import Layout, Sample
from benchmarks.gpu.pool import Batch, decoded
from models.correction import Correction
from nowcast.training.gains import Gains

#: Factors of what was learnt that are tried; see :mod:`nowcast.training.trust`.
FACTORS = (0.35, 0.7, 1.0, 1.4)


@torch.no_grad()
def gains(
    network: Correction, samples: Sequence[Sample], layout: Layout, device: torch.device
) -> dict[float, dict[str, float]]:
    """Return by factor the gains [%] of mean CSI over the base's, see :meth:`Gains.table`."""
    tables = {}
    slots = network.config.slots
    radars = [sample.facts.radar for sample in samples]
    for factor in FACTORS:
        network.trust.fill_(factor)
        counted = Gains(radars, slots)
        for number, sample in enumerate(samples):
            batch = as_batch(sample, layout, number, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                pred = network(batch["x"], slots, **{name: batch[name] for name in network.context})["pred"]
            counted.add(pred, batch)
        tables[factor] = counted.table(counted.counts)
    network.trust.fill_(1.0)
    return tables


def as_batch(sample: Sample, layout: Layout, number: int, device: torch.device) -> Batch:
    """Return a whole grid as a batch of one."""
    planes, facts = torch.from_numpy(sample.planes.copy())[None].to(device), sample.facts
    return {
        **decoded(planes, layout),
        "number": torch.tensor([number]),
        "step_minutes": torch.tensor([float(facts.step_minutes)], device=device),
        "cell_km": torch.tensor([facts.cell_km], device=device),
        "minutes": torch.tensor([facts.minutes], device=device),
    }
