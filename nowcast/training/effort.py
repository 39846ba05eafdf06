"""Where trained weights come from: the code, the machine, the time and the energy they took."""

from __future__ import annotations

import platform
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nowcast.disk import durable
from nowcast.errors import StorageError

#: Where Linux counts the energy of processors [microjoule]; often root alone may read it.
POWERCAP = Path("/sys/class/powercap")

#: Time [s] between two notes of the effort.
NOTED_SECONDS = 10.0


def code_version() -> str:
    """Return the commit of this code, empty where it is not in a repository."""
    command = ["git", "rev-parse", "HEAD"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def processor() -> str:
    """Return the name of this machine's processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Effort:
    """Time and energy of a training, over all its runs: noted in a file, so that a kill loses seconds of it.

    The energy is that of the machine's processors while the training ran, whatever else they did; graphics
    cards are not in it.

    Attributes:
        seconds: Time so far.
        joules: Energy so far, ``None`` if not known for all of that time.
    """

    def __init__(self, path: Path, powercap: Path = POWERCAP) -> None:
        """Go on from what the file says, if there is one."""
        self._path, self._powercap = path, powercap
        known: dict[str, Any] = {}
        with suppress(FileNotFoundError, StorageError):  # a note that is lost is no reason to stop
            known = durable.read_json(path)
        self.seconds = float(known.get("seconds", 0.0))
        self.joules = 0.0 if not known else known.get("joules")
        self._at, self._counters = time.monotonic(), _counters(powercap)
        if not self._counters:
            self.joules = None

    def note(self, *, now: bool = False) -> None:
        """Add what was spent since the last note, if that is a while ago or ``now`` is asked for.

        Raises:
            StorageError: If the disk refuses.
        """
        at = time.monotonic()
        if at - self._at < NOTED_SECONDS and not now:
            return
        counters = _counters(self._powercap)
        if self.joules is not None and counters.keys() == self._counters.keys():
            self.joules += sum(
                (micro - self._counters[name][0]) % most / 1e6 for name, (micro, most) in counters.items()
            )
        else:
            self.joules = None
        self.seconds += at - self._at
        self._at, self._counters = at, counters
        durable.write_json(self._path, {"seconds": self.seconds, "joules": self.joules})


def _counters(powercap: Path) -> dict[str, tuple[int, int]]:
    """Return energy [microjoule] of each processor, and the number its counter starts over at."""
    found = {}
    with suppress(OSError, ValueError):
        for zone in sorted(powercap.glob("intel-rapl:[0-9]*")):
            if zone.name.count(":") == 1:  # others are parts of one
                energy, most = ((zone / name).read_text() for name in ("energy_uj", "max_energy_range_uj"))
                found[zone.name] = int(energy), int(most) + 1
        return found
    return {}
