"""Cross-validation on training events: how wide exceedance's areas are to be, and the prior of the gate.

Each fold of events is forecast by a network that learnt from the others. What the factors of its areas score
chooses them; what it then scores beside extrapolation and S-PROG is what the gate knows before a domain has
scores of its own. No event of validation has a part in it.

    python -m benchmarks cross_validation --data DATA --runs RUNS [--steps N] [--issues K]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import load, save
from models.exceedance import Exceedance
from nowcast import files
from nowcast.archive import Archive
from nowcast.cases import Cases
from nowcast.compute import Compute
from nowcast.evaluation import ArchivedFrames, _issues, score_events
from nowcast.events import Event, find_events
from nowcast.exceedance_method import ExceedanceNetwork
from nowcast.extrapolation import Extrapolation
from nowcast.gate import counts_of
from nowcast.network import network
from nowcast.prior import PRIOR_FILE, Prior, write_prior
from nowcast.skillfile import JUDGED_DBZ, Skill, pooled
from nowcast.sprog import SPROG
from nowcast.training import train
from nowcast.training_plan import Plan
from nowcast.verification import contingency_counts

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

#: Factors of the area that are tried.
FACTORS = (0.9, 1.0, 1.1, 1.2, 1.3)

#: Frequency bias [ratio of areas] that a factor may lead to at most, all events together.
MOST_BIAS = 1.2

#: Observed cells an event must have at a lead and threshold to have a say.
LEAST_CELLS = 2000

#: Hits, misses and false alarms ``(factor + 1, 3, threshold)``, extrapolation's first, by lead [minutes].
Counts = dict[float, NDArray[np.float64]]


def plan(fold: str, steps: int) -> Plan:
    """Return how a fold's network is trained."""
    return Plan(
        "exceedance", steps=steps, hold_out=FOLDS.get(fold, ()), crop=96, checks=4, patience=99,
        precision="bf16-mixed",
    )  # fmt: skip


def counted(method: ExceedanceNetwork, archive: Archive, event: Event, issues: int) -> Counts:
    """Return what each factor scores on an event."""
    steps = 60 // event.step_minutes
    cases = Cases(ArchivedFrames(archive, event), history=4, steps=steps)
    thresholds = np.float32(JUDGED_DBZ)
    places = [int(np.flatnonzero(method.thresholds_dbz == dbz)[0]) for dbz in thresholds]
    counts: Counts = {}
    for index in _issues(archive, event, 4, issues):
        case = cases.at(index)
        for lead, one in enumerate(method.probabilities(case.cube, steps), start=1):
            if (truth := case.truths.get(lead)) is None:
                continue
            observed, covered = ~np.isnan(truth), ~np.isnan(one.extrapolated)
            fields = [np.nan_to_num(one.extrapolated, nan=-10)]
            areas = [int((fields[0] >= dbz).sum()) for dbz in thresholds]
            ordered = [np.sort(one.probability[place][covered])[::-1] for place in places]
            for factor in FACTORS:
                field = np.full_like(truth, -10)
                for place, dbz, area, cells in zip(places, thresholds, areas, ordered, strict=True):
                    wanted = min(round(factor * area), len(cells))
                    if wanted:
                        field[covered & (one.probability[place] >= cells[wanted - 1])] = dbz
                fields.append(field)
            rows = [contingency_counts(field, truth, observed, thresholds) for field in fields]
            counts[one.minutes] = counts.get(one.minutes, 0) + np.asarray(rows, np.float64)
    return counts


def chosen_areas(by_event: Mapping[str, Counts], slots: int, slot_minutes: float) -> NDArray[np.float32]:
    """Return the factor ``(slot, threshold)`` with the largest mean gain over extrapolation, event by event.

    Factors do not fall with lead, and keep the frequency bias of all events below :data:`MOST_BIAS`; 1 is
    always allowed.
    """
    areas = np.ones((slots, len(JUDGED_DBZ)), np.float32)
    for slot in range(slots):
        minutes = slot_minutes * (slot + 1)
        known = [counts[minutes] for counts in by_event.values() if minutes in counts]
        for k in range(len(JUDGED_DBZ)):
            having = [counts[:, :, k] for counts in known if counts[0, :2, k].sum() >= LEAST_CELLS]
            before = areas[slot - 1, k] if slot else FACTORS[0]
            areas[slot, k] = _best(having, before) if having else max(before, 1.0)
    return areas


