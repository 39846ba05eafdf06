"""Settings of the whole service: environment variables ``NOWCAST_*`` and one TOML file of domains."""

from __future__ import annotations

import json
import logging
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    field_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_settings import BaseSettings, SettingsConfigDict

from nowcast.compute import MEMORY_MB, Compute
from nowcast.disk import durable
from nowcast.disk.data_folder import DataFolder
from nowcast.errors import SettingsError, UnknownDomain, UnreadableFile
from nowcast.frame.declared import Declared
from nowcast.frame.domain import Domain
from nowcast.frame.grid import Grid

log = logging.getLogger(__name__)

#: What a domain may be called: it becomes a folder and a part of URLs.
DOMAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")

Positive = Annotated[float, Field(gt=0)]


#: Misspelt keys are refused, and so is a number that is none.
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Table(BaseModel):
    model_config = ConfigDict(**_STRICT, frozen=True)


class GridTable(_Table):
    """``[domains.NAME.grid]``: cells by their centres, north-west one first."""

    crs: str
    nx: Annotated[int, Field(gt=1, le=20_000)]
    ny: Annotated[int, Field(gt=1, le=20_000)]
    x0: float
    y0: float
    dx: Positive
    dy: Positive

    def build(self) -> Grid:
        """Return the grid."""
        return Grid.from_crs(self.crs, nx=self.nx, ny=self.ny, x0=self.x0, y0=self.y0, dx=self.dx, dy=self.dy)

    @field_validator("crs")
    @classmethod
    def _is_understood(cls, value: str) -> str:
        try:
            Grid.from_crs(value, nx=1, ny=1, x0=0, y0=0, dx=1, dy=1)
        except UnreadableFile as error:
            raise ValueError("expected a PROJ string, an EPSG code or WKT") from error
        return value


#: How pydantic makes a grid: of its table.
_FROM_TABLE = GetPydanticSchema(
    lambda _, schema: schema(Annotated[GridTable, AfterValidator(GridTable.build)])
)


@dataclass(frozen=True, config=_STRICT)
class DomainTable(Domain):
    """``[domains.NAME]``: see :class:`nowcast.frame.domain.Domain` for the meaning and bounds of each key."""

    grid: Annotated[Grid, _FROM_TABLE] | None = None

    @field_validator("thresholds_dbz")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("expected ascending thresholds without repetition")
        return value

    def build(self) -> Domain:
        """Return the domain."""
        if self.reproject and self.grid is None:
            key = f"domains.{self.name}"
            raise SettingsError(f"{key}.reproject: expected a [{key}.grid] to reproject to")
        try:
            Declared(self.quantity, self.unit, self.variable, None, self.time_format)
        except SettingsError as error:
            raise SettingsError(f"domains.{self.name}: {error}") from error
        return Domain(**{field.name: getattr(self, field.name) for field in fields(Domain)})


class DomainsFile(_Table):
    """The whole TOML file."""

    domains: Annotated[dict[str, DomainTable], Field(min_length=1)]


