"""Verification beside its peers: contingency counts, fractions skill score, and a month of scores on disk.

Run ``python -m benchmarks.verification [--days D] [--json PATH]``. All get the same fields and must agree
before their times are printed. Times are the best of several rounds that take turns, so that other work on
the machine strikes all alike; ratios are to ours, above 1 where ours is faster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nowcast.scores.scorebook import ScoreBook, Scores
from nowcast.scores.scorefile import DayTable, write_day
from nowcast.scores.tally import WINDOWS_KM, Tally, contingency_counts

THRESHOLDS_DBZ = (20.0, 30.0, 35.0, 40.0)
#: Odd windows [cells of 1 km], the same for every peer: 5, 11 and 21 cells.
WINDOW_CELLS = (5, 11, 21)
ROUNDS = 7

#: Targets: a month's query [s] once compacted, and memory [MB] to score one 4400 x 3800 field.
MONTH_SECONDS, MEMORY_MB = 0.5, 64.0

Array = NDArray[np.float32]


def fields(ny: int, nx: int, *, missing: bool) -> tuple[Array, Array]:
    """Return a forecast and a truth [dBZ]: smooth rain over a third of the area, far from the edge."""
    rng = np.random.default_rng(7)
    result = []
    for _ in range(2):
        coarse = rng.normal(0, 1, (ny // 25 + 2, nx // 25 + 2))
        rows, columns = np.linspace(0, len(coarse) - 1.001, ny), np.linspace(0, coarse.shape[1] - 1.001, nx)
        smooth = np.array([np.interp(columns, np.arange(coarse.shape[1]), row) for row in coarse])
        smooth = np.array([np.interp(rows, np.arange(len(coarse)), column) for column in smooth.T]).T
        field = np.where(smooth > 0.3, 20 + 18 * smooth, -10.0).astype(np.float32)
        field[:32] = field[-32:] = field[:, :32] = field[:, -32:] = -10.0
        result.append(field)
    forecast, truth = result
    if missing:
        truth[:, : nx // 8] = np.nan
    return forecast, truth


def best_of(contenders: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the best time [s] of each, all taking turns."""
    best = dict.fromkeys(contenders, np.inf)
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: float(seconds) for name, seconds in best.items()}


def table(title: str, seconds: dict[str, float], pixels: int) -> dict[str, Any]:
    """Print the times and return them with their ratios to the first."""
    reference = next(iter(seconds.values()))
    print(f"\n{title}\n{'':46}{'ms':>10}{'ns/pixel':>10}{'x ours':>10}")
    for name, taken in seconds.items():
        print(f"{name:46}{1e3 * taken:10.2f}{1e9 * taken / pixels:10.2f}{taken / reference:10.1f}")
    return {
        name: {"seconds": taken, "ns_per_pixel": 1e9 * taken / pixels, "ratio": taken / reference}
        for name, taken in seconds.items()
    }


def everything(forecast: Array, truth: Array) -> NDArray[np.int64]:
    """Return hits, misses and false alarms of a tally, which takes errors and correlations too."""
    tally = Tally(THRESHOLDS_DBZ)
    tally.add(forecast, truth)
    return tally.counts


def counts_only(forecast: Array, truth: Array) -> NDArray[np.int64]:
    """Return hits, misses and false alarms as a tally counts them."""
    counts = np.zeros((3, len(THRESHOLDS_DBZ)), np.int64)
    for start in range(0, len(truth), 128):
        f, o = forecast[start : start + 128], truth[start : start + 128]
        counts += contingency_counts(f, o, o == o, np.array(THRESHOLDS_DBZ, np.float32))
    return counts


def naive(forecast: Array, truth: Array) -> NDArray[np.int64]:
    """Return the counts by four boolean fields per threshold."""
    observed = ~np.isnan(truth)
    counts = []
    for threshold in THRESHOLDS_DBZ:
        f, o = forecast >= threshold, truth >= threshold
        hits, misses = np.sum(f & o & observed), np.sum(~f & o & observed)
        false_alarms, correct_negatives = np.sum(f & ~o & observed), np.sum(~f & ~o & observed)
        assert hits + misses + false_alarms + correct_negatives == observed.sum()
        counts.append((hits, misses, false_alarms))
    return np.array(counts).T


def naive_with_errors(forecast: Array, truth: Array) -> NDArray[np.int64]:
    """Return the naive counts, having taken errors and correlations over the observed pixels too."""
    observed = ~np.isnan(truth)
    f, o = forecast[observed].astype(np.float64), truth[observed].astype(np.float64)
    float(np.abs(f - o).mean()), float(((f - o) ** 2).mean()), float(np.corrcoef(f, o)[0, 1])
    float((f * o).sum() / np.sqrt((f**2).sum() * (o**2).sum()))
    return naive(forecast, truth)


