from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis
import redis.asyncio

from redis_support.certificates import Certificates
from redis_support.child_processes import wait_until
from redis_support.faults import (
    CutAfterBytes,
    CutAtReply,
    CutAtRequest,
    Delay,
    Drop,
    LoseReplies,
    Refuse,
    SlowBytes,
    Stall,
)
from redis_support.fixtures import StartProxy, StartServer
from redis_support.proxy import FaultProxy
from redis_support.servers import Server, async_client_options, client_options, free_port

pytestmark = [pytest.mark.once, pytest.mark.timeout(30)]


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def proxy(server: Server, start_proxy: StartProxy) -> FaultProxy:
    return start_proxy(server)


def client(proxy: FaultProxy, **options: Any) -> redis.Redis:
    given = {"host": proxy.host, "port": proxy.port, "socket_timeout": 0.3, **options}
    return redis.Redis(**client_options(**given))


def open_connection(client: redis.Redis) -> Any:
    """A connection of the client that has made a round trip, so that the proxy has both ends of it."""
    connection = client.connection_pool.get_connection()
    connection.send_command("PING")
    assert connection.read_response() == "PONG"
    return connection


def test_a_sound_network(server: Server, proxy: FaultProxy) -> None:
    """Without a fault everything arrives as it was sent, large values and pipelines too, and is counted."""
    with client(proxy, socket_timeout=10) as through:
        value = "x" * 3_000_000
        through.set("large", value)
        assert through.get("large") == value
        with through.pipeline(transaction=True) as pipeline:
            for number in range(1000):
                pipeline.incrby("sum", number)
            assert pipeline.execute()[-1] == 499_500
        assert proxy.counts["connections"] == proxy.connections == 1
        assert proxy.counts["requests"] == proxy.counts["replies"] >= 1004
        assert proxy.counts["reply_bytes"] > 3_000_000
    proxy.wait_for(lambda _counts: proxy.connections == 0, "sees the client leave")


async def test_from_a_coroutine(proxy: FaultProxy) -> None:
    """A test on an event loop uses the same proxy, whose own loop goes on beside it."""
    options = async_client_options(host=proxy.host, port=proxy.port, socket_timeout=0.2)
    async with redis.asyncio.Redis(**options) as through:
        assert await through.ping()
        proxy.use(Drop("replies"))
        with pytest.raises(redis.TimeoutError):
            await through.ping()
        proxy.heal()
        assert await through.ping()


@pytest.mark.parametrize(("direction", "arrives"), [("requests", None), ("replies", "1"), ("both", None)])
def test_drop(server: Server, proxy: FaultProxy, direction: Any, arrives: str | None) -> None:
    """Bytes of one direction, or of both, are swallowed, and a connection that lost some stays silent."""
    with client(proxy) as through, client(proxy) as other:
        connection = open_connection(through)
        proxy.use(Drop(direction))
        connection.send_command("SET", "key", 1)
        with pytest.raises(redis.TimeoutError):
            connection.read_response(disconnect_on_error=False)
        assert server.ask("GET", "key") == arrives
        proxy.heal()
        assert other.ping()
        connection.send_command("PING")
        with pytest.raises(redis.TimeoutError):
            connection.read_response()
        assert proxy.counts["swallowed_bytes"] > 0
        connection.disconnect()


def test_stall(server: Server, proxy: FaultProxy) -> None:
    """Held bytes arrive when the fault is over, in order and complete."""
    with client(proxy) as through:
        connection = open_connection(through)
        proxy.use(Stall("requests"))
        connection.send_command("RPUSH", "list", "a")
        connection.send_command("RPUSH", "list", "b")
        with pytest.raises(redis.TimeoutError):
            connection.read_response(disconnect_on_error=False)
        assert server.ask("EXISTS", "list") == 0
        proxy.heal()
        assert [connection.read_response(), connection.read_response()] == [1, 2]
        assert server.ask("LRANGE", "list", 0, -1) == ["a", "b"]
        connection.disconnect()


