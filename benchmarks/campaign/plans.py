"""What the campaign trains, in what order and for how long: the table to edit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from models.correction import CorrectionConfig
from models.registry import PRESETS, build
from nowcast.names import NETWORKS
from nowcast.training.plan import Plan, shape_for


@dataclass(frozen=True)
class Entry:
    """One network of the campaign.

    Attributes:
        model: Name of the network.
        core_hours: How long a core trains it in each round.
        checks: Validations of a round.
        patience: Validations without a better score after which a round ends early.
    """

    model: str
    core_hours: float
    checks: int = 20
    patience: int = 6

    def plan(self, number: int, hold_out: Sequence[str]) -> Plan:
        """Return the plan of a round, counted from 1; each has another seed."""
        return Plan(
            model=self.model,
            minutes=60 * self.core_hours,
            shape=shape_for(self.model),
            crop=96 if isinstance(PRESETS[NETWORKS[self.model]], CorrectionConfig) else 128,
            hold_out=tuple(hold_out),
            seed=number - 1,
            checks=self.checks,
            patience=self.patience,
        )


#: The order in which cores take them, what is worth most first.
ENTRIES = (
    Entry("scs", 3),
    Entry("crn", 3),
    Entry("stmoe", 7),
    Entry("e3d", 7),
    Entry("exceedance", 2),
    Entry("convlstm", 2),
    Entry("unet", 1.5),
    Entry("predrnnpp", 1.5),
    Entry("mim", 1.5),
    Entry("phydnet", 1.5),
    Entry("addl", 1.5),
    Entry("convlstm_hourglass", 1.5),
    Entry("stmoe_id", 1.5),
)


def run_name(plan: Plan, number: int) -> str:
    """Return the name of a round's folder: another for another plan or another network of the same name."""
    with torch.device("meta"):
        config = build(PRESETS[NETWORKS[plan.model]]).config
    facts = json.dumps([asdict(plan), repr(config), number], sort_keys=True)
    return f"{plan.model}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}-round{number}"
