from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest

from promenade_bus_redis.server.checks import ServerFacts, UnfitServer, check_servers, parse_info
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.permissions import acl_rules, permissions_for
from promenade_bus_redis.server.target import resolve_target
from redis_support.binaries import ServerBinary
from redis_support.clusters import Cluster
from redis_support.connecting import connected, make_options
from redis_support.faults import CutAtReply
from redis_support.fixtures import SharedServer, StartProxy, StartServer
from redis_support.sentinels import SentinelGroup
from redis_support.servers import Replica

pytestmark = pytest.mark.timeout(60)

README = Path(__file__).parents[1] / "README.md"
SECRET = "hunter2-s3cret"


async def check(**options: Any) -> tuple[ServerFacts, ...]:
    read = make_options(**options)
    async with connected("bus", **options) as connections:
        return await check_servers(connections, read, resolve_target(read, {}))


async def problems_of(**options: Any) -> list[str]:
    with pytest.raises(UnfitServer) as caught:
        await check(**options)
    for problem in caught.value.problems:
        assert f"\n  - {problem}" in str(caught.value)
    assert SECRET not in str(caught.value)
    return list(caught.value.problems)


# --- servers that will do ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["streams", "pubsub"])
async def test_a_server_that_will_do(redis_server: SharedServer, mode: str) -> None:
    """A plain server will do in both modes, and nothing is left behind on it."""
    (facts,) = await check(url=redis_server.url, mode=mode, prefix=redis_server.prefix)
    assert redis_server.keys() == []
    assert facts.version != "unknown"
    assert facts.policy is not None
    if redis_server.binary is not None:
        version = ".".join(map(str, redis_server.binary.version))
        assert (facts.product, facts.version) == (redis_server.binary.product, version)


async def test_commands_are_detected(binary: ServerBinary, start_server: StartServer) -> None:
    """Commands of newer servers are found by trying them, whatever version they report."""
    server = start_server(binary)
    (facts,) = await check(addr=server.address)
    has_deletion = binary.product == "redis" and binary.version >= (8, 2)
    assert facts.commands == ({"xackdel", "xdelex"} if has_deletion else set())
    renamed = start_server(binary, settings={"rename-command": ["XACKDEL NOTHING"]} if has_deletion else {})
    (facts,) = await check(addr=renamed.address)
    assert facts.commands == ({"xdelex"} if has_deletion else set())


async def test_notes(binary: ServerBinary, start_server: StartServer) -> None:
    """A server that writes nothing to disk will do, and it is noted."""
    (facts,) = await check(addr=start_server(binary).address)
    assert facts.has_append_only_file is False
    assert "a restart of it may lose events" in facts.notes[0]
    (facts,) = await check(addr=start_server(binary, settings={"appendonly": "yes"}).address)
    assert facts.has_append_only_file is True
    assert facts.notes == ()


@pytest.mark.parametrize("mode", ["streams", "pubsub"])
@pytest.mark.parametrize("db", [0, 2])
async def test_the_smallest_rules(
    binary: ServerBinary, start_server: StartServer, mode: Any, db: int
) -> None:
    """A user with exactly the rules that are given out can do everything, on every server, without CONFIG."""
    unknown = [] if binary.at_least((7, 2)) else ["waitaof"]
    rules = acl_rules(permissions_for(mode), prefix="shop", db=db, unknown=unknown)
    server = start_server(binary, users=[f"user app on >{SECRET} {rules}"])
    options = {"addr": server.address, "username": "app", "password": SECRET, "db": db, "mode": mode}
    (facts,) = await check(prefix="shop", **options)
    assert facts.address.port == server.port
    denied = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in server.ask("ACL", "LOG")]
    assert {entry["object"] for entry in denied} <= {"xackdel", "xdelex"}  # what it does without
    for rule in rules.split():
        if rule.startswith("+") and not rule.startswith("+client|"):
            server.ask(
                "ACL", "SETUSER", "app", "reset", "on", f">{SECRET}", *rules.replace(rule, "", 1).split()
            )
            with pytest.raises((UnfitServer, RedisFailure)):
                await check(prefix="shop", **options)


# --- servers that will not --------------------------------------------------------------------------------


EVICTING = ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-random", "volatile-ttl"]


@pytest.mark.parametrize("policy", EVICTING)
async def test_a_policy_that_deletes_events(
    binary: ServerBinary, start_server: StartServer, policy: str
) -> None:
    """A server that deletes keys to make room is refused for streams, with what to do.

    Also one that deletes only keys that expire: locks do.
    """
    server = start_server(binary, settings={"maxmemory-policy": policy})
    (problem,) = await problems_of(addr=server.address)
    assert f"(maxmemory-policy {policy})" in problem
    assert "CONFIG SET maxmemory-policy noeviction" in problem
    (facts,) = await check(addr=server.address, mode="pubsub")
    assert facts.policy == policy


