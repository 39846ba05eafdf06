"""The record of a forecast: all it says about itself besides its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from nowcast.frame.grid import Grid


@dataclass(frozen=True)
class ForecastRecord:
    """All a forecast file says about itself besides its numbers.

    Attributes:
        domain: Name of the domain.
        issue_time: Time of the newest frame behind it, UTC.
        step_minutes: Time between leads.
        leads: Number of leads.
        model: Name of the method.
        model_version: Version, or hash of the weights.
        input_frames: ISO times of the frames it was made from, oldest first; a bridged one is marked ``*``.
        degraded_reason: Why a better method did not answer, empty if it did.
        grid: Cells.
        credit: Agency behind the data.
        zr: Coefficients (a, b) of the Z-R relation behind dBZ and mm/h.
        methods: Method behind each lead; empty if it is ``model`` throughout.
        choice_reason: Why these methods were served, empty where there was no choice.
        base_weights: Weights an hour ahead of the rules that the base was mixed from, in hundredths; empty
            where nothing was mixed.
    """

    domain: str
    issue_time: datetime
    step_minutes: int
    leads: int
    model: str
    model_version: str
    input_frames: tuple[str, ...]
    degraded_reason: str
    grid: Grid
    credit: str = ""
    zr: tuple[float, float] = (200.0, 1.6)
    methods: tuple[str, ...] = ()
    choice_reason: str = ""
    base_weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def method_by_lead(self) -> tuple[str, ...]:
        """Method behind each lead."""
        return self.methods or (self.model,) * self.leads
