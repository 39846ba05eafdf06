"""Options that several subcommands share, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nowcast.errors import BadRequest, MissingExtra
from nowcast.methods.registry import METHODS
from nowcast.names import NETWORKS
from nowcast.scores.table import event_scores

if TYPE_CHECKING:
    from nowcast.compute import Compute
    from nowcast.frame.declared import Declared
    from nowcast.frame.domain import Domain

Files = Annotated[list[Path], typer.Argument(help="Radar files in any known format.", show_default=False)]
DomainsFile = Annotated[
    Path | None, typer.Option("--domains", help="TOML file of domains.", show_default="NOWCAST_DOMAINS_FILE")
]
DataDir = Annotated[
    Path | None, typer.Option("--data", help="Data directory.", show_default="NOWCAST_DATA_DIR or ./data")
]
DomainName = Annotated[
    str | None, typer.Option("--domain", help="A configured domain; left out, the files tell grid and step.")
]
ModelName = Annotated[
    str, typer.Argument(help="Name of a network, as in a domain's model.", show_default=False)
]
Store = Annotated[
    Path | None, typer.Option("--store", help="Folder of the versions.", show_default="NOWCAST_WEIGHTS_DIR")
]
Memory = Annotated[
    int | None,
    typer.Option(
        "--memory-mb",
        min=64,
        help="Memory [MiB] a network may take.",
        show_default="NOWCAST_NETWORK_MEMORY_MB",
    ),
]
# What files do not say of themselves.
QuantityOption = Annotated[
    str, typer.Option("--quantity", help="DBZH, TH, RATE or ACRR, where files do not say.")
]
UnitOption = Annotated[str, typer.Option("--unit", help="Unit of the numbers, where files do not say.")]
VariableOption = Annotated[str, typer.Option("--variable", help="Field to read, where files hold several.")]
StepOption = Annotated[
    float | None, typer.Option("--step", help="Minutes a sum covers, or between frames.", show_default=False)
]
TimeFormatOption = Annotated[
    str, typer.Option("--time-format", help="Time in the files' names, such as %Y%m%d%H%M (UTC).")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="NOWCAST_HOST")]
Port = Annotated[int | None, typer.Option(help="Port to listen on.", show_default="NOWCAST_PORT")]

#: What a person may forecast with, and what becomes of a network without weights.
NETWORKS_HELP = ", ".join(name for name in NETWORKS if not name.endswith("_cpu"))
METHODS_HELP = f"{', '.join(name for name in METHODS if name not in NETWORKS)}, or a network: {NETWORKS_HELP}"
SCORES_HELP = ", ".join(score.name for score in event_scores())
UNTRAINED_HELP = (
    "Left out, those in NOWCAST_WEIGHTS_DIR, or those of the package, or random ones, and the result says so."
)


def configured(domain: str | None, domains: Path | None) -> Domain | None:
    """Return the configured domain of that name, ``None`` if no name is given."""
    if domain is None:
        return None
    from nowcast.settings import load_settings

    return load_settings(domains_file=domains).domain(domain)


def declared_of(
    domain: Domain | None, quantity: str, unit: str, variable: str, step: float | None, time_format: str
) -> Declared:
    """Return what the command line declares of files; where it says nothing, what the domain declares."""
    from nowcast.frame.declared import Declared, declared_in

    said = Declared(quantity, unit, variable, step, time_format).said()
    meaning = {"quantity": "", "unit": ""} if {"quantity", "unit"} & said.keys() else {}
    return Declared(**{**declared_in(domain).said(), **meaning, **said})


def compute_of(weights: Path | None, memory_mb: int | None) -> Compute:
    """Return what networks may use: the weights a person names, else those there are, else none."""
    from dataclasses import replace

    from nowcast.settings import read_environment

    compute = read_environment(weights_dir=weights, network_memory_mb=memory_mb).compute()
    return replace(compute, shipped=weights is None, untrained=weights is None)


def need(extra: str, *packages: str) -> None:
    """Raise ``MissingExtra`` if a package of an extra is not installed."""
    from importlib.util import find_spec

    if missing := [package for package in packages if find_spec(package) is None]:
        raise MissingExtra(
            f"this needs {missing[0]}, which is not installed: pip install 'nowcast-service[{extra}]'"
        )


def data_dir_of(data: Path | None) -> Path:
    """Return the data directory: the one a person names, else that of the environment."""
    from nowcast.settings import read_environment

    return read_environment(data_dir=data).data_dir


def store_of(store: Path | None) -> Path:
    """Return the folder of weights: the one a person names, else that of the environment."""
    from nowcast.settings import read_environment

    return read_environment(weights_dir=store).weights_dir


def check_output(output: Path, inputs: Sequence[Path]) -> None:
    """Return if writing ``output`` would replace none of ``inputs``, under whatever name.

    Raises:
        BadRequest: If it would.
    """
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise BadRequest(f"expected another file to write than the input {path}, got {output}")
