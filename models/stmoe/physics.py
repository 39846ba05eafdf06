"""Synthetic sequences of known physics: objects that move, turn, grow or decay under noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

#: Property of an object, by the number that stands for it in :attr:`Objects.kind`.
KINDS = ("translation", "rotation", "intensity")
#: Outline of an object, by the number that stands for it in :attr:`Objects.shape`.
SHAPES = ("disc", "line", "polygon")

#: Most objects in a sequence.
MAX_OBJECTS = 3
#: Most corners of a polygon; those with fewer repeat their last one.
MAX_CORNERS = 6
#: Grid width that lengths and speeds below are given for, in cells; on others they scale with the width.
REFERENCE_SIZE = 64
#: Radius of a disc or a polygon's circumscribed circle, in cells.
RADIUS = (4.0, 16.0)
#: Length of a line, in cells.
LENGTH = (12.0, 32.0)
#: Width of a line, in cells of any grid.
WIDTH = (2.0, 4.0)
#: Amplitude of an object, normalised reflectivity.
AMPLITUDE = (0.3, 1.0)
#: Where an object starts, as fractions of rows and columns.
START = (0.2, 0.8)
#: Frequency of an object's texture, in waves per cell of any grid.
TEXTURE = (0.03, 0.15)
#: Largest speed, acceleration and jerk, in cells per frame to the power of 1, 2, 3.
SPEED = (3.0, 0.5, 0.1)
#: Largest angular speed, acceleration and jerk, in radians per frame to the power of 1, 2, 3.
SPIN = (0.3, 0.05, 0.01)
#: Sum of the growth kernel: the factor of the total intensity from one frame to the next.
GROWTH = (0.85, 1.15)
#: Standard deviation of the growth kernel before it is cut to 3x3 or 5x5, in cells.
BLUR = (0.5, 1.0)
#: Cells of the coarsest octave of Perlin noise: frames, rows, columns of the reference grid.
PERLIN_CELL = (16.0, 16.0, 16.0)
#: Octaves of Perlin noise, each twice as fine and half as strong as the one before.
PERLIN_OCTAVES = 4

#: What a set of sequences shows: one property, each of the three in turn, or several in one sequence.
Kind = Literal["translation", "rotation", "intensity", "all", "mixed"]


class Objects(NamedTuple):
    r"""All that is known of the objects ``k`` of sequences ``b``; vectors are (x, y), x east, y south.

    Motion is a polynomial of the frame's number n, about each object's centroid:

    .. math::
        r(n) &= r_0 + v n + \tfrac{1}{2} a n^2 + \tfrac{1}{6} j n^3 \\
        \varphi(n) &= \varphi_0 + \omega n + \tfrac{1}{2} \alpha n^2 + \tfrac{1}{6} \beta n^3

    Attributes:
        kind: Number ``(b, k)`` in :data:`KINDS`.
        shape: Number ``(b, k)`` in :data:`SHAPES`; -1 where there is no object.
        amplitude: ``(b, k)``, normalised reflectivity.
        extent: ``(b, k, 2)`` in cells: half length and half width of a line, radius twice of others.
        corners: ``(b, k, 6, 2)`` of a polygon about its centroid, in cells, clockwise on the map.
        wave: Wave vector ``(b, k, 2)`` of the texture, in waves per cell of the object's own axes.
        phase: ``(b, k)`` of the texture, in waves.
        motion: ``(b, k, 4, 2)``: r_0, v, a, j in cells per frame to the power of 0 to 3.
        spin: ``(b, k, 4)``: phi_0, omega, alpha, beta in radians, from x towards y.
        growth: ``(b, k)``: sum of the kernel that a growing object is convolved with at each step, else 1.
        blur: Standard deviation ``(b, k)`` of that kernel, in cells.
        reach: Cells ``(b, k)`` from the middle to the edge of that kernel, 1 or 2.
    """

    kind: Tensor
    shape: Tensor
    amplitude: Tensor
    extent: Tensor
    corners: Tensor
    wave: Tensor
    phase: Tensor
    motion: Tensor
    spin: Tensor
    growth: Tensor
    blur: Tensor
    reach: Tensor

    def positions(self, frames: int) -> Tensor:
        """Return the centroids ``(b, k, t, 2)`` of frames 0 to ``frames - 1``, in cells."""
        return torch.einsum("no,bkod->bknd", _taylor(frames, self.motion), self.motion)

    def angles(self, frames: int) -> Tensor:
        """Return the angles ``(b, k, t)`` of frames 0 to ``frames - 1``, in radians."""
        return torch.einsum("no,bko->bkn", _taylor(frames, self.spin), self.spin)


class Rendering(NamedTuple):
    """Sequences without noise.

    Attributes:
        frames: Normalised reflectivity ``(b, t, y, x)``, not clipped.
        displacement: ``(b, t - 1, 2, y, x)``, see :class:`PhysicsBatch`.
        owner: ``(b, t, y, x)``, see :class:`PhysicsBatch`.
    """

    frames: Tensor
    displacement: Tensor
    owner: Tensor


class PhysicsBatch(NamedTuple):
    """Sequences and the truth about them; without the dimension ``b`` it is one sequence.

    Attributes:
        frames: Normalised reflectivity ``(b, t, 1, y, x)`` in [0, 1].
        metadata: The objects.
        displacement: Where matter came from ``(b, t - 1, 2, y, x)``, in cells along x, then y: what is at r
            in frame n + 1 was at ``r - displacement[:, n]`` in frame n. Each cell has the motion of the
            object nearest to it, so that warping the whole frame gives the next one.
        owner: Number ``(b, t, y, x)`` of the object that covers a cell, -1 where none does.
        clipped: Fraction ``(b,)`` of cells that exceeded 1 and were clipped.
    """

    frames: Tensor
    metadata: Objects
    displacement: Tensor
    owner: Tensor
    clipped: Tensor


class PhysicsSequences:
    r"""A set of synthetic sequences, made when asked for: number i is the same whoever asks, in any order.

    One to three discs, lines or convex polygons with a sine texture

    - translate with random velocity, acceleration and jerk (``translation``),
    - rotate in place with random angular velocity, acceleration and jerk (``rotation``), or
    - stay and grow or decay (``intensity``): :math:`I(n + 1) = K_g * I(n)` with a Gaussian kernel of sum g.

    Kind ``all`` is the union of the three: its sequence 3 i + k is sequence i of kind k. In ``mixed`` every
    object of a sequence has a property of its own.

    Noise is :math:`N = w_1 \text{Perlin} + w_2 \text{Gaussian} + w_3 \text{white}` with random convex
    weights. Each part is made non-negative and scaled to the same sum, so that the weights are shares and
    :math:`\sum N / \sum I` over the sequence is ``noise``, 0.26 or 0.70 in the paper.

    Convention: the paper does not tell Gaussian from white noise; here they are normal and uniform. Ranges,
    not given there either, are this module's constants. Intensity is clipped to [0, 1] on output only.

    Args:
        kind: What the sequences show.
        frames: Frames of a sequence.
        size: Rows and columns, in cells.
        noise: Sum of the noise over sum of the objects' intensity.
        seed: Names the set.
        count: Sequences of each kind.

    Raises:
        ValueError: If the kind is none of these, or a number is out of range.

    References:
        Aoyagi et al. (2021), Spatio-temporal Predictive Network For Videos With Physical Properties,
        section 3.2. Perlin (2002), Improving Noise.

    Example:
        >>> PhysicsSequences(kind="rotation", size=32).batch([0, 1]).frames.shape
        torch.Size([2, 8, 1, 32, 32])
    """

    def __init__(
        self,
        kind: Kind = "all",
        frames: int = 8,
        size: int = 64,
        noise: float = 0.70,
        seed: int = 0,
        *,
        count: int = 10_000,
    ) -> None:
        if kind not in (*KINDS, "all", "mixed"):
            raise ValueError(f"expected one of {KINDS}, 'all' or 'mixed', got {kind!r}")
        if frames < 2 or size < 8 or noise < 0 or count < 1:
            raise ValueError(
                "expected at least 2 frames, 8 cells, no negative noise and 1 sequence, "
                f"got {frames}, {size}, {noise}, {count}"
            )
        self.kind, self.frames, self.size = kind, frames, size
        self.noise, self.seed, self.count = noise, seed, count

    def __len__(self) -> int:
        return self.count * len(KINDS) if self.kind == "all" else self.count

    def __getitem__(self, index: int) -> PhysicsBatch:
        """Return one sequence, without the batch dimension."""
        if not 0 <= index < len(self):
            raise IndexError(f"expected an index below {len(self)}, got {index}")
        batch = self.batch([index])
        return batch._replace(
            metadata=Objects(*(field[0] for field in batch.metadata)),
            frames=batch.frames[0],
            displacement=batch.displacement[0],
            owner=batch.owner[0],
            clipped=batch.clipped[0],
        )

    def batch(self, indices: Sequence[int]) -> PhysicsBatch:
        """Return the sequences of these numbers, which may be any from 0."""
        sources = [self._source(index) for index in indices]
        drawn = [_draw_objects(kind, self.size, rng) for kind, rng in sources]
        objects = Objects(*(torch.stack(field) for field in zip(*drawn, strict=True)))
        frames, displacement, owner = render(objects, self.frames, self.size)
        if self.noise > 0:
            shape = (self.frames, self.size, self.size)
            noise = torch.from_numpy(np.stack([_draw_noise(shape, rng) for _, rng in sources]))
            total = frames.sum(dim=(1, 2, 3), keepdim=True)
            frames = frames + self.noise * total * noise
        clipped = (frames > 1).float().mean(dim=(1, 2, 3))
        return PhysicsBatch(frames.clamp(0, 1)[:, :, None], objects, displacement, owner, clipped)

    def _source(self, index: int) -> tuple[str, Generator]:
        """Return the kind of sequence ``index`` and the generator that all of it comes from."""
        kind: str = self.kind
        if kind == "all":
            index, number = divmod(index, len(KINDS))
            kind = KINDS[number]
        number = KINDS.index(kind) if kind in KINDS else len(KINDS)
        counter = np.random.SeedSequence(self.seed, spawn_key=(number, index))
        return kind, Generator(np.random.Philox(counter))


def render(objects: Objects, frames: int, size: int) -> Rendering:
    """Return what objects look like in ``frames`` frames of ``size`` rows and columns.

    An outline is a signed distance d, in cells; a cell is covered by 1/2 - d, clipped to [0, 1]. That is
    exact for straight edges along the grid wherever they are between cells, so motion is smooth.
    """
    present = objects.shape >= 0
    sample, slot = present.nonzero(as_tuple=True)
    flat = Objects(*(field[present][None] for field in objects))
    positions, angles = flat.positions(frames)[0], flat.angles(frames)[0]
    one = Objects(*(field[0] for field in flat))
    layers, distance = _layers(one, positions, angles, size)

    batch = objects.shape.shape[0]
    total = layers.new_zeros(batch, frames, size, size).index_add_(0, sample, layers)
    distances = distance.new_full((*objects.shape.shape, frames, size, size), math.inf)
    distances[sample, slot] = distance
    nearest_distance, nearest = distances.min(dim=1)
    owner = torch.where(nearest_distance < 0, nearest, -1)

    displacement = layers.new_zeros(batch, frames - 1, 2, size, size)
    field = _motion_fields(positions, angles, size)
    for number, (where, which) in enumerate(zip(sample.tolist(), slot.tolist(), strict=True)):
        near = (nearest[where, 1:] == which)[:, None]
        displacement[where] = torch.where(near, field[number], displacement[where])
    return Rendering(total, displacement, owner)


def _layers(objects: Objects, positions: Tensor, angles: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return intensity and signed distance ``(n, t, y, x)`` of each of ``n`` objects on its own."""
    axis = torch.arange(size, dtype=torch.float32)
    centre, angle = positions.float(), angles.float()[..., None, None]
    east = axis[None, None, None, :] - centre[..., 0, None, None]  # (n, t, 1, x)
    south = axis[None, None, :, None] - centre[..., 1, None, None]  # (n, t, y, 1)
    along = angle.cos() * east + angle.sin() * south
    across = angle.cos() * south - angle.sin() * east

    distance = torch.empty_like(along)
    for number, outline in enumerate((_disc_distance, _line_distance, _polygon_distance)):
        chosen = objects.shape == number
        if chosen.any():
            distance[chosen] = outline(
                along[chosen], across[chosen], objects.extent[chosen].float(), objects.corners[chosen].float()
            )

    wave = objects.wave.float()[:, :, None, None, None]
    phase = objects.phase.float()[:, None, None, None]
    texture = 0.5 * (1 + torch.sin(2 * math.pi * (wave[:, 0] * along + wave[:, 1] * across + phase)))
    amplitude = objects.amplitude.float()[:, None, None, None]
    layers = amplitude * texture * (0.5 - distance).clamp(0, 1)

    growing = objects.kind == KINDS.index("intensity")
    if growing.any():
        layers[growing] = _grown(layers[growing], objects, growing)
    return layers, distance


