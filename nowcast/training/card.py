"""The model card: what weights are made of, what they can do and what they cannot, as a page for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nowcast.errors import InputError
from nowcast.methods.networks.checkpoint import Card
from nowcast.names import EXTRAPOLATION, PERSISTENCE
from nowcast.scores.bootstrap import compare
from nowcast.scores.skillfile import Skill, at_leads, entries, mean_csi, pooled

#: What of a plan the card tells, in this order.
TOLD = ("batch", "accumulate", "devices", "crop", "precision", "seed", "patience", "checks")


def model_card(
    name: str, sha256: str, card: Card, facts: Mapping[str, Any], skill: Skill | None, pictures: Sequence[str]
) -> str:
    """Return a model card in Markdown.

    Args:
        name: Name of the network.
        sha256: Hash of the weights' file.
        card: What the checkpoint says of itself.
        facts: :attr:`nowcast.training.run.Trained.facts`.
        skill: What it scored on held-out events, ``None`` if there were none.
        pictures: Names of pictures beside the card.
    """
    parts = [
        _heading(name, sha256, card, facts),
        _data(card, facts),
        _training(card, facts),
        _scores(skill),
        *(f"![{picture.partition('.')[0]}]({picture})" for picture in pictures),
        _limits(card, facts, skill),
    ]
    return "\n\n".join(parts) + "\n"


def _heading(name: str, sha256: str, card: Card, facts: Mapping[str, Any]) -> str:
    task = card.task
    seen = "the moving air (`nowcast/motion/lagrangian.py`)" if task.moving else "places on the ground"
    return (
        f"# {name}\n\n"
        f"Forecasts reflectivity from {task.frames} radar frames, seen from {seen}. "
        f"{facts['parameters']:,} parameters; weights `sha256:{sha256}`; "
        f"code `{card.git_hash or 'unknown'}`.\n\n"
        f"```\n{card.config}\n```"
    )


def _data(card: Card, facts: Mapping[str, Any]) -> str:
    rows = [
        "| event | used for | step [min] | cell [km] | tiles | cells that rain |",
        "|---|---|---|---|---|---|",
    ]
    for use in ("learnt", "held_out"):
        rows += [
            f"| {one['event']} | {use.replace('_', ' ')} | {one['step_minutes']} | {one['cell_km']:g} "
            f"| {one['tiles']} | {100 * one['rain_share']:.1f} % |"
            for one in facts[use]
        ]
    sources = [
        f"- {', '.join(filter(None, (source.agency, source.product, source.licence, source.period)))}"
        for source in card.data
    ]
    return "\n".join(["## Data", "", "Learnt from radar data of", "", *sources, "", *rows])


def _training(card: Card, facts: Mapping[str, Any]) -> str:
    plan, shape = facts["plan"], facts["plan"]["shape"]
    joules = facts["joules"]
    energy = "unknown" if joules is None else f"{joules / 3.6e6:.3f} kWh (the machine's processors)"
    lines = [
        f"{facts['steps']} steps, {', '.join(f'{key} {plan[key]}' for key in TOLD)}",
        f"sequences of {shape['frames']} frames and {shape['slots']} leads {shape['slot_minutes']} min apart",
        f"hardware: {facts['hardware']}",
        f"time: {facts['seconds'] / 60:.1f} min",
        f"energy: {energy}",
    ]
    return "## Training\n\n" + "\n".join(f"- {line}" for line in lines)


def _scores(skill: Skill | None) -> str:
    if skill is None:
        return "## Scores\n\nNo event was held out: nothing is known of how well it forecasts."
    methods = {"these weights": skill.events}
    names = dict.fromkeys((skill.base, EXTRAPOLATION, PERSISTENCE))
    methods |= {name: skill.references[name] for name in names}
    sums = {name: pooled(scored) for name, scored in methods.items()}
    issued = {key[:2] for key, _ in entries(skill.events)}
    means = ", ".join(f"{name} {_number(mean_csi(by_lead))}" for name, by_lead in sums.items())
    titles = [f"≥ {threshold:g} dBZ" for threshold in skill.thresholds_dbz]
    return "\n".join(
        [
            "## Scores",
            "",
            f"CSI on the full frames of {len(skill.events)} held-out events, {len(issued)} issue times: "
            f"{' / '.join(methods)}. Mean over leads and 20, 30 and 35 dBZ: {means}.",
            "",
            f"| lead [min] | {' | '.join(titles)} |",
            "|---" * (len(titles) + 1) + "|",
            *_rows(list(sums.values()), skill.thresholds_dbz),
            "",
            *_over_base(skill),
        ]
    )


def _over_base(skill: Skill) -> Iterator[str]:
    """Yield what the weights add to what they start from, by lead, with intervals where there are any."""
    yield f"What these weights add to {skill.base}, in mean CSI:"
    yield ""
    yield "| lead [min] | " + " | ".join(("mean CSI", skill.base, "difference", "95 % interval")) + " |"
    yield "|---" * 5 + "|"
    leads = sorted({lead for (_, _, lead), _ in entries(skill.events)})
    for name, chosen in (*((str(lead), {lead}) for lead in leads), ("all", set(leads))):
        mine, base = (at_leads(scored, chosen) for scored in (skill.events, skill.references[skill.base]))
        own, others = mean_csi(pooled(mine)), mean_csi(pooled(base))
        if own is None or others is None:
            continue
        try:
            compared = compare(mine, base)
            interval = f"{compared.low:+.4f} to {compared.high:+.4f}"
        except InputError:  # too few blocks to conclude anything
            interval = "-"
        yield f"| {name} | {own:.4f} | {others:.4f} | {own - others:+.4f} | {interval} |"


def _rows(sums: Sequence[Mapping[int, Any]], thresholds_dbz: Sequence[float]) -> Iterator[str]:
    for lead in sums[0]:
        cells = [
            " / ".join(_number(by_lead[lead].contingency(threshold).csi) for by_lead in sums)
            for threshold in thresholds_dbz
        ]
        yield f"| {lead} | {' | '.join(cells)} |"


def _limits(card: Card, facts: Mapping[str, Any], skill: Skill | None) -> str:
    shape, task = facts["plan"]["shape"], card.task
    steps = sorted({one["step_minutes"] for one in facts["learnt"]})
    cells = sorted({one["cell_km"] for one in facts["learnt"]})
    lines = [
        f"Made for frames {task.step_minutes:g} min apart and cells of {task.cell_km:g} km, of which it saw "
        f"most. It saw steps of {', '.join(map(str, steps))} min, cells of {cells[0]:g} to {cells[-1]:g} km.",
        f"Leads beyond {shape['slots'] * shape['slot_minutes']} min were not trained.",
        f"It knows {len(facts['learnt'])} events and their radars; other climates and seasons are untested.",
        "Of one training with one seed: another seed gives somewhat other scores.",
        "A forecast of rain for people; it is no basis for warnings by itself.",
    ]
    if skill is not None:
        lines.append(
            "The held-out events also chose the step whose weights were kept, so that scores on them are "
            "slightly too good."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
