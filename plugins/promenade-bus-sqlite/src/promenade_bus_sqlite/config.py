"""The options of the adapter, in the section ``bus.sqlite``, and those of ``database.sqlite``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs

from bus_core.config import DURATION

__all__ = ["DatabaseSection", "ProbeOptions", "RetentionOptions", "SqliteOptions"]

_POSITIVE: Any = attrs.validators.gt(0)
_OR_NONE = attrs.validators.optional


@attrs.frozen(kw_only=True)
class RetentionOptions:
    """The time that events stay. Unsettled events are never removed, except by ``max_length``.

    Settled events stay for ``min_age``. Events of topics without a subscription stay for
    ``unsubscribed_max_age``. ``max_length`` is a hard limit per topic: it drops the oldest events in any
    state, and counts unsettled ones as lost. When no instance has subscribed a group for ``orphaned_after``,
    health reports the group, because its events are kept for ever.
    """

    min_age: Annotated[float, DURATION] = attrs.field(default=3_600.0, validator=attrs.validators.ge(0))
    unsubscribed_max_age: Annotated[float, DURATION] = attrs.field(
        default=7 * 86_400.0, validator=attrs.validators.ge(0)
    )
    max_length: int | None = attrs.field(default=None, validator=_OR_NONE(attrs.validators.ge(1)))
    orphaned_after: Annotated[float, DURATION] = attrs.field(default=86_400.0, validator=_POSITIVE)


@attrs.frozen(kw_only=True)
class SqliteOptions:
    """The section ``bus.sqlite``. Options that are None come from ``database.sqlite`` or its defaults.

    - ``path``: the file. It may also contain the tables of an application.
    - ``synchronous``: with ``normal``, events survive the death of processes, but after a power failure or a
      system crash the last ones may be missing. ``full`` waits for the disk at each commit and survives both.
    - ``busy_timeout``: how long a call waits while another process writes. The default is 5 s.
    - ``lease``: how long a dead process keeps its events before other processes get them.
    - ``poll``: the longest time until a process notices events that another process has published.
    """

    path: str | None = attrs.field(default=None, validator=_OR_NONE(attrs.validators.min_len(1)))
    synchronous: Literal["normal", "full"] = "normal"
    busy_timeout: Annotated[float | None, DURATION] = attrs.field(default=None, validator=_OR_NONE(_POSITIVE))
    lease: Annotated[float, DURATION] = attrs.field(default=30.0, validator=_POSITIVE)
    poll: Annotated[float, DURATION] = attrs.field(
        default=0.02, validator=[attrs.validators.ge(0.001), attrs.validators.le(1.0)]
    )
    retention: RetentionOptions = attrs.field(factory=RetentionOptions)


def _share(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} must be above 0 and at most 1, got {value!r}")


@attrs.frozen(kw_only=True)
class ProbeOptions:
    """The thresholds of the health probe ``sqlite``. Times are seconds.

    - ``slow``: degraded when a query of the file takes this long.
    - ``lag``: degraded when this many events wait for one group.
    - ``disk_free``: degraded when less than this share of the disk is free.
    """

    slow: Annotated[float, DURATION] = attrs.field(default=0.25, validator=_POSITIVE)
    lag: int = attrs.field(default=10_000, validator=_POSITIVE)
    disk_free: float = attrs.field(default=0.05, validator=_share)


@attrs.frozen(kw_only=True)
class DatabaseSection:
    """The part of ``database.sqlite`` that the bus reads; the rest belongs to the application."""

    path: str | None = attrs.field(default=None, validator=_OR_NONE(attrs.validators.min_len(1)))
    busy_timeout: Annotated[float | None, DURATION] = attrs.field(default=None, validator=_OR_NONE(_POSITIVE))
