"""Time and energy of a training: added up over its runs, unknown rather than wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from nowcast.training.effort import Effort


def counter(powercap: Path, micro: int, zone: str = "intel-rapl:0") -> None:
    """Let a processor's counter stand at some microjoule; it starts over after 999."""
    (powercap / zone).mkdir(parents=True, exist_ok=True)
    (powercap / zone / "energy_uj").write_text(f"{micro}\n")
    (powercap / zone / "max_energy_range_uj").write_text("999\n")


def test_energy_is_added_up_over_processors_turns_and_runs(tmp_path: Path) -> None:
    power, note = tmp_path / "power", tmp_path / "effort.json"
    counter(power, 900)
    counter(power, 10, "intel-rapl:1")
    counter(power, 500, "intel-rapl:0:0")  # a part of the first
    effort = Effort(note, power)
    counter(power, 100)  # started over: 200 more
    counter(power, 40, "intel-rapl:1")
    counter(power, 999, "intel-rapl:0:0")
    effort.note(now=True)
    assert effort.joules == pytest.approx(230e-6)
    counter(power, 700)  # spent by others between two runs
    again = Effort(note, power)
    counter(power, 705)
    again.note(now=True)
    assert again.joules == pytest.approx(235e-6)
    assert again.seconds > effort.seconds > 0


def test_energy_not_known_throughout_is_unknown(tmp_path: Path) -> None:
    power, note = tmp_path / "power", tmp_path / "effort.json"
    effort = Effort(note, power)
    effort.note(now=True)
    assert effort.joules is None
    counter(power, 1)
    later = Effort(note, power)
    later.note(now=True)
    assert later.joules is None and later.seconds > 0


def test_a_damaged_note_does_not_stop_a_training(tmp_path: Path) -> None:
    (tmp_path / "effort.json").write_text("{")
    assert Effort(tmp_path / "effort.json", tmp_path).seconds == 0
