"""The description is complete, documented, and true: what schemathesis asks of a real server agrees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import schemathesis
from hypothesis import Phase, given, settings
from jsonschema import Draft202012Validator
from north import NORTH, Client, settings_for
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from api.app import create_app
from api.pages import PAGES

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "api.md"


@pytest.fixture(scope="module")
def description() -> dict:
    return create_app(settings_for(Path("nowhere"))).openapi()


def paths(description: dict) -> set[str]:
    return {*description["paths"], *(path for path in PAGES if not path.startswith("/static"))}


def test_every_endpoint_is_documented_and_nothing_else_is(description: dict) -> None:
    table = re.findall(r"^\| `(/[^`]*)` \|", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(table) == paths(description)
    assert len(table) == len(set(table))


def test_every_query_parameter_is_documented(description: dict) -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    names = {p["name"] for path in description["paths"].values() for p in path["get"].get("parameters", [])}
    assert names >= {"lat", "lon", "lead", "theme", "model", "threshold", "from", "to", "limit", "format"}
    for name in names:
        assert re.search(rf"[?&`{{]{name}[&=`}}]", text), name


def test_everything_is_described_and_has_examples(description: dict) -> None:
    for path, operations in description["paths"].items():
        operation = operations["get"]
        assert operation["summary"] and operation["description"], path
        for parameter in operation.get("parameters", []):
            if parameter["name"] in ("limit", "theme"):
                continue
            assert parameter["description"], (path, parameter["name"])
            assert '"examples"' in json.dumps(parameter), (path, parameter["name"])
    for name, schema in description["components"]["schemas"].items():
        assert schema.get("description"), name


def test_errors_are_described_as_the_problems_they_are(description: dict) -> None:
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for path, operations in description["paths"].items():
        for status, response in operations["get"]["responses"].items():
            if status.startswith(("4", "5")):
                assert list(response["content"]) == ["application/problem+json"], path
        assert {"406", "422"} <= set(operations["get"]["responses"]), path


@pytest.mark.anyio
async def test_answers_are_what_the_description_says(client: Client, description: dict) -> None:
    asked = {"{domain}": "north", "{issue_time}": "latest", "{time}": "latest"}
    validated = 0
    for path, operations in description["paths"].items():
        content = operations["get"]["responses"]["200"]["content"].get("application/json")
        if content is None:
            continue
        for placeholder, value in asked.items():
            path = path.replace(placeholder, value)
        answer = await client.get(path, params={"lat": 60, "lon": 25} if path.endswith("point") else {})
        schema = {**content["schema"], "components": description["components"]}
        Draft202012Validator(schema).validate(answer.json())
        validated += 1
    assert validated == 10


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_schemathesis_finds_no_contradiction(server: str, mode: GenerationMode) -> None:
    config = schemathesis.Config.from_dict({"parameters": {"domain": NORTH.name}})  # any other is a 404
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json", config=config)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 14
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not any(operation.query):
            continue  # there is no path that is not text

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=8, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
        def agrees(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=server, checks=CHECKS)

        agrees()
