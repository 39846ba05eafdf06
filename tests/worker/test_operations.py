"""What an operator meets: refusals in one line, one service a folder, an end in time, nothing silent."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import nowcast
from weather import DOMAIN, GRID, START, drop, raw_frames, settings

from nowcast.archive.archive import Archive
from nowcast.disk.data_folder import DataFolder
from nowcast.errors import BusError, ServiceFailed, SettingsError
from nowcast.frame.frame import normalise
from nowcast.readers.sandbox import SandboxedReader
from nowcast.telemetry import Telemetry, configure_logging
from worker import ingest as ingest_module
from worker import processes
from worker.broker import find_server
from worker.infer import CATCH_UP_TRIES, Infer
from worker.ingest import Ingest
from worker.lock import LOCK_FILE, sole_service
from worker.loop import END_SECONDS
from worker.processes import GRACE_SECONDS, Child
from worker.up import free_ports


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    path = tmp_path / "domains.toml"
    path.write_text("[domains.sim]\nstep_minutes = 5\n")
    return path


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def refused(*words: object, **environment: object) -> str:
    done = nowcast(*words, **environment)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    return done.err.strip().splitlines()[-1]


def test_a_port_in_use_ends_up_and_api_in_one_line(domains: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for part in ("up", "api"):
            line = refused(part, "--domains", domains, "--data", tmp_path / "data", "--port", port)
            assert line == f"nowcast: NOWCAST_PORT: expected a free port, {port} on 127.0.0.1 is in use"


def test_folders_that_cannot_be_used_are_named(domains: Path, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    (port,) = free_ports(1)
    common = ("--domains", domains, "--port", port)
    for part, folder, may, reason in (
        ("up", taken, "write to", "File exists"),
        ("api", taken, "read", "Not a directory"),
        ("api", tmp_path / "absent", "read", "No such file or directory"),
    ):
        line = refused(part, *common, "--data", folder)
        wanted = f"expected a folder this process may {may}, got {folder}: {reason}"
        assert line == f"nowcast: NOWCAST_DATA_DIR: {wanted}"
    line = refused("up", *common, "--data", tmp_path / "data", NOWCAST_WEIGHTS_DIR=str(taken))
    assert line == f"nowcast: NOWCAST_WEIGHTS_DIR: expected a folder, got the file {taken}"


def test_an_unknown_model_ends_a_worker_and_the_whole_service(domains: Path, tmp_path: Path) -> None:
    try:
        find_server()
    except BusError as error:
        pytest.skip(str(error))
    domains.write_text('[domains.sim]\nstep_minutes = 5\nmodel = "oracle"\n')
    (port,) = free_ports(1)
    line = "domains.sim.model: expected one of auto"
    environment = {
        "NOWCAST_DATA_DIR": str(tmp_path / "data"),
        "NOWCAST_DOMAINS_FILE": str(domains),
        "NOWCAST_REDIS_URL": "redis://127.0.0.1:1/0",
    }
    assert line in refused("worker", "infer", **environment)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "worker.cli",
            "up",
            "--domains",
            domains,
            "--data",
            tmp_path / "data",
            "--port",
            str(port),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert line in done.stderr
    assert "nowcast: infer cannot work with these settings" in done.stderr.strip().splitlines()[-1]


def test_a_worker_by_itself_is_told_that_it_needs_a_broker(domains: Path, tmp_path: Path) -> None:
    environment = {"NOWCAST_DATA_DIR": str(tmp_path / "data"), "NOWCAST_DOMAINS_FILE": str(domains)}
    for part in ("infer", "verify"):
        assert "NOWCAST_REDIS_URL: expected redis://" in refused("worker", part, **environment)
    assert "NOWCAST_REDIS_URL" in refused("worker", "infer", NOWCAST_REDIS_URL="http://here", **environment)


def test_a_child_that_keeps_dying_early_is_given_up_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RESTART_SECONDS", (0.0, 0.0))
    starts: list[int] = []

    def start() -> subprocess.Popen[bytes]:
        starts.append(1)
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
        process.wait()
        return process

    child = Child("broken", start, _wait=0.0)
    with pytest.raises(ServiceFailed, match=r"broken ended 8 times in a row .* last with exit code 7"):
        for _ in range(100):
            child.ensure()
    assert len(starts) == 8


def test_a_second_service_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text('{"pid": 1, "host": "gone", "since": "2020"}')  # left by a dead one
    with sole_service(tmp_path):
        said = rf"is held by process {os.getpid()} on {socket.gethostname()} since 20\d\d-\d\d-\d\dT.*Z$"
        with pytest.raises(SettingsError, match=said), sole_service(tmp_path):
            pass
    with sole_service(tmp_path):
        pass


#: A worker deep in a call that does not look at ``stop``.
BUSY = """
import threading, time
from worker.loop import stop_on_signals
stop_on_signals(threading.Event(), end_seconds={seconds})
print("ready", flush=True)
threading.Event().wait(600)
"""


@pytest.mark.parametrize(("seconds", "signals", "code"), [(0.3, 1, 0), (500, 2, 128 + signal.SIGTERM)])
def test_a_busy_process_ends_when_its_time_is_over_or_at_a_second_signal(
    seconds: float, signals: int, code: int
) -> None:
    program = BUSY.format(seconds=seconds)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(signals):
            process.terminate()
            time.sleep(0.2)
        assert process.wait(60) == code


def test_a_service_allows_its_parts_and_itself_five_seconds_to_end() -> None:
    assert END_SECONDS < GRACE_SECONDS < 5


def test_what_is_no_file_of_a_domain_is_said_once_and_never_followed(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, telemetry = settings(data_dir), Telemetry()
    frame = drop(raw_frames(1)[0], tmp_path, "outside.h5")
    with SandboxedReader() as reader:
        worker = Ingest(here, telemetry, reader=reader, clock=lambda: START + timedelta(hours=1))
        worker.prepare()
        (here.folder.inbox("sim") / "link.h5").symlink_to(frame)
        (here.folder.inbox("sim") / "folder").mkdir()
        here.folder.inbox("unknown").mkdir()
        here.folder.inbox("elsewhere").symlink_to(tmp_path)
        for _ in range(2):
            worker._next_look = 0.0
            assert worker.poll() == 0
    told = [record.getMessage() for record in caplog.records if "left alone" in record.getMessage()]
    assert sorted(line.split(" is ")[0] for line in told) == [
        "inbox/elsewhere",
        "inbox/sim/folder",
        "inbox/sim/link.h5",
        "inbox/unknown",
    ]
    counts = {
        kind: telemetry.registry.get_sample_value("nowcast_inbox_ignored", {"kind": kind})
        for kind in ingest_module.IGNORED
    }
    assert counts == {"symlink": 2, "folder": 1, "special": 0, "no_domain": 1}
    assert frame.exists()


def test_an_inbox_that_is_a_link_is_said_and_not_followed(data_dir: Path, tmp_path: Path) -> None:
    here, telemetry = settings(data_dir), Telemetry()
    outside = tmp_path / "outside"
    outside.mkdir()
    frame = drop(raw_frames(1)[0], outside)
    os.utime(frame, (0, 0))
    here.folder.inbox("sim").parent.mkdir(parents=True, exist_ok=True)
    here.folder.inbox("sim").symlink_to(outside)
    with SandboxedReader() as reader:
        worker = Ingest(here, telemetry, reader=reader, clock=lambda: START + timedelta(hours=1))
        worker.prepare()
        assert worker.poll() == 0
    assert telemetry.registry.get_sample_value("nowcast_inbox_ignored", {"kind": "symlink"}) == 1
    assert frame.exists()


def test_files_wait_in_the_inbox_while_the_disk_has_less_than_its_reserve(data_dir: Path) -> None:
    here, telemetry = settings(data_dir), Telemetry()
    old = data_dir / "forecasts/sim/2020/01/01/sim_20200101T000000Z_sprog.nc"
    now = datetime.now(UTC)
    young, latest = (
        data_dir / f"forecasts/sim/{time:%Y/%m/%d}/sim_{time:%Y%m%dT%H%M%SZ}_sprog.nc"
        for time in (now - timedelta(hours=1), now)  # the latest would be kept at any age
    )
    for path in (old, young, latest):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a forecast")
    with SandboxedReader() as reader:
        full = here.model_copy(update={"reserve_mb": 2**40})
        worker = Ingest(full, telemetry, reader=reader, clock=lambda: START + timedelta(hours=1))
        worker.prepare()
        path = drop(raw_frames(1)[0], here.folder.inbox("sim"))
        os.utime(path, (0, 0))
        assert worker.poll() == 0
        assert path.exists()
        assert (old.exists(), young.exists(), latest.exists()) == (False, True, True)
        assert telemetry.registry.get_sample_value("nowcast_ingest_paused") == 1
        worker._settings, worker._next_look = here, 0.0  # somebody made room
        assert worker.poll() == 1
    assert telemetry.registry.get_sample_value("nowcast_ingest_paused") == 0
    assert Archive(DataFolder(data_dir).archive).times("sim") == [START]


def test_a_forecast_that_keeps_failing_is_given_up_and_counted(data_dir: Path) -> None:
    here, telemetry = settings(data_dir), Telemetry()
    archive = Archive(DataFolder(data_dir).archive)
    archive.add("sim", normalise(raw_frames(1)[0], replace(DOMAIN, grid=GRID)))
    path = archive.path("sim", START)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:1000])
    infer = Infer(here, telemetry)
    for _ in range(CATCH_UP_TRIES):
        assert infer.catch_up()
    assert not infer.catch_up()
    labels = {"stage": "infer", "domain": "sim"}
    assert telemetry.registry.get_sample_value("nowcast_given_up_total", labels) == 1


@pytest.mark.usefixtures("root_logger")
def test_log_lines_are_json_with_the_ids_as_fields() -> None:
    stream = io.StringIO()
    configure_logging("info", "infer", stream, log_format="json")
    fields = {"domain": "fmi", "issue_time": "2026-01-01T12:00:00Z", "model": "sprog"}
    logging.getLogger("worker.infer").info("made %s", "it", extra=fields)
    logging.getLogger("uvicorn.error").warning("theirs")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    datetime.strptime(ours.pop("logged"), "%Y-%m-%dT%H:%M:%S.%fZ")
    common = {"level": "info", "process": "infer", "logger": "worker.infer", "message": "made it"}
    assert ours == common | fields
    assert (theirs["logger"], theirs["level"], theirs["message"]) == ("uvicorn.error", "warning", "theirs")


def test_the_space_on_the_disk_is_a_metric(tmp_path: Path) -> None:
    telemetry = Telemetry()
    telemetry.watch_disk(tmp_path)
    free, total = (
        telemetry.registry.get_sample_value(f"nowcast_disk_{name}_bytes") for name in ("free", "total")
    )
    assert total == shutil.disk_usage(tmp_path).total
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.5), "others write there too"
    assert free < total


def test_the_version_is_said() -> None:
    done = nowcast("--version")
    assert done.code == 0
    assert done.out.startswith("nowcast 0.")


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("command", ["forecast", "hindcast"])
def test_an_output_never_replaces_an_input(tmp_path: Path, link: Callable[..., None], command: str) -> None:
    path = drop(raw_frames(1)[0], tmp_path)
    content = path.read_bytes()
    link(path, tmp_path / "same.h5")
    for output in (path, tmp_path / "same.h5"):
        assert "expected another file to write than the input" in refused(command, path, "-o", output)
    assert path.read_bytes() == content


def test_the_help_of_a_worker_names_the_settings() -> None:
    told = nowcast("worker", "ingest", "--help")
    assert told.code == 0
    assert "NOWCAST_DATA_DIR=data" in told.out
    assert "NOWCAST_RESERVE_MB=1024  Free disk" in told.out
