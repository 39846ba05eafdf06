"""Child processes that are kept running, and that end when their parent does."""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

#: Linux ``prctl`` option: deliver a signal when the parent dies (linux/prctl.h).
PR_SET_PDEATHSIG = 1

#: Wait before a restart [s]: the first, doubled at each early death up to the last.
RESTART_SECONDS = (0.2, 30.0)

#: A process that lived this long [s] is healthy: its next restart is immediate again.
HEALTHY_SECONDS = 20.0


def die_with_parent() -> None:
    """Ask the kernel to terminate this process when its parent dies; for ``preexec_fn``."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """One supervised process.

    Attributes:
        name: For people.
        start: Starts it.
        process: The running instance.
        restarts: How often it was started again.
        clock: Tells the time [s] between two events.
    """

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    clock: Callable[[], float] = time.monotonic
    _started: float = 0.0
    _wait: float = field(default=RESTART_SECONDS[0])
    _retry_at: float = 0.0

    def ensure(self) -> None:
        """Start it if it is not running and its waiting time is over."""
        now = self.clock()
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            if now - self._started > HEALTHY_SECONDS:
                self._wait = RESTART_SECONDS[0]
            log.warning(
                "%s ended with code %s; starting it again in %.1f s",
                self.name,
                self.process.returncode,
                self._wait,
            )
            self._retry_at = now + self._wait
            self._wait = min(self._wait * 2, RESTART_SECONDS[1])
            self.process = None
            self.restarts += 1
        if now >= self._retry_at:
            self.process = self.start()
            self._started = now

    def stop(self, *, grace_seconds: float = 10.0) -> None:
        """Terminate it, and kill it if that takes too long."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %g s; killing it", self.name, grace_seconds)
            self.process.kill()
            self.process.wait()
