"""The ``nowcast`` command."""

from worker.cli.app import app, main

__all__ = ["app", "main"]
