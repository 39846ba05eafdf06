"""Scraping and alerting: accepted by Prometheus itself, true to our metrics, explained in the runbook."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Rules = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(project: Path) -> Path:
    return project / "deploy" / "prometheus"


@pytest.fixture(scope="module")
def rules(folder: Path) -> Rules:
    groups = yaml.safe_load((folder / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def alerts(rules: Rules) -> Rules:
    return [rule for rule in rules if "alert" in rule]


@pytest.fixture(scope="module")
def recorded(rules: Rules) -> dict[str, frozenset[str]]:
    return {
        rule["record"]: frozenset(re.findall(r"\w+", re.findall(r"by \(([^)]*)\)", rule["expr"])[0]))
        for rule in rules
        if "record" in rule
    }


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration_and_the_rules(promtool: str, folder: Path) -> None:
    run(promtool, "check", "config", "prometheus.yml", cwd=folder)
    run(promtool, "check", "rules", "alerts.yml", cwd=folder)


def test_every_alert_fires_when_it_should_and_not_before(promtool: str, project: Path) -> None:
    run(promtool, "test", "rules", "alerts.test.yml", cwd=project / "tests" / "deploy")


def test_every_alert_is_seen_firing_and_quiet_in_the_rule_tests(project: Path, alerts: Rules) -> None:
    tests = yaml.safe_load((project / "tests" / "deploy" / "alerts.test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test.get("alert_rule_test", [])]
    firing = {check["alertname"] for check in checks if check["exp_alerts"]}
    assert firing == {alert["alert"] for alert in alerts}


def test_rules_ask_for_metrics_and_labels_that_exist(
    rules: Rules, recorded: dict[str, frozenset[str]], unknown: Callable[..., list[str]]
) -> None:
    wrong = {rule.get("alert") or rule["record"]: unknown(rule["expr"], recorded) for rule in rules}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_rule_with_a_wrong_name_or_label_would_be_noticed(unknown: Callable[..., list[str]]) -> None:
    assert unknown("rate(nowcast_frame_total[5m])") == ["nowcast_frame_total"]
    assert unknown('nowcast_frames_total{outcom="archived"}') == ["nowcast_frames_total{outcom}"]
    assert unknown("sum by (model) (nowcast_queue_lag)") == ["{model}"]
    assert unknown('sum by (le, job) (nowcast_stage_seconds_bucket{stage="read"})') == []


def test_every_alert_says_how_bad_it_is_and_leads_to_the_runbook(project: Path, alerts: Rules) -> None:
    text = (project / "docs" / "operations.md").read_text()
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}, alert["alert"]
        assert alert["annotations"]["summary"], alert["alert"]
        page, anchor = alert["annotations"]["runbook_url"].split("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, alert["alert"]


def test_the_runbook_has_no_entry_for_an_alert_that_does_not_exist(project: Path, alerts: Rules) -> None:
    text = (project / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^### (Nowcast\w+)$", text, re.M)) == {alert["alert"] for alert in alerts}


def test_the_quarantine_alert_counts_exactly_the_refused_outcomes(alerts: Rules) -> None:
    ingest = pytest.importorskip("worker.ingest", reason="the ingest worker cannot be imported here")
    (alert,) = (alert for alert in alerts if alert["alert"] == "NowcastQuarantine")
    kept = re.search(r'outcome!~"([^"]+)"', alert["expr"])
    assert kept is not None
    source = Path(ingest.__file__).read_text()
    for outcome in kept[1].split("|"):
        assert outcome not in ingest.OUTCOMES.values()
        assert f'"{outcome}"' in source


def test_every_target_is_a_part_of_the_compose_file(project: Path, folder: Path) -> None:
    services = yaml.safe_load((project / "docker-compose.yml").read_text())["services"]
    jobs = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
    assert [job["job_name"] for job in jobs] == [
        f"nowcast-{part}" for part in ("api", "ingest", "infer", "verify")
    ]
    for job in jobs:
        (discovery,) = job["dns_sd_configs"]
        (part,) = discovery["names"]
        assert job["job_name"] == f"nowcast-{part}"
        assert part in services
        assert discovery["port"] == (8000 if part == "api" else 9100)
