"""Frames as seen from the moving air: carried along the motion to the issue time, and from there onward.

A network that looks at fields in place has to learn advection and is wrong about it. Seen from the air, rain
stays where it is, and what is left to learn is how it grows and decays. The same motion, kept as it is, leads
from the past to the issue time and on to the leads, as in extrapolation: what a network of the moving frame
adds to extrapolation is the change of the field, and nothing else.

Every field is interpolated once from the frame it comes from, in Z
(:class:`nowcast.motion.trajectory.Carrier`). Cells whose air was outside the grid, or not observed, are NaN;
no echo stays exactly -10 dBZ.

References:
    Germann and Zawadzki (2002), Scale-Dependence of the Predictability of Precipitation from Continental
    Radar Images, doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2: Lagrangian persistence.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nowcast.motion.flow import motion_field
from nowcast.motion.trajectory import Carrier, Trajectory, VectorField, mean_dbz, to_z

Array = NDArray[np.float32]


def carried_to_issue(frames: Array | Sequence[Array], motion: VectorField) -> Array:
    """Return frames ``(t, y, x)`` [dBZ], one step apart, carried to the time of the newest, itself unchanged.

    Args:
        frames: What was observed, newest last; NaN = not observed.
        motion: Motion at the newest frame [cells per step].

    Raises:
        ValueError: If the motion is of another grid.
    """
    _check_grid(frames, motion)
    carried, trajectory = np.empty((len(frames), *motion.shape), np.float32), Trajectory(motion)
    carried[-1] = frames[-1]
    for steps in range(1, len(frames)):
        carried[-1 - steps] = trajectory.carried(frames[-1 - steps], steps)
    return carried


def carried_back(frames: Array | Sequence[Array], motion: VectorField, leads: Sequence[int]) -> Array:
    """Return frames observed after the issue time, brought back to it, ``(lead, y, x)`` [dBZ].

    Each cell shows what its air looked like when it had moved on: the path forward is that of the motion
    reversed. Air that had left the grid, or had gone where nothing was observed, is NaN. This undoes
    :func:`nowcast.motion.trajectory.carried_forward` up to interpolation.

    Args:
        frames: Frames ``(lead, y, x)`` [dBZ], NaN = not observed.
        motion: Motion at the issue time [cells per step].
        leads: How many steps after the issue time each was observed, in ascending order.

    Raises:
        ValueError: If leads and frames are not as many, leads do not ascend from 1, or the motion is of
            another grid.
    """
    _check_grid(frames, motion)
    if len(leads) != len(frames) or list(leads) != sorted({lead for lead in leads if lead > 0}):
        raise ValueError(f"expected a lead for each of {len(frames)} frames, ascending from 1, got {leads}")
    carried, trajectory = np.empty((len(frames), *motion.shape), np.float32), Trajectory(motion.scaled(-1.0))
    for index, (frame, lead) in enumerate(zip(frames, leads, strict=True)):
        carried[index] = trajectory.carried(frame, lead)
    return carried


def carried_planes(planes: Array, displacement: VectorField) -> Array:
    """Return ``(k, y, x)`` of any quantity that is 0 where nothing is known, carried along a displacement."""
    rows, columns = displacement.dense()
    rows += np.arange(rows.shape[0], dtype=np.float32)[:, None]
    columns += np.arange(columns.shape[1], dtype=np.float32)
    carried = [cv2.remap(plane, columns, rows, cv2.INTER_LINEAR, borderValue=0) for plane in planes]
    return np.asarray(carried, dtype=np.float32)


def bridge(before: Array, after: Array) -> Array:
    """Return the frame [dBZ] halfway between two: both carried there along their motion, and averaged.

    The mean is of Z; where only one of the two is observed, it alone counts.
    """
    motion = motion_field([before, after])  # at `after`, over the whole gap
    half = motion.at(motion.scaled(0.5)).scaled(0.5)
    ends = [Carrier(before).carry(half.scaled(-1.0)), Carrier(after).carry(half)]
    observed = [(~np.isnan(end)).astype(np.float32) for end in ends]
    return mean_dbz(to_z(ends[0]) + to_z(ends[1]), observed[0] + observed[1])


def _check_grid(frames: Array | Sequence[Array], motion: VectorField) -> None:
    shapes = {frame.shape for frame in frames}
    if shapes and shapes != {motion.shape}:
        raise ValueError(f"expected frames of {motion.shape} cells, as the motion, got {sorted(shapes)}")
