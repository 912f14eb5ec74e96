"""Publishes to an adapter outside the process: concurrent calls share one batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextvars import Context
from types import coroutine
from typing import Protocol

from bus_core.abc import Adapter
from bus_core.errors import BusClosed, PublishError, PublishFailed, PublishUncertain
from bus_core.events.messages import Message
from bus_core.runtime.clock import Clock, TimerHandle
from bus_core.runtime.failures import Trouble, answers_to
from bus_core.runtime.logs import counted
from bus_core.runtime.timeouts import expiry

__all__ = ["Publisher"]

MOST_AT_ONCE = 1000
"""The most messages of a batch."""

MOST_BYTES = 1_000_000
"""Bytes of bodies after which a batch is full.

With larger batches on a slow network, callers would wait too long.
"""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds before the retry of a transient failure."""


class Counts(Protocol):
    """Counts the published events of a topic."""

    counted: int


class _Waiting:
    """A message, and the future that its publisher awaits."""

    __slots__ = ("counts", "deadline", "done", "failure", "message")

    def __init__(self, message: Message, counts: Counts, deadline: float, done: asyncio.Future[None]) -> None:
        self.message = message
        self.counts = counts
        self.deadline = deadline
        self.done = done
        self.failure: PublishFailed | None = None  # the latest failure, while the bus retries


@coroutine
def _yield_to_loop() -> Generator[None, None, None]:
    yield