async def test_a_policy_that_keeps_events(binary: ServerBinary, start_server: StartServer) -> None:
    """A server that refuses writes when its memory is full is what is wanted."""
    (facts,) = await check(addr=start_server(binary, settings={"maxmemory-policy": "noeviction"}).address)
    assert facts.policy == "noeviction"


async def test_missing_permissions(binary: ServerBinary, start_server: StartServer) -> None:
    """Everything that a user lacks is told at once, as the command that gives it, which then does."""
    rules = "~other:* resetchannels &other:* -@all +ping +info +xadd +xack +evalsha"
    server = start_server(binary, users=[f"user app on >{SECRET} {rules}"])
    options: dict[str, Any] = {"addr": server.address, "username": "app", "password": SECRET}
    (problem,) = await problems_of(**options)
    assert problem.startswith(f"the user 'app' lacks permissions at {server.address}: ACL SETUSER app ~bus:*")
    for name in ("+xreadgroup", "+xgroup|create", "+script|load", "+hmget"):
        assert f" {name}" in problem.partition(" (")[0]
    for name in (" +xadd", " +xack ", " +ping"):
        assert name not in problem.partition(" (")[0]
    for _ in range(2):  # some of it may show only when the rest is allowed
        server.ask(*problem.partition(": ")[2].partition(" (")[0].split())
        try:
            await check(**options)
        except UnfitServer as unfit:
            (problem,) = unfit.problems
        else:
            return
    await check(**options)


async def test_info_is_needed(binary: ServerBinary, start_server: StartServer) -> None:
    """Without INFO the policy cannot be known: the permission is asked for."""
    server = start_server(binary, users=[f"user app on >{SECRET} ~* &* +@all -info"])
    (problem,) = await problems_of(addr=server.address, username="app", password=SECRET)
    assert "ACL SETUSER app +info " in problem


async def test_no_config_is_needed(binary: ServerBinary, start_server: StartServer) -> None:
    """A server that denies CONFIG, as managed ones do, will do."""
    server = start_server(
        binary, users=[f"user app on >{SECRET} ~* &* +@all -config -acl -command -client -debug"]
    )
    await check(addr=server.address, username="app", password=SECRET)


async def test_commands_that_are_missing(binary: ServerBinary, start_server: StartServer) -> None:
    """A server without commands that are needed is refused, all of them named."""
    server = start_server(binary, settings={"rename-command": ["XCLAIM NOTHING1", "XPENDING NOTHING2"]})
    (problem,) = await problems_of(addr=server.address)
    assert "does not know XCLAIM, XPENDING; Redis 6.2 or newer, or Valkey" in problem


async def test_a_replica(binary: ServerBinary, start_server: StartServer) -> None:
    """A replica is refused, with the address of its primary."""
    primary = start_server(binary)
    with Replica(primary) as replica:
        (problem,) = await problems_of(addr=replica.address)
    assert f"{replica.address} is a replica, which takes no writes" in problem
    assert f"its primary is {primary.address}" in problem


