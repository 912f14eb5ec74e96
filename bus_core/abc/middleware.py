"""Middleware, and the stores that keep its state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

from bus_core.abc.adapters import SubscriptionSpec
from bus_core.abc.health import CheckResult, HealthStatus
from bus_core.events.messages import Envelope
from bus_core.events.primitives import FrozenMapping

__all__ = [
    "BoundedStore",
    "Handler",
    "Middleware",
    "Store",
    "WatchedMiddleware",
    "WatchedStore",
]

Handler = Callable[[Envelope], Awaitable[None]]
"""The inside of a middleware: takes an envelope, and raises to report a failure."""

Middleware = Callable[[Handler], Handler]
"""Wraps a handler into a handler. It is called once per subscription or topic, never per event."""


class WatchedMiddleware:
    """A base for middleware that counts, or that has a health or something to close.

    ``build`` may return a function or an object like this: override ``__call__``, and the others as
    needed. None is called for an event. ``of_subscription`` and ``of_topic`` are called when a chain is
    composed, which may be before the loop runs, and the others on the event loop of the bus.
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


@runtime_checkable
class BoundedStore(Protocol):
    """An option of a ``Store`` whose buckets keep no place for callers that would have to wait too long.

    Without this option each caller keeps the place that ``take`` told it, also one that does not come back.
    """

    async def take_within(self, key: str, rate: float, burst: int, longest: float) -> float:
        """Like ``Store.take``, and on the same buckets, for a caller that waits at most ``longest`` seconds.

        If a token can be expected only later, returns that time, which is more than ``longest``. The caller
        then has no place, and later callers are told the same time. A bucket that has places beyond
        ``longest`` forgets them.
        """
        ...


@runtime_checkable
class WatchedStore(Protocol):
    """An option of a ``Store`` with a health of its own, reported as the check ``store NAME``."""

    async def check(self) -> CheckResult:
        """Checks once, within the deadline of health probes. An exception counts as unhealthy."""
        ...
