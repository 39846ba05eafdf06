"""Products in memory and in a real Valkey, which may vanish or freeze at any time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
import redis
from north import (
    ISSUED,
    LEADS,
    RAINY,
    Broker,
    Client,
    lead_field,
    point_of,
    save_forecast,
    serving,
    settings_for,
)
from prometheus_client import CollectorRegistry, Counter

from api.cache import ENTRY_OVERHEAD, REDIS_TIMEOUT, Lru, Products, RedisTier, Refreshed
from nowcast.disk.data_folder import DataFolder
from nowcast.forecast.store import ForecastStore

pytestmark = pytest.mark.anyio

DATA = "/v1/domains/north/forecasts/latest/data"


def counter() -> Counter:
    return Counter("nowcast_cache_requests", "-", ["outcome"], registry=CollectorRegistry())


def outcomes(client: Client) -> dict[str, float]:
    (family,) = client.service.telemetry.cache_requests.collect()
    return {s.labels["outcome"]: s.value for s in family.samples if s.name.endswith("_total")}


def test_the_least_recently_used_goes_first() -> None:
    kept: Lru[str] = Lru(8 * (100 + ENTRY_OVERHEAD))
    for name in "abcdefgh":
        kept.put(name, name, 100)
    assert kept.get("a") == "a"
    kept.put("i", "i", 100)
    assert (kept.get("b"), kept.get("a"), kept.get("i")) == (None, "a", "i")
    assert kept.bytes <= 8 * (100 + ENTRY_OVERHEAD)
    kept.put("i", "j", 50)
    assert kept.get("i") == "j"
    assert kept.bytes == 8 * (100 + ENTRY_OVERHEAD) - 50


def test_what_would_push_out_everything_else_is_not_kept() -> None:
    kept: Lru[str] = Lru(80_000)
    kept.put("small", "x", 100)
    kept.put("large", "x", 20_000)
    assert (kept.get("large"), kept.get("small")) == (None, "x")
    nothing: Lru[str] = Lru(0)
    nothing.put("a", "x", 1)
    assert nothing.get("a") is None


async def test_a_product_is_made_once_for_all_who_wait() -> None:
    products = Products(100_000, RedisTier("", 60), counter())
    made = 0

    async def make() -> bytes:
        nonlocal made
        made += 1
        await asyncio.sleep(0.02)
        return b"product"

    assert set(await asyncio.gather(*(products.get("p", make) for _ in range(10)))) == {b"product"}
    assert made == 1


async def test_one_who_hangs_up_does_not_take_the_product_from_the_others() -> None:
    products = Products(100_000, RedisTier("", 60), counter())

    async def make() -> bytes:
        await asyncio.sleep(0.05)
        return b"product"

    first = asyncio.create_task(products.get("p", make))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(products.get("p", make))
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second == b"product"


async def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    products = Products(100_000, RedisTier("", 60), counter())

    async def fail() -> bytes:
        await asyncio.sleep(0.01)
        raise LookupError

    results = await asyncio.gather(*(products.get("p", fail) for _ in range(3)), return_exceptions=True)
    assert {type(result) for result in results} == {LookupError}

    async def make() -> bytes:
        return b"well"

    assert await products.get("p", make) == b"well"


async def test_an_old_value_is_handed_out_while_a_newer_one_is_made() -> None:
    values: Refreshed[int] = Refreshed(fresh_seconds=0.03, stale_seconds=10)
    made = 0

    async def make() -> int:
        nonlocal made
        made += 1
        await asyncio.sleep(0.01)
        return made

    assert [await values.get("k", make) for _ in range(3)] == [1, 1, 1]
    await asyncio.sleep(0.05)
    assert await values.get("k", make) == 1
    await asyncio.sleep(0.02)
    assert await values.get("k", make) == 2


async def test_a_value_too_old_is_waited_for() -> None:
    values: Refreshed[int] = Refreshed(fresh_seconds=0, stale_seconds=0)
    numbers = iter(range(5))

    async def make() -> int:
        return next(numbers)

    assert [await values.get("k", make) for _ in range(3)] == [0, 1, 2]


async def test_one_process_finds_in_redis_what_another_made(data_dir: Path, broker: Broker) -> None:
    settings = settings_for(data_dir, redis_url=broker.url)
    async with serving(settings) as first:
        made = (await first.get("/v1/domains/north/forecasts/latest/map.png")).content
        assert outcomes(first)["made"] == 1
        await asyncio.sleep(0.1)
    with redis.Redis.from_url(broker.url) as looking:
        (key,) = looking.keys("nowcast:product:*map*")
        assert looking.get(key) == made
        assert 3500 < looking.ttl(key) <= 3600
    async with serving(settings) as second:
        assert (await second.get("/v1/domains/north/forecasts/latest/map.png")).content == made
        assert (outcomes(second)["redis"], outcomes(second)["made"]) == (1, 0)


async def test_a_forecast_made_again_with_other_content_is_another_product(
    data_dir: Path, broker: Broker
) -> None:
    settings = settings_for(data_dir, redis_url=broker.url)
    where = {"url": "/v1/domains/north/point", "params": point_of(RAINY)}
    async with serving(settings) as client:
        assert (await client.get(**where)).json()["outlook"] == "rain"
        await asyncio.sleep(0.5)
        store = ForecastStore(DataFolder(data_dir).forecasts)
        store.path("north", ISSUED, "extrapolation").unlink()
        save_forecast(data_dir, ISSUED, fields=[lead_field(1)] * LEADS)
        assert (await client.get(**where)).json()["outlook"] == "dry"


async def test_without_redis_answers_come_from_files(data_dir: Path, broker: Broker) -> None:
    async with serving(settings_for(data_dir, redis_url=broker.url)) as client:
        assert (await client.get(f"{DATA}?lead=5")).status_code == 200
        assert (await client.get("/readyz")).json()["redis"] == "ok"
        broker.process.kill()
        broker.process.wait()
        for lead in (10, 15, 20):
            assert (await client.get(f"{DATA}?lead={lead}")).status_code == 200
        assert outcomes(client)["made"] == 4
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["redis"], ready.json()["status"]) == (200, "away", "degraded")


async def test_a_frozen_redis_costs_one_wait_and_then_nothing(broker: Broker) -> None:
    tier = RedisTier(broker.url, 60)
    assert await tier.get("a") is None
    os.kill(broker.process.pid, signal.SIGSTOP)
    seconds = []
    try:
        for name in "abcdef":
            start = time.perf_counter()
            assert await tier.get(name) is None
            tier.put(name, b"value")
            seconds.append(time.perf_counter() - start)
    finally:
        os.kill(broker.process.pid, signal.SIGCONT)
    assert REDIS_TIMEOUT < seconds[0] < REDIS_TIMEOUT + 0.5
    assert max(seconds[1:]) < 0.01, seconds
    assert tier.state == "away"
    for _ in range(100):
        await asyncio.sleep(0.05)
        if tier.state == "ok":
            break
    tier.put("g", b"value")
    await asyncio.sleep(0.1)
    assert await tier.get("g") == b"value"
    await tier.close()


async def test_a_redis_that_was_never_there_is_away_not_fatal(data_dir: Path) -> None:
    async with serving(settings_for(data_dir, redis_url="redis://127.0.0.1:1/0")) as client:
        assert (await client.get(f"{DATA}?lead=5")).status_code == 200
        assert (await client.get("/readyz")).json()["redis"] == "away"
