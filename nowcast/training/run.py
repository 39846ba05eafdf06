"""Training: an archive in, a network with its best weights out; a kill costs one interval of checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.correction import Correction
from models.forecaster import Forecaster
from models.registry import PRESETS, build
from nowcast.archive.archive import Archive
from nowcast.archive.events import Event, events_to_hold_out, find_events
from nowcast.disk import durable
from nowcast.errors import BadRequest, NotEnoughFrames, UnknownModel, WeightsError
from nowcast.methods.networks.checkpoint import Card, CheckpointError, Source, Task, load
from nowcast.names import NETWORKS
from nowcast.training.callbacks import Report
from nowcast.training.data import Numbers, loader
from nowcast.training.effort import Effort, code_version, processor
from nowcast.training.module import Learning, Recipe
from nowcast.training.phase import Setting, draws_of, run_phase
from nowcast.training.plan import Plan, phases
from nowcast.training.sequences import Shape, Tiles, describe, prepare
from nowcast.training.trust import trust

#: Files of a training in its folder.
PLAN_FILE, EFFORT_FILE, TRUST_FILE = "plan.json", "effort.json", "trust.json"

#: Most cells of the issue times of one event that corrections are judged on in training.
MOST_JUDGED_CELLS = 1_500_000

#: Steps that are timed to know how many fit the minutes given, after as many that are not.
TIMED_STEPS = 3


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        network: The network with its best weights, in evaluation mode.
        card: What its checkpoint says.
        plan: What was asked for.
        steps: Steps of the optimiser it was planned to take.
        learnt: Tiles it learnt from.
        held_out: Tiles of the events it did not learn from.
        events: The latter events themselves.
        effort: Time and energy, of runs before a kill too.
    """

    network: nn.Module
    card: Card
    plan: Plan
    steps: int
    learnt: Sequence[Tiles]
    held_out: Sequence[Tiles]
    events: Sequence[Event]
    effort: Effort

    @property
    def facts(self) -> dict[str, Any]:
        """Hyper-parameters, data, hardware: what the model card tells."""
        return {
            "plan": asdict(self.plan),
            "steps": self.steps,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "learnt": describe(self.learnt),
            "held_out": describe(self.held_out),
            "hardware": hardware(),
            "seconds": round(self.effort.seconds, 1),
            "joules": self.effort.joules,
        }


