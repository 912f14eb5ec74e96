"""A small pool of daemon threads for synchronous handlers.

``concurrent.futures`` joins its threads when the interpreter exits, so one handler that hangs would keep
a process alive after its bus has given up on it and reported it. These threads are daemons.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["ThreadCall", "ThreadPool", "thread_ended"]


async def thread_ended(thread: threading.Thread, timeout: float) -> bool:
    """True when a thread ends within ``timeout`` seconds of real time. The event loop goes on meanwhile."""
    deadline = time.monotonic() + timeout
    while thread.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread sets no event
        await asyncio.sleep(0.002)
    return not thread.is_alive()


class ThreadCall:
    """A call that runs in a thread. ``over`` is True when it has returned, or raised ``error``."""

    __slots__ = ("_call", "_context", "_loop", "_waiter", "error", "over", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.over = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._call: Callable[[], Any] | None = call
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    async def returned(self) -> None:
        """Waits in one task until the call is over. Cancelling the wait does not affect the call."""
        if not self.over:
            self._waiter = self._loop.create_future()
            await self._waiter

    def run(self, tell: Callable[[ThreadCall], None]) -> bool:
        """Makes the call in this thread, and calls ``tell`` on the loop.

        Returns False when the loop is closed.
        """
        call, self._call = self._call, None
        assert call is not None, "a call is made once"
        try:
            self.result = self._context.run(call)
        except BaseException as raised:
            self.error = raised
        try:
            self._loop.call_soon_threadsafe(tell, self)
        except RuntimeError:  # no caller waits any more
            return False
        return True

    def tell(self) -> None:
        """Wakes the waiting task."""
        self.over = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ThreadPool:
    """Runs calls in at most ``size`` threads, started on demand."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._calls: SimpleQueue[ThreadCall | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    @property
    def busy(self) -> int:
        """The number of calls whose end the loop has not seen."""
        return self._busy

    def submit(self, call: Callable[[], Any]) -> ThreadCall:
        """Runs ``call`` in a thread, in a copy of the caller's context.

        Raises ``RuntimeError`` when no thread can be started at all.
        """
        submitted = ThreadCall(call)
        if self._busy >= self._threads and self._threads < self._size:
            self._start_thread()
        self._busy += 1
        self._calls.put(submitted)
        return submitted

    def _start_thread(self) -> None:
        number = self._threads + 1
        try:
            threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True).start()
        except RuntimeError:  # the system gives no further thread
            if not self._threads:
                raise
            return  # an existing thread takes the call later
        self._threads = number

    def close(self) -> None:
        """Ends every thread after its current call. Does not wait."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _over(self, call: ThreadCall) -> None:
        self._busy -= 1
        call.tell()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if not call.run(self._over):
                return
            del call
