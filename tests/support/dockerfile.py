"""A Dockerfile as stages of instructions: enough of the format for ours."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """One ``FROM ... AS name`` and what follows it.

    Attributes:
        name: Its name.
        base: What it starts from, another stage or an image.
        steps: Instructions and their arguments, in order.
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Return the arguments of every such instruction."""
        return [argument for name, argument in self.steps if name == instruction]

    def command(self, instruction: str) -> list[str]:
        """Return the words of the last such instruction in its exec form (``CMD``, ``HEALTHCHECK`` ...)."""
        argument = self.all(instruction)[-1]
        return [str(word) for word in json.loads(argument[argument.index("[") :])]


def parse(path: Path) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M)
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        instruction, argument = line.split(maxsplit=1)
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", argument).groups()  # type: ignore[union-attr]
            current = stages[name] = Stage(name, base)
        elif current is not None:
            current.steps.append((instruction, argument))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """Return a stage and the stages it builds on, the first one first."""
    stage = stages[name]
    return [*lineage(stages, stage.base), stage] if stage.base in stages else [stage]
