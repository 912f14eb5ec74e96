"""``mode: pubsub`` counts every lost event, whatever lost it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from bus_core import PublishFailed, PublishUncertain
from bus_core.abc import Consumer
from promenade_bus_redis.pubsub.adapter import PubsubAdapter
from promenade_bus_redis.pubsub.envelope import encode_event
from promenade_bus_redis.pubsub.gap_detector import Gap, GapDetector
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.permissions import acl_rules, permissions_for
from redis_support.binaries import ServerBinary
from redis_support.faults import CutAtReply, CutAtRequest, Drop, Refuse
from redis_support.fixtures import SharedServer, StartProxy, StartServer
from redis_support.proxy import FaultProxy
from redis_support.pubsub import EACH, Air, air_on
from redis_support.streams import TOPIC, message, numbers, receive, spec, until

QUICK: dict[str, Any] = {"block": 0.1, "command_timeout": 0.3}


@pytest.fixture
def proxy(redis_server: SharedServer, start_proxy: StartProxy) -> FaultProxy:
    host, _, port = redis_server.url.removeprefix("redis://").partition("/")[0].rpartition(":")
    return start_proxy((host, int(port)))


async def hear(consumer: Consumer, number: int) -> list[int]:
    """All that comes up to an event, over whatever fails meanwhile."""
    heard: list[int] = []
    async with asyncio.timeout(15):
        while number not in heard:
            try:
                heard += numbers(await consumer.receive(100))
            except RedisFailure:
                await asyncio.sleep(0.02)
    return heard


async def failure_of(consumer: Consumer, kind: Kind) -> RedisFailure:
    """A failure of that kind to receive, as soon as there is one."""
    async with asyncio.timeout(15):
        while True:
            try:
                await consumer.receive(100)
            except RedisFailure as failure:
                if failure.kind is kind:
                    return failure


async def cut(proxy: FaultProxy, adapter: PubsubAdapter) -> None:
    """No connection through the proxy any more, and no new one."""
    proxy.use(Refuse())
    proxy.reset_connections()
    assert adapter.running is not None
    subscriber = adapter.running.subscriber
    await until(lambda: not subscriber.is_connected, "the subscriber has noticed")


async def healed(proxy: FaultProxy, adapter: PubsubAdapter, *consumers: Consumer) -> None:
    """The subscriber listens again, for all of them."""
    proxy.heal()
    await until(
        lambda: all(each.failure is None for each in consumers),  # type: ignore[attr-defined]
        "it listens again",
    )


def missed(adapter: PubsubAdapter) -> dict[str, int]:
    return {name: count for (_, name), count in adapter.misses.by_subscription.items()}


# --- numbers ----------------------------------------------------------------------------------------------


def test_numbers_that_are_left_out() -> None:
    """A gap is what lies between two numbers of one publisher on one topic, and nothing else is one."""
    hearing = GapDetector()
    assert hearing.hear("a", "p", 5, 1) is None  # it is new
    assert hearing.hear("a", "p", 6, 1) is None
    assert hearing.hear("a", "q", 1, 1) is None
    assert hearing.hear("b", "p", 1, 1) is None
    assert hearing.hear("a", "p", 9, 2) == Gap(2, since=1)
    assert hearing.hear("a", "p", 8, 2) is None  # an earlier one that comes late
    assert hearing.hear("a", "p", 10, 2) is None
    assert hearing.hear_announced("a", "p", 10, 3) is None
    assert hearing.hear_announced("a", "p", 12, 3) == Gap(2, since=3)
    assert hearing.hear("a", "p", 13, 3) is None
    assert hearing.hear_announced("c", "p", 7, 3) is None
    assert hearing.hear("c", "p", 8, 3) is None


# --- connections that break -------------------------------------------------------------------------------


async def test_what_a_lost_connection_cost(
    redis_server: SharedServer, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The next event after a new connection tells how many each subscription missed, in the log too."""
    async with air_on(redis_server) as air:
        publishing, listening = await air.adapter(), await air.adapter(proxy.address, **QUICK)
        one = await listening.open_consumer(EACH)
        other = await listening.open_consumer(spec("tests.#", "pattern", mode="broadcast"))
        await air.publish(publishing, 1)
        assert [await hear(one, 1), await hear(other, 1)] == [[1], [1]]
        await cut(proxy, listening)
        await air.publish(publishing, *range(2, 9))
        await healed(proxy, listening, one, other)
        await air.publish(publishing, 9, 10)
        assert [await hear(one, 10), await hear(other, 10)] == [[9, 10], [9, 10]]
        assert missed(listening) == {"listener": 7, "pattern": 7}
        assert (listening.lost, publishing.lost) == (14, 0)
        (line, _) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert line == (
            "missed 7 events: dropped by the server, or published without a connection "
            f"(topic={TOPIC} subscription=listener)"
        )


