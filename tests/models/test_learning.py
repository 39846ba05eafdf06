"""Every network can learn four sequences of real rain by heart, trained as its own paper trains it."""

from __future__ import annotations

import pytest
import torch
from real_rain import real_sequences
from small_networks import small_forecasters

from models.forecaster import Forecaster, masked_mse
from models.registry import PRESETS, build

SEEN, AHEAD, SIZE = 5, 4, 32

#: By what the error must have been divided, that of a new network and that of persistence, and the steps it
#: may take.
FALLS, BELOW_PERSISTENCE, STEPS = 20.0, 2.0, 1200

#: What can only move the last frame starts as persistence, and ends where no motion explains what is left:
#: by what its error must have been divided.
ONLY_MOVES = {"addl_cpu": 8.0}


@pytest.fixture(scope="session")
def rain(shared_data) -> torch.Tensor:
    """Four sequences ``(4, t, 1, y, x)`` of four radar networks."""
    sequences = real_sequences(shared_data, SEEN + AHEAD, SIZE)
    assert sequences.shape == (4, SEEN + AHEAD, 1, SIZE, SIZE)
    assert all(sequence.mean() > 0.2 for sequence in sequences), "it rains in all of them"
    return sequences


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", small_forecasters())
def test_a_batch_of_real_rain_is_learnt_by_heart(name, rain, record_property):
    torch.manual_seed(0)
    net = build(PRESETS[name])
    assert isinstance(net, Forecaster)
    x, target = rain[:, :SEEN], rain[:, SEEN:]
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)

    def error() -> float:
        with torch.no_grad():
            return float(masked_mse(net.train()(x, AHEAD)["pred"], target))

    first = error()
    enough = min(
        first / ONLY_MOVES.get(name, FALLS), float(masked_mse(x[:, -1:], target)) / BELOW_PERSISTENCE
    )
    for step in range(STEPS):
        optimiser.zero_grad()
        net.training_loss(x, target, progress=step / STEPS, generator=generator)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if step % 10 == 9 and error() < 0.8 * enough:
            break
    record_property("error", f"{first:.5f} to {error():.5f} in {step + 1} steps")
    assert error() <= enough