def test_delay(proxy: FaultProxy) -> None:
    """Every request and reply takes longer."""
    with client(proxy, socket_timeout=5) as through:
        through.ping()
        proxy.use(Delay(0.05))
        begun = time.monotonic()
        through.ping()
        assert time.monotonic() - begun >= 0.1
        assert proxy.counts["delayed"] == 2


def test_slow_bytes(proxy: FaultProxy) -> None:
    """Bytes come one by one, until the fault is over."""
    with client(proxy, socket_timeout=5) as through:
        through.ping()
        proxy.use(SlowBytes(0.01, "replies"))
        begun = time.monotonic()
        assert through.echo("abcdef") == "abcdef"
        assert time.monotonic() - begun >= 0.1
        assert proxy.counts["slow_bytes"] == len("$6\r\nabcdef\r\n")
        proxy.heal()
        assert through.echo("x" * 10_000) == "x" * 10_000


def test_reset(proxy: FaultProxy) -> None:
    """Both ends see their connection reset; the next one works."""
    with client(proxy) as through:
        connection = open_connection(through)
        assert proxy.reset_connections() == 1
        with pytest.raises(redis.ConnectionError, match=r"(?i)reset"):
            connection.read_response()
        assert through.ping()
        assert proxy.counts["resets"] == 1
        connection.disconnect()


def test_half_close(server: Server, proxy: FaultProxy) -> None:
    """One end sees the end of the stream, while what it sends still arrives."""
    with client(proxy) as through:
        connection = open_connection(through)
        proxy.half_close("client")
        with pytest.raises(redis.ConnectionError, match="closed by server"):
            connection.read_response(disconnect_on_error=False)
        connection.send_command("SET", "key", 1)
        wait_until(lambda: server.ask("GET", "key") == "1", "the request has arrived")
        connection.disconnect()


def test_refuse(proxy: FaultProxy) -> None:
    """New connections are reset, those that exist go on."""
    with client(proxy) as through, client(proxy) as other:
        through.ping()
        proxy.use(Refuse())
        with pytest.raises(redis.ConnectionError):
            other.ping()
        assert through.ping()
        assert proxy.counts["refused"] >= 1


def test_unreachable(start_proxy: StartProxy, server: Server) -> None:
    """A target that is not there resets the client; another target serves new connections."""
    proxy = start_proxy(("127.0.0.1", free_port()))
    with client(proxy) as through:
        with pytest.raises(redis.ConnectionError):
            through.ping()
        assert proxy.counts["unreachable"] >= 1
        proxy.target = (server.host, server.port)
        assert through.ping()


@pytest.mark.parametrize("then", ["reset", "silence"])
def test_cut_at_reply(server: Server, proxy: FaultProxy, then: Any) -> None:
    """The reply to the k-th command of a name is lost once, and its work is done."""
    with client(proxy) as through:
        fault = CutAtReply("incrby", occurrence=3, then=then)
        proxy.use(fault)
        assert [through.incr("n"), through.set("x", 1), through.incr("n")] == [1, True, 2]
        assert not fault.done
        error = redis.ConnectionError if then == "reset" else redis.TimeoutError
        with pytest.raises(error):
            through.incr("n")
        assert fault.done
        assert through.incr("n") == 4


def test_cut_inside_a_pipeline(server: Server, proxy: FaultProxy) -> None:
    """The replies before the lost one arrive, and so do the first bytes of it if wanted."""
    with client(proxy) as through:
        connection = open_connection(through)
        proxy.use(CutAtReply("ECHO", occurrence=2, delivered=4, then="silence"))
        connection.send_packed_command(
            connection.pack_commands([("ECHO", "first"), ("ECHO", "second"), ("SET", "key", 1)])
        )
        assert connection.read_response() == "first"
        with pytest.raises(redis.TimeoutError):
            connection.read_response()
        assert server.ask("GET", "key") == "1"