async def test_what_is_missed_at_the_end(redis_server: SharedServer, proxy: FaultProxy) -> None:
    """Nothing has to follow: a quiet publisher says which number its latest event had, several times."""
    async with air_on(redis_server) as air:
        publishing = await air.adapter(pubsub={"announce": 0.05})
        listening = await air.adapter(proxy.address, **QUICK)
        consumer = await listening.open_consumer(EACH)
        await air.publish(publishing, 1)
        assert await hear(consumer, 1) == [1]
        await cut(proxy, listening)
        await air.publish(publishing, *range(2, 9))
        await healed(proxy, listening, consumer)
        await until(lambda: listening.lost, "the loss is known")
        assert missed(listening) == {"listener": 7}
        await air.publish(publishing, 9)
        assert await hear(consumer, 9) == [9]
        assert listening.lost == 7


async def test_a_publisher_that_closes_says_its_last_number(redis_server: SharedServer) -> None:
    """Also where it closes before it was quiet for long: what somebody else lost on its way shows."""
    async with air_on(redis_server) as air:
        publishing, listening = await air.adapter(), await air.adapter()
        consumer = await listening.open_consumer(EACH)
        await air.publish(publishing, 1)
        assert await hear(consumer, 1) == [1]
        assert publishing.running is not None
        publishing.running.publisher._was_published(TOPIC, 4, 0)  # three that never came
        await publishing.close()
        await until(lambda: listening.lost == 3, "the loss is known")


async def test_who_was_not_there_has_missed_nothing(redis_server: SharedServer, proxy: FaultProxy) -> None:
    """A gap is counted for those who listened before it, not for who came after, nor for new publishers."""
    async with air_on(redis_server) as air:
        publishing, listening = await air.adapter(), await air.adapter(proxy.address, **QUICK)
        one = await listening.open_consumer(EACH)
        await air.publish(publishing, 1)
        assert await hear(one, 1) == [1]
        await cut(proxy, listening)
        await air.publish(publishing, 2, 3)
        await healed(proxy, listening, one)
        late = await listening.open_consumer(spec(name="late", mode="broadcast"))
        new = await air.adapter()
        await air.publish(new, 4)
        await air.publish(publishing, 5)
        assert [await hear(one, 5), await hear(late, 5)] == [[4, 5], [4, 5]]
        assert missed(listening) == {"listener": 2}


async def test_a_connection_that_is_half_open(redis_server: SharedServer, proxy: FaultProxy) -> None:
    """A connection on which nothing arrives any more is noticed, replaced, and what it cost is counted."""
    async with air_on(redis_server) as air:
        publishing, listening = await air.adapter(), await air.adapter(proxy.address, **QUICK)
        consumer = await listening.open_consumer(EACH)
        await air.publish(publishing, 1)
        assert await hear(consumer, 1) == [1]
        proxy.use(Drop())
        await air.publish(publishing, 2, 3)
        await failure_of(consumer, Kind.TIMED_OUT)
        await healed(proxy, listening, consumer)
        await air.publish(publishing, 4)
        assert await hear(consumer, 4) == [4]
        assert listening.lost == 2


async def test_a_server_that_is_away(redis_server: SharedServer, proxy: FaultProxy) -> None:
    """While there is no server, subscribing, receiving and publishing say so; then all of them work again."""
    async with air_on(redis_server) as air:
        adapter = await air.adapter(proxy.address, **QUICK)
        consumer = await adapter.open_consumer(EACH)
        await cut(proxy, adapter)
        with pytest.raises(RedisFailure):
            await consumer.receive(10)
        with pytest.raises(RedisFailure):
            await adapter.open_consumer(spec(name="late", mode="broadcast"))
        with pytest.raises(RedisFailure):
            await adapter.backlog(EACH)
        (refused,) = await adapter.publish([message(1)])
        assert isinstance(refused, PublishFailed)
        assert refused.transient
        await healed(proxy, adapter, consumer)
        late = await adapter.open_consumer(spec(name="late", mode="broadcast"))
        await air.publish(adapter, 2)
        assert [await hear(consumer, 2), await hear(late, 2)] == [[2], [2]]
        assert adapter.lost == 0


# --- publishing that fails --------------------------------------------------------------------------------


@pytest.mark.parametrize(("arrives", "gap"), [(True, 0), (False, 1)])
async def test_an_uncertain_event(
    redis_server: SharedServer, proxy: FaultProxy, arrives: bool, gap: int
) -> None:
    """An event of which nobody knows whether it was passed on is uncertain; if it was not, it is missed."""
    async with air_on(redis_server) as air:
        publishing, listening = await air.adapter(proxy.address, **QUICK), await air.adapter()
        consumer = await listening.open_consumer(EACH)
        await air.publish(publishing, 1)
        proxy.use(CutAtReply("PUBLISH") if arrives else CutAtRequest("PUBLISH"))
        (uncertain,) = await publishing.publish([message(2)])
        assert isinstance(uncertain, PublishUncertain)
        proxy.heal()
        await air.publish(publishing, 3)
        assert await hear(consumer, 3) == ([1, 2, 3] if arrives else [1, 3])
        assert listening.lost == gap


