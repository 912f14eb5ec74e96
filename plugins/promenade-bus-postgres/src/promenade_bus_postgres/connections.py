"""Connections: how one is opened, and the pool whose threads run the statements.

Every statement is a transaction of its own, apart from few exceptions, and uses no setting of its session, so
PgBouncer may lend another connection for each. Threads keep statements off the event loop, and go on when a
program cancels every task of the loop. What takes too long is ended by cutting its connection.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import psycopg

from bus_core.runtime import FIRST_PAUSE, ThreadPool, Trouble, next_pause
from promenade_bus_postgres.config import PostgresOptions
from promenade_bus_postgres.failures import Kind, PostgresFailure, failure_of
from promenade_bus_postgres.places import Place

__all__ = ["Connection", "Connector", "Database", "Sql", "cut", "is_sound"]

T = TypeVar("T")

Connection = psycopg.Connection[tuple[Any, ...]]

_GRACE: Final = 1.0
"""Seconds after ``statement_timeout`` at which a connection is cut: the server ends the statement itself."""

_LAST_CALLS: Final = 5.0
"""Seconds that closing waits for statements that are running."""

_KEEPALIVE: Final = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}


class Sql:
    """Statements for the tables in one schema: ``promenade_event`` becomes ``"schema".promenade_event``."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._known: dict[str, bytes] = {}

    def __call__(self, text: str) -> bytes:
        """The statement for this schema."""
        found = self._known.get(text)
        if found is None:
            found = re.sub(r"\bpromenade_", f'"{self.schema}".promenade_', text).encode()
            self._known[text] = found
        return found


class Connector:
    """Opens connections. They commit each statement by itself."""

    def __init__(self, place: Place, options: PostgresOptions) -> None:
        self.place = place
        self._options = options

    def open(self, use: str, *, listens: bool = False) -> Connection:
        """Opens a connection; ``use`` is shown by the server. Raises ``PostgresFailure``."""
        options = self._options
        parameters: dict[str, Any] = {
            "client_encoding": "utf8",
            "connect_timeout": math.ceil(max(2.0, options.connect_timeout)),
            "tcp_user_timeout": math.ceil(options.statement_timeout * 1000),
            **_KEEPALIVE,
            "application_name": f"promenade-bus {use}",
            **self.place.parameters,
        }
        if "," in str(parameters.get("host", "")):
            parameters.setdefault("target_session_attrs", "read-write")
        if listens and options.listen_host is not None:
            parameters["host"] = options.listen_host
        if listens and options.listen_port is not None:
            parameters["port"] = options.listen_port
        if not options.pgbouncer:
            milliseconds = math.ceil(options.statement_timeout * 1000)
            settings = [
                f"statement_timeout={milliseconds}",
                f"idle_in_transaction_session_timeout={milliseconds}",
                "default_transaction_isolation=read\\ committed",
                "jit=off",
            ]
            given = [str(parameters["options"])] if "options" in parameters else []
            parameters["options"] = " ".join([*given, *(f"-c {each}" for each in settings)])
        try:
            return psycopg.connect(
                autocommit=True, prepare_threshold=None if options.pgbouncer else 3, **parameters
            )
        except psycopg.Error as error:
            raise failure_of(str(self.place), error, is_connecting=True) from error


