"""Names that more than one room must know, without loading what they belong to."""

from __future__ import annotations

from models.presets import FORECASTERS

#: Methods that are no network, by the names they have in files, answers and settings: the gate, the newest
#: frame as it is, the newest frame carried along its motion, the latter losing its small scales, and that
#: mixed with other simple rules by how right they were.
AUTO, PERSISTENCE, EXTRAPOLATION, SPROG, BLEND = "auto", "persistence", "extrapolation", "sprog", "blend"

#: Methods that stand in for one that fails, best first.
FALLBACK = (BLEND, EXTRAPOLATION, PERSISTENCE)

#: Preset behind each name a network goes by as a method: its own, and short for those of CPU size.
NETWORKS = {
    **{name.removesuffix("_cpu"): name for name in FORECASTERS if name.endswith("_cpu")},
    **{name: name for name in FORECASTERS},
}

#: Files of a checkpoint. The second is written last: without it there is no checkpoint.
WEIGHTS_FILE, CONFIG_FILE = "weights.safetensors", "config.json"

#: The text a training leaves beside them for people.
CARD_FILE = "card.md"
