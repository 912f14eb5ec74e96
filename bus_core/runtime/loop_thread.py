"""An event loop in a background thread, and calls into it from any other thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from bus_core.runtime.callers import run_on_loop
from bus_core.runtime.error_text import place_of
from bus_core.runtime.logs import plain_logger

__all__ = ["LoopThread", "LoopThreadEnded"]

R = TypeVar("R")

logger = plain_logger("promenade.bus")

_LAST_ANSWERS = 1.0
"""Seconds that calls get to finish after the loop was told to stop."""


def _bounded(timeout: float | None) -> float | None:
    """The longest timeout of a lock; a longer one raises ``OverflowError``."""
    return None if timeout is None else min(timeout, threading.TIMEOUT_MAX)


class LoopThreadEnded(Exception):
    """Raised for a call that came after the thread was told to stop."""


class LoopThread:
    """Runs one event loop until ``stop``. The thread is a daemon: it never keeps a process alive."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()  # orders ``call`` and ``stop``; nothing waits while it is held
        self._ended = False
        self._calls: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """True when the caller runs in this thread, and so must not wait for it."""
        return threading.current_thread() is self._thread

    def call(self, make: Callable[[], Coroutine[Any, Any, R]], timeout: float | None = None) -> R:
        """Runs ``make()`` on the loop, in the caller's context, and waits for its result.

        If the caller is interrupted, the coroutine is cancelled. Raises ``LoopThreadEnded``, and
        ``TimeoutError`` after ``timeout`` seconds.
        """
        with self._lock:
            if self._ended:
                raise LoopThreadEnded
            future = run_on_loop(self._run(make), self._loop)
        try:
            return future.result(_bounded(timeout))
        except concurrent.futures.CancelledError:
            if self._ended:
                raise LoopThreadEnded from None
            raise
        except BaseException:
            future.cancel()
            raise

    async def _run(self, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        task = asyncio.current_task()
        assert task is not None, "run_on_loop makes a task"
        self._calls.add(task)
        try:
            return await make()
        finally:
            self._calls.discard(task)

    def stop(self, timeout: float | None = None) -> None:
        """Ends the thread when earlier calls have their answers; harmless when repeated.

        Waits at most ``timeout`` seconds for a loop that is blocked.
        """
        with self._lock:
            if not self._ended:
                self._ended = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_bounded(timeout))

    def _serve(self) -> None:
        while not self._ended:
            try:
                self._loop.run_forever()
            except BaseException as error:  # SystemExit in a handler's task ends the loop, which others need
                logger.critical(
                    "%s at %s reached the event loop of the bus, which goes on",
                    type(error).__name__,
                    place_of(error),
                )
        try:
            self._loop.run_until_complete(self._answer_the_last())
        finally:
            self._loop.close()

    async def _answer_the_last(self) -> None:
        """Answers the calls made before the end, or cancels them, so that no caller waits for ever."""
        await asyncio.sleep(0)
        if self._calls:
            await asyncio.wait(self._calls, timeout=_LAST_ANSWERS)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_ANSWERS)
        await self._loop.shutdown_asyncgens()
