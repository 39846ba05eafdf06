"""All that is to be done on a GPU, in one run of less than ten minutes; on the CPU at toy size beforehand.

Run ``python -m benchmarks gpu [--data FILE] [--output DIR] [--minutes N] [--dry-run]``. Tests marked ``gpu``,
then times of every ``_paper`` preset and of corrections, then trainings of wide corrections for the time
left. Each section runs in a process of its own: what breaks one leaves the others alone. Beside its weights
a run leaves ``gpu.json``. ``--dry-run`` goes the same way on the CPU, at toy size, in a minute or two.

``--pack FILE --archive DIR --tiles DIR`` makes the data: prepared tiles of an archive in one small file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Sections in order, with the longest time [s] each may take of a run.
SECTIONS = {"tests": 150.0, "presets": 130.0, "corrections": 60.0, "training": float("inf")}

#: Project this belongs to.
PROJECT = Path(__file__).parents[2]

#: Time [s] a section's process has beyond that it was told, to end by itself.
GRACE_SECONDS = 20.0


def main() -> None:
    """Pack, or run all sections, or one of them; exit status 1 if one failed."""
    options = _options()
    if options.pack:
        _pack(options)
    elif options.section:
        _one_section(options)
    else:
        _all_sections(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    left = Path(os.environ.get("OUT") or "build/gpu")
    parser.add_argument("--data", type=Path, help="packed tiles to learn from")
    parser.add_argument("--output", type=Path, default=left, help="folder for weights and gpu.json ($OUT)")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all (default 9)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which sections, separated by commas")
    parser.add_argument(
        "--models", default="", help="corrections to train, separated by commas (default all)"
    )
    parser.add_argument("--dry-run", action="store_true", help="the same on the CPU, at toy size")
    parser.add_argument("--json", type=Path, help="where to write the results, too")
    parser.add_argument("--pack", type=Path, help="write packed tiles, and nothing else")
    parser.add_argument("--archive", type=Path, help="whose tiles to pack")
    parser.add_argument("--tiles", type=Path, help="folder of prepared tiles")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pack and not (options.archive and options.tiles):
        parser.error("expected --archive and --tiles with --pack")
    if unknown := set(options.sections.split(",")) - SECTIONS.keys():
        parser.error(f"expected sections among {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    return options


def _pack(options: argparse.Namespace) -> None:
    from benchmarks.gpu.packing import pack  # needs the whole service, which a machine with a GPU may lack
    from nowcast.archive.archive import Archive

    pack(Archive(options.archive), options.tiles, options.pack)


def _all_sections(options: argparse.Namespace) -> None:
    begun, document, failed = time.time(), dict[str, Any](), list[str]()
    end = begun + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        for section in options.sections.split(","):
            print(f"\n--- {section} ---", flush=True)
            until, part = min(end, time.time() + SECTIONS[section]), Path(folder) / f"{section}.json"
            until = float("inf") if options.dry_run else until
            handed_on = ["--section", section, "--until", f"{until}", "--json", f"{part}"]
            command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], *handed_on]
            started = time.time()
            try:
                limit = None if options.dry_run else max(until - started, 1) + GRACE_SECONDS
                status = subprocess.run(command, timeout=limit, check=False).returncode
            except subprocess.TimeoutExpired:
                status = 124
                print(f"{section} took too long", flush=True)
            if status:
                failed.append(section)
            told = json.loads(part.read_text()) if part.exists() else {}
            document[section] = {"status": status, "seconds": time.time() - started, **told}
            _write(document, options, begun)
    print(f"\n{time.time() - begun:.0f} s in all" + (f"; failed: {', '.join(failed)}" if failed else ""))
    raise SystemExit(bool(failed))


def _write(document: dict[str, Any], options: argparse.Namespace, begun: float) -> None:
    """Write what is known so far."""
    whole = {"dry_run": options.dry_run, "seconds": time.time() - begun, **document}
    for path in filter(None, (options.output / "gpu.json", options.json)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(whole, indent=1))


def _one_section(options: argparse.Namespace) -> None:
    if options.section == "tests":
        raise SystemExit(_tests(dry=options.dry_run))
    told = _measured(options)
    options.json.write_text(json.dumps(told))
    raise SystemExit(_has_errors(told))


def _tests(*, dry: bool) -> int:
    """Return the exit status of the tests marked ``gpu``, of the files that have any; collect them if dry."""
    files = [
        str(path)
        for path in sorted((PROJECT / "tests").rglob("test_*.py"))
        if "@pytest.mark.gpu" in path.read_text(encoding="utf-8")
    ]
    how = ["--collect-only", "-q"] if dry else ["-v", "--durations=5"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *how, *files]
    return subprocess.run(command, cwd=PROJECT, check=False).returncode


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a section measures, and on what."""
    import torch

    from benchmarks.gpu import corrections, presets, training

    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device; --dry-run does without")
    device = torch.device("cpu" if options.dry_run else "cuda")
    torch.backends.cudnn.benchmark = True
    name = "the CPU" if options.dry_run else torch.cuda.get_device_name()
    on = f"{name}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
    print(f"on {on}", flush=True)
    dry, until = options.dry_run, options.until
    if options.section == "presets":
        results = presets.measure(device, dry=dry, until=until)
    elif options.section == "corrections":
        results = corrections.measure(device, dry=dry)
    else:
        names = options.models.split(",") if options.models else tuple(corrections.WIDE)
        results = training.train(options.data, options.output, device, dry=dry, until=until, names=names)
    return {"on": on, "results": results}


def _has_errors(results: Any) -> bool:
    """Return whether anything in the results says why it failed."""
    if isinstance(results, dict):
        return bool(results.get("errors")) or any(map(_has_errors, results.values()))
    return False


if __name__ == "__main__":
    main()
