"""Every part of a data directory has the place it always had."""

from __future__ import annotations

from pathlib import Path

from nowcast.disk.data_folder import DataFolder
from nowcast.settings import Settings


def test_parts_lie_where_they_always_lay() -> None:
    folder = DataFolder(Path("data"))
    parts = [folder.archive, folder.forecasts, folder.scores, folder.broker, folder.inboxes]
    assert [str(part) for part in parts] == [
        "data/archive", "data/forecasts", "data/scores", "data/broker", "data/inbox",
    ]  # fmt: skip
    assert folder.inbox("dk") == Path("data/inbox/dk")
    assert folder.quarantine("dk") == Path("data/quarantine/dk")


def test_settings_know_the_folder(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.folder == DataFolder(tmp_path)
    assert settings.compute().scores == tmp_path / "scores"
