"""The state of the engine, and the probes that judge it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from bus_core.events.primitives import FrozenMapping

__all__ = [
    "CheckResult",
    "EngineState",
    "HealthProbe",
    "HealthStatus",
    "MiddlewareCount",
    "SubscriptionState",
]


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

    ``middleware`` has the counts of each ``WatchedMiddleware``. Of ``waiting_retries``, ``waiting_postponed``
    wait because their handler or a middleware raised ``Postpone``, and not after a failure.
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
    waiting_postponed: int = 0


class HealthProbe:
    """A base for probes: override ``check``, and the other two if the probe has resources."""

    async def start(self) -> None:
        """Called when the bus starts."""

    async def check(self, state: EngineState) -> CheckResult:
        """Checks once, within a deadline of the bus. An exception counts as unhealthy."""
        raise NotImplementedError

    async def close(self) -> None:
        """Called when the bus closes."""
