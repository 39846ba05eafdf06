"""The split into events to learn from and events that choose: fixed, over all radars, by whole days."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from nowcast.training.tune import tune_events


def test_patterns_choose_and_comments_do_not(tmp_path: Path) -> None:
    (tmp_path / "split").write_text("# sea-*\nhills-2  # the wet one\n\nplain-*\n")
    names = ["hills-1", "hills-2", "plain-7", "sea-1"]
    assert tune_events(names, tmp_path / "split") == ("hills-2", "plain-7")


def names_of(shared_data: Path) -> list[str]:
    """The names that events get when the training data is gathered, a folder each."""
    folders = {path.parent for path in (shared_data / "train").rglob("*.*") if path.is_file()}
    return sorted("-".join(folder.relative_to(shared_data / "train").parts) for folder in folders)


def test_about_a_fifth_tunes_and_no_day_is_on_both_sides(shared_data: Path) -> None:
    names = names_of(shared_data)
    tune = set(tune_events(names))
    assert 0.15 < len(tune) / len(names) < 0.3
    sides: dict[str, set[bool]] = defaultdict(set)
    for name in names:
        if name.startswith("dpc_vmi_2025"):
            sides[name.rpartition("_")[2]].add(name in tune)
    assert len(sides) > 20
    assert [day for day, side in sides.items() if len(side) > 1] == []


def test_radars_with_several_events_are_on_both_sides(shared_data: Path) -> None:
    tune, sides = set(tune_events(names_of(shared_data))), defaultdict(list)
    for name in names_of(shared_data):
        sides[name.partition("-")[0]].append(name in tune)
    several = {radar: side for radar, side in sides.items() if len(side) > 2}
    assert several and all(any(side) and not all(side) for side in several.values())
    assert sum(all(side) for side in sides.values()) >= 3, "some radars only choose: climates never learnt"
