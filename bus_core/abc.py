"""The protocols that plugins implement: adapters, serializers, retry policies, middleware, probes, observers.

A hook of ``bus_core.plugins.hookspecs`` hands over a ``Factory`` once, at start; the object that it builds
does the work. The bus never calls a hook per event.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
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
    "AdministeredAdapter",
    "Administration",
    "AnyAdapter",
    "AttemptFailure",
    "BuildContext",
    "ChainRule",
    "CheckResult",
    "Command",
    "Consumer",
    "CountingAdapter",
    "DeadLetterStore",
    "Endpoint",
    "EngineState",
    "EventLoss",
    "Factory",
    "Features",
    "GroupFigures",
    "Handler",
    "HealthProbe",
    "HealthStatus",
    "InProcessAdapter",
    "Inlet",
    "LeasingConsumer",
    "Middleware",
    "MiddlewareCount",
    "ObservedBus",
    "Observer",
    "ReplayFilter",
    "Replayed",
    "RetryPolicy",
    "Seconds",
    "Serializer",
    "Store",
    "SubscriptionBacklog",
    "SubscriptionSpec",
    "SubscriptionState",
    "WatchedMiddleware",
    "WorkerEndpoint",
    "YieldingConsumer",
    "is_in_process",
]

O = TypeVar("O")  # noqa: E741 - options
P_co = TypeVar("P_co", covariant=True)

Seconds = float | timedelta
"""A duration in Python: seconds, or a timedelta."""

Handler = Callable[[Envelope], Awaitable[None]]
"""The inside of a middleware: takes an envelope, and raises to report a failure."""

Middleware = Callable[[Handler], Handler]
"""Wraps a handler into a handler. It is called once per subscription or topic, never per event."""


@attrs.frozen(kw_only=True)
class BuildContext:
    """The facts that a factory gets when it builds.

    ``sections`` has the foreign sections that the factory named, by path, expanded (``{"database.redis":
    {...}}``). It lacks sections that are absent from the file. ``adapter`` is the adapter of the bus, not
    started yet. Only serializers, health probes and observers get it; for others it is None. ``stores`` has
    the stores that the options choose, by the name of the option; see ``Factory``. ``quarantined`` has the
    reason why each plugin that cannot be loaded was left out, by its name.
    """

    service: str
    clock: Clock
    sections: Mapping[str, Any] = attrs.field(factory=FrozenMapping, repr=False)
    adapter: AnyAdapter | None = attrs.field(default=None, repr=False)
    stores: Mapping[str, Store] = attrs.field(factory=FrozenMapping, repr=False)
    quarantined: Mapping[str, str] = attrs.field(factory=FrozenMapping, repr=False)


@attrs.frozen(kw_only=True)
class ChainRule:
    """Says that some other middleware defeats this one when it is on the wrong side of it.

    ``other`` is the name of a middleware, or one of the words of ``Factory.does``. ``never`` is the place
    that defeats this one. ``outside``: the other one comes earlier in the list. ``inside``: it comes later.
    ``missing``: it is not in the other chain. ``because`` is a clause for people. ``chain`` is the chain to
    which the rule applies; None means both.
    """

    other: str
    never: Literal["outside", "inside", "missing"]
    because: str
    chain: Literal["consume", "publish"] | None = None


@attrs.frozen
class Factory(Generic[O, P_co]):
    """Offers something of a plugin: the class of its options, and a function that builds it from them.

    ``options`` is an attrs class whose fields are the keys of the plugin's part of the configuration.
    The bus reads and checks that part, and reports faults with their path.

    ``sections`` names foreign sections of the file that ``build`` reads as well.
    ``check(options, sections)`` returns the faults of options that are valid one by one, and of those
    sections, as ``<what> @ <path>``. Without faults ``build`` accepts them. The options are None when one of
    them is invalid.

    ``stores`` names options of type ``bus_core.config.Name`` that choose a store. The bus builds the store,
    and starts and closes it; ``build`` finds it in ``context.stores``.

    Only for middleware: ``chains`` are those that it may be in; the bus refuses others. ``does`` has words
    for what it does with events, and ``rules`` name what defeats it; ``promenade-bus config check`` compares
    them. The words in use are ``logs``, ``limits time``, ``skips``, ``postpones``, ``marks``, ``refuses`` and
    ``masks``; a plugin may add its own.

    A middleware with one option::

        @attrs.frozen
        class TimeoutOptions:
            seconds: float = 30.0

        TIMEOUT = Factory(TimeoutOptions, lambda options, context: timeout_after(options.seconds))
    """

    options: type[O]
    build: Callable[[O, BuildContext], P_co]
    sections: tuple[str, ...] = ()
    check: Callable[[O | None, Mapping[str, Any]], Iterable[str]] | None = None
    stores: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    chains: tuple[Literal["consume", "publish"], ...] = attrs.field(
        default=("consume", "publish"), kw_only=True
    )
    does: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    rules: tuple[ChainRule, ...] = attrs.field(default=(), kw_only=True)


@attrs.frozen(kw_only=True)
class Command:
    """Offers a command of ``promenade-bus``.

    ``help`` is its line in the list of commands, and in shell completions. ``load`` returns the click
    command. It is called only when the command runs or shows its help, so its imports cost other commands
    nothing. A ``hidden`` command runs, but is not listed.
    """

    help: str
    load: Callable[[], Any]
    hidden: bool = False


@attrs.frozen(kw_only=True)
class Endpoint:
    """Serves a running bus at an address: ``promenade-bus run --http ADDRESS`` uses ``http``.

    ``load`` returns a function of the ``Bus``, which need not be started yet, and an address. That returns a
    context manager: entering it begins to serve, in a thread of its own, and gives the address as people may
    see it; leaving it ends. Both return soon. It raises ``PluginError`` when it cannot serve there.

    ``load_many`` returns such a function for the command that runs several workers. Instead of a bus it takes
    a function, to be called from any thread, which gives the ``WorkerEndpoint`` of each worker.
    """

    help: str
    load: Callable[[], Callable[[Any, str], AbstractContextManager[str]]]
    load_many: (
        Callable[[], Callable[[Callable[[], Sequence[WorkerEndpoint]], str], AbstractContextManager[str]]]
        | None
    ) = None


@attrs.frozen
class WorkerEndpoint:
    """One of several worker processes, as its parent knows it.

    ``name`` is its number from 1. ``state`` ends the sentence "process 1 ..." for people. ``address`` is the
    address of its own endpoint; None without one.
    """

    name: str
    state: str
    address: str | None


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
    """The abilities of an adapter. The bus refuses subscriptions that need more.

    - ``durable``: accepted events outlive the process.
    - ``groups``: instances of one subscription in several processes compete for events.
    - ``broadcast``: a subscription may get each event in every instance.
    - ``ordered``: events of one key can be handled one after the other.
    - ``delayed``: a retry or a postponement may wait without holding a worker.
    - ``replay``: a new subscription can start at the earliest retained event.
    - ``in_process``: events are handed over as they are, in the process that publishes them.
    - ``admin``: it is an ``AdministeredAdapter``, which tells of all groups and replays kept events.

    ``remedy`` is a sentence of advice for unmet needs; errors repeat it.
    """

    durable: bool = False
    groups: bool = False
    broadcast: bool = False
    ordered: bool = False
    delayed: bool = False
    replay: bool = False
    in_process: bool = False
    admin: bool = False
    remedy: str = attrs.field(default="", eq=False)


@attrs.frozen(kw_only=True)
class SubscriptionSpec:
    """A subscription as an adapter knows it.

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
        """The subscription of this inlet."""
        ...

    def redeliver(self, letter: DeadLetter, payload: Event | Message) -> None:
        """Redrives a dead letter to this subscription and to no other; attempts start at 1."""
        ...


