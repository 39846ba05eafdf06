"""Each file of a time has one place, and only the folders of the time asked for are looked into."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from nowcast.archive.archive import Archive
from nowcast.disk import durable
from nowcast.disk.dated_tree import DatedTree
from nowcast.errors import UnknownDomain
from nowcast.forecast.store import ForecastStore
from nowcast.scores.scorebook import ScoreBook

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def tree(tmp_path: Path) -> DatedTree:
    return DatedTree(tmp_path, suffix=".nc", day_suffix=".nc")


def test_a_time_has_its_place_by_its_utc_day(tree: DatedTree) -> None:
    early = datetime(2026, 11, 21, 1, tzinfo=timezone(timedelta(hours=2)))
    assert tree.file("dk", early) == tree.root / "dk/2026/11/20/dk_20261120T230000Z.nc"
    assert tree.day_file("dk", early) == tree.root / "dk/2026/11/dk_20261120.nc"
    scores = DatedTree(tree.root, suffix=".json", day_suffix=".jsonl.gz", named_by_domain=False)
    assert scores.file("dk", early) == tree.root / "dk/2026/11/20/20261120T230000Z.json"
    assert scores.day_file("dk", early) == tree.root / "dk/2026/11/dk_20261120.jsonl.gz"
    forecasts = DatedTree(tree.root, suffix=".nc", labelled=True)
    assert forecasts.file("dk", early, "a_b") == tree.root / "dk/2026/11/20/dk_20261120T230000Z_a_b.nc"


def test_days_with_a_folder_or_a_file_are_told_in_order(tree: DatedTree) -> None:
    folder = tree.folder("dk")
    for name in ("2025/12/31", "2026/01/01", "2026/01/02", "2026/02/01", "2026/xx/01", "notes/01", "26/01"):
        (folder / name).mkdir(parents=True)
    (folder / "2027").write_bytes(b"a file, not a year")
    touch(folder, "2026/01/dk_20260103.nc", "2026/01/dk_20251230.nc", "2026/01/no_20260104.nc")
    (folder / "2026" / "01" / "32").mkdir()

    def days(*span: datetime | None, newest_first: bool = False) -> list[tuple[int, int]]:
        return [(day.month, day.day) for day in tree.days("dk", *span, newest_first=newest_first)]

    assert days() == [(12, 31), (1, 1), (1, 2), (1, 3), (2, 1)]
    assert days(newest_first=True) == days()[::-1]
    assert days(NOON, datetime(2026, 1, 31, tzinfo=UTC)) == [(1, 1), (1, 2), (1, 3)]
    assert days(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)) == [(1, 2), (1, 3)]
    assert days(None, datetime(2025, 12, 31, tzinfo=UTC)) == [(12, 31)]
    assert days(datetime(2026, 3, 1, tzinfo=UTC)) == []


def test_the_newest_day_of_ten_years_is_found_without_looking_into_the_others(
    tree: DatedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for month in range(120):
        (tree.folder("dk") / f"{2017 + month // 12}/{1 + month % 12:02}/15").mkdir(parents=True)
    listing, listed = durable.listing, []
    monkeypatch.setattr(durable, "listing", lambda folder: listed.append(folder) or listing(folder))
    assert next(tree.days("dk", newest_first=True)) == datetime(2026, 12, 15, tzinfo=UTC)
    assert [path.relative_to(tree.root).as_posix() for path in listed] == ["dk", "dk/2026", "dk/2026/12"]
    listed.clear()
    march = datetime(2020, 3, 15, tzinfo=UTC)
    assert list(tree.days("dk", march, march)) == [march]
    assert [path.relative_to(tree.root).as_posix() for path in listed] == ["dk", "dk/2020", "dk/2020/03"]


def test_only_files_of_the_day_and_of_the_form_are_taken(tree: DatedTree) -> None:
    ours = "dk_20260101T120000Z"
    touch(
        tree.day_folder("dk", NOON),
        f"{ours}.nc", f"{ours}_auto.nc", f"{ours}_.nc", f"{ours}x.nc", f"{ours}.json", f".{ours}.nc.7-ab.tmp",
        "dk_20260101T12000Z.nc", "dk_20260102T120000Z.nc", "no_20260101T120000Z.nc", "20260101T120000Z.nc",
    )  # fmt: skip
    assert [(file.time, file.label) for file in tree.files_of_day("dk", NOON)] == [(NOON, "")]
    labelled = DatedTree(tree.root, suffix=".nc", labelled=True).files_of_day("dk", NOON)
    assert [file.label for file in labelled] == ["", "auto"]
    bare = DatedTree(tree.root, suffix=".nc", named_by_domain=False).files_of_day("dk", NOON)
    assert [file.path.name for file in bare] == ["20260101T120000Z.nc"]


def test_days_gathered_already_are_not_loose(tree: DatedTree) -> None:
    touch(
        tree.folder("dk"),
        "2026/01/dk_20260101.nc",
        "2026/01/02/dk_20260102T000000Z.nc",
        "2026/01/03/notes.txt",
        "2026/01/04/dk_20260104T000000Z.nc",
        "2026/01/dk_20260104.nc",
        "2026/01/05/dk_20260105T000000Z.nc",
    )
    assert [day.day for day in tree.loose_days("dk", datetime(2026, 1, 4, 23, tzinfo=UTC))] == [2, 4]
    assert [day.day for day in tree.loose_days("dk")] == [2, 4, 5]


@pytest.mark.parametrize("name", ["", "../dk", "dk/2026", ".dk", "-dk", "d k"])
def test_a_name_that_leads_elsewhere_is_no_domain(tree: DatedTree, name: str) -> None:
    with pytest.raises(UnknownDomain, match="a domain's name has letters, digits"):
        tree.folder(name)


def test_folders_made_so_far_are_read(tmp_path: Path) -> None:
    """The names as the service has always given them; they may never change."""
    touch(
        tmp_path,
        "archive/dk/2026/01/01/dk_20260101T120000Z.nc",
        "forecasts/dk/2026/01/01/dk_20260101T120000Z_extrapolation.nc",
        "forecasts/dk/2026/01/01/dk_20260101T120000Z_convlstm_cpu.nc",
        "forecasts/dk/2025/12/31/dk_20251231T235500Z_auto.nc",
        "scores/dk/2026/01/01/20260101T120000Z.json",
    )
    archive, store = Archive(tmp_path / "archive"), ForecastStore(tmp_path / "forecasts")
    assert archive.times("dk") == [NOON] and archive.newest("dk") == NOON
    assert archive.path("dk", NOON) == tmp_path / "archive/dk/2026/01/01/dk_20260101T120000Z.nc"
    assert archive.domains() == ["dk"]
    assert store.issue_times("dk") == [datetime(2025, 12, 31, 23, 55, tzinfo=UTC), NOON]
    assert store.models("dk", NOON) == ["convlstm_cpu", "extrapolation"]
    newest = tmp_path / "forecasts/dk/2026/01/01/dk_20260101T120000Z_extrapolation.nc"
    assert store.latest("dk") == (NOON, "extrapolation", newest)
    assert ScoreBook(tmp_path / "scores").loose_days("dk", NOON) == [date(2026, 1, 1)]
    assert archive.loose_days("dk", NOON) == [date(2026, 1, 1)]
    assert os.listdir(tmp_path / "archive/dk") == ["2026"], "reading makes nothing"