def _grown(layers: Tensor, objects: Objects, growing: Tensor) -> Tensor:
    """Return ``(n, t, y, x)``: the first frame, then each frame the one before convolved with K_g."""
    offset = torch.arange(-2, 3, dtype=torch.float64)
    blur, reach = objects.blur[growing, None], objects.reach[growing, None]
    profile = torch.exp(-0.5 * (offset / blur) ** 2) * (offset.abs() <= reach)
    profile = profile / profile.sum(dim=1, keepdim=True)
    kernel = objects.growth[growing, None, None] * profile[:, :, None] * profile[:, None, :]
    frame, weight = layers[None, :, 0], kernel[:, None].to(layers.dtype)
    frames = [frame]
    for _ in range(layers.shape[1] - 1):
        frame = functional.conv2d(frame, weight, padding=2, groups=weight.shape[0])
        frames.append(frame)
    return torch.stack([frame[0] for frame in frames], dim=1)


def _motion_fields(positions: Tensor, angles: Tensor, size: int) -> Tensor:
    """Return the displacement ``(n, t - 1, 2, y, x)`` that each of ``n`` objects gives to the whole grid.

    With d the vector from the centroid in frame n + 1, it is ``r(n + 1) - r(n) + d - R(-dphi) d``.
    """
    axis = torch.arange(size, dtype=torch.float32)
    turned, shift = angles.diff(dim=1).float()[..., None, None], positions.diff(dim=1).float()
    centre = positions[:, 1:].float()
    east = axis[None, None, None, :] - centre[..., 0, None, None]
    south = axis[None, None, :, None] - centre[..., 1, None, None]
    cosine, sine = turned.cos(), turned.sin()
    return torch.stack(
        [
            (1 - cosine) * east - sine * south + shift[..., 0, None, None],
            (1 - cosine) * south + sine * east + shift[..., 1, None, None],
        ],
        dim=2,
    )


