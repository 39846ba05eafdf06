"""Naive networks against the ones they are timed beside: the same weights must give the same forecast."""

from __future__ import annotations

import pytest
import torch

from benchmarks.naive_networks import NaiveE3DLSTM, NaiveSCS, NaiveSTMoE, materialised_recall
from benchmarks.network_runs import Setting, difference
from models.e3d.network import E3DLSTM, E3DLSTMConfig
from models.e3d.recall import from_rows, recall, to_rows
from models.scs.network import SCS, SCSConfig
from models.stmoe.network import STMoE, STMoEConfig

#: Neither square nor as few frames as memories.
SETTING = Setting(frames=4, leads=3, rows=12, columns=20)

#: Rounding in float32, through a dozen steps.
ROUNDING = 2e-5


@pytest.mark.parametrize(
    "options", [{"tau": None}, {"tau": 2}, {"gate_norm": False}, {"depth": 1}, {"depth": 3}], ids=str
)
def test_e3d_lstm_forecasts_what_its_equations_say(options):
    network = E3DLSTM(E3DLSTMConfig(channels=8, **options))
    assert difference(network, NaiveE3DLSTM, SETTING) < ROUNDING


@pytest.mark.parametrize("hidden", [(8,), (8, 8, 8)])
def test_stmoe_forecasts_what_its_equations_say(hidden):
    network = STMoE(STMoEConfig(hidden=hidden, gate_channels=8))
    assert difference(network, NaiveSTMoE, SETTING) < ROUNDING


@pytest.mark.parametrize("stem", ["patch", "strided"])
@pytest.mark.parametrize("affine", [True, False])
def test_scs_forecasts_what_its_equations_say(stem, affine):
    network = SCS(SCSConfig(layers=5, channels=16, stem=stem, affine=affine))
    assert difference(network, NaiveSCS, SETTING) < ROUNDING


def test_a_weight_mixed_up_is_noticed():
    def mixed_up(network):
        naive = NaiveSCS(network)
        layer = naive.decoder.layers[1]
        layer.time_u, layer.space_u = layer.space_u, layer.time_u
        return naive

    assert difference(SCS(SCSConfig(layers=3, channels=8)), mixed_up, SETTING) > 1e-3


def test_materialised_attention_is_the_attention():
    generator = torch.Generator().manual_seed(0)
    gate, *memories = torch.randn(5, 2, 2, 6, 4, 3, generator=generator)  # (b, t, d, y, x) each
    rows = torch.cat([to_rows(memory) for memory in memories], dim=1)
    expected = from_rows(recall(to_rows(gate), rows), 2, (4, 3))
    got = materialised_recall(gate.transpose(1, 2), [memory.transpose(1, 2) for memory in memories])
    assert torch.allclose(got.transpose(1, 2), expected, atol=1e-5)


def test_what_a_naive_network_does_not_have_is_refused():
    with pytest.raises(ValueError, match="softmax"):
        NaiveSTMoE(STMoE(STMoEConfig(gate="none")))
    with pytest.raises(ValueError, match="one width"):
        NaiveSTMoE(STMoE(STMoEConfig(hidden=(8, 16))))
    with pytest.raises(ValueError, match="recalls"):
        NaiveE3DLSTM(E3DLSTM(E3DLSTMConfig(tau=0)))
    with pytest.raises(ValueError, match="1/2"):
        NaiveSCS(SCS(SCSConfig(initial_gate=0.0)))
