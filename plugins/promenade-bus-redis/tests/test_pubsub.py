"""``mode: pubsub`` on real servers: who gets what, what is refused, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

import pytest

import promenade_bus_redis
from bus_core import (
    BaseEvent,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterNotFound,
    HealthStatus,
    Outcome,
    PublishFailed,
    Received,
    UnknownSubscription,
    UnsupportedFeature,
    open_bus,
)
from promenade_bus_redis.pubsub.publishing import PubsubPublisher
from promenade_bus_redis.pubsub.sources import ChannelSource
from promenade_bus_redis.server.checks import UnfitServer
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.permissions import acl_rules, permissions_for
from redis_support.binaries import ServerBinary
from redis_support.clusters import Cluster
from redis_support.fixtures import SharedServer, StartServer
from redis_support.pubsub import EACH, Air, air_on
from redis_support.sentinels import SentinelGroup
from redis_support.streams import TOPIC, acks, message, numbers, receive, spec, until


async def test_everybody_who_listens_gets_everything(redis_server: SharedServer) -> None:
    """Each instance gets every event from the moment at which it subscribed, in order, and no earlier one."""
    async with air_on(redis_server) as air:
        first, second = await air.adapter(), await air.adapter()
        await air.publish(first, 0)
        one = await first.open_consumer(EACH)
        await air.publish(first, 1)
        other = await second.open_consumer(EACH)
        await air.publish(second, *range(2, 30))
        assert await first.backlog(EACH) == 29
        batch = await receive(one, 29)
        assert numbers(batch) == [*range(1, 30)]
        assert numbers(await receive(other, 28)) == [*range(2, 30)]
        assert await one.settle(acks(batch)) == [None] * 29
        assert (await first.backlog(EACH), first.lost, second.lost) == (0, 0, 0)
        assert redis_server.keys() == []


async def test_what_publish_promises(redis_server: SharedServer) -> None:
    """An event that nobody listens to is accepted like any other, and counted apart."""
    async with air_on(redis_server) as air:
        adapter = await air.adapter()
        await air.publish(adapter, 1, 2)
        consumer = await adapter.open_consumer(EACH)
        await air.publish(adapter, 3)
        assert numbers(await receive(consumer, 1)) == [3]
        assert adapter.running is not None
        publisher = adapter.running.publisher
        assert (publisher.published, publisher.unheard) == (3, 2)


async def test_text_that_cannot_be_sent(redis_server: SharedServer) -> None:
    """A key that no encoding can carry is refused alone, and leaves no gap in the numbers."""
    async with air_on(redis_server) as air:
        adapter = await air.adapter()
        consumer = await adapter.open_consumer(EACH)
        results = await adapter.publish([message(1), message(2, key="\ud800"), message(3)])
        assert [type(result) for result in results] == [type(None), PublishFailed, type(None)]
        assert numbers(await receive(consumer, 2)) == [1, 3]
        assert adapter.lost == 0


# --- patterns ---------------------------------------------------------------------------------------------


async def _heard_by_patterns(air: Air, **options: str) -> dict[str, list[str]]:
    listening, publishing = await air.adapter(**options), await air.adapter()
    patterns = ("tests.*.happened", "tests.#", "#.happened", "tests.thing.#", "tests.thing.happened")
    specs = {pattern: spec(pattern, f"s{index}", mode="broadcast") for index, pattern in enumerate(patterns)}
    consumers = {pattern: await listening.open_consumer(each) for pattern, each in specs.items()}
    topics = ("tests.thing.happened", "tests.thing", "tests.thing.was.happened", "testsing.x", "a.happened")
    for topic in topics:
        await air.publish(publishing, 1, topic=topic)
    found: dict[str, list[str]] = {}
    for pattern, consumer in consumers.items():
        count = await listening.backlog(specs[pattern])
        found[pattern] = [each.message.topic for each in await receive(consumer, count)]
    assert listening.lost == 0
    return found


HEARD = {
    "tests.*.happened": ["tests.thing.happened"],
    "tests.#": ["tests.thing.happened", "tests.thing", "tests.thing.was.happened"],
    "#.happened": ["tests.thing.happened", "tests.thing.was.happened", "a.happened"],
    "tests.thing.#": ["tests.thing.happened", "tests.thing", "tests.thing.was.happened"],
    "tests.thing.happened": ["tests.thing.happened"],
}


async def test_patterns_select_what_the_bus_says(redis_server: SharedServer) -> None:
    """A pattern brings the topics that the bus means by it, once, whatever the server's patterns select."""
    async with air_on(redis_server) as air:
        assert await _heard_by_patterns(air) == HEARD


