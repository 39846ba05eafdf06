"""The networks of CPU size that forecast by themselves, whatever base they correct in service."""

from __future__ import annotations

from models.correction import CorrectionConfig
from models.registry import PRESETS, forecasters


def small_forecasters() -> list[str]:
    """Return the names of their presets."""
    return [
        name
        for name in forecasters()
        if name.endswith(("_cpu", "_plain")) and not isinstance(PRESETS[name], CorrectionConfig)
    ]
