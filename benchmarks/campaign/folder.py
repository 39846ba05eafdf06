"""The campaign's folder beside the repository: the copy of the code it runs, and all it leaves."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nowcast.disk import durable
from nowcast.disk.data_folder import DataFolder

#: Files of a run besides those of its training: how far it is, that it is finished, why it failed.
PROGRESS_FILE, FINISHED_FILE, FAILED_FILE = "progress.json", "finished.json", "failed.json"


@dataclass(frozen=True)
class Campaign:
    """Where everything of a campaign lies; nothing kept there says where, so that the folder can move.

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def code(self) -> Path:
        """Clone of the repository that the workers run from."""
        return self.root / "code"

    @property
    def state(self) -> Path:
        """All that the campaign makes."""
        return self.root / "state"

    @property
    def archive(self) -> Path:
        """Archive that is learnt from."""
        return DataFolder(self.state / "data").archive

    @property
    def gathering(self) -> Path:
        """Data directory that an archive grows in until it is whole."""
        return self.state / "gathering"

    @property
    def sequences(self) -> Path:
        """Prepared sequences, shared by all trainings."""
        return self.state / "sequences"

    @property
    def runs(self) -> Path:
        """One folder for each network, plan and round."""
        return self.state / "runs"

    @property
    def turns(self) -> Path:
        """File of the networks in order, each with the folders of its rounds so far."""
        return self.state / "turns.json"

    @property
    def workers(self) -> Path:
        """Which processes work, and their locks."""
        return self.state / "workers"

    def log(self, worker: int) -> Path:
        """Return where a worker writes what it does."""
        return self.state / "logs" / f"worker-{worker}.log"


def freeze(repository: Path, campaign: Campaign, *, anew: bool = False) -> str:
    """Clone the repository's last commit unless that was done, or once more; return the clone's tag.

    Raises:
        subprocess.CalledProcessError: If git refuses.
    """
    durable.make_folder(campaign.root)
    with durable.locked(campaign.root / ".code.lock"):
        if campaign.code.exists() and not anew:
            return frozen(campaign)
        made = campaign.root / "code.new"
        _remove(made)
        _git("clone", "--quiet", "--no-hardlinks", repository, made)
        _git("-C", made, "tag", "--force", f"campaign-{datetime.now(UTC):%Y%m%dT%H%M}")
        _remove(campaign.code)
        made.rename(campaign.code)
        return frozen(campaign)


def frozen(campaign: Campaign) -> str:
    """Return the tag and commit of the clone, empty if there is none."""
    if not campaign.code.exists():
        return ""
    command = ("-C", campaign.code, "describe", "--tags", "--long", "--match", "campaign-*")
    return _git(*command).strip()


def _git(*words: str | Path) -> str:
    return subprocess.run(
        ["git", *map(str, words)], check=True, stdout=subprocess.PIPE, text=True, timeout=600
    ).stdout


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
