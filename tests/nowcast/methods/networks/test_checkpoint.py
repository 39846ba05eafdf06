"""Checkpoints: what was saved comes back exactly, and anything else is refused with a clear sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.addl import ADDLConfig
from models.convlstm import ConvLSTMConfig
from models.registry import PRESETS, build
from models.stmoe.network import STMoEConfig
from nowcast.errors import StorageError
from nowcast.methods.networks import checkpoint
from nowcast.methods.networks.checkpoint import (
    LATER_FIELDS,
    Card,
    CheckpointError,
    Source,
    Task,
    load,
    save,
    upgrade,
    verify,
)
from nowcast.methods.networks.plain_data import from_plain, to_plain
from nowcast.methods.networks.versions import SHIPPED

#: Folders of the package's weights that were saved before format 3.
FORMAT_2 = sorted(
    path.parent for path in SHIPPED.glob("*/config.json") if json.loads(path.read_text())["format"] == 2
)
SMALL = ConvLSTMConfig(hidden=(4,), patch=2)
TASK = Task(frames=5, leads=12, step_minutes=5.0, cell_km=1.0)
CARD = Card(
    SMALL,
    TASK,
    data=(Source("Finnish Meteorological Institute", "composite", "CC BY 4.0", "2024-06 to 2024-08"),),
    git_hash="0123abc",
    scores={"csi_20dbz_30min": 0.51, "csi_40dbz_60min": None},
)


def network(config: Any = SMALL, seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "weights", network(), CARD)
    return tmp_path / "weights"


def rewrite(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **changes}))


def reweigh(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Put other weights into a checkpoint, with a hash that fits."""
    path = folder / "weights.safetensors"
    save_file(tensors, path)
    facts = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
    rewrite(folder, weights={**facts, "parameters": 1})


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("_cpu")])
def test_every_network_comes_back_as_it_was(name, tmp_path):
    saved = network(PRESETS[name])
    with torch.no_grad():
        for number, parameter in enumerate(saved.parameters()):
            parameter.add_(0.01 * (number + 1))
    sha256 = save(tmp_path, saved, Card(PRESETS[name], TASK))
    loaded = load(tmp_path)
    assert loaded.card == Card(PRESETS[name], TASK)
    assert loaded.sha256 == sha256
    assert type(loaded.network) is type(saved)
    assert not loaded.network.training
    state = saved.state_dict()
    assert loaded.network.state_dict().keys() == state.keys()
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, state[key]), key
    buffers = dict(saved.named_buffers())
    for key, value in loaded.network.named_buffers():
        assert torch.equal(value, buffers[key]), f"{key}, which may not be in the file"
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["preset"] == name
    assert document["weights"]["parameters"] == sum(value.numel() for value in state.values())


def test_all_that_the_card_says_comes_back(folder):
    assert load(folder).card == verify(folder) == CARD


def test_the_version_is_the_hash_of_the_file(folder):
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert load(folder).sha256 == digest


def test_half_precision_halves_the_file_and_comes_back_in_single(folder, tmp_path):
    saved = network()
    save(tmp_path / "half", saved, CARD, half=True)
    sizes = [(where / "weights.safetensors").stat().st_size for where in (tmp_path / "half", folder)]
    assert sizes[0] < 0.7 * sizes[1]
    for key, value in load(tmp_path / "half").network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, saved.state_dict()[key], rtol=1e-3, atol=1e-4)


def test_weights_too_large_for_half_precision_are_refused_and_nothing_is_written(tmp_path):
    saved = network()
    with torch.no_grad():
        saved.head.weight[0] = 1e6
    with pytest.raises(CheckpointError, match=r"expected finite weights, got others in head\.weight"):
        save(tmp_path / "half", saved, CARD, half=True)
    assert not (tmp_path / "half").exists()


def test_saving_again_replaces_and_leaves_nothing_else(folder):
    save(folder, network(seed=2), CARD)
    assert torch.equal(load(folder).network.head.weight, network(seed=2).head.weight)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights.safetensors"]


def test_the_description_is_written_last_and_both_are_on_the_disk(tmp_path, monkeypatch):
    events = []
    fsync, replace_file = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda path, to: (events.append(to.name), replace_file(path, to)))
    save(tmp_path, network(), CARD)
    assert events == ["fsync", "weights.safetensors", "fsync", "fsync", "config.json", "fsync"]


