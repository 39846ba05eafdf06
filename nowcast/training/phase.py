"""One phase of a training, run by Lightning: from its last checkpoint if a run before this was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Dataset

from models.correction import Correction
from models.forecaster import Forecaster
from nowcast.disk import durable
from nowcast.training.callbacks import Beat, Curves, Report, quiet
from nowcast.training.checkpoints import BestCheckpoint, LastCheckpoint
from nowcast.training.data import Draws, Issues, Numbers, loader
from nowcast.training.effort import Effort
from nowcast.training.gains import Gains
from nowcast.training.module import DurableCheckpoints, Learning
from nowcast.training.plan import Phase, Plan, Synthetic
from nowcast.training.sequences import Tiles

#: Folder of the phases in that of a training, and the curves of each in its own.
RUN_FOLDER, CURVES_FILE = "run", "curves.csv"

#: Checkpoint to go on from, in the folder of a phase.
LAST_FILE = "last.ckpt"

#: Held-out sequences the CSI is measured on.
HELD_OUT_DRAWS = 48


#: Weight of the mean of all weights so far, against those after a step.
EMA_DECAY = 0.995

#: Checkpoints to go on from, for each validation.
CHECKPOINTS_A_CHECK = 4


@dataclass(frozen=True)
class Setting:
    """What all phases of a training share.

    Attributes:
        plan: What is trained.
        learnt: Tiles to learn from.
        held_out: Tiles to validate on; without any, the last weights are kept instead of the best.
        output: Folder of the training.
        effort: Where time and energy are noted.
        report: Called at each step.
    """

    plan: Plan
    learnt: Sequence[Tiles]
    held_out: Sequence[Tiles]
    output: Path
    effort: Effort
    report: Report | None


class _Sequences(lightning.LightningDataModule):
    """Sequences for one phase; after a kill they go on with the draw after the last that was learnt from."""

    def __init__(self, phase: Phase, setting: Setting) -> None:
        super().__init__()
        self._phase, self._setting = phase, setting

    def train_dataloader(self) -> DataLoader[Any]:
        plan, trainer = self._setting.plan, self.trainer
        assert trainer is not None
        a_step = plan.batch * trainer.world_size * plan.accumulate
        numbers = Numbers(
            rank=trainer.global_rank, world=trainer.world_size, start=trainer.global_step * a_step
        )
        draws: Dataset[Any] = (
            draws_of(plan, self._phase.forecaster, self._setting.learnt, world=trainer.world_size)
            if self._phase.data == "rain"
            else Synthetic(self._phase.data, plan)
        )
        return loader(draws, numbers, plan.batch, workers=plan.workers)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        plan, trainer = self._setting.plan, self.trainer
        if not self._setting.held_out or self._phase.data != "rain" or trainer is None:
            return []
        if plan.shape.base:
            issues = Issues(self._setting.held_out, plan.shape)
            return loader(issues, range(trainer.global_rank, len(issues), trainer.world_size), 1)
        draws = Draws(self._setting.held_out, plan.shape, crop=plan.crop, seed=0, turned=False)
        numbers = range(trainer.global_rank, HELD_OUT_DRAWS, trainer.world_size)
        return loader(draws, numbers, plan.batch)


def draws_of(plan: Plan, forecaster: Forecaster, tiles: Sequence[Tiles], *, world: int = 1) -> Draws:
    """Return the draws a plan has of tiles."""
    crop = partial(forecaster.crop_cells, plan.crop) if isinstance(forecaster, Correction) else plan.crop
    return Draws(
        tiles,
        plan.shape,
        crop=crop,
        seed=plan.seed,
        slots=plan.slots,
        together=plan.batch,
        world=world,
    )


def run_phase(phase: Phase, setting: Setting) -> None:
    """Train one phase and leave its best weights in the network; one that is finished is only loaded.

    Raises:
        TrainingStopped: If the loss is not finite any more.
        WeightsError: If the checkpoint to go on from is damaged.
        StorageError: If the disk refuses.
    """
    plan, folder = setting.plan, setting.output / RUN_FOLDER / phase.name
    last, finished = folder / LAST_FILE, folder / "finished.ckpt"
    if finished.exists():
        phase.forecaster.load_state_dict(DurableCheckpoints().load_checkpoint(finished))
        return
    monitored = bool(setting.held_out) and phase.data == "rain"
    learning = Learning(
        phase.forecaster,
        phase.recipe,
        steps=phase.steps,
        seed=plan.seed,
        folder=setting.output,
        monitored=monitored,
        gains=_gains(setting) if monitored else None,
    )
    interval = max(phase.steps // plan.checks, 1)
    best, callbacks = _callbacks(phase, setting, folder, interval, monitored)
    with quiet():
        trainer = _trainer(phase, setting, callbacks, interval, monitored)
        trainer.fit(learning, _Sequences(phase, setting), ckpt_path=last if last.exists() else None)
    if trainer.is_global_zero:
        if best is not None and best.best_model_path:
            state = DurableCheckpoints().load_checkpoint(best.best_model_path)["state_dict"]
            learning.load_state_dict(state)
        with durable.publish(finished) as partial:
            torch.save(phase.forecaster.state_dict(), partial)
        setting.effort.note(now=True)
    trainer.strategy.barrier()


def _trainer(
    phase: Phase, setting: Setting, callbacks: list[Callback], interval: int, monitored: bool
) -> lightning.Trainer:
    plan, tensorboard = setting.plan, None
    with contextlib.suppress(ModuleNotFoundError):  # it may be left out of an installation
        tensorboard = TensorBoardLogger(setting.output, name="tensorboard", version=phase.name)
    return lightning.Trainer(
        max_steps=phase.steps,
        max_epochs=-1,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=plan.devices,
        strategy="ddp" if plan.devices > 1 else "auto",
        precision=plan.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=plan.accumulate,
        gradient_clip_val=phase.recipe.clip_value or phase.recipe.clip_norm,
        gradient_clip_algorithm="value" if phase.recipe.clip_value else "norm",
        val_check_interval=interval * plan.accumulate if monitored else None,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if monitored else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=_logged(interval),
        logger=tensorboard or False,
        callbacks=callbacks,
        plugins=[DurableCheckpoints()],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=setting.output,
    )


def _callbacks(
    phase: Phase, setting: Setting, folder: Path, interval: int, monitored: bool
) -> tuple[BestCheckpoint | None, list[Callback]]:
    """Return what keeps the best weights, if any are known to be, and all that watches, keeps and stops."""
    plan = setting.plan
    watching: list[Callback] = [
        Beat(setting.report, f"training {phase.name}", phase.steps, setting.effort),
        Curves(folder / CURVES_FILE, _logged(interval)),
    ]
    every = max(interval // CHECKPOINTS_A_CHECK, 1)
    last = LastCheckpoint(folder / LAST_FILE, every, interval if monitored else None)
    if not monitored:
        return None, [*watching, last]
    if plan.shape.base:  # corrections are small, and the mean of their last weights is better than any
        watching.append(EMAWeightAveraging(decay=EMA_DECAY))
    monitor = "val/gain" if plan.shape.base else "val/csi"
    best = BestCheckpoint(
        folder,
        filename="best-{step}",
        monitor=monitor,
        mode="max",
        save_top_k=1,
        enable_version_counter=False,
    )
    return best, [*watching, best, EarlyStopping(monitor, mode="max", patience=plan.patience), last]


def _gains(setting: Setting) -> Gains | None:
    """Return where gains over the base are counted, if there is one."""
    shape = setting.plan.shape
    if not shape.base:
        return None
    issues = Issues(setting.held_out, shape)
    return Gains([issues.event(number).radar for number in range(len(issues))], shape.slots)


def _logged(interval: int) -> int:
    """Return the distance [steps] of logged losses, given that of validations."""
    return max(min(interval // 5, 50), 1)
