"""``nowcast up``, ``api``, ``worker`` and ``demo``: the live service, whole or in parts."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from worker.cli.options import DataDir, DomainsFile, Host, Port

if TYPE_CHECKING:
    from nowcast.settings import Settings

#: Settings of the other parts, which no worker reads.
NOT_OF_WORKERS = ("host", "port", "worker_metrics", "cache_seconds", "cache_bytes")


class WorkerCommand(TyperCommand):
    """A command whose help names the settings, which are looked up only when help is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, then each setting with its default."""
        from nowcast.settings import Settings

        super().format_help(ctx, formatter)
        typer.echo("Settings, as environment variables:")
        for name, field in Settings.model_fields.items():
            if field.description and name not in (*NOT_OF_WORKERS, "domains"):
                typer.echo(f"  NOWCAST_{name.upper()}={field.default}  {field.description}")


app = typer.Typer(help="One worker of the service, for containers.", no_args_is_help=True)

#: Niceness of verification: it may wait, the next forecast may not.
VERIFY_NICENESS = 19


def demo(
    once: Annotated[bool, typer.Option("--once", help="A short fixed feed, a score table, the end.")] = False,
    port: Annotated[int, typer.Option(help="Port of the web page.")] = 8000,
) -> None:
    """Run the whole service on simulated radar, with nothing configured."""
    from worker.demo import run_demo

    raise typer.Exit(run_demo(once=once, port=port))


def up(
    domains: DomainsFile = None,
    data: DataDir = None,
    host: Host = None,
    port: Port = None,
) -> None:
    """Run the live service: broker, ingest, infer, verify and API."""
    from nowcast.settings import load_settings

    run_service(load_settings(domains_file=domains, data_dir=data, host=host, port=port))


def api(
    domains: DomainsFile = None,
    data: DataDir = None,
    host: Host = None,
    port: Port = None,
) -> None:
    """Serve the HTTP API alone."""
    from nowcast.settings import load_settings
    from worker.preflight import check_data_dir, check_port
    from worker.up import api_command

    settings = load_settings(domains_file=domains, data_dir=data, host=host, port=port)
    check_data_dir(settings, writes=False)
    check_port(settings.host, settings.port)
    os.environ["NOWCAST_DATA_DIR"] = str(settings.data_dir)
    os.environ["NOWCAST_DOMAINS_FILE"] = str(settings.domains_file)
    command = api_command(settings)
    os.execv(command[0], command)


@app.command(cls=WorkerCommand)
def ingest() -> None:
    """Turn files of the inboxes into archived frames."""
    from nowcast.settings import load_settings

    run_ingest(load_settings())


@app.command(cls=WorkerCommand)
def infer() -> None:
    """Turn archived frames into forecasts."""
    from nowcast.settings import load_settings

    run_infer(load_settings())


@app.command(cls=WorkerCommand)
def verify() -> None:
    """Score forecasts as their truth arrives."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the other core is for the next forecast
    from nowcast.settings import load_settings

    run_verify(load_settings())


def run_service(settings: Settings) -> None:
    """Run the whole service until it is told to stop."""
    from rich.console import Console

    from nowcast.telemetry import configure_logging
    from worker.loop import stop_on_signals
    from worker.up import Service

    configure_logging(settings.log_level, "up", log_format=settings.log_format)
    stop = threading.Event()
    service = Service(settings)
    stop_on_signals(stop, at_once=service.kill)
    Console(stderr=True).print(
        f"page and API: http://{settings.host}:{settings.port}/   "
        f"inboxes: {settings.folder.inboxes}/<domain>/"
    )
    service.run(stop)


def run_ingest(settings: Settings) -> None:
    """Run the ingest worker until it is told to stop."""
    from nowcast.telemetry import Telemetry
    from worker.bus import Bus, connect
    from worker.ingest import Ingest
    from worker.loop import run_until, serve

    telemetry = Telemetry()
    stop = serve("ingest", settings, telemetry)
    ingest = Ingest(settings, telemetry, Bus(connect(settings.redis_url)) if settings.redis_url else None)
    ingest.prepare()

    def step(stop: threading.Event) -> None:
        if not ingest.poll(stop):
            stop.wait(settings.poll_seconds)

    try:
        run_until(stop, step)
    finally:
        ingest.close()


def run_infer(settings: Settings) -> None:
    """Run the infer worker until it is told to stop."""
    from nowcast.telemetry import Telemetry
    from worker.bus import FRAMES, Bus, Consumer, connect
    from worker.infer import Infer, InferLoop
    from worker.loop import run_until, serve
    from worker.preflight import check_broker

    telemetry = Telemetry()
    stop = serve("infer", settings, telemetry)
    check_broker(settings)
    client = connect(settings.redis_url)
    infer = Infer(settings, telemetry, Bus(client))
    infer.prepare()
    loop = InferLoop(infer, Consumer(client, FRAMES, "infer", consumer_name()), telemetry)
    run_until(stop, loop, on_bus_error=loop.without_broker)


def run_verify(settings: Settings) -> None:
    """Run the verification worker until it is told to stop."""
    from nowcast.telemetry import Telemetry
    from worker.bus import FORECASTS, FRAMES, Consumer, connect
    from worker.loop import run_until, serve
    from worker.preflight import check_broker
    from worker.verify import Verify, VerifyLoop

    telemetry = Telemetry()
    stop = serve("verify", settings, telemetry)
    os.nice(VERIFY_NICENESS)
    check_broker(settings)
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
