"""The picture of how a training went: its loss, and its CSI on held-out rain beside the still frame's."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Columns of the table of curves that are drawn, with what they are called.
LOSS = {"train/loss": "loss"}
SCORES = {"val/csi": "CSI, mean of 20, 30 and 35 dBZ", "val/csi_still": "the newest frame, unchanged"}


def plot_curves(rows: Sequence[Mapping[str, float | str]]) -> bytes:
    """Return a PNG of the curves of a training, one phase after the other.

    Args:
        rows: Rows of its table: ``phase``, ``step`` and columns of :data:`LOSS` and :data:`SCORES`.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    loss, score = figure.subplots(1, 2)
    _draw(loss, rows, LOSS)
    _draw(score, rows, SCORES)
    loss.set(title="training", xlabel="step", ylabel="loss")
    score.set(title="held-out events", xlabel="step", ylabel="CSI")
    if score.lines:
        score.legend(frameon=False)
    else:
        score.text(0.5, 0.5, "none was held out", ha="center", transform=score.transAxes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _draw(axes: Axes, rows: Sequence[Mapping[str, float | str]], columns: Mapping[str, str]) -> None:
    """Draw columns against the step, counted through all phases; a phase does not join the next."""
    before = 0.0
    for phase, group in groupby(rows, key=lambda row: row["phase"]):
        of_phase = list(group)
        for colour, (column, label) in enumerate(columns.items()):
            points = [(before + float(row["step"]), float(row[column])) for row in of_phase if column in row]
            if points:
                first = label not in axes.get_legend_handles_labels()[1]
                axes.plot(*zip(*points, strict=True), color=f"C{colour}", label=label if first else None)
        before += max(float(row["step"]) for row in of_phase)
        if before and phase != rows[-1]["phase"]:
            axes.axvline(before, color="0.8", linewidth=0.8)
