"""Publishing to an adapter outside of the process: calls that are under way together share one batch."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from bus_core.abc import Adapter
from bus_core.clock import Clock, TimerHandle, expiry
from bus_core.errors import BusClosed, PublishError, PublishFailed, PublishUncertain
from bus_core.messages import Message
from bus_core.outcomes import place_of

__all__ = ["Publisher"]

logger = logging.getLogger("promenade.bus")

MOST_AT_ONCE = 1000
"""Messages in one batch."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds before a batch is tried again of which something failed that may well succeed later."""


class _Waiting:
    """A message whose publisher waits."""

    __slots__ = ("deadline", "done", "failure", "message")

    def __init__(self, message: Message, deadline: float, done: asyncio.Future[None]) -> None:
        self.message = message
        self.deadline = deadline
        self.done = done
        self.failure: PublishFailed | None = None  # the last one, where the bus tries again


class Publisher:
    """Hands messages to an adapter, one batch after the other, and tells each caller what came of his.

    While a batch is under way the next one gathers, so that round trips are shared by as many calls as
    there are. A caller that is cancelled takes back what was not sent yet, and changes nothing for others.
    Failures that are definite and transient are tried again until ``timeout`` seconds on the clock are over.
    """

    def __init__(self, adapter: Adapter, clock: Clock, timeout: float) -> None:
        self._adapter = adapter
        self._clock = clock
        self._timeout = timeout
        self._waiting: deque[_Waiting] = deque()
        self._sent: Sequence[_Waiting] = ()
        self._sending: asyncio.Task[None] | None = None
        self._timer: TimerHandle | None = None
        self._closed = False

    async def publish(self, message: Message) -> None:
        """Returns when it is stored; raises ``PublishFailed``, ``PublishUncertain`` or ``BusClosed``."""
        if self._closed:
            raise BusClosed("publish")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Waiting(message, self._clock.monotonic() + self._timeout, done))
        if self._sending is None:
            self._sending = loop.create_task(self._send_all(), name="promenade-publish")
        await done

    async def close(self) -> None:
        """Takes nothing more; returns when what was taken is sent, or has failed."""
        self._closed = True
        if self._sending is not None:
            await asyncio.wait((self._sending,))

    async def _send_all(self) -> None:
        try:
            pause = _FIRST_PAUSE
            while self._waiting:
                batch = self._next_batch()
                if not batch:
                    continue
                self._sent = batch
                self._watch()
                again = self._told(batch, await self._results([item.message for item in batch]))
                self._sent = ()
                if again:
                    self._waiting.extendleft(reversed(again))
                    await self._pause(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    pause = _FIRST_PAUSE
        finally:
            self._sending = None
            self._end_watch()
            for item in (*self._sent, *self._waiting):  # the loop is being closed
                if not item.done.done():
                    item.done.cancel()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < MOST_AT_ONCE:
            item = self._waiting.popleft()
            if not item.done.done():  # otherwise its caller has given up
                batch.append(item)
        return batch

    async def _results(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        try:
            results = await self._adapter.publish(messages)
        except Exception as error:
            logger.error("the adapter failed to publish: %s at %s", type(error).__name__, place_of(error))
            return [_uncertain(error) for _ in messages]
        if len(results) != len(messages):
            broken = RuntimeError(f"the adapter told {len(results)} results for {len(messages)} messages")
            return [_uncertain(broken) for _ in messages]
        return results

    def _told(self, batch: Sequence[_Waiting], results: Sequence[PublishError | None]) -> list[_Waiting]:
        """Tells the callers; returns what is to be tried again."""
        again: list[_Waiting] = []
        for item, result in zip(batch, results, strict=True):
            if item.done.done():
                continue
            if result is None:
                item.done.set_result(None)
            elif isinstance(result, PublishFailed) and result.transient and not self._closed:
                item.failure = result
                again.append(item)
            else:
                item.done.set_exception(result)
        return again

    # --- time limits --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Sees to it that nobody waits beyond his deadline: one timer for all of them."""
        if self._timer is None:
            earliest = min(item.deadline for item in (*self._sent, *self._waiting))
            self._timer = self._clock.call_later(
                max(0.0, earliest - self._clock.monotonic()), self._look_at_deadlines
            )

    def _end_watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_deadlines(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        seconds = f"within publish_timeout ({self._timeout:g} s)"
        for item in self._sent:
            if item.deadline <= now and not item.done.done():
                item.done.set_exception(PublishUncertain(f"the adapter did not answer {seconds}"))
        for item in self._waiting:
            if item.deadline <= now and not item.done.done():
                failed = PublishFailed(
                    f"could not be sent {seconds}" + (f"; last: {item.failure}" if item.failure else "")
                )
                failed.__cause__ = item.failure
                item.done.set_exception(failed)
        if any(not item.done.done() for item in (*self._sent, *self._waiting)):
            self._watch()

    async def _pause(self, seconds: float) -> None:
        """Waits on the clock; meanwhile deadlines are kept."""
        self._watch()
        over, timer = expiry(self._clock, seconds)
        try:
            await over
        finally:
            timer.cancel()


def _uncertain(error: Exception) -> PublishUncertain:
    uncertain = PublishUncertain(f"the adapter failed while it published: {type(error).__name__}: {error}")
    uncertain.__cause__ = error
    return uncertain
