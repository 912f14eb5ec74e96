"""A small pool of daemon threads for synchronous handlers.

``concurrent.futures`` joins its threads when the interpreter exits, so one handler that hangs would keep
a process alive after its bus has given up on it and reported it. These threads are daemons.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["ThreadPool"]

_Call = tuple[asyncio.Future[Any], contextvars.Context, Callable[[], Any]]


class ThreadPool:
    """Runs calls in at most ``size`` threads, started as they are needed."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    @property
    def busy(self) -> int:
        """How many calls have not come to their end on the loop."""
        return self._busy

    def submit(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Runs ``call`` in a thread, in a copy of the caller's context.

        The future's result is the pair (result, error), of which one is None: a future itself cannot
        carry every exception, StopIteration for one. Raises ``RuntimeError`` when there is no thread at all.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._busy >= self._threads and self._threads < self._size:
            self._start_thread()
        self._busy += 1
        self._calls.put((future, contextvars.copy_context(), call))
        return future

    def _start_thread(self) -> None:
        number = self._threads + 1
        try:
            threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True).start()
        except RuntimeError:  # the system gives no further thread
            if not self._threads:
                raise
            return  # one of those that there are takes the call, later
        self._threads = number

    def close(self) -> None:
        """Lets every thread end as soon as its present call returns. Does not wait."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _resolve(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if not future.done():
            future.set_result((result, error))

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, context, call = item
            result: Any = None
            error: BaseException | None = None
            try:
                result = context.run(call)
            except BaseException as raised:
                error = raised
            try:
                future.get_loop().call_soon_threadsafe(self._resolve, future, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del item, future, context, call, result, error
