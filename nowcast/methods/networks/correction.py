"""Corrections as forecasting methods: the base of every lead, and what a network puts elsewhere in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.correction import Correction, Maps, pooled, raised_field
from models.normalisation import HIGH_DBZ, LOW_DBZ, to_unit
from nowcast.errors import NotEnoughFrames
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.methods.blend import Blend, blended
from nowcast.methods.cube import Cube
from nowcast.methods.method import Method
from nowcast.methods.networks.engine import Engine
from nowcast.methods.networks.method import Loaded, step_minutes_of
from nowcast.motion.lagrangian import carried_back, carried_to_issue
from nowcast.motion.probability_matching import in_order_of
from nowcast.motion.trajectory import Trajectory, VectorField

Array = NDArray[np.float32]


class CorrectionNetwork(Method):
    """A network that corrects the base: it says where of each lead's field there is more to expect, or less.

    What it says of squares of some 4 km, at some leads, is carried to where their air will be and put between
    them; the base has the detail. How much rain there is, the base says too: its values are given out in the
    order of the corrected field, so that the area above every threshold is kept.
    """

    def __init__(self, name: str, loaded: Loaded, memory_mb: int) -> None:
        assert isinstance(loaded.engine.network, Correction)
        self.name = name
        self.version = loaded.version
        self._card, self._memory_bytes = loaded.card, memory_mb * 2**20
        self.network, self._device = loaded.engine.network, loaded.engine.device
        self.frames = max(Blend.frames, self.network.config.frames)
        # What an engine has measured is kept for as long as the network is.
        self._engine = lru_cache(maxsize=32)(self._new_engine)

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the base, corrected.

        Raises:
            NotEnoughFrames: If the cube has fewer frames than the network needs.
            NetworkError: If not even a small tile fits the memory, or what the network says is not finite.
        """
        config = self.network.config
        if len(cube) < config.frames:
            raise NotEnoughFrames(f"{self.name}: expected {config.frames} frames, got {len(cube)}")
        step = step_minutes_of(cube)
        nodes = self._nodes(step, leads)
        asked = sorted({*range(1, leads + 1), *nodes})
        motion, weights, fields = blended(cube.values, step, asked)
        bases = dict(zip(asked, fields, strict=True))
        maps = self._maps(cube, motion, bases, nodes)
        reasons = [] if self._card else ["untrained weights"]
        if leads * step > (longest := config.slots * config.slot_minutes):
            reasons.append(f"weights trained on leads of up to {longest:g} minutes")
        side = config.square_cells(float(np.mean(cube.grid.cell_km)))
        fields = self._fields(bases, maps, nodes, motion, step, leads, side)
        return Prediction(map(Lead, fields), motion.dense(), tuple(reasons), base_weights=weights)

    def _nodes(self, step: float, leads: int) -> list[int]:
        """Return the leads, in steps, that the network is run for: no more than those asked for need."""
        config = self.network.config
        nearest = [max(round((slot + 1) * config.slot_minutes / step), 1) for slot in range(config.slots)]
        needed = next((k for k, node in enumerate(nearest) if node >= leads), len(nearest) - 1)
        return sorted(set(nearest[: needed + 1]))

    def _maps(self, cube: Cube, motion: VectorField, bases: dict[int, Array], nodes: list[int]) -> Array:
        """Return shift and sharpening of squares, in the air of the issue time, ``(lead, node, 2, y, x)``."""
        config, cell_km = self.network.config, float(np.mean(cube.grid.cell_km))
        step, side = step_minutes_of(cube), config.square_cells(cell_km)
        past = carried_to_issue(cube.values[-config.frames :], motion)
        planes = [_squares(past, side)]
        for fields in ([bases[node] for node in nodes], [cube.newest] * len(nodes)):
            for node, field in zip(nodes, fields, strict=True):
                planes.append(_squares(carried_back([field], motion, [node]), side))
        speed = motion.dense() * np.float32(cell_km * 60 / step)
        planes.append(self.network.moving(torch.from_numpy(speed)[None], side)[0].numpy())
        maps, engine = self._engine(tuple(step * node for node in nodes), step, side * cell_km)
        (flat,) = engine.forecast(
            [np.concatenate(planes)], maps.planes, self._memory_bytes, encode=torch.from_numpy
        )
        shaped: Array = flat.reshape(len(config.nodes_dbz), len(nodes), 2, *flat.shape[-2:])
        return np.ascontiguousarray(shaped.swapaxes(0, 1))

    def _fields(
        self,
        bases: dict[int, Array],
        maps: Array,
        nodes: Sequence[int],
        motion: VectorField,
        step: float,
        leads: int,
        side: int,
    ) -> Iterator[Array]:
        trajectory = Trajectory(motion)
        for lead in range(1, leads + 1):
            base = bases.pop(lead)
            known = _carried(_at(maps, nodes, lead), side, trajectory.displacement(lead))
            nodes_dbz, maps_there = self.network.config.nodes_dbz, torch.from_numpy(known)
            with torch.inference_mode():
                odds = self.network.odds_at(torch.tensor(step * lead)).cpu()
                raised = raised_field(torch.from_numpy(base), maps_there, odds, nodes_dbz)
            yield in_order_of(raised.numpy(), base)

    def _new_engine(self, minutes: tuple[float, ...], step: float, square_km: float) -> tuple[Maps, Engine]:
        """Return the network at some leads on some grids, and what runs it."""
        net = Maps(self.network, minutes, step_minutes=step, square_km=square_km)
        return net, Engine(net, self._device)


def _squares(fields: Array, side: int) -> Array:
    """Return the planes ``(3 n, y, x)`` a network sees of fields ``(n, y, x)`` [dBZ]."""
    unit, known = to_unit(torch.from_numpy(fields))
    seen = pooled(unit[None, :, None], known[None, :, None], side)[0]
    seen[:, :2] = (seen[:, :2] - LOW_DBZ) / (HIGH_DBZ - LOW_DBZ)
    squares: Array = seen.flatten(0, 1).numpy()
    return squares


def _at(maps: Array, nodes: Sequence[int], lead: int) -> Array:
    """Return the maps ``(node, 2, y, x)`` of a lead: linear from none at the issue time, then constant."""
    after = next((k for k, node in enumerate(nodes) if node >= lead), None)
    if after is None:
        latest: Array = maps[-1]
        return latest
    before, early = (maps[after - 1], nodes[after - 1]) if after else (np.zeros_like(maps[0]), 0)
    share = np.float32((lead - early) / (nodes[after] - early))
    return np.asarray(before + share * (maps[after] - before), np.float32)


def _carried(maps: Array, side: int, displacement: VectorField) -> Array:
    """Return maps ``(..., y, x)`` of squares of so many cells at every cell, carried along a displacement."""
    shape = displacement.shape
    rows, columns = displacement.dense()
    rows += np.arange(shape[0], dtype=np.float32)[:, None]
    columns += np.arange(shape[1], dtype=np.float32)
    rows, columns = (
        (each + np.float32(0.5)) / np.float32(side) - np.float32(0.5) for each in (rows, columns)
    )
    planes = maps.reshape(-1, *maps.shape[-2:])
    border = cv2.BORDER_REPLICATE
    carried = [cv2.remap(plane, columns, rows, cv2.INTER_LINEAR, borderMode=border) for plane in planes]
    return np.asarray(carried, np.float32).reshape(*maps.shape[:-2], *shape)
