from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bus_core import AdapterError
from promenade_bus_redis.addresses import Address
from promenade_bus_redis.config import TlsOptions
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.link import make_tls_context
from redis_support.binaries import ServerBinary
from redis_support.certificates import Certificates
from redis_support.child_processes import wait_until
from redis_support.clusters import Cluster
from redis_support.connecting import connected
from redis_support.faults import CutAtReply, CutAtRequest, Drop, SlowBytes, Stall
from redis_support.fixtures import SharedServer, StartProxy, StartServer
from redis_support.sentinels import SentinelGroup
from redis_support.servers import free_port

pytestmark = pytest.mark.timeout(90)

SECRET = "hunter2-s3cret"


def clients(server: Any) -> list[dict[str, str]]:
    """The connections of the server under test, as it sees them."""
    lines = server.ask("CLIENT", "LIST").splitlines()
    return [dict(part.partition("=")[::2] for part in line.split()) for line in lines]


# --- one server -------------------------------------------------------------------------------------------


async def test_calls(redis_server: SharedServer) -> None:
    """Replies come as bytes and in order; a command that is refused does not disturb the others."""
    key = f"{redis_server.prefix}:n"
    async with connected(url=redis_server.url) as connections:
        assert await connections.call("SET", key, "7") == b"OK"
        first, second, third = await connections.call_many([("GET", key), ("LPUSH", key, 1), ("INCR", key)])
        assert (first, third) == (b"7", 8)
        assert second.kind is Kind.WRONG_TYPE
        with pytest.raises(RedisFailure, match=r"has data of another type at the key.*\(LPUSH\)"):
            await connections.call("LPUSH", key, 1)


async def test_what_a_connection_says_of_itself(binary: ServerBinary, start_server: StartServer) -> None:
    """A connection authenticates, selects the database, sets a name, and sends nothing else."""
    server = start_server(binary, password=SECRET)
    options = {"addr": server.address, "password": SECRET, "db": 3}
    async with connected("bus shop", **options) as connections:
        link = await connections.open(purpose="reader")
        (seen,) = [client for client in clients(server) if client["name"].startswith("bus")]
        assert (seen["name"], seen["db"]) == ("bus-shop:reader", "3")
        sent = {name.removeprefix("cmdstat_") for name in server.info("commandstats")}
        assert {"auth", "select"} <= sent
        assert not {name for name in sent if name.startswith(("hello", "client|setinfo"))}
        assert SECRET not in repr(connections) + repr(link.connection)
        await link.close()


async def test_a_unix_socket(binary: ServerBinary, start_server: StartServer) -> None:
    """Over a Unix socket the handshake is made, and made once."""
    server = start_server(binary, password=SECRET)
    server.ask("CONFIG", "RESETSTAT")
    async with connected(addr=str(server.socket_path), password=SECRET, db=1) as connections:
        assert await connections.call("ECHO", "x") == b"x"
        assert server.info("commandstats")["cmdstat_select"]["calls"] == 1


async def test_a_user_who_may_not_set_a_name(binary: ServerBinary, start_server: StartServer) -> None:
    """A name is a convenience: a user without the permission connects all the same, and asks once."""
    server = start_server(binary, users=[f"user app on >{SECRET} ~* -@all +ping"])
    async with connected("bus", addr=server.address, username="app", password=SECRET) as connections:
        links = [await connections.open() for _ in range(3)]
        assert [await link.call("PING") for link in links] == [b"PONG"] * 3
        denials = server.ask("ACL", "LOG")
        assert len(denials) == 1
        for link in links:
            await link.close()


async def test_bad_credentials(binary: ServerBinary, start_server: StartServer) -> None:
    """A wrong password, a missing one, and one too many are told apart, and none is shown."""
    server = start_server(binary, password=SECRET)
    wrong: list[dict[str, Any]] = [{"password": "wrong"}, {"username": "nobody", "password": SECRET}]
    for given in wrong:
        async with connected(addr=server.address, **given) as connections:
            with pytest.raises(RedisFailure, match="did not accept the user and password") as caught:
                await connections.call("PING")
            assert (caught.value.kind, caught.value.is_transient) == (Kind.AUTHENTICATION, False)
            assert server.address in str(caught.value)
            assert SECRET not in str(caught.value)
    async with connected(addr=server.address) as connections:
        with pytest.raises(RedisFailure, match="it requires a password, but none is configured"):
            await connections.call("PING")
    open_server = start_server(binary)
    async with connected(addr=open_server.address, password=SECRET) as connections:
        with pytest.raises(RedisFailure, match="it has no password, but one is configured"):
            await connections.call("PING")


