"""What a call costs the process that makes it: seconds, and memory at the highest."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path


def measured(call: Callable[[], object]) -> dict[str, float]:
    """Return seconds of a call, and the highest memory [MB] while it ran beyond that before it."""
    gc.collect()  # what is dead already shall not make room for the call,
    ctypes.CDLL(None).malloc_trim(0)  # nor what the allocator has kept of it
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = memory_mb("VmRSS")
    begun = time.perf_counter()
    call()
    taken = time.perf_counter() - begun
    return {"seconds": taken, "memory_mb": max(0.0, memory_mb("VmHWM") - before)}


def memory_mb(field: str) -> float:
    """Return a field of this process's status in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024
