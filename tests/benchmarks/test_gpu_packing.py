"""Packed tiles are those that were prepared, and squares of them turn as those of any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import learning
from benchmarks.gpu.packed import Sample, coarse, read
from benchmarks.gpu.packing import layout_of, pack_tiles
from benchmarks.gpu.pool import Pool
from nowcast.training import module
from nowcast.training.data import as_batch, turned
from nowcast.training.sequences import Shape, Tiles, rain_share

CPU = torch.device("cpu")
SHAPE = Shape(slot_minutes=10, slots=6, base=True, tile=40)
MINUTES = tuple(range(10, 70, 10))


def tiles_of(folder: Path, event: str, *, cell_km: float = 1.0, count: int = 3) -> Tiles:
    """Tiles of noise, a little not observed."""
    random = np.random.default_rng(len(event))
    tiles = random.integers(0, 256, (count, SHAPE.planes, 40, 40), np.uint8)
    tiles[:, SHAPE.parts["motion"]] = random.integers(60, 200, (count, 2, 40, 40))
    np.save(folder / f"{event}.npy", tiles)
    rain = np.array([rain_share(tile[3]) for tile in tiles])
    return Tiles(event, 5, cell_km, folder / f"{event}.npy", rain, MINUTES, event)


def test_packing_keeps_tiles_in_coarse_steps_and_grids_as_they_are(tmp_path, capsys):
    learnt = [tiles_of(tmp_path, "a"), tiles_of(tmp_path, "bb"), tiles_of(tmp_path, "ccc", cell_km=2.0)]
    grids = [tiles_of(tmp_path, "dddd")]
    pack_tiles(learnt, grids, SHAPE, tmp_path / "packed")
    packed = read(tmp_path / "packed")
    assert "6 tiles of 2 events and 2 radars, out of 6 of 2; 1 whole grids" in capsys.readouterr().out
    assert packed.layout == layout_of(SHAPE)
    originals = {one.event: one.bytes for one in learnt}
    for sample in packed.learnt:
        wanted = [coarse(np.array(tile), packed.layout) for tile in originals[sample.facts.event]]
        assert sum(np.array_equal(sample.planes, tile) for tile in wanted) == 1
        assert (sample.facts.minutes, sample.facts.step_minutes) == (MINUTES, 5)
    (grid,) = packed.judged
    assert np.array_equal(grid.planes, grids[0].bytes[int(grids[0].rain.argmax())])


def test_coarse_steps_leave_motion_and_what_was_not_observed(tmp_path):
    planes = np.array(tiles_of(tmp_path, "a").bytes[0])
    stepped, parts = coarse(planes, layout_of(SHAPE)), SHAPE.parts
    assert np.array_equal(stepped[parts["motion"]], planes[parts["motion"]])
    rest = slice(0, parts["motion"].start)
    assert np.array_equal(stepped[rest] == 255, planes[rest] == 255)
    assert (planes[rest].astype(int) - stepped[rest]).max() == 1
    assert (stepped[rest][stepped[rest] < 255] % 2 == 0).all()


def test_a_file_holds_as_many_tiles_as_fit(tmp_path):
    pack_tiles([tiles_of(tmp_path, "a", count=9)], [], SHAPE, tmp_path / "packed", most_mb=0.15)
    assert 0 < len(read(tmp_path / "packed").learnt) < 9
    assert (tmp_path / "packed").stat().st_size < 0.16e6


def test_what_is_no_such_file_is_refused(tmp_path):
    (tmp_path / "packed").write_bytes(b"something else")
    with pytest.raises(ValueError, match="expected packed tiles that begin with"):
        read(tmp_path / "packed")


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_squares_turn_on_the_device_as_in_a_training(tmp_path, quarters, mirrored):
    tiles = tiles_of(tmp_path, "a")
    pack_tiles([tiles], [], SHAPE, tmp_path / "packed")
    packed = read(tmp_path / "packed")
    pool = Pool(packed.learnt, packed.layout, 24, CPU)
    tile, row, column = (torch.tensor([k]) for k in (1, 3, 9))
    ours = pool.squares(tile, row, column, torch.tensor([quarters]), torch.tensor([mirrored]))[0].numpy()
    square = np.array(packed.learnt[1].planes[:, 3:27, 9:33])
    assert np.array_equal(ours, turned(square, SHAPE, quarters, mirrored))


def test_a_batch_is_what_a_training_sees(tmp_path):
    tiles = tiles_of(tmp_path, "a")
    pack_tiles([tiles], [], SHAPE, tmp_path / "packed")
    packed = read(tmp_path / "packed")
    pool = Pool(packed.learnt[:1], packed.layout, 40, CPU)
    batch = pool.batch(torch.zeros(1, 20))
    whole: Sample = packed.learnt[0]
    theirs = as_batch(np.array(whole.planes), tiles, SHAPE, SHAPE.slots, number=0, weight=1.0)
    assert set(theirs) - set(batch) == {"number", "weight"}
    for name, value in batch.items():
        assert torch.equal(value[0], theirs[name]), name


def test_the_learning_rate_is_that_of_a_training():
    for done in np.linspace(0, 1, 21):
        assert learning.rate(done) == module.rate(done)
