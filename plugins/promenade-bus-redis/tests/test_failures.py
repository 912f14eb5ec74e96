from __future__ import annotations

import asyncio
import re
import traceback
from typing import Any

import pytest
from redis import exceptions

from bus_core import AdapterError, PublishFailed, PublishUncertain
from promenade_bus_redis.addresses import Address
from promenade_bus_redis.server import failures as module
from promenade_bus_redis.server.connections import Connections
from promenade_bus_redis.server.failures import Kind, RedisFailure, failure_of, publish_error
from promenade_bus_redis.server.link import Link
from redis_support.binaries import ServerBinary
from redis_support.child_processes import wait_until
from redis_support.clusters import Cluster
from redis_support.connecting import connected
from redis_support.fixtures import SharedServer, StartServer
from redis_support.servers import Replica, Server

pytestmark = pytest.mark.timeout(60)

SECRET = "hunter2-s3cret"


async def command_failure(where: Any, *command: Any, **options: Any) -> RedisFailure:
    """The failure of a command on a connection to a server."""
    address = where.url if isinstance(where, SharedServer) else f"redis://{where.address}"
    async with connected(url=address, **options) as connections:
        with pytest.raises(RedisFailure) as caught:
            await connections.call(*command)
    failure = caught.value
    assert isinstance(failure, AdapterError)
    assert failure.__cause__ is not None
    assert SECRET not in str(failure)
    assert f"Redis at {where.host}:{where.port} " in str(failure) if isinstance(where, Server) else True
    return failure


def check(failure: RedisFailure, kind: Kind, *, transient: bool, uncertain: bool = False) -> None:
    assert (failure.kind, failure.is_transient, failure.is_uncertain) == (kind, transient, uncertain)
    error = publish_error(failure)
    if uncertain:
        assert isinstance(error, PublishUncertain)
        assert str(error).endswith("the event may be stored")
    else:
        assert isinstance(error, PublishFailed)
        assert (error.transient, error.permanent) == (transient, False)
        assert str(error).endswith("the event is not stored")


# --- provoked on a real server ----------------------------------------------------------------------------


async def test_wrong_type(redis_server: SharedServer) -> None:
    """A key that somebody uses for something else is named as such, in a script as well."""
    key = f"{redis_server.prefix}:x"
    redis_server.ask("SET", key, 1)
    failure = await command_failure(redis_server, "XADD", key, "*", "body", SECRET)
    check(failure, Kind.WRONG_TYPE, transient=False)
    assert "(XADD)" in str(failure)
    script = "return redis.call('XADD', KEYS[1], '*', 'body', ARGV[1])"
    check(
        await command_failure(redis_server, "EVAL", script, 1, key, SECRET), Kind.WRONG_TYPE, transient=False
    )


async def test_groups(redis_server: SharedServer) -> None:
    """A group that is gone, and one that is there already, are told apart."""
    key = f"{redis_server.prefix}:stream"
    read = ["XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", key, ">"]
    check(await command_failure(redis_server, *read), Kind.NO_GROUP, transient=True)
    redis_server.ask("XGROUP", "CREATE", key, "g", "0", "MKSTREAM")
    failure = await command_failure(redis_server, "XGROUP", "CREATE", key, "g", "0")
    check(failure, Kind.GROUP_EXISTS, transient=False)
    assert failure.command == "XGROUP CREATE"
    redis_server.ask("XGROUP", "DESTROY", key, "g")
    check(await command_failure(redis_server, *read), Kind.NO_GROUP, transient=True)
    check(await command_failure(redis_server, "XPENDING", key, "g"), Kind.NO_GROUP, transient=True)


