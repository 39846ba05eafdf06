"""A worker of a campaign on simulated rain, with a network of a few weights: ``FOLDER STEPS WORKER``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainable import SHAPE, add_event, use_tiny_networks

from benchmarks.campaign.folder import Campaign
from benchmarks.campaign.plans import Entry
from benchmarks.campaign.work import work
from nowcast.training.plan import Plan

#: An event that the split of training events tunes on, by its name.
TUNED = "openrainer_20220917"


@dataclass(frozen=True)
class Quick(Entry):
    """A network that is trained for a number of steps, validated at every tenth."""

    steps: int = 3

    def plan(self, number: int, hold_out: Sequence[str]) -> Plan:
        """Return the plan of a round."""
        return Plan(
            self.model, steps=self.steps, shape=SHAPE, hold_out=tuple(hold_out), batch=2, crop=32,
            seed=number - 1, checks=max(self.steps // 10, 1), patience=self.steps,
        )  # fmt: skip


def small_campaign(root: Path) -> Campaign:
    """Return a campaign with an archive of two storms, one to tune on."""
    campaign = Campaign(root)
    for name, seed in (("storm-3", 3), (TUNED, 4)):
        add_event(campaign.archive, name, seed=seed, day=seed)
    return campaign


def main() -> None:
    """Work as the words say."""
    logging.basicConfig(level=logging.INFO)
    use_tiny_networks()
    folder, steps, worker = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    work(Campaign(folder), worker, folder, [Quick("convlstm", 1, steps=steps)])


if __name__ == "__main__":
    main()
