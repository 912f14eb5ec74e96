"""Limits how many attempts begin in a time, with a token bucket for each subscription or aggregate.

An attempt takes a token from a bucket in a store. Without a token the event is postponed until one can be
expected. A postponed event holds no worker and burns no attempt. It counts as ``limited``.

Guarantees. Of one bucket at most ``burst`` attempts, and ``rate`` more in each ``per``, begin in any time;
retries are attempts. Buckets in Redis hold for all instances together, buckets in memory for each process. A
process that is killed after it took a token has wasted the token: the redelivery takes another one. The order
of events is not kept, except by an ordered subscription. If the store does not answer, events are postponed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from bus_core import (
    BusError,
    CheckResult,
    Envelope,
    Handler,
    HealthStatus,
    Middleware,
    Postpone,
    Store,
    SubscriptionSpec,
    WatchedMiddleware,
)
from bus_core.abc import BoundedStore
from bus_core.runtime import plain_logger
from promenade_bus_middleware.config import RateLimitOptions

__all__ = ["RateLimit"]

logger = plain_logger("promenade.bus.events")

LIMITED: Final = "limited"
POSTPONED: Final = "postponed"

_STEPS: Final = 100
"""The number of different times within the second half of the longest wait."""


class RateLimit(WatchedMiddleware):
    """The middleware ``rate-limit``."""

    def __init__(self, options: RateLimitOptions, store: Store) -> None:
        self._options = options
        self._store = store
        self._bounded_store = store if isinstance(store, BoundedStore) else None
        self._rate = options.rate / options.per
        self._counts: Counter[tuple[str, str]] = Counter()
        self._trouble: str | None = None  # the last error of the store, until it answers
        self._step = 0

    def counts(self) -> Mapping[tuple[str, str], int]:
        return self._counts

    def check(self) -> CheckResult | None:
        if self._trouble is not None:
            text = f"the store does not answer: {self._trouble}; events are postponed until it does"
            return CheckResult(HealthStatus.DEGRADED, text)
        found = super().check()
        if self._store.forgotten:
            text = (
                f"{self._store.forgotten:,} buckets or marks were dropped because the store was full: their "
                "limits begin anew; raise its limit"
            )
            return CheckResult(HealthStatus.DEGRADED, text, found.figures if found else {})
        return found

    def of_subscription(self, spec: SubscriptionSpec) -> Middleware | None:
        """Leaves out subscriptions that are not listed."""
        only = self._options.subscriptions
        if only and spec.name not in only:
            return None
        return lambda handler: self._limited(handler, spec)

    def _limited(self, handler: Handler, spec: SubscriptionSpec) -> Handler:
        bucket = f"rate-limit:{spec.group}"
        by_aggregate = self._options.by == "aggregate"

        async def limited(envelope: Envelope) -> None:
            key = f"{bucket}:{envelope.event.aggregate_id}" if by_aggregate else bucket
            try:
                wait = await self._take(key)
            except BusError as error:
                self._store_failed(error, spec.name)
                raise Postpone(after=self._options.retry) from error
            self._trouble = None
            if wait > 0:
                self._counts[spec.name, LIMITED] += 1
                raise Postpone(f"the rate limit of {spec.name!r} is reached", after=self._bounded(wait))
            await handler(envelope)

        return limited

    async def _take(self, key: str) -> float:
        """Takes a token, or returns the seconds until one can be expected."""
        rate, burst = self._rate, self._options.burst
        if self._bounded_store is None:
            return await self._store.take(key, rate, burst)
        return await self._bounded_store.take_within(key, rate, burst, self._options.longest_wait)

    def _bounded(self, wait: float) -> float:
        """A wait that is not too long. Those that are have no place, and come back at different times."""
        longest = self._options.longest_wait
        if wait <= longest:
            return wait
        self._step = (self._step + 1) % _STEPS
        return longest / 2 * (1 + self._step / _STEPS)

    def _store_failed(self, error: BusError, subscription: str) -> None:
        self._counts[subscription, POSTPONED] += 1
        if self._trouble is None:
            logger.warning(
                "the store of the middleware %r does not answer: %s; events are postponed (subscription=%s)",
                "rate-limit",
                str(error),
                subscription,
            )
        self._trouble = str(error)
