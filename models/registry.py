"""Every network by name: presets of the papers' sizes and of sizes for two CPU cores."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.convlstm import ConvLSTM, ConvLSTMConfig

#: The network each kind of configuration describes.
NETWORKS: dict[type[Any], type[nn.Module]] = {
    ConvLSTMConfig: ConvLSTM,
}

#: Configurations by name.
PRESETS: dict[str, Any] = {
    "convlstm_cpu": ConvLSTMConfig(),
    "convlstm_paper": ConvLSTMConfig(hidden=(64, 64), patch=2, conditioned=False, peephole=True),
}


def build(config: Any) -> nn.Module:
    """Return the network a configuration describes, with new weights.

    Raises:
        KeyError: If no network has such a configuration.
    """
    return NETWORKS[type(config)](config)
