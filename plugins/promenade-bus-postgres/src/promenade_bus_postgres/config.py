"""The options of the adapter, in the section ``bus.postgres``, and those of ``database.postgres``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import attrs

from bus_core.config import DURATION, SECRET, Secret

__all__ = ["DatabaseSection", "PostgresOptions", "ProbeOptions", "RetentionOptions"]

_POSITIVE: Any = attrs.validators.gt(0)
_NOT_EMPTY: Any = attrs.validators.optional(attrs.validators.min_len(1))
_PORT: Any = attrs.validators.optional([attrs.validators.ge(1), attrs.validators.le(65_535)])
_COUNT: Any = attrs.validators.optional(attrs.validators.ge(1))

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def _secret(text: str | None) -> Secret | None:
    return None if text is None else Secret(text)


def _schema_name(_instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not _SCHEMA.fullmatch(value):
        raise ValueError(
            f"{attribute.name} must be lower-case letters, digits and underscores, got {value!r}"
        )


@attrs.frozen(kw_only=True)
class RetentionOptions:
    """The time that events stay, by the clock of the server. Unsettled events go by ``max_length`` only.

    Settled events stay for ``min_age``. Events of topics without a subscription stay for
    ``unsubscribed_max_age``. ``max_length`` is a hard limit per topic: it drops the oldest events in any
    state, and counts unsettled ones as lost. When no instance has subscribed a group for ``orphaned_after``,
    health reports the group, because its events are kept for ever.
    """

    min_age: Annotated[float, DURATION] = attrs.field(default=3_600.0, validator=attrs.validators.ge(0))
    unsubscribed_max_age: Annotated[float, DURATION] = attrs.field(
        default=7 * 86_400.0, validator=attrs.validators.ge(0)
    )
    max_length: int | None = attrs.field(default=None, validator=_COUNT)
    orphaned_after: Annotated[float, DURATION] = attrs.field(default=86_400.0, validator=_POSITIVE)


@attrs.frozen(kw_only=True)
class DatabaseSection:
    """The part of ``database.postgres`` that the bus reads; the rest belongs to the application."""

    url: Annotated[str | None, SECRET] = attrs.field(default=None, converter=_secret)
    host: str | None = attrs.field(default=None, validator=_NOT_EMPTY)
    port: int | None = attrs.field(default=None, validator=_PORT)
    name: str | None = attrs.field(default=None, validator=_NOT_EMPTY)
    user: str | None = attrs.field(default=None, validator=_NOT_EMPTY)
    password: Annotated[str | None, SECRET] = attrs.field(default=None, converter=_secret)
    sslmode: str | None = attrs.field(default=None, validator=_NOT_EMPTY)
    pool_size: int | None = attrs.field(default=None, validator=_COUNT)


@attrs.frozen(kw_only=True)
class PostgresOptions(DatabaseSection):
    """The section ``bus.postgres``. Connection options that are None come from ``database.postgres``.

    - ``url``: a connection URI of libpq, in place of ``host``, ``port``, ``name``, ``user``, ``password`` and
      ``sslmode``. It may name several hosts; the bus uses the one that accepts writes.
    - ``pool_size``: the most connections for statements, 5 by default. A process has two more: one for its
      heartbeats, and one that listens.
    - ``schema``: where the tables are. Several buses share a database in different schemas.
    - ``migrate``: true applies missing migrations at start. Meant for development.
    - ``lease``: how long a dead process keeps its events before other processes get them.
    - ``poll``: the longest time until a process notices events although no notification arrived.
    - ``statement_timeout``: how long a statement may take. After that its connection is cut.
    - ``pgbouncer``: true when the server is behind PgBouncer in transaction mode. Nothing is prepared then,
      and no session setting is used.
    - ``listen``: false opens no connection for notifications. ``listen_host`` and ``listen_port`` lead it
      around PgBouncer, which passes no notifications on.
    """

    schema: str = attrs.field(default="public", validator=_schema_name)
    migrate: bool = False
    lease: Annotated[float, DURATION] = attrs.field(default=30.0, validator=_POSITIVE)
    poll: Annotated[float, DURATION] = attrs.field(
        default=1.0, validator=[attrs.validators.ge(0.01), attrs.validators.le(60.0)]
    )
    connect_timeout: Annotated[float, DURATION] = attrs.field(default=5.0, validator=_POSITIVE)
    statement_timeout: Annotated[float, DURATION] = attrs.field(default=10.0, validator=_POSITIVE)
    pgbouncer: bool = False
    listen: bool = True
    listen_host: str | None = attrs.field(default=None, validator=_NOT_EMPTY)
    listen_port: int | None = attrs.field(default=None, validator=_PORT)
    retention: RetentionOptions = attrs.field(factory=RetentionOptions)


@attrs.frozen(kw_only=True)
class ProbeOptions:
    """The thresholds of the health probe ``postgres``. Times are seconds.

    - ``slow``: degraded when a query takes this long.
    - ``lag``: degraded when this many events wait for one group.
    - ``held``: degraded when a transaction of the server has held up new events for this long.
    - ``dead_tuples``: degraded when a table of the bus has this many, and more than live ones.
    """

    slow: Annotated[float, DURATION] = attrs.field(default=0.25, validator=_POSITIVE)
    lag: int = attrs.field(default=10_000, validator=_POSITIVE)
    held: Annotated[float, DURATION] = attrs.field(default=10.0, validator=_POSITIVE)
    dead_tuples: int = attrs.field(default=1_000_000, validator=_POSITIVE)