def test_a_writer_that_dies_half_way_leaves_an_error_and_no_wrong_weights(folder, monkeypatch):
    replace_file = os.replace

    def die(path: Path, to: Path) -> None:
        if to.name == "config.json":
            raise KeyboardInterrupt
        replace_file(path, to)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save(folder, network(seed=2), CARD)
    assert not list(folder.glob(".*")), "no partial file is left"
    with pytest.raises(CheckpointError, match="is not what was saved: expected sha256"):
        load(folder)


def test_a_full_disk_is_named_and_the_weights_that_were_there_stay(folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"cannot write .*weights\.safetensors: the disk is full"):
        save(folder, network(seed=2), CARD)
    assert torch.equal(load(folder).network.head.weight, network().head.weight)
    assert not list(folder.glob(".*")), "no partial file is left"


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_unpickled(folder, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    content = pickle.dumps({"head.weight": Harm()})
    (folder / "weights.safetensors").write_bytes(content)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "parameters": 1}
    rewrite(folder, weights=facts)
    with pytest.raises(CheckpointError, match="expected safetensors"):
        load(folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    for read in (load, verify):
        with pytest.raises(CheckpointError, match=rf"there is no .*{name}"):
            read(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_truncated_weights_are_refused(folder, keep):
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    for read in (load, verify):
        with pytest.raises(CheckpointError, match=f"is damaged: expected {len(content)} bytes, got "):
            read(folder)


def test_a_file_that_goes_on_is_not_read(folder):
    with (folder / "weights.safetensors").open("ab") as file:
        file.truncate(1 << 33)
    with pytest.raises(CheckpointError, match=r"expected at most \d+ bytes, got 8589934592"):
        load(folder)


def test_one_changed_bit_is_refused(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for read in (load, verify):
        with pytest.raises(CheckpointError, match=r"is not what was saved: expected sha256 .*, got "):
            read(folder)


def test_weights_that_are_not_finite_are_refused_though_the_hash_fits(folder):
    tensors = load_file(folder / "weights.safetensors")
    tensors["head.bias"][0] = float("nan")
    reweigh(folder, tensors)
    with pytest.raises(CheckpointError, match=r"expected finite weights, got others in head\.bias"):
        load(folder)


def test_weights_of_another_network_are_refused(folder):
    tensors = load_file(folder / "weights.safetensors")
    reweigh(folder, {**tensors, "surprise": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"0 are missing \[\], 1 are unknown \['surprise'\]"):
        load(folder)
    del tensors["head.bias"]
    reweigh(folder, tensors)
    with pytest.raises(CheckpointError, match=r"1 are missing \['head.bias'\], 0 are unknown"):
        load(folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(5), r"head\.bias: expected weights \(4,\), got \(5,\)"),
        (torch.zeros(4, dtype=torch.int64), r"head\.bias: expected torch\.float32, got torch\.int64"),
        (torch.zeros(4, dtype=torch.complex64), r"head\.bias: expected torch\.float32, got torch\.complex64"),
    ],
)
def test_a_weight_of_another_shape_or_kind_is_refused(folder, wrong, message):
    reweigh(folder, {**load_file(folder / "weights.safetensors"), "head.bias": wrong})
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_card_that_describes_another_network_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="expected weights"):
        save(tmp_path / "a", network(), replace(CARD, config=ConvLSTMConfig(hidden=(8,), patch=2)))
    assert not (tmp_path / "a").exists()


def test_a_description_of_another_size_is_refused(folder):
    rewrite(folder, config=to_plain(ConvLSTMConfig(hidden=(8,), patch=2)))
    with pytest.raises(CheckpointError, match="expected weights"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 4}, "expected a format of at most 3, got 4"),
        ({"format": "1"}, "expected a format of at most 3, got '1'"),
        ({"format": True}, "expected a format of at most 3, got True"),
        ({"kind": "os.system"}, "kind: expected one of .*ConvLSTMConfig.*, got 'os.system'"),
        ({"kind": 3}, "kind: expected str, got 3"),
        ({"surprise": 1}, "surprise: expected no such field, got 1"),
        ({"config": {"hidden": [4]}}, "config: expected the fields of ConvLSTMConfig, got no conditioned"),
        ({"config": None}, "config: expected ConvLSTMConfig, got null"),
        ({"config": to_plain(SMALL) | {"hidden": 4}}, "config.hidden: expected a list, got 4"),
        ({"config": to_plain(SMALL) | {"hidden": [4.0]}}, r"config.hidden\[0\]: expected int, got 4.0"),
        ({"config": to_plain(SMALL) | {"hidden": [True]}}, r"config.hidden\[0\]: expected int, got True"),
        ({"config": to_plain(SMALL) | {"peephole": 0}}, "config.peephole: expected bool, got 0"),
        ({"config": to_plain(SMALL) | {"extra": 0}}, "config.extra: expected no such field, got 0"),
        ({"config": to_plain(SMALL) | {"hidden": [10**9]}}, "expected whole numbers of at most 16384"),
        ({"config": to_plain(SMALL) | {"hidden": [1] * 10**4}}, "expected lists of at most 256, got one of"),
        (
            {"task": to_plain(TASK) | {"cell_km": 0.0}},
            "expected frames, leads, step and cell that are positive",
        ),
        ({"task": to_plain(TASK) | {"step_minutes": 10**400}}, "task.step_minutes: expected a finite number"),
        ({"scores": {"csi": "high"}}, "scores.csi: expected float, got 'high'"),
        ({"data": [{"agency": "FMI"}]}, r"data\[0\]: expected the fields of Source, got no licence, period"),
        ({"normalisation": {"low_dbz": 0.0, "high_dbz": 70.0}}, "expected -10 to 60 dBZ, got 0 to 70"),
        ({"preset": "x" * 70_000}, "expected at most 65536 bytes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_description_that_was_tampered_with_is_refused_by_name(folder, changes, message):
    rewrite(folder, **changes)
    for read in (load, verify):
        with pytest.raises(CheckpointError, match=message):
            read(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2",
        "[]",
        "null",
        "[" * 50_000,
        '{"format": ' + "9" * 5000 + "}",
        '{"format": NaN}',
        "\ud800\udc00",
    ],
    ids=["empty", "cut off", "list", "null", "deep", "long number", "nan", "not UTF-8"],
)
def test_hostile_json_is_refused(folder, text):
    (folder / "config.json").write_bytes(
        text.encode("utf-16-be" if text.startswith("\ud800") else "utf-8", "surrogatepass")
    )
    with pytest.raises(CheckpointError):
        load(folder)


