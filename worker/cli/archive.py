"""``nowcast archive``: frames put into the radar archive, listed, compacted and exported."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nowcast.disk.data_folder import DataFolder
from nowcast.errors import BadRequest, DuplicateFrame, NowcastError, WrongGrid
from worker.cli.options import (
    DataDir,
    DomainName,
    DomainsFile,
    Files,
    QuantityOption,
    StepOption,
    TimeFormatOption,
    UnitOption,
    VariableOption,
    configured,
    data_dir_of,
    declared_of,
)
from worker.cli.tables import table
from worker.cli.terminal import print_skipped, reporting

if TYPE_CHECKING:
    from nowcast.frame.declared import Declared
    from nowcast.frame.domain import Domain

app = typer.Typer(help="The radar archive.", no_args_is_help=True)


@app.command("add")
def add(
    paths: Files,
    data: DataDir = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Domain to file the frames under.")] = None,
    domains: DomainsFile = None,
    quantity: QuantityOption = "",
    unit: UnitOption = "",
    variable: VariableOption = "",
    step: StepOption = None,
    time_format: TimeFormatOption = "",
) -> None:
    """Archive the frames of radar files."""
    known = configured(domain, domains) if domains else None
    declared = declared_of(known, quantity, unit, variable, step, time_format)
    add_to_archive(paths, data_dir_of(data), domain or "default", known, declared)


@app.command("gather")
def gather(
    folder: Annotated[
        Path, typer.Argument(help="Folder of folders of radar files.", exists=True, file_okay=False)
    ],
    data: DataDir = None,
) -> None:
    """Archive every folder of radar files under FOLDER, each as a domain named after it."""
    gather_into_archive(folder, data_dir_of(data))


@app.command("ls")
def ls(data: DataDir = None, domain: DomainName = None) -> None:
    """List what is archived, by domain and day."""
    list_archive(data_dir_of(data), domain)


@app.command("compact")
def compact(
    domain: Annotated[str, typer.Argument(help="Domain.")],
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="Day, UTC.")],
    data: DataDir = None,
) -> None:
    """Merge one day's frames into one file."""
    from nowcast.archive.archive import Archive

    path = Archive(data_dir_of(data) / "archive").compact(domain, date(day.year, day.month, day.day))
    typer.echo(str(path) if path else f"nothing of {domain} on {day:%Y-%m-%d} to compact")


@app.command("export")
def export(
    domain: Annotated[str, typer.Argument(help="Domain.")],
    target: Annotated[Path, typer.Argument(help="Zarr store to create.")],
    start: Annotated[datetime | None, typer.Option(help="First time, UTC.")] = None,
    end: Annotated[datetime | None, typer.Option(help="Last time, UTC.")] = None,
    data: DataDir = None,
) -> None:
    """Write frames as one Zarr store, for training and notebooks."""
    from nowcast.archive.archive import Archive

    first, last = (moment.replace(tzinfo=UTC) if moment else None for moment in (start, end))
    Archive(data_dir_of(data) / "archive").export(domain, target, first, last)
    typer.echo(str(target))


def add_to_archive(
    paths: Sequence[Path],
    data_dir: Path,
    name: str,
    domain: Domain | None,
    declared: Declared | None = None,
) -> None:
    """Archive the frames of files and print how many were new, known or skipped."""
    from nowcast.archive.archive import Archive
    from nowcast.frame.frame import time_of
    from nowcast.readers.listing import FrameList, Skipped

    console = Console()
    with reporting(console) as report:
        frames = FrameList(paths, domain=domain, declared=declared, progress=report)
    archive = Archive(DataFolder(data_dir).archive)
    outcomes: Counter[str] = Counter()
    skipped = []
    with reporting(console) as report:
        for index in range(len(frames)):
            report("archiving", index + 1, len(frames))
            if (frame := frames.load(index)) is None:
                continue
            try:
                outcomes["new" if archive.add(name, frame) else "known"] += 1
            except (DuplicateFrame, WrongGrid) as error:
                skipped.append(Skipped(f"{time_of(frame):%Y-%m-%dT%H:%M:%SZ}", str(error)))
    print_skipped([*frames.skipped, *skipped], console)
    console.print(f"{name}: {outcomes['new']} new frames, {outcomes['known']} known")


def gather_into_archive(folder: Path, data_dir: Path) -> None:
    """Archive each folder with files at or below ``folder`` as one domain, named by its path from there.

    Raises:
        BadRequest: If there is no file at all.
    """
    console, is_empty = Console(), True
    for part in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())]):
        paths = sorted(path for path in part.iterdir() if path.is_file() and not path.name.startswith("."))
        if not paths:
            continue
        is_empty = False
        name = "-".join(part.relative_to(folder).parts) or folder.resolve().name
        try:
            add_to_archive(paths, data_dir, re.sub(r"[^A-Za-z0-9_-]", "_", name), None)
        except NowcastError as error:  # one folder of something else must not keep the others out
            console.print(f"{name}: left out, {error}")
    if is_empty:
        raise BadRequest(f"expected radar files in folders under {folder}, found none")


def list_archive(data_dir: Path, only: str | None) -> None:
    """Print domains and days with their number of frames."""
    from nowcast.archive.archive import Archive

    archive = Archive(DataFolder(data_dir).archive)
    rows = []
    for name in archive.domains():
        if only not in (None, name):
            continue
        times = archive.times(name)
        for day in sorted({time.date() for time in times}):
            of_day = [time for time in times if time.date() == day]
            rows.append((name, f"{day}", f"{len(of_day)}", f"{of_day[0]:%H:%M}", f"{of_day[-1]:%H:%M}"))
    headings = ("domain", "day", "frames", "from", "to")
    shown = table(headings, rows, numbers=headings[2:])
    typer.echo(shown if rows else f"no frame is archived under {archive.root}")
