from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bus_core import (
    AdapterError,
    BaseEvent,
    BuildContext,
    CheckResult,
    Delivery,
    HealthStatus,
    Store,
    SystemClock,
    check_config,
    open_bus,
)
from promenade_bus_redis import promenade_bus_stores
from promenade_bus_redis import store as store_module
from promenade_bus_redis.server.checks import UnfitServer
from promenade_bus_redis.server.failures import Kind, RedisFailure
from redis_support.fixtures import SharedServer, StartServer
from support.buses import until
from support.store_contract import MARKED, MINE, StoreContract, keeps_no_place_too_far


def redis_store(section: dict[str, Any]) -> Store:
    factory = promenade_bus_stores()["redis"]
    context = BuildContext(service="tests", clock=SystemClock(), sections={"bus.redis": section})
    return factory.build(factory.options(), context)


class TestRedisStore(StoreContract):
    @pytest.fixture
    async def store(self, redis_server: SharedServer) -> AsyncIterator[Store]:
        store = redis_store({"url": redis_server.url, "prefix": redis_server.prefix})
        await store.start()
        yield store
        await store.close()

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def test_places_are_bounded(self, store: Store) -> None:
        """A bucket keeps no place later than its callers wait."""
        await keeps_no_place_too_far(store)


async def test_instances_share_it_and_nothing_stays(redis_server: SharedServer) -> None:
    """Two stores see each other's marks and buckets, and every key has a time to live."""
    section = {"url": redis_server.url, "prefix": redis_server.prefix}
    one, two = redis_store(section), redis_store(section)
    await one.start()
    await two.start()
    await one.mark("marked", 60)
    assert await two.claim("marked", "b", 60) == MARKED
    assert await one.claim("claimed", "a", 60) == MINE
    assert await one.take("bucket", 1, 1) == 0
    assert await two.take("bucket", 1, 1) > 0
    await one.close()
    await two.close()
    keys = {f"{redis_server.prefix}:store:{name}" for name in ("marked", "claimed", "bucket")}
    with redis_server.client() as client:
        assert all(client.pttl(key) > 0 for key in keys)


async def test_a_store_that_is_not_open() -> None:
    """Before the start and without a server a call raises an AdapterError."""
    store = redis_store({"addr": "127.0.0.1:1", "connect_timeout": 1})
    with pytest.raises(AdapterError, match="the store 'redis' is not started"):
        await store.claim("k", "a", 1)
    await store.start()
    with pytest.raises(AdapterError, match="cannot be reached"):
        await store.claim("k", "a", 1)
    await store.close()


def test_faults_of_its_sections() -> None:
    """Where the bus uses another adapter, faults of the server's section are still told."""
    bus = {"adapter": "memory", "middleware": [{"idempotency": {"store": "redis"}}], "redis": {"addr": "a:b"}}
    (fault,) = check_config({"bus": bus})
    assert fault.endswith("@ $.bus.redis.addr")


# --- servers that delete keys -------------------------------------------------------------------------------


def beside_memory(address: str) -> dict[str, Any]:
    """The configuration of a bus on another adapter, with the store on a server."""
    return {
        "adapter": "memory",
        "strict_topics": False,
        "redis": {"addr": address},
        "middleware": [{"idempotency": {"store": "redis", "retry": "20ms"}}],
    }


@pytest.mark.once
async def test_a_server_that_deletes_marks(start_server: StartServer) -> None:
    """A bus on another adapter refuses a server that deletes keys, like the adapter; later health tells."""
    server = start_server(settings={"maxmemory-policy": "volatile-lru"})
    with pytest.raises(UnfitServer) as caught:
        async with open_bus({"bus": beside_memory(server.address)}):
            raise AssertionError("the bus is open")
    (problem,) = caught.value.problems
    assert problem == (
        f"{server.address} deletes keys when its memory is full (maxmemory-policy volatile-lru), and so "
        "loses marks and token buckets of middleware; set it to noeviction (CONFIG SET maxmemory-policy "
        "noeviction, or the parameter of a managed server), or use a server of the bus's own"
    )
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    async with open_bus({"bus": beside_memory(server.address)}) as bus:
        healthy = (await bus.health()).checks["store redis"]
        server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        unhealthy = (await bus.health()).checks["store redis"]
        server.stop()
        away = (await bus.health()).checks["store redis"]
    assert healthy == CheckResult(HealthStatus.HEALTHY, "answers, and keeps marks and token buckets")
    assert unhealthy.status is HealthStatus.UNHEALTHY
    assert unhealthy.summary == (
        "the server deletes marks or buckets when its memory is full (maxmemory-policy allkeys-lru); set it "
        "to noeviction"
    )
    assert away.status is HealthStatus.DEGRADED
    assert away.summary.endswith("; events are postponed until it answers")


