"""Infer: a forecast for each frame, once, newest first, whatever is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import redis
import torch
from weather import DOMAIN, GRID, START, STEP, raw_frames, settings

from models.convlstm import ConvLSTM, ConvLSTMConfig
from nowcast.archive.archive import Archive
from nowcast.disk.data_folder import DataFolder
from nowcast.errors import UnknownModel
from nowcast.forecast.prediction import Prediction
from nowcast.forecast.store import ForecastStore, read_record
from nowcast.frame.frame import normalise
from nowcast.methods.cube import Cube
from nowcast.methods.extrapolation import Persistence
from nowcast.methods.method import Method
from nowcast.methods.networks import loading as bridge
from nowcast.methods.networks.checkpoint import Card, Task, save
from nowcast.methods.networks.engine import Engine
from nowcast.methods.registry import METHODS
from nowcast.settings import Settings
from nowcast.telemetry import Telemetry
from worker.bus import FORECASTS, FRAMES, Bus, Consumer
from worker.infer import Infer, InferLoop, Job


@pytest.fixture
def here(data_dir: Path) -> Settings:
    return settings(data_dir)


def archived(here: Settings, count: int, *, without: tuple[int, ...] = ()) -> None:
    archive = Archive(here.folder.archive)
    for number, raw in enumerate(raw_frames(count)):
        if number not in without:
            archive.add("sim", normalise(raw, replace(DOMAIN, grid=GRID)))


def test_a_job_becomes_a_stored_forecast_with_its_record(here: Settings) -> None:
    archived(here, 5)
    infer = Infer(here, Telemetry())
    job = Job("sim", START + 4 * STEP)
    assert infer.handle([job]) == [job]
    issue_time, model, path = ForecastStore(here.folder.forecasts).latest("sim") or pytest.fail("none")
    record = read_record(path)
    assert (issue_time, model) == (START + 4 * STEP, "extrapolation")
    assert record.input_frames == tuple(f"2026-01-01T12:{minute:02}:00Z" for minute in (5, 10, 15, 20))
    assert record.degraded_reason == ""
    assert record.leads == 3


def test_a_bridged_frame_is_marked_and_a_short_history_says_so(here: Settings) -> None:
    archived(here, 6, without=(1, 2, 4))
    infer = Infer(here, Telemetry())
    infer.handle([Job("sim", START + 5 * STEP)])
    record = read_record(ForecastStore(here.folder.forecasts).path("sim", START + 5 * STEP, "extrapolation"))
    assert record.input_frames == ("2026-01-01T12:15:00Z", "2026-01-01T12:20:00Z*", "2026-01-01T12:25:00Z")
    assert "newest 3 frames instead of 4" in record.degraded_reason


def test_one_frame_alone_still_gets_a_forecast_that_says_why_it_is_weak(here: Settings) -> None:
    archived(here, 1)
    telemetry = Telemetry()
    Infer(here, telemetry).handle([Job("sim", START)])
    _, model, path = ForecastStore(here.folder.forecasts).latest("sim") or pytest.fail("none")
    assert "frame" in read_record(path).degraded_reason
    labels = {"domain": "sim", "model": model, "outcome": "degraded"}
    assert telemetry.registry.get_sample_value("nowcast_forecasts_total", labels) == 1


def test_a_forecast_is_not_made_twice_but_is_told_again(here: Settings, client: redis.Redis) -> None:
    archived(here, 5)
    job = Job("sim", START + 4 * STEP)
    infer = Infer(here, Telemetry(), Bus(client))
    infer.handle([job])
    (path,) = (here.folder.forecasts).rglob("*.nc")
    before = path.stat().st_mtime_ns
    pointer = here.data_dir / "forecasts/sim/latest.json"
    pointer.unlink()  # as if its maker had died before telling
    infer.handle([job])
    assert path.stat().st_mtime_ns == before
    assert json.loads(pointer.read_text())["issue_time"] == "2026-01-01T12:20:00Z"
    told = [fields["issue_time"] for _, fields in client.xrange(FORECASTS)]
    assert told == ["2026-01-01T12:20:00+00:00"] * 2


def test_an_issue_time_far_behind_the_newest_frame_is_superseded(data_dir: Path) -> None:
    here = settings(data_dir, backfill_minutes=10)
    archived(here, 5)
    telemetry = Telemetry()
    job = Job("sim", START)
    assert Infer(here, telemetry).handle([job]) == [job]
    assert not list((DataFolder(data_dir).forecasts).rglob("*.nc"))
    labels = {"domain": "sim", "model": "extrapolation", "outcome": "superseded"}
    assert telemetry.registry.get_sample_value("nowcast_forecasts_total", labels) == 1


def test_catching_up_makes_what_is_missing_newest_first(here: Settings) -> None:
    archived(here, 4)
    infer, store = Infer(here, Telemetry()), ForecastStore(here.folder.forecasts)
    seen = []
    while infer.catch_up():
        seen.append(len(store.issue_times("sim")))
        assert (store.latest("sim") or pytest.fail("none"))[0] == START + 3 * STEP
    assert seen == [1, 2, 3, 4]


def test_a_damaged_frame_does_not_stop_the_others(here: Settings) -> None:
    archived(here, 4)
    damaged = Archive(here.folder.archive).path("sim", START + 3 * STEP)
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    jobs = [Job("sim", START + number * STEP) for number in (2, 3)]
    assert Infer(here, Telemetry()).handle(jobs) == jobs[:1]


def test_a_failing_method_is_replaced_and_the_forecast_says_so(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Method):
        name = "broken"

        def predict(self, cube: Cube, leads: int) -> Prediction:
            raise RuntimeError("out of device memory")

    monkeypatch.setitem(METHODS, "broken", lambda compute: Broken())
    archived(here, 4)
    here = here.model_copy(update={"domains": {"sim": replace(DOMAIN, model="broken")}})
    Infer(here, Telemetry()).handle([Job("sim", START + 3 * STEP)])
    _, model, path = ForecastStore(here.folder.forecasts).latest("sim") or pytest.fail("none")
    assert model == "blend"
    assert "broken failed (RuntimeError)" in read_record(path).degraded_reason


def test_a_changed_domains_file_swaps_the_model_without_a_restart(data_dir: Path, tmp_path: Path) -> None:
    toml = tmp_path / "domains.toml"
    toml.write_text("[domains.sim]\nstep_minutes = 5\nleads = 3\n")
    here = settings(data_dir).model_copy(update={"domains_file": toml})
    archived(here, 5)
    infer, store = Infer(here, Telemetry()), ForecastStore(DataFolder(data_dir).forecasts)
    infer.handle([Job("sim", START + 3 * STEP)])
    toml.write_text("[domains.sim]\nstep_minutes = 5\nleads = 3\nmodel = 'persistence'\n")
    infer.handle([Job("sim", START + 4 * STEP)])
    assert [store.models("sim", START + number * STEP) for number in (3, 4)] == [
        ["extrapolation"],
        ["persistence"],
    ]
    toml.write_text("[domains.sim]\nstep_minutes = 5\nmodel = 'crystal-ball'\n")
    infer.handle([Job("sim", START + 2 * STEP)])
    assert store.models("sim", START + 2 * STEP) == ["persistence"]


def test_an_unknown_model_is_refused_at_the_start(data_dir: Path) -> None:
    infer = Infer(settings(data_dir, model="crystal-ball"), Telemetry())
    with pytest.raises(UnknownModel, match=r"domains\.sim\.model: expected one of .*, got 'crystal-ball'"):
        infer.prepare()


def test_the_loop_acknowledges_what_is_done_and_drops_nonsense(here: Settings, client: redis.Redis) -> None:
    import threading

    archived(here, 4)
    bus, consumer = Bus(client), Consumer(client, FRAMES, "infer", "a")
    bus.publish(FRAMES, domain="sim", time=(START + 3 * STEP).isoformat(), arrived="1.0")
    bus.publish(FRAMES, domain="sim", time="yesterday")
    bus.publish(FRAMES, domain="unknown", time=START.isoformat())
    telemetry = Telemetry()
    loop = InferLoop(Infer(here, telemetry, bus), consumer, telemetry)
    for _ in range(3):
        loop(threading.Event())
    assert consumer.lag() == 0
    assert ForecastStore(here.folder.forecasts).models("sim", START + 3 * STEP) == ["extrapolation"]
    lag = telemetry.registry.get_sample_value("nowcast_queue_lag", {"stream": "frames", "group": "infer"})
    assert lag == 0


def test_backfill_ends_where_the_domain_says(data_dir: Path) -> None:
    here = settings(data_dir, backfill_minutes=5)
    archived(here, 4)
    infer = Infer(here, Telemetry())
    while infer.catch_up():
        pass
    issued = ForecastStore(DataFolder(data_dir).forecasts).issue_times("sim")
    assert issued == [START + 2 * STEP, START + 3 * STEP]
    assert timedelta(minutes=5) >= issued[-1] - issued[0]


def test_domains_of_one_method_are_forecast_together(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Together(Persistence):
        takes_batches = True

        def predict_batch(self, cubes: Sequence[Cube], leads: int) -> list[Prediction]:
            asked.append(len(cubes))
            return super().predict_batch(cubes, leads)

    monkeypatch.setitem(METHODS, "together", lambda compute: Together())
    here = settings(data_dir)
    domains = {name: replace(DOMAIN, name=name, model="together") for name in ("east", "west")}
    here = here.model_copy(update={"domains": domains})
    archive = Archive(DataFolder(data_dir).archive)
    for name in domains:
        for raw in raw_frames(4):
            archive.add(name, normalise(raw, replace(DOMAIN, grid=GRID)))
    jobs = [Job(name, START + 3 * STEP) for name in domains]
    assert set(Infer(here, Telemetry()).handle(jobs)) == set(jobs)
    assert asked == [2]
    store = ForecastStore(DataFolder(data_dir).forecasts)
    assert [store.models(name, START + 3 * STEP) for name in domains] == [["together"], ["together"]]


def served(folder: Path, *, hidden: tuple[int, ...] = (8,), frames: int = 5) -> None:
    """Put weights of ``convlstm`` where the service looks for them."""
    torch.manual_seed(1)
    config = ConvLSTMConfig(hidden=hidden)
    save(folder / "convlstm", ConvLSTM(config), Card(config, Task(frames, 3, 5.0, 2.0)))


def test_a_network_without_weights_is_replaced_and_the_forecast_says_why(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "SHIPPED", tmp_path / "absent")
    here = settings(data_dir, model="convlstm").model_copy(update={"weights_dir": tmp_path})
    archived(here, 6)
    telemetry = Telemetry()
    infer = Infer(here, telemetry)
    infer.prepare()
    assert "sim: convlstm cannot answer yet" in caplog.text
    infer.handle([Job("sim", START + 5 * STEP)])
    _, model, path = ForecastStore(DataFolder(data_dir).forecasts).latest("sim") or pytest.fail("none")
    assert model == "blend"
    assert read_record(path).degraded_reason == (
        f"convlstm failed (expected weights of convlstm, found no {tmp_path / 'convlstm'})"
    )
    labels = {"domain": "sim", "reason": "method"}
    assert telemetry.registry.get_sample_value("nowcast_degraded_total", labels) == 1


def test_networks_of_several_domains_forecast_together_from_as_many_frames_as_they_want(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(tmp_path)
    batches = []
    forecast = Engine.forecast

    def noted(self: Engine, frames: list[object], *options: object, **more: object) -> object:
        batches.append(len(frames))
        return forecast(self, frames, *options, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "forecast", noted)
    domains = {name: replace(DOMAIN, name=name, model="convlstm") for name in ("east", "west")}
    here = settings(data_dir).model_copy(update={"domains": domains, "weights_dir": tmp_path})
    archive = Archive(DataFolder(data_dir).archive)
    for name in domains:
        for raw in raw_frames(7):
            archive.add(name, normalise(raw, replace(DOMAIN, grid=GRID)))
    jobs = [Job(name, START + 6 * STEP) for name in domains]
    infer = Infer(here, Telemetry())
    monkeypatch.setattr(bridge, "_ready", {})
    infer.prepare()
    assert len(bridge._ready) == 1, "weights are loaded before the first forecast"
    assert set(infer.handle(jobs)) == set(jobs)
    assert batches == [2]
    for name in domains:
        _, model, path = ForecastStore(DataFolder(data_dir).forecasts).latest(name) or pytest.fail("none")
        record = read_record(path)
        assert (model, record.degraded_reason) == ("convlstm", "")
        assert record.model_version.startswith("sha256:")
        assert len(record.input_frames) == 5


def test_new_weights_are_taken_over_without_a_restart(data_dir: Path, tmp_path: Path) -> None:
    here = settings(data_dir, model="convlstm").model_copy(update={"weights_dir": tmp_path})
    archived(here, 7)
    infer, store = Infer(here, Telemetry()), ForecastStore(DataFolder(data_dir).forecasts)
    versions = []
    for number, hidden in ((5, (8,)), (6, (4,))):
        served(tmp_path, hidden=hidden)
        infer.handle([Job("sim", START + number * STEP)])
        versions.append(read_record(store.path("sim", START + number * STEP, "convlstm")).model_version)
    assert versions[0] != versions[1]
