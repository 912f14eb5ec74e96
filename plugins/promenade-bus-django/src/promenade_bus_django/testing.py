"""The bus in tests: events are handled in the thread and the transaction of the test, or only recorded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar, overload

import attrs
from asgiref.sync import async_to_sync
from django.db import DatabaseError, connections, transaction
from django.test import TestCase

from bus_core import BaseEvent, Delivery, Event, Message, Topic
from bus_core.dispatch import inspect_handler
from bus_core.events import TopicIndex
from promenade_bus_django.commits import Item
from promenade_bus_django.facade import Declared, bus

__all__ = ["Events", "Failure", "Published", "capture_events", "inline_bus"]

E = TypeVar("E", bound=Event[Any])


@attrs.frozen
class Published:
    """An event that was published, as its handlers receive it."""

    topic: str
    event: Event[Any]
    headers: Mapping[str, str]


@attrs.frozen
class Failure:
    """A handler that raised. On a real bus the event would be retried, and become a dead letter."""

    subscription: str
    published: Published
    error: Exception


class Events:
    """The events that were published in a block of ``inline_bus`` or ``capture_events``, in order."""

    def __init__(self, *, handle: bool) -> None:
        self.published: list[Published] = []
        self.failures: list[Failure] = []
        self._waiting: deque[tuple[Published, Message]] = deque()
        self._thread: int | None = None  # the one that handles at the moment
        self._lock = threading.Lock()
        self._declared: TopicIndex[int] = TopicIndex()
        self._handlers: list[Declared] = []
        self._handles = handle

    @overload
    def of(self, topic: Topic[E]) -> list[E]: ...
    @overload
    def of(self, topic: str) -> list[Event[Any]]: ...
    def of(self, topic: Any) -> list[Any]:
        """Returns the events of a topic."""
        name = topic if isinstance(topic, str) else topic.name
        return [each.event for each in self.published if each.topic == name]

    @overload
    def expect(self, topic: Topic[E], **fields: object) -> E: ...
    @overload
    def expect(self, topic: str, **fields: object) -> Event[Any]: ...
    def expect(self, topic: Any, **fields: object) -> Any:
        """Returns the only event of a topic with these values; raises ``AssertionError`` otherwise."""
        found = [event for event in self.of(topic) if _has(event, fields)]
        if len(found) == 1:
            return found[0]
        name = topic if isinstance(topic, str) else topic.name
        values = "".join(f" with {field}={value!r}" for field, value in fields.items())
        raise AssertionError(f"expected 1 event of {name!r}{values}, got {len(found)}; {self._listed()}")

    def expect_nothing(self, topic: Topic[Any] | str | None = None) -> None:
        """Raises ``AssertionError`` when an event was published, of this topic or at all."""
        found = self.published if topic is None else self.of(topic)
        if found:
            name = topic if isinstance(topic, str) or topic is None else topic.name
            raise AssertionError(f"expected no event{f' of {name!r}' if name else ''}; {self._listed()}")

    def _listed(self) -> str:
        return "published: " + ("\n  ".join(["", *map(str, self.published)]) if self.published else "nothing")

    # --- the transport ------------------------------------------------------------------------------------

    def publish(self, item: Item) -> None:
        """Records an event, and handles it; what its handlers publish is handled after it."""
        made = bus.made().bus
        message = made.prepare_nowait(item.topic, item.event, headers=item.headers)
        if message is None:  # a publish middleware let it go no further
            return
        published = Published(message.topic, made.parts.codec.decode(message), message.headers)
        self.published.append(published)
        if not self._handles:
            return
        with self._lock:
            self._waiting.append((published, message))
            if self._thread is not None:
                return
            self._thread = threading.get_ident()
        try:
            while True:
                with self._lock:
                    if not self._waiting:
                        self._thread = None
                        return
                    following = self._waiting.popleft()
                self._handle(*following)
        except BaseException:
            with self._lock:
                self._thread = None
            raise

    def _handle(self, published: Published, message: Message) -> None:
        for declared in self._matching(published.topic):
            where = declared.options.get("where")
            if where is not None and not where(published.event):
                continue
            name = declared.options.get("name") or inspect_handler(declared.handler).qualified_name
            try:
                with _savepoints():
                    _call(declared, name, published, message)
            except Exception as error:
                error.add_note(f"raised by the handler of {name!r} for an event of {published.topic!r}")
                self.failures.append(Failure(name, published, error))

    def _matching(self, topic: str) -> list[Declared]:
        """The handlers of a topic, in the order of their declaration, late ones included."""
        for declared in bus.declared[len(self._handlers) :]:
            name = declared.topic if isinstance(declared.topic, str) else declared.topic.name
            self._declared.add(name, len(self._handlers))
            self._handlers.append(declared)
        return [self._handlers[number] for number in self._declared.matching(topic)]

    def raise_failures(self) -> None:
        """Raises the error of the handler that failed; of several, an ``ExceptionGroup``."""
        errors = [failure.error for failure in self.failures]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("handlers failed", errors)


def _has(event: Event[Any], fields: Mapping[str, object]) -> bool:
    data: Mapping[str, object] = event.data if isinstance(event, BaseEvent) else {}
    missing = object()
    return all(
        (data[field] if field in data else getattr(event, field, missing)) == value
        for field, value in fields.items()
    )


def _call(declared: Declared, name: str, published: Published, message: Message) -> None:
    shape = inspect_handler(declared.handler)
    arguments: tuple[Any, ...] = (published.event,)
    if shape.takes_delivery:
        delivery = Delivery(
            topic=published.topic,
            subscription=name,
            message_id=message.id,
            attempt=1,
            redelivered=False,
            published_at=datetime.now(UTC),
            headers=published.headers,
            group=f"{bus.made().service}.{name}",
            body=message.body,
        )
        arguments = (published.event, delivery)
    if shape.is_async:
        async_to_sync(declared.handler)(*arguments)
    else:
        declared.handler(*arguments)


@contextmanager
def _savepoints() -> Iterator[None]:
    """Mends the transaction of the test after a database error: a real handler does not share it."""
    inside = [alias for alias in connections if connections[alias].in_atomic_block]
    create: Any = getattr(transaction, "savepoint_create", None) or transaction.savepoint  # before Django 6.1
    marks: dict[str, str] = {alias: create(using=alias) for alias in inside}
    try:
        yield
    except Exception as error:
        for alias, mark in marks.items():
            if isinstance(error, DatabaseError) or connections[alias].needs_rollback:
                transaction.set_rollback(False, using=alias)
                transaction.savepoint_rollback(mark, using=alias)
            else:
                transaction.savepoint_commit(mark, using=alias)
        raise
    for alias, mark in marks.items():
        if not connections[alias].needs_rollback:
            transaction.savepoint_commit(mark, using=alias)


@contextmanager
def inline_bus(*, raise_failures: bool = True) -> Iterator[Events]:
    """Handles the events of the block in the thread that publishes them, and records them.

    Handlers therefore see, and change, the transaction of a ``TestCase``. At the end of the block the
    ``on_commit`` callbacks of the test run, so that ``publish_on_commit`` takes effect; then the errors of
    handlers are raised, unless ``raise_failures`` is False. Each handler is called once: there are no
    retries and no consume middleware. The bus is not opened.
    """
    events = Events(handle=True)
    with _replaced(events), _callbacks():
        yield events
    if raise_failures:
        events.raise_failures()


@contextmanager
def capture_events() -> Iterator[Events]:
    """Records the events of the block, and calls no handler; otherwise the same as ``inline_bus``."""
    events = Events(handle=False)
    with _replaced(events), _callbacks():
        yield events


@contextmanager
def _replaced(events: Events) -> Iterator[None]:
    before = bus.replace_transport(events)
    try:
        yield
    finally:
        bus.replace_transport(before)


@contextmanager
def _callbacks() -> Iterator[None]:
    """Runs the callbacks that a commit of the test would run; on each database."""
    with ExitStack() as stack:
        for alias in connections:
            stack.enter_context(TestCase.captureOnCommitCallbacks(using=alias, execute=True))
        yield
