from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from bus_core import Bus, CheckResult, HealthStatus, open_bus
from bus_core.events.base import BaseEvent
from redis_support.binaries import ServerBinary
from redis_support.fixtures import SharedServer, StartServer
from redis_support.servers import Replica
from redis_support.streams import Place, place_on, spec

TOPIC = "tests.thing.happened"


def probed(place: Place, options: Mapping[str, Any] = {}, **redis: Any) -> Bus:
    return place.bus(bus={"health": {"probes": [{"redis": {**options}}]}}, **redis)


def an_event() -> BaseEvent:
    from uuid import uuid4

    return BaseEvent("thing.happened", uuid4(), data={})


async def probe(bus: Bus) -> CheckResult:
    return (await bus.health()).checks["redis"]


async def probe_until(bus: Bus, condition: Callable[[CheckResult], object]) -> CheckResult:
    found = None
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            while not condition(found := await probe(bus)):  # noqa: ASYNC110 - a server sets no event
                await asyncio.sleep(0.02)
            return found
    raise AssertionError(f"waited in vain; the last was {found}")


async def test_all_is_well(binary: ServerBinary, start_server: StartServer) -> None:
    """A bus without trouble is healthy, with figures of the server and of each group."""
    server = start_server(binary, settings={"appendonly": "yes"})
    async with place_on(server) as place, probed(place) as bus:
        handled = asyncio.Event()

        async def handle(event: object) -> None:
            handled.set()

        subscription = bus.subscribe(TOPIC, handle, name="listener")
        await subscription.ready()
        await bus.publish(TOPIC, an_event())
        await handled.wait()
        await bus.drain()
        found = await probe(bus)
        assert found.status is HealthStatus.HEALTHY
        assert "durability server, with an append-only file" in found.summary
        figures = dict(found.figures)
        assert float(figures["round_trip_ms"]) > 0
        assert float(figures["last_read_s"]) >= 0
        assert figures["pending tests.listener"] == 0
        assert figures.get("lag tests.listener", 0) == 0
        assert figures["maxmemory_policy"] == "noeviction"
        assert figures["append_only_file"] is True
        assert (figures["lost"], figures["lost_by_all"], figures["data_losses"]) == (0, 0, 0)
        assert figures["foreign_trims_detectable"] == binary.at_least((7, 0))


async def test_what_waits(redis_server: SharedServer) -> None:
    """An event that is pending for long, and many that wait, are told with the name of the group."""
    async with place_on(redis_server) as place:
        bus = probed(place, {"pending_age": "10ms", "lag": 1}, block="50ms")
        go_on = asyncio.Event()

        async def handle(event: object) -> None:
            await go_on.wait()

        async with bus:
            subscription = bus.subscribe(TOPIC, handle, name="listener", concurrency=1)
            await subscription.ready()
            await bus.publish(TOPIC, an_event())
            found = await probe_until(bus, lambda each: "was stored" in each.summary)
            assert found.status is HealthStatus.DEGRADED
            assert "an event of 'tests.listener' was stored" in found.summary
            assert found.figures["pending tests.listener"] == 1
            go_on.set()
            await bus.drain()


async def test_orphans_are_named(redis_server: SharedServer) -> None:
    """A group that nobody wants any more is named until it is forgotten."""
    options: dict[str, Any] = {"retention": {"orphaned_after": "50ms"}}
    async with place_on(redis_server) as place:
        async with probed(place, **options) as bus:
            subscription = bus.subscribe(TOPIC, lambda event: None, name="retired")
            await subscription.ready()
        async with probed(place, **options) as bus:
            found = await probe_until(bus, lambda each: each.status is HealthStatus.DEGRADED)
            assert (
                "no instance has served 'tests.retired' on 'tests.thing.happened' for 50ms" in found.summary
            )
            assert "promenade-bus groups forget GROUP" in found.summary
            await bus.adapter.groups.forget("tests.retired")  # type: ignore[union-attr]
            await probe_until(bus, lambda each: each.status is HealthStatus.HEALTHY)


async def test_what_was_renamed_is_named(redis_server: SharedServer) -> None:
    """When a subscription is renamed, what the former one was owed is named at once."""
    async with place_on(redis_server) as place:
        for name in ("former", "following"):
            async with probed(place) as bus:
                await bus.subscribe(TOPIC, lambda event: None, name=name).ready()
                if name == "former":
                    continue
                found = await probe_until(bus, lambda each: each.status is HealthStatus.DEGRADED)
                assert "nobody serves 'tests.former' on 'tests.thing.happened'" in found.summary
                assert found.figures["orphaned_groups"] == 1
                await bus.adapter.groups.forget("tests.former")  # type: ignore[union-attr]
                await probe_until(bus, lambda each: each.status is HealthStatus.HEALTHY)