def _best(having: Sequence[NDArray[np.float64]], before: float) -> float:
    """Return the best factor, at least that of the lead before; ``having`` counts ``(factor + 1, 3)``."""
    csi = np.stack([counts[:, 0] / counts.sum(1) for counts in having])  # (event, factor + 1)
    gain = (csi[:, 1:] / np.maximum(csi[:, :1], 1e-3)).mean(0)
    shares = sum(counts / counts[0, :2].sum() for counts in having)  # every event the same weight
    bias = (shares[1:, 0] + shares[1:, 2]) / len(having)
    factors = np.asarray(FACTORS)
    allowed = (factors >= before - 1e-6) & ((bias <= MOST_BIAS) | (factors <= max(before, 1.0)))
    return float(factors[np.where(allowed, gain, -1).argmax()])


def at_all_thresholds(areas: NDArray[np.float32], thresholds_dbz: NDArray[np.float32]) -> torch.Tensor:
    """Return areas ``(slot, k)``, given those at the thresholds judged; the ends' beyond them."""
    return torch.from_numpy(
        np.stack([np.interp(thresholds_dbz, JUDGED_DBZ, row) for row in areas]).astype(np.float32)
    )


def with_areas(folder: Path, areas: NDArray[np.float32]) -> None:
    """Put areas into a checkpoint."""
    checkpoint = load(folder)
    net = checkpoint.network
    assert isinstance(net, Exceedance)
    net.areas = at_all_thresholds(areas, np.float32(net.config.thresholds_dbz))
    save(folder, net, checkpoint.card)


def prior_of(skills: Sequence[Skill], provenance: str) -> Prior:
    """Return the prior from what the folds' networks and their references scored."""
    counts: dict[tuple[str, int], NDArray[np.float64]] = {}
    for skill in skills:
        scored = {"exceedance": skill.events, **skill.references}
        for name, of_method in scored.items():
            for lead, tally in pooled(of_method).items():
                counts[name, lead] = counts.get((name, lead), 0) + counts_of(tally)
    return Prior(counts, provenance)


def _events(archive: Archive, fold: str) -> Iterator[Event]:
    return (event for event in find_events(archive) if event.name.startswith(FOLDS[fold]))


def main() -> None:
    """Train the folds, choose the areas, and write the prior."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data directory with the training archive")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings, which go on there")
    parser.add_argument("--cache", type=Path, help="folder of prepared sequences")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--issues", type=int, default=6, help="issue times of an event")
    parser.add_argument("--prior", type=Path, default=PRIOR_FILE)
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
        for event in _events(archive, fold):
            piece = folder / f"counts-{event.name}-{arguments.issues}.json"
            if not piece.exists():
                counts = counted(method, archive, event, arguments.issues)
                files.write_json(piece, {str(lead): rows.tolist() for lead, rows in counts.items()})
            by_event[event.name] = {
                float(lead): np.asarray(rows) for lead, rows in files.read_json(piece).items()
            }
            print(fold, event.name, flush=True)
    areas = chosen_areas(by_event, 12, 5.0)
    print(areas)
    files.write_json(arguments.runs / "areas.json", areas.tolist())
    skills = []
    for fold in FOLDS:
        with_areas(arguments.runs / fold, areas)
        method = network("exceedance", Compute(weights=arguments.runs / fold))
        events = list(_events(archive, fold))
        references = (Extrapolation(), SPROG())
        skills.append(score_events(archive, events, method, references, most=arguments.issues))
    names = ", ".join(sorted(by_event))
    provenance = f"cross-validated in {len(FOLDS)} folds on {len(by_event)} events ({names})"
    write_prior(arguments.prior, prior_of(skills, provenance))


if __name__ == "__main__":
    main()