def _disc_distance(along: Tensor, across: Tensor, extent: Tensor, corners: Tensor) -> Tensor:
    return torch.hypot(along, across) - extent[:, 0, None, None, None]


def _line_distance(along: Tensor, across: Tensor, extent: Tensor, corners: Tensor) -> Tensor:
    half_length, half_width = (value[:, None, None, None] for value in extent.unbind(1))
    beyond = (along.abs() - (half_length - half_width)).clamp(min=0)  # round ends
    return torch.hypot(beyond, across) - half_width


def _polygon_distance(along: Tensor, across: Tensor, extent: Tensor, corners: Tensor) -> Tensor:
    """Return the largest distance to a side's line: exact but outside a corner, where it is too small."""
    sides = corners.roll(-1, dims=1) - corners
    lengths = sides.norm(dim=2)
    normals = torch.stack([sides[..., 1], -sides[..., 0]], dim=2) / lengths.clamp(min=1e-6)[..., None]
    offsets = torch.where(lengths > 1e-6, (normals * corners).sum(dim=2), math.inf)  # repeated corners
    distance = torch.full_like(along, -math.inf)
    for (normal_x, normal_y), offset in zip(
        normals[:, :, :, None, None, None].permute(1, 2, 0, 3, 4, 5),
        offsets.T[:, :, None, None, None],
        strict=True,
    ):
        distance = torch.maximum(distance, normal_x * along + normal_y * across - offset)
    return distance


