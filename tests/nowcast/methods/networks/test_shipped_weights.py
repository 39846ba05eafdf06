"""The weights in the package are whole, small, and what their cards say; exceedance serves fields of its."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from weather import GRID, newest, raw_frames

from nowcast.compute import Compute
from nowcast.errors import NotEnoughFrames
from nowcast.frame.domain import Domain
from nowcast.frame.frame import normalise
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.extrapolation import Extrapolation
from nowcast.methods.networks.checkpoint import load
from nowcast.methods.networks.exceedance import ExceedanceNetwork
from nowcast.methods.networks.loading import network
from nowcast.methods.networks.versions import SHIPPED
from nowcast.names import NETWORKS

STEP = 5

#: Corrections that are still being trained: until then they have no weights, and untrained they are the base.
IN_TRAINING = {"stmoe", "e3d"}

SHORT = sorted({name for name, preset in NETWORKS.items() if preset == f"{name}_cpu"} - IN_TRAINING)


@pytest.fixture
def cube() -> Cube:
    domain = Domain("sim", STEP, grid=GRID)
    return build_cube([normalise(raw, domain) for raw in raw_frames(4)], step_minutes=STEP, history=4)


@pytest.mark.parametrize("name", SHORT)
def test_every_forecaster_has_weights_and_a_card_of_them(name):
    folder = SHIPPED / name
    checkpoint = load(folder)  # refuses what is not finite, truncated, or of another network
    assert (folder / "weights.safetensors").stat().st_size <= 4e6
    assert checkpoint.sha256 in (folder / "card.md").read_text()
    assert checkpoint.card.data, "whose data it learnt from"
    assert checkpoint.card.task.moving


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) <= 30e6


def method(memory_mb: int = 2048) -> ExceedanceNetwork:
    found = network("exceedance", replace(Compute(), memory_mb=memory_mb))
    assert isinstance(found, ExceedanceNetwork)
    return found


def test_exceedance_covers_what_extrapolation_covers_and_keeps_its_areas(cube):
    prediction, expected = method().predict(cube, 3), Extrapolation().predict(cube, 3)
    for lead, (field, carried) in enumerate(zip(prediction.fields, expected.fields, strict=True), start=1):
        assert np.array_equal(np.isnan(field), np.isnan(carried))
        factors = dict(zip(method().thresholds_dbz.tolist(), method().areas(STEP * lead), strict=True))
        wanted = round(float(factors[5.0]) * int((carried >= 5).sum()))
        assert int((field >= 5).sum()) == pytest.approx(wanted, abs=0.02 * wanted + 2)


def test_probabilities_made_lead_by_lead_are_those_made_together(cube, monkeypatch):
    together = list(method().probabilities(cube, 3))
    monkeypatch.setattr(ExceedanceNetwork, "_together", lambda self, cells: 1)
    alone = list(method().probabilities(cube, 3))
    for a, b in zip(together, alone, strict=True):
        assert a.minutes == b.minutes
        np.testing.assert_allclose(a.probability, b.probability, atol=2e-3)


def test_exceedance_says_what_it_was_not_trained_for(cube):
    assert "leads of up to 60 minutes" in method().predict(cube, 60 // STEP + 1).shortfalls[-1]
    with pytest.raises(NotEnoughFrames, match="exceedance: expected 4 frames, got 3"):
        method().predict(newest(cube, 3), 1)


def test_the_cards_numbers_are_those_of_the_configuration():
    for path in SHIPPED.glob("*/config.json"):
        content = json.loads(path.read_text())
        assert content["weights"]["sha256"] in (path.parent / "card.md").read_text(), path.parent.name
