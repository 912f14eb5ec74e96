from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from bus_core import (
    DeadLetter,
    DeadLetterFilter,
    Outcome,
    PermanentError,
    SubscriptionSpec,
    UnknownSubscription,
)
from bus_core.events.base import BaseEvent
from promenade_bus_redis.streams import retention as retention_module
from promenade_bus_redis.streams import service_records as service_records_module
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.groups import GroupInUse, RedisGroups
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.service_record import (
    RetentionWish,
    ServiceRecord,
    Span,
    SubscribedTopic,
    matcher_of,
    read_record,
)
from redis_support.fixtures import SharedServer
from redis_support.streams import (
    GROUP,
    TOPIC,
    Place,
    acks,
    die,
    message,
    numbers,
    place_on,
    receive,
    spec,
    until,
)

QUICK: dict[str, Any] = {"topic_refresh": "10ms", "block": "50ms", "lease": "600ms"}
OTHER = "tests.thing.moved"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance has said everything soon after it has opened its last subscription."""
    monkeypatch.setattr(service_records_module, "_SETTLED", 0.05)


def keeping(**more: Any) -> dict[str, Any]:
    return {**QUICK, "retention": {"min_age": "20ms", "unsubscribed_max_age": "90d", **more}}


async def read(adapter: StreamsAdapter) -> ServiceRecord:
    return await adapter._running.records.read(await adapter._running.alive())


async def orphans(adapter: StreamsAdapter) -> list[tuple[str, str]]:
    return [(part.group, part.topic) for part in (await read(adapter)).orphans(3600.0)]


async def until_orphans(adapter: StreamsAdapter, wanted: list[tuple[str, str]]) -> None:
    deadline = time.monotonic() + 10
    while (found := await orphans(adapter)) != wanted:
        assert time.monotonic() < deadline, f"waited in vain for {wanted}, the last was {found}"


async def settled(adapter: StreamsAdapter) -> None:
    await until(lambda: adapter._running.records._announced_settled, "it has said everything")


async def restarted(place: Place, adapter: StreamsAdapter, *specs: SubscriptionSpec) -> StreamsAdapter:
    """Closes an adapter, and starts another one with these subscriptions, which they leave at the end."""
    place.adapters.remove(adapter)
    for consumer in [*adapter.upkeep._consumers]:
        await consumer.close()  # type: ignore[attr-defined]
    await adapter.close()
    following = await place.adapter(**keeping())
    for each in specs:
        await following.open_consumer(each)
    if specs:
        await settled(following)
    return following


# --- one name, several topics -----------------------------------------------------------------------------


async def test_one_name_on_two_patterns(redis_server: SharedServer) -> None:
    """Events owed to one name on two patterns stay on the topics of both while its service is away."""
    async with place_on(redis_server) as place:
        away = await place.adapter(**keeping())
        for pattern in ("shop.order.*", "crm.deal.*"):
            await (await away.open_consumer(spec(pattern, name="audit"))).close()
        place.adapters.remove(away)
        await away.close()
        other = await place.adapter(service="other", **keeping())
        topics = ("shop.order.placed", "crm.deal.won")
        for topic in topics:
            consumer = await other.open_consumer(spec(topic, name="mail"))
            await place.publish(*range(5), topic=topic)
            await consumer.settle(acks(await receive(consumer, 5)))
            await consumer.close()
        assert other._retention is not None
        for _ in range(3):
            other._retention._read_at = 0.0
            await other._retention.visit()
        back = await place.adapter(**keeping())
        for pattern, topic in zip(("shop.order.*", "crm.deal.*"), topics, strict=True):
            assert place.ask("XLEN", place.keys.stream(topic)) == 5
            consumer = await back.open_consumer(spec(pattern, name="audit"))
            assert numbers(await receive(consumer, 5)) == [0, 1, 2, 3, 4]
            await consumer.close()


async def test_each_part_is_listed(redis_server: SharedServer) -> None:
    """A group is listed with each topic and pattern that it is owed, each with what is left there."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        consumers = [await adapter.open_consumer(spec(topic)) for topic in (TOPIC, "crm.#")]
        await place.publish(1, 2)
        await place.publish(3, topic="crm.deal.won")
        reports = await adapter.groups.list(count=True)
        assert [(each.name, each.wanted_topic, each.backlog) for each in reports] == [
            (GROUP, "crm.#", 1),
            (GROUP, TOPIC, 2),
        ]
        for consumer in consumers:
            await consumer.close()


