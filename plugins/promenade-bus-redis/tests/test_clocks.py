"""Nothing that matters rests on the server's time of day: its clock steps while all goes on."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from bus_core import BaseEvent, HealthStatus, Outcome, RetryLater, Topic
from bus_core.runtime.clock import lease_clock
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.ages import Ages, later
from promenade_bus_redis.streams.server_clock import ServerClock
from redis_support.clocks import SteppingClock, can_step
from redis_support.fixtures import StartServer
from redis_support.servers import Server
from redis_support.streams import TOPIC, acks, die, numbers, place_on, receive, spec, until

pytestmark = pytest.mark.once

QUICK = {"lease": "600ms", "block": "200ms", "topic_refresh": "100ms"}
HOUR = 3600.0
YEAR = 365 * 24 * HOUR

steps = pytest.mark.skipif(not can_step(), reason="libfaketime is for Linux")


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def server(start_server: StartServer, clock: SteppingClock) -> Server:
    return start_server(environment=clock.environment)


async def beat(adapter: StreamsAdapter, times: int = 8) -> None:
    """Waits for heartbeats: more than a lease of ``QUICK``, in which they come six times."""
    leases = adapter._running.leases
    seen = leases.beats
    await until(lambda: leases.beats >= seen + times, "its heart beats")


# --- who owns what ----------------------------------------------------------------------------------------


@steps
@pytest.mark.parametrize("seconds", [2 * 60, -HOUR, YEAR])
async def test_the_living_keep_what_they_hold(server: Server, clock: SteppingClock, seconds: float) -> None:
    """Live instances keep their events and locks whatever the clock does."""
    async with place_on(server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        owners = [await first.open_consumer(spec()), await first.open_consumer(spec(name="o", ordered=True))]
        await place.publish(1, 2, 3)
        held = [await receive(owner, 3) for owner in owners]
        rivals = [
            await second.open_consumer(spec()),
            await second.open_consumer(spec(name="o", ordered=True)),
        ]
        clock.set(seconds)
        await beat(second)
        for rival in rivals:
            second.upkeep.check_feeds_in(0.0)
            assert await rival.receive(3) == []
        for owner, batch in zip(owners, held, strict=True):
            assert await owner.settle(acks(batch)) == [None] * 3
        for each in (*owners, *rivals):
            await each.close()


@steps
@pytest.mark.parametrize("seconds", [-HOUR, YEAR])
@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
async def test_the_dead_are_found(
    server: Server, clock: SteppingClock, seconds: float, ordered: bool
) -> None:
    """Events of a dead instance go to others after a lease, whatever the clock does."""
    async with place_on(server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        dying = await first.open_consumer(spec(ordered=ordered))
        await place.publish(1)
        await receive(dying, 1)
        await die(first)
        place.adapters = [second]
        clock.set(seconds)
        next_owner = await second.open_consumer(spec(ordered=ordered))
        (received,) = await receive(next_owner, 1)
        assert received.attempt == 2
        await place.publish(2)
        await next_owner.settle(acks([received]))
        assert numbers(await receive(next_owner, 1)) == [2]
        await next_owner.close()


@steps
async def test_turns_change_hands_when_the_clock_went_back(server: Server, clock: SteppingClock) -> None:
    """An instance that gets its turn after the clock went back reads, and trims."""
    async with place_on(server) as place:
        keeping = {**QUICK, "retention": {"min_age": "200ms", "unsubscribed_max_age": "1h"}}
        first = await place.adapter(**keeping)
        consumer = await first.open_consumer(spec(ordered=True))
        await place.publish(1)
        await consumer.settle(acks(await receive(consumer, 1)))
        retention = first._retention
        assert retention is not None
        await until(lambda: retention.trimmed == 1, "it trims")
        clock.set(-8.0)
        await consumer.close()
        await first.close()
        second = await place.adapter(**keeping)
        place.adapters = [second]
        consumer = await second.open_consumer(spec(ordered=True))
        await place.publish(2, 3)
        batch = await receive(consumer, 2)
        assert numbers(batch) == [2, 3]
        await consumer.settle(acks(batch))
        stream = place.keys.stream(TOPIC)
        await until(lambda: place.ask("XLEN", stream) == 0, "the next one trims")
        await consumer.close()


# --- delays -----------------------------------------------------------------------------------------------


@steps
@pytest.mark.parametrize("seconds", [-HOUR, YEAR])
async def test_a_retry_waits_on_the_clock_of_its_process(
    server: Server, clock: SteppingClock, seconds: float
) -> None:
    """A retry that is parked comes when its delay is over, neither earlier nor later, and once."""
    async with place_on(server) as place:
        adapter, other = await place.adapter(**QUICK), await place.adapter(**QUICK)
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        (received,) = await receive(consumer, 1)
        rival = await other.open_consumer(spec())
        began = time.monotonic()
        assert await consumer.settle([Outcome("retry", received.receipt, 1.5, 2)]) == [None]
        parked = place.keys.parked(TOPIC, "tests.listener")
        await until(lambda: place.ask("ZCARD", parked) == 1, "it is parked")
        clock.set(seconds)
        await until(lambda: place.ask("ZCARD", parked) == 0, "it comes back", 30.0)
        assert 1.5 <= time.monotonic() - began < 20.0
        assert place.ask("XLEN", place.keys.inbox(TOPIC, "tests.listener")) == 1
        for each in (consumer, rival):
            await each.close()


@steps
async def test_heirs_wait_no_longer_than_the_delay(server: Server, clock: SteppingClock) -> None:
    """A retry of a dead process comes back after its delay at the latest, although the clock went back."""
    async with place_on(server) as place:
        first = await place.adapter(**QUICK)
        consumer = await first.open_consumer(spec())
        await place.publish(1)
        (received,) = await receive(consumer, 1)
        await consumer.settle([Outcome("retry", received.receipt, 1.0, 2)])
        await die(first)
        clock.set(-HOUR)
        second = await place.adapter(**QUICK)
        next_owner = await second.open_consumer(spec())
        (again,) = await receive(next_owner, 1)
        assert (again.message.id, again.attempt) == (received.message.id, 2)
        await next_owner.close()


# --- what is kept -----------------------------------------------------------------------------------------


@steps
async def test_a_moment_of_a_wrong_clock_does_not_keep_events_for_ever(
    server: Server, clock: SteppingClock
) -> None:
    """Entries whose ids are of the next year are removed when they were there for long enough."""
    async with place_on(server) as place:
        keeping = {"min_age": "500ms", "unsubscribed_max_age": "1h"}
        adapter = await place.adapter(**QUICK, retention=keeping)
        consumer = await adapter.open_consumer(spec())
        clock.set(YEAR)
        await place.publish(1)
        clock.set(0.0)
        await place.publish(2, 3)
        await consumer.settle(acks(await receive(consumer, 3)))
        await until(lambda: place.ask("XLEN", place.keys.stream(TOPIC)) == 0, "they are removed")
        await consumer.close()


@steps
async def test_a_clock_that_goes_forward_removes_nothing_early(server: Server, clock: SteppingClock) -> None:
    """Events and dead letters stay for as long as was asked for, on the clock of who looks after them."""
    async with place_on(server) as place:
        keeping = {"min_age": "1h", "unsubscribed_max_age": "1h", "dead_letters_max_age": "1h"}
        adapter = await place.adapter(**QUICK, retention=keeping)
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        await consumer.settle(acks(await receive(consumer, 1)))
        place.ask("XADD", place.keys.dead(TOPIC), "*", "body", "{}")
        retention = adapter._retention
        assert retention is not None
        await until(lambda: retention._active_lock.is_taken, "it is its turn")
        clock.set(YEAR)
        await until(lambda: adapter._running.leases.clock.last_step, "the step is noticed")
        retention._read_at = 0.0
        await retention.visit()
        retention._due = [(0.0, topic) for topic in retention._pauses]
        await retention.visit()
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 1
        assert place.ask("XLEN", place.keys.dead(TOPIC)) == 1
        await consumer.close()


@steps
async def test_a_broadcast_gets_topics_that_come_after_the_clock_went_back(
    server: Server, clock: SteppingClock
) -> None:
    """A pattern in broadcast mode gets the first events of a new topic, whatever their ids say."""
    async with place_on(server) as place:
        adapter = await place.adapter(**QUICK)
        consumer = await adapter.open_consumer(spec("tests.#", mode="broadcast"))
        clock.set(-HOUR)
        await place.publish(1)
        assert numbers(await receive(consumer, 1)) == [1]
        await consumer.close()


@steps
async def test_health_names_a_step(server: Server, clock: SteppingClock) -> None:
    """The probe tells that the clock stepped, and by how much; a retry comes all the same."""
    tries: list[float] = []
    async with place_on(server) as place:
        health = {"probes": [{"redis": {"slow": "1m"}}]}
        async with place.bus(**QUICK, bus={"health": health}) as bus:
            topic = Topic(TOPIC, BaseEvent)

            async def handle(_event: BaseEvent) -> None:
                tries.append(time.monotonic())
                if len(tries) == 1:
                    raise RetryLater(after=1)

            await bus.subscribe(topic, handle, name="listener").ready()
            assert (await bus.health()).status is HealthStatus.HEALTHY
            await bus.publish(topic, BaseEvent("thing.happened", uuid4()))
            await until(lambda: tries, "it is tried")
            clock.set(-HOUR)
            await until(lambda: len(tries) == 2, "it is tried again")
            leases = bus.adapter.running.leases  # type: ignore[union-attr]
            await until(lambda: leases.clock.last_step, "the step is noticed")
            found = (await bus.health()).checks["redis"]
            assert found.status is HealthStatus.DEGRADED
            assert "the clock of the server went back by 3600" in found.summary


# --- the server's time on the clock of a process ----------------------------------------------------------


def test_stamps_are_put_on_the_own_clock() -> None:
    """A stamp of before a step is translated as the clocks were then, one of afterwards as they are now."""
    clock = ServerClock()
    assert clock.own_of(1000.0, 30.0) is None
    for own in (0.0, 10.0, 20.0):
        clock.note(1000.0 + own, own, own + 0.01)
    assert clock.last_step is None
    clock.note(1000.0 - 500.0 + 30.0, 30.0, 30.01)
    assert clock.last_step is not None
    assert str(clock.last_step) == "went back by 500.0 s"
    assert clock.own_of(1005.0, 50.0) == pytest.approx(5.0, abs=0.1)
    assert clock.own_of(1000.0 - 500.0 + 40.0, 50.0) == pytest.approx(40.0, abs=0.1)
    assert clock.own_of(100.0 - 500.0, 50.0) == pytest.approx(-1400.0, abs=0.1)
    assert clock.stamp_of(10.0) == pytest.approx(1010.0, abs=0.1)
    assert clock.stamp_of(35.0) == pytest.approx(535.0, abs=0.1)


def test_a_slow_answer_is_no_step() -> None:
    """An answer that took long tells little of the server's time, and a drift is no step."""
    clock = ServerClock()
    clock.note(1000.0, 0.0, 0.01)
    clock.note(1050.0, 20.0, 80.0)
    for own in range(100, 10_000, 100):
        clock.note(1000.0 + own * 1.001, float(own), own + 0.01)
    assert clock.last_step is None
    clock.note(5000.0, 9000.0, 9000.01)  # an answer that was overtaken
    assert clock.last_step is None


def test_the_clock_of_leases_is_used() -> None:
    """Before anything is known of the server, no moment is later than any entry."""
    assert ServerClock().stamp_of(lease_clock()) < 10 * YEAR


def test_ages_are_known_from_when_entries_were_seen() -> None:
    """Entries are as old as the time since they were seen, with few marks for any number of looks."""
    ages = Ages()
    assert ages.bound(0.0, 10.0) == "0-0"
    for moment in range(1000):
        ages.note(f"{moment}-7", float(moment), 10.0)
    assert ages.bound(1000.0, 10.0) == "990-8"
    assert len(ages._marks) <= 18
    ages.note("999-7", 2000.0, 10.0)
    assert ages.bound(2000.0, 10.0) == "999-8"
    assert later("9-5", "10-0") == "10-0"
    assert later("10-10", "10-9") == "10-10"