class Settings(BaseSettings):
    """What an operator sets, each by an environment variable ``NOWCAST_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="NOWCAST_", extra="forbid", frozen=True)

    data_dir: Path = Field(
        Path("data"), description="Root of inbox, archive, forecasts, scores and quarantine"
    )
    domains_file: Path = Field(Path("nowcast.toml"), description="TOML file naming the domains")
    metrics_host: str = Field("127.0.0.1", description="Address a worker serves /metrics on")
    redis_url: Annotated[str, Field(pattern=r"^$|^(rediss?|unix)://")] = Field(
        "", description="Redis or Valkey to use; empty starts an embedded Valkey"
    )
    host: str = Field("127.0.0.1", description="Address the API listens on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port the API listens on")
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port a worker serves /metrics on; 0 serves none"
    )
    worker_metrics: str = Field(
        "",
        description="Comma-separated /metrics URLs of local workers that the API's /metrics repeats",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity logged"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How a log line is written: for people, or one JSON object"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where networks run")
    weights_dir: Path = Field(Path("weights"), description="Folder of the networks' weights, by name")
    network_memory_mb: Annotated[int, Field(ge=64)] = Field(
        MEMORY_MB, description="Memory [MiB] a network may take on its device"
    )
    cache_seconds: Annotated[int, Field(ge=1)] = Field(
        3600, description="How long Redis keeps a finished product (a map)"
    )
    cache_bytes: Annotated[int, Field(ge=0)] = Field(
        64 * 2**20, description="Memory one API process spends on finished products"
    )
    poll_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        0.2, description="How often the inbox is looked through"
    )
    read_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Longest time one file may take to read before it is quarantined"
    )
    read_memory_mb: Annotated[int, Field(ge=256)] = Field(
        3072, description="Address space [MiB] of the process that reads files"
    )
    sole_writer: bool = Field(
        False, description="Whether one worker of each kind has the data directory to itself (`up` sets it)"
    )
    keep_days: Annotated[int, Field(ge=0)] = Field(
        30, description="Days forecasts are kept; 0 keeps them for ever (frames and scores always are)"
    )
    reserve_mb: Annotated[int, Field(ge=0)] = Field(
        1024, description="Free disk [MiB] below which old forecasts go, and then ingest waits; 0 for none"
    )
    domains: dict[str, Domain] = Field(default_factory=dict, description="Filled from the TOML file")

    def domain(self, name: str) -> Domain:
        """Return a configured domain.

        Raises:
            UnknownDomain: If there is none of that name.
        """
        try:
            return self.domains[name]
        except KeyError:
            raise UnknownDomain(
                f"there is no domain {name!r}; configured are {', '.join(sorted(self.domains)) or 'none'}"
            ) from None

    def compute(self) -> Compute:
        """Return what methods may use in the live service: none goes without weights."""
        return Compute(self.device, self.network_memory_mb, self.weights_dir, scores=self.folder.scores)

    @property
    def folder(self) -> DataFolder:
        """Where everything lies under the data directory."""
        return DataFolder(self.data_dir)

    def sweep(self, part: Path) -> None:
        """Remove files that killed writers left unfinished under one part of the data directory.

        With a sole writer all of them are abandoned; else only those older than any write takes.
        """
        age = 0.0 if self.sole_writer else durable.ABANDONED_SECONDS
        for leftover in durable.sweep_partials(part, age):
            log.info("removed the unfinished %s", leftover.name)


def read_environment(**overrides: Any) -> Settings:
    """Return the settings of the environment, with ``overrides``, and no domains.

    Raises:
        SettingsError: With every wrong variable, what was expected and what came.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(_explain(error, "NOWCAST_")) from error


def load_settings(**overrides: Any) -> Settings:
    """Return the settings of the environment, with ``overrides``, and the domains of the TOML file.

    Raises:
        SettingsError: With every wrong variable or key, what was expected and what came.
    """
    settings = read_environment(**overrides)
    if settings.domains:
        return settings
    return settings.model_copy(update={"domains": load_domains(settings.domains_file)})


def load_domains(path: Path) -> dict[str, Domain]:
    """Return the domains a TOML file describes.

    Raises:
        SettingsError: Naming every wrong key, what was expected and what came.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: expected a TOML file of domains; {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    if isinstance(table.get("domains"), dict):
        try:
            table["domains"] = {name: _named(name, keys) for name, keys in table["domains"].items()}
        except ValueError as error:
            raise SettingsError(f"{path}: domains.{error}") from error
    try:
        # As JSON, strictly: TOML has types of its own, and `leads = true` is no number.
        file = DomainsFile.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_explain(error)}") from error
    for name, keys in table["domains"].items():
        if len(given := keys.get("zr", "ab")) == 1:
            (missing,) = {"a", "b"} - set(given)
            raise SettingsError(f"{path}: domains.{name}.zr.{missing}: field required beside the other")
    return {name: domain.build() for name, domain in file.domains.items()}


def _named(name: str, keys: Any) -> Any:
    """Return the keys of a domain with its name, which stands in the table's head only."""
    if not DOMAIN_NAME.fullmatch(name):
        raise ValueError(f"{name}: expected a name of lower-case letters, digits, - and _, at most 48")
    if not isinstance(keys, dict):
        return keys
    if "name" in keys:
        raise ValueError(f"{name}.name: expected the name in [domains.NAME] only, got {keys['name']!r}")
    return {**keys, "name": name}


def _explain(error: ValidationError, prefix: str = "") -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        key = prefix + key.upper() if prefix else key
        given = "" if problem["type"] == "missing" else f", got {problem['input']!r}"[:200]
        unknown = problem["type"] == "unexpected_keyword_argument"
        wrong = "extra inputs are not permitted" if unknown else problem["msg"]
        lines.append(f"{key}: {wrong[0].lower()}{wrong[1:]}{given}")
    return "; ".join(lines)
