"""What a correction gains over its base, by radar and lead: what decides which weights are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.normalisation import HIGH_DBZ, LOW_DBZ

#: Thresholds [dBZ] of the CSI that decides which weights are kept.
THRESHOLDS_DBZ = (20.0, 30.0, 35.0)

#: Pixels to hit that a radar must have at a threshold and lead for its CSI to count.
LEAST_PIXELS = 50


def counts(field: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return hits, misses and false alarms ``(3, threshold)`` of fields in [0, 1], where ``valid``."""
    rows = []
    for threshold in THRESHOLDS_DBZ:
        unit = (threshold - LOW_DBZ) / (HIGH_DBZ - LOW_DBZ)
        forecast, truth = (field >= unit) & valid, (target >= unit) & valid
        rows.append(
            torch.stack([(forecast & truth).sum(), (truth & ~forecast).sum(), (forecast & ~truth).sum()])
        )
    return torch.stack(rows, dim=1).double()


class Gains:
    """Counts of corrected fields and of their bases, issue time by issue time.

    Args:
        radars: Whose data each issue time is.
        slots: Number of leads.
    """

    def __init__(self, radars: Sequence[str], slots: int) -> None:
        self._radars = list(radars)
        #: Of field and base, by issue time and lead: hits, misses and false alarms by threshold.
        self.counts = torch.zeros(len(radars), 2, slots, 3, len(THRESHOLDS_DBZ), dtype=torch.float64)

    def add(self, pred: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Count fields ``(b, slot, 1, y, x)`` of a batch of issue times, where their bases are known."""
        valid = batch["valid"] & batch["known"]
        for k, number in enumerate(batch["number"].tolist()):
            for slot in range(pred.shape[1]):
                truth, where = batch["target"][k, slot], valid[k, slot]
                for rival, fields in enumerate((pred, batch["guess"])):
                    self.counts[number, rival, slot] = counts(fields[k, slot], truth, where).cpu()

    def table(self, gathered: Tensor) -> dict[str, float]:
        """Return gains [%] of mean CSI over the base's: by radar, by lead, and of all, each radar alike.

        Args:
            gathered: :attr:`counts`, those of all processes added up.
        """
        by_radar: dict[str, Tensor] = {}
        for radar in dict.fromkeys(self._radars):
            of_radar = torch.tensor([one == radar for one in self._radars])
            by_radar[radar] = gain_by_lead(gathered[of_radar].sum(0))
        gains = torch.stack(list(by_radar.values()))
        leads = {f"gain_slot_{slot + 1}": _mean(column) for slot, column in enumerate(gains.unbind(1))}
        radars = {f"gain_{radar}": _mean(row) for radar, row in by_radar.items()}
        return {"gain": _mean(torch.stack([row.nanmean() for row in gains])), **leads, **radars}


def gain_by_lead(pooled: Tensor) -> Tensor:
    """Return the gain [%] ``(slot,)`` of counts ``(2, slot, 3, threshold)`` of a field over its base's.

    CSI is averaged over the thresholds that were reached often enough; NaN where none was.
    """
    enough = pooled[:, :, :2].sum(2).amin(0) >= LEAST_PIXELS
    csi = pooled[:, :, 0] / pooled.sum(2).clamp(min=1)
    field, base = torch.where(enough, csi, torch.zeros(())).sum(-1).unbind(0)
    return torch.where(base > 0, 100 * (field / base.clamp(min=1e-9) - 1), torch.nan)


def _mean(values: Tensor) -> float:
    return float(values.nanmean().nan_to_num())
