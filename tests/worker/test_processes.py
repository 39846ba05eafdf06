"""Supervised processes: restarted when they die, gone when their parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from patience import wait_until
from prometheus_client import REGISTRY

from nowcast.errors import BusError, ServiceFailed, StorageError
from worker.loop import run_until
from worker.processes import RESTART_SECONDS, Child


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_killed_child_is_started_again() -> None:
    clock = Clock()
    child = Child("sleeper", sleeper, clock=clock)
    child.ensure()
    assert child.process is not None
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    child.process.wait()
    child.ensure()
    assert child.process is None  # its time has not come
    clock.seconds += RESTART_SECONDS[0]
    child.ensure()
    assert child.process is not None
    assert child.process.pid != first
    assert child.restarts == 1
    child.stop()
    assert child.process.poll() == -signal.SIGTERM


def waits_of(lives_seconds: list[float]) -> list[float]:
    """Return how long after each death a child was started again [s], if it lives as long as given."""
    clock, starts, waits = Clock(), [], []

    def start() -> subprocess.Popen[bytes]:
        starts.append(clock.seconds)
        process = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(1)"])
        process.wait()
        return process

    child = Child("broken", start, clock=clock)
    child.ensure()
    for seconds in lives_seconds:
        clock.seconds += seconds
        died, count = clock.seconds, len(starts)
        while len(starts) == count:
            child.ensure()
            clock.seconds += 0.05
        waits.append(starts[-1] - died)
        clock.seconds = starts[-1]
    return waits


def test_a_child_that_dies_at_once_is_not_started_in_a_hot_loop() -> None:
    assert waits_of([0.0] * 7) == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8], abs=0.1)


def test_a_child_that_keeps_dying_at_once_is_given_up() -> None:
    with pytest.raises(ServiceFailed, match="broken ended 8 times in a row within 20 s of its start"):
        waits_of([0.0] * 8)


def test_a_child_that_lived_for_a_while_is_started_again_at_once() -> None:
    assert waits_of([0.0, 0.0, 19.0, 21.0, 0.0]) == pytest.approx([0.2, 0.4, 0.8, 0.2, 0.4], abs=0.1)


def test_children_end_with_a_parent_that_is_killed() -> None:
    program = (
        "import subprocess, sys, time; from worker.processes import die_with_parent; "
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']; "
        "child = subprocess.Popen(sleep, preexec_fn=die_with_parent); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not os.path.exists(f"/proc/{orphan}/exe"))


@pytest.mark.parametrize("error", [StorageError("disk full"), RuntimeError("a defect"), BusError("away")])
def test_a_worker_loop_survives_errors_and_goes_on(error: Exception) -> None:
    stop, calls, without_broker = threading.Event(), [], []

    def step(stop: threading.Event) -> None:
        calls.append(True)
        if len(calls) == 1:
            raise error
        stop.set()

    run_until(stop, step, on_bus_error=lambda stop: without_broker.append(True))
    assert len(calls) == 2
    assert bool(without_broker) == isinstance(error, BusError)


def test_importing_the_workers_registers_nothing_globally() -> None:
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("nowcast_")]
