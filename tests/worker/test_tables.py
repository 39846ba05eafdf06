"""Tables fit 80 columns, lose nothing, and read the same in a pipe."""

from __future__ import annotations

import pytest
from columns import cells

from nowcast.errors import BadRequest
from worker.cli.tables import score_table, table


def test_a_table_is_plain_columns_with_numbers_at_the_right() -> None:
    assert table(("name", "n"), [("a", "5"), ("longer", "12")], numbers=("n",)) == (
        "name     n\na        5\nlonger  12"
    )


def test_text_that_does_not_fit_is_wrapped_and_whole() -> None:
    note = "promoted by force although the interval of the difference held zero and more besides " * 2
    shown = table(("model", "version", "note"), [("convlstm", "v" * 30, note.strip()), ("crn", "", "")])
    assert max(map(len, shown.splitlines())) <= 80
    assert "v" * 30 in shown
    _, *rows = cells(shown)
    assert " ".join(row[2] for row in rows).split() == note.split()
    assert [row[0] for row in rows if row[0]] == ["convlstm", "crn"]


def test_columns_that_do_not_fit_follow_beside_their_keys_again() -> None:
    models = [f"a_method_with_a_long_name_{number}" for number in range(5)]
    rows = [["20", str(lead), *[f"0.{lead}{n}" for n in range(5)]] for lead in (5, 10)]
    shown = table(("dBZ", "min", *models), rows, numbers=("dBZ", "min", *models), keys=2)
    assert max(map(len, shown.splitlines())) <= 80
    blocks = [cells(block) for block in shown.split("\n\n")]
    assert [block[0] for block in blocks] == [
        ["dBZ", "min", *models[:2]],
        ["dBZ", "min", *models[2:4]],
        ["dBZ", "min", models[4]],
    ]
    assert [row[:2] for row in blocks[2][1:]] == [["20", "5"], ["20", "10"]]
    assert [value for block in blocks for value in block[1][2:]] == [f"0.5{n}" for n in range(5)]


def row(model: str, lead: int, csi: float | None, **facts: object) -> dict[str, object]:
    return {
        "model": model, "lead_minutes": lead, "threshold_dbz": 20.0, "csi": csi, "bias": 1.25, "forecasts": 7
    } | facts  # fmt: skip


def test_scores_of_three_methods_stand_side_by_side_in_80_columns() -> None:
    models = ["persistence", "extrapolation", "convlstm_hourglass"]
    rows = [row(model, lead, 0.5 + lead / 100) for model in models for lead in (5, 10)]
    rows[-1] = row(models[-1], 10, None, forecasts=5)
    told, *lines = score_table(rows, models, ["csi"]).splitlines()
    assert told == "CSI: critical success index, a / (a + b + c); 0 to 1, larger is better"
    assert max(map(len, lines)) <= 80
    assert cells("\n".join(lines)) == [
        ["dBZ", "min", "n", *models],
        ["20", "5", "7", "0.550", "0.550", "0.550"],
        ["20", "10", "5-7", "0.600", "0.600", "-"],
    ]


def test_several_scores_are_told_apart_and_an_unknown_one_is_refused() -> None:
    shown = score_table([row("oracle", 5, 1.0)], ["oracle"], ["csi", "bias"])
    assert cells("\n".join(shown.splitlines()[2:]))[1:] == [
        ["CSI", "20", "5", "7", "1.000"],
        ["Bias", "20", "5", "7", "1.250"],
    ]
    with pytest.raises(BadRequest, match=r"expected a score among csi, far, .*; got 'cis'"):
        score_table([], [], ["cis"])
