"""A method in one class and one line of the registry: what it gives besides fields is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from weather import DOMAIN, GRID, raw_frames

from nowcast.compute import Compute
from nowcast.forecast.file import read_lead, write_forecast
from nowcast.forecast.prediction import Layer, Lead, MemberField, Members, Prediction
from nowcast.forecast.record import ForecastRecord
from nowcast.frame.frame import normalise
from nowcast.methods.answer import issue
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.method import Method
from nowcast.methods.registry import METHODS

LEADS = 3


class Toy(Method):
    """Persistence that is ever less sure of it."""

    name = "toy"

    def __init__(self, members: int = 2) -> None:
        self.made: list[str] = []
        self._members = members

    def predict(self, cube: Cube, leads: int) -> Prediction:
        layers = {
            "doubt": Layer("doubt in persistence", "1", "grows by a tenth with every lead"),
            "age": Layer("age of the echo", "min", "0 everywhere", of_frame=lambda: self._age(cube)),
        }
        return Prediction(
            (self._lead(cube, index) for index in range(leads)),
            thresholds_dbz=(20.0, 30.0),
            layers=layers,
            members=Members(self._members, self._fields(cube, leads)),
        )

    def _lead(self, cube: Cube, index: int) -> Lead:
        newest = cube.newest

        def probability() -> np.ndarray:
            self.made.append(f"probability {index}")
            reached = np.stack([newest >= threshold for threshold in (20.0, 30.0)])
            sure = np.where(reached, 0.9 - 0.1 * index, 0.05).astype(np.float32)
            sure[:, np.isnan(newest)] = np.nan
            return sure

        return Lead(newest, probability, {"doubt": lambda: np.full_like(newest, 0.1 * index)})

    def _age(self, cube: Cube) -> np.ndarray:
        self.made.append("age")
        return np.zeros_like(cube.newest)

    def _fields(self, cube: Cube, leads: int) -> Iterator[MemberField]:
        for lead in range(leads):  # by lead and not by member, as some ensembles are made
            for member in range(self._members):
                yield MemberField(member, lead, cube.newest + np.float32(member + lead))


@pytest.fixture
def cube() -> Cube:
    domain = replace(DOMAIN, grid=GRID)
    return build_cube([normalise(raw, domain) for raw in raw_frames(4)], step_minutes=5, history=4)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    method = Toy()
    monkeypatch.setitem(METHODS, "toy", lambda compute: method)  # one line of the registry
    return method


def issued(cube: Cube) -> tuple[ForecastRecord, Prediction]:
    return issue(cube, replace(DOMAIN, grid=GRID, leads=LEADS), Compute(), model="toy")


def test_what_a_method_gives_besides_fields_is_in_the_file(cube: Cube, toy: Toy, tmp_path: Path) -> None:
    write_forecast(tmp_path / "out.nc", *issued(cube))
    with xr.open_dataset(tmp_path / "out.nc", decode_timedelta=False) as out:
        assert out["probability"].dims == ("threshold", "lead_time", "y", "x")
        assert out["threshold"].values.tolist() == [20.0, 30.0]
        for index in range(LEADS):
            for k, threshold in enumerate((20.0, 30.0)):
                expected = np.where(cube.newest >= threshold, 0.9 - 0.1 * index, 0.05)
                expected[np.isnan(cube.newest)] = np.nan
                np.testing.assert_allclose(out["probability"][k, index], expected, atol=1e-6)
        assert out["layer_doubt"].dims == ("lead_time", "y", "x")
        assert out["layer_doubt"][2].values == pytest.approx(0.2)
        assert out["layer_age"].dims == ("y", "x")
        facts = {key: out["layer_doubt"].attrs[key] for key in ("long_name", "units", "comment")}
        assert facts == {
            "long_name": "doubt in persistence",
            "units": "1",
            "comment": "grows by a tenth with every lead",
        }
        assert out["reflectivity_member"].dims == ("member", "lead_time", "y", "x")
        assert out["member"].attrs["standard_name"] == "realization"
        for member in range(2):
            for lead in range(LEADS):
                expected = np.maximum(cube.newest + member + lead, -10)
                np.testing.assert_allclose(out["reflectivity_member"][member, lead], expected, atol=0.006)
        np.testing.assert_allclose(out["reflectivity"][1], np.maximum(cube.newest, -10), atol=0.006)


def test_a_file_of_fields_alone_has_none_of_it(cube: Cube, tmp_path: Path) -> None:
    record, prediction = issue(cube, replace(DOMAIN, grid=GRID, leads=1), Compute(), model="persistence")
    write_forecast(tmp_path / "out.nc", record, prediction)
    with xr.open_dataset(tmp_path / "out.nc", decode_timedelta=False) as out:
        assert not {"probability", "threshold", "member", "reflectivity_member"} & set(out.variables)
        assert not [name for name in out.variables if str(name).startswith("layer_")]


def test_nothing_is_made_that_nobody_asks_for(cube: Cube, toy: Toy) -> None:
    _, prediction = issued(cube)
    assert len(list(prediction.fields)) == LEADS
    assert toy.made == []


def test_probabilities_are_made_lead_by_lead_as_they_are_written(
    cube: Cube, toy: Toy, tmp_path: Path
) -> None:
    write_forecast(tmp_path / "out.nc", *issued(cube))
    assert toy.made == [f"probability {index}" for index in range(LEADS)] + ["age"]


def broken(prediction: Prediction, how: str) -> Prediction:
    if how == "no probability":
        return replace(prediction, leads=(replace(lead, probability=None) for lead in prediction.leads))
    if how == "no layer":
        return replace(prediction, leads=(replace(lead, layers={}) for lead in prediction.leads))
    if how == "another shape":
        small = {"doubt": lambda: np.zeros((2, 3), np.float32)}
        return replace(prediction, leads=(replace(lead, layers=small) for lead in prediction.leads))
    assert prediction.members is not None
    fields = list(prediction.members.fields)
    fields = fields[:-1] if how == "a member too short" else [*fields[:-1], fields[0]]
    return replace(prediction, members=Members(2, iter(fields)))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no probability", "expected probabilities with every lead, got none"),
        ("no layer", "expected layer 'doubt' with every lead, got none"),
        ("another shape", r"expected layer 'doubt' of \(.*\) cells, got \(2, 3\)"),
        ("a member too short", r"expected all leads of all members, got none of \(1, 2\)"),
        ("a member twice", "did not expect lead 0 of member 0, or not again"),
    ],
)
def test_a_promise_that_is_not_kept_leaves_no_file(
    cube: Cube, toy: Toy, tmp_path: Path, how: str, words: str
) -> None:
    record, prediction = issued(cube)
    with pytest.raises(ValueError, match=f"toy: {words}"):
        write_forecast(tmp_path / "out.nc", record, broken(prediction, how))
    assert list(tmp_path.iterdir()) == []


def test_the_field_of_a_lead_is_read_as_ever(cube: Cube, toy: Toy, tmp_path: Path) -> None:
    write_forecast(tmp_path / "out.nc", *issued(cube))
    np.testing.assert_allclose(read_lead(tmp_path / "out.nc", 2), np.maximum(cube.newest, -10), atol=0.006)
