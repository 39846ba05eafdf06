"""All measurements, one after the other: ``python -m benchmarks [NAME...]``; JSON goes to build/bench."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: What is measured, in the order of the data's way.
NAMES = ("ingest", "extrapolation", "networks", "verification", "service", "api")


def main() -> None:
    """Run the named measurements, or all, each in a process of its own."""
    folder = Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in sys.argv[1:] or NAMES:
        print(f"\n=== {name} ===", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(folder / f"{name}.json")]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