def test_a_description_nested_to_any_depth_is_refused(folder):
    document = json.loads((folder / "config.json").read_text())
    del document["config"]
    start = json.dumps(document)[:-1] + ', "config": '
    for depth in (*range(1, 900, 100), *range(900, 1001)):
        (folder / "config.json").write_text(start + "[" * depth + "]" * depth + "}")
        with pytest.raises(CheckpointError):
            verify(folder)


def test_a_description_of_a_network_larger_than_memory_is_refused_before_it_is_built(folder, monkeypatch):
    devices = []

    def noted(config):
        devices.append(torch.get_default_device().type)
        return build(config)

    monkeypatch.setattr(checkpoint, "build", noted)
    rewrite(folder, config=to_plain(SMALL) | {"hidden": [16_000] * 200})
    with pytest.raises(CheckpointError, match="of another network"):
        load(folder)
    assert devices == ["meta"], "where tensors take no memory"


def test_format_0_had_one_normalisation_and_the_names_of_wrappers(folder):
    tensors = load_file(folder / "weights.safetensors")
    old = {
        "module." + name.replace("encoder.0", "encoder.0._orig_mod"): value for name, value in tensors.items()
    }
    reweigh(folder, old)
    document = json.loads((folder / "config.json").read_text())
    del document["normalisation"], document["task"]["moving"]
    (folder / "config.json").write_text(json.dumps({**document, "format": 0}))
    loaded = load(folder)
    assert loaded.card == CARD
    assert torch.equal(loaded.network.head.weight, tensors["head.weight"])


def test_format_1_knew_no_moving_frame(folder):
    document = json.loads((folder / "config.json").read_text())
    assert document["format"] == 3
    del document["task"]["moving"]
    (folder / "config.json").write_text(json.dumps({**document, "format": 1}))
    assert load(folder).card == verify(folder) == CARD
    assert CARD.task.moving is False
    rewrite(folder, format=2)
    with pytest.raises(CheckpointError, match="task: expected the fields of Task, got no moving"):
        load(folder)


@pytest.mark.parametrize("task", [None, 3, []])
def test_format_1_without_a_task_is_refused_all_the_same(folder, task):
    rewrite(folder, format=1, task=task)
    with pytest.raises(CheckpointError, match="task: expected Task, got"):
        load(folder)


