"""SIGTERM ends the whole service, and no process of it is left."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nowcast.errors import BusError
from worker.broker import find_server
from worker.up import free_ports

#: Processes of a running service: broker, three workers, the API; the reading process is a sixth.
PARTS = 5


def test_sigterm_ends_every_process_of_the_service(tmp_path: Path) -> None:
    try:
        find_server()
    except BusError as error:
        pytest.skip(str(error))
    toml = tmp_path / "domains.toml"
    toml.write_text("[domains.sim]\nstep_minutes = 5\n")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "worker.cli", "up", "--domains", str(toml), "--port", str(port)]
    service = subprocess.Popen(
        [*command, "--data", str(tmp_path / "data")], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while len(psutil.Process(service.pid).children(recursive=True)) <= PARTS:
            assert time.monotonic() < deadline and service.poll() is None, "the service did not start"
            time.sleep(0.1)
        family = psutil.Process(service.pid).children(recursive=True)
        again = subprocess.run([*command, "--data", str(tmp_path / "data")], capture_output=True, text=True)
        assert again.returncode == 2
        assert f"is held by process {service.pid} on" in again.stderr
        service.terminate()
        _, told = service.communicate(timeout=60)
        assert service.returncode == 0, told
        _, left = psutil.wait_procs(family, timeout=60)
        assert left == []
    finally:
        service.kill()
        service.communicate()
