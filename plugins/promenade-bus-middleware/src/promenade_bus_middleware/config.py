"""The options of each middleware, with the names used in the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import attrs

from bus_core import DURATION, InvalidTopic, TopicPattern
from bus_core.config import Name, PluginChoice

__all__ = [
    "CircuitBreakerOptions",
    "CorrelationOptions",
    "ExpiryOptions",
    "IdempotencyOptions",
    "Level",
    "LoggingOptions",
    "MemoryStoreOptions",
    "RateLimitOptions",
    "RedactOptions",
    "TimeoutOptions",
    "ValidateOptions",
]

Level = Literal["debug", "info", "warning", "error"]


def _more_than_nothing(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} must be a time longer than 0 s, got {value!r}")


def _more_than_zero(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} must be a number above 0, got {value!r}")


def _share(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} must be above 0 and at most 1, got {value!r}")


def _maybe_a_time(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None:
        _more_than_nothing(instance, attribute, value)


def _times(_instance: object, attribute: attrs.Attribute[Any], value: Mapping[str, float]) -> None:
    for name, seconds in value.items():
        if not 0 < seconds < float("inf"):
            raise ValueError(f"{attribute.name}: the time of {name!r} must be longer than 0 s")


def _topics(_instance: object, _attribute: object, value: Iterable[str]) -> None:
    for name in value:
        try:
            TopicPattern(name)
        except InvalidTopic as error:
            raise ValueError(str(error)) from None


def _function_name(_instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    module, _, path = value.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise ValueError(f"{attribute.name} must be like 'package.module:function', got {value!r}")


def _attribute_name(_instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not (value and value.isascii() and value.isprintable() and " " not in value):
        raise ValueError(f"{attribute.name} must be the name of a header, got {value!r}")


@attrs.frozen(kw_only=True)
class LoggingOptions:
    """The options of ``logging``.

    ``level`` is the level for successful events, ``failure_level`` for failed ones. ``headers`` lists message
    headers to log, too, such as ``traceparent``. Do not list headers with personal data. Fields of events are
    never logged.
    """

    level: Level = "info"
    failure_level: Level = "warning"
    logger: str = attrs.field(default="promenade.bus.events", validator=attrs.validators.min_len(1))
    headers: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class TimeoutOptions:
    """The options of ``timeout``.

    ``seconds`` is the time limit of one attempt, or of one publish: ``30``, ``500ms`` or ``5m``.
    """

    seconds: Annotated[float, DURATION] = attrs.field(validator=_more_than_nothing)


@attrs.frozen(kw_only=True)
class CorrelationOptions:
    """The options of ``correlation``.

    ``correlation`` and ``causation`` are the names of the two headers. An event published outside of a
    handler without a correlation id gets its own id as one, unless ``begin`` is false.
    """

    correlation: str = attrs.field(default="correlationid", validator=_attribute_name)
    causation: str = attrs.field(default="causationid", validator=_attribute_name)
    begin: bool = True


@attrs.frozen(kw_only=True)
class ExpiryOptions:
    """The options of ``expiry``.

    ``limit`` is the age from which events are expired that have no ``expirytime``; by default there is none.
    ``topics``, by name or pattern, and ``subscriptions`` replace it; a subscription counts more than a topic.
    The age begins with ``occurred_at``. ``header`` is the name of the header with the time.
    """

    limit: Annotated[float | None, DURATION] = attrs.field(default=None, validator=_maybe_a_time)
    topics: Mapping[str, Annotated[float, DURATION]] = attrs.field(factory=dict, validator=[_topics, _times])
    subscriptions: Mapping[str, Annotated[float, DURATION]] = attrs.field(factory=dict, validator=_times)
    header: str = attrs.field(default="expirytime", validator=_attribute_name)


_MEMORY = PluginChoice("memory")


@attrs.frozen(kw_only=True)
class MemoryStoreOptions:
    """The options of the store ``memory``.

    ``max_keys`` is the most marks, and the most buckets. When there are more, the oldest are dropped.
    """

    max_keys: int = attrs.field(default=100_000, validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class IdempotencyOptions:
    """The options of ``idempotency``.

    ``store`` keeps the marks, each for ``keep``. A claim of a dead process ends after ``claim``. An event
    that another attempt has claimed comes again after ``retry``. ``subscriptions`` are the names to which it
    applies; empty means all.
    """

    store: Name = _MEMORY
    keep: Annotated[float, DURATION] = attrs.field(default=86_400.0, validator=_more_than_nothing)
    claim: Annotated[float, DURATION] = attrs.field(default=30.0, validator=_more_than_nothing)
    retry: Annotated[float, DURATION] = attrs.field(default=1.0, validator=_more_than_nothing)
    subscriptions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class RateLimitOptions:
    """The options of ``rate-limit``.

    ``rate`` attempts may begin in each ``per``, and ``burst`` of them at once. ``by`` makes a bucket for each
    subscription, or for each aggregate in each subscription. An event waits at most ``longest_wait`` until it
    asks for a token again, and ``retry`` if the ``store`` does not answer. ``subscriptions`` are the names to
    which it applies; empty means all.
    """

    rate: float = attrs.field(validator=_more_than_zero)
    per: Annotated[float, DURATION] = attrs.field(default=1.0, validator=_more_than_nothing)
    burst: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    by: Literal["subscription", "aggregate"] = "subscription"
    store: Name = _MEMORY
    longest_wait: Annotated[float, DURATION] = attrs.field(default=3600.0, validator=_more_than_nothing)
    retry: Annotated[float, DURATION] = attrs.field(default=1.0, validator=_more_than_nothing)
    subscriptions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class CircuitBreakerOptions:
    """The options of ``circuit-breaker``.

    The circuit opens for ``open_for`` when at least ``failures`` attempts, and the share ``ratio`` of all,
    failed within ``window``. ``probes`` attempts have to succeed to close it. ``errors`` are the names of the
    classes of errors that count, such as ``ConnectionError`` or ``httpx.TransportError``; empty means all but
    ``PermanentError``. ``subscriptions`` are the names to which it applies; empty means all.
    """

    failures: int = attrs.field(default=5, validator=attrs.validators.ge(1))
    ratio: float = attrs.field(default=0.5, validator=_share)
    window: Annotated[float, DURATION] = attrs.field(default=30.0, validator=_more_than_nothing)
    open_for: Annotated[float, DURATION] = attrs.field(default=30.0, validator=_more_than_nothing)
    probes: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    errors: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ValidateOptions:
    """The options of ``validate``.

    ``validator`` names the function, as ``package.module:function``. ``topics`` are the names and patterns of
    the topics to which it applies; empty means all.
    """

    validator: str = attrs.field(validator=_function_name)
    topics: tuple[str, ...] = attrs.field(default=(), validator=_topics)


@attrs.frozen(kw_only=True)
class RedactOptions:
    """The options of ``redact``.

    ``fields``, ``metadata`` and ``headers`` are patterns of names, such as ``*token*``. ``personal`` selects
    the fields that are marked ``Personal``, or have such a part. ``mask`` is the text in place of a value.
    ``topics`` are the names and patterns of the topics to which it applies; empty means all.
    """

    fields: tuple[str, ...] = ()
    personal: bool = False
    metadata: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    mask: str = "<redacted>"
    topics: tuple[str, ...] = attrs.field(default=(), validator=_topics)