async def test_patterns_of_a_restricted_user(binary: ServerBinary, start_server: StartServer) -> None:
    """A user with the smallest rules, who may ask for one wide pattern only, gets the same."""
    rules = acl_rules(permissions_for("pubsub"), prefix="bus")
    server = start_server(binary, users=[f"user app on >secret {rules}"])
    async with air_on(server) as air:
        assert await _heard_by_patterns(air, username="app", password="secret") == HEARD
        assert air.adapters[0].running is not None
        assert not air.adapters[0].running.channels.is_narrow
        assert server.ask("PUBSUB", "NUMPAT") == 1


async def test_a_permission_that_is_missing(binary: ServerBinary, start_server: StartServer) -> None:
    """A user who may not subscribe to patterns, or to these channels, is refused with the rule."""
    rules = acl_rules(permissions_for("pubsub"), prefix="bus")
    users = [
        f"user app on >secret {rules} -psubscribe",
        f"user other on >secret {rules} resetchannels &shop:*",
    ]
    server = start_server(binary, users=users)
    async with air_on(server) as air:
        with pytest.raises(UnfitServer, match=r"ACL SETUSER app \+psubscribe "):
            await air.adapter(username="app", password="secret")
        with pytest.raises(UnfitServer, match=r"ACL SETUSER other &bus:\* "):
            await air.adapter(username="other", password="secret")


# --- what it cannot do ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, "needs mode='group'"),
        ({"mode": "broadcast", "ordered": True}, "needs ordered=True"),
        ({"mode": "broadcast", "start": "earliest"}, "needs start='earliest'"),
    ],
)
async def test_what_needs_more_is_refused(
    redis_server: SharedServer, options: dict[str, object], needs: str
) -> None:
    """A subscription that needs what only streams can do is refused at start, with what to do."""
    settings = {"url": redis_server.url, "prefix": redis_server.prefix, "mode": "pubsub"}
    config = {"bus": {"adapter": "redis", "redis": settings, "strict_topics": False}}
    bus = open_bus(config, plugins=[promenade_bus_redis], installed=False)
    bus.subscribe(TOPIC, print, name="listener", **options)  # type: ignore[call-overload]
    with pytest.raises(UnsupportedFeature) as caught:
        await bus.start()
    (mismatch,) = caught.value.mismatches
    assert needs in mismatch
    assert "may drop" in str(caught.value)
    assert str(caught.value).endswith("or use mode: streams @ $.bus.redis.mode")


# --- dead letters, and what cannot be read ------------------------------------------------------------------


def buried(received: Received) -> Outcome:
    letter = DeadLetter(
        str(uuid4()), received.message.topic, "listener", None, "k", "gave up", (), received.message.body,
        dead_at=datetime.now(UTC),
    )  # fmt: skip
    return Outcome("dead_letter", received.receipt, letter=letter)


async def test_letters_stay_in_the_process(redis_server: SharedServer) -> None:
    """Letters are kept by the instance that gave up, go back to it, and the oldest give way, counted."""
    async with air_on(redis_server) as air:
        adapter = await air.adapter(pubsub={"dead_letters": 3})
        other = await air.adapter()
        consumer = await adapter.open_consumer(EACH)
        await air.publish(other, *range(5))
        await consumer.settle([buried(each) for each in await receive(consumer, 5)])
        letters = adapter.dead_letters
        kept = await letters.list(DeadLetterFilter(), 9)
        assert len(kept) == 3
        assert adapter.lost == 2
        assert await other.dead_letters.list(DeadLetterFilter(), 9) == []
        assert await letters.redrive([kept[0].id, kept[0].id]) == 1
        assert await adapter.backlog(EACH) == 1
        (again,) = await receive(consumer, 1)
        assert (numbers([again]), again.attempt, again.redelivered) == ([2], 1, True)
        with pytest.raises(DeadLetterNotFound):
            await letters.get(kept[0].id)
        await consumer.close()
        with pytest.raises(UnknownSubscription, match="listener"):
            await letters.redrive([kept[1].id])
        assert await letters.purge(DeadLetterFilter(subscription="listener")) == 2


