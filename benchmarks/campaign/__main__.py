"""Runs the campaign: ``python -m benchmarks.campaign start|status|pause|continue|stop|renew``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.campaign import processes
from benchmarks.campaign.folder import FAILED_FILE, Campaign, freeze, frozen
from benchmarks.campaign.progress import status
from benchmarks.campaign.screen import WIDTH, show

#: The repository this runs from.
REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    """Do what the command line says."""
    options = options_of(sys.argv[1:])
    campaign, raw = Campaign(options.folder.resolve()), options.raw.resolve()
    if options.action == "work":
        _work(campaign, options.worker, raw)
    elif options.action == "start":
        _start(campaign, raw, options.workers)
    elif options.action == "status":
        _status(campaign, as_json=options.json)
    elif options.action == "renew":
        before = processes.stop(campaign)
        print(f"froze {freeze(REPOSITORY, campaign, anew=True)}")
        if before:
            _start(campaign, raw, options.workers)
    else:
        act = {"pause": processes.pause, "continue": processes.go_on, "stop": processes.stop}[options.action]
        print(f"{options.action}: {_counted(act(campaign))}")


def options_of(words: Sequence[str]) -> argparse.Namespace:
    """Return what a command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign", description=__doc__)
    parser.add_argument("action", choices=("start", "status", "pause", "continue", "stop", "renew", "work"))
    parser.add_argument("--folder", type=Path, default=REPOSITORY.parent / "campaign", help="the campaign's")
    parser.add_argument(
        "--raw", type=Path, default=REPOSITORY.parent / "shared/data/train", help="folder of radar files"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    parser.add_argument("--worker", type=int, default=0, help="number of the worker to be (work)")
    parser.add_argument("--json", action="store_true", help="everything, for programs (status)")
    return parser.parse_args(words)


def _start(campaign: Campaign, raw: Path, workers: int) -> None:
    """Freeze the code unless that was done, start what does not run, and say how to see it."""
    if not campaign.archive.exists() and not raw.is_dir():
        raise SystemExit(f"expected an archive in {campaign.archive} or radar files in {raw}, found neither")
    code = freeze(REPOSITORY, campaign)
    for failed in campaign.runs.glob(f"*/{FAILED_FILE}"):  # tried once more
        failed.unlink()
    begun = processes.start(
        campaign,
        worker_command(campaign, raw),
        workers=workers,
        environment={"PYTHONPATH": str(campaign.code)},
    )
    processes.go_on(campaign)
    print(f"{code}: started {_counted(len(begun))}, in {campaign.root}")
    print("make campaign-status shows how far they are, make campaign-stop ends them")


def worker_command(campaign: Campaign, raw: Path) -> list[str]:
    """Return what a worker runs; its number follows."""
    command = [sys.executable, "-m", "benchmarks.campaign", "work", "--folder", str(campaign.root)]
    return [*command, "--raw", str(raw), "--worker"]


def _work(campaign: Campaign, worker: int, raw: Path) -> None:
    from benchmarks.campaign.work import work  # imports all of PyTorch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.info("worker %d of %s", worker, frozen(campaign))
    work(campaign, worker, raw)


def _status(campaign: Campaign, *, as_json: bool) -> None:
    now = status(campaign)
    if as_json:
        print(json.dumps(asdict(now), indent=1))
    else:
        show(now, Console(width=WIDTH))


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}"


if __name__ == "__main__":
    main()
