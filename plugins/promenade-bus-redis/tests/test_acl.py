"""The rules that are given out: enough for every feature, and nothing among them that none needs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    AdapterError,
    BaseEvent,
    Bus,
    DeadLetter,
    DeadLetterFilter,
    Delivery,
    HealthStatus,
    Outcome,
    RetryLater,
    Topic,
)
from promenade_bus_redis.server.checks import ServerFacts
from promenade_bus_redis.server.permissions import acl_rules, permissions_for
from promenade_bus_redis.streams import adapter as adapter_module
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.group_consumer import GroupConsumer
from redis_support.binaries import ServerBinary
from redis_support.fixtures import StartServer
from redis_support.servers import Server
from redis_support.streams import TOPIC, Place, acks, die, place_on, receive, spec, until

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "run-on-redis.md"
APP: dict[str, Any] = {"username": "app", "password": "open-sesame"}
QUICK: dict[str, Any] = {"topic_refresh": "20ms", "lease": "600ms", "block": "100ms"}

EVERY = "every process: start, leases, retention, upkeep"
OPTIONAL = {"xackdel", "xdelex"}
CONVENIENCES = {"client|setname", "client|id", "client|unblock"}
BY_THE_TEST = {"config|resetstat", "config", "acl|log", "acl", "auth", "flushall"}
EVENT = Topic(TOPIC, BaseEvent)


async def adapter_of(place: Place, **options: Any) -> StreamsAdapter:
    return await place.adapter(**{**APP, **QUICK, **options})


def bus_of(place: Place, **options: Any) -> Bus:
    # How fast the server answers is the machine's affair.
    health = {"probes": [{"redis": {"slow": "1m"}}]}
    return place.bus(**{**APP, **QUICK, **options}, bus={"health": health})


async def publish(place: Place) -> None:
    """Stores events, and looks after a reconnection whether they are there still."""
    adapter = await adapter_of(place)
    await place.publish(1, 2)
    accepted = adapter._running.stored_events
    accepted._links[0].abort()
    await place.publish(3)
    await until(lambda: not accepted._must_look and len(accepted._sessions) == 2, "it was looked for")


async def consume(place: Place) -> None:
    """Groups: reads of their own and shared ones, leases, deaths, backlogs, and events that are gone."""
    adapter = await adapter_of(place)
    consumers = [await adapter.open_consumer(spec(name=f"s{number}")) for number in range(6)]
    await place.publish(1, 2)
    batches = [await receive(each, 2) for each in consumers]
    for each, batch in zip(consumers, batches, strict=True):
        await each.settle(acks(batch[:1]))
    beats = adapter._running.leases.beats
    await until(lambda: adapter._running.leases.beats > beats + 1, "what is held was renewed")
    assert await adapter.backlog(spec(name="s0")) == 1
    for each, batch in zip(consumers, batches, strict=True):
        await each.settle([Outcome("release", batch[1].receipt, attempt=1)])
        await each.close()
    next_owner = await adapter_of(place)
    dying = await next_owner.open_consumer(spec(name="s0"))
    await receive(dying, 1)
    place.adapters.remove(next_owner)
    await die(next_owner)
    again = await adapter.open_consumer(spec(name="s0"))
    assert isinstance(again, GroupConsumer)
    await receive(again, 1)
    for feed in again.feeds.values():  # as after a reply that was lost
        for source in feed.sources:
            source.held.clear()
        feed.must_sweep = True
    await again.settle(acks(await receive(again, 1)))
    await again.close()


async def retry(place: Place) -> None:
    """Retries that are parked, dead letters, and what becomes of those."""
    handled = asyncio.Event()
    fails = True
    async with bus_of(place) as bus:

        @bus.subscribe(EVENT, name="listener", give_up_on=(KeyError,))
        async def handle(_event: BaseEvent, delivery: Delivery) -> None:
            if delivery.attempt == 1 and fails:
                raise RetryLater(after=0.4)  # longer than a third of the lease
            if fails:
                raise KeyError("no")
            handled.set()

        await bus.publish(EVENT, BaseEvent("thing.happened", uuid4()))
        async with asyncio.timeout(20):
            while not (letters := await bus.dead_letters.list()):  # noqa: ASYNC110 - a server sets no event
                await asyncio.sleep(0.01)
            assert (await bus.dead_letters.get(letters[0].id)).id == letters[0].id
            fails = False
            await bus.dead_letters.redrive([letters[0].id])
            await handled.wait()
        await bus.drain()
        await bus.dead_letters.purge(DeadLetterFilter())


async def order(place: Place) -> None:
    """Ordered groups: one instance at a time, retries that stay in their place."""
    adapter = await adapter_of(place)
    consumer = await adapter.open_consumer(spec(ordered=True))
    await place.publish(1)
    (received,) = await receive(consumer, 1)
    await consumer.settle([Outcome("retry", received.receipt, 0.0, 2)])
    await consumer.settle(acks(await receive(consumer, 1)))
    await consumer.close()


async def broadcast(place: Place) -> None:
    """Broadcast subscriptions, and dead letters that are redriven to one."""
    adapter = await adapter_of(place)
    consumer = await adapter.open_consumer(spec(mode="broadcast"))
    await place.publish(1, 2)
    first, second = await receive(consumer, 2)
    letter = DeadLetter(
        "x", TOPIC, "listener", None, "k", "no", (), second.message.body, {}, dead_at=datetime.now(UTC)
    )
    await consumer.settle([*acks([first]), Outcome("dead_letter", second.receipt, letter=letter)])
    (stored,) = await adapter.dead_letters.list(DeadLetterFilter(), 10)
    await adapter.dead_letters.redrive([stored.id])
    await consumer.settle(acks(await receive(consumer, 1)))
    await adapter.backlog(spec(mode="broadcast"))
    await consumer.close()


async def retain(place: Place) -> None:
    """Retention by age and by length, of events and of dead letters; losses are counted."""
    keeping = {"min_age": "40ms", "max_length": 5, "dead_letters_max_age": "40ms"}
    adapter = await adapter_of(place, retention=keeping)
    consumer = await adapter.open_consumer(spec())
    await place.publish(*range(10))
    await until(lambda: adapter.lost == 5, "the cap drops some", 20)
    await consumer.settle(acks(await receive(consumer, 5)))
    retention = adapter._retention
    assert retention is not None
    await until(lambda: retention.trimmed == 10, "the others go", 20)
    await place.publish(10)
    stream = place.keys.stream(TOPIC)
    place.ask("XTRIM", stream, "MAXLEN", 0)
    if "entries-added" in place.ask("XINFO", "STREAM", stream):
        await until(lambda: adapter.lost == 6, "what somebody else has trimmed is lost", 20)
    await consumer.close()


async def look_at_groups(place: Place) -> None:
    """``promenade-bus groups list`` and ``groups forget``."""
    adapter = await adapter_of(place)
    consumer = await adapter.open_consumer(spec())
    await place.publish(1)
    assert (await adapter.groups.list(count=True))[0].backlog == 1
    await consumer.close()
    other = await adapter_of(place)  # which knows of no topic so far
    assert [report.name for report in await other.groups.list()] == ["tests.listener"]
    await adapter.groups.forget("tests.listener", force=True)
    assert await adapter.groups.list() == []


async def look_at_health(place: Place) -> None:
    """The health probe ``redis``."""
    async with bus_of(place) as bus:
        found = (await bus.health()).checks["redis"]
        assert found.status is HealthStatus.HEALTHY


FEATURES: dict[str, Callable[[Place], Awaitable[None]]] = {
    "publish": publish,
    "consume": consume,
    "retries and dead letters": retry,
    "ordered groups": order,
    "broadcast": broadcast,
    "retention": retain,
    "groups list, groups forget": look_at_groups,
    "health": look_at_health,
}


def rules_for(binary: ServerBinary) -> str:
    unknown = [] if binary.at_least((7, 2)) else ["waitaof"]
    return acl_rules(permissions_for("streams"), prefix="bus", unknown=unknown)


def start(binary: ServerBinary, start_server: StartServer, rules: str) -> Server:
    return start_server(binary, users=[f"user app on >open-sesame {rules}"])


def denied(server: Server) -> set[str]:
    entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in server.ask("ACL", "LOG")]
    return {entry["object"] for entry in entries} - OPTIONAL


def sent(server: Server) -> set[str]:
    """The commands that the server was sent, those within scripts among them."""
    return {name.removeprefix("cmdstat_") for name in server.info("commandstats")} - BY_THE_TEST


def named_by(binary: ServerBinary, names: set[str]) -> set[str]:
    """Commands as the server counts them: before 7.0 without their subcommands."""
    return names if binary.at_least((7, 0)) else {name.partition("|")[0] for name in names}


def documented() -> dict[str, set[str]]:
    """The commands that each feature uses, as the page says."""
    rows = re.findall(r"^\| ([^|]+?) \| `(\+.*)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        feature: {rule.removeprefix("+") for rule in rules.replace("\\|", "|").split()}
        for feature, rules in rows
    }


async def facts_without_trying(*_: object) -> tuple[ServerFacts, ...]:
    """The look at the server before the start sends every command once."""
    return ()


@pytest.mark.parametrize("feature", FEATURES)
async def test_the_rules_are_enough(
    binary: ServerBinary, start_server: StartServer, monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    """A user with exactly the rules can use each feature, and that sends no command beyond its row."""
    server = start(binary, start_server, rules_for(binary))
    async with place_on(server) as place:
        await place.adapter(**APP)  # the server will do
        assert denied(server) == set()
        await place.adapters.pop().close()
        monkeypatch.setattr(adapter_module, "check_servers", facts_without_trying)
        server.ask("CONFIG", "RESETSTAT")
        await FEATURES[feature](place)
    assert denied(server) == set()
    rows = documented()
    told = rows[EVERY] | rows["publish"] | rows["consume"] | rows[feature] | CONVENIENCES
    assert named_by(binary, sent(server)) <= named_by(binary, told)


async def test_the_rules_are_the_smallest(
    binary: ServerBinary, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command that is allowed is sent by some feature; the page allows the same ones."""
    rules = rules_for(binary)
    server = start(binary, start_server, rules)
    monkeypatch.setattr(adapter_module, "check_servers", facts_without_trying)
    server.ask("CONFIG", "RESETSTAT")
    for feature in FEATURES.values():
        async with place_on(server) as place:
            await feature(place)
        server.ask("FLUSHALL")
    allowed = {rule[1:] for rule in rules.split() if rule.startswith("+")}
    assert named_by(binary, allowed) == named_by(binary, sent(server))
    text = PAGE.read_text(encoding="utf-8")
    (given,) = re.findall(r"ACL SETUSER bus on >password (.*?)\n```", text, re.DOTALL)
    assert given.split() == acl_rules(permissions_for("streams"), prefix="bus").split()
    assert set().union(*documented().values()) | CONVENIENCES == allowed


async def test_what_is_missing_is_named(start_server: StartServer, binary: ServerBinary) -> None:
    """The bus does not start without one of the commands, and says which."""
    rules = rules_for(binary)
    server = start(binary, start_server, rules)
    async with place_on(server) as place:
        for rule in rules.split():
            name = rule.removeprefix("+")
            if name == rule or name in CONVENIENCES:
                continue
            left = [each for each in rules.split() if each != rule]
            server.ask("ACL", "SETUSER", "app", "reset", "on", f">{APP['password']}", *left)
            with pytest.raises(AdapterError) as caught:
                await place.adapter(**APP)
            text = str(caught.value)
            assert rule in text or name.replace("|", " ").upper() in text, text
