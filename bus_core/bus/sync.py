"""The same bus for threads and synchronous frameworks: one event loop in a background thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack, overload

from bus_core.abc import CheckResult, EngineState, HealthStatus, Seconds
from bus_core.bus.arguments import as_seconds, check_topic_given
from bus_core.bus.bus import NOTHING_TO_DRAIN, Bus
from bus_core.bus.dead_letters import DeadLetterCriteria
from bus_core.bus.from_thread import after_commit_on
from bus_core.bus.health import HealthReport
from bus_core.bus.subscribe_options import SubscribeDecorator, SubscribeOptions
from bus_core.bus.subscriptions import Subscription
from bus_core.config.bus_config import BusConfig
from bus_core.dispatch.reports import DrainReport
from bus_core.errors import BusClosed, BusForked, BusNotStarted, CalledFromHandler, WrongEventLoop
from bus_core.events.base import Event
from bus_core.events.messages import DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetterTally, Delivery
from bus_core.events.topics import Topic
from bus_core.runtime.logs import plain_logger
from bus_core.runtime.loop_thread import LoopThread, LoopThreadEnded

__all__ = ["SyncBus", "SyncDeadLetters", "SyncSubscription"]

E = TypeVar("E", bound=Event[Any])
R = TypeVar("R")

logger = plain_logger("promenade.bus")

_BLOCKED: Final = 5.0
"""Seconds after which a loop that does not answer counts as blocked."""


class SyncBus:
    """A bus whose calls are plain calls, safe from any thread. Make it with ``open_sync_bus``.

    Handlers may be synchronous (they run in a pool of threads) or asynchronous (they run on the loop of
    the bus). A call from that loop itself would wait for itself, and raises ``WrongEventLoop``. In a
    forked child every call but ``close`` and ``health`` raises ``BusForked``.

    In a script::

        with open_sync_bus("config/app.yaml") as bus:
            bus.publish(ORDER_PLACED, OrderPlaced(aggregate_id=order_id))
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._starting = threading.Lock()
        self._lock = threading.Lock()  # guards the next three; nothing waits while it is held
        self._thread: LoopThread | None = None
        self._started = False
        self._report: DrainReport | None = None
        self._dead_letters = SyncDeadLetters(self)

    def __repr__(self) -> str:
        return f"<SyncBus of {self._bus!r}>"

    # --- the loop -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the background thread and opens the bus; no-op when it is open."""
        self._check("start")
        with self._starting:
            with self._lock:
                if self._report is not None:
                    raise BusClosed("start")
                if self._started:
                    return
                thread = self._thread = LoopThread("promenade-bus")
            try:
                thread.call(self._bus.start)
            except BaseException:
                with self._lock:
                    self._thread = None
                thread.stop(_BLOCKED)
                raise
            self._started = True

    def close(self, timeout: Seconds | None = None) -> DrainReport:
        """Drains within ``timeout`` (by default ``shutdown_timeout``), stops, and ends the thread.

        Later and concurrent calls return the same report. Raises ``CalledFromHandler`` inside a handler.
        Where a handler blocks the loop itself, it gives up and leaves the thread behind.
        """
        if self._bus.forked:
            return NOTHING_TO_DRAIN
        self._check("close")
        if self._bus.in_handler:
            raise CalledFromHandler("close the bus")
        seconds = self._bus.config.shutdown_timeout if timeout is None else as_seconds(timeout)
        with self._lock:
            if self._report is not None:
                return self._report
            thread = self._thread
            if thread is None:
                self._report = NOTHING_TO_DRAIN
                return self._report
        try:
            report = thread.call(lambda: self._bus.close(seconds), seconds + _BLOCKED)
        except LoopThreadEnded:  # another thread has closed it meanwhile, and left the report
            report = NOTHING_TO_DRAIN
        except TimeoutError:
            logger.critical("the event loop of the bus is blocked by a handler, and was left behind")
            report = DrainReport(False, (), seconds + _BLOCKED)
        with self._lock:
            self._report = report = self._report or report
        thread.stop(_BLOCKED)
        return report

    def _check(self, doing: str) -> None:
        if self._bus.forked:
            raise BusForked(doing)
        thread = self._thread
        if thread is not None and thread.is_current:
            raise WrongEventLoop(doing, inside=True)

    def run_on_loop(self, doing: str, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Runs a coroutine on the loop of the bus and waits for it."""
        self._check(doing)
        if self._report is not None:
            raise BusClosed(doing)
        thread = self._thread
        if thread is None or not self._started:
            raise BusNotStarted(doing, sync=True)
        return self._call(thread, doing, make)

    def _call(self, thread: LoopThread, doing: str, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        try:
            return thread.call(make)
        except LoopThreadEnded:
            raise BusClosed(doing) from None

    def run_also_before_start(self, doing: str, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Runs a call that is valid before start, when there is no loop yet."""
        self._check(doing)
        with self._lock:
            if self._report is not None:
                raise BusClosed(doing)
            thread = self._thread
            if thread is None:
                coroutine = make()
                try:
                    coroutine.send(None)
                except StopIteration as done:
                    result: R = done.value
                    return result
                finally:
                    coroutine.close()
                raise BusNotStarted(doing, sync=True)
        return self._call(thread, doing, make)

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
        """The bus itself, which belongs to the loop of the background thread; for tools."""
        return self._bus

    @property
    def service(self) -> str:
        """The name of the service."""
        return self._bus.service

    @property
    def config(self) -> BusConfig:
        """The configuration that the bus was opened with."""
        return self._bus.config

    @property
    def topics(self) -> Mapping[str, Topic[Any]]:
        """Every known topic by name."""
        return self._bus.topics

    @property
    def dead_letters(self) -> SyncDeadLetters:
        """The messages that subscriptions gave up on."""
        return self._dead_letters

    def state(self) -> EngineState:
        """A snapshot of queues and counters."""

        async def state() -> EngineState:
            return self._bus.state()

        return self.run_on_loop("read the state", state)

    def health(self) -> HealthReport:
        """Runs the probes. Never raises: a bus that is not open has an unhealthy report."""
        unusable = self._bus.unusable_report()
        if unusable is not None:
            return unusable
        try:
            return self.run_on_loop("check health", self._bus.health)
        except (BusClosed, BusNotStarted) as error:  # at this very moment
            return HealthReport({"bus": CheckResult(HealthStatus.UNHEALTHY, str(error))})

    def drain(self, timeout: Seconds | None = None) -> None:
        """Waits until all events accepted so far, and those that their handling causes, are settled."""
        self.run_on_loop("drain", lambda: self._bus.drain(timeout))

    # --- publish ------------------------------------------------------------------------------------------

    @overload
    def publish(self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None) -> None: ...
    @overload
    def publish(self, topic: str, event: Event[Any], *, headers: Mapping[str, str] | None = None) -> None: ...
    def publish(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Returns when the adapter has accepted the event; see ``Bus.publish``."""
        self.run_on_loop("publish", lambda: self._bus.publish(topic, event, headers=headers))

    def publish_many(self, items: Iterable[tuple[Topic[Any] | str, Event[Any]]]) -> None:
        """Publishes several events, in order; see ``Bus.publish_many``."""
        self.run_on_loop("publish", lambda: self._bus.publish_many(items))

    def after_commit(self) -> AbstractContextManager[None]:
        """Holds the events of the block until it ends well; see ``Bus.after_commit``.

        Events of other threads are not held.
        """
        return after_commit_on(self._bus, self.run_on_loop)

    # --- subscribe ----------------------------------------------------------------------------------------

    @overload
    def subscribe(
        self, topic: Topic[E], handler: None = None, **options: Unpack[SubscribeOptions[E]]
    ) -> SubscribeDecorator[E]: ...
    @overload
    def subscribe(
        self, topic: str, handler: None = None, **options: Unpack[SubscribeOptions[Any]]
    ) -> SubscribeDecorator[Any]: ...
    @overload
    def subscribe(
        self,
        topic: Topic[E],
        handler: Callable[[E], Any] | Callable[[E, Delivery], Any],
        **options: Unpack[SubscribeOptions[E]],
    ) -> SyncSubscription: ...
    @overload
    def subscribe(
        self,
        topic: str,
        handler: Callable[[Any], Any] | Callable[[Any, Delivery], Any],
        **options: Unpack[SubscribeOptions[Any]],
    ) -> SyncSubscription: ...
    def subscribe(
        self,
        topic: Topic[Any] | str,
        handler: Callable[..., Any] | None = None,
        **options: Any,
    ) -> Any:
        """Binds a handler; the options and errors are those of ``Bus.subscribe``.

        Returns a ``SyncSubscription``; without a handler it is a decorator, which returns the handler.
        """
        check_topic_given(topic)
        if handler is None:

            def decorate(decorated: Callable[..., R]) -> Callable[..., R]:
                self.subscribe(topic, decorated, **options)
                return decorated

            return decorate

        async def subscribe() -> Subscription:
            subscription: Subscription = self._bus.subscribe(topic, handler, **options)
            return subscription

        return SyncSubscription(self, self.run_also_before_start("subscribe", subscribe))

    def unsubscribe(self, topic: Topic[Any] | str, handler: Callable[..., Any]) -> None:
        """Removes the subscriptions of this handler to this topic or pattern, and no other."""
        self.run_also_before_start("unsubscribe", lambda: self._bus.unsubscribe(topic, handler))


class SyncSubscription:
    """A subscription of a ``SyncBus``; see ``Subscription``."""

    def __init__(self, bus: SyncBus, subscription: Subscription) -> None:
        self._bus = bus
        self._subscription = subscription

    def __repr__(self) -> str:
        return f"<SyncSubscription {self.name!r} to {self.topic!r}>"

    @property
    def name(self) -> str:
        """The name, unique among the subscriptions of overlapping topics."""
        return self._subscription.name

    @property
    def topic(self) -> str:
        """The topic's name, or the pattern."""
        return self._subscription.topic

    @property
    def handler(self) -> Callable[..., Any]:
        """The topic or pattern that was subscribed."""
        return self._subscription.handler

    def ready(self) -> None:
        """Returns when the subscription is open on the adapter."""
        self._bus.run_on_loop("wait for a subscription", self._subscription.ready)

    def pause(self) -> None:
        """Starts no further handler until ``resume``."""

        async def pause() -> None:
            self._subscription.pause()

        self._bus.run_also_before_start("pause a subscription", pause)

    def resume(self) -> None:
        """Undoes ``pause``."""

        async def resume() -> None:
            self._subscription.resume()

        self._bus.run_also_before_start("resume a subscription", resume)

    def unsubscribe(self) -> None:
        """Accepts no further event, and returns when the accepted ones are settled."""
        self._bus.run_also_before_start("unsubscribe", self._subscription.unsubscribe)


class SyncDeadLetters:
    """The dead letters of a ``SyncBus``; see ``DeadLetters``."""

    def __init__(self, bus: SyncBus) -> None:
        self._bus = bus

    def list(
        self, *, limit: int = 100, cursor: str | None = None, **criteria: Unpack[DeadLetterCriteria]
    ) -> DeadLetterPage:
        """The oldest letters that meet all criteria of a ``DeadLetterFilter``, at most ``limit``.

        The page has a ``next_cursor`` for the next call; it is None when there are no more letters.
        """
        letters = self._bus._bus.dead_letters
        return self._bus.run_on_loop(
            "list dead letters", lambda: letters.list(limit=limit, cursor=cursor, **criteria)
        )

    def count(self, **criteria: Unpack[DeadLetterCriteria]) -> int:
        """The number of letters that meet all criteria of a ``DeadLetterFilter``."""
        letters = self._bus._bus.dead_letters
        return self._bus.run_on_loop("count dead letters", lambda: letters.count(**criteria))

    def tally(self, **criteria: Unpack[DeadLetterCriteria]) -> Sequence[DeadLetterTally]:
        """Counts matching letters in groups; see ``DeadLetters.tally``."""
        letters = self._bus._bus.dead_letters
        return self._bus.run_on_loop("count dead letters", lambda: letters.tally(**criteria))

    def iterate(self, **criteria: Unpack[DeadLetterCriteria]) -> Iterator[DeadLetter]:
        """Every letter that meets all criteria, the oldest first, page by page."""
        page = self.list(**criteria)
        while True:
            yield from page
            if page.next_cursor is None:
                return
            page = self.list(cursor=page.next_cursor, **criteria)

    def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        return self._bus.run_on_loop("get a dead letter", lambda: self._bus._bus.dead_letters.get(letter_id))

    def redrive(self, letters: str | DeadLetter | DeadLetterFilter | Iterable[str | DeadLetter]) -> int:
        """Sends letters back to the subscription that failed, and only to it. Returns their number."""
        return self._bus.run_on_loop(
            "redrive dead letters", lambda: self._bus._bus.dead_letters.redrive(letters)
        )

    def purge(self, where: DeadLetterFilter | None = None) -> int:
        """Deletes the letters that the filter selects. Returns their number."""
        return self._bus.run_on_loop("purge dead letters", lambda: self._bus._bus.dead_letters.purge(where))
