"""The options of the sections ``bus.redis`` and ``database.redis``.

Combinations of options are checked in ``target``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import attrs

from bus_core.config import DURATION, SECRET, UNREADABLE, Reader, Secret
from promenade_bus_redis.addresses import Address, RedisUrl, parse_address, parse_url

__all__ = [
    "DatabaseSection",
    "ProbeOptions",
    "PubsubOptions",
    "RedisOptions",
    "RetentionOptions",
    "SentinelOptions",
    "StoreOptions",
    "TlsOptions",
]

T = TypeVar("T")

Durability = Literal["server", "fsync", "replicated"]


def _read_address(value: Any, path: str, faults: list[str]) -> Address | None:
    return _read_text(value, path, faults, parse_address, Address, "host:port or the path of a socket")


def _read_sentinel_address(value: Any, path: str, faults: list[str]) -> Address | None:
    address = _read_text(
        value, path, faults, lambda text: parse_address(text, default_port=26379), Address, "host:port"
    )
    if address is not None and address.path:
        faults.append(f"expected host:port, got the path of a socket @ {path}")
    return address


def _read_url(value: Any, path: str, faults: list[str]) -> RedisUrl | None:
    return _read_text(value, path, faults, parse_url, RedisUrl, "a URL such as redis://host:6379/0")


def _read_text(
    value: object, path: str, faults: list[str], parse: Callable[[str], T], kind: type[T], expected: str
) -> T | None:
    if value is None:
        return None
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        if value is not UNREADABLE:
            faults.append(f"expected {expected}, as a text @ {path}")
        return None
    try:
        return parse(value)
    except ValueError as error:
        faults.append(f"{error} @ {path}")
        return None


def _read_addresses(value: Any, path: str, faults: list[str], read: Any) -> tuple[Address, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not value:
        if value is not UNREADABLE:
            faults.append(f"expected a list of host:port @ {path}")
        return ()
    found = [read(item, f"{path}[{index}]", faults) for index, item in enumerate(value)]
    return tuple(dict.fromkeys(address for address in found if address is not None))


def _read_sentinels(value: Any, path: str, faults: list[str]) -> tuple[Address, ...]:
    return _read_addresses(value, path, faults, _read_sentinel_address)


def _read_cluster(value: Any, path: str, faults: list[str]) -> bool | tuple[Address, ...]:
    if value is None or isinstance(value, bool):
        return bool(value)
    before = len(faults)
    seeds = _read_addresses(value, path, faults, _read_address)
    if len(faults) == before and any(seed.path for seed in seeds):
        faults.append(f"a cluster is reached by host:port, not by the path of a socket @ {path}")
    return seeds


def _render_address(value: Address | None) -> str | None:
    return None if value is None else str(value)


def _render_addresses(value: bool | tuple[Address, ...]) -> bool | list[str]:
    return value if isinstance(value, bool) else [str(address) for address in value]


def _named(pattern: str, what: str) -> Any:
    """Returns a validator for names in keys, where some characters have a meaning."""
    expression = re.compile(pattern)

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
        if value is not None and not expression.fullmatch(value):
            shown = value if len(value) <= 60 else value[:57] + "..."
            raise ValueError(f"{attribute.name} must be {what}, got {shown!r}")

    return check


_KEY_NAME = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}"
_KEY_NAME_WORDS = "1 to 64 letters, digits or any of . _ : - (no braces, spaces or globs)"


def _secret(value: str | None) -> Secret | None:
    return None if value is None else Secret(value)


@attrs.frozen(kw_only=True)
class TlsOptions:
    """The options for TLS. ``ca_file`` has the trusted authorities, by default those of the system.

    ``verify``: ``full`` checks the certificate and its host name, ``ca`` only the certificate, and ``none``
    nothing, which gives no protection against an active attacker. ``server_name`` is the expected name if it
    is not the host. ``cert_file`` and ``key_file`` are the client's certificate in PEM.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: Annotated[str | None, SECRET] = attrs.field(default=None, converter=_secret)
    verify: Literal["full", "ca", "none"] = "full"
    server_name: str | None = None


