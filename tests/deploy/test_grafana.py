"""The dashboard: sound JSON, nothing that overlaps, queries Prometheus understands and our metrics answer."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Panel = dict[str, Any]

#: Labels of the recorded series the dashboard uses.
RECORDED = {"nowcast:csi": frozenset({"domain", "model", "threshold_dbz", "lead_minutes"})}


@pytest.fixture(scope="module")
def dashboard(project: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((project / "deploy/grafana/dashboards/nowcast.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def panels(dashboard: dict[str, Any]) -> list[Panel]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def expressions(panels: list[Panel]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_panels_have_their_own_id_a_title_and_a_description(
    dashboard: dict[str, Any], panels: list[Panel]
) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert [panel["id"] for panel in panels if not (panel["title"] and panel["description"])] == []


def test_no_two_panels_overlap_and_none_leaves_the_page(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for y in range(place["y"], place["y"] + place["h"]):
            for x in range(place["x"], place["x"] + place["w"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], f"{panel['title']} overlaps"


def test_every_query_asks_the_chosen_data_source(dashboard: dict[str, Any], panels: list[Panel]) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert all(panel["datasource"] == chosen for panel in panels)
    assert all(target["datasource"] == chosen for panel in panels for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        assert variable.get("datasource", chosen) == chosen


def test_every_variable_used_is_defined_and_every_one_defined_is_used(
    dashboard: dict[str, Any], panels: list[Panel]
) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(panels)))
    assert used == defined


def test_queries_ask_for_metrics_and_labels_that_exist(
    dashboard: dict[str, Any], expressions: list[str], unknown: Callable[..., list[str]]
) -> None:
    assert {expr: found for expr in expressions if (found := unknown(expr, RECORDED))} == {}
    for variable in dashboard["templating"]["list"]:
        if match := re.fullmatch(r"label_values\((\w+), (\w+)\)", variable.get("definition", "")):
            assert unknown(f'{match[1]}{{{match[2]}="x"}}') == []


def test_recorded_series_are_recorded_with_those_labels(project: Path) -> None:
    groups = yaml.safe_load((project / "deploy/prometheus/alerts.yml").read_text())["groups"]
    rules = {rule["record"]: rule["expr"] for group in groups for rule in group["rules"] if "record" in rule}
    for name, labels in RECORDED.items():
        (grouping,) = re.findall(r"by \(([^)]*)\)", rules[name])
        assert labels == set(re.findall(r"\w+", grouping))


def test_promtool_understands_every_query(promtool: str, expressions: list[str], tmp_path: Path) -> None:
    plain = [re.sub(r"\$__rate_interval|\$window", "5m", expr) for expr in expressions]
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", "rules.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_of_ours_is_on_the_dashboard(
    expressions: list[str], metrics: dict[str, frozenset[str]]
) -> None:
    families = {
        re.sub(r"_(total|bucket|sum|count)$", "", name) for name in metrics if name.startswith("nowcast")
    }
    shown = set(re.findall(r"nowcast_\w+", " ".join(expressions)))
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}
    # The configured step is a yardstick of the alerts, not something to watch.
    assert families - shown == {"nowcast_step_seconds"}


def test_grafana_finds_dashboard_and_data_source_where_compose_mounts_them(
    project: Path, dashboard: dict[str, Any]
) -> None:
    grafana = yaml.safe_load((project / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    folder = mounts["./deploy/grafana/dashboards"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/nowcast.json"
    provisioning = project / "deploy/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/nowcast.yml").read_text())["providers"]
    assert provider["options"]["path"] == folder
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    (variable,) = (v for v in dashboard["templating"]["list"] if v["name"] == "datasource")
    assert source["type"] == variable["query"] == "prometheus"
    assert source["uid"] == variable["current"]["value"]
