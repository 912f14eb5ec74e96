"""The streams of the adapter in tests: adapters on their own, what they hold, and how one dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from bus_core import (
    Bus,
    DeadLetter,
    Message,
    Outcome,
    Received,
    SubscriptionSpec,
    SystemClock,
    open_bus,
)
from bus_core.abc import BuildContext, Consumer
from bus_core.runtime import lease_clock
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.losses import UnreportedLosses
from redis_support.connecting import make_options
from redis_support.fixtures import SharedServer
from redis_support.servers import Server

TOPIC = "tests.thing.happened"
GROUP = "tests.listener"


def spec(topic: str = TOPIC, name: str = "listener", **more: Any) -> SubscriptionSpec:
    """A subscription of the service ``tests``."""
    return SubscriptionSpec(name=name, group=f"tests.{name}", topic=topic, **more)


def message(number: int = 0, topic: str = TOPIC, key: str = "k", **more: Any) -> Message:
    """A message that carries a number."""
    event_id = str(uuid4())
    body = json.dumps({"specversion": "1.0", "id": event_id, "data": {"number": number}}).encode()
    return Message(event_id, topic, key, body, **more)


def large(number: int, size: int, topic: str = TOPIC) -> Message:
    """A message that carries a number, and so many bytes."""
    event_id = str(uuid4())
    data = {"number": number, "padding": "x" * size}
    body = json.dumps({"specversion": "1.0", "id": event_id, "data": data}).encode()
    return Message(event_id, topic, "k", body)


def numbers(batch: Sequence[Received]) -> list[int]:
    """The numbers that messages carry."""
    return [json.loads(received.message.body)["data"]["number"] for received in batch]


def acks(batch: Sequence[Received]) -> list[Outcome]:
    """Outcomes that forget all of them."""
    return [Outcome("ack", received.receipt) for received in batch]


def buried(received: Received) -> Outcome:
    """An outcome that makes a dead letter of it."""
    read = received.message
    letter = DeadLetter(
        "x", read.topic, "listener", None, read.key, "gave up", (), read.body, dead_at=datetime.now(UTC)
    )
    return Outcome("dead_letter", received.receipt, letter=letter)


class Place:
    """One prefix on one server: adapters there, and a look at what they keep."""

    def __init__(self, server: SharedServer | Server, prefix: str, address: str) -> None:
        self.server = server
        self.prefix = prefix
        self.address = address
        self.keys = Keys(prefix)
        self.adapters: list[StreamsAdapter] = []

    async def adapter(
        self, *, service: str = "tests", address: str | None = None, **options: Any
    ) -> StreamsAdapter:
        """A started adapter, which is closed at the end of the test."""
        given = make_options(addr=address or self.address, prefix=self.prefix, **options)
        adapter = StreamsAdapter(given, BuildContext(service=service, clock=SystemClock()))
        await adapter.start()
        self.adapters.append(adapter)
        return adapter

    async def publish(self, *numbers: int, topic: str = TOPIC) -> None:
        """Stores a message for each number, through an adapter."""
        adapter = self.adapters[0]
        results = await adapter.publish([message(number, topic) for number in numbers])
        assert results == [None] * len(numbers)

    def pending(self, topic: str = TOPIC, group: str = GROUP) -> list[tuple[str, str]]:
        """The pending entries of a topic's stream: ids, and their owners."""
        found = self.server.ask("XPENDING", self.keys.stream(topic), group, "-", "+", 1000)
        return [(entry[0], entry[1]) for entry in found]

    def ask(self, *command: Any) -> Any:
        """The reply to one command."""
        return self.server.ask(*command)

    def bus(
        self, *, service: str = "tests", address: str | None = None, bus: Any = (), **options: Any
    ) -> Bus:
        """A bus on the same server and prefix, not started."""
        settings = {"addr": address or self.address, "prefix": self.prefix, **options}
        sections = {"adapter": "redis", "redis": settings, "strict_topics": False, **dict(bus)}
        return open_bus({"app": {"name": service}, "bus": sections})

    async def close(self) -> None:
        """Closes every adapter."""
        for adapter in self.adapters:
            await adapter.close()


@asynccontextmanager
async def place_on(server: SharedServer | Server) -> AsyncIterator[Place]:
    """A place on a shared server, or on one of the test's own."""
    if isinstance(server, SharedServer):
        place = Place(server, server.prefix, server.url.removeprefix("redis://").partition("/")[0])
    else:
        place = Place(server, "bus", server.address)
    try:
        yield place
    finally:
        await place.close()


async def receive(consumer: Consumer, count: int, timeout: float = 10.0) -> list[Received]:
    """Exactly so many messages, as soon as they are there."""
    batch: list[Received] = []
    async with asyncio.timeout(timeout):
        while len(batch) < count:
            batch += await consumer.receive(count - len(batch))
    return batch


async def until(condition: Callable[[], object], what: str, timeout: float = 10.0) -> None:
    """Returns once the condition holds; a failure says what was waited for."""
    try:
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 - what happens on a server sets no event
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {timeout:g} s in vain until {what}") from None


def lose_touch(adapter: StreamsAdapter) -> None:
    """The heartbeats of an adapter go astray from now on: others take it for dead, and it does not know."""
    leases = adapter._running.leases
    leases._keys = Keys(f"{leases._keys.prefix}:nowhere")


async def stand_still(adapter: StreamsAdapter) -> None:
    """As if the process had not run for a minute: the next heartbeat comes too late."""
    services = adapter._running
    leases = services.leases
    leases._keys = services.keys
    session = leases.session

    def is_noticed() -> bool:
        if leases.session == session:  # a heartbeat that was under way may have said that all is well
            leases._renewed_at = lease_clock() - 60
        return leases.session > session

    await until(is_noticed, "a heartbeat notices that it is late")


async def die(adapter: StreamsAdapter) -> None:
    """Ends an adapter as a kill of its process does: nothing is released, renewed, or said."""
    services = adapter._services
    assert services is not None
    adapter._services = None
    for consumer in [*adapter.upkeep._consumers]:
        consumer.stop()  # type: ignore[attr-defined]
    if adapter._retention is not None:
        await adapter._retention.stop()
    services.losses.unreported = UnreportedLosses()
    await adapter.upkeep.close()
    services.leases._keys = Keys(f"{services.keys.prefix}:nowhere")  # it says no good-bye
    await services.leases.close()
    await services.wakeups.close()
    for link in [*services.own_links]:
        await services.give_back_link(link)
    await services.pipe.close()
    if adapter._publisher is not None:
        await adapter._publisher.close()
    if adapter._connections is not None:
        await adapter._connections.close()
