"""The campaign on one screen of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.campaign.progress import FAILED, FINISHED, PREPARING, SCORING, TRAINING, Row, Status

#: Width of the screen [characters], and of a curve on it.
WIDTH, CURVE = 80, 5

#: Scores of a validation, the first there is being shown: gain over the base [%], or CSI.
SHOWN = ("gain", "csi")

_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {
    TRAINING: "green", PREPARING: "green", SCORING: "green", FINISHED: "bold green", FAILED: "bold red"
}  # fmt: skip


def show(status: Status, console: Console) -> None:
    """Print how far the campaign is."""
    console.print(Text(f"{status.code or 'not started'} in {status.folder}", overflow="fold"))
    console.print(_workers(status), highlight=False)
    if not status.rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for heading, right in (
        ("network", False), ("r", True), ("state", False), ("steps", True), ("/s", True), ("left", True),
        ("", False), ("first", True), ("best", True), ("last", True), ("curve", False),
    ):  # fmt: skip
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for row in status.rows:
        table.add_row(*_cells(row))
    console.print(table)
    for row in status.rows:
        if row.error:
            console.print(Text(f"{row.model}: {row.error}", style="red", overflow="fold"))


def _workers(status: Status) -> str:
    """Return in a line whether workers run, what they wait for, and how old the news is."""
    states = list(status.workers.values())
    paused = states.count("T")
    said = (
        f"{len(states)} worker{'s' * (len(states) != 1)}"
        if states
        else "no worker runs (make campaign; state/logs)"
    )
    if paused:
        said += ", paused: make campaign-continue" if paused == len(states) else f", {paused} paused"
    if status.gathered is not None:
        said += f"; gathering the archive, {status.gathered} domains so far"
    noted = [row.noted for row in status.rows if row.noted is not None]
    return said + (f"; noted {_time(status.at - max(noted))} ago" if noted else "")


def _cells(row: Row) -> list[str | Text]:
    name = next((name for name in SHOWN if name in row.validation), "")
    values = row.validation.get(name, [])
    score = [f"{value:+.1f}" if name == "gain" else f"{value:.3f}" for value in _ends(values)]
    return [
        row.model,
        f"{row.round}",
        Text(row.state, _STYLES.get(row.state, "")),
        f"{_short(row.done)}/{_short(row.steps)}" if row.steps else "",
        "" if row.steps_a_second is None else f"{row.steps_a_second:.3g}"[:4],
        "" if row.seconds_left is None else _time(row.seconds_left),
        name,
        *(score or [""] * 3),
        sparkline(values),
    ]


def _ends(values: Sequence[float]) -> list[float]:
    """Return the first, the best and the last value."""
    return [values[0], max(values), values[-1]] if values else []


def sparkline(values: Sequence[float], width: int = CURVE) -> str:
    """Return a curve of bars; of more values than fit, evenly chosen ones and the last."""
    if len(values) > width:
        values = [values[round(k * (len(values) - 1) / (width - 1))] for k in range(width)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    most = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * most) if high > low else 0] for value in values)


def _short(count: int | None) -> str:
    """Return a count in four characters."""
    if count is None:
        return "?"
    return f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"


def _time(seconds: float) -> str:
    """Return a time in five characters."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 99.5:
        return f"{minutes:.0f} m"
    return f"{hours:.1f} h" if hours < 9.95 else f"{hours:.0f} h"