def cut(connection: Connection) -> None:
    """Ends a connection that another thread may be using: what waits for the server raises an error."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


class _Call:
    """A statement under way: its connection, and since when it has it; true for late when that was cut."""

    __slots__ = ("began", "connection", "is_late", "timer")

    def __init__(self) -> None:
        self.began = 0.0
        self.connection: Connection | None = None
        self.is_late = False
        self.timer: asyncio.TimerHandle | None = None


class Database:
    """At most ``size`` connections, each used by one call at a time, in a thread.

    Calls ``check`` with each new connection, once ``prepare`` has succeeded. ``broken`` counts connections
    that broke: behind the next ones there may be another server, or an older state of the data.
    """

    def __init__(
        self,
        connector: Connector,
        size: int,
        timeout: float,
        check: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        self.trouble = Trouble(f"PostgreSQL at {connector.place}")
        self.calls = 0
        self.broken = 0
        self._connector = connector
        self._timeout = timeout
        self._check = check
        self._is_prepared = False
        self._threads = ThreadPool(size, "promenade-postgres")
        self._guard = threading.Lock()
        self._idle: list[Connection] = []
        self._refused: tuple[float, PostgresFailure] | None = None  # until when no other attempt is made
        self._pause = FIRST_PAUSE
        self._closed = False  # to new calls
        self._shut = False  # to those that wait for their turn, too

    @property
    def place(self) -> str:
        """The server and the database, for messages."""
        return str(self._connector.place)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """The result of a function of a connection. Raises ``PostgresFailure``, or what it raises.

        Whoever is cancelled while it waits leaves the function alone.
        """
        if self._closed:
            raise PostgresFailure(self.place, Kind.CLOSED)
        call = _Call()
        submitted = self._threads.submit(lambda: self._work(call, work))
        self._watch(call, self._timeout + _GRACE)
        try:
            await submitted.returned()
        finally:
            if call.timer is not None:
                call.timer.cancel()
        if submitted.error is not None:
            raise self._told(submitted.error)
        self.calls += 1
        result: T = submitted.result
        return result

    async def prepare(self, work: Callable[[Connection], None]) -> None:
        """Calls a function with the first connection."""

        def run(connection: Connection) -> None:
            work(connection)
            self._check(connection)

        await self.run(run)
        self._is_prepared = True

    def _told(self, error: BaseException) -> BaseException:
        """Tells health what has failed; faults of single values say nothing about the server.

        A start that fails is not tried again.
        """
        is_of_server = isinstance(error, PostgresFailure) and not error.kind.is_of_value
        if is_of_server and self._is_prepared:
            self.trouble.failed("be used", error)
        return error

    def _watch(self, call: _Call, seconds: float) -> None:
        call.timer = asyncio.get_running_loop().call_later(seconds, self._late, call)

    def _late(self, call: _Call) -> None:
        """Cuts the connection of a call, unless it has waited for its turn meanwhile."""
        connection = call.connection
        rest = self._timeout + _GRACE
        if connection is not None:
            rest -= time.monotonic() - call.began
        if connection is None or rest > 0:
            self._watch(call, rest)
        else:
            call.is_late = True
            cut(connection)

    async def close(self) -> None:
        """Lets calls that are running end, and closes the connections."""
        self._closed = True
        loop = asyncio.get_running_loop()
        until = loop.time() + _LAST_CALLS
        # Also those whose callers were cancelled meanwhile.
        while self._threads.busy and loop.time() < until:  # noqa: ASYNC110 - calls end in threads
            await asyncio.sleep(0.002)
        self.shut()

    def shut(self) -> None:
        """Closes the connections at once; those in use are closed by their threads. Harmless afterwards."""
        with self._guard:
            was_shut, self._shut = self._shut, True
        self._closed = True
        if not was_shut:
            self._threads.close()
        self._forget_idle()

    # --- in a thread --------------------------------------------------------------------------------------

    def _work(self, call: _Call, work: Callable[[Connection], T]) -> T:
        connection = self._connected()
        call.began = time.monotonic()
        call.connection = connection
        try:
            result = work(connection)
        except Exception as error:
            if not isinstance(error, psycopg.Error | PostgresFailure | OSError):
                self._give_back(connection)
                raise
            raise self._failed(call, connection, error) from error
        call.connection = None
        self._give_back(connection)
        self.trouble.over()
        return result

    def _failed(self, call: _Call, connection: Connection, error: Exception) -> PostgresFailure:
        call.connection = None
        if call.is_late:
            failure = PostgresFailure(self.place, Kind.SLOW, is_uncertain=True)
        else:
            failure = failure_of(self.place, error, was_sent=True)
        if failure.kind.ends_connection or call.is_late:
            self._broke(connection)
            self._forget_idle()
        else:
            self._give_back(connection)
        return failure

    def _connected(self) -> Connection:
        if self._shut:
            raise PostgresFailure(self.place, Kind.CLOSED)
        while True:
            with self._guard:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._open()
            if is_sound(connection):
                return connection
            self._broke(connection)

    def _open(self) -> Connection:
        """Opens a connection. While the server refuses them, attempts are made at limited intervals."""
        refused = self._refused
        if refused is not None and time.monotonic() < refused[0]:
            raise refused[1].again()
        try:
            connection = self._connector.open("statements")
        except PostgresFailure as failure:
            self._refused = time.monotonic() + self._pause, failure
            self._pause = next_pause(self._pause)
            raise
        if self._is_prepared:
            self._check_new(connection)
        self._refused, self._pause = None, FIRST_PAUSE
        return connection

    def _check_new(self, connection: Connection) -> None:
        try:
            self._check(connection)
        except (psycopg.Error, OSError) as error:
            _close(connection)
            raise failure_of(self.place, error) from error
        except BaseException:
            _close(connection)
            raise

    def _give_back(self, connection: Connection) -> None:
        with self._guard:
            if not self._shut and not connection.closed:
                self._idle.append(connection)
                return
        self._broke(connection)

    def _broke(self, connection: Connection) -> None:
        with self._guard:
            self.broken += 1
        _close(connection)

    def _forget_idle(self) -> None:
        with self._guard:
            idle, self._idle = self._idle, []
        for each in idle:
            _close(each)


def is_sound(connection: Connection) -> bool:
    """True when nothing waits to be read: on an idle connection that would be its end."""
    try:
        number = connection.fileno()
        if not hasattr(select, "poll"):  # as on Windows
            return not select.select([number], [], [], 0)[0]
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return not poll.poll(0)
    except (psycopg.Error, OSError, ValueError):
        return False


def _close(connection: Connection) -> None:
    with suppress(psycopg.Error, OSError):
        connection.close()