async def test_order_that_waits_is_named(redis_server: SharedServer) -> None:
    """An ordered subscription that waits for instances with another pattern is named, and they are."""
    quick: dict[str, Any] = {"lease": "300ms", "block": "50ms"}
    async with place_on(redis_server) as place:
        former = await place.adapter(**quick)
        await former.open_consumer(spec("tests.*.happened", name="listener", ordered=True))
        async with probed(place, **quick) as bus:
            await bus.subscribe(TOPIC, lambda event: None, name="listener", ordered=True).ready()
            found = await probe_until(bus, lambda each: "waits to become active" in each.summary)
            assert (
                f"'tests.listener' on '{TOPIC}' waits to become active: '{former._running.name}'"
                in found.summary
            )
            for consumer in [*former.upkeep._consumers]:
                await consumer.close()  # type: ignore[attr-defined]
            await probe_until(bus, lambda each: "waits to become active" not in each.summary)


async def test_a_server_that_is_away(start_server: StartServer) -> None:
    """While the server is away the check is unhealthy and says where; afterwards all is well."""
    server = start_server(settings={"appendonly": "yes", "appendfsync": "always"})
    async with place_on(server) as place, probed(place) as bus:
        assert (await probe(bus)).status is HealthStatus.HEALTHY
        server.kill()
        found = await probe_until(bus, lambda each: each.status is HealthStatus.UNHEALTHY)
        assert server.address in found.summary
        server.restart()
        await probe_until(bus, lambda each: each.status is HealthStatus.HEALTHY)


async def test_a_server_that_changes_its_mind(binary: ServerBinary, start_server: StartServer) -> None:
    """A policy that evicts, and memory that runs out, are told when they come after the start."""
    server = start_server(binary)
    async with place_on(server) as place, probed(place) as bus:
        server.ask("CONFIG", "SET", "maxmemory", "1000mb")
        for policy in ("allkeys-lru", "volatile-ttl"):
            server.ask("CONFIG", "SET", "maxmemory-policy", policy)
            found = await probe(bus)
            assert found.status is HealthStatus.UNHEALTHY
            told = f"deletes events or locks when its memory is full (maxmemory-policy {policy})"
            assert told in found.summary
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.ask("CONFIG", "SET", "maxmemory", "100kb")
        found = await probe(bus)
        assert found.status is HealthStatus.UNHEALTHY
        assert "the memory of the server is full" in found.summary
        for _ in range(20):  # what is in use goes up and down with the buffers of connections
            used = server.info("memory")["used_memory"]
            server.ask("CONFIG", "SET", "maxmemory", int(used * 1.05))
            found = await probe(bus)
            if found.status is HealthStatus.DEGRADED:
                break
        assert found.status is HealthStatus.DEGRADED
        assert "of its maxmemory; when it is full, publish fails" in found.summary


async def test_replicas_that_are_gone(start_server: StartServer) -> None:
    """With durability ``replicated`` it is unhealthy to have too few replicas."""
    primary = start_server()
    with Replica(primary) as replica:
        async with place_on(primary) as place, probed(place, durability="replicated") as bus:
            assert (await probe(bus)).status is HealthStatus.HEALTHY
            replica.kill()
            found = await probe_until(bus, lambda each: each.status is HealthStatus.UNHEALTHY)
            assert "needs 1 replica, but the server has 0" in found.summary


async def test_lost_data(start_server: StartServer) -> None:
    """A loss of data is unhealthy for a while, so that somebody looks, and degraded from then on."""
    server = start_server()
    async with place_on(server) as place:
        bus = probed(place, {"loss_window": "500ms"}, topic_refresh="50ms", block="50ms")
        async with bus:
            subscription = bus.subscribe(TOPIC, lambda event: None, name="listener")
            await subscription.ready()
            await asyncio.to_thread(server.ask, "FLUSHALL")
            found = await probe_until(bus, lambda each: "the server has lost its data" in each.summary)
            assert found.status is HealthStatus.UNHEALTHY
            found = await probe_until(bus, lambda each: each.status is HealthStatus.DEGRADED)
            assert found.figures["data_losses"] == 1


async def test_another_adapter() -> None:
    """With another adapter there is nothing to see: one line of the configuration changes it."""
    config = {"bus": {"adapter": "memory", "health": {"probes": ["redis"]}}}
    async with open_bus(config) as bus:
        found = await probe(bus)
        assert found.status is HealthStatus.HEALTHY
        assert "runs on 'memory', not on Redis" in found.summary


@pytest.mark.parametrize("fault", [{"memory_fill": 2}, {"slow": 0}, {"lag": 0}])
def test_thresholds_are_checked(fault: dict[str, Any]) -> None:
    """A threshold that makes no sense is refused with its path."""
    config = {"bus": {"adapter": "memory", "health": {"probes": [{"redis": fault}]}}}
    with pytest.raises(Exception, match=rf"{next(iter(fault))}"):
        open_bus(config)
