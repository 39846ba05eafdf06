"""Settings: what is wrong is named by its key, with what was expected and what came."""

from __future__ import annotations

from pathlib import Path

import pytest

from nowcast.errors import SettingsError, UnknownDomain
from nowcast.frame.domain import Domain
from nowcast.settings import load_domains, load_settings


def write(folder: Path, text: str) -> Path:
    path = folder / "domains.toml"
    path.write_text(text)
    return path


def test_a_minimal_domain_has_the_documented_defaults(tmp_path: Path) -> None:
    domain = load_domains(write(tmp_path, "[domains.fmi]\nstep_minutes = 5\n"))["fmi"]
    assert (domain.step_minutes, domain.leads, domain.history) == (5, 12, 4)
    assert domain.thresholds_dbz == (20.0, 30.0, 35.0, 40.0)
    assert (domain.zr.a, domain.zr.b) == (200.0, 1.6)
    assert domain.grid is None
    assert domain == Domain("fmi", 5)


def test_a_full_domain_is_read(tmp_path: Path) -> None:
    text = """
    [domains.fin]
    step_minutes = 5
    leads = 18
    thresholds_dbz = [20, 40]
    zr = { a = 223, b = 1.53 }
    reproject = true
    grid = { crs = "EPSG:3067", nx = 760, ny = 1226, x0 = -118000, y0 = 7907000, dx = 1000, dy = 1000 }
    """
    domain = load_domains(write(tmp_path, text))["fin"]
    assert domain.grid is not None
    assert domain.grid.shape == (1226, 760)
    assert domain.grid.y[-1] == 7907000 - 1225 * 1000
    assert (domain.zr.a, domain.zr.b) == (223.0, 1.53)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "step_minutes = 0",
            r"domains\.fmi\.step_minutes: input should be .*equal to 1, got 0",
        ),
        ("step_minutes = '5m'", r"domains\.fmi\.step_minutes: .*valid integer.*got '5m'"),
        ("step_minute = 5", r"domains\.fmi\.step_minutes: field required; domains\.fmi\.step_minute: extra"),
        ("step_minutes = 5\nthresholds_dbz = [30, 20]", r"thresholds_dbz: .*ascending.*got \[30, 20\]"),
        ("step_minutes = 5\nthresholds_dbz = [-20]", r"thresholds_dbz\.0: input should be greater than -10"),
        ("step_minutes = 5\nzr = { a = -1 }", r"domains\.fmi\.zr\.a: input should be greater than 0, got -1"),
        ("step_minutes = 5\nreproject = true", r"domains\.fmi\.reproject: expected a \[domains\.fmi\.grid\]"),
        (
            "step_minutes = 5\ngrid = { crs = 'nonsense', nx = 9, ny = 9, x0 = 0, y0 = 0, dx = 1, dy = 1 }",
            r"grid\.crs: .*expected a PROJ string, an EPSG code or WKT, got 'nonsense'",
        ),
        ("step_minutes = 5\nzr = { a = nan }", r"domains\.fmi\.zr\.a: .*finite"),
        ("step_minutes = 5\nzr = { c = 1 }", r"domains\.fmi\.zr\.c: extra inputs are not permitted"),
        ("step_minutes = 5\nmax_dbz = inf", r"domains\.fmi\.max_dbz: .*finite"),
        ("step_minutes = 5\nleads = 73", r"domains\.fmi\.leads: .*less than or equal to 72, got 73"),
        ("step_minutes = 5\nname = 'x'", r"domains\.fmi\.name: expected the name in \[domains\.NAME\] only"),
        (
            "step_minutes = 5\nname = 'fmi'",
            r"domains\.fmi\.name: expected the name in \[domains\.NAME\] only",
        ),
        ("step_minutes = 5\nleads = true", r"domains\.fmi\.leads: .*valid integer, got True"),
        ("step_minutes = 5\nmax_dbz = true", r"domains\.fmi\.max_dbz: .*valid number, got True"),
        ("step_minutes = 5\nzr = { a = 200 }", r"domains\.fmi\.zr\.b: field required"),
        ("step_minutes =", r"not TOML: .*line 2"),
    ],
)
def test_a_wrong_key_is_named_with_what_was_expected(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_domains(write(tmp_path, f"[domains.fmi]\n{line}\n"))


@pytest.mark.parametrize("name", ["FMI", "../etc", "a b", "-x", "x" * 49])
def test_a_domain_name_that_is_no_folder_and_url_part_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="expected a name of lower-case letters"):
        load_domains(write(tmp_path, f'[domains."{name}"]\nstep_minutes = 5\n'))


def test_a_file_without_domains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="domains: field required"):
        load_domains(write(tmp_path, ""))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: expected a TOML file of domains; No such file"):
        load_domains(tmp_path / "absent.toml")


def test_every_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOWCAST_PORT", "http")
    monkeypatch.setenv("NOWCAST_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match=r"NOWCAST_PORT: .*got 'http'.*NOWCAST_LOG_LEVEL: .*got 'loud'"):
        load_settings()


def test_an_unknown_domain_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    settings = load_settings(domains_file=write(tmp_path, "[domains.fmi]\nstep_minutes = 5\n"))
    with pytest.raises(UnknownDomain, match="there is no domain 'dwd'; configured are fmi"):
        settings.domain("dwd")