def line(**changed: object) -> bytes:
    facts = {"publisher": "p", "number": 1, "published": 1, "id": "i", "key": "k", **changed}
    return b"promenade/1 " + json.dumps(facts).encode() + b"\n{}"


@pytest.mark.parametrize(
    "payload",
    [
        b"promenade/1 ",
        b"promenade/1 {}\n{}",
        b"promenade/1 [1]\n{}",
        b"promenade/1 " + b"[" * 200_000,
        line(number=-1),
        line(number=True),
        line(published=10**17),
        line(publisher="\ud800"),
        line(headers=[1]),
        line(headers={"a": 1}),
        line(latest="many"),
        line(headers={"a": "x" * 5_000_000}),
    ],
    ids=range(12),
)
async def test_payloads_that_cannot_be_read(redis_server: SharedServer, payload: bytes) -> None:
    """An unreadable message that claims to come from a bus is reported; those around it arrive."""
    async with air_on(redis_server) as air:
        adapter = await air.adapter()
        consumer = await adapter.open_consumer(EACH)
        await air.publish(adapter, 1)
        air.server.ask("PUBLISH", air.channels.of(TOPIC), payload)
        await air.publish(adapter, 2)
        first, broken, last = await receive(consumer, 3)
        assert numbers([first, last]) == [1, 2]
        assert broken.fault is not None
        assert broken.message.body == payload
        assert adapter.lost == 0


