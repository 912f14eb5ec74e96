"""The parts of an observer: a tracer, a metric, a recorder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol

import attrs

from bus_core.abc.adapters import AnyAdapter, SubscriptionSpec
from bus_core.abc.health import EngineState
from bus_core.abc.middleware import Middleware
from bus_core.events.base import Event

__all__ = [
    "AttemptFailure",
    "EventLoss",
    "ObservedBus",
    "Observer",
    "SubscriptionBacklog",
]


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
