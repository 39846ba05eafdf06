"""Cross-validation on training events: how far exceedance is to be trusted, and the prior of the gate.

Each fold of events is forecast by a network that learnt from the others. How much of what it learnt counts,
and how wide its areas are, is chosen by what they score; what it then scores beside extrapolation is what the
gate knows before a domain has scores of its own. No event of validation has a part in it.

    python -m benchmarks cross_validation --data DATA --runs RUNS [--steps N] [--issues K]

writes a prior without the base, which :mod:`benchmarks.base_prior` adds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.exceedance import Exceedance
from models.normalisation import to_unit
from nowcast.archive.archive import Archive
from nowcast.archive.events import Event, find_events
from nowcast.compute import Compute
from nowcast.disk import durable
from nowcast.hindcast.cases import Cases
from nowcast.hindcast.evaluation import ArchivedFrames, issue_indices
from nowcast.methods.networks.checkpoint import load, save
from nowcast.methods.networks.exceedance import ExceedanceNetwork, Probable
from nowcast.methods.networks.loading import network
from nowcast.methods.shipped_scores import PRIOR_FILE, Prior, write_prior
from nowcast.names import EXTRAPOLATION
from nowcast.scores.judged import JUDGED_DBZ, csi_of
from nowcast.scores.tally import contingency_counts
from nowcast.training.plan import Plan
from nowcast.training.run import train

#: Events of each fold, by the beginning of their names: both have summer and winter, radars and steps.
FOLDS = {
    "A": (
        "fmi_pgm-20170509",
        "mch_gif-20170131",
        "knmi_pcp_2021-2021-02-02-2005",
        "knmi_pcp_2021-2021-02-06-2005",
        "opera_odyssey_rate_20180824",
        "cpol_darwin_20061116",
    ),
    "B": (
        "bom_rf3-66_brisbane_c10_20201031",
        "dwd_radolan_yw_20170816",
        "knmi_rap_20100826",
        "knmi_pcp_2021-2021-02-04-2005",
        "opera_cirrus_dbzh_20241126",
        "openrainer_20220917",
    ),
}

#: Frames the network looks back on.
HISTORY = 4

#: Most cells of a grid that is counted on: sorting a continent's takes minutes a lead.
MOST_CELLS = 4_000_000

#: Factors of the area, and shares of what was learnt, that are tried together.
FACTORS = (0.9, 1.0, 1.1, 1.2, 1.3)
TRUSTS = (0.0, 0.25, 0.5, 0.75, 1.0)

#: Frequency bias a factor may lead to at most, in any event: what wins on one day smears on another.
MOST_BIAS = 1.25

#: Observed cells an event must have at a lead and threshold to have a say.
LEAST_CELLS = 2000

#: Hits, misses and false alarms ``(factor + 1, 3, threshold)``, extrapolation's first, by lead [minutes].
Counts = dict[float, NDArray[np.float64]]


def plan(fold: str, steps: int) -> Plan:
    """Return how a fold's network is trained."""
    return Plan(
        "exceedance", steps=steps, hold_out=FOLDS.get(fold, ()), crop=256, checks=5, patience=99,
        precision="bf16-mixed",
    )  # fmt: skip


def counted(method: ExceedanceNetwork, archive: Archive, event: Event, issues: int) -> Counts:
    """Return what each trust and factor scores on an event."""
    steps = 60 // event.step_minutes
    cases = Cases(ArchivedFrames(archive, event), history=HISTORY, steps=steps)
    thresholds = np.float32(JUDGED_DBZ)
    counts: Counts = {}
    for index in issue_indices(archive, event, HISTORY, issues):
        case = cases.at(index)
        for lead, one in enumerate(method.probabilities(case.cube, steps), start=1):
            if (truth := case.truths.get(lead)) is None:
                continue
            fields = [np.nan_to_num(one.extrapolated, nan=-10), *_fields(method, one)]
            observed = ~np.isnan(truth)
            rows = [contingency_counts(field, truth, observed, thresholds) for field in fields]
            counts[one.minutes] = counts.get(one.minutes, 0) + np.asarray(rows, np.float64)
    return counts


def _fields(method: ExceedanceNetwork, one: Probable) -> Iterator[NDArray[np.float32]]:
    """Yield for every trust and factor a field that reaches thresholds where the service's would."""
    places = [int(np.flatnonzero(method.thresholds_dbz == dbz)[0]) for dbz in JUDGED_DBZ]
    covered = ~np.isnan(one.extrapolated)
    areas = [int((one.extrapolated[covered] >= dbz).sum()) for dbz in JUDGED_DBZ]
    unit = to_unit(torch.from_numpy(one.guess[covered])[None, None, None])[0]
    with torch.inference_mode():
        guessed = method.exceedance.guessed_logits(unit, [one.minutes])[0, 0, :, 0].numpy()
    learnt = np.clip(one.probability[:, covered], 1e-7, 1 - 1e-7)
    learnt = np.log(learnt / (1 - learnt))
    for trust in TRUSTS:
        logits = guessed[places] + trust * (learnt[places] - guessed[places])
        ordered = np.sort(logits, axis=1)[:, ::-1]
        for factor in FACTORS:
            reached = np.full(logits.shape[1], -10, np.float32)
            for k, dbz in enumerate(JUDGED_DBZ):
                if wanted := min(round(factor * areas[k]), logits.shape[1]):
                    reached[logits[k] >= ordered[k, wanted - 1]] = dbz
            field = np.full(covered.shape, -10, np.float32)
            field[covered] = reached
            yield field


