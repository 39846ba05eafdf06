"""What a method predicts: a field for each lead time and whatever else it can give, made when asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Lead:
    """What is predicted of one lead time.

    Whatever is a function is made when it is called, once at most and before the next lead is taken; nobody
    has to call it.

    Attributes:
        field: float32 dBZ ``(y, x)``; NaN = not covered, -10 dBZ = no echo.
        probability: Makes the probability ``(k, y, x)`` in [0, 1] of reaching each of
            :attr:`Prediction.thresholds_dbz`, NaN = not covered.
        layers: Make ``(y, x)`` each, by names of :attr:`Prediction.layers`, NaN = nothing to tell.
    """

    field: Array
    probability: Callable[[], Array] | None = None
    layers: Mapping[str, Callable[[], Array]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A quantity besides rain that tells how a forecast came about, such as the share of an expert.

    Attributes:
        long_name: What it is, in a few words.
        units: Its unit, ``"1"`` of a number without.
        comment: A sentence on how to read it.
        of_frame: Makes ``(y, x)`` of a layer that belongs to the newest frame; ``None`` of one with a field
            for each lead.
    """

    long_name: str
    units: str
    comment: str
    of_frame: Callable[[], Array] | None = None


class MemberField(NamedTuple):
    """A field of one member of an ensemble at one lead.

    Attributes:
        member: Index of the member, from 0.
        lead: Index of the lead, from 0.
        field: float32 dBZ ``(y, x)``, as :attr:`Lead.field`.
    """

    member: int
    lead: int
    field: Array


@dataclass(frozen=True)
class Members:
    """An ensemble: other courses the rain may take, equally likely.

    Attributes:
        count: Number of members.
        fields: Yields every lead of every member once, in whatever order suits its maker, one field in
            memory at a time.
    """

    count: int
    fields: Iterator[MemberField]


@dataclass(frozen=True)
class Prediction:
    """What a method returns. Only :attr:`leads` must be there.

    Attributes:
        leads: Yields one lead after another. Lazy, so a continental grid never holds all of them in memory.
        motion: Displacement ``(2, y, x)`` [cells per step; rows southward, columns eastward] behind the
            forecast, or ``None`` where the method has none.
        shortfalls: Why the method fell short of its usual self, a sentence each.
        version: Version of what made it, where that is not always the method's own; else empty.
        methods: Method of each lead, of a forecast that was put together of several; else empty.
        choice_reason: Why those methods, empty where there was no choice.
        base_weights: Weights an hour ahead of the rules that the base was mixed from, in hundredths; empty
            where nothing was mixed.
        thresholds_dbz: Reflectivities ``(k,)``, ascending, whose probability every lead gives; else empty.
        layers: Layers by name: of the newest frame, or given by every lead.
        members: The ensemble, if there is one; taken after the leads.
    """

    leads: Iterator[Lead]
    motion: Array | None = None
    shortfalls: tuple[str, ...] = ()
    version: str = ""
    methods: tuple[str, ...] = ()
    choice_reason: str = ""
    base_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    thresholds_dbz: tuple[float, ...] = ()
    layers: Mapping[str, Layer] = dataclasses.field(default_factory=dict)
    members: Members | None = None

    @property
    def fields(self) -> Iterator[Array]:
        """Take the leads and yield their fields alone."""
        return (lead.field for lead in self.leads)