# --- that cannot be reached -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addr", "reason"),
    [
        ("127.0.0.1:1", "connection refused"),
        ("no-such-host.invalid:6379", "cannot be resolved"),
        ("/no/such/socket", "the socket does not exist"),
    ],
)
async def test_unreachable(addr: str, reason: str) -> None:
    """A server that is not there is named, with the reason, and never who wanted to connect."""
    async with connected(addr=addr, username="me", password=SECRET) as connections:
        with pytest.raises(RedisFailure, match=reason) as caught:
            await connections.call("PING")
    failure = caught.value
    assert addr in str(failure)
    assert SECRET not in str(failure)
    assert (failure.kind, failure.is_uncertain, failure.is_transient) == (Kind.UNREACHABLE, False, True)


async def test_a_server_that_does_not_answer() -> None:
    """Connecting ends within its limit, also when the other side accepts and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addr = f"127.0.0.1:{silent.getsockname()[1]}"
        options: dict[str, Any] = {"addr": addr, "password": SECRET, "connect_timeout": "300ms"}
        async with connected(**options) as connections:
            begun = time.monotonic()
            with pytest.raises(RedisFailure, match="no reply within connect_timeout"):
                await connections.call("PING")
            assert 0.25 < time.monotonic() - begun < 20


async def test_not_a_redis_server() -> None:
    """Something else on the port is said to be that."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        addr = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
        async with connected(addr=addr) as connections:
            with pytest.raises(RedisFailure, match="is it a Redis server") as caught:
                await connections.call("PING")
            assert caught.value.kind is Kind.PROTOCOL


# --- faults on the way ------------------------------------------------------------------------------------


