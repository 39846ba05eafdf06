"""The Makefile, the making of an environment, the CI script: what they do, with nothing really installed."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FAKE_TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
exit {code}
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Workshop:
    """A copy of the Makefile with an environment in which every tool only notes that it was called."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        (folder / "deploy").mkdir()
        (folder / ".ci").mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt", "deploy/make_venv.py", ".ci/run"):
            shutil.copy(project / name, folder / name)
        for tool in ("python", "nowcast", "ruff", "mypy", "lint-imports"):
            self.fake(folder / ".venv" / "bin" / tool)
        (folder / ".venv" / ".created").touch()

    def fake(self, path: Path, code: int = 0) -> None:
        script(path, FAKE_TOOL.format(log=self.log, code=code))

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("make", "--no-print-directory", *arguments)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        environment = clean | {"PATH": f"{self.folder}/tools:{clean['PATH']}"}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def calls(self) -> list[str]:
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return calls


@pytest.fixture
def workshop(tmp_path: Path, project: Path) -> Workshop:
    return Workshop(tmp_path, project)


def installs(calls: list[str]) -> list[str]:
    return [call.split()[-1] for call in calls if " pip " in call]


def test_help_lists_what_a_person_may_ask_for(workshop: Workshop) -> None:
    lines = workshop.make().stdout.splitlines()
    offered = [line.split()[1] for line in lines if line.startswith("  make ")]
    campaign = [f"campaign{what}" for what in ("", "-status", "-pause", "-continue", "-stop", "-renew")]
    assert offered == ["help", "demo", "test", "check", "bench", "skill", *campaign, "clean"]


def test_demo_installs_once_and_hands_its_options_on(workshop: Workshop) -> None:
    assert workshop.make("demo", "ONCE=1", "PORT=9000").returncode == 0
    install, run = workshop.calls()
    assert install.endswith("install --constraint constraints.txt --editable .[all]")
    assert run == "nowcast demo --once --port 9000"
    assert workshop.make("demo").returncode == 0
    assert workshop.calls() == ["nowcast demo"]


def test_changed_requirements_are_installed_anew(workshop: Workshop) -> None:
    workshop.make("demo")
    workshop.calls()
    future = (workshop.folder / ".venv" / ".installed").stat().st_mtime + 5
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(workshop.folder / name, (future, future))
        future += 5
        workshop.make("demo")
        assert installs(workshop.calls()) == [".[all]"]


def test_tests_go_on_without_the_packages_that_need_a_compiler(workshop: Workshop) -> None:
    refusing = FAKE_TOOL.format(log=workshop.log, code=0).replace(
        "exit 0", 'case "$*" in *oracles*) exit 1;; esac'
    )
    script(workshop.folder / ".venv" / "bin" / "python", refusing)
    done = workshop.make("test", "ARGS=-k name")
    assert done.returncode == 0
    assert "will be skipped" in done.stdout
    calls = workshop.calls()
    assert installs(calls) == [".[test]", ".[oracles]"]
    assert calls[-1] == "python -m pytest -k name"


def test_all_tests_run_with_coverage_and_a_part_without(workshop: Workshop) -> None:
    workshop.make("test")
    each_core = "-n logical --dist loadfile --no-loadscope-reorder"
    assert workshop.calls()[-1] == f"python -m pytest {each_core} --cov --cov-report=term:skip-covered"
    workshop.make("test", "ARGS=tests/api -x")
    assert workshop.calls()[-1] == "python -m pytest tests/api -x"


def test_check_runs_every_checker_and_fails_with_any_of_them(workshop: Workshop) -> None:
    assert workshop.make("check").returncode == 0
    tools = [call for call in workshop.calls() if " pip " not in call]
    assert tools == ["ruff check .", "ruff format --check .", "mypy ", "lint-imports "]
    workshop.fake(workshop.folder / ".venv" / "bin" / "lint-imports", code=1)
    assert workshop.make("check").returncode != 0


def test_a_python_that_is_too_old_or_absent_is_named_in_one_sentence(workshop: Workshop) -> None:
    (workshop.folder / ".venv" / ".created").unlink()
    old = workshop.folder / "python3.10"
    refuse = f'exec {sys.executable} -c "import sys; sys.version_info = (3, 10, 9); $2"'
    script(old, f'#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.9 && exit\n{refuse}\n')
    done = workshop.make("demo", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"{old} is Python 3.10.9, but Python 3.11 or newer is needed" in done.stderr
    done = workshop.make("demo", "PYTHON=python-of-nowhere")
    assert done.returncode != 0
    assert "There is no python-of-nowhere here" in done.stderr
    assert workshop.calls() == []


@pytest.mark.parametrize(("check", "test"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_ci_checks_then_tests_and_fails_with_either(workshop: Workshop, check: int, test: int) -> None:
    tools = workshop.folder / "tools"
    script(
        tools / "make",
        f'#!/bin/sh\necho "made $1"\n[ $1 = check ] && exit {check}\necho "1 passed in 0.01s"\nexit {test}\n',
    )
    for present in ("chromium", "promtool"):
        script(tools / present, "#!/bin/sh\n")
    done = workshop.run("bash", ".ci/run")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("made")] == ["made check", "made test"]
    assert lines[-1] == "1 passed in 0.01s"
    assert done.returncode == max(check, test)


def load_make_venv(project: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_venv", project / "deploy" / "make_venv.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A package index on this machine with the pip that Python brings along: its address and that wheel."""
    ensurepip = pytest.importorskip("ensurepip", reason="this Python came without ensurepip")
    (wheel,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    (tmp_path / "files").mkdir()
    (tmp_path / "simple" / "pip").mkdir(parents=True)
    shutil.copy(wheel, tmp_path / "files")
    link = f'<a href="../../files/{wheel.name}#sha256=0">{wheel.name}</a>'
    (tmp_path / "simple" / "pip" / "index.html").write_text(f"<html>{link}</html>")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple", wheel
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_an_environment_gets_pip_where_python_came_without(
    project: Path, tmp_path: Path, index: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, wheel = index
    make_venv = load_make_venv(project)
    monkeypatch.setattr(make_venv.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(make_venv, "WHEEL", wheel.name)
    monkeypatch.setattr(make_venv, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setenv("PIP_INDEX_URL", address)
    folder = tmp_path / "environment"
    make_venv.main(folder)
    pip = [folder / "bin" / "python", "-m", "pip", "--version"]
    said = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    assert said.split()[1] == wheel.name.split("-")[1]
    assert str(folder) in said


def test_another_file_under_the_name_of_pip_is_not_taken(
    project: Path, index: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, wheel = index
    make_venv = load_make_venv(project)
    monkeypatch.setattr(make_venv, "WHEEL", wheel.name)
    with pytest.raises(RuntimeError, match="not the expected file"):
        make_venv.pip_wheel(address)
    monkeypatch.setattr(make_venv, "WHEEL", "pip-0.0-py3-none-any.whl")
    with pytest.raises(RuntimeError, match=r"does not offer pip-0\.0"):
        make_venv.pip_wheel(address)


def test_an_environment_is_made_with_this_python(project: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, project / "deploy" / "make_venv.py", tmp_path / "e"], check=True)
    python = tmp_path / "e" / "bin" / "python"
    program = "import sys, pip; print(sys.version_info[:2])"
    said = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(sys.version_info[:2])