async def test_an_event_that_failed_is_no_gap(redis_server: SharedServer, proxy: FaultProxy) -> None:
    """An event that was definitely not passed on leaves no number behind: nobody has missed it."""
    async with air_on(redis_server) as air:
        publishing, listening = await air.adapter(proxy.address, **QUICK), await air.adapter()
        consumer = await listening.open_consumer(EACH)
        await air.publish(publishing, 1)
        proxy.use(Refuse())
        proxy.reset_connections()
        assert publishing.running is not None
        link = publishing.running.publisher._link
        await until(lambda: link is None or not link.is_usable, "the publisher has noticed")
        results = await publishing.publish([message(2), message(3)])
        assert {type(result) for result in results} == {PublishFailed}
        proxy.heal()
        await air.publish(publishing, 4)
        assert await hear(consumer, 4) == [1, 4]
        assert listening.lost == 0


# --- subscribers that are slow ----------------------------------------------------------------------------


async def test_a_buffer_that_is_full(redis_server: SharedServer) -> None:
    """Events without room are dropped for this subscription alone, and counted; memory does not grow."""
    async with air_on(redis_server) as air:
        publishing = await air.adapter()
        listening = await air.adapter(pubsub={"buffer": 64 * 1024})
        slow = await listening.open_consumer(EACH)
        quick = await listening.open_consumer(spec(name="quick", mode="broadcast"))
        for first in range(0, 1_000, 50):
            await air.publish(publishing, *range(first, first + 50))
            assert numbers(await receive(quick, 50)) == [*range(first, first + 50)]
        held = await listening.backlog(EACH)
        assert 40 < held < 128
        assert missed(listening) == {"listener": 1_000 - held}
        assert listening.misses.by_cause == {"buffer full": 1_000 - held}
        assert numbers(await receive(slow, held)) == [*range(held)]
        await air.publish(publishing, 1_000)
        assert await hear(slow, 1_000) == [1_000]
        assert listening.lost == 1_000 - held


def _publish_meanwhile(air: Air, count: int, size: int) -> None:
    """Publishes without giving the loop of this process a turn, as a blocked one would not get it."""
    body = b"x" * size
    with air.server.client() as client:
        for number in range(1, count + 1):
            event = message(number)
            event = type(event)(event.id, event.topic, event.key, body)
            payload = encode_event(event, "somebody", number, int(time.time() * 1000))
            client.publish(air.channels.of(TOPIC), payload)


async def test_a_server_that_cuts_a_slow_subscriber(binary: ServerBinary, start_server: StartServer) -> None:
    """Events that the server dropped with an unread connection are counted exactly."""
    server = start_server(binary, settings={"client-output-buffer-limit": "pubsub 256kb 0 0"})
    async with air_on(server) as air:
        listening = await air.adapter(**QUICK)
        consumer = await listening.open_consumer(EACH)
        count = 3_000
        _publish_meanwhile(air, count, 10_000)
        heard = 0
        async with asyncio.timeout(15):
            while listening.running is not None and listening.running.subscriber.connections < 2:
                try:
                    heard += len(await consumer.receive(100))
                except RedisFailure:
                    await asyncio.sleep(0.02)
        await healed_without_proxy(consumer)
        with server.client() as client:
            client.publish(
                air.channels.of(TOPIC), f'promenade/1 {{"publisher": "somebody", "latest": {count}}}\n'
            )
        await until(lambda: listening.lost, "the loss is known")
        heard += await listening.backlog(EACH)
        assert 0 < heard < count
        assert listening.misses.total == count - heard


async def healed_without_proxy(consumer: Consumer) -> None:
    await until(lambda: consumer.failure is None, "it listens again")  # type: ignore[attr-defined]


# --- permissions that go, and come back -------------------------------------------------------------------


async def test_a_permission_that_was_taken_away(binary: ServerBinary, start_server: StartServer) -> None:
    """A subscriber without permission gets the error with its command; with permission it listens again."""
    rules = acl_rules(permissions_for("pubsub"), prefix="bus")
    server = start_server(binary, users=[f"user app on >secret {rules}"])
    async with air_on(server) as air:
        publishing = await air.adapter()
        listening = await air.adapter(username="app", password="secret", **QUICK)
        consumer = await listening.open_consumer(EACH)
        await air.publish(publishing, 1)
        assert await hear(consumer, 1) == [1]
        server.ask("ACL", "SETUSER", "app", "-subscribe")
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        assert "SUBSCRIBE" in str(await failure_of(consumer, Kind.FORBIDDEN))
        await air.publish(publishing, 2)
        server.ask("ACL", "SETUSER", "app", "+subscribe")
        await healed_without_proxy(consumer)
        await air.publish(publishing, 3)
        assert await hear(consumer, 3) == [3]
        assert listening.lost == 1
