"""The cells of a table on the terminal: columns lie between runs of blanks that all its lines share."""

from __future__ import annotations


def cells(table: str) -> list[list[str]]:
    """Return the cells of a table's lines, the headings first."""
    lines = [line for line in table.splitlines() if line.strip()]
    width = max(map(len, lines))
    blank = [all(line[i : i + 1] in ("", " ") for line in lines) for i in range(width)] + [True, True]
    starts, ends = [], []
    for i in range(width):
        if not blank[i] and (i == 0 or (blank[i - 1] and (i == 1 or blank[i - 2]))):
            starts.append(i)
        if not blank[i] and blank[i + 1] and blank[i + 2]:
            ends.append(i + 1)
    return [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]
