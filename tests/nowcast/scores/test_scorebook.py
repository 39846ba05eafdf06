"""Scores on disk: nothing lost, nothing counted twice, whatever is compacted, damaged or written."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowcast.errors import StorageError, UnknownDomain, UnreadableFile
from nowcast.scores.scorebook import ScoreBook
from nowcast.scores.tally import Tally

MIDNIGHT = datetime(2026, 10, 31, tzinfo=UTC)
NOON = MIDNIGHT + timedelta(hours=12)
EXTRAPOLATION, PERSISTENCE = ("extrapolation", 5), ("persistence", 5)


def tally(hits, *, misses=1, threshold=30.0):
    """Scores of one forecast with so many hits, misses and one pixel of no echo."""
    truth = np.array([[40.0] * (hits + misses) + [-10.0]], np.float32)
    forecast = np.array([[40.0] * hits + [-10.0] * (misses + 1)], np.float32)
    result = Tally([threshold], windows_km=[1.0], cell_km=(1.0, 1.0))
    result.add(forecast, truth)
    return result


def hits_of(pooled):
    return {key: int(sums.counts[0, 0]) for key, sums in pooled.items()}


def fill(book, hours=48, start=MIDNIGHT):
    """Save one score an hour; the hits of hour h are h + 1."""
    for hour in range(hours):
        book.save("fin", start + timedelta(hours=hour), {EXTRAPOLATION: tally(hour + 1)})


@pytest.fixture
def book(tmp_path):
    return ScoreBook(tmp_path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fin" / "2026" / "10" / "31" / "20261031T120000Z.json"


def test_scores_come_back_as_they_were_saved(book, tmp_path):
    book.save("fin", NOON, {EXTRAPOLATION: tally(3), PERSISTENCE: tally(2)})

    again = ScoreBook(tmp_path)
    assert again.scored("fin", NOON) == {EXTRAPOLATION, PERSISTENCE}
    assert again.scored("fin", MIDNIGHT) == set()
    assert again.pooled("fin")[EXTRAPOLATION].to_dict() == tally(3).to_dict()
    assert again.pooled("swe") == {}


def test_a_later_forecast_joins_the_scores_of_its_valid_time(book):
    book.save("fin", NOON, {EXTRAPOLATION: tally(3)})
    book.save("fin", NOON, {("extrapolation", 10): tally(2)})

    assert hits_of(book.pooled("fin")) == {EXTRAPOLATION: 3, ("extrapolation", 10): 2}


def test_saving_the_same_scores_again_counts_them_once(book):
    book.save("fin", NOON, {EXTRAPOLATION: tally(3)})
    book.save("fin", NOON, {EXTRAPOLATION: tally(3)})

    assert book.pooled("fin")[EXTRAPOLATION].forecasts == 1


def test_a_valid_time_in_another_zone_is_the_same_valid_time(book):
    book.save("fin", NOON, {EXTRAPOLATION: tally(3)})
    elsewhere = NOON.astimezone(timezone(timedelta(hours=14)))
    book.save("fin", elsewhere, {PERSISTENCE: tally(1)})

    assert book.scored("fin", elsewhere) == book.scored("fin", NOON) == {EXTRAPOLATION, PERSISTENCE}


@pytest.mark.parametrize("compacted", [False, True])
def test_a_span_includes_both_its_ends(book, compacted):
    fill(book)
    if compacted:
        book.compact("fin", MIDNIGHT.date())
    sixth, thirtieth = MIDNIGHT + timedelta(hours=6), MIDNIGHT + timedelta(hours=30)

    def hits(start=None, end=None):
        return hits_of(book.pooled("fin", start, end))[EXTRAPOLATION]

    assert hits() == sum(range(1, 49))
    assert hits(sixth, thirtieth) == sum(range(7, 32))
    assert hits(end=sixth) == sum(range(1, 8))
    assert hits(start=thirtieth) == sum(range(31, 49))
    assert hits(MIDNIGHT, MIDNIGHT + timedelta(hours=23, minutes=59, seconds=59)) == sum(range(1, 25))
    assert book.pooled("fin", MIDNIGHT + timedelta(days=5)) == {}


def test_model_and_lead_time_choose(book):
    book.save("fin", NOON, {EXTRAPOLATION: tally(3), ("extrapolation", 10): tally(2), PERSISTENCE: tally(1)})

    assert set(book.pooled("fin", model="persistence")) == {PERSISTENCE}
    assert set(book.pooled("fin", lead_minutes=5)) == {EXTRAPOLATION, PERSISTENCE}
    assert hits_of(book.pooled("fin", model="extrapolation", lead_minutes=10)) == {("extrapolation", 10): 2}


@pytest.mark.parametrize("compacted", [False, True])
def test_pairs_are_of_the_valid_times_and_leads_both_have(book, compacted):
    fill(book)
    for hour in (3, 7, 30):
        book.save("fin", MIDNIGHT + timedelta(hours=hour), {("sprog", 5): tally(100 * hour)})
    book.save("fin", MIDNIGHT, {("sprog", 10): tally(1)})  # without a partner at its lead
    book.save("fin", NOON, {("sprog", 5): tally(1, threshold=20.0)})  # without one at its threshold
    if compacted:
        book.compact("fin", MIDNIGHT.date())

    def hits(start, end):
        days = book.paired("fin", "extrapolation", MIDNIGHT + start, MIDNIGHT + end)
        return [[(key, int(a.counts[0, 0]), int(b.counts[0, 0])) for key, a, b in day] for day in days]

    hour, days = timedelta(hours=1), timedelta(days=2)
    first, second = [(("sprog", 5), 1000, 4 + 8)], [(("sprog", 5), 3000, 31)]
    assert hits(0 * hour, days) == [first, second]
    assert hits(0 * hour, days) == [first, second], "from memory"
    assert hits(4 * hour, 30 * hour) == [[(("sprog", 5), 700, 8)], second]
    assert hits(8 * hour, 29 * hour) == [[], []]


def test_compaction_changes_no_score_and_removes_the_single_files(book, tmp_path):
    fill(book)
    before = book.pooled("fin")[EXTRAPOLATION]

    target = book.compact("fin", MIDNIGHT.date())

    assert target == tmp_path / "fin/2026/10/fin_20261031.jsonl.gz"
    assert not (tmp_path / "fin/2026/10/31").exists()
    assert len(list((tmp_path / "fin/2026/11/01").iterdir())) == 24
    for reader in (book, ScoreBook(tmp_path)):
        after = reader.pooled("fin")[EXTRAPOLATION]
        for kept, saved in zip(after.sums, before.sums, strict=True):
            assert kept == pytest.approx(saved, rel=1e-12)
        assert reader.scored("fin", NOON) == {EXTRAPOLATION}
    assert book.compact("fin", MIDNIGHT.date()) == target
    assert book.compact("fin", date(2020, 1, 1)) is None


def test_scores_that_come_after_compaction_join_and_count_once(book):
    fill(book, hours=24)
    book.compact("fin", MIDNIGHT.date())
    book.save("fin", NOON, {PERSISTENCE: tally(5)})

    for _ in range(2):
        assert hits_of(book.pooled("fin")) == {EXTRAPOLATION: sum(range(1, 25)), PERSISTENCE: 5}
        assert hits_of(book.pooled("fin", NOON, NOON)) == {EXTRAPOLATION: 13, PERSISTENCE: 5}
        assert book.scored("fin", NOON) == {EXTRAPOLATION, PERSISTENCE}
        book.compact("fin", MIDNIGHT.date())


def test_a_compaction_killed_before_it_removed_files_counts_nothing_twice(book, tmp_path):
    fill(book, hours=24)
    shutil.copytree(tmp_path / "fin/2026/10/31", tmp_path / "kept")
    book.compact("fin", MIDNIGHT.date())
    shutil.copytree(tmp_path / "kept", tmp_path / "fin/2026/10/31", dirs_exist_ok=True)

    assert hits_of(book.pooled("fin")) == {EXTRAPOLATION: sum(range(1, 25))}
    book.compact("fin", MIDNIGHT.date())
    assert not (tmp_path / "fin/2026/10/31").exists()


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_pooled_is_the_sum_of_what_was_saved_whatever_is_compacted(tmp_path_factory, data):
    book = ScoreBook(tmp_path_factory.mktemp("scores"))
    hours = data.draw(st.lists(st.integers(0, 71), min_size=1, max_size=12, unique=True))
    for hour in hours:
        book.save("fin", MIDNIGHT + timedelta(hours=hour), {EXTRAPOLATION: tally(hour + 1)})
        if data.draw(st.booleans()):
            book.compact("fin", (MIDNIGHT + timedelta(hours=hour)).date())
    first, last = sorted(data.draw(st.tuples(st.integers(0, 71), st.integers(0, 71))))

    pooled = book.pooled("fin", MIDNIGHT + timedelta(hours=first), MIDNIGHT + timedelta(hours=last))

    expected = sum(hour + 1 for hour in hours if first <= hour <= last)
    assert hits_of(pooled) == ({EXTRAPOLATION: expected} if expected else {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 1}',
        b'{"format": 99, "scores": []}',
        b'{"format":1,"scores":[{}]}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_skipped_logged_reported_and_scored_again(book, path, content, caplog):
    fill(book, hours=24)
    path.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        assert hits_of(book.pooled("fin")) == {EXTRAPOLATION: sum(range(1, 25)) - 13}
    assert str(path) in caplog.text
    assert [damaged for damaged, _ in book.damaged("fin")] == [path]
    assert book.scored("fin", NOON) == set()

    book.save("fin", NOON, {EXTRAPOLATION: tally(13)})
    assert hits_of(book.pooled("fin")) == {EXTRAPOLATION: sum(range(1, 25))}
    assert list(book.damaged("fin")) == []


def test_compaction_leaves_a_damaged_file_where_it_is(book, path):
    fill(book, hours=24)
    path.write_bytes(b"{")

    book.compact("fin", MIDNIGHT.date())

    assert list(path.parent.iterdir()) == [path]
    assert hits_of(book.pooled("fin")) == {EXTRAPOLATION: sum(range(1, 25)) - 13}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def drop_a_series(path):
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-1])))


def break_a_number(path):
    lines = gzip.decompress(path.read_bytes()).splitlines()
    broken = json.dumps({**json.loads(lines[1]), "pixels": [1, 2]}).encode()
    path.write_bytes(gzip.compress(lines[0] + b"\n" + broken))


@pytest.mark.parametrize("damage", [truncate, flip, drop_a_series, break_a_number])
def test_a_damaged_day_is_skipped_reported_and_never_overwritten(book, tmp_path, damage):
    fill(book)
    target = book.compact("fin", MIDNIGHT.date())
    damage(target)
    damaged = target.read_bytes()
    book.save("fin", NOON, {PERSISTENCE: tally(5)})

    assert hits_of(book.pooled("fin"))[PERSISTENCE] == 5
    assert hits_of(book.pooled("fin", MIDNIGHT + timedelta(days=1)))[EXTRAPOLATION] == sum(range(25, 49))
    assert [path for path, _ in book.damaged("fin")] == [target]
    with pytest.raises(UnreadableFile, match="fin_20261031"):
        book.compact("fin", MIDNIGHT.date())
    assert target.read_bytes() == damaged
    assert book.scored("fin", NOON) == {PERSISTENCE}


def test_scores_at_other_thresholds_are_left_out_in_favour_of_the_newest(book, caplog):
    fill(book)
    book.save("fin", NOON, {PERSISTENCE: tally(1)})
    changed = MIDNIGHT + timedelta(hours=40)
    for hour in range(8):
        book.save("fin", changed + timedelta(hours=hour), {EXTRAPOLATION: tally(hour, threshold=35.0)})
    for _ in range(3):
        with caplog.at_level(logging.INFO):
            pooled = book.pooled("fin")
        assert pooled[EXTRAPOLATION].thresholds_dbz == (35.0,)
        assert hits_of(pooled) == {EXTRAPOLATION: sum(range(8)), PERSISTENCE: 1}
        assert "40 forecasts" in caplog.text
        book.compact("fin", (MIDNIGHT + timedelta(days=1)).date())  # the day of the change
        book = ScoreBook(book.root)


def test_a_book_sees_what_another_process_writes(book, tmp_path):
    other = ScoreBook(tmp_path)
    fill(book, hours=24)
    assert hits_of(other.pooled("fin")) == {EXTRAPOLATION: 300}
    book.save("fin", NOON, {EXTRAPOLATION: tally(20)})
    assert hits_of(other.pooled("fin")) == {EXTRAPOLATION: 307}
    book.compact("fin", MIDNIGHT.date())
    assert hits_of(other.pooled("fin")) == {EXTRAPOLATION: 307}
    book.save("fin", MIDNIGHT, {EXTRAPOLATION: tally(2)})
    book.compact("fin", MIDNIGHT.date())
    assert hits_of(other.pooled("fin")) == {EXTRAPOLATION: 308}


def test_workers_that_score_one_valid_time_at_once_lose_nothing(tmp_path):
    def save(lead):
        ScoreBook(tmp_path).save("fin", NOON, {("extrapolation", lead): tally(lead)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(40)))

    assert hits_of(ScoreBook(tmp_path).pooled("fin")) == {("extrapolation", lead): lead for lead in range(40)}


def test_readers_never_see_a_score_missing_or_twice_while_days_are_compacted(tmp_path):
    fill(ScoreBook(tmp_path), hours=24)

    def watch(_):
        seen = {hits_of(ScoreBook(tmp_path).pooled("fin"))[EXTRAPOLATION] for _ in range(40)}
        return seen

    def compact(_):
        book = ScoreBook(tmp_path)
        for hour in range(8):
            book.compact("fin", MIDNIGHT.date())
            book.save("fin", MIDNIGHT + timedelta(hours=hour), {EXTRAPOLATION: tally(hour + 1)})
        return {300}

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(watch, 0), pool.submit(compact, 0), pool.submit(watch, 0)]
        assert [task.result() for task in tasks] == [{300}] * 3


def test_the_cache_holds_no_more_days_than_it_may(tmp_path):
    book = ScoreBook(tmp_path, cached_days=3)
    fill(book, hours=24 * 6)
    for day in range(6):
        book.compact("fin", (MIDNIGHT + timedelta(days=day)).date())

    assert hits_of(book.pooled("fin")) == {EXTRAPOLATION: sum(range(1, 145))}
    assert len(book._summaries._values) == 3


def test_strange_files_are_passed_over(book, path):
    fill(book, hours=24)
    for stranger in (path.parent / "notes.json", path.parent.parent / "fin_x.jsonl.gz", path.parent / "sub"):
        stranger.mkdir()

    assert hits_of(book.pooled("fin")) == {EXTRAPOLATION: 300}


def test_a_domain_name_that_leads_elsewhere_is_refused(book):
    with pytest.raises(UnknownDomain):
        book.save("../fin", NOON, {EXTRAPOLATION: tally(1)})
    with pytest.raises(UnknownDomain):
        book.pooled("fin/2026")


def test_a_disk_that_refuses_is_told_apart_from_damage(book, tmp_path):
    (tmp_path / "fin").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        book.save("fin", NOON, {EXTRAPOLATION: tally(1)})


def test_a_score_file_reads_well(book, path):
    book.save("fin", NOON, {EXTRAPOLATION: tally(3)})
    content = json.loads(path.read_text())

    assert content["valid_time"] == "2026-10-31T12:00:00+00:00"
    (entry,) = content["scores"]
    assert entry.items() >= {"model": "extrapolation", "lead_minutes": 5, "hits": [3], "misses": [1]}.items()
    assert path.stat().st_size < 600
