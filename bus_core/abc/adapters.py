"""The protocols of an adapter: a transport, its consumers, and its dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import attrs

from bus_core.errors import BusError, PublishError
from bus_core.events.base import Event
from bus_core.events.messages import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterTally,
    Message,
    Outcome,
    Received,
)

__all__ = [
    "Adapter",
    "AdapterBase",
    "AnyAdapter",
    "Consumer",
    "CountingAdapter",
    "DeadLetterStore",
    "Features",
    "InProcessAdapter",
    "Inlet",
    "LeasingConsumer",
    "SubscriptionSpec",
    "YieldingConsumer",
    "is_in_process",
]


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
        - ``PublishFailed``: it is definitely not stored. Where this is ``transient`` the bus tries again. It
          is ``permanent`` only where the message itself is at fault, whatever the state of the storage.
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
