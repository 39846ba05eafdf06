"""What the experiments are: the setting of each, its variants, and the claims it puts to the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.mechanisms import trials
from benchmarks.mechanisms.fitting import Size


class Claim(NamedTuple):
    """That one number is smaller than another, seed by seed.

    Attributes:
        text: In words.
        smaller: Variant and measure.
        larger: Variant and measure.
    """

    text: str
    smaller: tuple[str, str]
    larger: tuple[str, str]


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        title: What it is about.
        setting: How it is done, for the reader of the table.
        variants: What is compared.
        run: Gives the measures of a variant by name, from the variant, a seed and a size.
        claims: What the papers promise, or follows from what they say.
    """

    title: str
    setting: str
    variants: tuple[str, ...]
    run: Callable[[str, int, Size], dict[str, float]]
    claims: tuple[Claim, ...]


def _less(text: str, smaller: str, larger: str, measure: str = "MSE") -> Claim:
    return Claim(text, (smaller, measure), (larger, measure))


#: All experiments by name.
EXPERIMENTS = {
    "depth": Experiment(
        "Semi-coupled layers train deep, ConvLSTM layers do not",
        "SCS and ConvLSTM of equal depth and width on moving, turning and growing objects; SCS with its "
        "sub-goals and gradient switch.",
        tuple(f"{name} x {layers}" for name in ("SCS", "ConvLSTM") for layers in (2, 6, 10)),
        trials.depth,
        (
            _less("SCS of 10 layers has a smaller error than ConvLSTM of 10", "SCS x 10", "ConvLSTM x 10"),
            _less("SCS of 6 layers has a smaller error than ConvLSTM of 6", "SCS x 6", "ConvLSTM x 6"),
            _less("ConvLSTM's error grows from 2 to 10 layers", "ConvLSTM x 2", "ConvLSTM x 10"),
            _less("SCS's error does not grow from 2 to 10 layers", "SCS x 10", "SCS x 2"),
        ),
    ),
    "recall": Experiment(
        "A memory that is recalled reaches over what came between",
        "E3D-LSTM with and without RECALL: a whole event, the beginning of another, the beginning of the "
        "first again, whose rest is forecast. Scored on that.",
        ("with recall", "without"),
        trials.copying,
        (_less("Recall lowers the error on what was seen before", "with recall", "without"),),
    ),
    "experts": Experiment(
        "Experts learn apart, then gates bring them together",
        "STMoE on 200 noisy sequences in which moving, turning and growing objects meet. Staged: decoder, "
        "experts, gates and whole one after the other; end to end: the whole at once, with as many steps on "
        "these sequences.",
        ("pixel gates, staged", "uniform gates, staged", "no gates, staged", "pixel gates, end to end"),
        trials.mixture,
        (
            _less("Stages beat end to end", "pixel gates, staged", "pixel gates, end to end"),
            _less(
                "A gate for every cell beats one for the frame",
                "pixel gates, staged",
                "uniform gates, staged",
            ),
            _less("One gate for the frame beats none", "uniform gates, staged", "no gates, staged"),
        ),
    ),
    "exchange": Experiment(
        "Branches that talk know more than branches that do not",
        "CRN and N-CRN, whose branches see complementary squares of the grid: one reflectivity, the other "
        "its change; on moving, turning and growing objects.",
        ("CRN", "N-CRN"),
        trials.exchange,
        (_less("Exchange between the branches lowers the error", "CRN", "N-CRN"),),
    ),
    "context": Experiment(
        "Earlier frames help to classify while the scene stands still",
        "FANet with a history of N frames; the outline class of objects under noise that is new in every "
        "frame, which move by some cells a frame. Scored on the last frame.",
        tuple(f"N = {n}, {moved} cells" for moved in (0, 2, 6) for n in (0, 2)),
        trials.context,
        (
            _less(
                "Two frames of history help where nothing moves", "N = 0, 0 cells", "N = 2, 0 cells", "mIoU"
            ),
            _less("They help where echo moves by 2 cells", "N = 0, 2 cells", "N = 2, 2 cells", "mIoU"),
            _less("They stop helping where it moves by 6 cells", "N = 2, 6 cells", "N = 0, 6 cells", "mIoU"),
        ),
    ),
    "warp": Experiment(
        "Advection alone knows translation, memory knows growth",
        "ADDL and MIM, each trained and scored on objects that only move, and on objects that only grow or "
        "decay.",
        tuple(f"{name}, {kind}" for kind in ("translation", "growth") for name in ("ADDL", "MIM")),
        trials.warp_or_memory,
        (
            _less("ADDL beats MIM on translation", "ADDL, translation", "MIM, translation"),
            _less("MIM beats ADDL on growth and decay", "MIM, growth", "ADDL, growth"),
        ),
    ),
    "balance": Experiment(
        "A balanced loss trades error for heavy rain",
        "ConvLSTM trained on the plain or the balanced squared error; CSI at 10 mm/h.",
        ("plain", "balanced"),
        trials.balance,
        (
            _less("The balanced loss raises CSI of heavy rain", "plain", "balanced", "CSI"),
            _less("It raises the plain error too", "plain", "balanced"),
        ),
    ),
}
