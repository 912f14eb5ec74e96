from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from bus_core import DeadLetter, DeadLetterFilter, Outcome, Received, UnknownSubscription
from redis_support.binaries import ServerBinary
from redis_support.fixtures import SharedServer, StartServer
from redis_support.streams import acks, message, numbers, place_on, receive, spec

EACH = spec(mode="broadcast")


def buried(received: Received) -> Outcome:
    letter = DeadLetter(
        "x", received.message.topic, "listener", None, "k", "gave up", (), received.message.body,
        dead_at=datetime.now(UTC),
    )  # fmt: skip
    return Outcome("dead_letter", received.receipt, letter=letter)


async def test_each_instance_gets_everything(redis_server: SharedServer) -> None:
    """Each instance gets every event from the moment at which it subscribed, in order, and no earlier one."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(), await place.adapter()
        await place.publish(0)
        one = await first.open_consumer(EACH)
        await place.publish(1)
        other = await second.open_consumer(EACH)
        await place.publish(*range(2, 30))
        assert await first.backlog(EACH) == 29
        batch = await receive(one, 29)
        assert numbers(batch) == [*range(1, 30)]
        assert numbers(await receive(other, 28)) == [*range(2, 30)]
        assert await one.settle(acks(batch)) == [None] * 29
        assert await first.backlog(EACH) == 0
        assert one.longest_hold == math.inf
        for consumer in (one, other):
            await consumer.close()


async def test_topics_that_come_later(redis_server: SharedServer) -> None:
    """A pattern gets the events of a topic that is new from its first one on."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(), await place.adapter(topic_refresh="100ms")
        await first.publish([message(0, "tests.old.happened")])
        consumer = await second.open_consumer(spec("tests.#", mode="broadcast"))
        await first.publish([message(1, "tests.old.happened")])
        assert numbers(await receive(consumer, 1)) == [1]
        await first.publish([message(2, "tests.new.happened"), message(3, "tests.new.happened")])
        assert numbers(await receive(consumer, 2)) == [2, 3]
        await consumer.close()


async def test_gaps_are_counted(binary: ServerBinary, start_server: StartServer) -> None:
    """Entries trimmed before they were read are counted exactly, where the server or the bus knows."""
    server = start_server(binary)
    async with place_on(server) as place:
        adapter = await place.adapter()
        stream = place.keys.stream(EACH.topic)
        await place.publish(*range(10))
        consumer = await adapter.open_consumer(EACH)
        await place.publish(10)
        assert numbers(await receive(consumer, 1)) == [10]
        await consumer.settle([])
        await place.publish(*range(11, 31))
        server.ask("XTRIM", stream, "MAXLEN", 5)
        assert numbers(await receive(consumer, 5)) == [*range(26, 31)]
        if binary.at_least((7, 0)):
            assert adapter.lost == 15
        await place.publish(31)
        assert numbers(await receive(consumer, 1)) == [31]
        if binary.at_least((7, 0)):
            assert adapter.lost == 15
        await consumer.close()


async def test_letters_go_back_to_their_instance(redis_server: SharedServer) -> None:
    """A redriven letter comes back to the instance that failed, and to no other, as long as it lives."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(), await place.adapter()
        one, other = await first.open_consumer(EACH), await second.open_consumer(EACH)
        await place.publish(1, 2)
        batch = await receive(one, 2)
        await receive(other, 2)
        assert await one.settle([buried(each) for each in batch]) == [None, None]
        letters = await second.dead_letters.list(DeadLetterFilter(), 9)
        assert [letter.subscription for letter in letters] == ["listener"] * 2
        assert await second.dead_letters.redrive([letters[0].id]) == 1
        (again,) = await receive(one, 1)
        assert (numbers([again]), again.attempt, again.redelivered) == ([1], 1, True)
        await one.settle(acks([again]))
        assert await first.backlog(EACH) == 0
        await one.close()
        await first.close()
        place.adapters.remove(first)
        with pytest.raises(UnknownSubscription, match="listener"):
            await second.dead_letters.redrive([letters[1].id])
        await other.close()
        assert not [key for key in redis_server.keys() if ":inbox:" in key]  # noqa: SIM118


async def test_nothing_is_left_on_the_server(redis_server: SharedServer) -> None:
    """A broadcast subscription keeps nothing on the server: no group, no consumer."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(EACH)
        await place.publish(1)
        await receive(consumer, 1)
        assert place.ask("XINFO", "GROUPS", place.keys.stream(EACH.topic)) == []
        await consumer.close()
