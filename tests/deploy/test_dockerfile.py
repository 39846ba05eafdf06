"""The Dockerfile: what the images promise can be read off it; test_images.py carries the installation out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from dockerfile import Stage, lineage, parse

TARGETS = ("api", "worker")


@pytest.fixture(scope="module")
def stages(project: Path) -> dict[str, Stage]:
    return parse(project / "Dockerfile")


def everything(stages: dict[str, Stage], instruction: str) -> list[str]:
    return [argument for stage in stages.values() for argument in stage.all(instruction)]


def test_both_targets_exist_and_start_from_one_pinned_python(project: Path, stages: dict[str, Stage]) -> None:
    assert set(TARGETS) < set(stages)
    text = (project / "Dockerfile").read_text()
    assert re.findall(r"^ARG PYTHON_IMAGE=(.*)$", text, re.M) == ["python:3.11-slim-bookworm"]
    outer = {stage.base for stage in stages.values() if stage.base not in stages}
    assert outer == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_numbered_user_who_is_not_root(stages: dict[str, Stage], target: str) -> None:
    users = [user for stage in lineage(stages, target) for user in stage.all("USER")]
    assert users == ["10001:10001"]
    last = stages[target].steps
    assert ("USER", "10001:10001") in last
    after = last[last.index(("USER", "10001:10001")) :]
    assert not {"RUN", "COPY"} & {name for name, _ in after}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_made_of_finished_files_only(stages: dict[str, Stage], target: str) -> None:
    run = " ".join(step for stage in lineage(stages, target) for step in stage.all("RUN"))
    assert "pip" not in run
    copied = [step for stage in lineage(stages, target) for step in stage.all("COPY")]
    assert copied == [f"--from=build-{target} /opt/nowcast /opt/nowcast"]


def test_every_pip_install_is_constrained_and_leaves_no_cache_in_a_layer(stages: dict[str, Stage]) -> None:
    installs = [step for step in everything(stages, "RUN") if "pip install" in step]
    assert len(installs) == 4
    for step in installs:
        assert "--constraint constraints.txt" in step
        assert "--mount=type=cache,target=/root/.cache/pip" in step


def test_dependencies_are_installed_before_the_code_is_copied(stages: dict[str, Stage]) -> None:
    for target in TARGETS:
        steps = [step for stage in lineage(stages, f"build-{target}") for step in stage.steps]
        first_install = next(n for n, (_, step) in enumerate(steps) if "pip install" in step)
        copied_before = " ".join(step for name, step in steps[:first_install] if name == "COPY")
        assert copied_before == "pyproject.toml constraints.txt README.md ./"


def test_the_api_image_has_neither_networks_nor_opencv(stages: dict[str, Stage]) -> None:
    steps = [step for stage in lineage(stages, "build-api") for step in stage.all("RUN")]
    assert re.findall(r"'?\.\[([^\]]*)\]", " ".join(steps)) == ["api"]
    assert [step.split()[0] for step in stages["build-api"].all("COPY")] == ["nowcast", "api"]


def test_apt_installs_nothing_more_than_asked_and_leaves_no_lists(stages: dict[str, Stage]) -> None:
    for step in everything(stages, "RUN"):
        if "apt-get install" in step:
            assert "--no-install-recommends" in step
            assert step.endswith("rm -rf /var/lib/apt/lists/*")


def test_nothing_is_fetched_by_add(stages: dict[str, Stage]) -> None:
    assert everything(stages, "ADD") == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_command_is_a_process_of_its_own_and_gets_the_signals(
    stages: dict[str, Stage], target: str
) -> None:
    words = stages[target].command("ENTRYPOINT") if stages[target].all("ENTRYPOINT") else []
    words += stages[target].command("CMD")
    assert words[0] == {"api": "uvicorn", "worker": "nowcast"}[target]
    if target == "api":
        assert words[1:3] == ["api.app:create_app", "--factory"]
        assert words[words.index("--timeout-graceful-shutdown") + 1] == "4"


def test_variables_set_in_the_images_are_settings(
    stages: dict[str, Stage], variables: frozenset[str]
) -> None:
    text = " ".join(everything(stages, "ENV"))
    assert set(re.findall(r"\bNOWCAST_\w+", text)) <= variables
    assert "PYTHONUNBUFFERED=1" in text


def test_what_is_copied_exists_and_is_not_ignored(project: Path, stages: dict[str, Stage]) -> None:
    allowed = re.findall(r"^!(\S+)$", (project / ".dockerignore").read_text(), re.M)
    for step in everything(stages, "COPY"):
        if not step.startswith("--from"):
            for source in step.split()[:-1]:
                assert source in allowed
                assert (project / source).exists(), source


@contextmanager
def answering(status: int, asked: list[str]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("target", "path"), [("api", "/healthz"), ("worker", "/metrics")])
def test_the_health_check_tells_a_healthy_process_from_a_sick_one(
    stages: dict[str, Stage], target: str, path: str
) -> None:
    python, *arguments = stages[target].command("HEALTHCHECK")
    assert python == "python"

    def exit_code(port: int) -> int:
        words = [word.replace(":8000", f":{port}") for word in arguments]
        environment = {**os.environ, "NOWCAST_METRICS_PORT": str(port)}
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=False)
        return done.returncode

    asked: list[str] = []
    with answering(200, asked) as port:
        assert exit_code(port) == 0
    assert asked == [path]
    assert exit_code(port) != 0  # nobody listens there any more
    with answering(500, asked) as port:
        assert exit_code(port) != 0
