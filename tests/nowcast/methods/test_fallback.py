"""A forecast always comes, and the answer says who made it and why not another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pytest

from nowcast.compute import Compute
from nowcast.errors import NotEnoughFrames, UnknownModel
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.frame.domain import Domain
from nowcast.frame.frame import frame_array
from nowcast.frame.grid import Grid
from nowcast.methods import blend, extrapolation
from nowcast.methods.answer import looking_back, predict_with_fallback, ready
from nowcast.methods.cube import Cube, build_cube
from nowcast.methods.method import Method
from nowcast.methods.registry import METHODS
from nowcast.names import FALLBACK, NETWORKS

GRID = Grid.from_crs("EPSG:3035", nx=40, ny=30, x0=4e6, y0=3e6, dx=1000, dy=1000)
COMPUTE = Compute(shipped=False)
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.fixture
def cube() -> Cube:
    rows, columns = np.mgrid[:30, :40]
    frames = []
    for back in (3, 2, 1, 0):
        bell = np.exp(-((rows - 15) ** 2 + (columns - 22 + back) ** 2) / 30)
        values = np.maximum(55 * bell - 15, -10).astype(np.float32)
        frames.append(frame_array(values, GRID, NOON - timedelta(minutes=5 * back)))
    return build_cube(frames, step_minutes=5, history=4)


class Network(Method):
    """Stands where a network will: its fields, or the error it dies of, come from outside."""

    name = "network"
    version = "sha256:0"

    def __init__(self, *fields: object) -> None:
        self._fields = fields

    def predict(self, cube: Cube, leads: int) -> Prediction:
        if not self._fields:
            raise NotEnoughFrames("expected 5 frames, got 4")
        return Prediction(map(Lead, self._produced()), shortfalls=("on the CPU",))

    def _produced(self) -> Iterator[np.ndarray]:
        for field in self._fields:
            if isinstance(field, BaseException):
                raise field
            yield field


FIELD = np.full((30, 40), 12.0, np.float32)


def serve(monkeypatch: pytest.MonkeyPatch, *fields: object) -> None:
    monkeypatch.setitem(METHODS, "network", lambda compute: Network(*fields))


def test_the_method_asked_for_answers(cube):
    answer = predict_with_fallback(cube, 3, "extrapolation", COMPUTE)
    assert answer.model == "extrapolation"
    assert answer.model_version == "1"
    assert "; ".join(answer.prediction.shortfalls) == ""
    assert answer.prediction.motion is not None
    direct = METHODS["extrapolation"](COMPUTE).predict(cube, 3)
    fields = list(answer.prediction.fields)
    assert len(fields) == 3
    for field, expected in zip(fields, direct.fields, strict=True):
        assert np.array_equal(field, expected, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in METHODS if NETWORKS.get(name) != name])
def test_a_method_goes_by_its_own_name(name):
    assert METHODS[name](replace(COMPUTE, untrained=True)).name == name


def test_every_network_is_a_method():
    assert set(METHODS) == {"auto", "persistence", "extrapolation", "sprog", "blend", *NETWORKS}


def test_a_network_that_works_answers_and_what_it_says_of_itself_is_kept(cube, monkeypatch):
    serve(monkeypatch, FIELD, FIELD + 1)
    prediction, model, version = predict_with_fallback(cube, 2, "network", COMPUTE)
    assert (model, version) == ("network", "sha256:0")
    assert prediction.shortfalls == ("on the CPU",)
    assert [field[0, 0] for field in prediction.fields] == [12.0, 13.0]


def test_an_unknown_model_is_an_error_and_no_fallback(cube):
    with pytest.raises(UnknownModel, match=r"expected a model among .*persistence, .*, got 'oracle'"):
        predict_with_fallback(cube, 2, "oracle", COMPUTE)


def test_a_network_that_refuses_is_replaced_and_its_words_are_passed_on(cube, monkeypatch):
    serve(monkeypatch)
    answer = predict_with_fallback(cube, 2, "network", COMPUTE)
    assert answer.model == "blend", "the best of those that need no weights"
    assert "; ".join(answer.prediction.shortfalls) == "network failed (expected 5 frames, got 4)"
    assert len(list(answer.prediction.fields)) == 2


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory\n" * 9), MemoryError(), cv2.error("x")])
def test_a_network_that_breaks_at_a_late_lead_leaves_no_half_forecast(cube, monkeypatch, caplog, error):
    serve(monkeypatch, FIELD, FIELD, error)
    answer = predict_with_fallback(cube, 4, "network", COMPUTE)
    assert answer.model == "blend"
    assert "; ".join(answer.prediction.shortfalls) == f"network failed ({type(error).__name__})", (
        "no foreign text for everybody"
    )
    assert len(list(answer.prediction.fields)) == 4
    assert "network failed" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [(FIELD,), (FIELD, FIELD, FIELD), (FIELD, FIELD[1:]), (FIELD, np.full_like(FIELD, np.nan))],
    ids=["too few", "too many", "wrong shape", "not a single value"],
)
def test_a_network_that_answers_nonsense_is_replaced(cube, monkeypatch, fields):
    serve(monkeypatch, *fields)
    assert predict_with_fallback(cube, 2, "network", COMPUTE).model == "blend"


@pytest.mark.parametrize(
    ("broken", "answers"), [((blend,), "extrapolation"), ((blend, extrapolation), "persistence")]
)
def test_of_those_that_break_each_is_named_and_the_next_answers(cube, monkeypatch, broken, answers):
    serve(monkeypatch)

    def no_motion(frames):
        raise cv2.error("no")

    for method in broken:
        monkeypatch.setattr(method, "motion_field", no_motion)
    answer = predict_with_fallback(cube, 2, "network", COMPUTE)
    assert answer.model == answers
    assert (
        answer.prediction.shortfalls
        == (
            "network failed (expected 5 frames, got 4)",
            "blend failed (error)",
            "extrapolation failed (error)",
        )[: 1 + len(broken)]
    )
    persist = [np.array_equal(field, cube.values[-1]) for field in answer.prediction.fields]
    assert persist == [answers == "persistence"] * 2


def test_extrapolation_that_breaks_at_its_first_field_is_replaced(cube, monkeypatch):
    class Broken:
        def __init__(self, frame):
            raise MemoryError

    monkeypatch.setattr(extrapolation, "Carrier", Broken)
    assert predict_with_fallback(cube, 2, "extrapolation", COMPUTE).model == "persistence"


def test_persistence_that_breaks_is_not_hidden(cube, monkeypatch):
    class Broken(extrapolation.Persistence):
        def predict(self, cube, leads):
            raise MemoryError

    monkeypatch.setitem(METHODS, "persistence", lambda compute: Broken())
    with pytest.raises(MemoryError):
        predict_with_fallback(cube, 2, "persistence", COMPUTE)


def test_a_mistake_in_a_method_is_not_taken_for_a_failure(cube, monkeypatch):
    serve(monkeypatch, TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        predict_with_fallback(cube, 1, "network", COMPUTE)


def test_the_fields_of_extrapolation_stay_lazy(cube, monkeypatch):
    made = []

    class Counting(extrapolation.Carrier):
        def carry(self, displacement):
            made.append(1)
            return super().carry(displacement)

    monkeypatch.setattr(extrapolation, "Carrier", Counting)
    predict_with_fallback(cube, 12, "extrapolation", COMPUTE)
    assert len(made) == 1


def test_the_fallback_methods_exist():
    assert set(FALLBACK) <= set(METHODS)


def test_a_network_that_cannot_be_made_is_replaced_and_the_reason_is_told(cube):
    answer = predict_with_fallback(cube, 2, "convlstm", COMPUTE)
    assert answer.model == "blend"
    assert "; ".join(answer.prediction.shortfalls) == (
        "convlstm failed (expected weights of convlstm, but no folder was named)"
    )


def test_a_network_that_cannot_be_made_is_not_ready_and_wants_no_frames():
    assert ready("convlstm", COMPUTE) is None
    domain = Domain("test", 5, model="convlstm", history=3)
    assert looking_back(domain, COMPUTE) == domain


def test_a_network_that_needs_frames_wants_them():
    assert METHODS["unet"](replace(COMPUTE, untrained=True)).frames == 4
    assert METHODS["extrapolation"](COMPUTE).frames == 0
    with pytest.raises(UnknownModel):
        ready("oracle", COMPUTE)


def test_without_torch_networks_say_what_to_install_and_the_others_work():
    program = """
import sys
sys.modules["torch"] = None
from nowcast.compute import Compute
from nowcast.errors import MissingExtra
from nowcast.methods.answer import ready
from nowcast.methods.method import Method
from nowcast.methods.registry import METHODS
METHODS["extrapolation"](Compute())
assert ready("convlstm", Compute()) is None
try:
    METHODS["convlstm"](Compute(untrained=True))
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "convlstm needs torch, which is not installed: pip install 'nowcast-service[network]'"
    )


def test_methods_are_known_without_loading_torch():
    program = "import sys, nowcast.methods.answer, nowcast.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