@pytest.mark.parametrize("shipped", FORMAT_2, ids=lambda folder: folder.name)
def test_weights_of_format_2_are_those_of_a_configuration_without_the_later_fields(shipped, tmp_path):
    document = json.loads((shipped / "config.json").read_text())
    loaded = load(shipped)
    tensors = load_file(shipped / "weights.safetensors")
    state = loaded.network.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[key].to(value.dtype)) for key, value in state.items())
    later = LATER_FIELDS.get(document["kind"], {})
    assert to_plain(loaded.card.config) | document["config"] == document["config"] | later
    save(tmp_path, loaded.network, loaded.card)
    again = load(tmp_path)
    assert again.card == loaded.card
    assert all(torch.equal(value, state[key]) for key, value in again.network.state_dict().items())


def test_format_3_has_every_field(folder):
    config = to_plain(SMALL)
    del config["frame_channels"]
    rewrite(folder, config=config)
    for read in (load, verify):
        with pytest.raises(CheckpointError, match="fields of ConvLSTMConfig, got no frame_channels"):
            read(folder)
    rewrite(folder, format=2)
    assert load(folder).card == verify(folder) == CARD


def test_configurations_inside_others_get_the_later_fields_too(monkeypatch):
    config = to_plain(STMoEConfig(variant="id"))
    del config["frame_channels"], config["translation"]["small"]
    monkeypatch.setitem(checkpoint.LATER_FIELDS, "ADDLConfig", {"small": "all"})
    document, _ = upgrade({"format": 2, "kind": "STMoEConfig", "config": config}, {})
    upgraded = from_plain(STMoEConfig, document["config"])
    assert upgraded == STMoEConfig(variant="id", translation=ADDLConfig(small="all"))


@pytest.mark.parametrize("kind", ["ConvLSTMConfig", "os.system", ["ConvLSTMConfig"], None])
@pytest.mark.parametrize("config", [None, 3, []])
def test_format_2_without_a_configuration_is_refused_all_the_same(folder, kind, config):
    rewrite(folder, format=2, kind=kind, config=config)
    with pytest.raises(CheckpointError, match=r"expected ConvLSTMConfig, got|kind: expected"):
        load(folder)


def test_a_card_says_whether_the_network_sees_the_moving_air(tmp_path):
    moving = replace(CARD, task=replace(TASK, moving=True))
    save(tmp_path, network(), moving)
    assert load(tmp_path).card == moving
    assert json.loads((tmp_path / "config.json").read_text())["task"]["moving"] is True


def test_the_present_format_is_left_as_it_is(folder):
    document, tensors = {"format": 3, "kind": "x"}, {"module.a": torch.zeros(1)}
    assert upgrade(document, tensors) == (document, tensors)


def test_a_folder_that_may_not_be_read_is_named(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: Is a directory"):
        load(folder)


@dataclass(frozen=True)
class Inner:
    depth: float = 1


@dataclass(frozen=True)
class Outer:
    pair: tuple[int, str] = (3, "a")
    names: tuple[str, ...] = ()
    choice: Literal["x", "y"] = "x"
    maybe: int | None = None
    inner: Inner | None = None
    nested: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    "value",
    [Outer(), Outer((1, "b"), ("p", "q"), "y", 4, Inner(2.5), (Inner(), Inner(0.1)))],
)
def test_configurations_survive_json(value):
    assert from_plain(Outer, json.loads(json.dumps(to_plain(value)))) == value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pair", [3], r"pair\[1\]: expected a value, got none"),
        ("pair", [3, "a", 5], "pair: expected a list of 2"),
        ("pair", [3, 4], r"pair\[1\]: expected str, got 4"),
        ("choice", "z", "choice: expected 'x' or 'y', got 'z'"),
        ("maybe", 1.0, "maybe: expected int, got 1.0"),
        ("inner", {}, "inner: expected the fields of Inner, got no depth"),
        ("nested", [{"depth": "deep"}], r"nested\[0\].depth: expected float, got 'deep'"),
    ],
)
def test_a_slip_in_a_configuration_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        from_plain(Outer, to_plain(Outer()) | {field: value})


@pytest.mark.parametrize("value", [Outer(maybe={1, 2}), Outer(names=[1]), Inner(float("inf"))])
def test_what_json_cannot_hold_is_not_written(value):
    with pytest.raises((TypeError, ValueError)):
        to_plain(value)
