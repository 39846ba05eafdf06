"""The public checker of the CF conventions, run as its users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def errors_in(path: Path) -> list[str]:
    """Return what the checker holds against a file, warnings left out."""
    report = path.with_suffix(".json")
    words = ["--test=cf:1.11", "--criteria=lenient", "--format=json", f"--output={report}", str(path)]
    checker = Path(sys.executable).with_name("compliance-checker")
    command = [sys.executable, "-W", "ignore", str(checker), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert report.exists(), done.stderr
    (verdict,) = json.loads(report.read_text()).values()
    report.unlink()
    return [message for kind in verdict["high_priorities"] for message in kind["msgs"]]