# --- what changes in a deployment -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "following",
    [
        pytest.param(spec(OTHER), id="another topic"),
        pytest.param(spec("tests.*.moved"), id="another pattern"),
        pytest.param(spec(name="renamed"), id="another name"),
    ],
)
async def test_a_change_names_what_is_left(redis_server: SharedServer, following: SubscriptionSpec) -> None:
    """When new code serves something else, what the old one was owed is named, and kept, until forgotten."""
    async with place_on(redis_server) as place:
        old = await place.adapter(**keeping())
        await old.open_consumer(spec())
        await place.publish(1, 2)
        new = await restarted(place, old, following)
        await until_orphans(new, [(GROUP, TOPIC)])
        assert new._retention is not None
        for _ in range(3):
            await new._retention.visit()
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 2
        with pytest.raises(GroupInUse, match="it has 2 unsettled events"):
            await new.groups.forget(GROUP, topic=TOPIC)
        assert (await new.groups.forget(GROUP, topic=TOPIC, force=True)).backlog == 2
        assert await orphans(new) == []
        names = {report.name for report in await new.groups.list()}
        assert names == {following.group}


async def test_the_old_code_takes_it_up_again(redis_server: SharedServer) -> None:
    """After a change that was taken back, what was left is served again, and the change is named instead."""
    async with place_on(redis_server) as place:
        old = await place.adapter(**keeping())
        await old.open_consumer(spec())
        await place.publish(1)
        new = await restarted(place, old, spec(OTHER))
        await until_orphans(new, [(GROUP, TOPIC)])
        back = await restarted(place, new, spec())
        await until_orphans(back, [(GROUP, OTHER)])
        (consumer,) = back.upkeep._consumers
        assert numbers(await receive(consumer, 1)) == [1]  # type: ignore[arg-type]


async def test_a_rolling_deployment_is_not_named(redis_server: SharedServer) -> None:
    """As long as an instance of the old code lives, what it serves is not orphaned; when it dies, it is."""
    async with place_on(redis_server) as place:
        new = await place.adapter(**keeping())
        old = await place.adapter(**keeping())
        await old.open_consumer(spec())
        await new.open_consumer(spec(OTHER))
        await settled(new)
        assert await orphans(new) == []
        await settled(old)
        place.adapters.remove(old)
        await die(old)
        assert await orphans(new) == []  # for all that is known it is this one that lacks something
        newer = await place.adapter(**keeping())
        await newer.open_consumer(spec(OTHER))
        await until_orphans(newer, [(GROUP, TOPIC)])


async def test_a_wider_pattern_takes_over(redis_server: SharedServer) -> None:
    """Events that another topic or pattern of the group covers are not left over, and are handled."""
    async with place_on(redis_server) as place:
        old = await place.adapter(**keeping())
        await old.open_consumer(spec())
        await place.publish(1)
        new = await restarted(place, old, spec("tests.#"))
        assert new._retention is not None
        record = await read(new)
        assert [part.topic for part in record.taken_up] in ([TOPIC], [])
        new._retention._read_at = 0.0
        await until(lambda: new._retention._active_lock.is_taken, "it is its turn to look after all of them")  # type: ignore[union-attr]
        deadline = time.monotonic() + 10
        while [part.topic for part in (await read(new)).parts] != ["tests.#"]:
            assert time.monotonic() < deadline
            new._retention._read_at = 0.0
            await new._retention.visit()
        (consumer,) = new.upkeep._consumers
        assert numbers(await receive(consumer, 1)) == [1]  # type: ignore[arg-type]


