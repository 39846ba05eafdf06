"""Checkpoints of a training: a stop costs next to nothing, a move of the folder nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best weights, and finds them again where the folder of the training was moved to."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what a checkpoint says, its paths taken as names in the folder there is now."""
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        here = {name: self._here(state_dict[name]) for name in paths}
        best = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **here, "best_k_models": best, "dirpath": self.dirpath})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else ""


class LastCheckpoint(Checkpoint):
    """Keeps the state to go on from: every so many steps, after a validation, and when asked to end.

    Not between a step and its validation, which a training that goes on from there would leave out.
    """

    def __init__(self, path: Path, every: int, validated: int | None) -> None:
        """Write to ``path`` at every ``every``-th step, given the distance [steps] of validations, if any."""
        self._path, self._every, self._validated = path, every, validated
        self._step = 0

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Note where the training goes on."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write after a step, if its turn has come or the process was asked to end."""
        step = trainer.global_step
        if step == self._step:  # gradients of several batches make one step
            return
        self._step = step
        if self._validated and step % self._validated == 0:
            return
        if step % self._every == 0 or trainer.received_sigterm:
            trainer.save_checkpoint(self._path)

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write after a validation."""
        trainer.save_checkpoint(self._path)
