"""The thread that works on the file. Concurrent commands share one transaction.

The thread also notices when other processes store something: their transactions change a number that SQLite
keeps in shared memory. The thread polls this number, at growing intervals while nothing happens.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

from bus_core.runtime import FIRST_PAUSE, Trouble, next_pause, thread_ended
from promenade_bus_sqlite.failures import Kind, SqliteFailure, failure_of, kind_of
from promenade_bus_sqlite.file import File
from promenade_bus_sqlite.news import News

__all__ = ["Command", "Worker"]

T = TypeVar("T")

_MOST_TOGETHER: Final = 64
"""The most commands in one transaction."""

_FIRST_LOOK: Final = 0.0005
_SLOWER: Final = 1.3
"""Seconds to the first look for changes of other processes, and the growth of each next wait."""

_ENDS_CONNECTION: Final = frozenset(
    (Kind.INPUT_OUTPUT, Kind.CORRUPT, Kind.NOT_A_DATABASE, Kind.CANNOT_OPEN, Kind.READ_ONLY)
)


class Command(Generic[T]):
    """An operation on the file.

    ``run`` is called in a transaction. If that transaction fails because of another command, ``run`` is
    called again in a new one. ``peek`` is called first, outside of a transaction. If it returns anything but
    None, that is the result, and the command does not wait for the write lock.
    """

    __slots__ = ("done", "loop", "peek", "run", "writes")

    def __init__(
        self,
        run: Callable[[sqlite3.Connection], T],
        peek: Callable[[sqlite3.Connection], T | None] | None,
        *,
        writes: bool,
    ) -> None:
        self.run = run
        self.peek = peek
        self.writes = writes
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[T] = self.loop.create_future()


class Worker:
    """Owns a connection and the thread that uses it.

    When another process has stored something, the worker calls ``look`` to find out what it is, and then
    ``changed`` with the result on the event loop.
    """

    def __init__(
        self,
        file: File,
        poll: float,
        look: Callable[[sqlite3.Connection], News],
        changed: Callable[[News], None],
    ) -> None:
        self.file = file
        self.trouble = Trouble(f"the file {file.path!r}")
        self.transactions = 0
        self.looks = 0
        self._poll = poll
        self._look_for_news = look
        self._changed = changed
        self._queue: SimpleQueue[Command[Any] | None] = SimpleQueue()
        self._listening = 0  # the number of listeners
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._version = 0  # of the data, at the last look
        self._replaced = False  # at the last look: True if the file was not in its place
        self._broken_until = 0.0
        self._pause = FIRST_PAUSE
        self._rolled_back: list[Callable[[], None]] = []

    # --- on the event loop --------------------------------------------------------------------------------

    def start(self, db: sqlite3.Connection) -> None:
        """Takes over a connection and starts the thread."""
        self._db = db
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="promenade-sqlite-file", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Completes pending commands, closes the connection and ends the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        self._queue.put(None)
        await thread_ended(thread, 2 * self.file.busy_timeout + 1)

    async def write(
        self,
        run: Callable[[sqlite3.Connection], T],
        peek: Callable[[sqlite3.Connection], T | None] | None = None,
    ) -> T:
        """The result of ``run``, when it is stored. Raises ``SqliteFailure``, or the error of ``run``."""
        return await self._do(Command(run, peek, writes=True))

    async def read(self, run: Callable[[sqlite3.Connection], T]) -> T:
        """The result of ``run``, which only reads. Raises ``SqliteFailure``, or the error of ``run``."""
        return await self._do(Command(run, None, writes=False))

    async def _do(self, command: Command[T]) -> T:
        if self._thread is None:
            raise SqliteFailure(self.file.path, Kind.CLOSED)
        self._queue.put(command)
        # A cancelled caller does not affect the others of its transaction.
        return await asyncio.shield(command.done)

    def listen(self) -> None:
        """Starts watching for changes by other processes. ``ignore`` ends it."""
        self._listening += 1
        if self._listening == 1:
            self._queue.put(None)

    def ignore(self) -> None:
        """Ends one ``listen``."""
        self._listening -= 1

    def on_rollback(self, forget: Callable[[], None]) -> None:
        """Registers a function that the thread calls when a transaction is rolled back."""
        self._rolled_back.append(forget)

    # --- in the thread ------------------------------------------------------------------------------------

    def _work(self) -> None:
        pause = _FIRST_LOOK
        while True:
            batch = self._take(pause)
            if batch:
                self._serve(batch)
                pause = _FIRST_LOOK
            elif self._stopping:
                break
            if self._listening:
                pause = _FIRST_LOOK if self._look() else min(pause * _SLOWER, self._poll)
        self._disconnect()

    def _take(self, pause: float) -> list[Command[Any]]:
        batch: list[Command[Any]] = []
        try:
            found = self._queue.get(timeout=pause) if self._listening else self._queue.get()
            while True:
                if found is not None:
                    batch.append(found)
                if len(batch) == _MOST_TOGETHER:
                    break
                found = self._queue.get_nowait()
        except Empty:
            pass
        return batch

    def _serve(self, batch: Sequence[Command[Any]]) -> None:
        ready: list[tuple[Command[Any], Any, BaseException | None]] = []
        try:
            db = self._connected()
        except SqliteFailure as failure:
            self._tell([(each, None, failure) for each in batch])
            return
        together: list[Command[Any]] = []
        for command in batch:
            look = command.peek if command.writes else command.run
            if look is None:
                together.append(command)
                continue
            try:
                answer = look(db)
            except Exception as error:
                ready.append((command, None, self._failed(error)))
            else:
                if command.writes and answer is None:
                    together.append(command)
                else:
                    ready.append((command, answer, None))
        if ready:
            self._tell(ready)
        if together:
            self._tell(self._transaction(together))

    def _transaction(
        self, commands: Sequence[Command[Any]]
    ) -> list[tuple[Command[Any], Any, BaseException | None]]:
        answers: list[Any] = []
        committing = False
        try:
            db = self._connected()
            self.file.patiently(db, "BEGIN IMMEDIATE")
            answers = [command.run(db) for command in commands]
            committing = True
            db.execute("COMMIT")
            self.transactions += 1
            self.file.check_identity()
        except Exception as error:
            # If a commit failed for an error of the disk, nobody knows whether it was stored.
            kind = kind_of(error)
            uncertain = committing and kind in (Kind.INPUT_OUTPUT, Kind.REPLACED)
            self._undo()
            is_own = not committing and len(answers) == 0 and kind in (Kind.BUSY, Kind.REPLACED)
            if len(commands) > 1 and not uncertain and not is_own:
                return [told for command in commands for told in self._transaction([command])]
            failure = self._failed(error, uncertain=uncertain)
            return [(command, None, failure) for command in commands]
        self.trouble.over()
        return [(command, answer, None) for command, answer in zip(commands, answers, strict=True)]

    def _undo(self) -> None:
        db = self._db
        if db is not None and db.in_transaction:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        for forget in self._rolled_back:
            forget()

    def _failed(self, error: BaseException, *, uncertain: bool = False) -> BaseException:
        """Returns the error for the caller. Reports file errors to health, and may drop the connection."""
        if not isinstance(error, sqlite3.Error | SqliteFailure | OSError | OverflowError):
            return error
        failure = failure_of(self.file.path, error, is_uncertain=uncertain)
        if failure.kind is not Kind.TOO_LARGE:
            self.trouble.failed("be used", failure)
        self._replaced = failure.kind is Kind.REPLACED
        if failure.kind in _ENDS_CONNECTION:
            self._disconnect()
        return failure

    def _connected(self) -> sqlite3.Connection:
        """Returns the connection. After a disk error it opens a new one, at limited intervals."""
        if self._replaced:
            self.file.check_identity()
            self._replaced = False
        if self._db is not None:
            return self._db
        self.file.check_identity()
        now = time.monotonic()
        if now < self._broken_until:
            time.sleep(min(self._broken_until - now, FIRST_PAUSE))
        self._broken_until = time.monotonic() + self._pause
        self._pause = next_pause(self._pause)
        self._db = self.file.connect()
        self._pause = FIRST_PAUSE
        return self._db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _look(self) -> bool:
        """Tells the event loop when another process has stored something."""
        self.looks += 1
        try:
            db = self._connected()
            (version,) = db.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return False
            news = self._look_for_news(db)
        except (sqlite3.Error, SqliteFailure) as error:
            self._failed(error)
            time.sleep(FIRST_PAUSE)
            return False
        self._version = version
        self._call_soon(self._changed, news)
        return True

    def _tell(self, told: Sequence[tuple[Command[Any], Any, BaseException | None]]) -> None:
        self._call_soon(_deliver, told)

    def _call_soon(self, call: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop was closed, and with it its waiting callers
            self._loop.call_soon_threadsafe(call, *arguments)


def _deliver(told: Sequence[tuple[Command[Any], Any, BaseException | None]]) -> None:
    for command, answer, error in told:
        if command.done.done():
            continue
        if error is None:
            command.done.set_result(answer)
        else:
            command.done.set_exception(error)
