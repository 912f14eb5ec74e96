"""Faults on purpose: attempts and publishes that fail, wait, or happen twice; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from bus_core import Clock, Envelope, Handler, Middleware, PublishFailed, PublishUncertain
from bus_core.runtime import expiry
from promenade_bus_testing.config import ChaosOptions

__all__ = ["ChaosError", "chaos_middleware"]


class ChaosError(Exception):
    """What the chaos middleware raises in place of a handler: a failure like any other."""


def chaos_middleware(options: ChaosOptions, clock: Clock) -> Middleware:
    """A middleware that lets some calls fail, wait, or happen twice.

    Each subscription, and on the publishing side each topic, has a sequence of faults of its own. It
    depends on the seed, its name and the number of the call only: not on ids, times, other subscriptions,
    or the process. What a handler raises by itself goes through.
    """

    def middleware(handler: Handler) -> Handler:
        chances: dict[str, random.Random] = {}

        async def unreliable(envelope: Envelope) -> None:
            where = envelope.topic if envelope.delivery is None else envelope.delivery.subscription
            name = f"{envelope.direction} {where}"
            if name not in chances:
                # Text seeds are hashed by random itself, the same in every process.
                chances[name] = random.Random(f"{options.seed} {name}")
            # Each call takes the same number of values, so that changing one share moves no other fault.
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
                raise fail(f"the chaos middleware let the call fail before it reached {where!r}")
            if twice < options.duplicate:
                await handler(_copy(envelope))
            await handler(envelope)
            if fails_after < options.fail_after:
                raise fail_after(f"the chaos middleware let the call fail after it had reached {where!r}")

        return unreliable

    return middleware


def _copy(envelope: Envelope) -> Envelope:
    return Envelope(envelope.topic, envelope.event, dict(envelope.headers), envelope.delivery)
