"""Products in memory and in a real Valkey, which may vanish or freeze at any time."""

from __future__ import annotations

import asyncio
import os
import signal
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
from patience import settled, until
from prometheus_client import CollectorRegistry, Counter

from api import cache
from api.cache import ENTRY_OVERHEAD, Lru, Products, RedisTier, Refreshed
from nowcast.disk.data_folder import DataFolder
from nowcast.forecast.store import ForecastStore

pytestmark = pytest.mark.anyio

DATA = "/v1/domains/north/forecasts/latest/data"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis counts as away only where it is: on a busy machine an answer may take its time."""
    monkeypatch.setattr(cache, "REDIS_TIMEOUT", 60.0)


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
        await settled()
        return b"product"

    assert set(await asyncio.gather(*(products.get("p", make) for _ in range(10)))) == {b"product"}
    assert made == 1


async def test_one_who_hangs_up_does_not_take_the_product_from_the_others() -> None:
    products = Products(100_000, RedisTier("", 60), counter())

    release = asyncio.Event()

    async def make() -> bytes:
        await release.wait()
        return b"product"

    first = asyncio.create_task(products.get("p", make))
    await settled()
    second = asyncio.create_task(products.get("p", make))
    await settled()
    first.cancel()
    await settled()
    release.set()
    assert await second == b"product"
    assert first.cancelled()


async def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    products = Products(100_000, RedisTier("", 60), counter())

    async def fail() -> bytes:
        await settled()
        raise LookupError

    results = await asyncio.gather(*(products.get("p", fail) for _ in range(3)), return_exceptions=True)
    assert {type(result) for result in results} == {LookupError}

    async def make() -> bytes:
        return b"well"

    assert await products.get("p", make) == b"well"


async def test_an_old_value_is_handed_out_while_a_newer_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    values: Refreshed[int] = Refreshed(fresh_seconds=3, stale_seconds=10)
    made, clock = 0, 1000.0
    monkeypatch.setattr(cache, "monotonic", lambda: clock)

    async def make() -> int:
        nonlocal made
        made += 1
        await settled()
        return made

    assert [await values.get("k", make) for _ in range(3)] == [1, 1, 1]
    clock += 2.9
    assert await values.get("k", make) == 1
    clock += 0.2
    assert await values.get("k", make) == 1
    await settled()
    await settled()
    assert await values.get("k", make) == 2
    clock += 10
    assert await values.get("k", make) == 3, "one as old is waited for"


async def test_a_value_too_old_is_waited_for() -> None:
    values: Refreshed[int] = Refreshed(fresh_seconds=0, stale_seconds=0)
    numbers = iter(range(5))

    async def make() -> int:
        return next(numbers)

    assert [await values.get("k", make) for _ in range(3)] == [0, 1, 2]


@pytest.mark.usefixtures("patient")
async def test_one_process_finds_in_redis_what_another_made(data_dir: Path, broker: Broker) -> None:
    settings = settings_for(data_dir, redis_url=broker.url)
    async with serving(settings) as first:
        made = (await first.get("/v1/domains/north/forecasts/latest/map.png")).content
        assert outcomes(first)["made"] == 1
        await asyncio.gather(*first.service.redis._tasks)  # it is stored in the background
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


@pytest.mark.usefixtures("patient")
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


async def test_a_frozen_redis_costs_one_wait_and_then_nothing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "REDIS_TIMEOUT", 2.0)  # enough for one that is alive, on a busy machine
    tier = RedisTier(broker.url, 60)
    assert await tier.get("a") is None
    assert tier._redis is not None
    asked: list[object] = []
    for command in ("get", "set"):
        real = getattr(tier._redis, command)
        monkeypatch.setattr(
            tier._redis, command, lambda *a, real=real, **k: asked.append(a[0]) or real(*a, **k)
        )
    os.kill(broker.process.pid, signal.SIGSTOP)
    try:
        for name in "abcdef":
            assert await tier.get(name) is None
            tier.put(name, b"value")
        assert asked == ["a"], "after the first wait nobody asks"
        assert tier.state == "away"
    finally:
        os.kill(broker.process.pid, signal.SIGCONT)
    await until(lambda: tier.state == "ok")
    tier.put("g", b"value")
    await asyncio.gather(*tier._tasks)
    assert await tier.get("g") == b"value"
    await tier.close()


async def test_a_redis_that_was_never_there_is_away_not_fatal(data_dir: Path) -> None:
    async with serving(settings_for(data_dir, redis_url="redis://127.0.0.1:1/0")) as client:
        assert (await client.get(f"{DATA}?lead=5")).status_code == 200
        assert (await client.get("/readyz")).json()["redis"] == "away"
