"""Joins ``bus.redis`` and ``database.redis`` into one target, and checks combinations of options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import attrs

from bus_core.config import Secret, format_duration, read_settings
from promenade_bus_redis.addresses import DEFAULT_PORT, Address
from promenade_bus_redis.config import DatabaseSection, RedisOptions, TlsOptions

__all__ = ["SECTION", "Target", "check_options", "resolve_target"]

SECTION: Final = "database.redis"

_OWN: Final = "$.bus.redis"
_FOREIGN: Final = "$.database.redis"
_DEFAULT_ADDRESS: Final = Address("localhost", DEFAULT_PORT)
_DEFAULT_POOL_SIZE: Final = 10


@attrs.frozen(kw_only=True)
class Target:
    """The servers and the credentials of the adapter.

    ``addresses`` has the server, the sentinels, or some nodes of the cluster. Credentials are not shown.
    """

    kind: Literal["standalone", "sentinel", "cluster"] = "standalone"
    addresses: tuple[Address, ...] = (_DEFAULT_ADDRESS,)
    username: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default=Secret(""), repr=False)
    db: int = 0
    tls: TlsOptions | None = None
    pool_size: int = _DEFAULT_POOL_SIZE
    service: str = ""
    sentinel_username: str = attrs.field(default="", repr=False)
    sentinel_password: str = attrs.field(default=Secret(""), repr=False)
    sentinel_tls: bool = False

    def __str__(self) -> str:
        places = ", ".join(map(str, self.addresses))
        if self.kind == "sentinel":
            return f"the primary of {self.service!r}, as the sentinels at {places} know it"
        return f"the cluster at {places}" if self.kind == "cluster" else f"the server at {places}"


def check_options(options: RedisOptions | None, sections: Mapping[str, Any]) -> list[str]:
    """Returns faults in combinations of options, and in the foreign section, each with its path.

    ``options`` is None if single options have faults; then only the foreign section is checked.
    """
    faults: list[str] = []
    if options is None:
        _read_foreign(sections, faults)
    else:
        _resolve(options, sections, faults)
        faults += _misfits(options)
    return faults


def resolve_target(options: RedisOptions, sections: Mapping[str, Any]) -> Target:
    """Returns the target; raises ``ValueError`` for options that ``check_options`` rejects."""
    faults = check_options(options, sections)
    if faults:
        raise ValueError("; ".join(faults))
    return _resolve(options, sections, [])


def _resolve(options: RedisOptions, sections: Mapping[str, Any], faults: list[str]) -> Target:
    foreign = _read_foreign(sections, faults)
    faults += _place_faults(options)
    url = options.url
    tls = _tls(options, foreign, faults)
    kind: Literal["standalone", "sentinel", "cluster"] = "standalone"
    addresses: tuple[Address, ...] = (
        (url.address if url else options.addr) or foreign.addr or _DEFAULT_ADDRESS,
    )
    if options.sentinel is not None:
        kind, addresses = "sentinel", options.sentinel.addresses
    elif options.cluster:
        kind = "cluster"
        addresses = options.cluster if isinstance(options.cluster, tuple) else addresses
    # A URL without credentials means a server without; it does not get those of the application's server.
    inherited = DatabaseSection() if url is not None else foreign
    username = _first(url.username if url else None, options.username, inherited.username)
    password = _first(url.password if url else None, options.password, inherited.password)
    db, db_path = _database(options, foreign)
    if kind == "cluster" and db:
        faults.append(f"a cluster has only the database 0, got {db} @ {db_path}")
    if addresses[0].path and kind == "cluster":
        faults.append(f"a cluster is reached by host:port, not by a socket @ {_address_path(options)}")
    if addresses[0].path and tls is not None:
        faults.append(f"a Unix socket has no TLS; remove 'tls' @ {_address_path(options)}")
    if username and not password:
        faults.append(f"a username without a password; the password is empty or missing @ {_OWN}")
    sentinel = options.sentinel
    return Target(
        kind=kind,
        addresses=addresses,
        username=username or "",
        password=Secret(password or ""),
        db=db,
        tls=tls,
        pool_size=options.pool_size or foreign.pool_size or _DEFAULT_POOL_SIZE,
        service=sentinel.service if sentinel else "",
        sentinel_username=(sentinel.username or "") if sentinel else "",
        sentinel_password=Secret((sentinel and sentinel.password) or ""),
        sentinel_tls=sentinel is not None and (tls is not None if sentinel.tls is None else sentinel.tls),
    )


def _read_foreign(sections: Mapping[str, Any], faults: list[str]) -> DatabaseSection:
    section = sections.get(SECTION)
    read = read_settings(DatabaseSection, section, _FOREIGN, faults, ignore_unknown=True)
    return read or DatabaseSection()


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)


def _database(options: RedisOptions, foreign: DatabaseSection) -> tuple[int, str]:
    """Returns the number of the database and its path in the configuration."""
    if options.url is not None and options.url.db is not None:
        return options.url.db, f"{_OWN}.url"
    if options.db is not None:
        return options.db, f"{_OWN}.db"
    return foreign.databases or 0, f"{_FOREIGN}.databases.bus"


def _address_path(options: RedisOptions) -> str:
    if options.url is not None:
        return f"{_OWN}.url"
    return f"{_OWN}.addr" if options.addr is not None else f"{_FOREIGN}.addr"


def _place_faults(options: RedisOptions) -> Iterator[str]:
    """Yields faults for servers that are configured twice."""
    url = options.url
    if options.sentinel is not None and options.cluster:
        yield f"use either 'sentinel' or 'cluster', not both @ {_OWN}"
    if url is not None:
        if options.addr is not None:
            yield f"'url' and 'addr' both set the server; remove one @ {_OWN}.addr"
        pairs = (("username", url.username), ("password", url.password), ("db", url.db))
        for name, value in pairs:
            if value is not None and getattr(options, name) is not None:
                yield f"{name!r} and 'url' both set this; remove one @ {_OWN}.{name}"
        if url.has_tls and options.tls is False:
            yield f"the URL enables TLS and 'tls' disables it; remove one @ {_OWN}.tls"
    for name in ("url", "addr"):
        if getattr(options, name) is None:
            continue
        if options.sentinel is not None:
            yield f"the sentinels name the server; remove {name!r} @ {_OWN}.{name}"
        elif options.cluster and options.cluster is not True:
            yield f"'cluster' lists the nodes; remove {name!r} @ {_OWN}.{name}"


def _tls(options: RedisOptions, foreign: DatabaseSection, faults: list[str]) -> TlsOptions | None:
    given, path = options.tls, f"{_OWN}.tls"
    if given is None and options.url is not None:
        return TlsOptions() if options.url.has_tls else None
    if given is None:
        given, path = foreign.tls, f"{_FOREIGN}.tls"
    tls = given if isinstance(given, TlsOptions) else TlsOptions() if given else None
    if tls is not None:
        if tls.key_file and not tls.cert_file:
            faults.append(f"'key_file' without 'cert_file' @ {path}.key_file")
        if tls.verify == "none" and tls.ca_file:
            faults.append(f"'ca_file' without verification; remove one of the two @ {path}.verify")
        if tls.verify != "full" and tls.server_name:
            faults.append(f"'server_name' is not checked unless 'verify' is full @ {path}.server_name")
    return tls


def _misfits(options: RedisOptions) -> Iterator[str]:
    """Yields faults for times and durability that do not fit together."""

    def shown(seconds: float) -> str:
        return format_duration(seconds)

    beat = options.heartbeat_interval
    if options.lease < 3 * beat:
        yield (
            f"a lease of {shown(options.lease)} is renewed every {shown(beat)}: it must be at least three "
            f"heartbeats, {shown(3 * beat)}, so that a late one loses nothing @ {_OWN}.lease"
        )
    retention = options.retention
    if retention.min_age < 2 * options.topic_refresh:
        yield (
            f"patterns notice a new topic within topic_refresh ({shown(options.topic_refresh)}); keep events "
            f"at least twice as long, {shown(2 * options.topic_refresh)} @ {_OWN}.retention.min_age"
        )
    if retention.unsubscribed_max_age < retention.min_age:
        yield (
            f"must not be shorter than min_age, {shown(retention.min_age)} @ "
            f"{_OWN}.retention.unsubscribed_max_age"
        )
    if options.replicas is not None and options.durability != "replicated":
        yield (
            f"'replicas' applies only to durability: replicated, got durability {options.durability!r} @ "
            f"{_OWN}.replicas"
        )
    if options.durability == "server":
        if options.wait_timeout is not None:
            yield f"'wait_timeout' does not apply to durability: server @ {_OWN}.wait_timeout"
    elif options.wait_seconds >= options.command_timeout:
        yield (
            f"must be shorter than command_timeout, {shown(options.command_timeout)}, got "
            f"{shown(options.wait_seconds)} @ {_OWN}.wait_timeout"
        )
    if options.mode == "pubsub" and options.durability != "server":
        yield (
            f"mode: pubsub stores nothing and cannot provide durability: {options.durability} @ "
            f"{_OWN}.durability"
        )
