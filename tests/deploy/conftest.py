"""What the deployment files are checked against: the project's folder, its metrics, its settings."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import Histogram

from nowcast.settings import Settings
from nowcast.telemetry import Telemetry

PROJECT = Path(__file__).resolve().parents[2]

#: Labels Prometheus adds to everything it scrapes.
SCRAPE_LABELS = frozenset({"job", "instance"})

#: What Prometheus knows without us.
BUILT_IN = {"up": frozenset[str](), "ALERTS": frozenset({"alertname", "alertstate", "severity", "domain"})}

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SELECTOR = re.compile(r"\b(nowcast[\w:]*|process_\w+|up|ALERTS)\b(?!\s*\()(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@pytest.fixture(scope="session")
def project() -> Path:
    """Folder of the project."""
    return PROJECT


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus's own checker; the test is skipped where it is not installed."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    return path


@pytest.fixture(scope="session")
def metrics() -> dict[str, frozenset[str]]:
    """Every sample name a process of ours exposes, with its labels."""
    telemetry = Telemetry()
    known = {family.name: frozenset[str]() for family in telemetry.registry.collect()}
    known |= {f"{name}_total": labels for name, labels in known.items() if name == "process_cpu_seconds"}
    for metric in vars(telemetry).values():
        labels = getattr(metric, "_labelnames", None)
        if labels is None:
            continue
        for sample in metric.describe():
            if isinstance(metric, Histogram):
                known |= {f"{sample.name}_{end}": frozenset(labels) for end in ("sum", "count")}
                known[f"{sample.name}_bucket"] = frozenset({*labels, "le"})
            elif sample.type == "counter":
                known[f"{sample.name}_total"] = frozenset(labels)
            else:
                known[sample.name] = frozenset(labels)
    return known


@dataclass(frozen=True)
class Query:
    """What a PromQL expression asks for.

    Attributes:
        names: Metrics.
        labels: Labels it filters or groups by, with the metric for a filter and an empty name for a grouping.
    """

    names: frozenset[str]
    labels: frozenset[tuple[str, str]]


def parse(expr: str) -> Query:
    """Return what ``expr`` asks for."""
    bare = STRING.sub("''", expr)
    selectors = [(match[1], match[2] or "") for match in SELECTOR.finditer(GROUPING.sub("", bare))]
    filters = {(name, label) for name, body in selectors for label in re.findall(r"(\w+)\s*(?:=|!)", body)}
    groupings = {("", label) for body in GROUPING.findall(bare) for label in re.findall(r"\w+", body)}
    return Query(frozenset(name for name, _ in selectors), frozenset(filters | groupings))


@pytest.fixture(scope="session")
def unknown(metrics: dict[str, frozenset[str]]) -> Callable[..., list[str]]:
    """Function that returns the metrics and labels of an expression that no process of ours has."""

    def find(expr: str, recorded: dict[str, frozenset[str]] | None = None) -> list[str]:
        known = metrics | BUILT_IN | (recorded or {})
        query = parse(expr)
        wrong = [name for name in query.names if name not in known]
        union = SCRAPE_LABELS.union(*(known.get(name, frozenset()) for name in query.names))
        for name, label in query.labels:
            allowed = SCRAPE_LABELS | known.get(name, frozenset()) if name else union
            if label not in allowed:
                wrong.append(f"{name}{{{label}}}")
        return wrong

    return find


@pytest.fixture(scope="session")
def variables() -> frozenset[str]:
    """Every environment variable the service reads."""
    return frozenset(f"NOWCAST_{name.upper()}" for name in Settings.model_fields if name != "domains")
