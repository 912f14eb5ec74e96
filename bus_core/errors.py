"""Every error the bus raises, as one tree. This module imports nothing of the package.

::

    BusError
    ├── ConfigError                 the configuration cannot be used; carries every fault
    ├── PluginError                 a plugin that is needed cannot be used
    │   ├── UnknownPlugin           nobody offers the selected name
    │   ├── PluginConflict          several plugins offer the selected name
    │   └── InvalidPlugin           an object is not a plugin, or misspells a hook
    ├── UnsupportedFeature          the adapter cannot do what is asked for
    ├── BusStateError               the call does not fit the state the bus is in
    │   ├── BusNotStarted
    │   ├── BusClosed
    │   ├── BusForked
    │   ├── WrongEventLoop
    │   └── CalledFromHandler       would wait for itself
    ├── TopicError
    │   ├── InvalidTopic            a name, a pattern or a declaration that breaks the rules
    │   ├── UnknownTopic            a name that no installed catalogue declares
    │   └── TopicConflict           one name declared with two event classes
    ├── SubscriptionError
    │   ├── DuplicateSubscription
    │   ├── UnknownSubscription
    │   └── InvalidHandler
    ├── EventError
    │   ├── InvalidEvent            field values that break the contract
    │   └── EventTypeMismatch       the event is not of the topic's class
    ├── SerializationError          an event cannot become bytes
    │   └── DeserializationError    bytes cannot become an event
    ├── PublishError
    │   ├── BufferFull              an in-process queue has no room
    │   ├── PublishFailed           definitely not stored
    │   ├── PublishUncertain        may be stored
    │   └── PublishManyError        the result of each item of a batch
    ├── DeadLetterNotFound
    ├── AdapterError                the adapter's server or storage does not do what it is asked to
    ├── LeaseLost                   a message that was held too long belongs to another consumer by now
    ├── ConsumerDied                how the death of a process that handled a message is recorded
    ├── HandlerTimeout              how a handler that ran too long is recorded
    ├── UnhealthyError              raised by HealthReport.raise_if_unhealthy
    ├── PermanentError              raised by handlers: do not retry
    ├── RetryLater                  raised by handlers: retry after a delay, counted
    └── Postpone                    raised by handlers: deliver again later, not counted
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

__all__ = [
    "AdapterError",
    "BufferFull",
    "BusClosed",
    "BusError",
    "BusForked",
    "BusNotStarted",
    "BusStateError",
    "CalledFromHandler",
    "ConfigError",
    "ConsumerDied",
    "DeadLetterNotFound",
    "DeserializationError",
    "DuplicateSubscription",
    "EventError",
    "EventTypeMismatch",
    "HandlerTimeout",
    "InvalidEvent",
    "InvalidHandler",
    "InvalidPlugin",
    "InvalidTopic",
    "LeaseLost",
    "PermanentError",
    "PluginConflict",
    "PluginError",
    "Postpone",
    "PublishError",
    "PublishFailed",
    "PublishManyError",
    "PublishUncertain",
    "RetryLater",
    "SerializationError",
    "SubscriptionError",
    "TopicConflict",
    "TopicError",
    "UnhealthyError",
    "UnknownPlugin",
    "UnknownSubscription",
    "UnknownTopic",
    "UnsupportedFeature",
    "WrongEventLoop",
    "suggestion",
]


class BusError(Exception):
    """The root of everything the bus raises on purpose. Each can be pickled, subclasses included."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A constructor takes facts and writes the sentence: it is not called again, with the sentence.
        return _rebuilt, (type(self), self.args), self.__getstate__()

    def __setstate__(self, state: Any) -> None:
        # Of a subclass with slots it is a pair of mappings; one that is frozen refuses to be set as usual.
        for facts in state if isinstance(state, tuple) else (state,):
            for name, value in (facts or {}).items():
                object.__setattr__(self, name, value)


def _rebuilt(kind: type[BusError], args: tuple[object, ...]) -> BusError:
    error = kind.__new__(kind, *args)
    object.__setattr__(error, "args", args)  # of an OSError, too, which leaves this to the constructor
    return error


