"""How easily the code is seen as a whole: what is counted is what the text of ``benchmarks.house`` says."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import house
from benchmarks.house import Control, depth, layer_lines, room_of, rooms, table

#: Two modules that pass control to each other, and one that stays with itself.
MADE_UP = {
    "upper": """
from {folder} import lower

def plain():
    return lower.double(2)

def nested():
    return lower.calls_back(own)

def own():
    return 1

def alone():
    return sum([own() for _ in range(5)]) + sum(own() for _ in range(5))

def pulls(count):
    return [value for value in lower.counted(count)]

def through_a_library():
    return sorted([3, 1, 2], key=lower.double)

def makes():
    return lower.Pair(1, 2)

def fails():
    try:
        lower.refuse()
    except ValueError:
        return own()
""",
    "lower": """
from dataclasses import dataclass

def double(value):
    return 2 * value

def calls_back(function):
    return function()

def counted(count):
    yield from range(count)

def refuse():
    raise ValueError

@dataclass
class Pair:
    one: int
    other: int
""",
}


@pytest.fixture
def upper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "made_up_house"
    folder.mkdir()
    for name, text in MADE_UP.items():
        (folder / f"{name}.py").write_text(text.replace("{folder}", folder.name))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(f"{folder.name}.upper")
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def followed(upper: ModuleType, job: Callable[[], object]) -> dict[str, int]:
    control = Control((Path(str(upper.__file__)).parent,))
    control.follow(job)
    return control.figures()


def counts(passes: int, modules: int, arrows: int, returns: int) -> dict[str, int]:
    return {"passes": passes, "calls": passes // 2, "modules": modules, "arrows": arrows, "returns": returns}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", counts(2, 2, 1, 0)),
        ("nested", counts(4, 2, 2, 1)),  # down, up into own, and both back
        ("alone", counts(0, 1, 0, 0)),  # a comprehension and a generator of its own pass nothing
        ("through_a_library", counts(6, 2, 1, 0)),
        ("makes", counts(0, 1, 0, 0)),  # the code of __init__ stands in no file
        ("fails", counts(2, 2, 1, 0)),
    ],
)
def test_control_passes_where_the_text_says(upper: ModuleType, name: str, expected: dict[str, int]) -> None:
    figures = followed(upper, getattr(upper, name))
    assert {key: figures[key] for key in expected} == expected


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_generator_passes_control_for_each_value_and_for_its_end(upper: ModuleType, count: int) -> None:
    figures = followed(upper, lambda: upper.pulls(count))
    assert figures["passes"] == 2 * (count + 1)


def test_following_ends_with_the_job_even_if_it_fails() -> None:
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        Control().follow(fail)
    assert sys.getprofile() is None


def test_a_room_is_the_first_package_inside_nowcast() -> None:
    modules = (
        "nowcast",
        "nowcast.errors",
        "nowcast.readers",
        "nowcast.readers.odim",
        "models.unet",
        "worker",
    )
    assert [room_of(module) for module in modules] == [".", ".", "readers", "readers", "models", "worker"]


def test_arrows_are_counted_within_rooms_and_on_both_sides_of_a_door() -> None:
    modules = ("nowcast.errors", "nowcast.settings", "nowcast.readers.odim", "nowcast.readers.grib")
    arrows = [
        ("nowcast.settings", "nowcast.errors"),
        ("nowcast.readers.odim", "nowcast.readers.grib"),
        ("nowcast.readers.odim", "nowcast.errors"),
        ("nowcast.readers.grib", "nowcast.errors"),
    ]
    assert rooms(arrows, modules) == {
        ".": {"modules": 2, "within": 1, "to others": 0, "from others": 2},
        "readers": {"modules": 2, "within": 1, "to others": 2, "from others": 0},
    }


@pytest.mark.parametrize(
    ("arrows", "expected", "circles"),
    [
        ("", 1, []),
        ("ab", 2, []),
        ("ab bc ac", 3, []),
        ("ab ba", 1, [["a", "b"]]),
        ("ab bc cb cd", 3, [["b", "c"]]),
        ("aa ab", 2, []),
    ],
)
def test_depth_counts_what_stands_on_each_other(arrows: str, expected: int, circles: list[list[str]]) -> None:
    assert depth("abcd", [(pair[0], pair[1]) for pair in arrows.split()]) == (expected, circles)


def test_the_layers_counted_are_those_inside_nowcast(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("""
[[tool.importlinter.contracts]]
layers = ["api | worker", "nowcast", "models"]
[[tool.importlinter.contracts]]
containers = ["nowcast"]
layers = ["settings", "readers | rendering", "grid", "errors"]
""")
    assert layer_lines(pyproject) == 4


def test_a_table_s_columns_stand_below_their_headings() -> None:
    assert table("room", {"a": {"modules": 1, "to others": 23}, "bc": {"modules": 456, "to others": 7}}) == [
        "room                  modules  to others",
        "a                           1         23",
        "bc                        456          7",
    ]


def test_the_report_fits_80_columns_and_says_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, kept = [], []
    for number in range(2):
        path = tmp_path / f"{number}.json"
        monkeypatch.setattr("sys.argv", ["house", "--json", str(path)])
        house.main()
        printed.append(capsys.readouterr().out)
        kept.append(json.loads(path.read_text()))
    assert printed[0] == printed[1]
    assert kept[0] == kept[1]
    assert max(map(len, printed[0].splitlines())) <= 80
    (figures, _) = kept
    assert sum(row["modules"] for row in figures["rooms"].values()) == figures["modules"]
    for row in figures["control"].values():
        assert row["passes"] == 2 * row["calls"]
        assert row["between rooms"] < row["passes"]
        assert row["arrows"] == row["returns"] + row["modules"] - 1
