"""The Compose file: every part is confined, starts after what it needs, and keeps what must be kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

Service = dict[str, Any]

PARTS = ("ingest", "infer", "verify", "api")


@pytest.fixture(scope="module")
def compose(project: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((project / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Service]:
    loaded: dict[str, Service] = compose["services"]
    return loaded


def environment(service: Service) -> dict[str, str]:
    loaded: dict[str, str] = service.get("environment", {})
    return loaded


def test_the_parts_are_those_of_the_architecture(services: dict[str, Service]) -> None:
    assert set(services) == {"valkey", *PARTS, "prometheus", "grafana"}
    for part in ("ingest", "infer", "verify"):
        assert services[part]["command"] == ["worker", part]
        assert services[part]["build"]["target"] == "worker"
    assert services["api"]["build"]["target"] == "api"


def test_foreign_images_are_pinned_to_a_release(services: dict[str, Service]) -> None:
    for name in ("valkey", "prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+(-[\w.]+)?$", services[name]["image"]), services[name]["image"]


def test_every_part_is_confined(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        limits = service["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory"}, name


def test_every_part_comes_back_after_a_crash_and_its_log_is_bounded(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


def test_parts_start_once_the_broker_answers(services: dict[str, Service]) -> None:
    assert services["valkey"]["healthcheck"]["test"] == ["CMD", "valkey-cli", "ping"]
    for part in PARTS:
        assert services[part]["depends_on"] == {"valkey": {"condition": "service_healthy"}}
        assert environment(services[part])["NOWCAST_REDIS_URL"] == "redis://valkey:6379/0"


def test_the_broker_keeps_its_streams_through_a_restart_and_never_evicts_them(
    services: dict[str, Service], compose: dict[str, Any]
) -> None:
    command = services["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--dir"] == "/data"
    assert services["valkey"]["volumes"] == ["broker:/data"]
    assert "broker" in compose["volumes"]
    # Streams have no time to live, so neither policy ever touches them.
    assert options["--maxmemory-policy"] in {"noeviction", "volatile-lru", "volatile-ttl", "volatile-lfu"}


def test_the_broker_has_room_to_rewrite_its_log_within_its_memory(services: dict[str, Service]) -> None:
    command = services["valkey"]["command"]
    largest = command[command.index("--maxmemory") + 1]
    limit = services["valkey"]["deploy"]["resources"]["limits"]["memory"]
    assert 2 * int(largest.removesuffix("mb")) <= int(limit.removesuffix("m"))


def test_the_reading_process_fits_into_the_memory_of_ingest(services: dict[str, Service]) -> None:
    from nowcast.settings import Settings

    default = Settings.model_fields["read_memory_mb"].default
    asked = int(environment(services["ingest"]).get("NOWCAST_READ_MEMORY_MB", default))
    limit = services["ingest"]["deploy"]["resources"]["limits"]["memory"]
    assert asked < 1024 * int(limit.removesuffix("g"))


def test_all_parts_share_one_data_directory_which_the_api_only_reads(
    services: dict[str, Service], compose: dict[str, Any]
) -> None:
    for part in PARTS:
        data, config = services[part]["volumes"]
        assert data == "${DATA_VOLUME:-data}:/data" + (":ro" if part == "api" else "")
        assert config == "${CONFIG_DIR:-./deploy}:/etc/nowcast:ro"
    assert "data" in compose["volumes"]


def test_only_the_api_listens_beyond_this_machine(services: dict[str, Service]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published.pop("api") == ["${API_ADDRESS:-0.0.0.0}:${API_PORT:-8000}:8000"]
    assert set(published) == {"prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_variables_passed_on_are_settings(services: dict[str, Service], variables: frozenset[str]) -> None:
    passed = {key for part in PARTS for key in environment(services[part])} - {"TZ"}
    assert passed - variables == set()


def test_every_file_and_folder_mounted_exists_and_every_volume_is_declared(
    project: Path, services: dict[str, Service], compose: dict[str, Any]
) -> None:
    for service in services.values():
        for volume in service["volumes"]:
            source = re.sub(r"^\$\{\w+:-([^}]+)\}", r"\1", volume).split(":")[0]
            assert (project / source).exists() if source.startswith(".") else source in compose["volumes"]
    assert (project / "deploy" / "nowcast.toml").is_file()


def test_the_example_lists_every_variable_with_its_default(project: Path) -> None:
    text = (project / "docker-compose.yml").read_text()
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    example = (project / "deploy" / "compose.env.example").read_text()
    assert dict(re.findall(r"^(\w+)=(.*)$", example, re.M)) == used