def _taylor(frames: int, like: Tensor) -> Tensor:
    """Return ``(t, 4)``: the factors 1, n, n^2 / 2, n^3 / 6 of each frame n."""
    n = torch.arange(frames, dtype=like.dtype)
    return torch.stack([torch.ones_like(n), n, n**2 / 2, n**3 / 6], dim=1)


def _draw_objects(kind: str, size: int, rng: Generator) -> Objects:
    """Return the objects of one sequence, without the batch dimension."""
    slots, scale = MAX_OBJECTS, size / REFERENCE_SIZE
    present = np.arange(slots) < rng.integers(1, slots + 1)
    drawn_kind = rng.integers(len(KINDS), size=slots)
    kinds = np.full(slots, KINDS.index(kind)) if kind in KINDS else drawn_kind
    shape = np.where(present, rng.integers(len(SHAPES), size=slots), -1)

    radius = rng.uniform(*RADIUS, size=slots) * scale
    half_length = rng.uniform(*LENGTH, size=slots) * scale / 2
    half_width = rng.uniform(*WIDTH, size=slots) / 2
    line = shape == SHAPES.index("line")
    extent = np.stack([np.where(line, half_length, radius), np.where(line, half_width, radius)], axis=1)
    corners = radius[:, None, None] * np.stack([_draw_corners(rng) for _ in range(slots)])

    wave = _directions(slots, rng) * rng.uniform(*TEXTURE, size=(slots, 1))
    start = rng.uniform(*START, size=(slots, 2)) * (size - 1)
    moves = kinds == KINDS.index("translation")
    speeds = [
        _directions(slots, rng) * rng.uniform(0, most, size=(slots, 1)) * scale * moves[:, None]
        for most in SPEED
    ]
    turns = kinds == KINDS.index("rotation")
    angle = rng.uniform(0, 2 * math.pi, size=slots)
    spins = [rng.uniform(-most, most, size=slots) * turns for most in SPIN]
    grows = kinds == KINDS.index("intensity")
    growth, blur, reach = rng.uniform(*GROWTH), rng.uniform(*BLUR), rng.integers(1, 3)

    fields: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {
        "kind": kinds,
        "shape": shape,
        "amplitude": rng.uniform(*AMPLITUDE, size=slots) * present,
        "extent": extent,
        "corners": corners,
        "wave": wave,
        "phase": rng.uniform(size=slots),
        "motion": np.stack([start, *speeds], axis=1),
        "spin": np.stack([angle, *spins], axis=1),
        "growth": np.where(grows, growth, 1.0),
        "blur": np.full(slots, blur),
        "reach": np.full(slots, reach),
    }
    return Objects(**{name: torch.from_numpy(value) for name, value in fields.items()})


