"""The checks of a server when the bus starts: by its behaviour, not by its version.

All problems are reported together. They check commands and permissions, and that the server is a primary of
the configured kind. It must not delete events when memory is full, and must provide the requested durability.
They read INFO, and not CONFIG, which managed servers deny. The only exception is durability ``fsync`` on a
server without WAITAOF.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import attrs

from bus_core import AdapterError
from bus_core.runtime import printable
from promenade_bus_redis.addresses import Address
from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.server.connections import Connections
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.link import Link
from promenade_bus_redis.server.permissions import acl_rules, permissions_for
from promenade_bus_redis.server.target import Target

__all__ = [
    "ServerFacts",
    "UnfitServer",
    "check_servers",
    "check_store_servers",
    "evicts_keys",
    "is_replica",
    "parse_info",
]

_KEEPS_ALL_KEYS: Final = "noeviction"
_MOST_NODES: Final = 1_000
_LONGEST: Final = 200


class UnfitServer(AdapterError):
    """The server does not meet the requirements; ``problems`` lists all of them, each with its remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"the Redis server does not meet the requirements:{lines}")


@attrs.frozen(kw_only=True)
class ServerFacts:
    """The facts of a checked server.

    ``commands`` are its optional commands, by their ACL names. ``policy`` is None if the server does not
    report it. ``fsync`` is the method for durability ``fsync``: ``waitaof`` after each batch, or a server
    that syncs ``always``; None if not requested. ``replicas`` is the number of connected replicas. ``notes``
    are hints that are no reason to refuse the server.
    """

    address: Address
    product: str = "redis"
    version: str = "unknown"
    commands: frozenset[str] = frozenset()
    policy: str | None = None
    has_append_only_file: bool = False
    fsync: Literal["waitaof", "always"] | None = None
    replicas: int = 0
    notes: tuple[str, ...] = ()


async def check_servers(
    connections: Connections, options: RedisOptions, target: Target
) -> tuple[ServerFacts, ...]:
    """Checks every server that takes writes.

    Raises ``RedisFailure`` if one cannot be reached, and ``UnfitServer`` with all problems.
    """
    addresses = await connections.topology.primaries()
    checks = [_Check(connections, options, target, address) for address in addresses]
    facts = await asyncio.gather(*(check.run() for check in checks))
    _refuse(checks)
    return tuple(facts)


async def check_store_servers(connections: Connections, options: RedisOptions, target: Target) -> None:
    """Checks every server that takes writes for the store: its kind, and that it deletes nothing.

    Raises ``RedisFailure`` if one cannot be reached, and ``UnfitServer`` with all problems.
    """
    addresses = await connections.topology.primaries()
    checks = [_Check(connections, options, target, address) for address in addresses]
    await asyncio.gather(*(check.run_for_store() for check in checks))
    _refuse(checks)


def _refuse(checks: Iterable[_Check]) -> None:
    problems = [problem for check in checks for problem in check.problems]
    if problems:
        raise UnfitServer(list(dict.fromkeys(problems)))


def parse_info(reply: bytes) -> dict[str, str]:
    """Returns the lines ``name:value`` of INFO, safe to print."""
    lines = reply.decode("utf-8", "replace").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
    return {name: printable(value, _LONGEST) for name, value in pairs}


def is_replica(info: Mapping[str, str]) -> bool:
    """Returns True if INFO describes a replica."""
    return info.get("role") == "slave"


def evicts_keys(policy: str | None) -> bool:
    """Returns True if a server with this maxmemory-policy deletes keys when its memory is full.

    Policies that delete only expiring keys are harmful, too. Locks expire, and so do events that are redriven
    to one instance of a broadcast subscription. All keys of the store expire.
    """
    return policy is not None and policy != _KEEPS_ALL_KEYS


