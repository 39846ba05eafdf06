"""The experiments run, go on where they were interrupted, and say what they found, whichever way it is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.mechanisms.catalogue import EXPERIMENTS, Claim, Experiment
from benchmarks.mechanisms.fitting import SMALL, fit, persistence, scored
from benchmarks.mechanisms.running import recorded, run
from benchmarks.mechanisms.table import table

TINY = replace(SMALL, iterations=3, sequences=4, held_out=2, batch=2)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_is_about_what_is_measured(name):
    """Runs the first variant, and looks whether all claims speak of variants and measures there are."""
    experiment = EXPERIMENTS[name]
    measures = experiment.run(experiment.variants[0], 0, TINY)
    assert all(isinstance(value, float) for value in measures.values())
    for claim in experiment.claims:
        for variant, measure in (claim.smaller, claim.larger):
            assert variant in experiment.variants
            assert measure in measures


@pytest.mark.parametrize("name", ["depth", "context", "balance"])
def test_a_seed_decides_everything(name):
    experiment = EXPERIMENTS[name]
    variant = experiment.variants[-1]
    first = experiment.run(variant, 1, TINY)
    assert experiment.run(variant, 1, TINY) == pytest.approx(first, rel=1e-4, nan_ok=True)
    assert experiment.run(variant, 2, TINY) != pytest.approx(first, rel=1e-4, nan_ok=True)


def test_fitting_finds_the_mean():
    weight = torch.nn.Parameter(torch.zeros(1))
    data = torch.tensor([1.0, 3.0])

    def loss(chosen, progress, generator):
        return (weight - data[chosen]).square().mean()

    size = replace(SMALL, iterations=400, batch=16)
    assert fit([weight], loss, 2, size, seed=0, learning_rate=0.05) == pytest.approx(1.0, abs=0.1)
    assert weight.item() == pytest.approx(2.0, abs=0.15)


def test_fitting_stops_at_a_loss_that_is_not_finite():
    weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        fit([weight], lambda chosen, progress, generator: (weight * float("nan")).sum(), 2, TINY, seed=0)


def test_scores_are_of_the_frames_that_follow_and_of_clamped_forecasts():
    frames = torch.zeros(2, 6, 1, 2, 2)
    frames[:, 3], frames[:, 4:] = 0.5, 1.0
    net = torch.nn.Identity()
    assert persistence(frames) == pytest.approx(0.25)
    assert scored(net, lambda x: torch.full((len(x), 2, 1, 2, 2), 1.7), frames) == 0.0


STUDY = Experiment("A study", "Of two.", ("A", "B"), lambda variant, seed, size: {}, ())


def results(**by_variant):
    return [
        {"experiment": "study", "variant": variant, "seed": seed, "measures": {"MSE": value}}
        for variant, values in by_variant.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"A": [1, 1, 1], "B": [2, 2, 2]}, "A beats B: **holds**, in 3 of 3 seeds (+50.0% on average)."),
        ({"A": [3, 3], "B": [2, 2]}, "A beats B: **does not hold**, in 0 of 2 seeds (-50.0% on average)."),
        ({"A": [1, 3], "B": [2, 2]}, "A beats B: **is not settled**, in 1 of 2 seeds (+0.0% on average)."),
        ({"A": [0], "B": [0]}, "A beats B: **does not hold**, in 0 of 1 seeds."),
        ({"A": [1]}, "A beats B: not measured."),
    ],
)
def test_the_table_says_what_holds_and_what_does_not(monkeypatch, values, verdict):
    claim = Claim("A beats B", ("A", "MSE"), ("B", "MSE"))
    monkeypatch.setitem(EXPERIMENTS, "study", replace(STUDY, claims=(claim,)))
    page = table(results(**values), ["study"], SMALL, "one machine")
    assert f"- {verdict}" in page.splitlines()


def test_the_table_has_means_and_spreads(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "study", STUDY)
    page = table(results(A=[1, 2, 3], B=[0.01, 0.03]), ["study"], SMALL, "one machine")
    assert "| A | 2.000 ± 1.000 | 3 |" in page
    assert "| B | 0.02000 ± 0.01414 | 2 |" in page
    assert "300 iterations of 8, on one machine." in page


def test_what_is_written_down_is_read_again_but_for_broken_lines_and_other_sizes(tmp_path):
    wanted = [("balance", "plain", 0), ("balance", "balanced", 0)]
    done = list(run(wanted, TINY, jobs=1))
    assert sorted(result["variant"] for result in done) == ["balanced", "plain"]
    record = tmp_path / "record.jsonl"
    lines = [json.dumps(result) for result in done]
    record.write_text(f"{lines[0]}\n{lines[1][:40]}")
    assert recorded(record, TINY) == {("balance", done[0]["variant"], 0): done[0]}
    assert recorded(record, SMALL) == {}
    assert recorded(tmp_path / "none.jsonl", TINY) == {}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-m", "benchmarks.mechanisms", "balance", "--iterations", "2", "--jobs", "1"]
    command += ["--out", str(tmp_path / "page.md")]
    first = subprocess.run([*command, "--seeds", "1"], capture_output=True, text=True, check=True)
    assert "2 of 2" in first.stderr
    second = subprocess.run([*command, "--seeds", "2"], capture_output=True, text=True, check=True)
    assert "2 of 2" in second.stderr, "only the new seed is run"
    assert second.stdout == (tmp_path / "page.md").read_text()
    assert len((tmp_path / "page.jsonl").read_text().splitlines()) == 4
