from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from bus_core import Attempt, DeadLetter, DeadLetterFilter, LeaseLost, Outcome, Received, UnknownSubscription
from promenade_bus_redis.server.failures import Kind, RedisFailure
from redis_support.fixtures import SharedServer
from redis_support.streams import GROUP, TOPIC, Place, acks, message, numbers, place_on, receive, spec, until

FAILED = Attempt(1, datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC), "ValueError: no")


def letter(received: Received) -> DeadLetter:
    """A letter such as the engine writes."""
    return DeadLetter(
        "x",
        received.message.topic,
        "listener",
        None,
        received.message.key,
        "gave up",
        (FAILED,),
        received.message.body,
        received.message.headers,
        dead_at=datetime.now(UTC),
    )


async def test_receive_and_acknowledge(redis_server: SharedServer) -> None:
    """Events stored before the first subscription are received in order, and forgotten when settled."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await place.publish(*range(5))
        consumer = await adapter.open_consumer(spec())
        batch = await receive(consumer, 5)
        assert numbers(batch) == [0, 1, 2, 3, 4]
        assert [(each.attempt, each.redelivered, each.owner_died, each.fault) for each in batch] == [
            (1, False, False, None)
        ] * 5
        assert await adapter.backlog(spec()) == 5
        assert await consumer.settle(acks(batch)) == [None] * 5
        assert place.pending() == []
        assert await adapter.backlog(spec()) == 0
        await consumer.close()


async def test_start_at_the_end(redis_server: SharedServer) -> None:
    """A subscription that starts at the latest event gets what comes afterwards; once begun, it goes on."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await place.publish(1)
        consumer = await adapter.open_consumer(spec(start="latest"))
        await place.publish(2)
        (received,) = await receive(consumer, 1)
        assert numbers([received]) == [2]
        await consumer.settle(acks([received]))
        await consumer.close()
        await place.publish(3)
        consumer = await adapter.open_consumer(spec(start="latest"))
        assert numbers(await receive(consumer, 1)) == [3]
        await consumer.close()


async def test_instances_compete(redis_server: SharedServer) -> None:
    """Each event reaches one instance of a group, and every group."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(), await place.adapter()
        consumers = [await each.open_consumer(spec()) for each in (first, second)]
        other = await first.open_consumer(spec(name="other"))
        await place.publish(*range(20))
        got: list[int] = []
        while len(got) < 20:
            for consumer in consumers:
                if len(got) < 20:
                    batch = await receive(consumer, 1)
                    got += numbers(batch)
                    await consumer.settle(acks(batch))
        assert sorted(got) == [*range(20)]
        assert numbers(await receive(other, 20)) == [*range(20)]
        for consumer in (*consumers, other):
            await consumer.close()


async def test_an_entry_by_hand(redis_server: SharedServer) -> None:
    """A document that anybody put in is received; what is no entry of ours says why, with its raw bytes."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        document = json.dumps({"specversion": "1.0", "id": "e-1", "subject": "s-1", "data": {}})
        place.ask("XADD", place.keys.stream(TOPIC), "*", "body", document)
        place.ask("XADD", place.keys.stream(TOPIC), "*", "other", b"\xff\x00")
        good, bad = await receive(consumer, 2)
        assert (good.message.id, good.message.key, good.fault) == ("e-1", "s-1", None)
        assert (bad.fault, bad.message.body) == ("the entry has no field 'body'", b"other: \xff\x00")
        assert await consumer.settle([Outcome("dead_letter", bad.receipt, letter=letter(bad))]) == [None]
        await consumer.close()


# --- what comes back --------------------------------------------------------------------------------------


