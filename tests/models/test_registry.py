"""The registry lists what the project promises: every network, in two sizes, and a page on them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.registry import NETWORKS, PRESETS, build, forecasters

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text()

#: Most parameters of a network for two cores.
SMALL = 800_000


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("_cpu")])
def test_networks_for_two_cores_are_small_and_have_a_bigger_sibling(name):
    family = name.removesuffix("_cpu")
    assert sum(parameter.numel() for parameter in build(PRESETS[name]).parameters()) <= SMALL
    assert any(other.startswith(f"{family}_") for other in PRESETS if other != name)


def test_every_configuration_is_used_and_describes_its_own_network():
    assert {type(config) for config in PRESETS.values()} == set(NETWORKS)
    assert all(
        isinstance(build(config), NETWORKS[type(config)]) for name, config in PRESETS.items() if "cpu" in name
    )


def test_all_but_the_classifier_forecast():
    assert set(PRESETS) - set(forecasters()) == {"fanet_cpu", "fanet_paper"}


def test_the_page_names_every_network_and_its_explanations():
    rows = dict(re.findall(r"^\| (`.+?) \|.*\| (.*?) ?\|$", PAGE, re.MULTILINE))
    named = {name for names in rows for name in re.findall(r"`(\w+)`", names)}
    assert named == {name.removesuffix("_cpu") for name in PRESETS if name.endswith("_cpu")}
    for names, explanations in rows.items():
        name = re.findall(r"`(\w+)`", names)[0]
        network = build(PRESETS.get(f"{name}_plain", PRESETS[f"{name}_cpu"]))
        for explanation in re.findall(r"`(\w+)`", explanations):
            assert explanation in (type(network).__doc__ or ""), f"{explanation} of {names}"


def test_the_example_on_the_page_runs():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, object] = {}
    exec(example, scope)
    forecast = scope["forecast"]
    assert forecast["pred"].shape == (1, 12, 1, 128, 128)
    assert "importance_of_time" in forecast["aux"]
