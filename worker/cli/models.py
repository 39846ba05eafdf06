"""``nowcast models``: versions of the networks' weights, listed, shown, promoted and rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from nowcast.errors import InputError, StorageError
from nowcast.names import BLEND, CARD_FILE, CONFIG_FILE, EXTRAPOLATION, NETWORKS, PERSISTENCE
from worker.cli.options import ModelName, Store, store_of
from worker.cli.tables import number, score_table, table

if TYPE_CHECKING:
    from nowcast.methods.networks.versions import Change, Shelf
    from nowcast.scores.bootstrap import Comparison
    from nowcast.scores.skillfile import Skill

app = typer.Typer(help="Versions of the networks' weights.", no_args_is_help=True)

#: How ``ls`` and ``show`` name weights that are no version: those of the package, and a checkpoint that lies
#: in the store by itself.
OF_PACKAGE, UNVERSIONED = "shipped", "unversioned"


class _Line(NamedTuple):
    """One row of ``ls``: a version, since when it is served, its score, what it adds to its base, a note."""

    model: str
    version: str
    served: str
    score: float | None = None
    added: str = ""
    note: str = ""


@app.command("ls")
def ls(store: Store = None) -> None:
    """List the versions of each network's weights, and which one is served."""
    list_models(store_of(store))


@app.command("show")
def show(
    model: ModelName,
    version: Annotated[
        str | None, typer.Argument(help="A version as ls names it.", show_default="the current one")
    ] = None,
    store: Store = None,
) -> None:
    """Show what is known of a version: configuration, training data, scores, history."""
    show_model(store_of(store), model, version)


@app.command("promote")
def promote(
    model: ModelName,
    candidate: Annotated[Path, typer.Argument(help="Folder that a training wrote.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Promote whatever the scores say; recorded.")
    ] = False,
    store: Store = None,
) -> None:
    """Make trained weights the current version, if they forecast better; exit code 1 if not."""
    if not promote_candidate(store_of(store), model, candidate, force=force):
        raise typer.Exit(1)


@app.command("rollback")
def rollback(model: ModelName, store: Store = None) -> None:
    """Go back to the version before the current one."""
    roll_back(store_of(store), model)


def list_models(store: Path) -> None:
    """Print models and versions: which is served, since when, its score beside extrapolation's."""
    from nowcast.scores.judged import JUDGED_DBZ

    rows = [
        (line.model, line.version, line.served, number(line.score), line.added, line.note)
        for name in NETWORKS
        for line in _lines(store, name)
    ]
    if not rows:
        typer.echo(f"there are no weights in {store}, and none in the package")
        return
    judged = ", ".join(f"{threshold:g}" for threshold in JUDGED_DBZ)
    typer.echo(f"CSI: mean over leads and {judged} dBZ on held-out events")
    typer.echo(f"adds: to that of {BLEND}, which corrections start from, or of extrapolation;")
    typer.echo("      * with the whole 95 % interval above 0")
    headings = ("model", "version", "served since", "CSI", "adds", "note")
    typer.echo(table(headings, rows, numbers=("CSI",)))


def show_model(store: Path, model: str, version: str | None) -> None:
    """Print what is known of a version, by default of the one that is served.

    Raises:
        NotFound: If there is none.
        WeightsError: If its weights are damaged.
    """
    from nowcast.methods.networks import versions
    from nowcast.methods.networks.loading import verified

    shelf = versions.Shelf(store, model)
    folder = _folder(shelf, version)
    card = verified(model, folder)
    console = Console()
    facts: dict[str, Any] = {
        "folder": folder,
        "sha256": versions.hash_of(folder),
        "configuration": card.config,
        "task": card.task,
        "code": card.git_hash or "unknown",
        "card": path if (path := folder / CARD_FILE).exists() else "none",
    }
    for name, fact in facts.items():
        _print(console, name, fact)
    for source in card.data:
        _print(console, "data", ", ".join(filter(None, vars(source).values())))
    for name, score in card.scores.items():
        _print(console, name, number(score, ".4g"))
    print_scores(console, folder)
    for change in shelf.history():
        _print(console, f"{change.when:%Y-%m-%d %H:%M}", _told(change))


def promote_candidate(store: Path, model: str, candidate: Path, *, force: bool) -> bool:
    """Promote a candidate or say why not; return whether it was promoted."""
    from nowcast.training.promotion import promote

    done = promote(store, model, candidate, force=force)
    verdict = f"against {done.against}: {done.verdict}"
    if done.version is None:
        typer.echo(
            f"nowcast: {model} is not promoted, expected the whole interval above 0; {verdict}", err=True
        )
    else:
        how = "promoted by force" if done.forced else "promoted"
        typer.echo(f"{model}: {done.version} {how}; {verdict}")
    return done.version is not None


