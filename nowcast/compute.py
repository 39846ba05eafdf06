"""What a method may use to forecast, as an entry point reads it from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Memory [MiB] a network may use unless an operator says otherwise.
MEMORY_MB = 2048

#: Version of a network whose weights no one trained.
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Compute:
    """Device, memory, weights and scores; most methods that are no networks need none of them.

    Attributes:
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: the latter if there is one.
        memory_mb: Memory [MiB] a network may take on its device, weights included. The forecast it fills,
            four bytes a cell and lead in the process's memory, is on top.
        weights: A checkpoint, or a folder of checkpoints by name of the method.
        shipped: Whether the weights that come with the package will do where ``weights`` has none.
        untrained: Whether a network without weights may forecast with random ones, and say so.
        scores: Folder of the score book, whose scores of a domain's own say which method is best there.
    """

    device: str = "auto"
    memory_mb: int = MEMORY_MB
    weights: Path | None = None
    shipped: bool = True
    untrained: bool = False
    scores: Path | None = None