@pytest.mark.once
async def test_a_server_that_is_checked_later(start_server: StartServer) -> None:
    """A server that was away at the start is checked before its first use: events wait until it is fit."""
    server = start_server(settings={"maxmemory-policy": "allkeys-lru"})
    server.stop()
    handled = []
    async with open_bus({"bus": beside_memory(server.address)}) as bus:

        @bus.subscribe("sales.#", name="mail")
        async def mail(event: BaseEvent) -> None:
            handled.append(event)

        server.start()
        await bus.publish("sales.order.placed", BaseEvent("order.placed", UUID(int=7)))
        await until(lambda: bus.state().middleware, "the event is postponed")
        checks = (await bus.health()).checks
        assert handled == []
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await bus.drain(30)
    assert checks["store redis"].status is HealthStatus.UNHEALTHY
    assert "(maxmemory-policy allkeys-lru)" in checks["store redis"].summary
    assert "(maxmemory-policy allkeys-lru)" in checks["middleware idempotency"].summary
    assert len(handled) == 1


async def test_callers_share_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers at the same time wait for one check of the server; closing the store ends their wait."""
    checks = 0
    begun = asyncio.Event()

    async def check(*_arguments: object) -> None:
        nonlocal checks
        checks += 1
        if checks == 1:
            raise RedisFailure(Kind.UNREACHABLE, "127.0.0.1:1", command="INFO")
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store_module, "check_store_servers", check)
    store = redis_store({"addr": "127.0.0.1:1"})
    await store.start()
    claims = [asyncio.ensure_future(store.claim("k", str(number), 60)) for number in range(5)]
    await begun.wait()
    await store.close()
    failures = await asyncio.gather(*claims, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["the store 'redis' was closed"] * 5
    assert checks == 2
    with pytest.raises(AdapterError, match="is not started"):
        await store.claim("k", "a", 1)


# --- idempotency with killed processes --------------------------------------------------------------------

# Handles one event and kills itself: at the end of the handler, or in a middleware outside of idempotency,
# after the mark and before the ack.
KILLED = """
import asyncio, os, signal, sys
import attrs
from bus_core import Factory, hookimpl, open_bus

url, prefix, effects, place = sys.argv[1:]

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

@attrs.frozen
class Options: ...

class Plugin:
    @hookimpl
    def promenade_bus_middleware(self):
        def build(options, context):
            def middleware(handler):
                async def then_die(envelope):
                    await handler(envelope)
                    kill()
                return then_die
            return middleware
        return {"killer": Factory(options=Options, build=build)}

async def main():
    killer = ["killer"] if place == "after the mark" else []
    bus = {
        "adapter": "redis", "service": "shop", "strict_topics": False,
        "redis": {"url": url, "prefix": prefix, "lease": "600ms"},
        "middleware": [*killer, {"idempotency": {"store": "redis", "claim": "1s"}}],
    }
    async with open_bus({"bus": bus}, plugins=[Plugin()]) as bus:
        @bus.subscribe("sales.order.placed", name="mail")
        async def mail(event):
            with open(effects, "a") as file:
                file.write(f"{event.event_id}\\n")
            if place == "after the effect":
                kill()
        await asyncio.sleep(30)

