"""The same bus for threads and synchronous frameworks: one event loop in a background thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from bus_core.abc import EngineState, Seconds
from bus_core.bus import Bus
from bus_core.engine import DrainReport
from bus_core.errors import BusClosed, BusError, BusForked, BusNotStarted, PublishManyError, WrongEventLoop
from bus_core.events import Event
from bus_core.health import HealthReport
from bus_core.messages import DeadLetter, DeadLetterFilter
from bus_core.subscriptions import Subscription
from bus_core.topics import Topic

__all__ = ["SyncBus", "SyncDeadLetters", "SyncSubscription"]

E = TypeVar("E", bound=Event)
R = TypeVar("R")


class SyncBus:
    """A bus whose calls are plain calls, safe from any thread. Make it with ``open_sync_bus``.

    Handlers may be synchronous (they run in a pool of threads) or asynchronous (they run on the loop of
    the bus). A call from that loop itself would wait for itself, and raises ``WrongEventLoop``. In a
    forked child every call raises ``BusForked``.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed: DrainReport | None = None
        self._held = threading.local()
        self._dead_letters = SyncDeadLetters(self)

    def __repr__(self) -> str:
        return f"<SyncBus of {self._bus!r}>"

    # --- the loop -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the background thread and opens the bus; harmless when it is open."""
        with self._lock:
            if self._closed is not None:
                raise BusClosed("start")
            if self._loop is not None:
                return
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="promenade-bus", daemon=True)
            thread.start()
            try:
                asyncio.run_coroutine_threadsafe(self._bus.start(), loop).result()
            except BaseException:
                self._end(loop, thread)
                raise
            self._loop, self._thread = loop, thread

    @staticmethod
    def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _run(self, doing: str, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        if self._bus.forked:
            raise BusForked(doing)
        if self._closed is not None:
            raise BusClosed(doing)
        loop = self._loop
        if loop is None:
            raise BusNotStarted(doing, sync=True)
        if threading.current_thread() is self._thread:
            raise WrongEventLoop(doing, inside=True)
        coroutine = make()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError as error:  # closed by another thread in this very moment
            coroutine.close()
            raise BusClosed(doing) from error
        try:
            return future.result()
        except BaseException:
            future.cancel()  # the caller was interrupted, by Ctrl-C for one
            raise

    def close(self, timeout: Seconds | None = None) -> DrainReport:
        """Drains within ``timeout`` (by default ``shutdown_timeout``), stops, and ends the thread.

        Calling it again gives the same report. Raises ``CalledFromHandler`` from a handler.
        """
        if self._bus.forked:
            return DrainReport(True, (), 0.0)
        if threading.current_thread() is self._thread:
            raise WrongEventLoop("close", inside=True)
        with self._lock:
            if self._closed is not None:
                return self._closed
            loop, thread = self._loop, self._thread
            if loop is None or thread is None:
                self._closed = DrainReport(True, (), 0.0)
                return self._closed
            report = asyncio.run_coroutine_threadsafe(self._bus.close(timeout), loop).result()
            self._closed = report
            self._end(loop, thread)
            return report

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """The bus that it drives, for tools that look at it; calling it is for the loop of the bus only."""
        return self._bus

    @property
    def service(self) -> str:
        """The name of the service."""
        return self._bus.service

    @property
    def topics(self) -> Mapping[str, Topic[Any]]:
        """Every known topic by name."""
        return self._bus.topics

    @property
    def dead_letters(self) -> SyncDeadLetters:
        """What subscriptions gave up on."""
        return self._dead_letters

    def state(self) -> EngineState:
        """A snapshot of queues and counters."""

        async def state() -> EngineState:
            return self._bus.state()

        return self._run("read the state", state)

    def health(self) -> HealthReport:
        """Runs the probes. Never raises for a bus that is not open: that is an unhealthy report."""
        return self._bus.unusable_report() or self._run("check health", self._bus.health)

    def drain(self, timeout: Seconds | None = None) -> None:
        """Waits until what was accepted so far, and what its handling causes, is settled."""
        self._run("drain", lambda: self._bus.drain(timeout))

    # --- publish ------------------------------------------------------------------------------------------

    @overload
    def publish(self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None) -> None: ...
    @overload
    def publish(self, topic: str, event: Event, *, headers: Mapping[str, str] | None = None) -> None: ...
    def publish(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Returns when the adapter has accepted the event; see ``Bus.publish``."""
        held: list[tuple[Any, Any, Mapping[str, str] | None]] | None = getattr(self._held, "items", None)
        if held is not None:
            self._run("publish", lambda: self._bus.check(topic, event, headers))
            held.append((topic, event, headers))
            return
        self._run("publish", lambda: self._bus.publish(topic, event, headers=headers))

    def publish_many(self, items: Iterable[tuple[Topic[E], E] | tuple[str, Event]]) -> None:
        """Publishes several events, in order; see ``Bus.publish_many``."""
        if getattr(self._held, "items", None) is not None:
            for topic, event in items:
                self.publish(topic, event)  # type: ignore[arg-type,misc]
            return
        self._run("publish", lambda: self._bus.publish_many(items))

    @contextmanager
    def after_commit(self) -> Iterator[None]:
        """Holds what this thread publishes inside of the block until it ends; see ``Bus.after_commit``."""
        outer = getattr(self._held, "items", None)
        held: list[tuple[Any, Any, Mapping[str, str] | None]] = []
        self._held.items = held
        try:
            yield
        finally:
            self._held.items = outer
        if outer is not None:
            outer.extend(held)
            return
        results: list[BusError | None] = []
        for topic, event, headers in held:
            try:
                self.publish(topic, event, headers=headers)
            except BusError as error:
                results.append(error)
            else:
                results.append(None)
        if any(results):
            raise PublishManyError(results)

    # --- subscribe ----------------------------------------------------------------------------------------

    def subscribe(
        self, topic: Topic[Any] | str, handler: Callable[..., Any] | None = None, **options: Any
    ) -> Any:
        """Binds a handler; the options and errors are those of ``Bus.subscribe``.

        Returns a ``SyncSubscription``; without a handler it is a decorator, which returns the handler.
        """
        if handler is None:

            def decorate(decorated: Callable[..., R]) -> Callable[..., R]:
                self.subscribe(topic, decorated, **options)
                return decorated

            return decorate
        with self._lock:
            if self._loop is None and self._closed is None:
                return SyncSubscription(self, self._bus.subscribe(topic, handler, **options))

        async def subscribe() -> Subscription:
            subscription: Subscription = self._bus.subscribe(topic, handler, **options)
            return subscription

        return SyncSubscription(self, self._run("subscribe", subscribe))

    def unsubscribe(self, topic: Topic[Any] | str, handler: Callable[..., Any]) -> None:
        """Removes the subscriptions of this handler to this topic or pattern, and no other."""
        self._run("unsubscribe", lambda: self._bus.unsubscribe(topic, handler))

    def run_on_loop(self, doing: str, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Runs a coroutine on the loop of the bus and waits for it; for the views of this module."""
        return self._run(doing, make)


class SyncSubscription:
    """A subscription of a ``SyncBus``; see ``Subscription``."""

    def __init__(self, bus: SyncBus, subscription: Subscription) -> None:
        self._bus = bus
        self._subscription = subscription

    @property
    def name(self) -> str:
        """The name, unique among the subscriptions of overlapping topics."""
        return self._subscription.name

    @property
    def topic(self) -> str:
        """The topic's name, or the pattern."""
        return self._subscription.topic

    def ready(self) -> None:
        """Returns when the subscription is open on the adapter."""
        self._bus.run_on_loop("wait for a subscription", self._subscription.ready)

    def pause(self) -> None:
        """Begins no further handler until ``resume``."""

        async def pause() -> None:
            self._subscription.pause()

        self._bus.run_on_loop("pause", pause)

    def resume(self) -> None:
        """Undoes ``pause``."""

        async def resume() -> None:
            self._subscription.resume()

        self._bus.run_on_loop("resume", resume)

    def unsubscribe(self) -> None:
        """Takes no further event, and returns when those that were accepted are settled."""
        self._bus.run_on_loop("unsubscribe", self._subscription.unsubscribe)


class SyncDeadLetters:
    """The dead letters of a ``SyncBus``; see ``DeadLetters``."""

    def __init__(self, bus: SyncBus) -> None:
        self._bus = bus

    def list(
        self, *, topic: str | None = None, subscription: str | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        """The oldest letters, of one topic and one subscription if named, at most ``limit``."""
        letters = self._bus._bus.dead_letters
        return self._bus.run_on_loop(
            "list dead letters", lambda: letters.list(topic=topic, subscription=subscription, limit=limit)
        )

    def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        return self._bus.run_on_loop("get a dead letter", lambda: self._bus._bus.dead_letters.get(letter_id))

    def redrive(self, letters: str | DeadLetter | DeadLetterFilter | Iterable[str | DeadLetter]) -> int:
        """Sends letters back to the subscription that failed, and only to it; returns how many."""
        return self._bus.run_on_loop(
            "redrive dead letters", lambda: self._bus._bus.dead_letters.redrive(letters)
        )

    def purge(self, where: DeadLetterFilter | None = None) -> int:
        """Deletes the letters that the filter selects; returns how many."""
        return self._bus.run_on_loop("purge dead letters", lambda: self._bus._bus.dead_letters.purge(where))