class Publisher:
    """Sends messages to an adapter, one batch after the other, and gives each caller a result.

    While a batch is sent, the next one collects, so that concurrent calls share round trips. A cancelled
    caller takes back its unsent message, and affects no other caller. Definite, transient failures are
    retried until ``timeout`` seconds on the clock are over. Other messages are sent meanwhile, unless every
    message fails.
    """

    def __init__(self, adapter: Adapter, clock: Clock, timeout: float) -> None:
        self.published = 0  # on all topics
        self._adapter = adapter
        self._clock = clock
        self._timeout = timeout
        self._trouble = Trouble(f"the adapter {adapter.name!r}")
        self._waiting: deque[_Waiting] = deque()
        self._again: list[_Waiting] = []  # failed messages to be retried
        self._due = 0.0  # the time of their retry
        self._pause = _FIRST_PAUSE
        self._blocked = False  # every message fails: new ones wait as well
        self._sent: Sequence[_Waiting] = ()
        self._sending: asyncio.Task[None] | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._timer: TimerHandle | None = None
        self._closed = False

    @property
    def problem(self) -> str | None:
        """The reason why publishers wait; None when publishing works."""
        waiting = [item for item in self._again if not item.done.done()]
        if not waiting:
            return None
        kind = type(waiting[0].failure).__name__
        return f"the adapter {self._adapter.name!r} refuses {counted(len(waiting), 'event')} for now: {kind}"

    def publish(self, message: Message, counts: Counts) -> asyncio.Future[None]:
        """A future that is done when the message is stored. It raises ``PublishFailed`` or
        ``PublishUncertain``.

        ``counts`` counts the message when the future is done. Raises ``BusClosed`` at once.
        """
        if self._closed:
            raise BusClosed("publish")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Waiting(message, counts, self._clock.monotonic() + self._timeout, done))
        if self._timer is None:  # otherwise another message has an earlier deadline
            self._timer = self._clock.call_later(self._timeout, self._check_deadlines)
        if self._sending is None:
            # A separate context: the task serves all callers, and may outlive the first one.
            self._sending = loop.create_task(self._send_all(), name="promenade-publish", context=Context())
            self._sending.add_done_callback(self._ended)
        elif self._sleeper is not None and not self._blocked:
            self._wake()
        return done

    async def close(self) -> None:
        """Accepts nothing more. Returns when all accepted messages are sent, or have failed."""
        self._closed = True
        self._wake()
        if self._sending is not None:
            await asyncio.wait((self._sending,))

    def abort(self) -> None:
        """Fails all waiting callers with ``BusClosed``, and cancels even a running call."""
        self._closed = True
        if self._sending is not None:
            self._sending.cancel()
        self._fail_all("the bus was closed")

    async def _send_all(self) -> None:
        try:
            while self._waiting or self._again:
                rest = self._due - self._clock.monotonic()
                ready = rest <= 0 or self._closed
                if not ready and (self._blocked or not self._waiting):
                    await self._sleep(rest)
                    continue
                batch = self._next_batch(retrying=ready)
                if batch:
                    self._sent = batch
                    results = await self._results([item.message for item in batch])
                    self._sent = ()
                    self._tell(batch, results, retried=ready)
                    await _yield_to_loop()  # lets those callers publish again
        except GeneratorExit:
            raise  # the loop is gone, and its waiting callers with it
        except BaseException as error:  # such as a cancellation, by a program that cancels all tasks
            self._fail_all(f"sending was ended by {type(error).__name__}")
            raise
        finally:
            self._stop_sending()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._sending is task:  # cancelled before its first step
            self._fail_all("sending was ended by CancelledError")
            self._stop_sending()

    def _stop_sending(self) -> None:
        self._sending = None
        self._sent = ()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_batch(self, *, retrying: bool) -> list[_Waiting]:
        """The messages to send now, without those that were answered or whose publisher has given up."""
        batch: list[_Waiting] = []
        size = 0
        if retrying:
            taken = 0
            for item in self._again:
                if taken == MOST_AT_ONCE or size >= MOST_BYTES:
                    break
                taken += 1
                if not item.done.done():
                    batch.append(item)
                    size += len(item.message.body)
            del self._again[:taken]
        while self._waiting and len(batch) < MOST_AT_ONCE and size < MOST_BYTES:
            item = self._waiting.popleft()
            if not item.done.done():
                batch.append(item)
                size += len(item.message.body)
        return batch

    async def _results(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        answers = await answers_to(self._adapter.publish, messages, "messages")
        if isinstance(answers, BaseException):
            self._trouble.failed("tell what came of a publish", answers)
            return [_uncertain(answers) for _ in messages]
        self._trouble.over()
        return [
            each if each is None or isinstance(each, PublishError) else _uncertain(_as_error(each))
            for each in answers
        ]

    def _tell(
        self, batch: Sequence[_Waiting], results: Sequence[PublishError | None], *, retried: bool
    ) -> None:
        """Answers the callers, and keeps the messages to be retried."""
        again: list[_Waiting] = []
        stored = False
        for item, result in zip(batch, results, strict=True):
            if result is None:
                stored = True
                if not item.done.done():
                    self.published += 1
                    item.counts.counted += 1
                    item.done.set_result(None)
            elif item.done.done():
                continue  # cancelled, or too late
            elif isinstance(result, PublishFailed) and result.transient and not self._closed:
                item.failure = result
                again.append(item)
            else:
                item.done.set_exception(result)
        self._blocked = bool(again) and not stored
        if again:
            self._again += again
            if retried:
                self._due = self._clock.monotonic() + self._pause
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        elif retried:
            self._due, self._pause = 0.0, _FIRST_PAUSE

    # --- time limits --------------------------------------------------------------------------------------

    def _pending(self) -> list[_Waiting]:
        return [item for item in (*self._sent, *self._again, *self._waiting) if not item.done.done()]

    def _check_deadlines(self) -> None:
        """Fails messages whose deadline has passed. One timer serves all of them."""
        self._timer = None
        now = self._clock.monotonic()
        seconds = f"within publish_timeout ({self._timeout:g} s)"
        _fail(
            (item for item in self._pending() if item.deadline <= now),
            self._sent,
            f"the adapter did not answer {seconds}",
            f"could not be sent {seconds}",
        )
        pending = self._pending()
        if pending:
            earliest = min(item.deadline for item in pending)
            self._timer = self._clock.call_later(max(0.0, earliest - now), self._check_deadlines)

    def _fail_all(self, why: str) -> None:
        _fail(self._pending(), self._sent, f"{why} before the adapter answered", f"{why} before it was sent")
        self._waiting.clear()
        self._again.clear()

    async def _sleep(self, seconds: float) -> None:
        """Waits until it is woken, or until so many seconds on the clock are over."""
        self._sleeper, timer = expiry(self._clock, seconds)
        try:
            await self._sleeper
        finally:
            timer.cancel()
            self._sleeper = None

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)


def _fail(items: Iterable[_Waiting], sent: Sequence[_Waiting], uncertain: str, failed: str) -> None:
    """Fails all callers: the result is known unless the message was being sent."""
    under_way = set(sent)
    for item in items:
        error: PublishError
        if item in under_way:
            error = PublishUncertain(uncertain)
        else:
            error = PublishFailed(
                failed + (f"; last: {item.failure}" if item.failure is not None else ""), transient=True
            )
            error.__cause__ = item.failure
        item.done.set_exception(error)


def _as_error(answer: object) -> BaseException:
    if isinstance(answer, BaseException):
        return answer
    return TypeError(f"a {type(answer).__name__} is no result")


def _uncertain(error: BaseException) -> PublishUncertain:
    uncertain = PublishUncertain(f"the adapter failed while it published: {type(error).__name__}: {error}")
    uncertain.__cause__ = error
    return uncertain
