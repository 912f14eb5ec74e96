"""The middleware ``chaos``: makes attempts and publishes fail, wait or happen twice, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from bus_core import Clock, Envelope, Handler, Middleware, PublishFailed, PublishUncertain
from bus_core.runtime import expiry
from promenade_bus_testing.config import ChaosOptions

__all__ = ["ChaosError", "chaos_middleware"]


class ChaosError(Exception):
    """Raised by the chaos middleware instead of calling the handler: a failure like any other."""


def chaos_middleware(options: ChaosOptions, clock: Clock) -> Middleware:
    """Returns a middleware that makes some calls fail, wait, or happen twice.

    Each subscription, and for publishing each topic, has its own sequence of faults. The sequence depends
    only on the seed, the name and the number of the call, and not on ids, times, other subscriptions, or the
    process. Exceptions of the handler itself pass through.
    """

    def middleware(handler: Handler) -> Handler:
        chances: dict[str, random.Random] = {}

        async def unreliable(envelope: Envelope) -> None:
            where = envelope.topic if envelope.delivery is None else envelope.delivery.subscription
            name = f"{envelope.direction} {where}"
            if name not in chances:
                # random hashes a text seed itself, so it is the same in every process.
                chances[name] = random.Random(f"{options.seed} {name}")
            # Each call takes the same number of values, so that a change of one share does not move other
            # faults.
            late, wait, fails, twice, fails_after = (chances[name].random() for _ in range(5))
            fail: Callable[[str], Exception] = ChaosError
            fail_after: Callable[[str], Exception] = ChaosError
            if envelope.delivery is None:
                fail, fail_after = PublishFailed, PublishUncertain
            if late < options.delay:
                expired, timer = expiry(clock, wait * options.max_delay)
                try:
                    await expired
                finally:
                    timer.cancel()
            if fails < options.fail:
                raise fail(f"the chaos middleware made the call fail before it reached {where!r}")
            if twice < options.duplicate:
                await handler(_copy(envelope))
            await handler(envelope)
            if fails_after < options.fail_after:
                raise fail_after(f"the chaos middleware made the call fail after it had reached {where!r}")

        return unreliable

    return middleware


def _copy(envelope: Envelope) -> Envelope:
    return Envelope(envelope.topic, envelope.event, dict(envelope.headers), envelope.delivery)
