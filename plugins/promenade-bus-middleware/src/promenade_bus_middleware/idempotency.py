"""Skips events that the subscription has handled before.

Before the handler runs, the attempt claims the event in a store, by the group and the ``event_id``. After the
handler has returned, it marks the event. A marked event is skipped, which counts as ``duplicate``. An event
that another attempt has claimed is postponed, which counts as ``postponed`` and burns no attempt. A failed
attempt gives the claim back.

Guarantees, with a store that outlives the process:

- Killed before the effect, or between effect and mark: the event is handled again, once the claim has ended.
  The effect may happen twice. Only a mark in the transaction of the effect excludes that.
- Killed between mark and ack: the redelivery is skipped.
- Two copies of an event at the same time, in one process or in several: one is handled, the other waits for
  its outcome. A handler that blocks the event loop for longer than ``claim`` cannot renew its claim.
- A store that does not answer: the event is postponed before the handler. After it, the event is settled
  without a mark, and counts as ``unmarked``.
- A mark lasts for ``keep``, or until the store loses its data or is full.
- Redriven as a dead letter, or replayed: somebody asks for the event to be handled again, so earlier marks do
  not count. Each redrive and each replay has a mark of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from uuid import uuid4

from bus_core import (
    BusError,
    CheckResult,
    Clock,
    Envelope,
    Handler,
    HealthStatus,
    Middleware,
    Postpone,
    Store,
    SubscriptionSpec,
    WatchedMiddleware,
)
from bus_core.runtime import TimerHandle, plain_logger
from promenade_bus_middleware.config import IdempotencyOptions

__all__ = ["Idempotency"]

logger = plain_logger("promenade.bus.events")

DUPLICATE = "duplicate"
POSTPONED = "postponed"
UNMARKED = "unmarked"


class Idempotency(WatchedMiddleware):
    """The middleware ``idempotency``."""

    def __init__(self, options: IdempotencyOptions, store: Store, clock: Clock) -> None:
        self._options = options
        self._store = store
        self._clock = clock
        self._instance = uuid4().hex
        self._attempts = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._trouble: str | None = None  # the last error of the store, until it answers

    def counts(self) -> Mapping[tuple[str, str], int]:
        return self._counts

    def check(self) -> CheckResult | None:
        found = super().check() or CheckResult(HealthStatus.HEALTHY, "no duplicates")
        figures = {**found.figures, "forgotten": self._store.forgotten}
        if self._trouble is not None:
            text = f"the store does not answer: {self._trouble}; events are postponed until it does"
            return CheckResult(HealthStatus.DEGRADED, text, figures)
        if self._store.forgotten:
            text = (
                f"{self._store.forgotten:,} marks were dropped because the store was full: their duplicates "
                "are handled again; raise its limit, or lower 'keep'"
            )
            return CheckResult(HealthStatus.DEGRADED, text, figures)
        return CheckResult(found.status, found.summary, figures)

    def of_subscription(self, spec: SubscriptionSpec) -> Middleware | None:
        """Leaves out subscriptions that are not listed. Instances of a broadcast do not share their marks."""
        only = self._options.subscriptions
        if only and spec.name not in only:
            return None
        own = f":{self._instance}" if spec.mode == "broadcast" else ""
        return lambda handler: self._once(handler, spec.name, f"idempotency:{spec.group}{own}")

    def _once(self, handler: Handler, subscription: str, prefix: str) -> Handler:
        async def once(envelope: Envelope) -> None:
            key = f"{prefix}:{envelope.event.event_id}"
            if (delivery := envelope.delivery) is not None and delivery.redriven_at is not None:
                key += f":{delivery.redriven_at.timestamp():.6f}"
            self._attempts += 1
            claim = _Claim(self._store, key, f"{self._instance}-{self._attempts}", self._options.claim)
            try:
                state = await claim.begin()
            except BusError as error:
                self._store_failed(error, subscription, POSTPONED)
                raise Postpone(after=self._options.retry) from error
            self._trouble = None
            if state == "marked":
                self._counts[subscription, DUPLICATE] += 1
                return
            if state == "taken":
                self._counts[subscription, POSTPONED] += 1
                raise Postpone(after=self._options.retry)
            claim.keep(self._clock)
            try:
                await handler(envelope)
                claim.stop()
                await self._mark(key, subscription)
            except BaseException:
                await claim.give_back()
                raise

        return once

    async def _mark(self, key: str, subscription: str) -> None:
        try:
            await self._store.mark(key, self._options.keep)
        except BusError as error:  # the effect is done: failing the attempt would repeat it
            self._store_failed(error, subscription, UNMARKED)

    def _store_failed(self, error: BusError, subscription: str, outcome: str) -> None:
        """Counts an event that the store did not answer for; logs the first of several in a row."""
        self._counts[subscription, outcome] += 1
        if self._trouble is None:
            logger.warning(
                "the store of the middleware %r does not answer: %s; the event is %s (subscription=%s)",
                "idempotency",
                str(error),
                outcome,
                subscription,
            )
        self._trouble = str(error)


class _Claim:
    """The claim of one attempt, which is renewed while the handler runs."""

    def __init__(self, store: Store, key: str, owner: str, seconds: float) -> None:
        self._store = store
        self._key = key
        self._owner = owner
        self._seconds = seconds
        self._timer: TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def begin(self) -> str:
        return await self._store.claim(self._key, self._owner, self._seconds)

    def keep(self, clock: Clock) -> None:
        """Renews the claim three times in its duration, until ``stop``."""

        def renew() -> None:
            self._renewing = asyncio.ensure_future(self._renew())
            self.keep(clock)

        self._timer = clock.call_later(self._seconds / 3, renew)

    async def _renew(self) -> None:
        try:
            await self.begin()
        except BusError:
            return  # the next renewal is soon; the mark tells of lasting trouble

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()

    async def give_back(self) -> None:
        """Ends the claim. If the store does not answer, it ends by itself."""
        self.stop()
        try:
            await self._store.release(self._key, self._owner)
        except BusError:
            return
