"""The engine: runs a network over a grid of any size within the memory it is given."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nowcast.errors import NetworkError
from nowcast.methods.networks.cost import Footprint, measured
from nowcast.methods.networks.tiling import LEAST_CORE, Halo, Tile, cheapest, padded, tiles

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

#: Least side [cells] of the grids a footprint is measured on; a network's stride may ask for more.
MEASURED_SIDE = 16

#: Half the width [cells] of the zone in which two tiles' forecasts pass into each other.
BLEND = 8

#: Cells a network is granted to reach at most. Rain comes from 60 cells of 1 km away in an hour of gale; what
#: a network takes from farther away is faint.
MOST_REACH = 128

#: Cells around a tile of a network in which every cell attends to every other: it reaches everywhere, but
#: its work grows with the square of a tile, and it was trained on small ones.
ATTENTIVE_REACH = 16

#: Difference of a forecast in [0, 1] that other surroundings may make: 0.03 dBZ.
TOLERANCE = 0.0005

#: Cells of the strip of rain on which the reach is measured.
STRIP_ROWS, STRIP_COLUMNS = 32, 2 * MOST_REACH

#: Kinds of devices on which networks run in bfloat16 where that is safe.
HALVING = ("cuda",)


class Engine:
    """A network on a device, for as many forecasts as wanted, one at a time.

    On a GPU it runs in bfloat16 where that is safe, with its cells compiled; should compiling fail, without.
    On the CPU, in float32. Two-dimensional convolutions have their channels last on both: on the CPU that
    takes 0.7 to 1.1 of the time of channels first, by network, and no memory to rearrange frames.

    Args:
        network: Maps ``(b, t, 1, y, x)`` and a number of leads to ``{"pred": (b, lead, 1, y, x)}``, has a
            ``stride`` and ``cells()``.
        device: Where it runs.
        compiled: Whether to compile its cells; on a GPU if left out.
    """

    def __init__(self, network: nn.Module, device: torch.device, *, compiled: bool | None = None) -> None:
        self.network = network.eval().to(device)
        self.device = device
        self._stride = int(network.stride)  # type: ignore[arg-type]
        self._weights_bytes = sum(int(value.nbytes) for value in network.state_dict().values())
        self._footprints: dict[tuple[int, int], Footprint] = {}
        self._reaches: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        self._cells: list[nn.Module] = []
        if device.type == "cuda" if compiled is None else compiled:
            self._cells = list(network.cells())  # type: ignore[operator]
            for cell in self._cells:
                cell.compile()

    def forecast(
        self,
        frames: Sequence[Array],
        leads: int,
        memory_bytes: int,
        *,
        encode: Callable[[Array], Tensor],
    ) -> Array:
        """Return forecasts ``(b, lead, y, x)`` in [0, 1] for several sequences of frames of one shape.

        Args:
            frames: Each ``(t, y, x)``.
            leads: Number of leads.
            memory_bytes: What the network may take; the forecasts themselves are on top.
            encode: Returns frames ``(b, t, y, x)`` as the network sees them, of the same shape.

        Raises:
            NetworkError: If not even a small tile fits the memory, the device runs out of it, or the forecast
                is not finite.
        """
        count, rows, columns = frames[0].shape
        with self._lock, torch.inference_mode():
            parts = self._tiles((rows, columns), count, leads, memory_bytes)
            size = max(self._cells_of(*tile.seen) for tile in parts)
            most = self._footprint(count, leads).memory(size)
            together = max(int((memory_bytes - self._weights_bytes) // most), 1)
            whole = np.zeros((len(frames), leads, rows, columns), np.float32)
            for tile in parts:
                seen = np.s_[:, tile.rows.seen, tile.columns.seen]
                for some in _batches(len(frames), together):
                    x = encode(np.stack([each[seen] for each in frames[some]]))
                    _add(whole[some], self._run(x, leads), tile)
        return whole

    def memory_bytes(self, cells: int, frames: int, leads: int) -> float:
        """Return what a forecast of so many cells from so many frames takes, the weights included."""
        return self._weights_bytes + self._footprint(frames, leads).memory(cells)

    def _cells_of(self, rows: int, columns: int) -> int:
        """Return the cells of a grid as the network pads it."""
        return padded(rows, self._stride) * padded(columns, self._stride)

    def _tiles(self, shape: tuple[int, int], frames: int, leads: int, memory_bytes: int) -> list[Tile]:
        """Return one tile for the whole grid, or those that cost least of all that fit the memory."""

        def fits(cells: int) -> bool:
            return self.memory_bytes(cells, frames, leads) <= memory_bytes

        footprint, cells = self._footprint(frames, leads), self._cells_of(*shape)
        proportional = footprint.is_proportional(cells)
        if proportional and fits(cells):
            return tiles(shape, (1, 1), Halo(0, BLEND), self._stride)
        least = self._cells_of(STRIP_ROWS, STRIP_COLUMNS)
        if fits(least):
            reach = self._reach(frames, leads) if proportional else ATTENTIVE_REACH
            halo = Halo(reach, BLEND)
            counts = cheapest(shape, halo, self._stride, fits=fits, cost=footprint.work)
            if counts is not None:
                log.info(
                    "a grid of %d x %d is forecast as %d x %d tiles, %d cells around", *shape, *counts, reach
                )
                return tiles(shape, counts, halo, self._stride)
            least = self._cells_of(*(min(side, LEAST_CORE + 2 * halo.width) for side in shape))
        raise NetworkError(
            f"the least part of a grid that can be forecast on its own takes "
            f"{self.memory_bytes(least, frames, leads) / 2**20:.0f} MiB, but networks may take "
            f"{memory_bytes / 2**20:.0f} MiB"
        )

    def _footprint(self, frames: int, leads: int) -> Footprint:
        """Return memory and work of a forecast by its number of cells; measured once."""
        if (frames, leads) not in self._footprints:
            unit = padded(MEASURED_SIDE, self._stride)
            with torch.compiler.set_stance("force_eager") if self._cells else nullcontext():
                self._footprints[frames, leads] = measured(
                    lambda rows, columns: self._run(_rain(1, frames, rows, columns), leads),
                    [(unit, unit), (unit, 2 * unit), (unit, 3 * unit)],
                )
        return self._footprints[frames, leads]

    def _reach(self, frames: int, leads: int) -> int:
        """Return from how many cells away other rain changes a forecast; measured once.

        Two strips of rain have one half in common; how far their forecasts differ into that is the reach.
        It is measured in float32, for one step of bfloat16 near 1 is eight times :data:`TOLERANCE`.
        """
        if (frames, leads) not in self._reaches:
            half = STRIP_COLUMNS // 2
            rain, other = _rain(2, frames, STRIP_ROWS, STRIP_COLUMNS)
            other[..., half:] = rain[..., half:]
            one, two = (self._run(strip[None], leads, exact=True) for strip in (rain, other))
            differ = (one - two).abs() > TOLERANCE
            columns = differ[..., half:].flatten(0, -2).any(0).nonzero()
            self._reaches[frames, leads] = int(columns.max()) + 1 if len(columns) else 0
        return self._reaches[frames, leads]

    def _run(self, x: Tensor, leads: int, *, exact: bool = False) -> Tensor:
        """Return the forecast ``(b, lead, y, x)`` of frames ``(b, t, y, x)``, both in main memory.

        ``exact`` means in float32, and without the rounding of its convolutions' operands.
        """
        try:
            pred = self._call(x, leads, exact)
        except torch.OutOfMemoryError as error:
            raise NetworkError("the device has not enough memory") from error
        except RuntimeError as error:
            if not self._cells:
                raise
            log.warning("the network goes on without being compiled, as that failed: %s", error)
            for cell in self._cells:
                cell._compiled_call_impl = None
            self._cells = []
            pred = self._call(x, leads, exact)
        if not bool(torch.isfinite(pred).all()):
            raise NetworkError("the network's forecast has values that are not finite")
        return pred

    def _call(self, x: Tensor, leads: int, exact: bool) -> Tensor:
        with self._precision(exact):
            pred: Tensor = self.network(x[:, :, None].to(self.device), leads)["pred"]
        return pred[:, :, 0].float().cpu()

    @contextmanager
    def _precision(self, exact: bool) -> Iterator[None]:
        kind, rounding = self.device.type, torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = rounding and not exact
        try:
            with torch.autocast(kind, torch.bfloat16, enabled=kind in HALVING and not exact):
                yield
        finally:
            torch.backends.cudnn.allow_tf32 = rounding


def _batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)


def _add(whole: Array, forecast: Tensor, tile: Tile) -> None:
    """Add a tile's forecast, weighted, to the whole ``(b, lead, y, x)``, lead by lead to save memory."""
    kept = forecast[..., tile.rows.inside, tile.columns.inside].numpy()
    for lead in range(whole.shape[1]):
        whole[:, lead, tile.rows.kept, tile.columns.kept] += kept[:, lead] * tile.weights


def _rain(samples: int, frames: int, rows: int, columns: int) -> Tensor:
    """Return sequences of showers ``(b, t, y, x)`` in [0, 1], the same at every call."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(samples, frames, rows // 8 + 1, columns // 8 + 1, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(rows, columns), mode="bilinear", align_corners=True)
    return (smooth - 0.4).clamp(min=0)