async def test_the_group_vanishes_while_a_read_blocks(redis_server: SharedServer) -> None:
    """A blocking read whose group vanishes fails at once, or, on older servers, when it is repeated."""
    key = f"{redis_server.prefix}:stream"
    for command in (("XGROUP", "DESTROY", key, "g"), ("DEL", key)):
        redis_server.ask("XGROUP", "CREATE", key, "g", "0", "MKSTREAM")
        read = ["XREADGROUP", "GROUP", "g", "c", "BLOCK", 1_000, "STREAMS", key, ">"]
        async with connected("bus", url=redis_server.url) as connections:
            link = await connections.open(blocks=1.0)
            reading = asyncio.create_task(link.call_many([read]))
            await asyncio.to_thread(
                wait_until, lambda: "cmd=xreadgroup" in redis_server.ask("CLIENT", "LIST"), "it blocks"
            )
            redis_server.ask(*command)
            (reply,) = await reading
            assert reply is None or reply.kind in (Kind.NO_GROUP, Kind.REFUSED)
            (reply,) = await link.call_many([read])
            assert reply.kind is Kind.NO_GROUP
            assert link.is_open
            await link.close()


async def test_commands_that_the_server_does_not_know(redis_server: SharedServer) -> None:
    """A command, or a subcommand, that the server does not have is named, without what was given to it."""
    failure = await command_failure(redis_server, "XNOSUCH", SECRET)
    check(failure, Kind.UNKNOWN_COMMAND, transient=False)
    assert "(XNOSUCH)" in str(failure)
    failure = await command_failure(redis_server, "XGROUP", "NOSUCH", SECRET)
    assert failure.kind is Kind.UNKNOWN_COMMAND
    assert failure.command == "XGROUP NOSUCH"


async def test_a_script_that_the_server_forgot(redis_server: SharedServer) -> None:
    """A script that is not loaded is asked for again."""
    check(await command_failure(redis_server, "EVALSHA", "0" * 40, 0), Kind.NO_SCRIPT, transient=True)


async def test_other_refusals(redis_server: SharedServer) -> None:
    """A failure without a name of its own keeps the server's words."""
    failure = await command_failure(redis_server, "SET", f"{redis_server.prefix}:x", "1", "NONSENSE")
    check(failure, Kind.REFUSED, transient=False)
    assert "syntax error" in str(failure)
    failure = await command_failure(redis_server, "EVAL", "return redis.error_reply('MY reason')", 0)
    assert failure.kind is Kind.REFUSED
    assert "MY reason" in str(failure)


async def test_what_cannot_be_sent(redis_server: SharedServer) -> None:
    """A value that is no text, bytes or number is refused here, and nothing is done."""
    failure = await command_failure(redis_server, "SET", f"{redis_server.prefix}:x", object())
    assert (failure.kind, failure.is_uncertain) == (Kind.REFUSED, False)


USER = f"user app on >{SECRET} ~app:* -@all +get +eval +xgroup|create +set"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("XADD", "app:x", "*", "a", "b"), "the command XADD"),
        (("XGROUP", "DESTROY", "app:x", "g"), "the command XGROUP"),
        (("GET", "other"), "the keys or channels"),
        (("EVAL", "return redis.call('XADD', 'app:x', '*', 'a', 'b')", 0), "(EVAL)"),
        (("EVAL", "return redis.call('GET', 'other')", 0), "(EVAL)"),
    ],
)
async def test_forbidden(binary: ServerBinary, start_server: StartServer, command: Any, words: str) -> None:
    """A command, or a key, that the user may not touch is named, in scripts as far as the server tells."""
    server = start_server(binary, users=[USER])
    failure = await command_failure(server, *command, username="app", password=SECRET)
    check(failure, Kind.FORBIDDEN, transient=False)
    assert words in str(failure)


async def test_no_memory(binary: ServerBinary, start_server: StartServer) -> None:
    """A full server refuses for now, and a script says the same."""
    server = start_server(binary, settings={"maxmemory": 1, "maxmemory-policy": "noeviction"})
    failure = await command_failure(server, "XADD", "stream", "*", "body", SECRET)
    check(failure, Kind.FULL, transient=True)
    script = "return redis.call('XADD', KEYS[1], '*', 'body', ARGV[1])"
    check(await command_failure(server, "EVAL", script, 1, "stream", SECRET), Kind.FULL, transient=True)


