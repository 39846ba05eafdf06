"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One thread for sums and products: those of small tests gain nothing from a second, and where cores are
# taken already, threads that wait for each other cost many times the work itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, so that a failure is somebody's change; and no time limit on a busy machine.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

#: Files whose few tests take long: whoever has them last keeps the other cores waiting.
LONG = ("worker/test_kills.py", "test_readme.py", "training/test_run.py")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real radar files beside the project; the test is skipped where it is absent."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real radar files (../shared/data) are not on this machine")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))
