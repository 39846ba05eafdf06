"""Echo classes: what kind of echo each cell holds, told from its surroundings, as labels to learn from."""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn import functional

from models.fanet.segmentation import IGNORED


class EchoClass(IntEnum):
    """Kind of echo of one cell."""

    NO_ECHO = 0
    WEAK = 1  #: drizzle and the fringe of rain
    STRATIFORM = 2
    CONVECTIVE = 3
    INTENSE = 4  #: core of a storm, hail likely
    NON_METEOROLOGICAL = 5  #: clutter, second trip, anomalous propagation


#: [dBZ] Least reflectivity that is an echo; the weakest that Py-ART's feature detection uses.
ECHO_DBZ = 5.0

#: [dBZ] Least reflectivity of rain; 0.5 mm/h by Marshall and Palmer, Z = 200 R^1.6.
RAIN_DBZ = 18.2

#: [dBZ] Where stratiform rain ends for certain; Steiner et al. (1995).
CONVECTIVE_DBZ = 40.0

#: [dBZ] Where hail is taken to begin; the WSR-88D's cap on rain, Fulton et al. (1998).
INTENSE_DBZ = 53.0

#: [km] Radius of the background; Steiner et al. (1995).
BACKGROUND_KM = 11.0

#: [dB] By how much a centre exceeds a background of 0 dBZ or less; Steiner et al. (1995).
PEAK_DB = 10.0

#: [dBZ^2 / dB] How the excess falls with the square of the background; Steiner et al. (1995).
PEAK_FALL = 180.0

#: [dBZ] Backgrounds at which the radius of a centre's convective area grows by ``RADIUS_STEP_KM``; Steiner
#: et al. (1995), the medium of their three relations.
RADIUS_STEPS_DBZ = (25.0, 30.0, 35.0, 40.0)

#: [km] Convective radius of a centre in the weakest background, and what each step adds; as above.
RADIUS_STEP_KM = 1.0

#: [cells] By how much a radius may fall short: grids of 1 km have cells of 1000.003 m in their files.
FORGIVEN_CELLS = 0.01

#: [dBZ] Range of injected ground clutter: as strong as rain, so that strength alone cannot tell it.
CLUTTER_DBZ = (10.0, 50.0)


def echo_classes(
    dbz: Tensor, cell_km: float | tuple[float, float], *, clutter: Tensor | None = None
) -> Tensor:
    """Return the class of every cell ``(..., y, x)``, int64, ``IGNORED`` where nothing was observed.

    Convective is what :func:`convective_area` says, of that intense what reaches ``INTENSE_DBZ``; other echo
    is stratiform or, below ``RAIN_DBZ``, weak. What is known to be clutter leaves the backgrounds alone.

    Args:
        dbz: Reflectivity ``(..., y, x)``; NaN where not observed, any value below ``ECHO_DBZ`` where dry.
        cell_km: Size of a cell, or its height and width.
        clutter: Boolean, of the same shape: echo known not to be weather.
    """
    weather = dbz if clutter is None else dbz.masked_fill(clutter, torch.nan)
    convective = convective_area(weather, cell_km)
    classes = torch.full(dbz.shape, int(EchoClass.NO_ECHO), device=dbz.device)
    classes[dbz >= ECHO_DBZ] = EchoClass.WEAK
    classes[dbz >= RAIN_DBZ] = EchoClass.STRATIFORM
    classes[convective] = EchoClass.CONVECTIVE
    classes[convective & (dbz >= INTENSE_DBZ)] = EchoClass.INTENSE
    if clutter is not None:
        classes[clutter & (dbz >= ECHO_DBZ)] = EchoClass.NON_METEOROLOGICAL
    return classes.masked_fill(dbz.isnan(), IGNORED)


def convective_area(dbz: Tensor, cell_km: float | tuple[float, float]) -> Tensor:
    r"""Return where rain is convective ``(..., y, x)``: centres, and the echo around them.

    With Z_b the background of a cell (:func:`background_dbz`), a centre is an echo of at least 40 dBZ or one
    that exceeds its background by at least

    .. math::
        \Delta Z = \begin{cases}
            10                 & Z_b < 0 \\
            10 - Z_b^2 / 180   & 0 \le Z_b < \sqrt{1800} \\
            0                  & \text{otherwise.}
        \end{cases}

    Echo within 1 km of a centre is convective too; within 2, 3, 4, 5 km if the centre's background is at
    least 25, 30, 35, 40 dBZ.

    Args:
        dbz: Reflectivity ``(..., y, x)``; NaN where not observed.
        cell_km: Size of a cell, or its height and width.

    Raises:
        ValueError: If a cell is so large that its background is but itself.

    References:
        Steiner, Houze and Yuter (1995), Climatological Characterization of Three-Dimensional Storm Structure
        from Operational Radar and Rain Gauge Data, Journal of Applied Meteorology 34, 1978-2007.
    """
    echo = dbz >= ECHO_DBZ
    background = background_dbz(dbz, cell_km)
    excess = (PEAK_DB - background.clamp(min=0) ** 2 / PEAK_FALL).clamp(min=0)
    centre = echo & ((dbz >= CONVECTIVE_DBZ) | (dbz - background >= excess))
    step = torch.bucketize(background, background.new_tensor(RADIUS_STEPS_DBZ), right=True)
    area = centre
    for number in range(len(RADIUS_STEPS_DBZ) + 1):
        reach = disk_sum(centre & (step == number), (number + 1) * RADIUS_STEP_KM, cell_km)
        area = area | (reach > 0)
    return area & echo


