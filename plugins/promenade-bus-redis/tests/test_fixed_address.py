"""Servers behind a fixed address: after a failover the former primary keeps its connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from bus_core import HealthStatus
from promenade_bus_redis.server.blocking_link import BlockingLink
from promenade_bus_redis.server.connections import Connections
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe
from redis_support.child_processes import wait_until
from redis_support.connecting import connected
from redis_support.fixtures import StartProxy, StartServer
from redis_support.proxy import FaultProxy
from redis_support.pubsub import EACH, air_on
from redis_support.servers import Replica, Server
from redis_support.streams import TOPIC, acks, message, numbers, place_on, receive, spec, until

pytestmark = pytest.mark.timeout(60)

QUICK: dict[str, Any] = {"block": "200ms", "lease": "2s", "topic_refresh": "100ms"}

SAID = [
    ("READONLY You can't write against a read only replica.", Kind.READ_ONLY),
    ("LOADING Redis is loading the dataset in memory", Kind.LOADING),
    ("MASTERDOWN Link with MASTER is down", Kind.PRIMARY_DOWN),
    ("CLUSTERDOWN The cluster is down", Kind.CLUSTER_DOWN),
    ("NOREPLICAS Not enough good replicas to write.", Kind.TOO_FEW_REPLICAS),
    ("MOVED 1 127.0.0.1:1", Kind.MOVED),
    ("ASK 1 127.0.0.1:1", Kind.ASK),
    ("NOAUTH Authentication required.", Kind.AUTHENTICATION),
    ("WRONGPASS invalid username-password pair", Kind.AUTHENTICATION),
    ("UNKILLABLE Sorry the script already executed write commands", Kind.BUSY),
    ("BUSY Redis is busy running a script.", Kind.BUSY),
    ("MISCONF Redis is configured to save RDB snapshots", Kind.DISK),
    ("UNBLOCKED force unblock from blocking operation", Kind.INTERRUPTED),
]


class Switched:
    """An address behind which another server stands from the second connection on."""

    def __init__(self, words: str) -> None:
        self.address = ""
        self.connections = 0
        self._words = words

    async def __aenter__(self) -> Switched:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        answer = f"-{self._words}\r\n" if self.connections == 1 else ":1\r\n"
        try:
            while head := await reader.readline():
                for _ in range(int(head[1:])):
                    await reader.readexactly(int((await reader.readline())[1:]) + 2)
                writer.write(answer.encode())
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()


Ask = Callable[[], Awaitable[object]]


@asynccontextmanager
async def pool(connections: Connections) -> AsyncIterator[Ask]:
    yield lambda: connections.call("GET", "x")


@asynccontextmanager
async def pipe(connections: Connections) -> AsyncIterator[Ask]:
    lanes = Pipe(NodeLocator(connections))
    yield lambda: lanes.call("GET", "x")
    await lanes.close()


@asynccontextmanager
async def blocking_link(connections: Connections) -> AsyncIterator[Ask]:
    locator = NodeLocator(connections)
    link = BlockingLink(locator, Pipe(locator), 0.1, "")
    yield lambda: link.call(("XREAD", "BLOCK", 100, "STREAMS", "x", "0"))
    await link.close()


@pytest.mark.parametrize(("words", "kind"), SAID, ids=[kind for _, kind in SAID])
@pytest.mark.parametrize("client", [pool, pipe, blocking_link])
async def test_another_connection_is_taken(client: Any, words: str, kind: Kind) -> None:
    """After "not here" or "not now" the next call uses another connection."""
    async with (
        Switched(words) as switched,
        connected(addr=switched.address) as connections,
        client(connections) as ask,
    ):
        with pytest.raises(RedisFailure) as caught:
            await ask()
        assert caught.value.kind is kind
        assert await ask() == 1
        assert switched.connections == 2


async def test_a_node_of_a_cluster_says_what_to_do() -> None:
    """Outside of a cluster nobody follows a node to another one; the setting that is missing is named."""
    async with Switched("MOVED 1 127.0.0.1:1") as switched, connected(addr=switched.address) as connections:
        with pytest.raises(RedisFailure, match="it is a node of a cluster; set 'cluster: true'"):
            await connections.call("GET", "x")


# --- a failover -------------------------------------------------------------------------------------------


@contextmanager
def pair(start_server: StartServer, start_proxy: StartProxy) -> Iterator[tuple[Server, Server, FaultProxy]]:
    """A primary, its replica, and the address in front of the primary."""
    primary = start_server()
    with Replica(primary) as replica:
        yield primary, replica, start_proxy(primary)


async def fail_over(primary: Server, replica: Server, proxy: FaultProxy) -> None:
    """The two change their roles, and every connection stays where it is."""
    assert isinstance(replica, Replica)
    await asyncio.to_thread(replica.wait_in_step)
    replica.ask("REPLICAOF", "NO", "ONE")
    proxy.target = (replica.host, replica.port)
    primary.ask("REPLICAOF", replica.host, replica.port)
    await asyncio.to_thread(
        wait_until, lambda: primary.info("replication")["master_link_status"] == "up", "it follows"
    )


async def test_streams_go_on(start_server: StartServer, start_proxy: StartProxy) -> None:
    """Publishing, receiving, settling and leases go on at the new primary."""
    with pair(start_server, start_proxy) as (primary, replica, proxy):
        async with place_on(primary) as place:
            adapter = await place.adapter(address=proxy.address, **QUICK)
            own = await adapter.open_consumer(spec())
            shared = [await adapter.open_consumer(spec(name=f"s{number}")) for number in range(5)]
            await place.publish(1)
            for consumer in (own, *shared):
                await consumer.settle(acks(await receive(consumer, 1)))
            await fail_over(primary, replica, proxy)
            beats = adapter._running.leases.beats
            async with asyncio.timeout(10):
                while (await adapter.publish([message(2)]))[0] is not None:
                    pass
            for consumer in (own, *shared):
                batch: list[Any] = []
                async with asyncio.timeout(10):
                    while not batch:
                        try:
                            batch = [*await consumer.receive(1)]
                        except RedisFailure:
                            await asyncio.sleep(0)
                    assert numbers(batch) == [2]
                    while await consumer.settle(acks(batch)) != [None]:
                        pass
            await until(lambda: adapter._running.leases.beats > beats + 1, "it says that it lives")
            await until(lambda: adapter._running.leases.problem is None, "the heartbeat goes to the primary")
            assert replica.ask("XLEN", place.keys.stream(TOPIC)) == 2
            for consumer in (own, *shared):
                await consumer.close()


async def test_health_goes_to_the_primary(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A process that does nothing is told once that it asked a replica; the next check asks the primary."""
    with pair(start_server, start_proxy) as (primary, replica, proxy):
        async with place_on(primary) as place:
            probes = {"health": {"probes": [{"redis": {"slow": "1m", "loss_window": "1ms"}}]}}
            async with place.bus(address=proxy.address, bus=probes, lease="1h") as bus:
                adapter = bus.adapter
                await adapter._retention.stop()  # type: ignore[union-attr]
                await adapter.upkeep.close()  # type: ignore[union-attr]
                assert (await bus.health()).checks["redis"].status is HealthStatus.HEALTHY
                await fail_over(primary, replica, proxy)
                found = (await bus.health()).checks["redis"]
                assert found.status is HealthStatus.UNHEALTHY
                assert "the server is a replica" in found.summary
                assert (await bus.health()).checks["redis"].status is HealthStatus.HEALTHY


async def test_pubsub_goes_on(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A replica would take what is published, for nobody: events go to the new primary, or are counted."""
    with pair(start_server, start_proxy) as (primary, replica, proxy):
        async with air_on(primary) as air:
            adapter = await air.adapter(proxy.address)
            await air.publish(adapter, 1)
            publisher = adapter.running.publisher  # type: ignore[union-attr]
            await fail_over(primary, replica, proxy)
            listening = await (await air.adapter(replica.address)).open_consumer(EACH)
            await air.publish(adapter, *range(2, 9))
            publisher._sure_at = 0.0  # as half a second later
            await air.publish(adapter, 9)
            batch = await receive(listening, 1)
            heard = numbers(batch)[0]
            assert publisher.strayed == (heard - 1 if heard > 2 else 1)
            assert adapter.lost == publisher.strayed
            await listening.close()
