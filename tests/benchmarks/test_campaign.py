"""The campaign: real workers that are killed, paused and ended, and a screen that tells how far they are."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import campaigner
import pytest
import torch
import trainable
from campaigner import TUNED, Quick, small_campaign
from patience import wait_until
from rich.console import Console

from benchmarks.campaign import processes, work
from benchmarks.campaign.__main__ import options_of, worker_command
from benchmarks.campaign.folder import Campaign, freeze, frozen
from benchmarks.campaign.plans import ENTRIES, run_name
from benchmarks.campaign.progress import Row, Status, status
from benchmarks.campaign.screen import WIDTH, show, sparkline
from models.registry import PRESETS
from nowcast.archive.archive import Archive
from nowcast.names import NETWORKS


@pytest.fixture
def tiny() -> Iterator[None]:
    kept = dict(PRESETS)
    trainable.use_tiny_networks()
    yield
    PRESETS.update(kept)


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Campaign]:
    """A small campaign, none of whose workers outlives the test."""
    campaign = small_campaign(tmp_path / "campaign")
    yield campaign
    for folder in tmp_path.iterdir():  # it may have moved
        for process in processes.running(Campaign(folder)).values():
            os.killpg(process.pid, signal.SIGKILL)
    while STARTED:
        STARTED.pop().wait()


#: Workers that tests started.
STARTED: list[subprocess.Popen[bytes]] = []


def start(campaign: Campaign, steps: int = 100_000) -> list[int]:
    """Start the one worker of a test, for more steps than it will take; return which were started."""
    command = [sys.executable, campaigner.__file__, str(campaign.root), str(steps)]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    begun = processes.start(campaign, command, workers=1, environment=environment)
    STARTED.extend(begun.values())
    return list(begun)


def told(campaign: Campaign) -> dict[str, Any]:
    """Return what the newest run noted, nothing before there is one."""
    (path,) = [*campaign.runs.glob("*/progress.json")] or [None]
    content: dict[str, Any] = json.loads(path.read_bytes()) if path else {}
    return content


def checkpoint_step(campaign: Campaign) -> int:
    """Return the step of the last checkpoint, 0 without one."""
    for path in campaign.runs.glob("*/run/rain/last.ckpt"):
        return int(torch.load(path, weights_only=True)["global_step"])
    return 0


def cpu_ticks(pid: int) -> int:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def printed(now: Status) -> list[str]:
    text = io.StringIO()
    show(now, Console(file=text, width=WIDTH))
    return text.getvalue().splitlines()


@pytest.mark.slow  # three processes import PyTorch
def test_a_killed_campaign_goes_on_rests_and_ends(campaign: Campaign) -> None:
    assert start(campaign) == [0]
    wait_until(lambda: checkpoint_step(campaign) >= 20)
    (worker,) = processes.running(campaign).values()
    assert start(campaign) == [], "one that runs is not started again"
    assert os.getpgid(worker.pid) == os.getsid(worker.pid) == worker.pid != os.getpgid(0)
    assert os.getpriority(os.PRIO_PROCESS, worker.pid) == 19
    os.killpg(worker.pid, signal.SIGKILL)
    wait_until(lambda: not worker.state)
    kept = checkpoint_step(campaign)
    (row,) = status(campaign).rows
    assert (row.model, row.state, row.steps) == ("convlstm", "stopped", 100_000)
    assert "no worker runs" in "\n".join(printed(status(campaign)))

    campaign.root.rename(campaign.root.with_name("moved"))
    campaign = Campaign(campaign.root.with_name("moved"))
    assert start(campaign) == [0]
    wait_until(lambda: told(campaign).get("began") and status(campaign).rows[0].state == "training")
    assert told(campaign)["began"] == kept + 1, "it goes on with the step after the checkpoint"
    wait_until(lambda: len(status(campaign).rows[0].validation["csi"]) > 3)
    (csv,) = campaign.runs.glob("*/run/rain/curves.csv")
    steps = [int(line.partition(",")[0]) for line in csv.read_text().splitlines()[1:]]
    assert steps == sorted(steps) and {10, 20, 30, 40} <= set(steps)

    (worker,) = processes.running(campaign).values()
    assert processes.pause(campaign) == 1
    assert status(campaign).workers == {0: "T"}
    before = cpu_ticks(worker.pid)
    with pytest.raises(AssertionError, match="in vain"):
        wait_until(lambda: cpu_ticks(worker.pid) > before + 2, seconds=1)
    lines = printed(status(campaign))
    assert "1 worker, paused: make campaign-continue" in lines[2] + lines[1]
    assert max(map(len, lines)) <= WIDTH
    assert processes.go_on(campaign) == 1
    wait_until(lambda: cpu_ticks(worker.pid) > before + 20)

    processes.pause(campaign)  # one that is paused can be ended, too
    assert processes.stop(campaign) == 1
    assert not worker.state
    ended = checkpoint_step(campaign)
    assert start(campaign) == [0]
    wait_until(lambda: told(campaign)["process"]["pid"] != worker.pid and told(campaign).get("began"))
    assert told(campaign)["began"] == ended + 1
    assert processes.stop(campaign) == 1
    assert processes.running(campaign) == {}


def test_a_worker_understands_what_it_is_started_with(tmp_path: Path) -> None:
    _, module, name, *words = worker_command(Campaign(tmp_path), tmp_path / "raw")
    assert (module, name) == ("-m", "benchmarks.campaign")
    options = options_of([*words, "7"])
    told = (options.action, options.folder, options.raw, options.worker)
    assert told == ("work", tmp_path, tmp_path / "raw", 7)


def test_a_number_of_another_process_is_not_believed(campaign: Campaign) -> None:
    mine = processes.this_process()
    assert processes.noted(asdict(mine)) == mine
    for other in (
        replace(mine, started=mine.started - 1),
        replace(mine, boot="an earlier one"),
        replace(mine, pid=2**22 + 1),
    ):
        campaign.workers.mkdir(parents=True, exist_ok=True)
        (campaign.workers / "0.json").write_text(json.dumps(asdict(other)))
        assert processes.running(campaign) == {}
        assert processes.stop(campaign) == 0, "nothing is sent to a stranger"
    (campaign.workers / "0.json").write_text(json.dumps(asdict(mine)))
    assert processes.running(campaign) == {0: mine}
    (campaign.workers / "0.json").unlink()


def test_two_cannot_claim_the_same_and_a_dead_one_claims_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    with work.claimed(lock) as first, work.claimed(lock) as second:
        assert (first, second) == (True, False)
    hold = (
        "import sys, time; from pathlib import Path; from benchmarks.campaign.work import claimed\n"
        "with claimed(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with work.claimed(lock) as mine:
        assert not mine
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with work.claimed(lock) as mine:
        assert mine


@pytest.mark.usefixtures("tiny")
def test_finished_networks_are_trained_again_and_failed_ones_left(campaign: Campaign) -> None:
    archive = Archive(campaign.archive)
    wrong, right = Quick("exceedance", 1), Quick("convlstm", 1)
    entries = [wrong, right]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Quick, "plan", _without_crop(Quick.plan))
        for _ in range(3):  # exceedance fails, convlstm is trained, and once more
            assert work.take_next(campaign, archive, (TUNED,), entries)
        assert not work.take_next(campaign, archive, (TUNED,), [wrong])
        first, second = (campaign.runs / run_name(right.plan(number, (TUNED,)), number) for number in (1, 2))
    assert (first / "finished.json").exists() and (second / "finished.json").exists()
    seeds = [json.loads((run / "plan.json").read_text())["plan"]["seed"] for run in (first, second)]
    assert seeds == [0, 1]
    assert all((second / name).exists() for name in ("weights.safetensors", "card.md", "skill.json"))
    rows = {row.model: row for row in status(campaign).rows}
    assert rows["exceedance"].state == "failed"
    assert rows["exceedance"].error.startswith("ValueError: expected squares of at most 48 cells, got 64")


def _without_crop(plan: Any) -> Any:
    """Return plans whose squares are larger than tiles, of the network that is to fail."""

    def wrong(entry: Quick, *words: Any) -> Any:
        made = plan(entry, *words)
        return replace(made, crop=64) if entry.model == "exceedance" else made

    return wrong


def test_every_network_for_two_cores_has_an_entry(project_weights: set[str]) -> None:
    models = [entry.model for entry in ENTRIES]
    assert len(set(models)) == len(models)
    assert set(models) == {name for name, preset in NETWORKS.items() if preset == f"{name}_cpu"}
    assert {name for name in project_weights if name in NETWORKS} <= set(models)
    assert models[:2] == ["scs", "crn"]


def test_a_first_round_begins_with_the_weights_of_the_package_if_they_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert work.shipped("scs") == work.SHIPPED / "scs"
    assert work.shipped("e3d") is None, "there are none yet"
    monkeypatch.setitem(PRESETS, NETWORKS["scs"], PRESETS[NETWORKS["crn"]])
    assert work.shipped("scs") is None, "they are of another network"


@pytest.fixture
def project_weights() -> set[str]:
    return {path.name for path in (Path(work.__file__).parents[2] / "nowcast" / "weights").iterdir()}


def test_another_plan_or_network_has_another_folder() -> None:
    entry = ENTRIES[1]
    plan = entry.plan(1, ("a",))
    names = {
        run_name(plan, 1),
        run_name(entry.plan(2, ("a",)), 2),
        run_name(entry.plan(1, ("a", "b")), 1),
        run_name(replace(plan, patience=99), 1),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, NETWORKS["crn"], PRESETS[NETWORKS["unet"]])
        names.add(run_name(plan, 1))
    assert len(names) == 5
    assert run_name(plan, 1) == run_name(entry.plan(1, ("a",)), 1)


def test_the_screen_has_80_columns_and_one_line_a_network() -> None:
    long = Row(
        "convlstm_hourglass", 9, "preparing", "", 123_456, 999_400, 123.456, 9e6, 0.0,
        {"gain": [-12.34, 45.6, 44.4] * 9, "csi": [0.1] * 27},
    )  # fmt: skip
    short = Row("mim", state="failed", error="ValueError: " + "no " * 60, validation={"csi": [0.1, 0.3, 0.2]})
    now = Status(
        "/a/folder" * 20, "campaign-20260101T0101-0-gabcdef0", {0: "R", 1: "T"}, 12, [long, short], 9.0
    )
    lines = printed(now)
    assert max(map(len, lines)) <= WIDTH
    (line,) = [line for line in lines if line.startswith("convlstm_hourglass")]
    for part in ("9 preparing", "123k/999k", "123", "2500 h", "gain", "-12.3", "+45.6", "+44.4"):
        assert part in line, line
    (line,) = [line for line in lines if line.startswith("mim  ")]
    assert line.split()[-5:] == ["csi", "0.100", "0.300", "0.200", "▁█▅"]
    (line,) = [line for line in lines if "workers" in line]
    assert line == "2 workers, 1 paused; gathering the archive, 12 domains so far; noted 9 s ago"


def test_a_curve_has_its_ends() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline(list(range(100)), 5) == "▁▃▅▆█"


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)


def test_the_code_is_frozen_until_it_is_renewed(tmp_path: Path) -> None:
    repository, campaign = tmp_path / "repository", Campaign(tmp_path / "campaign")
    repository.mkdir()
    git(repository, "init")
    for name, value in (("user.name", "Nobody"), ("user.email", "nobody@example.org")):
        git(repository, "config", name, value)
    for text in ("one", "two"):
        (repository / "text").write_text(text)
        git(repository, "add", "text")
        git(repository, "commit", "-m", text)
        (repository / "text").write_text("not committed")
        tag = freeze(repository, campaign)
        assert (campaign.code / "text").read_text() == "one"
        assert tag == frozen(campaign)
        assert tag.startswith("campaign-2")
    (campaign.state / "data").mkdir(parents=True)
    assert freeze(repository, campaign, anew=True) != tag
    assert (campaign.code / "text").read_text() == "two"
    assert (campaign.state / "data").exists()
    tags = subprocess.run(["git", "-C", repository, "tag"], check=True, capture_output=True).stdout
    assert tags == b"", "the tag is the clone's"
