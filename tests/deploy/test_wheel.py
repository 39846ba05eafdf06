"""The wheel carries the weights that networks forecast with, and nothing else a training leaves."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch

from models.convlstm import ConvLSTM, ConvLSTMConfig
from nowcast.methods.networks.checkpoint import Card, Task, load, save

CONFIG = ConvLSTMConfig(hidden=(4,), patch=2)


def test_weights_of_the_package_are_in_the_wheel_and_load_from_there(project: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shipped = source / "nowcast" / "weights" / "convlstm"
    sha256 = save(shipped, ConvLSTM(CONFIG), Card(CONFIG, Task(4, 12, 5.0, 1.0)))
    (shipped / "card.md").write_text("What it was trained on.\n")
    torch.save({}, shipped / "last.ckpt")
    (source / "nowcast" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(project / name, source)
    program = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    installed = tmp_path / "installed" / "nowcast" / "weights" / "convlstm"
    assert sorted(path.name for path in installed.iterdir()) == [
        "card.md",
        "config.json",
        "weights.safetensors",
    ]
    assert load(installed).sha256 == sha256