async def test_replicas(binary: ServerBinary, start_server: StartServer) -> None:
    """A replica takes no writes; alone, and not allowed to serve old data, it answers nothing."""
    primary = start_server(binary)
    with Replica(primary, settings={"replica-serve-stale-data": "no"}) as replica:
        failure = await command_failure(replica, "XADD", "stream", "*", "body", SECRET)
        check(failure, Kind.READ_ONLY, transient=True)
        assert failure.questions_place
        script = "return redis.call('XADD', KEYS[1], '*', 'body', ARGV[1])"
        check(await command_failure(replica, "EVAL", script, 1, "s", SECRET), Kind.READ_ONLY, transient=True)
        primary.kill()
        await asyncio.to_thread(
            wait_until, lambda: replica.info("replication")["master_link_status"] == "down", "it is alone"
        )
        check(await command_failure(replica, "GET", "x"), Kind.PRIMARY_DOWN, transient=True)


async def test_too_few_replicas(binary: ServerBinary, start_server: StartServer) -> None:
    """A primary that wants replicas and has none refuses writes."""
    server = start_server(binary, settings={"min-replicas-to-write": 1})
    check(await command_failure(server, "SET", "x", SECRET), Kind.TOO_FEW_REPLICAS, transient=True)


async def test_a_disk_that_cannot_be_written(binary: ServerBinary, start_server: StartServer) -> None:
    """A server that could not save its data refuses writes."""
    server = start_server(binary, settings={"save": "3600 1"})
    server.ask("SET", "x", 1)
    server.directory.joinpath("dump.rdb").mkdir()
    server.directory.joinpath("dump.rdb", "in-the-way").touch()
    server.ask("BGSAVE")
    await asyncio.to_thread(
        wait_until, lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", "saving fails"
    )
    check(await command_failure(server, "SET", "x", SECRET), Kind.DISK, transient=True)


async def test_a_busy_server(binary: ServerBinary, start_server: StartServer) -> None:
    """A server that runs somebody's endless script says that it is busy."""
    limit = "busy-reply-threshold" if binary.at_least((7, 0)) else "lua-time-limit"
    server = start_server(binary, settings={limit: 10})
    async with connected(addr=server.address, command_timeout="30s") as connections:
        endless = asyncio.create_task(connections.call("EVAL", "while true do end", 0))

        def is_busy() -> bool:
            try:
                server.ask("PING")
            except exceptions.ResponseError:
                return True
            return False

        await asyncio.to_thread(wait_until, is_busy, "the script runs")
        check(await command_failure(server, "SET", "x", SECRET), Kind.BUSY, transient=True)
        server.ask("SCRIPT", "KILL")
        with pytest.raises(RedisFailure) as caught:
            await endless
        assert caught.value.kind is Kind.REFUSED


async def test_too_many_clients(binary: ServerBinary, start_server: StartServer) -> None:
    """A server without room for another connection says so, and nothing was done."""
    server = start_server(binary)
    with server.client() as client:
        client.ping()
        client.config_set("maxclients", 1)
        failure = await command_failure(server, "SET", "x", SECRET, password=SECRET)
        check(failure, Kind.TOO_MANY_CLIENTS, transient=True)
        assert client.get("x") is None


async def test_loading(binary: ServerBinary, start_server: StartServer) -> None:
    """A server that still loads its data says so, and the next attempt may find another one."""
    server = start_server(binary, settings={"rdbcompression": "no"})
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(2_000):
            pipeline.set(f"key-{number}", "x" * 5_000)
        pipeline.execute()
    server.ask("SAVE")
    server.stop()
    server.reconfigure(key_load_delay=1_000)  # microseconds; between 2 MB of data it answers
    server.launch()
    async with connected(addr=server.address, command_timeout="20s") as connections:
        link = await until_connected(connections)
        with pytest.raises(RedisFailure) as caught:
            await link.call("GET", "x")
        check(caught.value, Kind.LOADING, transient=True)
        assert not link.is_open


