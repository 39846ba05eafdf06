"""Tables on the terminal: plain columns within 80 characters, the same in a pipe as before a person."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nowcast.errors import BadRequest
from nowcast.scores.table import EventScore, event_scores

#: Width of a table [characters]: that of the narrowest terminal in use.
WIDTH = 80

#: Characters between two columns, and least width of a column whose words are broken.
GAP, LEAST_TEXT = 2, 12

#: Stands where there is no score.
NOTHING = "-"


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[str] = (),
    keys: int = 0,
    width: int = WIDTH,
) -> str:
    """Return a table as text; what does not fit goes on below, and nothing is cut.

    Args:
        headings: Of the columns, each another.
        rows: Cells, as many as headings.
        numbers: Headings of the columns that stand at the right.
        keys: Number of first columns that tell a row. If there are any, columns that do not fit follow in a
            table of their own, beside the keys again; else the widest text is wrapped.
        width: Most characters of a line, while columns are not wider by themselves.
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    if keys and _total(widths) > width:
        return "\n\n".join(
            table(
                [headings[i] for i in columns],
                [[row[i] for i in columns] for row in rows],
                numbers=numbers,
                width=width,
            )
            for columns in _blocks(widths, keys, width)
        )
    texts = [i for i, heading in enumerate(headings) if heading not in numbers]
    words = {i: max(len(word) for row in (headings, *rows) for word in row[i].split() or [""]) for i in texts}
    for least in (words, dict.fromkeys(texts, LEAST_TEXT)):  # words are broken only where nothing else helps
        for i in sorted(texts, key=lambda i: widths[i] - least[i], reverse=True):
            widths[i] -= min(max(_total(widths) - width, 0), max(widths[i] - least[i], 0))
    right = [heading in numbers for heading in headings]
    return "\n".join(line for row in (headings, *rows) for line in _lines(row, widths, right))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _blocks(widths: Sequence[int], keys: int, width: int) -> list[list[int]]:
    """Return the columns of each table that fits: the keys, and as many others as there is room for."""
    first = list(range(keys))
    blocks: list[list[int]] = []
    for column in range(keys, len(widths)):
        if blocks and _total([widths[i] for i in (*blocks[-1], column)]) <= width:
            blocks[-1].append(column)
        else:
            blocks.append([*first, column])
    return blocks


def _lines(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """Return the lines of a row: several if a cell is wider than its column."""
    wrapped = [
        textwrap.wrap(cell, width) or [""] if len(cell) > width else [cell]
        for cell, width in zip(cells, widths, strict=True)
    ]
    lines = []
    for number in range(max(map(len, wrapped))):
        parts = [
            (part[number] if number < len(part) else "").rjust(width)
            if at_right
            else (part[number] if number < len(part) else "").ljust(width)
            for part, width, at_right in zip(wrapped, widths, right, strict=True)
        ]
        lines.append((" " * GAP).join(parts).rstrip())
    return lines


def score_named(name: str) -> EventScore:
    """Return a score of events.

    Raises:
        BadRequest: If there is none of that name.
    """
    scores = {score.name: score for score in event_scores()}
    if name not in scores:
        raise BadRequest(f"expected a score among {', '.join(scores)}; got {name!r}")
    return scores[name]


def score_table(rows: Sequence[Mapping[str, Any]], models: Sequence[str], names: Sequence[str]) -> str:
    """Return scores by threshold and lead time, the methods side by side, below what each score is.

    Args:
        rows: Of ``scores.json`` or of the API's verification.
        models: Methods, in the order of their columns.
        names: Of the scores.
    """
    scores = [score_named(name) for name in names]
    cells = {(row["model"], row["threshold_dbz"], row["lead_minutes"]): row for row in rows}
    places = sorted({(row["threshold_dbz"], row["lead_minutes"]) for row in rows})
    lines = []
    for score in scores:
        for threshold, lead in places:
            of_models = [cells.get((model, threshold, lead)) for model in models]
            counts = sorted({row["forecasts"] for row in of_models if row})
            values = [row[score.name] if row else None for row in of_models]
            lines.append(
                [
                    *([score.label] if len(scores) > 1 else []),
                    f"{threshold:g}",
                    f"{lead:g}",
                    "-".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else NOTHING,
                    *(number(value) for value in values),
                ]
            )
    keys = [*(["score"] if len(scores) > 1 else []), "dBZ", "min", "n"]
    told = [line for score in scores for line in textwrap.wrap(f"{score.label}: {score}", WIDTH)]
    shown = table([*keys, *models], lines, numbers=("dBZ", "min", "n", *models), keys=len(keys))
    return "\n".join([*told, shown])


def number(value: float | None, form: str = ".3f") -> str:
    """Return a number for a cell, :data:`NOTHING` where there is none."""
    return NOTHING if value is None else format(value, form)