async def test_release(redis_server: SharedServer) -> None:
    """A released message is received by another instance of the group at once, with its attempts."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(), await place.adapter()
        leaving = await first.open_consumer(spec())
        other = await first.open_consumer(spec(name="other"))
        await place.publish(7)
        (received,) = await receive(leaving, 1)
        outcome = Outcome("release", received.receipt, attempt=2, history=(FAILED,))
        assert await leaving.settle([outcome]) == [None]
        await leaving.close()
        staying = await second.open_consumer(spec())
        (again,) = await receive(staying, 1)
        assert again.message == received.message
        assert (again.attempt, again.history, again.redelivered) == (2, (FAILED,), True)
        assert again.published_at == received.published_at
        assert numbers(await receive(other, 1)) == [7]
        await staying.settle(acks([again]))
        assert await second.backlog(spec()) == 0
        assert place.ask("XLEN", place.keys.inbox(TOPIC, GROUP)) == 0
        for consumer in (other, staying):
            await consumer.close()


async def test_retries_are_parked(redis_server: SharedServer) -> None:
    """A retry waits outside of the pending list, comes back when it is due, and is backlog meanwhile."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        (received,) = await receive(consumer, 1)
        began = asyncio.get_running_loop().time()
        await consumer.settle([Outcome("retry", received.receipt, 0.3, 2, (FAILED,))])
        assert place.pending() == []
        assert place.ask("ZCARD", place.keys.parked(TOPIC, GROUP)) == 1
        assert await adapter.backlog(spec()) == 1
        (again,) = await receive(consumer, 1)
        assert 0.29 < asyncio.get_running_loop().time() - began < 2
        assert (again.message, again.attempt, again.history) == (received.message, 2, (FAILED,))
        await consumer.settle(acks([again]))
        assert await adapter.backlog(spec()) == 0
        await consumer.close()


async def test_retries_outlive_who_parked_them(redis_server: SharedServer) -> None:
    """Another instance hands on the parked retries of one."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(), await place.adapter()
        leaving = await first.open_consumer(spec())
        await place.publish(1)
        (received,) = await receive(leaving, 1)
        await leaving.settle([Outcome("retry", received.receipt, 0.5, 2)])
        await leaving.close()
        await first.close()
        staying = await second.open_consumer(spec())
        (again,) = await receive(staying, 1)
        assert again.attempt == 2
        await staying.close()


# --- dead letters -----------------------------------------------------------------------------------------


async def bury(place: Place, *wanted: int) -> None:
    """Publishes numbers, and dead-letters them."""
    adapter = place.adapters[0]
    await place.publish(*wanted)
    consumer = await adapter.open_consumer(spec())
    batch = await receive(consumer, len(wanted))
    outcomes = [Outcome("dead_letter", each.receipt, letter=letter(each)) for each in batch]
    assert await consumer.settle(outcomes) == [None] * len(wanted)
    assert place.pending() == []
    await consumer.close()


async def test_dead_letters(redis_server: SharedServer) -> None:
    """Letters are listed in order, found by their ids, redriven once to their group only, and purged."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await bury(place, *range(5))
        store = adapter.dead_letters
        letters = await store.list(DeadLetterFilter(), 100)
        assert [json.loads(each.body)["data"]["number"] for each in letters] == [0, 1, 2, 3, 4]
        assert len({each.id for each in letters}) == 5
        assert await store.list(DeadLetterFilter(topic=TOPIC), 2) == letters[:2]
        assert await store.list(DeadLetterFilter(subscription="nobody"), 9) == []
        assert await store.get(letters[3].id) == letters[3]
        assert letters[0].attempts == (FAILED,)
        consumer = await adapter.open_consumer(spec())
        assert await store.redrive([letters[1].id, letters[1].id, "never/1-1", "never"]) == 1
        (again,) = await receive(consumer, 1)
        assert (again.attempt, again.history, again.redelivered) == (1, (FAILED,), True)
        assert numbers([again]) == [1]
        assert await store.redrive([letters[1].id]) == 0
        assert await store.purge(DeadLetterFilter(topic=TOPIC)) == 4
        assert await store.list(DeadLetterFilter(), 9) == []
        await consumer.settle(acks([again]))
        await consumer.close()


