"""Scores over HTTP: pooled counts, undefined ratios as null, methods side by side."""

from __future__ import annotations

import math

import httpx
import pytest

from nowcast.scores.table import SCORES

pytestmark = pytest.mark.anyio

VERIFICATION = "/v1/domains/north/verification"


async def rows(client: httpx.AsyncClient, query: str = "") -> list[dict]:
    answer = await client.get(VERIFICATION + query)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


async def test_counts_are_added_before_any_ratio(client: httpx.AsyncClient) -> None:
    (row,) = await rows(client, "?model=extrapolation&threshold=20")
    assert (row["hits"], row["misses"], row["false_alarms"], row["correct_negatives"]) == (8, 2, 2, 188)
    assert (row["csi"], row["far"], row["pod"], row["bias"]) == pytest.approx((8 / 12, 0.2, 0.8, 1.0))
    assert row["hss"] == pytest.approx(2 * (8 * 188 - 2 * 2) / (10 * 190 + 10 * 190))
    assert row["ets"] == pytest.approx((8 - 0.5) / (12 - 0.5))  # 10 * 10 / 200 hits are chance's
    f, h = math.log(2 / 190), math.log(0.8)
    not_f, not_h = math.log(188 / 190), math.log(0.2)
    assert row["sedi"] == pytest.approx((f - h - not_f + not_h) / (f + h + not_f + not_h))
    assert row["forecasts"] == 2
    # Two misses and two false alarms, each 35 dB away from no echo, over 200 pixels.
    assert row["mae_dbz"] == pytest.approx(4 * 35 / 200)
    (fss,) = row["fss"]
    assert fss["window_km"] == 5.0
    assert 0 < fss["fss"] < 1


async def test_what_is_undefined_is_null(client: httpx.AsyncClient) -> None:
    (row,) = await rows(client, "?model=extrapolation&threshold=30")
    assert [row[name] for name in ("csi", "far", "pod", "bias", "hss", "ets", "sedi")] == [None] * 7
    assert row["fss"][0]["fss"] is None
    assert row["correct_negatives"] == 200


async def test_methods_stand_side_by_side(client: httpx.AsyncClient) -> None:
    found = {row["model"]: row["csi"] for row in await rows(client, "?threshold=20&lead=5")}
    assert found == {"extrapolation": pytest.approx(8 / 12), "persistence": pytest.approx(5 / 15)}


async def test_a_period_counts_the_valid_times_in_it(client: httpx.AsyncClient) -> None:
    query = "?model=extrapolation&threshold=20&from=2026-01-01T11:50:00Z&to=2026-01-01T11:55:00Z"
    (row,) = await rows(client, query)
    assert (row["hits"], row["forecasts"]) == (6, 1)
    assert await rows(client, "?to=2025-06-01T00:00:00Z") == []


async def test_the_answer_says_what_it_counted_and_how(client: httpx.AsyncClient) -> None:
    answer = (await client.get(VERIFICATION)).json()
    assert (answer["from"], answer["to"]) == ("2025-12-31T12:00:00Z", "2026-01-01T12:00:00Z")
    assert answer["zr"] == {"a": 200.0, "b": 1.6}
    assert "observed" in answer["mask_policy"]
    assert len(answer["rows"]) == 4


async def test_the_answer_tells_what_its_scores_are(client: httpx.AsyncClient) -> None:
    answer = (await client.get(VERIFICATION)).json()
    scores = {score["name"]: score for score in answer["scores"]}
    assert list(scores) == [score.name for score in SCORES]
    assert scores["sedi"]["long_name"] == "symmetric extremal dependence index"
    assert (scores["far"]["perfect"], scores["far"]["better"]) == (0, "smaller")
    assert (scores["bias"]["low"], scores["bias"]["high"]) == (0, None)
    assert set(scores) - {"fss"} <= set(answer["rows"][0])


async def test_several_values_may_be_asked_for(client: httpx.AsyncClient) -> None:
    assert len(await rows(client, "?model=extrapolation&model=persistence&threshold=20&threshold=30")) == 4
    assert await rows(client, "?lead=10") == []
    assert await rows(client, "?model=scs") == []


async def test_a_period_is_bounded(client: httpx.AsyncClient) -> None:
    for query in ("?from=2025-11-01T00:00:00Z&to=2026-01-01T00:00:00Z", "?from=2026-02-01T00:00:00Z"):
        answer = await client.get(VERIFICATION + query)
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:nowcast:problem:bad-request")


async def test_before_the_first_truth_there_are_no_rows(bare_client: httpx.AsyncClient) -> None:
    assert await rows(bare_client) == []
