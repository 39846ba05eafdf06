"""The ``nowcast`` command, put together: each topic has a file, and each subcommand imports what it needs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nowcast.errors import BusError, NowcastError, ServiceFailed, StorageError
from worker.cli import archive, models, service
from worker.cli.forecast import forecast
from worker.cli.hindcast import hindcast
from worker.cli.simulate import simulate
from worker.cli.training import train

#: Errors that another try may not meet: a supervisor starts the process again.
MAY_PASS = (BusError, StorageError, ServiceFailed)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"nowcast {version('nowcast-service')}")
        raise typer.Exit


app = typer.Typer(
    help="Precipitation nowcasting: radar frames in, verified forecasts out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (forecast, hindcast, train, service.demo, service.up, service.api, simulate):
    app.command()(command)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which this is.")
    ] = False,
) -> None:
    """Precipitation nowcasting: radar frames in, verified forecasts out."""


app.add_typer(service.app, name="worker")
app.add_typer(archive.app, name="archive")
app.add_typer(models.app, name="models")


def main() -> None:
    """Run the command line; an error of ours is one line on standard error.

    Exit code 2 says that it can never work as asked, 1 that the disk, the broker or a part failed.
    """
    try:
        app()
    except NowcastError as error:
        print(f"nowcast: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1 if isinstance(error, MAY_PASS) else 2) from None
