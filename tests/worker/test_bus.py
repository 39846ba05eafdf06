"""The bus against a real Valkey."""

from __future__ import annotations

import time

import pytest
import redis
from patience import PATIENCE_SECONDS, wait_until

from nowcast.errors import BusError
from nowcast.telemetry import Telemetry
from worker.broker import EmbeddedBroker
from worker.bus import FRAMES, Bus, Consumer, connect, dead


def consumer(client: redis.Redis, name: str = "a", **options: float) -> Consumer:
    return Consumer(client, FRAMES, "infer", name, **{"idle_seconds": 0.2, **options})  # type: ignore[arg-type]


def idle_ms(client: redis.Redis) -> list[int]:
    """Return how long nobody has shown that he works on each delivered message [ms]."""
    pending = client.xpending_range(FRAMES, "infer", "-", "+", 100)
    return [entry["time_since_delivered"] for entry in pending]


def test_messages_published_before_the_group_exists_are_delivered_in_order(client: redis.Redis) -> None:
    bus, reader = Bus(client), consumer(client)
    for minute in range(3):
        bus.publish(FRAMES, domain="fmi", time=f"12:{minute:02}")
    reader.receive(block_seconds=0.01)  # finds no group, creates it
    times = [message.fields["time"] for message in reader.receive(block_seconds=0.5)]
    assert times == ["12:00", "12:01", "12:02"]


def test_an_empty_read_waits_and_returns_nothing(client: redis.Redis) -> None:
    reader = consumer(client)
    reader.receive(block_seconds=0.01)
    start = time.monotonic()
    assert reader.receive(block_seconds=0.3) == []
    assert time.monotonic() - start >= 0.25


def test_a_message_left_by_a_silent_worker_is_taken_over_alone(client: redis.Redis) -> None:
    bus, dying, heir = Bus(client), consumer(client, "dying"), consumer(client, "heir")
    dying.receive(block_seconds=0.01)
    for number in range(3):
        bus.publish(FRAMES, domain=f"d{number}")
    assert len(dying.receive(block_seconds=0.5)) == 3
    wait_until(lambda: all(ms >= 200 for ms in idle_ms(client)))
    taken = heir.receive(block_seconds=0.01)
    assert [(message.fields["domain"], message.attempt) for message in taken] == [("d0", 2)]


def test_a_worker_that_is_slow_but_alive_keeps_its_messages(client: redis.Redis) -> None:
    bus, slow = Bus(client), consumer(client, "slow", idle_seconds=0.6)
    thief = consumer(client, "thief", idle_seconds=PATIENCE_SECONDS)
    slow.receive(block_seconds=0.01)
    bus.publish(FRAMES, domain="fmi")
    messages = slow.receive(block_seconds=0.5)
    with slow.holding(messages):
        for _ in range(3):  # idle for longer and longer, until a heartbeat comes
            most = 0

            def has_beaten() -> bool:
                nonlocal most
                (now,) = idle_ms(client)
                before, most = most, max(most, now)
                return now < before

            wait_until(has_beaten)
        assert thief.receive(block_seconds=0.01) == []
    slow.acknowledge(messages)
    assert slow.lag() == 0


def test_a_message_that_keeps_failing_ends_in_the_dead_stream(client: redis.Redis) -> None:
    bus, reader = Bus(client), consumer(client, attempts=3)
    reader.receive(block_seconds=0.01)
    bus.publish(FRAMES, domain="poison")
    attempts = [reader.receive(block_seconds=0.5)[0].attempt]

    def given_up() -> int:
        attempts.extend(message.attempt for message in reader.receive(block_seconds=0.05))
        return client.xlen(dead(FRAMES))

    wait_until(given_up)
    assert attempts == [1, 2, 3]
    ((_, entry),) = client.xrange(dead(FRAMES))
    assert entry["domain"] == "poison"
    assert entry["group"] == "infer"
    assert reader.lag() == 0
    telemetry = Telemetry()
    reader.report(telemetry)
    assert telemetry.registry.get_sample_value("nowcast_queue_dead_total", {"stream": "frames"}) == 1


def test_a_flushed_broker_is_taken_up_again(client: redis.Redis) -> None:
    bus, reader = Bus(client), consumer(client)
    reader.receive(block_seconds=0.01)
    client.flushall()
    bus.publish(FRAMES, domain="after")
    reader.receive(block_seconds=0.05)
    assert [message.fields["domain"] for message in reader.receive(block_seconds=0.5)] == ["after"]


def test_trimming_keeps_what_any_group_has_not_finished(client: redis.Redis) -> None:
    bus, quick = Bus(client), consumer(client)
    behind = Consumer(client, FRAMES, "verify", "b")
    quick.receive(block_seconds=0.01)
    behind.receive(block_seconds=0.01)
    for number in range(500):
        bus.publish(FRAMES, domain=f"d{number}")
    while messages := quick.receive(block_seconds=0.01):
        quick.acknowledge(messages)
    quick.trim()
    assert client.xlen(FRAMES) == 500
    while messages := behind.receive(block_seconds=0.01):
        behind.acknowledge(messages)
    quick.trim()
    assert client.xlen(FRAMES) < 150  # Redis trims whole nodes of about a hundred entries


def test_trimming_keeps_what_is_delivered_but_not_acknowledged(client: redis.Redis) -> None:
    bus, slow = Bus(client), consumer(client, idle_seconds=60)
    slow.receive(block_seconds=0.01)
    for number in range(500):
        bus.publish(FRAMES, domain=f"d{number}")
    while slow.receive(block_seconds=0.01):
        pass
    slow.trim()
    assert client.xlen(FRAMES) == 500


def test_a_broker_that_is_away_is_one_clear_error() -> None:
    reader = consumer(connect("redis://127.0.0.1:1/0"))
    with pytest.raises(BusError, match="broker does not answer"):
        reader.receive(block_seconds=0.01)


def on_disk(connection: redis.Redis) -> bool:
    """Return whether all that was written lies in the append-only file."""
    told = connection.info("persistence")
    return told["aof_enabled"] == 1 and told["aof_buffer_length"] == 0 and told["aof_pending_bio_fsync"] == 0


def test_the_broker_keeps_its_data_and_address_over_sigkill(tmp_path_factory: pytest.TempPathFactory) -> None:
    embedded = EmbeddedBroker(tmp_path_factory.mktemp("killed"))
    process = embedded.start()
    with connect(embedded.url) as connection:
        connection.set("kept", "yes")
        wait_until(lambda: on_disk(connection))
        process.kill()
        process.wait()
        process = embedded.start()
        try:
            assert connection.get("kept") == "yes"
        finally:
            process.kill()
            process.wait()