def train(
    archive: Archive,
    output: Path,
    plan: Plan,
    *,
    cache: Path | None = None,
    start: Path | None = None,
    report: Report | None = None,
) -> Trained:
    """Train a network; go on where a killed training of the same plan stopped.

    With several processes each runs the program that called this, as Lightning and torchrun start them.

    Args:
        archive: Frames to learn from.
        output: Folder of all that tells how the training went. One of another plan is refused.
        plan: What to train.
        cache: Where prepared sequences are kept; in the output's folder if left out.
        start: Folder of a checkpoint whose weights it begins with, in place of random ones.
        report: Called as the work goes on.

    Raises:
        BadRequest: If the folder holds a training of another plan or archive, or an event to hold out is not
            there.
        NotEnoughFrames: If the archive has no sequence to learn from.
        TrainingStopped: If the loss is not finite any more.
        WeightsError: If the checkpoint to go on from is damaged, or that to begin with, or is of another
            network.
        StorageError: If the disk refuses.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.seed)
        network = build(PRESETS[NETWORKS[plan.model]])
    if not isinstance(network, Forecaster):
        raise UnknownModel(f"expected a network that forecasts frames, {plan.model} does not")
    if start is not None:
        _begin_with(start, network)
        if isinstance(network, Correction):
            network.trust.fill_(1.0)  # what is trusted of other weights says nothing of these
    if (network.frames or 1) > plan.shape.frames:
        raise BadRequest(f"{plan.model} needs {network.frames} frames, the plan has {plan.shape.frames}")
    if "guess" in network.context:
        plan = replace(plan, shape=_shape_of(network, plan))
    events = _fitting(find_events(archive), plan)
    folder = cache or output / "sequences"
    hold_out, shape = plan.hold_out, plan.shape
    if hold_out is None or not shape.base:
        tiles = prepare(archive, events, shape, folder, progress=report)
        if hold_out is None:
            hold_out = events_to_hold_out({one.event: float(one.rain.sum()) for one in tiles})
        learnt = [one for one in tiles if one.event not in hold_out]
        held_out = [one for one in tiles if one.event in hold_out]
    else:
        others = [event for event in events if event.name not in hold_out]
        learnt, held_out = prepare(archive, others, shape, folder, progress=report) if others else [], []
    if hold_out and shape.base:  # judged on whole grids, as the service makes forecasts
        whole, judged = replace(shape, tile=0, most_cells=MOST_JUDGED_CELLS), set(hold_out)
        held_out = prepare(archive, [one for one in events if one.name in judged], whole, folder)
    if not learnt:
        raise NotEnoughFrames(
            f"expected events with rain to learn from, but all {len(held_out)} are held out"
        )
    effort = Effort(output / EFFORT_FILE)
    steps = _steps(plan, network, learnt, held_out, output)
    setting = Setting(plan, learnt, held_out, output, effort, report)
    for phase in phases(network, plan, steps):
        run_phase(phase, setting)
    if isinstance(network, Correction) and held_out:
        trust(network.eval(), held_out, plan.shape, output / TRUST_FILE)
    scored = [event for event in events if event.name in hold_out]
    sources = _sources(archive, [event for event in events if event.name in {one.event for one in learnt}])
    card = Card(network.config, _task(plan, learnt), sources, code_version())
    return Trained(network.eval(), card, plan, steps, learnt, held_out, scored, effort)


def _begin_with(folder: Path, network: Forecaster) -> None:
    """Give a network the weights of a checkpoint of the same network."""
    try:
        checkpoint = load(folder)
    except CheckpointError as error:
        raise WeightsError(f"cannot begin with the weights of {error}") from error
    if checkpoint.card.config != network.config:
        raise WeightsError(f"{folder}: expected weights of {network.config}, got {checkpoint.card.config}")
    network.load_state_dict(checkpoint.network.state_dict())


def _shape_of(network: Forecaster, plan: Plan) -> Shape:
    """Return the shape of sequences for a network that is shown what it corrects."""
    if not isinstance(network, Correction):
        return replace(plan.shape, guess=True)
    config = network.config
    return replace(
        plan.shape,
        frames=config.frames,
        slot_minutes=round(config.slot_minutes),
        slots=config.slots,
        base=True,
    )


def _fitting(events: Sequence[Event], plan: Plan) -> list[Event]:
    """Return the events that may be used."""
    names = {event.name for event in events}
    if unknown := sorted(set(plan.hold_out or ()) - names):
        raise BadRequest(f"expected events to hold out among {', '.join(sorted(names))}, got {unknown[0]!r}")
    fitting = [event for event in events if plan.step_minutes in (0, event.step_minutes)]
    if not fitting:
        steps = ", ".join(sorted({f"{event.step_minutes}" for event in events})) or "none"
        raise NotEnoughFrames(f"expected events of {plan.step_minutes or 'any'} minutes' step, got {steps}")
    return fitting


def _steps(
    plan: Plan, network: Forecaster, learnt: Sequence[Tiles], held_out: Sequence[Tiles], output: Path
) -> int:
    """Return the number of steps: those of the killed training it goes on with, if there is one."""
    path = output / PLAN_FILE
    wanted = json.loads(json.dumps(asdict(plan)))
    tiles = [[one.path.name for one in part] for part in (learnt, held_out)]
    with durable.locked(output / ".plan.lock"):  # of several processes one measures
        if not path.exists():
            steps = plan.steps or _steps_in(plan, network, learnt, output)
            durable.write_json(path, {"plan": wanted, "steps": steps, "tiles": tiles})
            return steps
        kept = durable.read_json(path)
    if kept["plan"] != wanted:
        differ = sorted(key for key in wanted if kept["plan"].get(key) != wanted[key])
        raise BadRequest(f"{output} holds a training of another plan: {', '.join(differ)} differ")
    if kept.get("tiles", tiles) != tiles:
        raise BadRequest(f"{output} holds a training from other frames than the archive has now")
    return int(kept["steps"])


def _steps_in(plan: Plan, network: Forecaster, tiles: Sequence[Tiles], output: Path) -> int:
    """Return how many steps fit the minutes given, measured on a copy whose weights are thrown away."""
    assert plan.minutes is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    copy = build(network.config)
    assert isinstance(copy, Forecaster)
    copy.load_state_dict(network.state_dict())
    learning = Learning(copy, Recipe(), steps=100, seed=plan.seed, folder=output, monitored=False).to(device)
    optimiser = torch.optim.AdamW(copy.parameters())
    batches = iter(loader(draws_of(plan, network, tiles), Numbers(), plan.batch))
    started = time.monotonic()
    for step in range(2 * TIMED_STEPS):
        if step == TIMED_STEPS:
            started = time.monotonic()
        batch = {name: value.to(device) for name, value in next(batches).items()}
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16-mixed"):
            loss = learning.loss_of(batch, step)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        loss.item()  # waits for the device
    seconds = (time.monotonic() - started) / TIMED_STEPS * plan.accumulate
    return max(round(60 * plan.minutes / seconds), plan.checks)


def _task(plan: Plan, tiles: Sequence[Tiles]) -> Task:
    """Return what the network is made for: the step and cell most of what it learnt from has."""
    weights: dict[tuple[int, float], int] = {}
    for one in tiles:
        key = (one.step_minutes, round(one.cell_km, 2))
        weights[key] = weights.get(key, 0) + len(one.rain)
    step_minutes, cell_km = max(weights, key=lambda key: weights[key])
    return Task(plan.shape.frames, plan.shape.slots, float(step_minutes), cell_km, plan.shape.moving)


def _sources(archive: Archive, events: Sequence[Event]) -> tuple[Source, ...]:
    """Return whose data events are, as their frames say, else by the name of the domain."""
    periods: dict[tuple[str, str], list[str]] = {}
    for event in events:
        told = archive.load(event.domain, event.times[0]).attrs
        key = (str(told.get("source") or event.domain), str(told.get("licence", "")))
        periods.setdefault(key, []).extend(f"{time:%Y-%m-%d}" for time in (event.times[0], event.times[-1]))
    return tuple(
        Source(agency, licence=licence, period=" to ".join(dict.fromkeys((min(days), max(days)))))
        for (agency, licence), days in sorted(periods.items())
    )


def hardware() -> str:
    """Return what this machine trains on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
