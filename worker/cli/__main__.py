"""``python -m worker.cli``: the ``nowcast`` command by the interpreter that runs it."""

from worker.cli import main

main()
