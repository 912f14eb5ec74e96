"""Time limits on the bus's own clock, so that they follow a virtual clock, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from itertools import islice
from types import CoroutineType
from typing import Any, Generic, TypeVar

from bus_core.runtime.clock import Clock, TimerHandle

__all__ = ["Deadlines", "call_within", "expiry"]

T = TypeVar("T")


def expiry(clock: Clock, delay: float) -> tuple[asyncio.Future[None], TimerHandle]:
    """A future that is done ``delay`` seconds from now, and its timer."""
    expired: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expire() -> None:
        if not expired.done():
            expired.set_result(None)

    return expired, clock.call_later(delay, expire)


async def call_within(
    clock: Clock,
    seconds: float,
    error: Callable[[], Exception],
    call: Callable[..., Awaitable[T]],
    *arguments: Any,
) -> T:
    """Awaits ``call(*arguments)`` for at most so many seconds; see ``Deadlines.within``."""
    return await Deadlines(clock).within(seconds, error, call(*arguments))


class Deadlines:
    """The time limits of many calls on one clock and one event loop; they share one timer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._limits: dict[float, dict[_Limit, None]] = {}  # by their seconds, each in order
        self._timer: TimerHandle | None = None
        self._due = 0.0  # the time of the timer

    def within(self, seconds: float, error: Callable[[], Exception], awaitable: Awaitable[T]) -> Awaitable[T]:
        """Awaits something in the current task for at most so many seconds; see ``limit``."""
        return self.limit(seconds, error, lambda: awaitable)()

    def limit(
        self, seconds: float, error: Callable[..., Exception], call: Callable[..., Awaitable[T]]
    ) -> Callable[..., Awaitable[T]]:
        """A function that awaits ``call(*arguments)`` for at most so many seconds, and cancels it then.

        It raises ``error(*arguments)`` when the call ended because of that, and also when it swallowed the
        cancellation and returned: it ran too long either way. An exception that it raised on its way out is
        left as it is, with a note. A cancellation that comes from outside is passed on, even when it arrives
        at the same moment as the limit, and so is a ``CancelledError`` that it raises by itself before the
        limit.

        The rules are those of ``asyncio.timeout``, which has no clock that can be replaced. What never waits
        cannot be cancelled, and costs no timer: the limit is set when the first step has come to wait.
        """
        monotonic, go_on = self._monotonic, self._go_on

        async def limited(*arguments: Any) -> T:
            began = monotonic()
            steps: Any = call(*arguments)
            if steps.__class__ is not CoroutineType:
                steps = _awaited(steps)
            try:
                waits_for = steps.send(None)
            except StopIteration as done:
                result: T = done.value
                return result
            return await go_on(began, seconds, lambda: error(*arguments), steps, waits_for)

        return limited

    async def _go_on(
        self,
        began: float,
        seconds: float,
        error: Callable[[], Exception],
        steps: Coroutine[Any, Any, T],
        waits_for: Any,
    ) -> T:
        """Awaits the rest of a coroutine that has made its first step, and waits."""
        task = asyncio.current_task()
        assert task is not None, "only a task can wait"
        cancelled_before = task.cancelling()
        limit = _Limit(task, began + seconds)
        self._set(limit, seconds)
        try:
            result = await _Rest(steps, waits_for)
        except asyncio.CancelledError as cancelled:
            # The other cancellations belong to others.
            if limit.expired and task.uncancel() <= cancelled_before:
                raise error() from cancelled
            raise
        except BaseException as failure:
            if limit.expired:
                task.uncancel()
                failure.add_note(f"raised after the call had been cancelled at its limit of {seconds:g} s")
            raise
        finally:
            self._drop(limit, seconds)
        if limit.expired:
            task.uncancel()
            raise error()
        return result

    # --- the timer ----------------------------------------------------------------------------------------

    def _set(self, limit: _Limit, seconds: float) -> None:
        alike = self._limits.get(seconds)
        if alike is None:
            alike = self._limits[seconds] = {}
        alike[limit] = None
        if self._timer is None or limit.deadline < self._due:
            self._start_timer(limit.deadline)

    def _drop(self, limit: _Limit, seconds: float) -> None:
        limit.over = True
        alike = self._limits.get(seconds)
        if alike is None or limit not in alike:
            return  # it has expired
        del alike[limit]
        if not alike:
            del self._limits[seconds]
            if not self._limits and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _start_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._clock.call_later(max(0.0, deadline - self._monotonic()), self._look)

    def _look(self) -> None:
        """Ends the calls that are over time, and sets the timer for the next one."""
        if self._timer is None:
            return  # a clock may still call a cancelled timer
        self._timer = None
        now = max(self._monotonic(), self._due)
        nearest: list[float] = []
        for seconds, alike in [*self._limits.items()]:
            over = 0
            for limit in alike:
                if limit.deadline > now:
                    nearest.append(limit.deadline)
                    break
                over += 1
            for limit in [*islice(alike, over)]:
                del alike[limit]
                limit.reached()
            if not alike:
                del self._limits[seconds]
        if nearest:
            self._start_timer(min(nearest))


class _Limit:
    """Cancels the call at its deadline, once, and only while it is running."""

    __slots__ = ("_task", "deadline", "expired", "over")

    def __init__(self, task: asyncio.Task[Any], deadline: float) -> None:
        self._task = task
        self.deadline = deadline
        self.expired = False
        self.over = False

    def reached(self) -> None:
        if not self.over:
            self.expired = True
            self._task.cancel()


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


class _Rest(Generic[T]):
    """The rest of a coroutine that has made its first step, and waits for something."""

    __slots__ = ("_steps", "_waits_for")

    def __init__(self, steps: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._steps = steps
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        steps, waits_for = self._steps, self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    steps.close()
                    raise
                except BaseException as thrown:
                    waits_for = steps.throw(thrown)
                else:
                    waits_for = steps.send(sent)
        except StopIteration as done:
            result: T = done.value
            return result