async def test_redrive_needs_its_group(redis_server: SharedServer) -> None:
    """When one letter's group was forgotten, nothing is redriven, and the error says whose it was."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await bury(place, 1, 2)
        await adapter.groups.forget(GROUP)
        letters = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        with pytest.raises(UnknownSubscription, match=r"'listener' \(group 'tests.listener'\)"):
            await adapter.dead_letters.redrive([each.id for each in letters])
        assert await adapter.dead_letters.list(DeadLetterFilter(), 9) == letters


async def test_redrive_waits_for_its_group(redis_server: SharedServer) -> None:
    """A letter redriven to a group that is owed the topic waits for it, before the group exists."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await bury(place, 1)
        place.ask("DEL", place.keys.inbox(TOPIC, GROUP), place.keys.stream(TOPIC))
        letters = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letters[0].id]) == 1
        (report,) = await adapter.groups.list(count=True)
        assert report.backlog == 1
        consumer = await adapter.open_consumer(spec())
        assert numbers(await receive(consumer, 1)) == [1]
        await consumer.close()


async def test_a_letter_that_cannot_be_stored(redis_server: SharedServer) -> None:
    """When the place for dead letters is taken by something else, the event stays, and others are settled."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await place.publish(1, 2)
        first, second = await receive(consumer, 2)
        place.ask("SET", place.keys.dead(TOPIC), "something else")
        outcomes = [Outcome("dead_letter", first.receipt, letter=letter(first)), *acks([second])]
        failed, done = await consumer.settle(outcomes)
        assert isinstance(failed, RedisFailure)
        assert failed.kind is Kind.WRONG_TYPE
        assert done is None
        assert len(place.pending()) == 1
        place.ask("DEL", place.keys.dead(TOPIC))
        assert await consumer.settle(outcomes[:1]) == [None]
        assert len(await adapter.dead_letters.list(DeadLetterFilter(), 9)) == 1
        await consumer.close()


async def test_no_hot_loop_at_a_letter_that_cannot_be_stored(redis_server: SharedServer) -> None:
    """A bus tries an outcome that fails again with pauses, goes on meanwhile, and gets it done in the end."""
    async with place_on(redis_server) as place:
        place.ask("SET", place.keys.dead(TOPIC), "something else")
        async with place.bus() as bus:
            seen: list[str] = []

            async def handle(event: object) -> None:
                seen.append("x")
                if len(seen) == 1:
                    raise RecursionError

            adapter = await place.adapter()
            bus.subscribe(TOPIC, handler=handle, name="listener", retry=None, give_up_on=(RecursionError,))
            body = {"specversion": "1.0", "id": "0190a0a0-0000-7000-8000-000000000000", "source": "x",
                    "type": "x.y", "time": "2026-01-01T00:00:00Z",
                    "subject": "0190a0a0-0000-7000-8000-000000000001", "data": {}}  # fmt: skip
            for _ in range(3):
                place.ask("XADD", place.keys.stream(TOPIC), "*", "body", json.dumps(body))
            await until(lambda: len(seen) == 3, "the others are handled")
            before = int(_calls(place, "evalsha"))
            await until(lambda: _calls(place, "evalsha") > before, "it is tried again")
            assert len(place.pending()) == 1
            place.ask("DEL", place.keys.dead(TOPIC))
            await until(lambda: place.ask("EXISTS", place.keys.dead(TOPIC)), "the letter is stored")
            assert len(seen) == 3
            assert await adapter.backlog(spec()) == 0


def _calls(place: Place, command: str) -> int:
    lines = place.ask("INFO", "commandstats").splitlines()
    found = [line for line in lines if line.startswith(f"cmdstat_{command}:")]
    return int(found[0].partition("calls=")[2].partition(",")[0]) if found else 0


# --- the rest ---------------------------------------------------------------------------------------------


async def test_backlog_counts_everything(redis_server: SharedServer) -> None:
    """The backlog is what is unread, pending, parked or came back, over all topics of a pattern."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await place.publish(*range(2500))
        await place.publish(1, 2, topic="tests.other.happened")
        assert await adapter.backlog(spec()) == 2500
        consumer = await adapter.open_consumer(spec())
        batch = await receive(consumer, 30)
        await consumer.settle(acks(batch[:10]))
        await consumer.settle([Outcome("retry", each.receipt, 60.0) for each in batch[10:20]])
        await consumer.settle([Outcome("release", batch[20].receipt)])
        assert await adapter.backlog(spec()) == 2490
        assert await adapter.backlog(spec("tests.#")) == 2492
        assert await adapter.backlog(spec("tests.nothing.happened")) == 0
        await consumer.close()


