"""Waiting for what another process or thread will do, without saying how fast it has to be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

#: Longest wait [s]: much more than anything takes on a machine that is busy with other work. Whoever waits as
#: long waits in vain, and this says for what; it never decides how fast something is.
PATIENCE_SECONDS = 120.0


def wait_until(holds: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as a condition holds.

    Raises:
        AssertionError: If it never does.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited for {seconds:g} s in vain"
        time.sleep(0.01)


async def until(holds: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as a condition holds, and let other tasks run meanwhile.

    Raises:
        AssertionError: If it never does.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited for {seconds:g} s in vain"
        await asyncio.sleep(0.01)


async def settled(turns: int = 100) -> None:
    """Give every other task as many turns, more than a request within this process ever takes."""
    for _ in range(turns):
        await asyncio.sleep(0)
