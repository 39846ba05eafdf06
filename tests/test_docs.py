"""Nothing an operator can set or see goes undocumented, and the project's description of itself is true."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import sys
import tomllib
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nowcast.frame.domain import Domain
from nowcast.scores.table import SCORES, recorded_scores
from nowcast.settings import GridTable, Settings
from nowcast.telemetry import Telemetry

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("nowcast", "models", "api", "worker")

#: Extras whose dependencies a package may import, besides those every installation has.
EXTRAS = {"nowcast": ("grib", "geo", "zarr", "network"), "models": ("network",), "api": ("api",)}
EXTRAS["worker"] = ("worker", "local", *EXTRAS["nowcast"])

#: Nowcast uses OpenCV and Lightning too, in modules the API never loads.
EXTRAS["nowcast"] = ("worker", "train", *EXTRAS["nowcast"])


@pytest.fixture(scope="module")
def operations() -> str:
    return (PROJECT / "docs" / "operations.md").read_text()


@cache
def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return loaded


@cache
def constraints() -> dict[str, str]:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, pinned in pins}


def requirements(*extras: str) -> list[Requirement]:
    """Return the project's requirements, with those of ``extras`` and of extras they name."""
    listed = list(project()["dependencies"])
    for extra in extras:
        for text in project()["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == project()["name"]:
                listed += [str(each) for each in requirements(*requirement.extras)]
            else:
                listed.append(text)
    return [Requirement(text) for text in listed]


def table_rows(text: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the tables below a heading, by the code in their first cell."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", section, re.M)
    ]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`")}


def test_every_setting_is_documented_with_its_default(operations: str) -> None:
    rows = table_rows(operations, "Settings")
    fields = {name: field for name, field in Settings.model_fields.items() if name != "domains"}
    assert set(rows) == {f"NOWCAST_{name.upper()}" for name in fields}
    for name, field in fields.items():
        default = field.default
        written = f"{default:g}" if isinstance(default, float) else str(default)
        written = written.lower() if isinstance(default, bool) else written
        assert rows[f"NOWCAST_{name.upper()}"][0] == (f"`{written}`" if written else "empty"), name


def test_every_key_of_a_domain_is_documented(operations: str) -> None:
    rows = table_rows(operations, "Domains")
    keys = {key.name: key for key in fields(Domain) if key.name != "name"}
    assert set(rows) == set(keys)
    for key in GridTable.model_fields:
        assert f"`{key}`" in rows["grid"][1]
    for key, field in keys.items():
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            assert rows[key][0] == f"`{field.default}`", key


def test_every_metric_is_documented_with_its_labels_and_no_other(operations: str) -> None:
    documented = {
        re.sub(r"_total$", "", name): set(filter(None, labels.split(",")))
        for name, labels in re.findall(r"^\| `(nowcast_\w+)(?:\{([\w,]*)\})?`", operations, re.M)
    }
    metrics = [metric for metric in vars(Telemetry()).values() if hasattr(metric, "describe")]
    assert documented == {
        metric.describe()[0].name: set(metric._labelnames)
        for metric in metrics
        if hasattr(metric, "_labelnames")
    }


def test_every_score_is_documented_as_it_is_made() -> None:
    api = (PROJECT / "docs" / "api.md").read_text()
    assert table_rows(api, "Verification") == {
        score.name: [f"{score.long_name}: {score.formula}", score.span, score.better] for score in SCORES
    }


def test_every_exported_score_is_documented(operations: str) -> None:
    (row,) = re.findall(r"^\| `nowcast_skill\{.*$", operations, re.M)
    assert re.findall(r"`(\w+)`", row) == [score.name for score in recorded_scores()]


def test_every_outcome_of_a_frame_is_documented(operations: str) -> None:
    ingest = pytest.importorskip("worker.ingest", reason="the ingest worker cannot be imported here")
    (row,) = re.findall(r"^\| `nowcast_frames_total.*$", operations, re.M)
    assert {f"`{outcome}`" for outcome in ingest.OUTCOMES.values()} <= set(re.findall(r"`\w+`", row))


@pytest.mark.parametrize(
    "page", sorted(PROJECT.glob("*.md")) + sorted(PROJECT.glob("docs/**/*.md")), ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor and other.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", other.read_text(), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, target


def test_the_changelog_is_about_this_version() -> None:
    headings = re.findall(r"^## (.+)$", (PROJECT / "CHANGELOG.md").read_text(), re.M)
    assert project()["version"] in headings[0]


def test_every_requirement_is_pinned_in_the_constraints_and_satisfied_by_the_pin() -> None:
    for requirement in requirements(*project()["optional-dependencies"]):
        pinned = constraints().get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement} is not in constraints.txt"
        assert requirement.specifier.contains(pinned), f"{requirement}, pinned to {pinned}"


def test_constraints_hold_releases_only_and_not_the_project() -> None:
    assert canonicalize_name(project()["name"]) not in constraints()
    for name, pinned in constraints().items():
        assert re.fullmatch(r"\d+(\.\d+)*(\.post\d+)?", pinned), f"{name}=={pinned}"


def test_the_constraints_are_what_the_tests_run_with() -> None:
    different = {}
    for requirement in requirements("test"):
        try:
            installed = version(requirement.name).partition("+")[0]
        except PackageNotFoundError:
            continue
        pinned = constraints()[canonicalize_name(requirement.name)]
        if installed != pinned:
            different[requirement.name] = f"{installed}, pinned {pinned}"
    assert different == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_whatever_a_package_imports_is_among_its_requirements(package: str) -> None:
    provided = packages_distributions()
    allowed = {canonicalize_name(each.name) for each in requirements(*EXTRAS[package])}
    missing = set()
    for path in (PROJECT / package).rglob("*.py"):
        for name in imported(path) - set(sys.stdlib_module_names) - {*PACKAGES, "__future__"}:
            distributions = {canonicalize_name(each) for each in provided.get(name, [name])}
            if not distributions & allowed:
                missing.add(f"{path.relative_to(PROJECT)} imports {name}")
    assert sorted(missing) == []


def imported(path: Path) -> set[str]:
    """Return the top-level names a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_no_package_is_left_out_of_the_wheel() -> None:
    folders = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert folders - {"benchmarks"} == set(PACKAGES)
    without = [
        str(folder.relative_to(PROJECT))
        for package in PACKAGES
        for folder in {path.parent for path in (PROJECT / package).rglob("*.py")}
        if not (folder / "__init__.py").exists() and folder.name not in {"data", "static"}
    ]
    assert without == []


def test_every_file_beside_the_code_is_in_the_wheel() -> None:
    included = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        named = {path for glob in included.get(package, []) for path in (PROJECT / package).glob(glob)}
        files = {path for path in (PROJECT / package).rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert {path for path in files - named if path.suffix != ".py"} == set()


def test_examples_in_docstrings_hold() -> None:
    failed = {}
    for package in PACKAGES:
        names = [
            package,
            *(each.name for each in pkgutil.walk_packages([str(PROJECT / package)], f"{package}.")),
        ]
        for name in names:
            if name.endswith("__main__") or ">>>" not in source_of(name):
                continue
            result = doctest.testmod(importlib.import_module(name))
            if result.failed:
                failed[name] = result
    assert failed == {}


def source_of(module: str) -> str:
    path = PROJECT.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def test_every_hazard_is_held_by_the_tests_that_its_row_names() -> None:
    page, tests = (PROJECT / "docs" / "hazards.md").read_text(), PROJECT / "tests"
    named = re.findall(r"`((?:\w+/)+test_\w+)`: ([^;|]+)", page)
    assert len(named) > 50
    for file, sentences in named:
        (path,) = tests.rglob(f"{file}.py")
        known = set(re.findall(r"^(?:async )?def test_(\w+)\(", path.read_text(), re.MULTILINE))
        assert {sentence.strip().replace(" ", "_") for sentence in sentences.split(",")} <= known, file
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| hazard")]
    assert all("`: " in row for row in rows)
