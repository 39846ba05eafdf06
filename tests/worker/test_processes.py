"""Supervised processes: restarted when they die, gone when their parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client import REGISTRY

from nowcast.errors import BusError, StorageError
from worker.loop import run_until
from worker.processes import Child


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def ensure_until_running(child: Child, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        child.ensure()
        if child.process is not None and child.process.poll() is None:
            return
        time.sleep(0.02)
    raise AssertionError("it did not start again")


def test_a_killed_child_is_started_again() -> None:
    child = Child("sleeper", sleeper)
    child.ensure()
    assert child.process is not None
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    child.process.wait()
    ensure_until_running(child)
    assert child.process is not None
    assert child.process.pid != first
    assert child.restarts == 1
    child.stop()
    assert child.process.poll() == -signal.SIGTERM


def test_a_child_that_dies_at_once_is_not_started_in_a_hot_loop() -> None:
    starts: list[float] = []

    def start() -> subprocess.Popen[bytes]:
        starts.append(time.monotonic())
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    child = Child("broken", start)
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        child.ensure()
        time.sleep(0.01)
    assert 2 <= len(starts) <= 4  # after 0.2, 0.4, 0.8 s and the time it takes to die


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
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and os.path.exists(f"/proc/{orphan}/exe"):
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{orphan}/exe")


@pytest.mark.parametrize("error", [StorageError("disk full"), RuntimeError("a defect"), BusError("away")])
def test_a_worker_loop_survives_errors_and_goes_on(error: Exception) -> None:
    stop, calls, without_broker = threading.Event(), [], []

    def step(stop: threading.Event) -> None:
        calls.append(time.monotonic())
        if len(calls) == 1:
            raise error
        stop.set()

    run_until(stop, step, on_bus_error=lambda stop: without_broker.append(True))
    assert len(calls) == 2
    assert bool(without_broker) == isinstance(error, BusError)


def test_importing_the_workers_registers_nothing_globally() -> None:
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("nowcast_")]
