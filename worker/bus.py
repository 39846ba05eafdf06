"""The bus: Redis streams of small messages, delivered at least once, given up after repeated failure.

A message says that something is on disk; losing one loses nothing, because every worker also compares what is
on disk with what should be. Only commands of Redis 6.2 are used, so Redis and Valkey both serve.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nowcast.errors import BusError
from nowcast.telemetry import Telemetry

log = logging.getLogger(__name__)

FRAMES = "frames"
FORECASTS = "forecasts"

#: Version of the messages' fields; a worker leaves a newer one to a newer worker.
MESSAGE_VERSION = "1"


@dataclass(frozen=True)
class Message:
    """One entry of a stream.

    Attributes:
        id: Its id in the stream.
        fields: Its content.
        attempt: How often it has been tried, this time included.
    """

    id: str
    fields: Mapping[str, str]
    attempt: int = 1


def dead(stream: str) -> str:
    """Return the name of the stream that keeps what was given up."""
    return f"{stream}:dead"


def connect(url: str) -> redis.Redis:
    """Return a client that fails within seconds, so that a worker can go on without the broker."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        protocol=2,  # one shape of replies from every server and client version
        socket_connect_timeout=2.0,
        socket_timeout=5.0,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=15,
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise BusError(f"the broker does not answer as expected: {error}") from error


class Bus:
    """Publishes messages and keeps small shared values."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def publish(self, stream: str, **fields: str) -> None:
        """Append a message.

        Raises:
            BusError: If the broker is away.
        """
        with _translated():
            self._client.xadd(stream, {"v": MESSAGE_VERSION} | fields)  # type: ignore[arg-type]

    def set_latest(self, domain: str, pointer: str) -> None:
        """Tell the API where a domain's newest forecast is.

        Raises:
            BusError: If the broker is away.
        """
        with _translated():
            self._client.set(f"nowcast:latest:{domain}", pointer)


class Consumer:
    """One worker's place in a consumer group.

    A batch is new messages only; one left behind by a worker that died is retried alone, so that a poisonous
    one cannot take others with it, and is given up after ``attempts`` tries.

    Args:
        client: Connection to the broker.
        stream: Stream to read.
        group: Consumer group, shared by the workers of a kind.
        name: This worker, unique in its group.
        batch: Most messages returned at once.
        idle_seconds: Time after which a message of a silent worker is taken over.
        attempts: Tries before a message is given up.
        linger_seconds: Wait for a batch to fill once it has its first message.
    """

    def __init__(
        self,
        client: redis.Redis,
        stream: str,
        group: str,
        name: str,
        *,
        batch: int = 8,
        idle_seconds: float = 15.0,
        attempts: int = 8,
        linger_seconds: float = 0.02,
    ) -> None:
        self._client, self.stream, self.group, self.name = client, stream, group, name
        self._batch, self._idle_ms, self._attempts = batch, int(idle_seconds * 1000), attempts
        self._linger = linger_seconds
        self._tries = f"nowcast:attempts:{stream}:{group}"
        self._next_claim = 0.0
        self._given_up = 0

    def receive(self, *, block_seconds: float) -> list[Message]:
        """Return the next messages, one at a time if left behind by another; empty after ``block_seconds``.

        Raises:
            BusError: If the broker is away.
        """
        with _translated():
            try:
                return self._reclaim() or self._read_new(block_seconds)
            except redis.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                self._create_group()
                return []

    def acknowledge(self, messages: list[Message]) -> None:
        """Mark messages as done.

        Raises:
            BusError: If the broker is away; they will come again.
        """
        if messages:
            ids = [message.id for message in messages]
            with _translated(), self._client.pipeline(transaction=True) as pipe:
                pipe.xack(self.stream, self.group, *ids)
                pipe.hdel(self._tries, *ids)
                pipe.execute()

    def lag(self) -> int:
        """Return how many messages the group has yet to finish: undelivered and unacknowledged.

        Raises:
            BusError: If the broker is away.
        """
        with _translated():
            for group in self._groups():
                if group["name"] == self.group:
                    return int(group["pending"]) + int(group.get("lag") or 0)
        return 0

    def report(self, telemetry: Telemetry) -> None:
        """Set the queue's metrics.

        Raises:
            BusError: If the broker is away.
        """
        telemetry.queue_lag.labels(self.stream, self.group).set(self.lag())
        telemetry.queue_dead.labels(self.stream).inc(self._given_up)
        self._given_up = 0

    def trim(self) -> None:
        """Drop what every group has finished with.

        Raises:
            BusError: If the broker is away.
        """
        with _translated():
            keep_from = []
            for group in self._groups():
                pending = self._client.xpending(self.stream, group["name"])
                keep_from.append(pending["min"] or group["last-delivered-id"])
            if keep_from:
                oldest = min(keep_from, key=lambda id_: tuple(map(int, id_.split("-"))))
                self._client.xtrim(self.stream, minid=oldest, approximate=True)

    @contextmanager
    def holding(self, messages: list[Message]) -> Iterator[None]:
        """Keep messages from being taken over while the block works on them, however long it takes."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self._idle_ms / 3000):
                try:
                    self._client.xclaim(
                        self.stream,
                        self.group,
                        self.name,
                        min_idle_time=0,
                        message_ids=[message.id for message in messages],
                        idle=0,
                        justid=True,
                    )
                except redis.RedisError as error:
                    log.debug("no heartbeat on %s: %s", self.stream, error)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _groups(self) -> list[dict[str, Any]]:
        try:
            return self._client.xinfo_groups(self.stream)
        except redis.ResponseError:  # the stream does not exist yet
            return []

    def _create_group(self) -> None:
        try:
            self._client.xgroup_create(self.stream, self.group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _reclaim(self) -> list[Message]:
        now = time.monotonic()
        if now < self._next_claim:
            return []
        answer: Any = self._client.xautoclaim(
            self.stream, self.group, self.name, min_idle_time=self._idle_ms, count=1
        )
        for id_, fields in answer[1]:
            attempt = self._client.hincrby(self._tries, id_, 1) + 1
            if attempt > self._attempts:
                self._give_up(id_, fields or {})
                return []
            log.info("taking over %s of %s, attempt %d", id_, self.stream, attempt)
            return [Message(id_, fields or {}, attempt)]
        self._next_claim = now + min(0.5, self._idle_ms / 3000)
        return []

    def _read_new(self, block_seconds: float) -> list[Message]:
        messages = self._read_group(self._batch, max(int(block_seconds * 1000), 1))
        deadline = time.monotonic() + self._linger
        while 0 < len(messages) < self._batch and (left := deadline - time.monotonic()) > 0.001:
            more = self._read_group(self._batch - len(messages), max(int(left * 1000), 1))
            messages += more
        return messages

    def _read_group(self, count: int, block_ms: int) -> list[Message]:
        answer: Any = self._client.xreadgroup(
            self.group, self.name, {self.stream: ">"}, count=count, block=block_ms
        )
        entries = answer[0][1] if answer else []
        return [Message(id_, fields) for id_, fields in entries]

    def _give_up(self, id_: str, fields: Mapping[str, str]) -> None:
        log.error("giving up %s of %s after %d attempts: %s", id_, self.stream, self._attempts, dict(fields))
        self._given_up += 1
        with self._client.pipeline(transaction=True) as pipe:
            entry: Any = dict(fields) | {"id": id_, "group": self.group}
            pipe.xadd(dead(self.stream), entry)
            pipe.xack(self.stream, self.group, id_)
            pipe.hdel(self._tries, id_)
            pipe.execute()