async def test_a_lost_reply_is_not_repeated(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A command whose reply is lost was sent once, is reported as uncertain, and the next one works."""
    server = start_server()
    proxy = start_proxy(server)
    async with connected(addr=proxy.address) as connections:
        await connections.call("PING")
        proxy.use(CutAtReply("INCR"))
        with pytest.raises(RedisFailure) as caught:
            await connections.call("INCR", "n")
        assert (caught.value.kind, caught.value.is_uncertain) == (Kind.LOST, True)
        assert await connections.call("INCR", "n") == 2


async def test_replies_before_the_cut_count(start_server: StartServer, start_proxy: StartProxy) -> None:
    """Of commands that are sent together, those that were answered before the cut are done, the rest open."""
    proxy = start_proxy(start_server())
    async with connected(addr=proxy.address) as connections:
        link = await connections.open()
        proxy.use(CutAtReply("INCR", occurrence=3))
        replies = await link.call_many([("INCR", "n") for _ in range(5)])
        assert replies[:2] == [1, 2]
        assert [reply.kind for reply in replies[2:]] == [Kind.LOST] * 3
        assert not link.is_open
        with pytest.raises(RedisFailure) as caught:
            await link.call("INCR", "n")
        assert caught.value.is_uncertain is False  # nothing was sent, and nobody connects again by himself


async def test_a_request_that_is_cut(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A connection that breaks while a command is on its way leaves it open whether it arrived."""
    proxy = start_proxy(start_server())
    async with connected(addr=proxy.address) as connections:
        proxy.use(CutAtRequest("INCR"))
        with pytest.raises(RedisFailure) as caught:
            await connections.call("INCR", "n")
        assert caught.value.is_uncertain


async def test_no_answer_in_time(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A reply that does not come ends the connection after command_timeout; others are opened."""
    proxy = start_proxy(start_server())
    async with connected(addr=proxy.address, command_timeout="200ms") as connections:
        await connections.call("PING")
        proxy.use(Drop("replies"))
        with pytest.raises(RedisFailure) as caught:
            await connections.call("INCR", "n")
        assert (caught.value.kind, caught.value.is_uncertain) == (Kind.TIMED_OUT, True)
        proxy.heal()
        assert await connections.call("INCR", "n") == 2


async def test_blocking_longer_than_other_commands(redis_server: SharedServer) -> None:
    """A connection that is made for blocking waits for its replies that much longer."""
    async with connected(url=redis_server.url, command_timeout="200ms") as connections:
        key = f"{redis_server.prefix}:list"
        link = await connections.open(purpose="reader", blocks=5.0)
        assert await link.call("BLPOP", key, 0.5) is None
        assert link.is_open
        await link.close()


async def test_an_idle_connection_that_the_server_closed(start_server: StartServer) -> None:
    """A kept connection that the server has closed meanwhile is not used again."""
    server = start_server()
    async with connected("bus", addr=server.address) as connections:
        await connections.call("PING")
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.to_thread(wait_until, lambda: len(clients(server)) == 1, "the connection is gone")
        await connections.call("PING")
        server.kill()
        await asyncio.to_thread(server.restart)
        assert await connections.call("PING") == b"PONG"


async def test_cancelling_is_never_swallowed(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A call is cancelled whenever it is cancelled: while it waits for a connection, sends, or receives."""
    proxy = start_proxy(start_server())
    async with connected(addr=proxy.address) as connections:
        for turns in range(40):
            await connections.call("PING")
            proxy.use(Stall("replies"))
            call = asyncio.create_task(connections.call("GET", "key"))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            proxy.heal()


async def test_bytes_that_dribble_in(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A reply in single bytes is a reply."""
    proxy = start_proxy(start_server())
    async with connected(addr=proxy.address) as connections:
        await connections.call("SET", "key", "x" * 50)
        proxy.use(SlowBytes(0.002, "replies"))
        assert await connections.call("GET", "key") == b"x" * 50


async def test_a_cancelled_call_ends_its_connection(
    start_server: StartServer, start_proxy: StartProxy
) -> None:
    """A cancelled call leaves no reply behind that another one would take for its own."""
    proxy = start_proxy(start_server())
    async with connected(addr=proxy.address) as connections:
        await connections.call("SET", "key", "value")
        proxy.use(Stall("replies"))
        call = asyncio.create_task(connections.call("GET", "key"))
        await asyncio.to_thread(proxy.wait_for, lambda counts: counts["stalled"] == 1, "holds the reply")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        proxy.heal()
        assert await connections.call("ECHO", "mine") == b"mine"
        assert proxy.counts["connections"] == 2


async def test_a_cancelled_exchange_ends_its_link(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A link on which a reply is still to come is never used again, whoever holds it."""
    proxy = start_proxy(start_server())
    async with connected(addr=proxy.address) as connections:
        (address,) = await connections.topology.primaries()
        link = await connections.open_to(address)
        proxy.use(Stall("replies"))
        call = asyncio.create_task(link.call_many([("GET", "key")]))
        await asyncio.to_thread(proxy.wait_for, lambda counts: counts["stalled"] == 1, "holds the reply")
        assert not link.is_usable
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        proxy.heal()
        assert not link.is_usable


# --- the pool ---------------------------------------------------------------------------------------------


async def test_the_pool_is_bounded(start_server: StartServer) -> None:
    """However many calls there are at once, connections are at most pool_size, and are used again."""
    server = start_server()
    async with connected("bus", addr=server.address, pool_size=3) as connections:
        replies = await asyncio.gather(*(connections.call("INCR", "n") for _ in range(50)))
        assert sorted(replies) == list(range(1, 51))
        names = [client["name"] for client in clients(server) if client["name"]]
        assert names == ["bus:pool"] * len(names)
        assert 1 <= len(names) <= 3
        assert server.info("stats")["total_connections_received"] <= 3 + 4


async def test_closing(start_server: StartServer) -> None:
    """Closing ends idle connections and those that are lent."""
    server = start_server()
    async with connected("bus", addr=server.address) as connections:
        await connections.call("PING")
        blocked = asyncio.create_task(connections.call("BLPOP", "list", 30))
        await asyncio.to_thread(
            wait_until, lambda: server.info("clients")["blocked_clients"] == 1, "it blocks"
        )
        await connections.close()
        with pytest.raises(RedisFailure):
            await blocked
    await asyncio.to_thread(
        wait_until, lambda: not [client for client in clients(server) if client["name"]], "all are closed"
    )


def test_from_a_thread_with_a_loop_of_its_own(start_server: StartServer) -> None:
    """A thread makes connections of its own on its own loop."""
    server = start_server()
    replies: list[Any] = []

    async def beat() -> None:
        async with connected(addr=server.address) as connections:
            replies.append(await connections.call("PING"))

    thread = threading.Thread(target=lambda: asyncio.run(beat()))
    thread.start()
    thread.join(10)
    assert replies == [b"PONG"]


# --- TLS --------------------------------------------------------------------------------------------------


def tls_options(certificates: Certificates, **more: Any) -> dict[str, Any]:
    return {"ca_file": str(certificates.authority), **more}


async def test_tls(start_server: StartServer, start_proxy: StartProxy, certificates: Certificates) -> None:
    """TLS works with an authority of one's own, with a client certificate, and by URL."""
    server = start_server(password=SECRET)
    proxy = start_proxy(server, tls=certificates.server_context(ask_for_client=True))
    own = {"cert_file": str(certificates.client_certificate), "key_file": str(certificates.client_key)}
    url = f"rediss://:{SECRET}@{proxy.address}/2"
    async with connected(url=url, tls=tls_options(certificates, **own)) as connections:
        assert await connections.call("ECHO", "x") == b"x"
    async with connected(url=url, tls=tls_options(certificates)) as connections:
        with pytest.raises(RedisFailure):
            await connections.call("PING")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"verify": "ca"}, None),
        ({"server_name": "localhost"}, None),
        ({"server_name": "elsewhere.test"}, "certificate: Hostname mismatch"),
        ({"ca_file": "strange"}, "certificate: "),
        ({"ca_file": None}, "certificate: "),
        ({"ca_file": None, "verify": "ca"}, "certificate: "),
        ({"ca_file": None, "verify": "none"}, None),
    ],
)
async def test_verification(
    start_server: StartServer,
    start_proxy: StartProxy,
    certificates: Certificates,
    options: dict[str, Any],
    reason: str | None,
) -> None:
    """The certificate and the name in it are checked, as far as they are wanted to be, and misfits named."""
    proxy = start_proxy(start_server(), tls=certificates.server_context())
    given = tls_options(certificates, **options)
    if given["ca_file"] == "strange":
        given["ca_file"] = str(certificates.strange_authority)
    async with connected(addr=proxy.address, tls=given) as connections:
        if reason is None:
            assert await connections.call("PING") == b"PONG"
            return
        with pytest.raises(RedisFailure, match=reason) as caught:
            await connections.call("PING")
        assert (caught.value.kind, caught.value.is_transient) == (Kind.TLS, False)


