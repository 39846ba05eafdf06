"""The ``nowcast`` command as a person types it, within the process of the tests: its start takes seconds."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from nowcast.telemetry import FOREIGN_LOGGERS
from worker.cli import main

#: Columns of a terminal in which no path and no message is broken over two lines.
WIDE = 1000


@dataclass(frozen=True)
class Done:
    """What came of a command.

    Attributes:
        code: Its exit code.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
    """

    code: int
    out: str
    err: str


def nowcast(*words: object, columns: int = WIDE, **environment: object) -> Done:
    """Run ``nowcast`` with these words, in this environment besides, and leave the process as it was."""
    out, err = io.StringIO(), io.StringIO()
    variables = {name: str(value) for name, value in environment.items()} | {"COLUMNS": str(columns)}
    with (
        patch.dict(os.environ, variables),
        patch.object(sys, "argv", ["nowcast", *map(str, words)]),
        _of_a_process_of_its_own(),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main()
    code = end.value.code or 0
    assert isinstance(code, int), code
    return Done(code, out.getvalue(), err.getvalue())


@contextmanager
def _of_a_process_of_its_own() -> Iterator[None]:
    """Keep from the process of the tests what a command does to its own for good, and restore its loggers."""
    loggers = [logging.getLogger(name) for name in (None, *FOREIGN_LOGGERS)]
    kept = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    replacing = AssertionError("the command went on as another program")
    try:
        with (
            patch("os.execv", side_effect=replacing),
            patch("os.nice"),
            patch("worker.loop.stop_on_signals"),
        ):
            yield
    finally:
        for logger, handlers, level, propagate in kept:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
