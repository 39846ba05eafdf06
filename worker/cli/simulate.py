"""``nowcast simulate``: a synthetic radar archive."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from worker.cli.terminal import reporting


def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write ODIM_H5 files into.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 48,
    step: Annotated[int, typer.Option(min=1, max=30, help="Minutes between frames.")] = 5,
    start: Annotated[datetime | None, typer.Option(help="Time of the first frame, UTC.")] = None,
    seed: Annotated[int, typer.Option(help="Another number, other weather.")] = 1,
) -> None:
    """Write a synthetic radar archive in ODIM_H5."""
    simulate_files(output, frames, step, start, seed)


def simulate_files(output: Path, frames: int, step: int, start: datetime | None, seed: int) -> None:
    """Write simulated frames as ODIM_H5 files."""
    from nowcast.disk import dates
    from nowcast.simulation import simulate_archive

    console = Console()
    first = (start or datetime(2026, 1, 1)).replace(tzinfo=UTC)
    with reporting(console) as report:
        written = simulate_archive(output, frames=frames, start=first, step_minutes=step, seed=seed)
        for done, _ in enumerate(written):
            report("simulating", done + 1, frames)
    console.print(f"{output}: {frames} frames from {dates.iso(first)}")
