"""The ``nowcast`` command: each subcommand parses, calls :mod:`nowcast` or a worker, and prints."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from nowcast.disk.data_folder import DataFolder
from nowcast.errors import MissingExtra, NowcastError
from nowcast.names import NETWORKS
from nowcast.scores.table import event_scores

app = typer.Typer(
    help="Precipitation nowcasting: radar frames in, verified forecasts out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
worker_app = typer.Typer(help="One worker of the service, for containers.", no_args_is_help=True)
archive_app = typer.Typer(help="The radar archive.", no_args_is_help=True)
models_app = typer.Typer(help="Versions of the networks' weights.", no_args_is_help=True)
app.add_typer(worker_app, name="worker")
app.add_typer(archive_app, name="archive")
app.add_typer(models_app, name="models")

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
ModelName = Annotated[
    str, typer.Argument(help="Name of a network, as in a domain's model.", show_default=False)
]
Store = Annotated[
    Path | None, typer.Option("--store", help="Folder of the versions.", show_default="NOWCAST_WEIGHTS_DIR")
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
METHODS_HELP = f"auto, persistence, extrapolation, sprog, or a network: {NETWORKS_HELP}"
SCORES_HELP = ", ".join(score.name for score in event_scores())
UNTRAINED_HELP = (
    "Left out, those in NOWCAST_WEIGHTS_DIR, or those of the package, or random ones, and the result says so."
)


@app.command()
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
) -> None:
    """Forecast from radar files, the newest of which is the issue time."""
    from worker.cli.commands import forecast_files

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
) -> None:
    """Forecast from past issue times and score against what followed."""
    from worker.cli.commands import hindcast_files

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
        [name.strip() for name in score.split(",") if name.strip()],
    )


@app.command()
def train(
    model: ModelName,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the candidate.")],
    data: DataDir = None,
    minutes: Annotated[
        float | None, typer.Option(help="How long to train.", show_default="60, unless --steps says")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to train, in place of minutes.")] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Events to score on, separated by commas; none for none.",
            show_default="about a fifth of the rain",
        ),
    ] = None,
    step_minutes: Annotated[int, typer.Option(min=0, help="Only events with this step; 0 for all.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences a step and process.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches whose gradients are added up.")] = 1,
    crop: Annotated[int, typer.Option(min=16, help="Side of the squares trained on [cells].")] = 128,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Leads of five minutes learnt from.", show_default="all twelve")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another number, other weights.")] = 0,
    precision: Annotated[
        Literal["32-true", "bf16-mixed"], typer.Option(help="Of the arithmetic.")
    ] = "32-true",
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes where there is none.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read sequences.")] = 0,
    issue_times: Annotated[int, typer.Option(min=1, help="Most issue times scored of an event.")] = 24,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of prepared sequences.", show_default="sequences in the output"),
    ] = None,
) -> None:
    """Train a network on the archive; run again, it goes on where it was stopped."""
    _needs("train", "lightning", "torch", "safetensors", "matplotlib", "cv2")
    from worker.cli.training import train_network

    train_network(
        _data_dir(data),
        output,
        model=model,
        minutes=minutes,
        steps=steps,
        hold_out=hold_out,
        step_minutes=step_minutes,
        batch=batch,
        accumulate=accumulate,
        crop=crop,
        slots=slots,
        seed=seed,
        precision=precision,
        devices=devices,
        workers=workers,
        most_issues=issue_times,
        cache=cache,
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
    from worker.cli.commands import run_service

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
    from worker.cli.commands import run_ingest

    run_ingest(load_settings())


@worker_app.command()
def infer() -> None:
    """Turn archived frames into forecasts."""
    from nowcast.settings import load_settings
    from worker.cli.commands import run_infer

    run_infer(load_settings())


@worker_app.command()
def verify() -> None:
    """Score forecasts as their truth arrives."""
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the other core is for the next forecast
    from nowcast.settings import load_settings
    from worker.cli.commands import run_verify

    run_verify(load_settings())


@archive_app.command("add")
def archive_add(
    paths: Files,
    data: DataDir = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Domain to file the frames under.")] = None,
    domains: DomainsFile = None,
) -> None:
    """Archive the frames of radar files."""
    from worker.cli.commands import add_to_archive

    configured = _configured(domain, domains) if domains else None
    add_to_archive(paths, _data_dir(data), domain or "default", configured)


@archive_app.command("gather")
def archive_gather(
    folder: Annotated[
        Path, typer.Argument(help="Folder of folders of radar files.", exists=True, file_okay=False)
    ],
    data: DataDir = None,
) -> None:
    """Archive every folder of radar files under FOLDER, each as a domain named after it."""
    from worker.cli.commands import gather_into_archive

    gather_into_archive(folder, _data_dir(data))


@archive_app.command("ls")
def archive_ls(data: DataDir = None, domain: DomainName = None) -> None:
    """List what is archived, by domain and day."""
    from worker.cli.commands import list_archive

    list_archive(_data_dir(data), domain)


@archive_app.command("compact")
def archive_compact(
    domain: Annotated[str, typer.Argument(help="Domain.")],
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="Day, UTC.")],
    data: DataDir = None,
) -> None:
    """Merge one day's frames into one file."""
    from nowcast.archive.archive import Archive

    path = Archive(DataFolder(_data_dir(data)).archive).compact(domain, date(day.year, day.month, day.day))
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
    from nowcast.archive.archive import Archive

    first, last = (moment.replace(tzinfo=UTC) if moment else None for moment in (start, end))
    Archive(DataFolder(_data_dir(data)).archive).export(domain, target, first, last)
    typer.echo(str(target))


