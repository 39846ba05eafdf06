"""Finished products kept in memory and in Redis, under names that say all that went into them.

A name is ``domain:file:size and time of writing:product:parameters``; the same name always means the same
bytes, so nothing ever has to be invalidated. Redis is a second tier that several API processes share; without
it everything works.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from operator import itemgetter
from time import monotonic
from typing import Generic, TypeVar

from cachetools import LRUCache
from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

#: Memory [bytes] an entry costs besides its value: key, list node, object heads.
ENTRY_OVERHEAD = 512

#: Longest wait [s] for Redis to connect or to answer: more than it ever needs, less than a reader notices.
REDIS_TIMEOUT = 0.1

#: Pauses [s] between looks for a Redis that went away.
FIRST_RETRY, LAST_RETRY = 0.5, 15.0

#: Products on their way to Redis at a time; beyond that they are not stored there, which costs a later miss.
MOST_WRITES = 64

#: Redis refuses nothing below 512 MB, but a product that large is cheaper to read from its file.
LARGEST_IN_REDIS = 4 * 2**20


class Lru(Generic[Value]):
    """The least recently used values drop out once all together take more than ``capacity_bytes``."""

    def __init__(self, capacity_bytes: int) -> None:
        self._largest = capacity_bytes // 8
        self._entries: LRUCache[object, tuple[Value, int]] = LRUCache(capacity_bytes, getsizeof=itemgetter(1))

    @property
    def bytes(self) -> float:
        """Memory all values take."""
        return self._entries.currsize

    def get(self, key: object) -> Value | None:
        """Return a value and count it as used, or ``None``."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def put(self, key: object, value: Value, size: int) -> None:
        """Keep a value of ``size`` bytes; one larger than an eighth of all memory is not kept."""
        size += ENTRY_OVERHEAD
        if size <= self._largest:
            self._entries[key] = value, size
        else:
            self._entries.pop(key, None)


class RedisTier:
    """Values in Redis behind a circuit breaker: while Redis is away, asking it costs nothing.

    The first failure opens the circuit; from then on nobody waits for Redis, and a background task looks now
    and then whether it is back.
    """

    def __init__(self, url: str, keep_seconds: int) -> None:
        self._keep_seconds = keep_seconds
        self._redis: Redis | None = None
        if url:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=16,
                timeout=REDIS_TIMEOUT,
                socket_timeout=REDIS_TIMEOUT,
                socket_connect_timeout=REDIS_TIMEOUT,
                retry=Retry(NoBackoff(), 0),
            )
            self._redis = Redis.from_pool(pool)
        self._open = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> str:
        """``ok``, ``away`` or, if none is configured, ``none``."""
        if self._redis is None:
            return "none"
        return "away" if self._open else "ok"

    async def get(self, key: str) -> bytes | None:
        """Return a value, or ``None`` if it is not there or Redis is away."""
        if self._redis is None or self._open:
            return None
        try:
            value = await self._redis.get(key)
        except (RedisError, OSError, TimeoutError) as error:
            self._lost(error)
            return None
        return value if isinstance(value, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        """Store a value in the background."""
        if self._redis is None or self._open or len(self._tasks) >= MOST_WRITES:
            return
        if len(value) <= LARGEST_IN_REDIS:
            self._spawn(self._put(self._redis, key, value))

    async def ping(self) -> str:
        """Ask Redis now, and return :attr:`state`."""
        if self._redis is not None and not self._open:
            try:
                await self._redis.ping()
            except (RedisError, OSError, TimeoutError) as error:
                self._lost(error)
        return self.state

    async def close(self) -> None:
        """Stop background work and close the connections."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._redis is not None:
            with suppress(RedisError, OSError):
                await self._redis.aclose()

    async def _put(self, redis: Redis, key: str, value: bytes) -> None:
        try:
            await redis.set(key, value, ex=self._keep_seconds)
        except (RedisError, OSError, TimeoutError) as error:
            self._lost(error)

    def _lost(self, error: BaseException) -> None:
        if self._open or self._redis is None:
            return
        self._open = True
        logger.warning("redis is away, answering from files: %s", error)
        self._spawn(self._wait_for_return(self._redis))

    async def _wait_for_return(self, redis: Redis) -> None:
        pause = FIRST_RETRY
        while self._open:
            await asyncio.sleep(pause)
            try:
                await redis.ping()
            except (RedisError, OSError, TimeoutError):
                pause = min(2 * pause, LAST_RETRY)
            else:
                self._open = False
                logger.info("redis is back")

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Products:
    """Finished products by name: from memory, else from Redis, else made, once for all who wait."""

    def __init__(self, capacity_bytes: int, redis: RedisTier, requests: Counter) -> None:
        self._memory: Lru[bytes] = Lru(capacity_bytes)
        self._redis = redis
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._from = {outcome: requests.labels(outcome) for outcome in ("memory", "redis", "made")}

    async def get(self, name: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the product called ``name``, by ``make`` if nobody has it. Raises what ``make`` raises."""
        value = self._memory.get(name)
        if value is not None:
            self._from["memory"].inc()
            return value
        task = self._making.get(name)
        if task is None:
            task = asyncio.ensure_future(self._fetch(name, make))
            self._making[name] = task
            task.add_done_callback(lambda done: self._made(name, done))
        # A client that hangs up must not take the product away from the others.
        return await asyncio.shield(task)

    async def _fetch(self, name: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        key = f"nowcast:product:{name}"
        value = await self._redis.get(key)
        if value is not None:
            self._from["redis"].inc()
        else:
            value = await make()
            self._from["made"].inc()
            self._redis.put(key, value)
        self._memory.put(name, value, len(value))
        return value

    def _made(self, name: str, task: asyncio.Task[bytes]) -> None:
        del self._making[name]
        if not task.cancelled():
            task.exception()  # marks it as seen where everybody who waited has left


class Refreshed(Generic[Value]):
    """Values that change slowly: an old one is handed out while a newer one is being worked out."""

    def __init__(self, fresh_seconds: float, stale_seconds: float, most: int = 64) -> None:
        self._fresh, self._stale = fresh_seconds, stale_seconds
        self._values: LRUCache[object, tuple[Value, float]] = LRUCache(most)
        self._making: dict[object, asyncio.Task[Value]] = {}

    async def get(self, key: object, make: Callable[[], Awaitable[Value]]) -> Value:
        """Return the value of ``key``, at most ``stale_seconds`` old. Raises what ``make`` raises."""
        known = self._values.get(key)
        age = monotonic() - known[1] if known else 0.0
        if known and age < self._fresh:
            return known[0]
        task = self._making.get(key)
        if task is None:
            task = asyncio.ensure_future(make())
            self._making[key] = task
            task.add_done_callback(lambda done: self._made(key, done))
        if known and age < self._stale:
            return known[0]
        return await asyncio.shield(task)

    def _made(self, key: object, task: asyncio.Task[Value]) -> None:
        del self._making[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._values[key] = task.result(), monotonic()
