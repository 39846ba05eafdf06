"""What the README tells a newcomer to type works, as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS

from nowcast.errors import BusError
from nowcast.frame.grid import Grid
from nowcast.simulation import Storm, simulate_archive
from nowcast.simulation.odim_writer import write_odim
from worker.broker import find_server
from worker.up import free_ports

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
MAKEFILE = (Path(__file__).resolve().parents[1] / "Makefile").read_text()

#: A grid that holds the point the README asks about.
HELSINKI = Grid.from_crs(
    "+proj=laea +lat_0=60.5 +lon_0=25", nx=120, ny=100, x0=-119e3, y0=99e3, dx=2e3, dy=2e3
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(start: str) -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith(start)]


def words_of(command: str, folder: Path) -> list[str]:
    words = [sys.executable, "-m", "worker.cli"]
    for word in shlex.split(command)[1:]:
        words += sorted(map(str, folder.glob(word))) if "*" in word else [word]
    return words


def test_the_two_commands_are_targets_of_make() -> None:
    for command in commands("make "):
        assert re.search(rf"^{command.split()[1]}:", MAKEFILE, re.MULTILINE), command


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).resolve().parents[1] / target).exists(), target


def test_the_commands_on_files_run(tmp_path: Path) -> None:
    list(simulate_archive(tmp_path / "radar", frames=18, grid=HELSINKI))
    for command in commands(".venv/bin/nowcast"):
        if " up " in command:
            continue
        subprocess.run(words_of(command, tmp_path), cwd=tmp_path, check=True)
    assert len(list((tmp_path / "maps").glob("*min.png"))) == 12
    assert json.loads((tmp_path / "scores.json").read_text())["files"] == 18


def test_the_live_service_answers_every_request_shown(tmp_path: Path) -> None:
    try:
        find_server()
    except BusError as error:
        pytest.skip(str(error))
    (toml,) = blocks("toml")
    (tmp_path / "nowcast.toml").write_text(toml)
    (up,) = (command for command in commands(".venv/bin/nowcast") if " up " in command)
    (port,) = free_ports(1)
    service = subprocess.Popen(
        [*words_of(up, tmp_path), "--port", str(port)],
        cwd=tmp_path,
        env={**os.environ, "NOWCAST_LOG_LEVEL": "error"},
    )
    try:
        inbox = tmp_path / "data/inbox/finland"
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        start = now - timedelta(minutes=now.minute % 5 + 40)
        for number, raw in enumerate(Storm(grid=HELSINKI, start=start).frames(8)):
            write_odim(inbox / f"{number}.h5", replace(raw))
        requests = [re.search(r"'(http[^']+)'", command) for command in commands("curl")]
        assert len(requests) == 4
        for request in requests:
            assert request is not None
            answered = wait_for(request[1].replace(":8000", f":{port}"))
            assert answered, request[1]
    finally:
        service.terminate()
        service.wait(60)


def wait_for(url: str, seconds: float = PATIENCE_SECONDS) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