def roll_back(store: Path, model: str) -> None:
    """Go back to the version before the current one."""
    from nowcast.training.promotion import rollback

    change = rollback(store, model)
    typer.echo(f"{model}: {change.version} is current again, {change.verdict}")


def _lines(store: Path, name: str) -> Iterator[_Line]:
    """Yield the rows of a model: versions by age, then what is served where none was ever promoted."""
    from nowcast.methods.networks.versions import Shelf

    shelf = Shelf(store, name)
    history = shelf.history()
    promotions = {change.version: change for change in history if change.action == "promote"}
    for version in shelf.versions():
        if (change := promotions.get(version)) is None:
            yield _Line(name, version, "", note="never current")
            continue
        served = f"{history[-1].when:%Y-%m-%d %H:%M}" if version == history[-1].version else ""
        added = _added(shelf.version(version))
        yield _Line(name, version, served, change.score, added, "forced" * change.forced)
    for place, (version, folder) in enumerate(_unversioned(shelf)):
        served = "" if history or place else "-"
        yield _Line(name, version, served, _mean_csi(folder)[0], _added(folder))


def _unversioned(shelf: Shelf) -> list[tuple[str, Path]]:
    """Return name and folder of a model's weights that are no version, in the order they are looked for."""
    from nowcast.methods.networks import versions

    folders = ((UNVERSIONED, shelf.folder), (OF_PACKAGE, versions.SHIPPED / shelf.model))
    return [(name, folder) for name, folder in folders if (folder / CONFIG_FILE).is_file()]


def _folder(shelf: Shelf, version: str | None) -> Path:
    """Return the folder of a version, or without a name of what is served."""
    unversioned = dict(_unversioned(shelf))
    if version in unversioned:
        return unversioned[version]
    if version is None and shelf.current() is None and unversioned:
        return next(iter(unversioned.values()))
    return shelf.version(version)


def _skill(folder: Path) -> Skill | None:
    """Return what a checkpoint scored, ``None`` if that is not known."""
    from nowcast.scores.skillfile import SKILL_FILE, read_skill

    try:
        return read_skill(folder / SKILL_FILE)
    except (FileNotFoundError, InputError):
        return None


def _mean_csi(folder: Path) -> tuple[float | None, float | None]:
    """Return the mean CSI of a checkpoint and of extrapolation beside it; ``None`` where not known.

    A checkpoint without a file of its skill, as those of the package, has the two in its configuration.
    """
    from nowcast.disk import durable
    from nowcast.scores.skillfile import MEAN_CSI, beside

    skill = _skill(folder)
    if skill is not None:
        return beside(skill)
    try:
        scores = durable.read_json(folder / CONFIG_FILE)["scores"]
        return scores.get(MEAN_CSI), scores.get(f"{MEAN_CSI}_{EXTRAPOLATION}")
    except (StorageError, KeyError, TypeError, AttributeError):
        return None, None


def _added(folder: Path) -> str:
    """Return what a checkpoint adds to the mean CSI of what it starts from; a star if beyond doubt."""
    from nowcast.scores.skillfile import beside

    skill = _skill(folder)
    score, base = _mean_csi(folder) if skill is None else beside(skill, skill.base)
    if score is None or base is None:
        return ""
    compared = _compared(skill)
    return f"{score - base:+.3f}" + "*" * bool(compared and compared.is_better)


def _compared(skill: Skill | None) -> Comparison | None:
    """Return how a checkpoint compares with what it starts from, ``None`` if that is not known."""
    from nowcast.scores.bootstrap import compare

    if skill is None or skill.base not in skill.references:
        return None
    try:
        return compare(skill.events, skill.references[skill.base])
    except InputError:
        return None


def print_scores(console: Console, folder: Path) -> None:
    """Print CSI by lead and threshold, beside extrapolation and persistence."""
    from nowcast.scores.skillfile import SKILL_FILE, pooled

    skill = _skill(folder)
    if skill is None:
        _print(console, "scores", f"none in {folder / SKILL_FILE}")
        return
    methods = {"these weights": skill.events}
    methods.update(
        {
            name: skill.references[name]
            for name in dict.fromkeys((skill.base, EXTRAPOLATION, PERSISTENCE))
            if name in skill.references
        }
    )
    rows = [
        {"model": name, "lead_minutes": lead, **row}
        for name, scored in methods.items()
        for lead, tally in pooled(scored).items()
        for row in tally.rows()
    ]
    typer.echo(score_table(rows, list(methods), ("csi",)))
    if compared := _compared(skill):
        _print(console, f"beside {skill.base}", compared)


def _told(change: Change) -> str:
    how = " by force" if change.forced else ""
    return f"{change.action} {change.version}{how}: {change.verdict}"


def _print(console: Console, name: str, fact: object) -> None:
    console.print(f"{name}: {fact}", highlight=False, markup=False, soft_wrap=True)