asyncio.run(main())
"""


@pytest.mark.once
@pytest.mark.parametrize(("place", "times"), [("after the effect", 2), ("after the mark", 1)])
async def test_a_killed_consumer(redis_server: SharedServer, tmp_path: Path, place: str, times: int) -> None:
    """Killed between effect and mark, the effect happens twice; killed between mark and ack, once."""
    effects = tmp_path / "effects"
    event = BaseEvent("order.placed", UUID(int=7))
    redis = {"url": redis_server.url, "prefix": redis_server.prefix, "lease": "600ms", "block": "100ms"}
    middleware = [{"idempotency": {"store": "redis", "claim": "1s", "retry": "50ms"}}]
    config = {
        "adapter": "redis",
        "service": "shop",
        "strict_topics": False,
        "redis": redis,
        "middleware": middleware,
    }
    async with open_bus({"bus": config}) as bus:
        await bus.publish("sales.order.placed", event)
        command = [sys.executable, "-c", KILLED, redis_server.url, redis_server.prefix, str(effects), place]
        process = await asyncio.create_subprocess_exec(*command)
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
        assert effects.read_text().split() == [str(event.event_id)]

        @bus.subscribe("sales.order.placed", name="mail")
        async def mail(event: BaseEvent) -> None:
            with effects.open("a") as file:
                file.write(f"{event.event_id}\n")

        def is_settled() -> bool:
            (subscription,) = bus.state().subscriptions
            return subscription.handled == 1

        await until(is_settled, "the redelivery is settled")
        check = (await bus.health()).checks["middleware idempotency"]
    assert effects.read_text().split() == [str(event.event_id)] * times
    assert check.status is HealthStatus.HEALTHY
    assert check.figures.get("duplicate mail", 0) == 2 - times


async def test_a_rate_over_all_instances(redis_server: SharedServer) -> None:
    """Two instances keep one rate together; events that wait burn no attempt and hold no worker."""
    began: list[tuple[float, int]] = []
    config = {
        "adapter": "redis",
        "service": "shop",
        "strict_topics": False,
        "worker_pool_size": 1,
        "redis": {"url": redis_server.url, "prefix": redis_server.prefix, "block": "50ms"},
        "middleware": [{"rate-limit": {"rate": 20, "store": "redis"}}],
    }

    async def handle(event: BaseEvent, delivery: Delivery) -> None:
        began.append((time.monotonic(), delivery.attempt))

    async with open_bus({"bus": config}) as one, open_bus({"bus": config}) as two:
        for bus in (one, two):
            await bus.subscribe("sales.order.placed", handle, name="mail").ready()
        for number in range(10):
            await one.publish("sales.order.placed", BaseEvent("order.placed", UUID(int=number)))
        await one.drain(20)
        handled = [bus.state().subscriptions[0].handled for bus in (one, two)]
    times = [moment for moment, _ in began]
    assert {attempt for _, attempt in began} == {1}
    assert len(began) == sum(handled) == 10
    assert times[-1] - times[0] >= 9 / 20 - 0.05


async def test_a_server_that_is_down(start_server: StartServer) -> None:
    """While the store does not answer events are postponed without an attempt, and health is degraded."""
    server = start_server()
    bus_config = {
        "adapter": "memory",
        "strict_topics": False,
        "redis": {"addr": server.address},
        "middleware": [{"idempotency": {"store": "redis", "retry": "20ms"}}],
    }
    attempts = []
    async with open_bus({"bus": bus_config}) as bus:

        @bus.subscribe("sales.#", name="mail")
        async def mail(event: BaseEvent, delivery: Any) -> None:
            attempts.append(delivery.attempt)

        server.stop()
        await bus.publish("sales.order.placed", BaseEvent("order.placed", UUID(int=7)))

        async def check() -> CheckResult:
            return (await bus.health()).checks["middleware idempotency"]

        await until(lambda: bus.state().middleware, "the event is postponed")
        degraded = await check()
        server.start()
        await bus.drain(10)
        healthy = await check()
    assert attempts == [1]
    assert degraded.status is HealthStatus.DEGRADED
    assert degraded.summary.startswith("the store does not answer: Redis at ")
    assert healthy.status is HealthStatus.HEALTHY