class DeadLetterStore(Protocol):
    """Stores dead letters until someone redrives or purges them."""

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        """The oldest letters that the filter selects, at most ``limit``."""
        ...

    async def page(self, where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
        """A page of the selected letters after a cursor, the oldest first.

        ``after`` is the ``next_cursor`` of an earlier page, or None for the first one. A page has at most
        ``limit`` letters, and fewer where they are large. Only a ``next_cursor`` of None means that there are
        no more. Letters may come and go between two pages. A letter that stays is in exactly one page. Raises
        ``ValueError`` when ``after`` is not a cursor of this store.
        """
        ...

    async def count(self, where: DeadLetterFilter) -> int:
        """The number of letters that the filter selects."""
        ...

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        """Counts the selected letters, in groups of the same topic, subscription and failure.

        The largest group comes first. It avoids fetching many letters only to count them.
        """
        ...

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        ...

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Moves letters back to the subscription that failed, each at most once. Returns their number.

        It skips a letter that is no longer there. Raises ``UnknownSubscription``, and then moves none, when a
        letter's subscription does not exist.
        """
        ...

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects. Returns their number."""
        ...


class AdapterBase(Protocol):
    """The common part of all adapters. All methods are called on the event loop of the bus."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        ...

    @property
    def features(self) -> Features:
        """Its abilities; they never change."""
        ...

    @property
    def dead_letters(self) -> DeadLetterStore:
        """The messages that subscriptions gave up on. It is read only after the start."""
        ...

    @property
    def lost(self) -> int:
        """The number of events and dead letters that it knows to be lost so far. Health reads it."""
        ...

    @property
    def degraded(self) -> str | None:
        """A sentence for health about a problem of a working adapter; None without one."""
        ...

    async def start(self) -> None:
        """Prepares to carry events. Raises a ``BusError`` when it cannot."""
        ...

    async def close(self) -> None:
        """Releases the resources of ``start``.

        Called once after each ``start`` that succeeded: at the end, or because the bus could not start for
        another reason. In that case ``start`` may follow again.
        """
        ...


class Adapter(AdapterBase, Protocol):
    """A transport: a server, a file, anything that keeps messages outside of the process.

    It owns storage, leases and redelivery. The engine owns workers, retries, isolation, middleware, the
    decision that a message is dead, and drain; no adapter dispatches by itself. ``features.in_process``
    is false. Errors of its server become ``BusError`` at its edge, with the cause kept.
    """

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        """Stores messages in order, and returns a result for each.

        - None: it is stored, as ``features`` promise.
        - ``PublishFailed``: it is definitely not stored. Where this is ``transient`` the bus tries again.
        - ``PublishUncertain``: it may be stored.

        The failure of one message says nothing about the others. The bus makes one call at a time and never
        cancels it. The call must end in bounded time. An error that it raises counts as ``PublishUncertain``
        for each message.
        """
        ...

    async def open_consumer(self, spec: SubscriptionSpec) -> Consumer:
        """Opens a subscription, which misses nothing from now on.

        After a ``BusError`` it is called again. On a durable adapter the group outlives the process, and
        ``close`` of the consumer.
        """
        ...

    async def backlog(self, spec: SubscriptionSpec) -> int:
        """The number of messages that the subscription has not settled, in all instances together.

        It counts messages that no consumer received, messages that one owns, and those that wait for a
        retry. The bus may ask for several subscriptions at once.
        """
        ...


@runtime_checkable
class CountingAdapter(Protocol):
    """An option of an ``Adapter`` that counts the backlog of many subscriptions at once.

    A drain asks for all subscriptions of a bus, repeatedly. Without this option it asks for each of them.
    """

    async def backlogs(self, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        """The ``backlog`` of each subscription, in order.

        A subscription may occur twice, and the list may be empty.
        """
        ...


# --- administration ---------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class GroupFigures:
    """The load of one group on one topic or pattern, over all instances.

    - ``published``: the events stored on its topics since some time. Only differences mean something.
    - ``backlog``: the events that it has not settled. ``lag`` of them were not handed out, ``in_flight`` are
      with an instance, and ``retries`` wait in the storage.
    - ``dead``: its dead letters.
    - ``oldest``: the age in seconds of the oldest event that was not handed out; None if there is none.

    A number is None where the storage cannot tell it.
    """

    group: str
    subscription: str
    topic: str
    instances: int
    published: int | None
    backlog: int
    lag: int | None
    in_flight: int
    retries: int | None
    dead: int
    oldest: float | None


@attrs.frozen(kw_only=True)
class ReplayFilter:
    """Selects kept events: those that fulfil every criterion; without criteria all.

    ``topic`` is a name or a pattern. ``stored_since`` is inclusive, and ``stored_before`` is not: both are
    about the time at which the storage took the event. ``event_ids`` are texts.
    """

    topic: str | None = None
    stored_since: datetime | None = None
    stored_before: datetime | None = None
    event_ids: frozenset[str] | None = None


@attrs.frozen(kw_only=True)
class Replayed:
    """The progress of a replay, from its beginning.

    ``events`` were handed out again. ``unsettled`` were passed over, because the group had not settled them
    and gets them anyway.
    """

    events: int = 0
    unsettled: int = 0
    is_done: bool = False


class Administration(Protocol):
    """The view of the whole storage, for operators. The adapter has to be started."""

    async def groups(self) -> Sequence[GroupFigures]:
        """Every group, once for each topic or pattern that it is subscribed to, sorted."""
        ...

    async def replay(self, group: str, where: ReplayFilter, *, replay_id: str | None, limit: int) -> Replayed:
        """Takes the next step of a replay: hands kept events to a group again, about ``limit`` of them.

        The handler finds ``delivery.redriven`` and ``attempt`` 1; the history begins with ``replayed_at``.
        Call it until ``is_done``. A step and its progress are stored together, so that a repeated or
        interrupted ``replay_id`` hands out no event twice. Progress is kept for a week. With a ``replay_id``
        of None nothing is handed out, and the answer is complete. Raises ``UnknownSubscription``.
        """
        ...


@runtime_checkable
class AdministeredAdapter(Protocol):
    """An option of an ``Adapter`` with the feature ``admin``."""

    @property
    def admin(self) -> Administration:
        """The view of the whole storage."""
        ...


class Consumer(Protocol):
    """One open subscription of one instance.

    The engine never cancels a call: a message on its way would be stranded. When a program cancels all of its
    tasks, the engine calls again as after an error. One ``receive`` and one ``settle`` may run at the same
    time.

    An ordered subscription has one receiving consumer among all instances. The others stand by until it
    closes.
    """

    @property
    def longest_hold(self) -> float:
        """The most seconds that the engine may hold a message until its retry is due.

        The engine hands longer delays back with the outcome ``retry``, and shorter ones too when it holds
        many already. This applies only to unordered groups on an adapter that is durable and can delay.
        Elsewhere the engine holds every retry.
        """
        ...

    async def receive(self, limit: int) -> Sequence[Received]:
        """At most ``limit`` messages, in order; waits up to a few seconds for the first one.

        An empty answer means that there was none, or that ``stop`` was called. The receiver owns the messages
        until they are settled, however long a handler takes. After a ``BusError`` it is called again with a
        pause, and nothing is skipped.
        """
        ...

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        """Carries out outcomes, and returns a result for each.

        - None: done, and stored.
        - ``LeaseLost``: another consumer owns the message now.
        - Any other error: not done, or perhaps not. The engine asks again: doing it twice must be harmless.

        An error that it raises counts for all of them.
        """
        ...

    def stop(self) -> None:
        """Ends receiving: a waiting ``receive`` returns soon, with the messages that it has.

        An adapter that is not durable, and a broadcast, cannot take messages back. There the engine calls
        ``receive`` until its answer is empty, to get all messages that had arrived.
        """
        ...

    async def close(self) -> None:
        """Releases the resources of ``open_consumer``. No other call is running, and none follows.

        Other consumers claim the messages that it still owns when their lease ends.
        """
        ...


@runtime_checkable
class LeasingConsumer(Protocol):
    """An option of a ``Consumer`` whose messages go to others when it does not renew its leases.

    After a pause of the process the engine asks before it handles the messages that it holds.
    """

    @property
    def in_doubt(self) -> bool:
        """True when a lease may have ended. It is called often, so it must answer from memory."""
        ...

    async def confirm(self, receipts: Sequence[Any]) -> Sequence[bool]:
        """Renews leases. Returns for each message True if this consumer still owns it.

        The engine drops the others: it calls no handler for them, and does not settle them. After a
        ``BusError`` it is called again, with a pause.
        """
        ...


@runtime_checkable
class YieldingConsumer(Protocol):
    """An option of a ``Consumer`` whose ordered subscriptions have one active instance at a time.

    The engine asks when it meets a message that only another version of the code can decode. If an instance
    waits, the engine gives its messages back, closes this consumer, and opens another one a little later.
    """

    async def has_standby(self) -> bool:
        """True when another instance waits to become active. Raises ``BusError``; then nothing is done."""
        ...


class InProcessAdapter(AdapterBase, Protocol):
    """A transport inside the process that publishes: ``features.in_process`` is true.

    It decides who gets an event (groups compete, broadcast reaches all) and keeps dead letters. The
    engine owns everything else: the bounded queue, workers, retries, isolation, ordering, and drain.
    """

    @property
    def serialize(self) -> bool:
        """True when events must pass through the serializer on their way, as they would on a network."""
        ...

    def attach(self, inlet: Inlet) -> None:
        """Lets the inlet take part in routing."""
        ...

    def detach(self, inlet: Inlet) -> None:
        """Ends the inlet's part in routing; no-op when it was not attached."""
        ...

    def watch(self, changed: Callable[[str], None]) -> None:
        """Registers ``changed``, which the adapter calls, until ``close``, when an answer of ``route`` may
        have changed.

        The argument is the topic, or a pattern that covers the changed topics: ``#`` for all.
        """
        ...

    def route(self, topic: str) -> Sequence[Sequence[Inlet]]:
        """The receivers of an event of the topic: for each group the inlets that compete for it, in turn."""
        ...

    def bury(self, letter: DeadLetter, payload: Event | Message, inlet: Inlet) -> None:
        """Stores a dead letter of a subscription, with the payload that a redrive hands over."""
        ...


AnyAdapter = Adapter | InProcessAdapter
"""An adapter of either kind, as ``promenade_bus_adapters`` offers it; see ``is_in_process``."""


def is_in_process(adapter: AnyAdapter) -> TypeGuard[InProcessAdapter]:
    """True for an adapter inside the process."""
    return adapter.features.in_process


# --- health -----------------------------------------------------------------------------------------------


class HealthStatus(StrEnum):
    """The status of a health check, from best to worst."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"

    @property
    def severity(self) -> int:
        """0 for healthy, 2 for unhealthy."""
        return tuple(HealthStatus).index(self)


@attrs.frozen
class CheckResult:
    """The result of one probe: its status, a sentence for people, and figures for machines."""

    status: HealthStatus
    summary: str
    figures: Mapping[str, float | int | str | bool] = attrs.field(factory=FrozenMapping)

    def to_dict(self) -> dict[str, Any]:
        """The check as plain data for JSON. A figure without a JSON form becomes a text."""
        figures = {
            name: str(figure) if isinstance(figure, float) and not math.isfinite(figure) else figure
            for name, figure in self.figures.items()
        }
        return {"status": self.status.value, "summary": self.summary, "figures": figures}


@attrs.frozen(kw_only=True)
class SubscriptionState:
    """The counters of one subscription since the bus was opened, and its current load.

    ``late`` counts messages that another consumer had claimed before they were settled here.
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
class MiddlewareCount:
    """The number of events that a middleware has treated in one way since the bus was opened.

    ``middleware`` is its name in the configuration. ``subject`` is the subscription, or the topic where it
    is in the publish chain. ``outcome`` is the middleware's own word for what it did, such as ``expired``.
    """

    middleware: str
    subject: str
    outcome: str
    events: int


@attrs.frozen(kw_only=True)
class EngineState:
    """A snapshot of the engine, for probes and tools. Times are seconds.

    ``middleware`` has the counts of each ``WatchedMiddleware``.
    """

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
    middleware: tuple[MiddlewareCount, ...] = ()
    oldest_retry: float = 0.0
    oldest_retry_subscription: str | None = None


class HealthProbe:
    """A base for probes: override ``check``, and the other two if the probe has resources."""

    async def start(self) -> None:
        """Called when the bus starts."""

    async def check(self, state: EngineState) -> CheckResult:
        """Checks once, within a deadline of the bus. An exception counts as unhealthy."""
        raise NotImplementedError

    async def close(self) -> None:
        """Called when the bus closes."""


class WatchedMiddleware:
    """A base for middleware that counts, or that has a health or something to close.

    ``build`` may return a function or an object like this: override ``__call__``, and the others as
    needed. The bus calls them on its event loop, never for an event.
    """

    def __call__(self, handler: Handler) -> Handler:
        """Wraps a handler; see ``Middleware``."""
        raise NotImplementedError

    def of_subscription(self, spec: SubscriptionSpec) -> Middleware | None:
        """The middleware for a subscription: itself, another one, or None to leave the subscription alone.

        Called once, when the subscription is made.
        """
        return self

    def of_topic(self, topic: str) -> Middleware | None:
        """The same for publishing on a topic; called before its first publish, and sometimes again."""
        return self

    async def start(self) -> None:
        """Called when the bus starts, after its adapter. An exception ends the start."""

    def counts(self) -> Mapping[tuple[str, str], int]:
        """The number of events by subject and outcome; see ``MiddlewareCount``."""
        return {}

    def check(self) -> CheckResult | None:
        """Its part of the health report; None without one. It must not wait. An exception is unhealthy."""
        counts = self.counts()
        if not counts:
            return None
        told = ", ".join(f"{events:,} {outcome} ({subject})" for (subject, outcome), events in counts.items())
        figures = {f"{outcome} {subject}": events for (subject, outcome), events in counts.items()}
        return CheckResult(HealthStatus.HEALTHY, told, FrozenMapping(figures))

    async def close(self) -> None:
        """Called when the bus closes, before its adapter, once after each ``start`` that succeeded."""


# --- stores -----------------------------------------------------------------------------------------------


class Store(Protocol):
    """Small state that a middleware keeps between attempts: claims, marks and token buckets.

    A store on a server is shared by all instances. Keys are texts that begin with the name of the middleware.
    Every call returns soon, and raises a ``BusError`` when the store does not answer. All calls come from the
    event loop of the bus. Times are seconds.
    """

    async def start(self) -> None:
        """Called when the bus starts, after its adapter. It need not wait for a server."""
        ...

    async def close(self) -> None:
        """Called when the bus closes, before its adapter."""
        ...

    async def claim(self, key: str, owner: str, seconds: float) -> Literal["mine", "taken", "marked"]:
        """Takes a key for an owner, who has it for some seconds. It must be atomic.

        ``mine``: the owner has the key. If it had the key already, its time is extended. ``taken``: another
        owner has it. ``marked``: the key is marked.
        """
        ...

    async def mark(self, key: str, seconds: float) -> None:
        """Marks a key for some seconds, whoever has it. The claim ends."""
        ...

    async def release(self, key: str, owner: str) -> None:
        """Ends the claim of an owner; harmless when it has none, or the key is marked."""
        ...

    async def take(self, key: str, rate: float, burst: int) -> float:
        """Takes a token from a bucket that holds ``burst`` and gets ``rate`` a second. It must be atomic.

        Returns 0 with a token. Otherwise returns the seconds until one can be expected; different callers get
        different times, so that they do not all come back at once.
        """
        ...

    @property
    def forgotten(self) -> int:
        """The number of marks and buckets that were dropped before their time, because the store was full."""
        ...


# --- observers --------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class AttemptFailure:
    """A failed attempt and its consequence, for an ``Observer``.

    ``event`` is None when the message could not be decoded; ``attempt`` counts from 1. A ``"retry"`` or
    ``"postpone"`` follows after ``delay`` seconds; a ``"dead_letter"`` has a ``reason``.
    """

    topic: str
    subscription: str
    event_id: str
    event: Event | None
    attempt: int
    error: BaseException
    action: Literal["retry", "postpone", "dead_letter"]
    delay: float = 0.0
    reason: str = ""


@attrs.frozen(kw_only=True)
class EventLoss:
    """An event that a subscription has lost: its failure, or its dead letter, could not be dealt with.

    ``EngineState.lost`` counts it, and also the losses of an adapter, which have no topic.
    """

    topic: str
    subscription: str
    event_id: str
    reason: str


@attrs.frozen(kw_only=True)
class SubscriptionBacklog:
    """The number of events that a subscription has not settled, in all instances of the service together."""

    name: str
    topic: str
    events: int


class ObservedBus(Protocol):
    """A bus as an observer sees it, from ``start`` until ``close``.

    Use it on the event loop of the bus only.
    """

    @property
    def service(self) -> str:
        """The name of the service."""
        ...

    @property
    def adapter(self) -> AnyAdapter:
        """The adapter in use, which may be the fallback."""
        ...

    def state(self) -> EngineState:
        """A snapshot of queues and counters."""
        ...

    def published(self) -> Mapping[str, int]:
        """The number of events of each topic that the bus has accepted so far."""
        ...

    async def backlog(self) -> Sequence[SubscriptionBacklog]:
        """The number of unsettled events of each subscription. An adapter outside the process is asked."""
        ...


async def _nothing_to_start(_bus: ObservedBus) -> None:
    pass


async def _nothing_to_close() -> None:
    pass


@attrs.frozen(kw_only=True)
class Observer:
    """The parts of an observer: a tracer, a metric, a recorder. A part that is None costs nothing.

    ``publish`` and ``consume`` give a middleware for a topic and for a subscription, or None where they do
    not look. That of ``consume`` comes around all others, and sees the outcome of every attempt; that of
    ``publish`` comes inside of all others, and sees what the adapter is given. What such a middleware raises
    by itself is the outcome of the attempt, or of the publish.

    ``timing`` gives a function for a subscription, or None. It is called after each call of the handler
    with the seconds that it took, and with its error or None: less than half the price of a middleware.

    ``failed`` is called with every attempt that failed, and what follows from it, those included that no
    middleware sees, because the event could not be decoded. ``lost`` is called with every event that is
    lost in the engine. Nothing that these two and ``timing``'s function raise has an effect.

    ``start`` is awaited when the bus starts, once its adapter has, and ``close`` when it closes, before its
    adapter does. ``scrape`` answers whoever asks for figures, from any thread: it takes the ``Accept`` header
    of the request, and returns the content type and the body.
    """

    publish: Callable[[str], Middleware | None] | None = None
    consume: Callable[[SubscriptionSpec], Middleware | None] | None = None
    timing: Callable[[SubscriptionSpec], Callable[[float, BaseException | None], None] | None] | None = None
    failed: Callable[[AttemptFailure], None] | None = None
    lost: Callable[[EventLoss], None] | None = None
    start: Callable[[ObservedBus], Awaitable[None]] = _nothing_to_start
    close: Callable[[], Awaitable[None]] = _nothing_to_close
    scrape: Callable[[str], tuple[str, bytes]] | None = None