def joint_histogram(forecast: Array, truth: Array) -> NDArray[np.int64]:
    """Return the counts from one histogram of the classes of both fields."""
    classes = len(THRESHOLDS_DBZ) + 1
    f, o = np.digitize(forecast, THRESHOLDS_DBZ), np.digitize(truth, THRESHOLDS_DBZ)
    observed = ~np.isnan(truth)
    joint = np.bincount((f * classes + o)[observed], minlength=classes**2).reshape(classes, classes)
    counts = []
    for k in range(1, classes):
        hits = joint[k:, k:].sum()
        counts.append((hits, joint[:k, k:].sum(), joint[k:, :k].sum()))
    return np.array(counts).T


def by_scores(forecast: Array, truth: Array) -> NDArray[np.int64]:
    """Return the counts of the package ``scores``."""
    from scores.categorical import ThresholdEventOperator

    f, o = xr.DataArray(forecast, dims=("y", "x")), xr.DataArray(truth, dims=("y", "x"))
    counts = []
    for threshold in THRESHOLDS_DBZ:
        manager = ThresholdEventOperator(default_event_threshold=threshold).make_contingency_manager(f, o)
        found = manager.transform().get_counts()
        counts.append([int(found[name]) for name in ("tp_count", "fn_count", "fp_count")])
    return np.array(counts).T


def by_pysteps(forecast: Array, truth: Array) -> NDArray[np.int64]:
    """Return the counts of pysteps, what is not observed masked in both fields beforehand."""
    from pysteps.verification.detcatscores import det_cat_fct_accum, det_cat_fct_init

    forecast = np.where(np.isnan(truth), np.nan, forecast)
    counts = []
    for threshold in THRESHOLDS_DBZ:
        found = det_cat_fct_init(threshold)
        det_cat_fct_accum(found, forecast, truth)
        counts.append(
            (int(found["hits"].item()), int(found["misses"].item()), int(found["false_alarms"].item()))
        )
    return np.array(counts).T


def contingency() -> dict[str, Any]:
    """Compare the counts of all thresholds of one field."""
    forecast, truth = fields(765, 700, missing=True)
    contenders = {
        "Tally's counts": lambda: counts_only(forecast, truth),
        "naive 4-way boolean": lambda: naive(forecast, truth),
        "numpy digitize + joint histogram": lambda: joint_histogram(forecast, truth),
        "pysteps 4 x det_cat_fct_accum": lambda: by_pysteps(forecast, truth),
        "scores 4 x ThresholdEventOperator": lambda: by_scores(forecast, truth),
        "Tally, with errors and correlations": lambda: everything(forecast, truth),
        "naive, with errors and correlations": lambda: naive_with_errors(forecast, truth),
    }
    for name, count in contenders.items():
        # pysteps counts what is masked as correct negatives, which are not compared.
        assert np.array_equal(count(), counts_only(forecast, truth)), name
    title = f"Counts at {len(THRESHOLDS_DBZ)} thresholds, 765 x 700"
    return table(title, best_of(contenders), forecast.size)


def fractions() -> dict[str, Any]:
    """Compare the fractions skill score of all thresholds and windows of one field."""
    from pysteps.verification.spatialscores import fss
    from scores.spatial import fss_2d_single_field

    forecast, truth = fields(765, 700, missing=False)

    def ours() -> list[float | None]:
        tally = Tally(THRESHOLDS_DBZ, windows_km=WINDOW_CELLS, cell_km=(1.0, 1.0))
        tally.add(forecast, truth)
        return [tally.fss(threshold, window) for threshold in THRESHOLDS_DBZ for window in WINDOW_CELLS]

    def pysteps() -> list[float]:
        return [
            fss(forecast, truth, threshold, window) for threshold in THRESHOLDS_DBZ for window in WINDOW_CELLS
        ]

    def scores() -> list[float]:
        return [
            float(
                fss_2d_single_field(forecast, truth, event_threshold=threshold, window_size=(window, window))
            )
            for threshold in THRESHOLDS_DBZ
            for window in WINDOW_CELLS
        ]

    contenders: dict[str, Callable[[], Any]] = {
        "Tally": ours,
        "pysteps fss": pysteps,
        "scores fss_2d": scores,
    }
    for name, run in contenders.items():
        assert np.allclose(np.array(run(), float), np.array(ours(), float), rtol=1e-5), name
    title = (
        f"FSS, {len(THRESHOLDS_DBZ)} thresholds x {len(WINDOW_CELLS)} windows, ours with all else, 765 x 700"
    )
    return table(title, best_of(contenders, 3), forecast.size)


