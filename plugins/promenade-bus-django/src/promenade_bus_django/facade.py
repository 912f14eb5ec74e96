"""The bus of a Django project: opened in each process when it is needed, with plain and async calls."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any, Final, Protocol, TypeVar, Unpack, cast, overload

import attrs
from asgiref.sync import sync_to_async
from django.apps import apps
from django.utils.asyncio import async_unsafe

from bus_core import AdapterError, Delivery, DrainReport, Event, HealthReport, SyncBus, Topic, open_bus
from bus_core.bus import SubscribeDecorator, SubscribeOptions
from bus_core.dispatch import inspect_handler
from bus_core.runtime import plain_logger
from promenade_bus_django import conf
from promenade_bus_django.commits import Item, block_of_caller, block_open, publish_after
from promenade_bus_django.connections import KeptConnections, with_connections
from promenade_bus_django.discovery import ProjectTopics, catalogues_of_apps
from promenade_bus_django.health import DjangoProbe, Losses
from promenade_bus_django.opening import Opener
from promenade_bus_django.processes import Role, forks_worker
from promenade_bus_django.project_bus import Companion, DatabaseUnreachable, ProjectBus

__all__ = ["Declared", "DjangoBus", "Inline", "bus"]

E = TypeVar("E", bound=Event[Any])
R = TypeVar("R")

logger = plain_logger("promenade.django")

_IN_ASYNC: Final = "Use 'await bus.apublish(...)' in async code, or call this in sync_to_async."


@attrs.frozen
class Declared:
    """A handler and its subscription, as ``subscribe`` was given them."""

    topic: Topic[Any] | str
    handler: Callable[..., Any]
    options: Mapping[str, Any]


class Inline(Protocol):
    """Takes the place of the transport in tests."""

    def publish(self, item: Item) -> None:
        """Records an event, and may handle it in this thread."""
        ...


class DjangoBus:
    """One ``SyncBus`` for each process, opened from the settings when it is first used.

    Import it as ``from promenade_bus_django import bus``. All calls may come from any thread. Those with an
    ``a`` in front are awaited, from any event loop. The others raise ``SynchronousOnlyOperation`` in async
    code, as Django's own do.
    """

    def __init__(self) -> None:
        self.losses = Losses()
        self._declared: list[Declared] = []
        self._inline: Inline | None = None
        self._role = Role.OTHER
        self._left_behind: list[object] = []  # of the parent of a fork: nobody may finalize it here
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _forget(self) -> None:
        self._lock = threading.RLock()  # guards the next four, also while the bus starts
        self._sync: ProjectBus | None = None
        self._opened = False
        self._has_handlers = False
        self._opener: Opener | None = None
        self._connections = KeptConnections()

    def __repr__(self) -> str:
        return f"<DjangoBus, {'open' if self._opened else 'not open'} in process {os.getpid()}>"

    # --- opening ------------------------------------------------------------------------------------------

    def open(self) -> SyncBus:
        """Opens the bus in this process, and returns it; harmless when it is open.

        Every other call opens it, too. Handlers are attached where they run in this process: always with an
        adapter in the process, otherwise in the worker, and in servers if ``PROMENADE_BUS_HANDLERS`` says so.
        Raises ``ImproperlyConfigured``, and what ``open_bus`` and ``SyncBus.start`` raise.
        """
        made = self._sync
        if made is not None and (self._opened or _is_on_loop_of(made)):
            return made
        with self._lock:
            made = self.made()
            if self._opened:
                return made
            in_process = made.bus.adapter.features.in_process
            serves = self._role is not Role.OTHER
            if in_process or (serves and conf.handlers_setting() == "servers"):
                self._attach(made)
                made.runs_companion = made.runs_companion or serves  # a worker has said so already
            try:
                # Workers inherit the context of the start, and must not see that of one request for ever.
                Context().run(made.start)
            except BaseException:
                if made.bus.status == "closed":  # its relay could not start: the next call makes another one
                    self._sync, self._has_handlers = None, False
                raise
            if made.bus.adapter.features.in_process:  # a fallback may have taken the adapter's place
                self._attach(made)
            self._opened = True
            self._stop_opener()
        _at_exit(self.close)
        return made

    def close(self, timeout: float | None = None) -> DrainReport | None:
        """Drains and closes the bus of this process; None if it was not open.

        At the end of the process this happens by itself. A later call opens a new bus.
        """
        with self._lock:
            self._stop_opener()
            made, opened = self._sync, self._opened
        if made is None:
            return None
        report = made.close(timeout) if opened else None  # handlers may publish until it is closed
        if report is None or report.completed:  # otherwise a handler still uses its connection
            self._connections.close()
        with self._lock:
            if self._sync is made:
                self._sync, self._opened, self._has_handlers = None, False, False
        return report

    def _stop_opener(self) -> None:
        if self._opener is not None:
            self._opener.stop()
            self._opener = None

    def made(self) -> ProjectBus:
        """The bus of this process, which may not be open: for tools."""
        with self._lock:
            if self._sync is None:
                plugins = [ProjectTopics([*catalogues_of_apps()])]
                self._sync = ProjectBus(open_bus(conf.source(), plugins=plugins), _companion())
                for probe in self._sync.bus.parts.probes.values():
                    if isinstance(probe, DjangoProbe):
                        probe.watch(self.losses)
            return self._sync

    def for_worker(self) -> SyncBus:
        """A bus with all handlers, not started, for a command that starts and closes it."""
        self.close()
        with self._lock:
            made = self.made()
            self._attach(made)
            made.runs_companion = True
            return made

    def serve(self, role: Role) -> None:
        """Opens the bus early in a process that serves requests, so that mistakes show at once.

        If the server of the adapter, or the database of the outbox, cannot be reached, that is logged, and
        a thread tries again until the bus is open or closed. Raises other errors of ``open``. A process that
        forks servers opens nothing, and raises the errors of a wrong configuration.
        """
        self._role = role
        if role is Role.PRELOADING:
            self._check()
        if role is not Role.SERVER:
            return
        try:
            self.open()
        except (AdapterError, DatabaseUnreachable) as error:
            logger.error(
                "the bus could not be opened, and is tried again until it is open: %s",
                str(error) or repr(error),
            )
            with self._lock:
                self._opener = Opener(self.open, self._lock)
                self._opener.start()
            _at_exit(self.close)

    def _check(self) -> None:
        """Raises the errors of a wrong configuration; what was made for that is not kept."""
        with self._lock:
            kept = self._sync
            self.made()
            self._sync = kept

    def _after_fork(self) -> None:
        if self._sync is not None:
            self._left_behind += (self._sync, self._connections)
        self._forget()
        if self._role is Role.PRELOADING and forks_worker():
            self.serve(Role.SERVER)

    # --- subscribing --------------------------------------------------------------------------------------

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
    ) -> None: ...
    @overload
    def subscribe(
        self,
        topic: str,
        handler: Callable[[Any], Any] | Callable[[Any, Delivery], Any],
        **options: Unpack[SubscribeOptions[Any]],
    ) -> None: ...
    def subscribe(
        self, topic: Topic[Any] | str, handler: Callable[..., Any] | None = None, **options: Any
    ) -> Any:
        """Declares a handler; topics and options are those of ``Bus.subscribe``.

        It opens nothing. Around the handler, unusable and expired database connections are closed. Without a
        handler it is a decorator, which returns the handler. Raises ``InvalidHandler``; other mistakes are
        raised when the bus is opened.
        """
        if handler is None:

            def decorate(decorated: Callable[..., R]) -> Callable[..., R]:
                self.subscribe(topic, decorated, **options)
                return decorated

            return decorate
        inspect_handler(handler)
        declared = Declared(topic, handler, options)
        with self._lock:
            if self._has_handlers:
                self._attach_one(self.made(), declared)
            self._declared.append(declared)
        return None

    @property
    def declared(self) -> Sequence[Declared]:
        """Every handler that was declared so far."""
        return tuple(self._declared)

    def _attach(self, made: SyncBus) -> None:
        if not self._has_handlers:
            self._has_handlers = True
            for declared in self._declared:
                self._attach_one(made, declared)

    def _attach_one(self, made: SyncBus, declared: Declared) -> None:
        subscribe: Any = made.subscribe
        subscribe(declared.topic, with_connections(declared.handler, self._connections), **declared.options)

    # --- publishing ---------------------------------------------------------------------------------------

    @overload
    def publish(self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None) -> None: ...
    @overload
    def publish(self, topic: str, event: Event[Any], *, headers: Mapping[str, str] | None = None) -> None: ...
    @async_unsafe(_IN_ASYNC)
    def publish(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Publishes at once, also inside of a transaction; see ``Bus.publish``.

        In a block of ``after_commit`` it is the same as ``publish_on_commit``.
        """
        item = Item(topic, event, headers)
        if block_of_caller() is None:
            self._send_one(item)
        else:
            self._publish_after([item], None)

    @async_unsafe(_IN_ASYNC)
    def publish_many(self, items: Iterable[tuple[Topic[Any] | str, Event[Any]]]) -> None:
        """Publishes several events at once, in order, or after the commit; see ``publish``."""
        several = [Item(topic, event) for topic, event in items]
        if block_of_caller() is None:
            self._send(several)
        elif several:
            self._publish_after(several, None)

    @overload
    def publish_on_commit(
        self,
        topic: Topic[E],
        event: E,
        *,
        headers: Mapping[str, str] | None = None,
        using: str | None = None,
    ) -> None: ...
    @overload
    def publish_on_commit(
        self,
        topic: str,
        event: Event[Any],
        *,
        headers: Mapping[str, str] | None = None,
        using: str | None = None,
    ) -> None: ...
    @async_unsafe(_IN_ASYNC)
    def publish_on_commit(
        self,
        topic: Any,
        event: Any,
        *,
        headers: Mapping[str, str] | None = None,
        using: str | None = None,
    ) -> None:
        """Publishes after the commit of the open transaction of ``using``, by default the default database.

        A transaction or a savepoint that is rolled back takes the event with it. Bad topics and events raise
        now. A failure after the commit raises nothing: it is logged, counted, and reported by the health
        probe ``django``. Without a transaction the event is published at once, or at the end of the block
        of ``after_commit``, and errors are raised.
        """
        self._publish_after([Item(topic, event, headers)], using)

    @async_unsafe(_IN_ASYNC)
    def after_commit(self, using: str | None = None) -> AbstractContextManager[None]:
        """Makes every ``publish`` of the block a ``publish_on_commit``, and drops the events if it raises.

        Events that are published outside of any transaction leave at the end of the outermost block, and
        their errors are raised as by ``publish_many``.
        """
        return block_open(using, self._send_all)

    async def apublish(
        self, topic: Topic[E] | str, event: E, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """``publish`` for async views and async handlers; the event loop goes on meanwhile."""
        made = self._sync
        if made is not None and self._goes_straight_to(made):
            await made.bus.publish(cast(Any, topic), event, headers=headers)
            return
        await self._in_thread(lambda: self.publish(cast(Any, topic), event, headers=headers))

    async def apublish_many(self, items: Iterable[tuple[Topic[Any] | str, Event[Any]]]) -> None:
        """``publish_many`` for async views and async handlers."""
        made = self._sync
        if made is not None and self._goes_straight_to(made):
            await made.bus.publish_many(items)
            return
        several = [*items]
        await self._in_thread(lambda: self.publish_many(several))

    def _goes_straight_to(self, made: ProjectBus) -> bool:
        # Without a change of threads; a block of ``after_commit`` of the caller keeps its events back.
        return self._inline is None and block_of_caller() is None and _is_on_loop_of(made)

    async def _in_thread(self, call: Callable[[], None]) -> None:
        # The database connections of a transaction, and those of a test, belong to the thread of the caller.
        sensitive = self._inline is not None or block_of_caller() is not None
        await sync_to_async(call, thread_sensitive=sensitive)()

    def _publish_after(self, items: Sequence[Item], using: str | None) -> None:
        check = self.made().bus.check_event
        for item in items:
            check(item.topic, item.event, headers=item.headers)
        block = block_of_caller()
        alias = using if using is not None or block is None else block.using
        publish_after(items, alias, block, self._send, self.losses)

    def _send(self, items: Sequence[Item]) -> None:
        if len(items) == 1:
            self._send_one(items[0])
        elif items:
            self._send_all(items)

    def _send_all(self, items: Sequence[Item]) -> None:
        inline = self._inline
        if inline is not None:
            for item in items:
                inline.publish(item)
            return
        opened = self.open()
        if all(item.headers is None for item in items):
            opened.publish_many([(item.topic, item.event) for item in items])
            return
        with opened.after_commit():  # which publishes many with their headers
            for item in items:
                opened.publish(cast(Any, item.topic), item.event, headers=item.headers)

    def _send_one(self, item: Item) -> None:
        if self._inline is not None:
            self._inline.publish(item)
        else:
            self.open().publish(cast(Any, item.topic), item.event, headers=item.headers)

    # --- looking on ---------------------------------------------------------------------------------------

    def drain(self, timeout: float | None = None) -> None:
        """Waits until the events accepted so far are settled; see ``Bus.drain``."""
        self.open().drain(timeout)

    def health(self) -> HealthReport:
        """Runs the health probes of this process; see ``Bus.health``."""
        return self.open().health()

    @property
    def is_inline(self) -> bool:
        """True in a block of ``inline_bus`` or ``capture_events``."""
        return self._inline is not None

    def replace_transport(self, inline: Inline | None) -> Inline | None:
        """Sends events elsewhere in tests, until it is given None; returns the previous one."""
        before, self._inline = self._inline, inline
        return before


def _companion() -> Callable[[SyncBus], Companion] | None:
    """The relay of the outbox, where its app is installed and the relay is wanted."""
    if not apps.is_installed("promenade_bus_django.outbox"):
        return None
    from promenade_bus_django.outbox.relay import RelayBeside

    return RelayBeside


def _is_on_loop_of(made: SyncBus) -> bool:
    loop = made.bus.loop
    return loop is not None and asyncio._get_running_loop() is loop


def _at_exit(close: Callable[[], object]) -> None:
    # Before the executors of the standard library end, which async handlers need to finish: atexit is later.
    register: Callable[..., object] = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(close)
    except RuntimeError:  # that time is over: another callback of the end has published
        atexit.register(close)


bus: Final = DjangoBus()
"""The bus of the project."""