def chosen(by_event: Mapping[str, Counts], slots: int, slot_minutes: float) -> NDArray[np.float32]:
    """Return trust and factor ``(2, slot, threshold)`` with the largest mean gain over extrapolation.

    The mean is over events, whichever their size. In no event does the frequency bias exceed
    :data:`MOST_BIAS`, or the factor is 1.
    """
    table = np.ones((2, slots, len(JUDGED_DBZ)), np.float32)
    for k in range(len(JUDGED_DBZ)):
        for slot in range(slots):
            near = [slot_minutes * (slot + 1 + d) for d in (-1, 0, 1)]  # neighbours steady the choice
            having = [
                counts[minutes][:, :, k]
                for counts in by_event.values()
                for minutes in near
                if minutes in counts and counts[minutes][0, :2, k].sum() >= LEAST_CELLS
            ]
            table[:, slot, k] = _best(having) if having else table[:, slot - 1, k]
    return table


def _best(having: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the best trust and factor, given counts ``(1 + trust x factor, 3)``."""
    csi = csi_of(np.stack(having)[..., None])[..., 0]
    gain = (csi[:, 1:] / np.maximum(csi[:, :1], 1e-3)).mean(0)
    bias = np.stack([(counts[1:, 0] + counts[1:, 2]) / counts[0, :2].sum() for counts in having]).max(0)
    trusts, factors = (each.ravel() for each in np.meshgrid(TRUSTS, FACTORS, indexing="ij"))
    best = np.where((bias <= MOST_BIAS) | (factors == 1), gain, -1).argmax()
    return float(trusts[best]), float(factors[best])


def at_all_thresholds(areas: NDArray[np.float32], thresholds_dbz: NDArray[np.float32]) -> torch.Tensor:
    """Return areas ``(slot, k)``, given those at the thresholds judged; the ends' beyond them."""
    return torch.from_numpy(
        np.stack([np.interp(thresholds_dbz, JUDGED_DBZ, row) for row in areas]).astype(np.float32)
    )


def with_table(folder: Path, table: NDArray[np.float32]) -> None:
    """Put trust and factors into a checkpoint."""
    checkpoint = load(folder)
    net = checkpoint.network
    assert isinstance(net, Exceedance)
    thresholds = np.float32(net.config.thresholds_dbz)
    net.trust, net.areas = (at_all_thresholds(part, thresholds) for part in table)
    save(folder, net, checkpoint.card)


def prior_of(by_event: Mapping[str, Counts], table: NDArray[np.float32], slot_minutes: float) -> Prior:
    """Return the prior: what the chosen rows scored on all events, and extrapolation beside them."""
    counts: dict[tuple[str, int], NDArray[np.float64]] = {}
    for of_event in by_event.values():
        for minutes, rows in of_event.items():
            slot, lead = round(minutes / slot_minutes) - 1, round(minutes)
            served = [_row(*table[:, slot, k].tolist()) for k in range(len(JUDGED_DBZ))]
            scored = {
                EXTRAPOLATION: rows[0],
                "exceedance": rows[served, :, range(len(JUDGED_DBZ))].T,
            }
            for name, three in scored.items():
                counts[name, lead] = counts.get((name, lead), 0) + three
    return Prior(counts, f"cross-validated in {len(FOLDS)} folds on {len(by_event)} training events")


def _row(trust: float, factor: float) -> int:
    """Return which row of counts is that of a trust and a factor."""
    places = [
        int(np.argmin(np.abs(np.subtract(of, one)))) for of, one in ((TRUSTS, trust), (FACTORS, factor))
    ]
    return 1 + places[0] * len(FACTORS) + places[1]


def events_of(archive: Archive, fold: str) -> Iterator[Event]:
    """Yield the events of a fold that are counted on."""
    for event in find_events(archive):
        grid = archive.grid(event.domain)
        if event.name.startswith(FOLDS[fold]) and grid is not None and grid.ny * grid.nx <= MOST_CELLS:
            yield event


def main() -> None:
    """Train the folds, choose the areas, and write the prior."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data directory with the training archive")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings, which go on there")
    parser.add_argument("--cache", type=Path, help="folder of prepared sequences")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--issues", type=int, default=6, help="issue times of an event")
    parser.add_argument("--prior", type=Path, default=PRIOR_FILE)
    parser.add_argument("--into", type=Path, help="checkpoint that gets the chosen trust and factors")
    parser.add_argument("--json", type=Path, help="has no effect")
    arguments = parser.parse_args()
    archive = Archive(arguments.data / "archive")
    by_event: dict[str, Counts] = {}
    for fold in FOLDS:
        folder = arguments.runs / fold
        if not (folder / "config.json").exists():
            trained = train(archive, folder, plan(fold, arguments.steps), cache=arguments.cache)
            save(folder, trained.network, trained.card)
        method = network("exceedance", Compute(weights=folder))
        assert isinstance(method, ExceedanceNetwork)
        for event in events_of(archive, fold):
            piece = folder / f"counts-{event.name}-{arguments.issues}.json"
            if not piece.exists():
                counts = counted(method, archive, event, arguments.issues)
                durable.write_json(piece, {str(lead): rows.tolist() for lead, rows in counts.items()})
            by_event[event.name] = {
                float(lead): np.asarray(rows) for lead, rows in durable.read_json(piece).items()
            }
            print(fold, event.name, flush=True)
    table = chosen(by_event, 12, 5.0)
    print("trust", table[0], "factor", table[1], sep="\n")
    write_prior(arguments.prior, prior_of(by_event, table, 5.0))
    if arguments.into:
        with_table(arguments.into, table)


if __name__ == "__main__":
    main()
