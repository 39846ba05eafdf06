"""Moving echo along a motion field, and what is asked of such a field."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Centres(NamedTuple):
    """Coordinates of cell centres, in cells, so that they broadcast over a field ``(b, y, x)``.

    Attributes:
        columns: ``(1, x)``: 0, 1, 2, ... eastwards.
        rows: ``(y, 1)``: 0, 1, 2, ... southwards.
    """

    columns: Tensor
    rows: Tensor


class Warp(nn.Module, ABC):
    r"""Moves frames along a motion field, backwards: each cell asks where its echo came from.

    .. math:: \hat y(r) = x(r - w(r))

    The field w ``(b, 2, y, x)`` is in cells per step: channel 0 is u, positive eastwards (to higher columns),
    channel 1 is v, positive southwards (to higher rows). Outside the grid there is no echo: 0 flows in.

    The coordinates of the cells are kept between calls, for the last grid, device and type seen; they are no
    part of the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[int, int, torch.device, torch.dtype], Centres] = {}

    @abstractmethod
    def forward(self, frame: Tensor, flow: Tensor) -> Tensor:
        """Return the frame ``(b, c, y, x)`` after one step along the flow ``(b, 2, y, x)``."""

    def centres(self, frame: Tensor) -> Centres:
        """Return the coordinates for frames like ``frame``, at least in single precision.

        In half precision a coordinate beyond 1024 would be wrong by half a cell.
        """
        height, width = frame.shape[-2:]
        dtype = torch.promote_types(frame.dtype, torch.float32)
        key = (height, width, frame.device, dtype)
        kept = self._kept.get(key)
        if kept is None:
            # A tensor made in inference mode could never be trained with.
            with torch.inference_mode(False):
                columns = torch.arange(width, device=frame.device, dtype=dtype)[None]
                rows = torch.arange(height, device=frame.device, dtype=dtype)[:, None]
            kept = Centres(columns, rows)
            self._kept = {key: kept}
        return kept

    def departure(self, frame: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Return column and row ``(b, y, x)`` each cell's echo came from, in cells."""
        centres = self.centres(frame)
        u, v = flow.unbind(1)
        return centres.columns - u, centres.rows - v


class BilinearWarp(Warp):
    r"""Pure advection: the value at the departure point, bilinear between its four neighbours.

    Convention: a coordinate c in cells is :math:`2c/(n-1) - 1` in the sampler's units, whose -1 and 1 are
    the centres of the outermost cells (``align_corners=True``): whole-cell motion is exact.

    Args:
        beyond: What lies outside the grid: ``"zeros"``, or ``"border"`` for the nearest cell's value.

    References:
        de Bézenac, Pajot and Gallinari (2018), Deep Learning for Physical Processes: Incorporating Prior
        Scientific Knowledge, https://arxiv.org/abs/1711.07970.

    Example:
        >>> frame = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
        >>> one_east = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
        >>> BilinearWarp()(frame, one_east).tolist()
        [[[[0.0, 1.0, 2.0], [0.0, 4.0, 5.0]]]]
    """

    def __init__(self, beyond: str = "zeros") -> None:
        super().__init__()
        self.beyond = beyond

    def forward(self, frame: Tensor, flow: Tensor) -> Tensor:
        """Return the frame ``(b, c, y, x)`` after one step along the flow ``(b, 2, y, x)``.

        Raises:
            ValueError: If the grid has one row or one column only: it has no unit of length.
        """
        height, width = frame.shape[-2:]
        if min(height, width) < 2:
            raise ValueError(f"expected at least two rows and two columns, got {height} and {width}")
        columns, rows = self.departure(frame, flow)
        where = torch.stack([columns * (2 / (width - 1)) - 1, rows * (2 / (height - 1)) - 1], dim=-1)
        moved = functional.grid_sample(
            frame.to(where.dtype), where, mode="bilinear", padding_mode=self.beyond, align_corners=True
        )
        return moved.to(frame.dtype)


class GaussianWarp(Warp):
    r"""Advection and diffusion: a Gaussian average around the departure point.

    The solution of the advection-diffusion equation with locally constant motion,

    .. math::
        \hat y(r) &= \sum_s k(s - (r - w(r)))\, x(s) \\
        k(d) &\propto \exp\left(-\frac{|d|^2}{2\varsigma^2}\right), \qquad
        \varsigma^2 = 2 D \Delta t, \qquad \sum_s k = 1

    over the window of :math:`(2F + 1)^2` cells around the cell nearest to the departure point. Cells of the
    window outside the grid count as no echo.

    Convention: k is sampled at cell centres, so the variance it adds is :math:`\varsigma^2` only from about
    one cell on; for 0.25 cells it adds between 0.0007 (whole-cell motion) and 0.25 (half-cell motion).

    Args:
        std: :math:`\varsigma`, in cells.
        window: F, in cells; 4 times ``std`` leaves out less than 1e-4 of the mass.

    References:
        de Bézenac, Pajot and Gallinari (2018), Deep Learning for Physical Processes: Incorporating Prior
        Scientific Knowledge, section 3, https://arxiv.org/abs/1711.07970.
    """

    def __init__(self, std: float = 1.0, window: int = 4) -> None:
        super().__init__()
        self.std = std
        self.window = window

    def forward(self, frame: Tensor, flow: Tensor) -> Tensor:
        """Return the frame ``(b, c, y, x)`` after one step along the flow ``(b, 2, y, x)``."""
        columns, rows = self.departure(frame, flow)
        batch, channels, height, width = frame.shape
        # Departure points this far outside see nothing but the padding.
        margin = 2 * self.window + 1
        column, of_column = self._weights(columns, width)
        row, of_row = self._weights(rows, height)
        padded = functional.pad(frame.to(columns.dtype), (margin,) * 4)
        pitch = width + 2 * margin
        first = (row + margin - self.window) * pitch + column + margin - self.window
        across = torch.arange(2 * self.window + 1, device=frame.device).view(1, -1, 1, 1)
        cells = padded.flatten(2)
        moved = torch.zeros_like(frame, dtype=columns.dtype)
        for down, weight in enumerate(of_row.unbind(1)):
            index = (first[:, None] + down * pitch + across).view(batch, 1, -1).expand(-1, channels, -1)
            near = cells.gather(2, index).view(batch, channels, -1, height, width)
            moved = moved + weight[:, None] * (near * of_column[:, None]).sum(2)
        return moved.to(frame.dtype)

    def _weights(self, position: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return the nearest cell ``(b, y, x)`` and the weights ``(b, 2F + 1, y, x)`` along one axis."""
        far = self.window + 1
        position = position.clamp(-far, size - 1 + far)
        nearest = position.detach().round()
        offsets = torch.arange(-self.window, self.window + 1, device=position.device).view(1, -1, 1, 1)
        distance = offsets + (nearest - position)[:, None]
        return nearest.long(), torch.softmax(-(distance**2) / (2 * self.std**2), dim=1)


def compose(flow: Tensor, before: Tensor, warp: Warp) -> Tensor:
    r"""Return the displacement over all steps so far, given the last step's flow and that of those before.

    A cell's echo was at r - w(r) one step ago, and displaced by D there:

    .. math:: D'(r) = w(r) + D(r - w(r))

    Args:
        flow: w ``(b, 2, y, x)``, in cells.
        before: D ``(b, 2, y, x)``, in cells.
        warp: Samples D; beyond the grid it should continue it, since 0 would stop the echo there.
    """
    carried: Tensor = warp(before, flow)
    return flow + carried


def divergence(flow: Tensor) -> Tensor:
    r"""Return :math:`\partial u/\partial x + \partial v/\partial y` ``(..., y - 1, x - 1)``, per step.

    Both derivatives are taken at the corners between four cells, so that they belong together.

    Example:
        >>> row, column = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
        >>> divergence(torch.stack([column, row])).tolist()
        [[2.0, 2.0], [2.0, 2.0]]
        >>> divergence(torch.stack([-row, column])).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    u, v = flow.unbind(-3)
    along_x, along_y = u.diff(dim=-1), v.diff(dim=-2)
    return (along_x[..., 1:, :] + along_x[..., :-1, :] + along_y[..., 1:] + along_y[..., :-1]) / 2


def divergence_penalty(flow: Tensor) -> Tensor:
    r"""Return the mean of :math:`(\nabla\cdot w)^2` over a flow ``(..., 2, y, x)``."""
    return _mean(divergence(flow) ** 2)


def gradient_penalty(flow: Tensor) -> Tensor:
    r"""Return the mean of :math:`|\nabla w|^2`, summed over both components and directions."""
    return 2 * (_mean(flow.diff(dim=-1) ** 2) + _mean(flow.diff(dim=-2) ** 2))


def magnitude_penalty(flow: Tensor) -> Tensor:
    r"""Return the mean of :math:`|w|^2`, in cells squared."""
    return 2 * _mean(flow**2)


def _mean(values: Tensor) -> Tensor:
    """Return the mean; 0 of nothing, which a grid of one row has for differences between rows."""
    mean: Tensor = values.sum() / max(values.numel(), 1)
    return mean
