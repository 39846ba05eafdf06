"""The copy test: its order of frames, what is shown and scored, and that a network passes it by memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.mechanisms.copy_test import copy_error, copy_sequence, copy_training_loss
from models.e3d.network import E3DLSTM, E3DLSTMConfig
from models.parts.stepwise import StepwiseForecaster


class Echo(StepwiseForecaster):
    """Forecasts the frame it is given plus 0.1; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))
        self.given: list[float] = []

    def begin(self, frame: Tensor) -> None:
        return None

    def step(self, frame: Tensor, inner: None) -> tuple[Tensor, None]:
        self.given.append(round(frame.flatten()[0].item(), 3))
        return self.factor * frame + 0.1, None


def numbered(first: int, frames: int) -> Tensor:
    """Events whose frames are all first, first + 1, ... thousandths."""
    values = torch.arange(first, first + frames).float() / 1000
    return values.view(1, -1, 1, 1, 1).expand(2, -1, 1, 4, 4)


def test_the_event_is_shown_whole_then_another_begins_then_it_begins_again():
    sequence = copy_sequence(numbered(100, 5), numbered(200, 5), observed=2)
    values = (sequence.frames[0, :, 0, 0, 0] * 1000).round().int().tolist()
    assert values == [*range(100, 105), *range(200, 205), *range(100, 105)]
    assert sequence.shown.tolist() == [True] * 5 + [True, True, False, False, False] * 2
    assert (sequence.observed, sequence.leads) == (2, 3)


def test_only_shown_frames_are_seen_and_only_the_second_forecast_is_scored():
    net, sequence = Echo(), copy_sequence(numbered(100, 5), numbered(200, 5), observed=2)
    errors = copy_error(net, sequence)
    assert net.given[:7] == [0.100, 0.101, 0.102, 0.103, 0.104, 0.200, 0.201]
    assert net.given[7:12] == [0.301, 0.401, 0.501, 0.100, 0.101], "own forecasts, then the event again"
    expected = torch.tensor([0.201 - 0.102, 0.301 - 0.103, 0.401 - 0.104]) ** 2
    torch.testing.assert_close(errors, expected)
    other = copy_sequence(numbered(100, 5), numbered(700, 5), observed=2)
    torch.testing.assert_close(copy_error(Echo(), other), expected)


def test_forecasts_are_clamped_when_scored():
    net = Echo()
    with torch.no_grad():
        net.factor.fill_(100.0)
    sequence = copy_sequence(torch.full((1, 3, 1, 4, 4), 1.0), torch.zeros(1, 3, 1, 4, 4), observed=1)
    assert copy_error(net, sequence).tolist() == [0.0, 0.0]


def test_both_forecasts_are_trained():
    net, sequence = Echo(), copy_sequence(numbered(100, 5), numbered(200, 5), observed=2)
    losses = copy_training_loss(net, sequence, progress=1.0)
    first = torch.tensor([0.301 - 0.202, 0.401 - 0.203, 0.501 - 0.204]) ** 2
    second = torch.tensor([0.201 - 0.102, 0.301 - 0.103, 0.401 - 0.104]) ** 2
    torch.testing.assert_close(losses["loss"], torch.cat([first, second]).mean())
    torch.testing.assert_close(losses["mse"], second.mean())
    assert losses["loss"].requires_grad
    assert not losses["mse"].requires_grad


def test_training_shows_true_frames_at_first():
    net, sequence = Echo(), copy_sequence(numbered(100, 5), numbered(200, 5), observed=2)
    losses = copy_training_loss(net, sequence, progress=0.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses["loss"], torch.tensor(0.099**2))
    early = copy_training_loss(net, sequence, progress=0.25, generator=torch.Generator().manual_seed(0))
    again = copy_training_loss(net, sequence, progress=0.25, generator=torch.Generator().manual_seed(0))
    assert 0.099**2 < early["loss"] < copy_training_loss(net, sequence, progress=1.0)["loss"]
    assert early["loss"] == again["loss"]


def test_events_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected events of one shape"):
        copy_sequence(numbered(0, 5), numbered(0, 4), observed=2)
    for observed in (0, 5):
        with pytest.raises(ValueError, match=f"expected to show from 1 to 4 frames, got {observed}"):
            copy_sequence(numbered(0, 5), numbered(0, 5), observed=observed)


def chequers(count: int, generator: torch.Generator) -> Tensor:
    """Events of four frames in which every square of 4 x 4 cells is 0 or 1, whatever it was before."""
    squares = torch.rand(count, 4, 1, 4, 4, generator=generator).round()
    return squares.repeat_interleave(4, -1).repeat_interleave(4, -2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_e3d_lstm_forecasts_from_memory_what_cannot_be_foreseen(record_property):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = E3DLSTM(E3DLSTMConfig(layers=1, channels=12, depth=1, tau=None))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(400):
        sequence = copy_sequence(chequers(16, generator), chequers(16, generator), observed=2)
        optimiser.zero_grad()
        copy_training_loss(net, sequence, progress=step / 400, generator=generator)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    event, other, context = (chequers(64, generator) for _ in range(3))
    sequence = copy_sequence(event, other, observed=2)
    seen_before = copy_error(net, sequence).mean()
    never_seen = copy_error(
        net, sequence._replace(frames=torch.cat([context, sequence.frames[:, 4:]], 1))
    ).mean()
    record_property("errors", f"{seen_before:.4f} seen before, {never_seen:.4f} never seen")
    assert seen_before < 0.05
    assert never_seen > 0.2, "a guess of a half everywhere is off by 0.25"
