"""The measurements behind the benchmark of networks: what they count, and that no path is broken."""

from __future__ import annotations

import pytest
import torch

from benchmarks import network_runs
from benchmarks.network_runs import PAIRS, Setting, flops_of, setting_of
from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.e3d.network import E3DLSTM, E3DLSTMConfig
from models.forecaster import Forecaster
from models.registry import NETWORKS, PRESETS


def test_operations_of_a_network_are_those_of_its_convolutions():
    network = ConvLSTM(ConvLSTMConfig(hidden=(8,), patch=4))
    cell = 2 * (16 + 8) * 32 * 9 * 8 * 8
    head = 2 * 8 * 16 * 8 * 8
    assert flops_of(network, Setting(3, 2, 32, 32)) == 5 * cell + 2 * head


def test_operations_of_attention_are_counted():
    setting = Setting(2, 3, 16, 16)
    with_recall, without = (
        flops_of(E3DLSTM(E3DLSTMConfig(layers=1, channels=8, tau=tau, gate_norm=False)), setting)
        for tau in (2, 0)
    )
    positions = 2 * 4 * 4
    attention = 4 * positions * (1 + 2 + 2) * positions * 8  # three steps have memories to recall
    gate = 2 * (16 * 4 + 8 * 3) * 8 * 9 * (positions + positions // 2)  # R has its share of two convolutions
    assert with_recall - without == attention + gate


def test_every_preset_has_a_setting_it_can_forecast_in():
    for name, config in PRESETS.items():
        setting, network = setting_of(name), NETWORKS[type(config)]
        assert (setting.leads > 0) == issubclass(network, Forecaster), name
        frames = getattr(network, "frames", None)
        assert frames is None or setting.frames >= frames, name


def test_every_pair_has_a_preset():
    assert {pair.preset for pair in PAIRS.values()} <= set(PRESETS)


def test_half_precision_and_compiled_cells_forecast_nearly_the_same(monkeypatch):
    monkeypatch.setattr(network_runs, "CORES", torch.get_num_threads())
    result = network_runs.accelerated("convlstm_cpu", device="cpu", backend="eager")
    assert 0 < result["difference"] < 0.02
    assert result["seconds"] > 0
    assert result["seconds_compiled"] > 0


@pytest.mark.gpu
def test_presets_run_on_the_gpu():
    result = network_runs.accelerated("convlstm_cpu")
    assert 0 < result["difference"] < 0.02
    assert result["memory_mb"] > 0
