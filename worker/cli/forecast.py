"""``nowcast forecast``: radar files in, a forecast file and maps out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from worker.cli.options import (
    METHODS_HELP,
    UNTRAINED_HELP,
    DomainName,
    DomainsFile,
    Files,
    Memory,
    QuantityOption,
    StepOption,
    TimeFormatOption,
    UnitOption,
    VariableOption,
    check_output,
    compute_of,
    configured,
    declared_of,
)
from worker.cli.terminal import print_skipped, reporting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nowcast.compute import Compute
    from nowcast.forecast.record import ForecastRecord
    from nowcast.frame.declared import Declared
    from nowcast.frame.domain import Domain

#: Lead times shown beside the newest frame in the overview picture.
OVERVIEW_LEADS = 3


def forecast(
    paths: Files,
    output: Annotated[Path, typer.Option("-o", "--output", help="Forecast file to write (CF netCDF).")],
    model: Annotated[str, typer.Option(help=f"Method to forecast with: {METHODS_HELP}.")] = "auto",
    steps: Annotated[int, typer.Option(min=1, max=288, help="Number of lead times.")] = 12,
    png: Annotated[Path | None, typer.Option(help="Folder for one map per lead time.")] = None,
    theme: Annotated[Literal["light", "dark"], typer.Option(help="Colours of the maps.")] = "light",
    domain: DomainName = None,
    domains: DomainsFile = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help=f"Checkpoint of the network. {UNTRAINED_HELP}",
            show_default=False,
        ),
    ] = None,
    memory_mb: Memory = None,
    quantity: QuantityOption = "",
    unit: UnitOption = "",
    variable: VariableOption = "",
    step: StepOption = None,
    time_format: TimeFormatOption = "",
) -> None:
    """Forecast from radar files, the newest of which is the issue time."""
    check_output(output, paths)
    known, compute = configured(domain, domains), compute_of(weights, memory_mb)
    declared = declared_of(known, quantity, unit, variable, step, time_format)
    forecast_files(paths, output, model, steps, png, theme, known, compute, declared)


def forecast_files(
    paths: Sequence[Path],
    output: Path,
    model: str,
    steps: int,
    png: Path | None,
    theme: str,
    domain: Domain | None,
    compute: Compute,
    declared: Declared | None = None,
) -> None:
    """Write the forecast that follows the newest of the files' frames, and maps of it.

    Weights that a person named are used; that another method stands in for them is no answer here.
    """
    from dataclasses import replace

    from nowcast.compute import UNTRAINED
    from nowcast.disk import dates
    from nowcast.errors import NotEnoughFrames
    from nowcast.forecast.file import write_forecast
    from nowcast.methods.answer import issue, looking_back
    from nowcast.methods.cube import build_cube
    from nowcast.methods.registry import made
    from nowcast.readers.listing import FrameList

    if not compute.untrained:
        made(model, compute)
    console = Console()
    with reporting(console) as report:
        frames = FrameList(paths, domain=domain, declared=declared, progress=report)
    domain = looking_back(replace(frames.domain, leads=steps, model=model), compute)
    since = frames.times[-1] - timedelta(minutes=domain.step_minutes * domain.history)
    wanted = [index for index, time in enumerate(frames.times) if time >= since]
    loaded = [frame for frame in map(frames.load, wanted) if frame is not None]
    print_skipped(frames.skipped, console)
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
    from nowcast.disk import durable
    from nowcast.forecast.file import read_lead
    from nowcast.frame.units import ZR
    from nowcast.rendering import Panel, render_map, render_panels

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
