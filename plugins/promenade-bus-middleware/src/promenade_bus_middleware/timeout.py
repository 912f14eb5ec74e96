"""A time limit for each attempt to handle an event, and for each publish."""

from __future__ import annotations

from bus_core import Clock, Envelope, Handler, Middleware, PublishUncertain
from bus_core.runtime import call_within, run_with_timeout
from promenade_bus_middleware.config import TimeoutOptions

__all__ = ["timeout_middleware"]


def timeout_middleware(options: TimeoutOptions, clock: Clock) -> Middleware:
    """A middleware that cancels what runs too long.

    An attempt fails with ``HandlerTimeout``. A publish raises ``PublishUncertain``, because the event may
    have been accepted by then.
    """
    seconds = options.seconds

    def middleware(handler: Handler) -> Handler:
        async def limited(envelope: Envelope) -> None:
            if envelope.delivery is not None:
                await run_with_timeout(clock, seconds, envelope.delivery.subscription, handler, envelope)
                return

            def too_slow() -> PublishUncertain:
                return PublishUncertain(
                    f"publishing to {envelope.topic!r} took longer than {seconds:g} s: the event may be "
                    "stored; publish the same event again, or raise the limit of the 'timeout' middleware"
                )

            await call_within(clock, seconds, too_slow, handler, envelope)

        return limited

    return middleware
