"""Draws: a function of seed and number in any process, and unbiased by their recorded weights."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from models.normalisation import NOT_OBSERVED
from nowcast.errors import NotEnoughFrames
from nowcast.training.data import Draws, Numbers, loader
from nowcast.training.sequences import Shape, Tiles

SHAPE = Shape(frames=2, slots=2, tile=16)


def made_up(folder: Path, name: str, values: list[int]) -> Tiles:
    """Return tiles each of one byte throughout, its share of rain taken to be that byte in hundredths."""
    tiles = np.stack([np.full((4, 16, 16), value, np.uint8) for value in values])
    tiles[:, 3, :4] = NOT_OBSERVED
    path = folder / f"{name}.npy"
    np.save(path, tiles)
    return Tiles(name, 5, 1.0, path, np.array(values) / 100)


@pytest.fixture
def tiles(tmp_path: Path) -> list[Tiles]:
    return [made_up(tmp_path, "wet", [90, 60, 30]), made_up(tmp_path, "dry", [1, 2, 3, 4, 40])]


def test_a_draw_depends_on_seed_and_number_alone(tiles: list[Tiles]) -> None:
    draws = Draws(tiles, SHAPE, crop=8, seed=1)
    backwards = [draws[number] for number in reversed(range(20))][::-1]
    again = Draws(tiles, SHAPE, crop=8, seed=1)
    for number, draw in enumerate(backwards):
        assert all(torch.equal(draw[name], again[number][name]) for name in draw)  # type: ignore[literal-required]
    other = Draws(tiles, SHAPE, crop=8, seed=2)
    assert any(not torch.equal(draw["x"], other[n]["x"]) for n, draw in enumerate(backwards))


@pytest.mark.slow  # a new process imports PyTorch
def test_another_process_draws_the_same(tiles: list[Tiles]) -> None:
    draws = Draws(tiles, SHAPE, crop=8, seed=1)
    (here,), (there,) = (
        list(islice(loader(draws, Numbers(start=40), 4, workers=workers), 1)) for workers in (0, 1)
    )
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_processes_share_the_numbers_and_a_start_goes_on() -> None:
    whole = list(islice(Numbers(), 12))
    parts = [list(islice(Numbers(rank=rank, world=3), 4)) for rank in range(3)]
    assert sorted(number for part in parts for number in part) == whole == list(range(12))
    assert list(islice(Numbers(rank=1, world=3, start=6), 2)) == parts[1][2:]


def test_weights_make_the_mean_one_over_all_tiles_alike(tiles: list[Tiles]) -> None:
    draws = Draws(tiles, SHAPE, crop=8, seed=0)
    batch = next(iter(loader(draws, range(4000), 4000)))
    byte = batch["x"][:, -1, 0, 0, 0] * 254
    truth = np.mean([90, 60, 30, 1, 2, 3, 4, 40])
    plain, weighted = float(byte.mean()), float((byte * batch["weight"]).mean())
    assert plain > truth + 5, "rain is drawn more often than not"
    assert abs(weighted - truth) < 1.5
    assert abs(float(batch["weight"].mean()) - 1) < 0.05


def test_what_was_not_observed_is_zero_and_masked(tiles: list[Tiles]) -> None:
    for number in range(8):
        draw = Draws(tiles, SHAPE, crop=16, seed=0)[number]
        assert draw["x"].shape == draw["observed"].shape == (2, 1, 16, 16)
        assert bool(draw["observed"].all()) and bool(draw["valid"][0].all())
        assert int((~draw["valid"][1]).sum()) == 4 * 16
        assert bool((draw["target"][1][~draw["valid"][1]] == 0).all())
        assert bool((draw["target"][1][draw["valid"][1]] > 0).all())


def test_squares_are_turned_and_mirrored_unless_they_score(tmp_path: Path) -> None:
    gradient = np.arange(256, dtype=np.uint8).reshape(16, 16) // 2
    np.save(tmp_path / "one.npy", np.broadcast_to(gradient, (1, 4, 16, 16)))
    one = [Tiles("one", 5, 1.0, tmp_path / "one.npy", np.array([0.5]))]

    def seen(turned: bool) -> set[bytes]:
        draws = Draws(one, SHAPE, crop=16, seed=0, turned=turned)
        return {draws[number]["x"].numpy().tobytes() for number in range(60)}

    assert (len(seen(turned=True)), len(seen(turned=False))) == (8, 1)


def test_nothing_to_draw_from_is_refused(tiles: list[Tiles]) -> None:
    with pytest.raises(NotEnoughFrames):
        Draws([], SHAPE, crop=8, seed=0)
    with pytest.raises(ValueError, match="at most 16 cells, got 17"):
        Draws(tiles, SHAPE, crop=17, seed=0)
