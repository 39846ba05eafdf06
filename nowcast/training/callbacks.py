"""What watches a training: progress for people, curves for the card; and Lightning kept quiet."""

from __future__ import annotations

import csv
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning

from nowcast.disk import durable
from nowcast.training.effort import Effort

#: Called with what is being done, the number done and the number there is.
Report = Callable[[str, int, int], None]

#: Names of Lightning's loggers; what they say below a warning is about its other products.
LOGGERS = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's advertisements and its warnings about matters of taste from people."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Beat(lightning.Callback):
    """Reports each step to a progress bar, or to nobody, and notes the effort."""

    def __init__(self, report: Report | None, what: str, steps: int, effort: Effort) -> None:
        self._report, self._what, self._steps, self._effort = report, what, steps, effort

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Report the number of steps that are done."""
        if trainer.is_global_zero:
            self._effort.note()
            if self._report:
                self._report(self._what, trainer.global_step, self._steps)


class Curves(lightning.Callback):
    """The course of a training as a table, kept in its checkpoints: after a kill it goes on without a seam.

    Rows have a ``step`` and either losses (``train/...``) or the scores of a validation (``val/...``).
    """

    def __init__(self, path: Path, every: int) -> None:
        """Write into a CSV file what the losses are at every ``every``-th step."""
        self._path, self._every = path, every
        self._rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Keep the losses of a step in ``every``."""
        step = trainer.global_step
        if step and step % self._every == 0:
            self._keep(trainer, "train/")

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Keep the scores, and write the table so far."""
        self._keep(trainer, "val/")
        self._write(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write the whole table."""
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the table, for a checkpoint."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the table of a checkpoint."""
        self._rows = [dict(row) for row in state_dict["rows"]]

    def _keep(self, trainer: lightning.Trainer, kind: str) -> None:
        metrics = trainer.callback_metrics.items()
        row = {name: float(value) for name, value in metrics if name.startswith(kind)}
        kept = [set(earlier) for earlier in self._rows if earlier["step"] == trainer.global_step]
        if row and {"step", *row} not in kept:  # gradients of several batches make one step
            self._rows.append({"step": trainer.global_step, **row})

    def _write(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            write_rows(self._path, self._rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Publish a table as CSV; what a row lacks stays empty.

    Raises:
        StorageError: If the disk refuses.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    table = csv.DictWriter(text, list(names))
    table.writeheader()
    table.writerows(rows)
    durable.write_bytes(path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return a table of :func:`write_rows`, numbers as such; empty if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: _number(text) for name, text in row.items() if text} for row in rows]


def _number(text: str) -> float | str:
    if text.isdecimal():
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
