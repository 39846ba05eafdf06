"""What the subcommands do besides parsing: progress and results on the terminal, work in :mod:`nowcast`."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from nowcast.archive.archive import Archive
from nowcast.compute import UNTRAINED, Compute
from nowcast.disk import dates, durable
from nowcast.disk.data_folder import DataFolder
from nowcast.errors import BadRequest, DuplicateFrame, NotEnoughFrames, NowcastError, WrongGrid
from nowcast.forecast.file import read_lead, write_forecast
from nowcast.forecast.record import ForecastRecord
from nowcast.frame.domain import Domain
from nowcast.frame.frame import time_of
from nowcast.frame.units import ZR
from nowcast.hindcast.run import hindcast
from nowcast.methods.answer import issue, looking_back
from nowcast.methods.cube import build_cube
from nowcast.methods.registry import made
from nowcast.readers.listing import FrameList, Skipped
from nowcast.readers.listing import Progress as Report
from nowcast.rendering import Panel, render_map, render_panels
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry
from worker.cli.tables import score_named, score_table, table

#: Niceness of verification: it may wait, the next forecast may not.
VERIFY_NICENESS = 19

#: Lead times shown beside the newest frame in the overview picture.
OVERVIEW_LEADS = 3


def forecast_files(
    paths: Sequence[Path],
    output: Path,
    model: str,
    steps: int,
    png: Path | None,
    theme: str,
    domain: Domain | None,
    compute: Compute,
) -> None:
    """Write the forecast that follows the newest of the files' frames, and maps of it.

    Weights that a person named are used; that another method stands in for them is no answer here.
    """
    if not compute.untrained:
        made(model, compute)
    console = Console()
    with reporting(console) as report:
        frames = FrameList(paths, domain=domain, progress=report)
    domain = looking_back(replace(frames.domain, leads=steps, model=model), compute)
    since = frames.times[-1] - timedelta(minutes=domain.step_minutes * domain.history)
    wanted = [index for index, time in enumerate(frames.times) if time >= since]
    loaded = [frame for frame in map(frames.load, wanted) if frame is not None]
    _tell_skipped(frames.skipped, console)
    if not loaded:
        raise NotEnoughFrames(f"none of the newest frames can be used; first: {frames.skipped[0].reason}")
    cube = build_cube(loaded, step_minutes=domain.step_minutes, history=domain.history)
    record, prediction = issue(cube, domain, compute)
    write_forecast(output, record, prediction)
    console.print(
        f"{output}: {steps} leads of {domain.step_minutes} min after {dates.iso(record.issue_time)}, "
        f"{record.model}" + (f"; degraded: {record.degraded_reason}" if record.degraded_reason else "")
    )
    if record.choice_reason:
        console.print(record.choice_reason, highlight=False)
    if png is not None:
        title = f"{domain.title or record.credit or record.domain}: forecast by {record.model}"
        if record.model_version == UNTRAINED:
            title += " with untrained weights"
        _write_maps(output, record, cube.newest, title, png, theme)
        console.print(f"{png}: {record.leads} maps and an overview")


def _write_maps(
    path: Path,
    record: ForecastRecord,
    newest: NDArray[np.float32],
    title: str,
    folder: Path,
    theme: str,
) -> None:
    durable.make_folder(folder)
    for index in range(record.leads):
        minutes = (index + 1) * record.step_minutes
        valid = record.issue_time + timedelta(minutes=minutes)
        image = render_map(
            read_lead(path, index),
            record.grid,
            title=title,
            subtitle=f"valid {valid:%Y-%m-%d %H:%M} UTC, {minutes} min after {record.issue_time:%H:%M}",
            credit=record.credit,
            theme=theme,
            zr=ZR(*record.zr),
        )
        durable.write_bytes(folder / f"{record.issue_time:%Y%m%dT%H%MZ}_{minutes:03}min.png", image)
    panels = [Panel(newest, f"{record.issue_time:%H:%M}, observed")]
    for index in _spread(record.leads, OVERVIEW_LEADS):
        minutes = (index + 1) * record.step_minutes
        valid = record.issue_time + timedelta(minutes=minutes)
        panels.append(Panel(read_lead(path, index), f"{valid:%H:%M}, +{minutes} min"))
    overview = render_panels(
        panels,
        record.grid,
        title=title,
        subtitle=f"issued {record.issue_time:%Y-%m-%d %H:%M} UTC",
        credit=record.credit,
        theme=theme,
        width_px=1600,
        zr=ZR(*record.zr),
    )
    durable.write_bytes(folder / f"{record.issue_time:%Y%m%dT%H%MZ}_overview.png", overview)


def _spread(leads: int, count: int) -> list[int]:
    """Return the indices of ``count`` leads, the last and each about half as far as the next."""
    wanted = {max(round(leads / 2**halving) - 1, 0) for halving in range(count)}
    return sorted(wanted)


def hindcast_files(
    paths: Sequence[Path],
    output: Path,
    models: Sequence[str],
    steps: int,
    every: int,
    history: int,
    thresholds_dbz: Sequence[float],
    domain: Domain | None,
    compute: Compute,
    names: Sequence[str] = ("csi",),
) -> None:
    """Write the scores of forecasts from past issue times, and print those named."""
    for name in names:
        score_named(name)  # before the work, not after it
    console = Console()
    with reporting(console) as report:
        scores = hindcast(
            paths,
            models=models,
            steps=steps,
            every=every,
            history=history,
            thresholds_dbz=thresholds_dbz,
            domain=domain,
            compute=compute,
            progress=report,
        )
    durable.write_json(output, scores)
    _tell_skipped([Skipped(**one) for one in scores["skipped"]], console)
    typer.echo(score_table(scores["rows"], list(scores["models"]), names))
    for model, facts in scores["models"].items():
        console.print(f"{model}: {facts['seconds_per_forecast']:.2f} s a forecast")
        for reason, count in facts["degraded"].items():
            console.print(f"{model}: {count} of {facts['forecasts']} degraded: {reason}")


def add_to_archive(paths: Sequence[Path], data_dir: Path, name: str, domain: Domain | None) -> None:
    """Archive the frames of files and print how many were new, known or skipped."""
    console = Console()
    with reporting(console) as report:
        frames = FrameList(paths, domain=domain, progress=report)
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
    _tell_skipped([*frames.skipped, *skipped], console)
    console.print(f"{name}: {outcomes['new']} new frames, {outcomes['known']} known")


def gather_into_archive(folder: Path, data_dir: Path) -> None:
    """Archive each folder with files at or below ``folder`` as one domain, named by its path from there.

    Raises:
        BadRequest: If there is no file at all.
    """
    console, found = Console(), False
    for part in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())]):
        paths = sorted(path for path in part.iterdir() if path.is_file() and not path.name.startswith("."))
        if not paths:
            continue
        found = True
        name = "-".join(part.relative_to(folder).parts) or folder.resolve().name
        try:
            add_to_archive(paths, data_dir, re.sub(r"[^A-Za-z0-9_-]", "_", name), None)
        except NowcastError as error:  # one folder of something else must not keep the others out
            console.print(f"{name}: left out, {error}")
    if not found:
        raise BadRequest(f"expected radar files in folders under {folder}, found none")


def list_archive(data_dir: Path, only: str | None) -> None:
    """Print domains and days with their number of frames."""
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


def simulate_files(output: Path, frames: int, step: int, start: datetime | None, seed: int) -> None:
    """Write simulated frames as ODIM_H5 files."""
    from nowcast.simulation import simulate_archive

    console = Console()
    first = (start or datetime(2026, 1, 1)).replace(tzinfo=UTC)
    with reporting(console) as report:
        written = simulate_archive(output, frames=frames, start=first, step_minutes=step, seed=seed)
        for done, _ in enumerate(written):
            report("simulating", done + 1, frames)
    console.print(f"{output}: {frames} frames from {dates.iso(first)}")


def run_service(settings: Settings) -> None:
    """Run the whole service until it is told to stop."""
    from nowcast.telemetry import configure_logging
    from worker.loop import stop_on_signals
    from worker.up import Service

    configure_logging(settings.log_level, "up")
    stop = threading.Event()
    stop_on_signals(stop)
    service = Service(settings)
    Console(stderr=True).print(
        f"page and API: http://{settings.host}:{settings.port}/   "
        f"inboxes: {settings.folder.inboxes}/<domain>/"
    )
    service.run(stop)


def run_ingest(settings: Settings) -> None:
    """Run the ingest worker until it is told to stop."""
    from worker.bus import Bus, connect
    from worker.ingest import Ingest
    from worker.loop import run_until, serve

    telemetry = Telemetry()
    stop = serve("ingest", settings, telemetry)
    ingest = Ingest(settings, telemetry, Bus(connect(settings.redis_url)) if settings.redis_url else None)
    ingest.prepare()

    def step(stop: threading.Event) -> None:
        if not ingest.poll():
            stop.wait(settings.poll_seconds)

    try:
        run_until(stop, step)
    finally:
        ingest.close()


def run_infer(settings: Settings) -> None:
    """Run the infer worker until it is told to stop."""
    from worker.bus import FRAMES, Bus, Consumer, connect
    from worker.infer import Infer, InferLoop
    from worker.loop import run_until, serve

    telemetry = Telemetry()
    stop = serve("infer", settings, telemetry)
    client = connect(settings.redis_url)
    infer = Infer(settings, telemetry, Bus(client))
    infer.prepare()
    loop = InferLoop(infer, Consumer(client, FRAMES, "infer", consumer_name()), telemetry)
    run_until(stop, loop, on_bus_error=loop.without_broker)


def run_verify(settings: Settings) -> None:
    """Run the verification worker until it is told to stop."""
    from worker.bus import FORECASTS, FRAMES, Consumer, connect
    from worker.loop import run_until, serve
    from worker.verify import Verify, VerifyLoop

    telemetry = Telemetry()
    stop = serve("verify", settings, telemetry)
    os.nice(VERIFY_NICENESS)
    client = connect(settings.redis_url)
    verify = Verify(settings, telemetry)
    verify.prepare()
    frames, forecasts = (
        Consumer(client, stream, "verify", consumer_name()) for stream in (FRAMES, FORECASTS)
    )
    loop = VerifyLoop(verify, settings, frames, forecasts, telemetry)
    run_until(stop, loop, on_bus_error=loop.without_broker)


def consumer_name() -> str:
    """Return a name for this process that no other has in its consumer group."""
    return f"{socket.gethostname()}-{os.getpid()}"


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


def _tell_skipped(skipped: Sequence[Skipped], console: Console, *, most: int = 10) -> None:
    for one in skipped[:most]:
        console.print(f"[yellow]skipped[/] {one.file}: {one.reason}", highlight=False)
    if len(skipped) > most:
        console.print(f"[yellow]skipped[/] {len(skipped) - most} more", highlight=False)
