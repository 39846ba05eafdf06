"""The duels: trainings that are kept, squares and phases that are fair, and a report of known figures."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from trainable import rainy_archive

from benchmarks import duel_pieces, duel_table, duel_training, duels
from benchmarks.duel_pieces import Piece, Squares, Terms, piece_path, scored, squares_of
from benchmarks.duel_table import About, difference, mean_csi, over_hours, report
from benchmarks.duel_training import phases, trained
from models.convlstm import ConvLSTMConfig
from models.registry import build
from models.stmoe.network import STMoEConfig
from nowcast.names import EXTRAPOLATION
from nowcast.training.sequences import Shape

SHAPE = Shape(frames=4, slots=4, tile=48)
TERMS = Terms(seconds=1.0, leads=2, batch=2, crop=16, squares=6, scored_crop=24)

#: Time [s] a step of a training takes by the clock of these tests.
STEP = 1 / 16

TINY = {"SCS": ConvLSTMConfig(hidden=(8,)), "STMoE, staged": STMoEConfig(hidden=(8,))}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two storms to learn from and one to score on, and variants that are quick to train."""
    for module in (duels, duel_pieces, duel_training):
        monkeypatch.setattr(module, "SHAPE", SHAPE)
    for module in (duels, duel_pieces, duel_training):
        monkeypatch.setattr(module, "VARIANTS", TINY)
    ticks = itertools.count()
    monkeypatch.setattr(duels, "trained", partial(trained, clock=lambda: next(ticks) * STEP))
    rainy_archive(tmp_path / "data" / "archive", events=2)
    events, tiles = duels.tiles_in(tmp_path / "data", tmp_path / "cache")
    return events, tiles, tmp_path / "cache"


def piece(variant, seed, *, hits, squared, blocks=1):
    counts = np.zeros((blocks, 2, 3, 3), np.int64)
    counts[..., 0, :], counts[..., 1, :], counts[..., 2, :] = hits, 100 - hits, 0
    return Piece(variant, seed, (200, 40), 30.0, 1234, counts, (squared, squared), (10, 10))


def test_a_training_is_kept_and_not_repeated(small, monkeypatch, capsys):
    events, tiles, cache = small
    squares = squares_of(tiles, events, TERMS)
    first = duels.measure(tiles, tiles, squares, TERMS, seeds=1, cache=cache)
    assert [one.variant for one in first] == [EXTRAPOLATION, "SCS", "STMoE, staged"]
    assert [one.seconds for one in first[1:]] == [TERMS.seconds] * 2
    assert first[1].steps == (16, 0)
    assert first[2].steps == (11, 5)  # synthetic sequences first: 30 % of the time, overrun by a step

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(duels, "trained", refuse)
    again = duels.measure(tiles, tiles, squares, TERMS, seeds=1, cache=cache)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.counts, other.counts)
        assert replace(one, counts=np.empty(0)).to_dict() == replace(other, counts=np.empty(0)).to_dict()
    with pytest.raises(AssertionError, match="trained again"):
        duels.measure(tiles, tiles, squares, replace(TERMS, seconds=2.0), seeds=1, cache=cache)


def test_another_seed_time_or_tile_is_another_piece(small):
    _, tiles, cache = small
    paths = {
        piece_path(cache, "SCS", 0, TERMS, tiles, tiles),
        piece_path(cache, "SCS", 1, TERMS, tiles, tiles),
        piece_path(cache, "STMoE, staged", 0, TERMS, tiles, tiles),
        piece_path(cache, "SCS", 0, replace(TERMS, seconds=2.0), tiles, tiles),
        piece_path(cache, "SCS", 0, TERMS, tiles[:1], tiles),
        piece_path(cache, "SCS", 0, TERMS, tiles, tiles[:1]),
    }
    assert len(paths) == 6


def test_squares_are_the_same_every_time_and_of_every_event(small):
    events, tiles, _ = small
    one, two = (squares_of(tiles, events, TERMS) for _ in range(2))
    torch.testing.assert_close(one.x, two.x, rtol=0, atol=0)
    assert one.x.shape == (12, 4, 1, 24, 24)
    assert one.target.shape == one.valid.shape == (12, 2, 1, 24, 24)
    assert one.block.tolist() == [0] * 6 + [1] * 6  # each storm is shorter than an hour and a half