def test_cut_at_request(server: Server, proxy: FaultProxy) -> None:
    """The k-th command of a name does not arrive, and the connection is reset."""
    with client(proxy) as through:
        proxy.use(CutAtRequest("INCRBY", occurrence=2))
        assert through.incr("n") == 1
        with pytest.raises(redis.ConnectionError):
            through.incr("n")
        assert server.ask("GET", "n") == "1"
        assert through.incr("n") == 2
        assert proxy.counts["lost_requests"] == 1


def test_cut_after_bytes(proxy: FaultProxy) -> None:
    """A connection is reset in the middle of a reply."""
    with client(proxy) as through:
        through.set("key", "x" * 1000)
        connection = open_connection(through)
        proxy.use(CutAfterBytes(500, "replies"))
        connection.send_command("GET", "key")
        with pytest.raises(redis.ConnectionError):
            connection.read_response()
        assert through.get("key") == "x" * 1000


def lost_of(proxy: FaultProxy, seed: int) -> list[int]:
    lost: list[int] = []
    with client(proxy) as through:
        proxy.use(LoseReplies(0.2, seed, ("INCRBY",)))
        for number in range(50):
            through.ping()
            try:
                through.incr("n")
            except redis.ConnectionError:
                lost.append(number)
        proxy.heal()
    return lost


def test_lose_replies(server: Server, proxy: FaultProxy) -> None:
    """Replies to the chosen commands are lost with a probability, by seed the same ones each time."""
    lost = lost_of(proxy, seed=7)
    assert 3 <= len(lost) <= 20
    assert lost == lost_of(proxy, seed=7)
    assert lost != lost_of(proxy, seed=8)
    assert server.ask("GET", "n") == "150"
    assert proxy.counts["lost_replies"] == proxy.counts["resets"]


def test_faults_together(server: Server, proxy: FaultProxy) -> None:
    """Several faults work one after the other."""
    with client(proxy, socket_timeout=5) as through:
        proxy.use(Delay(0.02, "replies"), CutAtReply("INCRBY", occurrence=2))
        assert through.incr("n") == 1
        with pytest.raises(redis.ConnectionError):
            through.incr("n")
        assert proxy.counts["delayed"] >= 2


def test_tls(server: Server, start_proxy: StartProxy, certificates: Certificates) -> None:
    """The proxy ends TLS for a server that has none, faults included, and can ask for a certificate."""
    proxy = start_proxy(server, tls=certificates.server_context(ask_for_client=True))
    options: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(certificates.authority)}
    own = {
        "ssl_certfile": str(certificates.client_certificate),
        "ssl_keyfile": str(certificates.client_key),
    }
    with client(proxy, **options, **own) as through:
        assert through.incr("n") == 1
        proxy.use(CutAtReply("INCRBY"))
        with pytest.raises(redis.ConnectionError):
            through.incr("n")
        assert through.incr("n") == 3
    with client(proxy, **options) as nameless, pytest.raises(redis.ConnectionError):
        nameless.ping()
    strange = {**options, "ssl_ca_certs": str(certificates.strange_authority)}
    with client(proxy, **strange, **own) as distrustful, pytest.raises(redis.ConnectionError, match="verify"):
        distrustful.ping()


async def test_another_protocol(start_proxy: StartProxy) -> None:
    """Bytes that are not the protocol of Redis pass as well."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(100)).upper())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as target:
        proxy = start_proxy(("127.0.0.1", target.sockets[0].getsockname()[1]))
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"hello, world")
        assert await reader.read() == b"HELLO, WORLD"
        writer.close()
        await writer.wait_closed()


def test_closing_ends_everything(server: Server) -> None:
    """A proxy that is closed leaves no connection and no thread."""
    with FaultProxy((server.host, server.port)) as proxy, client(proxy) as through:
        through.ping()
        proxy.use(Stall())
        thread = proxy._thread
    assert not thread.is_alive()
    with client(proxy) as through, pytest.raises(redis.ConnectionError):
        through.ping()
