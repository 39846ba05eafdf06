"""What subcommands show on the terminal: progress, files that were skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

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


def print_skipped(skipped: Sequence[Skipped], console: Console, *, most: int = 10) -> None:
    """Print which files or frames were left out and why, the first ``most`` of them."""
    for left_out in skipped[:most]:
        console.print(f"[yellow]skipped[/] {left_out.file}: {left_out.reason}", highlight=False)
    if len(skipped) > most:
        console.print(f"[yellow]skipped[/] {len(skipped) - most} more", highlight=False)