@models_app.command("ls")
def models_ls(store: Store = None) -> None:
    """List the versions of each network's weights, and which one is served."""
    from worker.cli.models import list_models

    list_models(_store(store))


@models_app.command("show")
def models_show(
    model: ModelName,
    version: Annotated[
        str | None, typer.Argument(help="A version as ls names it.", show_default="the current one")
    ] = None,
    store: Store = None,
) -> None:
    """Show what is known of a version: configuration, training data, scores, history."""
    from worker.cli.models import show_model

    show_model(_store(store), model, version)


@models_app.command("promote")
def models_promote(
    model: ModelName,
    candidate: Annotated[Path, typer.Argument(help="Folder that a training wrote.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Promote whatever the scores say; recorded.")
    ] = False,
    store: Store = None,
) -> None:
    """Make trained weights the current version, if they forecast better; exit code 1 if not."""
    from worker.cli.models import promote_candidate

    if not promote_candidate(_store(store), model, candidate, force=force):
        raise typer.Exit(1)


@models_app.command("rollback")
def models_rollback(model: ModelName, store: Store = None) -> None:
    """Go back to the version before the current one."""
    from worker.cli.models import roll_back

    roll_back(_store(store), model)


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write ODIM_H5 files into.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 48,
    step: Annotated[int, typer.Option(min=1, max=30, help="Minutes between frames.")] = 5,
    start: Annotated[datetime | None, typer.Option(help="Time of the first frame, UTC.")] = None,
    seed: Annotated[int, typer.Option(help="Another number, other weather.")] = 1,
) -> None:
    """Write a synthetic radar archive in ODIM_H5."""
    from worker.cli.commands import simulate_files

    simulate_files(output, frames, step, start, seed)


def _configured(domain: str | None, domains: Path | None):  # type: ignore[no-untyped-def]
    if domain is None:
        return None
    from nowcast.settings import load_settings

    return load_settings(domains_file=domains).domain(domain)


def _compute(weights: Path | None, memory_mb: int | None):  # type: ignore[no-untyped-def]
    """Return what networks may use: the weights a person names, else those there are, else none."""
    from dataclasses import replace

    from nowcast.settings import read_environment

    compute = read_environment(weights_dir=weights, network_memory_mb=memory_mb).compute()
    return replace(compute, shipped=weights is None, untrained=weights is None)


def _needs(extra: str, *packages: str) -> None:
    """Raise ``MissingExtra`` if a package of an extra is not installed."""
    from importlib.util import find_spec

    if missing := [package for package in packages if find_spec(package) is None]:
        raise MissingExtra(
            f"this needs {missing[0]}, which is not installed: pip install 'nowcast-service[{extra}]'"
        )


def _data_dir(data: Path | None) -> Path:
    import os

    return data or Path(os.environ.get("NOWCAST_DATA_DIR", "data"))


def _store(store: Path | None) -> Path:
    from nowcast.settings import read_environment

    return read_environment(weights_dir=store).weights_dir


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
