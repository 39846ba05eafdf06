"""What every worker's process does: settings, log, metrics port, signals, and a loop that survives errors."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Protocol

from prometheus_client import start_http_server

from nowcast.errors import BusError, NowcastError
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry, configure_logging

log = logging.getLogger(__name__)

#: Wait [s] after an error before the loop goes on: the first, doubled at each error in a row up to the last.
BACK_OFF_SECONDS = (0.2, 10.0)


class Step(Protocol):
    """One turn of a worker's loop."""

    def __call__(self, stop: threading.Event) -> None:
        """Do what there is to do, or wait a moment; return soon after ``stop`` is set."""
        ...


def serve(name: str, settings: Settings, telemetry: Telemetry) -> threading.Event:
    """Set up a worker's process and return the event that SIGTERM and SIGINT set."""
    configure_logging(settings.log_level, name)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=telemetry.registry)
    stop = threading.Event()

    stop_on_signals(stop)
    return stop


def stop_on_signals(stop: threading.Event) -> None:
    """Set ``stop`` on SIGTERM and SIGINT."""

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)


def run_until(stop: threading.Event, step: Step, *, on_bus_error: Step | None = None) -> None:
    """Repeat ``step`` until ``stop``: an error is logged, waited out and tried again, never the end.

    Args:
        stop: Ends the loop.
        step: The work.
        on_bus_error: What to do without the broker, such as catching up from the archive.
    """
    wait = BACK_OFF_SECONDS[0]
    while not stop.is_set():
        try:
            step(stop)
        except BusError as error:
            log.warning("%s", error)
            if on_bus_error is not None:
                _survive(on_bus_error, stop)
        except NowcastError as error:
            log.error("%s", error)
        except Exception:
            log.exception("unexpected error")
        else:
            wait = BACK_OFF_SECONDS[0]
            continue
        stop.wait(wait)
        wait = min(2 * wait, BACK_OFF_SECONDS[1])


def _survive(work: Step, stop: threading.Event) -> None:
    try:
        work(stop)
    except Exception:
        log.exception("unexpected error without the broker")
