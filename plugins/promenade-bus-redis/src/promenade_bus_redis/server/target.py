"""Joins ``bus.redis`` and ``database.redis`` into one target, and checks what depends on several options."""

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
    """Where the adapter connects, and as whom.

    ``addresses`` are the server, or the sentinels, or the nodes of the cluster to begin with. Credentials
    are not shown.
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
    """Every fault of options that are sound one by one, and of the foreign section, with its path.

    Without options, because they are not sound, those of the foreign section.
    """
    faults: list[str] = []
    if options is None:
        _read_foreign(sections, faults)
    else:
        _resolve(options, sections, faults)
        faults += _misfits(options)
    return faults


def resolve_target(options: RedisOptions, sections: Mapping[str, Any]) -> Target:
    """Where to connect; raises ``ValueError`` for options that ``check_options`` finds fault with."""
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
    # A URL without credentials means a server without: it does not get those of the application's server.
    inherited = DatabaseSection() if url is not None else foreign
    username = _first(url.username if url else None, options.username, inherited.username)
    password = _first(url.password if url else None, options.password, inherited.password)
    db, db_path = _database(options, foreign)
    if kind == "cluster" and db:
        faults.append(f"a cluster has the database 0 only, got {db} @ {db_path}")
    if addresses[0].path and kind == "cluster":
        faults.append(f"a cluster is reached by host:port, not by a socket @ {_address_path(options)}")
    if addresses[0].path and tls is not None:
        faults.append(f"there is no TLS over a Unix socket; remove 'tls' @ {_address_path(options)}")
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
    """The number of the database, and where it is said."""
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
    """Places that are named twice."""
    url = options.url
    if options.sentinel is not None and options.cluster:
        yield f"'sentinel' and 'cluster' exclude each other @ {_OWN}"
    if url is not None:
        if options.addr is not None:
            yield f"the server is named by 'url' and by 'addr'; remove one @ {_OWN}.addr"
        pairs = (("username", url.username), ("password", url.password), ("db", url.db))
        for name, value in pairs:
            if value is not None and getattr(options, name) is not None:
                yield f"{name!r} is part of 'url' as well; remove one @ {_OWN}.{name}"
        if url.has_tls and options.tls is False:
            yield f"the URL asks for TLS and 'tls' refuses it; remove one @ {_OWN}.tls"
    for name in ("url", "addr"):
        if getattr(options, name) is None:
            continue
        if options.sentinel is not None:
            yield f"the sentinels tell where the server is; remove {name!r} @ {_OWN}.{name}"
        elif options.cluster and options.cluster is not True:
            yield f"the nodes of the cluster are listed by 'cluster'; remove {name!r} @ {_OWN}.{name}"


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
    """Times and durability that do not go together."""

    def shown(seconds: float) -> str:
        return format_duration(seconds)

    beat = options.heartbeat_interval
    if options.lease < 3 * beat:
        yield (
            f"a lease of {shown(options.lease)} is renewed every {shown(beat)}: it must be at least three "
            f"heartbeats, {shown(3 * beat)}, so that one that is late loses nothing @ {_OWN}.lease"
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
            f"'replicas' counts for durability: replicated only, and that is {options.durability!r} @ "
            f"{_OWN}.replicas"
        )
    if options.durability == "server":
        if options.wait_timeout is not None:
            yield f"'wait_timeout' has no use for durability: server @ {_OWN}.wait_timeout"
    elif options.wait_seconds >= options.command_timeout:
        yield (
            f"must be shorter than command_timeout, {shown(options.command_timeout)}, got "
            f"{shown(options.wait_seconds)} @ {_OWN}.wait_timeout"
        )
    if options.mode == "pubsub" and options.durability != "server":
        yield (
            f"mode: pubsub stores nothing, so that durability: {options.durability} cannot be kept @ "
            f"{_OWN}.durability"
        )