class _Check:
    """The checks of one server."""

    def __init__(
        self, connections: Connections, options: RedisOptions, target: Target, address: Address
    ) -> None:
        self._connections = connections
        self._options = options
        self._target = target
        self._address = address
        self._permissions = permissions_for(options.mode, options.durability)
        self._forbidden: list[str] = []
        self.problems: list[str] = []

    async def run(self) -> ServerFacts:
        waits = self._options.wait_seconds if self._options.durability != "server" else 0.0
        link = await self._connections.open_to(self._address, purpose="check", blocks=waits)
        link.stays = True  # to report all problems
        try:
            return await self._examine(link)
        finally:
            link.abort()

    async def run_for_store(self) -> None:
        link = await self._connections.open_to(self._address, purpose="check")
        try:
            info = await self._info(link)
        finally:
            link.abort()
        if self._check_kind(info):
            self._check_policy(info.get("maxmemory_policy"), "marks and token buckets of middleware")

    async def _examine(self, link: Link) -> ServerFacts:
        info = await self._info(link)
        is_primary = self._check_kind(info)
        policy = info.get("maxmemory_policy")
        notes: list[str] = []
        commands: set[str] = set()
        fsync: Literal["waitaof", "always"] | None = None
        if is_primary:
            commands = await self._try_commands(link)
        if is_primary and self._options.mode == "streams":
            self._check_policy(policy, "events that were accepted, or locks")
            notes += _notes(info)
            if self._options.durability == "replicated":
                await self._check_replicas(link, info)
            elif self._options.durability == "fsync":
                fsync = await self._check_fsync(link, info, commands)
        return ServerFacts(
            address=self._address,
            product="valkey" if "valkey_version" in info else "redis",
            version=info.get("valkey_version") or info.get("redis_version") or "unknown",
            commands=frozenset(commands),
            policy=policy,
            has_append_only_file=info.get("aof_enabled") == "1",
            fsync=fsync,
            replicas=int(info.get("connected_slaves", "0")),
            notes=tuple(notes),
        )

    async def _info(self, link: Link) -> Mapping[str, str]:
        """Returns INFO, or nothing if it is forbidden, which the permission check reports."""
        reply = (await link.call_many([("INFO",)]))[0]
        if not isinstance(reply, RedisFailure):
            return parse_info(reply)
        if reply.kind in (Kind.FORBIDDEN, Kind.UNKNOWN_COMMAND):
            return {}
        raise reply

    # --- what it is ---------------------------------------------------------------------------------------

    def _check_kind(self, info: Mapping[str, str]) -> bool:
        """Returns True if the server is of the configured kind and takes writes."""
        if "sentinel" in (info.get("redis_mode"), info.get("server_mode")):  # Redis, Valkey
            self._add(
                f"{self._address} is a Sentinel, which stores no data; configure it under 'sentinel', with "
                "the 'service' that it monitors"
            )
            return False
        if info.get("cluster_enabled") == "1" and self._target.kind != "cluster":
            self._add(f"{self._address} is a node of a cluster; set 'cluster: true'")
            return False
        if is_replica(info):
            primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
            self._add(f"{self._address} is a replica, which takes no writes; its primary is {primary}")
            return False
        return True

    def _check_policy(self, policy: str | None, loses: str) -> None:
        if evicts_keys(policy):
            self._add(
                f"{self._address} deletes keys when its memory is full (maxmemory-policy {policy}), and so "
                f"loses {loses}; set it to noeviction (CONFIG SET maxmemory-policy noeviction, or the "
                "parameter of a managed server), or use a server of the bus's own"
            )

    # --- durability ---------------------------------------------------------------------------------------

    async def _check_replicas(self, link: Link, info: Mapping[str, str]) -> None:
        """Checks WAIT, which concerns the earlier writes of this connection: the tried commands."""
        wanted = self._options.wanted_replicas
        reply = (await link.call_many([("WAIT", wanted, int(self._options.wait_seconds * 1000))]))[0]
        if isinstance(reply, RedisFailure):
            if reply.kind is not Kind.FORBIDDEN:
                raise reply
            return  # reported as a permission
        if reply < wanted:
            connected = info.get("connected_slaves", "an unknown number")
            self._add(
                f"durability: replicated waits for {wanted} replicas, and at {self._address} {reply} "
                f"answered ({connected} connected); add replicas, or lower 'replicas'"
            )

    async def _check_fsync(
        self, link: Link, info: Mapping[str, str], commands: set[str]
    ) -> Literal["waitaof", "always"] | None:
        if info.get("aof_enabled") == "0":
            self._add(
                f"durability: fsync needs the append-only file, and {self._address} has none; set "
                "'appendonly yes' there"
            )
            return None
        if "waitaof" in commands:
            return "waitaof"
        if "+waitaof" in self._forbidden:
            return None  # reported as a permission
        reply = (await link.call_many([("CONFIG", "GET", "appendfsync")]))[0]
        setting = None if isinstance(reply, RedisFailure) or len(reply) != 2 else reply[1].decode()
        if setting == "always":
            return "always"
        known = (
            f"its appendfsync is {setting}"
            if setting
            else "its appendfsync cannot be read, for which +config|get is needed"
        )
        self._add(
            f"durability: fsync cannot be kept at {self._address}: it has no WAITAOF (Redis 7.2, Valkey), "
            f"and {known}; set 'appendfsync always', or use a newer server"
        )
        return None

    # --- commands and permissions -------------------------------------------------------------------------

    async def _try_commands(self, link: Link) -> set[str]:
        """Returns the optional commands of the server; reports all missing and forbidden commands."""
        place = await self._unused_place()
        every = f"{self._options.prefix}:*"
        attempts = [item.fill(place, place, every) for item in self._permissions]
        replies = await link.call_many(attempts)
        found: set[str] = set()
        unknown: list[str] = []
        forbidden = self._forbidden
        patterns: list[str] = []
        for item, reply in zip(self._permissions, replies, strict=True):
            kind = reply.kind if isinstance(reply, RedisFailure) else None
            if kind is Kind.UNKNOWN_COMMAND:
                unknown.append(item.name)
            elif kind is Kind.FORBIDDEN:
                if reply.detail.startswith("the keys"):
                    sign = "&" if item.is_about_channels else "~"
                    patterns.append(f"{sign}{self._options.prefix}:*")
                elif item.is_needed:
                    forbidden.append(f"+{item.name}")
            elif isinstance(reply, RedisFailure) and reply.ends_connection:
                raise reply
            elif item.is_newer:
                found.add(item.name)
        self._report(unknown, forbidden, patterns)
        return found

    async def _unused_place(self) -> str:
        """Returns an unused key that this server would store."""
        place = ""
        for _ in range(_MOST_NODES * 10):
            place = f"{self._options.prefix}:check-{secrets.token_hex(8)}"
            if self._target.kind != "cluster":
                break
            if await self._connections.topology.find(place) == self._address:
                break
        return place

    def _report(self, unknown: list[str], forbidden: list[str], patterns: list[str]) -> None:
        newer = {item.name for item in self._permissions if item.is_newer}
        if missing := [name.upper().replace("|", " ") for name in unknown if name not in newer]:
            self._add(
                f"{self._address} does not know {', '.join(missing)}; Redis 6.2 or newer, or Valkey, is "
                "needed"
            )
        if forbidden or patterns:
            target = self._target
            user = target.username or "default"
            lacking = " ".join(dict.fromkeys([*patterns, *forbidden]))
            rules = acl_rules(
                self._permissions,
                prefix=self._options.prefix,
                kind=target.kind,
                db=target.db,
                unknown=unknown,
            )
            self._add(
                f"the user {user!r} lacks permissions at {self._address}: ACL SETUSER {user} {lacking} (the "
                f"smallest rules that will do: {rules})"
            )

    def _add(self, problem: str) -> None:
        self.problems.append(problem)


def _notes(info: Mapping[str, str]) -> list[str]:
    if info.get("aof_enabled") == "0":
        return [
            "the server has no append-only file: a restart of it may lose events that were accepted since "
            "its last snapshot"
        ]
    return []