async def until_connected(connections: Connections) -> Link:
    """A connection, as soon as the server listens."""
    deadline = asyncio.get_running_loop().time() + 20
    while True:
        try:
            return await connections.open()
        except RedisFailure:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.005)


async def test_cluster(binary: ServerBinary) -> None:
    """The answers of a cluster node about slots are understood, with the node that they name."""
    with Cluster(binary) as cluster:
        key = "bus:{topic}"
        owner = cluster.owner_of(key)
        first = next(server for server in cluster.primaries if server is not owner)
        slot = cluster.slot_of(key)
        async with connected(cluster=[owner.address]) as connections:
            link = await connections.open_to(Address(first.host, first.port))
            moved = (await link.call_many([("SET", key, SECRET)]))[0]
            check(moved, Kind.MOVED, transient=True)
            assert (moved.slot, moved.moved_to) == (slot, Address(owner.host, owner.port))

            source = await connections.open_to(Address(owner.host, owner.port))
            first.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.node_id(owner))
            owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.node_id(first))
            asked = (await source.call_many([("SET", key, SECRET)]))[0]
            check(asked, Kind.ASK, transient=True)
            assert asked.moved_to == Address(first.host, first.port)
            split = (await link.call_many([("ASKING",), ("MGET", key, f"{key}:absent")]))[1]
            check(split, Kind.TRY_AGAIN, transient=True)
            owner.ask("CLUSTER", "SETSLOT", slot, "STABLE")

            crossed = (await link.call_many([("MGET", "{a}", "{b}", "{c}", "{d}")]))[0]
            check(crossed, Kind.CROSS_SLOT, transient=False)
            for link_of in (link, source):
                await link_of.close()
        owner.ask("CLUSTER", "DELSLOTS", slot)
        async with connected(addr=owner.address) as connections:
            lost = (await connections.call_many([("GET", key)]))[0]
            check(lost, Kind.CLUSTER_DOWN, transient=True)


# --- what cannot be provoked, and the rules ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "sent", "kind", "uncertain"),
    [
        (exceptions.ConnectionError("Connection closed by server."), True, Kind.LOST, True),
        (exceptions.ConnectionError("Connection closed by server."), False, Kind.UNREACHABLE, False),
        (exceptions.TimeoutError("Timeout reading from x"), True, Kind.TIMED_OUT, True),
        (exceptions.TimeoutError("Timeout connecting to server"), False, Kind.UNREACHABLE, False),
        (ConnectionResetError(104, "Connection reset by peer"), True, Kind.LOST, True),
        (asyncio.IncompleteReadError(b"", 5), True, Kind.LOST, True),
        (TimeoutError(), True, Kind.TIMED_OUT, True),
        (exceptions.InvalidResponse("Protocol error"), True, Kind.PROTOCOL, True),
        (exceptions.InvalidResponse("Protocol error"), False, Kind.PROTOCOL, False),
        (exceptions.DataError("Invalid input"), False, Kind.UNREACHABLE, False),
        (ValueError("odd"), False, Kind.REFUSED, False),
    ],
)
def test_errors_of_the_network(error: Exception, sent: bool, kind: Kind, uncertain: bool) -> None:
    """A command may have been done only if it was on its way."""
    failure = failure_of(error, Address("host", 1), command="XADD", sent=sent)
    assert (failure.kind, failure.is_uncertain) == (kind, uncertain)
    assert "Redis at host:1" in str(failure)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.BusyLoadingError("x", status_code="LOADING"), Kind.LOADING),
        (exceptions.AuthenticationError("x", status_code="NOAUTH"), Kind.AUTHENTICATION),
        (exceptions.ReadOnlyError("x", status_code="READONLY"), Kind.READ_ONLY),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), Kind.TOO_FEW_REPLICAS),
        (
            exceptions.ResponseError("ERR unknown command `X`, with args: `y`"),
            Kind.UNKNOWN_COMMAND,
        ),
        (exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"), Kind.INTERRUPTED),
    ],
)
def test_codes_count_and_classes_do_not(error: Exception, kind: Kind) -> None:
    """An answer of the server is a reply, whatever class redis-py gives it, also before anything was sent."""
    for sent in (True, False):
        assert failure_of(error, "x", sent=sent).kind is kind
        assert failure_of(error, "x", sent=sent).is_uncertain is False