async def test_tls_with_a_server_that_has_none(start_server: StartServer) -> None:
    """A server that does not speak TLS is an error within the limit, not a wait."""
    server = start_server()
    async with connected(addr=server.address, tls=True, connect_timeout="1s") as connections:
        with pytest.raises(RedisFailure, match=server.address):
            await connections.call("PING")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca_file": "/no/such.pem"}, r"ca_file cannot be used \(/no/such.pem\): No such file or directory"),
        ({"ca_file": "garbage"}, r"ca_file cannot be used .*no fitting certificate"),
        ({"cert_file": "/no/such.pem"}, r"cert_file, or key_file, cannot be used .*No such file"),
        ({"cert_file": "authority", "key_file": "client.key"}, r"no fitting certificate or key"),
    ],
)
def test_files_that_cannot_be_used(
    options: dict[str, Any], message: str, tmp_path: Path, certificates: Certificates
) -> None:
    """A file of TLS that is missing or does not fit is named, with its option."""
    (tmp_path / "garbage").write_text("nothing")
    known = {
        "garbage": str(tmp_path / "garbage"),
        "authority": str(certificates.authority),
        "client.key": str(certificates.client_key),
    }
    given: dict[str, Any] = {name: known.get(value, value) for name, value in options.items()}
    with pytest.raises(AdapterError, match=message):
        make_tls_context(TlsOptions(**given))


