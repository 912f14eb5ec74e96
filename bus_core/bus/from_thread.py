"""Plain calls to a bus that runs on the event loop of another thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import get_ident
from typing import Any, Final, Protocol, TypeVar, overload

from bus_core.bus.after_commit import HeldEvents
from bus_core.bus.lifecycle import Lifecycle, Stage
from bus_core.bus.publish_many import raise_failures
from bus_core.errors import BusClosed, BusNotStarted, WrongEventLoop
from bus_core.events.base import Event
from bus_core.events.topics import Topic
from bus_core.runtime.callers import run_on_loop

__all__ = ["FromThread", "after_commit_on"]

E = TypeVar("E", bound=Event[Any])
R = TypeVar("R")

_LOOK: Final = 1.0
"""Seconds after which it checks again whether the event loop still exists."""


class _Publishing(Protocol):
    """The part of a bus that publishes."""

    async def publish(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None: ...

    async def publish_many(self, items: Iterable[tuple[Topic[Any] | str, Event[Any]]]) -> None: ...

    async def begin_block(self) -> None: ...

    def holding(self) -> AbstractContextManager[HeldEvents]: ...

    async def drop_block(self) -> None: ...

    async def end_block(self, block: HeldEvents) -> None: ...


class _RunOnLoop(Protocol):
    """Runs a coroutine on the loop of a bus, in the caller's context, and waits for it."""

    def __call__(self, doing: str, make: Callable[[], Coroutine[Any, Any, R]], /) -> R: ...


class FromThread:
    """``Bus.from_thread``: publishes on a running bus with plain calls, from any thread except its loop's.

    It serves synchronous handlers, endpoints that are plain functions, and threads of the application. A call
    waits until the event loop of the bus has finished it. It raises ``WrongEventLoop`` on the thread of that
    loop, which would wait for itself, ``BusNotStarted``, ``BusClosed`` and ``BusForked``.
    """

    def __init__(self, bus: _Publishing, lifecycle: Lifecycle) -> None:
        self._bus = bus
        self._lifecycle = lifecycle

    @overload
    def publish(self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None) -> None: ...
    @overload
    def publish(self, topic: str, event: Event[Any], *, headers: Mapping[str, str] | None = None) -> None: ...
    def publish(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Returns when the adapter has accepted the event; see ``Bus.publish``."""
        self._run("publish", lambda: self._bus.publish(topic, event, headers=headers))

    def publish_many(self, items: Iterable[tuple[Topic[Any] | str, Event[Any]]]) -> None:
        """Publishes several events, in order; see ``Bus.publish_many``."""
        several = [*items]  # an iterator of the caller runs in the caller's thread
        self._run("publish", lambda: self._bus.publish_many(several))

    def after_commit(self) -> AbstractContextManager[None]:
        """Holds the events that this thread publishes in the block until it ends well; see
        ``Bus.after_commit``.
        """
        return after_commit_on(self._bus, self._run)

    def _run(self, doing: str, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        lifecycle = self._lifecycle
        lifecycle.check_fork(doing)
        loop = lifecycle.loop
        if lifecycle.stage in (Stage.NEW, Stage.STARTING) or loop is None:
            raise BusNotStarted(doing)
        if lifecycle.stage is Stage.CLOSED:
            raise BusClosed(doing)
        if get_ident() == lifecycle.thread:
            raise WrongEventLoop(doing, from_thread=True)
        coroutine = make()
        try:
            future = run_on_loop(coroutine, loop)
        except RuntimeError:  # the loop was closed, but not the bus
            coroutine.close()
            raise BusClosed(doing) from None
        try:
            return _result_of(future, loop, doing)
        except BaseException:  # after an interrupt, too: the caller does not wait any more
            future.cancel()
            raise


def _result_of(future: concurrent.futures.Future[R], loop: asyncio.AbstractEventLoop, doing: str) -> R:
    """The result of a call on a loop. Raises ``BusClosed`` when the loop ends first."""
    while True:
        concurrent.futures.wait((future,), _LOOK)
        if future.cancelled():  # at its end the program cancels every task
            raise BusClosed(doing)
        if future.done():
            return future.result()
        if loop.is_closed():
            raise BusClosed(doing)


@contextmanager
def after_commit_on(bus: _Publishing, run: _RunOnLoop) -> Iterator[None]:
    """``Bus.after_commit`` for another thread than that of the loop: holds the events of that thread."""
    run("open after_commit", bus.begin_block)
    try:
        with bus.holding() as block:
            yield
    except BaseException:
        with suppress(BusClosed):
            run("end after_commit", bus.drop_block)
        raise
    try:
        run("publish", lambda: bus.end_block(block))
    except BusClosed as error:
        raise_failures([error for _ in block.items])
