"""What subcommands show on the terminal: progress, tables of scores, files that were skipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from nowcast.readers.listing import Progress as Report
    from nowcast.readers.listing import Skipped


@contextmanager
def reporting(console: Console, *more: ProgressColumn) -> Iterator[Report]:
    """Yield a function ``report(what, done, total)`` that moves a progress bar, with ``more`` columns."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *more,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report


def score_table(rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> Table:
    """Return CSI by lead time (down) and threshold (across), the methods side by side in a cell."""
    table = Table(title=f"CSI: {' / '.join(models)}")
    thresholds = sorted({row["threshold_dbz"] for row in rows})
    for heading in ("min", *(f"≥ {threshold:g} dBZ" for threshold in thresholds), "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    cells = {(row["model"], row["lead_minutes"], row["threshold_dbz"]): row for row in rows}
    for lead in sorted({row["lead_minutes"] for row in rows}):
        line, counts = [], set()
        for threshold in thresholds:
            found = [cells.get((model, lead, threshold)) for model in models]
            csi = [row["csi"] if row else None for row in found]
            line.append(" / ".join("-" if value is None else f"{value:.2f}" for value in csi))
            counts |= {row["forecasts"] for row in found if row}
        table.add_row(f"{lead:g}", *line, "-".join(map(str, sorted({min(counts), max(counts)}))))
    return table


def print_skipped(skipped: Sequence[Skipped], console: Console, *, most: int = 10) -> None:
    """Print which files or frames were left out and why, the first ``most`` of them."""
    for left_out in skipped[:most]:
        console.print(f"[yellow]skipped[/] {left_out.file}: {left_out.reason}", highlight=False)
    if len(skipped) > most:
        console.print(f"[yellow]skipped[/] {len(skipped) - most} more", highlight=False)
