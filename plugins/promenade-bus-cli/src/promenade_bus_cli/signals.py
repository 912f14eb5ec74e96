"""Handles signals while a command runs an event loop: at once, and a second signal ends the process.

A SIGTERM soon after another one is no second signal: a platform and a wrapper may both pass on one request.

Python runs signal handlers in the main thread only. A loop that waits for I/O does not notice a signal that
another thread received, or that arrived just before the wait. So each signal also writes to a socket that
the loop reads (``signal.set_wakeup_fd``).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn, TypeVar

from promenade_bus_cli.failures import Interrupted

__all__ = ["Repeats", "Signals", "cancel_current_task", "ignore_sigterm", "run_interruptible"]

R = TypeVar("R")

_GRACE = 1.0
"""Seconds that the remaining tasks have to end after an interrupt."""

_SAME_REQUEST = 1.0
"""Seconds after a SIGTERM within which another SIGTERM is the same request."""


class Repeats:
    """Tells a second signal from a repeated one."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.first: signal.Signals | None = None
        self._now = now
        self._first_at = 0.0

    def is_second(self, number: signal.Signals) -> bool:
        """Notes a signal. Returns True for each that follows the first one, and is no repeated SIGTERM."""
        if self.first is None:
            self.first, self._first_at = number, self._now()
            return False
        is_same = number == self.first == signal.SIGTERM and self._now() - self._first_at < _SAME_REQUEST
        return not is_same


def run_interruptible(work: Coroutine[Any, Any, R]) -> R:
    """Runs a coroutine like ``asyncio.run``. Ctrl-C cancels it and raises ``Interrupted`` once it ended."""
    signals = Signals()

    async def cancellable() -> R:
        signals.take_over(cancel_current_task(), "closing")
        return await work

    return signals.run(cancellable())


def cancel_current_task() -> Callable[[], object]:
    """Returns a function that cancels the current task."""
    task = asyncio.current_task()
    assert task is not None, "it is called from a coroutine"
    return task.cancel


class Signals:
    """The signals of one command. ``output`` is the file descriptor for messages about them.

    ``line`` formats such a message.

    Until ``take_over`` is called, Ctrl-C raises ``KeyboardInterrupt``. After that, the first signal of
    ``numbers`` calls the given function, and a second one ends the process. With ``is_led`` it does not: the
    parent of this process decides that, and calls ``stop_at_once``.
    """

    def __init__(
        self,
        *numbers: signal.Signals,
        output: int = 2,
        line: Callable[[str], str] = str,
        is_led: bool = False,
    ) -> None:
        self._repeats = Repeats()
        self._is_led = is_led
        self._numbers = numbers or (signal.SIGINT,)
        self._output = output
        self._line = line
        self._loop: asyncio.AbstractEventLoop | None = None
        self._act: Callable[[], object] | None = None
        self._what = ""
        self._progress: Callable[[], str] = str
        self._before: dict[signal.Signals, Any] = {}

    @property
    def first(self) -> signal.Signals | None:
        """The first signal; None before it."""
        return self._repeats.first

    # --- running ------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Runs a coroutine like ``asyncio.run``.

        Raises ``Interrupted`` when a signal cancelled the work, otherwise ``KeyboardInterrupt`` on Ctrl-C. In
        both cases it waits for no thread, because a thread may never end.
        """
        if threading.current_thread() is not threading.main_thread():
            return asyncio.run(work)  # no signals here
        # asyncio's runner would install its own SIGINT handler, which a waiting loop may not notice.
        self._take(signal.SIGINT, _interrupt)
        runner = asyncio.Runner()
        self._loop = runner.get_loop()
        with _woken(self._loop):
            close = runner.close
            try:
                return runner.run(work)
            except asyncio.CancelledError:
                if self.first is None:
                    raise
                close = partial(_leave, self._loop)
                raise Interrupted from None
            except KeyboardInterrupt:
                close = partial(_leave, self._loop)
                raise
            finally:
                close()
                if self.first is None:
                    for number, before in self._before.items():
                        signal.signal(number, before)
                else:  # keep ours for a second signal
                    atexit.register(ignore_sigterm)

    # --- signals ------------------------------------------------------------------------------------------

    def take_over(
        self, act: Callable[[], object], what: str, progress: Callable[[], str] | None = None
    ) -> None:
        """Makes the first signal call ``act`` on the loop and print ``what``, the consequence.

        ``progress`` returns the work done so far. It runs in a signal handler, so anywhere in the program.
        """
        self._act = act
        self._what = what
        self._progress = progress or str
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                self._take(number, self._arrive)

    def _take(self, number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
        self._before.setdefault(number, signal.getsignal(number))
        signal.signal(number, handler)

    def _arrive(self, number: int, _frame: FrameType | None) -> None:
        is_first = self.first is None
        if self._repeats.is_second(signal.Signals(number)) and not self._is_led:
            self.stop_at_once(number)
        if not is_first:
            return
        name, done = signal.Signals(number).name, self._progress()
        self._say(f"{name}: {done}{done and '; '}{self._what}; a second signal stops at once")
        if self._loop is None or self._act is None or self._loop.is_closed():
            raise KeyboardInterrupt  # the work is over
        self._loop.call_soon_threadsafe(self._act)

    def stop_at_once(self, number: int) -> NoReturn:
        """Ends the process because of a second signal. Any thread may call it."""
        name, done = signal.Signals(number).name, self._progress()
        after = "" if self.first is None else f" after {self.first.name}"
        self._say(f"{name}{after}: stopping at once{done and '; '}{done}")
        os._exit(128 + number)

    def _say(self, text: str) -> None:
        """Prints a line unbuffered: the signal handler may have interrupted a print."""
        try:
            os.write(self._output, f"{self._line(text)}\n".encode())
        except OSError:
            pass


def ignore_sigterm() -> None:
    """Lets a process that has done its work end with its own status.

    Python gives up its signal handlers before it ends, and then a repeated SIGTERM would kill it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def _woken(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Makes each signal wake the loop inside the block."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        try:
            loop.add_reader(reader, reader.recv, 4096)
        except NotImplementedError:  # on Windows signals wake the loop anyway
            yield
            return
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(reader)


def _leave(loop: asyncio.AbstractEventLoop) -> None:
    """Closes a loop soon, without waiting for its threads."""
    loop.run_until_complete(_end_tasks())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    asyncio.set_event_loop(None)


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_GRACE)
