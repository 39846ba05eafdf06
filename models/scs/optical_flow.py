"""Dense optical flow between two frames: the motion a network is asked for as a side goal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Reflectivity from which a cell counts as echo, normalised to [0, 1]: -3 dBZ on a scale of -10 to 60 dBZ.
ECHO = 0.1

#: Added to both diagonal elements of the normal equations: squared reflectivity per squared cell. Far below
#: the squared slope of an echo's edge, far above rounding, so that flow is 0 where nothing is to be seen.
REGULARISATION = 1e-5


def optical_flow(
    before: Tensor, after: Tensor, *, levels: int = 3, window: int = 9, iterations: int = 3
) -> Tensor:
    r"""Return the motion ``(b, 2, y, x)`` in cells per step: first to the east (u), then to the south (v).

    An echo at ``(x, y)`` in ``before`` is looked for at ``(x + u, y + v)`` in ``after``. Around every cell
    the mean over a window :math:`\langle\cdot\rangle` of the squared brightness error is minimised, with
    :math:`I_t` the frame after, moved back by the flow so far, minus the frame before,

    .. math::
        \begin{pmatrix} \langle I_x^2\rangle + \epsilon & \langle I_x I_y\rangle \\
        \langle I_x I_y\rangle & \langle I_y^2\rangle + \epsilon \end{pmatrix}
        \begin{pmatrix} \delta u \\ \delta v \end{pmatrix}
        = -\begin{pmatrix} \langle I_x I_t\rangle \\ \langle I_y I_t\rangle \end{pmatrix}

    first on the coarsest of ``levels`` grids, each half as fine as the one before, then refined on each finer
    one. Where no echo is near, flow is 0.

    Convention: a step of one refinement is limited to half a window, beyond which the linearisation says
    nothing. Computed in single precision at least.

    Args:
        before: Frames ``(b, 1, y, x)``, reflectivity normalised to [0, 1].
        after: The frames one step later.
        levels: Number of grids; the coarsest sees motion of some ``2 ** (levels - 1) * window / 2`` cells.
        window: Odd width of the window, in cells of each grid.
        iterations: Refinements on each grid.

    References:
        Lucas and Kanade (1981), An iterative image registration technique with an application to stereo
        vision. Bouguet (2001), Pyramidal implementation of the affine Lucas Kanade feature tracker, for the
        descent from coarse to fine.

    Example:
        >>> optical_flow(torch.zeros(2, 1, 20, 30), torch.zeros(2, 1, 20, 30)).abs().max()
        tensor(0.)
    """
    with torch.autocast(before.device.type, enabled=False):
        precision = torch.promote_types(before.dtype, torch.float32)
        pyramid = [(_blur(before.to(precision)), _blur(after.to(precision)))]
        while len(pyramid) < levels:
            first, second = pyramid[-1]
            pyramid.append((_blur(_halve(first)), _blur(_halve(second))))
        coarsest = pyramid[-1][0]
        flow = coarsest.new_zeros(coarsest.shape[0], 2, *coarsest.shape[-2:])
        for first, second in reversed(pyramid):
            height, width = first.shape[-2:]
            if flow.shape[-2:] != first.shape[-2:]:
                doubled = functional.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)
                flow = 2 * doubled[..., :height, :width]
            for _ in range(iterations):
                flow = flow + _refinement(first, warp(second, flow), window)
        return flow


def has_echo(before: Tensor, after: Tensor, threshold: float = ECHO) -> Tensor:
    """Return where at least one of two frames has an echo, so that motion means something."""
    return torch.maximum(before, after) >= threshold


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Return the frames ``(b, c, y, x)`` read at ``(x + u, y + v)``: what moved with the flow is moved back.

    Beyond the edge the nearest cell counts.
    """
    height, width = frames.shape[-2:]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 0]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    places = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    return functional.grid_sample(frames, places, padding_mode="border", align_corners=False)


def _refinement(first: Tensor, moved: Tensor, window: int) -> Tensor:
    """Return what to add to the flow ``(b, 2, y, x)``, given the frame after moved back by it."""
    along_x, along_y = _slopes((first + moved) / 2)
    change = moved - first
    products = torch.cat([along_x**2, along_x * along_y, along_y**2, along_x * change, along_y * change], 1)
    height, width = first.shape[-2:]
    means = _averaging(height, window, first) @ products @ _averaging(width, window, first).mT
    xx, xy, yy, xt, yt = means.chunk(5, dim=1)
    xx, yy = xx + REGULARISATION, yy + REGULARISATION
    step = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / (xx * yy - xy**2)
    limit = window / 2
    return torch.clamp(step, -limit, limit)


def _averaging(cells: int, window: int, like: Tensor) -> Tensor:
    """Return the matrix that takes the mean over a window around each of a row's cells, edges cut off.

    On a CPU two products with it are several times as fast as pooling.
    """
    places = torch.arange(cells, device=like.device)
    inside = ((places[:, None] - places).abs() <= window // 2).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def _slopes(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return the central differences per cell to the east and to the south, one-sided at half at the edge."""
    padded = functional.pad(frames, (1, 1, 1, 1), mode="replicate")
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return along_x, along_y


def _blur(frames: Tensor) -> Tensor:
    """Return the frames smoothed with the binomial weights 1 2 1 in both directions."""
    padded = functional.pad(frames, (1, 1, 1, 1), mode="replicate")
    wide = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    return (wide[..., :-2, :] + 2 * wide[..., 1:-1, :] + wide[..., 2:, :]) / 4


def _halve(frames: Tensor) -> Tensor:
    """Return the frames on a grid half as fine, an odd last row or column counting twice."""
    height, width = frames.shape[-2:]
    padded = functional.pad(frames, (0, width % 2, 0, height % 2), mode="replicate")
    return functional.avg_pool2d(padded, 2)
