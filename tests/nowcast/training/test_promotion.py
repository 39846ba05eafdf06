"""Promotion: better candidates only, unless forced; never half done, and never two at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from candidates import candidate, promote_and_die, promote_slowly, scores, skill

from nowcast.compute import Compute
from nowcast.errors import NotFound, StorageError, UnknownModel, WeightsError
from nowcast.methods.networks import loading as bridge
from nowcast.methods.networks.checkpoint import load
from nowcast.methods.networks.loading import network
from nowcast.methods.networks.versions import Shelf, current_of
from nowcast.scores.skillfile import Skill, mean_csi, pooled, write_skill
from nowcast.training import promotion
from nowcast.training.promotion import promote, rollback

NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def promoted(store: Path, folder: Path, hit_rate: float, *, seed: int, force: bool = False) -> str:
    """Train, as it were, and promote; return the version."""
    trained = candidate(folder, hit_rate, seed=seed)
    done = promote(store, "convlstm", trained, force=force, now=NOON + timedelta(minutes=seed))
    assert done.version is not None
    return done.version


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.endswith(".lock")}


def test_the_first_version_must_beat_extrapolation(store: Path, tmp_path: Path) -> None:
    worse = promote(store, "convlstm", candidate(tmp_path / "worse", 0.55))
    assert worse.version is None
    assert worse.against == "extrapolation"
    assert "95 % interval of the difference -0.0" in worse.verdict
    assert current_of(store, "convlstm") is None
    version = promoted(store, tmp_path / "better", 0.65, seed=1)
    (change,) = Shelf(store, "convlstm").history()
    assert (change.version, change.action, change.forced) == (version, "promote", False)
    assert change.verdict.startswith("against extrapolation: mean CSI 0.6")
    assert change.score == pytest.approx(mean_csi(pooled(scores(0.65))))
    assert change.extrapolation == pytest.approx(mean_csi(pooled(scores(0.6))))


def test_later_ones_must_beat_the_current_version(store: Path, tmp_path: Path) -> None:
    first = promoted(store, tmp_path / "one", 0.70, seed=1)
    between = promote(store, "convlstm", candidate(tmp_path / "two", 0.65, seed=2))
    assert (between.version, between.against) == (None, first)
    same = promote(store, "convlstm", tmp_path / "one")
    assert same.version is None
    assert "+0.0000 to +0.0000" in same.verdict
    assert Shelf(store, "convlstm").versions() == [first]
    third = promoted(store, tmp_path / "three", 0.75, seed=3)
    assert current_of(store, "convlstm").name == third


def test_only_issue_times_both_have_decide(store: Path, tmp_path: Path) -> None:
    """A candidate that was also scored on an easy day is not better for that."""
    promoted(store, tmp_path / "one", 0.70, seed=1)
    trained = candidate(tmp_path / "two", None, seed=2)
    easy = {f"easy {name}": times for name, times in scores(0.95).items()}
    write_skill(trained / "skill.json", Skill({**scores(0.65), **easy}, skill(0.65).references))
    refused = promote(store, "convlstm", trained)
    assert refused.version is None
    assert "24 issue times" in refused.verdict


def test_force_promotes_and_is_recorded(store: Path, tmp_path: Path) -> None:
    first = promoted(store, tmp_path / "one", 0.55, seed=1, force=True)
    bare = promote(store, "convlstm", candidate(tmp_path / "two", None, seed=2), force=True)
    assert "not comparable: expected scores in" in bare.verdict
    third = promote(store, "convlstm", candidate(tmp_path / "three", 0.9, seed=3))
    assert third.version is None  # nothing is known of the current one
    assert "not comparable" in third.verdict
    good = promote(store, "convlstm", tmp_path / "three", force=True)
    history = Shelf(store, "convlstm").history()
    assert [change.version for change in history] == [first, bare.version, good.version]
    assert [change.forced for change in history] == [True, True, True]
    assert history[1].score is None


def test_force_where_it_was_not_needed_is_not_recorded(store: Path, tmp_path: Path) -> None:
    promoted(store, tmp_path / "one", 0.7, seed=1, force=True)
    assert [change.forced for change in Shelf(store, "convlstm").history()] == [False]


@pytest.mark.parametrize("force", [False, True])
def test_weights_that_were_tampered_with_are_refused(store: Path, tmp_path: Path, force: bool) -> None:
    trained = candidate(tmp_path / "trained", 0.9)
    weights = trained / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match="is not what was saved: expected sha256"):
        promote(store, "convlstm", trained, force=force)
    assert not store.exists()


def test_weights_of_another_network_are_refused(store: Path, tmp_path: Path) -> None:
    trained = candidate(tmp_path / "trained", 0.9)
    with pytest.raises(WeightsError, match="expected weights of unet"):
        promote(store, "unet", trained, force=True)
    with pytest.raises(UnknownModel):
        promote(store, "extrapolation", trained)
    with pytest.raises(WeightsError, match="there is no"):
        promote(store, "convlstm", tmp_path / "absent")


def test_damaged_scores_do_not_promote(store: Path, tmp_path: Path) -> None:
    trained = candidate(tmp_path / "trained", 0.9)
    (trained / "skill.json").write_text("{")
    refused = promote(store, "convlstm", trained)
    assert refused.version is None
    assert "skill.json holds no skill" in refused.verdict


def test_rollback_goes_back_one_by_one(store: Path, tmp_path: Path) -> None:
    first, second, third = (
        promoted(store, tmp_path / f"{seed}", 0.6 + seed / 20, seed=seed) for seed in (1, 2, 3)
    )
    change = rollback(store, "convlstm")
    assert (change.version, change.verdict) == (second, f"back from {third}")
    assert current_of(store, "convlstm").name == second
    assert rollback(store, "convlstm").version == first
    with pytest.raises(
        NotFound, match=f"expected a version of convlstm to go back to, but {first} is the only"
    ):
        rollback(store, "convlstm")
    with pytest.raises(NotFound, match="none was ever promoted"):
        rollback(store, "unet")
    assert current_of(store, "convlstm").name == first


def test_rollback_to_damaged_weights_changes_nothing(store: Path, tmp_path: Path) -> None:
    first = promoted(store, tmp_path / "one", 0.65, seed=1)
    second = promoted(store, tmp_path / "two", 0.75, seed=2)
    weights = store / "convlstm" / first / "weights.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"")
    with pytest.raises(WeightsError, match="is damaged"):
        rollback(store, "convlstm")
    assert current_of(store, "convlstm").name == second


def test_the_service_takes_a_new_version_without_a_restart(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "_ready", {})
    compute = Compute("cpu", weights=store, shipped=False)
    hashes = []
    for seed in (1, 2):
        promoted(store, tmp_path / f"{seed}", 0.6 + seed / 20, seed=seed)
        hashes.append(f"sha256:{load(tmp_path / f'{seed}').sha256}")
        assert network("convlstm", compute).version == hashes[-1]
    rollback(store, "convlstm")
    assert network("convlstm", compute).version == hashes[0]
    assert len(bridge._ready) == 1  # versions do not pile up in memory


def test_a_shelf_without_a_version_is_as_if_there_were_none(store: Path, tmp_path: Path) -> None:
    assert promote(store, "convlstm", candidate(tmp_path / "worse", 0.5)).version is None
    with pytest.raises(WeightsError, match="expected weights of convlstm, found no"):
        network("convlstm", Compute("cpu", weights=store, shipped=False))


def started(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process that has loaded PyTorch already, by forking one in which nothing ran yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nowcast.training.promotion"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize(
    ("when", "nth", "is_new"),
    [
        ("before", 1, False),
        ("before", 2, False),
        ("after", 2, False),
        ("before", 3, False),
        ("after", 3, True),
    ],
)
def test_killed_at_any_point_there_is_a_current_version(
    store: Path, tmp_path: Path, when: str, nth: int, is_new: bool
) -> None:
    first = promoted(store, tmp_path / "one", 0.65, seed=1)
    better = candidate(tmp_path / "two", 0.75, seed=2)
    dying = started(promote_and_die, store, better, when, nth)
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    current = current_of(store, "convlstm")
    assert (current.name != first) == is_new
    assert load(current).sha256 == load(better if is_new else tmp_path / "one").sha256
    again = promote(store, "convlstm", better)  # the lock was freed, and the work can be done again
    assert (again.version is None) == is_new


def test_promotions_at_once_are_judged_one_after_the_other(store: Path, tmp_path: Path) -> None:
    """Of three, each is compared with what is current when its turn comes, and no change is lost."""
    rates = (0.65, 0.75, 0.85)
    folders = [candidate(tmp_path / f"{rate}", rate, seed=seed) for seed, rate in enumerate(rates)]
    results = [tmp_path / f"{rate}.txt" for rate in rates]
    running = [started(promote_slowly, store, *each) for each in zip(folders, results, strict=True)]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    versions = [result.read_text() for result in results]
    shelf = Shelf(store, "convlstm")
    taken = [version for version in versions if version != "None"]
    assert sorted(taken) == sorted(change.version for change in shelf.history()) == shelf.versions()
    assert shelf.current().name == versions[2]  # the best is current, whatever the order
    scored = [change.score for change in shelf.history()]
    assert scored == sorted(scored)


def test_a_full_disk_changes_nothing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted(store, tmp_path / "one", 0.65, seed=1)
    before = everything_in(store)
    better = candidate(tmp_path / "two", 0.75, seed=2)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="the disk is full"):
        patched.setattr("shutil.copyfile", full)
        promote(store, "convlstm", better)
    assert everything_in(store) == before

    real = os.replace

    def full_for_the_pointer(source: Path, target: Path) -> None:
        (full if Path(target).name == "current" else real)(source, target)

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="the disk is full"):
        patched.setattr(os, "replace", full_for_the_pointer)
        promote(store, "convlstm", better)
    assert everything_in(store) == before


def test_weights_that_change_while_they_are_judged_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = candidate(tmp_path / "one", 0.7, seed=1)
    judge = promotion._judge

    def judged_while_training_goes_on(*args: object) -> object:
        verdict = judge(*args)  # type: ignore[arg-type]
        other = candidate(tmp_path / "two", None, seed=2)
        for name in ("weights.safetensors", "config.json"):
            os.replace(other / name, trained / name)
        return verdict

    monkeypatch.setattr(promotion, "_judge", judged_while_training_goes_on)
    with pytest.raises(WeightsError, match="changed while it was judged"):
        promote(store, "convlstm", trained)
    assert current_of(store, "convlstm") is None
    assert Shelf(store, "convlstm").versions() == []