def _draw_corners(rng: Generator) -> NDArray[np.float64]:
    """Return the corners ``(6, 2)`` of a convex polygon in the unit circle, about its centroid."""
    count = rng.integers(3, MAX_CORNERS + 1)
    angles = 2 * np.pi * (np.arange(MAX_CORNERS) + rng.uniform(-0.3, 0.3, size=MAX_CORNERS)) / count
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners[count:] = corners[count - 1]
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]
    centroid = ((corners + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    result: NDArray[np.float64] = corners - centroid
    return result


def _directions(count: int, rng: Generator) -> NDArray[np.float64]:
    """Return unit vectors ``(count, 2)`` of any direction."""
    angles = rng.uniform(0, 2 * math.pi, size=count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _draw_noise(shape: tuple[int, int, int], rng: Generator) -> NDArray[np.float32]:
    """Return non-negative noise ``(t, y, x)`` of sum 1: Perlin, normal and uniform in random shares."""
    parts = (
        _perlin(shape, rng),
        rng.standard_normal(shape, dtype=np.float32),
        rng.random(shape, dtype=np.float32),  # as |U(-1/2, 1/2)|, but for the scale
    )
    noise = np.zeros(shape, dtype=np.float32)
    for share, part in zip(rng.dirichlet(np.ones(len(parts))), parts, strict=True):
        size = np.abs(part)
        noise += size * np.float32(share / size.sum(dtype=np.float64))
    return noise


def _perlin(shape: tuple[int, int, int], rng: Generator) -> NDArray[np.float32]:
    """Return Perlin noise ``(t, y, x)``: smooth in time as in space, of mean 0 and size about 1.

    In a cell of a lattice of random gradients, the eight corners' gradients times the distance from them are
    faded into each other. Fading and distance are products over the axes, hence each of the three components
    of the gradients is three small matrix products, one per axis.
    """
    noise = np.zeros(shape, dtype=np.float32)
    scale = np.array([1.0, shape[1] / REFERENCE_SIZE, shape[2] / REFERENCE_SIZE])
    for octave in range(PERLIN_OCTAVES):
        cell = np.array(PERLIN_CELL) * scale / 2**octave
        axes = [_fades(steps, width, rng) for steps, width in zip(shape, cell, strict=True)]
        gradients = rng.standard_normal((3, *(fade.shape[1] for fade, _ in axes)), dtype=np.float32)
        gradients /= np.linalg.norm(gradients, axis=0)
        for component, values in enumerate(gradients):
            in_time, in_y, in_x = (pair[axis == component] for axis, pair in enumerate(axes))
            rows = in_y @ (values @ in_x.T)  # (lattice in time, y, x)
            noise += np.float32(0.5**octave) * np.tensordot(in_time, rows, axes=1)
    return noise


def _fades(steps: int, width: float, rng: Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return matrices ``(steps, lattice points)``: share of each point, and share times distance from it."""
    at = np.arange(steps) / width + rng.uniform()
    point = np.floor(at).astype(np.int64)
    beyond = at - point
    fade = beyond**3 * (beyond * (6 * beyond - 15) + 10)
    shares = np.zeros((steps, int(point[-1]) + 2), dtype=np.float32)
    slopes = np.zeros_like(shares)
    row = np.arange(steps)
    shares[row, point], shares[row, point + 1] = 1 - fade, fade
    slopes[row, point], slopes[row, point + 1] = (1 - fade) * beyond, fade * (beyond - 1)
    return shares, slopes
