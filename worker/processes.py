"""Child processes that are kept running while that may help, and that end when their parent does."""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nowcast.errors import ServiceFailed

log = logging.getLogger(__name__)

#: Linux ``prctl`` option: deliver a signal when the parent dies (linux/prctl.h).
PR_SET_PDEATHSIG = 1

#: Wait before a restart [s]: the first, doubled at each early death up to the last.
RESTART_SECONDS = (0.2, 30.0)

#: Deaths in a row, each before the process was healthy, after which another start is no use.
MOST_EARLY_DEATHS = 8

#: Exit code of a process that cannot work with its settings, however often it is started.
REFUSED_CODE = 2

#: Longest wait [s] for processes that were asked to end; then they are killed.
GRACE_SECONDS = 3.5

#: A process that lived this long [s] is healthy: its next restart is immediate again.
HEALTHY_SECONDS = 20.0


#: The C library, loaded here because a forked child may not wait for the loader's lock.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Ask the kernel to terminate this process when its parent dies; for ``preexec_fn``."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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
    _early_deaths: int = 0
    _started: float = 0.0
    _wait: float = field(default=RESTART_SECONDS[0])
    _retry_at: float = 0.0

    def ensure(self) -> None:
        """Start it if it is not running and its waiting time is over.

        Raises:
            ServiceFailed: If it refuses its settings, or keeps dying before it is healthy.
        """
        now = self.clock()
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            if now - self._started > HEALTHY_SECONDS:
                self._wait, self._early_deaths = RESTART_SECONDS[0], 0
            else:
                self._early_deaths += 1
            self._check_worth_another_start(self.process.returncode)
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

    def _check_worth_another_start(self, code: int) -> None:
        if code == REFUSED_CODE:
            raise ServiceFailed(f"{self.name} cannot work with these settings; its own last line says why")
        if self._early_deaths >= MOST_EARLY_DEATHS:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise ServiceFailed(
                f"{self.name} ended {self._early_deaths} times in a row within {HEALTHY_SECONDS:g} s of its "
                f"start, last with {how}; its own last lines say why"
            )

    def stop(self) -> None:
        """Terminate it, and kill it if that takes too long."""
        stop_together([self])


def stop_together(children: Sequence[Child], *, grace_seconds: float = GRACE_SECONDS) -> None:
    """Terminate processes at the same time, and kill those that have not ended after ``grace_seconds``."""
    running = [(child.name, child.process) for child in children if child.process is not None]
    for _, process in running:
        process.terminate()
    deadline = time.monotonic() + grace_seconds
    for name, process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %g s; killing it", name, grace_seconds)
            process.kill()
            process.wait()