def test_extrapolation_is_scored_cell_by_cell():
    x = torch.tensor([0.5, 0.5, 0.5, 0.0, 0.5]).expand(1, 1, 1, 1, 5)  # 25 dBZ, or no echo
    target = torch.tensor([0.5, 0.0, 0.0, 0.5, 0.0]).expand(1, 1, 1, 1, 5)
    valid = torch.tensor([True, True, True, True, False]).expand(1, 1, 1, 1, 5)
    piece = scored(None, Squares(x, target, valid, np.array([0])))
    hits, misses, false_alarms = piece.counts[0, 0].tolist()
    assert (hits, misses, false_alarms) == ([1, 0, 0], [1, 0, 0], [2, 0, 0])  # at 20, 30 and 35 dBZ
    assert (piece.squared, piece.cells) == ((3 * 35.0**2,), (4,))


def test_stages_share_out_the_time_and_end_with_the_whole_network():
    network = build(STMoEConfig(hidden=(8,)))
    parts = [
        (phase.data, phase.seconds, sum(p.numel() for p in network.parameters() if p.requires_grad))
        for phase in phases("STMoE, staged", network, 100.0)
    ]
    assert [data for data, _, _ in parts] == ["all", "translation", "rotation", "intensity", "rain", "rain"]
    assert [seconds for _, seconds, _ in parts] == pytest.approx([7.5] * 4 + [14.0, 56.0])
    assert parts[-1][2] == sum(p.numel() for p in network.parameters())
    assert [phase.seconds for phase in phases("STMoE, end to end", network, 100.0)] == [100.0]


def test_difference_has_students_interval():
    told = difference([0.31, 0.32, 0.36], [0.30, 0.30, 0.30])
    assert told.seeds == pytest.approx((0.01, 0.02, 0.06))
    half = 4.303 * math.sqrt(0.0007) / math.sqrt(3)  # variance of 0.01, 0.02, 0.06
    assert (told.low, told.high) == pytest.approx((0.03 - half, 0.03 + half))
    assert told.word == "is not settled"
    assert told.held == "in 3 of 3 seeds"
    assert difference([0.31, 0.311, 0.312], [0.3] * 3).word == "holds"
    assert difference([0.3] * 3, [0.31, 0.311, 0.312]).word == "does not hold, the reverse does"


def test_interval_over_hours_brackets_a_difference_that_is_everywhere():
    first = [piece("CRN", 0, hits=60, squared=1.0, blocks=7)]
    second = [piece("N-CRN", 0, hits=50, squared=1.0, blocks=7)]
    assert over_hours(first, second) == pytest.approx((0.1, 0.1))


def test_report_tells_figures_and_verdict():
    pieces = [piece(EXTRAPOLATION, 0, hits=55, squared=300.0, blocks=7)]
    for seed in range(3):
        pieces.append(piece("CRN", seed, hits=60 + seed, squared=200.0, blocks=7))
        pieces.append(piece("N-CRN", seed, hits=50, squared=200.0 + 10 * (seed - 1), blocks=7))
    assert mean_csi(pieces[0]) == pytest.approx(0.55)
    lines = report(pieces, About(TERMS, "a machine", 2, 1, "an agency")).splitlines()
    assert "| CRN | 0.6100 ± 0.0100 | 20.0 ± 0.0 | 200 | 40 | 30.0 | 1234 | 3 |" in lines
    assert "| N-CRN | 0.5000 ± 0.0000 | 20.0 ± 1.0 | 200 | 40 | 30.0 | 1234 | 3 |" in lines
    assert "| extrapolation | 0.5500 | 30.0 | 200 | 40 | 30.0 | 1234 | 1 |" in lines
    assert "| 30 dBZ, CRN | 0.610 | 0.610 |" in lines
    text = "\n".join(lines)
    assert (
        "By mean CSI the claim **holds**, it held in 3 of 3 seeds: +0.1000, +0.1100, +0.1200 by seed, "
        "+0.1100 on average, 95 % interval +0.0852 to +0.1348." in text
    )
    assert (
        "By squared error the claim **is not settled**, it held in 1 of 3 seeds: -1.0, +0.0, +1.0 by seed"
        in text
    )
    assert "+0.1100 to +0.1100 (7 blocks)" in text
    assert "ConvLSTM" not in text  # nothing of duels that were not fought
    assert duel_table.figures(pieces)["duels"].keys() == {"Branches that see each other"}