@attrs.frozen(kw_only=True)
class SentinelOptions:
    """The sentinels that know the primary of ``service``, with their own credentials."""

    addresses: Annotated[tuple[Address, ...], Reader(_read_sentinels, _render_addresses)]
    service: str = attrs.field(validator=_named(r"[A-Za-z0-9._-]{1,100}", "the name of a monitored primary"))
    username: str | None = None
    password: Annotated[str | None, SECRET] = attrs.field(default=None, converter=_secret)
    tls: bool | None = None
    """True if the sentinels use TLS; None means the same as the servers."""


@attrs.frozen(kw_only=True)
class RetentionOptions:
    """The retention of events. Unsettled events are never removed, except by ``max_length``.

    Settled events are kept for ``min_age``, and events of topics without a subscription for
    ``unsubscribed_max_age``. ``max_length`` is a hard limit per topic: the oldest events are removed whatever
    their state, and unread ones count as lost. Dead letters are kept until they are redriven or purged, or
    for ``dead_letters_max_age``. A group that no instance has served for ``orphaned_after`` is reported,
    because it keeps events for ever.
    """

    min_age: Annotated[float, DURATION] = 3_600.0
    unsubscribed_max_age: Annotated[float, DURATION] = 7 * 86_400.0
    max_length: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    dead_letters_max_age: Annotated[float | None, DURATION] = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(0))
    )
    orphaned_after: Annotated[float, DURATION] = attrs.field(
        default=86_400.0, validator=attrs.validators.gt(0)
    )


_POSITIVE: Any = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class PubsubOptions:
    """The options of ``mode: pubsub``.

    - ``buffer``: the maximum size in bytes of events that wait in this process for one subscription; further
      events are dropped and counted as missed.
    - ``announce``: the time after its last event on a topic at which an idle publisher announces the event's
      number. Subscribers detect missed events by it. It is repeated after twice that time, four times, and so
      on.
    - ``dead_letters``: the number of dead letters kept in this process; when full, the oldest is removed and
      counted as lost.
    """

    buffer: int = attrs.field(default=16 * 1024 * 1024, validator=attrs.validators.ge(1024))
    announce: Annotated[float, DURATION] = attrs.field(
        default=1.0, validator=[_POSITIVE, attrs.validators.le(60.0)]
    )
    dead_letters: int = attrs.field(default=10_000, validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class RedisOptions:
    """The section ``bus.redis``. Options of the connection that are None are taken from ``database.redis``.

    - Server: ``url``, or ``addr`` with ``username``, ``password``, ``db``; ``tls``; ``sentinel`` or
      ``cluster`` (true, or a list of some nodes). ``pool_size`` limits the connections, besides publishing
      and blocking reads.
    - ``mode``: ``streams`` stores events; ``pubsub`` passes them to current subscribers and may drop them.
      ``pubsub`` has the options of that mode.
    - ``prefix`` is the prefix of every key. ``consumer`` is the name of this instance, by default host,
      process
      and a random part.
    - ``lease``: the time without a heartbeat after which others may claim the events of an instance; renewed
      every ``heartbeat``, by default a sixth of it.
    - ``block``: the longest wait of one blocking read. ``connect_timeout`` limits connecting, including
      authentication; ``command_timeout`` limits the reply to any other command.
    - ``durability``: ``publish`` waits for the server, its disk (``fsync``), or ``replicas`` replicas;
      ``wait_timeout`` limits the wait for the disk and for replicas.
    - ``topic_refresh``: the longest time until a pattern detects a new topic.
    """

    mode: Literal["streams", "pubsub"] = "streams"

    url: Annotated[RedisUrl | None, Reader(_read_url, _render_address)] = None
    addr: Annotated[Address | None, Reader(_read_address, _render_address)] = None
    username: str | None = None
    password: Annotated[str | None, SECRET] = attrs.field(default=None, converter=_secret)
    db: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(0)))
    pool_size: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    tls: bool | TlsOptions | None = None
    sentinel: SentinelOptions | None = None
    cluster: Annotated[bool | tuple[Address, ...], Reader(_read_cluster, _render_addresses)] = False

    prefix: str = attrs.field(default="bus", validator=_named(_KEY_NAME, _KEY_NAME_WORDS))
    consumer: str | None = attrs.field(default=None, validator=_named(_KEY_NAME, _KEY_NAME_WORDS))

    lease: Annotated[float, DURATION] = attrs.field(default=30.0, validator=_POSITIVE)
    heartbeat: Annotated[float | None, DURATION] = attrs.field(
        default=None, validator=attrs.validators.optional(_POSITIVE)
    )
    block: Annotated[float, DURATION] = attrs.field(
        default=2.0, validator=[attrs.validators.ge(0.01), attrs.validators.le(60.0)]
    )
    connect_timeout: Annotated[float, DURATION] = attrs.field(default=5.0, validator=_POSITIVE)
    command_timeout: Annotated[float, DURATION] = attrs.field(default=5.0, validator=_POSITIVE)

    durability: Durability = "server"
    replicas: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    wait_timeout: Annotated[float | None, DURATION] = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(0.001))
    )

    retention: RetentionOptions = attrs.field(factory=RetentionOptions)
    pubsub: PubsubOptions = attrs.field(factory=PubsubOptions)
    topic_refresh: Annotated[float, DURATION] = attrs.field(
        default=5.0, validator=[attrs.validators.ge(0.01), attrs.validators.le(60.0)]
    )

    @property
    def heartbeat_interval(self) -> float:
        """The time in seconds between two heartbeats."""
        return self.lease / 6 if self.heartbeat is None else self.heartbeat

    @property
    def wanted_replicas(self) -> int:
        """The number of replicas that must have an event before it is accepted; 0 unless ``replicated``."""
        return (self.replicas or 1) if self.durability == "replicated" else 0

    @property
    def wait_seconds(self) -> float:
        """The time limit for disks and replicas before an event is accepted.

        The default is longer than the second or two that a disk takes with ``appendfsync everysec``.
        """
        return 3.0 if self.wait_timeout is None else self.wait_timeout