def background_dbz(dbz: Tensor, cell_km: float | tuple[float, float]) -> Tensor:
    """Return 10 log10 of the mean Z of the echoes within 11 km ``(..., y, x)``; NaN where there is none.

    The mean is one of Z [mm^6 m^-3], not of dBZ, over echoes alone; the cell itself is among them.
    """
    if max(_sides(cell_km)) > BACKGROUND_KM:
        raise ValueError(f"expected cells of at most {BACKGROUND_KM} km, got {cell_km}")
    echo = dbz >= ECHO_DBZ
    z = torch.where(echo, 10 ** (dbz.double() / 10), 0.0)
    count = disk_sum(echo, BACKGROUND_KM, cell_km)
    mean = disk_sum(z, BACKGROUND_KM, cell_km) / count
    return torch.where(count > 0, 10 * mean.log10(), torch.nan).to(dbz.dtype)


def disk_sum(field: Tensor, radius_km: float, cell_km: float | tuple[float, float]) -> Tensor:
    """Return the sum of ``field`` over all cells whose centres are within a radius ``(..., y, x)``, float64.

    Outside the grid there is 0. Each row of the disk is a difference of two prefix sums, so that the cost
    grows with the radius and not with its square.
    """
    height, width = _sides(cell_km)
    rows, columns = field.shape[-2:]
    reach = _cells(radius_km, height)
    halves = [_cells(math.sqrt(max(0.0, radius_km**2 - (j * height) ** 2)), width) for j in range(reach + 1)]
    widest = halves[0]
    prefix = functional.pad(field.double(), (widest + 1, widest, reach, reach)).cumsum(-1)
    total = field.new_zeros(field.shape, dtype=torch.float64)
    for offset, half in enumerate(halves):
        first = widest - half
        row = prefix[..., first + 2 * half + 1 :][..., :columns] - prefix[..., first : first + columns]
        for j in {reach - offset, reach + offset}:
            total += row[..., j : j + rows, :]
    return total


def inject_clutter(
    dbz: Tensor,
    patches_per_cell: float,
    *,
    radius_cells: float = 2.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return sequences with ground clutter, and where it is: fixed patches that flicker cell by cell.

    The patches of a sequence stay where they are while the weather moves. Their echo is drawn anew for every
    cell and frame, evenly over ``CLUTTER_DBZ``; where the weather is stronger it is seen instead.

    Args:
        dbz: Reflectivity ``(b, t, y, x)``; NaN where not observed, and so it stays.
        patches_per_cell: Share of the cells that are centres of a patch.
        radius_cells: Radius of a patch.
        generator: Source of the draw, which is made on the CPU.

    Returns:
        Reflectivity and boolean mask of the clutter, both ``(b, t, y, x)``.
    """
    batch, _, rows, columns = dbz.shape
    centres = torch.rand(batch, 1, rows, columns, generator=generator) < patches_per_cell
    least, most = CLUTTER_DBZ
    echo = least + (most - least) * torch.rand(dbz.shape, generator=generator)
    echo = echo.to(dbz)
    clutter = (disk_sum(centres, radius_cells, 1.0) > 0).to(dbz.device) & (echo > dbz)
    return torch.where(clutter, echo, dbz), clutter


def _sides(cell_km: float | tuple[float, float]) -> tuple[float, float]:
    """Return height and width of a cell [km]."""
    height, width = cell_km if isinstance(cell_km, tuple) else (cell_km, cell_km)
    if not (height > 0 and width > 0):
        raise ValueError(f"expected cells of a size above 0 km, got {cell_km}")
    return height, width


def _cells(distance_km: float, side_km: float) -> int:
    """Return how many whole cells fit into a distance."""
    return math.floor(distance_km / side_km + FORGIVEN_CELLS)
