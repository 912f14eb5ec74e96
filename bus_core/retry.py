"""Retry policies as pure decisions: they compute a delay and know nothing of clocks, queues or handlers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated, Any

import attrs

from bus_core.config.values import DURATION

__all__ = ["ExponentialRetry", "FixedRetry", "NoRetry"]


_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _at_least(minimum: float, unit: str = "") -> _Validator:
    """The validator of a number with a lower bound; it refuses NaN as well."""

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not value >= minimum or value == float("inf"):
            raise ValueError(
                f"{attribute.name} must be a finite number of at least {minimum:g}{unit}, got {value!r}"
            )

    return check


@attrs.frozen(kw_only=True)
class ExponentialRetry:
    """Waits ``delay * multiplier ** (attempt - 1)`` seconds after a failed attempt, at most ``max_delay``.

    ``attempts`` counts all attempts, the first included: with the defaults an event is tried at once,
    100 ms after the first failure, and 200 ms after the second. ``jitter`` is the part of the delay that
    is drawn by chance: 0.2 waits between 80 % and 100 % of it, which spreads a crowd of retries.

    ``bus.subscribe(ORDER_PLACED, charge, name="charge", retry=ExponentialRetry(attempts=10))``
    """

    attempts: int = attrs.field(default=3, validator=_at_least(1))
    delay: Annotated[float, DURATION] = attrs.field(default=0.1, validator=_at_least(0, " s"))
    max_delay: Annotated[float, DURATION] = attrs.field(default=10.0, validator=_at_least(0, " s"))
    multiplier: float = attrs.field(default=2.0, validator=_at_least(1))
    jitter: float = attrs.field(default=0.0, validator=[_at_least(0), attrs.validators.le(1)])

    def next_delay(self, attempt: int, error: BaseException) -> float | None:
        """Seconds to wait after attempt number ``attempt`` failed; None to give up."""
        if attempt >= self.attempts:
            return None
        try:
            delay = min(self.delay * self.multiplier ** (attempt - 1), self.max_delay)
        except OverflowError:
            delay = self.max_delay
        return delay * (1 - self.jitter * random.random()) if self.jitter else delay


@attrs.frozen(kw_only=True)
class FixedRetry:
    """Waits the same ``delay`` in seconds after each failed attempt; ``attempts`` counts all of them."""

    attempts: int = attrs.field(default=3, validator=_at_least(1))
    delay: Annotated[float, DURATION] = attrs.field(default=0.1, validator=_at_least(0, " s"))

    def next_delay(self, attempt: int, error: BaseException) -> float | None:
        """Seconds to wait after attempt number ``attempt`` failed; None to give up."""
        return None if attempt >= self.attempts else self.delay


@attrs.frozen
class NoRetry:
    """Gives up after the first attempt."""

    def next_delay(self, attempt: int, error: BaseException) -> float | None:
        """Always None."""
        return None