async def test_what_is_declared_anew_is_not_removed(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic that an instance begins to serve after the record was read stays, and its group is in use."""
    async with place_on(redis_server) as place:
        old = await place.adapter(**keeping())
        await old.open_consumer(spec())
        new = await restarted(place, old, spec("tests.#"))
        assert new._retention is not None
        await new._retention.stop()
        record = await read(new)
        assert [part.topic for part in record.taken_up] == [TOPIC]
        again = await place.adapter(**keeping())
        consumer = await again.open_consumer(spec())
        await new._running.records.tidy(record, await new._running.alive())
        assert {part.topic for part in (await read(new)).parts} == {TOPIC, "tests.#"}
        await consumer.close()
        backlogs = RedisGroups._backlogs

        async def meanwhile(*arguments: Any) -> Any:
            await again.open_consumer(spec())
            return await backlogs(*arguments)

        monkeypatch.setattr(RedisGroups, "_backlogs", meanwhile)
        with pytest.raises(GroupInUse, match=r"the group 'tests\.listener' changed meanwhile"):
            await new.groups.forget(GROUP, topic=TOPIC)
        assert (await read(new)).knows(GROUP, TOPIC)


async def test_who_serves_nothing_abandons_nothing(redis_server: SharedServer) -> None:
    """A process that only publishes, or looks, does not make the subscriptions of its service orphans."""
    async with place_on(redis_server) as place:
        worker = await place.adapter(**keeping())
        await worker.open_consumer(spec())
        web = await restarted(place, worker)
        web._running.records._changed_at = 0.0
        await web._running.records.announce_again(all_of_it=True)
        assert await orphans(web) == []


async def test_what_is_subscribed_again(redis_server: SharedServer) -> None:
    """A subscription that is made again before the former one has closed is served by the new one."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        former = await adapter.open_consumer(spec())
        following = await adapter.open_consumer(spec())
        await former.close()
        (part,) = (await read(adapter)).parts
        assert part.instances == (adapter._running.name,)
        assert list(adapter._running.records.own) == [GROUP]
        await place.publish(1)
        assert numbers(await receive(following, 1)) == [1]
        await following.close()
        (part,) = (await read(adapter)).parts
        assert part.instances == ()
        assert list(adapter._running.records.own) == []


async def test_what_could_not_be_said_is_said_later(redis_server: SharedServer) -> None:
    """A subscription that ends while the server is in trouble is not taken for served afterwards."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        records = adapter._running.records
        await records.enter(spec())
        records.leave(spec())
        assert records._left
        await until(lambda: not records._left, "the upkeep says it")
        assert (await read(adapter)).parts[0].instances == ()


async def test_a_server_that_came_back_with_an_older_snapshot(redis_server: SharedServer) -> None:
    """An instance announces its subscriptions again soon: its groups do not count as made by hand."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        assert adapter._retention is not None
        await adapter._retention.stop()
        record = place.keys.record
        before = place.ask("HGETALL", record)
        consumer = await adapter.open_consumer(spec("tests.thing.*"))
        await place.publish(1)
        assert numbers(await receive(consumer, 1)) == [1]
        await settled(adapter)
        place.ask("DEL", record)
        place.ask("HSET", record, *before)
        await adapter._running.records.notice([(TOPIC, GROUP)])  # as retention did when it looked first
        deadline = time.monotonic() + 10
        while "tests.thing.*" not in [part.topic for part in (await read(adapter)).parts]:
            assert time.monotonic() < deadline
        assert TOPIC in [part.topic for part in (await read(adapter)).parts]
        assert (await read(adapter)).orphans(0.0) == ()
        await adapter._running.records.tidy(await read(adapter), await adapter._running.alive())
        assert [part.topic for part in (await read(adapter)).parts] == ["tests.thing.*"]
        await consumer.close()


async def test_a_snapshot_of_before_it_had_said_everything(redis_server: SharedServer) -> None:
    """After the server came back with that, an instance says again that it has no other subscriptions."""
    async with place_on(redis_server) as place:
        old = await place.adapter(**keeping())
        await old.open_consumer(spec())
        new = await restarted(place, old, spec(OTHER))
        await until_orphans(new, [(GROUP, TOPIC)])
        field = f"instance {new._running.name}"
        number, _settled, wish = place.ask("HGET", place.keys.record, field).split(" ", 2)
        place.ask("HSET", place.keys.record, field, f"{number} 0 {wish}")
        await until_orphans(await place.adapter(**keeping()), [(GROUP, TOPIC)])


@pytest.mark.parametrize("field", ["serves {name} {part}", "part {part}"])
async def test_what_somebody_has_removed_is_said_again(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Whichever of its subscriptions the record does not have any more, an instance says it again soon."""
    monkeypatch.setattr(service_records_module, "_AT_ONCE", 2)
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        for number in range(5):
            await adapter.open_consumer(spec(f"tests.t{number}.happened"))
        await settled(adapter)
        for number in range(5):
            part = f"tests.t{number}.happened {GROUP}"
            gone = field.format(name=adapter._running.name, part=part)
            assert place.ask("HDEL", place.keys.record, gone) == 1
            await until(lambda: place.ask("HEXISTS", place.keys.record, gone), "it is said again")  # noqa: B023


async def test_the_dead_are_buried(redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announcements of a dead instance are removed after a while; its service stays owed."""
    monkeypatch.setattr(service_records_module, "_FORGOTTEN_AFTER", 0.1)
    async with place_on(redis_server) as place:
        dying = await place.adapter(service="dying", **keeping())
        name = dying._running.name
        await dying._running.records.enter(spec())
        await die(dying)
        place.adapters.clear()
        adapter = await place.adapter(**keeping())
        assert adapter._retention is not None
        deadline = time.monotonic() + 10
        while name in (await read(adapter)).instances:
            assert time.monotonic() < deadline
            adapter._retention._read_at = 0.0
            await adapter._retention.visit()
        record = await read(adapter)
        assert [(part.group, part.instances) for part in record.parts] == [(GROUP, ())]
        assert not any(name in field for field in place.ask("HKEYS", place.keys.record))


# --- letters ----------------------------------------------------------------------------------------------


async def test_letters_of_a_service_with_odd_names(redis_server: SharedServer) -> None:
    """Signs in the names of services and subscriptions do not keep their letters from being redriven."""
    async with place_on(redis_server) as place:
        handled: list[int] = []

        def handle(event: Any) -> None:
            if not handled:
                handled.append(0)
                raise PermanentError("not now")
            handled.append(event.data["number"])

        async with place.bus(service="shop@eu: {a} b", **QUICK) as bus:
            await bus.subscribe(TOPIC, handle, name="mail.home:1-2").ready()
            await bus.publish(TOPIC, BaseEvent("thing.happened", uuid4(), data={"number": 7}))
            await until(lambda: handled, "it fails")
            await bus.drain()
            letters = await bus.dead_letters.list()
            assert await bus.dead_letters.redrive(letters) == 1
            await until(lambda: handled == [0, 7], "it comes back")


async def test_a_letter_of_what_was_renamed(redis_server: SharedServer) -> None:
    """A letter goes back to a subscription that nobody serves any more only where health names that."""
    async with place_on(redis_server) as place:
        old = await place.adapter(**keeping())
        consumer = await old.open_consumer(spec())
        await place.publish(1)
        (received,) = await receive(consumer, 1)
        await consumer.settle([Outcome("dead_letter", received.receipt, letter=_letter(received.message.id))])
        new = await restarted(place, old, spec(name="renamed"))
        (letter,) = await new.dead_letters.list(DeadLetterFilter(), 9)
        await until_orphans(new, [(GROUP, TOPIC)])
        assert await new.dead_letters.redrive([letter.id]) == 1
        (left, _) = await new.groups.list(count=True)
        assert (left.name, left.backlog, left.state) == (GROUP, 1, "orphaned")


def _letter(event_id: str) -> DeadLetter:
    now = datetime.now(UTC)
    return DeadLetter("", TOPIC, "listener", UUID(event_id), "k", "no", (), b"", {}, dead_at=now)


# --- for how long events are kept -------------------------------------------------------------------------


async def test_a_service_that_is_gone(redis_server: SharedServer) -> None:
    """Of a service that has ended the wish is for what was stored by then, and is shown until it is over."""
    async with place_on(redis_server) as place:
        once = await place.adapter(service="once", **keeping(min_age="30d", dead_letters_max_age="60d"))
        await place.publish(*range(5))
        place.adapters.remove(once)
        await once.close()
        adapter = await place.adapter(**keeping(dead_letters_max_age="1d"))
        wishes = {wish.service: wish for wish in await adapter.groups.wishes()}
        assert wishes["tests"].stored_before is None
        assert wishes["once"].stored_before is not None
        consumers = [await adapter.open_consumer(spec(topic)) for topic in (TOPIC, OTHER)]
        await place.publish(*range(5), topic=OTHER)
        for consumer in consumers:
            await consumer.settle(acks(await receive(consumer, 5)))
        await until(lambda: place.ask("XLEN", place.keys.stream(OTHER)) == 0, "what came later is removed")
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 5
        await adapter.groups.forget_service("once")
        assert [wish.service for wish in await adapter.groups.wishes()] == ["tests"]
        assert adapter._retention is not None
        adapter._retention._read_at = 0.0
        await until(lambda: place.ask("XLEN", place.keys.stream(TOPIC)) == 0, "what it wanted is removed")
        for consumer in consumers:
            await consumer.close()


async def test_what_is_forgotten_goes_soon(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events kept by a wish of days go soon after the wish is forgotten."""
    monkeypatch.setattr(retention_module, "_STANDBY", 0.05)
    async with place_on(redis_server) as place:
        retired = await place.adapter(service="retired", **keeping(min_age="30d"))
        await (await retired.open_consumer(spec(name="retired"))).close()
        await place.publish(*range(5))
        place.adapters.remove(retired)
        await retired.close()
        adapter = await place.adapter(service="shop", **keeping())
        consumer = await adapter.open_consumer(spec())
        await consumer.settle(acks(await receive(consumer, 5)))
        retention = adapter._retention
        assert retention is not None
        await until(lambda: retention._min_age > 86400, "the wish is known")
        await until(lambda: min(retention._pauses.values(), default=0) > 1, "it is looked at seldom")
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 5
        await adapter.groups.forget("tests.retired", force=True)
        await until(lambda: place.ask("XLEN", place.keys.stream(TOPIC)) == 0, "it goes", 5)
        await consumer.close()


async def test_the_wish_goes_with_the_last_group(redis_server: SharedServer) -> None:
    """When the last group of a service that has ended is forgotten, nothing is kept because of its wish."""
    async with place_on(redis_server) as place:
        retired = await place.adapter(service="retired", **keeping(min_age="30d"))
        for topic in (TOPIC, OTHER):
            await retired.open_consumer(spec(topic))
        for consumer in [*retired.upkeep._consumers]:
            await consumer.close()  # type: ignore[attr-defined]
        place.adapters.remove(retired)
        await retired.close()
        adapter = await place.adapter(service="shop", **keeping())
        lasting = [("retired", None), ("shop", None)]
        for topic in (TOPIC, OTHER):
            assert [(each.service, each.stored_before) for each in await adapter.groups.wishes()] == lasting
            await adapter.groups.forget(GROUP, topic=topic)
        assert [each.service for each in await adapter.groups.wishes()] == ["shop"]


async def test_a_service_changes_its_mind(redis_server: SharedServer) -> None:
    """A service that wants less than it did gets that, once nothing of it runs with the old setting."""
    async with place_on(redis_server) as place:
        old = await place.adapter(**keeping(min_age="30d"))
        new = await place.adapter(**keeping(min_age="20ms"))
        assert max(each.settled for each in (await read(new)).wishes) == 30 * 86400
        place.adapters.remove(old)
        await old.close()
        assert [each.settled for each in (await read(new)).wishes] == [0.02]


async def test_a_service_that_runs(redis_server: SharedServer) -> None:
    """The wish of a service that runs, or does not exist, is not forgotten."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        running = await place.adapter(service="running", **keeping(min_age="1h"))
        await until(lambda: running._running.leases.beats, "it has said that it lives")
        with pytest.raises(
            GroupInUse, match=f"'running' was not removed: it runs as {running._running.name}"
        ):
            await adapter.groups.forget_service("running")
        with pytest.raises(UnknownSubscription, match=r"no service 'runnin' .*did you mean 'running'"):
            await adapter.groups.forget_service("runnin")


# --- reading and names ------------------------------------------------------------------------------------


def record_of(fields: Mapping[str, str], now: int = 10_000, alive: tuple[str, ...] = ()) -> ServiceRecord:
    flat = [text.encode() for pair in fields.items() for text in pair]
    return read_record(
        flat, now, alive, RetentionWish(service="own", settled=1.0, unsubscribed=2.0, letters=3.0)
    )


def test_what_somebody_else_wrote() -> None:
    """Fields that are not the bus's own say nothing, and keep nobody from reading the others."""
    odd = {
        "part": "", "part a.b": "x", "part a.b g": "1 2", "part a.b h": "1 2 0 []", "part a.b i": "1 x 0 {}",
        "serves a": "", "serves a b c": "x", "instance n": "x", "keeps 1": "x", "keeps x y z s": "5",
        "other": "", "part a.b my group": '1 4000 1 {"service": "s", "subscription": "n"}',
    }  # fmt: skip
    record = record_of(odd)
    assert record.parts == (
        SubscribedTopic(
            group="my group", topic="a.b", service="s", subscription="n", ordered=True, number=1, unseen=6.0
        ),
    )
    assert [wish.service for wish in record.wishes] == ["own"]


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("shop.order.*", "shop.order.placed", True),
        ("shop.order.*", "shop.order.*", True),
        ("shop.*.*", "shop.order.*", True),
        ("shop.#", "shop.*.placed", True),
        ("shop.#", "shop.order.#", True),
        ("#", "#.placed.#", True),
        ("shop.*", "shop.#", False),
        ("shop.*.#", "shop.#", False),
        ("shop.order.#", "shop.#", False),
        ("shop.order.placed", "shop.order.*", False),
        ("shop.*.placed", "shop.order.*", False),
        ("shop.order.*", "crm.deal.won", False),
    ],
)
def test_a_part_that_another_one_covers(wide: str, narrow: str, covered: bool) -> None:
    """An abandoned pattern is taken up by a part of its group with all of its topics, and by no other."""
    facts = '1 0 0 {"service": "s"}'
    fields = {
        f"part {narrow} g": facts,
        f"part {wide} g": '4 0 0 {"service": "s"}',
        f"serves n {wide} g": "4 0",
        "instance n": "3 1 1.0 1.0 - s",
        f"part {narrow} other": facts,
    }
    found = record_of(fields, alive=("n",)).taken_up
    expected = [] if wide == narrow or not covered else [(narrow, "g")]
    assert [(part.topic, part.group) for part in found] == expected


def test_spans() -> None:
    """The longest wish counts for all events, and longer ones of services that ended for older events."""
    fields = {
        "instance n": "1 1 5.0 1.0 - s",
        "keeps 5.0 1.0 - s": "9000",
        "keeps 60.0 1.0 - t": "9000",
        "keeps 4.0 1.0 - u": "9000",
        "keeps 6.0 1.0 5.0 v": "3000",
    }
    record = record_of(fields, now=10_000)
    assert record.spans(lambda wish: wish.settled) == (Span(5.0), Span(60.0, 9000))
    assert record.spans(lambda wish: wish.letters) == (Span(None),)
    assert record.stale == (("keeps 6.0 1.0 5.0 v", "3000"),)


async def test_services_with_names_alike(redis_server: SharedServer) -> None:
    """Each of two services gets every event, also where a dot makes service and name look alike."""
    async with place_on(redis_server) as place:
        got: dict[str, list[int]] = {"shop": [], "shop.eu": []}
        names = {"shop": "eu.mail", "shop.eu": "mail"}
        async with AsyncExitStack() as stack:
            publisher = await stack.enter_async_context(place.bus(**QUICK))
            for service, name in names.items():
                bus = await stack.enter_async_context(place.bus(service=service, **QUICK))
                numbers_of = got[service]
                handle = partial(lambda found, event: found.append(event.data["number"]), numbers_of)
                await bus.subscribe(TOPIC, handle, name=name).ready()
            for number in range(5):
                await publisher.publish(TOPIC, BaseEvent("thing.happened", uuid4(), data={"number": number}))
            await until(lambda: all(sorted(each) == [*range(5)] for each in got.values()), "both have all")


def test_keys_do_not_collide() -> None:
    """No name of a service, a subscription, a consumer or a prefix makes one key into another one's."""
    keys = Keys("bus")
    names = ["a.b", "a.b@i", "a.b:c", "a.b%40i", "{x}.y", "a.b c", "a.b*", "ä.ö"]
    made = [make("t.u", name) for name in names for make in (keys.inbox, keys.parked, keys.notes, keys.fence)]
    made += [keys.inbox("t.u", name, "i") for name in names]
    made += [keys.active("t.u", name) for name in names] + [keys.active("t.*", name) for name in names]
    made += [keys.stream("t.u"), keys.dead("t.u"), keys.trimmed("t.u"), keys.trim_fence("t.u")]
    assert len({*made}) == len(made)
    assert all(key.startswith("bus:{t.") and " " not in key and key.count("{") == 1 for key in made)


def test_odd_patterns_match_nothing() -> None:
    """A pattern that is none, as somebody else wrote it, is nobody's."""
    assert not matcher_of("a..#")("a.b")
    assert message().topic == TOPIC