def suggestion(nearest: Sequence[str]) -> str:
    """A trailing clause naming the nearest known names, or nothing when there is none."""
    if not nearest:
        return ""
    quoted = [repr(name) for name in nearest]
    listed = quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
    return f"; did you mean {listed}?"


class ConfigError(BusError):
    """The configuration cannot be used.

    ``faults`` holds every fault that was found, each with its path, in the order of the file.
    """

    def __init__(self, source: str, faults: Iterable[str]) -> None:
        self.source = source
        self.faults = tuple(faults)
        noun = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"{source}: {noun} in the configuration{lines}")


class PluginError(BusError):
    """A plugin that is needed cannot be used. ``where`` is the place in the configuration that needs it."""

    where: str | None = None

    def __str__(self) -> str:
        first, newline, rest = super().__str__().partition("\n")
        return f"{first} @ {self.where}{newline}{rest}" if self.where else first + newline + rest


class UnknownPlugin(PluginError):
    """The configuration selects a name that no usable plugin offers."""

    def __init__(
        self,
        kind: str,
        name: str,
        available: Sequence[str],
        nearest: Sequence[str] = (),
        install: str | None = None,
        others: Sequence[str] = (),
        quarantined: Sequence[str] = (),
        disabled: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.name = name
        self.available = tuple(available)
        chosen = f"unknown {kind} {name!r}" if name else f"no {kind} is selected"
        known = ", ".join(available) if available else "none"
        text = f"{chosen}{suggestion(nearest) or ';'} installed: {known}"
        if install:
            text += f"; to install it: {install}"
        if others:
            text += f"; {'available' if name else 'to install one'}: {', '.join(others)}"
        for line in quarantined:
            text += f"\n  quarantined: {line}"
        for line in disabled:
            text += f"\n  disabled: {line}"
        super().__init__(text)


class PluginConflict(PluginError):
    """Several plugins offer the name that the configuration selects."""

    def __init__(self, kind: str, name: str, offered_by: Sequence[str]) -> None:
        self.kind = kind
        self.name = name
        self.offered_by = tuple(offered_by)
        super().__init__(
            f"{kind} {name!r} is offered by {' and '.join(self.offered_by)}; "
            "uninstall one of them or list it under 'bus.plugins.disable'"
        )


class InvalidPlugin(PluginError):
    """An object is not a usable plugin: a misspelt hook, or a result of the wrong kind."""


class UnsupportedFeature(BusError):
    """The adapter cannot do what subscriptions or topics need; ``mismatches`` lists all of it.

    ``remedy`` is the advice of the adapter, if it has any.
    """

    def __init__(self, adapter: str, mismatches: Sequence[str], remedy: str = "") -> None:
        self.adapter = adapter
        self.mismatches = tuple(mismatches)
        self.remedy = remedy
        lines = "".join(f"\n  - {item}" for item in self.mismatches)
        advice = f"\n{remedy}" if remedy else ""
        super().__init__(f"the adapter {adapter!r} cannot do what is asked for:{lines}{advice}")


class BusStateError(BusError):
    """The call does not fit the state the bus is in."""


class BusNotStarted(BusStateError):
    """The bus has to be started first."""

    def __init__(self, doing: str, *, sync: bool = False) -> None:
        how = "'with bus:' or 'bus.start()'" if sync else "'async with bus:' or 'await bus.start()'"
        super().__init__(f"cannot {doing}: the bus is not started; use {how}")


class BusClosed(BusStateError):
    """The bus is closing or closed."""

    def __init__(self, doing: str) -> None:
        super().__init__(f"cannot {doing}: the bus is closed; open a new one with open_bus()")


class BusForked(BusStateError):
    """The process was forked after the bus was made; its loop and threads exist only in the parent."""

    def __init__(self, doing: str) -> None:
        super().__init__(
            f"cannot {doing}: this bus belongs to the parent process, and was inherited by a fork; "
            "open the bus after the fork (with gunicorn: in post_worker_init, not at import)"
        )


class WrongEventLoop(BusStateError):
    """The bus was called from a thread or an event loop other than its own."""

    def __init__(self, doing: str, *, inside: bool = False, from_thread: bool = False) -> None:
        super().__init__(
            f"cannot {doing} with from_thread in the thread of the bus's own event loop: it would wait for "
            "itself; await the call of the bus itself, as in 'await bus.publish(...)'"
            if from_thread
            else f"cannot {doing} from the event loop of a sync bus: it would wait for itself; "
            "make the handler a plain function, which runs in a thread"
            if inside
            else f"cannot {doing}: the bus runs on another event loop: call it from the one that started it; "
            "other threads publish with bus.from_thread, or share a bus of open_sync_bus()"
        )


class CalledFromHandler(BusStateError):
    """A handler asked the bus to wait until handlers are finished, which includes itself."""

    def __init__(self, doing: str) -> None:
        super().__init__(f"cannot {doing} from inside a handler: it would wait for itself")


class TopicError(BusError):
    """Something is wrong with a topic."""


class InvalidTopic(TopicError, ValueError):
    """A topic name, pattern or declaration breaks the rules."""


class UnknownTopic(TopicError, LookupError):
    """A topic given by name is not in any installed catalogue."""

    def __init__(self, name: str, nearest: Sequence[str] = ()) -> None:
        self.name = name
        self.nearest = tuple(nearest)
        super().__init__(
            f"unknown topic {name!r}{suggestion(nearest)} "
            "Topics come from installed catalogues (see 'promenade-bus topics') or from Topic objects; "
            "'strict_topics: false' allows any name"
            if nearest
            else f"unknown topic {name!r}: no installed catalogue declares it (see 'promenade-bus topics'); "
            "pass a Topic object, install its context, or set 'strict_topics: false'"
        )


class TopicConflict(TopicError):
    """One topic name is declared with two event classes, or by two catalogues."""


class SubscriptionError(BusError):
    """Something is wrong with a subscription."""


class DuplicateSubscription(SubscriptionError):
    """A subscription of that name, or of that handler without a name, exists on an overlapping topic."""

    def __init__(self, name: str, topic: str, other: str, *, same_handler: bool = False) -> None:
        self.name = name
        if same_handler:
            super().__init__(
                f"this handler already listens to {other!r} as {name!r}, which overlaps {topic!r}: it would "
                "get events twice; if that is intended, give the second subscription a name="
            )
            return
        super().__init__(
            f"a subscription named {name!r} already listens to {other!r}, which overlaps {topic!r}; "
            "give each subscription its own name="
        )


class UnknownSubscription(SubscriptionError, LookupError):
    """No open subscription of the bus has that name, or that topic and handler."""


class InvalidHandler(SubscriptionError, TypeError):
    """A handler or an option of ``subscribe`` cannot be used."""


class EventError(BusError):
    """Something is wrong with an event."""


class InvalidEvent(EventError, ValueError):
    """Field values of an event break its contract; ``faults`` lists all of them, personal values left out."""

    def __init__(self, event_class: str, faults: Sequence[str]) -> None:
        self.event_class = event_class
        self.faults = tuple(faults)
        super().__init__(f"{event_class}: " + "; ".join(self.faults))


class EventTypeMismatch(EventError, TypeError):
    """The event is not an instance of the topic's event class."""

    def __init__(self, topic: str, expected: str, got: str) -> None:
        self.topic = topic
        super().__init__(f"topic {topic!r} carries {expected}, got {got}")


class SerializationError(BusError):
    """An event cannot be turned into bytes."""


class DeserializationError(SerializationError):
    """Bytes cannot be turned into an event.

    ``other_version`` is the data version of the bytes, if the class known here has another one. An instance
    with newer or older code may be able to read them. Serializers set it.
    """

    other_version: int | None = None


class PublishError(BusError):
    """An event was not, or perhaps not, accepted by the adapter."""


class BufferFull(PublishError):
    """An in-process queue has no room. The event was not accepted."""

    def __init__(self, what: str, size: int) -> None:
        super().__init__(
            f"the {what} is full ({size:,} unsettled events): the event was not accepted; "
            "await publish() to wait for room, or raise "
            f"'bus.{'overflow_size' if what.startswith('overflow') else 'buffer_size'}'"
        )


class PublishFailed(PublishError):
    """The event is definitely not stored.

    ``transient`` says that the same call may well succeed later: what an adapter refuses so, the bus tries
    again by itself until ``publish_timeout`` is over. ``permanent`` says that this message can never be
    stored, because of itself, as when it is too large: others can, and an outbox sets it aside. By default
    that is so unless it is ``transient``. With neither, the storage is at fault, and the message can be
    stored once somebody has mended that.
    """

    def __init__(self, reason: str, *, transient: bool = False, permanent: bool | None = None) -> None:
        self.transient = transient
        self.permanent = not transient if permanent is None else permanent
        super().__init__(reason)


class PublishUncertain(PublishError):
    """The event may be stored. Publishing the same event again is safe in the sense of at-least-once."""


class PublishManyError(PublishError):
    """Some events of a batch were not accepted.

    ``results`` has one entry per item, in order: None for an accepted event, otherwise its error, which
    is no ``BusError`` where a publish middleware raised something of its own.
    """

    def __init__(self, results: Sequence[Exception | None]) -> None:
        self.results = tuple(results)
        failed = [(index, error) for index, error in enumerate(self.results) if error is not None]
        index, first = failed[0]
        super().__init__(
            f"{len(failed)} of {len(self.results)} events not accepted; "
            f"the first is item {index}: {type(first).__name__}: {first}"
        )


class DeadLetterNotFound(BusError, LookupError):
    """No dead letter has that id: it was never there, was purged, or fell out of a bounded store."""

    def __init__(self, letter_id: str) -> None:
        self.letter_id = letter_id
        super().__init__(
            f"no dead letter has the id {letter_id!r} (never there, purged, or dropped by a full store)"
        )


class AdapterError(BusError):
    """The server or the storage behind an adapter cannot be reached, or does not do what it is asked to."""


class LeaseLost(BusError):
    """A message was settled too late: by then another consumer owned it, and may handle it again."""


class ConsumerDied(BusError):
    """Records that a process died, or lost its lease, while it held a message."""


class HandlerTimeout(BusError, TimeoutError):
    """Records that a handler ran longer than its timeout."""

    def __init__(self, subscription: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"the handler of {subscription!r} ran longer than its timeout of {seconds:g} s")


class UnhealthyError(BusError):
    """Raised by ``HealthReport.raise_if_unhealthy``."""


class PermanentError(BusError):
    """Raise it from a handler when retrying cannot help: the event is dead-lettered at once."""


def _after_seconds(after: float | timedelta | None) -> float | None:
    if after is None:
        return None
    seconds = after.total_seconds() if isinstance(after, timedelta) else float(after)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"after must be a finite number of seconds, at least 0; got {after!r}")
    return seconds


class RetryLater(BusError):
    """Raise it from a handler to be retried after a delay of your choice; counts as an attempt.

    ``after`` is in seconds or a timedelta. The number of attempts stays bounded by the retry policy.
    ``raise RetryLater("the mail server is busy", after=30)``
    """

    def __init__(self, reason: str = "", *, after: float | timedelta) -> None:
        self.after: float = _after_seconds(after) or 0.0
        super().__init__(reason or f"the handler asked to be retried after {self.after:g} s")


class Postpone(BusError):
    """Raise it from a handler to get the event again after a delay; does not count as an attempt.

    ``after`` is in seconds or a timedelta.
    """

    def __init__(self, reason: str = "", *, after: float | timedelta) -> None:
        self.after: float = _after_seconds(after) or 0.0
        super().__init__(reason or f"the handler postponed the event by {self.after:g} s")
