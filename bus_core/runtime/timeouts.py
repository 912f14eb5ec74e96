"""Time limits on the bus's own clock, so that a virtual clock reaches them too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from bus_core.errors import HandlerTimeout
from bus_core.runtime.clock import Clock, TimerHandle

__all__ = ["call_within", "expiry", "run_with_timeout"]

T = TypeVar("T")


def expiry(clock: Clock, delay: float) -> tuple[asyncio.Future[None], TimerHandle]:
    """A future that is done ``delay`` seconds from now, and the timer that does it."""
    expired: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expire() -> None:
        if not expired.done():
            expired.set_result(None)

    return expired, clock.call_later(delay, expire)


async def run_with_timeout(
    clock: Clock, seconds: float, subscription: str, call: Callable[..., Awaitable[T]], *arguments: Any
) -> T:
    """Awaits ``call(*arguments)`` for at most so many seconds; ``HandlerTimeout`` names the subscription.

    For what happens at the limit see ``call_within``.
    """
    return await call_within(clock, seconds, partial(HandlerTimeout, subscription, seconds), call, *arguments)


async def call_within(
    clock: Clock,
    seconds: float,
    error: Callable[[], Exception],
    call: Callable[..., Awaitable[T]],
    *arguments: Any,
) -> T:
    """Awaits ``call(*arguments)`` in the current task, and cancels it when the time is over.

    Raises ``error()`` when the call ended because of that, and also when it swallowed the cancellation and
    returned: it ran too long either way. An exception that it raised on its way out is left as it is, with a
    note. A cancellation that comes from outside is passed on, even when it arrives at the same moment as
    the limit, and so is a ``CancelledError`` that the call raises by itself before the limit.

    The rules are those of ``asyncio.timeout``, which has no clock that can be replaced.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a time limit needs a running task")
    limit = _Limit(task)
    cancelled_before = task.cancelling()
    timer = clock.call_later(seconds, limit.reached)
    try:
        result = await call(*arguments)
    except asyncio.CancelledError as cancelled:
        # Whatever is left of the count after our own share is taken off belongs to somebody else.
        if limit.expired and task.uncancel() <= cancelled_before:
            raise error() from cancelled
        raise
    except BaseException as failure:
        if limit.expired:
            task.uncancel()
            failure.add_note(f"raised after the call had been cancelled at its limit of {seconds:g} s")
        raise
    finally:
        limit.over = True
        timer.cancel()
    if limit.expired:
        task.uncancel()
        raise error()
    return result


class _Limit:
    """What the timer does, once, and only while the call is running."""

    __slots__ = ("_task", "expired", "over")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self.expired = False
        self.over = False

    def reached(self) -> None:
        if not self.over:
            self.expired = True
            self._task.cancel()