async def test_patterns_follow_new_topics(redis_server: SharedServer) -> None:
    """A pattern gets what was published to a new topic by another process, from its first event on."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(), await place.adapter(topic_refresh="200ms")
        consumer = await second.open_consumer(spec("tests.*.happened"))
        assert await first.publish([message(1, "tests.new.happened")]) == [None]
        (received,) = await receive(consumer, 1)
        assert received.message.topic == "tests.new.happened"
        assert await first.publish([message(2, "tests.other.happened"), message(3, "else.other.happened")])
        assert numbers(await receive(consumer, 1)) == [2]
        await consumer.close()


async def test_stop_ends_a_wait(redis_server: SharedServer) -> None:
    """A read that waits ends soon after stop, on a connection of its own, and together with others."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(block="60s")
        consumers = [await adapter.open_consumer(spec(name=f"s{index}")) for index in range(6)]
        reads = [asyncio.ensure_future(consumer.receive(10)) for consumer in consumers]
        await until(lambda: len(_blocked(place)) >= 5, "all of them wait")
        began = asyncio.get_running_loop().time()
        for consumer in consumers:
            consumer.stop()
        assert await asyncio.gather(*reads) == [[]] * 6
        assert asyncio.get_running_loop().time() - began < 5
        for consumer in consumers:
            await consumer.close()


def _blocked(place: Place) -> list[str]:
    clients = place.ask("CLIENT", "LIST").splitlines()
    return [line for line in clients if "flags=b" in line and ("cmd=xread" in line)]


async def test_surplus_is_given_back(redis_server: SharedServer) -> None:
    """Messages received and never handed out are released on close, untried."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        (first,) = await receive(consumer, 1)
        await consumer.settle([Outcome("release", first.receipt)])
        await place.publish(2, 3)
        (again,) = await receive(consumer, 1)
        await consumer.settle(acks([again]))
        await consumer.close()
        following = await adapter.open_consumer(spec())
        rest = await receive(following, 2)
        assert sorted(numbers([again, *rest])) == [1, 2, 3]
        assert {each.attempt for each in rest} == {1}
        await following.settle(acks(rest))
        assert await adapter.backlog(spec()) == 0
        await following.close()


async def test_a_consumer_that_leaves_is_removed(redis_server: SharedServer) -> None:
    """A consumer leaves nothing behind in its group, but what it holds: that goes to others after a lease."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(lease="600ms")
        consumer = await adapter.open_consumer(spec())
        await consumer.close()
        assert place.ask("XINFO", "CONSUMERS", place.keys.stream(TOPIC), GROUP) == []
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        (late,) = await receive(consumer, 1)
        await consumer.close()
        following = await adapter.open_consumer(spec())
        (received,) = await receive(following, 1)
        assert (received.message.id, received.attempt) == (late.message.id, 2)
        assert isinstance((await consumer.settle(acks([late])))[0], LeaseLost)
        assert await following.settle(acks([received])) == [None]
        assert await adapter.backlog(spec()) == 0
        await following.close()


async def test_settling_twice_is_told(redis_server: SharedServer) -> None:
    """A message settled before has no owner: the result says so, and no harm is done."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        (received,) = await receive(consumer, 1)
        assert await consumer.settle(acks([received])) == [None]
        (again,) = await consumer.settle(acks([received]))
        assert isinstance(again, LeaseLost)
        (moved,) = await consumer.settle([Outcome("retry", received.receipt, 1.0)])
        assert isinstance(moved, LeaseLost)
        assert await adapter.backlog(spec()) == 0
        await consumer.close()
