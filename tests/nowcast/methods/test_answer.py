"""Issuing forecasts: the record says what happened, and a batch is the same as one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from weather import DOMAIN, GRID, START, STEP, raw_frames

from nowcast.compute import Compute
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.frame.frame import normalise
from nowcast.methods.answer import issue, issue_batch, looking_back
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.method import Method
from nowcast.methods.registry import METHODS

COMPUTE = Compute()
DOMAINS = [replace(DOMAIN, name=name, grid=GRID, model="network") for name in ("north", "south")]


def cube(seed: int, *, without: int | None = None) -> Cube:
    frames = [normalise(raw, DOMAINS[0]) for n, raw in enumerate(raw_frames(5, seed=seed)) if n != without]
    return build_cube(frames, step_minutes=5, history=4)


class Network(Method):
    """Forecasts the newest frame plus one, and counts how it is asked."""

    name = "network"
    version = "sha256:1"
    takes_batches = True

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.breaks_on_batches = False

    def predict(self, cube: Cube, leads: int) -> Prediction:
        self.asked.append(1)
        return Prediction(map(Lead, [cube.values[-1] + 1] * leads))

    def predict_batch(self, cubes: Sequence[Cube], leads: int) -> list[Prediction]:
        self.asked.append(len(cubes))
        if self.breaks_on_batches:
            raise RuntimeError("CUDA out of memory")
        return [Prediction(map(Lead, [one.values[-1] + 1] * leads)) for one in cubes]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    one = Network()
    monkeypatch.setitem(METHODS, "network", lambda compute: one)
    return one


def test_the_record_names_method_frames_and_grid() -> None:
    record, prediction = issue(cube(1, without=3), DOMAINS[0], COMPUTE, model="extrapolation")
    assert (record.domain, record.model, record.model_version) == ("north", "extrapolation", "1")
    assert record.issue_time == START + 4 * STEP
    assert record.input_frames[-2:] == ("2026-01-01T12:15:00Z*", "2026-01-01T12:20:00Z")
    assert record.grid.matches(GRID)
    assert len(list(prediction.fields)) == record.leads == 3


def test_a_batch_is_asked_for_once_and_answers_each_cube(network: Network) -> None:
    cubes = [cube(1), cube(2)]
    answers = issue_batch(cubes, DOMAINS, COMPUTE, model="network")
    assert network.asked == [2]
    for (record, prediction), domain, one in zip(answers, DOMAINS, cubes, strict=True):
        assert (record.domain, record.model, record.degraded_reason) == (domain.name, "network", "")
        np.testing.assert_array_equal(next(prediction.fields), one.values[-1] + 1)


def test_a_batch_that_fails_is_made_one_by_one(network: Network) -> None:
    network.breaks_on_batches = True
    answers = issue_batch([cube(1), cube(2)], DOMAINS, COMPUTE, model="network")
    assert network.asked == [2, 1, 1]
    assert [record.model for record, _ in answers] == ["network", "network"]


def test_cubes_of_different_shapes_are_not_put_together(network: Network) -> None:
    two = cube(2)
    issue_batch([cube(1), replace(two, values=two.values[:, 10:])], DOMAINS, COMPUTE, model="network")
    assert network.asked == [1, 1]


def test_classical_methods_take_no_batches(network: Network) -> None:
    assert [METHODS[name](COMPUTE).takes_batches for name in ("persistence", "extrapolation", "network")] == [
        False,
        False,
        True,
    ]


def test_a_domain_looks_back_as_far_as_its_network_wants_and_as_it_says_itself(network: Network) -> None:
    assert looking_back(DOMAINS[0], COMPUTE) == DOMAINS[0]
    network.frames = 6
    assert looking_back(DOMAINS[0], COMPUTE).history == 6
    assert looking_back(replace(DOMAINS[0], history=9), COMPUTE).history == 9