async def test_a_channel_that_is_no_topic(
    redis_server: SharedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages on a channel whose name is no topic are dropped, counted, and logged once."""
    async with air_on(redis_server) as air:
        adapter = await air.adapter()
        consumer = await adapter.open_consumer(spec("#", mode="broadcast"))
        for name in ("no topic", "a..b", "*"):
            air.server.ask("PUBLISH", air.channels.of(name), b"{}")
        air.server.ask("PUBLISH", f"{air.prefix}:elsewhere", b"{}")
        await air.publish(adapter, 1)
        assert numbers(await receive(consumer, 1)) == [1]
        assert adapter.misses.strange == 3
        assert [record.levelno for record in caplog.records if "not a topic" in record.message] == [
            logging.WARNING
        ]


# --- places -------------------------------------------------------------------------------------------------


async def test_on_a_cluster() -> None:
    """On a cluster all go through one node, and everybody hears everything, by name and by pattern."""
    with Cluster() as cluster:
        air = Air(cluster.servers[0], "bus", "")
        try:
            first, second = [await air.adapter(cluster=cluster.addresses) for _ in range(2)]
            one = await first.open_consumer(EACH)
            other = await second.open_consumer(spec("#", mode="broadcast"))
            topics = [f"tests.thing{index}.happened" for index in range(10)]
            for topic in (*topics, TOPIC):
                await air.publish(second, 1, topic=topic)
            assert await first.backlog(EACH) == 1
            assert numbers(await receive(one, 1)) == [1]
            assert [each.message.topic for each in await receive(other, 11)] == [*topics, TOPIC]
        finally:
            await air.close()


async def test_over_a_failover() -> None:
    """When sentinels put another server in charge, subscriptions and publishers follow it."""
    with SentinelGroup(replicas=1) as group:
        air = Air(group.primary(), "bus", "")
        sentinel = {"addresses": group.addresses, "service": group.service}
        try:
            adapter = await air.adapter(sentinel=sentinel, block=0.2)
            consumer = await adapter.open_consumer(EACH)
            await air.publish(adapter, 1)
            assert numbers(await receive(consumer, 1)) == [1]
            old = group.primary()
            old.kill()
            await asyncio.to_thread(group.wait_failed_over, old)
            heard: list[int] = []
            number = 2

            async def publish_some() -> None:
                nonlocal number
                while not heard:
                    await adapter.publish([message(number)])
                    number += 1
                    await asyncio.sleep(0.05)

            async def listen() -> None:
                while not heard:
                    try:
                        heard.extend(numbers(await consumer.receive(10)))
                    except Exception:
                        await asyncio.sleep(0.05)

            async with asyncio.timeout(30):
                await asyncio.gather(publish_some(), listen())
        finally:
            await air.close()


# --- the bus ------------------------------------------------------------------------------------------------


async def test_health_says_what_it_is(redis_server: SharedServer) -> None:
    """Health says that the mode may drop, and the figures what it was to do with."""
    settings = {"url": redis_server.url, "prefix": redis_server.prefix, "mode": "pubsub"}
    config = {
        "bus": {
            "adapter": "redis",
            "redis": settings,
            "strict_topics": False,
            "health": {"probes": ["redis"]},
        }
    }
    async with open_bus(config, plugins=[promenade_bus_redis], installed=False) as bus:
        seen = asyncio.Event()

        async def handle(event: object) -> None:
            seen.set()

        bus.subscribe(TOPIC, handle, name="listener", mode="broadcast")
        await bus.publish(TOPIC, BaseEvent("thing.happened", uuid4(), data={}))
        await seen.wait()
        found = (await bus.health()).checks["redis"]
        assert found.status is HealthStatus.HEALTHY
        assert "at most once, may drop" in found.summary
        assert found.figures["published"] == 1
        assert (found.figures["missed"], found.figures["unheard"]) == (0, 0)


async def test_nothing_is_left_behind(redis_server: SharedServer) -> None:
    """After close there is no task and no connection; the server has no subscription any more."""
    before = asyncio.all_tasks()
    async with air_on(redis_server) as air:
        adapter = await air.adapter()
        consumer = await adapter.open_consumer(EACH)
        await adapter.open_consumer(spec("tests.#", "other", mode="broadcast"))
        await air.publish(adapter, 1)
        await receive(consumer, 1)
        await consumer.close()
        channel = air.channels.of(TOPIC)
        await until(lambda: air.server.ask("PUBSUB", "NUMSUB", channel)[1] == 0, "the channel is given up")
    assert asyncio.all_tasks() == before
    clients = redis_server.ask("CLIENT", "LIST")
    assert not [line for line in clients.splitlines() if "name=tests:listen" in line]


async def test_what_goes_on_in_the_background_goes_on(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Listening and announcing survive that every task is cancelled, and what nobody expected."""
    async with air_on(redis_server) as air:
        adapter = await air.adapter(pubsub={"announce": 0.05})
        consumer = await adapter.open_consumer(EACH)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        left: list[BaseException] = [KeyError("secret"), KeyError("secret")]
        take, announce = ChannelSource.take, PubsubPublisher._announce_some

        def failing_take(self: ChannelSource, channel: bytes, payload: bytes, now: datetime) -> None:
            if len(left) > 1:
                raise left.pop()
            take(self, channel, payload, now)

        async def failing_announce(self: PubsubPublisher, topics: Sequence[str]) -> None:
            if left:
                raise left.pop()
            await announce(self, topics)

        monkeypatch.setattr(ChannelSource, "take", failing_take)
        monkeypatch.setattr(PubsubPublisher, "_announce_some", failing_announce)
        heard: list[int] = []
        number = 0
        async with asyncio.timeout(15):
            while not (heard and not left and "adapter works again" in caplog.text):
                number += 1
                await adapter.publish([message(number)])
                try:
                    heard += numbers(await consumer.receive(100))
                except RedisFailure:
                    heard.clear()
                await asyncio.sleep(0.1)
        assert adapter.degraded is None
        assert "the announcements of the Redis adapter cannot be made: KeyError at " in caplog.text
        assert "secret" not in caplog.text


async def test_connections_do_not_grow(binary: ServerBinary, start_server: StartServer) -> None:
    """However many subscriptions there are, one connection listens for all of them."""
    server = start_server(binary)
    async with air_on(server) as air:
        adapter = await air.adapter()
        for index in range(100):
            await adapter.open_consumer(spec(f"tests.thing{index}.happened", f"s{index}", mode="broadcast"))
        await air.publish(adapter, 1)
        clients = server.ask("CLIENT", "LIST").splitlines()
        assert len([line for line in clients if "name=tests:" in line]) == 2
