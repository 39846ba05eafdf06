"""Synthetic sequences obey the physics they are made from: motion, growth, noise and truth in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from models.stmoe.physics import KINDS, SHAPES, Kind, Objects, PhysicsSequences, _draw_noise, _perlin, render


def one_object(
    shape: str = "disc",
    kind: str = "translation",
    *,
    motion: list[list[float]] | None = None,
    spin: list[float] | None = None,
    growth: float = 1.0,
    reach: int = 1,
    blur: float = 0.7,
    wave: tuple[float, float] = (0.0, 0.0),
) -> Objects:
    """One object of amplitude 1; without a wave its texture is 1 everywhere."""
    extent = {"disc": [6.0, 6.0], "line": [12.0, 1.5], "polygon": [8.0, 8.0]}[shape]
    corners = [[9.0, 0.0], [-3.0, 6.0], [-6.0, -6.0]]  # the centroid is the origin
    values = {
        "amplitude": 1.0,
        "extent": extent,
        "corners": corners + corners[-1:] * 3,
        "wave": wave,
        "phase": 0.25,
        "motion": motion or [[32.0, 30.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        "spin": spin or [0.0, 0.0, 0.0, 0.0],
        "growth": growth,
        "blur": blur,
    }
    numbers = {"kind": KINDS.index(kind), "shape": SHAPES.index(shape), "reach": reach}
    return Objects(
        **{name: torch.tensor(value, dtype=torch.float64)[None, None] for name, value in values.items()},
        **{name: torch.tensor([[value]]) for name, value in numbers.items()},
    )


def moments(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid ``(t, 2)`` and covariance ``(t, 2, 2)`` of the intensity, x first."""
    y, x = torch.meshgrid(torch.arange(frames.shape[1]), torch.arange(frames.shape[2]), indexing="ij")
    points = torch.stack([x, y], dim=-1).double()
    share = frames.double() / frames.double().sum(dim=(1, 2), keepdim=True)
    centroid = torch.einsum("tyx,yxd->td", share, points)
    from_it = points[None] - centroid[:, None, None]
    return centroid, torch.einsum("tyx,tyxd,tyxe->tde", share, from_it, from_it)