@attrs.frozen(kw_only=True)
class StoreOptions:
    """The store has no options: ``bus.redis`` and ``database.redis`` name the server and the prefix."""


def _share(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} must be above 0 and at most 1, got {value!r}")


@attrs.frozen(kw_only=True)
class ProbeOptions:
    """The thresholds of the health probe ``redis``. Times are seconds.

    - ``slow``: degraded when PING takes that long.
    - ``read_age``: unhealthy when no read has succeeded for that long although no handler runs.
    - ``pending_age``: degraded when an event that was stored that long ago is not settled.
    - ``lag``: degraded when so many events wait for one group.
    - ``memory_fill``: degraded from this share of the server's ``maxmemory`` on.
    - ``loss_window``: unhealthy for that long after the server lost groups or all of its data, and degraded
      from then on.
    """

    slow: Annotated[float, DURATION] = attrs.field(default=0.1, validator=_POSITIVE)
    read_age: Annotated[float, DURATION] = attrs.field(default=30.0, validator=_POSITIVE)
    pending_age: Annotated[float, DURATION] = attrs.field(default=600.0, validator=_POSITIVE)
    lag: int = attrs.field(default=10_000, validator=_POSITIVE)
    memory_fill: float = attrs.field(default=0.9, validator=_share)
    loss_window: Annotated[float, DURATION] = attrs.field(default=60.0, validator=_POSITIVE)


def _read_databases(value: Any, path: str, faults: list[str]) -> int | None:
    """``{bus: 1}``; the other names are other users' business."""
    if not isinstance(value, Mapping):
        if value is not None and value is not UNREADABLE:
            faults.append(f"expected a mapping of names to databases @ {path}")
        return None
    number = value.get("bus")
    if number is None or number is UNREADABLE:
        return None
    if type(number) is not int or number < 0:
        faults.append(f"expected the number of a database @ {path}.bus")
        return None
    return number


@attrs.frozen(kw_only=True)
class DatabaseSection:
    """The part of ``database.redis`` that the bus reads; the rest belongs to the application."""

    addr: Annotated[Address | None, Reader(_read_address, _render_address)] = None
    username: str | None = None
    password: Annotated[str | None, SECRET] = attrs.field(default=None, converter=_secret)
    pool_size: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    tls: bool | TlsOptions | None = None
    databases: Annotated[int | None, Reader(_read_databases)] = None
