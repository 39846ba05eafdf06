"""Where everything lies that the service keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataFolder:
    """The parts of a data directory.

    Attributes:
        root: The data directory.
    """

    root: Path

    @property
    def inboxes(self) -> Path:
        """Folder of all inboxes."""
        return self.root / "inbox"

    def inbox(self, domain: str) -> Path:
        """Return the folder a domain's files are dropped into."""
        return self.inboxes / domain

    def quarantine(self, domain: str) -> Path:
        """Return the folder a domain's files are kept in that cannot be used."""
        return self.root / "quarantine" / domain

    @property
    def archive(self) -> Path:
        """Folder of all frames, see :class:`nowcast.archive.archive.Archive`."""
        return self.root / "archive"

    @property
    def forecasts(self) -> Path:
        """Folder of all forecasts, see :class:`nowcast.forecast.store.ForecastStore`."""
        return self.root / "forecasts"

    @property
    def scores(self) -> Path:
        """Folder of all scores, see :class:`nowcast.scores.scorebook.ScoreBook`."""
        return self.root / "scores"

    @property
    def broker(self) -> Path:
        """Folder of the embedded broker."""
        return self.root / "broker"
