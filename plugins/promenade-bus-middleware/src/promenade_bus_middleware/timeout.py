"""A time limit for each attempt to handle an event, and for each publish."""

from __future__ import annotations

from bus_core import Clock, Envelope, Handler, HandlerTimeout, Middleware, PublishUncertain
from bus_core.runtime import Deadlines
from promenade_bus_middleware.config import TimeoutOptions

__all__ = ["timeout_middleware"]


def timeout_middleware(options: TimeoutOptions, clock: Clock) -> Middleware:
    """Returns a middleware that cancels an attempt or a publish that exceeds the time limit.

    An attempt fails with ``HandlerTimeout``. A publish raises ``PublishUncertain``, because the event may
    have been accepted.
    """
    seconds = options.seconds
    limit = Deadlines(clock).limit

    def too_long(envelope: Envelope) -> Exception:
        if envelope.delivery is not None:
            return HandlerTimeout(envelope.delivery.subscription, seconds)
        return PublishUncertain(
            f"publishing to {envelope.topic!r} took longer than {seconds:g} s: the event may be stored; "
            "publish the same event again, or raise the limit of the 'timeout' middleware"
        )

    def middleware(handler: Handler) -> Handler:
        return limit(seconds, too_long, handler)

    return middleware
