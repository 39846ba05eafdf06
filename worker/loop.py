"""What every worker's process does: settings, log, metrics port, signals, and a loop that survives errors."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from prometheus_client import start_http_server

from nowcast.errors import BusError, NowcastError
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry, configure_logging
from worker.preflight import check_data_dir, check_port, check_weights

log = logging.getLogger(__name__)

#: Longest time [s] between the signal to end and the end, whatever the process is in the middle of.
END_SECONDS = 3.0

#: Wait [s] after an error before the loop goes on: the first, doubled at each error in a row up to the last.
BACK_OFF_SECONDS = (0.2, 10.0)


class Step(Protocol):
    """One turn of a worker's loop."""

    def __call__(self, stop: threading.Event) -> None:
        """Do what there is to do, or wait a moment; return soon after ``stop`` is set."""
        ...


def serve(name: str, settings: Settings, telemetry: Telemetry) -> threading.Event:
    """Set up a worker's process and return the event that SIGTERM and SIGINT set.

    Raises:
        SettingsError: If the settings cannot be worked with.
    """
    configure_logging(settings.log_level, name, log_format=settings.log_format)
    check_data_dir(settings, writes=True)
    check_weights(settings)
    telemetry.watch_disk(settings.data_dir)
    if settings.metrics_port:
        check_port(settings.metrics_host, settings.metrics_port, prefix="NOWCAST_METRICS_")
        start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=telemetry.registry)
    stop = threading.Event()
    # A worker may end in the middle of anything: what it was doing is done again by its successor.
    stop_on_signals(stop, end_seconds=END_SECONDS)
    return stop


def stop_on_signals(
    stop: threading.Event,
    *,
    end_seconds: float | None = None,
    at_once: Callable[[], None] = lambda: None,
) -> None:
    """Set ``stop`` on SIGTERM and SIGINT; end the process at a second one.

    A thread hears the signals, because the main one may be deep in a forecast or a read.

    Args:
        stop: What the first signal sets.
        end_seconds: After so long the process ends whatever it does; ``None`` lets it take its time.
        at_once: What a second signal does before the process ends.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)  # only wakes the thread below

    def listen() -> None:
        with told:  # kept open as long as signals may come
            heard.recv(1)
            stop.set()
            heard.settimeout(end_seconds)
            try:
                code = 128 + heard.recv(1)[0]
            except TimeoutError:
                code = 0
                log.warning("ended in the middle of its work, which its successor does again")
            else:
                at_once()
            os._exit(code)

    threading.Thread(target=listen, daemon=True, name="signals").start()


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
