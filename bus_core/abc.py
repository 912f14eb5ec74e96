"""What others implement: adapters, serializers, retry policies, middleware and health probes.

A hook of ``bus_core.plugins.hookspecs`` hands over a ``Factory`` once, at start; the object that it builds
does the work. The bus never calls a hook per event.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any, Generic, Literal, Protocol, TypeGuard, TypeVar, runtime_checkable

import attrs

from bus_core.errors import BusError, PublishError
from bus_core.events.base import Event
from bus_core.events.messages import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterTally,
    Envelope,
    Message,
    Outcome,
    Received,
)
from bus_core.events.primitives import FrozenMapping
from bus_core.runtime.clock import Clock

__all__ = [
    "Adapter",
    "AdapterBase",
    "AnyAdapter",
    "BuildContext",
    "CheckResult",
    "Command",
    "Consumer",
    "CountingAdapter",
    "DeadLetterStore",
    "EngineState",
    "Factory",
    "Features",
    "Handler",
    "HealthProbe",
    "HealthStatus",
    "InProcessAdapter",
    "Inlet",
    "LeasingConsumer",
    "Middleware",
    "RetryPolicy",
    "Seconds",
    "Serializer",
    "SubscriptionSpec",
    "SubscriptionState",
    "YieldingConsumer",
    "is_in_process",
]

O = TypeVar("O")  # noqa: E741 - options
P_co = TypeVar("P_co", covariant=True)

Seconds = float | timedelta
"""How a duration is given in Python: seconds, or a timedelta."""

Handler = Callable[[Envelope], Awaitable[None]]
"""The inside of a middleware: takes an envelope, and raises to report a failure."""

Middleware = Callable[[Handler], Handler]
"""Wraps a handler into a handler. It is called once per subscription or topic, never per event."""


@attrs.frozen(kw_only=True)
class BuildContext:
    """What a factory may know while it builds.

    ``sections`` holds the foreign sections of the configuration file that the factory named, by their
    path, expanded (``{"database.redis": {...}}``); a section that is absent from the file is absent here.
    ``adapter`` is that of the bus, not started yet, for serializers and health probes, which are built after
    it; None for everything else.
    """

    service: str
    clock: Clock
    sections: Mapping[str, Any] = attrs.field(factory=FrozenMapping, repr=False)
    adapter: AnyAdapter | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Factory(Generic[O, P_co]):
    """How a plugin offers something: its options class, and how to build it from such options.

    ``options`` is an attrs class whose fields are the keys of the plugin's part of the configuration.
    The bus reads and checks that part, and reports faults with their path.

    ``sections`` are parts of the file that belong to somebody else and that ``build`` reads as well.
    ``check(options, sections)`` returns what is wrong with options that are sound one by one, and with
    those sections, as ``<what> @ <path>``; without faults ``build`` accepts them. Its options are None
    when they are not sound.
    """

    options: type[O]
    build: Callable[[O, BuildContext], P_co]
    sections: tuple[str, ...] = ()
    check: Callable[[O | None, Mapping[str, Any]], Iterable[str]] | None = None


@attrs.frozen(kw_only=True)
class Command:
    """How a plugin offers a command of ``promenade-bus``.

    ``help`` is the line that stands beside its name in the list of commands, and in completions of a shell.
    ``load`` returns the click command, and is called when that is run, or asked for its own help: whatever it
    imports costs nobody else anything. A ``hidden`` command runs, and is not listed.
    """

    help: str
    load: Callable[[], Any]
    hidden: bool = False


@runtime_checkable
class RetryPolicy(Protocol):
    """Decides after each failed attempt. It must be pure, and may be called from several buses."""

    def next_delay(self, attempt: int, error: BaseException) -> float | None:
        """Seconds to wait after attempt number ``attempt`` (from 1) failed; None to give up."""
        ...


class Serializer(Protocol):
    """Turns events into bytes and back; see ``bus_core.serialization.cloudevents.JsonSerializer``."""

    def encode(self, event: Event[Any], *, topic: str, source: str) -> bytes:
        """The event as bytes; raises ``SerializationError``."""
        ...

    def decode(self, body: bytes, *, event_class: type[Event[Any]]) -> Event[Any]:
        """The event of the bytes; raises ``DeserializationError`` and nothing else, whatever the input.

        ``event_class`` is the class of the topic; ``BaseEvent`` where the topic is not known.
        """
        ...


# --- adapters ---------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Features:
    """What an adapter can do. The bus compares it with what subscriptions need, and refuses misfits.

    - ``durable``: what was accepted outlives the process.
    - ``groups``: instances of one subscription in several processes compete for events.
    - ``broadcast``: a subscription may get each event in every instance.
    - ``ordered``: events of one key can be handled one after the other.
    - ``delayed``: a retry or a postponement may wait without holding a worker.
    - ``replay``: a new subscription can start at the earliest retained event.
    - ``in_process``: events are handed over as they are, in the process that publishes them.

    ``remedy`` says in a sentence what to do where something else is needed; errors repeat it.
    """

    durable: bool = False
    groups: bool = False
    broadcast: bool = False
    ordered: bool = False
    delayed: bool = False
    replay: bool = False
    in_process: bool = False
    remedy: str = attrs.field(default="", eq=False)


@attrs.frozen(kw_only=True)
class SubscriptionSpec:
    """What an adapter has to know of a subscription.

    ``group`` is the service and the name, with one dot between: its instances compete for events, and no two
    services share one.
    ``topic`` is the name of a topic, or a pattern.
    """

    name: str
    group: str
    topic: str
    mode: Literal["group", "broadcast"] = "group"
    ordered: bool = False
    start: Literal["earliest", "latest"] | None = None

    def __attrs_post_init__(self) -> None:
        if self.mode not in ("group", "broadcast"):
            raise ValueError(f"mode must be 'group' or 'broadcast', got {self.mode!r}")
        if self.start not in (None, "earliest", "latest"):
            raise ValueError(f"start must be None, 'earliest' or 'latest', got {self.start!r}")


class Inlet(Protocol):
    """The engine's end of a subscription: an in-process adapter routes to it."""

    @property
    def spec(self) -> SubscriptionSpec:
        """What was subscribed."""
        ...

    def redeliver(self, letter: DeadLetter, payload: Event | Message) -> None:
        """Hands a dead letter back to this subscription and to no other; attempts start at 1."""
        ...


