"""Notifications: which topics and subscriptions have something new, told from process to process.

A NOTIFY makes commits of the whole server wait for each other. So it is never a part of a transaction that
stores events: it follows in one of its own, and one notification tells of many events. Nothing depends on it,
as every process also looks by itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final
from uuid import uuid4

import attrs
import psycopg

from bus_core.runtime import FIRST_PAUSE, BackgroundTask, Sleeper, Trouble, fault_of, next_pause, thread_ended
from promenade_bus_postgres.connections import Connection, Connector, Database, Sql, cut
from promenade_bus_postgres.failures import PostgresFailure, failure_of

__all__ = ["EVERYTHING", "Listener", "News", "Notifier"]

_THROTTLE: Final = 0.005
"""Seconds between two notifications of one process."""

_MOST_BYTES: Final = 4_000
"""Bytes of a notification; one with more news tells everybody to look."""

_CLOSING: Final = 4.0

# A commit that only notifies need not wait for the disk.
_NOTIFY: Final = b"SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"


@attrs.frozen
class News:
    """The numbers of topics with new events, and of subscriptions with deliveries that came free.

    ``is_all`` is true for news of everything.
    """

    topics: frozenset[int] = frozenset()
    subscriptions: frozenset[int] = frozenset()
    is_all: bool = False

    def text(self) -> str:
        """Itself as a text, which ``of`` reads."""
        parts = [*(f"t{number}" for number in self.topics), *(f"s{number}" for number in self.subscriptions)]
        text = ",".join(parts)
        return "*" if self.is_all or len(text) > _MOST_BYTES else text

    @classmethod
    def of(cls, text: str) -> News:
        """The news of a text; of everything where it is not understood."""
        topics, subscriptions = set[int](), set[int]()
        for part in text.split(","):
            kind, number = part[:1], part[1:]
            if kind not in ("t", "s") or not number.isdecimal():
                return EVERYTHING
            (topics if kind == "t" else subscriptions).add(int(number))
        return cls(frozenset(topics), frozenset(subscriptions))


EVERYTHING: Final = News(is_all=True)


def channel_of(sql: Sql) -> str:
    """The channel of a schema."""
    return f"promenade_{sql.schema}"[:63]


class Notifier:
    """Tells others what is new, some milliseconds later, and everything since then at once."""

    def __init__(self, database: Database, sql: Sql) -> None:
        self.sent = 0
        self.tag = uuid4().hex[:12]
        """Begins its notifications, so that its own process passes over them."""
        self._database = database
        self._channel = channel_of(sql)
        self._topics: set[int] = set()
        self._subscriptions: set[int] = set()
        self._sleeper = Sleeper()
        self._task = BackgroundTask(self._run, "promenade-postgres-notifier")

    def start(self) -> None:
        """Starts to tell."""
        self._task.start()

    async def close(self) -> None:
        """Tells what is left, and ends."""
        await self._task.end()
        with suppress(PostgresFailure):
            await self._send()

    def tell(self, *, topics: Iterable[int] = (), subscriptions: Iterable[int] = ()) -> None:
        """Takes news; others learn of them soon."""
        self._topics.update(topics)
        self._subscriptions.update(subscriptions)
        self._sleeper.wake()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            if not self._topics and not self._subscriptions:
                await self._sleeper.sleep(None)
            fault = await fault_of(self._send())
            # What could not be told is found by those who look: nothing has to be repeated.
            await asyncio.sleep(_THROTTLE if fault is None else pause)
            pause = FIRST_PAUSE if fault is None else next_pause(pause)

    async def _send(self) -> None:
        if not self._topics and not self._subscriptions:
            return
        news = News(frozenset(self._topics), frozenset(self._subscriptions))
        self._topics.clear()
        self._subscriptions.clear()
        values = self._channel, f"{self.tag} {news.text()}"

        def run(connection: Connection) -> None:
            connection.execute(_NOTIFY, values)

        await self._database.run(run)
        self.sent += 1


class Listener:
    """A thread with a connection of its own that hears what others tell; ``own`` is the tag of this process.

    ``heard`` is called on the event loop with news, and with ``EVERYTHING`` after each new connection.
    """

    def __init__(self, connector: Connector, sql: Sql, own: str, heard: Callable[[News], None]) -> None:
        self.trouble = Trouble(f"the notifications of PostgreSQL at {connector.place}")
        self.connections = 0
        self._connector = connector
        self._channel = channel_of(sql)
        self._own = own
        self._heard = heard
        self._stopping = threading.Event()
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="promenade-postgres-listener", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Ends the thread; harmless when it was not started."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            cut(connection)
        await thread_ended(thread, _CLOSING)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                self._listen()
            except (psycopg.Error, PostgresFailure, OSError) as error:
                if self._stopping.is_set():
                    return
                failure = failure_of(str(self._connector.place), error)
                self.trouble.failed("be received", failure)
                self._stopping.wait(pause)
                pause = next_pause(pause)
            else:
                pause = FIRST_PAUSE

    def _listen(self) -> None:
        connection = self._connector.open("notifications", listens=True)
        self._connection = connection
        try:
            connection.execute(f'LISTEN "{self._channel}"'.encode())
            self.connections += 1
            self.trouble.over()
            self._tell(EVERYTHING)
            while not self._stopping.is_set():
                for notice in connection.notifies(timeout=_CLOSING):
                    tag, _, text = notice.payload.partition(" ")
                    if tag != self._own:
                        self._tell(News.of(text))
        finally:
            self._connection = None
            with suppress(psycopg.Error, OSError):
                connection.close()

    def _tell(self, news: News) -> None:
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._heard, news)
