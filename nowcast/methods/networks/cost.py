"""What a network takes: memory and work by number of cells, measured in small runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

#: Memory of the process by memory of the tensors alive. Allocators keep freed blocks that fit nothing else:
#: glibc's took 1.3 to 1.8 times as much with ConvLSTMs of two and of fifteen layers and with a U-shaped one.
ALLOCATOR_FACTOR = 2.0

#: Memory [bytes] beyond that, of whatever size the grid: scratch of oneDNN, its rearranged weights.
SCRATCH_BYTES = 32 * 2**20

#: Work on a grid may be this many times what proportion would have, before a network counts as one whose
#: work grows faster than its grid.
PROPORTIONAL_FACTOR = 1.5


#: A bend of less than this, as a fraction of the slope at the largest grid measured, is none.
NEGLIGIBLE = 1e-3


class Footprint:
    """Memory and work of one forecast by its number of cells.

    Both are polynomials of second degree, proportional but for networks in which every cell attends to every
    other. Memory is one after each operator, since copies of weights, of whatever grid, make the peak on
    small grids and something else does on large ones.

    Args:
        cells: Three numbers of cells.
        alive: Bytes of tensors alive at each, after each operator: ``(3, operators)``.
        work: Floating-point operations at each.
    """

    def __init__(self, cells: Sequence[int], alive: NDArray[np.float64], work: Sequence[float]) -> None:
        self._alive = _through(cells, alive)
        self._work = _through(cells, np.asarray(work, np.float64)[:, None])

    def memory(self, cells: int) -> float:
        """Return the bytes that a forecast of so many cells makes the process take."""
        return SCRATCH_BYTES + ALLOCATOR_FACTOR * float(_at(self._alive, cells).max())

    def work(self, cells: int) -> float:
        """Return the floating-point operations of a forecast of so many cells."""
        return float(_at(self._work, cells).max())

    def is_proportional(self, cells: int) -> bool:
        """Return whether work has not begun to grow faster than the number of cells."""
        straight = self._work * [[1], [1], [0]]
        return self.work(cells) <= PROPORTIONAL_FACTOR * float(_at(straight, cells).max())


def measured(run: Callable[[int, int], object], shapes: Sequence[tuple[int, int]]) -> Footprint:
    """Return the footprint of ``run(rows, columns)``, which forecasts a grid, from three grids."""
    meters = []
    for rows, columns in shapes:
        # Inference mode would hide the parts of an operator that is made of others.
        with torch.inference_mode(False), torch.no_grad(), _Meter() as meter:
            run(rows, columns)
        meters.append(meter)
    alive = [meter.alive for meter in meters]
    if len({len(each) for each in alive}) > 1:  # other operators for other sizes: only peaks compare
        alive = [[max(each)] for each in alive]
    cells = [rows * columns for rows, columns in shapes]
    return Footprint(cells, np.asarray(alive, np.float64), [meter.work for meter in meters])


def _attention_work(query: Tensor, key: Tensor, value: Tensor, *options: Any, **more: Any) -> int:
    """Return the operations of attention on the CPU, which PyTorch's formulas leave out."""
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


#: Floating-point operations of the operators that have many.
_WORK = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_work}


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made and still alive, and the operations that make them.

    Attributes:
        alive: Bytes after each operator.
        work: Floating-point operations of convolutions, products of matrices, and attention.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: list[int] = []
        self.work = 0
        self._storages: dict[int, int] = {}
        self._now = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return that the compiler need not be kept out, which would load it: another second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and note the storages of what it returns."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        self.alive.append(self._now)
        if func._overloadpacket in _WORK:
            self.work += _WORK[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out

    def _note(self, storage: UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._storages.pop(key, 0)


def _through(cells: Sequence[int], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the polynomials ``(3, n)`` through three values ``(3, n)``, straight where they hardly bend."""
    first, middle, last = cells
    early = (values[1] - values[0]) / (middle - first)
    late = (values[2] - values[1]) / (last - middle)
    bend = (late - early) / (last - first)
    bend = np.where(bend * last > NEGLIGIBLE * np.abs(late), bend, 0.0)
    slope = np.where(bend > 0, early - bend * (first + middle), (values[2] - values[0]) / (last - first))
    return np.stack([values[2] - (slope + bend * last) * last, slope, bend])


def _at(polynomials: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    constant, slope, bend = polynomials
    return np.asarray(constant + (slope + bend * cells) * cells)
