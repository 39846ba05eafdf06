"""``nowcast hindcast``: forecasts from past issue times, scored against what followed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from worker.cli.options import (
    METHODS_HELP,
    SCORES_HELP,
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
from worker.cli.tables import score_named, score_table
from worker.cli.terminal import print_skipped, reporting

if TYPE_CHECKING:
    from nowcast.compute import Compute
    from nowcast.frame.declared import Declared
    from nowcast.frame.domain import Domain


def hindcast(
    paths: Files,
    output: Annotated[Path, typer.Option("-o", "--output", help="Scores to write (JSON).")],
    models: Annotated[
        str, typer.Option(help=f"Methods, separated by commas: {METHODS_HELP}.")
    ] = "persistence,extrapolation",
    steps: Annotated[int, typer.Option(min=1, max=288, help="Number of lead times.")] = 12,
    every: Annotated[int, typer.Option(min=1, help="Frames between issue times.")] = 1,
    history: Annotated[int, typer.Option(min=1, max=24, help="Frames a forecast sees.")] = 5,
    thresholds: Annotated[str, typer.Option(help="Thresholds [dBZ], separated by commas.")] = "20,30,35,40",
    score: Annotated[str, typer.Option(help=f"Scores to print, separated by commas: {SCORES_HELP}.")] = "csi",
    domain: DomainName = None,
    domains: DomainsFile = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help=f"Folder of the networks' checkpoints, by name. {UNTRAINED_HELP}",
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
    """Forecast from past issue times and score against what followed."""
    check_output(output, paths)
    known = configured(domain, domains)
    hindcast_files(
        paths,
        output,
        _words(models),
        steps,
        every,
        history,
        _numbers(thresholds),
        known,
        compute_of(weights, memory_mb),
        _words(score),
        declared_of(known, quantity, unit, variable, step, time_format),
    )


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
    declared: Declared | None = None,
) -> None:
    """Write the scores of forecasts from past issue times, and print those named."""
    from nowcast.disk import durable
    from nowcast.hindcast import run
    from nowcast.readers.listing import Skipped

    for name in names:
        score_named(name)  # before the work, not after it
    console = Console()
    with reporting(console) as report:
        scores = run.hindcast(
            paths,
            models=models,
            steps=steps,
            every=every,
            history=history,
            thresholds_dbz=thresholds_dbz,
            domain=domain,
            compute=compute,
            declared=declared,
            progress=report,
        )
    durable.write_json(output, scores)
    print_skipped([Skipped(**left_out) for left_out in scores["skipped"]], console)
    typer.echo(score_table(scores["rows"], list(scores["models"]), names))
    for model, facts in scores["models"].items():
        console.print(f"{model}: {facts['seconds_per_forecast']:.2f} s a forecast")
        for reason, count in facts["degraded"].items():
            console.print(f"{model}: {count} of {facts['forecasts']} degraded: {reason}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, got {text!r}") from None