def test_positions_and_angles_are_polynomials_of_the_frame() -> None:
    objects = one_object(motion=[[10, -10], [1.5, 0], [0.4, 0], [-0.1, 0.6]], spin=[1, 0.5, -0.2, 0.06])
    x, y = objects.positions(8)[0, 0].T
    expected = [10, 11.6833, 13.6667, 15.85, 18.1333, 20.4167, 22.6, 24.5833]
    np.testing.assert_allclose(x, expected, atol=5e-5)
    np.testing.assert_allclose(y, [-10 + 0.1 * n**3 for n in range(8)])
    np.testing.assert_allclose(
        objects.angles(8)[0, 0], [1 + 0.5 * n - 0.1 * n**2 + 0.01 * n**3 for n in range(8)]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_centroid_of_the_picture_follows_the_motion(shape: str) -> None:
    objects = one_object(
        shape, motion=[[20, 40], [1.5, -1.7], [0.4, 0.3], [-0.1, -0.05]], spin=[0.7, 0, 0, 0]
    )
    centroid, _ = moments(render(objects, 8, 64).frames[0])
    expected = objects.positions(8)[0, 0]
    assert ((centroid - centroid[0]) - (expected - expected[0])).abs().max() < 0.05
    assert (centroid - expected).abs().max() < 0.05


def test_principal_axis_of_a_rotating_line_follows_the_angle() -> None:
    objects = one_object("line", "rotation", spin=[0.4, 0.3, -0.05, 0.01])
    centroid, covariance = moments(render(objects, 8, 64).frames[0])
    axis = torch.linalg.eigh(covariance).eigenvectors[:, :, -1]
    error = torch.atan2(axis[:, 1], axis[:, 0]) - objects.angles(8)[0, 0]
    assert ((error + math.pi / 2) % math.pi - math.pi / 2).abs().max() < 0.02
    assert (centroid - torch.tensor([32.0, 30.0])).abs().max() < 0.05


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize("growth", [1.08, 0.92])
def test_total_intensity_is_a_power_of_the_growth(growth: float, reach: int) -> None:
    frames = render(one_object(kind="intensity", growth=growth, reach=reach), 5, 64).frames[0].double()
    total = frames.sum(dim=(1, 2))
    expected = {1.08: [1, 1.08, 1.1664, 1.259712, 1.36048896], 0.92: [1, 0.92, 0.8464, 0.778688, 0.71639296]}
    np.testing.assert_allclose(total / total[0], expected[growth], rtol=1e-5)
    assert (frames.max() > 1) == (growth > 1), "nothing is clipped before output"


@pytest.mark.parametrize("reach", [1, 2])
def test_growth_spreads_by_the_variance_of_a_cut_gaussian(reach: int) -> None:
    frames = render(one_object(kind="intensity", growth=1.1, reach=reach, blur=0.9), 4, 64).frames[0]
    _, covariance = moments(frames)
    offset = np.arange(-reach, reach + 1)
    weight = np.exp(-0.5 * (offset / 0.9) ** 2)
    variance = (weight * offset**2).sum() / weight.sum()
    np.testing.assert_allclose(np.diff(covariance[:, 0, 0]), variance, rtol=1e-4)
    np.testing.assert_allclose(covariance[:, 0, 1], 0, atol=1e-4)


def test_texture_moves_and_turns_with_its_object() -> None:
    still = [[32.0, 32.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    moving = one_object(wave=(0.11, 0.05), motion=[still[0], [3.0, -2.0], *still[2:]])
    first, second = render(moving, 2, 65).frames[0]
    torch.testing.assert_close(second, first.roll((-2, 3), dims=(0, 1)), atol=1e-5, rtol=0)
    turning = one_object("polygon", "rotation", wave=(0.11, 0.05), motion=still, spin=[0, math.pi / 2, 0, 0])
    first, second = render(turning, 2, 65).frames[0]
    torch.testing.assert_close(second, first.rot90(-1), atol=1e-5, rtol=0)
    assert first.max() - first[first > 0].median() > 0.2, "there is a texture"


@pytest.mark.parametrize("shape", SHAPES)
def test_displacement_leads_back_to_where_matter_was(shape: str) -> None:
    objects = one_object(
        shape,
        wave=(0.03, 0.02),
        motion=[[28, 30], [1.5, -0.8], [0.2, 0.1], [0, 0]],
        spin=[0.3, 0.1, 0.02, 0],
    )
    rendering = render(objects, 5, 64)
    centre = torch.view_as_complex(objects.positions(5)[0, 0].contiguous())
    angle = objects.angles(5)[0, 0]
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    cell = torch.complex(x.double(), y.double())
    for n in range(4):
        turn = torch.polar(torch.ones(()).double(), angle[n] - angle[n + 1])
        came_from = centre[n] + (cell - centre[n + 1]) * turn
        field = rendering.displacement[0, n].double()
        torch.testing.assert_close(torch.complex(field[0], field[1]), cell - came_from, atol=1e-4, rtol=0)

    before, after = rendering.frames[0, :-1, None], rendering.frames[0, 1:, None]
    grid = torch.stack([x, y], dim=-1) - rendering.displacement[0].permute(0, 2, 3, 1)
    warped = functional.grid_sample(before, grid * 2 / 63 - 1, align_corners=True)
    assert ((warped - after) ** 2).mean() < 0.05 * ((before - after) ** 2).mean()


def test_each_cell_moves_with_the_object_nearest_to_it() -> None:
    left = one_object(motion=[[16, 32], [1, 0], [0, 0], [0, 0]])
    right = one_object("line", motion=[[48, 32], [0, -2], [0, 0], [0, 0]], spin=[math.pi / 2, 0, 0, 0])
    both = Objects(*(torch.cat(pair, dim=1) for pair in zip(left, right, strict=True)))
    rendering = render(both, 3, 64)
    assert torch.equal(rendering.frames, render(left, 3, 64).frames + render(right, 3, 64).frames)
    assert rendering.displacement[0, 0, :, 32, 5].tolist() == pytest.approx([1, 0], abs=1e-5)
    assert rendering.displacement[0, 0, :, 32, 60].tolist() == pytest.approx([0, -2], abs=1e-5)
    owner = rendering.owner[0, 0]
    assert (owner[32, 16], owner[32, 48], owner[5, 5]) == (0, 1, -1)
    assert (owner == 0).sum() == pytest.approx(math.pi * 36, rel=0.05)


def test_order_and_company_of_an_index_make_no_difference() -> None:
    sequences = PhysicsSequences("all", size=32, seed=3)
    together = sequences.batch([7, 2, 11])
    alone = PhysicsSequences("all", size=32, seed=3)[2]
    torch.testing.assert_close(together.frames[1], alone.frames, atol=1e-6, rtol=0)
    assert torch.equal(together.metadata.motion[1], alone.metadata.motion)
    assert torch.equal(together.owner[1], alone.owner)
    for other in (sequences[3], PhysicsSequences("all", size=32, seed=4)[2]):
        assert not torch.equal(other.metadata.amplitude, alone.metadata.amplitude)
        assert (other.frames - alone.frames).abs().max() > 0.1


def test_all_kinds_is_the_union_of_the_three() -> None:
    union = PhysicsSequences("all", size=16, count=5)
    assert len(union) == 15
    for number, kind in enumerate(KINDS):
        alone = PhysicsSequences(kind, size=16, count=5)  # type: ignore[arg-type]
        assert len(alone) == 5
        assert torch.equal(union[3 * 4 + number].frames, alone[4].frames)
    with pytest.raises(IndexError, match="below 15"):
        union[15]


def test_objects_do_only_what_their_kind_does() -> None:
    for kind, (moves, turns, grows) in {
        "translation": (True, False, False),
        "rotation": (False, True, False),
        "intensity": (False, False, True),
    }.items():
        objects = PhysicsSequences(kind, size=16, noise=0).batch(range(20)).metadata  # type: ignore[arg-type]
        assert (objects.motion[:, :, 1:] != 0).all() if moves else not objects.motion[:, :, 1:].any()
        assert (objects.spin[:, :, 1:] != 0).all() if turns else not objects.spin[:, :, 1:].any()
        assert (objects.growth != 1).all() if grows else (objects.growth == 1).all()


def test_mixed_sequences_have_objects_of_several_kinds() -> None:
    objects = PhysicsSequences("mixed", size=16, noise=0).batch(range(20)).metadata
    assert objects.kind.unique().tolist() == [0, 1, 2]
    assert (objects.kind != objects.kind[:, :1]).any()
    still = objects.kind != 0
    assert not objects.motion[still][:, 1:].any()
    assert objects.motion[~still][:, 1:].all()


@pytest.mark.parametrize("size", [64, 128])
def test_drawn_numbers_keep_to_their_ranges_and_fill_them(size: int) -> None:
    sequences = PhysicsSequences("mixed", frames=2, size=size, noise=0)
    batches = [sequences.batch(range(first, first + 20)).metadata for first in range(0, 200, 20)]
    objects = Objects(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    scale = size / 64
    present = objects.shape >= 0
    assert present.sum(dim=1).unique().tolist() == [1, 2, 3]
    assert objects.shape.unique().tolist() == [-1, 0, 1, 2]
    speeds, spins = objects.motion.norm(dim=-1), objects.spin.abs()
    discs, lines = objects.shape == 0, objects.shape == 1
    drawn = {
        "speed": (speeds[objects.kind == 0][:, 1] / scale, 0, 3),
        "acceleration": (speeds[objects.kind == 0][:, 2] / scale, 0, 0.5),
        "jerk": (speeds[objects.kind == 0][:, 3] / scale, 0, 0.1),
        "angular speed": (spins[objects.kind == 1][:, 1], 0, 0.3),
        "angular acceleration": (spins[objects.kind == 1][:, 2], 0, 0.05),
        "angular jerk": (spins[objects.kind == 1][:, 3], 0, 0.01),
        "growth": (objects.growth[objects.kind == 2], 0.85, 1.15),
        "radius": (objects.extent[discs][:, 0] / scale, 4, 16),
        "line width": (2 * objects.extent[lines][:, 1], 2, 4),
        "amplitude": (objects.amplitude[present], 0.3, 1),
        "frequency": (objects.wave.norm(dim=-1), 0.03, 0.15),
    }
    for name, (values, low, high) in drawn.items():
        assert low <= values.min() < values.max() <= high, name
        assert values.max() - values.min() > 0.8 * (high - low), name


def test_polygons_are_convex_about_their_centroid_with_three_to_six_corners() -> None:
    objects = PhysicsSequences("rotation", frames=2, size=64, noise=0).batch(range(60)).metadata
    corners = objects.corners[objects.shape == SHAPES.index("polygon")]
    sides = corners.roll(-1, dims=1) - corners
    following = sides.roll(-1, dims=1)
    turns = sides[..., 0] * following[..., 1] - sides[..., 1] * following[..., 0]
    assert (turns > -1e-9).all()
    counts = (sides.norm(dim=-1) > 1e-9).sum(dim=1)
    assert sorted(set(counts.tolist())) == [3, 4, 5, 6]
    frames = PhysicsSequences("rotation", frames=2, size=64, noise=0)
    polygon = one_object("polygon")._replace(corners=corners[:1, None])
    centroid, _ = moments(render(polygon, 1, 64).frames[0])
    assert (centroid[0] - torch.tensor([32.0, 30.0])).abs().max() < 0.05
    assert len(frames) == 10_000


@pytest.mark.parametrize("noise", [0.26, 0.70])
@pytest.mark.parametrize("kind", ["translation", "rotation", "intensity"])
def test_noise_is_the_share_of_the_intensity_asked_for(kind: Kind, noise: float) -> None:
    clean = PhysicsSequences(kind, size=48, noise=0).batch(range(12))
    noisy = PhysicsSequences(kind, size=48, noise=noise).batch(range(12))
    whole = (noisy.clipped == 0) & (clean.clipped == 0)
    assert whole.sum() >= 3
    added = (noisy.frames - clean.frames)[whole].double()
    assert added.min() >= -1e-6
    share = added.sum(dim=(1, 2, 3, 4)) / clean.frames[whole].double().sum(dim=(1, 2, 3, 4))
    np.testing.assert_allclose(share, noise, rtol=1e-4)
    assert torch.equal(noisy.metadata.motion, clean.metadata.motion)


def test_output_is_clipped_and_says_how_much() -> None:
    batch = PhysicsSequences("intensity", size=32, noise=0.7).batch(range(20))
    assert batch.frames.min() >= 0
    assert batch.frames.max() <= 1
    at_top = (batch.frames == 1).float().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(batch.clipped, at_top)
    assert batch.clipped.max() > 0
    assert batch.clipped.min() == 0


def correlation(noise: np.ndarray, lag: int, axis: int) -> float:
    length = noise.shape[axis]
    a, b = noise.take(range(length - lag), axis=axis), noise.take(range(lag, length), axis=axis)
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_perlin_noise_is_smooth_in_time_and_space_and_forgets() -> None:
    noise = np.concatenate([_perlin((40, 64, 64), np.random.default_rng(seed)) for seed in range(4)], axis=2)
    for axis in (0, 1):
        assert correlation(noise, 1, axis) > 0.85
        assert abs(correlation(noise, 20, axis)) < 0.25
    assert abs(noise.mean()) < 0.05
    assert 0.1 < noise.std() < 1


def test_perlin_noise_is_the_eight_corners_faded_into_each_other() -> None:
    class Recorder:
        """A generator that keeps what it drew."""

        def __init__(self) -> None:
            self.rng, self.offsets, self.gradients = np.random.default_rng(0), [], []

        def uniform(self) -> float:
            self.offsets.append(self.rng.uniform())
            return self.offsets[-1]

        def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
            self.gradients.append(self.rng.standard_normal(shape, dtype=dtype))
            return self.gradients[-1].copy()

    recorder = Recorder()
    shape = (6, 64, 64)
    noise = _perlin(shape, recorder)  # type: ignore[arg-type]
    at, expected = np.array([4, 37, 50]), 0.0
    for octave, drawn in enumerate(recorder.gradients):
        gradients = drawn / np.linalg.norm(drawn, axis=0)
        place = at / (16 / 2**octave) + recorder.offsets[3 * octave : 3 * octave + 3]
        cell = np.floor(place).astype(int)
        for corner in np.ndindex(2, 2, 2):
            away = place - (cell + corner)
            fade = np.prod([1 - (6 * a**5 - 15 * a**4 + 10 * a**3) for a in np.abs(away)])
            expected += fade * 0.5**octave * gradients[(slice(None), *(cell + corner))] @ away
    assert len(recorder.gradients) == 4
    assert noise[tuple(at)] == pytest.approx(expected, abs=1e-5)


def test_noise_is_a_mixture_of_three_parts_in_random_shares() -> None:
    noises = [_draw_noise((6, 32, 32), np.random.default_rng(seed)) for seed in range(30)]
    for noise in noises:
        assert noise.min() >= 0
        assert noise.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    smoothness = [correlation(noise, 1, 0) for noise in noises]
    assert min(smoothness) < 0.1, "some are nearly without Perlin noise"
    assert max(smoothness) > 0.5, "some are nearly all Perlin noise"
    tails = [float((noise / noise.mean()).max()) for noise in noises]
    assert min(tails) < 3.5 < 4 < max(tails), "normal noise has a tail, uniform noise has none"


@pytest.mark.parametrize(
    ("shares", "spread"),
    [((0.0, 1.0, 0.0), math.pi / 2), ((0.0, 0.0, 1.0), 4 / 3)],
    ids=["half normal", "uniform"],
)
def test_parts_without_memory_are_half_normal_and_uniform(shares: tuple[float, ...], spread: float) -> None:
    class Pure(np.random.Generator):
        """A generator that draws these shares."""

        def dirichlet(self, alpha: np.ndarray, size: None = None) -> np.ndarray:  # type: ignore[override]
            return np.array(shares)

    noise = _draw_noise((20, 64, 64), Pure(np.random.Philox(1))).astype(np.float64)
    assert (noise**2).mean() / noise.mean() ** 2 == pytest.approx(spread, rel=0.02)
    for axis in range(3):
        assert abs(correlation(noise, 1, axis)) < 0.02


def test_sequences_work_as_a_data_set_of_a_loader() -> None:
    loader = DataLoader(PhysicsSequences("all", size=16, count=2), batch_size=4)  # type: ignore[arg-type]
    batches = list(loader)
    assert [batch.frames.shape for batch in batches] == [(4, 8, 1, 16, 16), (2, 8, 1, 16, 16)]
    assert batches[0].frames.dtype == torch.float32
    assert batches[0].metadata.motion.shape == (4, 3, 4, 2)
    assert batches[0].displacement.shape == (4, 7, 2, 16, 16)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="'spiral'"):
        PhysicsSequences("spiral")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 frames"):
        PhysicsSequences(frames=1)
