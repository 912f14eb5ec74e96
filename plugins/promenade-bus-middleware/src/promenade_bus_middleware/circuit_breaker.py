"""Stops calling a handler for a while when its attempts keep failing, such as when a server is down.

Each subscription has a circuit. It opens when at least ``failures`` attempts failed within ``window``, and at
least the share ``ratio`` of all attempts in that time. While it is open, events are postponed, which holds no
worker and burns no attempt, and counts as ``postponed``. After ``open_for`` it is half open: at most
``probes`` attempts run at once. When so many have succeeded it closes, and after one failure it opens again.

Guarantees. The circuit is in the process: instances do not share it, and a new process begins with a closed
one. The attempts that open it are counted as usual, and so is a failed probe. The result of an attempt that
began before the last change of the circuit is ignored. If the process is killed during a probe, the event is
redelivered like any other.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from typing import Final, Literal
from weakref import WeakSet

from bus_core import (
    CheckResult,
    Clock,
    Envelope,
    Handler,
    HealthStatus,
    Middleware,
    PermanentError,
    Postpone,
    SubscriptionSpec,
    WatchedMiddleware,
)
from bus_core.config import format_duration
from bus_core.runtime import plain_logger
from promenade_bus_middleware.config import CircuitBreakerOptions

__all__ = ["CircuitBreaker"]

logger = plain_logger("promenade.bus.events")

OPENED: Final = "opened"
POSTPONED: Final = "postponed"

_SLICES: Final = 10
"""The parts of a window that are counted apart."""

_Result = Literal["success", "failure", "neither"]


class CircuitBreaker(WatchedMiddleware):
    """The middleware ``circuit-breaker``."""

    def __init__(self, options: CircuitBreakerOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._counts: Counter[tuple[str, str]] = Counter()
        self._circuits: WeakSet[_Circuit] = WeakSet()  # one lives as long as its subscription

    def counts(self) -> Mapping[tuple[str, str], int]:
        return self._counts

    def check(self) -> CheckResult | None:
        """Degraded while a circuit is not closed; names each."""
        found = super().check()
        told = sorted(text for circuit in self._circuits if (text := circuit.describe()) is not None)
        if not told:
            return found
        return CheckResult(HealthStatus.DEGRADED, "; ".join(told), found.figures if found else {})

    def of_subscription(self, spec: SubscriptionSpec) -> Middleware | None:
        """Leaves out subscriptions that are not listed."""
        only = self._options.subscriptions
        if only and spec.name not in only:
            return None
        circuit = _Circuit(spec.name, self._options, self._clock, self._counts)
        self._circuits.add(circuit)
        return circuit.guard


class _Circuit:
    """The circuit of one subscription. ``_period`` counts its changes."""

    def __init__(
        self,
        subscription: str,
        options: CircuitBreakerOptions,
        clock: Clock,
        counts: Counter[tuple[str, str]],
    ) -> None:
        self._subscription = subscription
        self._options = options
        self._now = clock.monotonic
        self._counts = counts
        self._state: Literal["closed", "open", "half open"] = "closed"
        self._period = 0
        self._window = _Window(options.window)
        self._opens_until = 0.0
        self._reason = ""
        self._running = 0
        self._succeeded = 0

    def guard(self, handler: Handler) -> Handler:
        """Wraps the handler of the subscription."""

        async def guarded(envelope: Envelope) -> None:
            period = self._admit()
            result: _Result = "neither"
            error_name = ""
            try:
                await handler(envelope)
                result = "success"
            except BaseException as error:
                result, error_name = self._result_of(error), type(error).__name__
                raise
            finally:
                if period == self._period:
                    self._note(result, error_name)

        return guarded

    def describe(self) -> str | None:
        """A sentence about a circuit that is not closed."""
        if self._state == "closed":
            return None
        left = max(0.0, self._opens_until - self._now())
        if self._state == "open" and left:
            following = f"the next probe is in {format_duration(float(round(left, 1)))}"
        else:
            following = "it is half open: the next event is a probe"
        return f"the circuit of {self._subscription!r} is open because {self._reason}; {following}"

    def _admit(self) -> int:
        """The period in which an attempt begins; raises ``Postpone`` when it may not."""
        if self._state == "open":
            left = self._opens_until - self._now()
            if left > 0:
                raise self._postponed(left)
            self._change("half open")
            self._running = self._succeeded = 0
        if self._state == "half open":
            if self._running >= self._options.probes:
                raise self._postponed(self._options.open_for / 10)
            self._running += 1
        return self._period

    def _postponed(self, after: float) -> Postpone:
        self._counts[self._subscription, POSTPONED] += 1
        return Postpone(f"the circuit of {self._subscription!r} is open", after=after)

    def _result_of(self, error: BaseException) -> _Result:
        """Failures are the errors that a later attempt may not have."""
        if isinstance(error, Postpone | PermanentError | asyncio.CancelledError):
            return "neither"
        names = self._options.errors
        if not names:
            return "failure"
        classes = type(error).__mro__
        found = {each.__name__ for each in classes}
        found |= {f"{each.__module__}.{each.__qualname__}" for each in classes}
        return "neither" if found.isdisjoint(names) else "failure"

    def _note(self, result: _Result, error_name: str) -> None:
        """Notes the result of an attempt of the current period."""
        options, now = self._options, self._now()
        if self._state == "half open":
            self._running -= 1
            if result == "failure":
                self._open(f"a probe failed with {error_name}")
            elif result == "success":
                self._succeeded += 1
                if self._succeeded >= options.probes:
                    self._change("closed")
                    self._window = _Window(options.window)
                    logger.info("the circuit is closed again (subscription=%s)", self._subscription)
            return
        if result == "neither":
            return
        failed, attempts = self._window.add(now, failed=result == "failure")
        if result == "failure" and failed >= options.failures and failed >= options.ratio * attempts:
            window = format_duration(options.window)
            self._open(f"{failed} of {attempts} attempts failed within {window}, the last with {error_name}")

    def _open(self, reason: str) -> None:
        self._change("open")
        self._opens_until = self._now() + self._options.open_for
        self._reason = reason
        self._counts[self._subscription, OPENED] += 1
        logger.warning("the circuit is open: %s (subscription=%s)", reason, self._subscription)

    def _change(self, state: Literal["closed", "open", "half open"]) -> None:
        self._state = state
        self._period += 1


class _Window:
    """Counts attempts of the last seconds, in slices of a tenth."""

    def __init__(self, seconds: float) -> None:
        self._slice = seconds / _SLICES
        self._slices: deque[list[int]] = deque()  # number of the slice, failed attempts, attempts

    def add(self, now: float, *, failed: bool) -> tuple[int, int]:
        """Counts an attempt; returns the failed attempts, and all of them, in the window."""
        number = int(now / self._slice)
        while self._slices and self._slices[0][0] <= number - _SLICES:
            self._slices.popleft()
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append([number, 0, 0])
        self._slices[-1][1] += failed
        self._slices[-1][2] += 1
        return sum(each[1] for each in self._slices), sum(each[2] for each in self._slices)