class DeadLetterStore(Protocol):
    """Where dead letters are kept until someone redrives or purges them."""

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        """The oldest letters that the filter selects, at most ``limit``."""
        ...

    async def page(self, where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
        """The letters that the filter selects and that come after a cursor, the oldest first.

        ``after`` is the ``next_cursor`` of an earlier page, or None for the first one. There are at most
        ``limit`` of them, and fewer where they are large: only a ``next_cursor`` of None says that there are
        no more. Letters come and go between two pages: one that is there all the time is in exactly one.
        Raises ``ValueError`` for what is no cursor of this store.
        """
        ...

    async def count(self, where: DeadLetterFilter) -> int:
        """How many letters the filter selects."""
        ...

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        """How many letters the filter selects, in groups of the same topic, subscription and failure.

        The largest first. It is for looking at many letters without fetching them.
        """
        ...

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        ...

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Moves letters back to the subscription that failed, each at most once; returns how many moved.

        A letter that is no longer there is passed over. Raises ``UnknownSubscription``, and then moves
        none, when a letter's subscription does not exist.
        """
        ...

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects; returns how many."""
        ...


class AdapterBase(Protocol):
    """What every adapter has. All methods are called on the event loop of the bus."""

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        ...

    @property
    def features(self) -> Features:
        """What it can do; never changes."""
        ...

    @property
    def dead_letters(self) -> DeadLetterStore:
        """What subscriptions gave up on. Asked for once it is started."""
        ...

    @property
    def lost(self) -> int:
        """How many events and dead letters it knows to be lost so far. Health reads it."""
        ...

    @property
    def degraded(self) -> str | None:
        """What is not as it should be although it works, for health; None when all is well."""
        ...

    async def start(self) -> None:
        """Gets ready to carry events; raises a ``BusError`` when it cannot."""
        ...

    async def close(self) -> None:
        """Gives back what ``start`` took.

        Called once after each ``start`` that succeeded: after everything else, or because the bus could
        not be started for another reason. In that case ``start`` may follow again.
        """
        ...


class Adapter(AdapterBase, Protocol):
    """A transport: a server, a file, anything that keeps messages outside of the process.

    It owns storage, leases and redelivery. The engine owns workers, retries, isolation, middleware, the
    decision that a message is dead, and drain; no adapter dispatches by itself. ``features.in_process``
    is false. Errors of its server become ``BusError`` at its edge, with the cause kept.
    """

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        """Stores messages, in order, and tells for each of them what came of it.

        None: it is stored, as ``features`` promise. ``PublishFailed``: it is definitely not stored; where
        it is ``transient`` the bus tries again. ``PublishUncertain``: it may be stored. One message's
        failure says nothing about the others. There is one call at a time; it is never cancelled, and
        ends by itself in bounded time. What it raises counts as ``PublishUncertain`` for each message.
        """
        ...

    async def open_consumer(self, spec: SubscriptionSpec) -> Consumer:
        """Opens a subscription; from now on it misses nothing. Raises ``BusError``; it is called again then.

        The group outlives the process where the adapter is durable, and ``close`` of the consumer.
        """
        ...

    async def backlog(self, spec: SubscriptionSpec) -> int:
        """How many messages the subscription has not settled, in all instances together.

        Those that nobody received, those that are owned, and those that wait for a retry. It may be asked
        for several subscriptions at once.
        """
        ...


@runtime_checkable
class CountingAdapter(Protocol):
    """An option of an ``Adapter`` that counts the backlog of many subscriptions at once.

    A drain asks for all subscriptions of a bus, again and again. Other adapters are asked for each of them.
    """

    async def backlogs(self, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        """The ``backlog`` of each subscription, in order; one may be there twice, and there may be none."""
        ...


class Consumer(Protocol):
    """One open subscription of one instance.

    The engine never cancels a call: a message that is on its way would be stranded. Where a program cancels
    every task there is, the next call follows as after an error. ``receive`` and ``settle`` may be under way
    at the same time, each of them once.

    Of an ordered subscription one consumer receives, in all instances; others stand by until it is closed.
    """

    @property
    def longest_hold(self) -> float:
        """Up to how many seconds the engine may keep a message while its retry is not due.

        Longer delays are handed back with the outcome ``retry``, and shorter ones where too many are held
        already. It counts only where the adapter is durable and can delay, and the subscription is a group
        and not ordered: otherwise the engine keeps every retry.
        """
        ...

    async def receive(self, limit: int) -> Sequence[Received]:
        """At most ``limit`` messages, in order; waits up to a few seconds for the first one.

        An empty answer means that there was none, or ``stop`` was called. The receiver owns them, however
        long a handler takes, until they are settled. Raises ``BusError``; it is called again then, after
        a pause, and nothing is skipped.
        """
        ...

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        """Carries outcomes out, and tells for each of them what came of it.

        None: done, and stored. ``LeaseLost``: somebody else owns the message; it is his. Any other error:
        not, or perhaps not, done; the engine asks again, so that doing it twice must be harmless. What
        it raises counts for all of them.
        """
        ...

    def stop(self) -> None:
        """From now on nothing is received: a ``receive`` that waits ends soon, with what it has.

        Where nothing can be given back, because the adapter is not durable or the subscription is a
        broadcast, ``receive`` is called on until its answer is empty: it hands out what had arrived.
        """
        ...

    async def close(self) -> None:
        """Lets go of what ``open_consumer`` took; no call is under way any more, and none follows.

        What is owned still, and was not released, is left to whoever claims it when its lease ends.
        """
        ...


@runtime_checkable
class LeasingConsumer(Protocol):
    """What a ``Consumer`` may offer besides, whose messages go to others when it does not renew its leases.

    The engine asks before it begins what it holds, after a time in which the process may have stood still.
    """

    @property
    def in_doubt(self) -> bool:
        """Whether a lease may have ended meanwhile. Asked often: an answer from memory."""
        ...

    async def confirm(self, receipts: Sequence[Any]) -> Sequence[bool]:
        """Renews leases; tells for each message whether it is still this consumer's.

        Of the others nothing follows: neither is a handler called, nor are they settled. Raises
        ``BusError``; it is called again then, after a pause.
        """
        ...


@runtime_checkable
class YieldingConsumer(Protocol):
    """What a ``Consumer`` may offer besides, of whose ordered subscriptions one instance is active at a time.

    The engine asks when it meets a message that only an instance with other code can decode. Where one waits,
    it gives back what it holds, closes this consumer, and opens another one a little later.
    """

    async def has_standby(self) -> bool:
        """Whether another instance waits for its turn. Raises ``BusError``; then nothing is done."""
        ...


class InProcessAdapter(AdapterBase, Protocol):
    """A transport inside the process that publishes: ``features.in_process`` is true.

    It decides who gets an event (groups compete, broadcast reaches all) and keeps dead letters. The
    engine owns everything else: the bounded queue, workers, retries, isolation, ordering, and drain.
    """

    @property
    def serialize(self) -> bool:
        """Whether events must pass through the serializer on their way, as they would on a network."""
        ...

    def attach(self, inlet: Inlet) -> None:
        """From now on the inlet takes part in routing."""
        ...

    def detach(self, inlet: Inlet) -> None:
        """The inlet takes no part any more; harmless when it was not attached."""
        ...

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls ``changed``, until ``close``, whenever an answer of ``route`` may have become another one.

        It is given the topic, or a pattern that covers the topics, of which that is so: ``#`` for all.
        """
        ...

    def route(self, topic: str) -> Sequence[Sequence[Inlet]]:
        """Who gets an event of the topic: for each group the inlets that compete for it, in turn."""
        ...

    def bury(self, letter: DeadLetter, payload: Event | Message, inlet: Inlet) -> None:
        """Stores a dead letter of a subscription, with what has to be handed over when it is redriven."""
        ...


AnyAdapter = Adapter | InProcessAdapter
"""What the hook ``promenade_bus_adapters`` may offer; see ``is_in_process``."""


def is_in_process(adapter: AnyAdapter) -> TypeGuard[InProcessAdapter]:
    """Which of the two an adapter is: its ``features`` tell."""
    return adapter.features.in_process


# --- health -----------------------------------------------------------------------------------------------


class HealthStatus(StrEnum):
    """From best to worst."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"

    @property
    def severity(self) -> int:
        """0 for healthy, 2 for unhealthy."""
        return tuple(HealthStatus).index(self)


@attrs.frozen
class CheckResult:
    """What one probe found: its status, a sentence for people, and figures for machines."""

    status: HealthStatus
    summary: str
    figures: Mapping[str, float | int | str | bool] = attrs.field(factory=FrozenMapping)

    def to_dict(self) -> dict[str, Any]:
        """The check as plain data that is ready for JSON; a figure that JSON does not have is a text."""
        figures = {
            name: str(figure) if isinstance(figure, float) and not math.isfinite(figure) else figure
            for name, figure in self.figures.items()
        }
        return {"status": self.status.value, "summary": self.summary, "figures": figures}


@attrs.frozen(kw_only=True)
class SubscriptionState:
    """The counters of one subscription since the bus was opened, and what it holds now.

    ``late`` counts what another consumer had taken over: before it was settled here, or even begun.
    """

    name: str
    topic: str
    paused: bool
    queued: int
    running: int
    waiting_retries: int
    handled: int
    skipped: int
    failed_attempts: int
    retried: int
    dead_lettered: int
    redriven: int
    late: int = 0


@attrs.frozen(kw_only=True)
class EngineState:
    """A snapshot of the engine, for probes and tools. Times are seconds."""

    running_handlers: int
    worker_pool_size: int
    unsettled: int
    buffer_size: int
    overflow_size: int
    overflowed: int
    waiting_publishers: int
    waiting_retries: int
    longest_running: float
    longest_running_subscription: str | None
    published: int
    unrouted: int
    lost: int
    subscriptions: tuple[SubscriptionState, ...]


class HealthProbe:
    """A base for probes: override ``check``, and the other two where there is something to hold."""

    async def start(self) -> None:
        """Called when the bus starts."""

    async def check(self, state: EngineState) -> CheckResult:
        """Looks once; the bus bounds it by a deadline. An exception counts as unhealthy."""
        raise NotImplementedError

    async def close(self) -> None:
        """Called when the bus closes."""
