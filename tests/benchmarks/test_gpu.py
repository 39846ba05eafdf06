"""What runs on a GPU does the same here: squares, steps, times; and needs nothing but torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import corrections, presets, training
from benchmarks.gpu.judging import gains
from benchmarks.gpu.learning import Step, choices_of, learn
from benchmarks.gpu.packed import Packed
from benchmarks.gpu.pool import NUMBERS, Pool
from benchmarks.gpu.timing import Replayed
from models.convlstm import ConvLSTMConfig
from models.correction import Correction, CorrectionConfig

CPU = torch.device("cpu")
TINY = CorrectionConfig(ConvLSTMConfig(hidden=(8,), patch=1, frame_channels=8), channels=8)

#: What a machine with a GPU may lack.
ABSENT = ("pyproj", "lightning", "xarray", "pydantic", "cv2", "zstandard", "cf_units", "h5netcdf")


@pytest.fixture
def packed() -> Packed:
    """Tiles of noise."""
    return training.toy()


def tiny(packed: Packed, device: torch.device = CPU) -> tuple[Correction, Pool]:
    """A small correction and what it learns from."""
    torch.manual_seed(0)
    return Correction(TINY).to(device), Pool(packed.learnt, packed.layout, 16, device)


def numbers(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, NUMBERS, generator=torch.Generator().manual_seed(seed))


def test_it_needs_nothing_that_such_a_machine_may_lack():
    code = (
        f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
        "import benchmarks.gpu.training, benchmarks.gpu.presets"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_square_is_moved_to_where_it_rains(packed):
    sample = packed.learnt[0]
    planes = np.zeros_like(sample.planes)
    planes[3, :4, :4] = 200  # of the newest frame, a corner
    pool = Pool([type(sample)(sample.facts, planes)], packed.layout, 16, CPU)
    drawn = numbers(64)
    square = pool.batch(drawn)["x"][:, -1] > 0
    places = (drawn[:, 4:].reshape(64, -1, 2) * 9).long()
    assert torch.equal(square.flatten(1).any(1), (places < 4).all(2).any(1))


def test_leads_at_which_nothing_counts_are_looked_at_last(packed):
    network, pool = tiny(packed)
    batch = pool.batch(numbers(3))
    batch["valid"][:, [0, 2, 5]] = False
    choices = choices_of(network, batch, numbers(4), side=4)
    assert choices.slots.tolist() == [1, 3, 4]
    assert choices.rows.shape == choices.columns.shape == (8,)
    assert set(choices.rows.diff().tolist()) == {2}
    assert (choices.threshold_dbz >= 10).all()


def test_a_step_learns_and_the_mean_of_weights_follows(packed):
    step = Step(*tiny(packed), batch=2)
    before = [weight.clone() for weight in step.mean.parameters()]
    learnt = learn(step, 60.0, most_steps=1)
    assert (learnt.steps, len(learnt.losses), learnt.captured) == (1, 1, False)
    weights, means = list(step.network.parameters()), list(learnt.network.parameters())
    assert not all(map(torch.equal, before, weights))
    for old, mean, weight in zip(before, means, weights, strict=True):
        torch.testing.assert_close(mean, old + 0.005 * (weight - old), rtol=0, atol=1e-7)


def test_a_loss_that_is_not_finite_ends_with_what_was_before(packed, capsys):
    step = Step(*tiny(packed), batch=1)
    before = [weight.clone() for weight in step.mean.parameters()]
    torch.nn.init.constant_(step.network.head[-1].bias, torch.nan)
    learnt = learn(step, 60.0, most_steps=5)
    assert all(map(torch.equal, before, learnt.network.parameters()))
    assert "the loss is nan" in capsys.readouterr().out


def test_weights_come_back_from_their_file(packed, tmp_path, monkeypatch):
    monkeypatch.setitem(corrections.WIDE, "tiny", TINY)
    learnt = learn(Step(*tiny(packed), batch=1), 60.0, most_steps=1)
    tables = gains(learnt.network, packed.judged, packed.layout, CPU)
    assert set(tables[1.0]) >= {"gain", "gain_toy", "gain_slot_6"}
    training.save(tmp_path / "a", "tiny", learnt, tables)
    state, wanted = training.load(tmp_path / "a").state_dict(), learnt.network.state_dict()
    assert all(torch.equal(state[key], wanted[key].half().float()) for key in wanted)
    monkeypatch.setitem(corrections.WIDE, "tiny", CorrectionConfig(TINY.core, channels=8, slots=3))
    with pytest.raises(ValueError, match="expected weights of"):
        training.load(tmp_path / "a")


def test_files_of_weights_are_small_enough_to_come_back():
    for name, config in corrections.WIDE.items():
        with torch.device("meta"):
            assert (
                2 * sum(value.numel() for value in Correction(config).state_dict().values()) < 15 * 2**20
            ), name


def test_presets_and_corrections_are_timed_and_what_fails_says_why(monkeypatch, capsys):
    monkeypatch.setattr(presets, "PRESETS", {"phydnet_paper": presets.PRESETS["phydnet_cpu"]})
    result = presets.measure(CPU, dry=True, until=float("inf"))["presets"]["phydnet_paper"]
    assert set(result["ms"]) == {"float32 eager", "float32 graph", "bf16 eager", "bf16 graph"}
    assert result["difference float32 graph"] == 0 < result["difference bf16 eager"] < 0.05
    assert presets.measure(CPU, dry=True, until=0)["left_out"] == ["phydnet_paper"]

    def refused(self: Replayed, call: object, device: object, *, capture: bool = True) -> None:
        if capture:
            raise RuntimeError("no graph today\nat all")
        once(self, call, device, capture=capture)

    once = Replayed.__init__
    monkeypatch.setattr(Replayed, "__init__", refused)
    monkeypatch.setattr(corrections, "SMALL", ())
    monkeypatch.setattr(corrections, "WIDE", {"tiny": TINY})
    result = corrections.measure(CPU, dry=True)["corrections"]["tiny"]
    assert set(result["ms"]) == {"float32 eager", "bf16 eager"}
    assert result["errors"] == dict.fromkeys(["float32 graph", "bf16 graph"], "no graph today")
    assert "bf16 graph: no graph today" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dry_run_goes_through_every_section(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--output", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads((tmp_path / "gpu.json").read_text())
    for section in ("tests", "presets", "corrections", "training"):
        assert f"--- {section} ---" in done.stdout
        assert told[section]["status"] == 0
    assert set(told["training"]["results"]) == set(corrections.WIDE)
    assert len(list(tmp_path.iterdir())) <= 8, "no more files come back from such a machine"


@pytest.mark.gpu
def test_a_captured_step_teaches_what_its_operations_do(packed):
    device, losses = torch.device("cuda"), []
    for graph in (False, True):
        network, pool = tiny(packed, device)
        torch.nn.init.constant_(network.head[-1].weight, 0.1)
        step = Step(network, pool, batch=2, graph=graph)
        assert step.captured == graph
        step.numbers.copy_(numbers(3))
        losses.append(float(step._call()))
        step._rate.fill_(1e-3)
        for _ in range(20):
            after = float(step._call())
        assert after < losses[-1], "what was learnt is of these very squares"
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(corrections.WIDE))
def test_wide_corrections_can_be_captured(name, packed):
    device = torch.device("cuda")
    network = Correction(corrections.WIDE[name]).to(device)
    step = Step(network, Pool(packed.learnt, packed.layout, 16, device), batch=2)
    assert step.captured
    assert learn(step, 60.0, most_steps=2).losses[0] > 0