def continent() -> dict[str, float]:
    """Measure time and memory to score one field of OPERA's size in full."""
    forecast, truth = fields(3800, 4400, missing=True)
    tally = Tally(THRESHOLDS_DBZ, windows_km=WINDOWS_KM, cell_km=(1.0, 1.0))
    seconds = best_of({"Tally": lambda: tally.add(forecast, truth)}, 2)["Tally"]
    tracemalloc.start()
    tally.add(forecast, truth)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    print(f"\nOne field of 3800 x 4400, all scores: {seconds:.2f} s, {peak:.0f} MB besides the two fields")
    return {"seconds": seconds, "peak_mb": peak}


def distinct_scores(rng: np.random.Generator) -> Scores:
    """Return scores of one valid time that no compression can guess: 2 models at 12 leads."""
    tally = Tally(THRESHOLDS_DBZ, windows_km=WINDOWS_KM, cell_km=(1.0, 1.0))
    tally.add(*rng.uniform(-10, 60, (2, 60, 60)).astype(np.float32))
    return {
        (model, lead): tally.with_sums(
            [(sums * rng.uniform(50, 150)).astype(sums.dtype) for sums in tally.sums]
        )
        for model in ("extrapolation", "persistence")
        for lead in range(5, 65, 5)
    }


def save_day(book: ScoreBook, times: Sequence[datetime], scores: Sequence[Scores]) -> None:
    """Save a day as the live service does, one valid time after the other."""
    for valid_time, of_time in zip(times, scores, strict=True):
        book.save("d", valid_time, of_time)


def month(days: int) -> dict[str, float]:
    """Measure the score book over a month of 5-minute frames, 2 models, 12 leads, 4 thresholds, 3 windows."""
    of_day = [distinct_scores(np.random.default_rng(i)) for i in range(288)]
    start = datetime(2026, 10, 1, tzinfo=UTC)
    last_day = start + timedelta(days=days - 1)
    times = [start + timedelta(minutes=5 * i) for i in range(288 * days)]
    result: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any], count: int = 1) -> Any:
        started = time.perf_counter()
        value = run()
        result[name] = (time.perf_counter() - started) / count
        return value

    with tempfile.TemporaryDirectory() as folder:
        writer = ScoreBook(Path(folder))
        timed("save one valid time", lambda: save_day(writer, times[-288:], of_day), 288)
        timed("pool a day of single files, first time", lambda: ScoreBook(Path(folder)).pooled("d"))
        compacted = timed("compact a day", lambda: writer.compact("d", last_day.date()))
        result["bytes of a day"] = compacted.stat().st_size
        for day in range(days - 1):  # the rest of the month as compaction leaves it
            valid_times = times[288 * day : 288 * (day + 1)]
            path = compacted.with_name(f"d_{valid_times[0]:%Y%m%d}.jsonl.gz")
            write_day(path, DayTable.of(dict(zip(valid_times, of_day, strict=True))))
        from_noon, to_noon = start + timedelta(hours=12), times[-1] - timedelta(hours=12)
        for name, span in (("pool", ()), ("pool from noon to noon", (from_noon, to_noon))):
            firsts, seconds = [], []
            for _ in range(3):
                book = ScoreBook(Path(folder))
                for found in (firsts, seconds):
                    started = time.perf_counter()
                    pooled = book.pooled("d", *span)
                    found.append(time.perf_counter() - started)
            result[f"{name}, first time"], result[f"{name}, again"] = min(firsts), min(seconds)
            if not span:
                pixels = days * sum(one["persistence", 5].pixels for one in of_day)
                assert pooled["persistence", 5].pixels == pixels
    print(f"\nScore book: {len(times)} valid times x {len(of_day[0])} forecasts")
    for name, value in result.items():
        print(f"{name:46}{value:10.0f}" if "bytes" in name else f"{name:46}{1e3 * value:10.2f} ms")
    return result


def main() -> None:
    """Run all measurements, print them, and keep them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=30, help="days in the score book")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers
    figures = {
        "contingency": contingency(),
        "fss": fractions(),
        "continent": continent(),
        "month": month(arguments.days),
    }
    targets = {
        f"a month's query within {MONTH_SECONDS} s": max(
            figures["month"]["pool, first time"], figures["month"]["pool from noon to noon, first time"]
        )
        <= MONTH_SECONDS,
        f"a continent's field within {MEMORY_MB:g} MB": figures["continent"]["peak_mb"] <= MEMORY_MB,
    }
    print()
    for target, met in targets.items():
        print(f"{'met' if met else 'NOT MET':8}{target}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, "targets": targets}, indent=1))


if __name__ == "__main__":
    main()