async def test_kinds_of_servers(binary: ServerBinary) -> None:
    """A sentinel and a node of a cluster that are taken for a server say how they are to be configured."""
    with SentinelGroup(binary) as group:
        (problem,) = await problems_of(addr=group.addresses[0])
        assert "is a Sentinel, which stores no data; configure it under 'sentinel'" in problem
        sentinel = {"addresses": group.addresses, "service": group.service}
        (facts,) = await check(sentinel=sentinel, durability="replicated")
        assert (facts.address.port, facts.replicas) == (group.primary().port, 1)
    with Cluster(binary) as cluster:
        (problem,) = await problems_of(addr=cluster.addresses[0])
        assert "is a node of a cluster; set 'cluster: true'" in problem
        found = await check(cluster=cluster.addresses[:1])
        assert {facts.address.port for facts in found} == {server.port for server in cluster.servers}
        rules = acl_rules(permissions_for("streams"), prefix="bus", kind="cluster")
        for server in cluster.servers:
            server.ask("ACL", "SETUSER", "app", "on", f">{SECRET}", *rules.split())
        await check(cluster=cluster.addresses, username="app", password=SECRET)
        cluster.servers[1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        (problem,) = await problems_of(cluster=cluster.addresses[:1])
        assert cluster.servers[1].address in problem


# --- durability -------------------------------------------------------------------------------------------


async def test_fsync(binary: ServerBinary, start_server: StartServer) -> None:
    """Syncing each write needs the append-only file, and WAITAOF or a server that always syncs."""
    (problem,) = await problems_of(addr=start_server(binary).address, durability="fsync")
    assert "durability: fsync needs the append-only file" in problem
    server = start_server(binary, settings={"appendonly": "yes", "appendfsync": "everysec"})
    options: dict[str, Any] = {"addr": server.address, "durability": "fsync"}
    if binary.at_least((7, 2)):
        (facts,) = await check(**options)
        assert facts.fsync == "waitaof"
        rules = acl_rules(permissions_for("streams", "fsync"), prefix="bus", unknown=["waitaof"])
        server.ask("ACL", "SETUSER", "app", "on", f">{SECRET}", *rules.split())
        (problem,) = await problems_of(**options, username="app", password=SECRET)
        assert "lacks permissions" in problem
        assert "ACL SETUSER app +waitaof " in problem
        return
    (problem,) = await problems_of(**options)
    assert "it has no WAITAOF (Redis 7.2, Valkey), and its appendfsync is everysec" in problem
    server.ask("CONFIG", "SET", "appendfsync", "always")
    (facts,) = await check(**options)
    assert facts.fsync == "always"
    server.ask("ACL", "SETUSER", "app", "on", f">{SECRET}", "~*", "&*", "+@all", "-config")
    (problem,) = await problems_of(**options, username="app", password=SECRET)
    assert "its appendfsync cannot be read, for which +config|get is needed" in problem


async def test_replicated(binary: ServerBinary, start_server: StartServer) -> None:
    """Replicas are counted by what answers, and too few are refused."""
    primary = start_server(binary)
    options: dict[str, Any] = {
        "addr": primary.address,
        "durability": "replicated",
        "wait_timeout": "200ms",
    }
    (problem,) = await problems_of(**options)
    assert "waits for 1 replicas, and at" in problem
    assert "0 answered (0 connected); add replicas, or lower 'replicas'" in problem
    with Replica(primary) as replica:
        (facts,) = await check(**options)
        assert facts.replicas == 1
        (problem,) = await problems_of(**options, replicas=2)
        assert "1 answered (1 connected)" in problem
        replica.pause()
        primary.ask("SET", "x", 1)
        (problem,) = await problems_of(**options)
        assert "0 answered (1 connected)" in problem


# --- together, and when it fails --------------------------------------------------------------------------


async def test_everything_at_once(binary: ServerBinary, start_server: StartServer) -> None:
    """All that is wrong with a server comes in one answer."""
    server = start_server(
        binary,
        settings={"maxmemory-policy": "allkeys-lru", "rename-command": ["XTRIM NOTHING"]},
        users=[f"user app on >{SECRET} ~bus:* &* +@all -xdel -zadd"],
    )
    found = await problems_of(
        addr=server.address, username="app", password=SECRET, durability="replicated", wait_timeout="100ms"
    )
    assert len(found) == 4
    assert any("+xdel +zadd" in problem for problem in found)


async def test_a_connection_that_breaks(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A check that is cut off says so, rather than that the server lacks anything."""
    proxy = start_proxy(start_server())
    proxy.use(CutAtReply("XGROUP"))
    with pytest.raises(RedisFailure) as caught:
        await check(addr=proxy.address)
    assert caught.value.kind is Kind.LOST


async def test_a_full_server(binary: ServerBinary, start_server: StartServer) -> None:
    """A server that has no memory left at the moment is not unfit."""
    server = start_server(binary, settings={"maxmemory": 1, "maxmemory-policy": "noeviction"})
    await check(addr=server.address)


def test_the_rules_of_the_documentation() -> None:
    """The README gives the rules that the checks find to be the smallest."""
    text = README.read_text(encoding="utf-8")
    users: dict[str, Literal["streams", "pubsub"]] = {"bus": "streams", "bus-pubsub": "pubsub"}
    for user, mode in users.items():
        (given,) = re.findall(rf"ACL SETUSER {user} on >password (.*?)\n```", text, re.DOTALL)
        assert given.split() == acl_rules(permissions_for(mode), prefix="bus").split()
    durabilities: tuple[Literal["fsync", "replicated"], ...] = ("fsync", "replicated")
    for durability in durabilities:
        more = {item.name for item in permissions_for("streams", durability)} - {
            item.name for item in permissions_for("streams")
        }
        assert all(f"`+{name}`" in text for name in more)


def test_info_is_read() -> None:
    """INFO is read by name, whatever else is in it."""
    assert parse_info(b"# Server\r\nredis_version:7.0.15\r\n\r\nodd line\r\nconfig_file:/a:b\r\n") == {
        "redis_version": "7.0.15",
        "config_file": "/a:b",
    }
