"""Journals: the records of publishers and handlers, independent of the bus.

A journal is a file of JSON Lines, written by one process. Each record is one ``write`` to a file opened with
``O_APPEND``, so a written record survives the SIGKILL of its process. The order of records and actions makes
sure that a process that dies in between never looks better than it was. A publish is recorded before it is
attempted, and again after it was acknowledged. An attempt is recorded before the handler is called, and again
after it returned.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import attrs

from bus_core import (
    Bus,
    DeadLetter,
    Delivery,
    DrainReport,
    Event,
    PublishManyError,
    Subscription,
    SyncBus,
    SyncSubscription,
    Topic,
)
from bus_core.dispatch import inspect_handler

__all__ = ["Journal", "Record", "read_journal"]

E = TypeVar("E", bound=Event[Any])

Kind = Literal[
    "subscribed",
    "attempted",
    "acknowledged",
    "refused",
    "begun",
    "handled",
    "failed",
    "dead-letter",
    "stuck",
    "counted-lost",
    "mark",
]
_KINDS: Final = frozenset(
    [
        *("subscribed", "attempted", "acknowledged", "refused", "begun", "handled", "failed"),
        *("dead-letter", "stuck", "counted-lost", "mark"),
    ]
)


_ALL: Final = 1_000_000

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


@attrs.frozen(kw_only=True)
class Record:
    """One line of a journal. ``at`` is in seconds of the machine's monotonic clock.

    ``event_id`` is empty in a record without an event. ``text`` is the pattern of a subscription, the id of a
    dead letter, the class of an error, or the name of a mark. ``count`` is a number of events.
    """

    kind: Kind
    at: float
    topic: str = ""
    event_id: str = ""
    subscription: str = ""
    text: str = ""
    count: int = 0


class Journal:
    """The journal of one process. Its methods may be called from any thread.

    ``Journal("journals", "worker")`` makes a new file in that directory, named after the process. Journals
    never share a file, not even across processes. An ``OSError`` of the disk is raised before the event is
    published or handled.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str = "journal") -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        self.path: Final = Path(directory) / f"{name}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)

    def __repr__(self) -> str:
        return f"<Journal {os.fspath(self.path)!r}>"

    def close(self) -> None:
        """Closes the file; does nothing when it is closed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, kind: Kind, **fields: Any) -> None:
        """Appends one record. When this returns, the record survives the death of the process."""
        self._append(_line(kind, _rest_of(fields)))

    def _append(self, lines: bytes) -> None:
        with self._lock:
            while lines:  # one write, unless the disk is full
                lines = lines[os.write(self._file, lines) :]

    # --- publishing ---------------------------------------------------------------------------------------

    async def publish(
        self, bus: Bus, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publishes an event, and records the attempt and the result.

        Raises the exceptions of ``bus.publish``.
        """
        self.attempted(topic, event)
        try:
            await bus.publish(topic, event, headers=headers)
        except BaseException as error:
            self.refused(topic, event, error)
            raise
        self.acknowledged(topic, event)

    async def publish_many(self, bus: Bus, items: Iterable[tuple[Topic[Any], Event[Any]]]) -> None:
        """Publishes several events at once, and records each of them.

        Raises the exceptions of ``bus.publish_many``.
        """
        items = list(items)
        self._append(b"".join(_published("attempted", topic, event) for topic, event in items))
        try:
            await bus.publish_many(items)
        except PublishManyError as error:
            self._told(items, error.results)
            raise
        except BaseException as error:
            self._told(items, [error] * len(items))
            raise
        self._told(items, [None] * len(items))

    def _told(
        self, items: Sequence[tuple[Topic[Any], Event]], results: Sequence[BaseException | None]
    ) -> None:
        self._append(
            b"".join(
                _published("acknowledged", topic, event)
                if failure is None
                else _published("refused", topic, event, text=type(failure).__name__)
                for (topic, event), failure in zip(items, results, strict=True)
            )
        )

    def publish_sync(
        self, bus: SyncBus, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """The same on a ``SyncBus``."""
        self.attempted(topic, event)
        try:
            bus.publish(topic, event, headers=headers)
        except BaseException as error:
            self.refused(topic, event, error)
            raise
        self.acknowledged(topic, event)

    def attempted(self, topic: Topic[Any], event: Event) -> None:
        """Records an event before it is published."""
        self._append(_published("attempted", topic, event))

    def acknowledged(self, topic: Topic[Any], event: Event) -> None:
        """Records an event as soon as ``publish`` has returned."""
        self._append(_published("acknowledged", topic, event))

    def refused(self, topic: Topic[Any], event: Event, error: BaseException) -> None:
        """Records an event whose ``publish`` raised. It may be stored nevertheless."""
        self._append(_published("refused", topic, event, text=type(error).__name__))

    # --- handling -----------------------------------------------------------------------------------------

    def subscribe(
        self, bus: Bus, topic: Topic[Any] | str, handler: Callable[..., Any], *, name: str, **options: Any
    ) -> Subscription:
        """Subscribes a handler and records its attempts; ``options`` are those of ``bus.subscribe``.

        Every acknowledged event that matches the topic or pattern is expected to reach the handler, so
        subscribe before the first publish, and without ``where``.
        """
        self.subscribed(name, topic)
        return bus.subscribe(topic, self.wrap(name, handler), name=name, **options)

    def subscribe_sync(
        self, bus: SyncBus, topic: Topic[Any] | str, handler: Callable[..., Any], *, name: str, **options: Any
    ) -> SyncSubscription:
        """The same on a ``SyncBus``."""
        self.subscribed(name, topic)
        return bus.subscribe(topic, self.wrap(name, handler), name=name, **options)

    def subscribed(self, name: str, topic: Topic[Any] | str) -> None:
        """Records a subscription. Several processes may record the same one."""
        self.write("subscribed", subscription=name, text=topic if isinstance(topic, str) else topic.name)

    def wrap(self, name: str, handler: Callable[..., Any]) -> Callable[[Any, Delivery], Any]:
        """Wraps a handler and records each attempt and its end."""
        shape = inspect_handler(handler)

        def arguments(event: Event, delivery: Delivery) -> tuple[Any, ...]:
            return (event, delivery) if shape.takes_delivery else (event,)

        async def journaled(event: Event, delivery: Delivery) -> None:
            with self._attempt(name, event, delivery):
                await handler(*arguments(event, delivery))

        def journaled_in_thread(event: Event, delivery: Delivery) -> None:
            with self._attempt(name, event, delivery):
                handler(*arguments(event, delivery))

        return journaled if shape.is_async else journaled_in_thread

    def _attempt(self, name: str, event: Event, delivery: Delivery) -> _Attempt:
        of = {"topic": delivery.topic, "event_id": str(event.event_id), "subscription": name}
        return _Attempt(self, {"count": delivery.attempt, **of})

    # --- the end ------------------------------------------------------------------------------------------

    async def finish(self, bus: Bus) -> None:
        """Records the state of a bus after a drain, before it is closed.

        The records are its dead letters, its unsettled events, and its loss counter.
        """
        self.dead_letters(await bus.dead_letters.list(limit=_ALL))
        self.stuck(bus.state().unsettled)
        self.counted_lost(bus.state().lost)

    def finish_sync(self, bus: SyncBus) -> None:
        """The same for a ``SyncBus``."""
        self.dead_letters(bus.dead_letters.list(limit=_ALL))
        self.stuck(bus.state().unsettled)
        self.counted_lost(bus.state().lost)

    def dead_letters(self, letters: Iterable[DeadLetter]) -> None:
        """Records the letters that are in the store at the end, as ``finish`` does.

        Record only stored letters, not every event that a handler failed. Several processes may record the
        same letter.
        """
        for letter in letters:
            self.write(
                "dead-letter",
                topic=letter.topic,
                event_id="" if letter.event_id is None else str(letter.event_id),
                subscription=letter.subscription,
                text=letter.id,
            )

    def stuck(self, count: int, what: str = "") -> None:
        """Records the number of pending or unread events at the end, such as ``bus.state().unsettled``."""
        self.write("stuck", count=count, text=what)

    def abandoned(self, report: DrainReport) -> None:
        """Records a drain report. On an adapter that is not durable its abandoned events are gone."""
        self.write("stuck", count=len(report.abandoned), text="abandoned")

    def counted_lost(self, count: int) -> None:
        """Records the loss counter of a bus at the end, ``bus.state().lost``."""
        self.write("counted-lost", count=count)

    def mark(self, name: str) -> None:
        """Records a moment. The recovery time is measured from the last mark named ``healed``."""
        self.write("mark", text=name)


def _rest_of(fields: Mapping[str, Any]) -> str:
    """Returns the fields of a record besides kind and time as text, shared by begin and end of an action."""
    return f",{_encode(fields)[1:]}" if fields else "}"


def _line(kind: Kind, rest: str) -> bytes:
    return f'{{"kind":"{kind}","at":{time.monotonic()!r}{rest}\n'.encode()


def _published(kind: Kind, topic: Topic[Any], event: Event, **more: str) -> bytes:
    return _line(kind, _rest_of({"topic": topic.name, "event_id": str(event.event_id), **more}))


class _Attempt:
    """An attempt: begun on entry, handled or failed on exit."""

    def __init__(self, journal: Journal, of: Mapping[str, Any]) -> None:
        self._journal = journal
        self._of = of
        self._rest = _rest_of(of)

    def __enter__(self) -> None:
        self._journal._append(_line("begun", self._rest))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._journal._append(_line("handled", self._rest))
        else:
            self._journal.write("failed", text=type(error).__name__, **self._of)


def read_journal(path: str | os.PathLike[str]) -> Iterator[Record | str]:
    """Yields the records of a journal, and for each invalid line a text with the reason.

    The text is empty for a last line that was torn by the death of its process.
    """
    lines = Path(path).read_bytes().split(b"\n")
    torn = lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            if found["kind"] not in _KINDS:
                raise ValueError(f"unknown kind of record {found['kind']!r}")
            yield Record(**found)
        except (ValueError, KeyError, TypeError) as error:
            yield f"line {number} is not a record: {error}"
    if torn:
        yield ""
