"""Short sequences of real rain from four radar networks, normalised as networks take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.readers import read

#: Folder, minutes between frames, index of the first frame: a shower, a winter band, convection, snow.
EVENTS = (
    ("fmi_pgm/20170509", 5, 10),
    ("mch_gif/20170131", 5, 10),
    ("bom_rf3/66_brisbane_c10_20201031", 10, 30),
    ("knmi_pcp_2021/2021-02-06-2005", 5, 10),
)


def real_sequences(data: Path, frames: int, size: int) -> torch.Tensor:
    """Return ``(4, frames, 1, size, size)`` in [0, 1]: one sequence an event, from where it rains most."""
    sequences = []
    for folder, step_minutes, first in EVENTS:
        paths = sorted((data / "train" / folder).iterdir())[first : first + frames]
        domain = Domain("rain", step_minutes)
        dbz = np.stack([normalise(raw, domain).values for path in paths for raw in read(path)])
        x = (np.clip(np.nan_to_num(dbz, nan=-10), -10, 60) + 10) / 70
        sequences.append(_rainiest(x, size))
    return torch.from_numpy(np.stack(sequences)[:, :, None].astype(np.float32))


def _rainiest(x: np.ndarray, size: int) -> np.ndarray:
    """Return the square ``(frames, size, size)`` with most echo, of those half a square apart."""
    corners = [
        (row, column)
        for row in range(0, x.shape[1] - size + 1, size // 2)
        for column in range(0, x.shape[2] - size + 1, size // 2)
    ]
    row, column = max(corners, key=lambda c: float(x[:, c[0] : c[0] + size, c[1] : c[1] + size].sum()))
    return x[:, row : row + size, column : column + size]