# --- sentinels --------------------------------------------------------------------------------------------


async def test_sentinels(binary: ServerBinary) -> None:
    """The primary is found through sentinels, over a failover, and when one of them is down."""
    with SentinelGroup(binary, password=SECRET, sentinel_password="psst") as group:
        sentinel = {"addresses": group.addresses, "service": group.service, "password": "psst"}
        options = {"sentinel": sentinel, "password": SECRET, "command_timeout": "1s"}
        async with connected(**options) as connections:
            first = group.primary()
            assert (await connections.topology.find()).port == first.port
            await connections.call("SET", "key", "value")
            assert first.ask("WAIT", 1, 5000) == 1
            first.kill()
            with pytest.raises(RedisFailure) as caught:
                await connections.call("GET", "key")
            assert caught.value.is_transient
            second = await asyncio.to_thread(group.wait_failed_over, first)
            assert await connections.call("GET", "key") == b"value"
            assert (await connections.topology.primaries())[0].port == second.port
        async with connected(sentinel={**sentinel, "service": "other"}) as connections:
            with pytest.raises(RedisFailure, match="monitors no primary named 'other'"):
                await connections.call("PING")
        group.sentinels[0].kill()
        async with connected(**options) as connections:
            assert await connections.call("PING") == b"PONG"


async def test_no_sentinel_answers() -> None:
    """When no sentinel answers each of them is named with its reason."""
    places = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    async with connected(sentinel={"addresses": places, "service": "x"}) as connections:
        with pytest.raises(RedisFailure) as caught:
            await connections.call("PING")
    assert caught.value.kind is Kind.UNREACHABLE
    for place in places:
        assert f"Redis at {place} cannot be reached" in str(caught.value)


async def test_a_former_primary_is_noticed(start_server: StartServer) -> None:
    """A server that sentinels still call the primary, but that is a replica by now, is not used."""
    with SentinelGroup() as group:
        sentinel = {"addresses": group.addresses, "service": group.service}
        replica = next(server for server in group.servers if server is not group.primary())
        async with connected(sentinel=sentinel) as connections:
            with pytest.raises(RedisFailure) as caught:
                await connections.open_to(Address(replica.host, replica.port))
    assert (caught.value.kind, caught.value.is_transient) == (Kind.READ_ONLY, True)


# --- cluster ----------------------------------------------------------------------------------------------


async def test_cluster(binary: ServerBinary) -> None:
    """Each key goes to its node, a slot that moves is followed, and one that moves right now is found."""
    with Cluster(binary, password=SECRET) as cluster:
        options: dict[str, Any] = {"cluster": cluster.addresses[:1], "password": SECRET}
        async with connected(**options) as connections:
            keys = [f"bus:{{topic-{number}}}" for number in range(30)]
            for key in keys:
                assert await connections.call("SET", key, key, key=key) == b"OK"
            used = {(await connections.topology.find(key)).port for key in keys}
            assert used == {server.port for server in cluster.primaries}
            assert len(await connections.topology.primaries()) == 3

            key = keys[0]
            source = cluster.owner_of(key)
            target = next(server for server in cluster.primaries if server is not source)
            slot = cluster.slot_of(key)
            target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.node_id(source))
            source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.node_id(target))
            absent = f"{key}:new"
            assert await connections.call("SET", absent, 1, key=key) == b"OK"  # by way of ASK
            assert source.ask("GET", key) == key
            source.ask("CLUSTER", "SETSLOT", slot, "STABLE")
            cluster.move_slot(slot, source, target)
            assert await connections.call("GET", key, key=key) == key.encode()  # by way of MOVED
            assert (await connections.topology.find(key)).port == target.port

            crossed = (await connections.call_many([("MGET", *keys[:9])], key=key))[0]
            assert crossed.kind is Kind.CROSS_SLOT

            lost = next(name for name in keys[1:] if cluster.owner_of(name) is source)
            source.kill()
            with pytest.raises(RedisFailure) as caught:
                await connections.call("GET", lost, key=lost)
            assert caught.value.is_transient
            assert await connections.call("GET", key, key=key) == key.encode()