def test_a_failure_stays_what_it_is() -> None:
    """Translating twice changes nothing."""
    failure = RedisFailure(Kind.FULL, "host:1", command="XADD")
    assert failure_of(failure, "elsewhere") is failure


def test_the_table_is_what_the_code_does() -> None:
    """Each row of the module's table says of a kind what its failures say of themselves."""
    row = r"^([A-Z_]+) {2,}(.*?) {2,}(no|perhaps) +(yes|no) +(yes|no|slots) "
    rows = re.findall(row, module.__doc__ or "", re.MULTILINE)
    assert {name for name, *_ in rows} == {kind.name for kind in Kind}
    for name, codes, done, transient, left in rows:
        failure = RedisFailure(Kind[name], "host:1")
        assert failure.leaves_connection(is_node=True) is (left == "yes"), name
        assert failure.leaves_connection(is_node=False) is (left != "no"), name
        assert failure.is_uncertain is (done == "perhaps"), name
        assert failure.is_transient is (transient == "yes"), name
        for code in re.findall(r"\b[A-Z]{2,}\b", codes.partition(" ERR")[0]):
            if code != "ERR" and "ERR" not in codes[: codes.find(code)]:
                assert failure_of(exceptions.ResponseError(f"{code} 1 a:1"), "x").kind is Kind[name], code


@pytest.mark.parametrize(
    "text",
    [
        f"ERR unknown command 'X', with args beginning with: '{SECRET}'",
        f"ERR odd thing, with args beginning with: '{SECRET}'",
        f"ERR odd thing near `{SECRET}`",
        f'ERR the proxy cannot pass on "X {SECRET}"',
        f"WRONGPASS '{SECRET}' is wrong",
        f"NOPERM User {SECRET} has no permissions to run the 'x' command",
    ],
)
def test_arguments_are_not_repeated(text: str) -> None:
    """The server's words are shown only where they do not hold what was sent, in tracebacks as well."""
    for sent in (True, False):
        failure = failure_of(exceptions.ResponseError(text), "x", command="X", sent=sent, hidden=[SECRET])
        assert SECRET not in "".join(traceback.format_exception(failure))
        assert failure.__context__ is None


async def test_a_password_is_in_no_traceback(binary: ServerBinary, start_server: StartServer) -> None:
    """A server that does not know AUTH repeats what was sent; neither the failure nor its cause does."""
    server = start_server(binary, settings={"rename-command": 'AUTH ""'})
    targets: list[dict[str, Any]] = [
        {"addr": server.address, "password": SECRET},
        {"url": f"redis://:{SECRET}@{server.address}"},
    ]
    for target in targets:
        with pytest.raises(RedisFailure) as caught:
            async with connected(**target) as connections:
                await connections.call("PING")
        told = traceback.TracebackException.from_exception(caught.value, capture_locals=False)
        assert SECRET not in "".join(told.format())
        each: BaseException | None = caught.value
        while each is not None:  # whoever shows what lies behind an error shows nothing of it either
            assert SECRET not in repr(each)
            each = each.__cause__ or each.__context__
        assert caught.value.kind is Kind.UNKNOWN_COMMAND


def test_a_server_cannot_forge_lines() -> None:
    """The text of a server is one line, with escape sequences written out."""
    failure = failure_of(exceptions.ResponseError("ERR odd\n2026 CRITICAL root\x1b[2J"), "x")
    assert str(failure).isprintable()
    assert str(failure.__cause__).isprintable()
