"""``nowcast train``: a progress bar, a training, and a table of what came of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.text import Text

from nowcast.disk.data_folder import DataFolder
from nowcast.errors import BadRequest, NotEnoughFrames
from worker.cli.models import print_scores
from worker.cli.options import DataDir, ModelName, data_dir_of, need
from worker.cli.terminal import reporting

if TYPE_CHECKING:
    from nowcast.archive.archive import Archive

#: The network that tells echo classes; it has a training of its own.
CLASSIFIER = "fanet"

#: What a person says to hold out nothing.
NONE = "none"

#: Minutes of a training unless somebody says how long.
MINUTES = 60.0


def train(
    model: ModelName,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the candidate.")],
    data: DataDir = None,
    minutes: Annotated[
        float | None, typer.Option(help="How long to train.", show_default="60, unless --steps says")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to train, in place of minutes.")] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Events to score on, separated by commas; none for none.",
            show_default="about a fifth of the rain",
        ),
    ] = None,
    step_minutes: Annotated[int, typer.Option(min=0, help="Only events with this step; 0 for all.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences a step and process.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches whose gradients are added up.")] = 1,
    crop: Annotated[int, typer.Option(min=16, help="Side of the squares trained on [cells].")] = 128,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Leads of five minutes learnt from.", show_default="all twelve")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another number, other weights.")] = 0,
    precision: Annotated[
        Literal["32-true", "bf16-mixed"], typer.Option(help="Of the arithmetic.")
    ] = "32-true",
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes where there is none.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read sequences.")] = 0,
    issue_times: Annotated[int, typer.Option(min=1, help="Most issue times scored of an event.")] = 24,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of prepared sequences.", show_default="sequences in the output"),
    ] = None,
) -> None:
    """Train a network on the archive; run again, it goes on where it was stopped."""
    need("train", "lightning", "torch", "safetensors", "matplotlib", "cv2")
    train_network(
        data_dir_of(data),
        output,
        model=model,
        minutes=minutes,
        steps=steps,
        hold_out=hold_out,
        step_minutes=step_minutes,
        batch=batch,
        accumulate=accumulate,
        crop=crop,
        slots=slots,
        seed=seed,
        precision=precision,
        devices=devices,
        workers=workers,
        most_issues=issue_times,
        cache=cache,
    )


def train_network(
    data_dir: Path,
    output: Path,
    *,
    model: str,
    minutes: float | None,
    steps: int | None,
    hold_out: str | None,
    most_issues: int,
    cache: Path | None,
    **others: Any,
) -> None:
    """Train a network and print what it scored; a helper process of a training does its part in silence.

    Args:
        data_dir: Data directory with the archive.
        output: Folder of the candidate.
        model: Name of the network.
        minutes: How long to train, :data:`MINUTES` if neither this nor ``steps`` is given.
        steps: Steps to train.
        hold_out: Names of events, separated by commas.
        most_issues: Most issue times that are scored of an event.
        cache: Folder of prepared sequences.
        **others: Further fields of :class:`nowcast.training.plan.Plan`.
    """
    from nowcast.archive.archive import Archive
    from nowcast.training import run
    from nowcast.training.candidate import write_candidate
    from nowcast.training.plan import Plan, shape_for

    archive, chosen = Archive(DataFolder(data_dir).archive), _names(hold_out)
    if model == CLASSIFIER:
        _train_classifier(archive, output, steps, chosen)
        return
    if minutes is None and steps is None:
        minutes = MINUTES
    plan = Plan(model, minutes, steps, shape_for(model), hold_out=chosen, **others)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        run.train(archive, output, plan, cache=cache)
        return
    console = Console()
    with reporting(console, _Rate()) as report:
        trained = run.train(archive, output, plan, cache=cache, report=report)
        skill = write_candidate(archive, output, trained, most_issues=most_issues, report=report)
    console.print(
        f"{output}: {model}, {trained.steps} steps in {trained.effort.seconds / 60:.1f} min", highlight=False
    )
    if skill is None:
        console.print("no event was held out, so nothing is known of how well it forecasts")
    else:
        console.print(f"scored on {', '.join(skill.events)}", highlight=False)
        print_scores(console, output)


def _names(hold_out: str | None) -> tuple[str, ...] | None:
    if hold_out is None:
        return None
    return () if hold_out == NONE else tuple(name.strip() for name in hold_out.split(",") if name.strip())


def _train_classifier(
    archive: Archive, output: Path, steps: int | None, chosen: tuple[str, ...] | None
) -> None:
    """Train the echo classifier, which has seeds and squares of its own.

    Raises:
        BadRequest: If nothing is held out: its history is chosen by what it scores there.
        NotEnoughFrames: If the archive has fewer than two domains.
    """
    from nowcast.archive.events import events_to_hold_out
    from nowcast.training.echo.run import Fitting, train_echo_classes
    from nowcast.training.effort import code_version

    frames = {domain: float(len(archive.times(domain))) for domain in archive.domains()}
    held_out = events_to_hold_out(frames) if chosen is None else chosen
    if len(frames) < 2:
        raise NotEnoughFrames(f"expected two domains, one to score on, got {len(frames)}")
    if not held_out:
        raise BadRequest(f"{CLASSIFIER} is chosen by its scores: expected events to hold out, got none")
    outcomes = train_echo_classes(
        archive.root,
        output,
        domains=[name for name in frames if name not in held_out],
        held_out=held_out,
        fitting=Fitting(steps=steps) if steps else None,
        git_hash=code_version(),
    )
    console = Console()
    for outcome in outcomes:
        console.print(
            f"history {outcome.history}, seed {outcome.seed}: mean IoU {outcome.held_out.miou:.3f} on "
            f"{', '.join(held_out)}",
            highlight=False,
        )


class _Rate(ProgressColumn):
    """How many are done in a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.2f}/s")
