"""The ``nowcast`` command: each subcommand parses, calls :mod:`nowcast` or a worker, and prints."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from nowcast.errors import NowcastError
from nowcast.presets import NETWORKS

app = typer.Typer(
    help="Precipitation nowcasting: radar frames in, verified forecasts out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
worker_app = typer.Typer(help="One worker of the service, for containers.", no_args_is_help=True)
archive_app = typer.Typer(help="The radar archive.", no_args_is_help=True)
app.add_typer(worker_app, name="worker")
app.add_typer(archive_app, name="archive")

Files = Annotated[list[Path], typer.Argument(help="Radar files in any known format.", show_default=False)]
DomainsFile = Annotated[
    Path | None, typer.Option("--domains", help="TOML file of domains.", show_default="NOWCAST_DOMAINS_FILE")
]
DataDir = Annotated[
    Path | None, typer.Option("--data", help="Data directory.", show_default="NOWCAST_DATA_DIR or ./data")
]
DomainName = Annotated[
    str | None, typer.Option("--domain", help="A configured domain; left out, the files tell grid and step.")
]
Memory = Annotated[
    int | None,
    typer.Option(
        "--memory-mb",
        min=64,
        help="Memory [MiB] a network may take.",
        show_default="NOWCAST_NETWORK_MEMORY_MB",
    ),
]

#: What a person may forecast with, and what becomes of a network without weights.
NETWORKS_HELP = ", ".join(name for name in NETWORKS if not name.endswith("_cpu"))
METHODS_HELP = f"persistence, extrapolation, or a network: {NETWORKS_HELP}"
UNTRAINED_HELP = "Left out, those in NOWCAST_WEIGHTS_DIR, or random ones, and the result says so."


@app.command()
def forecast(
    paths: Files,
    output: Annotated[Path, typer.Option("-o", "--output", help="Forecast file to write (CF netCDF).")],
    model: Annotated[str, typer.Option(help=f"Method to forecast with: {METHODS_HELP}.")] = "extrapolation",
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
) -> None:
    """Forecast from radar files, the newest of which is the issue time."""
    from worker.commands import forecast_files

    compute = _compute(weights, memory_mb)
    forecast_files(paths, output, model, steps, png, theme, _configured(domain, domains), compute)


@app.command()
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
) -> None:
    """Forecast from past issue times and score against what followed."""
    from worker.commands import hindcast_files

    names = [name.strip() for name in models.split(",") if name.strip()]
    hindcast_files(
        paths,
        output,
        names,
        steps,
        every,
        history,
        _numbers(thresholds),
        _configured(domain, domains),
        _compute(weights, memory_mb),
    )


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="A short fixed feed, a score table, the end.")] = False,
    port: Annotated[int, typer.Option(help="Port of the web page.")] = 8000,
) -> None:
    """Run the whole service on simulated radar, with nothing configured."""
    from worker.demo import run_demo

    raise typer.Exit(run_demo(once=once, port=port))


@app.command()
def up(
    domains: DomainsFile = None,
    data: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run the live service: broker, ingest, infer, verify and API."""
    from nowcast.settings import load_settings
    from worker.commands import run_service

    run_service(load_settings(domains_file=domains, data_dir=data, host=host, port=port))


@app.command()
def api(
    domains: DomainsFile = None,
    data: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Serve the HTTP API alone."""
    import os

    from nowcast.settings import load_settings
    from worker.up import api_command

    settings = load_settings(domains_file=domains, data_dir=data, host=host, port=port)
    os.environ["NOWCAST_DATA_DIR"] = str(settings.data_dir)
    os.environ["NOWCAST_DOMAINS_FILE"] = str(settings.domains_file)
    command = api_command(settings)
    os.execv(command[0], command)


@worker_app.command()
def ingest() -> None:
    """Turn files of the inboxes into archived frames."""
    from nowcast.settings import load_settings
    from worker.commands import run_ingest

    run_ingest(load_settings())


@worker_app.command()
def infer() -> None:
    """Turn archived frames into forecasts."""
    from nowcast.settings import load_settings
    from worker.commands import run_infer

    run_infer(load_settings())


@worker_app.command()
def verify() -> None:
    """Score forecasts as their truth arrives."""
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the other core is for the next forecast
    from nowcast.settings import load_settings
    from worker.commands import run_verify

    run_verify(load_settings())


@archive_app.command("add")
def archive_add(
    paths: Files,
    data: DataDir = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Domain to file the frames under.")] = None,
    domains: DomainsFile = None,
) -> None:
    """Archive the frames of radar files."""
    from worker.commands import add_to_archive

    configured = _configured(domain, domains) if domains else None
    add_to_archive(paths, _data_dir(data), domain or "default", configured)


@archive_app.command("ls")
def archive_ls(data: DataDir = None, domain: DomainName = None) -> None:
    """List what is archived, by domain and day."""
    from worker.commands import list_archive

    list_archive(_data_dir(data), domain)


@archive_app.command("compact")
def archive_compact(
    domain: Annotated[str, typer.Argument(help="Domain.")],
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="Day, UTC.")],
    data: DataDir = None,
) -> None:
    """Merge one day's frames into one file."""
    from nowcast.archive import Archive

    path = Archive(_data_dir(data) / "archive").compact(domain, date(day.year, day.month, day.day))
    typer.echo(str(path) if path else f"nothing of {domain} on {day:%Y-%m-%d} to compact")


@archive_app.command("export")
def archive_export(
    domain: Annotated[str, typer.Argument(help="Domain.")],
    target: Annotated[Path, typer.Argument(help="Zarr store to create.")],
    start: Annotated[datetime | None, typer.Option(help="First time, UTC.")] = None,
    end: Annotated[datetime | None, typer.Option(help="Last time, UTC.")] = None,
    data: DataDir = None,
) -> None:
    """Write frames as one Zarr store, for training and notebooks."""
    from nowcast.archive import Archive

    first, last = (moment.replace(tzinfo=UTC) if moment else None for moment in (start, end))
    Archive(_data_dir(data) / "archive").export(domain, target, first, last)
    typer.echo(str(target))


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write ODIM_H5 files into.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 48,
    step: Annotated[int, typer.Option(min=1, max=30, help="Minutes between frames.")] = 5,
    start: Annotated[datetime | None, typer.Option(help="Time of the first frame, UTC.")] = None,
    seed: Annotated[int, typer.Option(help="Another number, other weather.")] = 1,
) -> None:
    """Write a synthetic radar archive in ODIM_H5."""
    from worker.commands import simulate_files

    simulate_files(output, frames, step, start, seed)


def _configured(domain: str | None, domains: Path | None):  # type: ignore[no-untyped-def]
    if domain is None:
        return None
    from nowcast.settings import load_settings

    return load_settings(domains_file=domains).domain(domain)


def _compute(weights: Path | None, memory_mb: int | None):  # type: ignore[no-untyped-def]
    """Return what networks may use; where a person names no weights, they may go without."""
    from dataclasses import replace

    from nowcast.settings import read_environment

    compute = read_environment(weights_dir=weights, network_memory_mb=memory_mb).compute()
    return replace(compute, untrained=weights is None)


def _data_dir(data: Path | None) -> Path:
    import os

    return data or Path(os.environ.get("NOWCAST_DATA_DIR", "data"))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, got {text!r}") from None


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit code 2."""
    try:
        app()
    except NowcastError as error:
        print(f"nowcast: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
